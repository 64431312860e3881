//! Folders from the disk into the table: their headers, their entries, and the check of both against the records.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use keymgr::ids::{Epoch, FileId, LineageId, Locator, NodeId, StoreName};

use super::error::{Error, Result};
use super::file::FileNode;
use super::tree::{Entry, FileRef, Folder, Listing, Missing, Node, Place, Tree};
use super::{Inner, attrs};
use crate::content::{self, Content, Kind};
use crate::format::folder::{self, Stored};
use crate::format::header::{self, FolderHeader, Header};
use crate::format::locator::{self, NOWHERE};
use crate::format::name::{self, Names};
use crate::format::{HEADER, PAGE};
use crate::records::{EntryId, Refusal};
use crate::session;
use crate::store::{Stat, Type, read_small};

/// No sidecar that kith writes is longer.
const SIDECAR: usize = 512;

impl Inner {
    /// What the disk says, with the true mode.
    pub fn stat_path(&self, path: &Path) -> Result<Stat> {
        let mut stat = self.store.stat(path).map_err(Error::io(path))?;
        if attrs::is_marked(&stat) {
            let file = match stat.kind {
                Type::Folder => self.store.open_folder(path),
                _ => self.store.open(path, false),
            };
            attrs::true_mode(&mut stat, || file?.xattr(attrs::MODE)).map_err(Error::io(path))?;
        }
        Ok(stat)
    }

    /// A folder as its directory shows it, without its entries. `place`: where it lies, with its plain name; its headers
    /// must be of that place unless they may differ.
    pub fn read_folder(&self, path: &Path, at: Option<(&Tree, u64, &Entry)>) -> Result<Folder> {
        let stat = self.stat_path(path)?;
        if stat.kind != Type::Folder {
            return Err(Error::Damaged { path: path.to_owned(), what: "it is no folder" });
        }
        let keys = self.keys();
        let mut headers = Vec::new();
        let mut first_error = None;
        let mut new_header = false;
        for listed in self.store.list(path).map_err(Error::io(path))? {
            let Ok(Stored::Header(node)) = folder::sort(listed.name.as_bytes()) else {
                continue;
            };
            match self.read_folder_header(&path.join(&listed.name), &node, at) {
                Ok(mended) => {
                    new_header |= mended;
                    headers.push((node, Names::new(&keys, &node)));
                }
                Err(e) => {
                    first_error.get_or_insert((node, e));
                }
            }
        }
        headers.sort_unstable_by_key(|(node, _)| *node);
        if headers.is_empty() {
            let shown = at.map(|(tree, parent, entry)| tree.shown_at(parent, &entry.store));
            let recorded = at.and_then(|(tree, parent, entry)| self.recorded_id(tree, parent, &entry.store));
            match first_error {
                Some((node, e)) => self.refused(shown, path, Some(EntryId::Folder(node)), &e),
                // A record is made of a folder only when its header is durable. (After a crash another one may have the name.)
                None if recorded.is_some() && !self.session.unmended() => {
                    let e = Error::Damaged { path: path.to_owned(), what: "its header is missing" };
                    self.refused(shown, path, recorded, &e);
                }
                // What a crash leaves of a folder made just before it gets a header again. (Before anything durable moves into
                // a folder its header is durable too.)
                None if !self.frozen() && at.is_none_or(|(tree, parent, _)| !self.is_strict(tree, parent)) => {
                    let node = NodeId::random();
                    let place = at.and_then(|(_, _, entry)| self.locator_of(entry, &EntryId::Folder(node)));
                    self.write_folder_header(path, &node, &place.unwrap_or(NOWHERE))?;
                    headers.push((node, Names::new(&keys, &node)));
                    new_header = true;
                }
                None => {}
            }
        }
        Ok(Folder {
            lookups: 0,
            place: None,
            headers,
            listing: None,
            stat: Some(stat),
            xattrs: None,
            listed: false,
            observed: false,
            dirty: new_header,
            changes: u64::from(new_header),
            synced: 0,
            unsynced: true,
            new_header,
            gone: false,
            moved: Default::default(),
        })
    }

