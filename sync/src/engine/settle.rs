//! What only a writer with keys can put in order: conflicts, equal names, names sealed for another folder or file.
//!
//! Ids are hashes of the record that lost, so that all devices that settle the same conflict make the same file.

use std::collections::{BTreeSet, HashSet};

use keymgr::ids::{DeviceId, FileId, Locator, NodeId, RecordHash, StoreName};

use super::author::{Commit, in_order};
use super::node::Shown;
use super::{Engine, EntryId};
use crate::record::{Content, Grave, Kind, Live, Place, Record, State};

const COPY_NODE: &str = "kith.v1 node of a conflict's loser";
const COPY_FILE: &str = "kith.v1 file of a conflict's loser";

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unsettled {
    /// Contents set apart: the loser becomes a file of its own. `copy_as` its body (by `loser.root`) for `file`;
    /// `conflict_name(place.parent, place.name, file, label of by)`.
    Contents {
        node: NodeId,
        record: RecordHash,
        loser: Content,
        by: DeviceId,
        place: Place,
        copy: NodeId,
        file: FileId,
    },
    /// A name that another entry keeps: `conflict_name(place.parent, place.name, id, label of by)`.
    Name { node: NodeId, place: Place, id: EntryId, by: DeviceId },
    /// A name or locator sealed for another folder or file: `reseal(place.parent, place.name, to, id)`.
    Seal { node: NodeId, place: Place, to: NodeId, id: EntryId },
}

/// What the keys gave for an [`Unsettled`]: the new name and its locator; for [`Unsettled::Contents`] also the copy's
/// content, with its sealed attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    pub name: StoreName,
    pub locator: Locator,
    pub copy: Option<(Content, Vec<u8>)>,
}

impl Unsettled {
    pub fn node(&self) -> NodeId {
        match self {
            Self::Contents { node, .. } | Self::Name { node, .. } | Self::Seal { node, .. } => *node,
        }
    }
}

impl Engine {
    /// Conflicts and names to be settled by a writer, at most one for a node; a reader and a blind device list them.
    pub fn unsettled(&mut self) -> Vec<Unsettled> {
        self.refresh();
        let mut nodes: BTreeSet<NodeId> = self.odd.clone();
        nodes.extend(self.tree.crowded());
        nodes.extend(self.tree.hung());
        for header in self.tree.second_headers() {
            nodes.extend(self.tree.children(&header));
        }
        nodes.iter().filter_map(|node| self.unsettled_of(node)).collect()
    }

    /// Contents set apart that no writer has settled yet, for people.
    pub fn conflicts(&mut self) -> Vec<Unsettled> {
        self.unsettled().into_iter().filter(|u| matches!(u, Unsettled::Contents { .. })).collect()
    }

    fn unsettled_of(&self, node: &NodeId) -> Option<Unsettled> {
        let known = self.nodes.get(node)?;
        let shown = &known.shown;
        // What is on its way may have settled it: records that name these heads and wait for a body, or records named
        // by these that did not come yet though somebody has them.
        let top = |h: &RecordHash| known.records.get(h).map(|r| &r.record);
        let waits = known.tops().iter().filter(|h| !shown.heads.contains(h)).filter_map(top);
        if waits.into_iter().any(|r| r.replaces.iter().any(|old| shown.heads.contains(old))) {
            return None;
        }
        let dangles = |r: &Record| r.replaces.iter().any(|old| !known.records.contains_key(old));
        if known.tops().iter().filter_map(top).any(dangles) && !self.is_caught_up() {
            return None;
        }
        let by = |h: &RecordHash| known.records.get(h).map(|r| r.author.device);
        let file = shown.contents.first().map(|side| side.content.file);
        let id = file.map_or(EntryId::Folder(*node), EntryId::File);
        let entries = self.tree.entries(node);
        if let Some(side) = shown.contents.get(1) {
            let place = shown.places.first()?.clone();
            let hash = |context| blake3::derive_key(context, side.from.as_bytes());
            let id16 = |hash: [u8; 32]| std::array::from_fn(|i| hash[i]);
            return Some(Unsettled::Contents {
                node: *node,
                record: side.from,
                loser: side.content,
                by: by(&side.from).or_else(|| by(&side.head))?,
                place,
                copy: NodeId::from_bytes(id16(hash(COPY_NODE))),
                file: FileId::from_bytes(id16(hash(COPY_FILE))),
            });
        }
        for (place, spot) in entries {
            let node = *node;
            let Some(spot) = spot else {
                let from = shown.places_from.and_then(|h| by(&h));
                let by = from.or_else(|| shown.heads.last().and_then(by))?;
                return Some(Unsettled::Name { node, place, id, by });
            };
            let first = self.tree.first_header(&spot.folder);
            if first != place.parent || shown.sealed_for != file {
                return Some(Unsettled::Seal { node, place, to: first, id });
            }
        }
        None
    }

