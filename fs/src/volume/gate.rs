//! The gate: while it is held no file operation runs, so that what came from peers can be put into the tree. And what
//! only keys can do for sync: attributes, names, copies.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::ids::{FileId, Locator, NodeId, StoreName};
use parking_lot::Mutex;

use super::error::{Error, Result};
use super::file::FileNode;
use super::tree::{FileRef, Listing, Node, Place, ROOT, Tree, truncate};
use super::{Inner, Volume, attrs};
use crate::content::Content;
use crate::format::attrs::Attrs;
use crate::format::folder;
use crate::format::{locator, name};
use crate::records::EntryId;
use crate::store::read_small;

/// Up to so many entries of a folder are looked at anew, whatever the disk's numbers say.
const SMALL: usize = 64;

/// Held: no file operation runs.
pub struct Gate<'a> {
    inner: &'a Inner,
    told: Mutex<Told>,
}

/// What the kernel is told when the gate opens: it may have to wait for an operation that waits for the gate.
#[derive(Default)]
struct Told {
    names: HashMap<u64, Vec<Vec<u8>>>,
    content: Vec<u64>,
}

impl Volume {
    /// Runs `f` while no file operation runs. The caller must hold nothing that a file operation waits for, above all
    /// nothing that [`crate::records::Records`] is answered from: take that inside.
    pub fn gate<T>(&self, f: impl FnOnce(&Gate) -> T) -> T {
        let inner = &self.0;
        let held = inner.gate.write();
        let gate = Gate { inner, told: Mutex::default() };
        let out = f(&gate);
        let told = gate.told.into_inner();
        drop(held);
        let notifier = inner.notifier.lock().clone();
        if let Some(notifier) = notifier {
            for (folder, names) in told.names {
                notifier.forget_names(folder, names);
            }
            for ino in told.content {
                notifier.forget_content(ino);
            }
        }
        out
    }

    /// The inode of a folder and where it lies in the store.
    pub fn path_of(&self, node: NodeId) -> Option<(u64, PathBuf)> {
        let mut tree = self.0.tree.lock();
        let ino = self.0.find_folder(&mut tree, node).ok()?;
        Some((ino, tree.folder_path(ino).ok()?))
    }

    /// An entry's name and locator sealed for another folder: `to` takes over what `from` has as `name`.
    pub fn reseal(&self, from: NodeId, name: &StoreName, to: NodeId, id: EntryId) -> Result<(StoreName, Locator)> {
        let inner = &self.0;
        let plain = inner.plain_name(from, name)?;
        inner.seal_name(to, &plain, &id)
    }

    /// The name that the loser of a conflict gets: "name (conflict, LABEL).ext".
    pub fn conflict_name(
        &self,
        parent: NodeId,
        name: &StoreName,
        id: EntryId,
        label: &str,
    ) -> Result<(StoreName, Locator)> {
        let inner = &self.0;
        let plain = inner.plain_name(parent, name)?;
        inner.seal_name(parent, &with_label(&plain, label), &id)
    }

    /// Attributes sealed for one file or folder, sealed for another.
    pub fn readdress(&self, sealed: &[u8], from: EntryId, to: EntryId) -> Result<Vec<u8>> {
        let (keys, nowhere) = (self.0.keys(), Path::new(""));
        let attrs = Attrs::open(&keys, from.as_bytes(), sealed).map_err(Error::refused(nowhere))?;
        attrs.seal(&keys, to.as_bytes()).map_err(Error::refused(nowhere))
    }

    /// The day (UTC) of the modification time in sealed attributes, as 2026-11-28.
    pub fn day_of(&self, sealed: &[u8], id: EntryId) -> Result<String> {
        let attrs = Attrs::open(&self.0.keys(), id.as_bytes(), sealed).map_err(Error::refused(Path::new("")))?;
        Ok(day(attrs.mtime.div_euclid(86_400_000_000_000) as i64))
    }

    /// Makes `to` a copy of the ciphertext at `body` with another id: the same bytes on every device. Durable. Both may be
    /// absolute, or relative to the store.
    pub fn copy_as(&self, body: &Path, to: &Path, file: FileId) -> Result<()> {
        let inner = &self.0;
        let (body, to) = (inner.inside(body), inner.inside(to));
        let from = inner.store.open(&body, false).map_err(Error::io(&body))?;
        let target = inner.store.create(&to, 0o600).map_err(Error::io(&to))?;
        crate::content::copy_as(from.as_ref(), target.as_ref(), &to, &inner.keys(), file)?;
        Ok(())
    }
}