    /// `true`: it was lost in a crash, and was written anew.
    fn read_folder_header(&self, path: &Path, node: &NodeId, at: Option<(&Tree, u64, &Entry)>) -> Result<bool> {
        let bytes = read_small(self.store.as_ref(), path, HEADER).map_err(Error::io(path))?;
        if header::is_missing(&bytes)
            && !self.frozen()
            && let Some((tree, parent, entry)) = at
            && !self.is_strict(tree, parent)
        {
            // What a crash leaves of it is its name, which says all that there is to it.
            let place = self.locator_of(entry, &EntryId::Folder(*node)).unwrap_or(NOWHERE);
            let bytes =
                FolderHeader::new(&self.keys(), *node).seal(&self.keys(), &place).map_err(Error::refused(path))?;
            let file = self.store.open(path, true).map_err(Error::io(path))?;
            file.write_at(&bytes, 0).map_err(Error::io(path))?;
            return Ok(true);
        }
        let bytes: [u8; HEADER] =
            bytes.try_into().map_err(|_| Error::Damaged { path: path.to_owned(), what: "a folder's header is cut" })?;
        let (header, found) = FolderHeader::open(&self.keys(), &bytes).map_err(Error::refused(path))?;
        if header.node != *node {
            return Err(Error::Damaged { path: path.to_owned(), what: "a folder's header has another's name" });
        }
        let id = EntryId::Folder(*node);
        if let Some((tree, parent, entry)) = at {
            self.check_place(tree, parent, entry, &id, &found, path, false)?;
        }
        Ok(false)
    }

    pub fn write_folder_header(&self, path: &Path, node: &NodeId, at: &Locator) -> Result<()> {
        let keys = self.keys();
        let path = path.join(folder::header_name(node));
        let bytes = FolderHeader::new(&keys, *node).seal(&keys, at).map_err(Error::refused(&path))?;
        let file = self.store.create(&path, 0o600).map_err(Error::io(&path))?;
        file.write_at(&bytes, 0).map_err(Error::io(&path))
    }

    /// The locator that an entry must have.
    pub fn locator_of(&self, entry: &Entry, id: &EntryId) -> Option<Locator> {
        locator::locate(&self.keys(), entry.epoch, &entry.under, &entry.plain, id.as_bytes())
    }

    /// Whether the entries of a folder must be what the records say.
    pub fn is_strict(&self, tree: &Tree, ino: u64) -> bool {
        let Ok(folder) = tree.folder(ino) else { return false };
        let nodes = || folder.headers.iter().map(|(node, _)| *node);
        !self.options.trusting
            && !folder.listed
            && !folder.dirty
            && !self.session.is_loose_folder(nodes())
            && nodes().any(|node| self.records.has_folder(node))
    }

    /// An entry's header says where it belongs; another place means that somebody moved it.
    #[allow(clippy::too_many_arguments)]
    fn check_place(
        &self,
        tree: &Tree,
        parent: u64,
        entry: &Entry,
        id: &EntryId,
        found: &Locator,
        path: &Path,
        linked: bool,
    ) -> Result<()> {
        if self.locator_of(entry, id).as_ref() == Some(found) {
            return Ok(());
        }
        let folder = tree.folder(parent)?;
        let loose = !self.is_strict(tree, parent) && self.session.unmended();
        // What lost a name a moment ago has one, and its header may still say the other.
        let is_file = matches!(id, EntryId::File(_));
        if loose || self.options.trusting || is_file && self.is_other_link(path, entry, id) {
            return Ok(());
        }
        // Recorded as it stands: then it is the record that counts, and mending writes the locator anew.
        let recorded = linked
            && folder.headers.iter().any(|(node, _)| {
                self.records.folder(*node).is_some_and(|list| list.contains(&(entry.store.clone(), *id)))
            });
        if recorded {
            return Ok(());
        }
        Err(Error::Damaged { path: path.to_owned(), what: "it does not belong to this place" })
    }

