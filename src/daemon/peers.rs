//! Devices of this account removed, and its recovery sheet.

use std::sync::Arc;

use keymgr::account::AccountKey;
use keymgr::devices::{Cut, Listed, RecordCut, Role};
use serde_json::{Value, json};

use super::Daemon;
use crate::error::{Code, Error, Result, printable};

/// What the sheet is called on the list of devices.
pub const SHEET: &str = "recovery sheet";

impl Daemon {
    /// Removes a device of this account; `lost`: in strange hands, nothing that it signs from now on counts.
    pub async fn remove_peer(self: &Arc<Self>, name: &str, lost: bool) -> Result<Value> {
        let this = self.clone();
        let name = name.to_owned();
        let removed = tokio::task::spawn_blocking(move || this.remove(&name, lost)).await;
        removed.map_err(|_| Error::new(Code::Other, "It was interrupted.", "Try it again."))?
    }

    fn remove(&self, name: &str, lost: bool) -> Result<Value> {
        let keyring = self.keyring.lock().clone();
        let list = keyring.list.as_ref().ok_or_else(|| Error::new(Code::Other, "No list.", "Report this."))?;
        let fits = |d: &&Listed| d.name == name || d.public.id.to_string().starts_with(name) && name.len() >= 8;
        let mut found = list.devices().filter(fits);
        let device = match (found.next(), found.next()) {
            (Some(one), None) => one.clone(),
            (None, _) => {
                return Err(Error::new(
                    Code::NotShared,
                    format!("There is no device {}.", printable(name)),
                    "`kith peers` lists them.",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(Error::new(
                    Code::Usage,
                    format!("Several devices are called {}.", printable(name)),
                    "Name the one that you mean by its id: kith peers --json",
                ));
            }
        };
        let id = device.public.id;
        if id == keyring.device.id() {
            return Err(Error::new(
                Code::Usage,
                "This is the device itself.",
                "Remove it from another one; here, delete the store.",
            ));
        }
        // What it said of shares up to now counts for good; without this it would fall with the device.
        for running in self.set.all() {
            let circle = running.replica.circle().borrow().clone();
            if let Ok(vouched) = circle.with_vouched(&keyring.device, id) {
                running.replica.take_circle(&vouched);
            }
        }
        let cut = if lost {
            let heads = self.set.all().into_iter().flat_map(|r| r.replica.mark_heads());
            let of = heads.filter(|head| head.device == id);
            let cut = of.map(|h| RecordCut { share: h.share, incarnation: h.incarnation, number: h.number });
            Cut::Lost(cut.collect())
        } else {
            Cut::Keep
        };
        let refused = |e: keymgr::devices::Error| {
            Error::new(
                Code::NotAllowed,
                format!("This device cannot change the list of devices: {e}."),
                "Do it on a device that is an admin, such as the first one.",
            )
        };
        let list = match &keyring.account {
            Some(account) => list.with_removed(account, id, cut).map_err(refused)?,
            None => list.with_removed(&keyring.device, id, cut).map_err(refused)?,
        };
        {
            let mut keyring = self.keyring.lock();
            keyring.list = Some(list.clone());
            self.vault.save(&keyring).map_err(|e| crate::vault::told(&self.store, e))?;
        }
        let mut epochs = 0;
        for running in self.set.all() {
            running.replica.take_list(&list);
            if running.replica.circle().borrow().is_admin(&keyring.device.id()) {
                self.tend(&running, true)?;
                epochs += 1;
            }
        }
        Ok(json!({ "removed": device.name, "device": id.to_string(), "lost": lost, "shares_rekeyed": epochs }))
    }

    /// The words of the recovery sheet, which from now on can read everything.
    pub async fn recovery(self: &Arc<Self>) -> Result<Value> {
        let this = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let keyring = this.keyring.lock().clone();
            let account = keyring.account.as_ref().ok_or_else(printed)?;
            let list = keyring.list.clone().ok_or_else(printed)?;
            let sheet = account.sheet().public();
            if list.get(&sheet.id).is_none() {
                let listed = Listed::new(sheet, Role::Full, SHEET, "", crate::vault::now());
                let list = list
                    .with_added(account, listed)
                    .map_err(|e| Error::new(Code::Other, format!("The sheet cannot be listed: {e}."), "Try again."))?;
                {
                    let mut keyring = this.keyring.lock();
                    keyring.list = Some(list.clone());
                    this.vault.save(&keyring).map_err(|e| crate::vault::told(&this.store, e))?;
                }
                for running in this.set.all() {
                    running.replica.take_list(&list);
                    this.tend(&running, true)?;
                }
            }
            Ok(json!({
                "words": account.words().as_str(),
                "account": account.id().to_string(),
                "safety_number": account.id().safety_number(),
                "jid": keyring.login.as_ref().map(|l| super::contacts::bare(&l.jid).to_owned()),
            }))
        });
        made.await.map_err(|_| Error::new(Code::Other, "It was interrupted.", "Try it again."))?
    }

    /// The words were typed back: from now on the account key is on paper only.
    pub fn recovery_done(&self) -> Result<Value> {
        let mut keyring = self.keyring.lock();
        keyring.account = None;
        self.vault.save(&keyring).map_err(|e| crate::vault::told(&self.store, e))?;
        Ok(json!({ "erased": true }))
    }
}

fn printed() -> Error {
    Error::new(
        Code::NotAllowed,
        "The account key is not on this device: its sheet was printed already, or it is on another device.",
        "`kith status` on your first device says which.",
    )
}

/// The account whose words these are.
pub fn from_words(text: &str) -> Result<AccountKey> {
    AccountKey::from_words(text).map_err(|e| {
        Error::new(Code::BadWords, format!("{e}."), "Compare with the sheet word by word, then type them again.")
    })
}
