//! A folder becomes a share of its own: its tree is made anew aside, under the new share's keys, while programs go on; what
//! they change meanwhile is made again; then, with the gate held, a junction takes the folder's place in one step.
//!
//! Names, headers and attributes are sealed anew. Pages are not: their keys go into the headers ([`Header::former`]), and
//! file ids, lineages and node ids stay, so that whoever holds a file fetches its first group at the most.
//!
//! [`Header::former`]: crate::format::header::Header::former

mod body;
mod commit;
#[cfg(test)]
mod crash;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::ids::{FileId, Locator, NodeId, Root};
use keymgr::share::ShareKeys;

use super::error::{Error, Result};
use super::file::FileNode;
use super::tree::{Node, ROOT, TREE};
use super::{Inner, Volume, attrs};
use crate::format::folder::{self, FolderHeader};
use crate::format::header::AT_LOCATOR;
use crate::format::locator::{self, NOWHERE};
use crate::format::name::Names;
use crate::store::{Disk, File, Stat, Store};

pub use commit::{Carved, settle_shares};

/// How often what changed meanwhile is made again before the gate is held for the rest.
const ROUNDS: usize = 8;

/// A share that is being made of a folder. Dropped without [`Carving::commit`] it deletes what it made, as after a crash
/// [`settle_shares`] does.
pub struct Carving {
    volume: Volume,
    folder: u64,
    /// The store that `at` lies in; not the volume's own, where that is a share within another.
    home: Arc<dyn Store>,
    at: PathBuf,
    keys: ShareKeys,
    folders: HashMap<u64, MadeFolder>,
    files: HashMap<u64, MadeFile>,
}

/// A folder that was made, by the inode of the one that it was made of.
struct MadeFolder {
    path: PathBuf,
    /// By the names that they are shown as.
    entries: BTreeMap<Vec<u8>, u64>,
}

/// A file that was made.
struct MadeFile {
    places: Vec<Spot>,
    /// How many names the one has that it was made of.
    links: u64,
    /// It has nothing in common with that one.
    detached: bool,
    body: CarvedFile,
}

/// Where a name of a file was made.
#[derive(Clone)]
struct Spot {
    path: PathBuf,
    parent: NodeId,
    shown: Vec<u8>,
}

/// What became of a file's ciphertext.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CarvedFile {
    pub file: FileId,
    /// Of its record, if there is one.
    pub before: Option<Root>,
    pub root: Root,
    pub length: u64,
    /// The groups that may differ from `before`.
    pub changed: Vec<u32>,
}

/// A folder that a walk came through.
struct Passed {
    ino: u64,
    path: PathBuf,
    node: NodeId,
    stat: Stat,
    touched: bool,
}

/// An entry as it is now.
struct Now {
    shown: Vec<u8>,
    ino: u64,
    /// None: a folder.
    file: Option<Arc<FileNode>>,
}

/// A folder as it is now.
struct Listed {
    nodes: Vec<NodeId>,
    stat: Stat,
    entries: Vec<Now>,
}

/// What a walk did.
#[derive(Default)]
struct Walk {
    /// Something was made or removed.
    worked: bool,
    /// Something went away under our hands: another walk is due.
    again: bool,
}

impl Volume {
    /// Makes the tree of a new share, whose keys are `keys`, of a folder: in `into`, a folder beside that of the share to
    /// come, which may hold what an earlier attempt left. `each` hears how many files were made, and stops it by `false`: EINTR.
    pub fn carve(
        &self,
        folder: u64,
        into: &Path,
        keys: &ShareKeys,
        each: impl FnMut(usize) -> bool,
    ) -> Result<Carving> {
        let (home, name) = (into.parent().unwrap_or(Path::new("")), into.file_name());
        let name = name.ok_or(Error::Errno(libc::EINVAL))?;
        let disk = Arc::new(Disk::open(home).map_err(Error::io(home))?);
        self.carve_on(folder, disk, Path::new(name), keys, each)
    }