    fn is_other_link(&self, path: &Path, entry: &Entry, id: &EntryId) -> bool {
        let Some(want) = self.locator_of(entry, id) else { return false };
        self.store.open(path, false).is_ok_and(|disk| super::file::is_beside(disk.as_ref(), &want))
    }

    /// Reads the entries of a folder, if that was not done yet, and checks them against the records once a session.
    pub fn load_listing(&self, tree: &mut Tree, ino: u64) -> Result<()> {
        if tree.folder(ino)?.listing.is_some() {
            return Ok(());
        }
        let path = tree.folder_path(ino)?;
        let mut listing = Listing::default();
        let mut entries = Vec::new();
        let listed = self.store.list(&path).map_err(Error::io(&path)).map_err(|e| {
            let node = tree.node_of(ino).ok();
            self.missing(e, tree.shown_folder(ino), &path, node.map(EntryId::Folder))
        })?;
        for listed in listed {
            match folder::sort(listed.name.as_bytes()) {
                Ok(Stored::Header(_) | Stored::Sidecar(_) | Stored::Aside) => {}
                Ok(Stored::Entry(store)) => match self.open_name(tree.folder(ino)?, &path, &store) {
                    Ok((under, plain, epoch)) => entries.push(Entry {
                        store,
                        under,
                        epoch,
                        plain,
                        folder: listed.kind == Type::Folder,
                        ids: Vec::new(),
                        ino: 0,
                        disk: listed.ino,
                        seq: 0,
                    }),
                    Err(e) => {
                        // After a crash it may be what is left of a name that was never durable.
                        let whole = !tree.folder(ino)?.headers.is_empty(); // else it was refused as a whole
                        if whole && (self.is_strict(tree, ino) || !self.session.unmended()) {
                            self.refused(Some(tree.shown_folder(ino)), &path.join(store.as_str()), None, &e);
                        }
                        listing.hidden.insert(listed.name);
                    }
                },
                Err(_) => {
                    listing.hidden.insert(listed.name);
                }
            }
        }
        // The first in this order keeps a name that several have.
        entries.sort_unstable_by(|a, b| a.store.cmp(&b.store));
        for entry in entries {
            listing.add(entry);
        }
        self.check_listing(tree, ino, &path, &mut listing)?;
        let folder = tree.folder_mut(ino)?;
        folder.listing = Some(listing);
        Ok(())
    }

    /// EIO where a folder has entries and no header that opens their names: it is to be healed, and removable until then.
    pub fn has_header(&self, tree: &Tree, ino: u64) -> Result<()> {
        let hidden = !tree.listing(ino)?.hidden.is_empty();
        if hidden && tree.folder(ino)?.headers.is_empty() { Err(Error::Errno(libc::EIO)) } else { Ok(()) }
    }

    /// Opens a sealed name under whichever of the folder's headers it is.
    fn open_name(&self, folder: &Folder, path: &Path, store: &StoreName) -> Result<(NodeId, Vec<u8>, Epoch)> {
        let sidecar = if name::is_long(store) {
            let path = path.join(folder::sidecar_name(store));
            read_small(self.store.as_ref(), &path, SIDECAR).ok()
        } else {
            None
        };
        let mut why = crate::format::Refused::NoKey;
        for (node, names) in &folder.headers {
            match names.open(store, sidecar.as_deref()) {
                Ok((plain, epoch)) => return Ok((*node, plain, epoch)),
                Err(e) => why = e,
            }
        }
        Err(Error::Refused { path: path.join(store.as_str()), why })
    }

