//! kith init: a new vault.

use keymgr::keyring::Keyring;

use crate::cli::Init;
use crate::error::{Code, Error, Result, printable};
use crate::vault;

pub fn run(args: &Init, json: bool) -> Result<()> {
    if let Some(from) = &args.recover {
        return super::recover::run(args, from, json);
    }
    let store = vault::store(args.store.as_deref())?;
    vault::must_be_new(&store)?;
    let name = vault::device_name(args.name.as_deref());
    let keyring = Keyring::first(&name, "", vault::now()).map_err(|e| {
        Error::new(Code::Usage, format!("The name {} cannot be used: {e}.", printable(&name)), "Give another --name.")
    })?;
    let opened = vault::create(&store, &args.unlock, &keyring)?;
    let keys = keyring
        .share(keyring.root)
        .ok_or_else(|| Error::new(Code::Other, "The new keyring is empty.", "Report this."))?;
    fs::volume::Volume::init(&store, opened.vault.id(), keys).map_err(|e| crate::daemon::told(&e))?;
    super::done(
        json,
        &format!(
            "Made a vault in {}.\nNow: kith mount{} MOUNTPOINT",
            store.display(),
            args.store.as_ref().map_or_else(String::new, |s| format!(" {}", s.display()))
        ),
        &serde_json::json!({ "store": store, "vault": opened.vault.id().to_string(), "device": keyring.device.id().to_string() }),
    );
    Ok(())
}