impl Gate<'_> {
    /// Whether a program has the file open for writing, or it changed and that is not recorded yet.
    pub fn busy(&self, file: FileId) -> bool {
        let tree = self.inner.tree.lock();
        let Some(Node::File(file)) = tree.files.get(&file).and_then(|ino| tree.nodes.get(ino)) else { return false };
        let state = file.file.state.read();
        state.writers > 0 || state.dirty
    }

    /// Whether a folder's entries or attributes changed and that is not recorded yet.
    pub fn busy_folder(&self, node: NodeId) -> bool {
        let tree = self.inner.tree.lock();
        let folder = tree.folders.get(&node).and_then(|ino| tree.folder(*ino).ok());
        folder.is_some_and(|folder| folder.dirty)
    }

    /// Writes what a name needs beside it that is too long for a ciphertext's name; `path` has that name, or gets it next.
    /// Whether it is such a name.
    pub fn name(&self, path: &Path, id: EntryId, sealed: &[u8]) -> Result<bool> {
        let path = self.inner.inside(path);
        let store = path.file_name().and_then(|n| n.to_str()).and_then(|n| StoreName::parse(n).ok());
        let Some(store) = store.filter(name::is_long) else { return Ok(false) };
        let attrs = Attrs::open(&self.inner.keys(), id.as_bytes(), sealed).map_err(Error::refused(&path))?;
        if let Some(content) = attrs.long_names.iter().find(|content| name::fits_sidecar(&store, content)) {
            self.inner.write_sidecar(path.parent().unwrap_or(Path::new("")), &store, content)?;
        }
        Ok(true)
    }

    /// Applies sealed attributes to a ciphertext file or folder. What it shows then comes back, sealed: it is something
    /// else where the disk or our rights cannot do it.
    pub fn dress(&self, path: &Path, id: EntryId, sealed: &[u8]) -> Result<Vec<u8>> {
        let inner = self.inner;
        let path = inner.inside(path);
        let keys = inner.keys();
        let is_folder = matches!(id, EntryId::Folder(_));
        let wanted = Attrs::open(&keys, id.as_bytes(), sealed).map_err(Error::refused(&path))?;
        let disk = match is_folder {
            true => inner.store.open_folder(&path),
            false => inner.store.open(&path, true).or_else(|_| inner.store.open(&path, false)),
        }
        .map_err(Error::io(&path))?;
        let io = || Error::io(&path);
        let there = attrs::read_xattrs(disk.as_ref(), &keys, id.as_bytes()).map_err(io())?;
        for name in there.keys().filter(|name| !wanted.xattrs.iter().any(|(n, _)| n == *name)) {
            attrs::write_xattr(disk.as_ref(), &keys, id.as_bytes(), name, None).map_err(io())?;
        }
        for (name, value) in &wanted.xattrs {
            if there.get(name) != Some(value) {
                // No room for it, or none at all: it is then not shown.
                let _ = attrs::write_xattr(disk.as_ref(), &keys, id.as_bytes(), name, Some(value));
            }
        }
        let now = attrs::stat(disk.as_ref()).map_err(io())?;
        if nix::unistd::geteuid().is_root() && (now.uid, now.gid) != (wanted.uid, wanted.gid) {
            let _ = disk.set_owner(Some(wanted.uid), Some(wanted.gid));
        }
        // Nobody gives this machine a setuid program.
        let mode = wanted.mode & if is_folder { 0o3777 } else { 0o1777 };
        let symlink = !is_folder && wanted.mode == 0o777 && now.mode == 0o600 && self.is_symlink(&path);
        if !symlink {
            attrs::set_mode(disk.as_ref(), mode, is_folder).map_err(io())?;
        }
        disk.set_times(None, Some(wanted.mtime)).map_err(io())?;
        let stat = attrs::stat(disk.as_ref()).map_err(io())?;
        let xattrs = attrs::read_xattrs(disk.as_ref(), &keys, id.as_bytes()).map_err(io())?;
        attrs::collect(&stat, symlink, &xattrs, wanted.long_names)
            .seal(&keys, id.as_bytes())
            .map_err(Error::refused(&path))
    }

    /// These folders' entries and these files' contents or attributes were changed, by whoever holds the gate. The table
    /// reads them again, and the kernel drops what it knows once the gate opens.
    pub fn touched(&self, folders: &[NodeId], files: &[FileId]) {
        let inner = self.inner;
        let mut told = self.told.lock();
        inner.session.set_checked(folders.iter().copied());
        let mut tree = inner.tree.lock();
        let tree = &mut *tree;
        inner.note_watched(files.iter().filter_map(|file| tree.files.get(file).copied()));
        let mut inos: Vec<u64> = folders.iter().filter_map(|node| tree.folders.get(node).copied()).collect();
        inos.sort_unstable();
        inos.dedup();
        inner.note_watched(inos.iter().copied());
        // First all names go, then all come: what moved from one to the other keeps its inode.
        let mut before: Vec<(u64, Listing)> = Vec::new();
        let mut lost: Vec<u64> = Vec::new();
        for ino in inos {
            let Ok(folder) = tree.folder_mut(ino) else { continue };
            (folder.stat, folder.xattrs) = (None, None);
            folder.unsynced = true;
            told.content.push(ino);
            if let Some(listing) = folder.listing.take() {
                for entry in listing.entries.values().filter(|e| e.ino != 0) {
                    tree.detach(entry.ino, &Place { parent: ino, store: entry.store.clone() });
                    lost.push(entry.ino);
                }
                before.push((ino, listing));
            }
        }
        for (ino, old) in &before {
            if let Err(e) = inner.reload(tree, *ino, old, files) {
                tracing::warn!("a folder could not be read again: {e}");
            }
        }
        for (ino, old) in before {
            // Renamed or removed with its parent: then the kernel forgets it with that.
            let now = tree.listing(ino).ok().map(|l| &l.entries);
            let names = old.entries.keys().chain(now.into_iter().flat_map(|n| n.keys()));
            let bound = |name: &Vec<u8>, all: Option<&std::collections::BTreeMap<Vec<u8>, _>>| {
                all.and_then(|all| all.get(name)).map(|e: &super::tree::Entry| e.ino)
            };
            let mut changed: Vec<Vec<u8>> =
                names.filter(|name| bound(name, Some(&old.entries)) != bound(name, now)).cloned().collect();
            changed.sort_unstable();
            changed.dedup();
            told.names.entry(ino).or_default().extend(changed);
        }
        for file in files {
            inner.renew_file(tree, file, &mut told);
        }
        for ino in lost {
            match tree.nodes.get(&ino) {
                // What was replaced stays readable for whoever has it open.
                Some(Node::File(entry)) if entry.places.is_empty() => {
                    inner.lost_name(entry);
                    told.content.push(ino);
                    tree.drop_unused(ino);
                }
                Some(Node::Folder(folder)) if folder.place.is_none() => {
                    inner.dirty.lock().remove(&ino);
                    tree.folders.retain(|_, at| *at != ino);
                }
                _ => {}
            }
        }
    }

    /// The kernel forgets what it knows of a name, once the gate opens.
    pub(super) fn tell_name(&self, folder: u64, name: Vec<u8>) {
        self.told.lock().names.entry(folder).or_default().push(name);
    }

    fn is_symlink(&self, path: &Path) -> bool {
        let mut bytes = [0; crate::format::HEADER];
        let read = self.inner.store.open(path, false).and_then(|f| f.read_at(&mut bytes, 0));
        read.is_ok()
            && crate::format::header::Header::open(&self.inner.keys(), &bytes)
                .is_ok_and(|(header, _)| header.kind == crate::content::Kind::Symlink)
    }
}

