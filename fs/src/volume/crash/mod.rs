//! Volumes on a disk that crashes: what was fsynced is there under its name, every byte that reads was written, nothing
//! that a crash left is refused, all of it can be removed, and after mending it fits its records.
//!
//! KITH_CRASH_SEEDS=FROM..TO runs other seeds than the usual ones; a failure names its seed and what was done.

mod oracle;
mod stories;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

/// What a long name stands for: one whose sealed form needs a sidecar.
const LONG: [u8; 200] = [b'l'; 200];

fn plain(name: &str) -> Vec<u8> {
    if name == "LONG" { LONG.to_vec() } else { name.as_bytes().to_vec() }
}

/// Cuts that are tried at each moment.
const CUTS: u64 = 12;

fn run(seed: u64, torn: bool) -> u64 {
    let mut world = World::new(seed, torn);
    let mut states = 0;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..3 {
            for _ in 0..world.dice.below(25) {
                let _ = world.step();
                if world.dice.below(12) == 0 {
                    world.log.push("close".into());
                    world.close().unwrap();
                }
            }
            world.run_into_kill();
            for _ in 1..CUTS {
                let mut other = world.fork();
                other.crash();
                let log = other.log.clone();
                let looked = std::panic::AssertUnwindSafe(|| other.look().unwrap());
                match std::panic::catch_unwind(looked) {
                    Ok(n) => states += n,
                    Err(what) => {
                        world.log = log;
                        std::panic::resume_unwind(what);
                    }
                }
            }
            world.crash();
            states += world.look().unwrap();
        }
        let log = std::mem::take(&mut world.log);
        let world = std::mem::replace(&mut world, World::new(0, torn));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.end().unwrap()));
        if let Err(what) = ended {
            eprintln!("at the end of: {}", log.join("; "));
            std::panic::resume_unwind(what);
        }
    }));
    if let Err(what) = result {
        eprintln!("seed {seed}: {}", world.log.join("; "));
        std::panic::resume_unwind(what);
    }
    states
}

/// Runs the seeds on two threads. How many states were looked at.
fn search(usual: u64, torn: bool) -> u64 {
    let asked = std::env::var("KITH_CRASH_SEEDS").ok();
    let range = asked.as_deref().and_then(|r| r.split_once(".."));
    let (from, to) = range.map_or((0, usual), |(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
    let (next, states) = (AtomicU64::new(from), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    states.fetch_add(run(seed, torn), Ordering::Relaxed);
                }
            });
        }
    });
    let states = states.into_inner();
    assert!(states >= (to - from) * 3 * CUTS);
    states
}

#[test]
fn what_was_fsynced_survives_and_what_a_crash_left_is_mended() {
    eprintln!("{} states of crashed disks", search(2200, false));
}

/// What kith-store(5) promises of disks that write 512 bytes at once.
#[test]
fn a_disk_that_tears_pages_loses_those_being_written_and_no_other() {
    eprintln!("{} states of torn disks", search(500, true));
}
