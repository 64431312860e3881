//! Renaming: one rename on the disk, and 16 bytes in the header that tie what was moved to its new place.

use std::path::Path;

use super::error::{Error, Result};
use super::tree::{Entry, Node, Place, Tree};
use super::{Inner, Volume};
use crate::format::folder;
use crate::format::header::AT_LOCATOR;
use crate::records::EntryId;
use crate::store::Rename;

impl Volume {
    pub fn rename(&self, parent: u64, name: &[u8], new_parent: u64, new_name: &[u8], how: Rename) -> Result<()> {
        let inner = &self.0;
        inner.writable()?;
        let _gate = inner.gate.read();
        let mut tree = inner.tree.lock();
        let tree = &mut *tree;
        crate::format::name::check(new_name).map_err(Error::refused(Path::new("")))?;
        inner.load_listing(tree, parent)?;
        inner.load_listing(tree, new_parent)?;
        if (parent, name) == (new_parent, new_name) {
            tree.entry(parent, name)?;
            return Ok(());
        }
        let source = inner.bound(tree, parent, name)?;
        if new_parent != super::tree::ROOT && tree.folder(new_parent)?.place.is_none() {
            return Err(Error::Errno(libc::ENOENT));
        }
        let target = match tree.entry(new_parent, new_name) {
            Ok(_) => Some(inner.bound(tree, new_parent, new_name)?),
            Err(Error::Errno(libc::ENOENT)) => None,
            Err(e) => return Err(e),
        };
        match (&target, how) {
            (Some(_), Rename::NoReplace) => return Err(Error::Errno(libc::EEXIST)),
            (None, Rename::Exchange) => return Err(Error::Errno(libc::ENOENT)),
            (Some(target), Rename::Exchange) => inner.exchange(tree, (parent, &source), (new_parent, target))?,
            (Some(target), _) if target.ino == source.ino => return Ok(()), // two names of one file
            (Some(target), _) => inner.rename_over(tree, (parent, name, &source), (new_parent, new_name, target))?,
            (None, _) => {
                inner.intend_folders(tree, &[parent, new_parent])?;
                let mut entry = inner.new_entry(tree, new_parent, new_name, source.folder)?;
                entry.ids.clone_from(&source.ids);
                inner.move_entry(tree, (parent, name, &source), (new_parent, entry), Rename::NoReplace)?;
            }
        }
        inner.feed.changed();
        Ok(())
    }
}

impl Inner {
    fn bound(&self, tree: &mut Tree, parent: u64, shown: &[u8]) -> Result<Entry> {
        self.bind(tree, parent, shown)?;
        Ok(tree.entry(parent, shown)?.clone())
    }

    fn rename_over(&self, tree: &mut Tree, from: (u64, &[u8], &Entry), to: (u64, &[u8], &Entry)) -> Result<()> {
        let ((parent, name, source), (new_parent, new_name, target)) = (from, to);
        if tree.junction(target.ino).is_some() || target.folder && tree.junction(source.ino).is_some() {
            return Err(Error::Errno(libc::EBUSY));
        }
        let path = tree.path_at(new_parent, &target.store)?;
        // The name that is there keeps its sealed form, so that the disk replaces it in one step.
        let entry = Entry { ids: source.ids.clone(), folder: source.folder, seq: tree.next_seq(), ..target.clone() };
        match (source.folder, target.folder) {
            (false, true) => Err(Error::Errno(libc::EISDIR)),
            (true, false) => Err(Error::Errno(libc::ENOTDIR)),
            (false, false) => {
                self.intend_folders(tree, &[parent, new_parent])?;
                self.forget_link(tree, target, &path)?;
                self.replace_entry(tree, new_parent, new_name, target)?;
                let moved = self.move_entry(tree, (parent, name, source), (new_parent, entry), Rename::Over);
                if moved.is_err() {
                    // It is still there; the table reads it again.
                    tree.listing_mut(new_parent)?.add(Entry { ino: 0, ..target.clone() });
                }
                moved
            }
            (true, true) => {
                self.load_listing(tree, target.ino)?;
                if !tree.listing(target.ino)?.entries.is_empty() {
                    return Err(Error::Errno(libc::ENOTEMPTY));
                }
                self.intend_folders(tree, &[parent, new_parent, target.ino])?;
                self.replace_entry(tree, new_parent, new_name, target)?;
                // Exchanged first, so that a crash leaves an empty folder at the old name and nothing less.
                let old = tree.path_at(parent, &source.store)?;
                let moved = self.move_entry(tree, (parent, name, source), (new_parent, entry), Rename::Exchange);
                if moved.is_err() {
                    tree.listing_mut(new_parent)?.add(Entry { ino: 0, ..target.clone() });
                    return moved;
                }
                self.remove_folder(&old)
            }
        }
    }

    /// Takes a target that will be replaced out of the table; on the disk it is still there.
    fn replace_entry(&self, tree: &mut Tree, parent: u64, shown: &[u8], target: &Entry) -> Result<()> {
        tree.listing_mut(parent)?.remove(shown);
        tree.detach(target.ino, &Place { parent, store: target.store.clone() });
        match tree.nodes.get_mut(&target.ino) {
            Some(Node::File(file)) => self.lost_name(file),
            Some(Node::Folder(folder)) => {
                folder.dirty = false;
                self.dirty.lock().remove(&target.ino);
                tree.folders.retain(|_, ino| *ino != target.ino);
            }
            None => {}
        }
        tree.drop_unused(target.ino);
        Ok(())
    }