    fn check_listing(&self, tree: &Tree, ino: u64, path: &Path, listing: &mut Listing) -> Result<()> {
        let folder = tree.folder(ino)?;
        let nodes: Vec<NodeId> = folder.headers.iter().map(|(node, _)| *node).collect();
        if !self.is_strict(tree, ino) || self.session.is_checked(nodes.iter().copied()) {
            return Ok(());
        }
        let Some(recorded) = nodes.iter().find_map(|node| self.records.folder(*node)) else { return Ok(()) };
        let mut by_name: HashMap<StoreName, Vec<EntryId>> = HashMap::new();
        for (store, id) in recorded {
            by_name.entry(store).or_default().push(id);
        }
        let extra: Vec<StoreName> = listing
            .entries
            .values()
            .filter(|e| {
                let is_right = |id: &EntryId| matches!(id, EntryId::Folder(_)) == e.folder;
                by_name.get(&e.store).is_none_or(|ids| !ids.iter().all(is_right))
            })
            .map(|e| e.store.clone())
            .collect();
        for store in extra {
            let shown = listing.shown.get(&store).cloned();
            let at = path.join(store.as_str());
            let e = Error::Damaged { path: at.clone(), what: "no record says that it is there" };
            self.refused(Some(tree.shown_folder(ino)), &at, None, &e);
            if let Some(shown) = shown {
                listing.remove(&shown);
            }
            if !self.options.read_only {
                session::into_quarantine(self.store.as_ref(), &at).map_err(Error::io(&at))?;
            }
        }
        for (store, mut ids) in by_name {
            ids.sort_unstable();
            if let Some(entry) = listing.by_store_mut(&store) {
                entry.ids = ids;
                continue;
            }
            let at = path.join(store.as_str());
            let e = Error::Damaged { path: at.clone(), what: "a record says that it is there, and it is not" };
            let opened = self.open_name(folder, path, &store);
            let name = opened.as_ref().map_or(store.as_str().as_bytes(), |(_, plain, _)| plain);
            let shown = tree.shown_folder(ino).join(std::ffi::OsStr::from_bytes(name));
            self.refused(Some(shown), &at, ids.first().copied(), &e);
            let Ok((under, plain, epoch)) = opened else { continue };
            for id in ids {
                if let Some(locator) = locator::locate(&self.keys(), epoch, &under, &plain, id.as_bytes()) {
                    listing.missing.push(Missing { store: store.clone(), under, id, locator });
                }
            }
        }
        self.session.set_checked(nodes);
        Ok(())
    }

    /// The inode of an entry; its header is read where it was not yet.
    pub fn bind(&self, tree: &mut Tree, parent: u64, shown: &[u8]) -> Result<u64> {
        let entry = tree.entry(parent, shown)?.clone();
        if entry.ino != 0 {
            return Ok(entry.ino);
        }
        let path = tree.path_at(parent, &entry.store)?;
        let place = Place { parent, store: entry.store.clone() };
        let ino = if entry.folder {
            let folder = self.read_folder(&path, Some((tree, parent, &entry)))?;
            let known = folder.headers.iter().find_map(|(node, _)| tree.folders.get(node).copied());
            match known {
                // It is shown elsewhere in the table: only sync or somebody with the disk can do that.
                Some(ino) if tree.folder(ino)?.place.is_some() => {
                    return Err(Error::Damaged { path, what: "the same folder lies elsewhere" });
                }
                Some(ino) => ino,
                None => {
                    let ino = tree.new_ino();
                    tree.folders.extend(folder.headers.iter().map(|(node, _)| (*node, ino)));
                    if folder.dirty {
                        self.note_dirty(ino);
                    }
                    tree.nodes.insert(ino, Node::Folder(Box::new(folder)));
                    ino
                }
            }
        } else {
            self.bind_file(tree, parent, &entry, &path)?
        };
        let ids = match tree.nodes.get(&ino) {
            Some(Node::File(file)) if !file.file.state.read().damaged => vec![EntryId::File(file.file.id)],
            Some(Node::Folder(folder)) => folder.headers.iter().map(|(node, _)| EntryId::Folder(*node)).collect(),
            _ => Vec::new(),
        };
        tree.attach(ino, place);
        let entry = tree.entry_mut(parent, shown)?;
        entry.ino = ino;
        // What the records say stays, be the disk right or not: this is what an observation will name.
        if entry.ids.is_empty() {
            entry.ids = ids;
        }
        Ok(ino)
    }

