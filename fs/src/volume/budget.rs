//! How many calls to the disk an operation may make: ARCHITECTURE.md, "Budget".

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use keymgr::ids::{FileId, NodeId, ShareId, StoreName};
use keymgr::share::ShareKeys;
use parking_lot::Mutex;

use super::{OpenHow, OpenOptions, ROOT, Volume, Who};
use crate::content::Kind;
use crate::observe::Observation;
use crate::records::{Deaf, EntryId, RecordedFile, Records};
use crate::store::sim::SimDisk;
use crate::store::{File, Listed, Nanos, Rename, Space, Stat, Store};

type Counts = Arc<Mutex<BTreeMap<&'static str, u64>>>;

/// A disk that counts what is asked of it.
struct Counting<T: ?Sized> {
    counts: Counts,
    inner: Arc<T>,
}

impl<T: ?Sized> Counting<T> {
    fn one(&self, what: &'static str) -> &T {
        *self.counts.lock().entry(what).or_default() += 1;
        &self.inner
    }

    fn file(&self, opened: io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Counting { counts: self.counts.clone(), inner: opened? }))
    }
}

impl Store for Counting<SimDisk> {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn File>> {
        self.file(self.one("open").open(path, write))
    }
    fn open_folder(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.file(self.one("open").open_folder(path))
    }
    fn create(&self, path: &Path, mode: u32) -> io::Result<Arc<dyn File>> {
        self.file(self.one("create").create(path, mode))
    }
    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.one("mkdir").make_folder(path, mode)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.one("remove").remove_file(path)
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.one("remove").remove_folder(path)
    }
    fn rename(&self, from: &Path, to: &Path, how: Rename) -> io::Result<()> {
        self.one("rename").rename(from, to, how)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.one("link").link(from, to)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.one("stat").stat(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Listed>> {
        self.one("list").list(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.one("sync").sync_folder(path)
    }
    fn sync_all(&self) -> io::Result<()> {
        self.one("sync all").sync_all()
    }
    fn space(&self) -> io::Result<Space> {
        self.one("space").space()
    }
}

impl File for Counting<dyn File> {
    fn stat(&self) -> io::Result<Stat> {
        self.one("stat").stat()
    }
    fn length(&self) -> io::Result<u64> {
        self.one("stat").length()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.one("read").read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.one("write").write_at(buf, offset)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.one("length").set_length(length)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.one("punch").punch(offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.one("allocate").allocate(offset, len)
    }
    fn seek_data(&self, from: u64) -> io::Result<Option<u64>> {
        self.one("seek").seek_data(from)
    }
    fn seek_hole(&self, from: u64) -> io::Result<u64> {
        self.one("seek").seek_hole(from)
    }
    fn sync(&self, data_only: bool) -> io::Result<()> {
        self.one("sync").sync(data_only)
    }
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.one("mode").set_mode(mode)
    }
    fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        self.one("owner").set_owner(uid, gid)
    }
    fn set_times(&self, atime: Option<Nanos>, mtime: Option<Nanos>) -> io::Result<()> {
        self.one("times").set_times(atime, mtime)
    }
    fn xattr(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.one("xattr").xattr(name)
    }
    fn set_xattr(&self, name: &str, value: &[u8]) -> io::Result<()> {
        self.one("xattr").set_xattr(name, value)
    }
    fn remove_xattr(&self, name: &str) -> io::Result<bool> {
        self.one("xattr").remove_xattr(name)
    }
    fn xattrs(&self) -> io::Result<Vec<String>> {
        self.one("xattr").xattrs()
    }
    fn try_lock(&self, exclusive: bool) -> io::Result<bool> {
        self.one("lock").try_lock(exclusive)
    }
    fn unlock(&self) -> io::Result<()> {
        self.one("lock").unlock()
    }
    fn clone_range(&self, _: &dyn File, _: u64, _: u64) -> io::Result<bool> {
        Ok(false)
    }
}

#[derive(Default)]
struct Book {
    files: Mutex<HashMap<FileId, (RecordedFile, Kind)>>,
    folders: Mutex<HashMap<NodeId, Vec<(StoreName, EntryId)>>>,
}

impl Records for Book {
    fn file(&self, file: FileId) -> Option<RecordedFile> {
        self.files.lock().get(&file).map(|(recorded, _)| recorded.clone())
    }

    fn kind(&self, file: FileId) -> Option<Kind> {
        self.files.lock().get(&file).map(|(_, kind)| *kind)
    }

    fn folder(&self, node: NodeId) -> Option<Vec<(StoreName, EntryId)>> {
        self.folders.lock().get(&node).cloned()
    }
}

impl Book {
    fn take(&self, seen: &Observation) {
        for f in &seen.files {
            let recorded = RecordedFile { length: f.length, root: f.root, groups: Some(f.groups.clone()) };
            self.files.lock().insert(f.file, (recorded, f.kind));
        }
        for folder in &seen.folders {
            let entries = folder.entries.iter().map(|(name, _, id, _)| (name.clone(), *id)).collect();
            self.folders.lock().insert(folder.node, entries);
        }
    }
}

/// Folders and files in each of them.
const FOLDERS: u64 = 20;
const FILES: u64 = 10;
const ALL: u64 = FOLDERS * FILES;

struct World {
    disk: Arc<Counting<SimDisk>>,
    keys: ShareKeys,
    book: Arc<Book>,
}

impl World {
    fn open(&self) -> Volume {
        let o = OpenOptions { clean: true, ..OpenOptions::default() };
        let book = self.book.clone();
        Volume::open_on(self.disk.clone(), Path::new("store"), self.keys.clone(), book, Arc::new(Deaf), o).unwrap()
    }

    /// Everything recorded and durable, as at an unmount.
    fn close(&self, volume: Volume) {
        let seen = volume.observe().unwrap();
        self.book.take(&seen);
        volume.recorded(&seen);
        assert!(!volume.is_dirty());
        volume.end().unwrap();
        volume.list_emptied().unwrap();
    }

    /// What the disk is asked while `f` runs must be within the budget; what does not stand in it must not be asked at all.
    fn within(&self, what: &str, budget: &[(&str, u64)], f: impl FnOnce()) {
        self.disk.counts.lock().clear();
        f();
        let counted = self.disk.counts.lock().clone();
        for (call, count) in &counted {
            let most = budget.iter().find(|(c, _)| c == call).map_or(0, |(_, most)| *most);
            assert!(*count <= most, "{what}: {count} times {call}, not more than {most}: {counted:?}");
        }
    }
}

#[test]
fn calls_to_the_disk_stay_within_their_budget() {
    let sim = SimDisk::new();
    let keys = ShareKeys::create(ShareId::from_bytes([1; 16]));
    Volume::init_on(&sim, &keys).unwrap();
    let disk = Arc::new(Counting { counts: Counts::default(), inner: Arc::new(sim) });
    let world = World { disk, keys, book: Arc::default() };
    let volume = world.open();
    let folder = |volume: &Volume, i: u64| volume.lookup(ROOT, format!("d{i:02}").as_bytes()).unwrap().ino;
    let name = |j: u64| format!("file {j}").into_bytes();
    for i in 0..FOLDERS {
        volume.mkdir(ROOT, format!("d{i:02}").as_bytes(), 0o755, Who::me()).unwrap();
    }
    let budget =
        [("create", ALL), ("length", 2 * ALL), ("write", 2 * ALL), ("mode", ALL), ("stat", 2 * ALL), ("owner", ALL)];
    world.within("create", &budget, || {
        for i in 0..FOLDERS {
            let parent = folder(&volume, i);
            for j in 0..FILES {
                let made = volume.create(parent, &name(j), 0o644, Who::me()).unwrap().ino;
                volume.write(made, &[1; 4096], 0, false).unwrap();
                volume.release(made, true).unwrap();
            }
        }
    });
    world.close(volume);

    let volume = world.open();
    // The folders' headers are read, the files' are not.
    let lists = 2 * FOLDERS + 1;
    let budget = [("list", lists), ("open", FOLDERS), ("read", FOLDERS), ("stat", ALL + 3 * FOLDERS + 1)];
    world.within("list and stat", &budget, || {
        for i in 0..FOLDERS {
            let parent = folder(&volume, i);
            let handle = volume.opendir(parent).unwrap();
            let mut seen = 0;
            volume
                .readdirplus(parent, handle, 0, |_, _, _| {
                    seen += 1;
                    false
                })
                .unwrap();
            assert_eq!(seen, FILES + 2);
        }
    });
    let files: Vec<(u64, u64)> = (0..FOLDERS)
        .flat_map(|i| {
            let parent = folder(&volume, i);
            (0..FILES).map(move |j| (parent, j))
        })
        .collect();
    world.within("read", &[("open", ALL), ("stat", ALL), ("read", 3 * ALL)], || {
        for (parent, j) in &files {
            let ino = volume.lookup(*parent, &name(*j)).unwrap().ino;
            volume.open_file(ino, OpenHow::default()).unwrap();
            assert_eq!(volume.read(ino, &mut [0; 8192], 0).unwrap(), 4096);
            volume.release(ino, false).unwrap();
        }
    });
    // One fsync for the list would be for each folder; they are listed 1, 2, 4, 8, ... at once.
    let budget = [("open", ALL), ("write", ALL + 6), ("times", ALL), ("rename", ALL), ("sync", 5), ("allocate", 1)];
    world.within("rename", &budget, || {
        for (parent, j) in &files {
            volume.rename(*parent, &name(*j), *parent, format!("new {j}").as_bytes(), Rename::Over).unwrap();
        }
    });
    world.within("unlink", &[("remove", ALL), ("stat", ALL)], || {
        for (parent, j) in &files {
            volume.unlink(*parent, format!("new {j}").as_bytes()).unwrap();
        }
    });

    let (parent, _) = files[0];
    let big = volume.create(parent, b"big", 0o644, Who::me()).unwrap().ino;
    volume.fsync(big, false).unwrap();
    world.within("a folder whose new name is durable", &[], || volume.fsyncdir(parent).unwrap());
    world.within("16 MiB", &[("length", 16), ("read", 16), ("write", 16)], || {
        for i in 0..16 {
            volume.write(big, &[7; 1 << 20], i << 20, false).unwrap();
        }
    });
    world.within("fsync", &[("sync", 1), ("times", 1)], || volume.fsync(big, true).unwrap());
}
