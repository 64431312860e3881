//! The real disk. Every path is opened beneath the store's folder, without symlinks: what someone with the disk
//! plants there leads nowhere.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag};

use super::{File, Listed, Nanos, Rename, Space, Stat, Store, Type};

/// A store on the real disk.
pub struct Disk {
    root: OwnedFd,
}

struct DiskFile(std::fs::File);

impl Disk {
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(Self { root: nix::fcntl::open(root, flags, Mode::empty())? })
    }

    fn at(&self, path: &Path, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
        let (near, path) = self.near(path)?;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
            .mode(Mode::from_bits_truncate(if flags.contains(OFlag::O_CREAT) { mode } else { 0 }))
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(nix::fcntl::openat2(near.as_ref().unwrap_or(&self.root), path, how)?)
    }

    /// A folder on the way to `path`, and the rest of the way, where it is too long for one call: sealed names are longer
    /// than the plain ones, whose path the kernel let pass.
    fn near<'a>(&self, path: &'a Path) -> io::Result<(Option<OwnedFd>, &'a Path)> {
        let mut near: Option<OwnedFd> = None;
        let mut rest = path.as_os_str().as_bytes();
        while rest.len() >= libc::PATH_MAX as usize {
            let front = rest.get(..libc::PATH_MAX as usize - 1).unwrap_or(rest);
            let Some(slash) = front.iter().rposition(|b| *b == b'/') else { break };
            let (front, back) = rest.split_at(slash);
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
                .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
            near = Some(nix::fcntl::openat2(near.as_ref().unwrap_or(&self.root), OsStr::from_bytes(front), how)?);
            rest = back.get(1..).unwrap_or_default();
        }
        Ok((near, Path::new(OsStr::from_bytes(rest))))
    }

    /// The folder that holds `path`, and the last part of it. The last part is never resolved by the callers.
    fn parent<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = name_of(path)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.at(parent, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?, name))
    }
}

fn name_of(path: &Path) -> io::Result<&OsStr> {
    path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

impl Store for Disk {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        // O_NONBLOCK: a FIFO planted under a file's name must not hold up the open.
        let flags = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY } | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = std::fs::File::from(self.at(path, flags, 0)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Arc::new(DiskFile(file)))
    }

    fn open_folder(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?.into())))
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Arc<dyn File>> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(Arc::new(DiskFile(self.at(path, flags, mode)?.into())))
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(nix::sys::stat::mkdirat(&parent, name, Mode::from_bits_truncate(mode))?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(nix::unistd::unlinkat(&parent, name, nix::unistd::UnlinkatFlags::NoRemoveDir)?)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(nix::unistd::unlinkat(&parent, name, nix::unistd::UnlinkatFlags::RemoveDir)?)
    }

    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        let same = from.parent() == to.parent();
        let (parent, old) = self.parent(from)?;
        let (other, new) =
            if same { (None, name_of(to)?) } else { self.parent(to).map(|(fd, name)| (Some(fd), name))? };
        let target = other.as_ref().unwrap_or(&parent);
        let flags = match how {
            Rename::Over => RenameFlags::empty(),
            Rename::NoReplace => RenameFlags::RENAME_NOREPLACE,
            Rename::Exchange => RenameFlags::RENAME_EXCHANGE,
        };
        Ok(nix::fcntl::renameat2(&parent, old, target, new, flags)?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from, old), (to, new)) = (self.parent(from)?, self.parent(to)?);
        Ok(nix::unistd::linkat(&from, old, &to, new, AtFlags::empty())?)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        if path.as_os_str().is_empty() {
            return Ok(stat_of(&nix::sys::stat::fstat(&self.root)?));
        }
        let (parent, name) = self.parent(path)?;
        Ok(stat_of(&nix::sys::stat::fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        let mut folder = nix::dir::Dir::from_fd(self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?)?;
        let mut out = Vec::new();
        let mut unsure = Vec::new();
        for entry in folder.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                Some(nix::dir::Type::File) => Type::File,
                Some(nix::dir::Type::Directory) => Type::Folder,
                Some(_) => Type::Other,
                None => {
                    unsure.push(out.len());
                    Type::Other
                }
            };
            out.push(Listed { name, kind, ino: entry.ino() });
        }
        // Some file systems do not say the type in a listing.
        for index in unsure {
            if let Some(listed) = out.get_mut(index) {
                let stat = nix::sys::stat::fstatat(&folder, listed.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                listed.kind = stat_of(&stat).kind;
            }
        }
        Ok(out)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        Ok(nix::unistd::fsync(self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(&self.root)?)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = nix::sys::statvfs::fstatvfs(&self.root)?;
        Ok(Space {
            block: stat.fragment_size(),
            blocks: stat.blocks(),
            free: stat.blocks_free(),
            available: stat.blocks_available(),
            files: stat.files(),
            files_free: stat.files_free(),
        })
    }
}

