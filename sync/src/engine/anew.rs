//! What somebody wrote who may write no longer, and that was accepted before that was known: others may refuse it now.
//! A writer that holds it says it anew, so that all who stay show the same.

use std::collections::{BTreeSet, HashSet};

use keymgr::ids::{DeviceId, RecordHash};

use super::author::{Commit, in_order};
use super::node::Node;
use super::{Engine, Heads};
use crate::record::{Author, Grave, Record, State};

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
        let gone: Vec<Author> =
            self.heads.iter().map(|(author, _)| *author).filter(|author| !(who.counts)(&author.device)).collect();
        if !self.can_write || gone.is_empty() {
            return (Vec::new(), false);
        }
        let mut nodes = BTreeSet::new();
        for author in &gone {
            for (number, hash) in self.numbers.get(author).into_iter().flatten() {
                let has = |device: &DeviceId| self.acks.get(device).is_some_and(|h: &Heads| h.covers(author, *number));
                // Who has accepted it keeps it.
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
            let whole = node.tops().iter().all(|h| heads.contains(h)) && shown.contents.len() < 2;
            if other_does || !whole {
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
}

/// What a record has to replace so that those who hold all and those who hold only what counts show the same; `None`
/// where they do already.
fn apart(node: &Node, counts: &dyn Fn(&DeviceId) -> bool) -> Option<HashSet<RecordHash>> {
    let all: HashSet<RecordHash> = heads(node, |_| true);
    let counting = heads(node, |h| node.records.get(h).is_some_and(|r| counts(&r.author.device)));
    (all != counting).then(|| all.union(&counting).copied().collect())
}

/// Of some of the records those that no other of them has seen, as who holds no others knows it.
fn heads(node: &Node, some: impl Fn(&RecordHash) -> bool) -> HashSet<RecordHash> {
    let held: Vec<&RecordHash> = node.records.keys().filter(|h| some(h)).collect();
    let seen: HashSet<&RecordHash> =
        held.iter().filter_map(|h| node.records.get(*h)).flat_map(|r| &r.record.replaces).collect();
    held.into_iter().filter(|h| !seen.contains(h)).copied().collect()
}
