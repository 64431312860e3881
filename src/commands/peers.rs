//! kith peers: the devices of this account.

use crate::cli::{Peers, PeersCommand, PeersRemove};
use crate::daemon::control::Request;
use crate::error::{Result, printable};
use crate::vault;

pub fn run(args: &Peers, json: bool) -> Result<()> {
    if let Some(PeersCommand::Remove(args)) = &args.command {
        return remove(args, json);
    }
    let store = vault::store(args.store.as_deref())?;
    let status = super::ask(&store, &Request::Status)?;
    let of = |v: &serde_json::Value| printable(v.as_str().unwrap_or("?"));
    let lines: Vec<String> = status["peers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| {
            let here = if p["up"] == true { "here" } else { "away" };
            format!("{:<16} {:<6} {here:<5} {}", of(&p["name"]), of(&p["role"]), of(&p["jid"]))
        })
        .collect();
    let text =
        if lines.is_empty() { "No other device yet. `kith pair` lets one in.".to_owned() } else { lines.join("\n") };
    super::done(json, &text, &serde_json::json!({ "peers": status["peers"] }));
    Ok(())
}

fn remove(args: &PeersRemove, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let value = super::ask(&store, &Request::RemovePeer { name: args.name.clone(), lost: args.lost })?;
    let name = printable(value["removed"].as_str().unwrap_or("?"));
    let text = format!(
        "{name} is removed. What is written from now on is under new keys, which it does not get.\n\
         It may still hold what was there before, and its keys to that."
    );
    super::done(json, &text, &value);
    Ok(())
}
