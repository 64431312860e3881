//! What this device answers its peers: who may ask for what, and the feed. Any listed device may read: all of it is
//! ciphertext and signed records.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::body::{Frame as HttpFrame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use keymgr::ids::{DeviceId, Incarnation, Root};
use tokio::sync::mpsc;

use super::circle::Told;
use super::snapshot::Outgoing;
use super::{Inner, Replica};
use crate::bodies::SMALL;
use crate::engine::{Head, Heads};
use crate::link::{Body, Serve, full};
use crate::record::Signed;
use crate::wire::{self, Frame, Hello};

/// Records sent before the feed looks again at what is new.
const BATCH: usize = 1 << 20;
/// A request's body is here by then.
const HELLO: Duration = Duration::from_secs(60);

impl Serve for Replica {
    fn serve<'a>(&'a self, peer: DeviceId, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            let ["v1", "shares", share, resource @ ..] = parts.as_slice() else { return status(StatusCode::NOT_FOUND) };
            if share.parse() != Ok(self.0.share) {
                return status(StatusCode::NOT_FOUND);
            }
            if !self.has_seat(&peer) {
                // Who was in it knows that it exists; others learn nothing.
                let was = self.0.circle.borrow().cut(&peer).is_some();
                return status(if was { StatusCode::GONE } else { StatusCode::NOT_FOUND });
            }
            match (request.method(), resource) {
                (&Method::POST, ["feed"]) => self.0.clone().feed(peer, request).await,
                (&Method::GET, ["invitation"]) => match self.invitation() {
                    Some(bytes) => Response::new(full(bytes)),
                    None => status(StatusCode::NOT_FOUND),
                },
                (&Method::GET, ["objects", root]) => match root.parse() {
                    Ok(root) => self.0.clone().object(peer, root, &request).await,
                    Err(_) => status(StatusCode::BAD_REQUEST),
                },
                (&Method::GET, ["objects", root, "groups"]) => match root.parse() {
                    Ok(root) => self.0.clone().groups(peer, root, &request).await,
                    Err(_) => status(StatusCode::BAD_REQUEST),
                },
                _ => status(StatusCode::NOT_FOUND),
            }
        })
    }
}

pub(super) fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = code;
    response
}

/// A body whose pieces come one after the other.
pub(super) fn streamed(pieces: impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures::StreamExt;
    StreamBody::new(pieces.map(|piece| piece.map(HttpFrame::data))).boxed_unsync_or_sync()
}

/// `StreamBody` of a channel is `Sync` through this wrapper: the channel is polled by one task only.
trait Boxed {
    fn boxed_unsync_or_sync(self) -> Body;
}

impl<S> Boxed for StreamBody<S>
where
    S: futures::Stream<Item = io::Result<HttpFrame<Bytes>>> + Send + 'static,
{
    fn boxed_unsync_or_sync(self) -> Body {
        BodyExt::boxed(StreamBody::new(SyncStream(parking_lot::Mutex::new(Box::pin(self)))))
    }
}

struct SyncStream<S>(parking_lot::Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;
    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.lock().as_mut().poll_next(cx)
    }
}