    pub(super) fn carve_on(
        &self,
        folder: u64,
        home: Arc<dyn Store>,
        at: &Path,
        keys: &ShareKeys,
        mut each: impl FnMut(usize) -> bool,
    ) -> Result<Carving> {
        let inner = &self.0;
        inner.writable()?;
        if inner.session.unmended() {
            return Err(Error::Busy { path: PathBuf::new(), what: "the last session is still being mended" });
        }
        {
            let mut tree = inner.tree.lock();
            tree.no_junction(folder)?;
            if folder == ROOT || tree.folder(folder)?.place.is_none() {
                return Err(Error::Errno(libc::EINVAL));
            }
            let mut watch = inner.watch.lock();
            if watch.is_some() {
                return Err(Error::Busy { path: PathBuf::new(), what: "another folder is being made a share" });
            }
            *watch = Some(Default::default());
            // So that each file keeps its inode number till the end.
            tree.pinned = true;
            tree.gone.clear();
        }
        let (folders, files) = (HashMap::new(), HashMap::new());
        let (volume, at, keys) = (self.clone(), at.to_owned(), keys.clone());
        let mut carving = Carving { volume, folder, home, at, keys, folders, files };
        carving.begin()?;
        for _ in 0..ROUNDS {
            let walk = carving.walk(false, &mut each)?;
            if !walk.again && !walk.worked {
                break;
            }
        }
        Ok(carving)
    }
}

impl Carving {
    /// What became of each file's ciphertext, so far.
    pub fn files(&self) -> impl Iterator<Item = &CarvedFile> {
        self.files.values().map(|file| &file.body)
    }

