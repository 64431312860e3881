//! One node: from its records to its state. What tree.py calls heads, field and state.

use std::collections::{HashMap, HashSet};

use keymgr::ids::{FileId, RecordHash};

use super::Rules;
use crate::record::{Author, Content, Kind, Live, Place, Record};

/// A record that is held.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub author: Author,
    pub number: u64,
    pub record: Record,
}

/// All that is held of one node.
#[derive(Default)]
pub(super) struct Node {
    pub records: HashMap<RecordHash, Held>,
    /// Every record that no effective record has seen: the effective ones among them are the heads.
    tops: Vec<RecordHash>,
    /// Known to be replaced though the records between are forgotten: shown only while nothing else can be.
    doomed: HashSet<RecordHash>,
    /// A record took effect without its body: whatever changes, all are asked again.
    fragile: bool,
    pub shown: Shown,
}

/// The state of a node by those of its records that take effect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Shown {
    pub kind: Option<Kind>,
    pub live: bool,
    pub heads: Vec<RecordHash>,
    /// Those of the heads that an edit of what is shown replaces: all but the other sides of a conflict.
    pub cover: Vec<RecordHash>,
    pub places: Vec<Place>,
    pub places_from: Option<RecordHash>,
    /// Whose locators the places carry.
    pub sealed_for: Option<FileId>,
    /// The first is shown; others were set apart from it: a conflict.
    pub contents: Vec<Side>,
    pub attrs: Vec<u8>,
    pub attrs_from: Option<RecordHash>,
    pub attrs_for: Option<FileId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Side {
    pub from: RecordHash,
    /// A head that carries it.
    pub head: RecordHash,
    pub content: Content,
}

type Source = fn(&Live) -> Option<RecordHash>;

impl Node {
    /// Brings tops and state up to date. `whole`: records whose body is here, and all that belongs together with
    /// them; `carried`: those that lack nothing but their own body.
    pub fn resolve(&mut self, rules: &Rules, whole: &HashSet<RecordHash>, carried: &HashSet<RecordHash>) {
        if std::mem::take(&mut self.fragile) {
            self.reconsider();
        }
        let mut works: Vec<RecordHash> = self.tops.iter().filter(|h| whole.contains(h)).copied().collect();
        self.supersede(&mut works);
        // A rename that carries a content which what is shown replaced takes effect without it: nobody may have it.
        let over: Vec<RecordHash> =
            self.tops.iter().filter(|h| carried.contains(h) && self.is_over(h, &works)).copied().collect();
        if !over.is_empty() {
            self.fragile = true;
            works.extend(over);
            self.supersede(&mut works);
        }
        if works.iter().any(|h| !self.doomed.contains(h)) {
            works.retain(|h| !self.doomed.contains(h));
            self.tops.retain(|h| !self.doomed.contains(h));
        }
        works.sort();
        self.shown = self.state(rules, &works);
    }

    /// Takes out what others of the records that work have seen.
    fn supersede(&mut self, works: &mut Vec<RecordHash>) {
        if self.tops.len() < 2 || works.is_empty() {
            return;
        }
        let direct = |h: &RecordHash| self.records.get(h).map(|r| r.record.replaces.clone()).unwrap_or_default();
        let mut old: HashSet<RecordHash> = works.iter().flat_map(direct).collect();
        if self.tops.iter().filter(|h| !old.contains(*h)).count() > 1 {
            // Apart from each other, or through others: the whole of what they saw decides.
            old.extend(works.iter().flat_map(|h| self.past(h)));
        }
        self.tops.retain(|h| !old.contains(h));
        works.retain(|h| !old.contains(h));
    }

    /// Whether the content that a record carries was replaced by what others of the heads show.
    fn is_over(&self, hash: &RecordHash, works: &[RecordHash]) -> bool {
        let source = |h: &RecordHash| Some(self.records.get(h)?.record.live()?.content_from.unwrap_or(*h));
        let Some(from) = source(hash) else { return false };
        works.iter().any(|h| {
            source(h).is_some_and(|other| other != from)
                && self.values(&self.past(h), |l| l.content_from).contains(&from)
        })
    }

    /// Whose values of a field were seen by who replaced `past`: set there, or carried.
    fn values(&self, past: &HashSet<RecordHash>, source: Source) -> HashSet<RecordHash> {
        let carried = past.iter().filter_map(|h| source(self.records.get(h)?.record.live()?));
        past.iter().copied().chain(carried).collect()
    }

    pub fn insert(&mut self, hash: RecordHash, held: Held) {
        self.records.insert(hash, held);
        self.tops.push(hash);
    }

    pub fn doom(&mut self, hash: RecordHash) {
        self.doomed.insert(hash);
    }

