//! A volume: the tree of plain files that a store's ciphertext stands for, as operations on inode numbers.
//!
//! Nothing here knows FUSE; [`crate::mount`] does. Locks are taken in this order: the gate (every operation for reading,
//! sync's steps for writing), the table of inodes, a file's own state.

pub(crate) mod acl;
pub(crate) mod attrs;
pub mod carve;
mod change;
mod data;
mod dirs;
mod durable;
pub mod error;
pub(crate) mod file;
mod fsck;
mod gate;
mod junction;
mod loading;
mod mend;
mod meta;
mod names;
mod reencrypt;
mod rename;
pub(crate) mod tree;

pub use tree::ROOT;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use keymgr::ids::{NodeId, VaultId};
use keymgr::share::ShareKeys;
use parking_lot::{Mutex, RwLock};

pub use attrs::{Attr, Device, Shown};
pub use data::OpenHow;
pub use dirs::DirEntry;
pub use error::{Error, Result};
pub use fsck::Finding;
pub use gate::Gate;
pub use junction::Junction;
pub use mend::Mending;
pub use meta::SetAttr;
pub use names::Who;

use crate::format::folder;
use crate::format::locator::NOWHERE;
use crate::records::{Feed, Records, Refusal};
use crate::session::Session;
use crate::store::{Disk, Store};
use tree::{TREE, Tree};

/// A volume. Clones are one volume.
#[derive(Clone)]
pub struct Volume(pub(crate) Arc<Inner>);

#[derive(Clone, Copy, Default, Debug)]
pub struct OpenOptions {
    /// How the last session ended, as the marks say. Where not, [`Volume::mend`] is due.
    pub clean: bool,
    pub read_only: bool,
    /// Programs change nothing, since no member would count it; the volume itself keeps house, and sync installs.
    pub reader: bool,
    /// Does not check what is read against the records: for saving what is there.
    pub trusting: bool,
}

pub(crate) struct Inner {
    pub store: Arc<dyn Store>,
    /// Where the store lies, for paths that come from outside.
    pub root: PathBuf,
    keys: RwLock<Arc<ShareKeys>>,
    pub records: Arc<dyn Records>,
    pub feed: Arc<dyn Feed>,
    pub options: OpenOptions,
    pub session: Session,
    pub gate: RwLock<()>,
    pub tree: Mutex<Tree>,
    /// Inodes that differ from their records by our own work.
    pub dirty: Mutex<BTreeSet<u64>>,
    /// While a folder is being made a share: what changed since it was looked at.
    pub watch: Mutex<Option<HashSet<u64>>>,
    pub kept: file::Kept,
    pub handles: Mutex<dirs::Handles>,
    pub notifier: Mutex<Option<Arc<dyn Notify>>>,
    /// The kernel keeps the modification times of files: it caches writes.
    pub kernel_times: AtomicBool,
}

/// What the kernel must be told when something else than it changed a volume.
pub(crate) trait Notify: Send + Sync {
    fn forget_names(&self, folder: u64, names: Vec<Vec<u8>>);
    fn forget_content(&self, ino: u64);
}

impl Volume {
    /// Makes `tree/` and the header of the topmost folder in a new store, durably.
    pub fn init(store: &Path, _vault: VaultId, keys: &ShareKeys) -> Result<()> {
        let disk = Disk::open(store).map_err(Error::io(store))?;
        Self::init_on(&disk, keys)
    }

    /// Opens the volume of a store. Where `o.clean`, the session's list is emptied: mark the vault open, durably, after
    /// this and before the first change.
    pub fn open(
        store: &Path,
        _vault: VaultId,
        keys: ShareKeys,
        records: Arc<dyn Records>,
        feed: Arc<dyn Feed>,
        o: OpenOptions,
    ) -> Result<Volume> {
        let disk = Arc::new(Disk::open(store).map_err(Error::io(store))?);
        Self::open_on(disk, store, keys, records, feed, o)
    }

    fn init_on(disk: &dyn Store, keys: &ShareKeys) -> Result<()> {
        let tree = Path::new(TREE);
        disk.make_folder(tree, 0o700).map_err(Error::io(tree))?;
        let node = NodeId::root_of(keys.share());
        let path = tree.join(folder::header_name(&node));
        let header = folder::FolderHeader::new(keys, node).seal(keys, &NOWHERE).map_err(Error::refused(&path))?;
        let file = disk.create(&path, 0o600).map_err(Error::io(&path))?;
        file.write_at(&header, 0).and_then(|()| file.sync(false)).map_err(Error::io(&path))?;
        disk.sync_folder(tree).map_err(Error::io(tree))?;
        disk.sync_folder(Path::new("")).map_err(Error::io(tree))
    }

