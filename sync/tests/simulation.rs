//! Universes of devices, each from one seed: edits, renames, folders moved into each other, deletes, swaps, saving by
//! rename, hard links, partitions, transfers that break off, bodies that do not come, crashes, deleted indexes, old
//! backups, a device silent for long, forgetting; accounts that come, may less or more, and go. When all have met, one tree is on all disks, nothing is lost that
//! nobody overwrote or deleted, and nothing deleted is back.
//!
//! `KITH_UNIVERSES=n` runs more; `KITH_SEED=n KITH_TRACE=1` replays one.

mod sim;

use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Options, universe};
use sync::engine::Rules;

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

/// Accounts that are let in, may less or more, and are removed; devices of theirs that write what they may not. All who
/// stay agree, no change of who never might write counts, nothing that counts is lost, nor what a writer had accepted.
#[test]
fn all_who_stay_agree_and_nobody_else_counts() {
    let options = Options { people: true, ..Options::default() };
    if let Some(seed) = env("KITH_SEED") {
        let outcome = universe(seed, options);
        assert!(outcome.bad.is_empty(), "seed {seed}: {:#?}", outcome.bad);
        return;
    }
    let count = env("KITH_UNIVERSES").unwrap_or(2000);
    let (bad, conflicts) = run(0, count, options);
    let seeds: Vec<u64> = bad.iter().map(|(seed, _)| *seed).collect();
    assert!(
        bad.is_empty(),
        "{} of {count} universes went wrong: {seeds:?}\n{:#?}",
        bad.len(),
        bad.iter().take(12).map(|(s, b)| (s, b.first())).collect::<Vec<_>>()
    );
    assert!(conflicts > 0, "no universe had a conflict: the simulation is too tame");
}

#[test]
fn what_was_accepted_of_a_removed_writer_and_is_not_said_anew_parts_those_who_stay() {
    assert!(goes_wrong(0, Options { people: true, anew: false, ..Options::default() }, &["lost", "differs"]));
}

/// Without a rule some universe goes wrong, with one of `kinds` in its outcome. `hint`: where to begin the search.
fn goes_wrong(hint: u64, options: Options, kinds: &[&str]) -> bool {
    let mut first = hint;
    while first < hint + 4000 {
        let (bad, _) = run(first, 50, options);
        if let Some((seed, bad)) = bad.iter().find(|(_, bad)| bad.iter().any(|b| kinds.iter().any(|k| b.contains(k)))) {
            eprintln!("seed {seed}: {bad:?}");
            return true;
        }
        first += 50;
    }
    false
}

fn without(off: impl FnOnce(&mut Rules)) -> Options {
    let mut options = Options::default();
    off(&mut options.rules);
    options
}

#[test]
fn an_edit_in_a_conflict_that_replaces_the_other_side_loses_it() {
    assert!(goes_wrong(1000, without(|r| r.dot = false), &["lost"]));
}

#[test]
fn a_folder_hidden_by_its_tombstone_hides_what_lives_in_it() {
    assert!(goes_wrong(0, without(|r| r.adddel = false), &["lost"]));
}

#[test]
fn a_cycle_that_is_not_cut_hangs_nowhere() {
    assert!(goes_wrong(2100, without(|r| r.cycle = false), &["lost", "differs"]));
}

#[test]
fn a_delete_that_beats_what_it_had_not_seen_loses_it() {
    assert!(goes_wrong(0, without(|r| r.delseen = false), &["lost"]));
}

#[test]
fn without_the_frontier_what_was_forgotten_comes_back() {
    assert!(goes_wrong(0, without(|r| r.frontier = false), &["back", "differs", "rest"]));
}

#[test]
fn a_record_without_its_body_cannot_be_shown() {
    assert!(goes_wrong(0, without(|r| r.bodies = false), &["panicked", "lost"]));
}

#[test]
fn records_named_by_author_and_number_lose_what_a_restored_backup_writes() {
    assert!(goes_wrong(2300, Options { branch: false, ..Options::default() }, &["lost", "differs"]));
}

#[test]
fn fields_that_do_not_merge_apart_make_more_conflicts() {
    let (_, with) = run(0, 200, Options::default());
    let (_, off) = run(0, 200, without(|r| r.fields = false));
    assert!(off > with + with / 4, "{with} conflicts with the rule, {off} without");
}
