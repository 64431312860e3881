//! What the network's tests share: a broker, devices, a server that echoes.
#![allow(dead_code)]

pub mod ejabberd;
pub mod federation;
pub mod prosody;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, Response};
use keymgr::device::DeviceKeys;
use keymgr::ids::DeviceId;
use sync::net::{Body, BrokerConfig, Net, NetConfig, NetEvent, Peer, Serve, Way, full};
use tokio::sync::{mpsc, watch};

pub use self::prosody::Broker;

/// No test waits longer for anything; none expects anything sooner.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Answers with who asked, the path, and the body that came.
pub struct Echo;

impl Serve for Echo {
    fn serve<'a>(&'a self, peer: DeviceId, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
            if path == "/v1/big" {
                return Response::new(full(vec![7u8; 3 << 20]));
            }
            Response::new(full([peer.to_string().as_bytes(), path.as_bytes(), &body].concat()))
        })
    }
}

pub fn login(broker: &impl Broker, user: &str) -> BrokerConfig {
    BrokerConfig {
        jid: format!("{user}@{}", broker.host()),
        password: "a password".to_owned().into(),
        server: Some(broker.address()),
        ca: Some(broker.ca()),
        plaintext: false,
    }
}

/// A device with an account at the broker.
pub struct Device {
    pub keys: Arc<DeviceKeys>,
    pub jid: String,
    pub config: NetConfig,
    pub list: watch::Sender<Vec<Peer>>,
    pub net: Option<Net>,
    pub events: Option<mpsc::Receiver<NetEvent>>,
}

impl Device {
    pub fn new(broker: &impl Broker, user: &str) -> Self {
        let config = NetConfig::new(login(broker, user));
        let jid = config.broker.jid.clone();
        let keys = Arc::new(DeviceKeys::generate());
        Self { keys, jid, config, list: watch::Sender::new(Vec::new()), net: None, events: None }
    }

    pub fn id(&self) -> DeviceId {
        self.keys.id()
    }

    pub fn peer(&self) -> Peer {
        Peer { public: self.keys.public(), jid: self.jid.clone() }
    }

    pub fn lists(&self, peers: &[&Device]) -> &Self {
        self.list.send_replace(peers.iter().map(|d| d.peer()).collect());
        self
    }

    pub fn start(&mut self) {
        let started = Net::start(self.config.clone(), self.keys.clone(), self.list.subscribe(), Arc::new(Echo));
        let (net, events) = started.expect("the settings are good");
        (self.net, self.events) = (Some(net), Some(events));
    }

    pub fn net(&self) -> &Net {
        self.net.as_ref().expect("started")
    }

    /// Waits for an event, past all others.
    pub async fn until(&mut self, wanted: NetEvent) {
        let events = self.events.as_mut().expect("started");
        let wait = async {
            while let Some(event) = events.recv().await {
                if event == wanted {
                    return;
                }
            }
            panic!("the events ended before {wanted:?}");
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {wanted:?}"));
    }

    pub async fn until_down(&mut self) -> String {
        let events = self.events.as_mut().expect("started");
        let wait = async {
            loop {
                match events.recv().await.expect("events go on") {
                    NetEvent::BrokerDown(why) => return why,
                    _ => continue,
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the broker goes")
    }

    pub async fn ask(&self, peer: &Device, path: &str, body: &'static str) -> Bytes {
        let request = Request::post(path).body(Bytes::from_static(body.as_bytes())).expect("a request");
        let answer = self.net().request(peer.id(), request).await.expect("a link");
        answer.into_body().collect().await.expect("a whole body").to_bytes()
    }

    /// That a request goes there and comes back, by the key that is pinned.
    pub async fn talks_to(&self, peer: &Device) {
        let said = self.ask(peer, "/v1/test", "hello").await;
        assert_eq!(said, format!("{}/v1/testhello", self.id()));
    }

    pub fn way_to(&self, peer: &Device) -> Option<Way> {
        self.net().links().into_iter().find(|(id, _)| *id == peer.id()).map(|(_, way)| way)
    }
}

/// Starts both and waits until each has a link to the other.
pub async fn meet(a: &mut Device, b: &mut Device) {
    a.lists(&[a, b]);
    b.lists(&[a, b]);
    a.start();
    b.start();
    a.until(NetEvent::PeerUp(b.id())).await;
    b.until(NetEvent::PeerUp(a.id())).await;
}
