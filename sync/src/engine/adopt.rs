//! Where there is no index: what the disk shows is found by a scan, and explained by the records.

use std::collections::{BTreeMap, HashMap, HashSet};

use keymgr::ids::{FileId, NodeId, RecordHash, Root};

use super::author::Pending;
use super::disk::{DiskNode, DiskPlace};
use super::{Engine, EntryId, Observation, ObservedEntry, ObservedFile, ObservedFolder, Spot};
use crate::record::{Content, Kind, Place};

impl Engine {
    /// A listing of every folder, every file with its root; after the records, and after [`Self::load_disk`] where
    /// there is an index, which may lag behind the last steps. What records explain is taken as shown by them. What
    /// they do not explain is left as it was known, or as the last version known to have been written here: it is
    /// authored if fs observes it, and only then.
    pub fn adopt(&mut self, scan: &Observation) {
        let files: HashMap<FileId, &ObservedFile> = scan.files.iter().map(|f| (f.file, f)).collect();
        // Whole here until the scan is read: states are asked for by what lies in the tree.
        let lent: Vec<Root> = scan.files.iter().map(|f| f.root).filter(|root| self.bodies.insert(*root)).collect();
        lent.iter().for_each(|root| self.touch_root(root));
        self.refresh();
        let mut found: BTreeMap<NodeId, Vec<(Spot, Place, EntryId)>> = BTreeMap::new();
        for folder in &scan.folders {
            for entry in &folder.entries {
                let node = match entry.id {
                    EntryId::Folder(node) => Some(node),
                    EntryId::File(file) => self.by_file.get(&file).copied().or_else(|| self.disk.node_of(&file)),
                };
                let Some(node) = node.filter(|n| self.nodes.contains_key(n) || self.disk.has(n)) else {
                    // Not recorded yet: its name waits for its content, as after a listing.
                    if let EntryId::File(_) = entry.id {
                        let spot = Spot { folder: entry.under, name: entry.name.clone() };
                        self.pending.insert(spot, Pending { entry: entry.clone() });
                    }
                    continue;
                };
                let under = self.under(node, entry, folder);
                let spot = Spot { folder: under, name: entry.name.clone() };
                let place = Place { parent: under, name: entry.name.clone(), locator: entry.locator };
                found.entry(node).or_default().push((spot, place, entry.id));
            }
        }
        let mut shows = Vec::new();
        for (node, entries) in found {
            let file = entries.iter().find_map(|(_, _, id)| match id {
                EntryId::File(file) => files.get(file).copied(),
                EntryId::Folder(_) => None,
            });
            let explained = self.explain(node, &entries, file);
            let disk = match self.disk.get(&node) {
                Some(known) => Some(self.catch_up(node, known, explained, file)),
                None => explained,
            };
            shows.extend(disk.map(|disk| (node, disk)));
        }
        // A file that nobody recorded has a name that records give to another, which is nowhere: it was saved by
        // rename, or overwritten, before the end; fs will tell, and the other is what it took the name of.
        let there: HashSet<NodeId> = shows.iter().map(|(node, _)| *node).collect();
        for spot in self.pending.keys() {
            let keeper = self.tree.keeper(spot).filter(|n| !there.contains(n) && !self.disk.has(n));
            if let Some((node, target)) = keeper.and_then(|n| Some((n, self.target(&n)?))) {
                // Which version was overwritten is not known: at best the last of this device.
                let records = self.nodes.get(&node).into_iter().flat_map(|n| &n.records);
                let own = records.filter(|(_, r)| r.author.device == self.me && !r.record.is_dead());
                let last = own.max_by_key(|(h, r)| (r.number, **h));
                if let Some((h, live)) = last.and_then(|(h, r)| Some((*h, r.record.live()?))) {
                    let content_from = Some(live.content_from.unwrap_or(h));
                    let attrs_from = None;
                    let content = live.content;
                    shows.push((node, DiskNode { content, content_from, attrs_from, basis: vec![h], ..target.disk }));
                }
            }
        }
        // Known by the index and not there: taken away by a step that it missed, or by a user of whom fs will tell.
        let there: HashSet<NodeId> = shows.iter().map(|(node, _)| *node).collect();
        let missed = |(node, disk): (&NodeId, &DiskNode)| {
            let stays = self.target(node).is_some_and(|t| t.disk.spots().eq(disk.spots()));
            (*node != self.root && !there.contains(node) && !stays).then_some(*node)
        };
        let missed: Vec<NodeId> = self.disk.nodes().filter_map(missed).collect();
        missed.iter().for_each(|node| self.remove_disk(node));
        for (node, disk) in shows {
            self.put_disk(node, disk);
        }
        lent.into_iter().for_each(|root| self.handle_body_gone(root));
        self.requeue_all();
    }

    /// After an unclean end: a step that was cut off may have left a folder another time than its record says. Each is
    /// dressed again, but for those that fs says it changed.
    pub fn undress_folders(&mut self) {
        let folders: Vec<(NodeId, DiskNode)> =
            self.disk.nodes().filter(|(_, d)| d.kind == Kind::Folder).map(|(n, d)| (*n, d.clone())).collect();
        for (node, shown) in folders {
            self.put_disk(node, DiskNode { attrs: Vec::new(), attrs_from: None, ..shown });
            self.requeue(node);
        }
    }

