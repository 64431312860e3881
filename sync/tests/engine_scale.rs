//! A folder of ten thousand files and a tree of many nodes: what one change costs must not grow with them. Nothing
//! here is timed; a quadratic engine would take minutes where this takes seconds.

use std::time::Instant;

use keymgr::ids::{
    DeviceId, Epoch, FileId, Incarnation, LineageId, Locator, NodeId, RecordHash, Root, ShareId, StoreName,
};
use sync::engine::{Done, Engine, EntryId, Observation, ObservedEntry, ObservedFile, ObservedFolder};
use sync::record::{Author, Entry, Kind, Record};

const FILES: usize = 10_000;

fn share() -> ShareId {
    ShareId::from_bytes([1; 16])
}

fn id(n: usize) -> [u8; 16] {
    let hash = blake3::hash(&n.to_le_bytes());
    std::array::from_fn(|i| hash.as_bytes()[i])
}

fn file(n: usize, version: u8) -> ObservedFile {
    let file = FileId::from_bytes(id(n));
    let root = Root::from_bytes(*blake3::hash(&[&id(n)[..], &[version]].concat()).as_bytes());
    let lineage = LineageId::from_bytes(id(n));
    ObservedFile { file, kind: Kind::File, epoch: Epoch::FIRST, lineage, length: 4097, root, attrs: vec![version] }
}

fn entry(n: usize) -> ObservedEntry {
    ObservedEntry {
        name: StoreName::parse(&format!("name-{n}")).unwrap(),
        under: NodeId::root_of(share()),
        id: EntryId::File(FileId::from_bytes(id(n))),
        locator: Locator::from_bytes(id(n)),
    }
}

fn sign(engine: &mut Engine, author: Author, drafts: Vec<Record>) -> Vec<Entry> {
    let mut out = Vec::new();
    for record in drafts {
        let head = engine.heads().get(&author).copied();
        let number = head.map_or(1, |h| h.number + 1);
        let previous = head.map(|h| h.hash);
        let bytes = postcard::to_stdvec(&(author, number, &record)).unwrap();
        let hash = RecordHash::from_bytes(*blake3::hash(&bytes).as_bytes());
        let entry = Entry { hash, author, number, previous, record };
        engine.handle_record(entry.clone());
        out.push(entry);
    }
    out
}

fn run_steps(engine: &mut Engine) -> usize {
    let mut steps = 0;
    while let Some((id, _)) = engine.poll_step() {
        engine.handle_done(id, Done::Made { attrs: None });
        steps += 1;
    }
    steps
}

#[test]
fn one_save_among_ten_thousand_files_is_one_step_elsewhere() {
    let device = |n: u8| DeviceId::from_bytes([n; 32]);
    let author = Author { device: device(1), incarnation: Incarnation::from_bytes([0; 8]) };
    let mut a = Engine::new(share(), device(1), true);
    let mut b = Engine::new(share(), device(2), true);

    let began = Instant::now();
    let folder = |entries: Vec<ObservedEntry>| ObservedFolder {
        node: NodeId::root_of(share()),
        also: Vec::new(),
        entries,
        attrs: vec![1],
    };
    let all = Observation {
        folders: vec![folder((0..FILES).map(entry).collect())],
        files: (0..FILES).map(|n| file(n, 1)).collect(),
    };
    let drafts = a.author(&all);
    assert_eq!(drafts.len(), FILES + 1, "each file, and the root's first record");
    let entries = sign(&mut a, author, drafts);
    assert_eq!(run_steps(&mut a), 0, "the author's disk shows it already");
    eprintln!("{FILES} files authored: {:?}", began.elapsed());

    let began = Instant::now();
    for entry in entries {
        b.handle_record(entry);
    }
    assert_eq!(b.wanted().len(), FILES);
    all.files.iter().for_each(|f| b.handle_body(f.root));
    assert_eq!(run_steps(&mut b), FILES + 1);
    assert_eq!(b.disk_folder(&NodeId::root_of(share())).unwrap().len(), FILES);
    eprintln!("and installed: {:?}", began.elapsed());

    let began = Instant::now();
    for version in 2..102 {
        let saved = file(usize::from(version), version);
        let drafts = a.author(&Observation { folders: Vec::new(), files: vec![saved.clone()] });
        assert_eq!(drafts.len(), 1);
        for entry in sign(&mut a, author, drafts) {
            b.handle_record(entry);
        }
        b.handle_body(saved.root);
        assert_eq!(run_steps(&mut b), 1);
    }
    eprintln!("100 saves there and back: {:?}", began.elapsed());

    let began = Instant::now();
    let mut listing = folder((0..FILES).map(entry).collect());
    listing.entries[5000].name = StoreName::parse("another").unwrap();
    let drafts = a.author(&Observation { folders: vec![listing], files: Vec::new() });
    assert_eq!(drafts.len(), 1, "a listing with one rename is one record");
    sign(&mut a, author, drafts);
    eprintln!("one rename in the listing: {:?}", began.elapsed());

    let began = Instant::now();
    let heads = b.heads().clone();
    a.handle_peer_heads(device(2), &heads);
    assert_eq!(a.forget(&[device(1), device(2)]).records.len(), 100, "the versions that were replaced");
    eprintln!("forgetting: {:?}", began.elapsed());
}
