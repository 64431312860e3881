//! Bodies that records name and that are not here: asked of whoever is there, several at once, each group verified
//! against the signed root as it arrives. What stopped in the middle goes on where it stopped.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use keymgr::ids::{DeviceId, Root};
use keymgr::root::{self, GROUP, Groups};
use tokio::sync::{Semaphore, mpsc};

use super::elsewhere::HEADER;
use super::{Inner, Peers};
use crate::bodies::{self, Partial};
use crate::engine::Wanted;
use crate::wire;

/// Bodies under way at once, from one peer and from all: a peer that stalls keeps its own turns only.
const AT_ONCE: usize = 8;
const IN_ALL: usize = 64;
/// A peer that sends nothing of an answer for so long has broken off.
const STALLED: Duration = Duration::from_secs(60);
/// Of bodies that are longer than this, so much in chaining values is held at once (32 bytes each 16 KiB): 256 MiB.
const LONG: u64 = 512 << 20;
const LONG_AT_ONCE: usize = 256;
/// A peer that could not give a body just now, or gave something else, is asked for it again after this.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The most that is asked for in one request.
const RUN: u64 = 8 << 20;

pub(super) enum Event {
    /// Something may be wanted, or somebody may have it now.
    Try,
    Done {
        root: Root,
        peer: DeviceId,
        outcome: Outcome,
    },
}

pub(super) enum Outcome {
    Whole,
    /// The peer does not have it; it says when it does.
    Lacks,
    /// What it sent is not it, or it cannot give it just now.
    Wrong,
    /// The link broke: asked again when it is there again.
    Broken,
}

pub(super) async fn run(inner: Weak<Inner>, mut events: mpsc::UnboundedReceiver<Event>) {
    let mut under_way: HashMap<Root, DeviceId> = HashMap::new();
    let long = Arc::new(Semaphore::new(LONG_AT_ONCE));
    while let Some(event) = events.recv().await {
        let Some(inner) = inner.upgrade() else { return };
        let mut event = Some(event);
        // What was told meanwhile is one look at what is wanted.
        while let Some(next) = event.take() {
            if let Event::Done { root, peer, outcome } = next {
                under_way.remove(&root);
                inner.ended(root, peer, outcome);
            }
            event = events.try_recv().ok();
        }
        let Some(net) = inner.net.lock().clone() else { continue };
        let mut free = inner.who_is_free(&under_way);
        if free.is_empty() || under_way.len() >= IN_ALL {
            continue;
        }
        let look = inner.clone();
        let wanted = tokio::task::spawn_blocking(move || look.core.lock().engine.wanted()).await.unwrap_or_default();
        for want in wanted {
            if under_way.len() >= IN_ALL || free.is_empty() {
                break;
            }
            let root = want.content.root;
            if under_way.contains_key(&root) {
                continue;
            }
            let Some(peer) = inner.who_may_have(&root, &mut free) else { continue };
            under_way.insert(root, peer);
            let (inner, net, long) = (inner.clone(), net.clone(), long.clone());
            tokio::spawn(async move {
                let turns = (want.content.length / LONG).min(LONG_AT_ONCE as u64) as u32;
                let _turn = if turns > 0 { long.acquire_many_owned(turns).await.ok() } else { None };
                let outcome = fetch(&inner, net.as_ref(), peer, &want).await;
                let _ = inner.fetch.send(Event::Done { root, peer, outcome });
            });
        }
    }
}

impl Inner {
    /// Peers that may be asked for more, by their ids, each with how much.
    fn who_is_free(&self, under_way: &HashMap<Root, DeviceId>) -> BTreeMap<DeviceId, usize> {
        let now = Instant::now();
        let peers = self.peers.lock();
        let may = peers.iter().filter(|(_, p)| p.up && p.rest.is_none_or(|until| until <= now));
        let left = |id: &DeviceId| AT_ONCE.saturating_sub(under_way.values().filter(|peer| *peer == id).count());
        may.map(|(id, _)| (*id, left(id))).filter(|(_, left)| *left > 0).collect()
    }

