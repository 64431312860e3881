//! The logs of signed records on the disk: the truth about the tree. One file for each share and author,
//! `records/SHARE/DEVICE-INCARNATION.log`, appended to, and written anew without what was forgotten (kith-store(5), "Records").
//!
//! A frame is its length (u32, little-endian), the first 8 bytes of the BLAKE3 hash of what follows, then the signed
//! record. What a crash left of a last frame is cut off when the log is opened.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::device::DeviceKeys;
use keymgr::durable;
use keymgr::ids::{DeviceId, RecordHash, ShareId};

use crate::engine::Heads;
use crate::frontier::Frontier;
use crate::record::{Author, MAX_SIGNED, Signed};

const FRONT: usize = 12;
/// A log is read into memory; one that is longer than this is not ours.
const MAX_LOG: u64 = 4 << 30;
/// The end of a log's name while it is written anew.
const ASIDE: &str = ".new";
/// Logs are written anew when this part of them counts no more.
const PART: u64 = 4;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: damaged at byte {at}, with records after it; put the file back from a backup, or let another device bring them", path.display())]
    Damaged { path: PathBuf, at: u64 },
    #[error(transparent)]
    Durable(#[from] durable::Error),
}

/// All logs of a share.
pub struct Logs {
    dir: PathBuf,
    share: ShareId,
    logs: BTreeMap<Author, Log>,
    /// Appended to since the last [`Logs::sync`].
    unsynced: Vec<Author>,
    frontier: Frontier,
}

struct Log {
    path: PathBuf,
    file: File,
    /// Those that count.
    records: Vec<Arc<Signed>>,
    /// Bytes of the frames that count, and of all.
    counts: u64,
    length: u64,
    new: bool,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

impl Logs {
    /// Opens what is there, or begins.
    pub fn open(store: &Path, share: ShareId, me: &DeviceId) -> Result<Self, Error> {
        let dir = store.join("records").join(share.to_string());
        std::fs::create_dir_all(&dir).map_err(at(&dir))?;
        let frontier = Frontier::load(&dir, share, me)?;
        let mut logs = Self { dir: dir.clone(), share, logs: BTreeMap::new(), unsynced: Vec::new(), frontier };
        for entry in std::fs::read_dir(&dir).map_err(at(&dir))? {
            let path = entry.map_err(at(&dir))?.path();
            let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
            if name.strip_suffix(ASIDE).and_then(author_of).is_some() {
                // A crash left it; the log itself is whole.
                std::fs::remove_file(&path).map_err(at(&path))?;
                continue;
            }
            let Some(author) = author_of(name) else { continue };
            let log = Log::open(path, author, &logs.frontier.gone)?;
            logs.logs.insert(author, log);
        }
        Ok(logs)
    }

    /// What is read back before the records: how far they go, and what was forgotten.
    pub fn frontier(&self) -> &Frontier {
        &self.frontier
    }

    /// All records: each author's in the order of its log.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Signed>> {
        self.logs.values().flat_map(|log| &log.records)
    }

    /// All records, by author, number and hash: what a snapshot is made of.
    pub fn snapshot(&self) -> Vec<Arc<Signed>> {
        let mut all: Vec<Arc<Signed>> = self.records().cloned().collect();
        all.sort_by_key(|r| (r.entry().author, r.entry().number, r.hash()));
        all
    }

    /// Whether the record is in its author's log, or was seen and forgotten.
    pub fn holds(&self, author: &Author, number: u64, hash: &RecordHash) -> bool {
        let seen = self.frontier.heads.get(author);
        if seen.is_some_and(|h| h.number > number || (h.number == number && h.hash == *hash)) {
            return true;
        }
        let Some(log) = self.logs.get(author) else { return false };
        log.records.iter().rev().any(|r| r.entry().number == number && r.hash() == *hash)
    }

    /// Drops records for good: first it is durable that they do not count, then they are taken out of the logs, now or
    /// when enough has gathered. `next`: the frontier as of now; what is gone already is added.
    pub fn forget(&mut self, keys: &DeviceKeys, mut next: Frontier, records: &[RecordHash]) -> Result<(), Error> {
        // The heads say that what lies under them was durable.
        self.sync()?;
        next.gone.extend(self.frontier.gone.iter().chain(records));
        next.save(&self.dir, self.share, keys)?;
        self.frontier = next;
        let gone: HashSet<RecordHash> = records.iter().copied().collect();
        for log in self.logs.values_mut() {
            log.drop_records(&gone);
        }
        let (counts, length) =
            self.logs.values().fold((0, 0), |(counts, length), log| (counts + log.counts, length + log.length));
        if length.saturating_sub(counts) * PART >= length && length > counts {
            while self.write_anew(keys)? {}
        }
        Ok(())
    }

