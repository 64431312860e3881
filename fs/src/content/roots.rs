//! Roots: what changed since the record, the new root from that, and the check of what the disk shows against the record.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use keymgr::ids::Root;
use keymgr::root::{self, GROUP, Groups};
use parking_lot::Mutex;

use super::read::Raw;
use super::{Content, Error};
use crate::format::PAGE;
use crate::store::File;

/// Which groups of a ciphertext differ from its record, as far as we changed them. May say too much, never too little.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changed {
    groups: BTreeSet<u32>,
    /// All groups from this one on: the length changed.
    from: Option<u32>,
}

impl Changed {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.from.is_none()
    }

    /// Everything.
    pub fn all(&mut self) {
        self.groups.clear();
        self.from = Some(0);
    }

    /// Also what `other` says.
    pub fn merge(&mut self, other: Changed) {
        if let Some(from) = other.from {
            self.starting_at(from);
        }
        self.groups.extend(other.groups);
    }

    /// Also these groups: those that were on the session's list when it ended uncleanly.
    pub fn add(&mut self, groups: impl IntoIterator<Item = u32>) {
        self.groups.extend(groups);
    }

    /// The groups that have changed, of a ciphertext that is `length` long now; ascending.
    pub fn list(&self, length: u64) -> Vec<u32> {
        let count = u32::try_from(root::count(length)).unwrap_or(u32::MAX);
        let from = self.from.unwrap_or(count).min(count);
        self.groups.iter().copied().filter(|g| *g < from).chain(from..count).collect()
    }

    /// Also all groups from the last one of a ciphertext that was so long: its length is another now.
    pub fn add_from(&mut self, length: u64) {
        self.length(length);
    }

    pub(super) fn pages(&mut self, pages: Range<u64>) {
        let group = |page: u64| u32::try_from(page / PER_GROUP).unwrap_or(u32::MAX);
        if pages.end > pages.start {
            let (first, last) = (group(pages.start), group(pages.end - 1));
            // What lies past `from` is counted already: an append goes on without a set that grows with it.
            let last = self.from.map_or(Some(last), |from| from.checked_sub(1).map(|before| last.min(before)));
            if let Some(last) = last {
                self.groups.extend(first..=last);
            }
        }
    }

    /// The length changed, and was or is no less than `least`.
    pub(super) fn length(&mut self, least: u64) {
        self.starting_at(u32::try_from(least.saturating_sub(1) / GROUP).unwrap_or(u32::MAX));
    }

    fn starting_at(&mut self, from: u32) {
        self.from = Some(self.from.map_or(from, |old| old.min(from)));
    }
}

const PER_GROUP: u64 = GROUP / PAGE as u64;
/// How many groups are read from the disk at once.
const AT_ONCE: usize = 64;

/// The groups of a whole ciphertext, read from the disk.
pub fn whole(file: &dyn File) -> io::Result<Groups> {
    let mut all = Changed::default();
    all.all();
    Ok(update(file, &Groups::default(), &all)?.0)
}

/// The groups of a ciphertext of which `recorded` were recorded and `changed` are different by now, and the list of
/// those read anew. What did not change is not read.
pub fn update(file: &dyn File, recorded: &Groups, changed: &Changed) -> io::Result<(Groups, Vec<u32>)> {
    let length = file.length()?;
    let mut groups = recorded.clone();
    groups.truncate(root::count(length));
    let mut list = changed.list(length);
    if groups.len() < root::count(length) && changed.from.is_none_or(|from| from as usize > groups.len()) {
        // What was recorded is shorter than what did not change: nothing of it can be relied on.
        let mut all = Changed::default();
        all.all();
        list = all.list(length);
    }
    let mut buf = Vec::new();
    for run in list.chunk_by(|a, b| a + 1 == *b) {
        for piece in run.chunks(AT_ONCE) {
            let Some(first) = piece.first() else { continue };
            let at = u64::from(*first) * GROUP;
            let len = (length.saturating_sub(at)).min(piece.len() as u64 * GROUP) as usize;
            buf.clear();
            buf.resize(len, 0);
            file.read_at(&mut buf, at)?;
            for (n, index) in piece.iter().enumerate() {
                let from = n * GROUP as usize;
                let bytes = buf.get_mut(from..(from + GROUP as usize).min(len)).unwrap_or_default();
                groups.set(*index as usize, value(*index, length, bytes));
            }
        }
    }
    Ok((groups, list))
}

/// The chaining value of a group; the locator is zeroed here.
fn value(index: u32, length: u64, bytes: &mut [u8]) -> [u8; 32] {
    if index == 0 {
        root::zero_locator(bytes);
    }
    root::of_group(index as usize, length, bytes)
}

/// What the record says of a ciphertext, and what after an unclean end may differ from it.
#[derive(Clone, Debug)]
pub struct Expected {
    pub length: u64,
    pub root: Root,
    /// Without them the whole file is read before its first use.
    pub groups: Option<Groups>,
    /// Where it was on the session's list: the groups of it that may differ, and with them the length.
    pub loose: Option<BTreeSet<u32>>,
}

