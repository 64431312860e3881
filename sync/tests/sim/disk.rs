//! A simulated store of one device: directories with headers, ciphertext files with links. It executes steps as the
//! installer would, and gives observations as fs would.

use std::collections::{BTreeMap, BTreeSet};

use keymgr::ids::{Epoch, FileId, LineageId, Locator, NodeId, Root, StoreName};
use sync::engine::{Done, Engine, EntryId, Observation, ObservedEntry, ObservedFile, ObservedFolder, Spot, Step};
use sync::record::{Content, Kind};

pub const ROOT: u32 = 0;

#[derive(Clone, Debug)]
pub struct Inode {
    pub file: FileId,
    pub kind: Kind,
    pub root: Root,
    pub text: String,
    pub attrs: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Entry {
    Dir(u32),
    File(u32, Locator),
}

#[derive(Clone, Debug, Default)]
pub struct Dir {
    pub headers: BTreeMap<NodeId, Locator>,
    pub entries: BTreeMap<StoreName, Entry>,
    pub attrs: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct SimDisk {
    pub dirs: BTreeMap<u32, Dir>,
    pub inodes: BTreeMap<u32, Inode>,
    next: u32,
    /// What fs changed and has not told yet; a crash does not lose it (fs's list).
    pub dirty_dirs: BTreeSet<u32>,
    pub dirty_files: BTreeSet<u32>,
    /// Open for writing: told when closed.
    pub open: BTreeSet<u32>,
}

/// The root of a file's ciphertext: what is in it, sealed for this file.
pub fn root_of(text: &str, file: &FileId) -> Root {
    let mut hasher = blake3::Hasher::new();
    hasher.update(file.as_bytes());
    hasher.update(text.as_bytes());
    Root::from_bytes(*hasher.finalize().as_bytes())
}

pub fn content_of(file: FileId, root: Root) -> Content {
    let lineage = LineageId::from_bytes(*file.as_bytes());
    Content { file, epoch: Epoch::FIRST, lineage, length: 4097 + u64::from(root.as_bytes()[0]), root }
}

/// A name sealed under a folder's key: it says which, and opens under no other.
pub fn seal(folder: &NodeId, name: &str) -> StoreName {
    StoreName::parse(&format!("{}-{name}", &folder.to_string()[..8])).unwrap()
}

pub fn open(folder: &NodeId, name: &StoreName) -> Option<String> {
    Some(name.as_str().strip_prefix(&folder.to_string()[..8])?.strip_prefix('-')?.to_owned())
}

pub fn locator(folder: &NodeId, name: &StoreName, id: &EntryId) -> Locator {
    let mut hasher = blake3::Hasher::new();
    hasher.update(folder.as_bytes());
    hasher.update(name.as_str().as_bytes());
    hasher.update(match id {
        EntryId::File(file) => file.as_bytes(),
        EntryId::Folder(node) => node.as_bytes(),
    });
    Locator::from_bytes(std::array::from_fn(|i| hasher.finalize().as_bytes()[i]))
}

impl SimDisk {
    pub fn new(root: NodeId) -> Self {
        let dir = Dir { headers: BTreeMap::from([(root, Locator::from_bytes([0; 16]))]), ..Dir::default() };
        Self {
            dirs: BTreeMap::from([(ROOT, dir)]),
            inodes: BTreeMap::new(),
            next: 1,
            dirty_dirs: BTreeSet::new(),
            dirty_files: BTreeSet::new(),
            open: BTreeSet::new(),
        }
    }

    pub fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// Directories from the root down, with their path as a user sees it and whether its name can be opened.
    pub fn walk(&self) -> Vec<(String, u32)> {
        let mut out = vec![(String::new(), ROOT)];
        let mut at = 0;
        while at < out.len() {
            let (path, dir) = out[at].clone();
            for (name, entry) in &self.dirs[&dir].entries {
                if let Entry::Dir(sub) = entry {
                    let plain = self.plain(dir, name).unwrap_or_else(|| name.as_str().to_owned());
                    out.push((format!("{path}/{plain}"), *sub));
                }
            }
            at += 1;
        }
        out
    }

