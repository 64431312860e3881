//! A record: the signed whole state of one node, and what carries it between devices.
//!
//! The layout is specified in kith-protocol(7), RECORDS. Bytes are parsed once, here, into a type that cannot be
//! wrong; a record is named by the hash of its bytes as they were received.

use keymgr::circle::Circle;
use keymgr::device::{self, DeviceKeys, Domain, Signature};
use keymgr::devices::Cut;
use keymgr::ids::{
    DeviceId, Epoch, FileId, Incarnation, LineageId, Locator, NodeId, RecordHash, Root, ShareId, StoreName,
};
use serde::{Deserialize, Serialize};

/// No signed record is longer.
pub const MAX_SIGNED: usize = 64 * 1024;
/// Names (hard links) of one node.
pub const MAX_PLACES: usize = 128;
/// Records that one record replaces.
pub const MAX_REPLACES: usize = 256;
/// Sealed attributes of one node.
pub const MAX_ATTRS: usize = 40 * 1024;
/// Records that take effect together.
pub const MAX_TOGETHER: u16 = 256;

const VERSION: u8 = 1;
const SIGNATURE: usize = 64;
const HASH_CONTEXT: &str = "kith.v1 record hash";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("a record of {0} bytes is longer than any may be")]
    TooLong(usize),
    #[error("a record is not well formed: {0}")]
    Malformed(&'static str),
    #[error("a record of version {0} is not known here")]
    Version(u8),
    #[error("device {0} is not on the list")]
    NotListed(DeviceId),
    #[error("device {0} may not write")]
    MayNotWrite(DeviceId),
    #[error("the signature of a record of device {0} does not verify")]
    Signature(DeviceId),
}

/// What a node is; it never changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Kind {
    Folder,
    File,
    Symlink,
    Fifo,
    Socket,
    /// A junction: the place of another share, whose id is the file id of the content.
    Share,
    Block,
    Char,
}

/// The whole state of one node, and which of its records this one replaces.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    pub share: ShareId,
    pub node: NodeId,
    pub kind: Kind,
    /// Sorted, each once.
    pub replaces: Vec<RecordHash>,
    pub state: State,
    /// Set where several records of one author take effect all or none.
    pub together: Option<Together>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum State {
    Dead(Grave),
    Live(Live),
}

/// A tombstone; that of a folder says where it was, since something living in it keeps it there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grave {
    pub places: Vec<Place>,
    pub places_from: Option<RecordHash>,
}

/// Each field names the record that set it; `None`: this one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Live {
    /// Sorted; one for a folder, none for the root, one or more (hard links) for the rest.
    pub places: Vec<Place>,
    /// Who set parents and names. Locators belong to this record's own `content.file`.
    pub places_from: Option<RecordHash>,
    /// `None` for a folder only.
    pub content: Option<Content>,
    pub content_from: Option<RecordHash>,
    /// Sealed for members, bound to this record's own `content.file` or to the folder.
    pub attrs: Vec<u8>,
    pub attrs_from: Option<RecordHash>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Place {
    pub parent: NodeId,
    pub name: StoreName,
    pub locator: Locator,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Content {
    pub file: FileId,
    pub epoch: Epoch,
    pub lineage: LineageId,
    pub length: u64,
    pub root: Root,
}

/// This record is number `index` of `count` consecutive ones of its author that take effect all or none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Together {
    pub index: u16,
    pub count: u16,
}

/// One life of one device's log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Author {
    pub device: DeviceId,
    pub incarnation: Incarnation,
}

/// A record with its author's signature, exactly as its bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed {
    bytes: Vec<u8>,
    entry: Entry,
    list: u64,
}

/// What the engine needs to know of a signed record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub hash: RecordHash,
    pub author: Author,
    /// From 1 up, without gaps; orders transport only.
    pub number: u64,
    /// The author's record before this one.
    pub previous: Option<RecordHash>,
    pub record: Record,
}

/// Goes in front of the record; all of it is signed.
#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u8,
    device: DeviceId,
    incarnation: Incarnation,
    number: u64,
    previous: Option<RecordHash>,
    list: u64,
    record: Record,
}

impl Record {
    /// Where it is (or was, for a tombstone).
    pub fn places(&self) -> &[Place] {
        match &self.state {
            State::Dead(grave) => &grave.places,
            State::Live(live) => &live.places,
        }
    }