impl Inner {
    /// A path as the store knows it.
    pub fn inside(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }

    /// A file's content or attributes were changed by sync. The kernel, which caches writes, takes no size or time from us
    /// for an inode that it knows: so the file gets another one, as a file that is saved by rename does. Who has it open
    /// keeps what was there.
    fn renew_file(&self, tree: &mut Tree, id: &FileId, told: &mut Told) {
        let Some(old) = tree.files.get(id).copied() else { return };
        let new = tree.new_ino();
        let Some(Node::File(entry)) = tree.nodes.get_mut(&old) else { return };
        if entry.places.is_empty() {
            return;
        }
        let mut state = entry.file.state.write();
        if state.dirty || state.writers > 0 {
            // Our own work, which sync should have asked about: it stays.
            state.stat = None;
            state.xattrs = None;
            return;
        }
        let fresh = FileNode::new(new, *id, entry.file.kind, state.epoch, state.lineage);
        fresh.state.write().unread = state.unread;
        self.unkeep(&mut state);
        state.unlinked = true;
        state.stat = None;
        if state.opens == 0 {
            state.content = None;
        } else if let Some(content) = &mut state.content
            && self.is_in_place(content)
        {
            // Patched where it lies: the old bytes are no more.
            if content.reload(&self.keys()).is_err() {
                state.damaged = true;
            }
            told.content.push(old);
        }
        drop(state);
        let places = std::mem::take(&mut entry.places);
        tree.nodes.insert(new, Node::File(FileRef { file: Arc::new(fresh), lookups: 0, places: Vec::new() }));
        tree.files.insert(*id, new);
        for place in places {
            if let Ok(listing) = tree.listing_mut(place.parent) {
                told.names.entry(place.parent).or_default().extend(listing.shown.get(&place.store).cloned());
                if let Some(entry) = listing.by_store_mut(&place.store) {
                    entry.ino = new;
                }
            }
            tree.attach(new, place);
        }
        tree.drop_unused(old);
    }

