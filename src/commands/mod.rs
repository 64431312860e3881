//! One file a command; what they share.

mod account;
mod conflicts;
mod fsck;
mod init;
mod join;
mod key;
mod mount;
mod pair;
mod peers;
mod recover;
mod share;
mod status;
mod umount;
mod verify;

use std::path::Path;

use crate::cli::{Account, Cli, Command, Key};
use crate::daemon::control::{Client, Request};
use crate::error::{Code, Error, Result};
use crate::{paths, vault};

pub fn run(cli: &Cli) -> Result<()> {
    let json = cli.json;
    match &cli.command {
        Command::Init(args) => init::run(args, json),
        Command::Mount(args) => mount::mount(args, json),
        Command::Umount { mountpoint } => umount::run(mountpoint, json),
        Command::Account(Account::Add(args)) => account::add(args, json),
        Command::Pair(args) => pair::run(args, json),
        Command::Join(args) => join::run(args, json),
        Command::Peers(args) => peers::run(args, json),
        Command::Share(args) => share::share(args, json),
        Command::Invites(args) => share::invites(args, json),
        Command::Accept(args) => share::accept(args, json),
        Command::Decline(args) => share::decline(args, json),
        Command::Leave(args) => share::leave(args, json),
        Command::Unshare(args) => share::unshare(args, json),
        Command::Verify(args) => verify::run(args, json),
        Command::Key(Key::Recovery(args)) => key::recovery(args, json),
        Command::Status(args) => status::run(args, json),
        Command::Conflicts(args) => conflicts::run(args, json),
        Command::Sync(args) => mount::sync(args, json),
        Command::Fsck(args) => fsck::run(args, json),
    }
}

/// What a command did: for a person, or as one JSON object.
fn done(json: bool, text: &str, value: &serde_json::Value) {
    if json {
        println!("{value}")
    } else if !text.is_empty() {
        println!("{text}")
    }
}

/// The daemon of a vault, if one runs.
fn running(store: &Path) -> Result<Option<Client>> {
    Ok(Client::connect(&paths::socket(&vault::id(store)?)?))
}

/// The daemon of a vault.
fn daemon(store: &Path) -> Result<Client> {
    running(store)?.ok_or_else(|| {
        Error::new(
            Code::NotRunning,
            format!("No daemon runs for {}.", store.display()),
            "Mount the vault with `kith mount MOUNTPOINT`, or run `kith sync`.",
        )
    })
}

/// Asks the daemon of a vault for one thing.
fn ask(store: &Path, request: &Request) -> Result<serde_json::Value> {
    daemon(store)?.ask(request)
}
