//! Attributes: what a program sees, how they lie on the ciphertext file, and their sealed form in records.
//!
//! Mode, times and owner are those of the ciphertext file, so that stat needs no key. But whoever runs the mount must
//! always be able to open it: where the mode denies that to its owner, or has bits that mean something else on
//! ciphertext, the disk's mode carries a mark and the true one lies in an extended attribute (kith-store(5), "Modes").

use std::collections::BTreeMap;
use std::io;

use keymgr::ids::ShareId;
use keymgr::share::ShareKeys;

use super::file::FileNode;
use crate::content::Kind;
use crate::format::attrs::Attrs;
use crate::format::{length, xattr};
use crate::store::{File, Nanos, Stat, Type};

/// The attribute that holds the true mode: two bytes, little-endian.
pub const MODE: &str = "user.kith.mode";

/// What kind of thing a program sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    Folder,
    File,
    Symlink,
    Fifo,
    Socket,
    /// A junction. What it stands for is the share's own volume's to show.
    Share(ShareId),
    Block,
    Char,
}

impl Shown {
    pub(crate) fn of(file: &FileNode) -> Self {
        match file.kind {
            Kind::File => Shown::File,
            Kind::Symlink => Shown::Symlink,
            Kind::Fifo => Shown::Fifo,
            Kind::Socket => Shown::Socket,
            Kind::Share => Shown::Share(ShareId::from_bytes(*file.id.as_bytes())),
            Kind::Block => Shown::Block,
            Kind::Char => Shown::Char,
        }
    }
}

/// Which device a device node stands for. It is kept as tar keeps it: the mount is nodev, nobody opens it there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl Device {
    /// The content of a device node.
    pub(crate) fn to_content(self) -> [u8; 8] {
        let mut out = [0; 8];
        out[..4].copy_from_slice(&self.major.to_le_bytes());
        out[4..].copy_from_slice(&self.minor.to_le_bytes());
        out
    }

    pub(crate) fn of_content(content: &[u8]) -> Option<Self> {
        let [a, b, c, d, rest @ ..] = *<&[u8; 8]>::try_from(content).ok()?;
        Some(Self { major: u32::from_le_bytes([a, b, c, d]), minor: u32::from_le_bytes(rest) })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    pub ino: u64,
    pub kind: Shown,
    pub size: u64,
    pub blocks: u64,
    /// Permission bits, without the type.
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Nanos,
    pub mtime: Nanos,
    pub ctime: Nanos,
    /// Of a device.
    pub device: Device,
}

/// `stat` has the true mode by now ([`true_mode`]).
pub(crate) fn of_stat(ino: u64, kind: Shown, stat: &Stat) -> Attr {
    let size = match kind {
        Shown::Folder | Shown::Share(_) => 4096,
        Shown::File | Shown::Symlink => length::to_size(stat.length),
        Shown::Fifo | Shown::Socket | Shown::Block | Shown::Char => 0,
    };
    Attr {
        ino,
        kind,
        size,
        blocks: if kind == Shown::File && size == 0 { 0 } else { stat.blocks },
        mode: match kind {
            Shown::Symlink => 0o777,
            Shown::Share(_) => 0o500,
            _ => stat.mode,
        },
        links: if matches!(kind, Shown::Share(_)) { 2 } else { u32::try_from(stat.links).unwrap_or(u32::MAX) },
        uid: stat.uid,
        gid: stat.gid,
        atime: stat.atime,
        mtime: stat.mtime,
        ctime: stat.ctime,
        device: Device::default(),
    }
}

/// The bit that says that the true mode lies in [`MODE`]. Neither means anything on what it stands on.
fn mark(folder: bool) -> u32 {
    if folder { 0o4000 } else { 0o1000 }
}

/// The mode that a ciphertext file or folder gets, and whether the true one needs [`MODE`].
pub(crate) fn disk_mode(mode: u32, folder: bool) -> (u32, bool) {
    let (owner, special) = if folder { (0o700, 0o4000) } else { (0o600, 0o7000) };
    let hidden = mode & owner != owner || mode & special != 0;
    let plain = mode & 0o7777 & !special | owner;
    (if hidden { plain | mark(folder) } else { plain }, hidden)
}

pub(crate) fn is_marked(stat: &Stat) -> bool {
    stat.mode & mark(stat.kind == Type::Folder) != 0
}