    /// Whether what is open is still what lies at its path.
    fn is_in_place(&self, content: &Content) -> bool {
        let (open, there) = (content.file().stat(), self.store.stat(content.path()));
        open.is_ok_and(|open| there.is_ok_and(|there| open.ino == there.ino))
    }

    /// Reads a folder's headers and entries anew. What is the same file or folder as before, as the disk's numbers say,
    /// keeps its inode; all others that were in the table are looked at.
    fn reload(&self, tree: &mut Tree, ino: u64, old: &Listing, files: &[FileId]) -> Result<()> {
        if ino != ROOT {
            if tree.folder(ino)?.place.is_none() {
                return Ok(()); // Removed, or read with its new parent.
            }
            let path = tree.folder_path(ino)?;
            let fresh = self.read_folder(&path, None)?;
            tree.folders.retain(|_, at| *at != ino);
            tree.folders.extend(fresh.headers.iter().map(|(node, _)| (*node, ino)));
            let ids = fresh.headers.iter().map(|(node, _)| EntryId::Folder(*node)).collect();
            let folder = tree.folder_mut(ino)?;
            folder.headers = fresh.headers;
            if let Some(place) = folder.place.clone()
                && let Ok(listing) = tree.listing_mut(place.parent)
                && let Some(entry) = listing.by_store_mut(&place.store)
            {
                entry.ids = ids;
            }
        }
        self.load_listing(tree, ino)?;
        // The disk gives a number again once its file is gone: where it costs little nothing is taken for granted.
        let small = tree.listing(ino)?.entries.len() <= SMALL;
        let is_same = |was: &super::tree::Entry, now: &super::tree::Entry| {
            let touched = was.ids.iter().any(|id| matches!(id, EntryId::File(file) if files.contains(file)));
            !small && !touched && was.disk != 0 && was.disk == now.disk && was.folder == now.folder
        };
        let headless = |was: &super::tree::Entry| tree.folder(was.ino).is_ok_and(|folder| folder.headers.is_empty());
        let broken: Vec<StoreName> =
            old.entries.values().filter(|e| e.folder && headless(e)).map(|e| e.store.clone()).collect();
        let mut same = Vec::new();
        let mut other = Vec::new();
        for (shown, entry) in &mut tree.listing_mut(ino)?.entries {
            match old.by_store(&entry.store) {
                Some(was) if is_same(was, entry) && !broken.contains(&was.store) => {
                    (entry.ids, entry.ino, entry.seq) = (was.ids.clone(), was.ino, was.seq);
                    same.push((was.ino, entry.store.clone()));
                }
                _ => other.push(shown.clone()),
            }
        }
        for (bound, store) in same {
            tree.attach(bound, Place { parent: ino, store });
        }
        for shown in other {
            // Damage shows when it is looked at.
            let _ = self.bind(tree, ino, &shown);
        }
        Ok(())
    }

    /// The folder of a header: from the table, or found by walking.
    pub fn find_folder(&self, tree: &mut Tree, node: NodeId) -> Result<u64> {
        if let Some(ino) = tree.folders.get(&node) {
            return Ok(*ino);
        }
        let mut next = vec![ROOT];
        while let Some(ino) = next.pop() {
            self.load_listing(tree, ino)?;
            let folders: Vec<Vec<u8>> =
                tree.listing(ino)?.entries.iter().filter(|(_, e)| e.folder).map(|(n, _)| n.clone()).collect();
            for shown in folders {
                if let Ok(child) = self.bind(tree, ino, &shown) {
                    next.push(child);
                }
            }
            if let Some(ino) = tree.folders.get(&node) {
                return Ok(*ino);
            }
        }
        Err(Error::Errno(libc::ENOENT))
    }