/// What is still to be verified.
pub(super) struct Guard {
    expected: Expected,
    groups: Option<Groups>,
    seen: Seen,
}

/// A bit for each group; those past its end were not recorded.
struct Seen(Vec<bool>);

/// Groups that must be verified together, as a range of bytes of the ciphertext.
pub(super) struct Unseen(Range<u32>);

impl Unseen {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn start(&self) -> u64 {
        u64::from(self.0.start) * GROUP
    }

    pub fn end(&self) -> u64 {
        u64::from(self.0.end) * GROUP
    }
}

impl Guard {
    /// From the first to the last group in a range of bytes that was not verified yet.
    pub fn unseen(&self, from: u64, to: u64) -> Unseen {
        let all = self.seen.0.len() as u64;
        let (first, last) = (from / GROUP, to.div_ceil(GROUP).min(all));
        let open = |g: &u64| self.seen.0.get(*g as usize) == Some(&false);
        let Some(low) = (first..last).find(open) else { return Unseen(0..0) };
        let high = (low..last).rev().find(open).unwrap_or(low);
        Unseen(u32::try_from(low).unwrap_or(u32::MAX)..u32::try_from(high + 1).unwrap_or(u32::MAX))
    }

    /// Verifies groups of which `raw` holds all bytes.
    pub fn check(&mut self, content: &Content, groups: Unseen, raw: &Raw) -> Result<(), Error> {
        if self.groups.is_none() {
            let now = whole(content.file.as_ref()).map_err(|e| content.io(e))?;
            if now.root() != self.expected.root {
                return Err(content.differs(None));
            }
            self.seen.0.fill(true);
            self.groups = Some(now);
            return Ok(());
        }
        for index in groups.0 {
            if self.seen.0.get(index as usize) != Some(&false) {
                continue;
            }
            let at = u64::from(index) * GROUP;
            let len = self.expected.length.saturating_sub(at).min(GROUP) as usize;
            let from = (at - raw.from) as usize;
            let bytes = raw.bytes.get(from..from + len).unwrap_or_default();
            let value = match index {
                0 => value(index, self.expected.length, &mut bytes.to_vec()),
                _ => root::of_group(index as usize, self.expected.length, bytes),
            };
            if self.groups.as_ref().and_then(|all| all.get(index as usize)) != Some(&value) {
                return Err(content.differs(Some(index)));
            }
            if let Some(seen) = self.seen.0.get_mut(index as usize) {
                *seen = true;
            }
        }
        Ok(())
    }
}

impl Content {
    /// From now on nothing is read or changed that differs from the record. A length that differs is refused at once.
    pub fn expect(&mut self, expected: Expected) -> Result<(), Error> {
        let loose = expected.loose.as_ref();
        if loose.is_none() && expected.length != self.length {
            return Err(self.differs(None));
        }
        let count = root::count(expected.length);
        if let Some(groups) = &expected.groups
            && (groups.len() != count || groups.root() != expected.root)
        {
            // Not the file's fault: what was kept of the groups is not of this root. All is read instead.
            return self.expect(Expected { groups: None, ..expected });
        }
        // Where only the root is known, a file that may differ in part cannot be told from one that differs elsewhere.
        let blind = expected.groups.is_none();
        let is_loose = |loose: &BTreeSet<u32>, g: usize| blind || u32::try_from(g).is_ok_and(|g| loose.contains(&g));
        let seen = (0..count).map(|g| loose.is_some_and(|loose| is_loose(loose, g)));
        let guard = Guard { seen: Seen(seen.collect()), groups: expected.groups.clone(), expected };
        self.guard = Some(Mutex::new(guard));
        Ok(())
    }

    /// What it shows now is right, whatever the record says.
    pub fn expect_nothing(&mut self) {
        self.guard = None;
    }

    /// Verifies those groups, where they were not yet: before a change is put on the session's list.
    pub fn verify(&self, groups: Range<u32>) -> Result<(), Error> {
        if self.guard.is_none() {
            return Ok(());
        }
        // In steps: a truncation of a large file touches all that follows.
        let end = u64::from(groups.end).min(self.recorded_groups());
        let mut at = u64::from(groups.start);
        while at < end {
            let next = (at + 64).min(end);
            self.load(at * GROUP, next * GROUP)?;
            at = next;
        }
        Ok(())
    }

    /// Verifies everything that was not yet.
    pub fn verify_all(&self) -> Result<(), Error> {
        self.verify(0..u32::MAX)
    }

    fn recorded_groups(&self) -> u64 {
        self.guard.as_ref().map_or(0, |guard| guard.lock().seen.0.len() as u64)
    }

    fn differs(&self, group: Option<u32>) -> Error {
        Error::Differs { path: self.path.clone(), group }
    }
}
