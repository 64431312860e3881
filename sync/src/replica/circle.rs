//! Who is in the share, as it is learned from peers and from this device's own admin: merged, made durable, told on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use keymgr::circle::{Access, Circle, Error, Seat};
use keymgr::devices::{DeviceList, Listed};
use keymgr::ids::{AccountId, DeviceId, ShareId};
use keymgr::shelf::Shelf;
use tokio::sync::watch;

use super::{Inner, Replica};
use crate::wire::{Frame, Invitation};

/// What is kept of the words of a peer that could not be judged yet.
const MAX_WAITING: usize = 64;

/// What a peer said of the circle and that is asked again whenever the circle grows.
#[derive(Default)]
pub(super) struct Said {
    /// Device lists of accounts that no member list here names.
    lists: Vec<Vec<u8>>,
    members: Option<Vec<u8>>,
    shelf: Option<Shelf>,
}

/// What of it a feed has said.
#[derive(Default, PartialEq, Eq)]
pub(super) struct Told {
    members: Option<[u8; 32]>,
    lists: std::collections::BTreeMap<AccountId, [u8; 32]>,
    /// The shelf's hash, and that of the circle by which it is judged.
    shelf: Option<([u8; 32], [u8; 32])>,
}

impl Replica {
    /// Who is in the share, now and whenever it changes.
    pub fn circle(&self) -> watch::Receiver<Circle> {
        self.0.circle.subscribe()
    }

    /// The epochs and their wrapped keys, now and whenever there are more: what [`Shelf::open`] is for.
    pub fn shelf(&self) -> watch::Receiver<Shelf> {
        self.0.shelf.subscribe()
    }

    /// A circle that this device's admin changed ([`Circle::with_member`] and its kin): merged, durable, told.
    pub fn take_circle(&self, circle: &Circle) {
        let members = circle.members().map(|m| m.to_bytes());
        self.0.learn(|mine| {
            let mut changed = false;
            if let Some(members) = &members {
                changed |= mine.take_members(members)?;
            }
            for list in circle.lists() {
                changed |= mine.learn(list.clone())?;
            }
            Ok(changed)
        });
    }

    /// A device list that this device signed, that came with a pairing, or that a contact shows.
    pub fn take_list(&self, list: &DeviceList) {
        self.0.learn(|mine| mine.learn(list.clone()));
    }

    /// A shelf that this device's admin changed.
    pub fn take_shelf(&self, shelf: &Shelf) {
        self.0.merge_shelf(shelf);
    }

    /// What an invitation says of the folder's name; empty on a blind device.
    pub fn set_title(&self, title: &str) {
        *self.0.title.lock() = title.to_owned();
    }

    pub fn share(&self) -> ShareId {
        self.0.share
    }

    /// Of this device, as it was when the replica began: where it is another in the circle now, it has to begin anew.
    pub fn access(&self) -> Access {
        self.0.access
    }

    /// Whether a device has a seat in this share: it may read here, and is read.
    pub fn has_seat(&self, device: &DeviceId) -> bool {
        self.0.circle.borrow().get(device).is_some()
    }

    /// All that have a seat, each with the version of the list that says so. An account that has no JID on its device
    /// list is found under the member list's.
    pub(crate) fn seats(&self) -> Vec<(u64, crate::net::Peer)> {
        let circle = self.0.circle.borrow();
        let peer = |seat: Seat<'_>| {
            let version = circle.list(&seat.account).map_or(0, DeviceList::version);
            let Listed { public, jid, .. } = seat.listed;
            (version, crate::net::Peer { public: public.clone(), jid: jid.clone() })
        };
        circle.devices().map(peer).collect()
    }

    pub(super) fn invitation(&self) -> Option<Vec<u8>> {
        let circle = self.0.circle.borrow();
        let invitation = Invitation {
            version: 1,
            title: self.0.title.lock().clone(),
            members: circle.members()?.to_bytes(),
            lists: circle.lists().map(DeviceList::to_bytes).collect(),
            shelf: self.0.shelf.borrow().to_bytes(),
        };
        postcard::to_stdvec(&invitation).ok()
    }
}

impl Inner {
    /// What a peer says of the circle.
    pub(super) fn take_said(self: &Arc<Self>, peer: DeviceId, frame: Frame) -> Result<(), String> {
        match frame {
            Frame::Members(bytes) => {
                if self.circle.borrow().members().is_none() {
                    return Err("a member list of an account's own share".into());
                }
                self.try_learn(|mine| mine.take_members(&bytes)).map_err(|e| format!("a member list: {e}"))?;
                self.said(peer, |said| said.members = Some(bytes));
            }
            Frame::List(bytes) => match self.try_learn(|mine| mine.take_list(&bytes)) {
                // It may know of members that this device does not know yet, or not any more.
                Err(Error::Stranger) => self.said(peer, |said| {
                    if said.lists.len() < MAX_WAITING && !said.lists.contains(&bytes) {
                        said.lists.push(bytes);
                    }
                }),
                outcome => drop(outcome.map_err(|e| format!("a device list: {e}"))?),
            },
            Frame::Shelf(bytes) => {
                let shelf = Shelf::parse(&bytes, &self.share).map_err(|e| format!("a shelf: {e}"))?;
                self.merge_shelf(&shelf);
                self.said(peer, |said| said.shelf = Some(shelf));
            }
            _ => {}
        }
        Ok(())
    }

