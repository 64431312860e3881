//! What somebody wrote who may write no longer, and that was accepted before that was known: others may refuse it now.
//! A writer that holds it says it anew, so that all who stay show the same; who may not write leaves out what no
//! writer is known to have.

use std::collections::{BTreeSet, HashSet};

use keymgr::ids::{DeviceId, RecordHash};

use super::author::{Commit, in_order};
use super::node::Node;
use super::{Engine, Heads};
use crate::record::{Author, Entry, Grave, Record, State};

/// Who is who, for [`Engine::anew`].
pub struct Counting<'a> {
    /// Whether new records of a device count.
    pub counts: &'a dyn Fn(&DeviceId) -> bool,
    /// Everybody in the share but this device.
    pub seats: &'a [DeviceId],
    /// Writers that are there and do it instead of this device, where they hold the same.
    pub before: &'a [DeviceId],
}

impl Engine {
    /// Drafts, to be treated as those of [`Self::author`]; and whether more is to come, once bodies are here or others
    /// have done their part.
    pub fn anew(&mut self, who: &Counting<'_>) -> (Vec<Record>, bool) {
        self.refresh();
        self.drafted.clear();
        let gone = self.note_gone(who);
        if !self.can_write || gone.is_empty() {
            return (Vec::new(), false);
        }
        let mut nodes = BTreeSet::new();
        for author in &gone {
            for (number, hash) in self.numbers.get(author).into_iter().flatten() {
                // Who has it had accepted it.
                let has = |device: &DeviceId| self.acks.get(device).is_some_and(|h: &Heads| h.covers(author, *number));
                if !who.seats.iter().all(has) {
                    nodes.extend(self.by_hash.get(hash).map(|node| (*node, who.before.iter().any(has))));
                }
            }
        }
        let (mut drafts, mut more) = (Vec::new(), false);
        for (id, other_does) in nodes {
            let Some(node) = self.nodes.get(&id) else { continue };
            let Some(replaces) = apart(node, who.counts) else { continue };
            let shown = &node.shown;
            let heads: HashSet<&RecordHash> = shown.heads.iter().collect();
            // What of theirs has no body here may never have one: it is not waited for.
            let counting = |h: &&RecordHash| node.records.get(*h).is_some_and(|r| (who.counts)(&r.author.device));
            more |= node.tops().iter().any(|h| !heads.contains(h));
            let whole = node.tops().iter().filter(counting).all(|h| heads.contains(h));
            if other_does || !whole || shown.contents.len() > 1 {
                // A conflict is settled first.
                more = true;
                continue;
            }
            let known = |from: Option<RecordHash>| {
                from.filter(|h| self.record(h).is_some_and(|r| (who.counts)(&r.author.device)))
            };
            let state = if shown.live {
                let Some(mut live) = self.live_shown(&id, shown) else {
                    more = true;
                    continue;
                };
                live.places_from = known(live.places_from);
                live.content_from = known(live.content_from);
                live.attrs_from = known(live.attrs_from);
                State::Live(live)
            } else {
                let places_from = known(shown.places_from).filter(|_| !shown.places.is_empty());
                State::Dead(Grave { places: shown.places.clone(), places_from })
            };
            let kind = shown.kind.unwrap_or(crate::record::Kind::Folder);
            let mut record = Record { share: self.share, node: id, kind, replaces: Vec::new(), state, together: None };
            in_order(&mut record, replaces);
            if record.check().is_ok() {
                drafts.push(record);
            }
        }
        self.drafted.extend(drafts.iter().map(|d| (d.clone(), Commit::Nothing)));
        (drafts, more)
    }

    /// On a device that may not write: leaves out what no writer is known to have seen, and takes back what one has.
    /// Whether anything may be shown otherwise now.
    pub fn withdraw(&mut self, who: &Counting<'_>) -> bool {
        self.refresh();
        let before: Vec<Entry> = std::mem::take(&mut self.withdrawn);
        before.iter().for_each(|entry| self.store(entry.clone()));
        self.refresh();
        let gone = self.note_gone(who);
        let mut left = Vec::new();
        for author in gone.iter().filter(|_| !self.can_write) {
            for (number, hash) in self.numbers.get(author).into_iter().flatten() {
                let mut writers = who.seats.iter().filter(|device| (who.counts)(device));
                let has = |device: &DeviceId| self.acks.get(device).is_some_and(|h: &Heads| h.covers(author, *number));
                let node = self.by_hash.get(hash).and_then(|id| self.nodes.get(id));
                if !writers.any(has) && node.is_some_and(|node| apart(node, who.counts).is_some()) {
                    left.push((*author, *number, *hash));
                }
            }
        }
        for (author, number, hash) in &left {
            let Some(record) = self.record(hash).map(|held| held.record.clone()) else { continue };
            self.withdrawn.push(Entry { hash: *hash, author: *author, number: *number, previous: None, record });
        }
        let changed = before.len() != left.len() || before.iter().zip(&left).any(|(e, (.., hash))| e.hash != *hash);
        self.drop_records(left.into_iter().map(|(.., hash)| hash).collect());
        changed
    }

    /// Whether anybody has written who may write no longer, as far as the last of these was told.
    pub fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    fn note_gone(&mut self, who: &Counting<'_>) -> Vec<Author> {
        let all: BTreeSet<Author> =
            self.acks.values().chain([&self.heads]).flat_map(|heads| heads.iter().map(|(author, _)| *author)).collect();
        self.gone = all.iter().map(|author| author.device).filter(|device| !(who.counts)(device)).collect();
        all.into_iter().filter(|author| self.gone.contains(&author.device)).collect()
    }
}

/// What a record has to replace so that those who hold all and those who hold only what counts show the same; `None`
/// where they do already.
fn apart(node: &Node, counts: &dyn Fn(&DeviceId) -> bool) -> Option<HashSet<RecordHash>> {
    let counting = |h: &RecordHash| node.records.get(h).is_some_and(|r| counts(&r.author.device));
    let shown = &node.shown.heads;
    let works: HashSet<RecordHash> = shown.iter().flat_map(|h| node.past(h)).chain(shown.iter().copied()).collect();
    let all = heads(node, |h| counting(h) || works.contains(h));
    let counting = heads(node, counting);
    (all != counting).then(|| all.union(&counting).copied().collect())
}

/// Of some of the records those that no other of them has seen, as who holds no others knows it.
fn heads(node: &Node, some: impl Fn(&RecordHash) -> bool) -> HashSet<RecordHash> {
    let held: Vec<&RecordHash> = node.records.keys().filter(|h| some(h)).collect();
    let seen: HashSet<&RecordHash> =
        held.iter().filter_map(|h| node.records.get(*h)).flat_map(|r| &r.record.replaces).collect();
    held.into_iter().filter(|h| !seen.contains(h)).copied().collect()
}