    /// A node that the index knows: each part is as it was known, or as a step that the index missed left it.
    fn catch_up(
        &self,
        node: NodeId,
        known: &DiskNode,
        seen: Option<DiskNode>,
        file: Option<&ObservedFile>,
    ) -> DiskNode {
        let (Some(seen), Some(target)) = (seen, self.target(&node).map(|t| t.disk)) else { return known.clone() };
        let mut disk = known.clone();
        let content = file.map(ObservedFile::content);
        if content != known.content && content == target.content {
            disk.content = target.content;
            disk.content_from = target.content_from;
            disk.attrs = target.attrs.clone();
            disk.attrs_from = target.attrs_from;
            disk.basis = target.basis.clone();
        }
        if !seen.spots().eq(known.spots()) && seen.spots().eq(target.spots()) {
            disk.places = target.places.clone();
            disk.places_from = target.places_from;
        }
        disk
    }

    /// Whose key a name opens under: without keys, the header under which a record of the node has it.
    fn under(&self, node: NodeId, entry: &ObservedEntry, folder: &ObservedFolder) -> NodeId {
        let mut headers = std::iter::once(&folder.node).chain(&folder.also);
        let records = self.nodes.get(&node).map(|n| &n.records);
        let said = |h: &&NodeId| {
            let mut all = records.into_iter().flat_map(|r| r.values());
            all.any(|r| r.record.places().iter().any(|p| p.parent == **h && p.name == entry.name))
        };
        headers.find(said).copied().unwrap_or(entry.under)
    }

    /// The version of a node that its entries are.
    fn explain(
        &self,
        node: NodeId,
        entries: &[(Spot, Place, EntryId)],
        file: Option<&ObservedFile>,
    ) -> Option<DiskNode> {
        let known = self.nodes.get(&node)?;
        let target = self.target(&node).map(|t| t.disk);
        let content = file.map(ObservedFile::content);
        let mut disk = match &target {
            Some(target) if target.content == content => target.clone(),
            _ => {
                let version = |h: &RecordHash| known.records.get(h).and_then(|r| r.record.content()).copied();
                let living = |h: &&RecordHash| known.records.get(*h).is_some_and(|r| !r.record.is_dead());
                let mut same: Vec<RecordHash> = known.records.keys().filter(living).copied().collect();
                if content.is_some() {
                    same.retain(|h| version(h) == content);
                }
                let mut like = None;
                if same.is_empty() {
                    // Written here and not recorded. What it was made from is not known: at best the last of this
                    // device. It replaces nothing of others, which at worst is a conflict too many.
                    let alike = |h: &&RecordHash| living(h) && version(h).map(|c| c.file) == content.map(|c| c.file);
                    let own = known.records.iter().filter(|(h, r)| r.author.device == self.me && alike(h));
                    same.extend(own.max_by_key(|(h, r)| (r.number, **h)).map(|(h, _)| *h));
                    like = known.records.keys().filter(alike).max().copied();
                }
                let seen: Vec<_> = same.iter().map(|h| known.past(h)).collect();
                let mut basis: Vec<RecordHash> =
                    same.iter().filter(|h| !seen.iter().any(|s| s.contains(h))).copied().collect();
                basis.sort();
                let source = basis.last().copied();
                // Where only its end is known it is here still, and goes.
                let live = source.or(like).and_then(|h| Some((source, known.records.get(&h)?.record.live()?)));
                DiskNode {
                    kind: file.map_or(Kind::Folder, |f| f.kind),
                    places: Vec::new(),
                    places_from: live.and_then(|(h, l)| l.places_from.or(h)),
                    // Not one of a record, which it would pass for having shown.
                    content: match source {
                        Some(_) => live.map_or(content, |(_, l)| l.content),
                        None if like.is_none() => content,
                        None => content.map(|c| Content { root: Root::from_bytes([0; 32]), ..c }),
                    },
                    content_from: live.and_then(|(h, l)| h.and(l.content_from.or(h))),
                    attrs: live.map(|(_, l)| l.attrs.clone()).unwrap_or_default(),
                    attrs_from: live.and_then(|(h, l)| l.attrs_from.or(h)),
                    basis,
                }
            }
        };
        if (disk.kind == Kind::Folder) != file.is_none() {
            return None;
        }
        let mut hidden: Vec<DiskPlace> =
            std::mem::take(&mut disk.places).into_iter().filter(|p| p.spot.is_none()).collect();
        for (spot, place, _) in entries {
            let meant = target.as_ref().and_then(|t| t.places.iter().find(|p| p.spot.as_ref() == Some(spot)));
            let aside = self.is_aside(&node, spot);
            let was = known.shown.places.first().filter(|_| aside);
            disk.places.push(match (meant, was) {
                (Some(meant), _) => {
                    DiskPlace { place: Place { locator: place.locator, ..meant.place.clone() }, ..meant.clone() }
                }
                (None, Some(was)) => DiskPlace { place: was.clone(), spot: Some(spot.clone()), aside },
                (None, None) => DiskPlace { place: place.clone(), spot: Some(spot.clone()), aside: false },
            });
        }
        disk.places.append(&mut hidden);
        disk.places.sort_by(|a, b| (a.place.parent, &a.place.name).cmp(&(b.place.parent, &b.place.name)));
        let names = |places: &[Place]| -> Vec<_> { places.iter().map(|p| (p.parent, p.name.clone())).collect() };
        let here: Vec<Place> = disk.places.iter().map(|p| p.place.clone()).collect();
        let said = |h: &RecordHash| known.records.get(h).is_some_and(|r| names(r.record.places()) == names(&here));
        if !disk.basis.iter().any(said) && names(&known.shown.places) != names(&here) {
            disk.places_from = None;
        }
        Some(disk)
    }
}
