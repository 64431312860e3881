//! One simulated device: its durable log, its disk, its engine, and the loop that a replica would run.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use keymgr::ids::{DeviceId, Incarnation, NodeId, RecordHash, Root, ShareId};
use sync::engine::{Counting, DiskNode, Engine, EntryId, Heads, Rules, Settled, Unsettled};
use sync::record::{Author, Entry, Record};

use super::disk::{SimDisk, content_of, locator, open, root_of, seal};
use super::people::View;

/// What survives a crash, and what a backup puts back.
#[derive(Clone)]
pub struct Durable {
    pub log: Vec<Entry>,
    /// As of when records were last dropped or taken from a snapshot.
    pub heads: Heads,
    pub floor: Heads,
    pub disk: SimDisk,
    pub bodies: BTreeSet<Root>,
    pub index: HashMap<NodeId, DiskNode>,
    pub incarnation: Incarnation,
    /// What users overwrote or deleted and fs has not told yet.
    pub unmarked: Vec<String>,
}

pub struct Device {
    pub id: DeviceId,
    pub name: String,
    pub full: bool,
    pub share: ShareId,
    pub rules: Rules,
    /// Off: records are named by author and number, and a backup goes on with the numbers it had.
    pub branch: bool,
    pub engine: Engine,
    pub kept: Durable,
    /// Signed heads of others, which are passed on.
    pub statements: BTreeMap<DeviceId, Heads>,
    /// Who is who, as far as it has heard.
    pub view: View,
    /// A modified client: writes whatever it may.
    pub evil: bool,
    pub anew: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// The index is as it should be.
    Clean,
    /// It lags behind the last steps.
    Crash,
    /// There is none.
    Deleted,
}

/// What all devices know: the oracle.
#[derive(Default)]
pub struct Oracle {
    pub texts: HashMap<Root, String>,
    pub records: HashMap<RecordHash, Known>,
    /// Content -> the records by which users overwrote or deleted it.
    pub marked: BTreeMap<String, Vec<RecordHash>>,
    pub conflicts: usize,
}

pub struct Known {
    pub entry: Entry,
    /// What the author had seen.
    pub knew: Heads,
}

impl Device {
    pub fn new(
        n: usize,
        full: bool,
        share: ShareId,
        rules: Rules,
        branch: bool,
        incarnation: Incarnation,
        view: View,
    ) -> Self {
        let id = DeviceId::from_bytes([n as u8 + 1; 32]);
        let name = char::from(b'A' + n as u8).to_string();
        let kept = Durable {
            log: Vec::new(),
            heads: Heads::default(),
            floor: Heads::default(),
            disk: SimDisk::new(NodeId::root_of(share)),
            bodies: BTreeSet::new(),
            index: HashMap::new(),
            incarnation,
            unmarked: Vec::new(),
        };
        let engine = Engine::with_rules(share, id, full, rules);
        let mut device = Self {
            id,
            name,
            full,
            share,
            rules,
            branch,
            engine,
            kept,
            statements: BTreeMap::new(),
            view,
            evil: false,
            anew: true,
        };
        if !device.writes() {
            device.restart(Restart::Clean);
        }
        device
    }

    /// After a crash, or with an older backup: all that is not durable is gone. Where the index is deleted, nobody
    /// knows any more what users ended and fs had not told: their texts are returned.
    pub fn restart(&mut self, how: Restart) -> Vec<String> {
        let mut ends = Vec::new();
        let mut engine = Engine::with_rules(self.share, self.id, self.writes(), self.rules);
        engine.restore(self.kept.heads.clone(), self.kept.floor.clone());
        for entry in &self.kept.log {
            engine.handle_held(entry.clone());
        }
        for root in &self.kept.bodies {
            engine.handle_body(*root);
        }
        self.kept.disk.open.clear();
        self.kept.disk.reap();
        if how == Restart::Deleted {
            self.kept.index.clear();
            ends = std::mem::take(&mut self.kept.unmarked);
        }
        engine.load_disk(self.kept.index.clone());
        if how != Restart::Clean {
            engine.adopt(&self.kept.disk.scan());
        }
        for (device, heads) in &self.statements {
            engine.handle_peer_heads(*device, heads);
        }
        self.engine = engine;
        self.save_index();
        ends
    }

