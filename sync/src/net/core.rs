//! What the tasks of a [`super::Net`] share, and what is done with each stanza that comes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use keymgr::ids::DeviceId;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::task::AbortHandle;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::parsers::iq::Iq;
use tokio_xmpp::parsers::presence::{Presence, Type};
use tokio_xmpp::parsers::stanza::Stanza;
use tokio_xmpp::parsers::stanza_error::DefinedCondition;

use super::connect::ConnectError;
use super::jingle::{self, JINGLE, Said, Sessions};
use super::presence::{self, News, Table};
use super::s5b::{Candidate, Listener, StreamHost};
use super::stream::{Hear, Line};
use super::{Linked, NetConfig, NetEvent, Peer, contacts, establish, ibb, pair, proxy, xml};
use crate::link::tls::Identity;
use crate::link::{Serve, http};

/// Connections of one peer to this device's server: the newest stay.
const MAX_INCOMING: usize = 4;

pub(super) struct Core {
    pub config: NetConfig,
    pub me: DeviceId,
    pub identity: Identity,
    pub serve: Arc<dyn Serve>,
    pub table: Mutex<Table>,
    pub sessions: Sessions,
    pub in_band: ibb::Streams,
    pub pairing: pair::Desk,
    pub contacts: contacts::Desk,
    pub events: mpsc::UnboundedSender<NetEvent>,
    pub links: Mutex<HashMap<DeviceId, Linked>>,
    pub incoming: Mutex<HashMap<DeviceId, Vec<AbortHandle>>>,
    pub life: String,
    line: OnceLock<Line>,
    here: watch::Sender<Option<(Jid, SocketAddr)>>,
    proxies: watch::Sender<Option<Arc<Vec<StreamHost>>>>,
    listener: OnceCell<Option<Arc<Listener>>>,
}

impl Core {
    pub fn new(
        config: NetConfig,
        me: DeviceId,
        identity: Identity,
        serve: Arc<dyn Serve>,
        events: mpsc::UnboundedSender<NetEvent>,
    ) -> Self {
        Self {
            config,
            me,
            identity,
            serve,
            events,
            table: Mutex::default(),
            sessions: Sessions::default(),
            in_band: ibb::Streams::default(),
            pairing: pair::Desk::default(),
            contacts: contacts::Desk::default(),
            links: Mutex::default(),
            incoming: Mutex::default(),
            life: xml::random_id(),
            line: OnceLock::new(),
            here: watch::Sender::new(None),
            proxies: watch::Sender::new(None),
            listener: OnceCell::new(),
        }
    }

    pub fn open_line(self: &Arc<Self>, resource: String) {
        let ears = Ears(Arc::downgrade(self));
        self.line.get_or_init(|| Line::start(self.config.broker.clone(), resource, ears));
    }

    /// The line is opened before anything that uses it is started.
    pub fn line(&self) -> &Line {
        self.line.get_or_init(Line::dead)
    }

    /// This device's full JID and its address towards the broker, while there is a session.
    pub fn here(&self) -> Option<(Jid, SocketAddr)> {
        self.here.borrow().clone()
    }

    pub fn watch_here(&self) -> watch::Receiver<Option<(Jid, SocketAddr)>> {
        self.here.subscribe()
    }

    pub async fn proxies(&self, patience: Duration) -> Arc<Vec<StreamHost>> {
        let mut found = self.proxies.subscribe();
        let found = tokio::time::timeout(patience, found.wait_for(Option::is_some)).await;
        found.ok().and_then(|f| f.ok().and_then(|f| f.clone())).unwrap_or_default()
    }

    /// Opened when it is first needed; none where this machine lets nothing listen.
    pub async fn listener(&self) -> Option<Arc<Listener>> {
        let open = || async {
            match Listener::bind().await {
                Ok(listener) => Some(Arc::new(listener)),
                Err(error) => {
                    tracing::warn!(%error, "cannot listen for direct connections");
                    None
                }
            }
        };
        self.listener.get_or_init(open).await.clone()
    }

    pub fn tell(&self, event: NetEvent) {
        let _ = self.events.send(event);
    }

    /// Announces this device to the JIDs of listed peers.
    pub async fn announce(&self, to: Vec<tokio_xmpp::jid::BareJid>) {
        for bare in to {
            self.line().send(presence::announce(bare.into(), self.me, &self.life, true)).await;
        }
    }

    fn presence(&self, presence: Presence) {
        let Some(from) = presence.from.clone() else { return };
        if self.pairing.presence(&from, &presence) {
            return;
        }
        match presence.type_ {
            Type::None => {
                let news = self.table.lock().available(&from, &presence);
                match news {
                    News::Answer(to) => {
                        self.line().try_send(presence::announce(to, self.me, &self.life, false));
                    }
                    // It may have left a note before it knocked.
                    News::Stranger => {
                        self.contacts.knock();
                        // A new device of somebody known: their list says whether it is.
                        if self.table.lock().has_account(&from) && self.contacts.may_ask() {
                            self.tell(NetEvent::Unlisted(from.to_bare().as_str().to_owned()));
                        }
                    }
                    News::None | News::Noted => {}
                }
            }
            Type::Unavailable | Type::Error => self.table.lock().gone(&from),
            _ => {}
        }
    }

