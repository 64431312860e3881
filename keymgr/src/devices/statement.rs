//! One signed statement of a device list, kept and hashed as the bytes that were signed.

use serde::{Deserialize, Serialize};

use super::{Cut, Error, Listed, Signer};
use crate::account;
use crate::device::{self, Domain, Signature};
use crate::ids::{AccountId, DeviceId};

pub(super) type Hash = [u8; 32];

/// Of one statement: a thousand hashes and a device's keys have room.
const MAX_STATEMENT: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Author {
    Account,
    Device(DeviceId),
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Act {
    /// The account key's naming of the admins. Of those that are no longer named count the statements up to `keep`,
    /// and these `removals`.
    Name { admins: Vec<DeviceId>, keep: Vec<Hash>, removals: Vec<Hash> },
    /// A device and what is said of it; the greatest revision is shown. The account key's overrules removals.
    List { listed: Listed, revision: u64, overrules: Vec<Hash> },
    /// A removal; `heads` are the ends of what had been seen of the removed admin's statements.
    Remove { device: DeviceId, heads: Vec<Hash>, cut: Cut },
}

#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Body {
    pub account: AccountId,
    pub author: Author,
    /// 1, 2, ...
    pub number: u64,
    /// The hash of the author's statement before this one; zeros for the first.
    pub previous: Hash,
    pub act: Act,
}

#[derive(Clone)]
pub(super) struct Statement {
    pub body: Body,
    pub bytes: Vec<u8>,
    pub signature: Signature,
    pub hash: Hash,
}

impl Statement {
    pub fn sign(body: Body, by: Signer<'_>) -> Self {
        let bytes = postcard::to_allocvec(&body).unwrap_or_default();
        let signature = match by {
            Signer::Admin(keys) => keys.sign(Domain::DeviceList, &bytes),
            Signer::Account(key) => key.sign(Domain::Naming, &bytes),
        };
        let hash = hash(&bytes, &signature);
        Self { body, bytes, signature, hash }
    }

    pub fn parse_and_verify(bytes: Vec<u8>, signature: Signature, account: &AccountId) -> Result<Self, Error> {
        if bytes.len() > MAX_STATEMENT {
            return Err(Error::Damaged("a statement is too large"));
        }
        let Ok((body, [])) = postcard::take_from_bytes::<Body>(&bytes) else {
            return Err(Error::Damaged("a statement's encoding"));
        };
        if body.account != *account {
            return Err(Error::OtherAccount);
        }
        let signed = match &body.author {
            Author::Account => account::verify(account, Domain::Naming, &bytes, &signature),
            Author::Device(id) => device::verify(id, Domain::DeviceList, &bytes, &signature),
        };
        if !signed {
            return Err(Error::Forged);
        }
        match (&body.act, &body.author) {
            (Act::Name { .. }, Author::Device(_)) => return Err(Error::Damaged("admins named by a device")),
            (Act::List { overrules, .. }, Author::Device(_)) if !overrules.is_empty() => {
                return Err(Error::Damaged("removals overruled by a device"));
            }
            (Act::List { listed, .. }, _) if !listed.is_well_formed() => return Err(Error::BadDevice),
            _ => {}
        }
        let hash = hash(&bytes, &signature);
        Ok(Self { body, bytes, signature, hash })
    }
}

/// Over the signature too: who signs one thing twice makes two statements, and equal sets have equal bytes.
fn hash(bytes: &[u8], signature: &Signature) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("kith.v1 device list statement");
    hasher.update(signature.as_bytes());
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}
