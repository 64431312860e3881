//! From a Jingle session to a byte stream: direct, through the broker's proxy, in-band; in this order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keymgr::ids::DeviceId;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;

use super::core::Core;
use super::jingle::{self, Said, Session};
use super::s5b::{self, Candidate, Expected};
use super::stream::IqError;
use super::xml::{self, Build};
use super::{Way, ibb, nudge, proxy};
use crate::link::BoxedDuplex;

const ANSWER: Duration = Duration::from_secs(30);
/// To find out which candidates work; a blocked one gives no answer at all.
const REACH: Duration = Duration::from_secs(8);
/// Once the peer has reached us there is little to gain from reaching it.
const REACH_LATE: Duration = Duration::from_millis(300);
const PROXY_WAIT: Duration = Duration::from_secs(2);

/// Why a session gave no stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no session with the broker")]
    Offline,
    #[error("too many sessions")]
    Full,
    #[error("the peer's broker or program: {0}")]
    Iq(#[from] IqError),
    #[error("the peer ended the session")]
    Ended,
    #[error("the peer did not answer in time")]
    Slow,
    #[error("no way works: neither direct nor through a proxy, and in-band is off")]
    NoWay,
    #[error("in-band: {0}")]
    InBand(std::io::Error),
}

/// What both sides need to know during a session.
struct Parley<'a> {
    core: &'a Core,
    me: Jid,
    local: SocketAddr,
    peer: Jid,
    sid: String,
    transport: String,
    session: Session,
    initiator: bool,
}

/// What this side offers.
struct Ours {
    candidates: Vec<Candidate>,
    expected: Option<Expected>,
}

/// Opens a session to a listed peer that is present.
pub(super) async fn initiate(core: &Arc<Core>, peer: &Jid) -> Result<(BoxedDuplex, Way), Failure> {
    let (me, local) = core.here().ok_or(Failure::Offline)?;
    let sid = xml::random_id();
    let session = core.sessions.open(peer, &sid).ok_or(Failure::Full)?;
    let (peer, transport) = (peer.clone(), xml::random_id());
    let mut parley = Parley { core, me, local, peer, sid, transport, session, initiator: true };
    let outcome = parley.as_initiator().await;
    if let Err(failure) = &outcome
        && !matches!(failure, Failure::Ended | Failure::Iq(_) | Failure::Offline)
    {
        parley.hang_up().await;
    }
    outcome
}

/// Takes a session that a listed peer offers. The offer's IQ was answered already.
pub(super) async fn respond(
    core: &Arc<Core>,
    session: Session,
    (peer, sid): (Jid, String),
    transport: String,
    theirs: Vec<Candidate>,
) -> Result<(BoxedDuplex, Way), Failure> {
    let (me, local) = core.here().ok_or(Failure::Offline)?;
    let mut parley = Parley { core, me, local, peer, sid, transport, session, initiator: false };
    let outcome = parley.as_responder(theirs).await;
    if let Err(failure) = &outcome
        && !matches!(failure, Failure::Ended | Failure::Offline)
    {
        parley.hang_up().await;
    }
    outcome
}

