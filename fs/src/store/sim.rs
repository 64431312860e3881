//! A disk in memory that crashes, as the one of `models/pages.py`: since its last fsync each page, length and step of a
//! folder is kept or lost by itself, and a kill may fall between any two steps.
//!
//! Modes, times and attributes are kept at once: no rule of the format depends on when they become durable.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{File, Listed, Nanos, Rename, Space, Stat, Store, Type};

const PAGE: u64 = 4096;
const ROOT: u64 = 1;

type Page = Option<Arc<[u8; PAGE as usize]>>;
type Key = (u64, OsString);

/// A disk that crashes. Clones are one disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

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
}

/// All versions since the last fsync; the last one is what is read.
struct Node {
    folder: bool,
    pages: BTreeMap<u64, Vec<Page>>,
    length: Vec<u64>,
    mode: u32,
    uid: u32,
    gid: u32,
    times: [Nanos; 3],
    xattrs: BTreeMap<String, Vec<u8>>,
}

struct SimFile {
    disk: SimDisk,
    ino: u64,
    life: u64,
}

/// A small generator of numbers, so that a run follows from its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

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
        })))
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

    /// The power is cut: what was not durable is there or not.
    pub fn power_cut(&self, dice: &mut Dice) {
        self.kill();
        let mut state = self.0.lock();
        // In tenths; the extremes are likely, so that short counterexamples come soon.
        let lean = dice.pick(&[0, 3, 5, 8, 10]);
        let steps = std::mem::take(&mut state.steps);
        for step in steps {
            if dice.below(10) < lean {
                apply(&mut state.base, &step);
            }
        }
        state.names = state.base.clone();
        let mut inos: Vec<u64> = state.nodes.keys().copied().collect();
        inos.sort_unstable();
        for ino in inos {
            let Some(node) = state.nodes.get_mut(&ino) else { continue };
            let mut choose =
                |count: usize| if dice.below(10) < lean { count - 1 } else { dice.below(count as u64) as usize };
            for versions in node.pages.values_mut() {
                *versions = vec![versions[choose(versions.len())].clone()];
            }
            node.length = vec![node.length[choose(node.length.len())]];
            node.clip();
            node.settle();
        }
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

fn apply(names: &mut BTreeMap<Key, u64>, step: &[(Key, Option<u64>)]) {
    for (key, ino) in step {
        match ino {
            Some(ino) => names.insert(key.clone(), *ino),
            None => names.remove(key),
        };
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

impl Node {
    fn new(folder: bool, mode: u32) -> Self {
        Self {
            folder,
            pages: BTreeMap::new(),
            length: vec![0],
            mode,
            uid: 1000,
            gid: 1000,
            times: [0; 3],
            xattrs: BTreeMap::new(),
        }
    }

    fn len(&self) -> u64 {
        self.length.last().copied().unwrap_or(0)
    }

    fn page(&self, k: u64) -> Page {
        self.pages.get(&k).and_then(|versions| versions.last().cloned()).flatten()
    }

    fn note(&mut self, k: u64, page: Page) {
        self.pages.entry(k).or_insert_with(|| vec![None]).push(page);
    }

    /// Nothing past the length is ever seen.
    fn clip(&mut self) {
        let length = self.len();
        let past: Vec<u64> = self.pages.range(length / PAGE..).map(|(k, _)| *k).collect();
        for k in past {
            let Some(page) = self.page(k) else { continue };
            let keep = length.saturating_sub(k * PAGE).min(PAGE) as usize;
            let mut piece = *page;
            piece[keep..].fill(0);
            self.note(k, piece.iter().any(|b| *b != 0).then(|| Arc::new(piece)));
        }
    }

    fn settle(&mut self) {
        for versions in self.pages.values_mut() {
            versions.drain(..versions.len() - 1);
        }
        self.pages.retain(|_, versions| versions[0].is_some());
        self.length.drain(..self.length.len() - 1);
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
        let mut state = self.step(self.life())?;
        let folder = state.find(path)?;
        sync_steps(&mut state, folder);
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

/// A folder's steps become durable, and those before them: a journal has an order.
fn sync_steps(state: &mut State, folder: u64) {
    let last = state.steps.iter().rposition(|step| step.iter().any(|((parent, _), _)| *parent == folder));
    let Some(last) = last else { return };
    let done: Vec<_> = state.steps.drain(..=last).collect();
    for step in done {
        apply(&mut state.base, &step);
    }
}

impl SimFile {
    fn change<T>(&self, f: impl FnOnce(&mut Node) -> T) -> io::Result<T> {
        let mut state = self.disk.step(self.life)?;
        let now = state.clock;
        let node = state.node_mut(self.ino)?;
        node.times[2] = now;
        Ok(f(node))
    }

    fn show<T>(&self, f: impl FnOnce(&Node) -> T) -> io::Result<T> {
        Ok(f(self.disk.look(self.life)?.node(self.ino)?))
    }

    /// One page's change is one step.
    fn write_page(&self, k: u64, from: usize, piece: &[u8]) -> io::Result<()> {
        self.change(|node| {
            let mut page = node.page(k).map_or([0; PAGE as usize], |page| *page);
            page[from..from + piece.len()].copy_from_slice(piece);
            node.note(k, page.iter().any(|b| *b != 0).then(|| Arc::new(page)));
            let end = k * PAGE + (from + piece.len()) as u64;
            if end > node.len() {
                node.length.push(end);
            }
            node.times[1] = node.times[2];
        })
    }
}

impl File for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        self.disk.look(self.life)?.stat(self.ino)
    }

    fn length(&self) -> io::Result<u64> {
        self.show(Node::len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.show(|node| {
            let end = node.len().min(offset + buf.len() as u64);
            let mut at = offset;
            while at < end {
                let (k, from) = (at / PAGE, (at % PAGE) as usize);
                let count = ((end - at) as usize).min(PAGE as usize - from);
                let target = &mut buf[(at - offset) as usize..][..count];
                match node.page(k) {
                    Some(page) => target.copy_from_slice(&page[from..from + count]),
                    None => target.fill(0),
                }
                at += count as u64;
            }
            end.saturating_sub(offset) as usize
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let from = (at % PAGE) as usize;
            let count = (buf.len() - done).min(PAGE as usize - from);
            self.write_page(at / PAGE, from, &buf[done..done + count])?;
            done += count;
        }
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(|node| {
            node.length.push(length);
            node.clip();
            node.times[1] = node.times[2];
        })
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = self.length()?.min(offset + len);
        let zeros = [0; PAGE as usize];
        let mut at = offset;
        while at < end {
            let from = (at % PAGE) as usize;
            let count = ((end - at) as usize).min(PAGE as usize - from);
            self.write_page(at / PAGE, from, &zeros[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    fn allocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.change(|_| ())
    }

    fn seek_data(&self, from: u64) -> io::Result<Option<u64>> {
        self.show(|node| {
            let pages = (from / PAGE)..node.len().div_ceil(PAGE);
            pages.into_iter().find(|k| node.page(*k).is_some()).map(|k| (k * PAGE).max(from))
        })
    }

    fn seek_hole(&self, from: u64) -> io::Result<u64> {
        self.show(|node| {
            let pages = (from / PAGE)..node.len().div_ceil(PAGE);
            let hole = pages.into_iter().find(|k| node.page(*k).is_none());
            hole.map_or(node.len(), |k| (k * PAGE).max(from))
        })
    }

    fn sync(&self, _data_only: bool) -> io::Result<()> {
        let mut state = self.disk.step(self.life)?;
        let folder = state.node(self.ino)?.folder;
        if folder {
            sync_steps(&mut state, self.ino);
        } else {
            state.node_mut(self.ino)?.settle();
            state.syncs += 1;
        }
        Ok(())
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.change(|node| node.mode = mode & 0o7777)
    }

    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.change(|node| (node.uid, node.gid) = (uid.unwrap_or(node.uid), gid.unwrap_or(node.gid)))
    }

    fn set_times(&self, atime: Option<Nanos>, mtime: Option<Nanos>) -> io::Result<()> {
        self.change(|node| {
            node.times[0] = atime.unwrap_or(node.times[0]);
            node.times[1] = mtime.unwrap_or(node.times[1]);
        })
    }

    fn xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.show(|node| node.xattrs.get(name).cloned())
    }

    fn set_xattr(&self, name: &str, value: &[u8]) -> io::Result<()> {
        self.change(|node| drop(node.xattrs.insert(name.to_owned(), value.to_owned())))
    }

    fn remove_xattr(&self, name: &str) -> io::Result<bool> {
        self.change(|node| node.xattrs.remove(name).is_some())
    }

    fn xattrs(&self) -> io::Result<Vec<String>> {
        self.show(|node| node.xattrs.keys().cloned().collect())
    }

    fn try_lock(&self, _exclusive: bool) -> io::Result<bool> {
        Ok(true)
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }

    fn clone_range(&self, _from: &dyn File, _offset: u64, _len: u64) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_a_power_cut_and_nothing_else_must() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..200 {
            let disk = SimDisk::new();
            let mut dice = Dice(seed);
            let file = disk.create(Path::new("a"), 0o600).unwrap();
            file.write_at(&[1; 5000], 0).unwrap();
            file.sync(false).unwrap();
            disk.sync_folder(Path::new("")).unwrap();
            file.write_at(&[2; 10], 4096).unwrap();
            disk.rename(Path::new("a"), Path::new("b"), Rename::Over).unwrap();
            disk.power_cut(&mut dice);
            assert!(file.length().is_err(), "a handle of before the cut");
            let name = if disk.stat(Path::new("a")).is_ok() { "a" } else { "b" };
            let file = disk.open(Path::new(name), true).unwrap();
            let mut buf = [0; 5000];
            assert_eq!(file.read_at(&mut buf, 0).unwrap(), 5000);
            assert!(buf[..4096].iter().all(|b| *b == 1) && (buf[4096] == 1 || buf[4096] == 2));
            *if buf[4096] == 2 { &mut kept } else { &mut lost } += 1;
        }
        assert!(kept > 0 && lost > 0);
    }

    #[test]
    fn a_kill_falls_between_two_steps_and_loses_nothing() {
        let disk = SimDisk::new();
        let file = disk.create(Path::new("a"), 0o600).unwrap();
        disk.kill_after(1);
        assert!(file.write_at(&[1; 8192], 0).is_err());
        disk.kill();
        let file = disk.open(Path::new("a"), true).unwrap();
        assert_eq!(file.length().unwrap(), 4096);
    }

    #[test]
    fn folders_hold_what_is_renamed_into_them() {
        let disk = SimDisk::new();
        disk.make_folder(Path::new("d"), 0o700).unwrap();
        disk.make_folder(Path::new("e"), 0o700).unwrap();
        disk.create(Path::new("d/a"), 0o600).unwrap();
        disk.rename(Path::new("d"), Path::new("e/d"), Rename::NoReplace).unwrap();
        assert_eq!(disk.list(Path::new("e/d")).unwrap()[0].name, OsStr::new("a"));
        assert!(disk.remove_folder(Path::new("e")).is_err());
        assert!(disk.open(Path::new("../x"), false).is_err());
    }
}
