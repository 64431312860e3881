//! ATTACKS.md N2, N8, N11 against a real broker: strangers, an account in wrong hands, floods.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::{Request, Response};
use keymgr::device::DeviceKeys;
use keymgr::ids::DeviceId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::parsers::stanza::Stanza;

use super::connect::ConnectError;
use super::core::Core;
use super::s5b::Candidate;
use super::stream::{Hear, IqError, Line};
use super::xml::{self, Build};
use super::{BrokerConfig, Net, NetConfig, NetEvent, Peer, establish, jingle, presence};
use crate::link::http::{Client, Pace};
use crate::link::tls::Identity;
use crate::link::{Body, Serve, full};

#[path = "../../tests/support/prosody.rs"]
mod prosody;
use prosody::{Broker, Prosody};

const PATIENCE: Duration = Duration::from_secs(60);

struct Hello;

impl Serve for Hello {
    fn serve<'a>(&'a self, _: DeviceId, _: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
        Box::pin(async { Response::new(full(Bytes::from_static(b"hello"))) })
    }
}

fn broker(users: &[&str]) -> Prosody {
    let broker = Prosody::start();
    for user in users {
        broker.add_user(user, "a password");
    }
    broker
}

fn config(broker: &Prosody, user: &str) -> BrokerConfig {
    BrokerConfig {
        jid: format!("{user}@localhost"),
        password: "a password".to_owned().into(),
        server: Some(broker.address()),
        ca: Some(broker.ca()),
        plaintext: false,
    }
}

fn peer(keys: &DeviceKeys, user: &str) -> Peer {
    Peer { public: keys.public(), jid: format!("{user}@localhost") }
}

struct Honest {
    keys: Arc<DeviceKeys>,
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    _list: watch::Sender<Vec<Peer>>,
}

impl Honest {
    fn start(broker: &Prosody, user: &str, keys: Arc<DeviceKeys>, list: Vec<Peer>) -> Self {
        let (sender, list) = watch::channel(list);
        let config = NetConfig::new(config(broker, user));
        let (net, events) = Net::start(config, keys.clone(), list, Arc::new(Hello)).unwrap();
        Self { keys, net, events, _list: sender }
    }

    async fn until(&mut self, wanted: NetEvent) {
        let wait = async { while self.events.recv().await.unwrap() != wanted {} };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }
}

/// A session with the broker and nothing else.
struct Raw(Option<oneshot::Sender<Jid>>);

impl Hear for Raw {
    fn up(&mut self, jid: Jid, _: SocketAddr) {
        if let Some(up) = self.0.take() {
            up.send(jid).unwrap();
        }
    }
    fn down(&mut self, _: &ConnectError, _: bool) {}
    fn stanza(&mut self, _: Stanza) {}
}

async fn raw(broker: &Prosody, user: &str) -> (Line, Jid) {
    let (tx, rx) = oneshot::channel();
    let line = Line::start(config(broker, user), "raw".into(), Raw(Some(tx)));
    (line, rx.await.unwrap())
}

fn offer(claim: DeviceId, me: &Jid, at: SocketAddr) -> Element {
    let candidate = Candidate::direct(at, me, 0).write();
    let content = vec![jingle::description(claim), jingle::s5b("t", [candidate])];
    jingle::say("session-initiate", &xml::random_id(), Some(me), content)
}

