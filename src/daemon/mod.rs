//! The daemon: one vault, its mount (or none), its records, its network; in the order in which they must begin and end.

pub mod background;
mod contacts;
pub mod control;
mod host;
mod marks;
pub mod network;
pub mod offline;
pub mod pairing;
pub mod peers;
mod recorder;
mod serve;
mod share;
mod shares;
mod sharing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use fs::mount::Forest;
use fs::volume::Volume;
use keymgr::circle::Circle;
use keymgr::devices::Role;
use keymgr::ids::{DeviceId, ShareId};
use keymgr::keyring::Keyring;
use keymgr::share::ShareKeys;
use keymgr::shelf::Shelf;
use keymgr::vault::Vault;
use parking_lot::Mutex;
use sync::net::Letter;
use sync::replica::{Opened as OpenedLogs, Replica};
use sync::shares::Shares;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::vault::{self, Lock, Opened};
use share::Running;

pub struct Config {
    pub store: PathBuf,
    pub keys: Option<PathBuf>,
    pub mountpoint: Option<PathBuf>,
    pub allow_other: bool,
    pub read_only: bool,
}

/// What the parts of a running daemon share.
pub struct Daemon {
    pub store: PathBuf,
    pub mountpoint: Option<PathBuf>,
    pub vault: Vault,
    pub keyring: Mutex<Keyring>,
    pub replica: Replica,
    /// All shares that run, the root share among them, on one network.
    pub shares: Shares,
    pub set: shares::Set,
    pub root: ShareId,
    pub read_only: bool,
    /// The volumes of all shares, as one tree. None on a blind device.
    pub forest: Option<Forest>,
    /// Peers with a link.
    pub up: Mutex<BTreeSet<DeviceId>>,
    /// Notes of other accounts.
    pub letters: mpsc::UnboundedSender<Letter>,
    /// None on a blind device.
    pub volume: Option<Volume>,
    pub online: tokio::sync::Mutex<Option<network::Online>>,
    /// Files that mending records anew after an unclean end.
    pub mended: Mutex<u64>,
    /// Ends the daemon; whoever asked hears of the end.
    pub stop: mpsc::Sender<Option<tokio::sync::oneshot::Sender<Result<()>>>>,
    _lock: Lock,
}

