//! kith mount and kith sync: a daemon, with a mount or without.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::cli;
use crate::daemon::control::Request;
use crate::daemon::{self, background};
use crate::error::{Code, Error, Result};
use crate::{paths, vault};

pub fn mount(args: &cli::Mount, json: bool) -> Result<()> {
    let (store, at) = match args.paths.as_slice() {
        [at] => (None, at),
        [store, at] => (Some(store.as_path()), at),
        _ => return Err(Error::new(Code::Usage, "One or two folders are needed.", "kith mount [STORE] MOUNTPOINT")),
    };
    let config = daemon::Config {
        store: vault::store(store)?,
        keys: args.unlock.keys.as_deref().map(paths::absolute).transpose()?,
        mountpoint: Some(paths::absolute(at)?),
        allow_other: args.allow_other,
        read_only: args.read_only,
    };
    let text = format!("Mounted at {}.", at.display());
    start(&config, &args.unlock, args.foreground, json, &text)
}

pub fn sync(args: &cli::Sync, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    if args.stop {
        super::ask(&store, &Request::Stop)?;
        vault::wait_free(&store);
        super::done(json, "", &serde_json::json!({ "stopped": store }));
        return Ok(());
    }
    let config = daemon::Config {
        store,
        keys: args.unlock.keys.as_deref().map(paths::absolute).transpose()?,
        mountpoint: None,
        allow_other: false,
        read_only: false,
    };
    start(&config, &args.unlock, args.foreground, json, "Syncing.")
}

/// In the foreground, as the daemon that was started, or by starting one.
fn start(config: &daemon::Config, unlock: &cli::Unlock, foreground: bool, json: bool, text: &str) -> Result<()> {
    if background::is_child() {
        let secret = background::secret();
        let outcome = daemon::run(config, &secret);
        background::report(outcome.as_ref().map(|_| ()));
        return outcome;
    }
    let id = vault::id(&config.store)?;
    wait_for_the_last(&config.store)?;
    if let Some(at) = &config.mountpoint {
        check_mountpoint(at)?;
    }
    let secret: Zeroizing<Vec<u8>> = vault::secret(&config.store, unlock)?;
    if foreground {
        return daemon::run(config, &secret);
    }
    background::start(&secret, &paths::log_file(&id)?)?;
    super::done(json, text, &serde_json::json!({ "store": config.store, "mountpoint": config.mountpoint }));
    Ok(())
}

/// Refuses a vault that is in use. A daemon that was just unmounted still records what was written last: it is waited for.
fn wait_for_the_last(store: &Path) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let Err(e) = vault::Lock::take(store) else { return Ok(()) };
        let ends = e.code == Code::AlreadyRunning
            && match super::running(store)?.map(|mut daemon| daemon.ask(&Request::Status)) {
                Some(Ok(status)) => status["mountpoint"].as_str().is_some_and(|at| !is_mounted(Path::new(at))),
                Some(Err(_)) | None => true,
            };
        if !ends || Instant::now() > until {
            return Err(e);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a file system begins there.
fn is_mounted(at: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let shown = at.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    table.lines().any(|line| line.split(' ').nth(1) == Some(shown.as_str()))
}

/// Whether this error is how a mount of ours answers whose daemon was killed.
pub fn is_dead(at: &Path, error: &std::io::Error) -> bool {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let shown = at.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
        && table.lines().any(|line| line.starts_with(&format!("kith {shown} fuse")))
}

/// Takes away what is left of a mount whose daemon was killed; what was saved is in the store.
pub fn remove_dead(at: &Path) -> Result<()> {
    let done = std::process::Command::new("fusermount3").args(["-u", "-z", "--"]).arg(at).output();
    if done.is_ok_and(|out| out.status.success()) { Ok(()) } else { Err(in_use(at)) }
}

/// An existing, empty folder where nothing is mounted.
fn check_mountpoint(at: &Path) -> Result<()> {
    let missing = |why: &str| {
        Error::new(
            Code::MountpointMissing,
            format!("{} {why}.", at.display()),
            "Make the folder with mkdir, or name another one.",
        )
    };
    let meta = match std::fs::metadata(at) {
        Ok(meta) => meta,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing("does not exist")),
        Err(e) if is_dead(at, &e) => {
            remove_dead(at)?;
            return check_mountpoint(at);
        }
        Err(e) => return Err(Error::io(at, &e)),
    };
    if !meta.is_dir() {
        return Err(missing("is no folder"));
    }
    let parent: PathBuf = at.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    if std::fs::metadata(&parent).is_ok_and(|p| p.dev() != meta.dev()) {
        return Err(in_use(at));
    }
    let mut entries = std::fs::read_dir(at).map_err(|e| Error::io(at, &e))?;
    if entries.next().is_some() {
        return Err(Error::new(
            Code::MountpointNotEmpty,
            format!("{} is not empty, and mounting there would hide what is in it.", at.display()),
            "Name an empty folder. Nothing was touched.",
        ));
    }
    Ok(())
}

fn in_use(at: &Path) -> Error {
    Error::new(
        Code::MountpointInUse,
        format!("Something is mounted at {} already.", at.display()),
        format!("Name another folder, or unmount it: fusermount3 -u {}", at.display()),
    )
}
