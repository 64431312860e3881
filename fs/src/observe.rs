//! What an unlocked fs changed itself and has settled: durable first, then hashed. Records are made from this alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keymgr::ids::{Epoch, FileId, LineageId, Locator, NodeId, Root, StoreName};
use keymgr::root::{Groups, count, zero_locator};

use crate::content::{Kind, roots};
use crate::format::HEADER;
use crate::format::folder::header_name;
use crate::records::EntryId;
use crate::store::read_small;
use crate::volume::file::FileNode;
use crate::volume::tree::{Entry, Node, Place, ROOT, Tree};
use crate::volume::{Error, Inner, Result, Volume, attrs};

/// A file that somebody holds open for writing has settled when it was left alone for so long,
const IDLE: Duration = Duration::from_millis(1000);
/// Up to so many files and folders are made durable one by one, more of them by one syncfs.
const FEW: usize = 3;
/// How often what was to be made durable may be gone before it is left to the next observation.
const TRIES: usize = 20;
/// How often folders that changed while others were made durable are made so too, before it is done with all of them held.
const ROUNDS: usize = 3;

/// What changed and has settled. See [`Volume::observe`].
#[derive(Clone, Debug, Default)]
pub struct Observation {
    pub folders: Vec<ObservedFolder>,
    pub files: Vec<ObservedFile>,
    seen: Vec<Seen>,
}

/// One directory, completely. A folder that was removed is in no listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObservedFolder {
    /// The smallest header in the directory.
    pub node: NodeId,
    /// Further headers in the directory.
    pub also: Vec<NodeId>,
    /// Name, the folder whose name key opens it, what it is, its locator. A directory with several headers has an entry
    /// for each of them.
    pub entries: Vec<(StoreName, NodeId, EntryId, Locator)>,
    /// Sealed attributes of `node`.
    pub attrs: Vec<u8>,
    /// The header of `node` with its locator zeroed: whoever replicates the folder without a key writes it anew.
    pub header: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ObservedFile {
    pub file: FileId,
    pub kind: Kind,
    pub epoch: Epoch,
    pub lineage: LineageId,
    /// Of the ciphertext.
    pub length: u64,
    pub root: Root,
    pub groups: Groups,
    /// The groups that may differ from the record before.
    pub changed: Vec<u32>,
    /// The root of that record, if there is one.
    pub replaced: Option<Root>,
    /// Sealed attributes.
    pub attrs: Vec<u8>,
}

/// Which state of an inode was observed.
#[derive(Clone, Copy, Debug)]
struct Seen {
    ino: u64,
    changes: u64,
}

impl Observation {
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty() && self.files.is_empty()
    }
}

impl Volume {
    /// What changed and has settled, durable when this returns. What changes meanwhile is in the next observation. No step
    /// of sync may run between this and the records made from it.
    pub fn observe(&self) -> Result<Observation> {
        let inner = &self.0;
        let _gate = inner.gate.read();
        let dirty: Vec<u64> = inner.dirty.lock().iter().copied().collect();
        let mut out = Observation::default();
        if dirty.is_empty() {
            return Ok(out);
        }
        let mut tries = TRIES;
        let (files, mut folders) = loop {
            let settled = inner.settled(&dirty);
            match inner.make_durable(&settled.0, &settled.1) {
                // Removed or renamed meanwhile: what is left is looked at again.
                Err(e) if e.is_gone() && tries > 0 => tries -= 1,
                done => break done.map(|()| settled)?,
            }
        };
        let mut observed_files = Vec::new();
        for (file, changes) in files {
            match inner.observe_file(&file, changes) {
                Ok(Some(observed)) => observed_files.push(observed),
                Ok(None) => {}
                Err(e) => drop(inner.tell(&file, e)),
            }
        }
        let now: HashSet<FileId> = observed_files.iter().map(|(f, _)| f.file).collect();
        let mut tree = inner.tree.lock();
        // All folders are seen at one moment: what moved from one of them to one that changed only meanwhile would be in none,
        // and recorded as deleted.
        for round in 0.. {
            let late = inner.changed_since(&tree, &folders);
            if late.is_empty() {
                break;
            }
            if round < ROUNDS {
                drop(tree);
                let done = inner.make_durable(&Vec::new(), &late);
                tree = inner.tree.lock();
                match done {
                    Ok(()) => {}
                    // Removed or renamed meanwhile.
                    Err(e) if e.is_gone() => continue,
                    Err(e) => return Err(e),
                }
            } else {
                inner.sync_folders_now(&mut tree, &late)?;
            }
            let again: HashSet<u64> = late.iter().map(|(ino, _)| *ino).collect();
            folders.retain(|(ino, _)| !again.contains(ino));
            folders.extend(late);
        }
        // A name that a file still being written took over: the folder waits for it, and with it all others.
        let wait = folders.iter().any(|(ino, _)| inner.waits(&tree, *ino, &now));
        for (ino, changes) in folders.into_iter().filter(|_| !wait) {
            match inner.observe_folder(&mut tree, ino, &now) {
                Ok((observed, complete)) => {
                    out.folders.push(observed);
                    if complete {
                        out.seen.push(Seen { ino, changes });
                    }
                }
                Err(e) => tracing::warn!("a folder could not be observed: {e}"),
            }
        }
        // A new file is told of together with its name.
        let named: HashSet<EntryId> = out.folders.iter().flat_map(|f| f.entries.iter().map(|e| e.2)).collect();
        for (file, seen) in observed_files {
            if named.contains(&EntryId::File(file.file)) || inner.records.file(file.file).is_some() {
                out.files.push(file);
                out.seen.push(seen);
            } else if !wait {
                // Its folder has to tell of it, though nothing changed there: next time.
                let Ok(entry) = tree.file(seen.ino) else { continue };
                let places = entry.places.clone();
                for place in places {
                    inner.intend_folders(&mut tree, &[place.parent])?;
                    inner.touch_folder(&mut tree, place.parent)?;
                }
            }
        }
        Ok(out)
    }

