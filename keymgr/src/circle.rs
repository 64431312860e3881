//! Who is who in one share: the accounts that belong to it, their devices, and what each may.
//!
//! An account's root share has no member list: its circle is the account's device list. Every other share has one, and
//! the device lists of all accounts that are named on it.

mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::device::DeviceKeys;
use crate::devices::{Cut, DeviceList, Listed, Role};
use crate::ids::{AccountId, DeviceId};
pub use crate::members::{Access, Error, Member, MemberList};
use crate::members::{Act, Statement};
use view::View;

/// A device's place in a share.
#[derive(Clone, Copy, Debug)]
pub struct Seat<'a> {
    pub listed: &'a Listed,
    pub account: AccountId,
    /// Of the device: a blind device of an account that writes has [`Access::Blind`].
    pub access: Access,
}

/// Cheap to clone; changed by learning.
#[derive(Clone)]
pub struct Circle(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    owner: AccountId,
    members: Option<MemberList>,
    lists: BTreeMap<AccountId, DeviceList>,
    view: View,
    seats: BTreeMap<DeviceId, (AccountId, Access)>,
}

impl Circle {
    /// An account's root share.
    pub fn of_account(list: DeviceList) -> Self {
        let owner = list.account();
        Self::of(owner, None, BTreeMap::from([(owner, list)]))
    }

    /// A share with members; lists of accounts that are not named on it are left out.
    pub fn of_share(members: MemberList, lists: impl IntoIterator<Item = DeviceList>) -> Self {
        let named = members.accounts();
        let lists = lists.into_iter().filter(|l| named.contains(&l.account())).map(|l| (l.account(), l)).collect();
        Self::of(members.owner(), Some(members), lists)
    }

    fn of(owner: AccountId, members: Option<MemberList>, lists: BTreeMap<AccountId, DeviceList>) -> Self {
        let members = members.map(|members| view::without_strangers(&members, &lists));
        let view = match &members {
            Some(members) => View::of(members, &lists),
            None => View::default(),
        };
        let mut seats: BTreeMap<DeviceId, (AccountId, Access)> = BTreeMap::new();
        for (account, list) in &lists {
            let access = match (&members, view.members.get(account)) {
                (None, _) => Access::Owner,
                (Some(_), Some(member)) => member.access,
                (Some(_), None) => continue,
            };
            for listed in list.devices() {
                let access = if listed.role == Role::Blind { Access::Blind } else { access };
                // An account may list whom it likes: where two list one device, the higher place is the true one.
                let seat = seats.entry(listed.public.id).or_insert((*account, access));
                if access < seat.1 {
                    *seat = (*account, access);
                }
            }
        }
        Self(Arc::new(Inner { owner, members, lists, view, seats }))
    }

    /// The account that founded the share, or whose root share it is.
    pub fn owner(&self) -> AccountId {
        self.0.owner
    }