    pub(super) fn move_entry(
        &self,
        tree: &mut Tree,
        from: (u64, &[u8], &Entry),
        to: (u64, Entry),
        how: Rename,
    ) -> Result<()> {
        let ((parent, name, source), (new_parent, mut entry)) = (from, to);
        entry.disk = source.disk;
        let old = tree.path_at(parent, &source.store)?;
        let new = tree.folder_path(new_parent)?.join(entry.store.as_str());
        self.before_move(tree, (parent, source), (new_parent, &entry))?;
        entry.seq = tree.next_seq(); // what was made durable just now was without it
        self.relocate(tree, &old, source, &entry)?;
        if let Err(e) = self.store.rename(&old, &new, how) {
            self.relocate(tree, &old, &entry, source)?;
            return Err(Error::io(&old)(e));
        }
        tree.listing_mut(parent)?.remove(name);
        self.remove_sidecar(&tree.folder_path(parent)?, &source.store);
        tree.detach(source.ino, &Place { parent, store: source.store.clone() });
        self.touch_folder(tree, parent)?;
        self.enter(tree, new_parent, entry, source.ino)?;
        self.note_moved(tree, new_parent, source.ino, &new);
        Ok(())
    }

    fn exchange(&self, tree: &mut Tree, a: (u64, &Entry), b: (u64, &Entry)) -> Result<()> {
        self.intend_folders(tree, &[a.0, b.0])?;
        self.before_move(tree, a, b)?;
        self.before_move(tree, b, a)?;
        let path_a = tree.path_at(a.0, &a.1.store)?;
        let path_b = tree.path_at(b.0, &b.1.store)?;
        let seq = tree.next_seq();
        // Each takes the other's name in its sealed form.
        let at = |place: &Entry, what: &Entry| Entry {
            ids: what.ids.clone(),
            ino: what.ino,
            disk: what.disk,
            folder: what.folder,
            seq,
            ..place.clone()
        };
        let (new_a, new_b) = (at(a.1, b.1), at(b.1, a.1));
        self.relocate(tree, &path_a, a.1, &new_b)?;
        let done = self
            .relocate(tree, &path_b, b.1, &new_a)
            .and_then(|()| self.store.rename(&path_a, &path_b, Rename::Exchange).map_err(Error::io(&path_a)));
        if let Err(e) = done {
            self.relocate(tree, &path_a, &new_b, a.1)?;
            self.relocate(tree, &path_b, &new_a, b.1)?;
            return Err(e);
        }
        tree.detach(a.1.ino, &Place { parent: a.0, store: a.1.store.clone() });
        tree.detach(b.1.ino, &Place { parent: b.0, store: b.1.store.clone() });
        for (parent, entry) in [(a.0, new_a), (b.0, new_b)] {
            tree.attach(entry.ino, Place { parent, store: entry.store.clone() });
            if let Some(old) = tree.listing_mut(parent)?.by_store_mut(&entry.store) {
                *old = entry;
            }
            self.touch_folder(tree, parent)?;
        }
        self.note_moved(tree, b.0, a.1.ino, &path_b);
        self.note_moved(tree, a.0, b.1.ino, &path_a);
        Ok(())
    }

    /// Ties what lies at `path` as `old` to its place as `new`.
    fn relocate(&self, tree: &mut Tree, path: &Path, old: &Entry, new: &Entry) -> Result<()> {
        for id in &old.ids {
            let Some(at) = self.locator_of(new, id) else { return Err(Error::Errno(libc::EACCES)) };
            match id {
                EntryId::Folder(node) => {
                    let path = path.join(folder::header_name(node));
                    let file = self.store.open(&path, true).map_err(Error::io(&path))?;
                    file.write_at(at.as_bytes(), AT_LOCATOR as u64).map_err(Error::io(&path))?;
                }
                EntryId::File(_) => {
                    let Some(file) = self.file_of(tree, old).or_else(|| self.file_of(tree, new)) else { continue };
                    let links = self.stat_file(&mut file.state.write(), Some(path))?.links;
                    if links > 1 {
                        self.relocate_link(path, self.locator_of(old, id).as_ref(), Some(&at))?;
                    } else {
                        self.relocate_file(&file, path, &at)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn note_moved(&self, tree: &mut Tree, parent: u64, ino: u64, path: &Path) {
        if let Ok(folder) = tree.folder_mut(parent)
            && !folder.listed
        {
            folder.moved.insert(ino);
        }
        if let Ok(folder) = tree.folder_mut(ino) {
            folder.stat = None; // ctime changed
        }
        if let Some(Node::File(file)) = tree.nodes.get_mut(&ino) {
            let mut state = file.file.state.write();
            state.stat = None; // ctime changed
            if let Some(content) = &mut state.content {
                content.set_path(path);
            }
        }
    }
}
