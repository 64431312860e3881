//! Jingle (XEP-0166) as kith uses it: one content, one byte stream; SOCKS5 (XEP-0260) first, in-band (XEP-0261) last.
//!
//! The elements are read here and not by xmpp-parsers: its candidates cannot be read and refuse host names.

use std::collections::HashMap;
use std::sync::Arc;

use keymgr::ids::DeviceId;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;

use super::s5b::Candidate;
use super::xml::{self, Build, KITH};

pub const JINGLE: &str = "urn:xmpp:jingle:1";
pub const JINGLE_S5B: &str = "urn:xmpp:jingle:transports:s5b:1";
pub const JINGLE_IBB: &str = "urn:xmpp:jingle:transports:ibb:1";
pub const IBB: &str = "http://jabber.org/protocol/ibb";

/// Sessions at once, over all peers.
const MAX_SESSIONS: usize = 128;
const MAX_ID: usize = 128;
/// Candidates of one offer that are looked at.
pub const MAX_CANDIDATES: usize = 16;

/// What one `<jingle/>` says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Initiate {
        device: DeviceId,
        transport: String,
        candidates: Vec<Candidate>,
    },
    Accept {
        candidates: Vec<Candidate>,
    },
    Used(String),
    NoneUsable,
    Activated(String),
    ProxyFailed,
    Replace {
        transport: String,
        block: usize,
    },
    AcceptReplace {
        block: usize,
    },
    Terminate,
    /// Allowed by the standard, of no use here.
    Other,
}

/// Reads a `<jingle/>`: its session id and what it says. None: malformed.
pub(super) fn read(jingle: &Element) -> Option<(String, Said)> {
    let id = |e: &Element, name: &str| e.attr(name).filter(|v| !v.is_empty() && v.len() <= MAX_ID).map(str::to_owned);
    let sid = id(jingle, "sid")?;
    let content = jingle.get_child("content", JINGLE);
    let s5b = content.and_then(|c| c.get_child("transport", JINGLE_S5B));
    let ibb = content.and_then(|c| c.get_child("transport", JINGLE_IBB));
    let block = |e: &Element| e.attr("block-size").and_then(|b| b.parse::<u16>().ok()).map(usize::from);
    let said = match jingle.attr("action")? {
        "session-initiate" => {
            let device = content?.get_child("description", KITH)?.attr("device")?.parse().ok()?;
            Said::Initiate { device, transport: id(s5b?, "sid")?, candidates: candidates(s5b?) }
        }
        "session-accept" => Said::Accept { candidates: candidates(s5b?) },
        "transport-info" => {
            let said = s5b?.children().find_map(|e| match e.name() {
                "candidate-used" => id(e, "cid").map(Said::Used),
                "candidate-error" => Some(Said::NoneUsable),
                "activated" => id(e, "cid").map(Said::Activated),
                "proxy-error" => Some(Said::ProxyFailed),
                _ => None,
            });
            said.unwrap_or(Said::Other)
        }
        "transport-replace" => Said::Replace { transport: id(ibb?, "sid")?, block: block(ibb?)? },
        "transport-accept" => Said::AcceptReplace { block: block(ibb?)? },
        "transport-reject" | "session-terminate" => Said::Terminate,
        _ => Said::Other,
    };
    Some((sid, said))
}

fn candidates(transport: &Element) -> Vec<Candidate> {
    transport.children().filter(|e| e.name() == "candidate").filter_map(Candidate::read).take(MAX_CANDIDATES).collect()
}

/// The outer elements. `initiator` goes into the first message only.
pub(super) fn say(action: &str, sid: &str, initiator: Option<&Jid>, inside: Vec<Element>) -> Element {
    let mut jingle = xml::element("jingle", JINGLE).with("action", action).with("sid", sid);
    if let Some(initiator) = initiator {
        jingle = jingle.with("initiator", initiator.as_str());
    }
    let mut content =
        xml::element("content", JINGLE).with("creator", "initiator").with("name", "kith").with("senders", "both");
    for element in inside {
        content.append_child(element);
    }
    jingle.holding(content)
}

