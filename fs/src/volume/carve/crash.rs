//! A folder becomes a share on a disk that crashes, at every step: after it either the folder is there or the junction and
//! the whole share, never both, never neither, and nothing is refused.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::ids::{FileId, NodeId, ShareId, StoreName};
use keymgr::share::ShareKeys;
use parking_lot::Mutex;

use super::commit::settle_on;
use crate::content::Kind;
use crate::observe::Observation;
use crate::records::{Deaf, EntryId, RecordedFile, Records};
use crate::store::sim::{Dice, SimDisk};
use crate::store::{File, Listed, Rename, Space, Stat, Store};
use crate::volume::{Device, OpenHow, OpenOptions, ROOT, Result, SetAttr, Shown, Volume, Who};

/// A folder of a store, as a store.
struct Under(SimDisk, PathBuf);

impl Under {
    fn at(&self, path: &Path) -> PathBuf {
        self.1.join(path)
    }
}

impl Store for Under {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        self.0.open(&self.at(path), write)
    }
    fn open_folder(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.0.open_folder(&self.at(path))
    }
    fn create(&self, path: &Path, mode: u32) -> io::Result<Arc<dyn File>> {
        self.0.create(&self.at(path), mode)
    }
    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.0.make_folder(&self.at(path), mode)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(&self.at(path))
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.0.remove_folder(&self.at(path))
    }
    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        self.0.rename(&self.at(from), &self.at(to), how)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(&self.at(from), &self.at(to))
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.0.stat(&self.at(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        self.0.list(&self.at(path))
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.0.sync_folder(&self.at(path))
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }
}

#[derive(Default)]
struct Book {
    files: Mutex<HashMap<FileId, RecordedFile>>,
    folders: Mutex<HashMap<NodeId, Vec<(StoreName, EntryId)>>>,
    kinds: Mutex<HashMap<FileId, Kind>>,
}

impl Records for Book {
    fn file(&self, file: FileId) -> Option<RecordedFile> {
        self.files.lock().get(&file).cloned()
    }

    fn kind(&self, file: FileId) -> Option<Kind> {
        self.kinds.lock().get(&file).copied()
    }

    fn folder(&self, node: NodeId) -> Option<Vec<(StoreName, EntryId)>> {
        self.folders.lock().get(&node).cloned()
    }
}

impl Book {
    fn take(&self, seen: &Observation) {
        for file in &seen.files {
            let groups = Some(file.groups.clone());
            self.files.lock().insert(file.file, RecordedFile { length: file.length, root: file.root, groups });
            self.kinds.lock().insert(file.file, file.kind);
        }
        for folder in &seen.folders {
            let entries: Vec<_> = folder.entries.iter().map(|(name, _, id, _)| (name.clone(), *id)).collect();
            for node in std::iter::once(&folder.node).chain(&folder.also) {
                self.folders.lock().insert(*node, entries.clone());
            }
        }
    }
}

struct World {
    disk: SimDisk,
    keys: ShareKeys,
    new: ShareKeys,
    book: Arc<Book>,
    /// What every path below the folder shows.
    want: BTreeMap<String, String>,
    /// Modification times too.
    times: bool,
}

const LONG: [u8; 200] = [b'l'; 200];
/// Of a share within the one that is made.
const NESTED: ShareId = ShareId::from_bytes([9; 16]);

