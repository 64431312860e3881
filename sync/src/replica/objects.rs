//! Bodies and their chaining values, for peers. What a peer asks for and does not read costs it its own turns: no thread
//! waits for it, and no other peer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use keymgr::ids::{DeviceId, Root};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Inner;
use super::serve::{status, streamed};
use crate::link::Body;

/// Read from the disk at once.
const CHUNK: usize = 256 * 1024;
/// What is read for one peer at once, in chunks; a body's chaining values count for as many as they take.
const TURNS: u32 = 32;

/// A peer's turns.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TURNS as usize)))
    }
}

impl Inner {
    /// Waits until the peer has so many turns left. They are given back when what is returned is dropped.
    pub(super) async fn turn(&self, peer: DeviceId, turns: u32) -> Option<OwnedSemaphorePermit> {
        let of = self.peers.lock().entry(peer).or_default().turns.clone();
        of.0.acquire_many_owned(turns.clamp(1, TURNS)).await.ok()
    }

    /// Opens a body that is whole here: beneath the store, and never what a symlink points at. While a step takes it from
    /// beside the tree into it, or moves what it lies in, it is neither where it was nor known to be where it will be:
    /// whoever asks then waits for the end of the step, and is not told that it is not here.
    pub(super) fn open_body(&self, root: &Root) -> io::Result<File> {
        match self.open_now(root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.core.lock().engine.has_body(root) => {
                let _authoring = self.authoring.lock();
                match self.open_now(root) {
                    // What a program moved a moment ago and fs did not tell yet.
                    Err(_) if self.core.lock().engine.has_body(root) => Err(io::ErrorKind::ResourceBusy.into()),
                    other => other,
                }
            }
            other => other,
        }
    }

    fn open_now(&self, root: &Root) -> io::Result<File> {
        let core = self.core.lock();
        if let Some(path) = self.bodies.whole(root) {
            return crate::bodies::open(&path);
        }
        let names = core.engine.body_in_tree(root).ok_or(io::ErrorKind::NotFound)?;
        self.tree.read(&names)
    }

    pub(super) async fn object(
        self: Arc<Self>,
        peer: DeviceId,
        root: Root,
        request: &Request<Incoming>,
    ) -> Response<Body> {
        let range = request.headers().get("range").map(|r| r.to_str().ok().and_then(range));
        let turn = self.turn(peer, 1).await;
        let opened = blocking(move || {
            let file = self.open_body(&root)?;
            Ok((file.metadata()?.len(), file))
        });
        let (length, file) = match opened.await {
            Ok(opened) => opened,
            Err(e) => return status(refusal(&e)),
        };
        let (start, end) = match range {
            None => (0, length),
            Some(Some((start, end))) if start < end && end <= length => (start, end),
            Some(_) => return status(StatusCode::RANGE_NOT_SATISFIABLE),
        };
        let pieces = futures::stream::unfold((Arc::new(file), start, turn), move |(file, at, turn)| async move {
            let length = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX).min(CHUNK);
            if length == 0 {
                return None;
            }
            let from = file.clone();
            let read = blocking(move || {
                let mut bytes = vec![0; length];
                from.read_exact_at(&mut bytes, at)?;
                Ok(Bytes::from(bytes))
            });
            let read = read.await;
            // After an error there is no next piece.
            let next = if read.is_ok() { at.saturating_add(length as u64) } else { end };
            Some((read, (file, next, turn)))
        });
        let mut response = Response::new(streamed(pieces));
        if range.is_some() {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        response
    }

    pub(super) async fn groups(
        self: Arc<Self>,
        peer: DeviceId,
        root: Root,
        request: &Request<Incoming>,
    ) -> Response<Body> {
        let base = request.uri().query().and_then(|q| q.strip_prefix("base=")?.parse::<Root>().ok());
        let known = self.core.lock().deltas.get(&root).cloned();
        if base.is_some() && known.as_ref().map(|(b, _)| *b) != base {
            return status(StatusCode::NOT_FOUND);
        }
        let turn = self.turn(peer, 1).await;
        let inner = self.clone();
        let opened = blocking(move || {
            let body = inner.open_body(&root)?;
            Ok((body.metadata()?.len(), body))
        });
        let (length, body) = match opened.await {
            Ok(opened) => opened,
            Err(e) => return status(refusal(&e)),
        };
        let more = u32::try_from(keymgr::root::count(length) * 32 / CHUNK).unwrap_or(TURNS);
        drop(turn);
        let turn = self.turn(peer, more).await;
        let groups = match blocking(move || self.bodies.groups_of_body(&root, &body).map_err(io::Error::other)).await {
            Ok(groups) => groups,
            Err(e) => return status(refusal(&e)),
        };
        let mut out = Vec::new();
        match (base, known) {
            (Some(_), Some((_, changed))) => {
                for index in changed {
                    let Some(value) = groups.get(index as usize) else { continue };
                    out.extend_from_slice(&index.to_le_bytes());
                    out.extend_from_slice(value);
                }
            }
            _ => groups.values().iter().for_each(|value| out.extend_from_slice(value)),
        }
        drop(groups);
        let pieces = futures::stream::unfold((Bytes::from(out), turn), |(mut rest, turn)| async move {
            let piece = rest.split_to(rest.len().min(CHUNK));
            (!piece.is_empty()).then_some((Ok(piece), (rest, turn)))
        });
        Response::new(streamed(pieces))
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}

/// Why a body is not given: it is not here, and will be told when it is; or not just now.
fn refusal(e: &io::Error) -> StatusCode {
    match e.kind() {
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// `bytes=FIRST-LAST`, as a range.
fn range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?))
}
