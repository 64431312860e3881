//! Who is there: directed presence with caps and the device's id, to the JIDs of listed peers and to nobody else.
//!
//! Presence only says where to knock. Whether it is the device that it says, the link's pinned key decides.

use std::collections::HashMap;

use keymgr::ids::DeviceId;
use tokio::sync::watch;
use tokio_xmpp::jid::{BareJid, Jid};
use tokio_xmpp::minidom::Element;
use tokio_xmpp::parsers::caps::{Caps, compute_disco, hash_caps};
use tokio_xmpp::parsers::disco::{DiscoInfoResult, Identity};
use tokio_xmpp::parsers::hashes::Algo;
use tokio_xmpp::parsers::presence::Presence;

use super::xml::{self, Build, KITH};
use super::{Peer, jingle};

/// Where a device was last seen. `life` changes with each start of its program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub jid: Jid,
    pub life: String,
}

/// The listed peers and where they are.
#[derive(Default)]
pub(super) struct Table {
    peers: HashMap<DeviceId, Entry>,
}

struct Entry {
    peer: Peer,
    bare: BareJid,
    seen: watch::Sender<Option<Seen>>,
}

/// What a stanza of presence made known.
pub(super) enum News {
    /// Nothing that concerns a listed peer.
    None,
    /// A device that is no peer.
    Stranger,
    /// A listed peer is there, and does not know yet that this device is.
    Answer(Jid),
    /// It is there, or gone.
    Noted,
}

impl Table {
    /// Takes the list; gives the peers that are new on it, and those that left it.
    pub fn set(&mut self, me: DeviceId, list: &[Peer]) -> (Vec<Peer>, Vec<DeviceId>) {
        let mut kept = HashMap::new();
        let mut new = Vec::new();
        for peer in list.iter().filter(|peer| peer.public.id != me) {
            let Ok(jid) = Jid::new(&peer.jid) else { continue };
            let bare = jid.to_bare();
            match self.peers.remove(&peer.public.id) {
                Some(entry) if entry.bare == bare && entry.peer.public == peer.public => {
                    kept.insert(peer.public.id, entry);
                }
                _ => {
                    new.push(peer.clone());
                    let entry = Entry { peer: peer.clone(), bare, seen: watch::Sender::new(None) };
                    kept.insert(peer.public.id, entry);
                }
            }
        }
        let gone = self.peers.keys().copied().collect();
        self.peers = kept;
        (new, gone)
    }

    pub fn watch(&self, device: &DeviceId) -> Option<watch::Receiver<Option<Seen>>> {
        self.peers.get(device).map(|entry| entry.seen.subscribe())
    }

    /// The listed peer that `device` is, if `from` is its JID.
    pub fn listed(&self, device: &DeviceId, from: &Jid) -> Option<&Peer> {
        self.peers.get(device).filter(|entry| entry.bare == from.to_bare()).map(|entry| &entry.peer)
    }

    /// Whether any listed peer has this bare JID.
    pub fn knows(&self, from: &Jid) -> bool {
        let bare = from.to_bare();
        self.peers.values().any(|entry| entry.bare == bare)
    }

