//! What peers send: verified, made durable, handed to the engine. Bad input ends that peer's feed, nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use keymgr::ids::DeviceId;

use super::faults::Wrong;
use super::snapshot::Incoming;
use super::{Inner, fetch};
use crate::bodies::SMALL;
use crate::engine::{Head, Taken};
use crate::record::{RecordError, Signed};
use crate::wire::{Decoder, Frame, Hello, unpack};

/// The most authors (lives of devices) that a peer may claim to have read, twice over.
const MAX_AUTHORS: usize = 8192;
const MAX_REFUSED: usize = 20;
/// Lives of one device: each is an author that everybody's heads name from then on.
const MAX_LIVES: usize = 256;
/// Bodies that a peer may say it has, and that are not here.
const MAX_SAID: usize = 10_000;

/// What came of a feed and is not whole yet.
#[derive(Default)]
struct Reading {
    snapshot: Option<Incoming>,
}

/// A record, and the body that came with it.
type Came = (Arc<Signed>, Option<Vec<u8>>);

impl Inner {
    pub(super) fn peer_up(self: &Arc<Self>, peer: DeviceId) {
        let task = self.runtime.spawn(read_feed(self.clone(), peer)).abort_handle();
        let mut peers = self.peers.lock();
        let p = peers.entry(peer).or_default();
        p.up = true;
        p.lacks.clear();
        p.told = None;
        (p.broken, p.rest) = (0, None);
        if let Some(old) = p.feed.replace(task) {
            old.abort();
        }
        drop(peers);
        let _ = self.fetch.send(fetch::Event::Try);
    }

    /// Frames that came together: one fsync for all records that follow one another. Those before a bad frame count.
    fn take(self: &Arc<Self>, peer: DeviceId, frames: Vec<Frame>, reading: &mut Reading) -> Result<(), String> {
        let mut records = Vec::new();
        for frame in frames {
            if let Frame::Record { signed, body } = frame {
                match self.came(peer, &signed, body) {
                    Ok(came) => records.extend(came),
                    Err(e) => {
                        self.take_records(peer, std::mem::take(&mut records))?;
                        return Err(e);
                    }
                }
                continue;
            }
            // What is said of records counts for those before it.
            self.take_records(peer, std::mem::take(&mut records))?;
            self.take_frame(peer, frame, reading)?;
        }
        self.take_records(peer, records)
    }

    /// A record and its body, if it may count and is new.
    fn came(self: &Arc<Self>, peer: DeviceId, signed: &[u8], body: Option<Vec<u8>>) -> Result<Option<Came>, String> {
        let record = Signed::parse(signed).map_err(|e| format!("a record: {e}"))?;
        if self.core.lock().engine.holds(&record.hash()) {
            return Ok(None);
        }
        if !self.believe(peer, &record).map_err(|e| format!("a record: {e}"))? {
            return Ok(None);
        }
        Ok(Some((Arc::new(record), unpacked(body)?)))
    }