    fn who_may_have(&self, root: &Root, free: &mut BTreeMap<DeviceId, usize>) -> Option<DeviceId> {
        let mut peers = self.peers.lock();
        let (peer, left) =
            free.iter_mut().find(|(id, _)| peers.get(id).is_some_and(|p| p.up && !p.lacks.contains(root)))?;
        let peer = *peer;
        *left -= 1;
        if *left == 0 {
            free.remove(&peer);
        }
        peers.get_mut(&peer)?.asked.insert(*root);
        Some(peer)
    }

    fn ended(self: &Arc<Self>, root: Root, peer: DeviceId, outcome: Outcome) {
        let mut says_so = false;
        if let Some(p) = self.peers.lock().get_mut(&peer) {
            p.asked.remove(&root);
            says_so = p.has.remove(&root);
            // At once with what was just read: what it says from now on is not missed.
            if matches!(outcome, Outcome::Lacks | Outcome::Wrong) && !says_so {
                p.lacks.insert(root);
            }
            match outcome {
                Outcome::Lacks if !says_so && p.said.contains(&root) => drop(p.dropped.insert(root)),
                Outcome::Whole => drop(p.said.remove(&root)),
                _ => {}
            }
        }
        match outcome {
            // It came to have it after it was asked.
            Outcome::Lacks | Outcome::Wrong if says_so => {
                let _ = self.fetch.send(Event::Try);
            }
            Outcome::Whole => {
                if let Some(p) = self.peers.lock().get_mut(&peer) {
                    p.broken = 0;
                }
                let mut core = self.core.lock();
                core.engine.handle_body(root);
                core.have(root);
                drop(core);
                self.tell();
                self.kick();
            }
            Outcome::Lacks => {}
            Outcome::Wrong => {
                let inner = Arc::downgrade(self);
                self.runtime.spawn(async move {
                    tokio::time::sleep(ASK_AGAIN).await;
                    let Some(inner) = inner.upgrade() else { return };
                    if inner.peers.lock().get_mut(&peer).is_some_and(|p| p.lacks.remove(&root)) {
                        let _ = inner.fetch.send(Event::Try);
                    }
                });
            }
            Outcome::Broken => {
                // A link that is gone is told by the network; this is a stream that ended, or about to be told.
                let mut peers = self.peers.lock();
                let Some(p) = peers.get_mut(&peer) else { return };
                p.broken = (p.broken + 1).min(6);
                let rest = Duration::from_secs(1 << (p.broken - 1));
                p.rest = Some(Instant::now() + rest);
                let fetch = self.fetch.clone();
                self.runtime.spawn(async move {
                    tokio::time::sleep(rest).await;
                    let _ = fetch.send(Event::Try);
                });
            }
        }
    }
}

/// Why a body is not whole.
enum Stop {
    Lacks,
    Wrong(String),
    /// This disk cannot take it, or not now.
    Disk(std::io::Error),
    Broken(String),
}

impl From<bodies::Error> for Stop {
    fn from(e: bodies::Error) -> Self {
        match e {
            bodies::Error::Io { source, .. } => Stop::Disk(source),
            wrong => Stop::Wrong(wrong.to_string()),
        }
    }
}

async fn fetch(inner: &Arc<Inner>, net: &dyn Peers, peer: DeviceId, want: &Wanted) -> Outcome {
    let came = whole(inner, net, peer, want).await;
    match &came {
        Ok(()) => inner.bodies.note_room(None),
        Err(Stop::Disk(e)) => inner.bodies.note_room(Some(e)),
        Err(_) => {}
    }
    match came {
        Ok(()) => Outcome::Whole,
        Err(Stop::Lacks) => {
            tracing::debug!("{} is not at {}", want.content.root, inner.name_of(&peer));
            Outcome::Lacks
        }
        Err(Stop::Wrong(why)) => {
            tracing::debug!("{} from {}: {why}", want.content.root, inner.name_of(&peer));
            Outcome::Wrong
        }
        Err(Stop::Disk(e)) => {
            tracing::info!("{} could not be kept: {e}", want.content.root);
            Outcome::Wrong
        }
        Err(Stop::Broken(why)) => {
            tracing::info!("{} from {}: {why}", want.content.root, inner.name_of(&peer));
            Outcome::Broken
        }
    }
}