    fn said(&self, peer: DeviceId, note: impl FnOnce(&mut Said)) {
        if let Some(p) = self.peers.lock().get_mut(&peer) {
            note(&mut p.said_of_circle);
        }
    }

    /// What this feed has not said of the circle yet.
    pub(super) fn circle_frames(&self, told: &mut Told) -> Vec<Frame> {
        let mut frames = Vec::new();
        let circle = self.circle.borrow().clone();
        if let Some(members) = circle.members() {
            let hash = members.hash();
            if told.members.replace(hash) != Some(hash) {
                frames.push(Frame::Members(members.to_bytes()));
            }
        }
        for list in circle.lists() {
            let hash = list.hash();
            if told.lists.insert(list.account(), hash) != Some(hash) {
                frames.push(Frame::List(list.to_bytes()));
            }
        }
        let shelf = self.shelf.borrow();
        let hash = (shelf.hash(), circle.hash());
        if !shelf.is_empty() && told.shelf.replace(hash) != Some(hash) {
            frames.push(Frame::Shelf(shelf.to_bytes()));
        }
        frames
    }

    pub(super) fn learn(self: &Arc<Self>, how: impl FnOnce(&mut Circle) -> Result<bool, Error>) {
        if let Err(e) = self.try_learn(how) {
            tracing::warn!("what was said of who is in the share is not taken: {e}");
        }
    }

    fn try_learn(self: &Arc<Self>, how: impl FnOnce(&mut Circle) -> Result<bool, Error>) -> Result<bool, Error> {
        let mut outcome = Ok(false);
        let changed = self.circle.send_if_modified(|circle| {
            outcome = how(circle);
            matches!(outcome, Ok(true))
        });
        if changed {
            self.grown();
        }
        outcome
    }

    /// The circle changed: what waited for that is looked at again, everybody who asked is told.
    fn grown(self: &Arc<Self>) {
        loop {
            let (mut lists, mut members, mut shelves) = (Vec::new(), Vec::new(), Vec::new());
            for p in self.peers.lock().values_mut() {
                lists.append(&mut p.said_of_circle.lists);
                members.extend(p.said_of_circle.members.clone());
                shelves.extend(p.said_of_circle.shelf.clone());
            }
            let again = self.circle.send_if_modified(|circle| {
                let taken = members.iter().filter(|bytes| circle.take_members(bytes).is_ok_and(|new| new)).count();
                taken + lists.iter().filter(|bytes| circle.take_list(bytes).is_ok_and(|new| new)).count() > 0
            });
            shelves.iter().for_each(|shelf| self.merge_shelf(shelf));
            if !again {
                break;
            }
        }
        self.keep();
        self.tell();
        self.anew.store(true, Ordering::Relaxed);
        // Whose records count may be another question now: those of others are asked for again, own ones made anew.
        if !std::mem::take(&mut *self.refused.lock()).is_empty() {
            let up: Vec<DeviceId> = self.peers.lock().iter().filter(|(_, p)| p.up).map(|(id, _)| *id).collect();
            up.into_iter().filter(|peer| self.circle.borrow().get(peer).is_some()).for_each(|peer| self.peer_up(peer));
        }
        self.kick();
    }

    fn merge_shelf(&self, shelf: &Shelf) {
        let circle = self.circle.borrow().clone();
        if self.shelf.send_if_modified(|mine| mine.merge(shelf, &circle)) {
            self.keep();
            self.tell();
        }
    }

    fn keep(&self) {
        let (circle, shelf) = (self.circle.borrow().clone(), self.shelf.borrow().clone());
        if let Err(e) = self.kept.lock().save(&circle, &shelf) {
            self.notice(format!("who is in the share could not be kept: {e}"));
        }
    }

    pub(super) fn name_of(&self, device: &DeviceId) -> String {
        let circle = self.circle.borrow();
        let listed = circle.get(device).map(|seat| seat.listed).or_else(|| circle.former(device));
        listed.map_or_else(|| device.to_string(), |listed| listed.name.clone())
    }

    /// Whether new records of a device count.
    pub(super) fn counts(&self, device: &DeviceId) -> bool {
        self.circle.borrow().may_write(device)
    }
}
