//! How far a device has read each author's log: what it has seen, whatever it still holds of that.

use std::collections::{BTreeMap, BTreeSet};

use keymgr::ids::{DeviceId, RecordHash};
use serde::{Deserialize, Serialize};

use crate::record::Author;

/// For each author the number and hash of the last record seen; everything before it was seen too.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Heads(BTreeMap<Author, Head>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    pub number: u64,
    pub hash: RecordHash,
}

impl Heads {
    pub fn get(&self, author: &Author) -> Option<&Head> {
        self.0.get(author)
    }

    pub fn number(&self, author: &Author) -> u64 {
        self.0.get(author).map_or(0, |head| head.number)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Author, &Head)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether record `number` of `author` lies under this.
    pub fn covers(&self, author: &Author, number: u64) -> bool {
        self.number(author) >= number
    }

    /// Whether all that `other` has seen was seen here.
    /// But for authors of these devices.
    pub fn covers_all_but(&self, other: &Heads, not: &BTreeSet<DeviceId>) -> bool {
        other.0.iter().all(|(author, head)| not.contains(&author.device) || self.covers(author, head.number))
    }

    pub fn covers_all(&self, other: &Heads) -> bool {
        other.0.iter().all(|(author, head)| self.covers(author, head.number))
    }

    pub fn raise(&mut self, author: Author, head: Head) {
        if self.number(&author) < head.number {
            self.0.insert(author, head);
        }
    }

    pub fn merge(&mut self, other: &Heads) {
        for (author, head) in &other.0 {
            self.raise(*author, *head);
        }
    }

    /// What both have seen.
    pub fn meet(&self, other: &Heads) -> Heads {
        let both = self.0.iter().filter_map(|(author, mine)| {
            let theirs = other.0.get(author)?;
            Some((*author, if theirs.number < mine.number { *theirs } else { *mine }))
        });
        Heads(both.collect())
    }
}

impl FromIterator<(Author, Head)> for Heads {
    fn from_iter<T: IntoIterator<Item = (Author, Head)>>(iter: T) -> Self {
        Heads(iter.into_iter().collect())
    }
}
