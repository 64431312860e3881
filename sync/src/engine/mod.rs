//! The engine: from signed records to one tree, and from what a device's disk shows to records.
//!
//! Pure: no clock, no I/O, no randomness. Events come in by `handle_*`, what to do goes out by `poll_*`. The tree is
//! a function of the records held and of the bodies that are whole here; nothing depends on the order of arrival.

mod adopt;
mod anew;
mod author;
mod disk;
mod forget;
mod heads;
mod lost;
mod node;
mod observation;
mod settle;
mod steps;
mod view;

pub use anew::Counting;
pub use disk::{DiskNode, DiskPlace};
pub use forget::Forgotten;
pub use heads::{Head, Heads};
pub use observation::{EntryId, Observation, ObservedEntry, ObservedFile, ObservedFolder};
pub use settle::{Settled, Unsettled};
pub use steps::{Done, Spot, Step, StepId};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use keymgr::ids::{DeviceId, FileId, NodeId, RecordHash, Root, ShareId, StoreName};

use crate::record::{Author, Content, Entry, Kind, Record};
use disk::Disk;
use node::{Held, Node};
use view::Tree;

/// What became of a record that was handed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It counts now.
    New,
    /// Seen before, or forgotten since.
    Known,
    /// Earlier ones of this author are missing; it was not kept, bring it again after them.
    Early { expected: u64 },
    /// Another record with this number and author counts: the author's log forked. This one counts too.
    Fork,
}

/// A body that records name and that is not here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub content: Content,
    pub node: NodeId,
    /// What this disk shows of the same node and lineage: a base for a delta.
    pub base: Option<Content>,
}

/// Rules of the merge. All hold; a test switches one off to see what is lost without it.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// An edit of a file in conflict does not replace the other side.
    pub dot: bool,
    /// Place, content and attributes merge apart.
    pub fields: bool,
    /// A folder is there as long as something living is in it.
    pub adddel: bool,
    /// A cycle of folders is cut; one of them hangs at the root.
    pub cycle: bool,
    /// A delete removes what its author had seen, not what was done apart from it.
    pub delseen: bool,
    /// What lies under what was seen and is not held is gone.
    pub frontier: bool,
    /// A record takes effect when its body is whole here.
    pub bodies: bool,
    /// A file id never published that takes a published file's name takes its node.
    pub saved: bool,
    /// Records that belong together take effect all or none.
    pub together: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            dot: true,
            fields: true,
            adddel: true,
            cycle: true,
            delseen: true,
            frontier: true,
            bodies: true,
            saved: true,
            together: true,
        }
    }
}

/// The engine of one share on one device.
pub struct Engine {
    share: ShareId,
    me: DeviceId,
    can_write: bool,
    rules: Rules,
    root: NodeId,
    // records
    nodes: HashMap<NodeId, Node>,
    by_hash: HashMap<RecordHash, NodeId>,
    by_file: HashMap<FileId, NodeId>,
    by_root: HashMap<Root, BTreeSet<NodeId>>,
    numbers: HashMap<Author, BTreeMap<u64, RecordHash>>,
    /// By whom a record is named as replaced.
    replaced: HashMap<RecordHash, Vec<RecordHash>>,
    /// Bodies that are whole here beside the tree.
    bodies: HashSet<Root>,
    heads: Heads,
    floor: Heads,
    acks: BTreeMap<DeviceId, Heads>,
    /// Authors whose new records do not count, and what is left out of theirs.
    gone: BTreeSet<DeviceId>,
    withdrawn: Vec<Entry>,
    // the tree, the disk, and the way from one to the other
    dirty: BTreeSet<NodeId>,
    tree: Tree,
    disk: Disk,
    wants: BTreeMap<NodeId, Vec<Content>>,
    odd: BTreeSet<NodeId>,
    junctions: BTreeMap<NodeId, ShareId>,
    drafted: VecDeque<(Record, author::Commit)>,
    pending: BTreeMap<Spot, author::Pending>,
    steps: steps::Queue,
    /// What lies in the tree and was refused.
    damaged: BTreeSet<NodeId>,
}

impl Engine {
    /// `can_write`: a full device of a writer. Others never author, and show the same tree.
    pub fn new(share: ShareId, me: DeviceId, can_write: bool) -> Self {
        Self::with_rules(share, me, can_write, Rules::default())
    }

