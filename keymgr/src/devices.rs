//! The signed device list: who belongs to an account, and as what.
//!
//! The list is a set of signed statements that only grows (`devices/statement.rs`), and who is on it is a pure function of
//! that set (`devices/view.rs`). So merging two lists is the union of their statements: it does not matter who merges what in
//! which order, and an old list shown again changes nothing. Each author's statements are chained by hash; a removal
//! says how far the removed admin's chain had been seen (its cut), and what that admin added past it falls.

mod statement;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::account::AccountKey;
use crate::device::{DeviceKeys, DevicePublic, Signature};
use crate::ids::{AccountId, DeviceId, Incarnation, ShareId};
use statement::{Act, Author, Body, Statement};
use view::View;

const FORMAT: u8 = 1;
/// Of a list as bytes; a statement is some 1500 bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Statements that one admin may make: a stolen one cannot fill everybody's disk.
const MAX_PER_ADMIN: usize = 512;
const MAX_NAME: usize = 128;
const MAX_JID: usize = 1024;

/// Why a list or a change to it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a device list, or damaged: {0}")]
    Damaged(&'static str),
    #[error("the device list's format {0} is newer than this program; use a newer kith")]
    Newer(u8),
    #[error("the device list belongs to another account")]
    OtherAccount,
    #[error("a signature on the device list is false")]
    Forged,
    #[error("this device is no admin of the account")]
    NotAdmin,
    #[error("the device was removed from the account; it must join again with new keys")]
    Removed,
    #[error("no such device on the list")]
    NotListed,
    #[error("a device's name or address is too long, or its keys are not valid")]
    BadDevice,
    #[error("this device has changed the list too often")]
    Full,
}

/// What a device may do with the account's own folders.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Holds keys and writes.
    Full,
    /// Keeps and passes on ciphertext; gets no key, and nothing it signs as a writer counts.
    Blind,
}

/// A device as the list shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub public: DevicePublic,
    pub role: Role,
    pub name: String,
    /// Bare; empty while the device has none.
    pub jid: String,
    /// The resource under which it is online, where it keeps one.
    pub resource: Option<String>,
    /// Seconds since 1970, as the admin's clock had it; for people only.
    pub added: u64,
}

impl Listed {
    pub fn new(public: DevicePublic, role: Role, name: &str, jid: &str, added: u64) -> Self {
        Self { public, role, name: name.to_owned(), jid: jid.to_owned(), resource: None, added }
    }

    fn is_well_formed(&self) -> bool {
        self.name.len() <= MAX_NAME
            && self.jid.len() <= MAX_JID
            && self.resource.as_ref().is_none_or(|r| r.len() <= MAX_JID)
            && self.public.is_well_formed()
    }
}

/// How far a lost device's records are believed: in this share and incarnation, up to this number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct RecordCut {
    pub share: ShareId,
    pub incarnation: Incarnation,
    pub number: u64,
}

/// What happens to what a removed device had written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cut {
    /// Removed in peace: what was accepted before its removal was known stays.
    Keep,
    /// Lost: what is past these goes to quarantine; an incarnation that is not named is not believed at all.
    Lost(Vec<RecordCut>),
}

/// Who signs a change: an admin device, or the account key.
#[derive(Clone, Copy)]
pub enum Signer<'a> {
    Admin(&'a DeviceKeys),
    Account(&'a AccountKey),
}

impl<'a> From<&'a DeviceKeys> for Signer<'a> {
    fn from(keys: &'a DeviceKeys) -> Self {
        Self::Admin(keys)
    }
}

impl<'a> From<&'a AccountKey> for Signer<'a> {
    fn from(key: &'a AccountKey) -> Self {
        Self::Account(key)
    }
}

/// A verified device list. Two are equal when they hold the same statements.
#[derive(Clone)]
pub struct DeviceList {
    account: AccountId,
    statements: BTreeMap<statement::Hash, Statement>,
    view: View,
}

impl DeviceList {
    /// The first list: the account key names `device` as the one admin and lists it.
    pub fn create(account: &AccountKey, device: &DeviceKeys, listed: Listed) -> Result<Self, Error> {
        if listed.public != device.public() {
            return Err(Error::BadDevice);
        }
        let empty = Self { account: account.id(), statements: BTreeMap::new(), view: View::default() };
        empty.with_admins(account, &[device.id()])?.with_added(account, listed)
    }

    pub fn account(&self) -> AccountId {
        self.account
    }

    /// Grows with every statement learned. What a record names as the list that its author knew.
    pub fn version(&self) -> u64 {
        self.statements.len() as u64
    }

