//! By the hand of someone with the disk and no key: ATTACKS S1 to S5, S7.

use super::*;

/// A file of three pages, its ciphertext, and its record.
fn victim(disk: &SimDisk) -> (Content, Vec<u8>, Expected) {
    let mut content = create(disk, "a");
    content.write_at(&[0x55; 9000], 0).unwrap();
    let bytes = bytes_of(content.file());
    let record = recorded(&content);
    (content, bytes, record)
}

fn put(content: &Content, bytes: &[u8]) {
    content.file().set_length(bytes.len() as u64).unwrap();
    content.file().write_at(bytes, 0).unwrap();
}

/// What is read by someone to whom nothing is recorded, then by one who has the record.
fn look(disk: &SimDisk, record: &Expected) -> (Result<Vec<u8>, Error>, Result<Vec<u8>, Error>) {
    let plain = open(disk, "a").and_then(|content| read(&content));
    let checked = open(disk, "a").and_then(|mut content| {
        content.expect(record.clone())?;
        read(&content)
    });
    (plain, checked)
}

#[test]
fn s1_a_flip_of_any_byte_is_refused() {
    let disk = SimDisk::new();
    let (content, bytes, record) = victim(&disk);
    // All bytes of the header and of what stands before each page's payload; of payload and tail a sample.
    let clear = |at: usize| at < 256 + 40 || at % 4096 < 40 || at % 4096 > 4090;
    for at in (0..bytes.len()).filter(|at| !(240..256).contains(at) && (clear(*at) || at % 13 == 0)) {
        content.file().write_at(&[bytes[at] ^ 1], at as u64).unwrap();
        let (plain, checked) = look(&disk, &record);
        // Behind the last page lies only the hole that tells the length: no payload, but part of the record.
        assert!(plain.is_err() || at >= 3 * 4096, "byte {at} without the record");
        assert!(checked.is_err(), "byte {at}");
        content.file().write_at(&bytes[at..=at], at as u64).unwrap();
    }
    assert!(look(&disk, &record).1.is_ok());
}

#[test]
fn s2_zeroed_pages_are_refused_by_the_record() {
    let disk = SimDisk::new();
    let (content, bytes, record) = victim(&disk);
    for (from, to) in [(256, 4096), (4096, 8192), (8192, 12288)] {
        let mut bad = bytes.clone();
        bad[from..to].fill(0);
        put(&content, &bad);
        let (plain, checked) = look(&disk, &record);
        assert!(plain.is_ok(), "a hole proves nothing by itself");
        assert!(matches!(checked, Err(Error::Differs { .. })), "{from}");
        let mut content = open(&disk, "a").unwrap();
        content.expect(record.clone()).unwrap();
        assert!(content.seek_data(0).and(content.seek_data(4500)).is_err(), "a copying tool would skip it: {from}");
    }
}

#[test]
fn s3_s4_pieces_of_two_versions_are_refused_by_the_record() {
    let disk = SimDisk::new();
    let (mut content, old, _) = victim(&disk);
    content.write_at(&[0x66; 9000], 0).unwrap();
    let new = bytes_of(content.file());
    let record = recorded(&content);
    for (from, to) in [(256, 4096), (4096, 8192), (8192, 12288), (256, old.len())] {
        let mut bad = new.clone();
        bad[from..to].copy_from_slice(&old[from..to]);
        put(&content, &bad);
        let (plain, checked) = look(&disk, &record);
        assert!(plain.is_ok(), "an older page proves itself");
        assert!(matches!(checked, Err(Error::Differs { .. })), "{from}");
    }
    // Another header of the same file: what a reseal would leave.
    let mut bad = new.clone();
    bad[..240].copy_from_slice(&content.header().seal(&keys(), &PLACE).unwrap()[..240]);
    put(&content, &bad);
    assert!(matches!(look(&disk, &record).1, Err(Error::Differs { .. })));
    put(&content, &new);
    assert!(look(&disk, &record).1.is_ok());
}

#[test]
fn s5_a_length_that_differs_is_refused() {
    let disk = SimDisk::new();
    let (content, bytes, record) = victim(&disk);
    for length in [4096, 4097, 8192, 8193, 12288, 12289, bytes.len() - 1] {
        put(&content, &bytes[..length]);
        assert!(matches!(look(&disk, &record).1, Err(Error::Differs { .. })), "{length}");
    }
    let longer = [&bytes[..12288], &bytes[4096..8192], &[0; 500]].concat();
    put(&content, &longer);
    let (plain, checked) = look(&disk, &record);
    assert!(plain.is_err() && checked.is_err(), "a page at another's place");
}

#[test]
fn s7_pages_and_headers_of_other_files_are_refused() {
    let disk = SimDisk::new();
    let (content, bytes, record) = victim(&disk);
    let mut other = create(&disk, "b");
    other.write_at(&[0x77; 9000], 0).unwrap();
    let theirs = bytes_of(other.file());
    for (from, to) in [(0, 256), (256, 4096), (4096, 8192)] {
        let mut bad = bytes.clone();
        bad[from..to].copy_from_slice(&theirs[from..to]);
        put(&content, &bad);
        let (plain, checked) = look(&disk, &record);
        assert!(plain.is_err() && checked.is_err(), "{from}");
    }
    // The whole other file: its locator tells, which is looked at by whoever knows the place.
    put(&content, &theirs);
    assert!(look(&disk, &record).1.is_err());
}

