//! Where things lie: the default store, the control socket, the log, the mark outside the store (XDG base directories).

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use keymgr::ids::VaultId;

use crate::error::{Code, Error, Result};

fn home(sub: &str, variable: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(variable).filter(|d| Path::new(d).is_absolute()) {
        return Ok(PathBuf::from(dir));
    }
    let home = std::env::var_os("HOME").filter(|h| !h.is_empty()).ok_or_else(|| {
        Error::new(
            Code::Usage,
            "There is no HOME, so there is no place for kith's files.",
            format!("Set HOME or {variable}."),
        )
    })?;
    Ok(PathBuf::from(home).join(sub))
}

/// `$XDG_DATA_HOME/kith/store`.
pub fn default_store() -> Result<PathBuf> {
    Ok(home(".local/share", "XDG_DATA_HOME")?.join("kith/store"))
}

/// A folder that only its owner may enter, made where it is missing.
fn private_dir(path: PathBuf) -> Result<PathBuf> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|e| Error::io(&path, &e))?;
    Ok(path)
}

/// `$XDG_STATE_HOME/kith`: marks and logs.
pub fn state_dir() -> Result<PathBuf> {
    private_dir(home(".local/state", "XDG_STATE_HOME")?.join("kith"))
}

/// The mark of a vault outside its store: an older store is told from the present one by it.
pub fn outside_mark(vault: VaultId) -> Result<PathBuf> {
    Ok(state_dir()?.join(format!("{vault}.mark")))
}

/// The log of a vault's daemon.
pub fn log_file(vault: &str) -> Result<PathBuf> {
    Ok(state_dir()?.join(format!("{vault}.log")))
}

/// `$XDG_RUNTIME_DIR/kith`, or a folder of the user's own in /tmp where there is no runtime directory.
pub fn runtime_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").filter(|d| Path::new(d).is_absolute()) {
        return private_dir(PathBuf::from(dir).join("kith"));
    }
    let uid = nix::unistd::geteuid().as_raw();
    let dir = private_dir(std::env::temp_dir().join(format!("kith-{uid}")))?;
    let meta = std::fs::symlink_metadata(&dir).map_err(|e| Error::io(&dir, &e))?;
    if !meta.is_dir() || meta.uid() != uid || meta.permissions().mode() & 0o077 != 0 {
        return Err(Error::new(
            Code::Other,
            format!("{} is not a private folder of yours.", dir.display()),
            "Set XDG_RUNTIME_DIR to a folder that only you can enter.",
        ));
    }
    Ok(dir)
}

/// The control socket of a vault's daemon.
pub fn socket(vault: &str) -> Result<PathBuf> {
    Ok(runtime_dir()?.join(format!("{vault}.sock")))
}

/// An absolute path without asking that it exists.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(path, &e))
}
