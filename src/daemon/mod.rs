//! The daemon: one vault, its mount (or none), its records, its network; in the order in which they must begin and end.

pub mod background;
pub mod control;
mod host;
mod marks;
pub mod network;
pub mod offline;
pub mod pairing;
mod recorder;
mod serve;

use std::path::PathBuf;
use std::sync::Arc;

use fs::volume::{OpenOptions, Volume};
use keymgr::circle::Circle;
use keymgr::devices::Role;
use keymgr::keyring::Keyring;
use keymgr::shelf::Shelf;
use keymgr::vault::Vault;
use parking_lot::Mutex;
use sync::replica::{Opened as OpenedLogs, Replica};
use sync::shares::Shares;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::error::{Code, Error, Result};
use crate::vault::{self, Lock, Opened};
use host::{Ears, FromReplica, OfVolume};
use recorder::Recorder;

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
    /// None on a blind device.
    pub volume: Option<Volume>,
    pub ears: Arc<Ears>,
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
    let (daemon, clean) = begin(config, opened, stop)?;
    let daemon = Arc::new(daemon);
    let recorder = match &daemon.volume {
        Some(volume) => Some(
            Recorder::start(volume.clone(), daemon.replica.clone(), daemon.ears.clone())
                .map_err(|e| Error::io(&config.store, &e))?,
        ),
        None => None,
    };
    let mounted = match (&config.mountpoint, &daemon.volume) {
        (Some(at), Some(volume)) => {
            let options = fs::mount::MountOptions {
                allow_other: config.allow_other,
                read_only: config.read_only,
                ..fs::mount::MountOptions::default()
            };
            let mounted = volume.mount(at, options).map_err(|e| {
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
    let host = daemon.volume.clone().map(|v| Arc::new(OfVolume(v)) as Arc<dyn sync::replica::Host>);
    if clean {
        daemon.replica.begin(host);
    } else {
        mend(&daemon, host);
    }
    let login = daemon.keyring.lock().login.clone();
    if let Some(login) = login {
        let keyring = daemon.keyring.lock().clone();
        *daemon.online.lock().await = Some(network::Online::start(&login, &keyring, &daemon.shares)?);
    }
    let control = serve::listen(daemon.clone())?;
    tokio::spawn(keep_list(daemon.clone()));
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
    let outcome = end(&daemon, recorder, mounted).await;
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
) -> Result<(Daemon, bool)> {
    let Opened { store, vault, mut keyring, lock } = opened;
    let damaged = |e: sync::replica::Error| crate::error::replica(&store, &e);
    let logs = OpenedLogs::open(&store, keyring.root, keyring.device.id()).map_err(damaged)?;
    let begin = marks::begin(&vault, &mut keyring, |head| logs.holds(head))?;
    let session_before = keyring.mark.session;
    let list = keyring.list.clone().ok_or_else(|| {
        Error::new(Code::Damaged, "The keyring has no list of devices.", "Put the keyring back from a backup.")
    })?;
    let replica = Replica::start(
        sync::replica::Config {
            store: store.clone(),
            share: keyring.root,
            keys: Arc::new(keyring.device.clone()),
            circle: Circle::of_account(list),
            shelf: Shelf::empty(keyring.root),
            incarnation: keyring.incarnation,
            session: session_before + 1,
            clean: begin.clean,
        },
        logs,
    )
    .map_err(damaged)?;
    if let Some(notice) = begin.notice {
        replica.notice(notice);
    }
    let ears = Arc::new(Ears::default());
    let volume = match (keyring.role, keyring.share(keyring.root)) {
        (Role::Full, Some(keys)) => {
            let records = Arc::new(FromReplica(replica.clone()));
            let options = OpenOptions { clean: begin.clean, read_only: config.read_only, ..OpenOptions::default() };
            let volume = Volume::open(&store, vault.id(), keys.clone(), records, ears.clone(), options);
            Some(volume.map_err(|e| told(&e))?)
        }
        _ => None,
    };
    if let (Some(volume), true) = (&volume, begin.clean) {
        // The list is empty before the first change of this session, durably.
        volume.list_emptied().map_err(|e| told(&e))?;
    }
    marks::open(&vault, &mut keyring, replica.mark_heads())?;
    let shares = Shares::new(keyring.device.id());
    shares.add(&replica);
    let daemon = Daemon {
        store,
        mountpoint: config.mountpoint.clone(),
        vault,
        keyring: Mutex::new(keyring),
        replica,
        shares,
        volume,
        ears,
        online: tokio::sync::Mutex::new(None),
        mended: Mutex::new(0),
        stop,
        _lock: lock,
    };
    Ok((daemon, begin.clean))
}

/// After an unclean end, in the background: what the last session was changing is looked at and recorded. Steps begin
/// only then: what it changed must not be taken for what the records say.
fn mend(daemon: &Arc<Daemon>, host: Option<Arc<dyn sync::replica::Host>>) {
    let Some(volume) = daemon.volume.clone() else { return daemon.replica.begin(host) };
    let daemon = daemon.clone();
    std::thread::spawn(move || {
        match volume.mend() {
            Ok(report) => *daemon.mended.lock() = report.files as u64,
            Err(e) => daemon.replica.notice(format!("Mending did not end: {e}; the next mount goes on with it.")),
        }
        // It ends when what was found is recorded.
        daemon.ears.wake();
        daemon.replica.begin(host);
    });
}

/// The end: unmounted, everything recorded, on the disk, and only then the mark `clean`.
async fn end(daemon: &Arc<Daemon>, recorder: Option<Recorder>, mounted: Option<Arc<fs::mount::Mounted>>) -> Result<()> {
    let at = daemon.clone();
    let ended = tokio::task::spawn_blocking(move || {
        if let Some(mounted) = mounted
            && mounted.unmount().is_err()
        {
            // A signal does not wait for those who are still in it: it leaves the tree now.
            let _ = std::process::Command::new("fusermount3").arg("-uz").arg("--").arg(mounted.at()).output();
        }
        if let Some(recorder) = recorder {
            recorder.end();
        }
        let mut complete = true;
        if let Some(volume) = &at.volume {
            recorder::record(volume, &at.replica).map_err(|e| {
                Error::new(
                    Code::Other,
                    format!("Not everything could be recorded: {e}."),
                    "Mount again once the disk has room; nothing is lost.",
                )
            })?;
            volume.end().map_err(|e| told(&e))?;
            complete = !volume.is_dirty() && !volume.is_unmended();
        }
        at.replica.end(complete);
        if complete {
            marks::clean(&at.vault, &mut at.keyring.lock(), at.replica.mark_heads())?;
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
