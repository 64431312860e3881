//! The switch: the share's folder gets its name, then a junction and the old folder change places in one step of the disk.
//!
//! Between the two a crash leaves a share that nobody shows. A file in it says so, [`MARK`], until the switch is durable;
//! whether it came that far, [`settle_shares`] sees by whether the junction is there.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::ids::{FileId, ShareId};

use super::{CarvedFile, Carving, remove_all};
use crate::content::{Content, Kind};
use crate::records::EntryId;
use crate::store::{Disk, Rename, Store, Type, read_small};
use crate::volume::Volume;
use crate::volume::error::{Error, Result};
use crate::volume::file::FileNode;
use crate::volume::gate::Gate;
use crate::volume::tree::{Entry, FileRef, Node, Place, Tree};

/// A file in a share's folder: its switch may not have come to its end. It names the share that it was part of.
const MARK: &str = "carving";
/// Folders that were made shares, as they were before.
const TRASH: &str = "versions/trash";

/// A folder that is a share now.
#[derive(Clone, Debug)]
pub struct Carved {
    pub share: ShareId,
    pub files: Vec<CarvedFile>,
}

impl Carving {
    /// The folder becomes the share, or nothing happens and it can be tried again: [`Error::Busy`] where a program has a
    /// file in it open for writing. What was made moves to a folder beside it that is named by the share's id; the folder itself goes to
    /// `versions/trash/`. All of it is durable when this returns.
    ///
    /// `then` runs when it has happened, and before any program sees it: to open the share's volume and to give it to
    /// [`crate::mount::Forest::add`], so that who reads by path finds the one or the other at any time.
    pub fn commit(&mut self, then: impl FnOnce()) -> Result<Carved> {
        let volume = self.volume.clone();
        // Most of what is left is done before the gate closes.
        self.walk(false, &mut |_| true)?;
        self.home.sync_all().map_err(Error::io(&self.at))?;
        volume.gate(|gate| self.switch(gate).inspect(|()| then()))?;
        volume.0.feed.changed();
        let files = self.files.values().map(|made| made.body.clone()).collect();
        Ok(Carved { share: self.keys.share(), files })
    }

    fn switch(&mut self, gate: &Gate) -> Result<()> {
        if self.walk(true, &mut |_| true)?.worked {
            self.home.sync_all().map_err(Error::io(&self.at))?;
        }
        let share = self.keys.share();
        let target = self.at.with_file_name(share.to_string());
        let above = self.at.parent().unwrap_or(Path::new("")).to_owned();
        self.write_mark()?;
        self.home.rename(&self.at, &target, Rename::NoReplace).map_err(Error::io(&target))?;
        let switched = self.home.sync_folder(&above).map_err(Error::io(&above)).and_then(|()| self.exchange(gate));
        match switched {
            Ok(()) => {
                // What stays of it, the next session settles.
                let mark = target.join(MARK);
                let _ = self.home.remove_file(&mark).and_then(|()| self.home.sync_folder(&target));
                Ok(())
            }
            Err(e) => {
                let _ = self.home.rename(&target, &self.at, Rename::NoReplace);
                Err(e)
            }
        }
    }

    fn write_mark(&self) -> Result<()> {
        let path = self.at.join(MARK);
        remove_all(self.home.as_ref(), &path)?;
        self.write_small(&path, self.volume.share().to_string().as_bytes())?;
        let done = self.home.open(&path, true).and_then(|file| file.sync(false));
        done.and_then(|()| self.home.sync_folder(&self.at)).map_err(Error::io(&path))
    }

