//! Kills and power cuts at any step, by the oracle of `models/pages.py`: what was fsynced comes back, and no byte from
//! before a truncation does.
//!
//! All offsets are taken from a list of edges, so that what lies between two of them (a cell) has one value.

use std::collections::BTreeSet;

use super::*;
use crate::format::length::start;
use crate::store::sim::Dice;

/// `None` is past the end.
type Cell = Option<u8>;

struct Run {
    disk: SimDisk,
    dice: Dice,
    edges: Vec<u64>,
    content: Option<Content>,
    /// The cells now, and what a power cut may leave of each.
    now: Vec<Cell>,
    may: Vec<BTreeSet<Cell>>,
    byte: u8,
    log: Vec<String>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut edges: Vec<u64> =
            (0..4).flat_map(|k| [start(k), start(k) + 1, start(k) + 2000, start(k + 1) - 1]).collect();
        edges.push(start(4));
        let disk = SimDisk::new();
        let content = create(&disk, "a");
        content.sync(false).unwrap();
        disk.sync_folder(Path::new("")).unwrap();
        let cells = edges.len() - 1;
        Self {
            disk,
            dice: Dice(seed),
            edges,
            content: Some(content),
            now: vec![None; cells],
            may: vec![BTreeSet::from([None]); cells],
            byte: 0,
            log: vec![],
        }
    }

    fn cells(&self) -> usize {
        self.now.len()
    }

    fn size(&self) -> usize {
        self.now.iter().filter(|cell| cell.is_some()).count()
    }

    fn below(&mut self, n: usize) -> usize {
        self.dice.below(n as u64) as usize
    }

    /// Does one operation; `false` where it was killed.
    fn step(&mut self) -> bool {
        let mut new = self.now.clone();
        let size = self.size();
        let content = self.content.as_mut().unwrap();
        let result = match self.dice.below(9) {
            0..=3 => {
                let from = if self.dice.below(2) == 0 && size < new.len() {
                    size
                } else {
                    self.dice.below(new.len() as u64) as usize
                };
                let to = (from + self.dice.pick(&[1, 2, 4, 5])).min(new.len());
                self.byte += 1;
                let (at, end) = (self.edges[from], self.edges[to]);
                self.log.push(format!("write {at}..{end} of {}", self.byte));
                new.iter_mut().take(from).filter(|cell| cell.is_none()).for_each(|cell| *cell = Some(0));
                new[from..to].fill(Some(self.byte));
                let data = vec![self.byte; (end - at) as usize];
                self.allow(&new);
                self.content.as_mut().unwrap().write_at(&data, at)
            }
            4 | 5 => {
                let to = if self.dice.below(4) == 0 { 0 } else { self.dice.below(new.len() as u64 + 1) as usize };
                self.log.push(format!("truncate {}", self.edges[to]));
                new[to..].fill(None);
                new[..to].iter_mut().filter(|cell| cell.is_none()).for_each(|cell| *cell = Some(0));
                self.allow(&new);
                self.content.as_mut().unwrap().truncate(self.edges[to])
            }
            6 => {
                let from = self.dice.below(new.len() as u64) as usize;
                let to = (from + self.dice.pick(&[1, 4, 8])).min(new.len());
                let (at, end) = (self.edges[from], self.edges[to]);
                self.log.push(format!("punch {at}..{end}"));
                new[from..to].iter_mut().filter(|cell| cell.is_some()).for_each(|cell| *cell = Some(0));
                self.allow(&new);
                self.content.as_mut().unwrap().punch(at, end - at)
            }
            _ => {
                self.log.push("fsync".into());
                let done = content.sync(self.dice.below(2) == 0);
                if done.is_ok() {
                    self.may = new.iter().map(|cell| BTreeSet::from([*cell])).collect();
                }
                done
            }
        };
        match result {
            Ok(()) => {
                self.now = new;
                true
            }
            Err(Error::Io { source, .. }) if source.to_string() == "killed" => {
                self.log.push("(broken off)".into());
                // What the killed operation left in the kernel: each cell as it was or as it becomes.
                let between = self.now.iter().zip(&new).map(|(old, new)| BTreeSet::from([*old, *new])).collect();
                self.look(Some(between));
                false
            }
            Err(other) => panic!("{other}: {:?}", self.log),
        }
    }

    fn allow(&mut self, new: &[Cell]) {
        for (may, cell) in self.may.iter_mut().zip(new) {
            may.insert(*cell);
        }
    }

    /// Ends the process; cuts the power where `killed` does not say what the kernel may hold.
    fn look(&mut self, killed: Option<Vec<BTreeSet<Cell>>>) {
        match &killed {
            None => {
                self.log.push("power cut".into());
                self.disk.power_cut(&mut self.dice);
            }
            Some(_) => {
                self.disk.kill();
                // As a mount does after an unclean end, before anything else (rule `syncmount`).
                self.disk.sync_all().unwrap();
            }
        }
        let allowed = killed.as_ref().unwrap_or(&self.may);
        let content = open(&self.disk, "a").unwrap_or_else(|e| panic!("{e}: {:?}", self.log));
        let bytes = read(&content).unwrap_or_else(|e| panic!("{e}: {:?}", self.log));
        let mut seen = Vec::new();
        for (index, allowed) in allowed.iter().enumerate() {
            let (from, to) = (self.edges[index] as usize, self.edges[index + 1] as usize);
            let piece = &bytes[from.min(bytes.len())..to.min(bytes.len())];
            let cell = piece.first().copied();
            let fits = |cell: Cell| allowed.contains(&cell) || cell == Some(0) && allowed.contains(&None);
            // A cut through a page may leave the old length's part of a cell: each byte by itself must be allowed.
            let whole = piece.len() == to - from;
            assert!(
                piece.iter().all(|b| fits(Some(*b))) && (whole || fits(None)),
                "cell {index} is {cell:?}, allowed {allowed:?}: {:?}",
                self.log
            );
            assert!(piece.iter().all(|b| Some(*b) == cell), "cell {index} is torn: {:?}", self.log);
            seen.push(if whole { cell } else { None });
        }
        // All of it is durable now.
        self.may = seen.iter().map(|cell| BTreeSet::from([*cell])).collect();
        self.now = seen;
        self.content = Some(content);
    }
}