    /// The hash of all statements: two devices with the same one know the same.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 device list hash");
        hasher.update(self.account.as_bytes());
        self.statements.keys().for_each(|hash| {
            hasher.update(hash);
        });
        *hasher.finalize().as_bytes()
    }

    pub fn get(&self, device: &DeviceId) -> Option<&Listed> {
        self.view.devices.get(device)
    }

    /// Everyone on the list, by id.
    pub fn devices(&self) -> impl Iterator<Item = &Listed> {
        self.view.devices.values()
    }

    /// Who may change the list, the first named first.
    pub fn admins(&self) -> &[DeviceId] {
        &self.view.admins
    }

    pub fn is_admin(&self, device: &DeviceId) -> bool {
        self.view.admins.contains(device)
    }

    /// Whether the account key ever named the device an admin.
    pub fn was_admin(&self, device: &DeviceId) -> bool {
        let names = |s: &Statement| matches!(&s.body.act, Act::Name { admins, .. } if admins.contains(device));
        self.statements.values().any(names)
    }

    /// Devices that were removed, and what becomes of what they had written.
    pub fn removed(&self) -> impl Iterator<Item = (&DeviceId, &Cut)> {
        self.view.removed.iter()
    }

    pub fn cut(&self, device: &DeviceId) -> Option<&Cut> {
        self.view.removed.get(device)
    }

    /// What was last said of a device that is removed now.
    pub fn former(&self, device: &DeviceId) -> Option<&Listed> {
        self.view.former.get(device)
    }

    /// Stands for who is removed: a share's newest epoch must have been made knowing it (see [`crate::epoch`]).
    pub fn removals(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 removals");
        self.view.removed.keys().for_each(|id| {
            hasher.update(id.as_bytes());
        });
        *hasher.finalize().as_bytes()
    }

    /// The account key names the admins anew. The first named prevails where two remove each other. Of those left out
    /// stays what counts now; whatever else they signed or will sign falls. Whoever is removed stays so, until the
    /// account key lists it again ([`DeviceList::with_added`]).
    pub fn with_admins(&self, account: &AccountKey, admins: &[DeviceId]) -> Result<Self, Error> {
        let devices_own =
            |hash: &&statement::Hash| self.statements.get(*hash).is_some_and(|s| s.body.author != Author::Account);
        let counting: BTreeSet<_> = self.view.counting.iter().filter(devices_own).copied().collect();
        let inner: BTreeSet<_> =
            counting.iter().filter_map(|hash| Some(self.statements.get(hash)?.body.previous)).collect();
        let keep = counting.difference(&inner).copied().collect();
        let removals = self.view.removals.iter().filter(devices_own).copied().collect();
        self.with(account.into(), Act::Name { admins: admins.to_vec(), keep, removals })
    }

    /// Adds a device, or changes what is said of one. An admin cannot add a removed one again; the account key can.
    pub fn with_added<'a>(&self, by: impl Into<Signer<'a>>, listed: Listed) -> Result<Self, Error> {
        let by = by.into();
        let id = listed.public.id;
        if !listed.is_well_formed() {
            return Err(Error::BadDevice);
        }
        let overrules = match by {
            Signer::Account(_) => self.removals_of(&id),
            Signer::Admin(_) if self.view.removed.contains_key(&id) => return Err(Error::Removed),
            Signer::Admin(_) => Vec::new(),
        };
        let revision = self.view.revisions.get(&id).map_or(1, |r| r.saturating_add(1));
        self.with(by, Act::List { listed, revision, overrules })
    }

    /// Removes a device. Its statements so far stay; what it adds from now on falls.
    pub fn with_removed<'a>(&self, by: impl Into<Signer<'a>>, device: DeviceId, cut: Cut) -> Result<Self, Error> {
        if !self.view.devices.contains_key(&device) && !self.is_admin(&device) {
            return Err(Error::NotListed);
        }
        let heads = self.tips(Author::Device(device));
        self.with(by.into(), Act::Remove { device, heads, cut })
    }

    /// The union of what both know; the same in whatever order lists are merged.
    pub fn merge(&self, other: &Self) -> Result<Self, Error> {
        if self.account != other.account {
            return Err(Error::OtherAccount);
        }
        let mut statements = self.statements.clone();
        for (hash, statement) in &other.statements {
            statements.entry(*hash).or_insert_with(|| statement.clone());
        }
        Ok(Self::of(self.account, statements))
    }

    /// Whether `other` tells nothing that this list does not know.
    pub fn knows(&self, other: &Self) -> bool {
        other.statements.keys().all(|hash| self.statements.contains_key(hash))
    }

    /// Equal lists give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            format: FORMAT,
            account: self.account,
            statements: self.statements.values().map(|s| (s.bytes.clone(), s.signature)).collect(),
        };
        postcard::to_allocvec(&wire).unwrap_or_default()
    }

    /// From a peer or the disk: every signature is checked, every statement's author was named by the account key,
    /// every chain is whole.
    pub fn parse_and_verify(bytes: &[u8], account: &AccountId) -> Result<Self, Error> {
        if bytes.len() > MAX_BYTES {
            return Err(Error::Damaged("too large"));
        }
        match bytes.first() {
            Some(&FORMAT) => {}
            Some(0) | None => return Err(Error::Damaged("no format")),
            Some(newer) => return Err(Error::Newer(*newer)),
        }
        let Ok((wire, [])) = postcard::take_from_bytes::<Wire>(bytes) else {
            return Err(Error::Damaged("encoding"));
        };
        if wire.account != *account {
            return Err(Error::OtherAccount);
        }
        let mut statements = BTreeMap::new();
        for (bytes, signature) in wire.statements {
            let statement = Statement::parse_and_verify(bytes, signature, account)?;
            statements.insert(statement.hash, statement);
        }
        check_set(&statements)?;
        Ok(Self::of(*account, statements))
    }

    fn of(account: AccountId, mut statements: BTreeMap<statement::Hash, Statement>) -> Self {
        cap(&mut statements);
        let view = View::of(&statements);
        Self { account, statements, view }
    }

    /// The ends of an author's chain; more than one after a backup was put back.
    fn tips(&self, author: Author) -> Vec<statement::Hash> {
        let own = || self.statements.values().filter(move |s| s.body.author == author);
        let inner: BTreeSet<_> = own().map(|s| s.body.previous).collect();
        own().map(|s| s.hash).filter(|hash| !inner.contains(hash)).collect()
    }

    fn removals_of(&self, id: &DeviceId) -> Vec<statement::Hash> {
        let of = |s: &&Statement| matches!(&s.body.act, Act::Remove { device, .. } if device == id);
        self.statements.values().filter(of).map(|s| s.hash).collect()
    }

    fn with(&self, by: Signer<'_>, act: Act) -> Result<Self, Error> {
        let author = match by {
            Signer::Admin(keys) if !self.is_admin(&keys.id()) => return Err(Error::NotAdmin),
            Signer::Admin(keys) => Author::Device(keys.id()),
            Signer::Account(key) if key.id() != self.account => return Err(Error::OtherAccount),
            Signer::Account(_) => Author::Account,
        };
        let own = self.statements.values().filter(|s| s.body.author == author);
        if author != Author::Account && own.clone().count() >= MAX_PER_ADMIN {
            return Err(Error::Full);
        }
        let last = own.max_by_key(|s| (s.body.number, s.hash));
        let body = Body {
            account: self.account,
            author,
            number: last.map_or(1, |s| s.body.number.saturating_add(1)),
            previous: last.map_or([0; 32], |s| s.hash),
            act,
        };
        let statement = Statement::sign(body, by);
        let mut statements = self.statements.clone();
        statements.insert(statement.hash, statement);
        Ok(Self::of(self.account, statements))
    }
}