    pub fn plain(&self, dir: u32, name: &StoreName) -> Option<String> {
        self.dirs[&dir].headers.keys().find_map(|h| open(h, name))
    }

    pub fn under(&self, dir: u32, name: &StoreName) -> Option<NodeId> {
        self.dirs[&dir].headers.keys().find(|h| open(h, name).is_some()).copied()
    }

    /// What a user sees in a directory.
    pub fn list(&self, dir: u32) -> Vec<(String, StoreName, Entry)> {
        let entries = self.dirs[&dir].entries.iter();
        entries.filter_map(|(name, e)| Some((self.plain(dir, name)?, name.clone(), e.clone()))).collect()
    }

    pub fn find(&self, dir: u32, plain: &str) -> Option<(StoreName, Entry)> {
        self.list(dir).into_iter().find(|(p, _, _)| p == plain).map(|(_, n, e)| (n, e))
    }

    pub fn header(&self, dir: u32) -> NodeId {
        *self.dirs[&dir].headers.keys().next().unwrap()
    }

    pub fn links(&self, inode: u32) -> Vec<(u32, StoreName)> {
        let mut out = Vec::new();
        for (_, dir) in self.walk() {
            for (name, entry) in &self.dirs[&dir].entries {
                if matches!(entry, Entry::File(i, _) if *i == inode) {
                    out.push((dir, name.clone()));
                }
            }
        }
        out
    }

    pub fn reap(&mut self) {
        let used: BTreeSet<u32> = self
            .dirs
            .values()
            .flat_map(|d| d.entries.values())
            .filter_map(|e| if let Entry::File(i, _) = e { Some(*i) } else { None })
            .collect();
        self.inodes.retain(|i, _| used.contains(i));
        self.dirty_files.retain(|i| used.contains(i));
        self.open.retain(|i| used.contains(i));
    }

    pub fn texts(&self) -> BTreeSet<String> {
        let mut out = BTreeSet::new();
        for (_, dir) in self.walk() {
            for entry in self.dirs[&dir].entries.values() {
                if let Entry::File(i, _) = entry {
                    out.insert(self.inodes[i].text.clone());
                }
            }
        }
        out
    }

    /// The whole ciphertext tree, for comparison.
    pub fn picture(&self, attrs: bool) -> Vec<String> {
        let mut out = Vec::new();
        let mut todo = vec![(String::new(), ROOT)];
        while let Some((path, dir)) = todo.pop() {
            let d = &self.dirs[&dir];
            out.push(format!("{path}/ {:?}", d.headers));
            for (name, entry) in &d.entries {
                let path = format!("{path}/{}", name.as_str());
                match entry {
                    Entry::Dir(sub) => todo.push((path, *sub)),
                    Entry::File(i, l) => {
                        let inode = &self.inodes[i];
                        let a = if attrs { format!("{:?}", inode.attrs) } else { String::new() };
                        out.push(format!("{path} {:?} {:?} {l:?} {} {a}", inode.file, inode.root, inode.text));
                    }
                }
            }
        }
        out.sort();
        out
    }

    // ---- what fs tells

    fn listing(&self, dir: u32, all: bool) -> ObservedFolder {
        let d = &self.dirs[&dir];
        let mut entries = Vec::new();
        for (name, entry) in &d.entries {
            let Some(under) = self.under(dir, name).or_else(|| all.then(|| self.header(dir))) else { continue };
            match entry {
                Entry::Dir(sub) => {
                    for (node, locator) in &self.dirs[sub].headers {
                        let id = EntryId::Folder(*node);
                        entries.push(ObservedEntry { name: name.clone(), under, id, locator: *locator });
                    }
                }
                Entry::File(i, locator) => {
                    let id = EntryId::File(self.inodes[i].file);
                    entries.push(ObservedEntry { name: name.clone(), under, id, locator: *locator });
                }
            }
        }
        let mut headers = d.headers.keys().copied();
        ObservedFolder { node: headers.next().unwrap(), also: headers.collect(), entries, attrs: d.attrs.clone() }
    }

