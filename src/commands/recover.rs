//! kith init --recover: a new device from the words of the recovery sheet and the store of another one, a blind one too.

use std::path::Path;
use std::process::Command;

use keymgr::account::AccountKey;
use keymgr::circle::Circle;
use keymgr::device::DeviceKeys;
use keymgr::devices::{DeviceList, Listed, Role};
use keymgr::ids::ShareId;
use keymgr::keyring::Keyring;
use keymgr::share::ShareKeys;
use keymgr::shelf::{self, Shelf};
use sync::members::Kept;
use zeroize::Zeroizing;

use crate::cli::Init;
use crate::daemon::peers::from_words;
use crate::error::{Code, Error, Result, printable};
use crate::{paths, secrets, vault};

/// What of a store is taken over; the rest belongs to its device.
const PARTS: [&str; 5] = ["tree", "records", "versions", "members", "shares"];

pub fn run(args: &Init, from: &Path, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    vault::must_be_new(&store)?;
    let from = paths::absolute(from)?;
    let typed = match &args.words_file {
        Some(path) => {
            let bytes = Zeroizing::new(std::fs::read(path).map_err(|e| Error::io(path, &e))?);
            Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned())
        }
        None => secrets::line("The 24 words of the recovery sheet: ")?,
    };
    let account = from_words(&typed)?;
    let list = list_of(&from, &account)?;
    let (root, shelf) = root_of(&from, &list)?;
    let keys = opened(&shelf, &account, &Circle::of_account(list.clone())).ok_or_else(|| no_keys(&from))?;

    let device = DeviceKeys::generate();
    let name = vault::device_name(args.name.as_deref());
    let signed = |e: keymgr::devices::Error| {
        Error::new(Code::Other, format!("The list of devices cannot be changed: {e}."), "Nothing was made.")
    };
    let listed = Listed::new(device.public(), Role::Full, &name, "", vault::now());
    let admins: Vec<_> = [device.id()].into_iter().chain(list.admins().iter().copied()).collect();
    let list = list.with_added(&account, listed).and_then(|l| l.with_admins(&account, &admins)).map_err(signed)?;
    let mut keyring = Keyring::joining(device, Role::Full, account.id(), root);
    keyring.list = Some(list.clone());
    keyring.shares.push(keys);
    let mut without = 0;
    for share in shares_of(&from) {
        let kept = Kept::load(&from.join("shares").join(share.to_string()), share).ok().flatten();
        match kept.and_then(|(circle, shelf)| opened(&shelf, &account, &circle)) {
            Some(keys) => keyring.shares.push(keys),
            None => without += 1,
        }
    }
    let opened = vault::create(&store, &args.unlock, &keyring)?;
    for part in PARTS.iter().map(|part| from.join(part)).filter(|part| part.exists()) {
        let cp =
            Command::new("cp").args(["-a", "--reflink=auto", "--sparse=always", "--"]).arg(&part).arg(&store).output();
        let out = cp.map_err(|e| Error::io("cp", &e))?;
        if !out.status.success() {
            let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            let todo = "Make room, delete the store that was begun, and run it again.";
            return Err(Error::new(Code::DiskFull, format!("{}: {}.", part.display(), printable(&why)), todo));
        }
    }
    let (mut circle, mut shelf) = (Circle::of_account(list), shelf);
    Kept::open(&store, &mut circle, &mut shelf)
        .map_err(|e| Error::new(Code::Other, e.to_string(), "Check the disk."))?;
    let text = format!(
        "Everything is in {} again, on a device with keys of its own.\nNow: kith mount MOUNTPOINT, then kith account \
         add JID.\nIf another device is lost, remove it: kith peers remove NAME --lost",
        store.display()
    );
    super::done(
        json,
        &text,
        &serde_json::json!({ "store": store, "vault": opened.vault.id().to_string(), "shares_without_keys": without }),
    );
    Ok(())
}

fn list_of(from: &Path, account: &AccountKey) -> Result<DeviceList> {
    let path = from.join("members").join(format!("{}.devices", account.id()));
    let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::new(
            Code::BadWords,
            format!("{} is no store of the account of these words.", from.display()),
            "Name the store of a device of yours, or type the words of the other account.",
        ),
        _ => Error::io(&path, &e),
    })?;
    DeviceList::parse_and_verify(&bytes, &account.id()).map_err(|e| {
        Error::new(Code::Damaged, format!("{}: {e}.", path.display()), "Take the store of another device.")
    })
}

/// The root share: its folder's header says which, and the shelf is of it.
fn root_of(from: &Path, list: &DeviceList) -> Result<(ShareId, Shelf)> {
    let path = from.join("members/shelf");
    let bytes = std::fs::read(&path).map_err(|_| no_keys(from))?;
    if bytes.len() > shelf::MAX_BYTES {
        return Err(no_keys(from));
    }
    let tree = from.join("tree");
    let names = std::fs::read_dir(&tree).map_err(|e| Error::io(&tree, &e))?.flatten().map(|e| e.file_name());
    let ids = names.filter_map(|name| name.to_str()?.strip_prefix(".kith-")?.parse::<ShareId>().ok());
    for id in ids {
        if let Ok(came) = Shelf::parse(&bytes, &id) {
            let mut shelf = Shelf::empty(id);
            shelf.merge(&came, &Circle::of_account(list.clone()));
            return Ok((id, shelf));
        }
    }
    Err(no_keys(from))
}

fn opened(shelf: &Shelf, account: &AccountKey, circle: &Circle) -> Option<ShareKeys> {
    let mut keys = ShareKeys::empty(shelf.share());
    shelf.open(&account.sheet(), circle, &mut keys);
    let opens = keys.epochs().next().is_some();
    opens.then_some(keys)
}

fn shares_of(from: &Path) -> Vec<ShareId> {
    let entries = std::fs::read_dir(from.join("shares")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

fn no_keys(from: &Path) -> Error {
    Error::new(
        Code::BadWords,
        format!("{} has no key for these words: the sheet was made after it was last in step.", from.display()),
        "Take the store of a device that was online after the sheet was printed.",
    )
}
