//! Contacts and invitations: whose device lists are read at their servers, what their notes say, and what waits for an
//! answer of the user's.

use std::sync::Arc;

use keymgr::circle::Circle;
use keymgr::contacts::{Contact, Contacts, Seen};
use keymgr::devices::DeviceList;
use keymgr::ids::{AccountId, DeviceId, ShareId};
use keymgr::shelf::Shelf;
use serde::{Deserialize, Serialize};
use sync::net::{Letter, Net, Note, Peer, PepError};
use zeroize::Zeroizing;

use super::Daemon;
use crate::error::{Code, Error, Result, printable};

/// The name of the invitations among what the keyring keeps.
const NAME: &str = "invitations";
/// Strangers too may invite: more than these are not kept.
const MOST: usize = 64;

/// An invitation that was not answered yet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    pub from: String,
    pub account: AccountId,
    pub share: ShareId,
}

impl Invited {
    pub fn letter(&self) -> Letter {
        Letter { from: self.from.clone(), note: Note::Invited { account: self.account, share: self.share } }
    }
}

/// What a device of the inviting account says of it.
pub struct Offer {
    pub title: String,
    pub circle: Circle,
    pub shelf: Shelf,
}

impl Daemon {
    pub async fn net(&self) -> Result<Arc<Net>> {
        match self.online.lock().await.as_ref() {
            Some(online) => Ok(online.net().clone()),
            None => Err(Error::new(
                Code::NoSuchAccount,
                "This device has no account, so nobody can be found.",
                "Set one first: kith account add JID",
            )),
        }
    }

    pub fn invitations(&self) -> Vec<Invited> {
        let keyring = self.keyring.lock();
        let bytes = keyring.extra.get(NAME);
        bytes.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default()
    }

    pub fn change_invitations(&self, change: impl FnOnce(&mut Vec<Invited>)) -> Result<()> {
        let before = self.invitations();
        let mut now = before.clone();
        change(&mut now);
        if now == before {
            return Ok(());
        }
        let bytes = postcard::to_allocvec(&now).unwrap_or_default();
        let mut keyring = self.keyring.lock();
        keyring.extra.insert(NAME.to_owned(), Zeroizing::new(bytes));
        self.vault.save(&keyring).map_err(|e| crate::vault::told(&self.store, e))
    }

    /// The contact under this address, with the newest device list that its server shows. A stranger becomes a contact
    /// by that, trusted on first use; under a known address another account stops here.
    pub async fn contact(&self, jid: &str) -> Result<(Contact, DeviceList)> {
        let net = self.net().await?;
        let known = self.with_contacts(|c| c.get(jid).cloned())?;
        let list = match net.list_of(jid, None).await {
            Ok(list) => list,
            // What is known already is enough where its server cannot be asked now.
            Err(e) => match known.as_ref().map(Contact::devices) {
                Some(Ok(list)) if !matches!(e, PepError::BadJid(_)) => list,
                _ => return Err(told(&e)),
            },
        };
        self.saw(jid, &list)?;
        let contact = self.with_contacts(|c| c.get(jid).cloned())?;
        let contact = contact.ok_or_else(|| Error::new(Code::Other, "The contact went away.", "Try again."))?;
        if contact.changed.is_some() {
            return Err(changed(jid));
        }
        Ok((contact, list))
    }

    /// A device list was found under an address.
    pub fn saw(&self, jid: &str, list: &DeviceList) -> Result<Seen> {
        let bad = |e: keymgr::devices::Error| Error::new(Code::Damaged, e.to_string(), "Nothing was changed.");
        let seen = self.with_contacts(|contacts| contacts.saw(jid, list))?.map_err(bad)?;
        if seen == Seen::Changed {
            self.replica.notice(changed(jid).to_string());
        }
        Ok(seen)
    }

    /// Shows this account's device list, so that others can share with it.
    pub async fn show_list(&self) {
        let Ok(net) = self.net().await else { return };
        let list = self.keyring.lock().list.clone();
        if let Some(list) = list {
            match net.show_list(&list).await {
                Ok(shown) if !list.knows(&shown) => self.replica.take_list(&shown),
                Ok(_) => {}
                Err(e) => tracing::info!("the device list is not shown: {e}"),
            }
        }
    }

    /// Reads the lists of all contacts and members anew, and shows the own one.
    pub async fn look_at_contacts(&self) {
        self.show_list().await;
        let Ok(net) = self.net().await else { return };
        let own = self.keyring.lock().login.as_ref().map(|l| bare(&l.jid).to_owned());
        let known = Contacts::of(&self.keyring.lock());
        let mut jids: std::collections::BTreeSet<String> = known.iter().map(|c| c.jid.clone()).collect();
        jids.extend(self.others().into_iter().map(|m| m.jid).filter(|jid| !jid.is_empty()));
        for jid in jids.into_iter().filter(|jid| Some(jid) != own.as_ref()) {
            match net.list_of(&jid, None).await {
                Ok(list) => drop(self.saw(&jid, &list)),
                Err(e) => tracing::debug!("{}: {e}", printable(&jid)),
            }
        }
        self.stop_changed();
        self.seat_guests();
    }

