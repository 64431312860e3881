//! The shares that this device runs: the root share, and each whose junction lies in one of those. They begin and end
//! as junctions come and go, their keys are learned and passed on as circles change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keymgr::circle::{Circle, Member};
use keymgr::contacts::Contacts;
use keymgr::ids::{AccountId, DeviceId, ShareId};
use keymgr::share::ShareKeys;
use keymgr::shelf::Shelf;
use parking_lot::Mutex;
use sync::members::Kept;
use sync::replica::Opened as OpenedLogs;
use sync::shares::InvitationError;

use super::Daemon;
use super::share::{Opening, Running, place};
use crate::error::{Code, Error, Result};

/// How often junctions and circles are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// A share that no device of this account or another gives is asked for again after this, and ever more rarely.
const ASK: Duration = Duration::from_secs(2);
const RARELY: Duration = Duration::from_secs(60);
/// Another admin makes a due epoch first, if it is here.
const TURN: Duration = Duration::from_secs(20);
/// How often contacts' device lists are read.
const CONTACTS: Duration = Duration::from_secs(600);
/// How long folders that became shares, or were shares that this account left, are kept in `versions/trash/`.
const TRASH: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is known of the shares beside what runs.
#[derive(Default)]
pub struct Set {
    running: Mutex<BTreeMap<ShareId, Arc<Running>>>,
    /// Shares whose junction was seen: only these end when it goes.
    seen: Mutex<BTreeSet<ShareId>>,
    /// When a missing share is asked for again, and after how long then.
    asked: Mutex<BTreeMap<ShareId, (Instant, Duration)>>,
    /// Since when a share's epoch is outdated.
    outdated: Mutex<BTreeMap<ShareId, Instant>>,
    /// One thing at a time begins or ends a share.
    pub changing: tokio::sync::Mutex<()>,
}

impl Set {
    pub fn put(&self, running: Arc<Running>) {
        self.running.lock().insert(running.share, running);
    }

