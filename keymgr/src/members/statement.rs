//! One signed statement of a member list, kept and hashed as the bytes that were signed.

use serde::{Deserialize, Serialize};

use super::{Access, Error, FORMAT, MAX_JID, Member};
use crate::device::{self, DeviceKeys, Domain, Signature};
use crate::ids::{AccountId, DeviceId, ShareId};

pub(crate) type Hash = [u8; 32];

/// Of one statement: two hundred hashes have room.
const MAX_STATEMENT: usize = 8 << 10;

#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Act {
    /// The first statement of a share; its author's account owns it.
    Found { format: u8, jid: String, salt: [u8; 16], now: u64 },
    /// An account and what is said of it; the owner's word goes before an inviter's, then the greatest revision.
    /// `overrules` names the removals that it takes back, `heads` the ends of what had been seen of that account's
    /// statements: past them it invites nobody where it may not.
    Member { member: Member, revision: u64, overrules: Vec<Hash>, heads: Vec<Hash> },
    /// The owner's removal of an account.
    Remove { account: AccountId, heads: Vec<Hash> },
    /// The author's account goes by itself.
    Leave { heads: Vec<Hash> },
    /// What a device of the author's account said up to `heads` counts, also when it is no admin any more.
    Vouch { device: DeviceId, heads: Vec<Hash> },
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Body {
    /// Zeros in the founding statement.
    pub share: ShareId,
    /// In whose name the device speaks.
    pub account: AccountId,
    pub author: DeviceId,
    /// 1, 2, ...
    pub number: u64,
    /// The hash of the author's statement before this one; zeros for the first.
    pub previous: Hash,
    pub act: Act,
}

#[derive(Clone)]
pub(crate) struct Statement {
    pub body: Body,
    pub bytes: Vec<u8>,
    pub signature: Signature,
    pub hash: Hash,
}

impl Statement {
    pub fn sign(body: Body, by: &DeviceKeys) -> Self {
        let bytes = postcard::to_allocvec(&body).unwrap_or_default();
        let signature = by.sign(Domain::MemberList, &bytes);
        let hash = hash(&bytes, &signature);
        Self { body, bytes, signature, hash }
    }

    pub fn parse_and_verify(bytes: Vec<u8>, signature: Signature, share: &ShareId) -> Result<Self, Error> {
        if bytes.len() > MAX_STATEMENT {
            return Err(Error::Damaged("a statement is too large"));
        }
        let Ok((body, [])) = postcard::take_from_bytes::<Body>(&bytes) else {
            return Err(Error::Damaged("a statement's encoding"));
        };
        if !device::verify(&body.author, Domain::MemberList, &bytes, &signature) {
            return Err(Error::Forged);
        }
        let hash = hash(&bytes, &signature);
        let statement = Self { body, bytes, signature, hash };
        statement.check(share)?;
        Ok(statement)
    }

    /// The shape of one statement.
    pub fn check(&self, share: &ShareId) -> Result<(), Error> {
        if self.bytes.len() > MAX_STATEMENT {
            return Err(Error::Full);
        }
        match &self.body.act {
            Act::Found { format, .. } if *format > FORMAT => Err(Error::Newer(*format)),
            Act::Found { jid, .. } => {
                let first = self.body.number == 1 && self.body.previous == [0; 32];
                if !first || jid.len() > MAX_JID {
                    return Err(Error::Damaged("the founding statement"));
                }
                if self.body.share != ShareId::from_bytes([0; 16]) || self.share() != *share {
                    return Err(Error::OtherShare);
                }
                Ok(())
            }
            _ if self.body.share != *share => Err(Error::OtherShare),
            Act::Member { member, .. } if member.jid.len() > MAX_JID => Err(Error::BadMember),
            _ => Ok(()),
        }
    }

    /// What no account but the owner's ever says, and what the owner's never does.
    pub fn check_rank(&self, owner: &AccountId) -> Result<(), Error> {
        let by_owner = self.body.account == *owner;
        match &self.body.act {
            Act::Found { .. } if !by_owner => Err(Error::Damaged("founded twice")),
            Act::Member { member, .. } => {
                let is_owner = member.account == *owner;
                if is_owner != (member.access == Access::Owner) || (!by_owner && (is_owner || member.may_invite)) {
                    return Err(Error::Damaged("more than its author may give"));
                }
                Ok(())
            }
            Act::Remove { .. } if !by_owner => Err(Error::Damaged("removed by another than the owner")),
            Act::Remove { account, .. } if account == owner => Err(Error::Owner),
            Act::Leave { .. } if by_owner => Err(Error::Owner),
            _ => Ok(()),
        }
    }

    /// Of the founding statement: the share that it founds.
    pub fn share(&self) -> ShareId {
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 share id");
        hasher.update(&self.bytes);
        let mut id = [0; ShareId::LEN];
        hasher.finalize_xof().fill(&mut id);
        ShareId::from_bytes(id)
    }
}

/// Over the signature too: who signs one thing twice makes two statements, and equal sets have equal bytes.
fn hash(bytes: &[u8], signature: &Signature) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key("kith.v1 member list statement");
    hasher.update(signature.as_bytes());
    hasher.update(bytes);
    *hasher.finalize().as_bytes()
}