impl File for DiskFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&nix::sys::stat::fstat(&self.0)?))
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.size())
    }

    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while !buf.is_empty() {
            match self.0.read_at(buf, offset) {
                Ok(0) => break,
                Ok(got) => {
                    (done, offset) = (done + got, offset + got as u64);
                    buf = buf.get_mut(got..).unwrap_or_default();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.0, mode, offset, len) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                let end = offset.saturating_add(len).min(self.length()?);
                let zeros = vec![0; 1 << 20];
                let mut at = offset;
                while at < end {
                    let piece = zeros.get(..(end - at).min(1 << 20) as usize).unwrap_or_default();
                    self.write_at(piece, at)?;
                    at += piece.len() as u64;
                }
                Ok(())
            }
            other => other,
        }
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        fallocate(&self.0, libc::FALLOC_FL_KEEP_SIZE, offset, len)
    }

    fn seek_data(&self, from: u64) -> io::Result<Option<u64>> {
        match seek(&self.0, from, libc::SEEK_DATA) {
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            other => other.map(Some),
        }
    }

    fn seek_hole(&self, from: u64) -> io::Result<u64> {
        match seek(&self.0, from, libc::SEEK_HOLE) {
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => self.length(),
            other => other,
        }
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        if data_only { self.0.sync_data() } else { self.0.sync_all() }
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(nix::sys::stat::fchmod(&self.0, Mode::from_bits_truncate(mode))?)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        std::os::unix::fs::fchown(&self.0, uid, gid)
    }

    fn set_times(&self, atime: Option<Nanos>, mtime: Option<Nanos>) -> io::Result<()> {
        let spec = |time: Option<Nanos>| match time {
            None => nix::sys::time::TimeSpec::UTIME_OMIT,
            Some(nanos) => {
                let (s, n) = (nanos.div_euclid(1_000_000_000), nanos.rem_euclid(1_000_000_000));
                let s = s.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64;
                nix::sys::time::TimeSpec::new(s, n as i64)
            }
        };
        Ok(nix::sys::stat::futimens(&self.0, &spec(atime), &spec(mtime))?)
    }

    fn xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let name = CString::new(name)?;
        // SAFETY: the name ends with a NUL, the pointer and the length are of one buffer, and the descriptor is open.
        let call = |buf: &mut [u8]| unsafe {
            libc::fgetxattr(self.0.as_raw_fd(), name.as_ptr(), buf.as_mut_ptr().cast(), buf.len())
        };
        match growing(call) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
            other => other.map(Some),
        }
    }

    fn set_xattr(&self, name: &str, value: &[u8]) -> io::Result<()> {
        let name = CString::new(name)?;
        // SAFETY: as in `xattr`; the kernel only reads.
        check(unsafe {
            libc::fsetxattr(self.0.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) as isize
        })
        .map(drop)
    }

    fn remove_xattr(&self, name: &str) -> io::Result<bool> {
        let name = CString::new(name)?;
        // SAFETY: the name ends with a NUL, and the descriptor is open.
        match check(unsafe { libc::fremovexattr(self.0.as_raw_fd(), name.as_ptr()) as isize }) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(false),
            other => other.map(|_| true),
        }
    }

    fn xattrs(&self) -> io::Result<Vec<String>> {
        // SAFETY: as in `xattr`.
        let call = |buf: &mut [u8]| unsafe { libc::flistxattr(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
        let raw = match growing(call) {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
            other => other?,
        };
        Ok(raw
            .split(|b| *b == 0)
            .filter_map(|name| std::str::from_utf8(name).ok())
            .filter(|n| !n.is_empty())
            .map(str::to_owned)
            .collect())
    }

    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        let how = if exclusive { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
        // SAFETY: flock takes no pointer. (nix's Flock would own the file.)
        match check(unsafe { libc::flock(self.0.as_raw_fd(), how) as isize }) {
            Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
            other => other.map(|_| true),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        // SAFETY: as in `try_lock`.
        check(unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) as isize }).map(drop)
    }

    fn clone_range(&self, from: &dyn File, offset: u64, len: u64) -> io::Result<bool> {
        let Some(from) = from.as_fd() else { return Ok(false) };
        let Ok(start) = i64::try_from(offset) else { return Ok(false) };
        let (mut source, mut target, mut left) = (start, start, len);
        while left > 0 {
            let step = usize::try_from(left.min(1 << 30)).unwrap_or(1 << 30);
            // SAFETY: both descriptors are open, and the two offsets live through the call.
            let result = unsafe {
                libc::copy_file_range(from.as_raw_fd(), &mut source, self.0.as_raw_fd(), &mut target, step, 0)
            };
            match check(result) {
                Ok(0) | Err(_) => return Ok(false),
                Ok(done) => left -= done as u64,
            }
        }
        Ok(true)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(AsFd::as_fd(&self.0))
    }
}