    fn asked(self: &Arc<Self>, iq: Iq) {
        let (from, id, payload, set) = match iq {
            Iq::Get { from: Some(from), id, payload, .. } => (from, id, payload, false),
            Iq::Set { from: Some(from), id, payload, .. } => (from, id, payload, true),
            _ => return,
        };
        if self.pairing.asked(self, &from, &id, &payload, set) {
            return;
        }
        let own = self.here().is_some_and(|(me, _)| me.to_bare() == from.to_bare());
        let ping = !set && payload.is("ping", "urn:xmpp:ping");
        // Strangers learn nothing, not even what this program is.
        if !own && !self.table.lock().knows(&from) && !ping {
            self.refuse(from, id, DefinedCondition::ServiceUnavailable);
            return;
        }
        if ping {
            self.line().spare_send(xml::result(from, id, None));
        } else if !set && payload.is("query", xml::DISCO_INFO) {
            let mut info = presence::disco();
            info.node = payload.attr("node").filter(|n| n.len() <= 256).map(str::to_owned);
            self.line().try_send(xml::result(from, id, Some(info.into())));
        } else if set && payload.is("jingle", JINGLE) {
            self.jingle(from, id, &payload);
        } else if set && payload.has_ns(jingle::IBB) {
            if let Err(condition) = self.in_band.hear(&from, &id, &payload) {
                self.refuse(from, id, condition);
            }
        } else {
            self.refuse(from, id, DefinedCondition::ServiceUnavailable);
        }
    }

    fn jingle(self: &Arc<Self>, from: Jid, id: String, payload: &tokio_xmpp::minidom::Element) {
        let Some((sid, said)) = jingle::read(payload) else {
            return self.refuse(from, id, DefinedCondition::BadRequest);
        };
        match said {
            Said::Initiate { device, transport, candidates } => {
                let Some(peer) = establish::offered_by(self, &from, &device) else {
                    tracing::info!(from = %from, "a session of a device that is not on the list is declined");
                    return self.refuse(from, id, DefinedCondition::ServiceUnavailable);
                };
                let Some(session) = self.sessions.open(&from, &sid) else {
                    return self.refuse(from, id, DefinedCondition::ResourceConstraint);
                };
                self.line().try_send(xml::result(from.clone(), id, None));
                self.take(peer, session, (from, sid), transport, candidates);
            }
            Said::Terminate => {
                self.sessions.tell(&from, &sid, Said::Terminate);
                self.line().try_send(xml::result(from, id, None));
            }
            said => {
                if self.sessions.tell(&from, &sid, said) {
                    self.line().try_send(xml::result(from, id, None));
                } else {
                    self.refuse(from, id, DefinedCondition::ItemNotFound);
                }
            }
        }
    }

    /// A listed peer wants to read from this device.
    fn take(
        self: &Arc<Self>,
        peer: Peer,
        session: jingle::Session,
        name: (Jid, String),
        transport: String,
        theirs: Vec<Candidate>,
    ) {
        let device = peer.public.id;
        let core = self.clone();
        let task = tokio::spawn(async move {
            let outcome = async {
                let (stream, way) = establish::respond(&core, session, name, transport, theirs).await?;
                let tls = core.identity.accept(stream, &peer.public.tls).await?;
                tracing::debug!(peer = %device, ?way, "serving");
                http::serve(tls, way.pace(), device, core.serve.clone()).await?;
                Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
            };
            if let Err(error) = outcome.await {
                tracing::debug!(peer = %device, %error, "a session of the peer ended");
            }
        });
        let mut incoming = self.incoming.lock();
        let tasks = incoming.entry(device).or_default();
        tasks.retain(|task| !task.is_finished());
        if tasks.len() >= MAX_INCOMING {
            tasks.remove(0).abort();
        }
        tasks.push(task.abort_handle());
    }

    pub fn refuse(&self, to: Jid, id: String, condition: DefinedCondition) {
        self.line().spare_send(xml::refusal(to, id, condition));
    }

    /// Ends what a device that left the list has open here.
    pub fn cut(&self, device: &DeviceId) {
        for task in self.incoming.lock().remove(device).into_iter().flatten() {
            task.abort();
        }
    }
}

/// Hears the session's task. Weak, so that dropping the Net ends it.
struct Ears(Weak<Core>);

impl Hear for Ears {
    fn up(&mut self, jid: Jid, local: SocketAddr) {
        let Some(core) = self.0.upgrade() else { return };
        tracing::info!(%jid, "session with the broker");
        core.proxies.send_replace(None);
        core.here.send_replace(Some((jid.clone(), local)));
        core.tell(NetEvent::BrokerUp);
        let addresses = core.table.lock().addresses();
        tokio::spawn(async move {
            core.line().send(presence::quiet()).await;
            core.announce(addresses).await;
            if core.config.proxy {
                let found = proxy::find(core.line(), &jid).await;
                core.proxies.send_replace(Some(Arc::new(found)));
            }
        });
    }

    fn down(&mut self, why: &ConnectError, for_good: bool) {
        let Some(core) = self.0.upgrade() else { return };
        core.here.send_replace(None);
        core.table.lock().forget();
        core.in_band.end();
        core.tell(NetEvent::BrokerDown(if for_good { format!("{why} (not tried again)") } else { why.to_string() }));
    }

    fn stanza(&mut self, stanza: Stanza) {
        let Some(core) = self.0.upgrade() else { return };
        match stanza {
            Stanza::Presence(presence) => core.presence(presence),
            Stanza::Iq(iq) => core.asked(iq),
            Stanza::Message(_) => {}
        }
    }
}
