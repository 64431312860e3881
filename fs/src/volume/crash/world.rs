//! A volume on a simulated disk, and a user, a recorder and a sync that work on it by the dice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::ids::{FileId, NodeId, ShareId, StoreName};
use keymgr::root::LOCATOR;
use keymgr::share::ShareKeys;
use parking_lot::Mutex;

use super::super::tree::Node;
use super::super::{OpenHow, OpenOptions, Result, SetAttr, Volume, Who};
use super::oracle::{Oracle, find, id_of, read, remove_all};
use super::plain;
use crate::content::Kind;
use crate::observe::Observation;
use crate::records::{Deaf, EntryId, RecordedFile, Records};
use crate::store::sim::{Dice, SimDisk};
use crate::store::{Rename, Store};

const FOLDERS: [&str; 4] = ["", "/d", "/d/e", "/f"];
const FILES: [&str; 3] = ["/x", "/y", "/LONG"];

/// The records, as the logs and the index have them.
#[derive(Default)]
pub struct Book {
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
    fn fork(&self) -> Self {
        Self {
            files: Mutex::new(self.files.lock().clone()),
            folders: Mutex::new(self.folders.lock().clone()),
            kinds: Mutex::new(self.kinds.lock().clone()),
        }
    }

    pub fn take(&self, seen: &Observation) {
        for file in &seen.files {
            let groups = Some(file.groups.clone());
            self.files.lock().insert(file.file, RecordedFile { length: file.length, root: file.root, groups });
            self.kinds.lock().insert(file.file, file.kind);
        }
        for folder in &seen.folders {
            let entries = folder.entries.iter().map(|(name, _, id, _)| (name.clone(), *id)).collect();
            self.folders.lock().insert(folder.node, entries);
        }
    }
}

/// A recorded version of a file, as a peer may bring it back.
#[derive(Clone)]
struct Version {
    file: FileId,
    recorded: RecordedFile,
    cipher: Arc<Vec<u8>>,
    plain: Arc<Vec<u8>>,
}

pub struct World {
    disk: SimDisk,
    /// The disk writes 512 bytes at once, not 4096.
    torn: bool,
    keys: ShareKeys,
    book: Arc<Book>,
    pub dice: Dice,
    volume: Option<Volume>,
    clean: bool,
    oracle: Oracle,
    versions: Vec<Version>,
    /// An installation that a crash may have broken off: sync looks at the disk before anybody else does.
    installing: Option<(PathBuf, Version)>,
    byte: u8,
    pub log: Vec<String>,
}

impl World {
    pub fn new(seed: u64, torn: bool) -> Self {
        let disk = SimDisk::new();
        let keys = ShareKeys::create(ShareId::from_bytes([1; 16]));
        Volume::init_on(&disk, &keys).unwrap();
        Self {
            disk,
            torn,
            keys,
            book: Arc::default(),
            dice: Dice(seed),
            volume: None,
            clean: true,
            oracle: Oracle::new(torn),
            versions: vec![],
            installing: None,
            byte: 0,
            log: vec![],
        }
    }

    /// The same again, to try what another cut leaves.
    pub fn fork(&mut self) -> Self {
        Self {
            disk: self.disk.fork(),
            torn: self.torn,
            keys: self.keys.clone(),
            book: Arc::new(self.book.fork()),
            dice: Dice(self.dice.roll()),
            volume: None,
            clean: self.clean,
            oracle: self.oracle.clone(),
            versions: self.versions.clone(),
            installing: self.installing.clone(),
            byte: self.byte,
            log: self.log.clone(),
        }
    }

    fn open(&mut self) -> Result<Volume> {
        self.look_at_installation();
        let o = OpenOptions { clean: self.clean, ..OpenOptions::default() };
        let disk = Arc::new(self.disk.clone());
        let volume =
            Volume::open_on(disk, Path::new("store"), self.keys.clone(), self.book.clone(), Arc::new(Deaf), o)?;
        self.clean = false;
        Ok(volume)
    }