    /// Whether everything was handed in that any device is known to have seen.
    fn is_caught_up(&self) -> bool {
        self.acks.values().all(|heads| self.heads.covers_all_but(heads, &self.gone))
    }

    /// Drafts, to be treated as those of [`Self::author`]. Empty where it was settled meanwhile, or cannot be yet.
    /// The body of a copy must have been handed in before.
    pub fn settle(&mut self, what: &Unsettled, how: &Settled) -> Vec<Record> {
        self.refresh();
        self.drafted.clear();
        let node = what.node();
        if !self.can_write || self.unsettled_of(&node).as_ref() != Some(what) {
            return Vec::new();
        }
        let Some(known) = self.nodes.get(&node) else { return Vec::new() };
        let shown = &known.shown;
        let kind = shown.kind.unwrap_or(Kind::Folder);
        let Some(mut live) = self.live_shown(&node, shown) else { return Vec::new() };
        let record = |node, kind, replaces: Vec<RecordHash>, state| {
            let writer = |h: &RecordHash| self.record(h)?.record.live()?.content_from;
            let writers: Vec<RecordHash> =
                replaces.iter().filter_map(writer).filter(|h| !known.tops().contains(h)).collect();
            let mut record = Record { share: self.share, node, kind, replaces, state, together: None };
            in_order(&mut record, writers);
            record
        };
        let mut drafts = Vec::new();
        match what {
            Unsettled::Contents { record: from, loser, place, copy, .. } => {
                let Some((content, attrs)) = &how.copy else { return Vec::new() };
                let others: HashSet<&Content> =
                    shown.contents.iter().skip(1).filter(|s| s.from != *from).map(|s| &s.content).collect();
                let stays = |h: &&RecordHash| {
                    let value = known.records.get(*h).and_then(|r| r.record.content());
                    value.is_none_or(|c| c == loser || !others.contains(c))
                };
                if !self.nodes.contains_key(copy) {
                    let at = Place { parent: place.parent, name: how.name.clone(), locator: how.locator };
                    let live = Live {
                        places: vec![at],
                        places_from: None,
                        content: Some(*content),
                        content_from: None,
                        attrs: attrs.clone(),
                        attrs_from: None,
                    };
                    drafts.push(record(*copy, kind, Vec::new(), State::Live(live)));
                }
                let replaces = shown.heads.iter().filter(stays).copied().collect();
                drafts.push(record(node, kind, replaces, State::Live(live)));
            }
            Unsettled::Name { place, .. } => {
                replace(
                    &mut live.places,
                    place,
                    Place { parent: place.parent, name: how.name.clone(), locator: how.locator },
                );
                live.places_from = None;
                drafts.push(record(node, kind, shown.cover.clone(), State::Live(live)));
            }
            Unsettled::Seal { place, to, .. } => {
                let new = Place { parent: *to, name: how.name.clone(), locator: how.locator };
                if (new.parent, &new.name) != (place.parent, &place.name) {
                    live.places_from = None;
                }
                replace(&mut live.places, place, new);
                let state = if shown.live {
                    State::Live(live)
                } else {
                    State::Dead(Grave { places: live.places, places_from: live.places_from })
                };
                drafts.push(record(node, kind, shown.cover.clone(), state));
            }
        }
        self.tie(drafts.iter_mut());
        self.drafted.extend(drafts.iter().map(|d| (d.clone(), Commit::Nothing)));
        drafts
    }

    /// The state that records show, as one record would say it. `None`: its attributes are sealed for another file
    /// and this disk has not shown them yet.
    pub(super) fn live_shown(&self, node: &NodeId, shown: &Shown) -> Option<Live> {
        let side = shown.contents.first();
        let mut attrs = shown.attrs.clone();
        let mut attrs_from = shown.attrs_from;
        if shown.live && shown.attrs_for != side.map(|s| s.content.file) {
            match self.disk.get(node) {
                Some(disk) => {
                    let fits = disk.attrs_from == shown.attrs_from && disk.content == side.map(|s| s.content);
                    attrs = Some(disk).filter(|_| fits)?.attrs.clone();
                }
                // Another entry has its name, so this disk never shows it: those that came with the content.
                None => {
                    let head = side?.head;
                    let live = self.record(&head)?.record.live()?;
                    attrs = live.attrs.clone();
                    attrs_from = Some(live.attrs_from.unwrap_or(head));
                }
            }
        }
        Some(Live {
            places: shown.places.clone(),
            places_from: shown.places_from,
            content: side.map(|s| s.content),
            content_from: side.map(|s| s.from),
            attrs,
            attrs_from,
        })
    }
}

fn replace(places: &mut Vec<Place>, old: &Place, new: Place) {
    places.retain(|p| p != old && (p.parent, &p.name) != (new.parent, &new.name));
    places.push(new);
    places.sort_by(|a, b| (a.parent, &a.name).cmp(&(b.parent, &b.name)));
}