    fn bind_file(&self, tree: &mut Tree, parent: u64, entry: &Entry, path: &Path) -> Result<u64> {
        if let Some(ino) = self.bind_unread(tree, entry, path)? {
            return Ok(ino);
        }
        let read = self.read_header(tree, parent, entry, path);
        let (header, stat, missing) = match read {
            Ok(read) => read,
            Err(e) if e.is_damage() => {
                let id = entry.id().or_else(|| self.recorded_id(tree, parent, &entry.store));
                self.refused(Some(tree.shown_at(parent, &entry.store)), path, id, &e);
                return self.bind_damaged(tree, path);
            }
            Err(e) => return Err(e),
        };
        if let Some(ino) = tree.files.get(&header.file).copied() {
            // It may have come here by a step of sync since its name was looked at.
            if let Ok(known) = tree.file(ino) {
                let mut state = known.file.state.write();
                if state.unread.take().is_some() {
                    (state.epoch, state.lineage) = (header.epoch, header.lineage);
                }
            }
            return Ok(ino);
        }
        let ino = tree.new_ino();
        let file = FileNode::new(ino, header.file, header.kind, header.epoch, header.lineage);
        {
            let mut state = file.state.write();
            state.stat = Some(stat);
            if missing {
                state.changed.all();
                state.touch();
                state.settled = state.changes;
                self.note_dirty(ino);
            }
        }
        if missing {
            // Another file than the records know: its folder has to tell of it.
            self.touch_folder(tree, parent)?;
        }
        tree.files.insert(header.file, ino);
        tree.nodes.insert(ino, Node::File(FileRef { file: Arc::new(file), lookups: 0, places: Vec::new() }));
        Ok(ino)
    }

    /// A file of which the records say all that a listing shows: its header is read when it is opened.
    fn bind_unread(&self, tree: &mut Tree, entry: &Entry, path: &Path) -> Result<Option<u64>> {
        let [EntryId::File(id)] = entry.ids.as_slice() else { return Ok(None) };
        if self.session.unmended() || self.options.trusting || tree.files.contains_key(id) {
            return Ok(None);
        }
        let (Some(kind), Some(at)) = (self.records.kind(*id), self.locator_of(entry, &EntryId::File(*id))) else {
            return Ok(None);
        };
        if !matches!(kind, Kind::File | Kind::Symlink | Kind::Fifo | Kind::Socket) {
            return Ok(None); // more than that stands in it
        }
        let stat = self.stat_path(path)?;
        if stat.kind != Type::File || stat.links != 1 || stat.length < PAGE as u64 {
            return Ok(None);
        }
        let ino = tree.new_ino();
        let file = FileNode::new(ino, *id, kind, Epoch::FIRST, LineageId::from_bytes([0; 16]));
        {
            let mut state = file.state.write();
            (state.stat, state.unread) = (Some(stat), Some(at));
        }
        tree.files.insert(*id, ino);
        tree.nodes.insert(ino, Node::File(FileRef { file: Arc::new(file), lookups: 0, places: Vec::new() }));
        Ok(Some(ino))
    }

    /// A file that can be listed and removed, and nothing else.
    fn bind_damaged(&self, tree: &mut Tree, path: &Path) -> Result<u64> {
        let ino = tree.new_ino();
        let file = FileNode::new(ino, FileId::random(), Kind::File, Epoch::FIRST, LineageId::from_bytes([0; 16]));
        {
            let mut state = file.state.write();
            state.damaged = true;
            state.stat = Some(self.store.stat(path).map_err(Error::io(path))?);
        }
        tree.nodes.insert(ino, Node::File(FileRef { file: Arc::new(file), lookups: 0, places: Vec::new() }));
        Ok(ino)
    }

