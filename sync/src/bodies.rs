//! Bodies beside the tree, by their roots: `incoming/` while they come and until they are put into the tree,
//! `versions/` after they were replaced or deleted (kith-store(5), "Bodies").
//!
//! A body is written group by group, each verified first; a body that is whole was verified whole. The locator is
//! zero in it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use keymgr::ids::Root;
use keymgr::root::{self, GROUP, Groups};
use parking_lot::Mutex;

use crate::engine::Spot;
use crate::scan::Signature;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("what came is not what the record says")]
    Wrong,
}

/// How long a replaced or deleted body is kept.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);
/// A body that is in line is at most this long.
pub const SMALL: u64 = 64 * 1024;

pub struct Bodies {
    incoming: PathBuf,
    versions: PathBuf,
    quarantine: PathBuf,
    /// Chaining values of bodies that were whole here, so that a delta needs no reading.
    groups: Mutex<Known>,
    /// The disk had no room for what came.
    full: AtomicBool,
    /// What went to quarantine and was not told yet.
    damage: Mutex<Vec<PathBuf>>,
    /// How files of the tree looked that were read, and whether they were the body with this root.
    read: Mutex<HashMap<Root, (Signature, bool)>>,
    /// Files of the tree that are to be read while file operations go on, and the roots that they should have.
    unread: Mutex<Vec<(Spot, PathBuf, Root)>>,
    /// Files of the tree that are not what their records say, as far as can be told without a key.
    suspects: Mutex<Vec<Spot>>,
}

/// Chaining values at hand, and how many in all: a bound on memory, not a policy, since what is dropped is read again.
#[derive(Default)]
struct Known {
    groups: HashMap<Root, Groups>,
    values: usize,
}

/// 64 MiB of chaining values; one body's may be more.
const MAX_VALUES: usize = 2 << 20;
const MAX_KNOWN: usize = 10_000;

impl Known {
    fn insert(&mut self, root: Root, groups: Groups) {
        if self.groups.len() >= MAX_KNOWN || self.values.saturating_add(groups.len()) > MAX_VALUES {
            *self = Self::default();
        }
        self.values += groups.len();
        let old = self.groups.insert(root, groups);
        self.values -= old.map_or(0, |old| old.len());
    }

    fn get(&self, root: &Root) -> Option<&Groups> {
        self.groups.get(root)
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_owned(), source }
}

