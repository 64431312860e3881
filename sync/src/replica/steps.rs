//! The thread that does the engine's steps: from the disk to what the records show. Then what only a writer can settle.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use keymgr::ids::{DeviceId, FileId, Root, StoreName};
use parking_lot::Mutex;

use super::forget::{SIGN, TIDY, seconds};
use super::{Core, Host, Inner, fetch};
use crate::bodies::groups_of_file;
use crate::engine::{Counting, DiskNode, Done, EntryId, Settled, Spot, Step, Unsettled};
use crate::install::{Inside, Paths, Touched, sealed_attrs};
use crate::record::Content;
use crate::scan::Signature;

/// Steps done before file operations get their turn.
const AT_ONCE: usize = 256;
/// What was busy is tried again when fs says that something settled, and after this, for what it does not tell.
const AGAIN: Duration = Duration::from_secs(2);
const THIN: Duration = Duration::from_secs(3600);

impl Inner {
    pub(super) fn step_until_end(self: Arc<Self>) {
        let (mut stuck, mut thinned, mut tidied) = (false, None::<Instant>, None::<Instant>);
        let past = |last: Option<Instant>, pause| last.is_none_or(|at| at.elapsed() >= pause);
        let mut signed = Instant::now();
        loop {
            let unsigned = self.heads_are_due();
            let pause = match (stuck, unsigned) {
                (true, _) => AGAIN,
                (_, true) => SIGN.saturating_sub(signed.elapsed()),
                _ => TIDY,
            };
            {
                let mut work = self.step.0.lock();
                if !work.due && !work.end {
                    self.step.1.wait_for(&mut work, pause);
                }
                if work.end {
                    return;
                }
                work.due = false;
            }
            if stuck {
                self.core.lock().engine.retry();
            }
            stuck = false;
            while self.run(&mut stuck) || self.look_closer() {}
            self.look_for_junctions();
            if self.settle_all() | self.say_anew() {
                self.tell();
                self.kick();
            }
            let _ = self.fetch.send(fetch::Event::Try);
            if signed.elapsed() >= SIGN {
                signed = Instant::now();
                self.sign_heads(seconds(SystemTime::now()));
            }
            if past(tidied, TIDY) {
                tidied = Some(Instant::now());
                self.tidy(SystemTime::now());
            }
            if past(thinned, THIN) {
                thinned = Some(Instant::now());
                self.thin();
            }
        }
    }

    /// Some steps; whether there may be more.
    fn run(&self, stuck: &mut bool) -> bool {
        let _authoring = self.authoring.lock();
        if self.step.0.lock().end {
            return false;
        }
        let host = self.host.lock().clone();
        let (mut more, mut did) = (false, false);
        let mut work = |inside: Option<&dyn Inside>| {
            let mut touched = Touched::default();
            more = true;
            for _ in 0..AT_ONCE {
                let polled = self.core.lock().engine.poll_step();
                let Some((id, step)) = polled else {
                    more = false;
                    break;
                };
                // Without `core`: the file system asks it on the way.
                let done = self.tree.step(&At(&self.core), &self.bodies, inside, &mut touched, &step);
                tracing::debug!("{step:?}: {}", outcome(&done));
                *stuck |= !matches!(done, Done::Made { .. });
                let made = matches!(done, Done::Made { .. });
                did |= made;
                let mut core = self.core.lock();
                core.engine.handle_done(id, done);
                self.bodies_of(&mut core, &step);
                if made && inside.is_none() {
                    self.signature_of(&core, &step);
                }
            }
            if let Some(inside) = inside {
                inside.touched(&touched.folders, &touched.files);
            }
        };
        match &host {
            Some(host) => host.enter(&mut |inside| work(Some(inside))),
            None => work(None),
        }
        self.tell_damage();
        if did {
            let mut core = self.core.lock();
            self.index.put(core.engine.take_disk_changes());
        }
        more
    }

