//! Who belongs to a share: a pure function of its member list and of the accounts' device lists.
//!
//! 1. What an account's admin says counts for that account; what one says that is no admin any more counts as far as
//!    an admin whose word counts vouches for it.
//! 2. Whatever the owner says counts. Its removal stands until a later word of the owner names it.
//! 3. An account that the owner lets invite may let in others with no more than its own access. When it is removed, or
//!    may invite no longer, what it let in by then stays and what it adds past that falls.
//! 4. Leaving stands until a later invitation names it.

use std::collections::{BTreeMap, BTreeSet};

use crate::devices::DeviceList;
use crate::ids::{AccountId, DeviceId};
use crate::members::{Access, Act, Hash, Member, MemberList, Statement};

type Lists = BTreeMap<AccountId, DeviceList>;

#[derive(Clone, Default)]
pub(super) struct View {
    pub members: BTreeMap<AccountId, Member>,
    /// Removed or left.
    pub removed: BTreeSet<AccountId>,
    pub removed_by_owner: BTreeSet<AccountId>,
    /// Of those that belong: the owner itself let them in.
    pub named_by_owner: BTreeSet<AccountId>,
    /// Had keys once and must not get the next one.
    pub keyless: BTreeSet<AccountId>,
    /// The newest revision of what is said of each account, whoever says it.
    pub revisions: BTreeMap<AccountId, u64>,
    /// What counts because somebody vouches for it.
    pub vouched: BTreeSet<Hash>,
}

/// What is said of one account by somebody whose word counts.
struct Word<'a> {
    by: AccountId,
    hash: Hash,
    member: &'a Member,
    revision: u64,
    overrules: &'a [Hash],
    heads: &'a [Hash],
}

impl View {
    pub fn of(list: &MemberList, lists: &Lists) -> Self {
        let owner = list.owner();
        // Who founded a share in the name of an account that never named it an admin owns nothing.
        if !lists.get(&owner).is_some_and(|l| l.was_admin(&list.founder())) {
            return Self::default();
        }
        let vouched = vouched(list, lists);
        let counts = |s: &Statement| stands(s, lists) || vouched.contains(&s.hash);
        let all: Vec<Word<'_>> = list.statements().values().filter(|s| counts(s)).filter_map(word).collect();
        let owners: Vec<&Word<'_>> = all.iter().filter(|w| w.by == owner).collect();
        let word_of = |account: &AccountId| newest(owners.iter().copied().filter(|w| w.member.account == *account));

        // Rule 2: removals that no word of the owner took back.
        let taken_back: BTreeSet<Hash> = owners.iter().flat_map(|w| w.overrules.iter().copied()).collect();
        let mut removals: BTreeMap<AccountId, Vec<&[Hash]>> = BTreeMap::new();
        for s in list.statements().values().filter(|s| counts(s) && !taken_back.contains(&s.hash)) {
            if let Act::Remove { account, heads } = &s.body.act {
                removals.entry(*account).or_default().push(heads);
            }
        }

        // Rule 3.
        let mut invited: Vec<&Word<'_>> = Vec::new();
        let inviters: BTreeSet<AccountId> =
            owners.iter().filter(|w| w.member.may_invite).map(|w| w.member.account).collect();
        for inviter in &inviters {
            let Some(own) = word_of(inviter) else { continue };
            let mut limits: Vec<Vec<Hash>> =
                removals.get(inviter).into_iter().flatten().map(|heads| heads.to_vec()).collect();
            if !own.member.may_invite {
                limits.push(own.heads.to_vec());
            }
            for s in list.statements().values().filter(|s| s.body.account == *inviter && counts(s)) {
                if let Act::Leave { heads } = &s.body.act
                    && !taken_back.contains(&s.hash)
                {
                    limits.push([heads.as_slice(), &[s.hash]].concat());
                }
            }
            let limits: Vec<BTreeSet<Hash>> = limits.iter().map(|heads| list.with_ancestors(heads)).collect();
            invited.extend(all.iter().filter(|w| {
                w.by == *inviter
                    && w.member.access >= own.member.access
                    && limits.iter().all(|seen| seen.contains(&w.hash))
            }));
        }

        // Rule 4.
        let again: BTreeSet<Hash> = owners.iter().chain(&invited).flat_map(|w| w.overrules.iter().copied()).collect();
        let left: BTreeSet<AccountId> = list
            .statements()
            .values()
            .filter(|s| matches!(s.body.act, Act::Leave { .. }) && counts(s) && !again.contains(&s.hash))
            .map(|s| s.body.account)
            .collect();

        let mut view = Self { vouched, ..Self::default() };
        let said: Vec<&Word<'_>> = owners.iter().chain(&invited).copied().collect();
        for w in &all {
            let revision = view.revisions.entry(w.member.account).or_default();
            *revision = (*revision).max(w.revision);
        }
        for account in said.iter().map(|w| w.member.account).collect::<BTreeSet<_>>() {
            let by_owner = word_of(&account);
            let of = |w: &&Word<'_>| w.member.account == account;
            let Some(word) = by_owner.or_else(|| newest(invited.iter().copied().filter(of))) else { continue };
            let had_keys = said.iter().copied().filter(|w| of(w)).any(|w| w.member.access.has_keys());
            let removed = removals.contains_key(&account);
            if removed || left.contains(&account) {
                view.removed.insert(account);
                if removed {
                    view.removed_by_owner.insert(account);
                }
            } else {
                view.members.insert(account, word.member.clone());
                if by_owner.is_some() {
                    view.named_by_owner.insert(account);
                }
            }
            let has = view.members.get(&account).is_some_and(|m| m.access.has_keys());
            if had_keys && !has {
                view.keyless.insert(account);
            }
        }
        view.members.entry(owner).or_insert_with(|| founder(list));
        view
    }
}

