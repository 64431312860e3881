//! What every change has in common: it is on the session's list before, and noted as changed after.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use keymgr::ids::{Locator, NodeId, StoreName};

use super::Inner;
use super::error::{Error, Result};
use super::file::{FileNode, FileState};
use super::tree::{Entry, Folder, Place, Tree};
use crate::format::folder;
use crate::format::header::AT_LOCATOR;
use crate::format::locator::OTHERS;
use crate::session::Item;

/// How many folders are listed at once, at most.
const MOST_AHEAD: usize = 64;

impl Inner {
    /// Before the entries of these folders change: those that are recorded go on the list, durably, together, and with them
    /// some that come next, twice as many each time: who works through a tree waits for few fsyncs.
    pub fn intend_folders(&self, tree: &mut Tree, folders: &[u64]) -> Result<()> {
        let mut listed = Vec::new();
        for ino in folders {
            if !listed.contains(ino) && self.is_unlisted(tree.folder(*ino)?) {
                listed.push(*ino);
            }
        }
        let Some(first) = listed.first().copied() else { return Ok(()) };
        let step = (tree.list_step * 2).clamp(1, MOST_AHEAD);
        tree.list_step = step;
        for next in following(tree, first, step - 1) {
            // Only what was checked against its record is ever listed.
            if !listed.contains(&next) && tree.folder(next).is_ok_and(|f| f.listing.is_some() && self.is_unlisted(f)) {
                listed.push(next);
            }
        }
        let mut items = Vec::new();
        for ino in &listed {
            items.extend(tree.folder(*ino)?.headers.iter().map(|(node, _)| Item::Folder(*node)));
        }
        self.session.intend(&items, true).map_err(Error::io(Path::new("session/list")))?;
        for ino in listed {
            tree.folder_mut(ino)?.listed = true;
        }
        Ok(())
    }

    fn is_unlisted(&self, folder: &Folder) -> bool {
        !folder.listed && (folder.observed || folder.headers.iter().any(|(node, _)| self.records.has_folder(*node)))
    }

    /// The entries of a folder changed.
    pub fn touch_folder(&self, tree: &mut Tree, ino: u64) -> Result<()> {
        let folder = tree.folder_mut(ino)?;
        folder.dirty = true;
        folder.changes += 1;
        folder.unsynced = true;
        folder.stat = None;
        self.note_dirty(ino);
        Ok(())
    }

    /// Where a file stands, for the list. `None`: it is unlinked, or its folder has no header.
    pub fn standing(&self, tree: &Tree, ino: u64) -> Option<(NodeId, StoreName)> {
        let place = tree.file(ino).ok()?.places.first()?;
        Some((tree.node_of(place.parent).ok()?, place.store.clone()))
    }

    /// Before groups of a file change: verified, and on the list, durably. Called without any lock.
    pub fn intend_groups(&self, file: &FileNode, groups: &Range<u32>) -> Result<()> {
        let standing = self.standing(&self.tree.lock(), file.ino);
        let mut state = file.state.write();
        let Some(count) = state.recorded else { return Ok(()) };
        let Some(groups) = unlisted(&state, groups) else { return Ok(()) };
        let range = state.listed.widen(&groups, count);
        state.content()?.verify(range.clone())?;
        if let Some((folder, name)) = standing {
            let item = Item::File { file: file.id, folder, name, groups: (range.start, range.end) };
            self.session.intend(&[item], true).map_err(Error::io(Path::new("session/list")))?;
        }
        state.listed.add(range);
        Ok(())
    }

    /// Before attributes of a file change. They are no ciphertext, so the disk need not be waited for: only a process that
    /// is killed must not lose them.
    pub fn intend_attrs(
        &self,
        file: &FileNode,
        state: &mut FileState,
        standing: Option<(NodeId, StoreName)>,
    ) -> Result<()> {
        if !state.listed_attrs
            && state.listed.is_empty()
            && let Some((folder, name)) = standing
            && self.records.file(file.id).is_some()
        {
            let item = Item::Attrs { file: file.id, folder, name };
            self.session.intend(&[item], false).map_err(Error::io(Path::new("session/list")))?;
            state.listed_attrs = true;
        }
        Ok(())
    }

    /// A new name in a folder: its sealed form, with the sidecar of a long one written.
    pub fn new_entry(&self, tree: &mut Tree, parent: u64, plain: &[u8], is_folder: bool) -> Result<Entry> {
        let path = tree.folder_path(parent)?;
        let dir = tree.folder(parent)?;
        let (under, names) = dir.headers.first().ok_or(Error::Errno(libc::EIO))?;
        let sealed = names.seal(plain).map_err(Error::refused(&path))?;
        let under = *under;
        if let Some(sidecar) = &sealed.sidecar {
            self.write_sidecar(&path, &sealed.name, sidecar)?;
        }
        Ok(Entry {
            store: sealed.name,
            under,
            epoch: self.keys().current(),
            plain: plain.to_vec(),
            folder: is_folder,
            ids: Vec::new(),
            ino: 0,
            disk: 0,
            seq: tree.next_seq(),
        })
    }