impl Parley<'_> {
    async fn as_initiator(&mut self) -> Result<(BoxedDuplex, Way), Failure> {
        let ours = self.offer().await;
        let content = vec![
            jingle::description(self.core.me),
            jingle::s5b(&self.transport, ours.candidates.iter().map(Candidate::write)),
        ];
        self.ask(jingle::say("session-initiate", &self.sid, Some(&self.me), content)).await?;
        let theirs = loop {
            match self.hear(ANSWER).await? {
                Said::Accept { candidates } => break candidates,
                _ => continue,
            }
        };
        if let Some(found) = self.socks(ours, theirs).await? {
            return Ok(found);
        }
        if !self.core.config.in_band {
            return Err(Failure::NoWay);
        }
        let transport = xml::random_id();
        let ear = self.core.in_band.expect(&self.peer, &transport);
        let replace = jingle::ibb(&transport, ibb::BLOCK);
        self.ask(jingle::say("transport-replace", &self.sid, None, vec![replace])).await?;
        let block = loop {
            match self.hear(ANSWER).await? {
                Said::AcceptReplace { block } => break block.clamp(1, ibb::BLOCK),
                _ => continue,
            }
        };
        let stream = ibb::open(self.core.line().clone(), ear, block).await.map_err(Failure::InBand)?;
        Ok((stream, Way::InBand))
    }

    async fn as_responder(&mut self, theirs: Vec<Candidate>) -> Result<(BoxedDuplex, Way), Failure> {
        let ours = self.offer().await;
        let content = vec![
            jingle::description(self.core.me),
            jingle::s5b(&self.transport, ours.candidates.iter().map(Candidate::write)),
        ];
        self.ask(jingle::say("session-accept", &self.sid, None, content)).await?;
        if let Some(found) = self.socks(ours, theirs).await? {
            return Ok(found);
        }
        if !self.core.config.in_band {
            return Err(Failure::NoWay);
        }
        let (transport, block) = loop {
            match self.hear(ANSWER).await? {
                Said::Replace { transport, block } => break (transport, block.clamp(1, ibb::BLOCK)),
                _ => continue,
            }
        };
        let ear = self.core.in_band.expect(&self.peer, &transport);
        let accept = jingle::ibb(&transport, block);
        self.ask(jingle::say("transport-accept", &self.sid, None, vec![accept])).await?;
        let stream = ibb::accept(self.core.line().clone(), ear, block).await.map_err(Failure::InBand)?;
        Ok((stream, Way::InBand))
    }

    /// Own addresses and the broker's proxies.
    async fn offer(&self) -> Ours {
        let mut candidates = Vec::new();
        let mut expected = None;
        if self.core.config.direct
            && let Some(listener) = self.core.listener().await
        {
            expected = Some(listener.expect(s5b::token(&self.transport, &self.me, &self.peer)));
            for (rank, ip) in s5b::addresses(self.local.ip()).into_iter().enumerate() {
                let rank = u32::try_from(rank).unwrap_or(u32::MAX);
                candidates.push(Candidate::direct(SocketAddr::new(ip, listener.port), &self.me, rank));
            }
        }
        if self.core.config.proxy {
            for (rank, host) in self.core.proxies(PROXY_WAIT).await.iter().enumerate() {
                candidates.push(Candidate::through(host, u32::try_from(rank).unwrap_or(u32::MAX)));
            }
        }
        Ours { candidates, expected }
    }

    /// XEP-0260, section 2.4. None: neither side reached the other.
    async fn socks(&mut self, mut ours: Ours, theirs: Vec<Candidate>) -> Result<Option<(BoxedDuplex, Way)>, Failure> {
        let loopback = self.local.ip().to_canonical().is_loopback();
        let token = s5b::token(&self.transport, &self.peer, &self.me);
        let theirs: Vec<_> = theirs.into_iter().filter(|c| self.usable(c)).collect();
        let mut heard = None;
        let mine = {
            let reaching = timeout(REACH, s5b::reach(&theirs, &token, loopback));
            tokio::pin!(reaching);
            loop {
                tokio::select! {
                    found = &mut reaching => break found.ok().flatten(),
                    said = self.session.said.recv(), if heard.is_none() => match said {
                        Some(said @ (Said::Used(_) | Said::NoneUsable)) => {
                            let used = matches!(said, Said::Used(_));
                            heard = Some(said);
                            if used {
                                break timeout(REACH_LATE, &mut reaching).await.ok().and_then(|r| r.ok().flatten());
                            }
                        }
                        Some(Said::Terminate) | None => return Err(Failure::Ended),
                        Some(_) => {}
                    },
                }
            }
        };
        let told = match &mine {
            Some((candidate, _)) => self.mark("candidate-used", Some(&candidate.cid)),
            None => self.mark("candidate-error", None),
        };
        self.ask(told).await?;
        let yours = loop {
            let said = match heard.take() {
                Some(said) => said,
                None => self.hear(ANSWER).await?,
            };
            match said {
                Said::Used(cid) => break ours.candidates.iter().find(|c| c.cid == cid).cloned(),
                Said::NoneUsable => break None,
                _ => continue,
            }
        };
        match (mine, yours) {
            (None, None) => Ok(None),
            (Some((candidate, stream)), None) => self.use_theirs(candidate, stream).await,
            (None, Some(candidate)) => self.use_ours(candidate, &mut ours).await,
            (Some((theirs, stream)), Some(own)) => {
                let first = match theirs.priority.cmp(&own.priority) {
                    std::cmp::Ordering::Greater => true,
                    std::cmp::Ordering::Less => false,
                    // What the initiator chose.
                    std::cmp::Ordering::Equal => self.initiator,
                };
                if first { self.use_theirs(theirs, stream).await } else { self.use_ours(own, &mut ours).await }
            }
        }
    }

    /// A device that has direct connections switched off does not dial any either.
    fn usable(&self, candidate: &Candidate) -> bool {
        if candidate.proxy { self.core.config.proxy } else { self.core.config.direct }
    }

    async fn use_theirs(
        &mut self,
        candidate: Candidate,
        stream: TcpStream,
    ) -> Result<Option<(BoxedDuplex, Way)>, Failure> {
        if !candidate.proxy {
            return Ok(Some((Box::new(stream), Way::Direct)));
        }
        loop {
            match self.hear(ANSWER).await? {
                Said::Activated(cid) if cid == candidate.cid => return Ok(Some((nudge::framed(stream), Way::Proxy))),
                Said::ProxyFailed => return Ok(None),
                _ => continue,
            }
        }
    }

    async fn use_ours(&mut self, candidate: Candidate, ours: &mut Ours) -> Result<Option<(BoxedDuplex, Way)>, Failure> {
        if !candidate.proxy {
            // The peer ended the exchange before it said so; the task that took it may be a moment behind.
            for _ in 0..100 {
                if let Some(stream) = ours.expected.as_mut().and_then(Expected::take) {
                    return Ok(Some((Box::new(stream), Way::Direct)));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return Err(Failure::Slow);
        }
        let token = s5b::token(&self.transport, &self.me, &self.peer);
        let activated = async {
            let stream = s5b::dial(&candidate.host, candidate.port, &token).await.ok()?;
            proxy::activate(self.core.line(), &candidate.jid, &self.transport, &self.peer).await.ok()?;
            Some(stream)
        };
        match activated.await {
            Some(stream) => {
                self.ask(self.mark("activated", Some(&candidate.cid))).await?;
                Ok(Some((nudge::framed(stream), Way::Proxy)))
            }
            None => {
                self.ask(self.mark("proxy-error", None)).await?;
                Ok(None)
            }
        }
    }

    fn mark(&self, name: &str, cid: Option<&str>) -> Element {
        let mut mark = xml::element(name, jingle::JINGLE_S5B);
        if let Some(cid) = cid {
            mark = mark.with("cid", cid);
        }
        let transport = jingle::s5b(&self.transport, [mark]);
        jingle::say("transport-info", &self.sid, None, vec![transport])
    }

    async fn ask(&self, jingle: Element) -> Result<(), Failure> {
        self.core.line().iq(xml::set(Some(self.peer.clone()), jingle), ANSWER).await?;
        Ok(())
    }

    async fn hear(&mut self, patience: Duration) -> Result<Said, Failure> {
        match timeout(patience, self.session.said.recv()).await {
            Ok(Some(Said::Terminate)) | Ok(None) => Err(Failure::Ended),
            Ok(Some(said)) => Ok(said),
            Err(_) => Err(Failure::Slow),
        }
    }

    async fn hang_up(&self) {
        let bye = jingle::terminate(&self.sid, "connectivity-error");
        let _ = self.core.line().ask(xml::set(Some(self.peer.clone()), bye)).await;
    }
}

/// The listed device that a session's offer claims to come from, if the list agrees.
pub(super) fn offered_by(core: &Core, from: &Jid, device: &DeviceId) -> Option<super::Peer> {
    core.table.lock().listed(device, from).cloned()
}