    /// Looks for a name of a file of which the table knows none any more, though it has some.
    pub fn find_file(&self, tree: &mut Tree, ino: u64) -> Result<()> {
        let wanted = EntryId::File(tree.file(ino)?.file.id);
        let mut next = vec![ROOT];
        while let Some(folder) = next.pop() {
            self.load_listing(tree, folder)?;
            let maybe =
                |e: &super::tree::Entry| e.folder || e.ino == 0 && (e.ids.is_empty() || e.ids.contains(&wanted));
            let names: Vec<Vec<u8>> =
                tree.listing(folder)?.entries.iter().filter(|(_, e)| maybe(e)).map(|(n, _)| n.clone()).collect();
            for shown in names {
                let Ok(found) = self.bind(tree, folder, &shown) else { continue };
                if found == ino {
                    return Ok(());
                }
                if matches!(tree.nodes.get(&found), Some(Node::Folder(_))) {
                    next.push(found);
                }
            }
        }
        Err(Error::Errno(libc::ENOENT))
    }

    fn plain_name(&self, folder_node: NodeId, store: &StoreName) -> Result<Vec<u8>> {
        let names = name::Names::new(&self.keys(), &folder_node);
        let at = Path::new(store.as_str());
        if !name::is_long(store) {
            return Ok(names.open(store, None).map_err(Error::refused(at))?.0);
        }
        let mut tree = self.tree.lock();
        let ino = self.find_folder(&mut tree, folder_node)?;
        let path = tree.folder_path(ino)?.join(folder::sidecar_name(store));
        let sidecar = read_small(self.store.as_ref(), &path, 512).map_err(Error::io(&path))?;
        Ok(names.open(store, Some(&sidecar)).map_err(Error::refused(at))?.0)
    }

    /// A name for a folder; the sidecar of a long one is written into it.
    fn seal_name(&self, to: NodeId, plain: &[u8], id: &EntryId) -> Result<(StoreName, Locator)> {
        let keys = self.keys();
        let at = Path::new("");
        let sealed = name::Names::new(&keys, &to).seal(plain).map_err(Error::refused(at))?;
        if let Some(sidecar) = &sealed.sidecar {
            let mut tree = self.tree.lock();
            let ino = self.find_folder(&mut tree, to)?;
            let path = tree.folder_path(ino)?;
            self.write_sidecar(&path, &sealed.name, sidecar)?;
        }
        let locator = locator::locate(&keys, keys.current(), &to, plain, id.as_bytes());
        Ok((sealed.name, locator.ok_or(Error::Errno(libc::EACCES))?))
    }
}

/// "name (conflict, LABEL).ext", at most as long as a name may be.
/// The civil date of a day since 1970 (H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days).
fn day(days: i64) -> String {
    let z = days.saturating_add(719_468);
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * day_of_year + 2) / 153;
    let (d, m) = (day_of_year - (153 * march + 2) / 5 + 1, if march < 10 { march + 3 } else { march - 9 });
    let y = era * 400 + year_of_era + i64::from(m <= 2);
    format!("{y:04}-{m:02}-{d:02}")
}

fn with_label(plain: &[u8], label: &str) -> Vec<u8> {
    let mut label: Vec<u8> = label.bytes().filter(|b| *b != b'/' && *b != 0).collect();
    truncate(&mut label, 100);
    let dot = plain.iter().rposition(|b| *b == b'.').filter(|dot| *dot > 0 && plain.len() - dot <= 16);
    let (stem, ext) = plain.split_at(dot.unwrap_or(plain.len()));
    let mark = [b" (conflict, ", label.as_slice(), b")"].concat();
    let mut out = stem.to_vec();
    truncate(&mut out, name::MAX - mark.len() - ext.len());
    out.extend_from_slice(&mark);
    out.extend_from_slice(ext);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, date) in [(0, "1970-01-01"), (-1, "1969-12-31"), (11_016, "2000-02-29"), (20_785, "2026-11-28")] {
            assert_eq!(day(days), date);
        }
    }

    #[test]
    fn a_conflicts_name_keeps_the_extension_and_fits() {
        let text = |plain: &str| String::from_utf8(with_label(plain.as_bytes(), "laptop, 2026-11-28")).unwrap();
        assert_eq!(text("a.txt"), "a (conflict, laptop, 2026-11-28).txt");
        assert_eq!(text(".profile"), ".profile (conflict, laptop, 2026-11-28)");
        assert_eq!(text("Makefile"), "Makefile (conflict, laptop, 2026-11-28)");
        let long = text(&format!("{}.tar", "ß".repeat(126)));
        assert!(long.len() <= 255 && long.ends_with(").tar"));
        assert_eq!(with_label(b"x", "a/b\0c"), b"x (conflict, abc)");
    }
}
