//! Names: looking up, making and removing.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::ids::{FileId, NodeId};

use super::attrs::{self, Attr, Device};
use super::error::{Error, Result};
use super::file::FileNode;
use super::tree::{FileRef, Folder, Listing, Node, Place, Tree};
use super::{Inner, Volume};
use crate::content::{Content, Kind};
use crate::format::folder::{self, Stored};
use crate::format::name::{self, Names};
use crate::records::EntryId;
use crate::session;
use crate::store::File;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    pub uid: u32,
    pub gid: u32,
    /// What is taken off the modes of what is made.
    pub umask: u32,
}

impl Who {
    pub fn me() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw(), umask: 0 }
    }
}

impl Volume {
    /// The entry `name` of a folder; the kernel holds it until it forgets.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Attr> {
        let inner = &self.0;
        if name.len() > name::MAX {
            return Err(Error::Errno(libc::ENAMETOOLONG)); // not ENOENT, and nothing to remember
        }
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        if tree.junction(parent).is_some() {
            return Err(Error::Errno(libc::ENOENT));
        }
        inner.load_listing(&mut tree, parent)?;
        inner.has_header(&tree, parent)?;
        let bound = inner.bind(&mut tree, parent, name).and_then(|ino| Ok((ino, inner.attr_of(&mut tree, ino)?)));
        let (ino, attr) = match bound {
            Err(e) if e.is_missing() => {
                let entry = tree.entry(parent, name)?;
                let id = entry.id().or_else(|| inner.recorded_id(&tree, parent, &entry.store));
                let path = tree.path_at(parent, &entry.store)?;
                return Err(inner.missing(e, tree.shown_at(parent, &entry.store), &path, id));
            }
            other => other?,
        };
        inner.look(&mut tree, ino);
        Ok(attr)
    }

    pub fn forget(&self, ino: u64, count: u64) {
        self.0.tree.lock().forget(ino, count);
    }

    /// A new file, open for writing.
    pub fn create(&self, parent: u64, name: &[u8], mode: u32, who: Who) -> Result<Attr> {
        self.make(parent, name, Kind::File, mode, who, None, true)
    }

    /// A new file, FIFO, socket or device node. A FIFO's bytes never reach a volume.
    pub fn mknod(&self, parent: u64, name: &[u8], kind: Kind, mode: u32, device: Device, who: Who) -> Result<Attr> {
        let content = device.to_content();
        let content = matches!(kind, Kind::Block | Kind::Char).then_some(&content[..]);
        self.make(parent, name, kind, mode, who, content, false)
    }

    pub fn symlink(&self, parent: u64, name: &[u8], target: &[u8], who: Who) -> Result<Attr> {
        if target.is_empty() || target.len() >= libc::PATH_MAX as usize {
            return Err(Error::Errno(if target.is_empty() { libc::ENOENT } else { libc::ENAMETOOLONG }));
        }
        self.make(parent, name, Kind::Symlink, 0o600, who, Some(target), false)
    }

    #[allow(clippy::too_many_arguments)]
    fn make(
        &self,
        parent: u64,
        name: &[u8],
        kind: Kind,
        mode: u32,
        who: Who,
        target: Option<&[u8]>,
        open: bool,
    ) -> Result<Attr> {
        self.make_with(parent, name, FileId::random(), kind, mode, who, target, open)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn make_with(
        &self,
        parent: u64,
        name: &[u8],
        id: FileId,
        kind: Kind,
        mode: u32,
        who: Who,
        target: Option<&[u8]>,
        open: bool,
    ) -> Result<Attr> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        inner.before_new(&mut tree, parent, name)?;
        let (mode, xattrs) = match kind {
            Kind::Symlink => (mode, Default::default()),
            _ => inner.inherited(&mut tree, parent, false, mode, who.umask)?,
        };
        let mut entry = inner.new_entry(&mut tree, parent, name, false)?;
        let path = tree.path_at(parent, &entry.store)?;
        let disk = inner.store.create(&path, 0o600).map_err(Error::io(&path))?;
        entry.ids = vec![EntryId::File(id)];
        let made = inner.fill_new(&mut tree, parent, &disk, &path, kind, mode, who, target, &entry, id);
        let made = made.and_then(|content| {
            inner.write_inherited(disk.as_ref(), id.as_bytes(), &xattrs).map_err(Error::io(&path)).map(|()| content)
        });
        let mut content = match made {
            Ok(content) => content,
            Err(e) => {
                // Nothing half made stays where the disk is full.
                let _ = inner.store.remove_file(&path);
                return Err(e);
            }
        };
        let ino = tree.new_ino();
        let header = content.header().clone();
        let file = FileNode::new(ino, id, kind, header.epoch, header.lineage);
        {
            let mut state = file.state.write();
            state.touch();
            state.xattrs = Some(xattrs);
            if open {
                (state.opens, state.writers) = (1, 1);
                state.content = Some(content);
            } else {
                state.changed = content.take_changed();
                state.settled = state.changes;
            }
        }
        inner.note_dirty(ino);
        tree.files.insert(id, ino);
        let file = FileRef { file: Arc::new(file), lookups: 0, places: Vec::new() };
        tree.nodes.insert(ino, Node::File(file));
        inner.enter(&mut tree, parent, entry, ino)?;
        let attr = inner.attr_of(&mut tree, ino)?;
        inner.note_disk(&mut tree, parent, name, ino);
        inner.look(&mut tree, ino);
        drop(tree);
        if !open {
            inner.feed.changed();
        }
        Ok(attr)
    }

    pub fn mkdir(&self, parent: u64, name: &[u8], mode: u32, who: Who) -> Result<Attr> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        inner.before_new(&mut tree, parent, name)?;
        let mut entry = inner.new_entry(&mut tree, parent, name, true)?;
        let path = tree.path_at(parent, &entry.store)?;
        let node = NodeId::random();
        let id = EntryId::Folder(node);
        entry.ids = vec![id];
        let at = inner.locator_of(&entry, &id).ok_or(Error::Errno(libc::EACCES))?;
        let inherits = inner.folder_stat(&mut tree, parent)?.mode & 0o2000;
        let (mode, xattrs) = inner.inherited(&mut tree, parent, true, mode, who.umask)?;
        inner.store.make_folder(&path, 0o700).map_err(Error::io(&path))?;
        let made = inner.write_folder_header(&path, &node, &at).and_then(|()| {
            let disk = inner.store.open_folder(&path).map_err(Error::io(&path))?;
            inner.own(&mut tree, parent, disk.as_ref(), who).map_err(Error::io(&path))?;
            inner.write_inherited(disk.as_ref(), node.as_bytes(), &xattrs).map_err(Error::io(&path))?;
            attrs::set_mode(disk.as_ref(), mode & 0o7777 | inherits, true).map_err(Error::io(&path))
        });
        if let Err(e) = made {
            let _ = inner.store.remove_file(&path.join(folder::header_name(&node)));
            let _ = inner.store.remove_folder(&path);
            return Err(e);
        }
        let ino = tree.new_ino();
        let made = Folder {
            lookups: 0,
            place: None,
            headers: vec![(node, Names::new(&inner.keys(), &node))],
            listing: Some(Listing::default()),
            stat: None,
            xattrs: Some(xattrs),
            listed: false,
            observed: false,
            dirty: true,
            changes: 1,
            synced: 0,
            unsynced: true,
            new_header: true,
            gone: false,
            moved: Default::default(),
        };
        tree.folders.insert(node, ino);
        tree.nodes.insert(ino, Node::Folder(Box::new(made)));
        inner.note_dirty(ino);
        if let Ok(folder) = tree.folder_mut(parent) {
            folder.stat = None;
        }
        inner.enter(&mut tree, parent, entry, ino)?;
        let attr = inner.attr_of(&mut tree, ino)?;
        inner.note_disk(&mut tree, parent, name, ino);
        inner.look(&mut tree, ino);
        drop(tree);
        inner.feed.changed();
        Ok(attr)
    }

    /// Another name for a file.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Attr> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        let file = match tree.file(ino) {
            Err(Error::Errno(libc::EISDIR)) => return Err(Error::Errno(libc::EPERM)),
            other => other?.file.clone(),
        };
        let from = tree.file_path(ino)?.ok_or(Error::Errno(libc::ENOENT))?;
        {
            let mut state = file.state.write();
            inner.read(&file, &mut state, Some(&from))?;
            if state.damaged {
                return Err(Error::Errno(libc::EIO));
            }
        }
        if file.kind == Kind::Share {
            return Err(Error::Errno(libc::EPERM));
        }
        inner.before_new(&mut tree, parent, name)?;
        let mut entry = inner.new_entry(&mut tree, parent, name, false)?;
        entry.ids = vec![EntryId::File(file.id)];
        let to = tree.path_at(parent, &entry.store)?;
        let at = inner.locator_of(&entry, &EntryId::File(file.id)).ok_or(Error::Errno(libc::EACCES))?;
        if let Some(place) = tree.file(ino)?.places.first().cloned()
            && let Some(source) = tree.listing(place.parent)?.by_store(&place.store).cloned()
        {
            inner.before_move(&mut tree, (place.parent, &source), (parent, &entry))?;
            entry.seq = tree.next_seq();
        }
        inner.relocate_link(&from, None, Some(&at))?;
        inner.store.link(&from, &to).map_err(Error::io(&to))?;
        file.state.write().stat = None;
        inner.note_watched([ino]);
        inner.enter(&mut tree, parent, entry, ino)?;
        let attr = inner.attr_of(&mut tree, ino)?;
        inner.note_disk(&mut tree, parent, name, ino);
        inner.look(&mut tree, ino);
        drop(tree);
        inner.feed.changed();
        Ok(attr)
    }

    /// Removes a name of a file. What is open stays readable and writable until it is closed.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        inner.load_listing(&mut tree, parent)?;
        if tree.entry(parent, name)?.folder {
            return Err(Error::Errno(libc::EISDIR));
        }
        if inner.junction_at(&mut tree, parent, name)?.is_some() {
            return Err(Error::Errno(libc::EBUSY));
        }
        inner.remove_file_entry(&mut tree, parent, name)?;
        drop(tree);
        inner.feed.changed();
        Ok(())
    }

    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        inner.load_listing(&mut tree, parent)?;
        if !tree.entry(parent, name)?.folder {
            let junction = inner.junction_at(&mut tree, parent, name)?.is_some();
            return Err(Error::Errno(if junction { libc::EBUSY } else { libc::ENOTDIR }));
        }
        let ino = inner.bind(&mut tree, parent, name)?;
        inner.load_listing(&mut tree, ino)?;
        if !tree.listing(ino)?.entries.is_empty() {
            return Err(Error::Errno(libc::ENOTEMPTY));
        }
        inner.intend_folders(&mut tree, &[parent, ino])?;
        let path = tree.folder_path(ino)?;
        inner.remove_folder(&path)?;
        inner.after_remove(&mut tree, parent, name)?;
        drop(tree);
        inner.feed.changed();
        Ok(())
    }
}

