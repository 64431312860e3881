//! Who is on a device list: a pure function of its statements.
//!
//! 1. The account key's newest naming gives the admins, in order. Whatever the account key says counts; a removal
//!    that it overruled does not.
//! 2. An earlier named admin's removal of a later one cuts the later one's statements.
//! 3. A later admin's removal of an earlier one counts, unless the earlier one removed it too: the earlier stays.
//! 4. What an admin added within its cuts counts. Removals of devices that are no admins add up, past a cut too: to
//!    keep out one device too many does no harm that joining again does not mend.

use std::collections::{BTreeMap, BTreeSet};

use super::statement::{Act, Author, Hash, Statement};
use super::{Cut, Listed, RecordCut};
use crate::ids::DeviceId;

type Set = BTreeMap<Hash, Statement>;

#[derive(Clone, Default)]
pub(super) struct View {
    /// Named, listed and not removed, in the order of the naming.
    pub admins: Vec<DeviceId>,
    pub devices: BTreeMap<DeviceId, Listed>,
    pub removed: BTreeMap<DeviceId, Cut>,
    /// The newest revision of each device that was ever listed.
    pub revisions: BTreeMap<DeviceId, u64>,
    /// Listed once, removed now.
    pub former: BTreeMap<DeviceId, Listed>,
    /// The devices' statements that count, but for `removals` past a cut: what the next naming keeps.
    pub counting: BTreeSet<Hash>,
    /// The removals that count.
    pub removals: Vec<Hash>,
}

/// A removal that nobody overruled.
struct Removal<'a> {
    by: Author,
    hash: Hash,
    of: DeviceId,
    heads: &'a [Hash],
    cut: &'a Cut,
}

impl View {
    pub fn of(set: &Set) -> Self {
        let (named, kept, kept_removals) = newest_naming(set);
        let removals = removals(set);
        let rank = |author: &Author| match author {
            Author::Device(id) => named.iter().position(|a| a == id),
            Author::Account => None,
        };

        // What counts whatever the admins do to each other: the account key's word, and what it kept of former admins.
        let kept_set = with_ancestors(set, kept);
        let settled: BTreeSet<Hash> = set
            .values()
            .filter(|s| match s.body.author {
                Author::Account => true,
                Author::Device(_) => {
                    let removal = matches!(s.body.act, Act::Remove { .. }) && kept_removals.contains(&s.hash);
                    rank(&s.body.author).is_none() && (removal || kept_set.contains(&s.hash))
                }
            })
            .map(|s| s.hash)
            .collect();

        // Rule 2. By rank, so that each admin's statements are final before they cut later ones'.
        let mut firm: Vec<BTreeSet<Hash>> = Vec::with_capacity(named.len());
        for admin in named {
            let author = Author::Device(*admin);
            let mut own: BTreeSet<Hash> = set.values().filter(|s| s.body.author == author).map(|s| s.hash).collect();
            for r in removals.iter().filter(|r| r.of == *admin) {
                if settled.contains(&r.hash) || firm.iter().any(|earlier| earlier.contains(&r.hash)) {
                    let seen = with_ancestors(set, r.heads);
                    own.retain(|hash| seen.contains(hash));
                }
            }
            firm.push(own);
        }

        // Rule 3, and the fate of each admin.
        let mut removed: BTreeMap<DeviceId, Cut> = BTreeMap::new();
        let mut added: Vec<BTreeSet<Hash>> = firm.clone();
        let mut standing: Vec<Hash> = Vec::new();
        for (i, admin) in named.iter().enumerate() {
            for r in removals.iter().filter(|r| r.of == *admin) {
                let by = rank(&r.by);
                let counts = settled.contains(&r.hash)
                    || by.is_some_and(|j| {
                        let stands = firm.get(j).is_some_and(|own| own.contains(&r.hash));
                        let answered = j > i
                            && firm.get(i).zip(named.get(j)).is_some_and(|(own, later)| {
                                removals.iter().any(|back| back.of == *later && own.contains(&back.hash))
                            });
                        stands && !answered
                    });
                if counts {
                    strictest(removed.entry(*admin), r.cut);
                    standing.push(r.hash);
                    if let Some(own) = added.get_mut(i) {
                        // With the removal itself: a device that removes itself had seen its own chain up to there.
                        let mut seen = with_ancestors(set, r.heads);
                        seen.extend(with_ancestors(set, &[r.hash]));
                        own.retain(|hash| seen.contains(hash));
                    }
                }
            }
        }

        // Rule 4.
        for r in removals.iter().filter(|r| !named.contains(&r.of)) {
            if settled.contains(&r.hash) || rank(&r.by).is_some() {
                strictest(removed.entry(r.of), r.cut);
                standing.push(r.hash);
            }
        }
        let mut newest: BTreeMap<DeviceId, (u64, bool, Hash)> = BTreeMap::new();
        let mut devices: BTreeMap<DeviceId, Listed> = BTreeMap::new();
        let counting: BTreeSet<Hash> = settled.iter().chain(added.iter().flatten()).copied().collect();
        for s in counting.iter().filter_map(|hash| set.get(hash)) {
            if let Act::List { listed, revision, .. } = &s.body.act {
                let id = listed.public.id;
                let key = (*revision, s.body.author == Author::Account, s.hash);
                if newest.get(&id).is_none_or(|have| *have < key) {
                    newest.insert(id, key);
                    devices.insert(id, listed.clone());
                }
            }
        }
        let former = devices.extract_if(.., |id, _| removed.contains_key(id)).collect();
        // A removal kept on its own may lie past a cut: it must not bring back what lies before it.
        let ends = |hash: &Hash| kept_set.contains(hash) || !kept_removals.contains(hash);
        Self {
            admins: named.iter().filter(|id| devices.contains_key(id)).copied().collect(),
            devices,
            removed,
            revisions: newest.into_iter().map(|(id, (revision, ..))| (id, revision)).collect(),
            former,
            counting: counting.into_iter().filter(ends).collect(),
            removals: standing,
        }
    }
}