async fn whole(inner: &Arc<Inner>, net: &dyn Peers, peer: DeviceId, want: &Wanted) -> Result<(), Stop> {
    let (root, length) = (want.content.root, want.content.length);
    if root::count(length) > wire::MAX_GROUPS {
        // Longer than anything that is fetched.
        return Err(Stop::Lacks);
    }
    if from_elsewhere(inner, net, peer, want).await? {
        return Ok(());
    }
    if length <= GROUP {
        let bytes = get(net, peer, inner.at_peer(&format!("objects/{root}")), None, GROUP).await?;
        if bytes.len() as u64 != length {
            return Err(bodies::Error::Wrong.into());
        }
        return Ok(inner.bodies.put(&root, &bytes)?);
    }
    let base = want.base.and_then(|base| {
        let names = inner.core.lock().engine.body_in_tree(&base.root)?;
        Some((base.root, inner.tree.path_of(&names)))
    });
    let groups = groups(inner, net, peer, &root, length, base.as_ref()).await?;
    let mut partial = inner.bodies.begin(&root, length, groups)?;
    if let Some((base, path)) = base {
        let inner = inner.clone();
        let took = tokio::task::spawn_blocking(move || {
            if let Ok(groups) = inner.bodies.groups_of(&base, &path) {
                let _ = partial.take_from(&path, &groups);
            }
            partial
        });
        partial = took.await.map_err(|e| Stop::Broken(e.to_string()))?;
    }
    for run in runs(&partial) {
        partial = run_of(inner, net, peer, &root, partial, run).await?;
    }
    let inner = inner.clone();
    let done = tokio::task::spawn_blocking(move || inner.bodies.finish(partial)).await;
    Ok(done.map_err(|e| Stop::Broken(e.to_string()))??)
}

/// Of a body that another share has, only the header is fetched.
async fn from_elsewhere(inner: &Arc<Inner>, net: &dyn Peers, peer: DeviceId, want: &Wanted) -> Result<bool, Stop> {
    let (content, at) = (want.content, inner.clone());
    let like = tokio::task::spawn_blocking(move || at.like(&content)).await;
    let Some(like) = like.map_err(|e| Stop::Broken(e.to_string()))? else { return Ok(false) };
    let length = HEADER.min(content.length);
    let header = get(net, peer, inner.at_peer(&format!("objects/{}", content.root)), Some(0..length), length).await?;
    let at = inner.clone();
    let made = tokio::task::spawn_blocking(move || at.complete(&like, &header, &content)).await;
    Ok(made.map_err(|e| Stop::Broken(e.to_string()))??)
}

/// The chaining values: what changed of the base's where the peer knows that, else all.
async fn groups(
    inner: &Arc<Inner>,
    net: &dyn Peers,
    peer: DeviceId,
    root: &Root,
    length: u64,
    base: Option<&(Root, std::path::PathBuf)>,
) -> Result<Groups, Stop> {
    let count = root::count(length);
    if let Some((base, path)) = base
        && let Ok(mut known) = inner.bodies.groups_of(base, path)
    {
        let path = inner.at_peer(&format!("objects/{root}/groups?base={base}"));
        if let Ok(bytes) = get(net, peer, path, None, (count as u64) * 36).await {
            known.truncate(count);
            for change in bytes.chunks_exact(36) {
                let (index, value) = change.split_at(4);
                let index = u32::from_le_bytes(index.try_into().unwrap_or_default()) as usize;
                if index < count {
                    known.set(index, value.try_into().unwrap_or_default());
                }
            }
            if known.len() == count && known.root() == *root {
                return Ok(known);
            }
        }
    }
    let bytes = get(net, peer, inner.at_peer(&format!("objects/{root}/groups")), None, count as u64 * 32).await?;
    let values = bytes.chunks_exact(32).map(|v| v.try_into().unwrap_or_default()).collect();
    Ok(Groups::from_values(values))
}