    #[doc(hidden)]
    pub fn with_rules(share: ShareId, me: DeviceId, can_write: bool, rules: Rules) -> Self {
        let root = NodeId::root_of(share);
        Self {
            share,
            me,
            can_write,
            rules,
            root,
            nodes: HashMap::new(),
            by_hash: HashMap::new(),
            by_file: HashMap::new(),
            by_root: HashMap::new(),
            numbers: HashMap::new(),
            replaced: HashMap::new(),
            bodies: HashSet::new(),
            heads: Heads::default(),
            floor: Heads::default(),
            acks: BTreeMap::new(),
            gone: BTreeSet::new(),
            withdrawn: Vec::new(),
            dirty: BTreeSet::new(),
            tree: Tree::new(root, rules),
            disk: Disk::new(root),
            wants: BTreeMap::new(),
            odd: BTreeSet::new(),
            junctions: BTreeMap::new(),
            drafted: VecDeque::new(),
            pending: BTreeMap::new(),
            steps: steps::Queue::default(),
            damaged: BTreeSet::new(),
        }
    }

    // ---- what came

    /// Before the log is read back: how far every author was read when records were last forgotten (or taken from a
    /// snapshot), and the floor under which they were.
    pub fn restore(&mut self, heads: Heads, floor: Heads) {
        self.heads.merge(&heads);
        self.floor.merge(&floor);
    }

    /// A record whose signature and author were verified: from a peer's log in the order of its numbers, or just
    /// signed here.
    pub fn handle_record(&mut self, entry: Entry) -> Taken {
        if self.by_hash.contains_key(&entry.hash) {
            return Taken::Known;
        }
        let head = self.heads.get(&entry.author).copied();
        let expected = head.map_or(1, |h| h.number.saturating_add(1));
        let fork = match head {
            _ if entry.number > expected => return Taken::Early { expected },
            Some(head) if entry.hash == head.hash => return Taken::Known,
            Some(head) if entry.number == head.number => true,
            Some(head) if entry.number == expected => entry.previous != Some(head.hash),
            Some(_) if self.rules.frontier => return Taken::Known,
            _ => false,
        };
        self.heads.raise(entry.author, Head { number: entry.number, hash: entry.hash });
        self.store(entry);
        if fork { Taken::Fork } else { Taken::New }
    }

    /// A record that somebody holds under a floor: from the own log when it is read back, or from a peer's snapshot.
    /// Gaps before it are what was forgotten; [`Self::restore`] or [`Self::handle_snapshot`] says how far.
    pub fn handle_held(&mut self, entry: Entry) {
        if self.by_hash.contains_key(&entry.hash) {
            return;
        }
        if entry.number == self.heads.number(&entry.author).saturating_add(1) {
            self.heads.raise(entry.author, Head { number: entry.number, hash: entry.hash });
        }
        self.store(entry);
    }

    /// The body with this root is whole here, beside the tree.
    pub fn handle_body(&mut self, root: Root) {
        if self.bodies.insert(root) {
            self.touch_root(&root);
        }
    }

    /// It is no longer kept beside the tree.
    pub fn handle_body_gone(&mut self, root: Root) {
        if self.bodies.remove(&root) {
            self.lost_root(&root);
        }
    }

    fn store(&mut self, entry: Entry) {
        let Entry { hash, author, number, record, .. } = entry;
        let id = record.node;
        if author.device == self.me
            && let Some((draft, commit)) = self.drafted.pop_front()
        {
            if draft == record {
                self.commit(id, hash, commit);
            } else {
                self.drafted.push_front((draft, commit));
            }
        }
        self.by_hash.insert(hash, id);
        self.numbers.entry(author).or_default().insert(number, hash);
        if let Some(content) = record.content() {
            self.by_file.insert(content.file, id);
            self.by_root.entry(content.root).or_default().insert(id);
        }
        for old in &record.replaces {
            self.replaced.entry(*old).or_default().push(hash);
        }
        let replaces = record.replaces.clone();
        self.nodes.entry(id).or_default().insert(hash, Held { author, number, record });
        self.dirty.insert(id);
        // Groups that this one completes, breaks, or takes a member's place in.
        self.touch_group(author, number);
        self.touch_group(author, number.saturating_sub(1));
        let held = |h: &RecordHash| self.record(h).map(|held| (held.author, held.number));
        let old: Vec<_> = replaces.iter().filter_map(held).collect();
        old.into_iter().for_each(|(author, number)| self.touch_group(author, number));
        self.touch_groups_of(&id);
    }

