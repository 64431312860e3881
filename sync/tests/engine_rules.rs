//! Single rules of the engine on two devices, each by the smallest story that needs it.

use keymgr::ids::{
    DeviceId, Epoch, FileId, Incarnation, LineageId, Locator, NodeId, RecordHash, Root, ShareId, StoreName,
};
use sync::engine::{
    Counting, Done, Engine, EntryId, Observation, ObservedEntry, ObservedFile, ObservedFolder, Rules, Step, Taken,
    Unsettled,
};
use sync::record::{Author, Entry, Kind, Record};

struct Device {
    engine: Engine,
    author: Author,
    log: Vec<Entry>,
}

fn share() -> ShareId {
    ShareId::from_bytes([1; 16])
}

fn root() -> NodeId {
    NodeId::root_of(share())
}

fn file(id: u8, version: u8) -> ObservedFile {
    ObservedFile {
        file: FileId::from_bytes([id; 16]),
        kind: Kind::File,
        epoch: Epoch::FIRST,
        lineage: LineageId::from_bytes([id; 16]),
        length: 4097,
        root: Root::from_bytes([version; 32]),
        attrs: vec![version],
    }
}

fn listing(entries: &[(&str, u8)]) -> Vec<ObservedFolder> {
    let entry = |(name, id): &(&str, u8)| ObservedEntry {
        name: StoreName::parse(name).unwrap(),
        under: root(),
        id: EntryId::File(FileId::from_bytes([*id; 16])),
        locator: Locator::from_bytes([*id; 16]),
    };
    vec![ObservedFolder { node: root(), also: vec![], entries: entries.iter().map(entry).collect(), attrs: vec![] }]
}

impl Device {
    fn new(n: u8, rules: Rules) -> Self {
        let id = DeviceId::from_bytes([n; 32]);
        let author = Author { device: id, incarnation: Incarnation::from_bytes([n; 8]) };
        Self { engine: Engine::with_rules(share(), id, true, rules), author, log: Vec::new() }
    }

    fn sign(&mut self, drafts: Vec<Record>) -> Vec<Record> {
        for record in &drafts {
            record.check().unwrap();
            let head = self.engine.heads().get(&self.author).copied();
            let number = head.map_or(1, |h| h.number + 1);
            let previous = head.map(|h| h.hash);
            let bytes = postcard::to_stdvec(&(self.author, number, record)).unwrap();
            let hash = RecordHash::from_bytes(*blake3::hash(&bytes).as_bytes());
            let entry = Entry { hash, author: self.author, number, previous, record: record.clone() };
            self.engine.handle_record(entry.clone());
            self.log.push(entry);
        }
        drafts
    }

    fn does(&mut self, names: &[(&str, u8)], files: Vec<ObservedFile>) -> Vec<Record> {
        let drafts = self.engine.author(&Observation { folders: listing(names), files });
        self.sign(drafts)
    }