impl World {
    /// A root share with a folder `d`, all recorded.
    fn new() -> Self {
        let disk = SimDisk::new();
        let mut keys = ShareKeys::create(ShareId::from_bytes([1; 16]));
        Volume::init_on(&disk, &keys).unwrap();
        disk.make_folder(Path::new("shares"), 0o700).unwrap();
        disk.sync_all().unwrap();
        let new = ShareKeys::create(ShareId::from_bytes([2; 16]));
        let mut world =
            Self { disk, keys: keys.clone(), new, book: Arc::default(), want: BTreeMap::new(), times: true };
        let volume = world.open(true);
        let d = volume.mkdir(ROOT, b"d", 0o750, Who::me()).unwrap().ino;
        let e = volume.mkdir(d, b"e", 0o755, Who::me()).unwrap().ino;
        write(&volume, ROOT, b"outside", &[1; 10]);
        write(&volume, d, b"empty", b"");
        let a = write(&volume, d, b"a", &[2; 9000]);
        write(&volume, e, &LONG, &[3; 20_000]);
        // Another epoch begins: some pages, and some names, are under the second.
        keys.insert(keymgr::ids::Epoch(2), keymgr::secret::Secret32::random());
        volume.rekey(keys.clone());
        world.keys = keys;
        volume.open_file(a, OpenHow { write: true, truncate: false }).unwrap();
        volume.write(a, &[4; 100], 4000, false).unwrap();
        volume.release(a, true).unwrap();
        volume.link(a, e, b"link").unwrap();
        let outside = write(&volume, e, b"also outside", &[5; 5000]);
        volume.link(outside, ROOT, b"in the parent").unwrap();
        volume.symlink(e, b"symlink", b"../a", Who::me()).unwrap();
        volume.mknod(e, b"fifo", Kind::Fifo, 0o400, Device::default(), Who::me()).unwrap();
        let device = Device { major: 8, minor: 1 };
        volume.mknod(e, b"device", Kind::Block, 0o600, device, Who::me()).unwrap();
        volume.make_junction(e, b"nested", NESTED).unwrap();
        volume.setxattr(a, b"user.a", b"1", 0).unwrap();
        volume.setxattr(e, b"user.e", b"2", 0).unwrap();
        volume.setattr(a, SetAttr { mode: Some(0o4711), mtime: Some(12345), ..SetAttr::default() }).unwrap();
        volume.setattr(e, SetAttr { mode: Some(0o1777), mtime: Some(-5), ..SetAttr::default() }).unwrap();
        record(&world.book, &volume);
        world.want = show(&volume, d, true);
        volume.end().unwrap();
        world
    }

    fn open(&self, clean: bool) -> Volume {
        open(Arc::new(self.disk.clone()), &self.keys, &self.book, clean)
    }

    fn share(&self) -> PathBuf {
        Path::new("shares").join(self.new.share().to_string())
    }

    fn carve(&self, volume: &Volume) -> Result<()> {
        let d = volume.lookup(ROOT, b"d")?.ino;
        let at = self.share().with_extension("new");
        let mut carving = volume.carve_on(d, Arc::new(self.disk.clone()), &at, &self.new, |_| true)?;
        carving.commit(|| ()).map(drop)
    }

    /// A session after a crash. Whether the folder is a share now.
    fn look(&self) -> bool {
        let volume = self.open(false);
        settle_on(&self.disk, Path::new("shares"), |share| (share == volume.share()).then(|| volume.clone())).unwrap();
        let shares = self.disk.list(Path::new("shares")).unwrap();
        let kind = volume.lookup(ROOT, b"d").unwrap().kind;
        let done = kind == Shown::Share(self.new.share());
        if done {
            assert_eq!(shares.len(), 1);
            let book = Arc::default();
            let share = open(Arc::new(Under(self.disk.clone(), self.share())), &self.new, &book, false);
            share.adopt().unwrap();
            record(&book, &share);
            assert!(!share.is_unmended());
            assert_eq!(show(&share, ROOT, true), self.want);
            assert_eq!(share.fsck(false, |_| ()).unwrap(), []);
            assert_eq!(share.refusals(), []);
        } else {
            assert_eq!((kind, shares), (Shown::Folder, vec![]));
            assert_eq!(show(&volume, volume.lookup(ROOT, b"d").unwrap().ino, self.times), self.want);
        }
        volume.mend().unwrap();
        record(&self.book, &volume);
        assert!(!volume.is_unmended());
        assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
        assert_eq!(volume.refusals(), []);
        assert_eq!(volume.lookup(ROOT, b"in the parent").unwrap().size, 5000);
        done
    }
}

fn open(disk: Arc<dyn Store>, keys: &ShareKeys, book: &Arc<Book>, clean: bool) -> Volume {
    let o = OpenOptions { clean, ..OpenOptions::default() };
    Volume::open_on(disk, Path::new("store"), keys.clone(), book.clone(), Arc::new(Deaf), o).unwrap()
}

fn record(book: &Book, volume: &Volume) {
    for _ in 0..4 {
        let seen = volume.observe().unwrap();
        book.take(&seen);
        volume.recorded(&seen);
    }
    assert!(!volume.is_dirty());
}

