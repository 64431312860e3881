//! What a device did that no honest one does, found out by laying its words side by side: what it signed for others, what
//! it says here, what it sends. Shown in `kith status`; nothing is believed of it that has to be believed.

use std::time::SystemTime;

use keymgr::ids::DeviceId;
use serde::{Deserialize, Serialize};

use super::Inner;
use super::forget::seconds;
use crate::engine::Heads;

/// What may still be on its way is no fault before this.
const GRACE: u64 = 10 * 60;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Wrong {
    /// It signed two different things under one number.
    Forks,
    /// It signed that it has seen less than it had signed before.
    Back,
    /// It claims records, its own words or others' that it passes on, and does not send them.
    Withholds,
    /// It shows this device less than it showed others.
    Older,
    /// It does not give a body that it said it has.
    Dropped,
    /// It sent a snapshot that cannot be.
    Snapshot,
}

impl Wrong {
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forks => "forks",
            Self::Back => "goes-back",
            Self::Withholds => "withholds",
            Self::Older => "older",
            Self::Dropped => "dropped",
            Self::Snapshot => "snapshot",
        }
    }

    fn says(self) -> &'static str {
        match self {
            Self::Forks => "signed two different accounts of what it has seen: it may show each device something else",
            Self::Back => "signed that it has seen less than before: its store was put back, or it hides what it had",
            Self::Withholds => "says that there are records which it does not send",
            Self::Older => "shows this device an older state than it showed others",
            Self::Dropped => "does not give a file that it said it has",
            Self::Snapshot => "sent a snapshot that is not what its signature says",
        }
    }
}

/// Something that was found out about a device.
pub struct Fault {
    pub device: DeviceId,
    pub name: String,
    pub what: Wrong,
    /// Seconds since 1970.
    pub since: u64,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.what.says())
    }
}

impl Inner {
    pub(super) fn fault(&self, device: DeviceId, what: Wrong) {
        if self.seen.lock().found(device, what, seconds(SystemTime::now())) {
            tracing::warn!("{} {}", self.name_of(&device), what.says());
        }
    }

    pub(super) fn faults(&self) -> Vec<Fault> {
        let faults: Vec<_> = self.seen.lock().faults.iter().map(|((device, what), at)| (*device, *what, *at)).collect();
        let named = |(device, what, since)| Fault { device, name: self.name_of(&device), what, since };
        faults.into_iter().map(named).collect()
    }

    /// Whether everything that `claimed` covers was read here: of authors who count, since what others wrote is left out.
    pub(super) fn has_all(&self, claimed: &Heads) -> bool {
        let mine = self.core.lock().engine.heads().clone();
        claimed.iter().all(|(author, head)| mine.covers(author, head.number) || !self.counts(&author.device))
    }

    /// What was claimed and has not come, though there was time; once in a while.
    pub(super) fn look_for_faults(&self, now: u64) {
        let wanted: std::collections::HashSet<_> =
            self.core.lock().engine.wanted().into_iter().map(|w| w.content.root).collect();
        let mut claims = Vec::new();
        for (device, peer) in self.peers.lock().iter_mut().filter(|(_, p)| p.up) {
            peer.said.retain(|root| wanted.contains(root));
            peer.dropped.retain(|root| wanted.contains(root));
            claims.push((*device, peer.heads.clone(), peer.told.clone(), !peer.dropped.is_empty()));
        }
        let mut now_so = Vec::new();
        for (device, heads, told, dropped) in claims {
            if !self.has_all(&heads) {
                now_so.push((device, Wrong::Withholds));
            }
            let signed = self.seen.lock().of(&device).map(|seen| seen.heads.clone());
            if let (Some(told), Some(signed)) = (told, signed)
                && !told.covers_all(&signed)
            {
                now_so.push((device, Wrong::Older));
            }
            if dropped {
                now_so.push((device, Wrong::Dropped));
            }
        }
        let mut late = Vec::new();
        {
            let mut seen = self.seen.lock();
            seen.suspects.retain(|suspect, _| now_so.contains(suspect));
            for suspect in now_so {
                let since = seen.suspects.entry(suspect).or_insert(now);
                // A clock that was set back does not give it more time.
                *since = now.min(*since);
                if now.saturating_sub(*since) >= GRACE {
                    late.push(suspect);
                }
            }
        }
        for (device, what) in late {
            self.fault(device, what);
            if what == Wrong::Withholds {
                // Nobody waits for what does not exist, or does not come.
                self.count_heads(device);
            }
        }
    }

    /// What a device claims to have seen, by its signature and by what it says here, as the engine counts it. Of one that
    /// claims what it does not send only that counts which was seen here too.
    pub(super) fn count_heads(&self, device: DeviceId) {
        let mut claimed = self.peers.lock().get(&device).map(|p| p.heads.clone()).unwrap_or_default();
        let lies = {
            let seen = self.seen.lock();
            seen.of(&device).iter().for_each(|signed| claimed.merge(&signed.heads));
            seen.faults.contains_key(&(device, Wrong::Withholds))
        };
        let mut core = self.core.lock();
        if lies {
            claimed = core.engine.heads().meet(&claimed);
        }
        // Anew, and not on top of what it claimed once: that would grow as it likes.
        core.engine.handle_peer_gone(&device);
        core.engine.handle_peer_heads(device, &claimed);
    }
}
