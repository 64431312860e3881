//! One universe: what happens to its devices, how it heals, and what must be true then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use keymgr::ids::{DeviceId, Incarnation, Root, ShareId};
use sync::engine::{Heads, Rules};
use sync::record::Entry;

use super::device::{Device, Durable, Oracle, Restart, trace};
use super::people::View;
use super::rng::Rng;
use super::user;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub rules: Rules,
    pub branch: bool,
    /// Several accounts, which come and go; some of their devices are modified clients.
    pub people: bool,
    /// What those wrote who may write no longer is said anew.
    pub anew: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { rules: Rules::default(), branch: true, people: false, anew: true }
    }
}

#[derive(Default, Debug)]
pub struct Outcome {
    /// What is wrong, in words; empty when all holds.
    pub bad: Vec<String>,
    pub conflicts: usize,
    pub records: usize,
}

struct World {
    rng: Rng,
    devices: Vec<Device>,
    oracle: Oracle,
    /// Bodies that nobody gets before all is healed.
    never: HashSet<Root>,
    /// Bodies that only a disk had that was put back: nobody's fault.
    excused: HashSet<Root>,
    gone: HashSet<String>,
    backups: BTreeMap<usize, Durable>,
    silent: Option<usize>,
    folders: bool,
    courier: bool,
    clock: u64,
    people: bool,
    /// What a writer showed of somebody when it heard that this one may write no longer.
    must: BTreeSet<(String, String)>,
    /// What was written by devices that never might.
    refused: BTreeSet<String>,
    modified: Vec<DeviceId>,
}