fn run(seed: u64, ops: usize) {
    let mut run = Run::new(seed);
    for _ in 0..ops {
        if run.byte > 250 {
            return;
        }
        match run.below(8) {
            0 => run.look(None),
            1 => {
                let steps = run.dice.pick(&[0, 0, 1, 1, 2, 3, 4, 6]);
                run.disk.kill_after(steps);
                let mut going = true;
                for _ in 0..8 {
                    going = run.step();
                    if !going {
                        break;
                    }
                }
                if going {
                    let same = run.now.iter().map(|cell| BTreeSet::from([*cell])).collect();
                    run.look(Some(same));
                }
                if run.below(2) == 0 {
                    run.look(None);
                }
            }
            _ => {
                assert!(run.step());
            }
        }
        assert_eq!(run.cells(), run.edges.len() - 1);
    }
}

#[test]
fn what_was_fsynced_comes_back_and_nothing_that_was_cut_off() {
    for seed in 0..5000 {
        run(seed, 14);
    }
}

#[test]
fn a_file_that_lost_its_header_is_an_empty_one_and_stays_so() {
    let disk = SimDisk::new();
    let file = disk.create(Path::new("a"), 0o600).unwrap();
    // Pages of before, of which the crash left no header.
    file.set_length(3 * 4096 + 1).unwrap();
    file.write_at(&[9; 4096], 4096).unwrap();
    assert!(matches!(open(&disk, "a"), Err(Error::NoHeader { .. })));
    let mut content = Content::renew(file, Path::new("a"), &keys(), FileId::random(), Kind::File, &PLACE).unwrap();
    assert_eq!(read(&content).unwrap(), b"");
    content.truncate(10_000).unwrap();
    assert_eq!(read(&open(&disk, "a").unwrap()).unwrap(), [0; 10_000]);
}

#[test]
fn only_a_cut_inside_a_page_costs_an_fsync_when_the_file_grows() {
    let disk = SimDisk::new();
    create(&disk, "a").write_at(&[1; 5000], 0).unwrap();
    let syncs = |act: &dyn Fn(&mut Content)| {
        let mut content = open(&disk, "a").unwrap();
        content.sync(false).unwrap();
        let before = disk.syncs();
        act(&mut content);
        disk.syncs() - before
    };
    let append = |content: &mut Content| content.write_at(&[2; 10], content.size()).unwrap();
    assert_eq!(syncs(&append), 0);
    assert_eq!(syncs(&|c| c.write_at(&[3; 10], 4000).unwrap()), 0);
    assert_eq!(syncs(&|c| c.truncate(0).and_then(|()| c.write_at(&[4; 9000], 0)).unwrap()), 0, "saved anew in place");
    assert_eq!(syncs(&|c| c.truncate(crate::format::length::start(2)).unwrap()), 0);
    assert_eq!(syncs(&append), 0);
    assert_eq!(syncs(&|c| c.truncate(5000).unwrap()), 0);
    assert_eq!(syncs(&append), 1);
    assert_eq!(syncs(&append), 0);
}
