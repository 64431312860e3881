//! Where there is no index: what the disk shows is found by a scan, and explained by the records.

use std::collections::{BTreeMap, HashMap};

use keymgr::ids::{FileId, NodeId, RecordHash};

use super::disk::{DiskNode, DiskPlace};
use super::{Engine, EntryId, Observation, ObservedFile, Spot};
use crate::record::{Kind, Place};

impl Engine {
    /// A listing of every folder, every file with its root; after the records. What records explain is taken as shown
    /// by them. What they do not explain is left as their last version known to have been written here: it is
    /// authored if fs observes it, and only then.
    pub fn adopt(&mut self, scan: &Observation) {
        let files: HashMap<FileId, &ObservedFile> = scan.files.iter().map(|f| (f.file, f)).collect();
        for file in &scan.files {
            // Whole here until the scan is read: states are asked for by what lies in the tree.
            self.bodies.insert(file.root);
            self.touch_root(&file.root);
        }
        self.refresh();
        let mut found: BTreeMap<NodeId, Vec<(Spot, Place, EntryId)>> = BTreeMap::new();
        for folder in &scan.folders {
            for entry in &folder.entries {
                let node = match entry.id {
                    EntryId::Folder(node) => Some(node),
                    EntryId::File(file) => self.by_file.get(&file).copied(),
                };
                let Some(node) = node.filter(|n| self.nodes.contains_key(n)) else { continue };
                let spot = Spot { folder: entry.under, name: entry.name.clone() };
                let place = Place { parent: entry.under, name: entry.name.clone(), locator: entry.locator };
                found.entry(node).or_default().push((spot, place, entry.id));
            }
        }
        let mut shows = Vec::new();
        for (node, entries) in found {
            let file = entries.iter().find_map(|(_, _, id)| match id {
                EntryId::File(file) => files.get(file).copied(),
                EntryId::Folder(_) => None,
            });
            shows.extend(self.explain(node, &entries, file).map(|disk| (node, disk)));
        }
        for (node, disk) in shows {
            self.put_disk(node, disk);
        }
        for file in &scan.files {
            self.handle_body_gone(file.root);
        }
        self.requeue_all();
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
                let mut same: Vec<RecordHash> =
                    known.records.keys().filter(|h| content.is_some() && version(h) == content).copied().collect();
                if same.is_empty() {
                    // Written here and not recorded. What it was made from is not known: the last one of this device.
                    let own = known.records.iter().filter(|(_, r)| r.author.device == self.me && !r.record.is_dead());
                    same.extend(own.max_by_key(|(h, r)| (r.number, **h)).map(|(h, _)| *h));
                    same.extend(known.records.keys().max().filter(|_| same.is_empty()));
                }
                let seen: Vec<_> = same.iter().map(|h| known.past(h)).collect();
                let mut basis: Vec<RecordHash> =
                    same.iter().filter(|h| !seen.iter().any(|s| s.contains(h))).copied().collect();
                basis.sort();
                let last = basis.last()?;
                let live = known.records.get(last).and_then(|r| r.record.live())?;
                DiskNode {
                    kind: known.records.get(last)?.record.kind,
                    places: Vec::new(),
                    places_from: Some(live.places_from.unwrap_or(*last)),
                    content: live.content,
                    content_from: live.content.map(|_| live.content_from.unwrap_or(*last)),
                    attrs: live.attrs.clone(),
                    attrs_from: Some(live.attrs_from.unwrap_or(*last)),
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
                (None, None) => {
                    let said = known.shown.places.iter().find(|p| (p.parent, &p.name) == (place.parent, &place.name));
                    let place = said.or(known.shown.places.first()).unwrap_or(place);
                    DiskPlace { place: place.clone(), spot: Some(spot.clone()), aside: false }
                }
            });
        }
        disk.places.append(&mut hidden);
        disk.places.sort_by(|a, b| (a.place.parent, &a.place.name).cmp(&(b.place.parent, &b.place.name)));
        Some(disk)
    }
}
