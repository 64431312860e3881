//! Signed heads that are kept: this device's own, and the newest of each other. They say what may be forgotten, who was
//! silent for how long, and, laid side by side, who tells different devices different things.
//!
//! In `records/SHARE/seen`. Losing it costs the memory of faults, and the wait until everybody has signed again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::device::DeviceKeys;
use keymgr::durable;
use keymgr::ids::{DeviceId, Incarnation, ShareId};
use serde::{Deserialize, Serialize};

use super::faults::Wrong;
use crate::engine::Heads;
use crate::statement::{Seen, Signed};

/// What a device that has nothing new signs again, so that it does not count as silent.
const AGAIN: u64 = 24 * 3600;
/// A device that signed nothing for so long is not waited for.
pub(super) const SILENT: u64 = 90 * 24 * 3600;
const MAX: u64 = 64 << 20;
/// More faults than a person reads.
const MAX_FAULTS: usize = 100;

pub(super) struct Seens {
    path: PathBuf,
    share: ShareId,
    me: DeviceId,
    incarnation: Incarnation,
    own: Option<Arc<Signed<Seen>>>,
    others: BTreeMap<DeviceId, Told>,
    /// Since when a device is known to be listed.
    since: BTreeMap<DeviceId, u64>,
    /// What was found out, and since when.
    pub faults: BTreeMap<(DeviceId, Wrong), u64>,
    /// What may still be on its way, and since when.
    pub suspects: HashMap<(DeviceId, Wrong), u64>,
    changed: bool,
}

struct Told {
    signed: Arc<Signed<Seen>>,
    /// When it was first seen here, by this device's clock.
    heard: u64,
}

#[derive(Serialize, Deserialize, Default)]
struct Wire {
    own: Option<Vec<u8>>,
    others: Vec<(Vec<u8>, u64)>,
    since: Vec<(DeviceId, u64)>,
    faults: Vec<(DeviceId, Wrong, u64)>,
}

/// What became of signed heads that came.
pub(super) enum Taken {
    /// They are this device's own, or known already.
    Known,
    New,
    /// New, and they do not fit what the same device signed before.
    Odd(Wrong),
}

impl Seens {
    pub fn open(store: &Path, share: ShareId, me: DeviceId, incarnation: Incarnation) -> Self {
        let path = store.join("records").join(share.to_string()).join("seen");
        let wire: Wire = durable::load(&path, MAX).ok().and_then(|b| postcard::from_bytes(&b).ok()).unwrap_or_default();
        let open = |bytes: &[u8]| Signed::<Seen>::open(bytes, share).ok().map(Arc::new);
        let own = wire.own.and_then(|b| open(&b)).filter(|s| s.says().device == me);
        let others = wire.others.into_iter().filter_map(|(bytes, heard)| {
            let signed = open(&bytes)?;
            Some((signed.says().device, Told { signed, heard }))
        });
        Self {
            path,
            share,
            me,
            incarnation,
            own,
            others: others.filter(|(device, _)| *device != me).collect(),
            since: wire.since.into_iter().collect(),
            faults: wire.faults.into_iter().map(|(device, what, at)| ((device, what), at)).collect(),
            suspects: HashMap::new(),
            changed: false,
        }
    }

    /// Of every other device.
    pub fn heads(&self) -> impl Iterator<Item = (DeviceId, &Heads)> {
        self.others.iter().map(|(device, told)| (*device, &told.signed.says().heads))
    }

    pub fn of(&self, device: &DeviceId) -> Option<&Seen> {
        self.others.get(device).map(|told| told.signed.says())
    }

    /// All of them, this device's own first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Signed<Seen>>> {
        self.own.iter().chain(self.others.values().map(|told| &told.signed))
    }

    /// The number of the next thing that this device signs.
    pub fn number(&self, now: u64) -> u64 {
        self.own.as_ref().map_or(now, |own| now.max(own.says().number.saturating_add(1)))
    }

    /// Whether there is something to sign.
    pub fn is_due(&self, heads: &Heads, now: u64) -> bool {
        match &self.own {
            Some(own) => own.says().heads != *heads || now.saturating_sub(own.says().number) > AGAIN,
            None => true,
        }
    }

    pub fn sign(&mut self, keys: &DeviceKeys, heads: Heads, now: u64) {
        let seen = Seen::new(self.share, self.me, self.incarnation, self.number(now), heads);
        match Signed::sign(keys, seen) {
            Some(signed) => self.own = Some(Arc::new(signed)),
            None => tracing::warn!("more authors than can be signed for at once"),
        }
        self.changed = true;
    }

    pub fn take(&mut self, signed: Signed<Seen>, now: u64) -> Taken {
        let seen = signed.says();
        if seen.device == self.me {
            return Taken::Known;
        }
        let mut taken = Taken::New;
        if let Some(old) = self.of(&seen.device) {
            let same_life = old.incarnation == seen.incarnation;
            if seen.number == old.number && same_life {
                return if *old == *seen { Taken::Known } else { Taken::Odd(Wrong::Forks) };
            }
            let (older, newer) = if seen.number < old.number { (seen, old) } else { (old, seen) };
            if same_life && !newer.heads.covers_all(&older.heads) {
                taken = Taken::Odd(Wrong::Back);
            }
            // What it had signed first stays, so that others hear of it too.
            if seen.number < old.number || matches!(taken, Taken::Odd(_)) {
                return if matches!(taken, Taken::Odd(_)) { taken } else { Taken::Known };
            }
        }
        self.others.insert(seen.device, Told { signed: Arc::new(signed), heard: now });
        self.changed = true;
        taken
    }

    /// Whether a listed device is still waited for.
    pub fn is_awaited(&mut self, device: &DeviceId, now: u64) -> bool {
        if *device == self.me {
            return true;
        }
        let changed = &mut self.changed;
        let since = *self.since.entry(*device).or_insert_with(|| {
            *changed = true;
            now
        });
        let heard = self.others.get(device).map_or(since, |told| told.heard.max(since));
        now.saturating_sub(heard) < SILENT
    }

    /// Forgets who is listed no more.
    pub fn retain(&mut self, listed: impl Fn(&DeviceId) -> bool) {
        let before = self.others.len() + self.since.len();
        self.others.retain(|device, _| listed(device));
        self.since.retain(|device, _| listed(device));
        self.changed |= before != self.others.len() + self.since.len();
    }

    /// Whether it was not known yet.
    pub fn found(&mut self, device: DeviceId, what: Wrong, now: u64) -> bool {
        if self.faults.len() >= MAX_FAULTS || self.faults.contains_key(&(device, what)) {
            return false;
        }
        self.faults.insert((device, what), now);
        self.changed = true;
        true
    }

    pub fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let wire = Wire {
            own: self.own.as_ref().map(|s| s.bytes().to_vec()),
            others: self.others.values().map(|t| (t.signed.bytes().to_vec(), t.heard)).collect(),
            since: self.since.iter().map(|(device, at)| (*device, *at)).collect(),
            faults: self.faults.iter().map(|((device, what), at)| (*device, *what, *at)).collect(),
        };
        let saved = postcard::to_stdvec(&wire).map(|bytes| durable::save(&self.path, &bytes));
        if let Ok(Err(e)) = saved {
            tracing::warn!("what others have seen could not be kept: {e}");
        }
    }
}
