//! Snapshots: who lacks records that were forgotten here gets what is held, with a signed word on what that is, and not
//! the history. What comes is put aside record by record and counts when it was all there and is what was signed.
//!
//! A full device's snapshot ends what lies under its floor and is not in it. A blind device's never ends anything: it
//! may leave out what it likes. Who had to rely on one asks the next full device for its own.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use keymgr::ids::{DeviceId, RecordHash, Root};

use super::faults::Wrong;
use super::forget::seconds;
use super::{Core, Inner, fetch};
use crate::engine::Heads;
use crate::record::{Author, MAX_SIGNED, Signed};
use crate::statement::{self, Snapshot, Sum};

/// A snapshot on its way to a peer.
pub(super) struct Outgoing {
    pub statement: Option<Vec<u8>>,
    pub records: std::vec::IntoIter<Arc<Signed>>,
    /// How far the peer is afterwards.
    pub heads: Heads,
}

/// A snapshot on its way here.
pub(super) struct Incoming {
    says: Snapshot,
    aside: PathBuf,
    file: BufWriter<File>,
    sum: Sum,
    got: u64,
    last: Option<(Author, u64, RecordHash)>,
    /// Bodies that came with it.
    bodies: Vec<Root>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.aside);
    }
}

impl Inner {
    /// All that is held here, signed. `None` where it cannot be signed.
    pub(super) fn outgoing(&self, core: &Core) -> Option<Outgoing> {
        let records: Vec<Arc<Signed>> = core.logs.snapshot();
        let hashes: Vec<RecordHash> = records.iter().map(|r| r.hash()).collect();
        let heads = core.engine.heads().clone();
        let number = self.seen.lock().number(seconds(SystemTime::now()));
        let whole = self.access.may_write() && !core.logs.frontier().unconfirmed;
        let by = (core.engine.share(), self.me, number);
        let says = Snapshot::new(by, heads.clone(), core.engine.floor().clone(), &hashes, whole);
        let statement = statement::Signed::sign(&self.keys, says)?.bytes().to_vec();
        Some(Outgoing { statement: Some(statement), records: records.into_iter(), heads })
    }

    /// A snapshot begins. What no honest device signs is refused.
    pub(super) fn begin_snapshot(&self, peer: DeviceId, bytes: &[u8]) -> Result<Incoming, String> {
        let share = self.core.lock().engine.share();
        let bad = |why: &str| {
            self.fault(peer, Wrong::Snapshot);
            Err(format!("a snapshot that {why}"))
        };
        let says = match statement::Signed::<Snapshot>::open(bytes, share) {
            Ok(signed) => signed.says().clone(),
            Err(e) => return bad(&e.to_string()),
        };
        if says.device != peer {
            return bad("another device signed");
        }
        let seat = self.circle.borrow().get(&peer).map(|seat| seat.access);
        if seat.is_none_or(|access| says.whole && !access.may_write()) {
            return bad("it may not sign");
        }
        if !says.heads.covers_all(&says.floor) {
            return bad("forgets more than it has seen");
        }
        let signed = self.seen.lock().of(&peer).cloned();
        if signed.is_some_and(|seen| says.number < seen.number || !says.heads.covers_all(&seen.heads)) {
            return bad("is older than what it has signed since");
        }
        // The feed before this one may not have ended yet.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let aside = self.bodies.incoming().join(format!("snapshot-{peer}-{number}"));
        let file = File::create(&aside).map_err(|e| format!("{}: {e}", aside.display()))?;
        let (file, sum) = (BufWriter::new(file), Sum::default());
        Ok(Incoming { says, aside, file, sum, got: 0, last: None, bodies: Vec::new() })
    }

