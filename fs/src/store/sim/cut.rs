//! What a power cut leaves of a simulated disk.
//!
//! Each page and length that was not fsynced is old or new by itself. Names are kept as a journal keeps them (ext4,
//! xfs): all steps up to some moment. Half of the cuts are harsher than any journal and lose each step by itself, as long
//! as what is left is a tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::file::{Node, PAGE, Page};
use super::{Key, SimDisk, State};

const SECTOR: usize = 512;

/// A small generator of numbers, so that a run follows from its seed.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

impl SimDisk {
    /// A disk of its own with all that this one holds, durable or not.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// The power is cut: what was not durable is there or not.
    pub fn power_cut(&self, dice: &mut Dice) {
        self.cut(dice, false);
    }

    /// As [`Self::power_cut`], of a disk that writes 512 bytes at once: a page under overwrite is a mixture.
    pub fn torn_cut(&self, dice: &mut Dice) {
        self.cut(dice, true);
    }

    /// A cut that keeps every step of a folder and no page that was not fsynced.
    pub fn cut_without_pages(&self) {
        self.kill();
        let mut state = self.0.lock();
        let state = &mut *state;
        state.steps.clear();
        state.base = state.names.clone();
        for node in state.nodes.values_mut() {
            node.pages.values_mut().for_each(|versions| versions.truncate(1));
            node.length.truncate(1);
            node.clip();
            node.settle();
        }
    }

    fn cut(&self, dice: &mut Dice, torn: bool) {
        self.kill();
        let mut state = self.0.lock();
        let state = &mut *state;
        // In tenths; the extremes are likely, so that short counterexamples come soon.
        let lean = dice.pick(&[0, 3, 5, 8, 10]);
        let steps = std::mem::take(&mut state.steps);
        let mut names = state.base.clone();
        if dice.below(2) == 0 {
            steps.iter().filter(|_| dice.below(10) < lean).for_each(|step| apply(&mut names, step));
        }
        if !state.is_tree(&names) || names == state.base {
            names = state.base.clone();
            let kept = if dice.below(10) < lean { steps.len() } else { dice.below(steps.len() as u64 + 1) as usize };
            steps.iter().take(kept).for_each(|step| apply(&mut names, step));
        }
        state.names = names.clone();
        state.base = names;
        let mut inos: Vec<u64> = state.nodes.keys().copied().collect();
        inos.sort_unstable();
        for ino in inos {
            let Some(node) = state.nodes.get_mut(&ino) else { continue };
            node.cut(dice, lean, torn);
        }
    }
}

impl State {
    /// Whether each folder has one name.
    fn is_tree(&self, names: &BTreeMap<Key, u64>) -> bool {
        let mut folders = std::collections::HashSet::new();
        names.values().all(|ino| !self.nodes.get(ino).is_some_and(|n| n.folder) || folders.insert(*ino))
    }

    /// A folder's steps become durable, and those before them: a journal has an order.
    pub(super) fn sync_steps(&mut self, folder: u64) {
        let last = self.steps.iter().rposition(|step| step.iter().any(|((parent, _), _)| *parent == folder));
        let Some(last) = last else { return };
        let done: Vec<_> = self.steps.drain(..=last).collect();
        for step in done {
            apply(&mut self.base, &step);
        }
    }
}

impl Node {
    fn cut(&mut self, dice: &mut Dice, lean: u64, torn: bool) {
        let choose = |dice: &mut Dice, count: usize| {
            if dice.below(10) < lean { count - 1 } else { dice.below(count as u64) as usize }
        };
        for versions in self.pages.values_mut() {
            let page = if torn && versions.len() > 1 {
                mixture(versions, |count| choose(dice, count))
            } else {
                versions[choose(dice, versions.len())].clone()
            };
            *versions = vec![page];
        }
        self.length = vec![self.length[choose(dice, self.length.len())]];
        self.clip();
        self.settle();
    }
}

/// Each sector of a page from one of its versions.
fn mixture(versions: &[Page], mut choose: impl FnMut(usize) -> usize) -> Page {
    let mut mixed = [0; PAGE as usize];
    for sector in (0..PAGE as usize).step_by(SECTOR) {
        if let Some(page) = &versions[choose(versions.len())] {
            mixed[sector..sector + SECTOR].copy_from_slice(&page[sector..sector + SECTOR]);
        }
    }
    mixed.iter().any(|b| *b != 0).then(|| Arc::new(mixed))
}

pub(super) fn apply(names: &mut BTreeMap<Key, u64>, step: &[(Key, Option<u64>)]) {
    for (key, ino) in step {
        match ino {
            Some(ino) => names.insert(key.clone(), *ino),
            None => names.remove(key),
        };
    }
}