    /// With no file operation waiting: large files that steps will replace are read, and fs looks at what is not what its
    /// record says. Whether steps may go on by that.
    fn look_closer(&self) -> bool {
        let read = self.bodies.read_unread();
        let suspects = self.bodies.take_suspects();
        if let Some(host) = self.host.lock().clone() {
            suspects.iter().for_each(|spot| host.verify(&spot.folder, &spot.name));
        }
        if read {
            self.core.lock().engine.retry();
        }
        read
    }

    /// After a step: which bodies are beside the tree now.
    fn bodies_of(&self, core: &mut Core, step: &Step) {
        let mut roots: Vec<Root> = Vec::new();
        match step {
            Step::PutFile { content, .. } | Step::HealFile { content, .. } | Step::RemoveFile { content, .. } => {
                roots.push(content.root);
            }
            Step::Replace { old, content, .. } => roots.extend([old.root, content.root]),
            _ => {}
        }
        for root in roots {
            match self.bodies.whole(&root) {
                Some(_) => core.engine.handle_body(root),
                None => core.engine.handle_body_gone(root),
            }
        }
    }

    /// How a file looks that a step just verified and put there, so that the next audit need not read it.
    fn signature_of(&self, core: &Core, step: &Step) {
        let content = match step {
            Step::PutFile { content, .. }
            | Step::HealFile { content, .. }
            | Step::Replace { content, .. }
            | Step::MoveFile { content, .. } => content,
            _ => return,
        };
        let names = core.engine.node_of(&content.file).and_then(|node| core.engine.disk_path(&node));
        if let Some(meta) = names.and_then(|names| self.tree.read(&names).ok()?.metadata().ok()) {
            self.index.set_root(&content.file, &Signature::of(&meta), &content.root);
        }
    }

    fn thin(&self) {
        let mut core = self.core.lock();
        let kept: Vec<Root> = self.bodies.roots();
        let needed: HashSet<Root> = kept.into_iter().filter(|r| core.engine.needs(r)).collect();
        let circle = self.circle.borrow().clone();
        // By account, so that many devices are no more than one.
        let by = |root: &Root| {
            let device = core.engine.author_of(root)?;
            Some(circle.get(&device).map_or(*device.as_bytes(), |seat| *seat.account.as_bytes()))
        };
        let gone = self.bodies.thin(SystemTime::now(), self.bodies.most(), |root| needed.contains(root), by);
        for root in gone {
            if self.bodies.whole(&root).is_none() {
                core.engine.handle_body_gone(root);
            }
        }
    }

    /// Settles what is unsettled; whether records were made.
    fn settle_all(&self) -> bool {
        let Some(host) = self.host.lock().clone() else { return false };
        let _authoring = self.authoring.lock();
        let due: Vec<Due> = {
            let mut core = self.core.lock();
            if !core.engine.can_write() {
                return false;
            }
            core.engine.unsettled().into_iter().map(|what| self.due(&core, what)).collect()
        };
        let mut made = 0;
        for due in due {
            // Without `core`: who is asked may wait for a file operation, and that for `core`.
            let Some(how) = self.how(host.as_ref(), &due) else { continue };
            let mut core = self.core.lock();
            if let Some((content, _)) = &how.copy {
                core.engine.handle_body(content.root);
                core.have(content.root);
            }
            let drafts = core.engine.settle(&due.what, &how);
            let signed = self.sign_all(&mut core, drafts);
            drop(core);
            match signed {
                Ok(0) => {}
                Ok(count) => {
                    made += count;
                    if let Unsettled::Contents { by, .. } = &due.what {
                        let name = self.name_of(by);
                        self.notice(format!(
                            "{name} changed a file that was changed here too: both are kept, see `kith conflicts`"
                        ));
                    }
                }
                Err(e) => self.notice(format!("a conflict could not be settled: {e}")),
            }
        }
        made > 0
    }

