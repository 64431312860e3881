//! STORE/quarantine: what could not be verified is moved here and never deleted by the program.

use std::io;
use std::path::{Path, PathBuf};

use keymgr::secret::random_bytes;

use crate::store::{Rename, Store};

const FOLDER: &str = "quarantine";

/// Moves `path` there, under its own name and something that makes it unique. Where it lies now comes back.
pub(crate) fn into_quarantine(store: &dyn Store, path: &Path) -> io::Result<PathBuf> {
    match store.make_folder(Path::new(FOLDER), 0o700) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let name: String = name.chars().take(200).collect();
    let unique = u64::from_le_bytes(random_bytes());
    let to = Path::new(FOLDER).join(format!("{unique:016x}-{name}"));
    store.rename(path, &to, Rename::NoReplace)?;
    Ok(to)
}
