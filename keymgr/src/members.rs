//! The member list of one share: which accounts belong to it, and as what.
//!
//! Like the device list it is a set of signed statements that only grows, so that merging is the union; who counts is
//! a pure function of that set and of the device lists of the accounts, and is the circle's question ([`crate::circle`]).
//! The share's id is a hash of the founding statement, which names the account that owns it: nobody can claim another's.

pub(crate) mod statement;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::device::{DeviceKeys, Signature};
use crate::devices::DeviceList;
use crate::ids::{AccountId, DeviceId, ShareId};
use crate::secret::random_bytes;
pub(crate) use statement::{Act, Body, Hash, Statement};

const FORMAT: u8 = 1;
/// Of a list as bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Statements of one device of the owner.
const MAX_PER_DEVICE: usize = 512;
/// Statements of all devices of another account.
const MAX_PER_ACCOUNT: usize = 128;
const MAX_JID: usize = 1024;

/// Why a member list or a change to it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a member list, or damaged: {0}")]
    Damaged(&'static str),
    #[error("the member list's format {0} is newer than this program; use a newer kith")]
    Newer(u8),
    #[error("the member list belongs to another share")]
    OtherShare,
    #[error("a signature on the member list is false")]
    Forged,
    #[error("this device may not change who belongs to the share")]
    NotAllowed,
    #[error("the owner removed this account from the share, and only the owner can let it in again")]
    Removed,
    #[error("the account does not belong to the share")]
    NotMember,
    #[error("the address is too long")]
    BadMember,
    #[error("the owner's account cannot leave its own share")]
    Owner,
    #[error("this account has changed the list too often")]
    Full,
    #[error("the device list is of no account of this share")]
    Stranger,
    #[error(transparent)]
    Devices(#[from] crate::devices::Error),
}

/// What an account may do in a share; the earlier may more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Access {
    /// The account that founded the share: says who belongs to it.
    Owner,
    Writer,
    /// Holds keys; nothing it signs as a writer counts.
    Reader,
    /// Keeps and passes on ciphertext; gets no key.
    Blind,
}

impl Access {
    pub fn may_write(self) -> bool {
        self <= Self::Writer
    }

    pub fn has_keys(self) -> bool {
        self <= Self::Reader
    }
}

/// An account as the member list shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub account: AccountId,
    /// Bare.
    pub jid: String,
    pub access: Access,
    /// Whether it may pass the share on to others, with no more than its own access.
    pub may_invite: bool,
    /// Seconds since 1970, as the clock of who added it had it; for people only.
    pub added: u64,
}

/// Signed statements of one share. Two are equal when they hold the same ones.
#[derive(Clone)]
pub struct MemberList {
    share: ShareId,
    owner: AccountId,
    founder: DeviceId,
    statements: BTreeMap<Hash, Statement>,
}

impl MemberList {
    /// A new share of the account whose admin device this is.
    pub fn found(owner: &DeviceList, admin: &DeviceKeys, jid: &str, now: u64) -> Result<Self, Error> {
        if !owner.is_admin(&admin.id()) {
            return Err(Error::NotAllowed);
        }
        if jid.len() > MAX_JID {
            return Err(Error::BadMember);
        }
        let act = Act::Found { format: FORMAT, jid: jid.to_owned(), salt: random_bytes(), now };
        Ok(Self::founded(owner.account(), admin, act))
    }

    pub(crate) fn founded(owner: AccountId, admin: &DeviceKeys, act: Act) -> Self {
        // The share's id is not known inside of what it is the hash of.
        let share = ShareId::from_bytes([0; ShareId::LEN]);
        let founding = Statement::sign(
            Body { share, account: owner, author: admin.id(), number: 1, previous: [0; 32], act },
            admin,
        );
        Self {
            share: founding.share(),
            owner,
            founder: admin.id(),
            statements: BTreeMap::from([(founding.hash, founding)]),
        }
    }

    pub fn share(&self) -> ShareId {
        self.share
    }

    /// The account that founded the share.
    pub fn owner(&self) -> AccountId {
        self.owner
    }

    /// Grows with every statement learned.
    pub fn version(&self) -> u64 {
        self.statements.len() as u64
    }