    fn takes(&mut self, other: &Device, bodies: bool) {
        for entry in &other.log {
            if let Some(content) = entry.record.content().filter(|_| bodies) {
                self.engine.handle_body(content.root);
            }
            self.engine.handle_record(entry.clone());
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some((id, step)) = self.engine.poll_step() {
            self.engine.handle_done(id, Done::Made { attrs: None });
            steps.push(step);
        }
        steps
    }

    fn names(&self) -> Vec<(String, u8)> {
        let all = self.engine.disk_folder(&root()).unwrap();
        let id = |id: EntryId| match id {
            EntryId::File(file) => file.as_bytes()[0],
            EntryId::Folder(node) => node.as_bytes()[0],
        };
        all.into_iter().map(|(name, entry)| (name.to_string(), id(entry))).collect()
    }
}

fn two(rules: Rules) -> (Device, Device) {
    (Device::new(10, rules), Device::new(20, rules))
}

#[test]
fn saving_by_rename_keeps_the_node_and_costs_no_conflict_with_a_rename_elsewhere() {
    for saved in [true, false] {
        let (mut a, mut b) = two(Rules { saved, ..Rules::default() });
        let first = a.does(&[("doc", 1)], vec![file(1, 1)]);
        b.takes(&a, true);
        b.steps();
        b.does(&[("renamed", 1)], vec![]);
        let second = a.does(&[("doc", 2)], vec![file(2, 2)]);
        assert_eq!(second[0].node == first[0].node, saved);
        a.takes(&b, true);
        a.steps();
        // With the rule: one file, the new content under the new name. Without: what was saved and what was renamed.
        assert_eq!(a.names().len(), if saved { 1 } else { 2 }, "{:?}", a.names());
        if saved {
            assert_eq!(a.names()[0], ("renamed".to_owned(), 2));
            let seal = a.engine.unsettled();
            assert!(matches!(seal.as_slice(), [Unsettled::Seal { .. }]), "its locator is made anew: {seal:?}");
        }
    }
}

#[test]
fn a_published_file_carries_its_node_over_the_name_of_another() {
    let (mut a, _) = two(Rules::default());
    let made = a.does(&[("one", 1), ("two", 2)], vec![file(1, 1), file(2, 2)]);
    let node = |id: u8| made.iter().find(|r| r.content().unwrap().file == FileId::from_bytes([id; 16])).unwrap().node;
    let over = a.does(&[("two", 1)], vec![]);
    assert_eq!(over.iter().map(|r| (r.node, r.is_dead())).collect::<Vec<_>>(), [(node(1), false), (node(2), true)]);
    assert!(over.iter().all(|r| r.together.is_some()), "all or none");
}

#[test]
fn of_a_rename_over_half_a_group_shows_nothing() {
    for together in [true, false] {
        let (mut a, mut b) = two(Rules { together, ..Rules::default() });
        a.does(&[("one", 1), ("two", 2)], vec![file(1, 1), file(2, 2)]);
        b.takes(&a, true);
        b.steps();
        let over = a.does(&[("two", 1)], vec![]);
        assert_eq!(over.len(), 2);
        let first = a.log[2].clone();
        b.engine.handle_record(first);
        b.steps();
        let whole = [("one".to_owned(), 1), ("two".to_owned(), 2)];
        assert_eq!(b.names() == whole, together, "{:?}", b.names());
        b.takes(&a, true);
        b.steps();
        assert_eq!(b.names(), [("two".to_owned(), 1)]);
    }
}

#[test]
fn a_swap_of_names_moves_one_aside_and_back() {
    let (mut a, mut b) = two(Rules::default());
    a.does(&[("one", 1), ("two", 2)], vec![file(1, 1), file(2, 2)]);
    b.takes(&a, true);
    b.steps();
    a.does(&[("one", 2), ("two", 1)], vec![]);
    b.takes(&a, true);
    assert_eq!(b.steps().len(), 3);
    assert_eq!(b.names(), [("one".to_owned(), 2), ("two".to_owned(), 1)]);
}

#[test]
fn the_newest_version_with_a_body_is_shown_and_an_edit_of_it_is_a_conflict_with_what_was_not_seen() {
    let (mut a, mut b) = two(Rules::default());
    a.does(&[("doc", 1)], vec![file(1, 1)]);
    b.takes(&a, true);
    b.steps();
    a.does(&[("doc", 1)], vec![file(1, 2)]);
    b.takes(&a, false);
    assert!(b.steps().is_empty(), "the new body is not here");
    assert_eq!(b.engine.wanted().len(), 1);
    let mine = b.does(&[("doc", 1)], vec![file(1, 3)]);
    assert_eq!(mine.len(), 1);
    b.takes(&a, true);
    let conflict = b.engine.conflicts();
    assert_eq!(conflict.len(), 1, "both sides stand: {conflict:?}");
}

#[test]
fn numbers_order_transport_only() {
    let (mut a, mut b) = two(Rules::default());
    a.does(&[("doc", 1)], vec![file(1, 1)]);
    let mut raised = a.log[0].clone();
    raised.number = u64::MAX;
    raised.hash = RecordHash::from_bytes([9; 32]);
    assert_eq!(b.engine.handle_record(raised), Taken::Early { expected: 1 });
    assert_eq!(b.engine.handle_record(a.log[0].clone()), Taken::New);
    assert_eq!(b.engine.handle_record(a.log[0].clone()), Taken::Known);
    // A record that says it replaces what its author cannot name changes nothing of what is there.
    let mut claim = a.log[0].clone();
    claim.number = 2;
    claim.previous = Some(claim.hash);
    claim.hash = RecordHash::from_bytes([8; 32]);
    claim.record.replaces = vec![RecordHash::from_bytes([7; 32])];
    b.engine.handle_body(Root::from_bytes([1; 32]));
    assert_eq!(b.engine.handle_record(claim), Taken::New);
    b.steps();
    assert_eq!(b.names(), [("doc".to_owned(), 1)]);
    let mut fork = a.log[0].clone();
    fork.number = 2;
    fork.hash = RecordHash::from_bytes([6; 32]);
    assert_eq!(b.engine.handle_record(fork), Taken::Fork);
}

#[test]
fn a_reader_never_authors() {
    let mut reader = Engine::new(share(), DeviceId::from_bytes([3; 32]), false);
    assert!(reader.author(&Observation { folders: listing(&[("doc", 1)]), files: vec![file(1, 1)] }).is_empty());
}

/// Renamed, promised, and killed before the rename was recorded, with an index that does not know the file yet: fs tells
/// of the new name, and it stays. A rename by another device, which no step has done yet, is not undone by that.
#[test]
fn after_an_unclean_end_a_rename_that_was_not_recorded_is_and_one_that_was_not_done_is_not_undone() {
    let (mut a, mut b) = two(Rules::default());
    a.does(&[("tmp", 1), ("other", 2)], vec![file(1, 1), file(2, 2)]);
    b.takes(&a, true);
    b.steps();
    assert_eq!(b.does(&[("tmp", 1), ("renamed-by-b", 2)], vec![]).len(), 1);

    let mut again = Device::new(10, Rules::default());
    for entry in a.log.iter().chain(&b.log) {
        again.engine.handle_held(entry.clone());
    }
    let on_disk = [("doc", 1), ("other", 2)];
    again.engine.adopt(&Observation { folders: listing(&on_disk), files: vec![file(1, 1), file(2, 2)] });
    let made = again.does(&on_disk, vec![]);
    let names: Vec<_> = made.iter().map(|r| r.places()[0].name.to_string()).collect();
    assert_eq!(names, ["doc"], "{made:#?}");
    again.steps();
    assert_eq!(again.names(), [("doc".to_owned(), 1), ("renamed-by-b".to_owned(), 2)]);
}

/// Two devices give one share a place, each with a header of its own, apart from each other.
#[test]
fn a_share_has_one_junction_and_no_conflict() {
    let junction = |version: u8| ObservedFile { kind: Kind::Share, ..file(9, version) };
    let (mut a, mut b) = two(Rules::default());
    a.does(&[("Photos", 9)], vec![junction(1)]);
    b.does(&[("Pictures", 9)], vec![junction(2)]);
    // What a step replaces lies beside the tree.
    for device in [&mut a, &mut b] {
        [1, 2].into_iter().for_each(|n| device.engine.handle_body(Root::from_bytes([n; 32])));
    }
    a.takes(&b, true);
    b.takes(&a, true);
    a.steps();
    b.steps();
    assert_eq!(a.names(), b.names());
    assert_eq!(a.names().len(), 1);
    let seals = |d: &mut Device| d.engine.unsettled().iter().all(|u| matches!(u, Unsettled::Seal { .. }));
    assert!(a.engine.conflicts().is_empty() && seals(&mut a) && seals(&mut b));
    let id = ShareId::from_bytes([9; 16]);
    assert_eq!(a.engine.junctions(), [id].into());
    let name = a.names()[0].0.clone();
    // Left: it is gone; a file that takes its name is another node.
    let left = a.does(&[(&name, 3)], vec![file(3, 3)]);
    assert_eq!(left.len(), 2);
    assert!(left.iter().any(|r| r.is_dead() && r.kind == Kind::Share));
    assert!(a.engine.junctions().is_empty());
    b.takes(&a, true);
    b.steps();
    assert!(b.engine.junctions().is_empty());
}

/// B took A's edit before A was removed, C learned of the removal first. What B then says anew is the same for both.
#[test]
fn what_a_removed_writer_had_done_is_said_anew_by_who_accepted_it() {
    let ((mut a, mut b), mut c) = (two(Rules::default()), Device::new(30, Rules::default()));
    b.does(&[("doc", 1), ("gone", 2)], vec![file(1, 1), file(2, 2)]);
    for device in [&mut a, &mut c] {
        device.takes(&b, true);
        device.steps();
    }
    // An edit, a delete, a new file, and on the edit B builds another.
    a.does(&[("doc", 1), ("new", 3)], vec![file(1, 4), file(3, 3)]);
    b.takes(&a, true);
    b.steps();
    let moved = b.does(&[("named", 1), ("new", 3)], vec![]);
    assert_eq!(moved.len(), 1);
    let id = |d: &Device| d.author.device;
    let (gone, seats) = (id(&a), [id(&c)]);
    let counts = |device: &DeviceId| *device != gone;
    let who = Counting { counts: &counts, seats: &seats, before: &[] };
    b.engine.handle_peer_heads(id(&c), &b.engine.heads().clone());
    assert!(b.engine.anew(&who).0.is_empty(), "all who stay have it");
    b.engine.handle_peer_gone(&id(&c));
    b.engine.handle_peer_heads(id(&c), c.engine.heads());
    let (drafts, more) = b.engine.anew(&who);
    assert_eq!((drafts.len(), more), (3, false));
    b.sign(drafts);
    assert!(b.engine.anew(&who).0.is_empty(), "once");
    b.steps();
    c.takes(&b, true);
    c.steps();
    assert_eq!(b.names(), c.names());
    assert_eq!(c.names(), [("named".to_owned(), 1), ("new".to_owned(), 3)]);
    assert!(c.engine.conflicts().is_empty() && b.engine.conflicts().is_empty());
}

#[test]
fn what_was_refused_stays_until_its_body_is_here_again_and_no_older_version_takes_its_place() {
    let (mut a, mut b) = two(Rules::default());
    a.does(&[("doc", 1)], vec![file(1, 1)]);
    a.does(&[("doc", 1)], vec![file(1, 2)]);
    b.takes(&a, true);
    b.steps();
    let (old, new) = (Root::from_bytes([1; 32]), Root::from_bytes([2; 32]));
    b.engine.handle_body_gone(new); // it is in the tree; the old one is in versions
    assert!(b.engine.wanted().is_empty());
    let node = b.engine.node_of(&FileId::from_bytes([1; 16])).unwrap();
    b.engine.handle_damaged(&node, false);
    assert!(b.steps().is_empty() && b.engine.is_damaged(&node));
    assert_eq!(b.engine.wanted().iter().map(|w| w.content.root).collect::<Vec<_>>(), [new]);
    b.engine.handle_body(old);
    assert!(b.steps().is_empty(), "an older version is none");
    b.engine.handle_body(new);
    let steps = b.steps();
    assert!(matches!(steps.as_slice(), [Step::HealFile { content, .. }] if content.root == new), "{steps:?}");
    assert!(!b.engine.is_damaged(&node) && b.names() == [("doc".to_owned(), 1)]);
    // Another version that comes heals too.
    b.engine.handle_body_gone(new);
    b.engine.handle_damaged(&node, false);
    a.does(&[("doc", 1)], vec![file(1, 3)]);
    b.takes(&a, true);
    let steps = b.steps();
    assert!(matches!(steps.last(), Some(Step::Replace { .. } | Step::HealFile { .. })), "{steps:?}");
    assert!(!b.engine.is_damaged(&node) && b.engine.wanted().is_empty());
}
