//! kith status: what a person wants to know at a glance.

use serde_json::Value;

use crate::cli::StoreArg;
use crate::daemon::control::Request;
use crate::daemon::network;
use crate::error::{Result, printable};
use crate::vault;

pub fn run(args: &StoreArg, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let value = ask_or_off(&store)?;
    super::done(json, &text(&value), &value);
    Ok(())
}

fn ask_or_off(store: &std::path::Path) -> Result<Value> {
    match super::running(store)? {
        Some(mut client) => client.ask(&Request::Status),
        None => Ok(
            serde_json::json!({ "store": store, "running": false, "peers": [], "pending": { "files": 0, "bytes": 0 } }),
        ),
    }
}

fn text(s: &Value) -> String {
    let mut out = Vec::new();
    let str_of = |v: &Value| printable(v.as_str().unwrap_or("?"));
    if s["running"] == false {
        out.push(format!("{}: not mounted, not syncing", str_of(&s["store"])));
        return out.join("\n");
    }
    match s["mountpoint"].as_str() {
        Some(at) => out.push(format!("mounted at {}", printable(at))),
        None => out.push(format!("syncing {} ({})", str_of(&s["store"]), str_of(&s["role"]))),
    }
    match (s["jid"].as_str(), s["broker"].as_str()) {
        (None, _) => out.push("no account: `kith account add JID` lets other devices find this one".into()),
        (Some(jid), None) => out.push(format!("{}: connected", printable(jid))),
        (Some(jid), Some(why)) if why == network::CONNECTING => out.push(format!("{}: {why}", printable(jid))),
        (Some(jid), Some(why)) => out.push(format!("{}: not connected: {}", printable(jid), printable(why))),
    }
    for p in s["peers"].as_array().into_iter().flatten() {
        let up = if p["up"] == true { "here" } else { "away" };
        out.push(format!("  {:<16} {:<6} {:<5} {}", str_of(&p["name"]), str_of(&p["role"]), up, str_of(&p["jid"])));
    }
    for share in s["shares"].as_array().into_iter().flatten() {
        out.push(share_line(share));
    }
    let waiting = s["invitations"].as_array().map_or(0, Vec::len);
    if waiting > 0 {
        out.push(format!("{waiting} invitations: `kith invites` lists them"));
    }
    if s["sheet_due"] == true {
        out.push("no recovery sheet yet: `kith key recovery` prints it, before you need it".into());
    }
    let files = s["pending"]["files"].as_u64().unwrap_or(0);
    if files > 0 {
        out.push(format!("{files} files on their way here ({} bytes)", s["pending"]["bytes"]));
    }
    if s["mending"] == true {
        out.push("mending after an unclean end".into());
    }
    if let Some(n) = s["mended"].as_u64().filter(|n| *n > 0) {
        out.push(format!("{n} files were recorded as the last session left them when it ended uncleanly"));
    }
    let conflicts = s["conflicts"].as_u64().unwrap_or(0);
    if conflicts > 0 {
        out.push(format!("{conflicts} conflicts: `kith conflicts` lists them"));
    }
    if s["unconfirmed"] == true {
        out.push("what is here came from a blind device alone: a full one has not confirmed yet that it is all".into());
    }
    for fault in s["faults"].as_array().into_iter().flatten() {
        out.push(format!("! {}", str_of(&fault["text"])));
    }
    for notice in s["notices"].as_array().into_iter().flatten() {
        out.push(format!("! {}", str_of(notice)));
    }
    out.join("\n")
}

fn share_line(share: &Value) -> String {
    let str_of = |v: &Value| printable(v.as_str().unwrap_or("?"));
    let members: Vec<String> = share["members"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| {
            let stopped = if m["stopped"] == true { ", stopped: verify again" } else { "" };
            let sure = if m["verified"] == true { "" } else { ", not verified" };
            format!("{} ({}{sure}{stopped})", str_of(&m["jid"]), str_of(&m["role"]))
        })
        .collect();
    let with = if members.is_empty() { "nobody else".to_owned() } else { members.join(", ") };
    let keys = if share["keys"] == true { "" } else { ", its keys are not here yet" };
    format!("  shared: {} with {with}{keys}", str_of(&share["title"]))
}
