//! All shares of this device over one network: requests go to the share that they name, peers are those of all shares.
//!
//! A device that has no seat in a share gets the same answer as for a share that does not exist.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use keymgr::circle::{Circle, MemberList};
use keymgr::ids::{DeviceId, ShareId};
use keymgr::shelf::Shelf;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::link::{Body, Serve, full};
use crate::net::Peer;
use crate::record::Content;
use crate::replica::{Elsewhere, Like, Peers, Replica};
use crate::wire::{self, MAX_INVITATION};

/// Shares that a device asks for at once.
const MAX_NAMED: usize = 10_000;

/// All that a device needs to begin a share: [`keymgr::shelf::Shelf::open`] gives the keys.
pub struct Invitation {
    /// What the one who answered calls the folder; empty where it does not know.
    pub title: String,
    pub circle: Circle,
    pub shelf: Shelf,
}

/// Why there is no invitation.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    #[error("the device cannot be asked: {0}")]
    Link(String),
    #[error("the device knows no such share, or this account is no member of it")]
    None,
    #[error("this account does not belong to the share any more")]
    Gone,
    #[error("what the device answered is no invitation: {0}")]
    Bad(String),
}

/// The shares that run on this device. Clones are the same.
#[derive(Clone)]
pub struct Shares(Arc<Inner>);

struct Inner {
    me: DeviceId,
    state: Mutex<State>,
    peers: watch::Sender<Vec<Peer>>,
}

#[derive(Default)]
struct State {
    shares: BTreeMap<ShareId, Running>,
    net: Option<Arc<dyn Peers>>,
    up: HashSet<DeviceId>,
    guests: Vec<Peer>,
}

struct Running {
    replica: Replica,
    /// Peers that it was told are up.
    told: HashSet<DeviceId>,
    follow: AbortHandle,
}

impl Shares {
    pub fn new(me: DeviceId) -> Self {
        Self(Arc::new(Inner { me, state: Mutex::default(), peers: watch::Sender::new(Vec::new()) }))
    }

    /// From now on this share is served, and told of its peers. Another with its id is let go first. Needs a runtime.
    pub fn add(&self, replica: &Replica) {
        let share = replica.share();
        drop(self.remove(&share));
        let (inner, mut list) = (Arc::downgrade(&self.0), replica.circle());
        let follow = tokio::spawn(async move {
            while list.changed().await.is_ok() {
                let Some(inner) = Weak::upgrade(&inner) else { return };
                inner.changed();
            }
        });
        {
            let mut state = self.0.state.lock();
            replica.set_net(state.net.clone());
            replica.set_elsewhere(Arc::new(Others(Arc::downgrade(&self.0))));
            let running = Running { replica: replica.clone(), told: HashSet::new(), follow: follow.abort_handle() };
            state.shares.insert(share, running);
        }
        self.0.changed();
    }

    /// It is no longer served. Ending it is for the caller.
    pub fn remove(&self, share: &ShareId) -> Option<Replica> {
        let running = self.0.state.lock().shares.remove(share)?;
        running.follow.abort();
        running.replica.set_net(None);
        running.told.iter().for_each(|peer| running.replica.peer_down(*peer));
        self.0.changed();
        Some(running.replica)
    }

    pub fn running(&self, share: &ShareId) -> Option<Replica> {
        Some(self.0.state.lock().shares.get(share)?.replica.clone())
    }

    /// All that run, by their ids.
    pub fn all(&self) -> Vec<Replica> {
        self.0.state.lock().shares.values().map(|running| running.replica.clone()).collect()
    }

    pub fn set_net(&self, net: Option<Arc<dyn Peers>>) {
        let mut state = self.0.state.lock();
        state.net = net;
        state.shares.values().for_each(|running| running.replica.set_net(state.net.clone()));
    }

    /// Devices to be linked with though they have no seat in any share here: those of accounts that invite this one.
    pub fn set_guests(&self, guests: Vec<Peer>) {
        self.0.state.lock().guests = guests;
        self.0.changed();
    }

    /// Whom the network is to look for: every device with a seat in any share, and the guests.
    pub fn peers(&self) -> watch::Receiver<Vec<Peer>> {
        self.0.peers.subscribe()
    }

    /// Asks a device that is linked for what is needed to begin a share. All of it is signed; whoever answers may only
    /// leave out what is new.
    pub async fn invitation(&self, peer: DeviceId, share: ShareId) -> Result<Invitation, InvitationError> {
        let bad = |e: &dyn std::fmt::Display| InvitationError::Bad(e.to_string());
        let bytes = self.get(peer, &format!("/v1/shares/{share}/invitation"), MAX_INVITATION).await?;
        let came: wire::Invitation = wire::decode(&bytes).map_err(|e| bad(&e))?;
        if came.version != 1 {
            return Err(bad(&"of a version that is not known here"));
        }
        let members = MemberList::parse(&came.members, &share).map_err(|e| bad(&e))?;
        let mut circle = Circle::of_share(members, []);
        for list in &came.lists {
            circle.take_list(list).map_err(|e| bad(&e))?;
        }
        let mut shelf = Shelf::empty(share);
        shelf.merge(&Shelf::parse(&came.shelf, &share).map_err(|e| bad(&e))?, &circle);
        Ok(Invitation { title: came.title, circle, shelf })
    }

