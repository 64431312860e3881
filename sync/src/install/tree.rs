//! The ciphertext tree, opened: where entries lie, read beneath its root and without symlinks.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use keymgr::ids::{Locator, NodeId, StoreName};
use keymgr::root::LOCATOR;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::beneath::{beneath, open_in};
use super::{FOLDER_HEADER, Paths, Stop};
use crate::engine::Spot;

/// The ciphertext tree of a store.
pub struct Tree {
    root: OwnedFd,
    pub(super) path: PathBuf,
}

/// A folder of the tree and a name in it.
pub(super) struct Place<'a> {
    pub dir: OwnedFd,
    pub name: &'a str,
    pub path: PathBuf,
}

impl Tree {
    pub fn open(store: &Path) -> io::Result<Self> {
        let path = store.join("tree");
        std::fs::create_dir_all(&path)?;
        let root = nix::fcntl::open(&path, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { root, path })
    }

    /// The path of an entry, for reading it and for messages.
    pub fn path_of(&self, names: &[StoreName]) -> PathBuf {
        names.iter().fold(self.path.clone(), |path, name| path.join(name.as_str()))
    }

    /// Opens a file of the tree for reading.
    pub fn read(&self, names: &[StoreName]) -> io::Result<File> {
        let (last, above) = names.split_last().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.dir(above)?;
        let file = File::from(beneath(&dir, Path::new(last.as_str()), OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    pub(super) fn dir(&self, names: &[StoreName]) -> io::Result<OwnedFd> {
        let path: PathBuf = names.iter().map(StoreName::as_str).collect();
        let path = if names.is_empty() { Path::new(".") } else { &path };
        beneath(&self.root, path, OFlag::O_DIRECTORY | OFlag::O_RDONLY)
    }

    pub(super) fn place<'a>(&self, paths: &dyn Paths, spot: &'a Spot) -> Result<Place<'a>, Stop> {
        let names = paths.spot(spot).ok_or(Stop::Refused)?;
        let above = names.get(..names.len().saturating_sub(1)).unwrap_or_default();
        Ok(Place { dir: self.dir(above)?, name: spot.name.as_str(), path: self.path_of(&names) })
    }

    /// Writes a folder's header into its directory.
    pub(super) fn write_header(
        &self,
        dir: &OwnedFd,
        node: &NodeId,
        attrs: &[u8],
        locator: &Locator,
    ) -> Result<(), Stop> {
        let mut header = attrs.get(..FOLDER_HEADER).ok_or(Stop::Refused)?.to_vec();
        header[LOCATOR].copy_from_slice(locator.as_bytes());
        let name = header_name(node);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
        let file = File::from(open_in(dir, Path::new(&name), flags, 0o600)?);
        file.set_len(0)?;
        file.write_all_at(&header, 0)?;
        file.sync_data()?;
        Ok(())
    }
}

/// The file that holds the header of `node` (kith-store(5), "Folders").
pub fn header_name(node: &NodeId) -> String {
    format!(".kith-{node}")
}