    /// The next record of it; it is kept where its author counts.
    pub(super) fn held(
        &self,
        peer: DeviceId,
        incoming: &mut Incoming,
        record: &Signed,
        body: Option<&[u8]>,
        counts: bool,
    ) -> Result<(), String> {
        let entry = record.entry();
        let at = (entry.author, entry.number, entry.hash);
        let fits = incoming.got < incoming.says.count
            && incoming.last.is_none_or(|last| last < at)
            && incoming.says.heads.covers(&entry.author, entry.number)
            && entry.record.share == incoming.says.share;
        if !fits {
            self.fault(peer, Wrong::Snapshot);
            return Err("a snapshot with a record that cannot be in it".into());
        }
        incoming.last = Some(at);
        incoming.got += 1;
        incoming.sum.add(&entry.hash);
        if !counts {
            return Ok(());
        }
        let bytes = record.bytes();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let written = incoming.file.write_all(&length).and_then(|()| incoming.file.write_all(bytes));
        written.map_err(|e| format!("a snapshot that could not be kept: {e}"))?;
        if let (Some(body), Some(content)) = (body, entry.record.content())
            && body.len() as u64 == content.length
            && self.bodies.whole(&content.root).is_none()
            && self.bodies.put(&content.root, body).is_ok()
        {
            incoming.bodies.push(content.root);
        }
        Ok(())
    }

    /// All of it is here, and it is what was signed: it counts.
    pub(super) fn end_snapshot(self: &Arc<Self>, peer: DeviceId, mut incoming: Incoming) -> Result<(), String> {
        if incoming.sum.end() != incoming.says.records {
            self.fault(peer, Wrong::Snapshot);
            return Err("a snapshot with other records than it says".into());
        }
        let kept = |e: std::io::Error| format!("a snapshot that could not be kept: {e}");
        incoming.file.flush().map_err(kept)?;
        let mut file = BufReader::new(File::open(&incoming.aside).map_err(kept)?);
        let says = incoming.says.clone();
        let _authoring = self.authoring.lock();
        let mut core = self.core.lock();
        let mine = core.engine.heads().clone();
        let unconfirmed = core.logs.frontier().unconfirmed;
        // What was read here and is not held was replaced or deleted. But where a blind device said so, a full one that
        // has read as much knows better.
        let confirms = says.whole && says.heads.covers_all(&mine);
        let mut held: HashSet<RecordHash> = HashSet::new();
        while let Some(record) = next(&mut file).map_err(kept)? {
            held.insert(record.hash());
            let entry = record.entry();
            let seen = mine.covers(&entry.author, entry.number) && !(unconfirmed && confirms);
            if core.engine.holds(&entry.hash) || seen {
                continue;
            }
            let entry = entry.clone();
            core.logs.append(Arc::new(record)).map_err(|e| e.to_string())?;
            core.engine.handle_held(entry);
        }
        core.logs.sync().map_err(|e| e.to_string())?;
        let relied = !says.whole && !mine.covers_all(&says.floor);
        if !says.whole {
            held.extend(core.engine.held());
        }
        let gone = core.engine.handle_snapshot(&says.heads, &says.floor, &held).records;
        let unconfirmed = if says.whole { unconfirmed && !confirms } else { unconfirmed || relied };
        core.forgotten(&self.keys, &gone, unconfirmed).map_err(|e| e.to_string())?;
        for root in std::mem::take(&mut incoming.bodies) {
            core.engine.handle_body(root);
            core.have(root);
        }
        self.index.put(core.engine.take_disk_changes());
        drop(core);
        tracing::info!("a snapshot of {}: {} records, {} ended", self.name_of(&peer), held.len(), gone.len());
        self.tell();
        self.kick();
        let _ = self.fetch.send(fetch::Event::Try);
        Ok(())
    }
}

impl Incoming {
    pub fn is_all_here(&self) -> bool {
        self.got == self.says.count
    }
}

/// The next record that was put aside.
fn next(file: &mut impl Read) -> std::io::Result<Option<Signed>> {
    let mut front = [0; 4];
    match file.read_exact(&mut front) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(front) as usize;
    if length > MAX_SIGNED {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Signed::parse(&bytes).map(Some).map_err(std::io::Error::other)
}