    /// The hash of all statements: two devices with the same one know the same.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 member list hash");
        hasher.update(self.share.as_bytes());
        self.statements.keys().for_each(|hash| {
            hasher.update(hash);
        });
        *hasher.finalize().as_bytes()
    }

    /// Every account that is named anywhere on the list, whether or not it belongs to the share: whose device lists
    /// are wanted to judge it.
    pub fn accounts(&self) -> BTreeSet<AccountId> {
        let named = self.statements.values().filter_map(|s| match &s.body.act {
            Act::Member { member, .. } => Some(member.account),
            _ => None,
        });
        named.chain([self.owner]).collect()
    }

    /// The union of what both know; the same in whatever order lists are merged.
    pub fn merge(&self, other: &Self) -> Result<Self, Error> {
        if self.share != other.share {
            return Err(Error::OtherShare);
        }
        let mut statements = self.statements.clone();
        for (hash, statement) in &other.statements {
            statements.entry(*hash).or_insert_with(|| statement.clone());
        }
        Ok(self.of(statements))
    }

    /// Whether `other` tells nothing that this list does not know.
    pub fn knows(&self, other: &Self) -> bool {
        other.statements.keys().all(|hash| self.statements.contains_key(hash))
    }

    /// Equal lists give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            format: FORMAT,
            share: self.share,
            statements: self.statements.values().map(|s| (s.bytes.clone(), s.signature)).collect(),
        };
        postcard::to_allocvec(&wire).unwrap_or_default()
    }

    /// From a peer or the disk: shapes, signatures and bounds are checked, every chain is whole, the founding statement
    /// is the one that the share's id is the hash of. Whether an author may say what it says is the circle's question.
    pub fn parse(bytes: &[u8], share: &ShareId) -> Result<Self, Error> {
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
        if wire.share != *share {
            return Err(Error::OtherShare);
        }
        let mut statements = BTreeMap::new();
        for (bytes, signature) in wire.statements {
            let statement = Statement::parse_and_verify(bytes, signature, share)?;
            statements.insert(statement.hash, statement);
        }
        let founding = statements.values().find(|s| matches!(s.body.act, Act::Found { .. }));
        let founding = founding.ok_or(Error::Damaged("no founding statement"))?;
        let list = Self {
            share: *share,
            owner: founding.body.account,
            founder: founding.body.author,
            statements: BTreeMap::new(),
        };
        for s in statements.values() {
            s.check_rank(&list.owner)?;
            let chained = match statements.get(&s.body.previous) {
                Some(before) => {
                    before.body.author == s.body.author
                        && before.body.account == s.body.account
                        && before.body.number.checked_add(1) == Some(s.body.number)
                }
                None => s.body.number == 1 && s.body.previous == [0; 32],
            };
            if !chained {
                return Err(Error::Damaged("a chain of statements has a hole"));
            }
        }
        let count = statements.len();
        let list = list.of(statements);
        if list.statements.len() < count {
            return Err(Error::Full);
        }
        Ok(list)
    }

    pub(crate) fn founder(&self) -> DeviceId {
        self.founder
    }

    pub(crate) fn statements(&self) -> &BTreeMap<Hash, Statement> {
        &self.statements
    }

    /// The list without what `keep` refuses, and without what follows that in its author's chain.
    pub(crate) fn retained(&self, keep: impl Fn(&Statement) -> bool) -> Self {
        let mut statements = self.statements.clone();
        loop {
            let drop: Vec<Hash> = statements
                .values()
                .filter(|s| !keep(s) || (s.body.previous != [0; 32] && !statements.contains_key(&s.body.previous)))
                .map(|s| s.hash)
                .collect();
            if drop.is_empty() {
                return Self { statements, ..self.clone() };
            }
            for hash in drop {
                statements.remove(&hash);
            }
        }
    }

    /// The ends of the chains of an account's devices, or of one of them.
    pub(crate) fn tips(&self, account: &AccountId, device: Option<&DeviceId>) -> Vec<Hash> {
        let own = || {
            let of = move |s: &&Statement| s.body.account == *account && device.is_none_or(|d| s.body.author == *d);
            self.statements.values().filter(of)
        };
        let inner: BTreeSet<_> = own().map(|s| s.body.previous).collect();
        own().map(|s| s.hash).filter(|hash| !inner.contains(hash)).collect()
    }

    /// The statements at `heads` and all before them in their authors' chains.
    pub(crate) fn with_ancestors(&self, heads: &[Hash]) -> BTreeSet<Hash> {
        let mut seen = BTreeSet::new();
        for head in heads {
            let mut at = *head;
            while let Some(s) = self.statements.get(&at)
                && seen.insert(at)
            {
                at = s.body.previous;
            }
        }
        seen
    }

    /// One statement more, signed; whether it counts is not asked here.
    pub(crate) fn with(&self, account: AccountId, by: &DeviceKeys, act: Act) -> Result<Self, Error> {
        let author = by.id();
        let own = self.statements.values().filter(|s| s.body.author == author && s.body.account == account);
        let last = own.max_by_key(|s| (s.body.number, s.hash));
        let body = Body {
            share: self.share,
            account,
            author,
            number: last.map_or(1, |s| s.body.number.saturating_add(1)),
            previous: last.map_or([0; 32], |s| s.hash),
            act,
        };
        let statement = Statement::sign(body, by);
        statement.check(&self.share)?;
        statement.check_rank(&self.owner)?;
        let hash = statement.hash;
        let mut statements = self.statements.clone();
        statements.insert(hash, statement);
        let list = self.of(statements);
        if list.statements.contains_key(&hash) { Ok(list) } else { Err(Error::Full) }
    }

    fn of(&self, mut statements: BTreeMap<Hash, Statement>) -> Self {
        cap(&mut statements, &self.owner);
        Self { statements, ..*self }
    }
}

impl PartialEq for MemberList {
    fn eq(&self, other: &Self) -> bool {
        self.share == other.share && self.statements.keys().eq(other.statements.keys())
    }
}

impl Eq for MemberList {}

impl std::fmt::Debug for MemberList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemberList").field("share", &self.share).field("version", &self.version()).finish()
    }
}

#[derive(Serialize, Deserialize)]
struct Wire {
    format: u8,
    share: ShareId,
    /// By hash; a statement's bytes as its author signed them.
    statements: Vec<(Vec<u8>, Signature)>,
}

/// Of each device of the owner, and of each other account, the first so many by (number, hash). The smallest of a
/// union are the smallest of each part's smallest, and what comes before a statement is smaller than it, so merging
/// stays indifferent to order and chains stay whole.
fn cap(statements: &mut BTreeMap<Hash, Statement>, owner: &AccountId) {
    type Author = (AccountId, Option<DeviceId>);
    let mut by_author: BTreeMap<Author, Vec<(u64, Hash)>> = BTreeMap::new();
    for s in statements.values() {
        let device = (s.body.account == *owner).then_some(s.body.author);
        by_author.entry((s.body.account, device)).or_default().push((s.body.number, s.hash));
    }
    for ((_, device), mut own) in by_author {
        let most = if device.is_some() { MAX_PER_DEVICE } else { MAX_PER_ACCOUNT };
        if own.len() > most {
            own.sort_unstable();
            for (_, hash) in own.iter().skip(most) {
                statements.remove(hash);
            }
        }
    }
}