/// Signed by a device that is an admin of the account in whose name it speaks.
fn stands(s: &Statement, lists: &Lists) -> bool {
    lists.get(&s.body.account).is_some_and(|list| list.is_admin(&s.body.author))
}

/// Rule 1: the least set, so that who counts only because it vouches for itself does not.
fn vouched(list: &MemberList, lists: &Lists) -> BTreeSet<Hash> {
    let mut vouched = BTreeSet::new();
    loop {
        let before = vouched.len();
        for s in list.statements().values() {
            let Act::Vouch { device, heads } = &s.body.act else { continue };
            let was = |device: &DeviceId| lists.get(&s.body.account).is_some_and(|l| l.was_admin(device));
            if (stands(s, lists) || vouched.contains(&s.hash)) && was(device) {
                let seen = list.with_ancestors(heads).into_iter().filter(|hash| {
                    let of = |o: &Statement| o.body.author == *device && o.body.account == s.body.account;
                    list.statements().get(hash).is_some_and(of)
                });
                vouched.extend(seen.collect::<Vec<_>>());
            }
        }
        if vouched.len() == before {
            return vouched;
        }
    }
}

fn word(s: &Statement) -> Option<Word<'_>> {
    match &s.body.act {
        Act::Member { member, revision, overrules, heads } => {
            Some(Word { by: s.body.account, hash: s.hash, member, revision: *revision, overrules, heads })
        }
        _ => None,
    }
}

fn newest<'w, 'a>(words: impl Iterator<Item = &'w Word<'a>>) -> Option<&'w Word<'a>>
where
    'a: 'w,
{
    words.max_by_key(|w| (w.revision, w.hash))
}

/// The owner, as the founding statement has it.
fn founder(list: &MemberList) -> Member {
    let found = list.statements().values().find_map(|s| match &s.body.act {
        Act::Found { jid, now, .. } => Some((jid.clone(), *now)),
        _ => None,
    });
    let (jid, added) = found.unwrap_or_default();
    Member { account: list.owner(), jid, access: Access::Owner, may_invite: true, added }
}

/// The list without what nobody said who ever could: so a stranger cannot fill everybody's disk. Where a device list
/// is not here yet, what speaks in that account's name is kept.
pub(super) fn without_strangers(list: &MemberList, lists: &Lists) -> MemberList {
    let owner = list.owner();
    let could = |s: &Statement| lists.get(&s.body.account).is_none_or(|l| l.was_admin(&s.body.author));
    let said = |by: &dyn Fn(&AccountId) -> bool, invites: bool| -> BTreeSet<AccountId> {
        let named = list.statements().values().filter(|s| by(&s.body.account) && could(s)).filter_map(word);
        named.filter(|w| !invites || w.member.may_invite).map(|w| w.member.account).collect()
    };
    let by_owner = said(&|account| *account == owner, false);
    let inviters = said(&|account| *account == owner, true);
    let named = said(&|account| inviters.contains(account), false);
    list.retained(|s| {
        let account = &s.body.account;
        matches!(s.body.act, Act::Found { .. })
            || could(s)
                && match &s.body.act {
                    Act::Member { .. } => *account == owner || inviters.contains(account),
                    _ => *account == owner || by_owner.contains(account) || named.contains(account),
                }
    })
}