    /// The records made from an observation are durable.
    pub fn recorded(&self, o: &Observation) {
        let inner = &self.0;
        let mut tree = inner.tree.lock();
        for seen in &o.seen {
            let clean = match tree.nodes.get_mut(&seen.ino) {
                Some(Node::Folder(folder)) => {
                    folder.dirty = folder.changes != seen.changes;
                    !folder.dirty
                }
                Some(Node::File(file)) => {
                    let mut state = file.file.state.write();
                    state.observing = None;
                    state.dirty = state.changes != seen.changes;
                    if !state.dirty {
                        inner.unkeep(&mut state);
                    }
                    !state.dirty
                }
                None => true,
            };
            if clean {
                inner.dirty.lock().remove(&seen.ino);
                tree.drop_unused(seen.ino);
            }
        }
        if inner.dirty.lock().is_empty() {
            inner.session.all_recorded();
        }
    }
}

type Changed<T> = Vec<(T, u64)>;

impl Inner {
    /// Of what is dirty, what has settled, with how often it had changed then.
    fn settled(&self, dirty: &[u64]) -> (Changed<Arc<FileNode>>, Changed<u64>) {
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        let mut tree = self.tree.lock();
        for ino in dirty {
            let nameless = tree.file(*ino).is_ok_and(|f| f.places.is_empty());
            if nameless && self.find_file(&mut tree, *ino).is_err() {
                self.dirty.lock().remove(ino);
                continue;
            }
            match tree.nodes.get(ino) {
                Some(Node::Folder(folder)) if *ino == ROOT || folder.place.is_some() => {
                    folders.push((*ino, folder.changes));
                }
                Some(Node::File(file)) => {
                    let state = file.file.state.read();
                    let idle = state.changed_at.is_none_or(|at| at.elapsed() >= IDLE);
                    if state.dirty
                        && !file.places.is_empty()
                        && (state.writers == 0 || state.settled == state.changes || idle)
                    {
                        files.push((file.file.clone(), state.changes));
                    }
                }
                _ => {}
            }
        }
        (files, folders)
    }

    /// Folders that differ from their records and are not in `seen` as they are now.
    fn changed_since(&self, tree: &Tree, seen: &Changed<u64>) -> Changed<u64> {
        let seen: HashMap<u64, u64> = seen.iter().copied().collect();
        let dirty = self.dirty.lock();
        let late = dirty.iter().filter_map(|ino| match tree.nodes.get(ino) {
            Some(Node::Folder(folder)) if *ino == ROOT || folder.place.is_some() => Some((*ino, folder.changes)),
            _ => None,
        });
        late.filter(|(ino, changes)| seen.get(ino) != Some(changes)).collect()
    }