    /// The bare JIDs to announce this device to.
    pub fn addresses(&self) -> Vec<BareJid> {
        let mut all: Vec<_> = self.peers.values().map(|entry| entry.bare.clone()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The broker is gone: nobody is known to be there.
    pub fn forget(&mut self) {
        for entry in self.peers.values() {
            entry.seen.send_replace(None);
        }
    }

    pub fn gone(&mut self, from: &Jid) {
        for entry in self.peers.values() {
            entry.seen.send_if_modified(|seen| {
                let is = seen.as_ref().is_some_and(|s| s.jid == *from);
                if is {
                    *seen = None;
                }
                is
            });
        }
    }

    /// Whether a listed device has this account.
    pub fn has_account(&self, from: &Jid) -> bool {
        let bare = from.to_bare();
        self.peers.values().any(|entry| entry.bare == bare)
    }

    pub fn available(&mut self, from: &Jid, presence: &Presence) -> News {
        let Some(said) = presence.payloads.iter().find(|e| e.is("device", KITH)) else { return News::None };
        let Some(id) = said.attr("id").and_then(|id| id.parse::<DeviceId>().ok()) else { return News::None };
        let life = said.attr("life").unwrap_or_default();
        if self.listed(&id, from).is_none() {
            return News::Stranger;
        }
        if life.len() > 64 {
            return News::None;
        }
        let Some(entry) = self.peers.get(&id) else { return News::None };
        // Sent also when nothing changed: a peer that announces itself again is worth another attempt.
        entry.seen.send_replace(Some(Seen { jid: from.clone(), life: life.to_owned() }));
        if said.attr("ask") == Some("true") { News::Answer(from.clone()) } else { News::Noted }
    }
}

/// This device's presence, for one JID. `ask`: tell me about yourself.
pub(super) fn announce(to: Jid, me: DeviceId, life: &str, ask: bool) -> Presence {
    let mut device = xml::element("device", KITH).with("id", me.to_string()).with("life", life);
    if ask {
        device = device.with("ask", "true");
    }
    let mut presence = quiet().with_to(to);
    presence.payloads.push(device);
    if let Some(caps) = caps() {
        presence.payloads.push(caps);
    }
    presence
}

/// What everybody on the roster may see: a resource that takes no messages.
pub(super) fn quiet() -> Presence {
    Presence::available().with_priority(-1)
}

/// XEP-0030: what this program can do.
pub(super) fn disco() -> DiscoInfoResult {
    DiscoInfoResult {
        node: None,
        identities: vec![Identity::new("client", "bot", "en", "kith")],
        features: [
            xml::DISCO_INFO,
            "http://jabber.org/protocol/bytestreams",
            "http://jabber.org/protocol/caps",
            jingle::IBB,
            KITH,
            jingle::JINGLE,
            jingle::JINGLE_IBB,
            jingle::JINGLE_S5B,
        ]
        .into_iter()
        .map(str::to_owned)
        .collect(),
        extensions: Vec::new(),
    }
}

fn caps() -> Option<Element> {
    let hash = hash_caps(&compute_disco(&disco()), Algo::Sha_1).ok()?;
    Some(Caps::new(KITH, hash).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use keymgr::device::DeviceKeys;

    fn peer(jid: &str) -> Peer {
        Peer { public: DeviceKeys::generate().public(), jid: jid.to_owned() }
    }

    /// ATTACKS.md N8: the broker may say what it likes; who is not on the list, or not under its JID, is nobody.
    #[test]
    fn n8_a_device_that_the_broker_invents_is_nobody() {
        let (me, good, other) = (peer("a@x"), peer("b@x"), peer("c@x"));
        let mut table = Table::default();
        let (new, gone) = table.set(me.public.id, &[me.clone(), good.clone()]);
        assert_eq!((new.len(), gone.len()), (1, 0));
        let at = |device: &Peer| announce(Jid::new("a@x").unwrap(), device.public.id, "l", true);
        let from = |jid: &str| Jid::new(jid).unwrap();
        assert!(matches!(table.available(&from("b@x/1"), &at(&other)), News::Stranger));
        assert!(matches!(table.available(&from("c@x/1"), &at(&good)), News::Stranger));
        let seen = table.watch(&good.public.id).unwrap();
        assert!(seen.borrow().is_none());
        assert!(matches!(table.available(&from("b@x/1"), &at(&good)), News::Answer(_)));
        assert_eq!(seen.borrow().as_ref().unwrap().jid, from("b@x/1"));
        table.gone(&from("b@x/2"));
        assert!(seen.borrow().is_some());
        table.gone(&from("b@x/1"));
        assert!(seen.borrow().is_none());
        let (_, gone) = table.set(me.public.id, &[]);
        assert_eq!(gone, [good.public.id]);
    }
}
