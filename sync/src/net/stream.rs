//! The session with the broker: one task owns the XML stream, reconnects, and matches answers to questions.
//!
//! tokio-xmpp's Client and StanzaStream are not used: they hide errors, resume for ever after a broker's restart
//! (`<failed/>` without `h` does not parse), and their split halves can go deaf. Here nothing is resumed: a new
//! session is a new start, and what was asked in the old one has failed.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::parsers::iq::Iq;
use tokio_xmpp::parsers::stanza::Stanza;
use tokio_xmpp::parsers::stanza_error::DefinedCondition;
use tokio_xmpp::xmlstream::{FallibleStreamElement, ReadError, StreamElementError, XmppStreamElement};

use super::connect::{self, BrokerConfig, ConnectError, Session};
use super::xml;

/// Stanzas waiting to be written; whoever sends more waits.
const QUEUE: usize = 64;
/// Questions without an answer yet.
const MAX_PENDING: usize = 1024;
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A session that lived that long starts the delays anew.
const STEADY: Duration = Duration::from_secs(30);

/// Why a question has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IqError {
    #[error("no session with the broker")]
    Offline,
    #[error("no answer in time")]
    Slow,
    #[error("refused: {0}")]
    Refused(String),
}

/// What the session's task tells. Called from that task: it must not wait.
pub(super) trait Hear: Send + 'static {
    fn up(&mut self, jid: Jid, local: SocketAddr);
    fn down(&mut self, why: &ConnectError, for_good: bool);
    fn stanza(&mut self, stanza: Stanza);
}

type Answer = oneshot::Sender<Result<Option<Element>, IqError>>;

enum Out {
    Stanza(Stanza),
    Iq(Iq, Answer),
    Close,
}

/// The way into the session. Clones share it.
#[derive(Clone)]
pub(super) struct Line {
    tx: mpsc::Sender<Out>,
}

/// An answer on its way.
pub(super) struct Pending(oneshot::Receiver<Result<Option<Element>, IqError>>);

impl Pending {
    pub async fn wait(self, patience: Duration) -> Result<Option<Element>, IqError> {
        match timeout(patience, self.0).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(IqError::Offline),
            Err(_) => Err(IqError::Slow),
        }
    }
}

impl Line {
    /// Starts the task. It ends with the last clone of the line.
    pub fn start(config: BrokerConfig, resource: String, hear: impl Hear) -> Self {
        let (tx, rx) = mpsc::channel(QUEUE);
        tokio::spawn(run(config, resource, rx, hear));
        Self { tx }
    }

    pub async fn send(&self, stanza: impl Into<Stanza>) {
        let _ = self.tx.send(Out::Stanza(stanza.into())).await;
    }

    /// Without waiting; dropped where the queue is full.
    pub fn try_send(&self, stanza: impl Into<Stanza>) -> bool {
        self.tx.try_send(Out::Stanza(stanza.into())).is_ok()
    }

    /// For answers to strangers: half of the queue is never theirs, so that a flood costs them and not the peers.
    pub fn spare_send(&self, stanza: impl Into<Stanza>) {
        if self.tx.capacity() > QUEUE / 2 {
            self.try_send(stanza);
        }
    }

    /// Queued in order of the calls; the answer is waited for apart.
    pub async fn ask(&self, iq: Iq) -> Pending {
        let (tx, rx) = oneshot::channel();
        let _ = self.tx.send(Out::Iq(iq, tx)).await;
        Pending(rx)
    }

    pub async fn iq(&self, iq: Iq, patience: Duration) -> Result<Option<Element>, IqError> {
        timeout(patience, async { self.ask(iq).await.wait(patience).await }).await.unwrap_or(Err(IqError::Slow))
    }

    pub async fn close(&self) {
        let _ = self.tx.send(Out::Close).await;
    }

    pub fn try_close(&self) {
        let _ = self.tx.try_send(Out::Close);
    }

    /// One that leads nowhere.
    pub fn dead() -> Self {
        Self { tx: mpsc::channel(1).0 }
    }
}

