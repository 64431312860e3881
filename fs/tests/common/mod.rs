//! A vault for tests: a store in a temporary folder, records in memory, and a watchdog over it all.
#![allow(dead_code)] // each test file uses a part of it

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fs::content::Kind;
use fs::mount::{Forest, MountOptions, Mounted};
use fs::observe::Observation;
use fs::records::{EntryId, Feed, RecordedFile, Records, Refusal};
use fs::volume::{OpenOptions, Volume};
use keymgr::ids::{FileId, NodeId, ShareId, StoreName, VaultId};
use keymgr::share::ShareKeys;

/// Records as whoever signs them would keep them.
#[derive(Default)]
pub struct Book {
    pub files: Mutex<HashMap<FileId, RecordedFile>>,
    pub folders: Mutex<HashMap<NodeId, Vec<(StoreName, EntryId)>>>,
    pub attrs: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub kinds: Mutex<HashMap<FileId, Kind>>,
}

impl Records for Book {
    fn file(&self, file: FileId) -> Option<RecordedFile> {
        self.files.lock().unwrap().get(&file).cloned()
    }

    fn kind(&self, file: FileId) -> Option<Kind> {
        self.kinds.lock().unwrap().get(&file).copied()
    }

    fn folder(&self, node: NodeId) -> Option<Vec<(StoreName, EntryId)>> {
        self.folders.lock().unwrap().get(&node).cloned()
    }
}

impl Book {
    pub fn take(&self, seen: &Observation) {
        for file in &seen.files {
            let recorded = RecordedFile { length: file.length, root: file.root, groups: Some(file.groups.clone()) };
            self.files.lock().unwrap().insert(file.file, recorded);
            self.kinds.lock().unwrap().insert(file.file, file.kind);
            self.attrs.lock().unwrap().insert(file.file.as_bytes().to_vec(), file.attrs.clone());
        }
        for folder in &seen.folders {
            let entries: Vec<_> = folder.entries.iter().map(|(name, _, id, _)| (name.clone(), *id)).collect();
            for node in std::iter::once(&folder.node).chain(&folder.also) {
                self.folders.lock().unwrap().insert(*node, entries.clone());
            }
            self.attrs.lock().unwrap().insert(folder.node.as_bytes().to_vec(), folder.attrs.clone());
        }
    }
}

/// Counts what it hears.
#[derive(Default)]
pub struct Ear {
    pub changes: AtomicUsize,
    pub refusals: Mutex<Vec<Refusal>>,
}

impl Feed for Ear {
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn refused(&self, what: &Refusal) {
        self.refusals.lock().unwrap().push(what.clone());
    }
}

pub struct Vault {
    pub dir: tempfile::TempDir,
    pub keys: ShareKeys,
    pub id: VaultId,
    pub book: Arc<Book>,
    pub ear: Arc<Ear>,
}

impl Vault {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = ShareKeys::create(ShareId::random());
        let id = VaultId::random();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        Volume::init(&dir.path().join("store"), id, &keys).unwrap();
        Self { dir, keys, id, book: Arc::default(), ear: Arc::default() }
    }

    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn open(&self, clean: bool) -> Volume {
        let o = OpenOptions { clean, ..OpenOptions::default() };
        Volume::open(&self.store(), self.id, self.keys.clone(), self.book.clone(), self.ear.clone(), o).unwrap()
    }

    /// Records everything that has changed.
    pub fn record(&self, volume: &Volume) -> Observation {
        let mut all = Observation::default();
        for _ in 0..100 {
            let seen = self.record_once(volume);
            all.files.extend(seen.files.iter().cloned());
            all.folders.extend(seen.folders.iter().cloned());
            if !volume.is_dirty() {
                return all;
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        panic!("something never settles");
    }

    /// Records what has settled.
    pub fn record_once(&self, volume: &Volume) -> Observation {
        let seen = volume.observe().unwrap();
        self.book.take(&seen);
        volume.recorded(&seen);
        seen
    }

    /// As an unmount does: all recorded, durable, the list emptied.
    pub fn close(&self, volume: &Volume) {
        self.record(volume);
        volume.end().unwrap();
        volume.list_emptied().unwrap();
    }

    pub fn mount(&self, volume: &Volume) -> Mount {
        self.mount_forest(&Forest::new(volume.clone()))
    }

    pub fn mount_forest(&self, forest: &Forest) -> Mount {
        let at = self.dir.path().join("mnt");
        Mount { mounted: Some(forest.mount(&at, MountOptions::default()).unwrap()), at }
    }
}

/// A mount that goes with the test.
pub struct Mount {
    mounted: Option<Mounted>,
    pub at: PathBuf,
}

impl Mount {
    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.mounted.as_ref().unwrap().requests()
    }

    pub fn unmount(mut self) {
        self.mounted.take().unwrap().unmount().unwrap();
    }

    pub fn take(mut self) -> Mounted {
        self.mounted.take().unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take()
            && mounted.unmount().is_err()
        {
            let _ = Command::new("fusermount3").arg("-uz").arg(&self.at).output();
        }
    }
}

/// Ends the process where a test hangs: a mount whose daemon is stuck holds everything up for ever.
pub struct Watchdog(Arc<Mutex<bool>>);

impl Watchdog {
    pub fn new(seconds: u64) -> Self {
        let done = Arc::new(Mutex::new(false));
        let flag = done.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(seconds));
            if !*flag.lock().unwrap() {
                eprintln!("watchdog: the test hangs");
                let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                for line in table.lines().filter(|l| l.contains("fuse.kith") && l.contains("/mnt")) {
                    if let Some(at) = line.split(' ').nth(4)
                        && at.starts_with(&*std::env::temp_dir().to_string_lossy())
                    {
                        let _ = Command::new("fusermount3").args(["-uz", at]).output();
                    }
                }
                std::process::exit(99);
            }
        });
        Self(done)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        *self.0.lock().unwrap() = true;
    }
}

/// Runs a program and gives what it printed; a failure ends the test.
pub fn run(program: &str, args: &[&str], at: &Path) -> String {
    let out = Command::new(program).args(args).current_dir(at).output().unwrap();
    assert!(
        out.status.success(),
        "{program} {args:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}