/// Runs until it is stopped, unmounted, or told by a signal.
pub fn run(config: &Config, secret: &Zeroizing<Vec<u8>>) -> Result<()> {
    log();
    let runtime = network::runtime()?;
    let outcome = runtime.block_on(serve_vault(config, secret));
    // What still waits for a peer or a broker is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

async fn serve_vault(config: &Config, secret: &Zeroizing<Vec<u8>>) -> Result<()> {
    let opened = vault::open(&config.store, config.keys.as_deref(), secret)?;
    let (stop, mut stopped) = mpsc::channel(4);
    let (letters, mut came) = mpsc::unbounded_channel();
    let (daemon, clean) = begin(config, opened, stop, letters)?;
    let daemon = Arc::new(daemon);
    let mounted = match (&config.mountpoint, &daemon.forest) {
        (Some(at), Some(forest)) => {
            let options = fs::mount::MountOptions {
                allow_other: config.allow_other,
                read_only: config.read_only,
                ..fs::mount::MountOptions::default()
            };
            let mounted = forest.mount(at, options).map_err(|e| {
                Error::new(
                    Code::MountFailed,
                    format!("{} could not be mounted: {e}.", at.display()),
                    "Check that fuse3 is installed and /dev/fuse exists; --allow-other needs user_allow_other in /etc/fuse.conf.",
                )
            })?;
            Some(Arc::new(mounted))
        }
        (Some(_), None) => {
            return Err(Error::new(
                Code::Usage,
                "This device is blind: it has no key that opens a file.",
                "`kith sync` keeps it in step; mount a device that joined without --blind.",
            ));
        }
        _ => None,
    };
    begin_all(&daemon, clean)?;
    let login = daemon.keyring.lock().login.clone();
    if let Some(login) = login {
        let keyring = daemon.keyring.lock().clone();
        *daemon.online.lock().await = Some(network::Online::start(&login, &keyring, &daemon)?);
    }
    let control = serve::listen(daemon.clone())?;
    let mut tasks = vec![tokio::spawn(keep_list(daemon.clone())), tokio::spawn(shares::keep(daemon.clone()))];
    let this = daemon.clone();
    tasks.push(tokio::spawn(async move {
        while let Some(letter) = came.recv().await {
            this.letter(letter).await;
        }
    }));
    background::report(Ok(()));

    // Unmounted from outside, by fusermount3: the same end.
    let gone = mounted.clone().map(|m| tokio::task::spawn_blocking(move || m.join()));
    let mut gone = std::pin::pin!(async {
        match gone {
            Some(gone) => drop(gone.await),
            None => std::future::pending().await,
        }
    });
    let answer = loop {
        tokio::select! {
            asked = stopped.recv() => match (asked.flatten(), &mounted) {
                (Some(answer), Some(mounted)) => match unmount(mounted.clone()).await {
                    Ok(()) => break Some(answer),
                    // Somebody is in it: it stays mounted, and goes on.
                    Err(e) => drop(answer.send(Err(e))),
                },
                (answer, _) => break answer,
            },
            () = signalled() => break None,
            () = &mut gone => break None,
        }
    };
    drop(control);
    tasks.iter().for_each(|task| task.abort());
    let outcome = end(&daemon, mounted).await;
    if let Some(answer) = answer {
        let told = outcome.as_ref().map(|_| ()).map_err(|e| Error {
            code: e.code,
            what: e.what.clone(),
            todo: e.todo.clone(),
        });
        let _ = answer.send(told);
        // The answer must reach the socket before this process ends.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    outcome
}

async fn unmount(mounted: Arc<fs::mount::Mounted>) -> Result<()> {
    let at = mounted.at().to_owned();
    let done = tokio::task::spawn_blocking(move || mounted.unmount()).await;
    match done {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::ResourceBusy => Err(Error::new(
            Code::MountpointInUse,
            format!("{} is still in use by a program.", at.display()),
            format!("Close what is open there (fuser -m {} lists it), then unmount again.", at.display()),
        )),
        Ok(Err(e)) => Err(Error::io(&at, &e)),
        Err(_) => Err(Error::new(Code::Other, "The unmount was interrupted.", "Try it again.")),
    }
}

/// Opens everything, marks the session open. Whether the last one ended cleanly.
fn begin(
    config: &Config,
    opened: Opened,
    stop: mpsc::Sender<Option<tokio::sync::oneshot::Sender<Result<()>>>>,
    letters: mpsc::UnboundedSender<Letter>,
) -> Result<(Daemon, bool)> {
    let Opened { store, vault, mut keyring, lock } = opened;
    let damaged = |e: sync::replica::Error| crate::error::replica(&store, &e);
    let (root, me) = (keyring.root, keyring.device.id());
    let logs = OpenedLogs::open(&store, root, me).map_err(damaged)?;
    let mut others = BTreeMap::new();
    for share in shares::on_disk(&store) {
        others.insert(share, OpenedLogs::open(&share::place(&store, share), share, me).map_err(damaged)?);
    }
    // Of a share that is not here any more nothing is expected.
    let held = |head: &keymgr::keyring::Head| match others.get(&head.share) {
        Some(logs) => logs.holds(head),
        None => head.share != root || logs.holds(head),
    };
    let begin = marks::begin(&vault, &mut keyring, held)?;
    drop(others);
    let session = keyring.mark.session + 1;
    let list = keyring.list.clone().ok_or_else(|| {
        Error::new(Code::Damaged, "The keyring has no list of devices.", "Put the keyring back from a backup.")
    })?;
    let opening = share::Opening {
        store: &store,
        share: root,
        parent: None,
        vault: vault.id(),
        device: &keyring.device,
        circle: Circle::of_account(list),
        shelf: Shelf::empty(root),
        keys: keyring.share(root).cloned().unwrap_or_else(|| ShareKeys::empty(root)),
        incarnation: keyring.incarnation,
        session,
        clean: begin.clean,
        read_only: config.read_only,
    };
    let (running, keys) = Running::open(opening, logs)?;
    if keyring.role == Role::Full && keys.epochs().next().is_some() {
        keyring.shares.retain(|held| held.share() != root);
        keyring.shares.push(keys);
    }
    let running = Arc::new(running);
    let replica = running.replica.clone();
    if let Some(notice) = begin.notice {
        replica.notice(notice);
    }
    let shares = Shares::new(me);
    let forest = running.volume.clone().map(Forest::new);
    let mountpoint = config.mountpoint.as_ref().map(|at| at.canonicalize().unwrap_or_else(|_| at.clone()));
    let set = shares::Set::default();
    set.put(running.clone());
    let daemon = Daemon {
        store,
        mountpoint,
        vault,
        keyring: Mutex::new(keyring),
        replica,
        shares,
        set,
        root,
        read_only: config.read_only,
        forest,
        up: Mutex::default(),
        letters,
        volume: running.volume.clone(),
        online: tokio::sync::Mutex::new(None),
        mended: Mutex::new(0),
        stop,
        _lock: lock,
    };
    if !config.read_only {
        daemon.settle_shares()?;
    }
    daemon.open_known(session, begin.clean)?;
    let heads = daemon.set.all().iter().flat_map(|r| r.replica.mark_heads()).collect();
    marks::open(&daemon.vault, &mut daemon.keyring.lock(), heads)?;
    Ok((daemon, begin.clean))
}

/// From now on everything may change.
fn begin_all(daemon: &Arc<Daemon>, clean: bool) -> Result<()> {
    for running in daemon.set.all() {
        if running.share == daemon.root {
            let this = daemon.clone();
            let began = running.begin(clean, move |files| *this.mended.lock() = files);
            began.map_err(|e| Error::io(&daemon.store, &e))?;
            daemon.shares.add(&running.replica);
        } else {
            daemon.begin_share(&running, clean)?;
        }
    }
    Ok(())
}

/// The end: unmounted, everything recorded, on the disk, and only then the mark `clean`.
async fn end(daemon: &Arc<Daemon>, mounted: Option<Arc<fs::mount::Mounted>>) -> Result<()> {
    let at = daemon.clone();
    let ended = tokio::task::spawn_blocking(move || {
        if let Some(mounted) = mounted
            && mounted.unmount().is_err()
        {
            // A signal does not wait for those who are still in it: it leaves the tree now.
            let _ = std::process::Command::new("fusermount3").arg("-uz").arg("--").arg(mounted.at()).output();
        }
        let mut complete = true;
        let mut failed = None;
        for running in at.set.all() {
            match running.end() {
                Ok(well) => complete &= well,
                Err(e) => failed = Some(e),
            }
        }
        if let Some(e) = failed {
            return Err(e);
        }
        if complete {
            let heads = at.set.all().iter().flat_map(|r| r.replica.mark_heads()).collect();
            marks::clean(&at.vault, &mut at.keyring.lock(), heads)?;
        }
        Ok(())
    });
    let outcome =
        ended.await.unwrap_or_else(|_| Err(Error::new(Code::Other, "The end was interrupted.", "Look at the log.")));
    drop(daemon.online.lock().await.take());
    outcome
}

/// A device list that came, or that this device signed, is kept in the keyring.
async fn keep_list(daemon: Arc<Daemon>) {
    let mut circle = daemon.replica.circle();
    while circle.changed().await.is_ok() {
        let now = circle.borrow_and_update().clone();
        let mut keyring = daemon.keyring.lock();
        let Some(list) = now.list(&keyring.account_id) else { continue };
        keyring.list = Some(list.clone());
        if let Err(e) = daemon.vault.save(&keyring) {
            tracing::warn!("the list of devices could not be kept: {e}");
        }
    }
}

async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        _ = hup.recv() => {}
    }
}

fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("KITH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,kith=info,fs=info,sync=info"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

/// What a person is told of an error of the volume.
pub fn told(error: &fs::volume::Error) -> Error {
    let what = format!("{}.", crate::error::printable(&error.to_string()));
    match error.errno() {
        libc::ENOSPC | libc::EDQUOT => Error::new(Code::DiskFull, what, "Make room on that disk. Nothing was lost."),
        _ => Error::new(Code::Other, what, "`kith fsck` looks at the whole store."),
    }
}