    pub fn writes(&self) -> bool {
        self.full && (self.evil || self.view.may_write(&self.id))
    }

    /// What it hears of who may what; where that is news for itself it begins anew.
    pub fn hear(&mut self, other: &View) {
        let wrote = self.writes();
        self.view.hear(other);
        if wrote != self.writes() {
            self.kept.disk.open.clear();
            self.save_index();
            self.restart(Restart::Clean);
        }
    }

    /// What others wrote who may write no longer is said anew, or left out. Whether anything is otherwise now.
    pub fn say_anew(&mut self, oracle: &mut Oracle) -> bool {
        if !self.anew {
            return false;
        }
        let view = self.view.clone();
        let seats: Vec<DeviceId> = view.seats().into_iter().filter(|id| *id != self.id).collect();
        let who = Counting { counts: &|device| view.may_write(device), seats: &seats, before: &[] };
        if !view.may_write(&self.id) || !self.full {
            return self.engine.withdraw(&who);
        }
        let (drafts, _) = self.engine.anew(&who);
        !self.sign(drafts, oracle).is_empty()
    }

    pub fn save_index(&mut self) {
        for (node, disk) in self.engine.take_disk_changes() {
            match disk {
                Some(disk) => self.kept.index.insert(node, disk),
                None => self.kept.index.remove(&node),
            };
        }
    }

    pub fn author(&self) -> Author {
        Author { device: self.id, incarnation: self.kept.incarnation }
    }

    /// Signs drafts, makes them durable, hands them back.
    pub fn sign(&mut self, drafts: Vec<Record>, oracle: &mut Oracle) -> Vec<RecordHash> {
        let author = self.author();
        let mut hashes = Vec::new();
        for record in drafts {
            record.check().unwrap_or_else(|e| panic!("{}: {e}: {record:?}", self.name));
            let head = self.engine.heads().get(&author).copied();
            let number = head.map_or(1, |h| h.number + 1);
            let previous = head.map(|h| h.hash);
            let hash = if self.branch {
                let bytes = postcard::to_stdvec(&(author, number, previous, &record)).unwrap();
                RecordHash::from_bytes(*blake3::hash(&bytes).as_bytes())
            } else {
                RecordHash::from_bytes(
                    *blake3::hash(&postcard::to_stdvec(&(author.device, number)).unwrap()).as_bytes(),
                )
            };
            let entry = Entry { hash, author, number, previous, record };
            oracle
                .records
                .entry(hash)
                .or_insert_with(|| Known { entry: entry.clone(), knew: self.engine.heads().clone() });
            if trace() {
                let r = &entry.record;
                let text = r.content().and_then(|c| oracle.texts.get(&c.root));
                let places: Vec<_> = r.places().iter().map(|p| p.name.as_str()).collect();
                let froms = r.live().map(|l| (l.places_from, l.content_from));
                let (node, old) = (r.node, &r.replaces);
                eprintln!(
                    "      {} {hash:?} {node:?} {text:?} {places:?} {froms:?} replaces {old:?} {:?}",
                    self.name, r.together
                );
            }
            self.kept.log.push(entry.clone());
            self.engine.handle_record(entry);
            hashes.push(hash);
        }
        hashes
    }