    pub fn get(&self, share: ShareId) -> Option<Arc<Running>> {
        self.running.lock().get(&share).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Running>> {
        self.running.lock().values().cloned().collect()
    }

    pub fn take(&self, share: ShareId) -> Option<Arc<Running>> {
        self.seen.lock().remove(&share);
        self.running.lock().remove(&share)
    }

    /// Peers came or changed: missing shares are asked for at once.
    pub fn ask_again(&self) {
        self.asked.lock().clear();
    }
}

/// The shares that have a folder in a store.
pub fn on_disk(store: &std::path::Path) -> Vec<ShareId> {
    let entries = std::fs::read_dir(store.join("shares")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

impl Daemon {
    /// What a crash left of folders that were being made shares.
    pub fn settle_shares(&self) -> Result<()> {
        let open = |share| self.set.get(share).and_then(|r| r.volume.clone());
        fs::volume::carve::settle_shares(&self.store.join("shares"), open).map_err(|e| super::told(&e))
    }

    /// At the start: opens the shares whose junctions are known and that have a folder here.
    pub fn open_known(&self, session: u64, clean: bool) -> Result<()> {
        loop {
            let mut more = false;
            for (share, parent) in self.wanted() {
                if self.set.get(share).is_some() || !place(&self.store, share).join("members").exists() {
                    continue;
                }
                match self.open_share(share, parent, None, session, clean) {
                    Ok(Some(running)) => {
                        self.set.put(running);
                        more = true;
                    }
                    Ok(None) => {}
                    Err(e) => self.replica.notice(format!("a share cannot be opened: {e}")),
                }
            }
            if !more {
                return Ok(());
            }
            if !self.read_only {
                self.settle_shares()?;
            }
        }
    }

    /// Opens a share's folder: one that was begun before, or with what an invitation gave.
    pub fn open_share(
        &self,
        share: ShareId,
        parent: ShareId,
        given: Option<(Circle, Shelf)>,
        session: u64,
        clean: bool,
    ) -> Result<Option<Arc<Running>>> {
        let store = place(&self.store, share);
        let kept = Kept::load(&store, share)
            .map_err(|e| Error::new(Code::Damaged, e.to_string(), "The other shares go on without it."))?;
        let Some((mut circle, shelf)) = kept.or(given) else { return Ok(None) };
        // This account's own list may be newer than what the share's members know.
        if let Some(list) = self.keyring.lock().list.clone() {
            let _ = circle.learn(list);
        }
        std::fs::create_dir_all(&store).map_err(|e| Error::io(&store, &e))?;
        let keyring = self.keyring.lock().clone();
        let logs =
            OpenedLogs::open(&store, share, keyring.device.id()).map_err(|e| crate::error::replica(&store, &e))?;
        let held = keyring.share(share).cloned().unwrap_or_else(|| ShareKeys::empty(share));
        let before = held.epochs().count();
        let opening = Opening {
            store: &store,
            share,
            parent: Some(parent),
            vault: self.vault.id(),
            device: &keyring.device,
            circle,
            shelf,
            keys: held,
            incarnation: keyring.incarnation,
            session,
            clean,
            read_only: self.read_only,
        };
        let (running, keys) = Running::open(opening, logs)?;
        if keys.epochs().count() > before {
            self.keep_keys(keys)?;
        }
        Ok(Some(Arc::new(running)))
    }

    /// Shows and serves a share that was opened.
    pub fn begin_share(&self, running: &Arc<Running>, clean: bool) -> Result<()> {
        let store = place(&self.store, running.share);
        running.begin(clean, |_| {}).map_err(|e| Error::io(&store, &e))?;
        if let (Some(forest), Some(parent)) = (&self.forest, running.parent) {
            match &running.volume {
                Some(volume) => forest.add(parent, volume.clone()).map_err(|e| super::told(&e))?,
                None => forest.await_share(parent, running.share),
            }
        }
        self.set.put(running.clone());
        self.shares.add(&running.replica);
        Ok(())
    }

    /// Ends a share. Its folder stays where it is.
    pub fn end_share(&self, share: ShareId) -> Result<()> {
        drop(self.shares.remove(&share));
        let Some(running) = self.set.take(share) else { return Ok(()) };
        if let Some(forest) = &self.forest {
            forest.remove(share);
        }
        running.end().map(drop)
    }

    /// Keys of a share, durably.
    pub fn keep_keys(&self, keys: ShareKeys) -> Result<()> {
        let mut keyring = self.keyring.lock();
        match keyring.share_mut(keys.share()) {
            Some(held) => *held = keys,
            None => keyring.shares.push(keys),
        }
        self.vault.save(&keyring).map_err(|e| crate::vault::told(&self.store, e))
    }

    /// Changes contacts, durably.
    pub fn with_contacts<T>(&self, change: impl FnOnce(&mut Contacts) -> T) -> Result<T> {
        let mut keyring = self.keyring.lock();
        let before = Contacts::of(&keyring);
        let mut contacts = before.clone();
        let outcome = change(&mut contacts);
        if contacts != before {
            contacts.keep(&mut keyring);
            self.vault.save(&keyring).map_err(|e| crate::vault::told(&self.store, e))?;
        }
        Ok(outcome)
    }

    /// Learns the keys that are for this device, wraps them for whom they are lacking, makes the epoch that is due.
    /// `at_once`: without waiting for an admin that goes first.
    pub fn tend(&self, running: &Running, at_once: bool) -> Result<()> {
        let (device, held) = {
            let keyring = self.keyring.lock();
            (keyring.device.clone(), keyring.share(running.share).cloned())
        };
        let me = device.id();
        let (circle, mut shelf) = (running.replica.circle().borrow().clone(), running.replica.shelf().borrow().clone());
        let before = held.clone().unwrap_or_else(|| ShareKeys::empty(running.share));
        let mut keys = before.clone();
        shelf.open(&device, &circle, &mut keys);
        let mut changed = false;
        if keys.epochs().next().is_some() {
            let failed = |e: keymgr::epoch::Error| {
                Error::new(Code::Other, format!("A new key could not be made: {e}."), "It is tried again.")
            };
            if shelf.is_empty() {
                if circle.admins().first() == Some(&me) {
                    shelf = Shelf::first(&keys, &device, &circle).map_err(failed)?;
                    changed = true;
                }
            } else if !shelf.is_outdated(&circle) {
                self.set.outdated.lock().remove(&running.share);
            } else if let Some(rank) = circle.admins().iter().position(|id| *id == me) {
                let since = *self.set.outdated.lock().entry(running.share).or_insert_with(Instant::now);
                if at_once || since.elapsed() >= TURN * u32::try_from(rank).unwrap_or(u32::MAX) {
                    shelf.next(&mut keys, &device, &circle).map_err(failed)?;
                    changed = true;
                }
            }
            for id in shelf.lacking(&me, &keys, &circle) {
                if let Some(seat) = circle.get(&id) {
                    changed |= shelf.wrap_for(&keys, &device, seat.listed).is_ok();
                }
            }
        }
        let more = keys.epochs().count() > before.epochs().count();
        if more || (held.is_some() && keys.current() != before.current()) {
            // Durable before anything is written under it, or it is told.
            self.keep_keys(keys.clone())?;
            if let Some(volume) = &running.volume {
                volume.rekey(keys);
            }
        }
        if changed {
            running.replica.take_shelf(&shelf);
        }
        Ok(())
    }

    /// The share that the junctions of shares that run name, each with the share that it lies in.
    fn wanted(&self) -> BTreeMap<ShareId, ShareId> {
        let mut wanted = BTreeMap::new();
        let mut next = vec![self.root];
        while let Some(parent) = next.pop() {
            let Some(running) = self.set.get(parent) else { continue };
            for share in running.replica.junctions().borrow().clone() {
                if share != self.root && !wanted.contains_key(&share) {
                    wanted.insert(share, parent);
                    next.push(share);
                }
            }
        }
        wanted
    }

    pub fn account(&self) -> AccountId {
        self.keyring.lock().account_id
    }

    /// Whether this account belongs to the share, as far as its circle is known here.
    pub fn belongs(&self, circle: &Circle) -> bool {
        circle.member(&self.account()).is_some()
    }

    /// Begins and ends shares as the junctions say.
    async fn follow(self: &Arc<Self>) {
        let _changing = self.set.changing.lock().await;
        let wanted = self.wanted();
        for running in self.set.all().into_iter().filter(|r| r.share != self.root) {
            match wanted.get(&running.share) {
                Some(parent) if running.parent != Some(*parent) => self.restart(running, *parent).await,
                Some(parent) => {
                    self.set.seen.lock().insert(running.share);
                    let access = running.replica.circle().borrow().get(&self.me()).map(|seat| seat.access);
                    let lacks_volume = running.volume.is_none()
                        && access.is_some_and(|a| a.has_keys())
                        && self.keyring.lock().share(running.share).is_some();
                    let changed = access.is_some_and(|a| a != running.replica.access());
                    if lacks_volume || changed {
                        self.restart(running, *parent).await;
                    }
                }
                None if self.set.seen.lock().contains(&running.share) => self.gone(running.share).await,
                None => {}
            }
        }
        for (share, parent) in wanted {
            if self.set.get(share).is_none() {
                self.look_for(share, parent).await;
            }
        }
    }

    /// Ends a share and begins it anew: what it may, or where it lies, is another.
    async fn restart(self: &Arc<Self>, running: Arc<Running>, parent: ShareId) {
        let (this, share) = (self.clone(), running.share);
        drop(running);
        let ended = tokio::task::spawn_blocking(move || this.end_share(share)).await;
        if let Ok(Err(e)) = ended {
            self.replica.notice(format!("a share did not end well: {e}"));
        }
        // Requests of peers that were being answered hold it a moment longer.
        let mut last = None;
        for _ in 0..50 {
            let this = self.clone();
            let began = tokio::task::spawn_blocking(move || this.open_and_begin(share, parent, None)).await;
            match began {
                Ok(Err(e)) => last = Some(e),
                _ => return,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if let Some(e) = last {
            self.replica.notice(format!("a share could not be begun anew: {e}"));
        }
    }

    fn open_and_begin(&self, share: ShareId, parent: ShareId, given: Option<(Circle, Shelf)>) -> Result<()> {
        let session = self.keyring.lock().mark.session;
        match self.open_share(share, parent, given, session, false)? {
            Some(running) => self.begin_share(&running, false),
            None => Ok(()),
        }
    }

    /// The junction went: another device of this account left the share.
    async fn gone(self: &Arc<Self>, share: ShareId) {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let ended = this.end_share(share);
            this.put_away(share)?;
            ended
        });
        if let Ok(Err(e)) = done.await {
            self.replica.notice(format!("a share did not end well: {e}"));
        }
    }

    /// The folder of a share that was left goes to `versions/trash/`, with its keys kept: it may hold what nobody else has.
    pub fn put_away(&self, share: ShareId) -> Result<()> {
        let (from, trash) = (place(&self.store, share), self.store.join("versions/trash"));
        std::fs::create_dir_all(&trash).map_err(|e| Error::io(&trash, &e))?;
        match std::fs::rename(&from, trash.join(format!("{share}-left-{}", crate::vault::now()))) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&from, &e)),
            _ => Ok(()),
        }
    }

