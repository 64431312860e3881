//! Housekeeping, once in a while: what this device has read is signed, what everybody has read the end of is forgotten,
//! what was claimed and did not come is found out, old versions go.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keymgr::ids::{DeviceId, RecordHash};

use super::{Core, Error, Inner, Replica};
use crate::frontier::Frontier;
use crate::statement::{Seen, Signed};
use keymgr::device::DeviceKeys;

use super::faults::Wrong;
use super::seen::Taken;

/// Between two housekeepings.
pub(super) const TIDY: Duration = Duration::from_secs(10 * 60);
/// Between two signatures over what was read.
pub(super) const SIGN: Duration = Duration::from_secs(10);

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Replica {
    /// Housekeeping as of `now`; the stepping thread does it by itself.
    pub fn tidy(&self, now: SystemTime) {
        self.0.tidy(now);
    }
}

impl Inner {
    pub(super) fn tidy(&self, now: SystemTime) {
        let now = seconds(now);
        self.sign_heads(now);
        self.look_for_faults(now);
        if let Err(e) = self.forget(now) {
            self.notice(format!("old records could not be dropped: {e}"));
        }
        self.seen.lock().save();
    }

    /// Whether there is something to sign.
    pub(super) fn heads_are_due(&self) -> bool {
        let heads = {
            let core = self.core.lock();
            if core.logs.frontier().unconfirmed {
                return false;
            }
            core.engine.heads().clone()
        };
        self.seen.lock().is_due(&heads, seconds(SystemTime::now()))
    }

    /// Signs how far everybody was read here. Not while what is held is a blind device's word: others would forget what
    /// this one may never have seen.
    pub(super) fn sign_heads(&self, now: u64) {
        let heads = {
            let core = self.core.lock();
            if core.logs.frontier().unconfirmed {
                return;
            }
            core.engine.heads().clone()
        };
        let mut seen = self.seen.lock();
        if seen.is_due(&heads, now) {
            seen.sign(&self.keys, heads, now);
            drop(seen);
            self.tell();
        }
    }

    /// Drops what all devices that are waited for have read the end of.
    fn forget(&self, now: u64) -> Result<(), Error> {
        let listed: Vec<DeviceId> = {
            let circle = self.circle.borrow();
            let mut seen = self.seen.lock();
            seen.retain(|device| circle.get(device).is_some());
            circle.devices().map(|seat| seat.listed.public.id).filter(|device| seen.is_awaited(device, now)).collect()
        };
        let _authoring = self.authoring.lock();
        let mut core = self.core.lock();
        if core.logs.frontier().unconfirmed {
            return Ok(());
        }
        let gone = core.engine.forget(&listed).records;
        if gone.is_empty() {
            return Ok(());
        }
        tracing::info!("{} records are forgotten", gone.len());
        core.forgotten(&self.keys, &gone, false)?;
        self.index.put(core.engine.take_disk_changes());
        Ok(())
    }

    /// Signed heads that a peer sent, after all that it has.
    pub(super) fn take_seen(self: &Arc<Self>, peer: DeviceId, bytes: &[u8]) -> Result<(), String> {
        let share = self.core.lock().engine.share();
        let signed = Signed::<Seen>::open(bytes, share).map_err(|e| format!("signed heads: what it sent {e}"))?;
        let seen = signed.says().clone();
        if self.circle.borrow().get(&seen.device).is_none() {
            // An honest peer may not know of the removal yet.
            return Ok(());
        }
        let taken = self.seen.lock().take(signed, seconds(SystemTime::now()));
        match taken {
            Taken::Known => return Ok(()),
            Taken::Odd(what) => {
                self.fault(seen.device, what);
                return Ok(());
            }
            Taken::New => {}
        }
        if !self.has_all(&seen.heads) {
            // Who passes it on has read all that it covers, and sent it before.
            self.fault(peer, Wrong::Withholds);
        }
        self.count_heads(seen.device);
        self.tell();
        Ok(())
    }
}

impl Core {
    /// Makes it durable that records are dropped.
    pub(super) fn forgotten(
        &mut self,
        keys: &DeviceKeys,
        gone: &[RecordHash],
        unconfirmed: bool,
    ) -> Result<(), crate::log::Error> {
        let next = Frontier {
            heads: self.engine.heads().clone(),
            floor: self.engine.floor().clone(),
            doomed: self.engine.doomed().collect(),
            unconfirmed,
            ..Frontier::default()
        };
        self.logs.forget(keys, next, gone)
    }
}
