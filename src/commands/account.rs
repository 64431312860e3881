//! kith account add: the XMPP account of this device.

use zeroize::Zeroizing;

use crate::cli::{AccountAdd, Login};
use crate::daemon::control::{AccountRequest, Request};
use crate::daemon::network;
use crate::error::{Code, Error, Result};
use crate::{secrets, vault};

pub fn add(args: &AccountAdd, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    let request = request(&args.jid, &args.login)?;
    match super::running(&store)? {
        Some(mut client) => {
            client.ask(&Request::Account(request))?;
        }
        None => {
            let secret = vault::secret(&store, &args.unlock)?;
            let mut opened = vault::open(&store, args.unlock.keys.as_deref(), &secret)?;
            let login = network::login(request);
            network::try_login(&login, args.login.register)?;
            network::set_account(&mut opened.keyring, login)?;
            opened.vault.save(&opened.keyring).map_err(|e| vault::told(&store, e))?;
        }
    }
    super::done(json, &format!("{} is this device's account.", args.jid), &serde_json::json!({ "account": args.jid }));
    Ok(())
}

/// The account that the options name, with its password asked for.
pub fn request(jid: &str, login: &Login) -> Result<AccountRequest> {
    let password = secrets::ask(login.password_file.as_deref(), &format!("Password of {jid}"), "--password-file")?;
    let password = std::str::from_utf8(&password).map(|p| Zeroizing::new(p.to_owned())).map_err(|_| {
        Error::new(Code::Usage, "The password is not UTF-8 text.", "XMPP passwords are text; check the file.")
    })?;
    let ca = login.ca.as_deref().map(crate::paths::absolute).transpose()?;
    if let Some(ca) = &ca {
        std::fs::File::open(ca).map_err(|e| Error::io(ca, &e))?;
    }
    Ok(AccountRequest {
        jid: jid.to_owned(),
        password,
        register: login.register,
        ca,
        server: login.server.clone(),
        plaintext_loopback: login.plaintext_loopback,
    })
}