    pub fn live(&self) -> Option<&Live> {
        match &self.state {
            State::Dead(_) => None,
            State::Live(live) => Some(live),
        }
    }

    pub fn content(&self) -> Option<&Content> {
        self.live().and_then(|live| live.content.as_ref())
    }

    pub fn is_dead(&self) -> bool {
        self.live().is_none()
    }

    /// Bounds and shape; what passes here cannot surprise the engine.
    pub fn check(&self) -> Result<(), RecordError> {
        let bad = |why| Err(RecordError::Malformed(why));
        if self.replaces.len() > MAX_REPLACES || !self.replaces.is_sorted_by(|a, b| a < b) {
            return bad("the list of what it replaces is too long or not sorted");
        }
        let places = self.places();
        if places.len() > MAX_PLACES || !places.is_sorted_by(|a, b| (a.parent, &a.name) < (b.parent, &b.name)) {
            return bad("too many names, or not sorted");
        }
        let root = NodeId::root_of(self.share);
        let is_root = self.node == root;
        if is_root && (self.kind != Kind::Folder || !places.is_empty() || self.is_dead()) {
            return bad("the root is a folder without a name, and stays");
        }
        if places.iter().any(|p| p.parent == self.node) {
            return bad("a node in itself");
        }
        if self.kind == Kind::Folder && places.len() != usize::from(!is_root) {
            return bad("a folder has one name");
        }
        if self.kind == Kind::Share && places.len() > 1 {
            return bad("a share has one place");
        }
        if let Some(live) = self.live() {
            if live.attrs.len() > MAX_ATTRS {
                return bad("attributes too long");
            }
            if (self.kind == Kind::Folder) != live.content.is_none() {
                return bad("folders have no content, everything else has");
            }
            if places.is_empty() && !is_root {
                return bad("a living node without a name");
            }
            if live.content.is_none() && live.content_from.is_some() {
                return bad("no content cannot come from somewhere");
            }
        }
        if let Some(t) = self.together
            && (t.count < 2 || t.index >= t.count || t.count > MAX_TOGETHER)
        {
            return bad("a group that cannot be");
        }
        Ok(())
    }
}

impl Signed {
    /// A record of this device: `number` is one more than that of `previous`, or 1.
    pub fn sign(
        keys: &DeviceKeys,
        incarnation: Incarnation,
        number: u64,
        previous: Option<RecordHash>,
        list: u64,
        record: Record,
    ) -> Result<Self, RecordError> {
        let author = Author { device: keys.id(), incarnation };
        Self::assemble(author, number, previous, list, record, |bytes| *keys.sign(Domain::Record, bytes).as_bytes())
    }

    /// Whether a record that was not accepted before may be: its author has a seat, may write, and signed it; or it
    /// lies before the cut of a device that was lost. Whatever list the record itself names.
    pub fn verify(&self, circle: &Circle) -> Result<(), RecordError> {
        let Author { device, incarnation } = self.entry.author;
        match (circle.get(&device), circle.cut(&device)) {
            (Some(seat), _) if !seat.access.may_write() => return Err(RecordError::MayNotWrite(device)),
            (Some(_), _) => {}
            (None, Some(Cut::Lost(cuts))) => {
                let share = self.entry.record.share;
                let believed = |c: &keymgr::devices::RecordCut| {
                    (c.share, c.incarnation) == (share, incarnation) && self.entry.number <= c.number
                };
                if !cuts.iter().any(believed) {
                    return Err(RecordError::NotListed(device));
                }
            }
            _ => return Err(RecordError::NotListed(device)),
        }
        self.verify_signature()
    }

    /// The signature alone, for what was accepted before: the own log, or a kin's snapshot.
    pub fn verify_signature(&self) -> Result<(), RecordError> {
        let signature = Signature::from_bytes(self.signature());
        if device::verify(&self.device(), Domain::Record, self.signed_bytes(), &signature) {
            Ok(())
        } else {
            Err(RecordError::Signature(self.device()))
        }
    }

