//! One session of a volume: from mount to unmount, what it may have changed, and what it checked already.
//!
//! The rules are those of `models/pages.py`: `list`, `ranges`, `emptied`, `syncmount`, `unmended`.

pub mod list;
mod quarantine;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use keymgr::ids::{FileId, NodeId, StoreName};
use keymgr::share::ShareKeys;
use parking_lot::{Mutex, RwLock};

pub use list::Item;
use list::List;
pub(crate) use quarantine::into_quarantine;

use crate::records::Refusal;
use crate::store::Store;

/// What of a file may differ from its record after an unclean end.
#[derive(Clone, Debug)]
pub(crate) struct LooseFile {
    /// Groups of the ciphertext; `None`: only its attributes.
    pub groups: Option<BTreeSet<u32>>,
    pub folder: NodeId,
    pub name: StoreName,
}

/// What may differ from the records after an unclean end.
#[derive(Default, Debug)]
pub(crate) struct Loose {
    pub folders: HashSet<NodeId>,
    pub files: HashMap<FileId, LooseFile>,
}

/// How far mending after an unclean end is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Due,
    Found,
    Done,
}

pub(crate) struct Session {
    list: Mutex<List>,
    loose: RwLock<Loose>,
    mending: Mutex<Stage>,
    /// Folders that were checked against the records, or that sync changed in this session.
    checked: Mutex<HashSet<NodeId>>,
    refusals: Mutex<Vec<Refusal>>,
}

impl Session {
    /// `clean`: how the last session ended. After an unclean end the whole disk is synced first: what the killed session
    /// left there is counted on from now. After a clean one the list is emptied, durably.
    pub fn begin(store: &Arc<dyn Store>, keys: &ShareKeys, clean: bool, read_only: bool) -> io::Result<Self> {
        if !clean && !read_only {
            store.sync_all()?;
        }
        let (list, items) = List::open(store, keys, clean, read_only)?;
        let mut loose = Loose::default();
        for item in items {
            loose.take(item);
        }
        Ok(Self {
            list: Mutex::new(list),
            loose: RwLock::new(loose),
            mending: Mutex::new(if clean { Stage::Done } else { Stage::Due }),
            checked: Mutex::default(),
            refusals: Mutex::default(),
        })
    }

    /// On the list, durably: before what it names first changes. Attributes alone need not wait for the disk.
    pub fn intend(&self, items: &[Item], durable: bool) -> io::Result<()> {
        if items.is_empty() { Ok(()) } else { self.list.lock().put(items, durable) }
    }

    pub fn empty_list(&self) -> io::Result<()> {
        self.list.lock().empty()
    }

    pub fn unmended(&self) -> bool {
        *self.mending.lock() != Stage::Done
    }

    /// Nothing is recorded yet: all that there is will be found.
    pub fn begin_mending(&self) {
        *self.mending.lock() = Stage::Due;
    }

    /// Mending has looked at everything: what it found is dirty.
    pub fn found(&self) {
        *self.mending.lock() = Stage::Found;
    }

    /// Nothing differs from the records any more. If mending came that far, it has ended: from now on nothing may differ but
    /// by what this session does.
    pub fn all_recorded(&self) {
        let mut stage = self.mending.lock();
        if *stage == Stage::Found {
            *self.loose.write() = Loose::default();
            *stage = Stage::Done;
        }
    }

    pub fn loose<T>(&self, look: impl FnOnce(&Loose) -> T) -> T {
        look(&self.loose.read())
    }

    pub fn is_loose_folder(&self, nodes: impl IntoIterator<Item = NodeId>) -> bool {
        let loose = self.loose.read();
        nodes.into_iter().any(|node| loose.folders.contains(&node))
    }

    /// The groups of a file that may differ from its record.
    pub fn loose_groups(&self, file: &FileId) -> Option<BTreeSet<u32>> {
        self.loose.read().files.get(file).and_then(|f| f.groups.clone())
    }

    pub fn is_checked(&self, nodes: impl IntoIterator<Item = NodeId>) -> bool {
        let checked = self.checked.lock();
        nodes.into_iter().any(|node| checked.contains(&node))
    }

    pub fn set_checked(&self, nodes: impl IntoIterator<Item = NodeId>) {
        self.checked.lock().extend(nodes);
    }

    pub fn refuse(&self, refusal: Refusal) {
        self.refusals.lock().push(refusal);
    }

    pub fn refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().clone()
    }
}

impl Loose {
    fn take(&mut self, item: Item) {
        match item {
            Item::Folder(node) => {
                self.folders.insert(node);
            }
            Item::File { file, folder, name, groups } => {
                let entry = self.files.entry(file).or_insert(LooseFile { groups: None, folder, name: name.clone() });
                entry.groups.get_or_insert_default().extend(groups.0..groups.1);
                (entry.folder, entry.name) = (folder, name);
            }
            Item::Attrs { file, folder, name } => {
                self.files.entry(file).or_insert(LooseFile { groups: None, folder, name });
            }
        }
    }
}

/// Which groups of a file are on the list by now.
#[derive(Default, Debug)]
pub(crate) struct ListedGroups {
    ranges: Vec<Range<u32>>,
    step: u32,
}

impl ListedGroups {
    pub fn covers(&self, groups: &Range<u32>) -> bool {
        // Ranges are merged, so that one of them must hold all.
        groups.is_empty() || self.ranges.iter().any(|r| r.start <= groups.start && groups.end <= r.end)
    }

    /// A range around `groups` to be listed at once: greater each time, so that a file changed all over needs few fsyncs.
    pub fn widen(&mut self, groups: &Range<u32>, count: u32) -> Range<u32> {
        self.step = (self.step * 2).clamp(4, 1024);
        let start = groups.start / self.step * self.step;
        let end = groups.end.max(groups.start + 1).div_ceil(self.step).saturating_mul(self.step).min(count);
        start.min(groups.start)..end.max(groups.end)
    }

    pub fn add(&mut self, range: Range<u32>) {
        self.ranges.push(range);
        self.ranges.sort_unstable_by_key(|r| r.start);
        let mut merged: Vec<Range<u32>> = Vec::new();
        for range in self.ranges.drain(..) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        self.ranges = merged;
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_ranges_merge_and_grow() {
        let mut listed = ListedGroups::default();
        let mut puts = 0;
        for group in (0..5000).map(|i| (i * 7919) % 5000) {
            if !listed.covers(&(group..group + 1)) {
                let range = listed.widen(&(group..group + 1), 5000);
                assert!(range.contains(&group) && range.end <= 5000);
                listed.add(range);
                puts += 1;
            }
        }
        assert!(listed.covers(&(0..5000)));
        assert!(puts < 40, "{puts}");
    }
}