impl Bodies {
    pub fn open(store: &Path) -> Result<Self, Error> {
        let dirs = ["incoming", "versions", "quarantine"].map(|sub| store.join(sub));
        for dir in &dirs {
            std::fs::create_dir_all(dir).map_err(at(dir))?;
        }
        let [incoming, versions, quarantine] = dirs;
        let bodies = Self {
            incoming,
            versions,
            quarantine,
            groups: Mutex::default(),
            full: AtomicBool::new(false),
            damage: Mutex::default(),
            read: Mutex::default(),
            unread: Mutex::default(),
            suspects: Mutex::default(),
        };
        // Bodies come without an fsync, since a step makes them durable: what a power cut left of them is not theirs.
        for entry in std::fs::read_dir(&bodies.incoming).map_err(at(&bodies.incoming))?.flatten() {
            let name = entry.file_name();
            let root = name.to_str().and_then(|n| n.strip_suffix(".body")).and_then(|n| n.parse::<Root>().ok());
            if root.is_some_and(|root| groups_of_file(&entry.path()).is_ok_and(|g| g.root() == root)) {
                continue;
            }
            if !name.to_str().is_some_and(|n| n.ends_with(".part")) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(bodies)
    }

    /// Roots of all bodies that are whole beside the tree.
    pub fn roots(&self) -> Vec<Root> {
        let mut out = Vec::new();
        for dir in [&self.incoming, &self.versions] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                out.extend(name.to_str().and_then(|n| n.strip_suffix(".body")).and_then(|n| n.parse::<Root>().ok()));
            }
        }
        out
    }

    /// Where the body with this root is whole beside the tree.
    pub fn whole(&self, root: &Root) -> Option<PathBuf> {
        [&self.incoming, &self.versions].into_iter().map(|d| d.join(name(root))).find(|p| p.exists())
    }

    /// A body that came in line.
    pub fn put(&self, root: &Root, bytes: &[u8]) -> Result<(), Error> {
        let groups = Groups::of_bytes(bytes);
        if groups.root() != *root {
            return Err(Error::Wrong);
        }
        // Two may bring the same body at once.
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (aside, path) = (self.incoming.join(format!("{root}-{number}.put")), self.incoming.join(name(root)));
        let file = create(&aside).map_err(at(&aside))?;
        let mut bytes = bytes.to_vec();
        root::zero_locator(&mut bytes);
        // Cut to nothing first: zeros are left out below, and nothing that was there may show through.
        file.set_len(0).and_then(|()| file.set_len(bytes.len() as u64)).map_err(at(&aside))?;
        write_sparse(&file, &bytes, 0).map_err(at(&aside))?;
        std::fs::rename(&aside, &path).map_err(at(&path))?;
        self.groups.lock().insert(*root, groups);
        Ok(())
    }

    /// Begins a body that comes in groups, or goes on where it stopped.
    pub fn begin(&self, root: &Root, length: u64, groups: Groups) -> Result<Partial, Error> {
        if groups.root() != *root || groups.len() != root::count(length) {
            return Err(Error::Wrong);
        }
        let path = self.incoming.join(format!("{root}.part"));
        let resume = path.exists();
        let file = create(&path).map_err(at(&path))?;
        file.set_len(length).map_err(at(&path))?;
        let mut partial = Partial { root: *root, length, have: vec![false; groups.len()], groups, file, path };
        if resume {
            for index in 0..partial.have.len() {
                let bytes = partial.read(index).map_err(at(&partial.path))?;
                partial.have[index] = partial.fits(index, &bytes);
                if !partial.have[index] {
                    // Groups are written without their zeros: what is left of another try must not show through.
                    partial.punch(index).map_err(at(&partial.path))?;
                }
            }
        }
        Ok(partial)
    }

    /// Makes a body whole that has all its groups.
    pub fn finish(&self, partial: Partial) -> Result<(), Error> {
        if partial.missing().next().is_some() {
            return Err(Error::Wrong);
        }
        let path = self.incoming.join(name(&partial.root));
        std::fs::rename(&partial.path, &path).map_err(at(&path))?;
        self.groups.lock().insert(partial.root, partial.groups);
        Ok(())
    }

    /// The chaining values of a body that lies at `path`, or are known.
    pub fn groups_of(&self, root: &Root, path: &Path) -> Result<Groups, Error> {
        if let Some(groups) = self.groups.lock().get(root) {
            return Ok(groups.clone());
        }
        let groups = groups_of_file(path).map_err(at(path))?;
        if groups.root() != *root {
            return Err(Error::Wrong);
        }
        self.remember(*root, groups.clone());
        Ok(groups)
    }

    /// The same of a body that is open.
    pub fn groups_of_body(&self, root: &Root, body: &File) -> Result<Groups, Error> {
        if let Some(groups) = self.groups.lock().get(root) {
            return Ok(groups.clone());
        }
        let groups = groups_of_open(body).map_err(at(&self.incoming))?;
        if groups.root() != *root {
            return Err(Error::Wrong);
        }
        self.remember(*root, groups.clone());
        Ok(groups)
    }

    /// Takes over a file that is whole, with its chaining values.
    pub fn adopt(&self, path: &Path, groups: Groups) -> Result<Root, Error> {
        let root = groups.root();
        let to = self.incoming.join(name(&root));
        std::fs::rename(path, &to).map_err(at(&to))?;
        self.remember(root, groups);
        Ok(root)
    }

    /// Takes over a file that was found in the wrong place, with the right bytes.
    pub fn adopt_found(&self, path: &Path, root: &Root) -> Result<(), Error> {
        let to = self.incoming.join(name(root));
        std::fs::rename(path, &to).map_err(at(&to))
    }

    /// Moves what cannot be verified to quarantine, where it stays.
    pub fn quarantine(&self, path: &Path, what: &str) -> Result<(), Error> {
        let to = self.quarantine_path(what);
        std::fs::rename(path, &to).map_err(at(&to))?;
        self.damaged(to);
        Ok(())
    }

    /// Whether a file that looks like this is that body; `None`: it was not read since it looks like this.
    pub fn is_body(&self, root: &Root, signature: &Signature) -> Option<bool> {
        self.read.lock().get(root).filter(|(read, _)| read == signature).map(|(_, is)| *is)
    }

    /// Reads a file, unless it was read already as it is.
    pub fn read_body(&self, spot: &Spot, file: &File, root: &Root) -> io::Result<bool> {
        let signature = Signature::of(&file.metadata()?);
        if let Some(is) = self.is_body(root, &signature) {
            return Ok(is);
        }
        let is = groups_of_open(file)?.root() == *root;
        // What changed meanwhile is read again.
        if Signature::of(&file.metadata()?) == signature {
            let mut read = self.read.lock();
            if read.len() > 1000 {
                read.clear();
            }
            read.insert(*root, (signature, is));
            if !is {
                self.suspects.lock().push(spot.clone());
            }
        }
        Ok(is)
    }

    pub fn read_later(&self, spot: Spot, path: PathBuf, root: Root) {
        self.unread.lock().push((spot, path, root));
    }

    /// Reads what was left for later; whether that was something.
    pub fn read_unread(&self) -> bool {
        let unread = std::mem::take(&mut *self.unread.lock());
        let read = |(spot, path, root): &(Spot, PathBuf, Root)| {
            let file = open(path)?;
            self.read_body(spot, &file, root)?;
            let known = self.is_body(root, &Signature::of(&path.symlink_metadata()?));
            Ok::<_, io::Error>(known.is_some())
        };
        unread.iter().filter(|one| read(one).unwrap_or(false)).count() > 0
    }

    /// What was found to be something else, and was not asked for since.
    pub fn take_suspects(&self) -> Vec<Spot> {
        std::mem::take(&mut self.suspects.lock())
    }

    /// Whether what came last found no room on the disk.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// How something ended that needs room. `None`: well.
    pub fn note_room(&self, e: Option<&io::Error>) {
        match e.map(io::Error::raw_os_error) {
            Some(Some(libc::ENOSPC | libc::EDQUOT)) => self.full.store(true, Ordering::Relaxed),
            None => self.full.store(false, Ordering::Relaxed),
            _ => {}
        }
    }

    pub fn damaged(&self, kept_at: PathBuf) {
        self.damage.lock().push(kept_at);
    }

    /// What went to quarantine since this was last asked.
    pub fn take_damage(&self) -> Vec<PathBuf> {
        std::mem::take(&mut self.damage.lock())
    }

    pub fn incoming(&self) -> &Path {
        &self.incoming
    }

    /// The chaining values of a body, where they are at hand.
    pub fn known_groups(&self, root: &Root) -> Option<Groups> {
        self.groups.lock().get(root).cloned()
    }

    /// What fs said of a body that it wrote.
    pub fn remember(&self, root: Root, groups: Groups) {
        self.groups.lock().insert(root, groups);
    }

    /// Where a body that leaves the tree goes.
    pub fn version_path(&self, root: &Root) -> PathBuf {
        self.versions.join(name(root))
    }

    /// A path in quarantine that is free.
    pub fn quarantine_path(&self, what: &str) -> PathBuf {
        (0u32..)
            .map(|i| self.quarantine.join(format!("{what}.{i}")))
            .find(|p| !p.exists())
            .unwrap_or_else(|| self.quarantine.join(what))
    }

    /// Removes versions that nothing needs and that are older than they are kept, and what stopped coming as long ago;
    /// then, until `most` bytes are left, the oldest of whoever has most of them (`by`): nobody pushes out what others
    /// wrote by writing much. The roots of all.
    pub fn thin(
        &self,
        now: SystemTime,
        most: u64,
        needed: impl Fn(&Root) -> bool,
        by: impl Fn(&Root) -> Option<[u8; 32]>,
    ) -> Vec<Root> {
        let mut kept = Vec::new();
        let mut total = 0;
        for (versions, dir) in [(true, &self.versions), (false, &self.incoming)] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let root = name.to_str().and_then(|n| n.rsplit_once('.')?.0.parse::<Root>().ok());
                let Ok(meta) = entry.metadata() else { continue };
                let age = meta.modified().ok().and_then(|t| now.duration_since(t).ok()).unwrap_or_default();
                // What is on its way goes by age only.
                let bytes = if versions { meta.blocks().saturating_mul(512) } else { 0 };
                total += bytes;
                if let Some(root) = root.filter(|root| !needed(root)) {
                    kept.push((age, bytes, versions, root, entry.path()));
                }
            }
        }
        kept.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
        let mut gone = Vec::new();
        // What is left of each, the oldest first, and how much that is.
        let mut whose: BTreeMap<Option<[u8; 32]>, Versions> = BTreeMap::new();
        for (age, bytes, versions, root, path) in kept {
            if age > KEEP {
                if std::fs::remove_file(path).is_ok() {
                    total -= bytes;
                    gone.push(root);
                }
            } else if versions {
                let (sum, all) = whose.entry(by(&root)).or_default();
                *sum += bytes;
                all.push_back((bytes, root, path));
            }
        }
        while total > most {
            let Some((sum, all)) = whose.values_mut().filter(|(_, all)| !all.is_empty()).max_by_key(|(sum, _)| *sum)
            else {
                break;
            };
            let Some((bytes, root, path)) = all.pop_front() else { break };
            *sum -= bytes;
            if std::fs::remove_file(path).is_ok() {
                total -= bytes;
                gone.push(root);
            }
        }
        gone
    }

    /// How many bytes versions may take: a tenth of the disk.
    pub fn most(&self) -> u64 {
        match nix::sys::statvfs::statvfs(&self.versions) {
            Ok(disk) => disk.blocks().saturating_mul(disk.fragment_size()) / 10,
            Err(_) => u64::MAX,
        }
    }
}

