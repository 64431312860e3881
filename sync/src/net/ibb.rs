//! In-band byte streams (XEP-0047): the last resort, through the broker in base64, several blocks in flight.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::parsers::stanza_error::DefinedCondition;

use super::jingle::IBB;
use super::stream::Line;
use super::xml::{self, Build};
use crate::link::BoxedDuplex;

/// With base64 well under every broker's stanza limit, and a fair share of a broker's rate limit.
pub(super) const BLOCK: usize = 16 << 10;
const WINDOW: usize = 8;
/// Brokers let some users through at 3 kB/s: eight blocks then take 45 s.
const ACK: Duration = Duration::from_secs(120);
const OPEN: Duration = Duration::from_secs(30);

/// What came for one stream.
pub(super) enum In {
    Open { id: String },
    Data { id: String, seq: u16, bytes: Vec<u8> },
    Close { id: String },
}

type Key = (Jid, String);

/// The streams that are expected or open.
#[derive(Clone, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<Key, mpsc::Sender<In>>>>);

/// One stream's ear; it closes when dropped.
pub(super) struct Ear {
    all: Streams,
    key: Key,
    rx: mpsc::Receiver<In>,
}

impl Streams {
    pub fn expect(&self, peer: &Jid, sid: &str) -> Ear {
        // The window and what may come beside it; a peer that sends more is refused.
        let (tx, rx) = mpsc::channel(2 * WINDOW);
        let key = (peer.clone(), sid.to_owned());
        self.0.lock().insert(key.clone(), tx);
        Ear { all: self.clone(), key, rx }
    }

    /// The session with the broker ended, and every stream in it.
    pub fn end(&self) {
        self.0.lock().clear();
    }

    /// Hands on what a set IQ said. The stream answers it; what nobody expects is refused with the condition.
    pub fn hear(&self, from: &Jid, id: &str, payload: &Element) -> Result<(), DefinedCondition> {
        let bad = DefinedCondition::BadRequest;
        let sid = payload.attr("sid").ok_or(bad.clone())?.to_owned();
        let id = id.to_owned();
        let said = match payload.name() {
            "open" => In::Open { id },
            "close" => In::Close { id },
            "data" => {
                let seq = payload.attr("seq").and_then(|s| s.parse().ok()).ok_or(bad.clone())?;
                let bytes = BASE64.decode(payload.text().trim().as_bytes()).map_err(|_| bad.clone())?;
                if bytes.len() > BLOCK {
                    return Err(bad);
                }
                In::Data { id, seq, bytes }
            }
            _ => return Err(DefinedCondition::FeatureNotImplemented),
        };
        let tx = self.0.lock().get(&(from.clone(), sid)).cloned().ok_or(DefinedCondition::ItemNotFound)?;
        tx.try_send(said).map_err(|_| DefinedCondition::ResourceConstraint)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.key);
    }
}

/// Opens the stream that the peer expects.
pub(super) async fn open(line: Line, ear: Ear, block: usize) -> io::Result<BoxedDuplex> {
    let (peer, sid) = ear.key.clone();
    let open = xml::element("open", IBB).with("sid", &sid).with("block-size", block.to_string()).with("stanza", "iq");
    line.iq(xml::set(Some(peer), open), OPEN).await.map_err(|e| io::Error::other(e.to_string()))?;
    Ok(run(line, ear, block))
}

/// Waits for the peer to open the stream.
pub(super) async fn accept(line: Line, mut ear: Ear, block: usize) -> io::Result<BoxedDuplex> {
    match timeout(OPEN, ear.rx.recv()).await {
        Ok(Some(In::Open { id })) => {
            line.send(xml::result(ear.key.0.clone(), id, None)).await;
            Ok(run(line, ear, block))
        }
        Ok(_) => Err(io::Error::other("in-band stream: not opened")),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn run(line: Line, mut ear: Ear, block: usize) -> BoxedDuplex {
    let (near, far) = tokio::io::duplex(4 * BLOCK);
    tokio::spawn(async move {
        let (peer, sid) = ear.key.clone();
        let (mut from_app, mut to_app) = tokio::io::split(far);
        let sending = async {
            let (mut seq, mut buffer) = (0u16, vec![0; block.clamp(1, BLOCK)]);
            let mut flying = FuturesUnordered::new();
            loop {
                tokio::select! {
                    Some(answer) = flying.next(), if !flying.is_empty() => {
                        let answer: Result<_, super::stream::IqError> = answer;
                        if answer.is_err() {
                            return;
                        }
                    }
                    read = from_app.read(&mut buffer), if flying.len() < WINDOW => {
                        let Some(bytes) = read.ok().filter(|n| *n > 0).and_then(|n| buffer.get(..n)) else { break };
                        let data = xml::element("data", IBB)
                            .with("seq", seq.to_string())
                            .with("sid", &sid)
                            .text_of(&BASE64.encode(bytes));
                        seq = seq.wrapping_add(1);
                        flying.push(line.ask(xml::set(Some(peer.clone()), data)).await.wait(ACK));
                    }
                }
            }
            while let Some(Ok(_)) = flying.next().await {}
        };
        let receiving = async {
            let mut expected = 0u16;
            while let Some(said) = ear.rx.recv().await {
                match said {
                    In::Data { id, seq, bytes } if seq == expected => {
                        expected = expected.wrapping_add(1);
                        if to_app.write_all(&bytes).await.is_err() {
                            return;
                        }
                        // Acknowledged when it is taken: that is the brake of who sends.
                        line.send(xml::result(peer.clone(), id, None)).await;
                    }
                    In::Data { id, .. } | In::Open { id } => {
                        line.send(xml::refusal(peer.clone(), id, DefinedCondition::UnexpectedRequest)).await;
                        return;
                    }
                    In::Close { id } => {
                        line.send(xml::result(peer.clone(), id, None)).await;
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = sending => {}
            () = receiving => {}
        }
        let close = xml::element("close", IBB).with("sid", &sid);
        let _ = line.ask(xml::set(Some(peer), close)).await;
    });
    Box::new(near)
}
