//! One task for each listed peer: waits until it is there, opens a link to it, and does so again when it is lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use keymgr::ids::DeviceId;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::core::Core;
use super::establish;
use super::presence::Seen;
use super::{Linked, NetEvent, Peer};
use crate::link::http::Client;

const FIRST_DELAY: Duration = Duration::from_millis(300);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const STEADY: Duration = Duration::from_secs(30);

/// Follows the device list.
pub(super) async fn follow(core: Arc<Core>, mut list: watch::Receiver<Vec<Peer>>) {
    let mut tasks = Tasks(HashMap::new());
    loop {
        let now = list.borrow_and_update().clone();
        let (new, gone) = core.table.lock().set(core.me, &now);
        for device in gone.iter().chain(new.iter().map(|peer| &peer.public.id)) {
            if let Some(task) = tasks.0.remove(device) {
                task.abort();
            }
            core.cut(device);
            if core.links.lock().remove(device).is_some() {
                core.tell(NetEvent::PeerDown(*device));
            }
        }
        for peer in &new {
            let Some(seen) = core.table.lock().watch(&peer.public.id) else { continue };
            let task = tokio::spawn(keep(core.clone(), peer.clone(), seen));
            tasks.0.insert(peer.public.id, task.abort_handle());
        }
        if !new.is_empty() && core.here().is_some() {
            let mut fresh: Vec<_> =
                new.iter().filter_map(|p| Some(tokio_xmpp::jid::Jid::new(&p.jid).ok()?.to_bare())).collect();
            fresh.sort();
            fresh.dedup();
            core.announce(fresh).await;
        }
        if list.changed().await.is_err() {
            // Nobody changes the list any more; the tasks go on until the Net is dropped.
            std::future::pending::<()>().await;
        }
    }
}

/// The peers' tasks end with the one that follows the list.
struct Tasks(HashMap<DeviceId, AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.0.values() {
            task.abort();
        }
    }
}

async fn keep(core: Arc<Core>, peer: Peer, mut seen: watch::Receiver<Option<Seen>>) {
    let device = peer.public.id;
    let mut delay = FIRST_DELAY;
    let mut here = core.watch_here();
    loop {
        if here.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let at = match seen.wait_for(Option::is_some).await {
            Ok(at) => at.clone(),
            Err(_) => return,
        };
        seen.mark_unchanged();
        let Some(at) = at else { continue };
        let began = Instant::now();
        match open(&core, &peer, &at).await {
            Ok((client, ended, linked)) => {
                tracing::info!(peer = %device, way = ?linked.way, "link");
                core.links.lock().insert(device, linked);
                core.tell(NetEvent::PeerUp(device));
                let how = ended.await;
                drop(client);
                core.links.lock().remove(&device);
                core.tell(NetEvent::PeerDown(device));
                tracing::info!(peer = %device, error = how.err().map(|e| e.to_string()), "link lost");
            }
            Err(error) => tracing::info!(peer = %device, at = %at.jid, %error, "no link"),
        }
        if began.elapsed() > STEADY {
            delay = FIRST_DELAY;
        }
        // News of the peer (it announces itself again) cut the pause short.
        if timeout(delay, seen.changed()).await.is_ok_and(|changed| changed.is_ok()) {
            delay = FIRST_DELAY;
            tokio::time::sleep(FIRST_DELAY).await;
        } else {
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }
}

type Ended = std::pin::Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

async fn open(
    core: &Arc<Core>,
    peer: &Peer,
    at: &Seen,
) -> Result<(Client, Ended, Linked), Box<dyn std::error::Error + Send + Sync>> {
    let (stream, way) = establish::initiate(core, &at.jid).await?;
    let tls = core.identity.connect(stream, &peer.public.tls).await?;
    let (client, ended) = Client::start(tls, way.pace()).await?;
    let linked = Linked { client: client.clone(), way };
    Ok((client, Box::pin(ended), linked))
}