    /// One log written anew, or the end of it all; after each a crash may come. Whether there is more to do.
    fn write_anew(&mut self, keys: &DeviceKeys) -> Result<bool, Error> {
        let stale = |(_, log): &(&Author, &mut Log)| log.counts < log.length;
        if let Some((author, log)) = self.logs.iter_mut().find(stale) {
            if !log.records.is_empty() {
                log.write_anew()?;
                return Ok(true);
            }
            std::fs::remove_file(&log.path).map_err(at(&log.path))?;
            let author = *author;
            self.logs.remove(&author);
            return Ok(true);
        }
        if self.frontier.gone.is_empty() {
            return Ok(false);
        }
        // No log has them any more, durably; only then may it be forgotten that they are gone.
        File::open(&self.dir).and_then(|d| d.sync_all()).map_err(at(&self.dir))?;
        let next = Frontier { gone: HashSet::new(), ..self.frontier.clone() };
        next.save(&self.dir, self.share, keys)?;
        self.frontier = next;
        Ok(false)
    }

    /// Not durable before [`Self::sync`].
    pub fn append(&mut self, record: Arc<Signed>) -> Result<(), Error> {
        let author = record.entry().author;
        let log = match self.logs.entry(author) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let path = self.dir.join(name_of(&author));
                let file = options().create_new(true).open(&path).map_err(at(&path))?;
                free.insert(Log { path, file, records: Vec::new(), counts: 0, length: 0, new: true })
            }
        };
        log.append(record)?;
        self.unsynced.push(author);
        Ok(())
    }

    /// Makes what was appended durable; a record may be sent only then.
    pub fn sync(&mut self) -> Result<(), Error> {
        let mut names = false;
        self.unsynced.sort_unstable();
        self.unsynced.dedup();
        for author in std::mem::take(&mut self.unsynced) {
            let Some(log) = self.logs.get_mut(&author) else { continue };
            log.file.sync_data().map_err(at(&log.path))?;
            names |= std::mem::take(&mut log.new);
        }
        if names {
            File::open(&self.dir).and_then(|d| d.sync_all()).map_err(at(&self.dir))?;
        }
        Ok(())
    }

    /// What a peer with these heads lacks, at most about `bytes` of it; of each author up to the first gap: what lies
    /// beyond counts at no peer before a snapshot has told what the gap was.
    pub fn since(&self, heads: &Heads, bytes: usize) -> Vec<Arc<Signed>> {
        let (mut out, mut size) = (Vec::new(), 0);
        for (author, log) in &self.logs {
            let mut last = heads.number(author);
            let start = log.records.partition_point(|r| r.entry().number <= last);
            for record in log.records.iter().skip(start) {
                let number = record.entry().number;
                if number > last.saturating_add(1) {
                    break;
                }
                last = number;
                if size >= bytes {
                    return out;
                }
                size += record.bytes().len();
                out.push(record.clone());
            }
        }
        out
    }
}

impl Log {
    fn open(path: PathBuf, author: Author, gone: &HashSet<RecordHash>) -> Result<Self, Error> {
        let mut file = options().open(&path).map_err(at(&path))?;
        let length = file.metadata().map_err(at(&path))?.len();
        if length > MAX_LOG {
            return Err(Error::Damaged { path, at: MAX_LOG });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at(&path))?;
        let (mut records, mut good, mut counts) = (Vec::new(), 0, 0);
        while let Some((record, end)) = frame(&bytes, good) {
            if record.entry().author != author {
                return Err(Error::Damaged { path, at: good as u64 });
            }
            if !gone.contains(&record.hash()) {
                records.push(Arc::new(record));
                counts += (end - good) as u64;
            }
            good = end;
        }
        if good < bytes.len() {
            // A crash leaves a torn last frame. Whole frames after a bad one are no crash's work.
            if (good + 1..bytes.len()).any(|i| frame(&bytes, i).is_some()) {
                return Err(Error::Damaged { path, at: good as u64 });
            }
            file.set_len(good as u64).and_then(|()| file.sync_all()).map_err(at(&path))?;
        }
        Ok(Self { path, file, records, counts, length: good as u64, new: false })
    }

    fn drop_records(&mut self, gone: &HashSet<RecordHash>) {
        self.records.retain(|r| !gone.contains(&r.hash()));
        self.counts = self.records.iter().map(|r| (FRONT + r.bytes().len()) as u64).sum();
    }