    /// Those of the doomed that are held.
    pub fn doomed(&self) -> impl Iterator<Item = RecordHash> + '_ {
        self.doomed.iter().filter(|h| self.records.contains_key(h)).copied()
    }

    /// After records or bodies went away every record is asked again.
    pub fn reconsider(&mut self) {
        self.tops = self.records.keys().copied().collect();
    }

    pub fn is_fragile(&self) -> bool {
        self.fragile
    }

    pub fn tops(&self) -> &[RecordHash] {
        &self.tops
    }

    /// Everything that a record has seen of this node, as far as it is held.
    pub fn past(&self, of: &RecordHash) -> HashSet<RecordHash> {
        let mut past = HashSet::new();
        let mut todo = vec![*of];
        while let Some(hash) = todo.pop() {
            let Some(held) = self.records.get(&hash) else { continue };
            todo.extend(held.record.replaces.iter().copied().filter(|h| past.insert(*h)));
        }
        past.remove(of);
        past
    }

    /// The heads whose value of a field no other head has seen and replaced.
    fn field<'a>(
        &self,
        rules: &Rules,
        heads: &[(&'a RecordHash, &'a Live)],
        pasts: &HashMap<RecordHash, HashSet<RecordHash>>,
        source: Source,
    ) -> Vec<(&'a RecordHash, &'a Live)> {
        if heads.len() < 2 || !rules.fields {
            return heads.to_vec();
        }
        let from = |&(hash, live): &(&RecordHash, &Live)| source(live).unwrap_or(*hash);
        // A value was seen by who replaced the record that set it, or one that carried it.
        let values: HashMap<&RecordHash, HashSet<RecordHash>> =
            pasts.iter().map(|(head, past)| (head, self.values(past, source))).collect();
        let stale = |one: &(&RecordHash, &Live)| {
            heads.iter().any(|other| {
                from(other) != from(one) && values.get(other.0).is_some_and(|seen| seen.contains(&from(one)))
            })
        };
        let keep: Vec<_> = heads.iter().filter(|one| !stale(one)).copied().collect();
        if keep.is_empty() { heads.to_vec() } else { keep }
    }

    fn state(&self, rules: &Rules, heads: &[RecordHash]) -> Shown {
        let all: Vec<(&RecordHash, &Record)> =
            heads.iter().filter_map(|h| Some((h, &self.records.get(h)?.record))).collect();
        let kind = all.last().map(|(_, r)| r.kind);
        let mut live: Vec<(&RecordHash, &Live)> =
            all.iter().filter(|(_, r)| Some(r.kind) == kind).filter_map(|(h, r)| Some((*h, r.live()?))).collect();
        if live.len() < all.len() && !rules.delseen {
            live.clear();
        }
        let pasts: HashMap<RecordHash, HashSet<RecordHash>> =
            if all.len() > 1 { heads.iter().map(|h| (*h, self.past(h))).collect() } else { HashMap::new() };
        let mut shown =
            Shown { kind, live: !live.is_empty(), cover: heads.to_vec(), heads: heads.to_vec(), ..Shown::default() };
        if live.is_empty() {
            // Where a dead folder was, since what lives in it keeps it there.
            let graves = all.iter().map(|(h, r)| {
                let from = match &r.state {
                    crate::record::State::Dead(grave) => grave.places_from.unwrap_or(**h),
                    crate::record::State::Live(live) => live.places_from.unwrap_or(**h),
                };
                (from, *r)
            });
            if let Some((from, record)) = graves.max_by_key(|(from, _)| *from) {
                shown.places = record.places().to_vec();
                shown.places_from = Some(from);
            }
            return shown;
        }
        let mut sides: Vec<Side> = self
            .field(rules, &live, &pasts, |l| l.content_from)
            .into_iter()
            .filter_map(|(h, l)| Some(Side { from: l.content_from.unwrap_or(*h), head: *h, content: l.content? }))
            .collect();
        sides.sort_by_key(|s| std::cmp::Reverse((s.from, s.head)));
        let winner = sides.first().map(|side| side.content);
        let others: HashSet<RecordHash> = sides.iter().filter(|s| Some(s.content) != winner).map(|s| s.from).collect();
        let mut values = HashSet::new();
        sides.retain(|side| values.insert(side.content));
        // Two that put one share into the tree made two headers of one junction: that is nothing to settle.
        let junction = kind == Some(Kind::Share);
        if junction {
            sides.truncate(1);
        }
        if rules.dot && !junction {
            let other =
                |h: &RecordHash| live.iter().any(|(l, v)| *l == h && others.contains(&v.content_from.unwrap_or(**l)));
            shown.cover.retain(|h| !other(h));
        }
        shown.contents = sides;
        let file = winner.map(|c| c.file);
        // Of records that carry the winning value, one whose file is the one shown: its locators and attributes open.
        let best = |source: Source| {
            self.field(rules, &live, &pasts, source)
                .into_iter()
                .max_by_key(|(h, l)| (source(l).unwrap_or(**h), l.content.map(|c| c.file) == file, **h))
        };
        if let Some((hash, l)) = best(|l| l.places_from) {
            shown.places = l.places.clone();
            shown.places_from = Some(l.places_from.unwrap_or(*hash));
            shown.sealed_for = l.content.map(|c| c.file);
        }
        if let Some((hash, l)) = best(|l| l.attrs_from) {
            shown.attrs = l.attrs.clone();
            shown.attrs_from = Some(l.attrs_from.unwrap_or(*hash));
            shown.attrs_for = l.content.map(|c| c.file);
        }
        shown
    }
}