    fn record(&mut self, volume: &Volume) -> Result<()> {
        // More than once: a folder that is observed may show a file that a crash left, which is new then.
        for _ in 0..3 {
            let seen = volume.observe()?;
            for file in &seen.files {
                self.remember(volume, file.file);
            }
            self.book.take(&seen);
            volume.recorded(&seen);
        }
        let recorded = self.book.files.lock();
        for version in self.versions.iter_mut().filter(|v| v.recorded.length == u64::MAX) {
            if let Some(now) = recorded.get(&version.file) {
                version.recorded = now.clone();
            }
        }
        drop(recorded);
        self.versions.retain(|v| v.recorded.length != u64::MAX);
        let old = self.versions.len().saturating_sub(6);
        self.versions.drain(..old);
        Ok(())
    }

    /// Keeps what is being recorded; its record comes in a moment.
    fn remember(&mut self, volume: &Volume, file: FileId) {
        let Some(ino) = volume.0.tree.lock().files.get(&file).copied() else { return };
        let Ok((_, Some(path))) = volume.0.find(ino) else { return };
        let (Some(cipher), Ok(plain)) = (bytes_of(&self.disk, &path), read(volume, ino)) else { return };
        let groups = None;
        let recorded = RecordedFile { length: u64::MAX, root: keymgr::ids::Root::from_bytes([0; 32]), groups };
        self.versions.push(Version { file, recorded, cipher: Arc::new(cipher), plain: Arc::new(plain) });
    }