    /// Any frame but a record.
    fn take_frame(self: &Arc<Self>, peer: DeviceId, frame: Frame, reading: &mut Reading) -> Result<(), String> {
        match frame {
            Frame::Record { .. } => {}
            Frame::List(_) | Frame::Members(_) | Frame::Shelf(_) => self.take_said(peer, frame)?,
            // The decoder puts it before what follows.
            Frame::More(_) => {}
            Frame::Have(roots) => {
                let lacking: Vec<bool> = {
                    let core = self.core.lock();
                    roots.iter().map(|root| !core.engine.has_body(root)).collect()
                };
                if let Some(p) = self.peers.lock().get_mut(&peer) {
                    for (root, lacking) in roots.iter().zip(lacking) {
                        p.lacks.remove(root);
                        p.dropped.remove(root);
                        if lacking && p.said.len() < MAX_SAID {
                            p.said.insert(*root);
                        }
                    }
                    // Its answer that it lacks it may still be on the way here.
                    p.has.extend(roots.iter().filter(|root| p.asked.contains(*root)));
                }
                let _ = self.fetch.send(fetch::Event::Try);
            }
            Frame::Heads(heads) => {
                if let Some(p) = self.peers.lock().get_mut(&peer) {
                    if p.heads.len() + heads.len() > MAX_AUTHORS {
                        return Err("heads of more authors than can be".into());
                    }
                    p.heads.merge(&heads);
                    p.told = Some(heads.clone());
                }
                if !self.has_all(&heads) {
                    self.fault(peer, Wrong::Withholds);
                }
                self.count_heads(peer);
                // Who has what decides what is left out of those who may write no longer.
                if self.core.lock().engine.has_gone() {
                    self.anew.store(true, Ordering::Relaxed);
                    self.kick();
                }
            }
            Frame::Seen(bytes) => self.take_seen(peer, &bytes)?,
            Frame::Snapshot(bytes) => {
                let begun = self.begin_snapshot(peer, &bytes)?;
                return self.go_on(peer, begun, reading);
            }
            Frame::Held { signed, body } => {
                let Some(mut begun) = reading.snapshot.take() else { return Err("a record of no snapshot".into()) };
                let record = Signed::parse(&signed).map_err(|e| format!("a record: {e}"))?;
                let counts = self.believe(peer, &record).map_err(|e| format!("a record: {e}"))?;
                self.held(peer, &mut begun, &record, unpacked(body)?.as_deref(), counts)?;
                return self.go_on(peer, begun, reading);
            }
        }
        Ok(())
    }

    fn go_on(self: &Arc<Self>, peer: DeviceId, begun: Incoming, reading: &mut Reading) -> Result<(), String> {
        if begun.is_all_here() {
            return self.end_snapshot(peer, begun);
        }
        reading.snapshot = Some(begun);
        Ok(())
    }

    /// Whether a record may count. An honest peer may still hold what a device wrote that is no longer listed: that
    /// is left out, and the peer read on. What no honest peer sends is an error.
    fn believe(&self, peer: DeviceId, record: &Signed) -> Result<bool, RecordError> {
        let author = record.entry().author.device;
        let verified = record.verify(&self.circle.borrow());
        match verified {
            Ok(()) => return Ok(true),
            Err(e @ (RecordError::NotListed(_) | RecordError::MayNotWrite(_))) if author != peer => {
                // Authors can be made up: neither the set nor the notices are for the peer to fill.
                let mut refused = self.refused.lock();
                if refused.len() < MAX_REFUSED && refused.insert(author) {
                    drop(refused);
                    self.notice(format!("records are refused: {e}"));
                }
            }
            Err(e) => return Err(e),
        }
        Ok(false)
    }

    fn take_records(&self, peer: DeviceId, records: Vec<Came>) -> Result<(), String> {
        if records.is_empty() {
            return Ok(());
        }
        if let Some(p) = self.peers.lock().get_mut(&peer) {
            for (record, _) in &records {
                let e = record.entry();
                p.heads.raise(e.author, Head { number: e.number, hash: e.hash });
            }
        }
        // Bodies first: whoever is told of a record from here on finds its body too.
        let mut bodies = Vec::new();
        for (record, body) in &records {
            if let (Some(body), Some(content)) = (body, record.entry().record.content())
                && self.bodies.whole(&content.root).is_none()
                && body.len() as u64 == content.length
            {
                match self.bodies.put(&content.root, body) {
                    Ok(()) => bodies.push(content.root),
                    Err(e) => tracing::warn!("a body from {peer}: {e}"),
                }
            }
        }
        let mut core = self.core.lock();
        let share = core.engine.share();
        let mut new = 0;
        for (record, _) in records {
            let entry = record.entry();
            if entry.record.share != share {
                return Err("a record of another share".into());
            }
            let head = core.engine.heads().number(&entry.author);
            let device = entry.author.device;
            if head == 0 && core.engine.heads().iter().filter(|(a, _)| a.device == device).count() >= MAX_LIVES {
                drop(core);
                let name = self.name_of(&device);
                self.notice(format!("{name} began anew more often than is believed: what it writes now is left out"));
                core = self.core.lock();
                continue;
            }
            // Out of order, or another past of an author: nothing that the engine keeps, so nothing for the log.
            if core.engine.holds(&entry.hash) || entry.number > head.saturating_add(1) || entry.number < head {
                continue;
            }
            // Durable before it has an effect on the disk: the steps come after the lock is given back.
            core.logs.append(record.clone()).map_err(|e| e.to_string())?;
            let taken = core.engine.handle_record(entry.clone());
            if taken == Taken::Fork {
                let name = self.name_of(&entry.author.device);
                self.notice(format!("{name} has two histories: its store was put back, or its disk copied"));
            }
            new += 1;
        }
        core.logs.sync().map_err(|e| e.to_string())?;
        for root in bodies {
            core.engine.handle_body(root);
            core.have(root);
        }
        drop(core);
        if new > 0 {
            self.tell();
            self.kick();
            let _ = self.fetch.send(fetch::Event::Try);
        }
        Ok(())
    }
}