    /// Written anew with what counts: aside, durable, then in the place of the old one.
    fn write_anew(&mut self) -> Result<(), Error> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(ASIDE);
        let aside = PathBuf::from(aside);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let mut file = io::BufWriter::new(options.open(&aside).map_err(at(&aside))?);
        let written = self.records.iter().try_for_each(|record| file.write_all(&framed(record.bytes())));
        let synced = written.and_then(|()| file.flush()).and_then(|()| file.get_ref().sync_all());
        if let Err(e) = synced {
            let _ = std::fs::remove_file(&aside);
            return Err(at(&aside)(e));
        }
        std::fs::rename(&aside, &self.path).map_err(at(&self.path))?;
        self.file = self::options().open(&self.path).map_err(at(&self.path))?;
        self.length = self.counts;
        // Its name is new: the folder is synced with the next record.
        self.new = true;
        Ok(())
    }

    fn append(&mut self, record: Arc<Signed>) -> Result<(), Error> {
        let out = framed(record.bytes());
        let before = self.file.metadata().map_err(at(&self.path))?.len();
        if let Err(e) = self.file.write_all(&out) {
            // A full disk: what was written of the frame must not stand in the way of the next one.
            let _ = self.file.set_len(before);
            return Err(at(&self.path)(e));
        }
        self.records.push(record);
        self.counts += out.len() as u64;
        self.length += out.len() as u64;
        Ok(())
    }
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRONT + bytes.len());
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    out.extend_from_slice(bytes);
    out
}

/// The record that begins at `start`, and where it ends.
fn frame(bytes: &[u8], start: usize) -> Option<(Signed, usize)> {
    let front = bytes.get(start..start + FRONT)?;
    let (len, sum) = front.split_at(4);
    let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
    if len > MAX_SIGNED {
        return None;
    }
    let end = start + FRONT + len;
    let body = bytes.get(start + FRONT..end)?;
    if blake3::hash(body).as_bytes().get(..8) != Some(sum) {
        return None;
    }
    Some((Signed::parse(body).ok()?, end))
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options
}

fn name_of(author: &Author) -> String {
    format!("{}-{}.log", author.device, author.incarnation)
}