    /// What a node's records do in their groups may have changed with it.
    fn touch_groups_of(&mut self, id: &NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        let tied = node.tops().iter().filter_map(|h| node.records.get(h)).filter(|h| h.record.together.is_some());
        let groups: Vec<_> = tied.map(|h| (h.author, h.number)).collect();
        groups.into_iter().for_each(|(author, number)| self.touch_group(author, number));
    }

    fn record(&self, hash: &RecordHash) -> Option<&Held> {
        self.nodes.get(self.by_hash.get(hash)?)?.records.get(hash)
    }

    fn touch_group(&mut self, author: Author, number: u64) {
        let Some(numbers) = self.numbers.get(&author) else { return };
        let Some(held) = numbers.get(&number).and_then(|h| self.record(h)) else { return };
        let Some(together) = held.record.together else { return };
        let Some(first) = number.checked_sub(together.index.into()) else { return };
        let members = numbers.range(first..first.saturating_add(together.count.into()));
        let nodes: Vec<NodeId> = members.filter_map(|(_, h)| self.by_hash.get(h).copied()).collect();
        self.dirty.extend(nodes);
    }

    /// A body came: records that name it may take effect.
    fn touch_root(&mut self, root: &Root) {
        let nodes: Vec<NodeId> = self.by_root.get(root).into_iter().flatten().copied().collect();
        for id in nodes {
            self.dirty.insert(id);
            self.touch_groups_of(&id);
            if self.damaged.contains(&id) {
                self.requeue(id);
            }
        }
    }

    /// A body went: older versions may be the newest that are whole.
    fn lost_root(&mut self, root: &Root) {
        if self.has_body(root) {
            return;
        }
        for id in self.by_root.get(root).into_iter().flatten() {
            if let Some(node) = self.nodes.get_mut(id) {
                node.reconsider();
            }
        }
        self.touch_root(root);
    }

    /// Whether a body is whole here, in the tree or beside it.
    pub fn has_body(&self, root: &Root) -> bool {
        !self.rules.bodies || self.bodies.contains(root) || self.disk.has_body(root)
    }

    fn body_of(&self, record: &Record) -> bool {
        record.content().is_none_or(|c| self.has_body(&c.root))
    }

    /// Whether a group need not wait for a member's body: it is here, or another record, whose body is here,
    /// replaced what the member carries.
    fn body_or_over(&self, hash: &RecordHash, record: &Record) -> bool {
        let Some(source) = record.live().map(|l| l.content_from.unwrap_or(*hash)) else { return true };
        let over = |by: &RecordHash| {
            let Some(by_record) = self.record(by).map(|h| &h.record) else { return false };
            let other = by_record.live().map(|l| l.content_from.unwrap_or(*by));
            by != hash && other != Some(source) && self.body_of(by_record)
        };
        self.body_of(record) || self.replaced.get(&source).is_some_and(|all| all.iter().any(over))
    }

    /// Whether all that belong together with a record are here, with their bodies.
    fn group_works(&self, held: &Held) -> bool {
        if !self.rules.together {
            return true;
        }
        let Some(group) = held.record.together else { return true };
        let Some(first) = held.number.checked_sub(group.index.into()) else { return true };
        let Some(numbers) = self.numbers.get(&held.author) else { return true };
        let seen = self.heads.number(&held.author);
        let mut all = true;
        for index in 0..group.count {
            let number = first.saturating_add(index.into());
            match numbers.get(&number).and_then(|h| Some((h, self.record(h)?))) {
                Some((hash, member)) => {
                    if member.record.together.is_none_or(|t| (t.index, t.count) != (index, group.count)) {
                        return true; // the author ended in the midst of it: it never was one
                    }
                    all &= self.body_or_over(hash, &member.record) || self.replaced.contains_key(hash);
                }
                // Not here yet; or, under what was seen, forgotten since something replaced it.
                None => all &= seen >= number,
            }
        }
        all
    }