impl Inner {
    /// Removes an entry that is no folder.
    pub fn remove_file_entry(&self, tree: &mut Tree, parent: u64, shown: &[u8]) -> Result<()> {
        let entry = tree.entry(parent, shown)?.clone();
        self.intend_folders(tree, &[parent])?;
        let path = tree.path_at(parent, &entry.store)?;
        self.forget_link(tree, &entry, &path)?;
        self.store.remove_file(&path).map_err(Error::io(&path))?;
        self.after_remove(tree, parent, shown)
    }

    /// The kernel looked, and will forget later.
    pub fn look(&self, tree: &mut Tree, ino: u64) {
        match tree.nodes.get_mut(&ino) {
            Some(Node::File(file)) => {
                file.lookups += 1;
                let mut state = file.file.state.write();
                if let (Some(stat), false) = (state.stat, state.mtime_moved) {
                    state.mtime = Some(stat.mtime);
                }
            }
            Some(Node::Folder(folder)) => folder.lookups += 1,
            None => {}
        }
    }

    /// The disk's number of a new entry, which was just asked for.
    fn note_disk(&self, tree: &mut Tree, parent: u64, shown: &[u8], ino: u64) {
        let disk = match tree.nodes.get(&ino) {
            Some(Node::File(file)) => file.file.state.read().stat.map(|stat| stat.ino),
            Some(Node::Folder(folder)) => folder.stat.map(|stat| stat.ino),
            None => None,
        };
        if let (Some(disk), Ok(entry)) = (disk, tree.entry_mut(parent, shown)) {
            entry.disk = disk;
        }
    }