/// What one wrote: how many bytes, and which, the oldest first.
type Versions = (u64, VecDeque<(u64, Root, PathBuf)>);

/// A body on its way.
pub struct Partial {
    root: Root,
    length: u64,
    groups: Groups,
    have: Vec<bool>,
    file: File,
    path: PathBuf,
}

impl Partial {
    /// The groups that are not here yet.
    pub fn missing(&self) -> impl Iterator<Item = usize> + '_ {
        self.have.iter().enumerate().filter(|(_, have)| !**have).map(|(i, _)| i)
    }

    /// The range of bytes of a group.
    pub fn range(&self, index: usize) -> std::ops::Range<u64> {
        let start = (index as u64 * GROUP).min(self.length);
        start..(start + GROUP).min(self.length)
    }

    /// A group that came; refused where it is not the record's.
    pub fn put(&mut self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        let range = self.range(index);
        if bytes.len() as u64 != range.end - range.start || !self.fits(index, bytes) {
            return Err(Error::Wrong);
        }
        let mut bytes = bytes.to_vec();
        if index == 0 {
            root::zero_locator(&mut bytes);
        }
        write_sparse(&self.file, &bytes, range.start).map_err(at(&self.path))?;
        if let Some(have) = self.have.get_mut(index) {
            *have = true;
        }
        Ok(())
    }

    /// Takes the groups that another body has already.
    pub fn take_from(&mut self, base: &Path, groups: &Groups) -> Result<(), Error> {
        self.take_from_body(&open(base).map_err(at(base))?, groups);
        Ok(())
    }

    /// The same of one that is open.
    pub fn take_from_body(&mut self, file: &File, groups: &Groups) {
        for index in 0..self.have.len() {
            if self.have[index] || groups.get(index).is_none() || groups.get(index) != self.groups.get(index) {
                continue;
            }
            let range = self.range(index);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            if file.read_exact_at(&mut bytes, range.start).is_ok() {
                // What the base holds may have changed meanwhile: then it is fetched.
                let _ = self.put(index, &bytes);
            }
        }
    }

    fn punch(&self, index: usize) -> io::Result<()> {
        let range = self.range(index);
        if range.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(&vec![0; (range.end - range.start) as usize], range.start)
    }

    fn read(&self, index: usize) -> io::Result<Vec<u8>> {
        let range = self.range(index);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    fn fits(&self, index: usize, bytes: &[u8]) -> bool {
        let mut bytes = bytes.to_vec();
        if index == 0 {
            root::zero_locator(&mut bytes);
        }
        self.groups.get(index) == Some(&root::of_group(index, self.length, &bytes))
    }
}