fn unpacked(body: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, String> {
    body.map(|b| unpack(&b, SMALL as usize).ok_or("a body that cannot be".into())).transpose()
}

/// Reads a peer's feed, and again where only the stream ended and not the link. Who sends what cannot be is not read on.
async fn read_feed(inner: Arc<Inner>, peer: DeviceId) {
    let mut rest = Duration::from_secs(1);
    while read_once(&inner, peer).await.is_ok() {
        tokio::time::sleep(rest).await;
        rest = (rest * 2).min(Duration::from_secs(60));
    }
}

/// It will not be better another time.
struct NotAgain;

async fn read_once(inner: &Arc<Inner>, peer: DeviceId) -> Result<(), NotAgain> {
    let Some(net) = inner.net.lock().clone() else { return Err(NotAgain) };
    let never = |why: String| {
        inner.notice(why);
        Err(NotAgain)
    };
    let hello = {
        let core = inner.core.lock();
        let full = inner.counts(&peer);
        let snapshot = full && core.logs.frontier().unconfirmed;
        Hello { version: 1, heads: core.engine.heads().clone(), snapshot }
    };
    let hello = postcard::to_stdvec(&hello).unwrap_or_default();
    let request = hyper::Request::post(inner.at_peer("feed")).body(Bytes::from(hello));
    let Ok(request) = request else { return Err(NotAgain) };
    let response = match net.request(peer, request).await {
        Ok(r) if r.status() == hyper::StatusCode::OK => r,
        Ok(r) if r.status() == hyper::StatusCode::GONE => {
            return never(format!(
                "{} says that this device does not belong to the share any more",
                inner.name_of(&peer)
            ));
        }
        Ok(r) => {
            tracing::warn!("{} does not give its feed: {}", inner.name_of(&peer), r.status());
            return Ok(());
        }
        Err(e) => {
            tracing::info!("the feed of {}: {e}", inner.name_of(&peer));
            return Ok(());
        }
    };
    // From now on it says what it comes to have. What it was asked before that may have been told to nobody.
    if let Some(p) = inner.peers.lock().get_mut(&peer) {
        p.lacks.clear();
        p.has = p.asked.clone();
    }
    let _ = inner.fetch.send(fetch::Event::Try);
    let mut body = response.into_body();
    let (mut decoder, mut reading) = (Decoder::default(), Reading::default());
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        let frames = match decoder.push(&data) {
            Ok(frames) => frames,
            Err(e) => return never(format!("{} sent {e}; its feed is not read on", inner.name_of(&peer))),
        };
        let at_work = inner.clone();
        // Signatures and fsyncs take a while: not on a thread that others wait for.
        let mut begun = std::mem::take(&mut reading);
        let taken = tokio::task::spawn_blocking(move || {
            let taken = at_work.take(peer, frames, &mut begun);
            (taken, begun)
        });
        match taken.await {
            Ok((Ok(()), begun)) => reading = begun,
            Ok((Err(why), _)) => {
                return never(format!("{} sent {why}; its feed is not read on", inner.name_of(&peer)));
            }
            Err(_) => return Err(NotAgain),
        }
    }
    Ok(())
}