    /// An error means that the folder is still there.
    fn exchange(&self, gate: &Gate) -> Result<()> {
        let inner = &self.volume.0;
        let mut tree = inner.tree.lock();
        let tree = &mut *tree;
        let place = tree.folder(self.folder)?.place.clone().ok_or(Error::Errno(libc::ENOENT))?;
        let old = tree.listing(place.parent)?.by_store(&place.store).cloned().ok_or(Error::Errno(libc::ENOENT))?;
        let id = FileId::from_bytes(*self.keys.share().as_bytes());
        let (folder, ids) = (false, vec![EntryId::File(id)]);
        let entry = Entry { folder, ids, disk: 0, ino: tree.new_ino(), seq: tree.next_seq(), ..old };
        let at = tree.path_at(place.parent, &entry.store)?;
        let aside = self.aside(id, &entry)?;
        // For who reads a folder to its end that is gone by then.
        for ino in self.folders.keys().chain(self.files.keys()) {
            inner.attr_of(tree, *ino)?;
        }
        inner.intend_folders(tree, &[place.parent])?;
        inner.store.rename(&aside, &at, Rename::Exchange).map_err(Error::io(&at))?;
        // From here on it has happened.
        let above = at.parent().unwrap_or(Path::new(""));
        if let Err(e) = inner.store.sync_folder(above).and_then(|()| inner.store.sync_folder(Path::new(TRASH))) {
            tracing::warn!(path = %at.display(), "a new share is not durable yet: {e}");
        }
        let shown = tree.listing(place.parent)?.shown.get(&entry.store).cloned();
        self.forget_folder(tree);
        self.enter(tree, &place, entry, id)?;
        shown.into_iter().for_each(|shown| gate.tell_name(place.parent, shown));
        Ok(())
    }

    /// Makes the junction where the folder is to go, durably.
    fn aside(&self, id: FileId, entry: &Entry) -> Result<PathBuf> {
        let inner = &self.volume.0;
        for folder in ["versions", TRASH] {
            match inner.store.make_folder(Path::new(folder), 0o700) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::io(Path::new(folder))(e)),
                _ => {}
            }
        }
        let path = trash(self.keys.share());
        let io = || Error::io(&path);
        if inner.store.stat(&path).is_ok_and(|stat| stat.kind == Type::File) {
            inner.store.remove_file(&path).map_err(io())?;
        }
        let at = inner.locator_of(entry, &EntryId::File(id)).ok_or(Error::Errno(libc::EACCES))?;
        let file = inner.store.create(&path, 0o600).map_err(io())?;
        Content::create(file.clone(), &path, &inner.keys(), id, Kind::Share, &at)?;
        for folder in [TRASH, "versions", ""] {
            inner.store.sync_folder(Path::new(folder)).map_err(io())?;
        }
        file.sync(false).map_err(io())?;
        Ok(path)
    }

    /// Takes all that was in the folder out of the table. Who has something of it open keeps that.
    fn forget_folder(&self, tree: &mut Tree) {
        let inner = &self.volume.0;
        let mut dirty = inner.dirty.lock();
        let gone: HashSet<u64> = self.folders.keys().copied().collect();
        for ino in &gone {
            if let Ok(folder) = tree.folder_mut(*ino) {
                (folder.place, folder.dirty, folder.gone) = (None, false, true);
            }
            dirty.remove(ino);
        }
        tree.folders.retain(|_, ino| !gone.contains(ino));
        for (ino, made) in &self.files {
            let Some(Node::File(entry)) = tree.nodes.get_mut(ino) else { continue };
            entry.places.retain(|place| !gone.contains(&place.parent));
            if made.detached || !entry.places.is_empty() {
                continue; // It has other names.
            }
            let mut state = entry.file.state.write();
            (state.unlinked, state.dirty) = (true, false);
            inner.unkeep(&mut state);
            drop(state);
            dirty.remove(ino);
            tree.gone.insert(*ino);
            if tree.files.get(&entry.file.id) == Some(ino) {
                tree.files.remove(&entry.file.id);
            }
        }
    }

    fn enter(&self, tree: &mut Tree, place: &Place, entry: Entry, id: FileId) -> Result<()> {
        let inner = &self.volume.0;
        let path = tree.path_at(place.parent, &entry.store)?;
        let content = Content::open(inner.open_disk(&path)?, &path, &inner.keys())?;
        let (ino, header) = (entry.ino, content.header());
        let file = FileNode::new(ino, id, Kind::Share, header.epoch, header.lineage);
        {
            let mut state = file.state.write();
            state.changed.all();
            state.touch();
            state.settled = state.changes;
        }
        tree.files.insert(id, ino);
        tree.nodes.insert(ino, Node::File(FileRef { file: Arc::new(file), lookups: 0, places: vec![place.clone()] }));
        inner.note_dirty(ino);
        if let Some(old) = tree.listing_mut(place.parent)?.by_store_mut(&entry.store) {
            *old = entry;
        }
        inner.touch_folder(tree, place.parent)
    }
}