fn write(volume: &Volume, parent: u64, name: &[u8], data: &[u8]) -> u64 {
    let ino = volume.create(parent, name, 0o600, Who::me()).unwrap().ino;
    volume.write(ino, data, 0, false).unwrap();
    volume.release(ino, true).unwrap();
    ino
}

/// Everything that programs can see of a folder, by path.
fn show(volume: &Volume, folder: u64, times: bool) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut next = vec![(folder, String::new())];
    while let Some((ino, at)) = next.pop() {
        let attr = volume.getattr(ino).unwrap();
        let mtime = if times { attr.mtime } else { 0 };
        let mut text = format!("{:?} {:o} {} {mtime} {:?}", attr.kind, attr.mode, attr.size, attr.device);
        if !matches!(attr.kind, Shown::Share(_)) {
            for name in volume.listxattr(ino).unwrap() {
                text += &format!(" {name:?}={:?}", volume.getxattr(ino, &name).unwrap());
            }
        }
        match attr.kind {
            Shown::Folder => {
                let handle = volume.opendir(ino).unwrap();
                let mut names = Vec::new();
                let add = |_, e: &crate::volume::DirEntry| {
                    names.push(e.name.clone());
                    false
                };
                volume.readdir(ino, handle, 0, add).unwrap();
                volume.releasedir(handle);
                for name in names.iter().filter(|n| *n != b"." && *n != b"..") {
                    let child = volume.lookup(ino, name).unwrap().ino;
                    next.push((child, format!("{at}/{}", String::from_utf8_lossy(name))));
                }
            }
            Shown::File => {
                volume.open_file(ino, OpenHow::default()).unwrap();
                let mut data = vec![0; 1 << 16];
                let len = volume.read(ino, &mut data, 0).unwrap();
                volume.release(ino, false).unwrap();
                // A link outside of the folder is none of the share's.
                text += &format!(" {}", blake3::hash(&data[..len]));
            }
            Shown::Symlink => text += &format!(" -> {:?}", volume.readlink(ino).unwrap()),
            _ => {}
        }
        out.insert(at, text);
    }
    out
}

#[test]
fn a_crash_at_any_step_leaves_the_folder_or_the_share() {
    let (mut folders, mut shares) = (0, 0);
    for steps in 0.. {
        let mut whole = false;
        for cut in [None, Some(1), Some(2), Some(3)] {
            let world = World::new();
            let volume = world.open(true);
            world.disk.kill_after(steps);
            whole = world.carve(&volume).is_ok();
            drop(volume);
            match cut {
                None => world.disk.kill(),
                Some(seed) => world.disk.power_cut(&mut Dice(steps * 10 + seed)),
            }
            let done = world.look();
            assert!(done || !whole, "it said that it was done");
            *if done { &mut shares } else { &mut folders } += 1;
        }
        if whole {
            break;
        }
        assert!(steps < 2000);
    }
    assert!(folders > 100 && shares > 8, "{folders} {shares}");
}

#[test]
fn a_crash_while_all_is_sealed_anew_loses_and_changes_nothing() {
    for steps in 0.. {
        let mut whole = false;
        for cut in [None, Some(1), Some(2)] {
            let mut world = World::new();
            let volume = world.open(true);
            // A kill may fall between a page and the time that the file had before it.
            world.times = false;
            world.want = show(&volume, volume.lookup(ROOT, b"d").unwrap().ino, false);
            world.disk.kill_after(steps);
            whole = volume.reencrypt_all(|_| true).is_ok_and(|failed| failed.is_empty()) && volume.end().is_ok();
            drop(volume);
            match cut {
                None => world.disk.kill(),
                Some(seed) => world.disk.power_cut(&mut Dice(steps * 10 + seed)),
            }
            assert!(!world.look());
        }
        if whole {
            assert!(steps > 30, "{steps}");
            break;
        }
    }
}

#[test]
fn what_a_crash_left_is_begun_again() {
    let world = World::new();
    let volume = world.open(true);
    world.disk.kill_after(60);
    world.carve(&volume).unwrap_err();
    world.disk.kill();
    let volume = world.open(false);
    volume.mend().unwrap();
    record(&world.book, &volume);
    // Without settling: a second attempt takes nothing of the first for its own.
    world.carve(&volume).unwrap();
    record(&world.book, &volume);
    world.disk.kill();
    assert!(world.look());
}
