//! One share as it runs on this device: its records, its volume where there are keys, and the thread that records.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs::volume::{OpenOptions, Volume};
use keymgr::circle::Circle;
use keymgr::device::DeviceKeys;
use keymgr::ids::{Incarnation, ShareId, VaultId};
use keymgr::share::ShareKeys;
use keymgr::shelf::Shelf;
use parking_lot::Mutex;
use sync::members::Kept;
use sync::replica::{Opened as OpenedLogs, Replica};

use super::host::{Ears, FromReplica, OfVolume};
use super::recorder::{self, Recorder};
use super::told;
use crate::error::{Code, Error, Result};

/// Where a share lies in the store of the vault.
pub fn place(store: &Path, share: ShareId) -> PathBuf {
    store.join("shares").join(share.to_string())
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// How a share is opened.
pub struct Opening<'a> {
    /// The folder of the share: the store itself for the root share.
    pub store: &'a Path,
    pub share: ShareId,
    /// Where its junction lies.
    pub parent: Option<ShareId>,
    pub vault: VaultId,
    pub device: &'a DeviceKeys,
    pub circle: Circle,
    pub shelf: Shelf,
    /// What this device holds already; what the shelf gives is added.
    pub keys: ShareKeys,
    pub incarnation: Incarnation,
    pub session: u64,
    pub clean: bool,
    pub read_only: bool,
}

pub struct Running {
    /// No other that ever ran has it.
    pub serial: u64,
    pub share: ShareId,
    pub parent: Option<ShareId>,
    pub replica: Replica,
    /// None where this device has no key.
    pub volume: Option<Volume>,
    pub ears: Arc<Ears>,
    /// Nothing is observed while it is held: a folder of it is being made a share.
    pub observing: Arc<Mutex<()>>,
    recorder: Mutex<Option<Recorder>>,
}

impl Running {
    /// Opens records and volume; nothing is changed before [`Running::begin`]. Needs a runtime.
    pub fn open(opening: Opening<'_>, logs: OpenedLogs) -> Result<(Self, ShareKeys)> {
        let Opening { store, share, parent, vault, device, mut circle, mut shelf, mut keys, .. } = opening;
        let (incarnation, session, clean) = (opening.incarnation, opening.session, opening.clean);
        let damaged = |e: sync::replica::Error| crate::error::replica(store, &e);
        Kept::open(store, &mut circle, &mut shelf)
            .map_err(|e| Error::new(Code::Damaged, format!("{e}."), "Nothing was changed."))?;
        shelf.open(device, &circle, &mut keys);
        let seat = circle.get(&device.id()).map(|seat| seat.access);
        let opens = keys.epochs().next().is_some() && seat.is_some_and(|access| access.has_keys());
        if opens && !store.join("tree").join(format!(".kith-{share}")).exists() {
            let _ = std::fs::remove_dir(store.join("tree"));
            Volume::init(store, vault, &keys).map_err(|e| told(&e))?;
        }
        let config = sync::replica::Config {
            store: store.to_owned(),
            share,
            keys: Arc::new(device.clone()),
            circle,
            shelf,
            incarnation,
            session,
            clean,
        };
        let replica = Replica::start(config, logs).map_err(damaged)?;
        let ears = Arc::new(Ears::default());
        let volume = if opens {
            let records = Arc::new(FromReplica { replica: replica.clone(), carved: parent.is_some() });
            let reader = !replica.access().may_write();
            let options = OpenOptions { clean, read_only: opening.read_only, reader, ..OpenOptions::default() };
            let volume = Volume::open(store, vault, keys.clone(), records, ears.clone(), options);
            Some(volume.map_err(|e| told(&e))?)
        } else {
            None
        };
        if let (Some(volume), true) = (&volume, clean) {
            // The list is empty before the first change of this session, durably.
            volume.list_emptied().map_err(|e| told(&e))?;
        }
        let running = Self {
            serial: NEXT.fetch_add(1, Ordering::Relaxed),
            share,
            parent,
            replica,
            volume,
            ears,
            observing: Arc::default(),
            recorder: Mutex::default(),
        };
        Ok((running, keys))
    }

    /// From now on it changes. After an unclean end it is mended first, in the background; `mended` hears how many files.
    pub fn begin(self: &Arc<Self>, clean: bool, mended: impl FnOnce(u64) + Send + 'static) -> std::io::Result<()> {
        let host = self.volume.clone().map(|v| Arc::new(OfVolume(v)) as Arc<dyn sync::replica::Host>);
        let Some(volume) = self.volume.clone() else {
            self.replica.begin(None);
            return Ok(());
        };
        let recorder =
            Recorder::start(volume.clone(), self.replica.clone(), self.ears.clone(), self.observing.clone())?;
        *self.recorder.lock() = Some(recorder);
        let adopts = self.parent.is_some() && self.replica.mark_heads().is_empty();
        if clean && !adopts {
            self.replica.begin(host);
            return Ok(());
        }
        // Steps begin only after mending: what the last session changed must not be taken for what the records say.
        let this = self.clone();
        std::thread::spawn(move || {
            match if adopts { volume.adopt() } else { volume.mend() } {
                Ok(report) => mended(report.files as u64),
                Err(e) => this.replica.notice(format!("Mending did not end: {e}; the next mount goes on with it.")),
            }
            this.ears.wake();
            this.replica.begin(host);
        });
        Ok(())
    }

    /// Records what is left and ends. Whether everything is recorded and on the disk.
    pub fn end(&self) -> Result<bool> {
        if let Some(recorder) = self.recorder.lock().take() {
            recorder.end();
        }
        let mut complete = true;
        if let Some(volume) = &self.volume {
            recorder::record(volume, &self.replica, &self.observing).map_err(|e| {
                let Error { code, what, .. } = match e {
                    recorder::Error::Volume(e) => told(&e),
                    recorder::Error::Replica(e) => crate::error::replica(std::path::Path::new("records"), &e),
                };
                let todo = "Mount again once the disk has room; nothing is lost.";
                Error::new(code, format!("Not everything could be recorded: {what}"), todo)
            })?;
            volume.end().map_err(|e| told(&e))?;
            complete = !volume.is_dirty() && !volume.is_unmended();
        }
        self.replica.end(complete);
        Ok(complete)
    }
}