async fn run(config: BrokerConfig, resource: String, mut rx: mpsc::Receiver<Out>, mut hear: impl Hear) {
    let mut delay = FIRST_DELAY;
    loop {
        let attempt = connect::login(&config, &resource);
        tokio::pin!(attempt);
        let session = loop {
            tokio::select! {
                session = &mut attempt => break session,
                out = rx.recv() => if !fail(out) { return },
            }
        };
        let began = Instant::now();
        let why = match session {
            Ok(session) => {
                hear.up(session.jid.clone(), session.local);
                match serve(session, &mut rx, &mut hear).await {
                    Some(why) => why,
                    None => return,
                }
            }
            Err(e) => e,
        };
        let for_good = why.is_final();
        tracing::info!(reason = %why, for_good, "no session with the broker");
        hear.down(&why, for_good);
        if matches!(why, ConnectError::Replaced) {
            // Two that use one device's keys would throw each other out for ever.
            delay = LONGEST_DELAY;
        } else if began.elapsed() > STEADY {
            delay = FIRST_DELAY;
        }
        // A wrong password is not tried again: the broker would lock the account.
        let until = if for_good { None } else { Some(Instant::now() + jittered(delay)) };
        delay = (delay * 2).min(LONGEST_DELAY);
        loop {
            let pause = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => break,
                out = rx.recv() => if !fail(out) { return },
            }
        }
    }
}

/// Devices that lost one broker together do not come back in one instant.
fn jittered(delay: Duration) -> Duration {
    let [byte] = keymgr::secret::random_bytes::<1>();
    delay.mul_f64(0.75 + f64::from(byte) / 512.0)
}

/// While there is no session everything fails at once. False: the line was closed.
fn fail(out: Option<Out>) -> bool {
    match out {
        None | Some(Out::Close) => return false,
        Some(Out::Iq(_, answer)) => {
            let _ = answer.send(Err(IqError::Offline));
        }
        Some(Out::Stanza(_)) => {}
    }
    true
}

enum Step {
    Write(Option<Out>),
    Read(Option<Result<FallibleStreamElement, ReadError>>),
    Broken(std::io::Error),
}

