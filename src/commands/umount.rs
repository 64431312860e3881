//! kith umount: everything written, recorded, sealed; then the mount and its daemon are gone.

use std::path::{Path, PathBuf};

use crate::daemon::control::{Client, Request};
use crate::error::{Code, Error, Result};
use crate::{paths, vault};

pub fn run(mountpoint: &Path, json: bool) -> Result<()> {
    let mountpoint = paths::absolute(mountpoint)?;
    // A mount whose daemon was killed has nothing to write any more.
    if let Err(e) = std::fs::metadata(&mountpoint)
        && super::mount::is_dead(&mountpoint, &e)
    {
        super::mount::remove_dead(&mountpoint)?;
        let text = "Unmounted; its daemon had been killed. The next mount looks through what it left.";
        super::done(json, text, &serde_json::json!({ "unmounted": mountpoint }));
        return Ok(());
    }
    let (mut client, store) = find(&mountpoint)?.ok_or_else(|| {
        Error::new(
            Code::NotRunning,
            format!("No vault is mounted at {}.", mountpoint.display()),
            "`kith status` shows what is mounted.",
        )
    })?;
    client.ask(&Request::Stop)?;
    vault::wait_free(&store);
    super::done(json, "", &serde_json::json!({ "unmounted": mountpoint }));
    Ok(())
}

/// The daemon that has a vault mounted there: asked of all that run.
fn find(mountpoint: &Path) -> Result<Option<(Client, PathBuf)>> {
    let dir = paths::runtime_dir()?;
    for entry in std::fs::read_dir(&dir).map_err(|e| Error::io(&dir, &e))?.flatten() {
        if entry.path().extension().is_none_or(|e| e != "sock") {
            continue;
        }
        let Some(mut client) = Client::connect(&entry.path()) else { continue };
        let Ok(status) = client.ask(&Request::Status) else { continue };
        if status["mountpoint"].as_str().is_some_and(|m| Path::new(m) == mountpoint) {
            let store = PathBuf::from(status["store"].as_str().unwrap_or_default());
            return Ok(Client::connect(&entry.path()).map(|client| (client, store)));
        }
    }
    Ok(None)
}
