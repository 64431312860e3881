//! How fs reaches the disk: the [`Store`] and [`File`] traits. [`disk::Disk`] is the real one; `sim::SimDisk`, for tests, is one that crashes.
//!
//! Paths are relative to the store's folder and name nothing outside it. All errors are [`io::Error`]; whoever calls adds the path.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub mod disk;
#[cfg(test)]
pub mod sim;

pub use disk::Disk;

/// Seconds and nanoseconds since 1970, in one number of nanoseconds.
pub type Nanos = i128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    File,
    Folder,
    /// Nothing that kith writes: a symlink, a device.
    Other,
}

/// What the disk says of a file or folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub kind: Type,
    pub ino: u64,
    pub links: u64,
    pub length: u64,
    /// Blocks of 512 bytes in use.
    pub blocks: u64,
    /// Permission bits, without the type.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Nanos,
    pub mtime: Nanos,
    pub ctime: Nanos,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rename {
    /// What is there is replaced.
    Over,
    /// Refused with EEXIST where something is there.
    NoReplace,
    Exchange,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub name: OsString,
    pub kind: Type,
    pub ino: u64,
}

/// How much room the disk has, as statvfs(3) says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    pub block: u64,
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub files_free: u64,
}

/// An open ciphertext file, or a folder (only for its attributes and [`File::sync`]).
pub trait File: Send + Sync {
    fn stat(&self) -> io::Result<Stat>;
    fn length(&self) -> io::Result<u64>;
    /// Fills `buf` as far as the file goes; how far is what comes back.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// All of `buf`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Makes a hole of zeros; the length stays. Zeros are written where the disk knows no holes.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Room for that range; length and content stay.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Where data begins at or after `from`; `None`: nowhere.
    fn seek_data(&self, from: u64) -> io::Result<Option<u64>>;
    /// Where a hole begins at or after `from`; the length at the latest.
    fn seek_hole(&self, from: u64) -> io::Result<u64>;
    /// fsync, or fdatasync.
    fn sync(&self, data_only: bool) -> io::Result<()>;

    fn set_mode(&self, mode: u32) -> io::Result<()>;
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()>;
    /// `None` leaves a time as it is.
    fn set_times(&self, atime: Option<Nanos>, mtime: Option<Nanos>) -> io::Result<()>;

    /// `None` where there is none of that name.
    fn xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    fn set_xattr(&self, name: &str, value: &[u8]) -> io::Result<()>;
    /// `false` where there was none.
    fn remove_xattr(&self, name: &str) -> io::Result<bool>;
    /// Empty also where the disk knows no attributes.
    fn xattrs(&self) -> io::Result<Vec<String>>;

    /// flock(2), shared or exclusive; `false` where another holds it. Ends with the last handle on this opening.
    fn try_lock(&self, exclusive: bool) -> io::Result<bool>;
    fn unlock(&self) -> io::Result<()>;
    /// Takes a range of another file of the same store, sharing blocks where the disk can. `false`: not done, copy by hand.
    fn clone_range(&self, from: &dyn File, offset: u64, len: u64) -> io::Result<bool>;
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// A folder of the disk and all below it.
pub trait Store: Send + Sync {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>>;
    fn open_folder(&self, path: &Path) -> io::Result<Arc<dyn File>>;
    /// A new file, open for writing; EEXIST where there is one.
    fn create(&self, path: &Path, mode: u32) -> io::Result<Arc<dyn File>>;
    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Only an empty one.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()>;
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Without following a symlink.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// Without `.` and `..`, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>>;
    /// Makes the entries of a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// syncfs(2): all that was done to the disk is durable.
    fn sync_all(&self) -> io::Result<()>;
    fn space(&self) -> io::Result<Space>;
}

/// Reads the whole of a small file, at most `most` bytes of it.
pub fn read_small(store: &dyn Store, path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let file = store.open(path, false)?;
    let length = usize::try_from(file.length()?).unwrap_or(usize::MAX);
    if length > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than kith writes it"));
    }
    let mut bytes = vec![0; length];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}
