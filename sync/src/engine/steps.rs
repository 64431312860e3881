//! From the disk to what the records show: steps in an order that always works.

use keymgr::ids::{Locator, NodeId, StoreName};
use serde::{Deserialize, Serialize};

use super::EntryId;
use crate::record::{Content, Kind};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StepId(pub u64);

/// An entry of a directory: the one that holds `folder`'s header.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Spot {
    pub folder: NodeId,
    pub name: StoreName,
}

/// Before each the executor checks that the entries named are still what the engine thinks (ids, and no change that
/// was not observed); otherwise it answers [`Done::Busy`]. Paths come from [`super::Engine::spot_path`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A directory with this node's header; where `join`, the directory is there already and gets one more header.
    MakeFolder { node: NodeId, at: Spot, locator: Locator, attrs: Vec<u8>, join: bool },
    /// A file's body from beside the tree, at all its names (the first is the file, others are links to it).
    PutFile { node: NodeId, kind: Kind, at: Vec<(Spot, Locator)>, content: Content, attrs: Vec<u8>, attrs_for: EntryId },
    /// Another body for a file that is there; the one it had goes to versions.
    Replace {
        node: NodeId,
        at: Vec<(Spot, Locator)>,
        old: Content,
        content: Content,
        attrs: Vec<u8>,
        attrs_for: EntryId,
    },
    /// Names of a file: those of `from` that are not in `to` go, the others are made. One rename where both are one.
    MoveFile { node: NodeId, content: Content, from: Vec<Spot>, to: Vec<(Spot, Locator)> },
    /// A folder's header and the entries in its directory that are under it. `split`: other headers stay behind;
    /// `join`: the target directory is there already. With neither it is one rename. `entries`: what moves along.
    MoveFolder {
        node: NodeId,
        from: Spot,
        to: Spot,
        locator: Locator,
        split: bool,
        join: bool,
        entries: Vec<StoreName>,
    },
    /// A file's names, all; its body goes to versions.
    RemoveFile { node: NodeId, at: Vec<Spot>, content: Content },
    /// A directory, which is empty, or one header of several (`split`).
    RemoveFolder { node: NodeId, at: Spot, split: bool },
    /// Attributes only. They are bound to `attrs_for`.
    Dress { node: NodeId, at: Option<Spot>, attrs: Vec<u8>, attrs_for: EntryId },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Done {
    /// As asked. `attrs`: what the node shows now, sealed, where the executor dressed it and it came out otherwise.
    Made { attrs: Option<Vec<u8>> },
    /// Somebody has it open, or it changed and that was not observed yet: again after [`super::Engine::retry`].
    Busy,
    /// The disk is not what the engine thinks, or cannot do it: again after [`super::Engine::retry`].
    Refused,
}