/// One session, until it ends. None: closed by this device.
async fn serve(session: Session, rx: &mut mpsc::Receiver<Out>, hear: &mut impl Hear) -> Option<ConnectError> {
    let Session { mut stream, jid, .. } = session;
    let meter = stream.get_stream().get_ref().meter();
    let mut asked: HashMap<String, (Option<Jid>, Answer)> = HashMap::new();
    let mut read_first = false;
    loop {
        // In turn, so that neither direction can keep the other out.
        read_first = !read_first;
        // Reading and writing go on side by side: a broker that limits us stops reading, but what it sends is
        // still taken, or both would wait for each other.
        let step = poll_fn(|cx| {
            if read_first && let Poll::Ready(read) = stream.poll_next_unpin(cx) {
                return Poll::Ready(Step::Read(read));
            }
            match SinkExt::<&XmppStreamElement>::poll_ready_unpin(&mut stream, cx) {
                Poll::Ready(Ok(())) => {
                    if let Poll::Ready(out) = rx.poll_recv(cx) {
                        return Poll::Ready(Step::Write(out));
                    }
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Step::Broken(e)),
                Poll::Pending => {}
            }
            if let Poll::Ready(Err(e)) = SinkExt::<&XmppStreamElement>::poll_flush_unpin(&mut stream, cx) {
                return Poll::Ready(Step::Broken(e));
            }
            stream.poll_next_unpin(cx).map(Step::Read)
        })
        .await;
        let element = match step {
            Step::Write(None | Some(Out::Close)) => {
                let _ = timeout(Duration::from_secs(2), stream.shutdown()).await;
                return None;
            }
            Step::Write(Some(out)) => {
                let stanza = match out {
                    Out::Iq(iq, answer) => {
                        asked.retain(|_, (_, answer)| !answer.is_closed());
                        if asked.len() >= MAX_PENDING {
                            let _ = answer.send(Err(IqError::Slow));
                            continue;
                        }
                        asked.insert(iq.id().to_owned(), (iq.to().cloned(), answer));
                        Stanza::Iq(iq)
                    }
                    Out::Stanza(stanza) => stanza,
                    Out::Close => continue,
                };
                if let Err(e) = stream.start_send_unpin(&XmppStreamElement::Stanza(stanza)) {
                    // What cannot be written as XML is refused by itself; anything else ends the session.
                    if e.kind() != std::io::ErrorKind::InvalidInput {
                        return Some(e.into());
                    }
                }
                continue;
            }
            Step::Broken(e) => return Some(e.into()),
            Step::Read(read) => {
                meter.reset();
                match read {
                    Some(Ok(element)) => element,
                    Some(Err(ReadError::SoftTimeout)) => {
                        let ping = xml::get(None, xml::element("ping", "urn:xmpp:ping"));
                        if let Err(e) = stream.start_send_unpin(&XmppStreamElement::Stanza(Stanza::Iq(ping))) {
                            return Some(e.into());
                        }
                        continue;
                    }
                    Some(Err(ReadError::HardError(e))) => return Some(e.into()),
                    Some(Err(ReadError::ParseError(e))) => {
                        tracing::debug!(error = %e, "an element that is no stanza");
                        continue;
                    }
                    Some(Err(ReadError::StreamFooterReceived)) | None => {
                        return Some(ConnectError::Ended("closed".into()));
                    }
                }
            }
        };
        match element {
            FallibleStreamElement::Ok(XmppStreamElement::Stanza(Stanza::Iq(
                answer @ (Iq::Result { .. } | Iq::Error { .. }),
            ))) => answered(&mut asked, &jid, answer),
            FallibleStreamElement::Ok(XmppStreamElement::Stanza(stanza)) => hear.stanza(stanza),
            FallibleStreamElement::Ok(XmppStreamElement::StreamError(e)) => {
                return Some(ConnectError::ended(&e));
            }
            FallibleStreamElement::Ok(_) => {}
            FallibleStreamElement::Err(StreamElementError::InvalidStanza { header, error, .. }) => {
                tracing::debug!(from = header.from.as_deref(), %error, "a malformed stanza");
                // A malformed answer is an answer.
                if let Some(id) = header.id
                    && let Some((_, answer)) = asked.remove(&id)
                {
                    let _ = answer.send(Err(IqError::Refused("malformed answer".into())));
                }
            }
            FallibleStreamElement::Err(_) => {}
        }
    }
}

/// An answer counts only when it comes from whom was asked.
fn answered(asked: &mut HashMap<String, (Option<Jid>, Answer)>, me: &Jid, iq: Iq) {
    let from = iq.from().cloned();
    let Some((to, _)) = asked.get(iq.id()) else { return };
    let fits = match (to, &from) {
        (Some(to), Some(from)) => to == from,
        (None, Some(from)) => from.to_bare() == me.to_bare() || from.as_str() == me.domain().as_str(),
        (Some(to), None) => to.to_bare() == me.to_bare(),
        (None, None) => true,
    };
    if !fits {
        return;
    }
    let Some((_, answer)) = asked.remove(iq.id()) else { return };
    let _ = answer.send(match iq {
        Iq::Result { payload, .. } => Ok(payload),
        Iq::Error { error, .. } => Err(IqError::Refused(condition(&error.defined_condition))),
        _ => return,
    });
}

fn condition(condition: &DefinedCondition) -> String {
    format!("{condition:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_somebody_else_is_no_answer() {
        let me = Jid::new("me@here/x").unwrap();
        let asked_of = Jid::new("peer@there/y").unwrap();
        let mut asked = HashMap::new();
        let (tx, mut rx) = oneshot::channel();
        asked.insert("id".to_owned(), (Some(asked_of.clone()), tx));
        let answer = |from: &str| Iq::Result {
            from: Some(Jid::new(from).unwrap()),
            to: Some(me.clone()),
            id: "id".into(),
            payload: None,
        };
        answered(&mut asked, &me, answer("peer@there/z"));
        answered(&mut asked, &me, answer("mallory@there/y"));
        assert!(rx.try_recv().is_err());
        answered(&mut asked, &me, answer("peer@there/y"));
        assert!(rx.try_recv().unwrap().is_ok());
    }
}