    fn open_on(
        disk: Arc<dyn Store>,
        store: &Path,
        keys: ShareKeys,
        records: Arc<dyn Records>,
        feed: Arc<dyn Feed>,
        o: OpenOptions,
    ) -> Result<Volume> {
        let session = Session::begin(&disk, &keys, o.clean, o.read_only).map_err(Error::io(store))?;
        let root = Self::read_root(&disk, &keys)?;
        let inner = Inner {
            store: disk,
            root: store.to_owned(),
            keys: RwLock::new(Arc::new(keys)),
            records,
            feed,
            options: o,
            session,
            gate: RwLock::new(()),
            tree: Mutex::new(Tree::new(root)),
            dirty: Mutex::default(),
            watch: Mutex::default(),
            kept: file::Kept::default(),
            handles: Mutex::default(),
            notifier: Mutex::default(),
            kernel_times: AtomicBool::new(false),
        };
        Ok(Volume(Arc::new(inner)))
    }

    fn read_root(disk: &Arc<dyn Store>, keys: &ShareKeys) -> Result<tree::Folder> {
        use crate::format::{HEADER, name::Names};
        let node = NodeId::root_of(keys.share());
        let path = Path::new(TREE).join(folder::header_name(&node));
        let bytes = crate::store::read_small(disk.as_ref(), &path, HEADER).map_err(Error::io(&path))?;
        let bytes: [u8; HEADER] =
            bytes.try_into().map_err(|_| Error::Damaged { path: path.clone(), what: "a folder's header is cut" })?;
        let (header, _) = folder::FolderHeader::open(keys, &bytes).map_err(Error::refused(&path))?;
        if header.node != node {
            return Err(Error::Damaged { path, what: "it is not the header of this share's topmost folder" });
        }
        Ok(tree::Folder {
            lookups: 1,
            place: None,
            headers: vec![(node, Names::new(keys, &node))],
            listing: None,
            stat: None,
            xattrs: None,
            listed: false,
            observed: false,
            dirty: false,
            changes: 0,
            synced: 0,
            unsynced: true,
            new_header: false,
            gone: false,
            moved: Default::default(),
        })
    }

    /// What was refused in this session.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.0.session.refusals()
    }

    /// Whether something differs from its record by our own work, be it settled or not: [`Self::observe`] is due, now or
    /// a moment later.
    pub fn is_dirty(&self) -> bool {
        !self.0.dirty.lock().is_empty()
    }

    /// Before an unmount ends: all is on the disk. The caller then seals the mark, and after it calls
    /// [`Self::list_emptied`].
    pub fn end(&self) -> Result<()> {
        if self.0.options.read_only {
            return Ok(());
        }
        self.0.store.sync_all().map_err(Error::io(Path::new("")))
    }

    /// Whether mending is still to be done: then the vault must not be marked clean.
    pub fn is_unmended(&self) -> bool {
        self.0.session.unmended()
    }

    /// After the mark `clean` is durable.
    pub fn list_emptied(&self) -> Result<()> {
        self.0.session.empty_list().map_err(Error::io(Path::new("session/list")))
    }

    /// Takes over epochs that the share has gained: what is written from now on is under the newest.
    pub fn rekey(&self, keys: ShareKeys) {
        let inner = &self.0;
        let _gate = inner.gate.write();
        let mut tree = inner.tree.lock();
        for node in tree.nodes.values_mut() {
            match node {
                tree::Node::Folder(folder) => {
                    for (node, names) in &mut folder.headers {
                        *names = crate::format::name::Names::new(&keys, node);
                    }
                }
                tree::Node::File(file) => {
                    if let Some(content) = &mut file.file.state.write().content {
                        content.rekey(&keys);
                    }
                }
            }
        }
        *inner.keys.write() = Arc::new(keys);
    }
}

#[cfg(test)]
mod budget;
#[cfg(test)]
mod crash;

impl Inner {
    pub fn keys(&self) -> Arc<ShareKeys> {
        self.keys.read().clone()
    }

    pub fn writable(&self) -> Result<()> {
        if self.frozen() { Err(Error::Errno(libc::EROFS)) } else { Ok(()) }
    }

    /// Nothing here is this device's own work.
    pub fn frozen(&self) -> bool {
        self.options.read_only || self.options.reader
    }

    pub fn note_dirty_file(&self, ino: u64, state: &file::FileState) {
        if state.dirty {
            self.note_dirty(ino);
        }
    }

    pub fn note_dirty(&self, ino: u64) {
        self.dirty.lock().insert(ino);
        self.note_watched([ino]);
    }
}
