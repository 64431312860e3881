//! A disk in memory that crashes, as the one of `models/pages.py`: by a power cut ([`cut`]), or by a kill between any
//! two steps.
//!
//! Modes, times and attributes are kept at once: no rule of the format depends on when they become durable.

mod cut;
mod file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{File, Listed, Nanos, Rename, Space, Stat, Store, Type};
pub use cut::Dice;
use cut::apply;
use file::{Node, SimFile};

const ROOT: u64 = 1;

type Key = (u64, OsString);

/// A disk that crashes. Clones are one disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone)]
struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
    /// Names that are durable, and steps that are not: each is done or lost as a whole.
    base: BTreeMap<Key, u64>,
    steps: Vec<Vec<(Key, Option<u64>)>>,
    names: BTreeMap<Key, u64>,
    /// Steps until the process is killed.
    left: Option<u64>,
    /// Handles of a killed process work no more.
    life: u64,
    clock: Nanos,
    syncs: u64,
    meanwhile: Meanwhile,
}

/// What somebody else does while a folder is made durable, once.
type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// What every operation of a killed process says.
pub fn killed() -> io::Error {
    io::Error::other("killed")
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    pub fn new() -> Self {
        let root = Node::new(true, 0o700);
        Self(Arc::new(Mutex::new(State {
            nodes: HashMap::from([(ROOT, root)]),
            next: ROOT + 1,
            base: BTreeMap::new(),
            steps: Vec::new(),
            names: BTreeMap::new(),
            left: None,
            life: 0,
            clock: 1,
            syncs: 0,
            meanwhile: Meanwhile::default(),
        })))
    }

    /// While a folder is made durable the next time.
    pub fn meanwhile(&self, what: impl FnOnce() + Send + 'static) {
        *self.0.lock().meanwhile.lock() = Some(Box::new(what));
    }

    /// How many fsyncs of files there were.
    pub fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// The process is killed after that many more steps.
    pub fn kill_after(&self, steps: u64) {
        self.0.lock().left = Some(steps);
    }

    /// The process ended, or was killed; all that it did is in the kernel still. Its handles work no more.
    pub fn kill(&self) {
        let mut state = self.0.lock();
        state.life += 1;
        state.left = None;
    }

    fn step(&self, life: u64) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.0.lock();
        if state.life != life {
            return Err(killed());
        }
        if let Some(left) = &mut state.left {
            match left.checked_sub(1) {
                Some(rest) => *left = rest,
                None => return Err(killed()),
            }
        }
        state.clock += 1;
        Ok(state)
    }

    fn look(&self, life: u64) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.0.lock();
        // A process that was killed in the middle of an operation does not read either.
        if state.life != life || state.left == Some(0) { Err(killed()) } else { Ok(state) }
    }

    fn life(&self) -> u64 {
        self.0.lock().life
    }

    fn file(&self, ino: u64) -> Arc<dyn File> {
        Arc::new(SimFile { disk: self.clone(), ino, life: self.life() })
    }
}

impl State {
    fn node(&self, ino: u64) -> io::Result<&Node> {
        self.nodes.get(&ino).ok_or_else(|| error(libc::ESTALE))
    }

    fn node_mut(&mut self, ino: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&ino).ok_or_else(|| error(libc::ESTALE))
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else { return Err(error(libc::EXDEV)) };
            if !self.node(at)?.folder {
                return Err(error(libc::ENOTDIR));
            }
            at = *self.names.get(&(at, name.to_owned())).ok_or_else(|| error(libc::ENOENT))?;
        }
        Ok(at)
    }

    fn place(&self, path: &Path) -> io::Result<Key> {
        let name = path.file_name().ok_or_else(|| error(libc::EINVAL))?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name.to_owned()))
    }

    fn change(&mut self, step: Vec<(Key, Option<u64>)>) {
        apply(&mut self.names, &step);
        self.steps.push(step);
    }

    fn is_empty_folder(&self, ino: u64) -> bool {
        !self.names.keys().any(|(parent, _)| *parent == ino)
    }

    fn stat(&self, ino: u64) -> io::Result<Stat> {
        let node = self.node(ino)?;
        let data = node.pages.values().filter(|versions| matches!(versions.last(), Some(Some(_)))).count();
        Ok(Stat {
            kind: if node.folder { Type::Folder } else { Type::File },
            ino,
            links: self.names.values().filter(|i| **i == ino).count() as u64,
            length: node.len(),
            blocks: data as u64 * 8,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            atime: node.times[0],
            mtime: node.times[1],
            ctime: node.times[2],
        })
    }
}