/// Puts the true mode into `stat`; `file` is asked only where the mark says so.
pub(crate) fn true_mode(stat: &mut Stat, file: impl FnOnce() -> io::Result<Option<Vec<u8>>>) -> io::Result<()> {
    if is_marked(stat) {
        let value = file()?;
        let mode = value.and_then(|v| <[u8; 2]>::try_from(v).ok()).map(u16::from_le_bytes);
        stat.mode = match mode {
            Some(mode) => u32::from(mode) & 0o7777,
            None => stat.mode & !mark(stat.kind == Type::Folder),
        };
    }
    Ok(())
}

pub(crate) fn set_mode(file: &dyn File, mode: u32, folder: bool) -> io::Result<()> {
    let (disk, hidden) = disk_mode(mode, folder);
    if hidden {
        match file.set_xattr(MODE, &((mode & 0o7777) as u16).to_le_bytes()) {
            // A disk without extended attributes: the mode is shown as the disk can hold it.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return file.set_mode(disk & !mark(folder)),
            other => other?,
        }
    }
    file.set_mode(disk)
}

/// stat of an open file or folder, with the true mode.
pub(crate) fn stat(file: &dyn File) -> io::Result<Stat> {
    let mut stat = file.stat()?;
    true_mode(&mut stat, || file.xattr(MODE))?;
    Ok(stat)
}

/// All extended attributes of the file or folder `id`, opened. What does not open is left out.
pub(crate) fn read_xattrs(file: &dyn File, keys: &ShareKeys, id: &[u8; 16]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut out = BTreeMap::new();
    for stored in file.xattrs()? {
        if xattr::is_stored(stored.as_bytes())
            && let Some(raw) = file.xattr(&stored)?
            && let Ok((name, value)) = xattr::open(keys, id, &stored, &raw)
        {
            out.insert(name, value);
        }
    }
    Ok(out)
}

pub(crate) fn write_xattr(
    file: &dyn File,
    keys: &ShareKeys,
    id: &[u8; 16],
    name: &[u8],
    value: Option<&[u8]>,
) -> io::Result<()> {
    let stored_names = xattr::stored_names(keys, id, name);
    let mut keep = None;
    if let Some(value) = value {
        let (stored, raw) = xattr::seal(keys, id, name, value).map_err(|why| match why {
            crate::format::Refused::TooLong => io::Error::from_raw_os_error(libc::ERANGE),
            _ => io::Error::from_raw_os_error(libc::EINVAL),
        })?;
        file.set_xattr(&stored, &raw)?;
        keep = Some(stored);
    }
    for stored in stored_names {
        if keep.as_ref() != Some(&stored) {
            file.remove_xattr(&stored)?;
        }
    }
    Ok(())
}

/// What the records get of a file or folder.
pub(crate) fn collect(
    stat: &Stat,
    symlink: bool,
    xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
    mut long_names: Vec<Vec<u8>>,
) -> Attrs {
    long_names.sort_unstable();
    long_names.dedup();
    Attrs {
        mode: if symlink { 0o777 } else { stat.mode & 0o7777 },
        mtime: stat.mtime,
        uid: stat.uid,
        gid: stat.gid,
        xattrs: xattrs.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        long_names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_that_shuts_its_owner_out_is_kept_beside() {
        let folder = tempfile::tempdir().unwrap();
        let disk = crate::store::Disk::open(folder.path()).unwrap();
        use crate::store::Store;
        let file = disk.create(std::path::Path::new("a"), 0o600).unwrap();
        for mode in [0o644, 0o444, 0, 0o4755, 0o1644, 0o600] {
            set_mode(file.as_ref(), mode, false).unwrap();
            assert_eq!(file.stat().unwrap().mode & 0o600, 0o600);
            assert_eq!(stat(file.as_ref()).unwrap().mode, mode, "{mode:o}");
        }
        disk.make_folder(std::path::Path::new("d"), 0o700).unwrap();
        let dir = disk.open_folder(std::path::Path::new("d")).unwrap();
        for mode in [0o755, 0o1777, 0o2755, 0o555, 0] {
            set_mode(dir.as_ref(), mode, true).unwrap();
            assert_eq!(stat(dir.as_ref()).unwrap().mode, mode, "{mode:o}");
        }
    }
}