pub fn universe(seed: u64, options: Options) -> Outcome {
    let mut world = World::new(seed, options);
    let acts = 5 + world.rng.below(45);
    for _ in 0..acts {
        world.happen();
    }
    world.heal()
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut rng = Rng::new(seed);
        let count = [2, 2, 2, 3, 3, 3, 4, 4, 5, 8][rng.below(10)];
        let share = ShareId::from_bytes([0xee; 16]);
        let blind = if count > 2 && rng.chance(70) { 1 } else { 0 };
        let blinds: Vec<bool> = (0..count).map(|n| n + blind >= count).collect();
        let view = if options.people { View::several(&mut rng, &blinds) } else { View::alone(&blinds) };
        let devices = (0..count)
            .map(|n| {
                let incarnation = Incarnation::from_bytes(rng.bytes());
                let (full, view) = (!blinds[n], view.clone());
                let mut device = Device::new(n, full, share, options.rules, options.branch, incarnation, view);
                device.anew = options.anew;
                if options.people && !device.view.is_owner(n) && rng.chance(25) {
                    device.evil = true;
                    device.restart(Restart::Clean);
                }
                device
            })
            .collect();
        let silent = (count > 2 && rng.chance(25)).then_some(0);
        let courier = blind == 1 && rng.chance(35);
        let folders = rng.chance(25);
        Self {
            rng,
            devices,
            folders,
            oracle: Oracle::default(),
            never: HashSet::new(),
            excused: HashSet::new(),
            gone: HashSet::new(),
            backups: BTreeMap::new(),
            silent,
            courier,
            clock: 0,
            people: options.people,
            must: BTreeSet::new(),
            refused: BTreeSet::new(),
            modified: Vec::new(),
        }
    }

    fn say(&self, text: &str) {
        if trace() && !text.is_empty() {
            eprintln!("{text}");
        }
    }

    fn happen(&mut self) {
        let n = self.rng.below(self.devices.len());
        let full: Vec<usize> = (0..self.devices.len()).filter(|i| self.devices[*i].writes()).collect();
        if self.people && self.rng.chance(8) {
            let owners: Vec<usize> = (0..self.devices.len()).filter(|i| self.devices[*i].view.is_owner(*i)).collect();
            let i = owners[self.rng.below(owners.len())];
            let mut view = self.devices[i].view.clone();
            if let Some(word) = view.change(&mut self.rng) {
                self.say(&format!("{} says {word:?}", self.devices[i].name));
                self.hear(i, &view);
            }
            return;
        }
        match self.rng.below(100) {
            0..=59 => {
                let i = full[self.rng.below(full.len())];
                self.clock += 1;
                let clock = self.clock;
                let device = &mut self.devices[i];
                let said = user::act(device, &mut self.rng, clock, self.folders);
                self.say(&said.unwrap_or_default());
                if self.rng.chance(70) {
                    self.devices[i].observe(&mut self.oracle);
                    self.hold_back(i);
                }
            }
            60..=84 => {
                let (a, b) = self.pair();
                let rare = self.silent.is_some_and(|s| s == a || s == b) && self.rng.chance(85);
                if !rare {
                    self.meet(a, b);
                }
            }
            85..=87 => {
                let most = self.rng.below(6);
                self.devices[n].steps(&self.oracle, most);
                self.devices[n].save_index();
            }
            88..=89 => {
                self.devices[n].settle(&mut self.oracle);
            }
            90..=91 => {
                let how = if self.rng.chance(70) { Restart::Crash } else { Restart::Deleted };
                self.say(&format!("{} crashes {how:?}", self.devices[n].name));
                // In the midst of steps of which the index does not know.
                let most = self.rng.below(4);
                self.devices[n].steps(&self.oracle, most);
                let ends = self.devices[n].restart(how);
                self.gone.extend(ends);
            }
            92 => {
                self.say(&format!("{} ends and begins", self.devices[n].name));
                self.devices[n].kept.disk.open.clear();
                self.devices[n].observe(&mut self.oracle);
                self.devices[n].save_index();
                self.devices[n].restart(Restart::Clean);
            }
            // A store that was put back, among people who come and go, is not drawn here.
            93..=95 if self.people => {}
            93..=94 => {
                self.devices[n].save_index();
                self.backups.insert(n, self.devices[n].kept.clone());
            }
            95 => self.restore(n),
            96..=97 => self.devices[n].thin(),
            98 => {
                // One record, out of order.
                let (a, b) = self.pair();
                let log: Vec<Entry> = match self.people {
                    true => Vec::new(),
                    false => self.devices[b].kept.log.clone(),
                };
                let log = &log;
                if let Some(entry) = self.rng.pick(log).cloned() {
                    let a = &mut self.devices[a];
                    use sync::engine::Taken;
                    if matches!(a.engine.handle_record(entry.clone()), Taken::New | Taken::Fork) {
                        a.kept.log.push(entry);
                    }
                }
            }
            _ => {
                self.devices[n].kept.disk.open.clear();
                self.devices[n].observe(&mut self.oracle);
            }
        }
    }

    /// Some of the newest bodies do not come before all is healed.
    fn hold_back(&mut self, i: usize) {
        if self.rng.chance(8)
            && let Some(content) = self.devices[i].kept.log.last().and_then(|e| e.record.content())
        {
            self.never.insert(content.root);
        }
    }

    fn restore(&mut self, n: usize) {
        let Some(backup) = self.backups.get(&n).cloned() else { return };
        let had = bodies(&self.devices[n]);
        let device = &mut self.devices[n];
        // What a user had overwritten, and the end of which went with the disk.
        self.gone.extend(device.kept.unmarked.iter().cloned());
        device.kept = backup;
        if device.branch {
            device.kept.incarnation = Incarnation::from_bytes(self.rng.bytes());
        }
        device.statements.clear();
        let how = if self.rng.chance(50) { Restart::Clean } else { Restart::Deleted };
        let ends = device.restart(how);
        self.gone.extend(ends);
        let has = bodies(&self.devices[n]);
        self.excused.extend(had.difference(&has));
        self.say(&format!("{} is put back", self.devices[n].name));
    }

    fn pair(&mut self) -> (usize, usize) {
        let count = self.devices.len();
        let a = self.rng.below(count);
        let b = if self.courier && a != count - 1 { count - 1 } else { (a + 1 + self.rng.below(count - 1)) % count };
        (a, b)
    }

    fn meet(&mut self, a: usize, b: usize) {
        let part = self.rng.chance(25).then(|| self.rng.below(6));
        self.say(&format!("{} meets {} {part:?}", self.devices[a].name, self.devices[b].name));
        let snapshot = self.rng.chance(30) && !self.people;
        if self.people {
            let (left, right) = (self.devices[a].view.clone(), self.devices[b].view.clone());
            // A modified client may not care to hear.
            for (i, other) in [(a, right), (b, left)] {
                if !self.devices[i].evil || self.rng.chance(50) {
                    self.hear(i, &other);
                }
            }
        }
        let (x, y) = two(&mut self.devices, a, b);
        // Each reads whom it knows, and answers whom it knows.
        if x.view.of(&y.id).is_none() || y.view.of(&x.id).is_none() {
            return;
        }
        x.take(y, part, snapshot);
        y.take(x, part, snapshot);
        if self.rng.chance(80) {
            x.fetch(y, &self.never);
            y.fetch(x, &self.never);
        }
        for i in [a, b] {
            if self.people && (!self.devices[i].writes() || self.rng.chance(60)) {
                self.devices[i].say_anew(&mut self.oracle);
            }
        }
        let listed: Vec<DeviceId> =
            self.devices.iter().enumerate().filter(|(i, _)| Some(*i) != self.silent).map(|(_, d)| d.id).collect();
        for i in [a, b] {
            if part.is_none() && !self.people && self.rng.chance(60) {
                self.devices[i].forget(&listed);
            }
            let most = if self.rng.chance(70) { usize::MAX } else { self.rng.below(5) };
            self.devices[i].steps(&self.oracle, most);
            self.devices[i].save_index();
            if self.rng.chance(40) {
                self.devices[i].settle(&mut self.oracle);
            }
        }
    }

    /// A device hears of who may what.
    fn hear(&mut self, i: usize, view: &View) {
        let device = &mut self.devices[i];
        let before = device.view.clone();
        if device.writes() {
            // What was done before is told before.
            device.kept.disk.open.clear();
            device.observe(&mut self.oracle);
        }
        device.hear(view);
        if !device.view.may_write(&device.id) || !device.full {
            device.say_anew(&mut self.oracle);
            return;
        }
        let there = device.kept.disk.texts();
        for entry in &device.kept.log {
            let author = &entry.author.device;
            if before.may_write(author)
                && !device.view.may_write(author)
                && let Some(text) = entry.record.content().and_then(|c| self.oracle.texts.get(&c.root))
                && there.contains(text)
            {
                self.must.insert((device.name.clone(), text.clone()));
            }
        }
    }

    /// All who stay hear what any of the owner's devices said; the others are not asked any more.
    fn part(&mut self) {
        let mut last = self.devices[0].view.clone();
        for (i, device) in self.devices.iter().enumerate() {
            if device.view.is_owner(i) {
                last.hear(&device.view);
            }
        }
        for i in 0..self.devices.len() {
            self.hear(i, &last);
        }
        let stays = |d: &Device| !d.evil && last.of(&d.id).is_some();
        // A text begins with the name of the device where it was written.
        let never: Vec<String> =
            self.devices.iter().filter(|d| !last.ever_wrote(&d.id)).map(|d| d.name.clone()).collect();
        // Whoever is removed, or modified, offers once more what it has.
        for a in 0..self.devices.len() {
            for b in 0..self.devices.len() {
                if a != b && stays(&self.devices[a]) && !stays(&self.devices[b]) {
                    let (x, y) = two(&mut self.devices, a, b);
                    x.take(y, None, false);
                }
            }
        }
        let mut all = std::mem::take(&mut self.devices);
        let by_them = |text: &&String| never.iter().any(|name| text.starts_with(name.as_str()));
        self.refused = self.oracle.texts.values().filter(by_them).cloned().collect();
        self.modified = all.iter().filter(|d| d.evil).map(|d| d.id).collect();
        all.retain(stays);
        // A modified client of a writer says what it likes of what it has; here it is removed in the end.
        for device in &mut all {
            for gone in &self.modified {
                device.engine.handle_peer_gone(gone);
                device.statements.remove(gone);
            }
        }
        self.must.retain(|(name, _)| all.iter().any(|d| d.name == *name && d.writes()));
        self.devices = all;
    }

    fn heal(mut self) -> Outcome {
        self.say("heals");
        if self.people {
            self.part();
        }
        for device in &mut self.devices {
            device.kept.disk.open.clear();
            device.observe(&mut self.oracle);
        }
        let mut known = Heads::default();
        self.devices.iter().for_each(|d| known.merge(d.engine.heads()));
        let everywhere: HashSet<Root> = self.devices.iter().flat_map(bodies).collect();
        self.excused.retain(|r| !everywhere.contains(r));
        let count = self.devices.len();
        let mut out = Outcome::default();
        for round in 0.. {
            let mut any = false;
            for i in 0..count {
                for _ in 0..100 {
                    self.devices[i].kept.disk.open.clear();
                    let mut more = self.devices[i].observe(&mut self.oracle);
                    more |= self.devices[i].steps(&self.oracle, usize::MAX);
                    any |= more;
                    if !more {
                        break;
                    }
                }
            }
            if round == 0 || !any {
                for i in 0..count {
                    any |= self.devices[i].settle(&mut self.oracle);
                }
            }
            // Around the ring twice: then everyone has all.
            for k in (0..2 * count).filter(|_| count > 1) {
                let (a, b) = (k % count, (k + 1) % count);
                let (x, y) = two(&mut self.devices, a, b);
                let all = |d: &Device| d.engine.held().collect::<BTreeSet<_>>();
                let before = (all(x), all(y));
                x.take(y, None, !self.people);
                y.take(x, None, !self.people);
                any |= before != (all(x), all(y));
            }
            for i in (0..count).filter(|_| self.people) {
                any |= self.devices[i].say_anew(&mut self.oracle);
            }
            for a in 0..count {
                for b in 0..count {
                    if a != b {
                        let (x, y) = two(&mut self.devices, a, b);
                        any |= x.fetch(y, &HashSet::new());
                    }
                }
            }
            if !any {
                break;
            }
            if round > 40 {
                out.bad.push("does not come to rest".to_owned());
                break;
            }
        }
        self.check(&known, &mut out);
        out
    }

    fn check(&mut self, known: &Heads, out: &mut Outcome) {
        out.conflicts = self.oracle.conflicts;
        out.records = self.oracle.records.len();
        let first = self.devices[0].kept.disk.picture(false);
        for device in &self.devices[1..] {
            let other = device.kept.disk.picture(false);
            if other != first {
                let a: BTreeSet<_> = first.iter().collect();
                let b: BTreeSet<_> = other.iter().collect();
                let apart: Vec<_> = a.symmetric_difference(&b).collect();
                out.bad.push(format!("{} differs from A: {apart:?}", device.name));
            }
        }
        let full: Vec<_> = self.devices.iter().filter(|d| d.full).map(|d| d.kept.disk.picture(true)).collect();
        if out.bad.is_empty() && full.iter().any(|p| *p != full[0]) {
            out.bad.push(format!("attributes differ: {full:?}"));
        }
        for device in &mut self.devices {
            let rest = device.engine.unsettled();
            if !rest.is_empty() {
                out.bad.push(format!("{}: unsettled {rest:?}", device.name));
            }
        }
        let there: BTreeSet<String> =
            self.devices.iter().filter(|d| d.full).flat_map(|d| d.kept.disk.texts()).collect();
        let is_known = |e: &Entry| known.covers(&e.author, e.number);
        let view = self.devices[0].view.clone();
        let counts = |e: &Entry| view.may_write(&e.author.device) && !self.modified.contains(&e.author.device);
        for text in self.refused.iter().filter(|t| there.contains(*t)) {
            out.bad.push(format!("counts {text}"));
        }
        let mut every: HashMap<&String, bool> = HashMap::new();
        for record in self.oracle.records.values().filter(|k| is_known(&k.entry) && counts(&k.entry)) {
            if let Some(content) = record.entry.record.content()
                && let Some(text) = self.oracle.texts.get(&content.root)
            {
                let excused = self.excused.contains(&content.root);
                *every.entry(text).or_default() |= excused;
            }
        }
        self.gone.extend(self.devices.iter().flat_map(|d| d.kept.unmarked.iter().cloned()));
        let ended = |text: &String| {
            let marks = self.oracle.marked.get(text);
            marks.into_iter().flatten().any(|h| self.oracle.records.get(h).is_some_and(|k| is_known(&k.entry)))
        };
        for (_, text) in &self.must {
            every.entry(text).or_default();
        }
        for (text, excused) in every {
            if !excused && !there.contains(text) && !ended(text) && !self.gone.contains(text) {
                out.bad.push(format!("lost {text}"));
            }
        }
        let mut now = known.clone();
        self.devices.iter().for_each(|d| now.merge(d.engine.heads()));
        for text in there.iter().filter(|t| self.oracle.marked.contains_key(*t)) {
            self.check_back(text, &now, out);
        }
        out.bad.sort();
    }

    /// What was ended and is there: right only where somebody acted on it without knowing of its end.
    fn check_back(&self, text: &String, known: &Heads, out: &mut Outcome) {
        let all = &self.oracle.records;
        // Of one node a user knew what the disk showed, which is what the record descends from; of another, at most
        // what the device had seen.
        let knows = |q: &super::device::Known, p: &super::device::Known| {
            if q.entry.record.node == p.entry.record.node {
                return q.entry.hash == p.entry.hash || self.descends(&q.entry, p);
            }
            let (author, number) = (&p.entry.author, p.entry.number);
            q.knew.covers(author, number) || (q.entry.author == *author && q.entry.number >= number)
        };
        for hash in &self.oracle.marked[text] {
            let counts = |k: &&super::device::Known| {
                let author = &k.entry.author.device;
                self.devices[0].view.may_write(author) && !self.modified.contains(author)
            };
            let mark = all.get(hash).filter(|k| known.covers(&k.entry.author, k.entry.number)).filter(counts);
            let Some(mark) = mark else { continue };
            let mut ends = vec![mark];
            ends.extend(all.values().filter(|k| k.entry.record.is_dead() && self.descends(&k.entry, mark)));
            let excused = ends.iter().any(|end| {
                all.values().any(|q| {
                    let has = q.entry.record.content().and_then(|c| self.oracle.texts.get(&c.root)) == Some(text);
                    // A copy that was made apart is another file: that the device knew of it is not that the user saw it.
                    let other = q.entry.record.node != end.entry.record.node;
                    has && known.covers(&q.entry.author, q.entry.number) && !knows(q, end) && (other || !knows(end, q))
                })
            });
            if !excused {
                out.bad.push(format!("back {text}"));
            }
        }
    }

    fn descends(&self, of: &Entry, from: &super::device::Known) -> bool {
        let mut todo = of.record.replaces.clone();
        let mut seen = HashSet::new();
        while let Some(hash) = todo.pop() {
            if hash == from.entry.hash {
                return true;
            }
            if seen.insert(hash)
                && let Some(known) = self.oracle.records.get(&hash)
            {
                todo.extend(known.entry.record.replaces.iter().copied());
            }
        }
        false
    }
}

fn bodies(device: &Device) -> HashSet<Root> {
    let tree = device.kept.disk.inodes.values().map(|i| i.root);
    device.kept.bodies.iter().copied().chain(tree).collect()
}

fn two(devices: &mut [Device], a: usize, b: usize) -> (&mut Device, &mut Device) {
    if a < b {
        let (left, right) = devices.split_at_mut(b);
        (&mut left[a], &mut right[0])
    } else {
        let (left, right) = devices.split_at_mut(a);
        (&mut right[0], &mut left[b])
    }
}