    /// fs tells what it did; records are made of it.
    pub fn observe(&mut self, oracle: &mut Oracle) -> bool {
        if !self.writes() {
            return false;
        }
        let seen = self.kept.disk.observe();
        if seen.folders.is_empty() && seen.files.is_empty() {
            return false;
        }
        for file in &seen.files {
            let text = &self.kept.disk.inodes.values().find(|i| i.file == file.file).unwrap().text;
            oracle.texts.insert(file.root, text.clone());
        }
        let drafts = self.engine.author(&seen);
        let hashes = self.sign(drafts, oracle);
        let there = self.kept.disk.texts();
        let marks = std::mem::take(&mut self.kept.unmarked);
        for text in marks {
            if there.contains(&text) {
                self.kept.unmarked.push(text); // its end is not told yet
                continue;
            }
            let carries = |h: &RecordHash| {
                let content = oracle.records[h].entry.record.content();
                content.and_then(|c| oracle.texts.get(&c.root)) == Some(&text)
            };
            if hashes.iter().any(carries) {
                self.kept.unmarked.push(text); // still open, or another name of it is hidden here
                continue;
            }
            let ends = |h: &&RecordHash| {
                let r = &oracle.records[*h].entry.record;
                let old =
                    r.replaces.iter().filter_map(|o| oracle.records.get(o)).filter_map(|k| k.entry.record.content());
                old.into_iter().any(|c| oracle.texts.get(&c.root) == Some(&text))
            };
            let by: Vec<RecordHash> = hashes.iter().filter(ends).copied().collect();
            if by.is_empty() {
                self.kept.unmarked.push(text);
            } else {
                oracle.marked.entry(text).or_default().extend(by);
            }
        }
        self.save_index();
        !hashes.is_empty()
    }

    /// Steps until there are none, or `most`. Whether any was done.
    pub fn steps(&mut self, oracle: &Oracle, most: usize) -> bool {
        self.engine.retry();
        let mut any = false;
        for n in 0.. {
            if n == most {
                break;
            }
            assert!(n < 20_000, "{}: steps without end", self.name);
            let Some((id, step)) = self.engine.poll_step() else { break };
            let Durable { disk, bodies, .. } = &mut self.kept;
            let here: HashSet<Root> = disk.inodes.values().map(|i| i.root).chain(bodies.iter().copied()).collect();
            let text = |root: &Root| here.contains(root).then(|| oracle.texts[root].clone());
            let (done, old) = disk.execute(&self.engine, &step, text);
            if trace() {
                eprintln!("    {} {step:?} -> {done:?}", self.name);
            }
            any |= matches!(done, sync::engine::Done::Made { .. });
            for root in old {
                if self.kept.bodies.insert(root) {
                    self.engine.handle_body(root);
                }
            }
            self.engine.handle_done(id, done);
        }
        any
    }

    pub fn has_body(&self, root: &Root) -> bool {
        self.kept.bodies.contains(root) || self.kept.disk.inodes.values().any(|i| i.root == *root)
    }

    pub fn body(&mut self, root: Root) {
        if self.kept.bodies.insert(root) {
            self.engine.handle_body(root);
        }
    }

    /// A thinning of versions: what the engine does not need may go.
    pub fn thin(&mut self) {
        let gone: Vec<Root> = self.kept.bodies.iter().filter(|r| !self.engine.needs(r)).copied().collect();
        for root in gone {
            self.kept.bodies.remove(&root);
            self.engine.handle_body_gone(root);
        }
    }

    /// What a writer with keys does about conflicts and names. Whether it did anything.
    pub fn settle(&mut self, oracle: &mut Oracle) -> bool {
        if !self.writes() {
            return false;
        }
        let mut any = false;
        for what in self.engine.unsettled() {
            let how = match &what {
                Unsettled::Contents { loser, place, file, .. } => {
                    if !self.has_body(&loser.root) {
                        continue;
                    }
                    let text = oracle.texts[&loser.root].clone();
                    let root = root_of(&text, file);
                    oracle.texts.insert(root, text);
                    self.body(root);
                    let id = EntryId::File(*file);
                    let name = conflict_name(place.parent, &place.name, &id);
                    let locator = locator(&place.parent, &name, &id);
                    Settled { name, locator, copy: Some((content_of(*file, root), vec![7])) }
                }
                Unsettled::Name { place, id, .. } => {
                    let name = conflict_name(place.parent, &place.name, id);
                    Settled { locator: locator(&place.parent, &name, id), name, copy: None }
                }
                Unsettled::Seal { place, to, id, .. } => {
                    let plain = open(&place.parent, &place.name).expect("sealed for its parent");
                    let name = seal(to, &plain);
                    Settled { locator: locator(to, &name, id), name, copy: None }
                }
            };
            let drafts = self.engine.settle(&what, &how);
            if trace() && !drafts.is_empty() {
                eprintln!("  {} settles {what:?}", self.name);
            }
            if matches!(what, Unsettled::Contents { .. }) && !drafts.is_empty() {
                oracle.conflicts += 1;
            }
            any |= !drafts.is_empty();
            self.sign(drafts, oracle);
        }
        any
    }

