//! The mount: a [`Forest`] of volumes behind /dev/fuse. The only module that names fuser.

mod counts;
mod forest;
mod ops;
mod tell;

pub use forest::{Forest, Found};

use std::io;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use fuser::{BackgroundSession, MountOption, SessionACL};
use parking_lot::{Condvar, Mutex};

use crate::volume::{Error, Result, Volume};
use counts::Counts;
use tell::Teller;

#[derive(Clone, Copy, Default, Debug)]
pub struct MountOptions {
    /// Other users may enter, as far as modes let them.
    pub allow_other: bool,
    pub read_only: bool,
    /// Programs on it may be run, but never with another's rights.
    pub noexec: bool,
}

/// A mounted forest. Dropping it unmounts.
pub struct Mounted {
    at: PathBuf,
    forest: Forest,
    counts: Counts,
    session: Mutex<Option<BackgroundSession>>,
    teller: Mutex<Option<JoinHandle<()>>>,
    /// The last request was answered.
    ended: Mutex<bool>,
    end: Condvar,
}

impl Volume {
    /// A mount of this volume alone.
    pub fn mount(&self, at: &Path, o: MountOptions) -> Result<Mounted> {
        Forest::new(self.clone()).mount(at, o)
    }
}

impl Forest {
    /// Mounts at `at` and serves from threads of its own.
    pub fn mount(&self, at: &Path, o: MountOptions) -> Result<Mounted> {
        let failed = |source| Error::Mount { path: at.to_owned(), source };
        let at = at.canonicalize().map_err(failed)?;
        let mut options = vec![
            MountOption::FSName("kith".into()),
            MountOption::Subtype("kith".into()),
            MountOption::NoSuid,
            MountOption::NoDev,
        ];
        if o.allow_other {
            // Without this anybody could do anything; a private mount lets only its owner in.
            options.push(MountOption::DefaultPermissions);
        }
        if o.read_only || self.root().0.frozen() {
            options.push(MountOption::RO);
        }
        if o.noexec {
            options.push(MountOption::NoExec);
        }
        let mut config = fuser::Config::default();
        config.mount_options = options;
        config.acl = if o.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        let counts = Counts::default();
        let session = fuser::spawn_mount(ops::Served::new(self.clone(), o.allow_other, counts.clone()), &at, &config)
            .map_err(|source| Error::Mount { path: at.clone(), source })?;
        let started = Teller::start(session.notifier());
        let (teller, thread) = started.map_err(|source| Error::Mount { path: at.clone(), source })?;
        self.listen(teller);
        read_far_ahead(&at);
        let (session, teller) = (Mutex::new(Some(session)), Mutex::new(Some(thread)));
        let (ended, end) = (Mutex::new(false), Condvar::new());
        Ok(Mounted { at, forest: self.clone(), counts, session, teller, ended, end })
    }
}

/// A mount reads 128 KiB ahead unless its owner, who must be root for that, says otherwise: a round trip for so little costs
/// more than the cipher. Where it cannot be set it stays.
fn read_far_ahead(at: &Path) {
    // By the table of mounts: a stat would ask the mount itself.
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(device) = table.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?;
        (fields.nth(1)? == escaped(at)).then_some(device)
    }) else {
        return;
    };
    let _ = std::fs::write(format!("/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KIB);
}

/// A path as the table of mounts has it.
fn escaped(at: &Path) -> String {
    at.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040")
}

const READ_AHEAD_KIB: &str = "1024";

/// Loops that serve requests: a program's request is answered while another's waits for the disk.
const THREADS: usize = 2;

/// How often an unmount is tried again where somebody is in it.
const TRIES: u32 = 8;

impl Mounted {
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// How many requests the kernel made so far, by kind.
    pub fn requests(&self) -> std::collections::BTreeMap<&'static str, u64> {
        self.counts.so_far()
    }

    pub fn forest(&self) -> &Forest {
        &self.forest
    }

    /// Unmounts and waits for the last request. EBUSY where somebody is in it: then it stays mounted.
    pub fn unmount(&self) -> io::Result<()> {
        for attempt in 0.. {
            let out = std::process::Command::new("fusermount3").arg("-u").arg("--").arg(&self.at).output()?;
            if out.status.success() || !self.is_mounted() {
                break;
            }
            // A program that was just started or is just ending may still hold what another has closed.
            if attempt == TRIES {
                let text = String::from_utf8_lossy(&out.stderr).trim().to_owned();
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        self.join()
    }

    /// Waits until it is unmounted, by whomever, and the last request was answered. Several may wait.
    pub fn join(&self) -> io::Result<()> {
        let Some(session) = self.session.lock().take() else {
            let mut ended = self.ended.lock();
            while !*ended {
                self.end.wait(&mut ended);
            }
            return Ok(());
        };
        let done = session.join();
        tracing::debug!(requests = ?self.counts.so_far(), "unmounted");
        self.forest.ended();
        if let Some(teller) = self.teller.lock().take() {
            let _ = teller.join();
        }
        *self.ended.lock() = true;
        self.end.notify_all();
        done
    }

    fn is_mounted(&self) -> bool {
        let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else { return true };
        let at = escaped(&self.at);
        table.lines().any(|line| line.split(' ').nth(4) == Some(at.as_str()) && line.contains(" - fuse"))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.session.lock().is_none() {
            return;
        }
        if self.unmount().is_err() {
            // Somebody is in it: it leaves the tree now and ends with the last of them.
            let _ = std::process::Command::new("fusermount3").arg("-uz").arg("--").arg(&self.at).output();
            self.forest.unlisten();
        }
    }
}