impl Inner {
    async fn feed(self: Arc<Self>, peer: DeviceId, request: Request<Incoming>) -> Response<Body> {
        let body = {
            let _turn = self.turn(peer, 1).await;
            tokio::time::timeout(HELLO, Limited::new(request.into_body(), wire::MAX_HELLO).collect()).await
        };
        let hello = body.ok().and_then(Result::ok).and_then(|b| wire::decode::<Hello>(&b.to_bytes()).ok());
        let Some(hello) = hello.filter(|h| h.version == 1) else { return status(StatusCode::BAD_REQUEST) };
        let (tx, rx) = mpsc::channel(1);
        // What it says now counts, and not how far it once was: its store may have been put back.
        self.peers.lock().entry(peer).or_default().heads = hello.heads.clone();
        // Before the answer: whatever becomes whole here once that is read is told.
        let feed = {
            self.count_heads(peer);
            let core = self.core.lock();
            let haves = core.haves_from + core.haves.len() as u64;
            let told = HashMap::new();
            Feed {
                sent: hello.heads,
                haves,
                circle: Told::default(),
                told: None,
                seen: told,
                asks: hello.snapshot,
                snapshot: None,
            }
        };
        let feed = self.runtime.spawn(self.clone().feed_until_closed(peer, feed, tx)).abort_handle();
        // One for each peer: the newest.
        if let Some(old) = self.feeds.lock().insert(peer, feed) {
            old.abort();
        }
        Response::new(streamed(futures::stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) })))
    }

    async fn feed_until_closed(self: Arc<Self>, peer: DeviceId, mut state: Feed, tx: mpsc::Sender<io::Result<Bytes>>) {
        let mut news = self.news.subscribe();
        loop {
            news.borrow_and_update();
            loop {
                let inner = self.clone();
                let made = tokio::task::spawn_blocking(move || {
                    let bytes = inner.frames(peer, &mut state);
                    (bytes, state)
                });
                let Ok((Some(bytes), back)) = made.await else { return };
                state = back;
                if bytes.is_empty() {
                    break;
                }
                if tx.send(Ok(Bytes::from(bytes))).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = tx.closed() => return,
            }
        }
    }

    /// What this feed has not said yet, as frames. `None`: the peer is no longer on the list, or so far behind that it
    /// must begin anew, or nothing can be signed for it.
    fn frames(&self, peer: DeviceId, feed: &mut Feed) -> Option<Vec<u8>> {
        let mut frames = Vec::new();
        self.circle.borrow().get(&peer)?;
        frames.append(&mut self.circle_frames(&mut feed.circle));
        if let Some(p) = self.peers.lock().get(&peer) {
            feed.sent.merge(&p.heads);
        }
        let (records, haves, heads) = {
            let core = self.core.lock();
            let covered = feed.sent.covers_all(core.engine.floor());
            if feed.snapshot.is_none() && (!covered || std::mem::take(&mut feed.asks)) {
                feed.snapshot = Some(self.outgoing(&core)?);
            }
            let records = if feed.snapshot.is_none() { core.logs.since(&feed.sent, BATCH) } else { Vec::new() };
            let skip = usize::try_from(feed.haves.checked_sub(core.haves_from)?).ok()?;
            let haves: Vec<Root> = core.haves.iter().skip(skip).copied().collect();
            feed.haves = core.haves_from + core.haves.len() as u64;
            (records, haves, core.engine.heads().clone())
        };
        frames.extend(haves.chunks(1000).map(|roots| Frame::Have(roots.to_vec())));
        if let Some(outgoing) = &mut feed.snapshot {
            frames.extend(outgoing.statement.take().map(Frame::Snapshot));
            let mut size = 0;
            while size < BATCH
                && let Some(record) = outgoing.records.next()
            {
                let body = self.in_line(peer, &record);
                size += record.bytes().len() + body.as_ref().map_or(0, Vec::len);
                frames.push(Frame::Held { signed: record.bytes().to_vec(), body });
            }
            if size < BATCH {
                feed.sent.merge(&outgoing.heads);
                feed.snapshot = None;
            }
            return Some(bytes_of(&frames));
        }
        let mut size = 0;
        for record in &records {
            let e = record.entry();
            feed.sent.raise(e.author, Head { number: e.number, hash: e.hash });
            let body = self.in_line(peer, record);
            size += body.as_ref().map_or(0, Vec::len);
            frames.push(Frame::Record { signed: record.bytes().to_vec(), body });
            // The others in the next round: bodies count for the memory that this takes.
            if size > BATCH {
                break;
            }
        }
        // After the records: who reads this has all that it covers.
        if records.is_empty() {
            for signed in self.seen.lock().all() {
                let says = signed.says();
                let told = (says.incarnation, says.number);
                if says.device != peer
                    && heads.covers_all(&says.heads)
                    && feed.seen.insert(says.device, told) != Some(told)
                {
                    frames.push(Frame::Seen(signed.bytes().to_vec()));
                }
            }
            if feed.told.as_ref() != Some(&heads) {
                feed.told = Some(heads.clone());
                frames.push(Frame::Heads(heads));
            }
        }
        Some(bytes_of(&frames))
    }

    /// A short body that this record set, if it is whole here.
    fn in_line(&self, peer: DeviceId, record: &Signed) -> Option<Vec<u8>> {
        let live = record.entry().record.live()?;
        let content = live.content.as_ref().filter(|c| live.content_from.is_none() && c.length <= SMALL)?;
        if self.needs_no_body(&peer, record) {
            return None;
        }
        let mut bytes = Vec::new();
        self.open_body(&content.root).ok()?.take(SMALL + 1).read_to_end(&mut bytes).ok()?;
        let right = keymgr::root::Groups::of_bytes(&bytes).root() == content.root;
        right.then(|| wire::pack(&bytes))
    }
}

/// What one feed has said.
struct Feed {
    sent: Heads,
    haves: u64,
    circle: Told,
    told: Option<Heads>,
    seen: HashMap<DeviceId, (Incarnation, u64)>,
    /// The reader wants a snapshot, whatever it has.
    asks: bool,
    snapshot: Option<Outgoing>,
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    frames.iter().filter_map(wire::encode).flatten().collect()
}
