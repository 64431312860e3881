//! Records what fs wrote, as soon as it settled: observed, signed, durable, sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fs::observe::Observation;
use fs::volume::Volume;
use parking_lot::Mutex;
use sync::engine::{ObservedEntry, ObservedFile, ObservedFolder};
use sync::replica::{Observed, Replica};

use super::host::{Ears, to_sync};

/// How long something that has not settled is left alone before it is looked at again.
const UNSETTLED: Duration = Duration::from_secs(1);
/// After it recorded, it rests for so many times as long as that took, and at most for the second: a save is recorded at
/// once, and what goes on and on leaves the disk and the processor to the programs.
const REST: u32 = 4;
const MOST_REST: Duration = Duration::from_millis(500);

/// The thread that records, until it is told to end.
pub struct Recorder {
    ears: Arc<Ears>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Recorder {
    pub fn start(
        volume: Volume,
        replica: Replica,
        ears: Arc<Ears>,
        observing: Arc<Mutex<()>>,
    ) -> std::io::Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let (heard, ends) = (ears.clone(), end.clone());
        let run = move || {
            loop {
                // What a program holds open settles by being left alone: nobody tells of that.
                heard.wait(volume.is_dirty().then_some(UNSETTLED));
                if ends.load(Ordering::Acquire) {
                    return;
                }
                for id in heard.take_refused() {
                    replica.damaged(&to_sync(id));
                }
                let begun = Instant::now();
                if let Err(e) = record(&volume, &replica, &observing) {
                    replica.notice(format!("What was written could not be recorded yet: {e}"));
                    // Tried again at the next change, and in any case after a while: a full disk gets room again.
                    std::thread::sleep(UNSETTLED);
                    heard.wake();
                }
                let rested = Instant::now() + (begun.elapsed() * REST).min(MOST_REST);
                while !ends.load(Ordering::Acquire)
                    && let Some(left) = rested.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
                {
                    std::thread::park_timeout(left);
                }
            }
        };
        let thread = std::thread::Builder::new().name("kith-record".into()).spawn(run)?;
        Ok(Self { ears, end, thread: Some(thread) })
    }

    /// Ends the thread; what is not recorded yet is left to whoever calls [`record`].
    pub fn end(mut self) {
        self.end.store(true, Ordering::Release);
        self.ears.wake();
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// Why something is not recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Volume(#[from] fs::volume::Error),
    #[error(transparent)]
    Replica(#[from] sync::replica::Error),
}

/// Observes and records once; how many records were made.
pub fn record(volume: &Volume, replica: &Replica, observing: &Mutex<()>) -> Result<usize, Error> {
    let _observing = observing.lock();
    let mut seen = None;
    let made = replica.author(|| {
        let observation = volume.observe()?;
        if observation.is_empty() {
            return Ok::<_, Error>(None);
        }
        let observed = observed(&observation);
        seen = Some(observation);
        Ok(Some(observed))
    })?;
    if let Some(observation) = seen {
        volume.recorded(&observation);
    }
    Ok(made)
}

fn observed(o: &Observation) -> Observed {
    let folders = o.folders.iter().map(|f| ObservedFolder {
        node: f.node,
        also: f.also.clone(),
        entries: f
            .entries
            .iter()
            .map(|(name, under, id, locator)| ObservedEntry {
                name: name.clone(),
                under: *under,
                id: to_sync(*id),
                locator: *locator,
            })
            .collect(),
        // A folder's attributes begin with its header, so that who has no key can make the folder too.
        attrs: [f.header.as_slice(), &f.attrs].concat(),
    });
    let files = o.files.iter().map(|f| ObservedFile {
        file: f.file,
        kind: kind(f.kind),
        epoch: f.epoch,
        lineage: f.lineage,
        length: f.length,
        root: f.root,
        attrs: f.attrs.clone(),
    });
    let bodies = o.files.iter().map(|f| (f.root, f.groups.clone(), f.replaced.map(|old| (old, f.changed.clone()))));
    Observed {
        observation: sync::engine::Observation { folders: folders.collect(), files: files.collect() },
        bodies: bodies.collect(),
    }
}

fn kind(kind: fs::content::Kind) -> sync::record::Kind {
    match kind {
        fs::content::Kind::File => sync::record::Kind::File,
        fs::content::Kind::Symlink => sync::record::Kind::Symlink,
        fs::content::Kind::Fifo => sync::record::Kind::Fifo,
        fs::content::Kind::Socket => sync::record::Kind::Socket,
        fs::content::Kind::Share => sync::record::Kind::Share,
        fs::content::Kind::Block => sync::record::Kind::Block,
        fs::content::Kind::Char => sync::record::Kind::Char,
    }
}