#[test]
fn a_group_is_refused_before_it_is_changed() {
    let disk = SimDisk::new();
    let mut content = create(&disk, "a");
    content.write_at(&[1; 200_000], 0).unwrap();
    let record = recorded(&content);
    let mut old = [0; 4096];
    content.file().read_at(&mut old, 40 * 4096).unwrap();
    content.write_at(&[2; 1], 150_000).unwrap();
    let (fresh, groups) = (recorded(&content), content.groups_of_write(150_000, 1));
    drop(record);
    // A page of another group put back by hand.
    content.file().write_at(&[0; 4096], 40 * 4096).unwrap();
    let mut content = open(&disk, "a").unwrap();
    content.expect(fresh).unwrap();
    content.verify(groups).unwrap();
    content.write_at(&[3; 1], 150_000).unwrap();
    let at = 3804 + 39 * 4060;
    assert!(matches!(content.write_at(&[4; 1], at), Err(Error::Differs { group: Some(10), .. })));
    assert!(matches!(content.punch(at, 10), Err(Error::Differs { .. })));
    assert!(matches!(content.truncate(at), Err(Error::Differs { .. })));
    assert!(content.verify_all().is_err());
    content.file().write_at(&old, 40 * 4096).unwrap();
    content.verify_all().unwrap();
}

#[test]
fn what_is_loose_after_a_crash_is_not_refused_and_the_rest_is() {
    let disk = SimDisk::new();
    let mut content = create(&disk, "a");
    content.write_at(&[1; 100_000], 0).unwrap();
    let mut record = recorded(&content);
    let groups = content.groups_of_write(90_000, 20_000);
    content.write_at(&[2; 20_000], 90_000).unwrap();
    record.loose = Some(groups.collect());
    let mut again = open(&disk, "a").unwrap();
    again.expect(record.clone()).unwrap();
    assert_eq!(read(&again).unwrap().len(), 110_000);
    content.file().write_at(&[0; 4096], 2 * 4096).unwrap();
    let mut again = open(&disk, "a").unwrap();
    again.expect(record.clone()).unwrap();
    assert!(matches!(read(&again), Err(Error::Differs { group: Some(0), .. })));
    // Without the groups nothing can be told of a file that may differ in part.
    record.groups = None;
    let mut again = open(&disk, "a").unwrap();
    again.expect(record).unwrap();
    again.verify_all().unwrap();
}

#[test]
fn a_record_without_groups_verifies_the_whole() {
    let disk = SimDisk::new();
    let (content, bytes, mut record) = victim(&disk);
    record.groups = None;
    assert!(look(&disk, &record).1.is_ok());
    let mut bad = bytes;
    bad[8192..12288].fill(0);
    put(&content, &bad);
    assert!(matches!(look(&disk, &record).1, Err(Error::Differs { group: None, .. })));
}

#[test]
fn a_rename_changes_no_root() {
    let disk = SimDisk::new();
    let (mut content, _, record) = victim(&disk);
    content.set_locator(&Locator::from_bytes([7; 16])).unwrap();
    assert_eq!(recorded(&content).root, record.root);
    let again = open(&disk, "a").unwrap();
    assert_eq!(again.locator(), Locator::from_bytes([7; 16]));
    assert!(look(&disk, &record).1.is_ok());
}

#[test]
fn each_change_touches_only_the_groups_that_it_announced() {
    let mut dice = crate::store::sim::Dice(7);
    for _ in 0..300 {
        let disk = SimDisk::new();
        let mut content = create(&disk, "a");
        content.write_at(&vec![1; dice.below(60_000) as usize], 0).unwrap();
        content.truncate(dice.below(70_000)).unwrap();
        let (tail, length) = (content.length() / 4096 * 4096, content.length());
        if dice.below(2) == 0 && tail < length {
            content.file().write_at(&[9], tail + dice.below(length - tail)).unwrap(); // a piece that a crash left
        }
        let before = roots::whole(content.file().as_ref()).unwrap();
        let mut content = open(&disk, "a").unwrap();
        let (offset, len) = (dice.below(60_000), 1 + dice.below(20_000));
        let announced = match dice.below(3) {
            0 => {
                let groups = content.groups_of_write(offset, len);
                content.write_at(&vec![2; len as usize], offset).unwrap();
                groups
            }
            1 => {
                let groups = content.groups_of_write(offset, len.min(content.size().saturating_sub(offset)).max(1));
                content.punch(offset, len).unwrap();
                groups
            }
            _ => {
                let groups = content.groups_of_truncate(offset);
                content.truncate(offset).unwrap();
                groups
            }
        };
        let after = roots::whole(content.file().as_ref()).unwrap();
        let changed = content.changed().list(content.length());
        for index in 0..after.len() {
            let differs = before.get(index) != after.get(index);
            let index = index as u32;
            assert!(
                !differs || announced.contains(&index),
                "group {index} was changed and not announced: {announced:?}"
            );
            assert!(!differs || changed.contains(&index), "group {index} was changed and not counted");
        }
    }
}
