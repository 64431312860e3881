//! What is done with or without a running daemon: fsck.

use std::sync::Arc;

use fs::volume::{OpenOptions, Volume};
use keymgr::circle::Circle;
use keymgr::shelf::Shelf;
use serde_json::{Value, json};
use sync::replica::{Opened as OpenedLogs, Replica};

use super::host::{Ears, FromReplica};
use super::{marks, network, told};
use crate::error::Result;
use crate::vault::Opened;

/// fsck of a vault that nobody has open.
pub fn fsck(opened: Opened, repair: bool) -> Result<Value> {
    let runtime = network::runtime()?;
    let _in = runtime.enter();
    let Opened { store, vault, mut keyring, lock: _lock } = opened;
    let failed = |e: sync::replica::Error| crate::error::replica(&store, &e);
    let logs = OpenedLogs::open(&store, keyring.root, keyring.device.id()).map_err(failed)?;
    let begin = marks::begin(&vault, &mut keyring, |head| logs.holds(head))?;
    let list = keyring.list.clone().ok_or_else(|| {
        crate::error::Error::new(
            crate::error::Code::Damaged,
            "The keyring has no list of devices.",
            "Put it back from a backup.",
        )
    })?;
    let config = sync::replica::Config {
        store: store.clone(),
        share: keyring.root,
        keys: Arc::new(keyring.device.clone()),
        circle: Circle::of_account(list),
        shelf: Shelf::empty(keyring.root),
        incarnation: keyring.incarnation,
        // No session of its own: it looks at the disk itself, and leaves the index as that of the last one.
        session: keyring.mark.session,
        clean: begin.clean,
    };
    let replica = Replica::start(config, logs).map_err(failed)?;
    let volume = match keyring.share(keyring.root) {
        Some(keys) => {
            let records = Arc::new(FromReplica { replica: replica.clone(), carved: false });
            let options = OpenOptions { clean: begin.clean, read_only: !repair, ..OpenOptions::default() };
            let opened = Volume::open(&store, vault.id(), keys.clone(), records, Arc::new(Ears::default()), options);
            Some(opened.map_err(|e| told(&e))?)
        }
        None => None,
    };
    let found = check(volume.as_ref(), &replica, repair);
    // What went to quarantine is looked for at the next start.
    replica.end(begin.clean && !repair);
    found
}

/// Every file, compared with its record.
pub fn check(volume: Option<&Volume>, replica: &Replica, repair: bool) -> Result<Value> {
    let (checked, findings) = match volume {
        Some(volume) => {
            let mut checked = 0;
            let findings = volume.fsck(repair, |_| checked += 1).map_err(|e| told(&e))?;
            let line = |f: &fs::volume::Finding| format!("{}: {}", f.shown.display(), f.what);
            (checked, findings.iter().map(line).collect::<Vec<_>>())
        }
        None => replica.check().map_err(|e| crate::error::replica(std::path::Path::new("."), &e))?,
    };
    Ok(json!({ "checked": checked, "findings": findings }))
}