    /// The shares in which this device has a seat, as a device that is linked knows it.
    pub async fn shares_at(&self, peer: DeviceId) -> Result<Vec<ShareId>, InvitationError> {
        let bytes = self.get(peer, "/v1/shares", MAX_NAMED * ShareId::LEN + 8).await?;
        wire::decode(&bytes).map_err(|e| InvitationError::Bad(e.to_string()))
    }

    async fn get(&self, peer: DeviceId, path: &str, most: usize) -> Result<Bytes, InvitationError> {
        let link = |e: &dyn std::fmt::Display| InvitationError::Link(e.to_string());
        let net = self.0.state.lock().net.clone().ok_or_else(|| link(&"there is no network"))?;
        let request = Request::get(path).body(Bytes::new()).map_err(|e| link(&e))?;
        let answer = net.request(peer, request).await.map_err(|e| link(&e))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::GONE => return Err(InvitationError::Gone),
            _ => return Err(InvitationError::None),
        }
        let body = Limited::new(answer.into_body(), most).collect().await;
        Ok(body.map_err(|e| InvitationError::Bad(e.to_string()))?.to_bytes())
    }

    /// Those in which a device has a seat.
    fn shares_of(&self, peer: &DeviceId) -> Vec<ShareId> {
        let state = self.0.state.lock();
        let seated = state.shares.iter().filter(|(_, running)| running.replica.has_seat(peer));
        seated.map(|(share, _)| *share).take(MAX_NAMED).collect()
    }

    /// A link to a peer came up: the feeds of all shares that it is in are read from now on.
    pub fn peer_up(&self, peer: DeviceId) {
        let mut state = self.0.state.lock();
        state.up.insert(peer);
        for running in state.shares.values_mut().filter(|r| r.replica.has_seat(&peer)) {
            running.told.insert(peer);
            running.replica.peer_up(peer);
        }
    }

    pub fn peer_down(&self, peer: DeviceId) {
        let mut state = self.0.state.lock();
        state.up.remove(&peer);
        for running in state.shares.values_mut().filter(|r| r.told.contains(&peer)) {
            running.told.remove(&peer);
            running.replica.peer_down(peer);
        }
    }
}

impl Inner {
    /// Who is in which share changed.
    fn changed(&self) {
        let mut state = self.state.lock();
        let State { shares, up, guests, .. } = &mut *state;
        for Running { replica, told, .. } in shares.values_mut() {
            for peer in up.iter() {
                match (replica.has_seat(peer), told.contains(peer)) {
                    (true, false) => {
                        told.insert(*peer);
                        replica.peer_up(*peer);
                    }
                    (false, true) => {
                        told.remove(peer);
                        replica.peer_down(*peer);
                    }
                    _ => {}
                }
            }
        }
        // What the newest list says of a device, where several shares have it.
        let mut all: HashMap<DeviceId, (u64, Peer)> = HashMap::new();
        let seats = shares.values().flat_map(|running| running.replica.seats());
        for (version, peer) in guests.iter().map(|guest| (0, guest.clone())).chain(seats) {
            if peer.public.id == self.me || peer.jid.is_empty() {
                continue;
            }
            let known = all.entry(peer.public.id).or_insert_with(|| (version, peer.clone()));
            if version > known.0 {
                *known = (version, peer);
            }
        }
        let mut peers: Vec<Peer> = all.into_values().map(|(_, peer)| peer).collect();
        peers.sort_by_key(|peer| peer.public.id);
        self.peers.send_if_modified(|old| {
            let changed = *old != peers;
            *old = peers;
            changed
        });
    }
}

/// What shares know of one another.
struct Others(Weak<Inner>);

impl Others {
    fn but(&self, not: &ShareId) -> Vec<Replica> {
        let Some(inner) = self.0.upgrade() else { return Vec::new() };
        let state = inner.state.lock();
        let others = state.shares.iter().filter(|(share, _)| *share != not);
        others.map(|(_, running)| running.replica.clone()).collect()
    }
}

impl Elsewhere for Others {
    fn body(&self, not: &ShareId, content: &Content) -> Option<Like> {
        self.but(not).iter().find_map(|replica| replica.body_like(content))
    }

    fn is_known_to(&self, peer: &DeviceId, not: &ShareId, content: &Content) -> bool {
        self.but(not).iter().any(|r| r.has_seat(peer) && !r.contents_like(content).is_empty())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.get_mut().shares.values().for_each(|running| running.follow.abort());
    }
}

impl Serve for Shares {
    fn serve<'a>(&'a self, peer: DeviceId, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
        Box::pin(async move {
            if request.uri().path() == "/v1/shares" && request.method() == Method::GET {
                return Response::new(full(postcard::to_stdvec(&self.shares_of(&peer)).unwrap_or_default()));
            }
            let named = request.uri().path().strip_prefix("/v1/shares/").and_then(|p| p.split('/').next());
            let share = named.and_then(|share| share.parse::<ShareId>().ok());
            match share.and_then(|share| self.running(&share)) {
                Some(replica) => replica.serve(peer, request).await,
                None => {
                    let mut response = Response::new(full(Bytes::new()));
                    *response.status_mut() = StatusCode::NOT_FOUND;
                    response
                }
            }
        })
    }
}