fn stat_of(stat: &FileStat) -> Stat {
    let format = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let kind = match format {
        SFlag::S_IFREG => Type::File,
        SFlag::S_IFDIR => Type::Folder,
        _ => Type::Other,
    };
    let nanos = |s: i64, n: i64| i128::from(s) * 1_000_000_000 + i128::from(n);
    Stat {
        kind,
        ino: stat.st_ino,
        links: stat.st_nlink,
        length: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        atime: nanos(stat.st_atime, stat.st_atime_nsec),
        mtime: nanos(stat.st_mtime, stat.st_mtime_nsec),
        ctime: nanos(stat.st_ctime, stat.st_ctime_nsec),
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Calls with a greater buffer as long as the kernel says that what was there does not fit.
fn growing(mut call: impl FnMut(&mut [u8]) -> isize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; 256];
    loop {
        match check(call(&mut buf)) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            // 64 KiB is the most that the kernel gives; past that it is another error.
            Err(e) if e.raw_os_error() == Some(libc::ERANGE) && buf.len() < 128 * 1024 => buf.resize(buf.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}

fn offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

fn fallocate(file: &std::fs::File, mode: i32, at: u64, len: u64) -> io::Result<()> {
    let (at, len) = (offset(at)?, offset(len)?);
    // SAFETY: fallocate takes no pointer.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, at, len) as isize }).map(drop)
}

fn seek(file: &std::fs::File, from: u64, whence: i32) -> io::Result<u64> {
    let from = offset(from)?;
    // SAFETY: lseek takes no pointer. The file's own offset is used by nothing else: all reads and writes say theirs.
    check(unsafe { libc::lseek(file.as_raw_fd(), from, whence) as isize }).map(|at| at as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        (folder, disk)
    }

    #[test]
    fn nothing_outside_the_store_is_reached() {
        let (folder, disk) = store();
        std::os::unix::fs::symlink("/etc", folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("file")).unwrap();
        for bad in ["../x", "/etc/passwd", "out/passwd", "file"] {
            assert!(disk.open(Path::new(bad), false).is_err(), "{bad}");
        }
        assert_eq!(disk.stat(Path::new("file")).unwrap().kind, Type::Other);
        assert!(disk.create(Path::new("out/new"), 0o600).is_err());
    }

    #[test]
    fn a_planted_fifo_does_not_hold_up_an_open() {
        let (folder, disk) = store();
        nix::unistd::mkfifo(&folder.path().join("fifo"), Mode::S_IRWXU).unwrap();
        assert!(disk.open(Path::new("fifo"), false).is_err());
    }

    #[test]
    fn holes_attributes_and_listings_work() {
        let (_folder, disk) = store();
        let path = Path::new("a");
        let file = disk.create(path, 0o600).unwrap();
        file.write_at(&[1; 8192], 0).unwrap();
        file.set_length(100_000).unwrap();
        file.punch(0, 4096).unwrap();
        let mut buf = [9; 8192];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 8192);
        assert_eq!((buf[0], buf[4096]), (0, 1));
        assert_eq!(file.read_at(&mut buf, 99_990).unwrap(), 10);
        assert_eq!(file.seek_hole(4096).unwrap(), 8192);
        assert_eq!(file.seek_data(8192).unwrap(), None);
        file.set_times(None, Some(-1)).unwrap();
        assert_eq!(file.stat().unwrap().mtime, -1);
        file.set_xattr("user.kith.a", &[7; 300]).unwrap();
        assert_eq!(file.xattr("user.kith.a").unwrap(), Some(vec![7; 300]));
        assert_eq!(file.xattrs().unwrap(), ["user.kith.a"]);
        assert!(file.remove_xattr("user.kith.a").unwrap() && !file.remove_xattr("user.kith.a").unwrap());
        assert_eq!(file.xattr("user.kith.a").unwrap(), None);
        disk.make_folder(Path::new("d"), 0o700).unwrap();
        disk.rename(path, Path::new("d/b"), Rename::NoReplace).unwrap();
        let listed = disk.list(Path::new("d")).unwrap();
        assert_eq!((listed.len(), listed[0].kind), (1, Type::File));
        disk.sync_folder(Path::new("d")).unwrap();
        assert_eq!(read_through(&disk, "d/b"), 100_000);
    }

    fn read_through(disk: &Disk, path: &str) -> usize {
        super::super::read_small(disk, Path::new(path), 1 << 20).unwrap().len()
    }
}