/// Missing groups that follow one another, in runs.
fn runs(partial: &Partial) -> Vec<Range<usize>> {
    let most = (RUN / GROUP) as usize;
    let mut out: Vec<Range<usize>> = Vec::new();
    for index in partial.missing() {
        match out.last_mut() {
            Some(run) if run.end == index && run.len() < most => run.end = index + 1,
            _ => out.push(index..index + 1),
        }
    }
    out
}

/// One run of groups, each verified as soon as it is here.
async fn run_of(
    inner: &Inner,
    net: &dyn Peers,
    peer: DeviceId,
    root: &Root,
    mut partial: Partial,
    run: Range<usize>,
) -> Result<Partial, Stop> {
    let (first, last) = (partial.range(run.start), partial.range(run.end.saturating_sub(1)));
    let response = ask(net, peer, inner.at_peer(&format!("objects/{root}")), Some(first.start..last.end)).await?;
    let mut body = response.into_body();
    let (mut buffer, mut index) = (Vec::new(), run.start);
    while let Some(data) = piece(&mut body).await? {
        buffer.extend_from_slice(&data);
        let mut at = 0;
        while index < run.end {
            let range = partial.range(index);
            let len = (range.end - range.start) as usize;
            let Some(bytes) = buffer.get(at..at + len) else { break };
            partial.put(index, bytes)?;
            at += len;
            index += 1;
        }
        buffer.drain(..at);
        if index == run.end && !buffer.is_empty() {
            return Err(Stop::Wrong("more came than was asked for".into()));
        }
    }
    if index == run.end { Ok(partial) } else { Err(Stop::Wrong("less came than was asked for".into())) }
}

async fn ask(
    net: &dyn Peers,
    peer: DeviceId,
    path: String,
    range: Option<Range<u64>>,
) -> Result<hyper::Response<hyper::body::Incoming>, Stop> {
    let mut request = hyper::Request::get(path);
    if let Some(range) = range {
        request = request.header("range", format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
    }
    let request = request.body(Bytes::new()).map_err(|e| Stop::Broken(e.to_string()))?;
    let answered = tokio::time::timeout(STALLED, net.request(peer, request)).await;
    let response = answered.map_err(|_| Stop::Broken("no answer".into()))?.map_err(Stop::Broken)?;
    match response.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
        StatusCode::NOT_FOUND => Err(Stop::Lacks),
        other => Err(Stop::Wrong(other.to_string())),
    }
}

/// The next bytes of an answer.
async fn piece(body: &mut hyper::body::Incoming) -> Result<Option<Bytes>, Stop> {
    loop {
        let Ok(next) = tokio::time::timeout(STALLED, body.frame()).await else {
            return Err(Stop::Broken("nothing came for a while".into()));
        };
        let Some(frame) = next else { return Ok(None) };
        let frame = frame.map_err(|e| Stop::Broken(e.to_string()))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

/// A whole answer of at most `most` bytes.
async fn get(
    net: &dyn Peers,
    peer: DeviceId,
    path: String,
    range: Option<Range<u64>>,
    most: u64,
) -> Result<Vec<u8>, Stop> {
    let mut body = ask(net, peer, path, range).await?.into_body();
    let mut out = Vec::new();
    while let Some(data) = piece(&mut body).await? {
        if out.len() as u64 + data.len() as u64 > most {
            return Err(Stop::Wrong("more came than can be".into()));
        }
        out.extend_from_slice(&data);
    }
    Ok(out)
}
