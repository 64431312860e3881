//! Random operations against a vector of bytes; the root, brought up to date, is always that of the whole file.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::store::Disk;

#[derive(Clone, Debug)]
enum Op {
    Write(u64, u64),
    Truncate(u64),
    Punch(u64, u64),
    Zero(u64, u64, bool),
    Allocate(u64, u64, bool),
    Record,
    Reopen,
    Seek(u64),
    Rekey,
}

/// Offsets near the borders of pages and groups, where the mistakes are.
fn offset() -> impl Strategy<Value = u64> {
    let edges = prop::sample::select(vec![0, 3804, 3804 + 4060, 3804 + 3 * 4060, 3804 + 7 * 4060, 40_000]);
    prop_oneof![(edges, -2i64..3).prop_map(|(edge, off): (u64, i64)| edge.saturating_add_signed(off)), 0u64..60_000]
}

fn len() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..100, 4000u64..4100, 0u64..30_000]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (offset(), len()).prop_map(|(o, l)| Op::Write(o, l)),
        3 => offset().prop_map(Op::Truncate),
        3 => (offset(), len()).prop_map(|(o, l)| Op::Punch(o, l)),
        1 => (offset(), len(), any::<bool>()).prop_map(|(o, l, k)| Op::Zero(o, l, k)),
        1 => (offset(), len(), any::<bool>()).prop_map(|(o, l, k)| Op::Allocate(o, l, k)),
        2 => Just(Op::Record),
        2 => Just(Op::Reopen),
        2 => offset().prop_map(Op::Seek),
        1 => Just(Op::Rekey),
    ]
}

struct Run {
    content: Content,
    keys: ShareKeys,
    model: Vec<u8>,
    record: Option<(Groups, u64)>,
    changed: roots::Changed,
    byte: u8,
}

impl Run {
    fn grow(&mut self, to: u64) {
        self.model.resize(self.model.len().max(to as usize), 0);
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let size = self.model.len();
        let (from, to) = ((offset as usize).min(size), ((offset + len) as usize).min(size));
        self.model[from..to].fill(0);
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Write(offset, len) => {
                self.byte = self.byte % 255 + 1;
                let data: Vec<u8> = (0..len).map(|i| self.byte ^ (i / 1000) as u8).collect();
                self.content.write_at(&data, offset).unwrap();
                if len > 0 {
                    self.grow(offset + len);
                    self.model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
                }
            }
            Op::Truncate(size) => {
                self.content.truncate(size).unwrap();
                self.model.resize(size as usize, 0);
            }
            Op::Punch(offset, len) => {
                self.content.punch(offset, len).unwrap();
                self.zero(offset, len);
            }
            Op::Zero(offset, len, keep) => {
                self.content.zero(offset, len, keep).unwrap();
                if !keep {
                    self.grow(offset + len);
                }
                self.zero(offset, len);
            }
            Op::Allocate(offset, len, keep) => {
                self.content.allocate(offset, len, keep).unwrap();
                if !keep && len > 0 {
                    self.grow(offset + len);
                }
            }
            Op::Record => {
                self.changed.merge(self.content.take_changed());
                let file = self.content.file().clone();
                let before = self.record.take().map(|(groups, _)| groups).unwrap_or_default();
                let (groups, read) = roots::update(file.as_ref(), &before, &self.changed).unwrap();
                prop_assert_eq!(&groups, &Groups::of_bytes(&bytes_of(&file)), "read anew: {:?}", read);
                self.changed = roots::Changed::default();
                self.record = Some((groups, self.content.length()));
            }
            Op::Reopen => {
                self.changed.merge(self.content.take_changed());
                self.content.reload(&self.keys).unwrap();
                if let Some((groups, length)) = &self.record
                    && self.changed.is_empty()
                {
                    self.content.expect(expected(groups, *length)).unwrap();
                }
            }
            Op::Seek(offset) => self.seek(offset)?,
            Op::Rekey => {
                let next = keymgr::ids::Epoch(self.keys.current().0 + 1);
                self.keys.insert(next, Secret32::from_bytes([next.0 as u8; 32]));
                self.content.rekey(&self.keys);
            }
        }
        prop_assert_eq!(self.content.size(), self.model.len() as u64);
        prop_assert!(read(&self.content).unwrap() == self.model, "content after {:?}", op);
        Ok(())
    }

    /// A hole is zeros; between them data begins where it is said to.
    fn seek(&self, offset: u64) -> Result<(), TestCaseError> {
        let size = self.model.len() as u64;
        let data = self.content.seek_data(offset).unwrap();
        let hole = self.content.seek_hole(offset).unwrap();
        prop_assert_eq!(hole.is_none(), offset >= size);
        let until = data.unwrap_or(size);
        prop_assert!(until >= offset.min(size) && hole.is_none_or(|hole| hole >= offset && hole <= size));
        prop_assert!(self.model[offset.min(size) as usize..until as usize].iter().all(|b| *b == 0));
        Ok(())
    }
}