    pub fn write_sidecar(&self, folder: &Path, name: &StoreName, content: &[u8]) -> Result<()> {
        let path = folder.join(folder::sidecar_name(name));
        match self.store.create(&path, 0o600) {
            Ok(file) => file.write_at(content, 0).and_then(|()| file.sync(true)).map_err(Error::io(&path)),
            // Left of an earlier one: its content follows from the name.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let file = self.store.open(&path, true).map_err(Error::io(&path))?;
                file.write_at(content, 0).and_then(|()| file.sync(true)).map_err(Error::io(&path))
            }
            Err(e) => Err(Error::io(&path)(e)),
        }
    }

    pub fn remove_sidecar(&self, folder: &Path, name: &StoreName) {
        if crate::format::name::is_long(name) {
            // One that stays harms nothing.
            let _ = self.store.remove_file(&folder.join(folder::sidecar_name(name)));
        }
    }

    /// Puts an entry into the table. What the records missed under that name is replaced by it.
    pub fn enter(&self, tree: &mut Tree, parent: u64, mut entry: Entry, ino: u64) -> Result<()> {
        entry.ino = ino;
        let place = Place { parent, store: entry.store.clone() };
        let listing = tree.listing_mut(parent)?;
        listing.missing.retain(|m| m.store != entry.store);
        listing.add(entry);
        tree.attach(ino, place);
        self.touch_folder(tree, parent)
    }

    /// The file in the table that an entry stands for.
    pub fn file_of(&self, tree: &Tree, entry: &Entry) -> Option<Arc<FileNode>> {
        if entry.ino == 0 { None } else { tree.file(entry.ino).ok().map(|f| f.file.clone()) }
    }

    /// Ties a file with one name to a new place; its times stay.
    pub fn relocate_file(&self, file: &FileNode, path: &Path, at: &Locator) -> Result<()> {
        let mut state = file.state.write();
        if state.damaged {
            return Ok(());
        }
        let stat = self.stat_file(&mut state, Some(path))?;
        if let Some(unread) = &mut state.unread {
            *unread = *at;
        }
        let disk = match &mut state.content {
            Some(content) => {
                content.set_locator(at)?;
                content.file().clone()
            }
            None => {
                let disk = self.open_disk(path)?;
                disk.write_at(at.as_bytes(), AT_LOCATOR as u64).map_err(Error::io(path))?;
                disk
            }
        };
        disk.set_times(None, Some(stat.mtime)).map_err(Error::io(path))
    }

    /// As [`Self::relocate_file`] for one of several names: `old` gives way to `new`; `None` on either side adds or removes.
    pub fn relocate_link(&self, path: &Path, old: Option<&Locator>, new: Option<&Locator>) -> Result<()> {
        let disk = self.open_disk(path)?;
        let io = || Error::io(path);
        let mtime = disk.stat().map_err(io())?.mtime;
        let mut first = [0; Locator::LEN];
        disk.read_at(&mut first, AT_LOCATOR as u64).map_err(io())?;
        let mut others: Vec<[u8; Locator::LEN]> = Vec::new();
        for piece in disk.xattr(OTHERS).map_err(io())?.unwrap_or_default().chunks_exact(Locator::LEN) {
            others.extend(<[u8; Locator::LEN]>::try_from(piece));
        }
        let before = (first, others.clone());
        let in_header = old.is_some_and(|old| *old.as_bytes() == first);
        others.retain(|l| Some(l) != old.map(Locator::as_bytes));
        match new {
            Some(new) if in_header => first = *new.as_bytes(),
            Some(new) => others.push(*new.as_bytes()),
            // It stays beside too: a crash may lose the header's new bytes and keep all else.
            None if in_header => first = others.last().copied().unwrap_or(first),
            None => {}
        }
        others.sort_unstable();
        others.dedup();
        if first != before.0 {
            disk.write_at(&first, AT_LOCATOR as u64).map_err(io())?;
            disk.set_times(None, Some(mtime)).map_err(io())?;
        }
        if others != before.1 {
            let done = match others.is_empty() {
                true => disk.remove_xattr(OTHERS).map(drop),
                false => disk.set_xattr(OTHERS, others.as_flattened()),
            };
            // Where the disk has no attributes the records alone say which places a file has.
            match done {
                Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                other => other.map_err(io())?,
            }
        }
        Ok(())
    }
}

/// The folders of the table that stand after this one in its parent, as many as were asked for.
fn following(tree: &Tree, ino: u64, most: usize) -> Vec<u64> {
    let Ok(Folder { place: Some(place), .. }) = tree.folder(ino) else { return Vec::new() };
    let Ok(listing) = tree.listing(place.parent) else { return Vec::new() };
    let Some(shown) = listing.shown.get(&place.store) else { return Vec::new() };
    let after = (std::ops::Bound::Excluded(shown.as_slice()), std::ops::Bound::Unbounded);
    let folders = listing.entries.range::<[u8], _>(after).map(|(_, e)| e).filter(|e| e.folder && e.ino != 0);
    folders.map(|e| e.ino).take(most).collect()
}

/// The part of `groups` that is recorded and not on the list yet.
pub(crate) fn unlisted(state: &FileState, groups: &Range<u32>) -> Option<Range<u32>> {
    let count = state.recorded?;
    // A change past the recorded end changes the length: its last group stands for that.
    let start = groups.start.min(count.saturating_sub(1));
    let recorded = start..groups.end.min(count).max(start + 1);
    if state.listed.covers(&recorded) { None } else { Some(recorded) }
}