    /// The header of a file in its place. `true`: there was none, it got one, and is empty.
    fn read_header(&self, tree: &Tree, parent: u64, entry: &Entry, path: &Path) -> Result<(Header, Stat, bool)> {
        let keys = self.keys();
        let file = self.store.open(path, false).map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL | libc::ELOOP | libc::ENXIO | libc::EISDIR) => {
                Error::Damaged { path: path.to_owned(), what: "it is no file that kith writes" }
            }
            _ => Error::Io { path: path.to_owned(), source },
        })?;
        let stat = attrs::stat(file.as_ref()).map_err(Error::io(path))?;
        let mut bytes = [0; HEADER];
        let got = file.read_at(&mut bytes, 0).map_err(Error::io(path))?;
        if stat.length < PAGE as u64 || got < HEADER || header::is_missing(&bytes) {
            if self.is_strict(tree, parent) || self.frozen() {
                return Err(content::Error::NoHeader { path: path.to_owned() }.into());
            }
            // What a crash leaves of a file made just before it: an empty one.
            let id = match entry.id() {
                Some(EntryId::File(id)) => id,
                _ => FileId::random(),
            };
            let at = self.locator_of(entry, &EntryId::File(id)).unwrap_or(NOWHERE);
            let content = Content::renew(self.open_disk(path)?, path, &keys, id, Kind::File, &at)?;
            let stat = attrs::stat(file.as_ref()).map_err(Error::io(path))?;
            return Ok((content.header().clone(), stat, true));
        }
        let (header, found) =
            Header::open(&keys, &bytes).map_err(|why| content::Error::Header { path: path.to_owned(), why })?;
        let id = EntryId::File(header.file);
        if entry.id().is_some_and(|known| known != id) {
            return Err(Error::Damaged { path: path.to_owned(), what: "another file lies in its place" });
        }
        self.check_place(tree, parent, entry, &id, &found, path, stat.links > 1)?;
        Ok((header, stat, false))
    }

    /// What the records say has a name in a folder.
    pub fn recorded_id(&self, tree: &Tree, parent: u64, store: &StoreName) -> Option<EntryId> {
        let nodes = tree.folder(parent).ok()?.headers.iter().map(|(node, _)| *node);
        let lists = nodes.filter_map(|node| self.records.folder(node));
        lists.flatten().find(|(name, _)| name == store).map(|(_, id)| id)
    }

    /// Tells of what a record says is there and the disk has no more; what a program is then told. Called with what held
    /// the place that was looked at, so that it is no rename's doing.
    pub fn missing(&self, e: Error, shown: std::path::PathBuf, path: &Path, id: Option<EntryId>) -> Error {
        let recorded = match id {
            _ if !e.is_missing() => false,
            Some(EntryId::File(file)) => self.records.file(file).is_some(),
            Some(EntryId::Folder(node)) => self.records.has_folder(node),
            None => false,
        };
        if !recorded {
            return e;
        }
        let e = Error::Damaged { path: path.to_owned(), what: "a record says that it is there, and it is not" };
        self.refused(Some(shown), path, id, &e);
        e
    }

    /// Tells of something refused: in the log, to the feed, and for fsck.
    pub fn refused(&self, shown: Option<std::path::PathBuf>, path: &Path, id: Option<EntryId>, e: &Error) {
        let shown = shown.unwrap_or_default();
        tracing::warn!(shown = %shown.display().to_string().escape_default(), path = %path.display(), "refused: {e}");
        let refusal = Refusal { shown, path: path.to_owned(), id, why: e.to_string() };
        self.session.refuse(refusal.clone());
        self.feed.refused(&refusal);
    }

    /// The extended attributes of a folder, opened.
    pub fn folder_xattrs<'a>(&self, tree: &'a mut Tree, ino: u64) -> Result<&'a mut BTreeMap<Vec<u8>, Vec<u8>>> {
        if tree.folder(ino)?.xattrs.is_none() {
            let path = tree.folder_path(ino)?;
            let disk = self.store.open_folder(&path).map_err(Error::io(&path))?;
            let node = tree.node_of(ino)?;
            let xattrs = attrs::read_xattrs(disk.as_ref(), &self.keys(), node.as_bytes()).map_err(Error::io(&path))?;
            tree.folder_mut(ino)?.xattrs = Some(xattrs);
        }
        tree.folder_mut(ino)?.xattrs.as_mut().ok_or(Error::Errno(libc::EIO))
    }
}
