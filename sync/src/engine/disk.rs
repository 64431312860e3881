//! What this device's disk shows, as far as steps and observations told.

use keymgr::ids::RecordHash;
use serde::{Deserialize, Serialize};

use crate::record::{Content, Kind, Place};

/// One node as the disk shows it. Plain data: the index keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskNode {
    pub kind: Kind,
    /// Where the entries lie: the folder in whose directory, by which name; sorted.
    pub spots: Vec<super::Spot>,
    /// The places of the records that these spots stand for.
    pub places: Vec<Place>,
    pub places_from: Option<RecordHash>,
    pub content: Option<Content>,
    pub content_from: Option<RecordHash>,
    pub attrs: Vec<u8>,
    pub attrs_from: Option<RecordHash>,
    /// The records whose state this is: what an edit replaces.
    pub basis: Vec<RecordHash>,
}
