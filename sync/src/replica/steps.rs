//! The thread that does the engine's steps: from the disk to what the records show. Then what only a writer can settle.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keymgr::ids::Root;

use super::{Core, Host, Inner, fetch};
use crate::bodies::groups_of_file;
use crate::engine::{Done, EntryId, Settled, Step, Unsettled};
use crate::install::Inside;
use crate::record::Content;
use crate::scan::Signature;

/// Steps done before file operations get their turn.
const AT_ONCE: usize = 64;
/// What was busy is tried again when fs says that something settled, and after this, for what it does not tell.
const AGAIN: Duration = Duration::from_secs(2);
const THIN: Duration = Duration::from_secs(3600);

impl Inner {
    pub(super) fn step_until_end(self: Arc<Self>) {
        let (mut stuck, mut thinned) = (false, None::<std::time::Instant>);
        loop {
            {
                let mut work = self.step.0.lock();
                while !work.due && !work.end {
                    let waited = if stuck {
                        self.step.1.wait_for(&mut work, AGAIN).timed_out()
                    } else {
                        self.step.1.wait(&mut work);
                        false
                    };
                    if waited {
                        break;
                    }
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
            while self.run(&mut stuck) {}
            if self.settle_all() {
                self.tell();
                self.kick();
            }
            let _ = self.fetch.send(fetch::Event::Try);
            if thinned.is_none_or(|t| t.elapsed() > THIN) {
                thinned = Some(std::time::Instant::now());
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
            let mut core = self.core.lock();
            for _ in 0..AT_ONCE {
                let Some((id, step)) = core.engine.poll_step() else { return };
                let done = self.tree.step(&core.engine, &self.bodies, inside, &step);
                tracing::debug!("{step:?}: {}", outcome(&done));
                *stuck |= !matches!(done, Done::Made { .. });
                did |= matches!(done, Done::Made { .. });
                let made = matches!(done, Done::Made { .. });
                core.engine.handle_done(id, done);
                self.bodies_of(&mut core, &step);
                if made && inside.is_none() {
                    self.signature_of(&core, &step);
                }
            }
            more = true;
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

    /// After a step: which bodies are beside the tree now.
    fn bodies_of(&self, core: &mut Core, step: &Step) {
        let mut roots: Vec<Root> = Vec::new();
        match step {
            Step::PutFile { content, .. } | Step::RemoveFile { content, .. } => roots.push(content.root),
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
            Step::PutFile { content, .. } | Step::Replace { content, .. } | Step::MoveFile { content, .. } => content,
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
        let needed: Vec<Root> = kept.into_iter().filter(|r| core.engine.needs(r)).collect();
        for root in self.bodies.thin(SystemTime::now(), self.bodies.most(), |root| needed.contains(root)) {
            if self.bodies.whole(&root).is_none() {
                core.engine.handle_body_gone(root);
            }
        }
    }

    /// Settles what is unsettled; whether records were made.
    fn settle_all(&self) -> bool {
        let Some(host) = self.host.lock().clone() else { return false };
        let _authoring = self.authoring.lock();
        let mut core = self.core.lock();
        if !core.engine.can_write() {
            return false;
        }
        let mut made = 0;
        for what in core.engine.unsettled() {
            let Some(how) = self.how(&mut core, host.as_ref(), &what) else { continue };
            let drafts = core.engine.settle(&what, &how);
            match self.sign_all(&mut core, drafts) {
                Ok(count) => made += count,
                Err(e) => {
                    drop(core);
                    self.notice(format!("a conflict could not be settled: {e}"));
                    return made > 0;
                }
            }
        }
        made > 0
    }

    /// What the keys give for it.
    fn how(&self, core: &mut Core, host: &dyn Host, what: &Unsettled) -> Option<Settled> {
        let settled = |(name, locator)| Settled { name, locator, copy: None };
        let shown = core.engine.disk_node(&what.node()).cloned();
        match what {
            Unsettled::Seal { place, to, id, .. } => host.reseal(place.parent, &place.name, *to, *id).map(settled),
            Unsettled::Name { node, place, id, by } => {
                let shown = shown?;
                let attrs_for = shown.id(*node);
                let attrs = sealed_attrs(&shown.attrs, &attrs_for)?;
                host.conflict_name(place.parent, &place.name, *id, &self.name_of(by), attrs, attrs_for).map(settled)
            }
            Unsettled::Contents { node, loser, by, place, file, .. } => {
                let shown = shown?;
                let body = match self.bodies.whole(&loser.root) {
                    Some(path) => path,
                    None => self.tree.path_of(&core.engine.body_in_tree(&loser.root)?),
                };
                let aside = self.store.join("incoming").join(format!("copy-{file}"));
                let _ = std::fs::remove_file(&aside);
                if !host.copy_as(&body, &aside, *file) {
                    return None;
                }
                let groups = groups_of_file(&aside).ok()?;
                let root = self.bodies.adopt(&aside, groups).ok()?;
                core.engine.handle_body(root);
                core.have(root);
                let content = Content { file: *file, root, ..*loser };
                let (from, to) = (shown.id(*node), EntryId::File(*file));
                let attrs = host.readdress(sealed_attrs(&shown.attrs, &from)?, from, to)?;
                let named = host.conflict_name(place.parent, &place.name, to, &self.name_of(by), &attrs, to)?;
                Some(Settled { copy: Some((content, attrs)), ..settled(named) })
            }
        }
    }
}

/// A folder's attributes begin with its header.
fn sealed_attrs<'a>(attrs: &'a [u8], id: &EntryId) -> Option<&'a [u8]> {
    match id {
        EntryId::Folder(_) => attrs.get(crate::install::FOLDER_HEADER..),
        EntryId::File(_) => Some(attrs),
    }
}

fn outcome(done: &Done) -> &'static str {
    match done {
        Done::Made { .. } => "made",
        Done::Busy => "busy",
        Done::Refused => "refused",
    }
}