impl Store for SimDisk {
    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn File>> {
        let state = self.look(self.life())?;
        let ino = state.find(path)?;
        if state.node(ino)?.folder {
            return Err(error(libc::EISDIR));
        }
        drop(state);
        Ok(self.file(ino))
    }

    fn open_folder(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let state = self.look(self.life())?;
        let ino = state.find(path)?;
        if !state.node(ino)?.folder {
            return Err(error(libc::ENOTDIR));
        }
        drop(state);
        Ok(self.file(ino))
    }

    fn create(&self, path: &Path, mode: u32) -> io::Result<Arc<dyn File>> {
        let mut state = self.step(self.life())?;
        let key = state.place(path)?;
        if state.names.contains_key(&key) {
            return Err(error(libc::EEXIST));
        }
        let ino = state.next;
        state.next += 1;
        state.nodes.insert(ino, Node::new(false, mode));
        state.change(vec![(key, Some(ino))]);
        drop(state);
        Ok(self.file(ino))
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut state = self.step(self.life())?;
        let key = state.place(path)?;
        if state.names.contains_key(&key) {
            return Err(error(libc::EEXIST));
        }
        let ino = state.next;
        state.next += 1;
        state.nodes.insert(ino, Node::new(true, mode));
        state.change(vec![(key, Some(ino))]);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step(self.life())?;
        let (key, ino) = (state.place(path)?, state.find(path)?);
        if state.node(ino)?.folder {
            return Err(error(libc::EISDIR));
        }
        state.change(vec![(key, None)]);
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step(self.life())?;
        let (key, ino) = (state.place(path)?, state.find(path)?);
        if !state.node(ino)?.folder {
            return Err(error(libc::ENOTDIR));
        }
        if !state.is_empty_folder(ino) {
            return Err(error(libc::ENOTEMPTY));
        }
        state.change(vec![(key, None)]);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        let mut state = self.step(self.life())?;
        let (old, new, ino) = (state.place(from)?, state.place(to)?, state.find(from)?);
        let there = state.names.get(&new).copied();
        match (how, there) {
            (Rename::NoReplace, Some(_)) => return Err(error(libc::EEXIST)),
            (Rename::Exchange, None) => return Err(error(libc::ENOENT)),
            (Rename::Exchange, Some(other)) => state.change(vec![(old, Some(other)), (new, Some(ino))]),
            (_, Some(other)) if other == ino => {}
            (_, Some(other)) if state.node(other)?.folder && !state.is_empty_folder(other) => {
                return Err(error(libc::ENOTEMPTY));
            }
            _ => state.change(vec![(old, None), (new, Some(ino))]),
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step(self.life())?;
        let (key, ino) = (state.place(to)?, state.find(from)?);
        if state.names.contains_key(&key) {
            return Err(error(libc::EEXIST));
        }
        state.change(vec![(key, Some(ino))]);
        Ok(())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let state = self.look(self.life())?;
        state.stat(state.find(path)?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        let state = self.look(self.life())?;
        let folder = state.find(path)?;
        let entries = state.names.range((folder, OsString::new())..).take_while(|((f, _), _)| *f == folder);
        entries
            .map(|((_, name), ino)| {
                let kind = if state.node(*ino)?.folder { Type::Folder } else { Type::File };
                Ok(Listed { name: name.clone(), kind, ino: *ino })
            })
            .collect()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let meanwhile = self.0.lock().meanwhile.clone();
        let meanwhile = meanwhile.lock().take();
        if let Some(what) = meanwhile {
            what();
        }
        let mut state = self.step(self.life())?;
        let folder = state.find(path)?;
        state.sync_steps(folder);
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.step(self.life())?;
        state.base = state.names.clone();
        state.steps.clear();
        state.nodes.values_mut().for_each(Node::settle);
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let much = 1 << 30;
        Ok(Space { block: 4096, blocks: much, free: much, available: much, files: much, files_free: much })
    }
}
