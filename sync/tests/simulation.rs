//! Universes of devices, each from one seed: edits, renames, folders moved into each other, deletes, swaps, saving by
//! rename, hard links, partitions, transfers that break off, bodies that do not come, crashes, deleted indexes, old
//! backups, a device silent for long, forgetting. When all have met, one tree is on all disks, nothing is lost that
//! nobody overwrote or deleted, and nothing deleted is back.
//!
//! `KITH_UNIVERSES=n` runs more; `KITH_SEED=n KITH_TRACE=1` replays one.

mod sim;

use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Options, universe};

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Seeds from `first`, on two threads: those that went wrong, with the reason, and how many conflicts were settled.
fn run(first: u64, count: u64, options: Options) -> (Vec<(u64, Vec<String>)>, usize) {
    let next = AtomicU64::new(first);
    let work = || {
        let (mut bad, mut conflicts) = (Vec::new(), 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return (bad, conflicts);
            }
            let outcome = std::panic::catch_unwind(|| universe(seed, options));
            match outcome {
                Ok(outcome) => {
                    conflicts += outcome.conflicts;
                    if !outcome.bad.is_empty() {
                        bad.push((seed, outcome.bad));
                    }
                }
                Err(_) => bad.push((seed, vec!["panicked".to_owned()])),
            }
        }
    };
    let (mut bad, mut conflicts) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mine = work();
        for (b, c) in [Some(mine), other.join().ok()].into_iter().flatten() {
            bad.extend(b);
            conflicts += c;
        }
    });
    bad.sort();
    (bad, conflicts)
}

#[test]
fn all_universes_heal() {
    if let Some(seed) = env("KITH_SEED") {
        let outcome = universe(seed, Options::default());
        assert!(outcome.bad.is_empty(), "seed {seed}: {:#?}", outcome.bad);
        return;
    }
    let count = env("KITH_UNIVERSES").unwrap_or(2000);
    let (bad, conflicts) = run(0, count, Options::default());
    let seeds: Vec<u64> = bad.iter().map(|(seed, _)| *seed).collect();
    assert!(bad.is_empty(), "{} of {count} universes went wrong: {seeds:?}\n{:#?}", bad.len(), bad.first());
    assert!(conflicts > 0, "no universe had a conflict: the simulation is too tame");
}