    /// Begins a share whose junction is there: from its folder, or with what a device that is here gives.
    async fn look_for(self: &Arc<Self>, share: ShareId, parent: ShareId) {
        if place(&self.store, share).join("members").exists() {
            return self.begin_in_background(share, parent, None).await;
        }
        {
            let mut asked = self.set.asked.lock();
            let (due, wait) = asked.entry(share).or_insert((Instant::now(), ASK));
            if Instant::now() < *due {
                return;
            }
            *due = Instant::now() + *wait;
            *wait = (*wait * 2).min(RARELY);
        }
        if parent == self.root
            && let Some(forest) = &self.forest
        {
            forest.await_share(parent, share);
        }
        let up: Vec<DeviceId> = self.up.lock().iter().copied().collect();
        for peer in up {
            match self.shares.invitation(peer, share).await {
                Ok(invitation) if self.belongs(&invitation.circle) => {
                    return self.begin_in_background(share, parent, Some((invitation.circle, invitation.shelf))).await;
                }
                Ok(_) | Err(InvitationError::None | InvitationError::Gone) => {}
                Err(e) => tracing::debug!("asking for a share: {e}"),
            }
        }
    }

    async fn begin_in_background(self: &Arc<Self>, share: ShareId, parent: ShareId, given: Option<(Circle, Shelf)>) {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || this.open_and_begin(share, parent, given));
        if let Ok(Err(e)) = done.await {
            self.replica.notice(format!("a share could not be begun: {e}"));
        }
    }

    pub fn me(&self) -> DeviceId {
        self.keyring.lock().device.id()
    }

    /// The name of a share's folder, as this device's tree has it.
    pub fn title(&self, running: &Running) -> String {
        let parent = running.parent.and_then(|parent| self.set.get(parent));
        let junction = parent.and_then(|p| p.volume.as_ref()?.junction(running.share));
        junction.map(|j| String::from_utf8_lossy(&j.name).into_owned()).unwrap_or_default()
    }

    /// This account's device list goes into every circle, and members' lists that a circle lacks are looked for.
    fn spread(&self) {
        let Some(list) = self.keyring.lock().list.clone() else { return };
        let contacts = Contacts::of(&self.keyring.lock());
        for running in self.set.all() {
            let circle = running.replica.circle().borrow().clone();
            if circle.list(&list.account()).is_none_or(|known| !known.knows(&list)) {
                running.replica.take_list(&list);
            }
            for contact in contacts.iter().filter(|c| circle.member(&c.account).is_some()) {
                if let Ok(theirs) = contact.devices()
                    && circle.list(&contact.account).is_none_or(|known| !known.knows(&theirs))
                {
                    running.replica.take_list(&theirs);
                }
            }
        }
    }

    /// Whoever belongs to a share of this device, but this account: to be looked for at their servers.
    pub fn others(&self) -> Vec<Member> {
        let own = self.account();
        let mut all: BTreeMap<AccountId, Member> = BTreeMap::new();
        for running in self.set.all() {
            let circle = running.replica.circle().borrow().clone();
            for member in circle.accounts().filter(|m| m.account != own) {
                all.insert(member.account, member.clone());
            }
        }
        all.into_values().collect()
    }
}