    fn observed(&self, inode: u32) -> ObservedFile {
        let i = &self.inodes[&inode];
        let c = content_of(i.file, i.root);
        ObservedFile {
            file: i.file,
            kind: i.kind,
            epoch: c.epoch,
            lineage: c.lineage,
            length: c.length,
            root: c.root,
            attrs: i.attrs.clone(),
        }
    }

    /// What changed and is closed.
    pub fn observe(&mut self) -> Observation {
        self.reap();
        let there: BTreeSet<u32> = self.walk().into_iter().map(|(_, d)| d).collect();
        let dirs = std::mem::take(&mut self.dirty_dirs);
        let files: Vec<u32> = self.dirty_files.difference(&self.open).copied().collect();
        for file in &files {
            self.dirty_files.remove(file);
        }
        Observation {
            folders: dirs.into_iter().filter(|d| there.contains(d)).map(|d| self.listing(d, false)).collect(),
            files: files.into_iter().map(|f| self.observed(f)).collect(),
        }
    }

    /// All of it, as a scan without an index reads it.
    pub fn scan(&self) -> Observation {
        Observation {
            folders: self.walk().into_iter().map(|(_, d)| self.listing(d, true)).collect(),
            files: self.inodes.keys().map(|i| self.observed(*i)).collect(),
        }
    }

    // ---- what the installer does

    fn dir_at(&self, path: &[StoreName]) -> Option<u32> {
        path.iter().try_fold(ROOT, |at, name| match self.dirs[&at].entries.get(name)? {
            Entry::Dir(sub) => Some(*sub),
            Entry::File(..) => None,
        })
    }

    fn folder(&self, engine: &Engine, node: &NodeId) -> Option<u32> {
        let dir = self.dir_at(&engine.disk_path(node)?)?;
        self.dirs[&dir].headers.contains_key(node).then_some(dir)
    }

    fn file_at(&self, dir: u32, name: &StoreName, file: &FileId) -> Option<u32> {
        match self.dirs[&dir].entries.get(name)? {
            Entry::File(i, _) if self.inodes[i].file == *file => Some(*i),
            _ => None,
        }
    }

    fn is_dirty(&self, inode: u32) -> bool {
        self.dirty_files.contains(&inode) || self.open.contains(&inode)
    }

    /// `text`: what is in the body with a root, where it is here. Returns the bodies that were replaced.
    pub fn execute(
        &mut self,
        engine: &Engine,
        step: &Step,
        text: impl Fn(&Root) -> Option<String>,
    ) -> (Done, Vec<Root>) {
        match self.try_step(engine, step, text) {
            Some(old) => (Done::Made { attrs: None }, old),
            None => (Done::Busy, Vec::new()),
        }
    }