    fn before_new(&self, tree: &mut Tree, parent: u64, name: &[u8]) -> Result<()> {
        name::check(name).map_err(Error::refused(Path::new("")))?;
        if parent != super::tree::ROOT && tree.folder(parent)?.place.is_none() {
            return Err(Error::Errno(libc::ENOENT)); // removed, with somebody still in it
        }
        self.load_listing(tree, parent)?;
        if tree.listing(parent)?.entries.contains_key(name) {
            return Err(Error::Errno(libc::EEXIST));
        }
        self.intend_folders(tree, &[parent])
    }

    #[allow(clippy::too_many_arguments)]
    fn fill_new(
        &self,
        tree: &mut Tree,
        parent: u64,
        disk: &Arc<dyn File>,
        path: &Path,
        kind: Kind,
        mode: u32,
        who: Who,
        target: Option<&[u8]>,
        entry: &super::tree::Entry,
        id: FileId,
    ) -> Result<Content> {
        let at = self.locator_of(entry, &EntryId::File(id)).ok_or(Error::Errno(libc::EACCES))?;
        let mut content = Content::create(disk.clone(), path, &self.keys(), id, kind, &at)?;
        if let Some(target) = target {
            content.write_at(target, 0)?;
        }
        self.own(tree, parent, disk.as_ref(), who).map_err(Error::io(path))?;
        if mode & 0o7777 != 0o600 {
            attrs::set_mode(disk.as_ref(), mode, false).map_err(Error::io(path))?;
        }
        Ok(content)
    }