    /// Takes what `other` has: its log beyond what was seen here, or a snapshot. `part`: the transfer breaks off.
    pub fn take(&mut self, other: &Device, part: Option<usize>, snapshot: bool) {
        let mine = self.engine.heads().clone();
        let snapshot = (snapshot || !mine.covers_all(&other.kept.floor)) && self.rules.frontier;
        let most = part.unwrap_or(usize::MAX);
        let mut taken = 0;
        for entry in &other.kept.log {
            if taken == most {
                break;
            }
            if !self.view.may_write(&entry.author.device) && entry.author.device != self.id {
                continue;
            }
            let new = if snapshot {
                !self.engine.holds(&entry.hash) && !mine.covers(&entry.author, entry.number)
            } else {
                !self.engine.holds(&entry.hash)
            };
            if !new {
                continue;
            }
            taken += 1;
            if snapshot {
                self.kept.log.push(entry.clone());
                self.engine.handle_held(entry.clone());
            } else {
                use sync::engine::Taken;
                match self.engine.handle_record(entry.clone()) {
                    Taken::New | Taken::Fork => self.kept.log.push(entry.clone()),
                    Taken::Known | Taken::Early { .. } => {}
                }
            }
        }
        if part.is_some() {
            return;
        }
        if snapshot {
            let held: HashSet<RecordHash> = other.kept.log.iter().map(|e| e.hash).collect();
            let gone = self.engine.handle_snapshot(other.engine.heads(), &other.kept.floor, &held);
            self.forgotten(gone.records);
        }
        let statements = other.statements.iter().map(|(d, h)| (*d, h.clone()));
        let all: Vec<_> = statements.chain([(other.id, other.engine.heads().clone())]).collect();
        for (device, heads) in all {
            if device != self.id {
                self.engine.handle_peer_heads(device, &heads);
                self.statements.entry(device).or_default().merge(&heads);
            }
        }
    }

    pub fn forget(&mut self, listed: &[DeviceId]) {
        let gone = self.engine.forget(listed);
        self.forgotten(gone.records);
    }

    fn forgotten(&mut self, records: Vec<RecordHash>) {
        if trace() && !records.is_empty() {
            eprintln!("      {} drops {records:?}", self.name);
        }
        self.kept.heads = self.engine.heads().clone();
        self.kept.floor = self.engine.floor().clone();
        let gone: HashSet<RecordHash> = records.into_iter().collect();
        self.kept.log.retain(|e| !gone.contains(&e.hash));
    }

    pub fn fetch(&mut self, other: &Device, never: &HashSet<Root>) -> bool {
        let mut any = false;
        for want in self.engine.wanted() {
            let root = want.content.root;
            if !never.contains(&root) && other.has_body(&root) {
                self.body(root);
                any = true;
            }
        }
        any
    }
}

fn conflict_name(parent: NodeId, name: &keymgr::ids::StoreName, id: &EntryId) -> keymgr::ids::StoreName {
    let plain = open(&parent, name).expect("sealed for its parent");
    let tag = match id {
        EntryId::File(file) => file.to_string(),
        EntryId::Folder(node) => node.to_string(),
    };
    let plain = plain.split("_c").next().unwrap_or_default().to_owned();
    seal(&parent, &format!("{plain}_c{}", &tag[..8]))
}

pub fn trace() -> bool {
    static TRACE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *TRACE.get_or_init(|| std::env::var_os("KITH_TRACE").is_some())
}