    fn try_step(&mut self, engine: &Engine, step: &Step, text: impl Fn(&Root) -> Option<String>) -> Option<Vec<Root>> {
        match step {
            Step::MakeFolder { node, at, locator, attrs, join } => {
                let dir = self.folder(engine, &at.folder)?;
                match self.dirs[&dir].entries.get(&at.name) {
                    None if !join => {
                        let new = self.fresh();
                        let headers = BTreeMap::from([(*node, *locator)]);
                        self.dirs.insert(new, Dir { headers, entries: BTreeMap::new(), attrs: attrs.clone() });
                        self.dirs.get_mut(&dir)?.entries.insert(at.name.clone(), Entry::Dir(new));
                    }
                    Some(Entry::Dir(sub)) if *join => {
                        let sub = *sub;
                        self.dirs.get_mut(&sub)?.headers.insert(*node, *locator);
                    }
                    _ => return None,
                }
                Some(Vec::new())
            }
            Step::PutFile { kind, at, content, attrs, .. } => {
                let text = text(&content.root).expect("a step puts only what is whole here");
                let mut spots = Vec::new();
                for (spot, locator) in at {
                    let dir = self.folder(engine, &spot.folder)?;
                    if self.dirs[&dir].entries.contains_key(&spot.name) {
                        return None;
                    }
                    spots.push((dir, spot.name.clone(), *locator));
                }
                let inode = self.fresh();
                let new = Inode { file: content.file, kind: *kind, root: content.root, text, attrs: attrs.clone() };
                self.inodes.insert(inode, new);
                for (dir, name, locator) in spots {
                    self.dirs.get_mut(&dir)?.entries.insert(name, Entry::File(inode, locator));
                }
                Some(Vec::new())
            }
            Step::Replace { at, old, content, attrs, .. } => {
                let text = text(&content.root).expect("a step puts only what is whole here");
                let mut spots = Vec::new();
                let mut before = None;
                for (spot, locator) in at {
                    let dir = self.folder(engine, &spot.folder)?;
                    let inode = self.file_at(dir, &spot.name, &old.file)?;
                    if self.is_dirty(inode) || self.inodes[&inode].root != old.root {
                        return None;
                    }
                    before = Some(inode);
                    spots.push((dir, spot.name.clone(), *locator));
                }
                let kind = self.inodes[&before?].kind;
                if self.links(before?).len() != spots.len() {
                    return None; // a link that was not told yet
                }
                let inode = self.fresh();
                let new = Inode { file: content.file, kind, root: content.root, text, attrs: attrs.clone() };
                self.inodes.insert(inode, new);
                for (dir, name, locator) in spots {
                    self.dirs.get_mut(&dir)?.entries.insert(name, Entry::File(inode, locator));
                }
                self.reap();
                Some(vec![old.root])
            }
            Step::MoveFile { content, from, to, .. } => {
                let mut inode = None;
                for spot in from {
                    let dir = self.folder(engine, &spot.folder)?;
                    let i = self.file_at(dir, &spot.name, &content.file)?;
                    if self.is_dirty(i) {
                        return None;
                    }
                    inode = Some(i);
                }
                let inode = inode?;
                for (spot, _) in to.iter().filter(|(s, _)| !from.contains(s)) {
                    let dir = self.folder(engine, &spot.folder)?;
                    if self.dirs[&dir].entries.contains_key(&spot.name) {
                        return None;
                    }
                }
                for spot in from {
                    let dir = self.folder(engine, &spot.folder)?;
                    self.dirs.get_mut(&dir)?.entries.remove(&spot.name);
                }
                for (spot, locator) in to {
                    let dir = self.folder(engine, &spot.folder)?;
                    self.dirs.get_mut(&dir)?.entries.insert(spot.name.clone(), Entry::File(inode, *locator));
                }
                Some(Vec::new())
            }
            Step::MoveFolder { node, from, to, locator, split, join, entries } => {
                self.move_folder(engine, node, from, to, *locator, *split, *join, entries)
            }
            Step::RemoveFile { at, content, .. } => {
                let mut last = None;
                for spot in at {
                    let dir = self.folder(engine, &spot.folder)?;
                    let inode = self.file_at(dir, &spot.name, &content.file)?;
                    if self.is_dirty(inode) || self.inodes[&inode].root != content.root {
                        return None;
                    }
                    last = Some(inode);
                }
                if self.links(last?).len() != at.len() {
                    return None;
                }
                for spot in at {
                    let dir = self.folder(engine, &spot.folder)?;
                    self.dirs.get_mut(&dir)?.entries.remove(&spot.name);
                }
                self.reap();
                Some(vec![content.root])
            }
            Step::RemoveFolder { node, at, split } => {
                let dir = self.folder(engine, &at.folder)?;
                let sub = self.folder(engine, node)?;
                if *split {
                    if self.dirs[&sub].headers.len() < 2
                        || self.dirs[&sub].entries.keys().any(|n| open(node, n).is_some())
                    {
                        return None;
                    }
                    self.dirs.get_mut(&sub)?.headers.remove(node);
                } else {
                    if self.dirs[&sub].headers.len() != 1 || !self.dirs[&sub].entries.is_empty() {
                        return None;
                    }
                    self.dirs.get_mut(&dir)?.entries.remove(&at.name);
                    self.dirs.remove(&sub);
                    self.dirty_dirs.remove(&sub);
                }
                Some(Vec::new())
            }
            // Nothing is damaged here.
            Step::HealFile { .. } | Step::HealFolder { .. } => None,
            Step::Dress { node, at, attrs, .. } => {
                match at {
                    Some(spot) => {
                        let dir = self.folder(engine, &spot.folder)?;
                        match self.dirs[&dir].entries.get(&spot.name)?.clone() {
                            Entry::File(i, _) if self.is_dirty(i) => return None,
                            Entry::File(i, _) => self.inodes.get_mut(&i)?.attrs = attrs.clone(),
                            Entry::Dir(d) => {
                                if !self.dirs[&d].headers.contains_key(node) || self.dirty_dirs.contains(&d) {
                                    return None;
                                }
                                self.dirs.get_mut(&d)?.attrs = attrs.clone();
                            }
                        }
                    }
                    None => self.dirs.get_mut(&ROOT)?.attrs = attrs.clone(),
                }
                Some(Vec::new())
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn move_folder(
        &mut self,
        engine: &Engine,
        node: &NodeId,
        from: &Spot,
        to: &Spot,
        locator: Locator,
        split: bool,
        join: bool,
        entries: &[StoreName],
    ) -> Option<Vec<Root>> {
        let source = self.folder(engine, &from.folder)?;
        let sub = self.folder(engine, node)?;
        let target = self.folder(engine, &to.folder)?;
        if !matches!(self.dirs[&source].entries.get(&from.name), Some(Entry::Dir(d)) if *d == sub) {
            return None;
        }
        if from == to {
            self.dirs.get_mut(&sub)?.headers.insert(*node, locator);
            return Some(Vec::new());
        }
        let there = match self.dirs[&target].entries.get(&to.name) {
            None if !join => None,
            Some(Entry::Dir(d)) if join => Some(*d),
            _ => return None,
        };
        if !split && !join {
            if self.dirs[&sub].headers.len() != 1 {
                return None;
            }
            let entry = self.dirs.get_mut(&source)?.entries.remove(&from.name)?;
            self.dirs.get_mut(&target)?.entries.insert(to.name.clone(), entry);
            self.dirs.get_mut(&sub)?.headers.insert(*node, locator);
            return Some(Vec::new());
        }
        // Entry by entry; what fs made under this header and has not told yet holds it up.
        let mine: BTreeSet<StoreName> =
            self.dirs[&sub].entries.keys().filter(|n| open(node, n).is_some()).cloned().collect();
        if mine.iter().any(|n| !entries.contains(n)) || entries.iter().any(|n| !self.dirs[&sub].entries.contains_key(n))
        {
            return None;
        }
        if split == (self.dirs[&sub].headers.len() == 1) {
            return None;
        }
        if !split && self.dirs[&sub].entries.len() != entries.len() {
            return None;
        }
        let new = match there {
            Some(dir) => dir,
            None => {
                let new = self.fresh();
                let attrs = self.dirs[&sub].attrs.clone();
                self.dirs.insert(new, Dir { attrs, ..Dir::default() });
                self.dirs.get_mut(&target)?.entries.insert(to.name.clone(), Entry::Dir(new));
                new
            }
        };
        for name in entries {
            let entry = self.dirs.get_mut(&sub)?.entries.remove(name)?;
            self.dirs.get_mut(&new)?.entries.insert(name.clone(), entry);
        }
        self.dirs.get_mut(&sub)?.headers.remove(node);
        self.dirs.get_mut(&new)?.headers.insert(*node, locator);
        if self.dirty_dirs.contains(&sub) {
            self.dirty_dirs.insert(new);
        }
        if !split {
            self.dirs.get_mut(&source)?.entries.remove(&from.name);
            self.dirs.remove(&sub);
            self.dirty_dirs.remove(&sub);
        }
        Some(Vec::new())
    }
}
