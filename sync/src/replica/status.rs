//! What a person is told of the replication.

use keymgr::circle::Access;
use keymgr::devices::Role;
use keymgr::ids::{AccountId, DeviceId};

use super::Replica;

pub struct Status {
    pub access: Access,
    pub peers: Vec<PeerStatus>,
    /// Bodies on their way here.
    pub files: u64,
    pub bytes: u64,
    /// Names of nodes with contents set apart, that no writer has settled yet.
    pub conflicts: u64,
    /// Where files that were not what their records say were put.
    pub damage: Vec<std::path::PathBuf>,
    /// Devices whose records are refused: not on the list, or they may not write.
    pub refused: Vec<DeviceId>,
    /// This disk has no room for what others have: it waits.
    pub full: bool,
    pub notices: Vec<String>,
    /// What devices did that no honest one does.
    pub faults: Vec<super::Fault>,
    /// What is held came from a blind device, and no full one has confirmed yet that it is all.
    pub unconfirmed: bool,
}

pub struct PeerStatus {
    pub id: DeviceId,
    pub account: AccountId,
    pub name: String,
    /// On its account's list, and in this share.
    pub role: Role,
    pub access: Access,
    pub jid: String,
    pub up: bool,
}

impl Replica {
    /// Compares the tree with the records, without a key: how many files were looked at, and what was found.
    pub fn check(&self) -> Result<(u64, Vec<String>), super::Error> {
        let inner = &self.0;
        let _authoring = inner.authoring.lock();
        let share = inner.core.lock().engine.share();
        let io = |source| super::Error::Io { path: inner.store.clone(), source };
        let (seen, _, odd) = crate::scan::scan(&inner.store, share, |_, _| None).map_err(io)?;
        let core = inner.core.lock();
        let mut findings: Vec<String> = odd.iter().map(|p| format!("{}: not written by kith", p.display())).collect();
        for file in &seen.files {
            match core.engine.disk_file(&file.file) {
                Some(content) if content.root == file.root => {}
                Some(_) => findings.push(format!("file {}: is not what its record says", file.file)),
                None => findings.push(format!("file {}: no record explains it", file.file)),
            }
        }
        for folder in &seen.folders {
            let Some(entries) = core.engine.disk_folder(&folder.node) else {
                findings.push(format!("folder {}: no record explains it", folder.node));
                continue;
            };
            for (name, _) in
                entries.iter().filter(|(name, id)| !folder.entries.iter().any(|e| e.name == *name && e.id == *id))
            {
                findings.push(format!("folder {}: {name} is missing", folder.node));
            }
        }
        Ok((seen.files.len() as u64, findings))
    }

    pub fn status(&self) -> Status {
        let inner = &self.0;
        let (wanted, conflicts, unconfirmed) = {
            let mut core = inner.core.lock();
            (core.engine.wanted(), core.engine.conflicts().len() as u64, core.logs.frontier().unconfirmed)
        };
        let faults = inner.faults();
        let peers = inner.peers.lock();
        let circle = inner.circle.borrow();
        let others = circle.devices().filter(|seat| seat.listed.public.id != inner.me);
        Status {
            access: inner.access,
            peers: others
                .map(|seat| PeerStatus {
                    id: seat.listed.public.id,
                    account: seat.account,
                    name: seat.listed.name.clone(),
                    role: seat.listed.role,
                    access: seat.access,
                    jid: seat.listed.jid.clone(),
                    up: peers.get(&seat.listed.public.id).is_some_and(|p| p.up),
                })
                .collect(),
            files: wanted.len() as u64,
            bytes: wanted.iter().fold(0, |sum: u64, w| sum.saturating_add(w.content.length)),
            conflicts,
            damage: inner.damage.lock().clone(),
            refused: inner.refused.lock().iter().copied().collect(),
            full: inner.bodies.is_full(),
            notices: inner.notices.lock().clone(),
            faults,
            unconfirmed,
        }
    }
}
