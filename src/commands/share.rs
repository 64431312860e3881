//! kith share, invites, accept, decline, leave, unshare.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::{Accept, Decline, Leave, Share, StoreArg, Unshare};
use crate::daemon::control::Request;
use crate::error::{Result, printable};
use crate::{paths, vault};

pub fn share(args: &Share, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let request = Request::Share {
        path: resolved(&args.dir)?,
        jid: args.jid.clone(),
        role: args.role.clone(),
        may_invite: args.may_invite,
    };
    let value = super::ask(&store, &request)?;
    let (dir, jid) = (args.dir.display(), printable(&args.jid));
    let mut text = format!("{dir} is shared with {jid} ({}), as soon as they accept.", args.role);
    if value["verified"] != true {
        text += &format!(
            "\nWhether {jid} is who you think is not sure yet: compare numbers with them, once: kith verify {jid}"
        );
    }
    super::done(json, &text, &value);
    Ok(())
}

pub fn invites(args: &StoreArg, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let value = super::ask(&store, &Request::Invites)?;
    let lines: Vec<String> = value["invitations"].as_array().into_iter().flatten().map(line).collect();
    let text = if lines.is_empty() {
        "No invitations.".to_owned()
    } else {
        lines.join("\n") + "\nkith accept JID takes one, kith decline JID turns it down."
    };
    super::done(json, &text, &value);
    Ok(())
}

fn line(i: &Value) -> String {
    let of = |v: &Value| printable(v.as_str().unwrap_or("?"));
    let share: String = of(&i["share"]).chars().take(8).collect();
    let sure = if i["verified"] == true { "" } else { "  (not verified)" };
    match (i["title"].as_str(), i["role"].as_str()) {
        (Some(title), Some(role)) => format!("{share}  {}: {} ({role}){sure}", of(&i["from"]), printable(title)),
        _ => format!("{share}  {}: none of their devices is here to say what it is{sure}", of(&i["from"])),
    }
}

pub fn accept(args: &Accept, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let at = args.at.as_deref().map(resolved).transpose()?;
    let value = super::ask(&store, &Request::Accept { which: args.which.clone(), at })?;
    let path = printable(value["path"].as_str().unwrap_or("?"));
    let what = match value["role"].as_str() {
        Some("reader") => " You may read it; what you write there is refused.",
        Some("blind") => " You keep a copy for them and can read nothing of it.",
        _ => "",
    };
    super::done(json, &format!("It is at {path} now.{what}"), &value);
    Ok(())
}

pub fn decline(args: &Decline, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let value = super::ask(&store, &Request::Decline { which: args.which.clone() })?;
    super::done(json, "Declined.", &value);
    Ok(())
}

pub fn leave(args: &Leave, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let value = super::ask(&store, &Request::Leave { path: resolved(&args.dir)? })?;
    super::done(json, &format!("You left {}. The others keep it.", args.dir.display()), &value);
    Ok(())
}

pub fn unshare(args: &Unshare, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let value = super::ask(&store, &Request::Unshare { path: resolved(&args.dir)?, jid: args.jid.clone() })?;
    let out: Vec<String> =
        value["removed"].as_array().into_iter().flatten().filter_map(|v| v.as_str()).map(printable).collect();
    let text = format!(
        "{} is no longer shared with {}.\n\
         What is written from now on, and new names, they cannot read. They may still hold what was in it up to now: \
         nobody can take that back.",
        args.dir.display(),
        out.join(", ")
    );
    super::done(json, &text, &value);
    Ok(())
}

/// A path as the daemon knows it: without links.
fn resolved(path: &Path) -> Result<PathBuf> {
    let path = paths::absolute(path)?;
    if let Ok(real) = path.canonicalize() {
        return Ok(real);
    }
    // The last parts may be new.
    let mut above = path.as_path();
    while let Some(parent) = above.parent() {
        if let (Ok(real), Ok(rest)) = (parent.canonicalize(), path.strip_prefix(parent)) {
            return Ok(real.join(rest));
        }
        above = parent;
    }
    Ok(path)
}
