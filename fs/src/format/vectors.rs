//! tests/vectors/store.json, frozen, made by an independent writer (tests/reader/make_vectors.py): all of it that is valid
//! opens and seals to the same bytes, all that must be refused is.

use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use keymgr::ids::{Epoch, FileId, LineageId, Locator, NodeId, ShareId, StoreName};
use keymgr::secret::Secret32;
use keymgr::share::ShareKeys;
use serde_json::Value;

use super::attrs::Attrs;
use super::header::{FolderHeader, Header, Kind};
use super::name::Names;
use super::seal::Cipher;
use super::tag::EpochTag;
use super::{HEADER, PAGE, Refused, length, locator, page, xattr};
use crate::content::Content;
use crate::store::sim::SimDisk;
use crate::store::{File, Store};

struct Vectors {
    all: Value,
    keys: ShareKeys,
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn id(value: &Value) -> [u8; 16] {
    hex(value).try_into().unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn epoch(value: &Value) -> Epoch {
    Epoch(number(value) as u32)
}

fn header(value: &Value) -> [u8; HEADER] {
    hex(value).try_into().unwrap()
}

impl Vectors {
    fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/store.json");
        let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut keys = ShareKeys::empty(ShareId::from_bytes(id(&all["share"])));
        for pair in all["keys"].as_array().unwrap() {
            keys.insert(epoch(&pair[0]), Secret32::from_bytes(hex(&pair[1]).try_into().unwrap()));
        }
        Self { all, keys }
    }

    fn valid(&self, what: &str) -> &[Value] {
        self.some("valid", what)
    }

    fn refuse(&self, what: &str) -> &[Value] {
        self.some("refuse", what)
    }

    fn some(&self, side: &str, what: &str) -> &[Value] {
        let list = self.all[side][what].as_array().unwrap();
        assert!(!list.is_empty());
        list
    }
}

#[test]
fn tags_and_lengths() {
    let vectors = Vectors::load();
    for v in vectors.valid("epoch_tags") {
        assert_eq!(EpochTag::of(vectors.keys.share(), epoch(&v[0])).0.to_vec(), hex(&v[1]));
    }
    for v in vectors.valid("lengths") {
        assert_eq!(length::of_size(number(&v[0])), number(&v[1]));
        assert_eq!(length::to_size(number(&v[1])), number(&v[0]));
    }
    for v in vectors.valid("crash_lengths") {
        assert_eq!(length::to_size(number(&v[0])), number(&v[1]));
    }
}

#[test]
fn headers() {
    let vectors = Vectors::load();
    for v in vectors.valid("headers") {
        let (open, at) = Header::open(&vectors.keys, &header(&v["raw"])).unwrap();
        use Kind::{Block, Char, Fifo, File, Share, Socket, Symlink};
        let kinds = [File, Symlink, Fifo, Socket, Share, Block, Char];
        let kind = kinds[number(&v["kind"]) as usize - 1];
        assert_eq!((open.kind, open.epoch, open.file), (kind, epoch(&v["epoch"]), FileId::from_bytes(id(&v["id"]))));
        assert_eq!(
            (open.lineage, at.as_bytes().to_vec()),
            (LineageId::from_bytes(id(&v["lineage"])), hex(&v["locator"]))
        );
        let former = v["former"].as_array().unwrap();
        assert_eq!(open.former.len(), former.len());
        for (have, want) in open.former.iter().zip(former) {
            assert_eq!((have.tag.0.to_vec(), have.key.expose().to_vec()), (hex(&want[0]), hex(&want[1])));
        }
    }
    for v in vectors.valid("folder_headers") {
        let (open, at) = FolderHeader::open(&vectors.keys, &header(&v["raw"])).unwrap();
        assert_eq!((open.epoch, open.node), (epoch(&v["epoch"]), NodeId::from_bytes(id(&v["id"]))));
        assert_eq!(at.as_bytes().to_vec(), hex(&v["locator"]));
    }
    for v in vectors.valid("copies") {
        let (of, _) = Header::open(&vectors.keys, &header(&v["of"])).unwrap();
        let copy = of.of_copy(FileId::from_bytes(id(&v["id"])));
        assert_eq!(copy.seal_derived(&vectors.keys, &locator::NOWHERE).unwrap().to_vec(), hex(&v["raw"]));
    }
    for v in vectors.refuse("headers") {
        assert!(Header::open(&vectors.keys, &header(&v["raw"])).is_err(), "{}", v["why"]);
    }
    for v in vectors.refuse("folder_headers") {
        assert!(FolderHeader::open(&vectors.keys, &header(&v["raw"])).is_err(), "{}", v["why"]);
    }
}

#[test]
fn locators() {
    let vectors = Vectors::load();
    for v in vectors.valid("locators") {
        let parent = NodeId::from_bytes(id(&v["parent"]));
        let have = locator::locate(&vectors.keys, epoch(&v["epoch"]), &parent, &hex(&v["name"]), &id(&v["id"]));
        assert_eq!(have, Some(Locator::from_bytes(id(&v["locator"]))));
    }
}

#[test]
fn files() {
    let vectors = Vectors::load();
    for v in vectors.valid("files") {
        let (disk, path) = (SimDisk::new(), Path::new("a"));
        let file: Arc<dyn File> = disk.create(path, 0o600).unwrap();
        file.write_at(&hex(&v["data"]), 0).unwrap();
        file.set_length(number(&v["length"])).unwrap();
        let root = crate::content::roots::whole(file.as_ref()).unwrap().root();
        assert_eq!(root.as_bytes().to_vec(), hex(&v["root"]));
        let content = Content::open(file, path, &vectors.keys).unwrap();
        assert!(content.read_all(1 << 20).unwrap() == hex(&v["content"]));
    }
}

#[test]
fn pages_that_must_be_refused() {
    let vectors = Vectors::load();
    let lineage = LineageId::from_bytes(id(&vectors.all["lineage"]));
    for v in vectors.refuse("pages") {
        let number = number(&v["page"]);
        let mut body = hex(&v["raw"]);
        body.resize(PAGE - page::body_start(number), 0);
        let mut open = || -> Result<(), Refused> {
            let Some(clear) = page::Clear::parse(number, &body)? else {
                return if page::is_hole(&body) { Ok(()) } else { Err(Refused::Layout) };
            };
            let epoch = clear.epoch.epochs(&vectors.keys).next().ok_or(Refused::NoKey)?;
            let cipher = Cipher::new(&vectors.keys.page_key(epoch, &lineage).unwrap());
            page::open(&cipher, &lineage, number, &clear, &mut body)
        };
        assert!(open().is_err(), "{}", v["why"]);
    }
}

#[test]
fn names() {
    let vectors = Vectors::load();
    let names = |v: &Value| Names::new(&vectors.keys, &NodeId::from_bytes(id(&v["folder"])));
    let sidecar = |v: &Value| v["sidecar"].as_str().map(|_| hex(&v["sidecar"]));
    for v in vectors.valid("names") {
        let sealed = StoreName::parse(v["sealed"].as_str().unwrap()).unwrap();
        let (name, sidecar) = (hex(&v["name"]), sidecar(v));
        assert_eq!(names(v).open(&sealed, sidecar.as_deref()).unwrap(), (name.clone(), epoch(&v["epoch"])));
        let again = names(v).seal_all(&name).unwrap().any(|have| have.name == sealed && have.sidecar == sidecar);
        assert!(again, "{sealed} is not what the name seals to");
    }
    for v in vectors.refuse("names") {
        let open = StoreName::parse(v["sealed"].as_str().unwrap())
            .map_err(|_| Refused::Layout)
            .and_then(|sealed| names(v).open(&sealed, sidecar(v).as_deref()));
        assert!(open.is_err(), "{}", v["why"]);
    }
}

#[test]
fn extended_attributes() {
    let vectors = Vectors::load();
    let open = |v: &Value| xattr::open(&vectors.keys, &id(&v["id"]), v["stored"].as_str().unwrap(), &hex(&v["raw"]));
    for v in vectors.valid("xattrs") {
        assert_eq!(open(v).unwrap(), (hex(&v["name"]), hex(&v["value"])));
    }
    for v in vectors.refuse("xattrs") {
        assert!(open(v).is_err(), "{}", v["why"]);
    }
}

#[test]
fn attributes_in_records() {
    let vectors = Vectors::load();
    for v in vectors.valid("attrs") {
        let attrs = Attrs::open(&vectors.keys, &id(&v["id"]), &hex(&v["raw"])).unwrap();
        let pairs = v["xattrs"].as_array().unwrap().iter().map(|pair| (hex(&pair[0]), hex(&pair[1])));
        let want = Attrs {
            mode: number(&v["mode"]) as u32,
            mtime: v["mtime"].as_i64().unwrap().into(),
            uid: number(&v["uid"]) as u32,
            gid: number(&v["gid"]) as u32,
            xattrs: pairs.collect(),
            long_names: v["long_names"].as_array().unwrap().iter().map(hex).collect(),
        };
        assert_eq!(attrs, want);
        assert_eq!(attrs.seal_under(&vectors.keys, epoch(&v["epoch"]), &id(&v["id"])).unwrap(), hex(&v["raw"]));
    }
    for v in vectors.refuse("attrs") {
        assert!(Attrs::open(&vectors.keys, &id(&v["id"]), &hex(&v["raw"])).is_err(), "{}", v["why"]);
    }
}