    /// Says anew what those wrote who may write no longer; whether records were made.
    fn say_anew(&self) -> bool {
        if !self.anew.swap(false, Ordering::Relaxed) {
            return false;
        }
        let circle = self.circle.borrow().clone();
        let seats: Vec<DeviceId> = circle.devices().map(|s| s.listed.public.id).filter(|id| *id != self.me).collect();
        let before: Vec<DeviceId> = {
            let peers = self.peers.lock();
            let there = |id: &DeviceId| *id < self.me && circle.may_write(id) && peers.get(id).is_some_and(|p| p.up);
            seats.iter().copied().filter(there).collect()
        };
        let _authoring = self.authoring.lock();
        let mut core = self.core.lock();
        let who = Counting { counts: &|device| circle.may_write(device), seats: &seats, before: &before };
        if !self.access.may_write() {
            if core.engine.withdraw(&who) {
                drop(core);
                self.kick();
            }
            return false;
        }
        let (drafts, more) = core.engine.anew(&who);
        if more {
            self.anew.store(true, Ordering::Relaxed);
        }
        match self.sign_all(&mut core, drafts) {
            Ok(made) => made > 0,
            Err(e) => {
                drop(core);
                self.notice(format!("what a removed device wrote could not be said anew: {e}"));
                false
            }
        }
    }

    fn due(&self, core: &Core, what: Unsettled) -> Due {
        let body = match &what {
            Unsettled::Contents { loser, .. } => self
                .bodies
                .whole(&loser.root)
                .or_else(|| core.engine.body_in_tree(&loser.root).map(|names| self.tree.path_of(&names))),
            _ => None,
        };
        Due { shown: core.engine.disk_node(&what.node()).cloned(), body, what }
    }

    /// What the keys give for it.
    fn how(&self, host: &dyn Host, due: &Due) -> Option<Settled> {
        let settled = |(name, locator)| Settled { name, locator, copy: None };
        match &due.what {
            Unsettled::Seal { place, to, id, .. } => host.reseal(place.parent, &place.name, *to, *id).map(settled),
            Unsettled::Name { node, place, id, by } => {
                let shown = due.shown.as_ref()?;
                let attrs_for = shown.id(*node);
                let attrs = sealed_attrs(&shown.attrs, &attrs_for)?;
                host.conflict_name(place.parent, &place.name, *id, &self.name_of(by), attrs, attrs_for).map(settled)
            }
            Unsettled::Contents { node, loser, by, place, file, .. } => {
                let (shown, body) = (due.shown.as_ref()?, due.body.as_ref()?);
                let aside = self.store.join("incoming").join(format!("copy-{file}"));
                let _ = std::fs::remove_file(&aside);
                if !host.copy_as(body, &aside, *file) {
                    return None;
                }
                let groups = groups_of_file(&aside).ok()?;
                let root = self.bodies.adopt(&aside, groups).ok()?;
                let content = Content { file: *file, root, ..*loser };
                let (from, to) = (shown.id(*node), EntryId::File(*file));
                let attrs = host.readdress(sealed_attrs(&shown.attrs, &from)?, from, to)?;
                let named = host.conflict_name(place.parent, &place.name, to, &self.name_of(by), &attrs, to)?;
                Some(Settled { copy: Some((content, attrs)), ..settled(named) })
            }
        }
    }
}

/// Asks the engine, for a moment each.
struct At<'a>(&'a Mutex<Core>);

impl Paths for At<'_> {
    fn spot(&self, spot: &Spot) -> Option<Vec<StoreName>> {
        self.0.lock().engine.spot_path(spot)
    }

    fn body(&self, root: &Root) -> Option<Vec<StoreName>> {
        self.0.lock().engine.body_in_tree(root)
    }

    fn refused(&self, file: &FileId) -> bool {
        let core = self.0.lock();
        core.engine.node_of(file).is_some_and(|node| core.engine.is_damaged(&node))
    }
}

/// Something to settle, and what of it the disk has.
struct Due {
    what: Unsettled,
    shown: Option<DiskNode>,
    body: Option<PathBuf>,
}

fn outcome(done: &Done) -> &'static str {
    match done {
        Done::Made { .. } => "made",
        Done::Busy => "busy",
        Done::Refused => "refused",
    }
}