    fn begin(&self) -> Result<()> {
        match self.home.make_folder(&self.at, 0o700) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::io(&self.at)(e)),
            _ => {}
        }
        remove_all(self.home.as_ref(), &self.at.join(TREE))
    }

    /// Makes what is missing or has changed since the last walk, and removes what is gone. `gated`: the gate is held.
    fn walk(&mut self, gated: bool, each: &mut dyn FnMut(usize) -> bool) -> Result<Walk> {
        let mut walk = Walk::default();
        let mut passed = Vec::new();
        let mut next = vec![(self.folder, self.at.join(TREE), None::<(NodeId, Vec<u8>)>)];
        while let Some((ino, path, place)) = next.pop() {
            let changed = self.take_watched(ino);
            let listed = match self.look(ino, gated) {
                Ok(listed) => listed,
                Err(Error::Errno(libc::ENOENT | libc::ESTALE)) if !gated && ino != self.folder => {
                    walk.again = true;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let node = match place {
                None => NodeId::root_of(self.keys.share()),
                Some(_) => *listed.nodes.first().ok_or(Error::Errno(libc::EIO))?,
            };
            let is_new = self.folders.get(&ino).is_none_or(|made| made.path != path);
            if is_new {
                self.make_folder(&path, &listed.nodes, place.as_ref())?;
                self.folders.insert(ino, MadeFolder { path: path.clone(), entries: BTreeMap::new() });
            }
            let mut touched = is_new || changed;
            let names = Names::new(&self.keys, &node);
            touched |= self.remove_stale(ino, &names, &listed)?;
            for now in listed.entries {
                let sealed = names.seal(&now.shown).map_err(Error::refused(&path))?;
                let to = path.join(sealed.name.as_str());
                if let Some(sidecar) = &sealed.sidecar {
                    self.write_small(&path.join(folder::sidecar_name(&sealed.name)), sidecar)?;
                }
                match &now.file {
                    None => next.push((now.ino, to, Some((node, now.shown.clone())))),
                    Some(file) => match self.make_file(file, &to, node, &now.shown) {
                        Ok(made) => touched |= made,
                        Err(Error::Errno(libc::ENOENT | libc::ESTALE)) if !gated => {
                            walk.again = true;
                            continue;
                        }
                        Err(e) => return Err(e),
                    },
                }
                if let Some(made) = self.folders.get_mut(&ino) {
                    touched |= made.entries.insert(now.shown.clone(), now.ino) != Some(now.ino);
                }
                if now.file.is_some() && !each(self.files.len()) {
                    return Err(Error::Errno(libc::EINTR));
                }
            }
            passed.push(Passed { ino, path, node, stat: listed.stat, touched });
        }
        for path in self.detach_linked(gated, &mut walk)? {
            passed.iter_mut().filter(|f| path.parent() == Some(&f.path)).for_each(|f| f.touched = true);
        }
        walk.worked = passed.iter().any(|f| f.touched);
        // Last, since making entries changes a folder's times; from the deepest up.
        for folder in passed.iter().rev().filter(|f| f.touched) {
            self.dress_folder(folder, gated)?;
        }
        Ok(walk)
    }

    /// A folder with all its entries bound.
    fn look(&self, ino: u64, gated: bool) -> Result<Listed> {
        let inner = &self.volume.0;
        let _gate = (!gated).then(|| inner.gate.read());
        let mut tree = inner.tree.lock();
        let tree = &mut *tree;
        let path = tree.folder_path(ino)?;
        inner.load_listing(tree, ino)?;
        let damaged = |what| Err(Error::Damaged { path: path.clone(), what });
        if !tree.listing(ino)?.missing.is_empty() {
            return damaged("something in it is missing: run kith fsck first");
        }
        if !tree.listing(ino)?.hidden.is_empty() {
            return damaged("it has a name that no key opens: run kith fsck first");
        }
        let names: Vec<Vec<u8>> = tree.listing(ino)?.entries.keys().cloned().collect();
        let mut entries = Vec::with_capacity(names.len());
        for shown in names {
            let child = inner.bind(tree, ino, &shown)?;
            let file = match tree.nodes.get(&child) {
                Some(Node::File(entry)) => Some(entry.file.clone()),
                _ => None,
            };
            if let Some(file) = &file {
                let state = file.state.read();
                if state.damaged {
                    return damaged("a file in it is damaged: run kith fsck first");
                }
                if gated && state.writers > 0 {
                    let path = tree.shown_file(child);
                    return Err(Error::Busy { path, what: "a program has it open for writing" });
                }
            }
            entries.push(Now { shown, ino: child, file });
        }
        let nodes = tree.folder(ino)?.headers.iter().map(|(node, _)| *node).collect();
        let stat = inner.folder_stat(tree, ino)?;
        Ok(Listed { nodes, stat, entries })
    }

    fn make_folder(&self, path: &Path, nodes: &[NodeId], place: Option<&(NodeId, Vec<u8>)>) -> Result<()> {
        self.home.make_folder(path, 0o700).map_err(Error::io(path))?;
        let root = [NodeId::root_of(self.keys.share())];
        for node in if place.is_some() { nodes } else { &root } {
            let at = match place {
                Some((parent, name)) => locator::of_folder(&self.keys, self.keys.current(), parent, name, node)
                    .ok_or(Error::Errno(libc::EACCES))?,
                None => NOWHERE,
            };
            let path = path.join(folder::header_name(node));
            let bytes = FolderHeader::new(&self.keys, *node).seal(&self.keys, &at).map_err(Error::refused(&path))?;
            self.write_small(&path, &bytes)?;
        }
        Ok(())
    }

    /// Removes what was made of entries that are not there any more, or are others now.
    fn remove_stale(&mut self, ino: u64, names: &Names, listed: &Listed) -> Result<bool> {
        let Some(made) = self.folders.get_mut(&ino) else { return Ok(false) };
        let now: HashMap<&[u8], u64> = listed.entries.iter().map(|e| (e.shown.as_slice(), e.ino)).collect();
        let path = made.path.clone();
        let (kept, stale): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut made.entries)
            .into_iter()
            .partition(|(shown, ino)| now.get(shown.as_slice()) == Some(ino));
        made.entries = kept;
        for shown in stale.keys() {
            let sealed = names.seal(shown).map_err(Error::refused(&path))?;
            self.remove(&path.join(sealed.name.as_str()))?;
            if sealed.sidecar.is_some() {
                remove_all(self.home.as_ref(), &path.join(folder::sidecar_name(&sealed.name)))?;
            }
        }
        Ok(!stale.is_empty())
    }

    /// Removes something that was made, with all that is in it.
    fn remove(&mut self, path: &Path) -> Result<()> {
        self.folders.retain(|_, made| !made.path.starts_with(path));
        let mut moved = Vec::new();
        self.files.retain(|ino, made| {
            let before = made.places.len();
            made.places.retain(|at| !at.path.starts_with(path));
            if made.places.len() != before {
                moved.push(*ino);
            }
            !made.places.is_empty()
        });
        remove_all(self.home.as_ref(), path)?;
        moved.into_iter().try_for_each(|ino| self.tie(ino))
    }

    /// `true`: something was done.
    fn make_file(&mut self, file: &Arc<FileNode>, to: &Path, parent: NodeId, shown: &[u8]) -> Result<bool> {
        let changed = self.take_watched(file.ino);
        let spot = Spot { path: to.to_owned(), parent, shown: shown.to_vec() };
        let mut places = match self.files.get_mut(&file.ino) {
            Some(made) if !changed => {
                let Some(first) = made.places.first() else { return Err(Error::Errno(libc::EIO)) };
                if made.places.iter().any(|at| at.path == to) {
                    return Ok(false);
                }
                self.home.link(&first.path, to).map_err(Error::io(to))?;
                made.places.push(spot);
                self.tie(file.ino)?;
                return Ok(true);
            }
            Some(made) => made.places.clone(),
            None => Vec::new(),
        };
        if !places.iter().any(|at| at.path == to) {
            places.push(spot);
        }
        self.put(file, places, false)?;
        Ok(true)
    }

    /// Makes a file anew at all its places. `detached`: as one of its own, that has nothing in common with it.
    fn put(&mut self, file: &Arc<FileNode>, places: Vec<Spot>, detached: bool) -> Result<()> {
        // Not before it is made again is it known: an error below leaves nothing of it.
        self.files.remove(&file.ino);
        for at in &places {
            remove_all(self.home.as_ref(), &at.path)?;
        }
        let Some((first, others)) = places.split_first() else { return Ok(()) };
        let (links, body) = match self.make_body(file, first, detached) {
            Ok(made) => made,
            Err(e) => {
                let _ = self.home.remove_file(&first.path);
                return Err(e);
            }
        };
        for at in others {
            self.home.link(&first.path, &at.path).map_err(Error::io(&at.path))?;
        }
        let linked = !others.is_empty();
        self.files.insert(file.ino, MadeFile { places, links, detached, body });
        if linked { self.tie(file.ino) } else { Ok(()) }
    }

    /// Files that have names outside of the folder too become others: between shares there are no links, and who reads the
    /// one must not have keys of the other. Where their names are comes back.
    fn detach_linked(&mut self, gated: bool, walk: &mut Walk) -> Result<Vec<PathBuf>> {
        let linked =
            |(ino, made): (&u64, &MadeFile)| (!made.detached && made.links > made.places.len() as u64).then_some(*ino);
        let inos: Vec<u64> = self.files.iter().filter_map(linked).collect();
        let mut done = Vec::new();
        for ino in inos {
            let Some(made) = self.files.get(&ino) else { continue };
            let places = made.places.clone();
            let file = self.volume.0.tree.lock().file(ino).map(|entry| entry.file.clone());
            done.extend(places.iter().map(|at| at.path.clone()));
            match file.and_then(|file| self.put(&file, places, true)) {
                Err(Error::Errno(libc::ENOENT | libc::ESTALE)) if !gated => walk.again = true,
                other => other?,
            }
        }
        Ok(done)
    }

    fn locate(&self, at: &Spot, id: &FileId) -> Result<Locator> {
        let locator = locator::of_file(&self.keys, self.keys.current(), &at.parent, &at.shown, id);
        locator.ok_or(Error::Errno(libc::EACCES))
    }

    /// Writes the locators of a file's places into it.
    fn tie(&self, ino: u64) -> Result<()> {
        let Some(made) = self.files.get(&ino) else { return Ok(()) };
        let Some((first, others)) = made.places.split_first() else { return Ok(()) };
        let path = &first.path;
        let io = || Error::io(path);
        let file = self.home.open(path, true).map_err(io())?;
        let mtime = file.stat().map_err(io())?.mtime;
        let id = &made.body.file;
        file.write_at(self.locate(first, id)?.as_bytes(), AT_LOCATOR as u64).map_err(io())?;
        let mut others: Vec<[u8; Locator::LEN]> =
            others.iter().map(|at| Ok(*self.locate(at, id)?.as_bytes())).collect::<Result<_>>()?;
        others.sort_unstable();
        let done = match others.is_empty() {
            true => file.remove_xattr(locator::OTHERS).map(drop),
            false => file.set_xattr(locator::OTHERS, others.as_flattened()),
        };
        match done {
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            other => other.map_err(io())?,
        }
        file.set_times(None, Some(mtime)).map_err(io())
    }

    fn dress_folder(&self, folder: &Passed, gated: bool) -> Result<()> {
        let inner = &self.volume.0;
        let Passed { ino, path, node, stat, .. } = folder;
        let xattrs = {
            let _gate = (!gated).then(|| inner.gate.read());
            let mut tree = inner.tree.lock();
            match inner.folder_xattrs(&mut tree, *ino) {
                Ok(xattrs) => xattrs.clone(),
                // Removed meanwhile: so is this one, in the next walk.
                Err(_) if !gated => return Ok(()),
                Err(e) => return Err(e),
            }
        };
        let disk = match self.home.open_folder(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !gated => return Ok(()),
            other => other.map_err(Error::io(path))?,
        };
        self.dress(disk.as_ref(), node.as_bytes(), &xattrs, stat, true).map_err(Error::io(path))
    }

    /// Gives a file or folder that was made the attributes of what it was made of.
    fn dress(
        &self,
        disk: &dyn File,
        id: &[u8; 16],
        xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
        stat: &Stat,
        folder: bool,
    ) -> std::io::Result<()> {
        for name in attrs::read_xattrs(disk, &self.keys, id)?.keys().filter(|name| !xattrs.contains_key(*name)) {
            attrs::write_xattr(disk, &self.keys, id, name, None)?;
        }
        for (name, value) in xattrs {
            attrs::write_xattr(disk, &self.keys, id, name, Some(value))?;
        }
        if nix::unistd::geteuid().is_root() {
            disk.set_owner(Some(stat.uid), Some(stat.gid))?;
        }
        attrs::set_mode(disk, stat.mode, folder)?;
        disk.set_times(Some(stat.atime), Some(stat.mtime))
    }

    fn write_small(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let file = match self.home.create(path, 0o600) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()), // its content follows from its name
            other => other.map_err(Error::io(path))?,
        };
        file.write_at(bytes, 0).map_err(Error::io(path))
    }

    fn take_watched(&self, ino: u64) -> bool {
        self.volume.0.watch.lock().as_mut().is_some_and(|watch| watch.remove(&ino))
    }
}

impl Drop for Carving {
    fn drop(&mut self) {
        let inner = &self.volume.0;
        let mut tree = inner.tree.lock();
        *inner.watch.lock() = None;
        tree.pinned = false;
        let inos: Vec<u64> = tree.nodes.keys().copied().collect();
        inos.into_iter().for_each(|ino| tree.drop_unused(ino));
        drop(tree);
        let _ = remove_all(self.home.as_ref(), &self.at);
    }
}

impl Inner {
    /// While a folder is being made a share: these inodes changed.
    pub fn note_watched(&self, inos: impl IntoIterator<Item = u64>) {
        if let Some(watch) = &mut *self.watch.lock() {
            watch.extend(inos);
        }
    }
}

/// Removes a folder or file with all that is in it, where there is one.
fn remove_all(store: &dyn Store, path: &Path) -> Result<()> {
    match store.stat(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(path)(e)),
        Ok(stat) if stat.kind != crate::store::Type::Folder => return store.remove_file(path).map_err(Error::io(path)),
        Ok(_) => {}
    }
    for listed in store.list(path).map_err(Error::io(path))? {
        remove_all(store, &path.join(&listed.name))?;
    }
    store.remove_folder(path).map_err(Error::io(path))
}
