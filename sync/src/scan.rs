//! What lies in the tree, read without a key: headers say their ids in the clear (kith-store(5), "Headers"), roots are
//! hashed anew where the index does not know the file as it is. For the start without an index, and for looking for damage.

use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use keymgr::ids::{Epoch, FileId, LineageId, Locator, NodeId, Root, ShareId, StoreName};
use keymgr::root::LOCATOR;

use crate::bodies::groups_of_file;
use crate::engine::{EntryId, Observation, ObservedEntry, ObservedFile, ObservedFolder};
use crate::install::FOLDER_HEADER;
use crate::record::Kind;

/// The clear fields of a header.
pub struct Clear {
    pub kind: u8,
    pub epoch: Epoch,
    pub id: [u8; 16],
    pub lineage: LineageId,
    pub locator: Locator,
}

const FOLDER: u8 = 16;

impl Clear {
    pub fn parse(bytes: &[u8; FOLDER_HEADER]) -> Option<Self> {
        let field = |at: usize| bytes.get(at..at + 16).and_then(|b| <[u8; 16]>::try_from(b).ok());
        if bytes.get(..5)? != b"kith\x01" {
            return None;
        }
        Some(Self {
            kind: *bytes.get(5)?,
            epoch: Epoch(u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?)),
            id: field(28)?,
            lineage: LineageId::from_bytes(field(44)?),
            locator: Locator::from_bytes(field(LOCATOR.start)?),
        })
    }
}

/// How a file looked when its root was known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Signature {
    pub ino: u64,
    pub length: u64,
    pub mtime: i64,
    pub mtime_ns: i64,
    pub ctime: i64,
    pub ctime_ns: i64,
}

impl Signature {
    pub fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            ino: meta.ino(),
            length: meta.len(),
            mtime: meta.mtime(),
            mtime_ns: meta.mtime_nsec(),
            ctime: meta.ctime(),
            ctime_ns: meta.ctime_nsec(),
        }
    }
}

/// A file that was found.
pub struct Found {
    pub path: PathBuf,
    pub folder: NodeId,
    pub name: StoreName,
    pub file: FileId,
    pub signature: Signature,
    pub root: Root,
}

/// Files and folders of the tree. `known`: the root of a file that still looks as it did when its root was known.
pub fn scan(
    store: &Path,
    share: ShareId,
    known: impl Fn(&FileId, &Signature) -> Option<Root>,
) -> io::Result<(Observation, Vec<Found>, Vec<PathBuf>)> {
    let mut out = Observation::default();
    let (mut signatures, mut odd) = (Vec::new(), Vec::new());
    let mut todo = vec![(store.join("tree"), Some(NodeId::root_of(share)))];
    while let Some((dir, root)) = todo.pop() {
        let mut nodes: Vec<NodeId> = headers(&dir)?;
        nodes.extend(root);
        nodes.sort_unstable();
        nodes.dedup();
        let Some((node, also)) = nodes.split_first() else {
            odd.push(dir);
            continue;
        };
        let mut folder = ObservedFolder { node: *node, also: also.to_vec(), entries: Vec::new(), attrs: Vec::new() };
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_str().unwrap_or("\0");
            if name.starts_with(".kith-") {
                continue;
            }
            let Ok(name) = StoreName::parse(name) else {
                odd.push(path);
                continue;
            };
            let meta = entry.metadata()?;
            if meta.is_dir() {
                for node in headers(&path)? {
                    let locator = read_header(&path.join(crate::install::header_name(&node)))?.map(|h| h.locator);
                    let locator = locator.unwrap_or(Locator::from_bytes([0; 16]));
                    folder.entries.push(ObservedEntry {
                        name: name.clone(),
                        under: folder.node,
                        id: EntryId::Folder(node),
                        locator,
                    });
                }
                todo.push((path, None));
                continue;
            }
            let header = if meta.is_file() { read_header(&path)? } else { None };
            let kind = header.as_ref().and_then(|h| kind(h.kind));
            let (Some(header), Some(kind)) = (header, kind) else {
                odd.push(path);
                continue;
            };
            let file = FileId::from_bytes(header.id);
            let signature = Signature::of(&meta);
            let root = match known(&file, &signature) {
                Some(root) => root,
                None => groups_of_file(&path)?.root(),
            };
            signatures.push(Found { path, folder: folder.node, name: name.clone(), file, signature, root });
            folder.entries.push(ObservedEntry {
                name,
                under: folder.node,
                id: EntryId::File(file),
                locator: header.locator,
            });
            out.files.push(ObservedFile {
                file,
                kind,
                epoch: header.epoch,
                lineage: header.lineage,
                length: meta.len(),
                root,
                attrs: Vec::new(),
            });
        }
        out.folders.push(folder);
    }
    out.files.sort_by_key(|f| f.file);
    out.files.dedup_by_key(|f| f.file);
    Ok((out, signatures, odd))
}

fn headers(dir: &Path) -> io::Result<Vec<NodeId>> {
    let mut nodes = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        nodes.extend(name.to_str().and_then(|n| n.strip_prefix(".kith-")).and_then(|n| n.parse::<NodeId>().ok()));
    }
    Ok(nodes)
}

/// `None` where there is none.
fn read_header(path: &Path) -> io::Result<Option<Clear>> {
    let mut bytes = [0; FOLDER_HEADER];
    let file = crate::bodies::open(path)?;
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(Clear::parse(&bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

fn kind(byte: u8) -> Option<Kind> {
    match byte {
        1 => Some(Kind::File),
        2 => Some(Kind::Symlink),
        3 => Some(Kind::Fifo),
        4 => Some(Kind::Socket),
        5 => Some(Kind::Share),
        6 => Some(Kind::Block),
        7 => Some(Kind::Char),
        FOLDER => Some(Kind::Folder),
        _ => None,
    }
}