fn trash(share: ShareId) -> PathBuf {
    Path::new(TRASH).join(share.to_string())
}

impl Volume {
    /// For a share that was made of a folder: none of it is recorded yet, and [`Volume::observe`] gives all of it. Does
    /// nothing where it is recorded.
    pub fn adopt(&self) -> Result<super::super::Mending> {
        let inner = &self.0;
        if !inner.records.has_folder(keymgr::ids::NodeId::root_of(self.share())) {
            inner.session.begin_mending();
        }
        self.mend()
    }

    /// Removes for good what became of folders that were made shares so long ago.
    pub fn empty_trash(&self, older: std::time::Duration) -> Result<()> {
        let (store, trash) = (&self.0.store, Path::new(TRASH));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let listed = match store.list(trash) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(Error::io(trash))?,
        };
        for path in listed.into_iter().map(|listed| trash.join(listed.name)) {
            // Its ctime is when it came here.
            let came = store.stat(&path).map_err(Error::io(&path))?.ctime;
            if came.saturating_add(older.as_nanos() as i128) <= now as i128 {
                remove_all(store.as_ref(), &path)?;
            }
        }
        Ok(())
    }
}

/// At the beginning of a session, before anything is carved in it: deletes what is left in `shares/` of shares that were
/// being made of folders, and settles those whose switch a crash met. `open` gives the volume of a share; one that it does
/// not have is settled another time.
pub fn settle_shares(home: &Path, open: impl FnMut(ShareId) -> Option<Volume>) -> Result<()> {
    match Disk::open(home) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        disk => settle_on(&disk.map_err(Error::io(home))?, Path::new(""), open),
    }
}

pub(in crate::volume) fn settle_on(
    home: &dyn Store,
    shares: &Path,
    mut open: impl FnMut(ShareId) -> Option<Volume>,
) -> Result<()> {
    for listed in home.list(shares).map_err(Error::io(shares))? {
        let path = shares.join(&listed.name);
        let Some(name) = listed.name.to_str() else { continue };
        if name.ends_with(".new") {
            remove_all(home, &path)?;
            continue;
        }
        let Ok(share) = name.parse::<ShareId>() else { continue };
        let mark = path.join(MARK);
        let parent = match read_small(home, &mark, 64) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io(&mark))?,
        };
        let parent = std::str::from_utf8(&parent).ok().and_then(|text| text.parse().ok());
        let Some(parent) = parent.and_then(&mut open) else { continue };
        if parent.has_junction(share) {
            home.remove_file(&mark).map_err(Error::io(&mark))?;
            home.sync_folder(&path).map_err(Error::io(&path))?;
        } else {
            // The folder is what counts.
            let left = path.with_extension("new");
            remove_all(home, &left)?;
            home.rename(&path, &left, Rename::NoReplace).map_err(Error::io(&path))?;
            home.sync_folder(shares).map_err(Error::io(shares))?;
            remove_all(home, &left)?;
            let aside = trash(share);
            if parent.0.store.stat(&aside).is_ok_and(|stat| stat.kind == Type::File) {
                parent.0.store.remove_file(&aside).map_err(Error::io(&aside))?;
            }
        }
    }
    Ok(())
}