impl PartialEq for DeviceList {
    fn eq(&self, other: &Self) -> bool {
        self.account == other.account && self.statements.keys().eq(other.statements.keys())
    }
}

impl Eq for DeviceList {}

impl std::fmt::Debug for DeviceList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let devices: Vec<_> = self.devices().map(|d| (&d.name, d.public.id, d.role)).collect();
        f.debug_struct("DeviceList").field("version", &self.version()).field("devices", &devices).finish()
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u8,
    account: AccountId,
    /// By hash; a statement's bytes as its author signed them.
    statements: Vec<(Vec<u8>, Signature)>,
}

/// Whose list these bytes say they are, before anything is verified.
pub(crate) fn account_of(bytes: &[u8]) -> Result<AccountId, Error> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => {
            let account = rest.first_chunk().ok_or(Error::Damaged("encoding"))?;
            Ok(AccountId::from_bytes(*account))
        }
        Some((0, _)) | None => Err(Error::Damaged("no format")),
        Some((newer, _)) => Err(Error::Newer(*newer)),
    }
}

/// What no honest list shows: a device that the account key never named, a chain with a hole.
fn check_set(statements: &BTreeMap<statement::Hash, Statement>) -> Result<(), Error> {
    let mut named = BTreeSet::new();
    for s in statements.values() {
        if let Act::Name { admins, .. } = &s.body.act {
            named.extend(admins.iter().copied());
        }
    }
    let mut count: BTreeMap<Author, usize> = BTreeMap::new();
    for s in statements.values() {
        let own = count.entry(s.body.author).or_default();
        *own += 1;
        match s.body.author {
            Author::Device(_) if *own > MAX_PER_ADMIN => return Err(Error::Full),
            Author::Device(id) if !named.contains(&id) => return Err(Error::NotAdmin),
            _ => {}
        }
        let chained = match statements.get(&s.body.previous) {
            Some(before) => {
                before.body.author == s.body.author && before.body.number.checked_add(1) == Some(s.body.number)
            }
            None => s.body.number == 1 && s.body.previous == [0; 32],
        };
        if !chained {
            return Err(Error::Damaged("a chain of statements has a hole"));
        }
    }
    Ok(())
}

/// Of each admin the first so many by (number, hash). The smallest of a union are the smallest of each part's
/// smallest, and what comes before a statement is smaller than it, so merging stays indifferent to order and chains
/// stay whole.
fn cap(statements: &mut BTreeMap<statement::Hash, Statement>) {
    let mut by_author: BTreeMap<Author, Vec<(u64, statement::Hash)>> = BTreeMap::new();
    for s in statements.values() {
        by_author.entry(s.body.author).or_default().push((s.body.number, s.hash));
    }
    for (author, mut own) in by_author {
        if author != Author::Account && own.len() > MAX_PER_ADMIN {
            own.sort_unstable();
            for (_, hash) in own.iter().skip(MAX_PER_ADMIN) {
                statements.remove(hash);
            }
        }
    }
}