    /// Brings states, tree and queue up to date with what came.
    fn refresh(&mut self) {
        while let Some(id) = self.dirty.pop_first() {
            let Some(node) = self.nodes.get(&id) else { continue };
            let tied = |h: &&RecordHash| node.records.get(h).is_some_and(|r| self.group_works(r));
            let body = |h: &&RecordHash| node.records.get(h).is_some_and(|r| self.body_of(&r.record));
            // All of them: where a record works without its body, those under it are asked again too.
            let all = node.records.keys().filter(|h| node.is_fragile() || node.tops().contains(h)).filter(tied);
            let (whole, carried): (HashSet<RecordHash>, HashSet<RecordHash>) = all.copied().partition(|h| body(&h));
            let Some(mut node) = self.nodes.remove(&id) else { continue };
            node.resolve(&self.rules, &whole, &carried);
            match node.shown.contents.first().filter(|_| node.shown.live && node.shown.kind == Some(Kind::Share)) {
                Some(side) => drop(self.junctions.insert(id, ShareId::from_bytes(*side.content.file.as_bytes()))),
                None => drop(self.junctions.remove(&id)),
            }
            self.tree.set(id, &node.shown);
            // Where nothing else can be shown, older versions will do.
            let dark = !node.shown.live;
            let missing = |h: &RecordHash| {
                let record = &node.records.get(h)?.record;
                let content = record.content()?;
                (!self.body_or_over(h, record) && (dark || !self.replaced.contains_key(h))).then_some(*content)
            };
            let mut wants: Vec<Content> = node.tops().iter().filter_map(missing).collect();
            wants.sort();
            wants.dedup();
            let odd = node.shown.contents.len() > 1
                || node.shown.contents.first().is_some_and(|s| node.shown.sealed_for != Some(s.content.file));
            if wants.is_empty() {
                self.wants.remove(&id);
            } else {
                self.wants.insert(id, wants);
            }
            if odd {
                self.odd.insert(id);
            } else {
                self.odd.remove(&id);
            }
            if !node.records.is_empty() {
                self.nodes.insert(id, node);
            }
        }
        for id in self.tree.take_touched() {
            self.requeue(id);
        }
    }

    // ---- questions

    /// Bodies that records name and that are not here, of the newest versions.
    pub fn wanted(&mut self) -> Vec<Wanted> {
        self.refresh();
        let wanted = self.wants.iter().flat_map(|(node, contents)| {
            let shown = self.disk.get(node).and_then(|d| d.content);
            contents.iter().map(move |content| Wanted {
                node: *node,
                content: *content,
                base: shown.filter(|s| s.lineage == content.lineage),
            })
        });
        let lost = self.damaged_bodies().map(|(node, content)| Wanted { node, content, base: None });
        wanted.chain(lost).collect()
    }

    /// Whether a body must be kept though the tree does not show it: a side of a conflict, a version that others
    /// may still lack the replacement of, or one that has no entry here.
    pub fn needs(&mut self, root: &Root) -> bool {
        self.refresh();
        let nodes = self.by_root.get(root).into_iter().flatten().filter_map(|n| self.nodes.get(n));
        let names = |h: &RecordHash, node: &Node| {
            node.records.get(h).and_then(|r| r.record.content()).is_some_and(|c| c.root == *root)
        };
        let mut nodes = nodes;
        nodes.any(|node| node.tops().iter().any(|h| names(h, node)))
    }

    /// Who wrote a body, as far as records that are held tell.
    pub fn author_of(&self, root: &Root) -> Option<DeviceId> {
        let nodes = self.by_root.get(root).into_iter().flatten().filter_map(|id| self.nodes.get(id));
        let set = |h: &&Held| {
            h.record.live().is_some_and(|l| l.content_from.is_none() && l.content.is_some_and(|c| c.root == *root))
        };
        nodes.flat_map(|node| node.records.values()).filter(set).map(|h| h.author.device).min()
    }

    /// The shares that have a place in this one.
    pub fn junctions(&mut self) -> BTreeSet<ShareId> {
        self.refresh();
        self.junctions.values().copied().collect()
    }

    /// What records of a file say was in it, the living last.
    pub fn contents_of(&self, file: &FileId) -> Vec<Content> {
        let Some(node) = self.by_file.get(file).and_then(|node| self.nodes.get(node)) else { return Vec::new() };
        let all = node.records.values().filter_map(|r| r.record.content()).filter(|c| c.file == *file).copied();
        all.chain(node.shown.contents.first().map(|side| side.content).filter(|c| c.file == *file)).collect()
    }

    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// What lies under it and is not held was forgotten.
    pub fn floor(&self) -> &Heads {
        &self.floor
    }

    pub fn holds(&self, record: &RecordHash) -> bool {
        self.by_hash.contains_key(record)
    }