/// The chaining values of a file on the disk.
pub fn groups_of_file(path: &Path) -> io::Result<Groups> {
    groups_of_open(&open(path)?)
}

/// Opens a body for reading: a regular file, and never what a symlink points at.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

pub fn groups_of_open(file: &File) -> io::Result<Groups> {
    let length = file.metadata()?.len();
    let mut groups = Groups::default();
    for index in 0..root::count(length) {
        let start = index as u64 * GROUP;
        let mut bytes = vec![0; (length.saturating_sub(start)).min(GROUP) as usize];
        file.read_exact_at(&mut bytes, start)?;
        if index == 0 {
            root::zero_locator(&mut bytes);
        }
        groups.set(index, root::of_group(index, length, &bytes));
    }
    Ok(groups)
}

/// Writes what is not zero: holes stay holes, as they were at the author's.
fn write_sparse(file: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    for (i, page) in bytes.chunks(4096).enumerate() {
        let at = start + i as u64 * 4096;
        // The last page may be a piece: what it lacks is a hole too.
        if page.iter().any(|b| *b != 0) {
            file.write_all_at(page, at)?;
        }
    }
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn name(root: &Root) -> String {
    format!("{root}.body")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
        root::zero_locator(&mut bytes);
        bytes
    }

    #[test]
    fn a_body_comes_in_groups_resumes_and_refuses_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(dir.path()).unwrap();
        let bytes = body(70_000);
        let groups = Groups::of_bytes(&bytes);
        let root = groups.root();
        let mut partial = bodies.begin(&root, 70_000, groups.clone()).unwrap();
        let piece = |i: usize| &bytes[i * GROUP as usize..((i + 1) * GROUP as usize).min(bytes.len())];
        partial.put(1, piece(1)).unwrap();
        assert!(matches!(partial.put(2, piece(1)), Err(Error::Wrong)));
        drop(partial);
        let mut partial = bodies.begin(&root, 70_000, groups.clone()).unwrap();
        assert_eq!(partial.missing().collect::<Vec<_>>(), [0, 2, 3, 4]);
        for i in [0, 2, 3, 4] {
            partial.put(i, piece(i)).unwrap();
        }
        bodies.finish(partial).unwrap();
        assert_eq!(std::fs::read(bodies.whole(&root).unwrap()).unwrap(), bytes);
        assert_eq!(bodies.roots(), [root]);
        assert!(matches!(bodies.begin(&root, 90_000, groups), Err(Error::Wrong)));
    }

    #[test]
    fn a_delta_takes_what_the_base_has() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(dir.path()).unwrap();
        let old = body(100_000);
        let mut new = old.clone();
        new[50_000] ^= 1;
        let base = dir.path().join("base");
        std::fs::write(&base, &old).unwrap();
        let groups = Groups::of_bytes(&new);
        let mut partial = bodies.begin(&groups.root(), 100_000, groups).unwrap();
        partial.take_from(&base, &Groups::of_bytes(&old)).unwrap();
        assert_eq!(partial.missing().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_an_earlier_try_left_does_not_show_through() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(dir.path()).unwrap();
        let mut bytes = body(9000);
        bytes[4096..8192].fill(0);
        let root = Groups::of_bytes(&bytes).root();
        std::fs::write(dir.path().join(format!("incoming/{root}.part")), [7; 12_000]).unwrap();
        bodies.put(&root, &bytes).unwrap();
        assert_eq!(std::fs::read(bodies.whole(&root).unwrap()).unwrap(), bytes);
    }

    #[test]
    fn versions_go_by_age_and_by_size_the_oldest_first_and_never_what_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let keep = |n: u8, days: u64| {
            let root = Root::from_bytes([n; 32]);
            std::fs::write(bodies.version_path(&root), vec![n; 4096]).unwrap();
            let file = File::options().write(true).open(bodies.version_path(&root)).unwrap();
            file.set_modified(now - Duration::from_secs(days * 24 * 3600)).unwrap();
            root
        };
        let [old, needed, middle, new] = [(1, 31), (2, 90), (3, 20), (4, 1)].map(|(n, days)| keep(n, days));
        assert_eq!(bodies.thin(now, u64::MAX, |r| *r == needed, |_| None), [old]);
        assert_eq!(bodies.thin(now, 2 * 4096, |r| *r == needed, |_| None), [middle]);
        assert_eq!(bodies.thin(now, 0, |r| *r == needed, |_| None), [new]);
        assert_eq!(bodies.roots(), [needed]);
    }

    #[test]
    fn n12_who_writes_much_pushes_out_its_own_versions_and_not_those_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(dir.path()).unwrap();
        let now = SystemTime::now();
        let keep = |n: u8, hours: u64| {
            let root = Root::from_bytes([n; 32]);
            std::fs::write(bodies.version_path(&root), vec![n; 4096]).unwrap();
            let file = File::options().write(true).open(bodies.version_path(&root)).unwrap();
            file.set_modified(now - Duration::from_secs(hours * 3600)).unwrap();
            root
        };
        // Three of mine, older than the flood.
        let mine: Vec<Root> = (1..4).map(|n| keep(n, 500)).collect();
        let flood: Vec<Root> = (100..200).map(|n| keep(n, u64::from(200 - n))).collect();
        let by = |root: &Root| Some([u8::from(root.as_bytes()[0] >= 100); 32]);
        let gone = bodies.thin(now, 8 * 4096, |_| false, by);
        assert_eq!(gone, flood[..95], "the oldest of the flood");
        assert!(mine.iter().all(|root| bodies.whole(root).is_some()));
    }

    #[test]
    fn a_body_in_line_is_verified() {
        let dir = tempfile::tempdir().unwrap();
        let bodies = Bodies::open(dir.path()).unwrap();
        let bytes = body(5000);
        let root = Groups::of_bytes(&bytes).root();
        assert!(matches!(bodies.put(&root, &body(5001)), Err(Error::Wrong)));
        bodies.put(&root, &bytes).unwrap();
        assert_eq!(std::fs::read(bodies.whole(&root).unwrap()).unwrap(), bytes);
    }
}