    /// Shares with a contact whose account key changed are not served until a person decides.
    pub fn stop_changed(&self) {
        let contacts = Contacts::of(&self.keyring.lock());
        for running in self.set.all().into_iter().filter(|r| r.share != self.root) {
            let circle = running.replica.circle().borrow().clone();
            let stopped = contacts.iter().any(|c| c.changed.is_some() && circle.member(&c.account).is_some());
            match (stopped, self.shares.running(&running.share).is_some()) {
                (true, true) => drop(self.shares.remove(&running.share)),
                (false, false) => self.shares.add(&running.replica),
                _ => {}
            }
        }
    }

    /// Devices of accounts that invite this one are looked for, so that they can be asked what it is.
    pub fn seat_guests(&self) {
        let contacts = Contacts::of(&self.keyring.lock());
        let mut guests = Vec::new();
        for invited in self.invitations() {
            let Some(contact) = contacts.by_account(&invited.account) else { continue };
            let Ok(list) = contact.devices() else { continue };
            guests.extend(list.devices().map(|d| Peer { public: d.public.clone(), jid: d.jid.clone() }));
        }
        self.shares.set_guests(guests);
    }

    /// A note came.
    pub async fn letter(&self, letter: Letter) {
        match letter.note {
            Note::Invited { account, share } => {
                if self.set.get(share).is_some() {
                    if let Ok(net) = self.net().await {
                        let _ = net.clear_note(&letter).await;
                    }
                    return;
                }
                let Ok(net) = self.net().await else { return };
                if let Ok(list) = net.list_of(&letter.from, Some(&account)).await {
                    let _ = self.saw(&letter.from, &list);
                }
                let invited = Invited { from: letter.from.clone(), account, share };
                let kept = self.change_invitations(|all| {
                    if all.len() < MOST && !all.iter().any(|known| known.share == share) {
                        all.push(invited);
                    }
                });
                if let Err(e) = kept {
                    self.replica.notice(e.to_string());
                }
                self.seat_guests();
            }
            Note::Declined { share } | Note::Left { share } => {
                let left = matches!(letter.note, Note::Left { .. });
                if let Some(running) = self.set.get(share) {
                    let word = if left { "left" } else { "declined" };
                    self.replica.notice(format!(
                        "{} {word} {}.",
                        printable(&letter.from),
                        printable(&self.title(&running))
                    ));
                }
                if let Ok(net) = self.net().await {
                    let _ = net.clear_note(&letter).await;
                }
            }
        }
    }

    /// What the devices of the inviting account say of an invitation, where one is here.
    pub async fn offer(&self, invited: &Invited) -> Option<Offer> {
        let contact = self.with_contacts(|c| c.by_account(&invited.account).cloned()).ok()??;
        let list = contact.devices().ok()?;
        let up: Vec<DeviceId> = self.up.lock().iter().copied().collect();
        let mut nameless = None;
        for peer in up.into_iter().filter(|peer| list.get(peer).is_some()) {
            match self.shares.invitation(peer, invited.share).await {
                Ok(came) => {
                    let offer = Offer { title: came.title, circle: came.circle, shelf: came.shelf };
                    // A blind device knows no name.
                    if !offer.title.is_empty() {
                        return Some(offer);
                    }
                    nameless = Some(offer);
                }
                Err(e) => tracing::info!("an invitation: {e}"),
            }
        }
        nameless
    }
}

pub fn bare(jid: &str) -> &str {
    jid.split('/').next().unwrap_or_default()
}

pub fn changed(jid: &str) -> Error {
    Error::new(
        Code::KeyChanged,
        format!("{} shows another account key than before: it began anew, or somebody is in between.", printable(jid)),
        format!("Nothing goes there until you compared the numbers with them: kith verify {}", printable(jid)),
    )
}

/// What a person is told of a contact's server.
pub fn told(error: &PepError) -> Error {
    let what = format!("{}.", printable(&error.to_string()));
    match error {
        PepError::BadJid(_) => Error::new(Code::Usage, what, "Write it as user@domain."),
        PepError::NoServer(_) => {
            Error::new(Code::NoSuchAccount, what, "Check the part after the @, and try again later.")
        }
        PepError::NotThere(_) | PepError::NoInbox(_) => Error::new(
            Code::NotKith,
            what,
            "Check the address with the person. They need kith with an account: kith account add",
        ),
        PepError::BadList { .. } => Error::new(Code::Damaged, what, "Ask them whether their kith is up to date."),
        PepError::TooLong(_) | PepError::Server(_) => {
            Error::new(Code::BrokerUnreachable, what, "`kith status` says whether the server is there. Try again.")
        }
    }
}