    fn make_durable(&self, files: &Changed<Arc<FileNode>>, folders: &Changed<u64>) -> Result<()> {
        // Taken before, so that what moves meanwhile is there the next time.
        let moved: Vec<(u64, BTreeSet<u64>)> = {
            let mut tree = self.tree.lock();
            let mut take = |ino: u64| Some((ino, std::mem::take(&mut tree.folder_mut(ino).ok()?.moved)));
            folders.iter().filter_map(|(ino, _)| take(*ino)).filter(|(_, moved)| !moved.is_empty()).collect()
        };
        let done = self.make_all_durable(files, folders, &moved);
        if done.is_err() {
            let mut tree = self.tree.lock();
            for (ino, inside) in moved {
                if let Ok(folder) = tree.folder_mut(ino) {
                    folder.moved.extend(inside);
                }
            }
        }
        done
    }

    fn make_all_durable(
        &self,
        files: &Changed<Arc<FileNode>>,
        folders: &Changed<u64>,
        moved: &[(u64, BTreeSet<u64>)],
    ) -> Result<()> {
        if files.len() + folders.len() + moved.iter().map(|(_, inside)| inside.len()).sum::<usize>() <= FEW {
            for ino in moved.iter().flat_map(|(_, inside)| inside) {
                self.sync_locator(*ino)?;
            }
            for (file, _) in files {
                self.sync_file(file.ino, false)?;
            }
            let folders: Vec<u64> = {
                let tree = self.tree.lock();
                let is_new =
                    |ino: &u64| tree.folder(*ino).is_ok_and(|f| f.new_header || tree.seq() > tree.synced.max(f.synced));
                folders.iter().map(|(ino, _)| *ino).filter(is_new).collect()
            };
            return self.sync_folders(&folders);
        }
        let seq = self.tree.lock().seq();
        self.store.sync_all().map_err(Error::io(Path::new("")))?;
        let mut tree = self.tree.lock();
        tree.synced = tree.synced.max(seq);
        for (ino, _) in folders {
            if let Ok(folder) = tree.folder_mut(*ino) {
                folder.new_header = false;
            }
        }
        for (file, changes) in files {
            let mut state = file.state.write();
            if state.changes == *changes {
                state.unsynced = false;
            }
        }
        Ok(())
    }

    /// `None`: it changed after it was made durable, or it is gone.
    fn observe_file(&self, file: &FileNode, changes: u64) -> Result<Option<(ObservedFile, Seen)>> {
        let (path, long_names) = {
            let tree = self.tree.lock();
            let Some(path) = tree.file_path(file.ino)? else { return Ok(None) };
            (path, self.long_names(&tree, &tree.file(file.ino)?.places))
        };
        let before = self.records.file(file.id);
        let replaced = before.as_ref().map(|r| r.root);
        let recorded = before.and_then(|r| r.groups).unwrap_or_default();
        let mut state = file.state.write();
        if state.changes != changes || state.damaged {
            return Ok(None);
        }
        self.read(file, &mut state, Some(&path))?;
        let disk = self.disk_of(&state, Some(&path))?;
        let mut changed = std::mem::take(&mut state.changed);
        if let Some(observing) = state.observing.take() {
            changed.merge(observing);
        }
        if let Some(content) = &mut state.content {
            changed.merge(content.take_changed());
        }
        // Until it is recorded; an error below loses nothing.
        state.observing = Some(changed.clone());
        let (groups, list) = roots::update(disk.as_ref(), &recorded, &changed).map_err(Error::io(&path))?;
        self.settle_time(&mut state, disk.as_ref()).map_err(Error::io(&path))?;
        let stat = attrs::stat(disk.as_ref()).map_err(Error::io(&path))?;
        state.stat = Some(stat);
        let xattrs = self.file_xattrs(file, &mut state, Some(&path))?.clone();
        let attrs = attrs::collect(&stat, file.kind == Kind::Symlink, &xattrs, long_names)
            .seal(&self.keys(), file.id.as_bytes())
            .map_err(Error::refused(&path))?;
        let length = stat.length;
        // From now on its changes are listed first, as those of what is recorded: the record of this may come after them.
        // What is on the list already stays there until the session ends.
        state.recorded = u32::try_from(count(length)).ok();
        let observed = ObservedFile {
            file: file.id,
            kind: file.kind,
            epoch: state.epoch,
            lineage: state.lineage,
            length,
            root: groups.root(),
            groups,
            changed: list,
            replaced,
            attrs,
        };
        let seen = Seen { ino: file.ino, changes };
        Ok(Some((observed, seen)))
    }