/// Runs as long as the daemon does.
pub async fn keep(daemon: Arc<Daemon>) {
    // Of what runs, and what was known of it when it was last tended.
    let mut hashes: BTreeMap<ShareId, (u64, [u8; 32], [u8; 32])> = BTreeMap::new();
    let mut titled: BTreeSet<u64> = BTreeSet::new();
    let mut contacts = Instant::now();
    if let Some(volume) = daemon.set.get(daemon.root).and_then(|running| running.volume.clone())
        && !daemon.read_only
    {
        let emptied = tokio::task::spawn_blocking(move || volume.empty_trash(TRASH)).await;
        if let Ok(Err(e)) = emptied {
            tracing::warn!("old folders of shares could not be removed: {e}");
        }
    }
    loop {
        tokio::time::sleep(LOOK).await;
        if contacts.elapsed() > CONTACTS {
            contacts = Instant::now();
            daemon.look_at_contacts().await;
        }
        daemon.follow().await;
        daemon.spread();
        for running in daemon.set.all() {
            let (circle, shelf) = (running.replica.circle().borrow().hash(), running.replica.shelf().borrow().hash());
            let now = (running.serial, circle, shelf);
            let waits = daemon.set.outdated.lock().contains_key(&running.share);
            // Its junction may be known a moment later only.
            if !titled.contains(&running.serial) {
                let (this, share) = (daemon.clone(), running.clone());
                let title = tokio::task::spawn_blocking(move || this.title(&share)).await.unwrap_or_default();
                if !title.is_empty() {
                    running.replica.set_title(&title);
                    titled.insert(running.serial);
                }
            }
            if hashes.get(&running.share) == Some(&now) && !waits {
                continue;
            }
            let (this, share) = (daemon.clone(), running.clone());
            let tended = tokio::task::spawn_blocking(move || this.tend(&share, false));
            match tended.await {
                Ok(Ok(())) => drop(hashes.insert(running.share, now)),
                Ok(Err(e)) => running.replica.notice(e.to_string()),
                Err(_) => {}
            }
        }
    }
}
