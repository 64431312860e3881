//! The logs of signed records on the disk: the truth about the tree. One file for each share and author,
//! `records/SHARE/DEVICE-INCARNATION.log`, only ever appended to (kith-store(5), "Records").
//!
//! A frame is its length (u32, little-endian), the first 8 bytes of the BLAKE3 hash of what follows, then the signed
//! record. What a crash left of a last frame is cut off when the log is opened.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keymgr::ids::{RecordHash, ShareId};

use crate::engine::Heads;
use crate::record::{Author, MAX_SIGNED, Signed};

const FRONT: usize = 12;
/// A log is read into memory; one that is longer than this is not ours.
const MAX_LOG: u64 = 4 << 30;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: damaged at byte {at}, with records after it; put the file back from a backup, or let another device bring them", path.display())]
    Damaged { path: PathBuf, at: u64 },
}

/// All logs of a share.
pub struct Logs {
    dir: PathBuf,
    logs: BTreeMap<Author, Log>,
    /// Appended to since the last [`Logs::sync`].
    unsynced: Vec<Author>,
}

struct Log {
    path: PathBuf,
    file: File,
    records: Vec<Arc<Signed>>,
    new: bool,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

impl Logs {
    /// Opens what is there, or begins.
    pub fn open(store: &Path, share: ShareId) -> Result<Self, Error> {
        let dir = store.join("records").join(share.to_string());
        std::fs::create_dir_all(&dir).map_err(at(&dir))?;
        let mut logs = Self { dir: dir.clone(), logs: BTreeMap::new(), unsynced: Vec::new() };
        for entry in std::fs::read_dir(&dir).map_err(at(&dir))? {
            let path = entry.map_err(at(&dir))?.path();
            let Some(author) = path.file_name().and_then(|n| n.to_str()).and_then(author_of) else { continue };
            let log = Log::open(path, author)?;
            logs.logs.insert(author, log);
        }
        Ok(logs)
    }

    /// All records: each author's in the order of its log.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Signed>> {
        self.logs.values().flat_map(|log| &log.records)
    }

    /// The last record of an author.
    pub fn last(&self, author: &Author) -> Option<&Arc<Signed>> {
        self.logs.get(author)?.records.last()
    }

    /// Whether the record is in its author's log.
    pub fn holds(&self, author: &Author, number: u64, hash: &RecordHash) -> bool {
        let Some(log) = self.logs.get(author) else { return false };
        log.records.iter().rev().any(|r| r.entry().number == number && r.hash() == *hash)
    }

    /// Not durable before [`Self::sync`].
    pub fn append(&mut self, record: Arc<Signed>) -> Result<(), Error> {
        let author = record.entry().author;
        let log = match self.logs.entry(author) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let path = self.dir.join(name_of(&author));
                let file = options().create_new(true).open(&path).map_err(at(&path))?;
                free.insert(Log { path, file, records: Vec::new(), new: true })
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

    /// What a peer with these heads lacks, at most about `bytes` of it.
    pub fn since(&self, heads: &Heads, bytes: usize) -> Vec<Arc<Signed>> {
        let (mut out, mut size) = (Vec::new(), 0);
        for (author, log) in &self.logs {
            let from = heads.number(author);
            let start = log.records.partition_point(|r| r.entry().number <= from);
            for record in log.records.iter().skip(start) {
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
    fn open(path: PathBuf, author: Author) -> Result<Self, Error> {
        let mut file = options().open(&path).map_err(at(&path))?;
        let length = file.metadata().map_err(at(&path))?.len();
        if length > MAX_LOG {
            return Err(Error::Damaged { path, at: MAX_LOG });
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(at(&path))?;
        let (mut records, mut good) = (Vec::new(), 0);
        while let Some((record, end)) = frame(&bytes, good) {
            if record.entry().author != author {
                return Err(Error::Damaged { path, at: good as u64 });
            }
            records.push(Arc::new(record));
            good = end;
        }
        if good < bytes.len() {
            // A crash leaves a torn last frame. Whole frames after a bad one are no crash's work.
            if (good + 1..bytes.len()).any(|i| frame(&bytes, i).is_some()) {
                return Err(Error::Damaged { path, at: good as u64 });
            }
            file.set_len(good as u64).and_then(|()| file.sync_all()).map_err(at(&path))?;
        }
        Ok(Self { path, file, records, new: false })
    }

    fn append(&mut self, record: Arc<Signed>) -> Result<(), Error> {
        let bytes = record.bytes();
        let mut out = Vec::with_capacity(FRONT + bytes.len());
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
        out.extend_from_slice(bytes);
        let before = self.file.metadata().map_err(at(&self.path))?.len();
        if let Err(e) = self.file.write_all(&out) {
            // A full disk: what was written of the frame must not stand in the way of the next one.
            let _ = self.file.set_len(before);
            return Err(at(&self.path)(e));
        }
        self.records.push(record);
        Ok(())
    }
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
        let mut logs = Logs::open(dir.path(), share()).unwrap();
        logs.append(first.clone()).unwrap();
        logs.append(second.clone()).unwrap();
        logs.sync().unwrap();
        let path = logs.logs.values().next().unwrap().path.clone();
        let bytes = std::fs::read(&path).unwrap();
        let border = FRONT + first.bytes().len();
        for cut in [border + 1, border + FRONT, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let logs = Logs::open(dir.path(), share()).unwrap();
            assert_eq!(logs.records().map(|r| r.hash()).collect::<Vec<_>>(), [first.hash()], "{cut}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), border as u64);
        }
        let mut bad = bytes.clone();
        bad[FRONT + 3] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(matches!(Logs::open(dir.path(), share()), Err(Error::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bad, "damage is left as it is");
    }

    #[test]
    fn what_a_peer_lacks_is_what_lies_over_its_heads() {
        let dir = tempfile::tempdir().unwrap();
        let first = signed(1, None);
        let second = signed(2, Some(first.hash()));
        let mut logs = Logs::open(dir.path(), share()).unwrap();
        logs.append(first.clone()).unwrap();
        logs.append(second.clone()).unwrap();
        assert_eq!(logs.since(&Heads::default(), usize::MAX).len(), 2);
        assert_eq!(logs.since(&Heads::default(), 1).len(), 1);
        let mut heads = Heads::default();
        heads.raise(first.entry().author, crate::engine::Head { number: 1, hash: first.hash() });
        assert_eq!(logs.since(&heads, usize::MAX)[0].hash(), second.hash());
    }
}