    /// Everyone who has a place, by id.
    pub fn devices(&self) -> impl Iterator<Item = Seat<'_>> {
        self.0.seats.keys().filter_map(|id| self.get(id))
    }

    pub fn get(&self, device: &DeviceId) -> Option<Seat<'_>> {
        let (account, access) = *self.0.seats.get(device)?;
        let listed = self.0.lists.get(&account)?.get(device)?;
        Some(Seat { listed, account, access })
    }

    /// Whether what the device signs counts.
    pub fn may_write(&self, device: &DeviceId) -> bool {
        self.0.seats.get(device).is_some_and(|(_, access)| access.may_write())
    }

    /// Of a device that has no place any more: what becomes of what it had written. What a removed account's devices
    /// wrote before their removal was known stays.
    pub fn cut(&self, device: &DeviceId) -> Option<&Cut> {
        if self.0.seats.contains_key(device) {
            return None;
        }
        let belongs = |account: &AccountId| self.0.members.is_none() || self.0.view.members.contains_key(account);
        let own = self.0.lists.iter().filter(|(account, _)| belongs(account));
        let gone = self.0.lists.iter().filter(|(account, _)| self.0.view.removed.contains(account));
        own.chain(gone.clone()).find_map(|(_, list)| list.cut(device)).or_else(|| {
            let listed = gone.clone().any(|(_, list)| list.get(device).is_some());
            listed.then_some(&Cut::Keep)
        })
    }

    /// What was last said of a device that has no place any more.
    pub fn former(&self, device: &DeviceId) -> Option<&Listed> {
        self.0.lists.values().find_map(|list| list.former(device).or_else(|| list.get(device)))
    }

    /// Whether it is an admin device of the owner: who makes epochs and says who belongs to the share.
    pub fn is_admin(&self, device: &DeviceId) -> bool {
        self.owners().is_some_and(|list| list.is_admin(device))
    }

    /// Admin devices of the owner, the first named first.
    pub fn admins(&self) -> &[DeviceId] {
        self.owners().map_or(&[], DeviceList::admins)
    }

    pub(crate) fn was_admin(&self, device: &DeviceId) -> bool {
        self.owners().is_some_and(|list| list.was_admin(device))
    }

    fn owners(&self) -> Option<&DeviceList> {
        self.0.lists.get(&self.0.owner)
    }

    /// The accounts that belong to the share, the owner's first. None on an account's root share.
    pub fn accounts(&self) -> impl Iterator<Item = &Member> {
        let (owner, others): (Vec<_>, Vec<_>) = self.0.view.members.values().partition(|m| m.access == Access::Owner);
        owner.into_iter().chain(others)
    }

    pub fn member(&self, account: &AccountId) -> Option<&Member> {
        self.0.view.members.get(account)
    }

    /// Accounts that were removed or left.
    pub fn gone(&self) -> impl Iterator<Item = &AccountId> {
        self.0.view.removed.iter()
    }

    /// Whose device lists are wanted and not here.
    pub fn unknown(&self) -> impl Iterator<Item = &Member> {
        self.0.view.members.values().filter(|m| !self.0.lists.contains_key(&m.account))
    }

    /// Learns from a device list of an account that is named on the member list (or owns this root share). Says
    /// whether it told anything new; one of another account is refused.
    pub fn take_list(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        let account = crate::devices::account_of(bytes)?;
        let wanted = match &self.0.members {
            None => account == self.0.owner,
            Some(members) => members.accounts().contains(&account),
        };
        if !wanted {
            return Err(Error::Stranger);
        }
        let theirs = DeviceList::parse_and_verify(bytes, &account)?;
        self.learn(theirs)
    }

    /// As [`Circle::take_list`], of a list that is verified already.
    pub fn learn(&mut self, theirs: DeviceList) -> Result<bool, Error> {
        let account = theirs.account();
        let merged = match self.0.lists.get(&account) {
            Some(have) if have.knows(&theirs) => return Ok(false),
            Some(have) => have.merge(&theirs)?,
            None => theirs,
        };
        let mut lists = self.0.lists.clone();
        lists.insert(account, merged);
        *self = Self::of(self.0.owner, self.0.members.clone(), lists);
        Ok(true)
    }

    /// Learns from a member list of this share. What is signed by nobody who ever belonged to it is left out.
    pub fn take_members(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        let Some(mine) = &self.0.members else { return Err(Error::OtherShare) };
        let theirs = MemberList::parse(bytes, &mine.share())?;
        let merged = mine.merge(&theirs)?;
        let next = Self::of(self.0.owner, Some(merged), self.0.lists.clone());
        let changed = next.0.members != self.0.members;
        *self = next;
        Ok(changed)
    }

    pub fn lists(&self) -> impl Iterator<Item = &DeviceList> {
        self.0.lists.values()
    }

    pub fn list(&self, account: &AccountId) -> Option<&DeviceList> {
        self.0.lists.get(account)
    }

    pub fn members(&self) -> Option<&MemberList> {
        self.0.members.as_ref()
    }

    /// Grows with every statement learned. What a record names as what its author knew.
    pub fn version(&self) -> u64 {
        let lists: u64 = self.0.lists.values().map(DeviceList::version).sum();
        lists.saturating_add(self.0.members.as_ref().map_or(0, MemberList::version))
    }

    /// Two devices with the same one know the same.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 circle hash");
        if let Some(members) = &self.0.members {
            hasher.update(&members.hash());
        }
        self.0.lists.values().for_each(|list| {
            hasher.update(&list.hash());
        });
        *hasher.finalize().as_bytes()
    }

    /// Stands for who must not have the next key: a share's newest epoch must have been made knowing it (see
    /// [`crate::epoch`]). Accounts that are gone or hold no keys any more, and removed devices of those that belong.
    pub fn removals(&self) -> [u8; 32] {
        if self.0.members.is_none() {
            return self.owners().map_or([0; 32], DeviceList::removals);
        }
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 share removals");
        for account in &self.0.view.keyless {
            hasher.update(b"a");
            hasher.update(account.as_bytes());
        }
        let belongs = |account: &&AccountId| self.0.view.members.get(*account).is_some_and(|m| m.access.has_keys());
        let mut removed: Vec<&DeviceId> = Vec::new();
        for account in self.0.lists.keys().filter(belongs) {
            removed.extend(self.0.lists.get(account).into_iter().flat_map(|l| l.removed().map(|(id, _)| id)));
        }
        removed.sort_unstable();
        removed.dedup();
        for device in removed {
            hasher.update(b"d");
            hasher.update(device.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Lets an account in, or changes what is said of one. Admins of the owner may; those of an account that may invite
    /// may let in others, with no more than their own access. The owner's word lets a removed account in again.
    pub fn with_member(&self, by: &DeviceKeys, member: Member) -> Result<Self, Error> {
        let members = self.0.members.as_ref().ok_or(Error::NotMember)?;
        let id = member.account;
        let owner = self.is_admin(&by.id());
        let account = if owner { self.0.owner } else { self.inviter(&by.id()).ok_or(Error::NotAllowed)? };
        if !owner {
            let own = self.0.view.members.get(&account).map_or(Access::Blind, |m| m.access);
            if member.access < own || member.may_invite || self.0.view.named_by_owner.contains(&id) {
                return Err(Error::NotAllowed);
            }
            if self.0.view.removed_by_owner.contains(&id) {
                return Err(Error::Removed);
            }
        }
        let takes_back = |s: &&Statement| match &s.body.act {
            Act::Remove { account, .. } => owner && *account == id,
            Act::Leave { .. } => s.body.account == id,
            _ => false,
        };
        let overrules = members.statements().values().filter(takes_back).map(|s| s.hash).collect();
        let revision = self.0.view.revisions.get(&id).map_or(1, |r| r.saturating_add(1));
        let heads = members.tips(&id, None);
        self.said(members.with(account, by, Act::Member { member, revision, overrules, heads })?)
    }

    /// The owner removes an account. What it invited up to now stays, what it invites from now on falls.
    pub fn with_removed(&self, by: &DeviceKeys, account: AccountId) -> Result<Self, Error> {
        let members = self.0.members.as_ref().ok_or(Error::NotMember)?;
        if !self.is_admin(&by.id()) {
            return Err(Error::NotAllowed);
        }
        if account == self.0.owner {
            return Err(Error::Owner);
        }
        if !self.0.view.members.contains_key(&account) {
            return Err(Error::NotMember);
        }
        let heads = members.tips(&account, None);
        self.said(members.with(self.0.owner, by, Act::Remove { account, heads })?)
    }

    /// The account of this admin device leaves.
    pub fn with_left(&self, by: &DeviceKeys) -> Result<Self, Error> {
        let members = self.0.members.as_ref().ok_or(Error::NotMember)?;
        let account = self.admins_account(&by.id()).ok_or(Error::NotAllowed)?;
        if account == self.0.owner {
            return Err(Error::Owner);
        }
        let heads = members.tips(&account, None);
        self.said(members.with(account, by, Act::Leave { heads })?)
    }

    /// What a device of this admin's account has said of the share up to now counts for good, also after it is removed
    /// from the account: said before its removal is. Unchanged where it said nothing.
    pub fn with_vouched(&self, by: &DeviceKeys, device: DeviceId) -> Result<Self, Error> {
        let Some(members) = self.0.members.as_ref() else { return Ok(self.clone()) };
        let account = self.admins_account(&by.id()).ok_or(Error::NotAllowed)?;
        let heads = members.tips(&account, Some(&device));
        if heads.is_empty() || heads.iter().all(|hash| self.0.view.vouched.contains(hash)) {
            return Ok(self.clone());
        }
        self.said(members.with(account, by, Act::Vouch { device, heads })?)
    }

    fn said(&self, members: MemberList) -> Result<Self, Error> {
        Ok(Self::of(self.0.owner, Some(members), self.0.lists.clone()))
    }

    /// The account that belongs to the share and of which this device is an admin.
    fn admins_account(&self, device: &DeviceId) -> Option<AccountId> {
        let of = |account: &&AccountId| self.0.lists.get(*account).is_some_and(|list| list.is_admin(device));
        let owner = Some(&self.0.owner).filter(of);
        owner.or_else(|| self.0.view.members.keys().find(of)).copied()
    }

    fn inviter(&self, device: &DeviceId) -> Option<AccountId> {
        let of = |m: &&Member| m.may_invite && self.0.lists.get(&m.account).is_some_and(|list| list.is_admin(device));
        self.0.view.members.values().find(of).map(|m| m.account)
    }
}

impl PartialEq for Circle {
    fn eq(&self, other: &Self) -> bool {
        self.0.members == other.0.members && self.0.lists == other.0.lists
    }
}

impl std::fmt::Debug for Circle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members: Vec<_> = self.accounts().map(|m| (m.account, m.access)).collect();
        f.debug_struct("Circle").field("version", &self.version()).field("members", &members).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountKey;
    use crate::device::DeviceSecrets;
    use crate::secret::Secret32;

    /// Of the account n, with one device of such seeds.
    fn party(n: u8) -> (DeviceKeys, DeviceList) {
        let secrets = DeviceSecrets { sign: [n; 32], tls: [n + 1; 32], receive: [n + 2; 32] };
        let device = DeviceKeys::from_secrets(&secrets);
        let account = AccountKey::from_secret(&Secret32::from_bytes([n + 3; 32]));
        let listed = Listed::new(device.public(), Role::Full, "laptop", "", 1);
        let list = DeviceList::create(&account, &device, listed).unwrap();
        (device, list)
    }

    #[test]
    fn vectors() {
        use crate::vectors::hex;
        let ((owner, owners), (guest, guests), (_, third)) = (party(1), party(11), party(21));
        let act = Act::Found { format: 1, jid: "me@a.test".into(), salt: [9; 16], now: 1_790_000_000 };
        let founded = MemberList::founded(owners.account(), &owner, act);
        let member = |list: &DeviceList, may_invite| Member {
            account: list.account(),
            jid: "alice@b.test".into(),
            access: if may_invite { Access::Writer } else { Access::Reader },
            may_invite,
            added: 1_790_000_001,
        };
        let circle = Circle::of_share(founded.clone(), [owners]);
        let mut circle = circle.with_member(&owner, member(&guests, true)).unwrap();
        circle.learn(guests.clone()).unwrap();
        let circle = circle.with_member(&guest, member(&third, false)).unwrap();
        let circle = circle.with_vouched(&owner, owner.id()).unwrap();
        let circle = circle.with_removed(&owner, guests.account()).unwrap();
        let made = serde_json::json!({
            "about": "accounts of the seeds 01, 11 and 21 (device seeds n, n+1, n+2, account n+3); \
                      the values stand in keymgr/src/circle.rs",
            "share": founded.share().to_string(),
            "founded": hex(&founded.to_bytes()),
            "list": hex(&circle.members().unwrap().to_bytes()),
            "list hash": hex(&circle.members().unwrap().hash()),
            "circle hash": hex(&circle.hash()),
            "removals": hex(&circle.removals()),
        });
        crate::vectors::check("members", made);
    }
}