/// Admins, and what is kept of former ones: the ends of their chains, and removals.
type Naming<'a> = (&'a [DeviceId], &'a [Hash], &'a [Hash]);

fn newest_naming(set: &Set) -> Naming<'_> {
    let namings = set.values().filter_map(|s| match &s.body.act {
        Act::Name { admins, keep, removals } => {
            Some(((s.body.number, s.hash), (admins.as_slice(), keep.as_slice(), removals.as_slice())))
        }
        _ => None,
    });
    namings.max_by_key(|(order, _)| *order).map_or((&[], &[], &[]), |(_, naming)| naming)
}

fn removals(set: &Set) -> Vec<Removal<'_>> {
    let mut overruled = BTreeSet::new();
    for s in set.values() {
        if let Act::List { overrules, .. } = &s.body.act {
            overruled.extend(overrules.iter().copied());
        }
    }
    let all = set.values().filter(|s| !overruled.contains(&s.hash)).filter_map(|s| match &s.body.act {
        Act::Remove { device, heads, cut } => {
            Some(Removal { by: s.body.author, hash: s.hash, of: *device, heads, cut })
        }
        _ => None,
    });
    all.collect()
}

/// The statements at `heads` and all before them in their authors' chains.
fn with_ancestors(set: &Set, heads: &[Hash]) -> BTreeSet<Hash> {
    let mut seen = BTreeSet::new();
    for head in heads {
        let mut at = *head;
        while let Some(s) = set.get(&at)
            && seen.insert(at)
        {
            at = s.body.previous;
        }
    }
    seen
}

/// Several removals of one device: what every one of them believes.
fn strictest(entry: std::collections::btree_map::Entry<'_, DeviceId, Cut>, cut: &Cut) {
    entry
        .and_modify(|have| {
            *have = match (&*have, cut) {
                (Cut::Keep, other) | (other, Cut::Keep) => other.clone(),
                (Cut::Lost(a), Cut::Lost(b)) => Cut::Lost(in_both(a, b)),
            }
        })
        .or_insert_with(|| match cut {
            Cut::Keep => Cut::Keep,
            Cut::Lost(cuts) => Cut::Lost(in_both(cuts, cuts)),
        });
}

/// Sorted, one for each (share, incarnation) that both name, with the smaller number.
fn in_both(a: &[RecordCut], b: &[RecordCut]) -> Vec<RecordCut> {
    let least = |cuts: &[RecordCut]| {
        let mut least = BTreeMap::new();
        for cut in cuts {
            let number = least.entry((cut.share, cut.incarnation)).or_insert(cut.number);
            *number = (*number).min(cut.number);
        }
        least
    };
    let (a, b) = (least(a), least(b));
    a.into_iter()
        .filter_map(|((share, incarnation), number)| {
            let other = *b.get(&(share, incarnation))?;
            Some(RecordCut { share, incarnation, number: number.min(other) })
        })
        .collect()
}
