//! Volumes on a disk that crashes: what was fsynced is there under its name, nothing that a crash left is refused, and
//! after mending all of it fits its records.
//!
//! The disk loses each step of a folder by itself, so that far out in the seeds one directory comes to lie in two places,
//! which no disk does; the run below ends before.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use keymgr::ids::{FileId, NodeId, ShareId, StoreName};
use keymgr::share::ShareKeys;
use parking_lot::Mutex;

use super::tree::Node;
use super::{OpenHow, OpenOptions, ROOT, Result, SetAttr, Volume, Who};
use crate::observe::Observation;
use crate::records::{Deaf, EntryId, RecordedFile, Records};
use crate::store::Rename;
use crate::store::sim::{Dice, SimDisk};

#[derive(Default)]
struct Book {
    files: Mutex<HashMap<FileId, RecordedFile>>,
    folders: Mutex<HashMap<NodeId, Vec<(StoreName, EntryId)>>>,
}

impl Records for Book {
    fn file(&self, file: FileId) -> Option<RecordedFile> {
        self.files.lock().get(&file).cloned()
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
        }
        for folder in &seen.folders {
            let entries = folder.entries.iter().map(|(name, _, id, _)| (name.clone(), *id)).collect();
            self.folders.lock().insert(folder.node, entries);
        }
    }
}

struct Run {
    disk: SimDisk,
    keys: ShareKeys,
    book: Arc<Book>,
    dice: Dice,
    volume: Option<Volume>,
    clean: bool,
    /// Files that were fsynced and not renamed or removed since; `None`: written to since, so that only reading is sure.
    kept: BTreeMap<String, Option<Vec<u8>>>,
    byte: u8,
    log: Vec<String>,
}

const FOLDERS: [&str; 4] = ["", "/d", "/d/e", "/f"];
const FILES: [&str; 3] = ["/x", "/y", "/LONG"];
/// What a long name stands for: one whose sealed form needs a sidecar.
const LONG: [u8; 200] = [b'l'; 200];

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new();
        let keys = ShareKeys::create(ShareId::from_bytes([1; 16]));
        Volume::init_on(&disk, &keys).unwrap();
        let book = Arc::default();
        Self {
            disk,
            keys,
            book,
            dice: Dice(seed),
            volume: None,
            clean: true,
            kept: BTreeMap::new(),
            byte: 0,
            log: vec![],
        }
    }

    fn open(&mut self) -> Result<Volume> {
        let o = OpenOptions { clean: self.clean, ..OpenOptions::default() };
        let disk = Arc::new(self.disk.clone());
        let volume =
            Volume::open_on(disk, Path::new("store"), self.keys.clone(), self.book.clone(), Arc::new(Deaf), o)?;
        self.clean = false;
        Ok(volume)
    }

    fn record(&self, volume: &Volume) -> Result<()> {
        // Twice: a folder that is observed may show a file that a crash left, which is new then.
        for _ in 0..3 {
            let seen = volume.observe()?;
            self.book.take(&seen);
            volume.recorded(&seen);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if let Some(volume) = self.volume.clone() {
            // Without it a file that an earlier crash left would keep its folder waiting.
            volume.mend()?;
            self.record(&volume)?;
            assert_eq!(unsettled(&volume), "");
            volume.end()?;
            if !volume.is_unmended() {
                self.clean = true;
            }
            self.volume = None;
        }
        Ok(())
    }

    fn path(&mut self) -> String {
        format!("{}{}", self.dice.pick(&FOLDERS), self.dice.pick(&FILES))
    }

    fn forget(&mut self, path: &str) {
        self.kept.retain(|name, _| name != path && !name.starts_with(&format!("{path}/")));
    }

    /// One operation. An error is one that a file system may give, or the kill.
    fn step(&mut self) -> Result<()> {
        let volume = match &self.volume {
            Some(volume) => volume.clone(),
            None => {
                let volume = self.open()?;
                self.volume = Some(volume.clone());
                volume
            }
        };
        let (path, other) = (self.path(), self.path());
        let name = |path: &str| plain(path.rsplit_once('/').unwrap().1);
        let parent = |path: &str| find(&volume, path.rsplit_once('/').unwrap().0);
        let roll = self.dice.below(14);
        self.log.push(format!("{roll} {path} {other}"));
        match roll {
            0..=2 => {
                let made = volume.create(parent(&path)?, &name(&path), 0o600, Who::me())?.ino;
                let data = self.data();
                volume.write(made, &data, 0, false)?;
                volume.release(made, true)?;
            }
            3 => {
                let folder = self.dice.pick(&FOLDERS[1..]);
                volume.mkdir(parent(folder)?, &name(folder), 0o700, Who::me())?;
            }
            4..=6 => {
                let ino = find(&volume, &path)?;
                if let Some(kept) = self.kept.get_mut(&path) {
                    *kept = None;
                }
                let (data, offset) = (self.data(), self.dice.below(6000));
                volume.open_file(ino, OpenHow { write: true, truncate: self.dice.below(3) == 0 })?;
                volume.write(ino, &data, offset, false)?;
                volume.release(ino, true)?;
            }
            7 => {
                let (from, to) = (parent(&path)?, parent(&other)?);
                find(&volume, &path)?;
                let how = self.dice.pick(&[Rename::Over, Rename::NoReplace, Rename::Exchange]);
                self.forget(&path);
                self.forget(&other);
                volume.rename(from, &name(&path), to, &name(&other), how)?;
            }
            8 => {
                // Folders too.
                let (a, b) = (self.dice.pick(&FOLDERS[1..]), self.dice.pick(&FOLDERS[1..]));
                if !a.starts_with(b) && !b.starts_with(a) {
                    find(&volume, a)?;
                    let (from, to) = (parent(a)?, parent(b)?);
                    self.forget(a);
                    self.forget(b);
                    volume.rename(from, &name(a), to, &name(b), self.dice.pick(&[Rename::Over, Rename::Exchange]))?;
                }
            }
            9 => {
                find(&volume, &path)?;
                self.forget(&path);
                volume.unlink(parent(&path)?, &name(&path))?;
            }
            10..=11 => {
                let ino = find(&volume, &path)?;
                let data = read(&volume, ino)?;
                volume.fsync(ino, false)?;
                self.kept.insert(path, Some(data));
            }
            12 => self.record(&volume)?,
            _ => {
                let ino = find(&volume, &path)?;
                if let Some(kept) = self.kept.get_mut(&path) {
                    *kept = None;
                }
                volume.setattr(ino, SetAttr { size: Some(self.dice.below(9000)), ..SetAttr::default() })?;
            }
        }
        Ok(())
    }

    fn data(&mut self) -> Vec<u8> {
        self.byte = self.byte.wrapping_add(1).max(1);
        vec![self.byte; self.dice.below(9000) as usize + 1]
    }

    /// After a crash: what was kept is there, nothing is refused, and mending makes it whole.
    fn look(&mut self) -> Result<()> {
        let volume = self.open()?;
        for (path, data) in &self.kept {
            let ino = find(&volume, path).unwrap_or_else(|e| panic!("{path}, fsynced, is gone: {e}"));
            let now = read(&volume, ino).unwrap_or_else(|e| panic!("{path} does not read: {e}"));
            if let Some(data) = data {
                assert!(now == *data, "{path} is not what was fsynced: {} bytes, {}", now.len(), data.len());
            }
        }
        assert_eq!(volume.refusals(), [], "before mending");
        if self.dice.below(4) > 0 {
            volume.mend()?;
            self.record(&volume)?;
            assert_eq!(unsettled(&volume), "");
            assert!(!volume.is_unmended());
            assert_eq!(volume.fsck(false, |_| ())?, []);
        }
        assert_eq!(volume.refusals(), [], "after mending");
        self.volume = Some(volume);
        Ok(())
    }
}