/// N8: who is not on the list is declined, whatever it claims, and its candidates are not dialled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n8_a_stranger_is_declined_and_not_dialled() {
    let broker = broker(&["alice", "bob", "mallory"]);
    let (keys, bob) = (Arc::new(DeviceKeys::generate()), DeviceKeys::generate());
    let mut alice = Honest::start(&broker, "alice", keys, vec![peer(&bob, "bob")]);
    alice.until(NetEvent::BrokerUp).await;
    let to = Jid::new(&alice.net.jid().unwrap()).unwrap();
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = trap.local_addr().unwrap();
    let (line, me) = raw(&broker, "mallory").await;
    let ibb = xml::element("open", jingle::IBB).with("sid", "x").with("block-size", "4096");
    let disco = xml::element("query", xml::DISCO_INFO);
    for (is_set, payload) in [
        (true, offer(DeviceKeys::generate().id(), &me, at)),
        (true, offer(bob.id(), &me, at)),
        (true, ibb),
        (false, disco),
    ] {
        let iq = if is_set { xml::set(Some(to.clone()), payload) } else { xml::get(Some(to.clone()), payload) };
        let answer = line.iq(iq, PATIENCE).await;
        assert!(matches!(answer, Err(IqError::Refused(ref why)) if why == "ServiceUnavailable"), "{answer:?}");
    }
    assert!(alice.net.core.incoming.lock().is_empty());
    let trap = trap.into_std().unwrap();
    assert_eq!(trap.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// N8, N11: the broker gives a peer's account to somebody else, who claims to be the peer's device.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n8_n11_the_account_of_a_peer_without_its_key_gets_no_link() {
    let broker = broker(&["alice", "bob"]);
    let (keys, bob, thief) = (Arc::new(DeviceKeys::generate()), DeviceKeys::generate(), DeviceKeys::generate());
    let mut alice = Honest::start(&broker, "alice", keys, vec![peer(&bob, "bob")]);
    alice.until(NetEvent::BrokerUp).await;
    let to = Jid::new(&alice.net.jid().unwrap()).unwrap();
    // Bob's JID and Bob's id, but not Bob's key.
    let (events, _events) = mpsc::unbounded_channel();
    let settings = NetConfig::new(config(&broker, "bob"));
    let identity = Identity::new(&thief).unwrap();
    let core = Arc::new(Core::new(settings, bob.id(), identity, Arc::new(Hello), events));
    core.table.lock().set(bob.id(), &[peer(&alice.keys, "alice")]);
    core.open_line("thief".into());
    core.watch_here().wait_for(Option::is_some).await.unwrap();

    // As a client: the handshake may seem to end well, but nothing is answered.
    let (stream, _) = establish::initiate(&core, &to).await.unwrap();
    let linked = match core.identity.connect(stream, &alice.keys.public().tls).await {
        Ok(tls) => Client::start(tls, Pace::Fast).await.is_ok(),
        Err(_) => false,
    };
    assert!(!linked, "a client without the pinned key is served");

    // As a server: Alice sees Bob's device come up and opens a link to it.
    core.line().send(presence::announce(to, bob.id(), &core.life, false)).await;
    let refused = async {
        loop {
            let tried = |tasks: &Vec<tokio::task::AbortHandle>| tasks.iter().any(|task| task.is_finished());
            if core.incoming.lock().get(&alice.keys.id()).is_some_and(tried) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(alice.net.links().is_empty(), "a server without the pinned key is believed");
}

/// N2: a flood of a stranger's stanzas costs no memory and keeps no peer out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n2_a_flood_of_stanzas_keeps_no_peer_out() {
    let broker = broker(&["alice", "bob", "mallory"]);
    let (a, b) = (Arc::new(DeviceKeys::generate()), Arc::new(DeviceKeys::generate()));
    let mut alice = Honest::start(&broker, "alice", a.clone(), vec![peer(&b, "bob")]);
    alice.until(NetEvent::BrokerUp).await;
    let to = Jid::new(&alice.net.jid().unwrap()).unwrap();
    let (line, me) = raw(&broker, "mallory").await;
    let flood = tokio::spawn(async move {
        let at = SocketAddr::from(([127, 0, 0, 1], 9));
        for _ in 0..500 {
            line.send(presence::announce(to.clone(), b.id(), "x", true)).await;
            line.send(xml::set(Some(to.clone()), offer(DeviceKeys::generate().id(), &me, at))).await;
        }
    });
    let b = Honest::start(&broker, "bob", Arc::new(DeviceKeys::generate()), vec![peer(&a, "alice")]);
    // This Bob has another key than the one that is listed: it is a stranger too.
    assert!(alice.net.links().is_empty());
    flood.await.unwrap();
    drop(b);
    let listed = Arc::new(DeviceKeys::generate());
    alice._list.send_replace(vec![peer(&listed, "bob")]);
    let mut bob = Honest::start(&broker, "bob", listed.clone(), vec![peer(&a, "alice")]);
    alice.until(NetEvent::PeerUp(listed.id())).await;
    bob.until(NetEvent::PeerUp(a.id())).await;
    let answer = alice.net.request(listed.id(), Request::get("/v1/x").body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(alice.net.core.incoming.lock().len(), 1);
}
