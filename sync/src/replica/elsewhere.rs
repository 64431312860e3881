//! Bodies that another share of this device has, but for the header: a folder that became a share of its own keeps its
//! ciphertext, and who held it fetches the headers alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use keymgr::ids::{DeviceId, ShareId};
use keymgr::root::{self, GROUP, Groups};

use super::{Inner, Replica};
use crate::record::{Content, Signed};

/// What may differ: a file's header.
pub(super) const HEADER: u64 = 256;

/// The other shares of this device.
pub(crate) trait Elsewhere: Send + Sync + 'static {
    /// A body of another share than `not` that has the pages of this content.
    fn body(&self, not: &ShareId, content: &Content) -> Option<Like>;
    /// Whether a device that belongs to such a share was told of one there.
    fn is_known_to(&self, peer: &DeviceId, not: &ShareId, content: &Content) -> bool;
}

/// An older body with the same pages, as far as its content tells.
pub(crate) struct Like {
    file: File,
    groups: Groups,
}

impl Replica {
    pub(crate) fn set_elsewhere(&self, elsewhere: Arc<dyn Elsewhere>) {
        *self.0.elsewhere.lock() = Some(elsewhere);
    }

    /// A body that is whole here and may have the pages of a content of another share.
    pub(crate) fn body_like(&self, content: &Content) -> Option<Like> {
        let mut like = self.contents_like(content);
        like.dedup();
        like.iter().rev().find_map(|content| {
            let file = self.0.open_body(&content.root).ok()?;
            let groups = self.0.bodies.groups_of_body(&content.root, &file).ok()?;
            Some(Like { file, groups })
        })
    }

    pub(crate) fn contents_like(&self, content: &Content) -> Vec<Content> {
        let alike = |c: &Content| (c.lineage, c.length) == (content.lineage, content.length);
        let mut all = self.0.core.lock().engine.contents_of(&content.file);
        all.retain(alike);
        all
    }
}

impl Inner {
    pub(super) fn like(&self, content: &Content) -> Option<Like> {
        let elsewhere = self.elsewhere.lock().clone()?;
        elsewhere.body(&self.share, content)
    }

    /// Whether the peer most likely has a record's body already, but for the header: it asks where it does not.
    pub(super) fn needs_no_body(&self, peer: &DeviceId, record: &Signed) -> bool {
        let elsewhere = self.elsewhere.lock().clone();
        let content = record.entry().record.content();
        elsewhere.zip(content).is_some_and(|(elsewhere, content)| elsewhere.is_known_to(peer, &self.share, content))
    }

    /// Makes a body of a header that came and of a body of another share. `false`: that is not it; what fits is kept
    /// for when the rest is fetched.
    pub(super) fn complete(&self, like: &Like, header: &[u8], content: &Content) -> Result<bool, crate::bodies::Error> {
        let mut first = vec![0; content.length.min(GROUP) as usize];
        if like.file.read_exact_at(&mut first, 0).is_err() {
            return Ok(false);
        }
        let Some(front) = first.get_mut(..header.len()) else { return Ok(false) };
        front.copy_from_slice(header);
        root::zero_locator(&mut first);
        let mut groups = like.groups.clone();
        groups.set(0, root::of_group(0, content.length, &first));
        if groups.root() != content.root {
            return Ok(false);
        }
        let mut partial = self.bodies.begin(&content.root, content.length, groups.clone())?;
        partial.put(0, &first)?;
        partial.take_from_body(&like.file, &groups);
        if partial.missing().next().is_some() {
            return Ok(false);
        }
        self.bodies.finish(partial)?;
        Ok(true)
    }
}
