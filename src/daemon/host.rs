//! fs and sync, joined: what fs asks of the records, and what sync needs keys for. Neither knows the other.

use std::path::Path;
use std::time::Duration;

use fs::records::{EntryId as FsId, Feed, RecordedFile, Records, Refusal};
use fs::volume::{Gate, Volume};
use keymgr::ids::{FileId, Locator, NodeId, StoreName};
use parking_lot::{Condvar, Mutex};
use sync::engine::EntryId;
use sync::replica::{Host, Inside, Replica};

/// What the records say that this disk shows: from sync's engine.
pub struct FromReplica {
    pub replica: Replica,
    /// A share that was made of a folder: until its first record nothing is said of its topmost folder either.
    pub carved: bool,
}

impl FromReplica {
    fn is_silent(&self, node: NodeId) -> bool {
        self.carved && node == NodeId::root_of(self.replica.share()) && self.replica.mark_heads().is_empty()
    }
}

impl Records for FromReplica {
    fn file(&self, file: FileId) -> Option<RecordedFile> {
        let (content, groups) = self.replica.disk_file(&file)?;
        Some(RecordedFile { length: content.length, root: content.root, groups })
    }

    fn kind(&self, file: FileId) -> Option<fs::content::Kind> {
        match self.replica.disk_kind(&file)? {
            sync::record::Kind::File => Some(fs::content::Kind::File),
            sync::record::Kind::Symlink => Some(fs::content::Kind::Symlink),
            sync::record::Kind::Fifo => Some(fs::content::Kind::Fifo),
            sync::record::Kind::Socket => Some(fs::content::Kind::Socket),
            // Of these there is more in the header than a record says.
            _ => None,
        }
    }

    fn folder(&self, node: NodeId) -> Option<Vec<(StoreName, FsId)>> {
        if self.is_silent(node) {
            return None;
        }
        let entries = self.replica.disk_folder(&node)?;
        Some(entries.into_iter().map(|(name, id)| (name, to_fs(id))).collect())
    }

    fn has_folder(&self, node: NodeId) -> bool {
        !self.is_silent(node) && self.replica.has_disk_folder(&node)
    }
}

pub fn to_fs(id: EntryId) -> FsId {
    match id {
        EntryId::File(file) => FsId::File(file),
        EntryId::Folder(node) => FsId::Folder(node),
    }
}

pub fn to_sync(id: FsId) -> EntryId {
    match id {
        FsId::File(file) => EntryId::File(file),
        FsId::Folder(node) => EntryId::Folder(node),
    }
}

/// Something changed, or was refused: wakes the recorder.
#[derive(Default)]
pub struct Ears {
    changed: Mutex<bool>,
    wake: Condvar,
    refusals: Mutex<Vec<Refusal>>,
    /// Of them, what is still to be told to whoever fetches it again.
    untold: Mutex<Vec<FsId>>,
}

/// How many refusals are remembered for whoever asks; all are in the log.
const REFUSALS: usize = 1000;

impl Ears {
    /// Waits until something changed, or so long.
    pub fn wait(&self, at_most: Option<Duration>) {
        let mut changed = self.changed.lock();
        while !*changed {
            match at_most {
                Some(time) => {
                    self.wake.wait_for(&mut changed, time);
                    break;
                }
                None => self.wake.wait(&mut changed),
            }
        }
        *changed = false;
    }

    /// What was refused since this was last asked.
    pub fn take_refused(&self) -> Vec<FsId> {
        std::mem::take(&mut self.untold.lock())
    }

    /// What was refused, for a person: what it is, and what happens.
    pub fn told(&self, replica: &Replica) -> Vec<String> {
        let refusals = self.refusals.lock().clone();
        let line = |r: &Refusal| {
            let (shown, why) = (r.shown.display(), &r.why);
            match r.id {
                Some(id) if replica.is_damaged(&to_sync(id)) => {
                    format!("{shown} is damaged and refused until another device that has it gives it again: {why}")
                }
                Some(_) => format!("{shown} was damaged and is whole again; what was there is in quarantine: {why}"),
                None => format!("{shown} was refused: {why}"),
            }
        };
        refusals.iter().map(line).collect()
    }

    pub fn wake(&self) {
        *self.changed.lock() = true;
        self.wake.notify_all();
    }
}

impl Feed for Ears {
    fn changed(&self) {
        self.wake();
    }

    fn refused(&self, what: &Refusal) {
        tracing::warn!("{}: refused: {}", crate::error::printable(&what.shown.to_string_lossy()), what.why);
        let mut refusals = self.refusals.lock();
        // Each time that a program tries, it is refused again.
        refusals.retain(|r| r.path != what.path);
        refusals.push(what.clone());
        let over = refusals.len().saturating_sub(REFUSALS);
        refusals.drain(..over);
        drop(refusals);
        self.untold.lock().extend(what.id);
        self.wake();
    }
}

/// The volume, as sync sees it.
pub struct OfVolume(pub Volume);

struct InGate<'a>(&'a Gate<'a>);

impl Inside for InGate<'_> {
    fn busy(&self, id: &EntryId) -> bool {
        match id {
            EntryId::File(file) => self.0.busy(*file),
            EntryId::Folder(node) => self.0.busy_folder(*node),
        }
    }

    fn name(&self, path: &Path, id: &EntryId, attrs: &[u8]) -> std::io::Result<bool> {
        self.0.name(path, to_fs(*id), attrs).map_err(std::io::Error::other)
    }

    fn dress(&self, path: &Path, id: &EntryId, attrs: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        let shown = self.0.dress(path, to_fs(*id), attrs).map_err(std::io::Error::other)?;
        Ok((shown != attrs).then_some(shown))
    }

    fn touched(&self, folders: &[NodeId], files: &[EntryId]) {
        let (mut folders, mut changed) = (folders.to_vec(), Vec::new());
        for id in files {
            match id {
                EntryId::File(file) => changed.push(*file),
                EntryId::Folder(node) => folders.push(*node),
            }
        }
        self.0.touched(&folders, &changed);
    }
}

impl Host for OfVolume {
    fn enter(&self, f: &mut dyn FnMut(&dyn Inside)) {
        self.0.gate(|gate| f(&InGate(gate)));
    }

    fn reseal(&self, from: NodeId, name: &StoreName, to: NodeId, id: EntryId) -> Option<(StoreName, Locator)> {
        said(self.0.reseal(from, name, to, to_fs(id)))
    }

    fn conflict_name(
        &self,
        parent: NodeId,
        name: &StoreName,
        id: EntryId,
        device: &str,
        attrs: &[u8],
        attrs_for: EntryId,
    ) -> Option<(StoreName, Locator)> {
        let label = match said(self.0.day_of(attrs, to_fs(attrs_for))) {
            Some(date) => format!("{device}, {date}"),
            None => device.to_owned(),
        };
        said(self.0.conflict_name(parent, name, to_fs(id), &label))
    }

    fn verify(&self, folder: &NodeId, name: &StoreName) {
        if let Err(e) = self.0.verify_entry(*folder, name) {
            tracing::info!("{name}: {e}");
        }
    }

    fn copy_as(&self, body: &Path, to: &Path, file: FileId) -> bool {
        said(self.0.copy_as(body, to, file)).is_some()
    }

    fn readdress(&self, attrs: &[u8], from: EntryId, to: EntryId) -> Option<Vec<u8>> {
        said(self.0.readdress(attrs, to_fs(from), to_fs(to)))
    }
}

fn said<T, E: std::fmt::Display>(outcome: Result<T, E>) -> Option<T> {
    outcome.map_err(|e| tracing::warn!("settling: {e}")).ok()
}