    /// Gives what was made to who asked for it. A folder with the setgid bit hands down its group, as the disk does by
    /// itself.
    fn own(&self, tree: &mut Tree, parent: u64, disk: &dyn File, who: Who) -> std::io::Result<()> {
        let me = Who::me();
        if me.uid != 0 || (who.uid, who.gid) == (me.uid, me.gid) {
            return Ok(());
        }
        let inherits = self.folder_stat(tree, parent).is_ok_and(|stat| stat.mode & 0o2000 != 0);
        disk.set_owner(Some(who.uid), if inherits { None } else { Some(who.gid) })
    }

    /// Before one of several names of a file goes: its locator goes from the header or from beside it.
    pub fn forget_link(&self, tree: &Tree, entry: &super::tree::Entry, path: &Path) -> Result<()> {
        let links = match self.file_of(tree, entry) {
            Some(file) => self.stat_file(&mut file.state.write(), Some(path))?.links,
            None => self.store.stat(path).map_err(Error::io(path))?.links,
        };
        if links > 1
            && let Some(id) = entry.id()
            && let Some(at) = self.locator_of(entry, &id)
        {
            self.relocate_link(path, Some(&at), None)?;
        }
        Ok(())
    }

    /// An entry is gone from the disk.
    pub fn after_remove(&self, tree: &mut Tree, parent: u64, shown: &[u8]) -> Result<()> {
        let path = tree.folder_path(parent)?;
        let Some(entry) = tree.listing_mut(parent)?.remove(shown) else { return Ok(()) };
        self.remove_sidecar(&path, &entry.store);
        tree.next_seq();
        if entry.ino != 0 {
            tree.detach(entry.ino, &Place { parent, store: entry.store.clone() });
            match tree.nodes.get_mut(&entry.ino) {
                Some(Node::File(file)) => self.lost_name(file),
                Some(Node::Folder(folder)) => {
                    let nodes: Vec<NodeId> = folder.headers.iter().map(|(node, _)| *node).collect();
                    folder.dirty = false;
                    self.dirty.lock().remove(&entry.ino);
                    tree.folders.retain(|node, _| !nodes.contains(node));
                }
                None => {}
            }
            tree.drop_unused(entry.ino);
        }
        self.touch_folder(tree, parent)
    }

    /// Removes a directory without entries. What lies in it that is not ours goes to quarantine.
    pub fn remove_folder(&self, path: &Path) -> Result<()> {
        let mut headers: Vec<PathBuf> = Vec::new();
        for listed in self.store.list(path).map_err(Error::io(path))? {
            let at = path.join(&listed.name);
            match folder::sort(listed.name.as_bytes()) {
                Ok(Stored::Header(_)) => headers.push(at),
                Ok(Stored::Sidecar(_) | Stored::Aside) => self.store.remove_file(&at).map_err(Error::io(&at))?,
                _ => drop(session::into_quarantine(self.store.as_ref(), &at).map_err(Error::io(&at))?),
            }
        }
        // Last, so that a crash leaves an empty folder.
        for at in headers {
            self.store.remove_file(&at).map_err(Error::io(&at))?;
        }
        self.store.remove_folder(path).map_err(Error::io(path))
    }
}
