//! Pairing, both sides: after the one-time code has made two devices sure of each other, the new one is put on the
//! signed list, and gets the list and, where it is a full one, the share's keys wrapped for it alone.

use std::time::Duration;

use keymgr::circle::Circle;
use keymgr::device::DeviceKeys;
use keymgr::devices::{DeviceList, Listed, Role};
use keymgr::ids::{AccountId, ShareId};
use keymgr::keyring::Keyring;
use keymgr::share::ShareKeys;
use keymgr::shelf::Shelf;
use serde::{Deserialize, Serialize};
use sync::net::pair::{PairError, Paired};

use crate::error::{Code, Error, Result, printable};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the new device says of itself; its keys and its role are in the handshake already.
#[derive(Serialize, Deserialize)]
struct Introduction {
    name: String,
}

/// What it gets.
#[derive(Serialize, Deserialize)]
struct Welcome {
    account: AccountId,
    root: ShareId,
    list: Vec<u8>,
    /// The epochs of the root share, with their keys wrapped for each full device; a blind one keeps it too.
    shelf: Vec<u8>,
}

/// The side that lets a device in: the new list, the new device on it, and the shelf with its key.
pub async fn welcome(paired: &mut Paired, keyring: &Keyring, mut shelf: Shelf) -> Result<(DeviceList, Listed, Shelf)> {
    let introduction = paired.receive(PATIENCE).await.map_err(|e| told(&e))?;
    let introduction: Introduction = parse(&introduction)?;
    let list = keyring.list.as_ref().ok_or_else(|| failed("This device is on no list"))?;
    let now = crate::vault::now();
    let listed = Listed::new(paired.peer().clone(), paired.role(), &introduction.name, &paired.jid(), now);
    let list = super::network::with_added(keyring, list, listed.clone())?;
    if listed.role == Role::Full {
        let keys = keyring.share(keyring.root).ok_or_else(|| failed("This device has no keys to share"))?;
        shelf
            .wrap_for(keys, &keyring.device, &listed)
            .map_err(|e| failed(&format!("The keys cannot be wrapped: {e}")))?;
    }
    let welcome =
        Welcome { account: keyring.account_id, root: keyring.root, list: list.to_bytes(), shelf: shelf.to_bytes() };
    let bytes = postcard::to_stdvec(&welcome).map_err(|_| failed("The answer cannot be written"))?;
    paired.send(&bytes).await.map_err(|e| told(&e))?;
    Ok((list, listed, shelf))
}

/// The side that joins: its keyring. What is known of the other shares it learns from the first device that it meets.
pub async fn introduce(paired: &mut Paired, device: DeviceKeys, name: &str) -> Result<(Keyring, Shelf)> {
    let introduction = Introduction { name: name.to_owned() };
    let bytes = postcard::to_stdvec(&introduction).map_err(|_| failed("The name cannot be written"))?;
    paired.send(&bytes).await.map_err(|e| told(&e))?;
    let welcome = paired.receive(PATIENCE).await.map_err(|e| told(&e))?;
    let welcome: Welcome = parse(&welcome)?;
    let list = DeviceList::parse_and_verify(&welcome.list, &welcome.account)
        .map_err(|e| failed(&format!("The device list that came is not valid: {e}")))?;
    let role = paired.role();
    if list.get(&device.id()).is_none_or(|listed| listed.role != role) {
        return Err(failed("The device list that came does not have this device on it"));
    }
    let circle = Circle::of_account(list.clone());
    let came = Shelf::parse(&welcome.shelf, &welcome.root)
        .map_err(|e| failed(&format!("The keys that came are not valid: {e}")))?;
    let (mut shelf, mut keys) = (Shelf::empty(welcome.root), ShareKeys::empty(welcome.root));
    shelf.merge(&came, &circle);
    shelf.open(&device, &circle, &mut keys);
    if (role == Role::Full) != keys.epochs().next().is_some() {
        return Err(failed("The keys that came do not fit the role"));
    }
    let mut keyring = Keyring::joining(device, role, welcome.account, welcome.root);
    keyring.list = Some(list);
    if role == Role::Full {
        keyring.shares.push(keys);
    }
    Ok((keyring, shelf))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(failed("The other device said something that makes no sense")),
    }
}

fn failed(what: &str) -> Error {
    Error::new(Code::PairingFailed, format!("{what}."), "Run `kith pair` and `kith join` again, with a new code.")
}

/// What a person is told of a pairing that failed.
pub fn told(error: &PairError) -> Error {
    let what = format!("{}.", printable(&error.to_string()));
    match error {
        PairError::BadCode | PairError::BadJid(_) => {
            Error::new(Code::Usage, what, "Copy the code as `kith pair` shows it: JID:CODE.")
        }
        PairError::NobodyOffers(_) => Error::new(
            Code::PairingFailed,
            what,
            "Is `kith pair` still waiting on the other device? A code works once only; run it again for a new one.",
        ),
        PairError::Offline => {
            Error::new(Code::BrokerUnreachable, what, "`kith status` says why the server cannot be reached.")
        }
        PairError::Busy => Error::new(Code::PairingFailed, what, "End the other `kith pair` first."),
        _ => Error::new(Code::PairingFailed, what, "The code is used up. Run `kith pair` again for a new one."),
    }
}
