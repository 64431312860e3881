//! kith pair: a one-time code, and a device more.

use std::io::{BufRead, IsTerminal, Write};

use crate::cli::Pair;
use crate::daemon::control::{Answer, Request};
use crate::error::{Code, Error, Result, printable};
use crate::vault;

pub fn run(args: &Pair, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let mut client = super::daemon(&store)?;
    client.send(&Request::Pair { jid: args.jid.clone(), timeout: args.timeout })?;
    loop {
        match client.answer()? {
            Answer::Code { code } if json => println!("{}", serde_json::json!({ "code": code })),
            Answer::Code { code } => {
                println!(
                    "On the other device:\n\n    kith join {code} --jid ITS-OWN-ACCOUNT\n\nadd --blind there if it is to hold ciphertext only. Waiting for it ..."
                );
                let _ = std::io::stdout().flush();
            }
            Answer::Confirm { jid } => {
                let allow = confirm(&jid)?;
                client.send(&Request::Allow { allow })?;
            }
            Answer::Done { value } => {
                let name = printable(value["name"].as_str().unwrap_or("the device"));
                super::done(
                    json,
                    &format!("{name} is one of your devices now ({}).", value["role"].as_str().unwrap_or("?")),
                    &value,
                );
                return Ok(());
            }
            Answer::Failed { .. } => unreachable!("Client::answer gives failures as errors"),
        }
    }
}

/// Only a JID that the person confirms may try the code.
fn confirm(jid: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(
            Code::PairingFailed,
            format!("{} tried the code, and nobody is there to confirm it.", printable(jid)),
            "Name the account that may use the code: kith pair --jid JID.",
        ));
    }
    eprint!("{} wants to use the code. Is that your other device? [y/N] ", printable(jid));
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}