    /// All records that are held; a snapshot is these and [`Self::heads`].
    pub fn held(&self) -> impl Iterator<Item = RecordHash> + '_ {
        self.by_hash.keys().copied()
    }

    /// As the index kept it, after the records and bodies.
    pub fn load_disk(&mut self, nodes: impl IntoIterator<Item = (NodeId, DiskNode)>) {
        for (id, node) in nodes {
            self.put_disk(id, node);
        }
        self.disk.take_changed();
        self.requeue_all();
    }

    /// What changed of it since the last call, for the index; durable before the next record is handed in, so that
    /// a crash leaves it behind by the last steps at most.
    pub fn take_disk_changes(&mut self) -> Vec<(NodeId, Option<DiskNode>)> {
        self.refresh();
        self.disk.take_changed()
    }

    fn put_disk(&mut self, id: NodeId, node: DiskNode) {
        let before: Vec<Spot> = self.disk.get(&id).map(|d| d.spots().cloned().collect()).unwrap_or_default();
        let is_new = !self.disk.has(&id);
        if self.disk.get(&id).is_some_and(|shown| shown.content != node.content) {
            self.damaged.remove(&id);
        }
        for root in self.disk.put(id, node) {
            if self.disk.has_body(&root) { self.touch_root(&root) } else { self.lost_root(&root) }
        }
        if is_new {
            self.came(&id);
        }
        self.left(&id, before);
    }

    fn remove_disk(&mut self, id: &NodeId) {
        self.damaged.remove(id);
        let before: Vec<Spot> = self.disk.get(id).map(|d| d.spots().cloned().collect()).unwrap_or_default();
        for root in self.disk.remove(id) {
            self.lost_root(&root);
        }
        self.left(id, before);
    }

    pub fn disk_node(&self, node: &NodeId) -> Option<&DiskNode> {
        self.disk.get(node)
    }

    /// What the records say of a file that this disk shows.
    pub fn disk_file(&self, file: &FileId) -> Option<Content> {
        self.disk.get(&self.disk.node_of(file)?)?.content
    }

    pub fn disk_kind(&self, file: &FileId) -> Option<Kind> {
        Some(self.disk.get(&self.disk.node_of(file)?)?.kind)
    }

    /// What the records say is in a directory of this disk (under all of its headers), by store name.
    pub fn disk_folder(&self, node: &NodeId) -> Option<Vec<(StoreName, EntryId)>> {
        self.disk.get(node).filter(|d| d.kind == Kind::Folder)?;
        let headers = self.disk.headers(node);
        let children = headers.iter().flat_map(|h| self.disk.children(h));
        Some(children.filter_map(|(name, n)| Some((name.clone(), self.disk.get(&n)?.id(n)))).collect())
    }

    /// All that this disk shows, for a new index.
    pub fn disk_nodes(&self) -> Vec<(NodeId, Option<DiskNode>)> {
        self.disk.nodes().map(|(node, shown)| (*node, Some(shown.clone()))).collect()
    }

    pub fn has_disk_folder(&self, node: &NodeId) -> bool {
        self.disk.get(node).is_some_and(|d| d.kind == Kind::Folder)
    }

    /// The store names from the share's root down to a folder or file of this disk (its first name).
    pub fn disk_path(&self, node: &NodeId) -> Option<Vec<StoreName>> {
        if *node == self.root {
            return Some(Vec::new());
        }
        self.spot_path(self.disk.get(node)?.spots().next()?)
    }

    /// The names down to a file of this disk that has the body with this root.
    pub fn body_in_tree(&self, root: &Root) -> Option<Vec<StoreName>> {
        let nodes = self.by_root.get(root)?;
        let shows = |node: &&NodeId| {
            let content = self.disk.get(node).and_then(|shown| shown.content);
            content.is_some_and(|c| c.root == *root)
        };
        nodes.iter().find(shows).and_then(|node| self.disk_path(node))
    }

    /// The store names from the share's root down to a spot: where a step finds or puts an entry.
    pub fn spot_path(&self, spot: &Spot) -> Option<Vec<StoreName>> {
        self.disk.path(spot)
    }

    /// Whose file it is, by this disk or by the records.
    pub fn node_of(&self, file: &FileId) -> Option<NodeId> {
        self.disk.node_of(file).or_else(|| self.by_file.get(file).copied())
    }

    pub fn share(&self) -> ShareId {
        self.share
    }

    pub fn me(&self) -> DeviceId {
        self.me
    }

    pub fn can_write(&self) -> bool {
        self.can_write
    }
}
