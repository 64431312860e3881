//! What an unlocked fs wrote becomes records: signed, durable, then told to everybody who is there.

use std::sync::Arc;

use keymgr::ids::Root;
use keymgr::root::Groups;

use super::{Core, Error, Inner, Replica};
use crate::engine::Observation;
use crate::record::{Record, Signed};

/// An observation, with what fs knows of the bodies in it.
pub struct Observed {
    pub observation: Observation,
    /// The chaining values of each body, and where it is a change of another: which groups are new.
    pub bodies: Vec<(Root, Groups, Option<Delta>)>,
}

/// The body that another one was, and which groups are new.
pub type Delta = (Root, Vec<u32>);

impl Replica {
    /// Observes and records, with no step between the two. `None` from `observe`: nothing to do. How many records were made.
    pub fn author<E: From<Error>>(&self, observe: impl FnOnce() -> Result<Option<Observed>, E>) -> Result<usize, E> {
        let inner = &self.0;
        let made = {
            let _authoring = inner.authoring.lock();
            let Some(Observed { observation, bodies }) = observe()? else { return Ok(0) };
            let mut core = inner.core.lock();
            for (root, groups, delta) in bodies {
                inner.bodies.remember(root, groups);
                if let Some(delta) = delta {
                    // A bound on memory: a peer that comes later reads all chaining values.
                    if core.deltas.len() > 1000 {
                        core.deltas.clear();
                    }
                    core.deltas.insert(root, delta);
                }
            }
            let drafts = core.engine.author(&observation);
            let made = inner.sign_all(&mut core, drafts)?;
            core.engine.retry();
            inner.index.put(core.engine.take_disk_changes());
            made
        };
        tracing::debug!("{made} records made");
        if made > 0 {
            inner.tell();
        }
        inner.kick();
        Ok(made)
    }
}

impl Inner {
    /// Signs drafts in their order, makes them durable, and lets them count.
    pub(super) fn sign_all(&self, core: &mut Core, drafts: Vec<Record>) -> Result<usize, Error> {
        let list = self.circle.borrow().version();
        let count = drafts.len();
        let mut signed = Vec::with_capacity(count);
        // Not the log's end: that may have been forgotten.
        let last = core.engine.heads().get(&core.author);
        let (mut number, mut previous) = last.map_or((0, None), |head| (head.number, Some(head.hash)));
        for draft in drafts {
            number += 1;
            let record = Signed::sign(&self.keys, core.author.incarnation, number, previous, list, draft)?;
            previous = Some(record.hash());
            signed.push(Arc::new(record));
        }
        for record in &signed {
            core.logs.append(record.clone())?;
        }
        core.logs.sync()?;
        for record in signed {
            core.engine.handle_record(record.entry().clone());
        }
        Ok(count)
    }
}
