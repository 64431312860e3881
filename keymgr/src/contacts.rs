//! Whom this account shares with: kept sealed in the keyring. A contact's account key is trusted on first use, marked
//! verified once two people compared the safety number, and never replaced by another without being asked.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::devices::{DeviceList, Error};
use crate::ids::AccountId;
use crate::keyring::Keyring;

/// The name of the contacts among what the keyring keeps.
const NAME: &str = "contacts";

/// One contact.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Contact {
    /// Bare.
    pub jid: String,
    pub account: AccountId,
    /// The newest device list that is known, as bytes.
    pub list: Vec<u8>,
    /// Somebody compared the safety number.
    pub verified: bool,
    /// Another account key was seen under this address. Nothing is given to either until a person decides.
    pub changed: Option<AccountId>,
}

impl Contact {
    pub fn devices(&self) -> Result<DeviceList, Error> {
        DeviceList::parse_and_verify(&self.list, &self.account)
    }
}

/// What a list that was found under an address means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Somebody new.
    First,
    /// It tells something new of a known account.
    Newer,
    /// Nothing new.
    Known,
    /// It is of another account than the one that is known under this address.
    Changed,
}

/// All contacts, by address.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Contacts(Vec<Contact>);

impl Contacts {
    pub fn of(keyring: &Keyring) -> Self {
        let bytes = keyring.extra.get(NAME);
        Self(bytes.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default())
    }

    pub fn keep(&self, keyring: &mut Keyring) {
        let bytes = postcard::to_allocvec(&self.0).unwrap_or_default();
        keyring.extra.insert(NAME.to_owned(), Zeroizing::new(bytes));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Contact> {
        self.0.iter()
    }

    pub fn get(&self, jid: &str) -> Option<&Contact> {
        self.0.iter().find(|c| c.jid == jid)
    }

    pub fn by_account(&self, account: &AccountId) -> Option<&Contact> {
        self.0.iter().find(|c| c.account == *account)
    }

    /// A device list was found under this address, by whatever way it came.
    pub fn saw(&mut self, jid: &str, list: &DeviceList) -> Result<Seen, Error> {
        let Some(contact) = self.0.iter_mut().find(|c| c.jid == jid) else {
            let account = list.account();
            let (jid, list) = (jid.to_owned(), list.to_bytes());
            self.0.push(Contact { jid, account, list, verified: false, changed: None });
            return Ok(Seen::First);
        };
        if contact.account != list.account() {
            contact.changed = Some(list.account());
            return Ok(Seen::Changed);
        }
        let have = contact.devices()?;
        if have.knows(list) {
            return Ok(Seen::Known);
        }
        contact.list = have.merge(list)?.to_bytes();
        Ok(Seen::Newer)
    }

    /// A person compared the safety number of this account with what the contact reads out. Where another key was seen
    /// under the address and it is this one, the contact is that account from now on, with this list.
    pub fn verify(&mut self, jid: &str, list: &DeviceList) -> bool {
        let Some(contact) = self.0.iter_mut().find(|c| c.jid == jid) else { return false };
        let account = list.account();
        if contact.account != account {
            if contact.changed != Some(account) {
                return false;
            }
            contact.account = account;
            contact.list = list.to_bytes();
        }
        contact.verified = true;
        contact.changed = None;
        true
    }

    pub fn forget(&mut self, jid: &str) {
        self.0.retain(|c| c.jid != jid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{Listed, Role};

    fn list() -> (Keyring, DeviceList) {
        let ring = Keyring::first("laptop", "a@a.test", 1).unwrap();
        let list = ring.list.clone().unwrap();
        (ring, list)
    }

    #[test]
    fn n8_another_account_key_under_a_known_address_replaces_nothing() {
        let ((theirs, first), (_, other), (mut mine, _)) = (list(), list(), list());
        let mut contacts = Contacts::of(&mine);
        assert_eq!(contacts.saw("a@a.test", &first), Ok(Seen::First));
        assert_eq!(contacts.saw("a@a.test", &first), Ok(Seen::Known));
        assert!(contacts.verify("a@a.test", &first));
        assert_eq!(contacts.saw("a@a.test", &other), Ok(Seen::Changed));
        let contact = contacts.get("a@a.test").unwrap();
        assert_eq!((contact.account, contact.changed), (first.account(), Some(other.account())));
        // A device more is no other account.
        let pi = Listed::new(crate::device::DeviceKeys::generate().public(), Role::Blind, "pi", "", 1);
        let more = first.with_added(&theirs.device, pi).unwrap();
        assert_eq!(contacts.saw("a@a.test", &more), Ok(Seen::Newer));
        assert_eq!(contacts.saw("a@a.test", &first), Ok(Seen::Known), "an old list shown again");
        assert_eq!(contacts.get("a@a.test").unwrap().devices(), Ok(more));
        contacts.keep(&mut mine);
        assert_eq!(Contacts::of(&mine), contacts);
        // Only the account that was seen can take its place, and only by a person's word.
        let (_, third) = list();
        assert!(!contacts.verify("a@a.test", &third) && !contacts.verify("b@b.test", &third));
        assert!(contacts.verify("a@a.test", &other));
        let contact = contacts.get("a@a.test").unwrap();
        assert_eq!((contact.account, contact.changed, contact.verified), (other.account(), None, true));
    }
}