fn run(content: Content, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut run = Run { content, keys: keys(), model: vec![], record: None, changed: Default::default(), byte: 0 };
    run.changed.all();
    for op in ops {
        run.step(op)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_content_is_a_vector_of_bytes(ops in prop::collection::vec(op(), 1..25)) {
        run(create(&SimDisk::new(), "a"), &ops)?;
    }

    #[test]
    fn a_content_on_the_real_disk_is_one_too(ops in prop::collection::vec(op(), 1..25)) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let path = Path::new("a");
        let file = disk.create(path, 0o600).unwrap();
        run(Content::create(file, path, &keys(), FileId::random(), Kind::File, &PLACE).unwrap(), &ops)?;
    }
}

#[test]
fn a_large_write_is_one_run_and_comes_back() {
    let disk = SimDisk::new();
    let mut content = create(&disk, "a");
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    content.write_at(&data, 5).unwrap();
    let mut out = vec![0; data.len()];
    assert_eq!(content.read_at(&mut out, 5).unwrap(), data.len());
    assert!(out == data);
    assert_eq!(content.read_at(&mut out, content.size()).unwrap(), 0);
}

#[test]
fn a_hole_takes_no_room() {
    let disk = SimDisk::new();
    let mut content = create(&disk, "a");
    content.write_at(b"end", 10 << 20).unwrap();
    assert!(content.file().stat().unwrap().blocks <= 16);
    assert_eq!(
        content.seek_data(5000).unwrap(),
        Some(crate::format::length::start(crate::format::length::page_of(10 << 20)))
    );
}

#[test]
fn a_size_that_no_file_can_have_is_refused() {
    let mut content = create(&SimDisk::new(), "a");
    assert!(matches!(content.write_at(b"x", u64::MAX), Err(Error::TooLarge { .. })));
    assert!(matches!(content.truncate(1 << 61), Err(Error::TooLarge { .. })));
    assert_eq!(content.size(), 0);
}

#[test]
fn a_copy_is_the_same_bytes_wherever_it_is_made() {
    let disk = SimDisk::new();
    let mut content = create(&disk, "a");
    content.write_at(b"hello", 100_000).unwrap();
    let copy = |name: &str| {
        let file = disk.create(Path::new(name), 0o600).unwrap();
        crate::content::copy_as(
            content.file().as_ref(),
            file.as_ref(),
            Path::new(name),
            &keys(),
            FileId::from_bytes([9; 16]),
        )
        .unwrap();
        bytes_of(&file)
    };
    assert!(copy("b") == copy("c"));
    let made = open(&disk, "b").unwrap();
    assert_eq!(made.id(), FileId::from_bytes([9; 16]));
    assert!(read(&made).unwrap() == read(&content).unwrap());
}

#[test]
fn a_copy_is_a_file_of_its_own_and_is_not_made_of_what_is_refused() {
    let disk = SimDisk::new();
    let mut content = create(&disk, "a");
    content.write_at(&[5; 50_000], 0).unwrap();
    content.truncate(49_000).unwrap();
    let file = |name: &str| disk.create(Path::new(name), 0o600).unwrap();
    let id = FileId::from_bytes([9; 16]);
    let mut copy = content.copy_to(file("b"), Path::new("b"), &keys(), id, &PLACE).unwrap();
    assert_eq!((copy.id(), copy.header().lineage), (id, content.header().lineage));
    copy.truncate(50_000).unwrap();
    copy.write_at(&[6; 10], 10).unwrap();
    let mut want = vec![5; 49_000];
    want.resize(50_000, 0);
    want[10..20].fill(6);
    assert!(read(&open(&disk, "b").unwrap()).unwrap() == want);
    assert!(read(&content).unwrap() == [5; 49_000]);

    let record = recorded(&content);
    content.file().write_at(&[0; 4096], 8192).unwrap();
    content.expect(record).unwrap();
    assert!(content.copy_to(file("c"), Path::new("c"), &keys(), id, &PLACE).is_err());
}

#[test]
fn pages_of_a_former_share_open_by_the_keys_in_the_header() {
    let disk = SimDisk::new();
    let mut content = create(&disk, "a");
    content.write_at(&[7; 9000], 0).unwrap();
    let share = ShareKeys::new(ShareId::from_bytes([8; 16]), Secret32::from_bytes([9; 32]));
    let former = crate::format::header::Former {
        tag: crate::format::tag::EpochTag::current(&keys()),
        key: keys().page_key(keys().current(), &content.header().lineage).unwrap(),
    };
    let mut header = crate::content::Header::new(&share, content.id(), Kind::File);
    header.lineage = content.header().lineage;
    header.former = vec![former];
    content.file().write_at(&header.seal(&share, &PLACE).unwrap(), 0).unwrap();
    let mut moved = Content::open(content.file().clone(), Path::new("a"), &share).unwrap();
    assert_eq!(read(&moved).unwrap(), [7; 9000]);
    moved.write_at(&[1; 10], 0).unwrap();
    let mut both = vec![7; 9000];
    both[..10].fill(1);
    assert_eq!(read(&moved).unwrap(), both);
    assert!(open(&disk, "a").is_err(), "the former share opens it no more");
}