/// What an observation left, for a message.
fn unsettled(volume: &Volume) -> String {
    let tree = volume.0.tree.lock();
    let dirty = volume.0.dirty.lock();
    let one = |ino: &u64| match tree.nodes.get(ino) {
        Some(Node::File(file)) => {
            let state = file.file.state.read();
            let (dirty, changes, settled) = (state.dirty, state.changes, state.settled);
            format!(
                "{:?} dirty {dirty}, {changes} changes, {settled} settled, {} writers, damaged {}; ",
                file.places, state.writers, state.damaged
            )
        }
        Some(Node::Folder(folder)) => format!("{:?} with {} headers; ", folder.place, folder.headers.len()),
        None => format!("{ino}; "),
    };
    dirty.iter().map(one).collect()
}

fn plain(name: &str) -> Vec<u8> {
    if name == "LONG" { LONG.to_vec() } else { name.as_bytes().to_vec() }
}

fn find(volume: &Volume, path: &str) -> Result<u64> {
    let mut at = ROOT;
    for name in path.split('/').filter(|n| !n.is_empty()) {
        at = volume.lookup(at, &plain(name))?.ino;
    }
    Ok(at)
}

fn read(volume: &Volume, ino: u64) -> Result<Vec<u8>> {
    volume.open_file(ino, OpenHow::default())?;
    let mut out = vec![0; 1 << 16];
    let len = volume.read(ino, &mut out, 0);
    volume.release(ino, false)?;
    out.truncate(len?);
    Ok(out)
}

#[test]
fn what_was_fsynced_survives_and_what_a_crash_left_is_mended() {
    for seed in 0..400 {
        let mut run = Run::new(seed);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..3 {
                for _ in 0..run.dice.below(25) {
                    let _ = run.step();
                    if run.dice.below(12) == 0 {
                        run.log.push("close".into());
                        run.close().unwrap();
                    }
                }
                run.disk.kill_after(run.dice.below(25));
                for _ in 0..6 {
                    let _ = run.step();
                }
                run.volume = None;
                if run.dice.below(2) == 0 {
                    run.log.push("kill".into());
                    run.disk.kill();
                } else {
                    run.log.push("power cut".into());
                    let mut dice = Dice(run.dice.roll());
                    run.disk.power_cut(&mut dice);
                }
                run.look().unwrap();
            }
            run.close().unwrap();
            if run.clean {
                let volume = run.open().unwrap();
                assert_eq!(volume.fsck(false, |_| ()).unwrap(), []);
            }
        }));
        if let Err(what) = result {
            eprintln!("seed {seed}: {}", run.log.join("; "));
            std::panic::resume_unwind(what);
        }
    }
}