    /// Whether an entry's file was never recorded and is not in this observation either.
    fn is_unpublished(&self, tree: &Tree, entry: &Entry, now: &HashSet<FileId>) -> bool {
        // Before mending has ended there may be files that nobody recorded yet and nobody changed since.
        let unmended = self.session.unmended();
        let id = match (self.file_of(tree, entry), entry.id()) {
            (Some(file), _) if unmended || file.state.read().dirty => file.id,
            (None, Some(EntryId::File(id))) if unmended => id,
            _ => return false,
        };
        !now.contains(&id) && self.records.file(id).is_none()
    }

    fn waits(&self, tree: &Tree, ino: u64, now: &HashSet<FileId>) -> bool {
        let (Ok(listing), Ok(node)) = (tree.listing(ino), tree.node_of(ino)) else { return false };
        let mut unpublished = listing.entries.values().filter(|e| self.is_unpublished(tree, e, now)).peekable();
        if unpublished.peek().is_none() {
            return false;
        }
        let recorded = self.records.folder(node).unwrap_or_default();
        unpublished.any(|e| recorded.iter().any(|(store, id)| *store == e.store && !e.ids.contains(id)))
    }

    /// `false`: something in it is not settled and was left out.
    fn observe_folder(&self, tree: &mut Tree, ino: u64, now: &HashSet<FileId>) -> Result<(ObservedFolder, bool)> {
        self.load_listing(tree, ino)?;
        let unknown: Vec<Vec<u8>> =
            tree.listing(ino)?.entries.iter().filter(|(_, e)| e.ids.is_empty()).map(|(n, _)| n.clone()).collect();
        for shown in unknown {
            // What is damaged and was never recorded stays out.
            let _ = self.bind(tree, ino, &shown);
        }
        let keys = self.keys();
        let (node, also) = {
            let mut nodes = tree.folder(ino)?.headers.iter().map(|(node, _)| *node);
            (nodes.next().ok_or(Error::Errno(libc::EIO))?, nodes.collect())
        };
        tree.folder_mut(ino)?.observed = true;
        let unpublished = |e: &Entry| self.is_unpublished(tree, e, now);
        let listing = tree.listing(ino)?;
        if listing.entries.values().any(unpublished) || !listing.hidden.is_empty() && self.session.unmended() {
            // What will be recorded is not what is there.
            self.intend_folders(tree, &[ino])?;
        }
        let mut complete = true;
        let listing = tree.listing(ino)?;
        let mut entries = Vec::with_capacity(listing.entries.len());
        for entry in listing.entries.values() {
            if self.is_unpublished(tree, entry, now) {
                complete = false;
                continue;
            }
            for id in &entry.ids {
                if let Some(at) = self.locator_of(entry, id) {
                    entries.push((entry.store.clone(), entry.under, *id, at));
                }
            }
        }
        entries.extend(listing.missing.iter().map(|m| (m.store.clone(), m.under, m.id, m.locator)));
        entries.sort_unstable_by(|a, b| (&a.0, &a.2).cmp(&(&b.0, &b.2)));
        let path = tree.folder_path(ino)?;
        let place: Vec<Place> = tree.folder(ino)?.place.iter().cloned().collect();
        let long_names = self.long_names(tree, &place);
        let stat = self.folder_stat(tree, ino)?;
        let xattrs = self.folder_xattrs(tree, ino)?;
        let attrs = attrs::collect(&stat, false, xattrs, long_names)
            .seal(&keys, node.as_bytes())
            .map_err(Error::refused(&path))?;
        let header = path.join(header_name(&node));
        let mut header = read_small(self.store.as_ref(), &header, HEADER).map_err(Error::io(&header))?;
        zero_locator(&mut header);
        Ok((ObservedFolder { node, also, entries, attrs, header }, complete))
    }

    /// What the sidecars of an inode's names hold.
    fn long_names(&self, tree: &Tree, places: &[Place]) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        for place in places.iter().filter(|p| crate::format::name::is_long(&p.store)) {
            let (Ok(folder), Ok(listing)) = (tree.folder(place.parent), tree.listing(place.parent)) else { continue };
            let Some(entry) = listing.by_store(&place.store) else { continue };
            for (_, names) in folder.headers.iter().filter(|(node, _)| *node == entry.under) {
                let forms = names.seal_all(&entry.plain).into_iter().flatten();
                out.extend(forms.filter(|s| s.name == entry.store).filter_map(|s| s.sidecar));
            }
        }
        out
    }
}