pub(super) fn terminate(sid: &str, reason: &str) -> Element {
    let reason = xml::element("reason", JINGLE).holding(xml::element(reason, JINGLE));
    xml::element("jingle", JINGLE).with("action", "session-terminate").with("sid", sid).holding(reason)
}

pub(super) fn description(me: DeviceId) -> Element {
    xml::element("description", KITH).with("device", me.to_string())
}

pub(super) fn s5b(transport: &str, inside: impl IntoIterator<Item = Element>) -> Element {
    let mut element = xml::element("transport", JINGLE_S5B).with("sid", transport).with("mode", "tcp");
    for child in inside {
        element.append_child(child);
    }
    element
}

pub(super) fn ibb(transport: &str, block: usize) -> Element {
    xml::element("transport", JINGLE_IBB).with("sid", transport).with("block-size", block.to_string())
}

type Key = (Jid, String);

/// The sessions that are being set up, and who waits for what they say.
#[derive(Clone, Default)]
pub(super) struct Sessions(Arc<Mutex<HashMap<Key, mpsc::Sender<Said>>>>);

/// A session's ear; it closes when dropped.
pub(super) struct Session {
    all: Sessions,
    key: Key,
    pub said: mpsc::Receiver<Said>,
}

impl Sessions {
    /// None: too many, or that one exists.
    pub fn open(&self, peer: &Jid, sid: &str) -> Option<Session> {
        let mut all = self.0.lock();
        let key = (peer.clone(), sid.to_owned());
        if all.len() >= MAX_SESSIONS || all.contains_key(&key) {
            return None;
        }
        let (tx, said) = mpsc::channel(16);
        all.insert(key.clone(), tx);
        Some(Session { all: self.clone(), key, said })
    }

    /// False: there is no such session.
    pub fn tell(&self, from: &Jid, sid: &str, said: Said) -> bool {
        match self.0.lock().get(&(from.clone(), sid.to_owned())) {
            // A peer that says more than sixteen things at once is not listened to.
            Some(tx) => tx.try_send(said).is_ok(),
            None => false,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_with_a_host_name_is_read() {
        let candidate = Candidate {
            cid: "c1".into(),
            host: "proxy.example.org".into(),
            port: 7777,
            jid: Jid::new("proxy.example.org").unwrap(),
            priority: 655_360,
            proxy: true,
        };
        let me = DeviceId::from_bytes([7; 32]);
        let offer = say("session-initiate", "s1", None, vec![description(me), s5b("t1", [candidate.write()])]);
        let (sid, said) = read(&offer).unwrap();
        assert_eq!(sid, "s1");
        assert_eq!(said, Said::Initiate { device: me, transport: "t1".into(), candidates: vec![candidate] });
    }

    #[test]
    fn what_is_malformed_or_endless_is_not_read() {
        assert!(read(&xml::element("jingle", JINGLE)).is_none());
        assert!(read(&say("session-initiate", "s", None, vec![])).is_none());
        assert!(read(&say("session-accept", &"s".repeat(200), None, vec![s5b("t", [])])).is_none());
        let many = (0..1000).map(|i| {
            let (cid, jid) = (i.to_string(), Jid::new("a@b/c").unwrap());
            Candidate { cid, host: "10.0.0.1".into(), port: 9, jid, priority: 1, proxy: false }.write()
        });
        let Some((_, Said::Accept { candidates })) = read(&say("session-accept", "s", None, vec![s5b("t", many)]))
        else {
            panic!("not read")
        };
        assert_eq!(candidates.len(), MAX_CANDIDATES);
    }

    #[test]
    fn sessions_are_bounded_and_end() {
        let all = Sessions::default();
        let peer = Jid::new("a@b/c").unwrap();
        let open: Vec<_> = (0..MAX_SESSIONS).map(|i| all.open(&peer, &i.to_string()).unwrap()).collect();
        assert!(all.open(&peer, "more").is_none());
        assert!(all.tell(&peer, "0", Said::Other));
        assert!(!all.tell(&Jid::new("a@b/d").unwrap(), "0", Said::Other));
        drop(open);
        assert!(!all.tell(&peer, "0", Said::Other));
        assert!(all.open(&peer, "more").is_some());
    }
}
