//! The network: a session with the broker, who of the listed peers is there, and a link to each of them.
//!
//! The only place that names tokio-xmpp. Each device is the HTTP client on the links that it opens and the server on
//! those that others open, so that who wants to read from a peer opens a link to it.

#[cfg(test)]
mod attacks;
mod connect;
mod contacts;
mod core;
mod establish;
mod ibb;
mod jingle;
mod meter;
mod nudge;
pub mod pair;
mod peers;
mod pep;
mod presence;
mod proxy;
mod register;
mod s5b;
mod scram;
mod stream;
mod xml;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use keymgr::device::{DeviceKeys, DevicePublic};
use keymgr::ids::DeviceId;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

pub use self::connect::{BrokerConfig, ConnectError};
pub use self::contacts::{Letter, Note};
pub use self::pep::PepError;
pub use self::register::{check_login, register};
pub use crate::link::{Body, Serve, full};

use self::core::Core;
use crate::link::LinkError;
use crate::link::http::{Client, Pace};
use crate::link::tls::Identity;

/// How this device reaches others.
#[derive(Clone)]
pub struct NetConfig {
    pub broker: BrokerConfig,
    /// TCP between the devices themselves.
    pub direct: bool,
    /// TCP through the broker's SOCKS5 proxy.
    pub proxy: bool,
    /// Through the broker's stanzas: slow, always there.
    pub in_band: bool,
}

impl NetConfig {
    pub fn new(broker: BrokerConfig) -> Self {
        Self { broker, direct: true, proxy: true, in_band: true }
    }
}

/// A device of the list, and the JID under which it may appear (bare or full; the resource does not count).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub public: DevicePublic,
    pub jid: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetEvent {
    /// There is a link to this peer: `request` works.
    PeerUp(DeviceId),
    PeerDown(DeviceId),
    BrokerUp,
    /// With the reason. Links that do not go through the broker stay.
    BrokerDown(String),
    /// A device that is on no list here says that it is one of this account (a bare JID), which is known: its list may
    /// be newer.
    Unlisted(String),
    /// Another account left a note; told once, and again after each start until it is taken away.
    Letter(Letter),
}

/// Which way a link goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Direct,
    Proxy,
    InBand,
}

impl Way {
    fn pace(self) -> Pace {
        match self {
            Way::Direct | Way::Proxy => Pace::Fast,
            Way::InBand => Pace::Slow,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{0}")]
    Broker(#[from] ConnectError),
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("there is no link to device {0}")]
    NotLinked(DeviceId),
    #[error("the link to device {0} broke: {1}")]
    Broken(DeviceId, hyper::Error),
}

struct Linked {
    client: Client,
    way: Way,
}

/// Everything stops when it is dropped; [`Net::close`] also tells the broker.
pub struct Net {
    core: Arc<Core>,
    tasks: Vec<AbortHandle>,
}

impl Net {
    /// Checks the settings and starts; whether the broker can be reached is told by events. Needs a tokio runtime.
    ///
    /// Who wants no peers (pairing, say) gives an empty list.
    pub fn start(
        config: NetConfig,
        keys: Arc<DeviceKeys>,
        peers: watch::Receiver<Vec<Peer>>,
        serve: Arc<dyn Serve>,
    ) -> Result<(Net, mpsc::Receiver<NetEvent>), NetError> {
        connect::Checked::new(&config.broker)?;
        let identity = Identity::new(&keys)?;
        let me = keys.id();
        let (events, mut unbounded) = mpsc::unbounded_channel();
        let (tx, rx) = mpsc::channel(64);
        // The tasks tell without waiting; they tell little, and only of listed peers.
        let pass_on = tokio::spawn(async move {
            while let Some(event) = unbounded.recv().await {
                if tx.send(event).await.is_err() {
                    return;
                }
            }
        });
        let core = Arc::new(Core::new(config, me, identity, serve, events));
        core.open_line(resource(me));
        let follow = tokio::spawn(peers::follow(core.clone(), peers));
        let inbox = tokio::spawn(contacts::read_inbox(Arc::downgrade(&core)));
        Ok((Net { core, tasks: [follow, pass_on, inbox].map(|task| task.abort_handle()).into() }, rx))
    }

    /// To a peer that is up. Any number at once.
    pub async fn request(
        &self,
        peer: DeviceId,
        request: hyper::Request<Bytes>,
    ) -> Result<hyper::Response<Incoming>, NetError> {
        let client = self.core.links.lock().get(&peer).map(|linked| linked.client.clone());
        let client = client.ok_or(NetError::NotLinked(peer))?;
        client.send(request.map(Full::new)).await.map_err(|e| NetError::Broken(peer, e))
    }

    /// The peers with a link, and which way it goes.
    pub fn links(&self) -> Vec<(DeviceId, Way)> {
        let links = self.core.links.lock();
        let mut all: Vec<_> = links.iter().map(|(device, linked)| (*device, linked.way)).collect();
        all.sort_by_key(|(device, _)| *device);
        all
    }

    /// This device's full JID while there is a session with the broker.
    pub fn jid(&self) -> Option<String> {
        self.core.here().map(|(jid, _)| jid.as_str().to_owned())
    }

    /// Ends the links and the session with the broker.
    pub async fn close(self) {
        self.core.line().close().await;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.core.incoming.lock().drain().flat_map(|(_, tasks)| tasks) {
            task.abort();
        }
        self.core.line().try_close();
    }
}

/// One device keeps one resource, so that a new session of its own ends the old one.
fn resource(me: DeviceId) -> String {
    format!("kith-{}", &me.to_string()[..16])
}
