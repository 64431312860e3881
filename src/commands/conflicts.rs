//! kith conflicts: the versions that lost, beside the files that they are versions of.

use std::path::{Path, PathBuf};

use crate::cli::StoreArg;
use crate::daemon::control::Request;
use crate::error::{Code, Error, Result, printable};
use crate::vault;

pub fn run(args: &StoreArg, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let status = super::ask(&store, &Request::Status)?;
    let at = status["mountpoint"].as_str().map(PathBuf::from).ok_or_else(|| {
        Error::new(
            Code::NotRunning,
            "The vault is not mounted here.",
            "Conflicts are seen where it is mounted: kith mount MOUNTPOINT",
        )
    })?;
    let mut found = Vec::new();
    find(&at, &mut found)?;
    found.sort();
    let lines: Vec<String> = found.iter().map(|p| printable(&p.to_string_lossy())).collect();
    let text = if lines.is_empty() { "No conflicts.".to_owned() } else { lines.join("\n") };
    super::done(json, &text, &serde_json::json!({ "conflicts": found }));
    Ok(())
}

fn find(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, &e))?.flatten() {
        if entry.file_name().to_string_lossy().contains(" (conflict, ") {
            found.push(entry.path());
        }
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            find(&entry.path(), found)?;
        }
    }
    Ok(())
}