    pub fn close(&mut self) -> Result<()> {
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

    /// In a vault that was closed cleanly fsck finds nothing.
    pub fn end(mut self) -> Result<()> {
        self.close()?;
        if self.clean {
            let volume = self.open()?;
            let found = volume.fsck(false, |_| ())?;
            assert!(self.torn || found.is_empty(), "{found:?}");
        }
        Ok(())
    }

    fn path(&mut self) -> String {
        format!("{}{}", self.dice.pick(&FOLDERS), self.dice.pick(&FILES))
    }

    fn data(&mut self) -> Vec<u8> {
        self.byte = self.byte.wrapping_add(1).max(1);
        vec![self.byte; self.dice.below(9000) as usize + 1]
    }

    /// One operation. An error is one that a file system may give, or the kill.
    pub fn step(&mut self) -> Result<()> {
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
        let roll = self.dice.below(22);
        self.log.push(format!("{roll} {path} {other}"));
        match roll {
            0..=2 => {
                let made = volume.create(parent(&path)?, &name(&path), 0o600, Who::me())?.ino;
                let (id, data) = (id_of(&volume, made), self.data());
                self.oracle.made(id);
                self.oracle.writes(id, 0, &data);
                let written = volume.write(made, &data, 0, false);
                volume.release(made, true)?;
                written?;
            }
            3 => {
                let folder = self.dice.pick(&FOLDERS[1..]);
                volume.mkdir(parent(folder)?, &name(folder), 0o700, Who::me())?;
            }
            4..=6 => {
                let ino = find(&volume, &path)?;
                let id = id_of(&volume, ino);
                let (data, offset, truncate) = (self.data(), self.dice.below(6000), self.dice.below(3) == 0);
                if truncate {
                    self.oracle.doubts(id, 0, u64::MAX);
                }
                self.oracle.writes(id, offset, &data);
                volume.open_file(ino, OpenHow { write: true, truncate })?;
                let written = volume.write(ino, &data, offset, false);
                volume.release(ino, true)?;
                written?;
            }
            7 => {
                let (from, to) = (parent(&path)?, parent(&other)?);
                find(&volume, &path)?;
                let how = self.dice.pick(&[Rename::Over, Rename::NoReplace, Rename::Exchange]);
                self.oracle.forget(&path);
                self.oracle.forget(&other);
                volume.rename(from, &name(&path), to, &name(&other), how)?;
            }
            8 => {
                // Folders too.
                let (a, b) = (self.dice.pick(&FOLDERS[1..]), self.dice.pick(&FOLDERS[1..]));
                if !a.starts_with(b) && !b.starts_with(a) {
                    find(&volume, a)?;
                    let (from, to) = (parent(a)?, parent(b)?);
                    self.oracle.forget(a);
                    self.oracle.forget(b);
                    volume.rename(from, &name(a), to, &name(b), self.dice.pick(&[Rename::Over, Rename::Exchange]))?;
                }
            }
            9 => {
                find(&volume, &path)?;
                self.oracle.forget(&path);
                volume.unlink(parent(&path)?, &name(&path))?;
            }
            10 | 11 => {
                let ino = find(&volume, &path)?;
                let data = read(&volume, ino)?;
                volume.fsync(ino, self.dice.below(2) == 0)?;
                self.oracle.synced(&path, id_of(&volume, ino), &data);
            }
            12 | 13 => self.record(&volume)?,
            14 => {
                let ino = find(&volume, &path)?;
                let size = self.dice.below(9000);
                self.oracle.doubts(id_of(&volume, ino), size, u64::MAX);
                volume.setattr(ino, SetAttr { size: Some(size), ..SetAttr::default() })?;
            }
            15 => {
                let ino = find(&volume, &path)?;
                let (data, id) = (self.data(), id_of(&volume, ino));
                let end = volume.getattr(ino)?.size;
                self.oracle.writes(id, end, &data);
                volume.write(ino, &data, end, false)?;
            }
            16 => {
                let ino = find(&volume, &path)?;
                let (at, len) = (self.dice.below(9000), self.dice.below(9000) + 1);
                self.oracle.doubts(id_of(&volume, ino), at, at + len);
                volume.fallocate(ino, at, len, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)?;
            }
            17 => {
                let ino = find(&volume, &path)?;
                volume.link(ino, parent(&other)?, &name(&other))?;
            }
            18 => {
                let folder = self.dice.pick(&FOLDERS[1..]);
                let above = parent(folder)?;
                volume.rmdir(above, &name(folder))?;
            }
            19 => {
                find(&volume, &path)?;
                volume.fsyncdir(parent(&path)?)?;
                self.oracle.named(&path);
            }
            _ => self.install(&volume)?,
        }
        Ok(())
    }

    /// Sync puts another version of a file there: aside, fsynced, renamed over, as sync/src/install does.
    fn install(&mut self, volume: &Volume) -> Result<()> {
        if self.versions.is_empty() {
            return Ok(());
        }
        let version = self.versions[self.dice.below(self.versions.len() as u64) as usize].clone();
        let io = super::super::Error::io(Path::new("install"));
        volume.gate(|gate| {
            let place = {
                let tree = volume.0.tree.lock();
                let Some(ino) = tree.files.get(&version.file) else { return Ok(()) };
                let Ok(Some(path)) = tree.file_path(*ino) else { return Ok(()) };
                let file = tree.file(*ino)?;
                // Names of one file are links: sync makes them anew, which is not what is tried here.
                let [place] = &file.places[..] else { return Ok(()) };
                let folder = tree.folder(place.parent)?;
                let Some((node, _)) = folder.headers.first() else { return Ok(()) };
                let settled = !folder.dirty && self.book.folders.lock().contains_key(node);
                settled.then_some((path, *node))
            };
            let Some((path, node)) = place else { return Ok(()) };
            let shown = self.book.files.lock().get(&version.file).cloned();
            if gate.busy(version.file) || shown.is_none() || self.disk.stat(&path).is_ok_and(|s| s.links > 1) {
                return Ok(());
            }
            let mut cipher = version.cipher.to_vec();
            if let Some(now) = bytes_of(&self.disk, &path) {
                cipher[LOCATOR].copy_from_slice(&now[LOCATOR]);
            }
            self.oracle.installs(version.file, &version.plain);
            self.installing = Some((path.clone(), version.clone()));
            let put = || {
                let aside = Path::new("aside");
                if self.disk.stat(aside).is_ok() {
                    self.disk.remove_file(aside)?;
                }
                let file = self.disk.create(aside, 0o600)?;
                file.set_length(cipher.len() as u64)?;
                for (k, page) in cipher.chunks(4096).enumerate() {
                    if page.iter().any(|b| *b != 0) {
                        file.write_at(page, k as u64 * 4096)?;
                    }
                }
                file.sync(false)?;
                self.disk.rename(aside, &path, Rename::Over)?;
                self.disk.sync_folder(path.parent().unwrap_or(Path::new("")))
            };
            put().map_err(io)?;
            self.book.files.lock().insert(version.file, version.recorded.clone());
            self.installing = None;
            gate.touched(&[node], &[version.file]);
            Ok(())
        })
    }

    /// What sync does at its start: which of the two versions does the disk show?
    fn look_at_installation(&mut self) {
        let Some((path, version)) = self.installing.take() else { return };
        let same = |now: Vec<u8>| {
            now.len() == version.cipher.len()
                && now.iter().zip(version.cipher.iter()).enumerate().all(|(i, (a, b))| LOCATOR.contains(&i) || a == b)
        };
        if bytes_of(&self.disk, &path).is_some_and(same) {
            self.book.files.lock().insert(version.file, version.recorded);
        }
    }

    /// The process is killed after so many steps of the disk, whatever it does then.
    pub fn run_into_kill(&mut self) {
        self.disk.kill_after(self.dice.below(25));
        for _ in 0..6 {
            let _ = self.step();
        }
        self.volume = None;
    }

    /// What was killed, or the power.
    pub fn crash(&mut self) {
        let mut dice = Dice(self.dice.roll());
        if self.dice.below(4) == 0 {
            self.log.push("kill".into());
            self.disk.kill();
        } else {
            self.log.push("power cut".into());
            if self.torn {
                self.disk.torn_cut(&mut dice);
            } else {
                self.disk.power_cut(&mut dice);
            }
        }
    }

    /// After a crash: all that was promised holds, nothing is refused, and mending makes it whole; also when it is
    /// broken off and begun again. How many states were looked at.
    pub fn look(&mut self) -> Result<u64> {
        let mut states = 1;
        if self.dice.below(3) == 0 {
            let mut again = self.fork();
            again.log.push("broken off while mending".into());
            again.disk.kill_after(again.dice.below(20));
            if let Ok(volume) = again.open() {
                let _ = volume.mend().and_then(|_| again.record(&volume));
            }
            again.crash();
            states += again.look_once().inspect_err(|e| panic!("{}: {e}", again.log.join("; ")))?;
        }
        states += self.look_once()? - 1;
        Ok(states)
    }

    fn look_once(&mut self) -> Result<u64> {
        let volume = self.open()?;
        self.oracle.check(&volume)?;
        self.nothing_refused(&volume, "before mending");
        match self.dice.below(8) {
            0 => {}
            1 => {
                let mut gone = self.fork();
                let volume = gone.open()?;
                remove_all(&volume)?;
                gone.record(&volume)?;
                return Ok(1);
            }
            _ => {
                volume.mend()?;
                self.record(&volume)?;
                assert_eq!(unsettled(&volume), "");
                assert!(!volume.is_unmended());
                let found = volume.fsck(false, |_| ())?;
                assert!(self.torn || found.is_empty(), "{found:?}");
                self.oracle.check(&volume)?;
            }
        }
        self.nothing_refused(&volume, "after mending");
        self.volume = Some(volume);
        Ok(1)
    }

    /// But for the pages that a disk tore.
    fn nothing_refused(&self, volume: &Volume, when: &str) {
        assert!(self.torn || volume.refusals().is_empty(), "{when}: {:?}", volume.refusals());
    }
}

fn bytes_of(disk: &SimDisk, path: &Path) -> Option<Vec<u8>> {
    let file = disk.open(path, false).ok()?;
    let mut bytes = vec![0; file.length().ok()? as usize];
    file.read_at(&mut bytes, 0).ok()?;
    Some(bytes)
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