fn author_of(name: &str) -> Option<Author> {
    let (device, incarnation) = name.strip_suffix(".log")?.split_once('-')?;
    Some(Author { device: device.parse().ok()?, incarnation: incarnation.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use keymgr::device::DeviceKeys;
    use keymgr::ids::{Incarnation, NodeId};

    use super::*;
    use crate::record::{Kind, Live, Record, State};

    fn share() -> ShareId {
        ShareId::from_bytes([1; 16])
    }

    fn keys() -> &'static DeviceKeys {
        static KEYS: OnceLock<DeviceKeys> = OnceLock::new();
        KEYS.get_or_init(DeviceKeys::generate)
    }

    fn signed(number: u64, previous: Option<RecordHash>) -> Arc<Signed> {
        let live = Live {
            places: vec![],
            places_from: None,
            content: None,
            content_from: None,
            attrs: vec![number as u8],
            attrs_from: None,
        };
        let record = Record {
            share: share(),
            node: NodeId::root_of(share()),
            kind: Kind::Folder,
            replaces: vec![],
            state: State::Live(live),
            together: None,
        };
        Arc::new(Signed::sign(keys(), Incarnation::from_bytes([3; 8]), number, previous, 1, record).unwrap())
    }

    #[test]
    fn a_torn_last_frame_is_cut_off_and_damage_in_the_middle_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = signed(1, None);
        let second = signed(2, Some(first.hash()));
        let mut logs = Logs::open(dir.path(), share(), &keys().id()).unwrap();
        logs.append(first.clone()).unwrap();
        logs.append(second.clone()).unwrap();
        logs.sync().unwrap();
        let path = logs.logs.values().next().unwrap().path.clone();
        let bytes = std::fs::read(&path).unwrap();
        let border = FRONT + first.bytes().len();
        for cut in [border + 1, border + FRONT, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let logs = Logs::open(dir.path(), share(), &keys().id()).unwrap();
            assert_eq!(logs.records().map(|r| r.hash()).collect::<Vec<_>>(), [first.hash()], "{cut}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), border as u64);
        }
        let mut bad = bytes.clone();
        bad[FRONT + 3] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(Logs::open(dir.path(), share(), &keys().id()), Err(Error::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bad, "damage is left as it is");
    }

    /// Two authors: one replaced what the other wrote, and both records are forgotten.
    fn forgotten() -> (tempfile::TempDir, Logs, Vec<RecordHash>) {
        let dir = tempfile::tempdir().unwrap();
        let mut logs = Logs::open(dir.path(), share(), &keys().id()).unwrap();
        let (mut previous, mut all) = (None, Vec::new());
        for number in 1..=8 {
            let record = signed(number, previous);
            previous = Some(record.hash());
            all.push(record.hash());
            logs.append(record).unwrap();
        }
        let other = DeviceKeys::generate();
        let record = signed(1, None).entry().record.clone();
        let one = Signed::sign(&other, Incarnation::from_bytes([9; 8]), 1, None, 1, record).unwrap();
        all.push(one.hash());
        logs.append(Arc::new(one)).unwrap();
        logs.sync().unwrap();
        (dir, logs, all)
    }

    fn heads_of(logs: &Logs) -> Heads {
        let mut heads = logs.frontier().heads.clone();
        for record in logs.records() {
            let e = record.entry();
            heads.raise(e.author, crate::engine::Head { number: e.number, hash: e.hash });
        }
        heads
    }

    #[test]
    fn a_crash_at_any_step_of_forgetting_leaves_the_same_records_and_heads() {
        // The last of one author and all of the other are forgotten: their heads are known all the same.
        let gone = |all: &[RecordHash]| [&all[..3], &all[7..]].concat();
        let (_, logs, _) = forgotten();
        let steps = logs.logs.len() + 1;
        for crash in 0..=steps {
            let (dir, mut logs, all) = forgotten();
            let (heads, before) = (heads_of(&logs), logs.logs.keys().copied().collect::<Vec<_>>());
            logs.frontier = Frontier { heads: heads.clone(), gone: gone(&all).into_iter().collect(), ..logs.frontier };
            logs.frontier.save(&logs.dir, logs.share, keys()).unwrap();
            let dropped: HashSet<RecordHash> = gone(&all).into_iter().collect();
            logs.logs.values_mut().for_each(|log| log.drop_records(&dropped));
            for _ in 0..crash {
                logs.write_anew(keys()).unwrap();
            }
            // The next one was being written aside.
            std::fs::write(logs.dir.join(format!("{}{ASIDE}", name_of(&before[0]))), b"half").unwrap();
            drop(logs);
            let logs = Logs::open(dir.path(), share(), &keys().id()).unwrap();
            let left: HashSet<RecordHash> = logs.records().map(|r| r.hash()).collect();
            assert_eq!(left, all[3..7].iter().copied().collect(), "after {crash}");
            assert_eq!(heads_of(&logs), heads, "after {crash}");
            let names = std::fs::read_dir(&logs.dir).unwrap().flatten().map(|e| e.file_name());
            assert!(!names.into_iter().any(|n| n.to_string_lossy().ends_with(ASIDE)));
            if crash == steps {
                assert_eq!(logs.logs.len(), 1, "a log without records is none");
                assert!(logs.frontier.gone.is_empty(), "nothing has to be skipped any more");
            }
        }
    }

    #[test]
    fn what_was_forgotten_is_still_a_head_of_the_mark_and_logs_shrink() {
        let (dir, mut logs, all) = forgotten();
        let heads = heads_of(&logs);
        let author = *heads.iter().find(|(_, h)| h.number == 8).unwrap().0;
        let before: u64 = logs.logs.values().map(|l| l.length).sum();
        logs.forget(keys(), Frontier { heads, ..Frontier::default() }, &all[..8]).unwrap();
        assert!(logs.holds(&author, 8, &all[7]), "the head");
        assert!(logs.holds(&author, 5, &all[4]), "an older mark's head");
        assert!(!logs.holds(&author, 8, &all[6]) && !logs.holds(&author, 9, &all[7]));
        drop(logs);
        let logs = Logs::open(dir.path(), share(), &keys().id()).unwrap();
        let after: u64 = logs.logs.values().map(|l| l.length).sum();
        assert!(after < before / 2, "{before} and {after}");
        assert!(logs.holds(&author, 8, &all[7]));
        assert_eq!(logs.since(&Heads::default(), usize::MAX).len(), 1);
    }

    #[test]
    fn what_a_peer_lacks_is_what_lies_over_its_heads() {
        let dir = tempfile::tempdir().unwrap();
        let first = signed(1, None);
        let second = signed(2, Some(first.hash()));
        let mut logs = Logs::open(dir.path(), share(), &keys().id()).unwrap();
        logs.append(first.clone()).unwrap();
        logs.append(second.clone()).unwrap();
        assert_eq!(logs.since(&Heads::default(), usize::MAX).len(), 2);
        assert_eq!(logs.since(&Heads::default(), 1).len(), 1);
        let mut heads = Heads::default();
        heads.raise(first.entry().author, crate::engine::Head { number: 1, hash: first.hash() });
        assert_eq!(logs.since(&heads, usize::MAX)[0].hash(), second.hash());
    }
}
