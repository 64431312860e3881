//! How a session begins and ends (kith-store(5), "Clean and unclean"; models/pages.py, mount and umount): the mark in
//! the keyring and the one outside the store, both durable before the first change and after the last.

use std::path::PathBuf;

use keymgr::ids::Incarnation;
use keymgr::keyring::{Head, Keyring, Mark, MarkState};
use keymgr::vault::Vault;

use crate::error::{Error, Result};
use crate::paths;
use crate::vault::told;

/// What the marks say of the store that is there.
pub struct Begin {
    /// Everything on the disk must be what its record says.
    pub clean: bool,
    /// What the user has to be told.
    pub notice: Option<String>,
}

/// Compares the marks and the logs' heads. `held` says whether the logs hold a head.
pub fn begin(vault: &Vault, keyring: &mut Keyring, held: impl Fn(&Head) -> bool) -> Result<Begin> {
    let store = vault.store().to_owned();
    let inner = keyring.mark.clone();
    // None: the store came here from another machine, or this is its first session.
    let outside = vault.load_mark(&outside(vault)?).map_err(|e| told(&store, e))?.unwrap_or_else(|| inner.clone());

    let keyring_older = inner.session < outside.session
        || (outside.state == MarkState::Clean && inner.state == MarkState::Open && inner.session == outside.session);
    let records_older = [&inner, &outside].iter().any(|mark| mark.heads.iter().any(|head| !held(head)));
    let put_back = keyring_older || records_older;
    if put_back {
        // What this device signed since then is at its peers perhaps: its numbers must not be used again.
        keyring.incarnation = Incarnation::random();
    }
    let clean = inner.state == MarkState::Clean
        && (put_back || (outside.state == MarkState::Clean && inner.session == outside.session));
    if !clean {
        // What a killed session left in the page cache is counted on from now.
        sync_disk(&store)?;
    }
    Ok(Begin {
        clean,
        notice: put_back.then(|| {
            "This store is older than the one that was here last: it was put back. Nothing old was signed anew; \
             your other devices bring it up to date."
                .to_owned()
        }),
    })
}

/// `open`, outside and then in the keyring, durable before the first change.
pub fn open(vault: &Vault, keyring: &mut Keyring, begin_heads: Vec<Head>) -> Result<()> {
    let known = vault.load_mark(&outside(vault)?).map_err(|e| told(vault.store(), e))?;
    let session = keyring.mark.session.max(known.map_or(0, |m| m.session)) + 1;
    seal(vault, keyring, Mark { state: MarkState::Open, session, heads: begin_heads }, Order::OutsideFirst)
}

/// `clean`, in the keyring and then outside, after everything is recorded and on the disk.
pub fn clean(vault: &Vault, keyring: &mut Keyring, heads: Vec<Head>) -> Result<()> {
    sync_disk(vault.store())?;
    let session = keyring.mark.session;
    seal(vault, keyring, Mark { state: MarkState::Clean, session, heads }, Order::KeyringFirst)
}

enum Order {
    OutsideFirst,
    KeyringFirst,
}

fn seal(vault: &Vault, keyring: &mut Keyring, mark: Mark, order: Order) -> Result<()> {
    let path = outside(vault)?;
    let failed = |e| told(vault.store(), e);
    keyring.mark = mark.clone();
    match order {
        Order::OutsideFirst => {
            vault.save_mark(&path, &mark).map_err(failed)?;
            vault.save(keyring).map_err(failed)
        }
        Order::KeyringFirst => {
            vault.save(keyring).map_err(failed)?;
            vault.save_mark(&path, &mark).map_err(failed)
        }
    }
}

fn outside(vault: &Vault) -> Result<PathBuf> {
    paths::outside_mark(vault.id())
}

fn sync_disk(store: &std::path::Path) -> Result<()> {
    let dir = std::fs::File::open(store).map_err(|e| Error::io(store, &e))?;
    nix::unistd::syncfs(&dir).map_err(|e| Error::io(store, &e.into()))
}