    /// Signs with `sign`, which is given all bytes before the signature.
    fn assemble(
        author: Author,
        number: u64,
        previous: Option<RecordHash>,
        list: u64,
        record: Record,
        sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE],
    ) -> Result<Self, RecordError> {
        record.check()?;
        let Author { device, incarnation } = author;
        let envelope = Envelope { version: VERSION, device, incarnation, number, previous, list, record };
        let mut bytes = postcard::to_stdvec(&envelope).map_err(|_| RecordError::Malformed("cannot be written"))?;
        let signature = sign(&bytes);
        bytes.extend_from_slice(&signature);
        Self::parse(&bytes)
    }

    /// Strict: bounds, shape, one encoding only. The signature is for [`Self::signature`]'s reader to check.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_SIGNED {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let Some((signed, _)) = bytes.len().checked_sub(SIGNATURE).and_then(|at| bytes.split_at_checked(at)) else {
            return Err(RecordError::Malformed("too short"));
        };
        match signed.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(RecordError::Version(other)),
            None => return Err(RecordError::Malformed("too short")),
        }
        let envelope: Envelope = postcard::from_bytes(signed).map_err(|_| RecordError::Malformed("does not decode"))?;
        if postcard::to_stdvec(&envelope).ok().as_deref() != Some(signed) {
            return Err(RecordError::Malformed("not the one encoding"));
        }
        envelope.record.check()?;
        if envelope.number == 0 || (envelope.number == 1) != envelope.previous.is_none() {
            return Err(RecordError::Malformed("number and previous record do not fit"));
        }
        let Envelope { device, incarnation, number, previous, list, record, .. } = envelope;
        let hash = RecordHash::from_bytes(blake3::derive_key(HASH_CONTEXT, bytes));
        let entry = Entry { hash, author: Author { device, incarnation }, number, previous, record };
        Ok(Self { bytes: bytes.to_vec(), entry, list })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the signature is over.
    pub fn signed_bytes(&self) -> &[u8] {
        &self.bytes[..self.bytes.len().saturating_sub(SIGNATURE)]
    }

    pub fn signature(&self) -> [u8; SIGNATURE] {
        let at = self.bytes.len().saturating_sub(SIGNATURE);
        self.bytes.get(at..).and_then(|s| s.try_into().ok()).unwrap_or([0; SIGNATURE])
    }

    pub fn hash(&self) -> RecordHash {
        self.entry.hash
    }

    pub fn device(&self) -> DeviceId {
        self.entry.author.device
    }

    /// The version of the circle that the author knew.
    pub fn list_version(&self) -> u64 {
        self.list
    }

    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    pub fn into_entry(self) -> Entry {
        self.entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let parent = NodeId::from_bytes([1; 16]);
        let place =
            |name: &str| Place { parent, name: StoreName::parse(name).unwrap(), locator: Locator::from_bytes([2; 16]) };
        Record {
            share: ShareId::from_bytes([1; 16]),
            node: NodeId::from_bytes([3; 16]),
            kind: Kind::File,
            replaces: vec![RecordHash::from_bytes([4; 32]), RecordHash::from_bytes([5; 32])],
            state: State::Live(Live {
                places: vec![place("aaa"), place("bbb")],
                places_from: None,
                content: Some(Content {
                    file: FileId::from_bytes([6; 16]),
                    epoch: Epoch::FIRST,
                    lineage: LineageId::from_bytes([7; 16]),
                    length: 4097,
                    root: Root::from_bytes([8; 32]),
                }),
                content_from: Some(RecordHash::from_bytes([4; 32])),
                attrs: vec![9; 40],
                attrs_from: None,
            }),
            together: Some(Together { index: 0, count: 2 }),
        }
    }

    fn author() -> Author {
        Author { device: DeviceId::from_bytes([10; 32]), incarnation: Incarnation::from_bytes([11; 8]) }
    }

    fn signed(record: Record) -> Result<Signed, RecordError> {
        Signed::assemble(author(), 1, None, 3, record, |_| [12; 64])
    }

    #[test]
    fn a_record_reads_back_from_its_bytes() {
        let one = signed(record()).unwrap();
        let two = Signed::parse(one.bytes()).unwrap();
        assert_eq!(one, two);
        assert_eq!(two.entry().record, record());
        assert_eq!((two.list_version(), two.signature()), (3, [12; 64]));
    }

    #[test]
    fn one_changed_byte_ends_the_signature() {
        let keys = DeviceKeys::generate();
        let incarnation = Incarnation::from_bytes([1; 8]);
        let one = Signed::sign(&keys, incarnation, 1, None, 1, record()).unwrap();
        assert_eq!(one.verify_signature(), Ok(()));
        for at in (0..one.bytes().len()).step_by(7) {
            let mut bytes = one.bytes().to_vec();
            bytes[at] ^= 1;
            assert!(
                Signed::parse(&bytes).is_ok_and(|s| s.verify_signature().is_err()) || Signed::parse(&bytes).is_err()
            );
        }
    }

    #[test]
    fn only_listed_writers_are_believed_and_the_lost_up_to_their_cut() {
        use keymgr::account::AccountKey;
        use keymgr::devices::{DeviceList, Listed, RecordCut, Role};
        let (account, admin) = (AccountKey::generate(), DeviceKeys::generate());
        let (blind, lost, stranger) = (DeviceKeys::generate(), DeviceKeys::generate(), DeviceKeys::generate());
        let listed = |keys: &DeviceKeys, role| Listed::new(keys.public(), role, "name", "a@example.org", 1);
        let list = DeviceList::create(&account, &admin, listed(&admin, Role::Full)).unwrap();
        let list = list.with_added(&admin, listed(&blind, Role::Blind)).unwrap();
        let list = list.with_added(&admin, listed(&lost, Role::Full)).unwrap();
        let incarnation = Incarnation::from_bytes([1; 8]);
        let signed = |keys: &DeviceKeys, number: u64| {
            let previous = (number > 1).then(|| RecordHash::from_bytes([2; 32]));
            Signed::sign(keys, incarnation, number, previous, 1, record()).unwrap()
        };
        assert_eq!(signed(&admin, 1).verify(&Circle::of_account(list.clone())), Ok(()));
        assert_eq!(signed(&lost, 1).verify(&Circle::of_account(list.clone())), Ok(()));
        assert_eq!(
            signed(&blind, 1).verify(&Circle::of_account(list.clone())),
            Err(RecordError::MayNotWrite(blind.id()))
        );
        assert_eq!(
            signed(&stranger, 1).verify(&Circle::of_account(list.clone())),
            Err(RecordError::NotListed(stranger.id()))
        );
        let share = record().share;
        let cut = Cut::Lost(vec![RecordCut { share, incarnation, number: 1 }]);
        let list = list.with_removed(&admin, lost.id(), cut).unwrap();
        assert_eq!(
            signed(&lost, 1).verify(&Circle::of_account(list.clone())),
            Ok(()),
            "what it wrote before it was lost"
        );
        assert_eq!(
            signed(&lost, 2).verify(&Circle::of_account(list.clone())),
            Err(RecordError::NotListed(lost.id())),
            "what its finder writes"
        );
    }

    #[test]
    fn every_cut_and_every_trailing_byte_is_refused() {
        let bytes = signed(record()).unwrap().bytes().to_vec();
        for end in 0..bytes.len() {
            // A cut moves the signature's border, so what remains decodes to something shorter or not at all.
            assert!(Signed::parse(&bytes[..end]).is_err(), "{end}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(Signed::parse(&longer).is_err());
        assert_eq!(Signed::parse(&vec![1; MAX_SIGNED + 1]), Err(RecordError::TooLong(MAX_SIGNED + 1)));
        let mut newer = bytes;
        newer[0] = 2;
        assert_eq!(Signed::parse(&newer), Err(RecordError::Version(2)));
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let change = |f: &dyn Fn(&mut Record)| {
            let mut r = record();
            f(&mut r);
            signed(r)
        };
        fn live(r: &mut Record) -> &mut Live {
            match &mut r.state {
                State::Live(live) => live,
                State::Dead(_) => unreachable!(),
            }
        }
        assert!(change(&|r| r.replaces.reverse()).is_err());
        assert!(change(&|r| r.replaces.push(r.replaces[1])).is_err());
        assert!(change(&|r| live(r).places.clear()).is_err());
        assert!(change(&|r| live(r).places.reverse()).is_err());
        assert!(change(&|r| live(r).content = None).is_err());
        assert!(change(&|r| r.kind = Kind::Folder).is_err());
        assert!(change(&|r| live(r).attrs = vec![0; MAX_ATTRS + 1]).is_err());
        assert!(change(&|r| r.node = NodeId::from_bytes([1; 16])).is_err());
        assert!(change(&|r| r.together = Some(Together { index: 2, count: 2 })).is_err());
        assert!(change(&|r| r.together = None).is_ok());
        assert!(change(&|r| r.kind = Kind::Share).is_err(), "with two names");
    }
}
