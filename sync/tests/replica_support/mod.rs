//! What the driver's tests share: devices in one process, HTTP/2 between them over pipes in memory, and a stand-in for
//! fs that writes files with clear headers and random pages.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, Response};
use keymgr::account::AccountKey;
use keymgr::circle::{Access, Circle, Member, MemberList};
use keymgr::device::DeviceKeys;
use keymgr::devices::{DeviceList, Listed, Role};
use keymgr::ids::{DeviceId, FileId, Incarnation, Locator, NodeId, ShareId, StoreName};
use keymgr::root::LOCATOR;
use keymgr::shelf::Shelf;
use sync::bodies::groups_of_file;
use sync::engine::EntryId;
use sync::install::{FOLDER_HEADER, header_name};
use sync::link::http::{Client, Pace};
use sync::link::{Body, Serve};
use sync::replica::{Config, Error, Host, Inside, Observed, Opened, Peers, Replica, Wrong};
use sync::scan;
use sync::shares::Shares;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// No test waits longer for anything; none expects anything sooner.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Until `other` shows what `one` does; a failure says what differs.
pub fn until_same(other: &Device, one: &Device) {
    let end = Instant::now() + PATIENCE;
    while other.shows() != one.shows() {
        if Instant::now() > end {
            let (a, b) = (other.shows(), one.shows());
            for path in a.keys().chain(b.keys()).filter(|p| a.get(*p) != b.get(*p)) {
                let first = |x: Option<&Vec<u8>>| x.map(|x| (x.len(), blake3::hash(x).to_hex()[..8].to_owned()));
                eprintln!("{}: {:?} and {:?}", path.display(), first(a.get(path)), first(b.get(path)));
            }
            let s = other.replica().status();
            eprintln!("{:?}, {} wanted", s.notices, s.files);
            panic!("not the same within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An account with its devices, and the lines between them.
pub struct Lab {
    pub runtime: Arc<tokio::runtime::Runtime>,
    pub account: AccountKey,
    pub share: ShareId,
    pub list: DeviceList,
    /// Of a share with other accounts.
    pub shared: Option<Circle>,
    pub admin: Arc<DeviceKeys>,
    pub hub: Arc<Hub>,
}

impl Lab {
    /// The first device is an admin.
    pub fn new(devices: &[(&str, Role)]) -> (Self, Vec<Device>) {
        let account = AccountKey::generate();
        let keys: Vec<Arc<DeviceKeys>> = devices.iter().map(|_| Arc::new(DeviceKeys::generate())).collect();
        let listed = |i: usize| Listed::new(keys[i].public(), devices[i].1, devices[i].0, "", 0);
        let mut list = DeviceList::create(&account, &keys[0], listed(0)).unwrap();
        for i in 1..devices.len() {
            list = list.with_added(&*keys[0], listed(i)).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(40)
            .enable_all()
            .build()
            .unwrap();
        let runtime = Arc::new(runtime);
        let admin = keys[0].clone();
        let hub = Arc::new(Hub::default());
        let lab = Self { runtime, account, share: ShareId::from_bytes([7; 16]), list, shared: None, admin, hub };
        let devices = keys.into_iter().zip(devices).map(|(keys, (_, role))| Device::new(keys, *role)).collect();
        (lab, devices)
    }

    /// One more device on the list; those that run are told.
    pub fn join(&mut self, name: &str, role: Role, running: &[&Device]) -> Device {
        let keys = Arc::new(DeviceKeys::generate());
        let listed = Listed::new(keys.public(), role, name, "", 0);
        self.list = self.list.with_added(&*self.admin, listed).unwrap();
        running.iter().for_each(|d| d.replica().take_list(&self.list));
        Device::new(keys, role)
    }

    /// Who is in it.
    pub fn circle(&self) -> Circle {
        self.shared.clone().unwrap_or_else(|| Circle::of_account(self.list.clone()))
    }

    /// Links two devices, both ways, in all shares that both run.
    pub fn link(&self, a: &Device, b: &Device) {
        self.hub.cut(a.id(), b.id());
        a.shares.peer_up(b.id());
        b.shares.peer_up(a.id());
    }

    pub fn unlink(&self, a: &Device, b: &Device) {
        a.shares.peer_down(b.id());
        b.shares.peer_down(a.id());
        self.hub.cut(a.id(), b.id());
    }

    /// A share of several accounts: the first owns it, the others may what is said. Each device has a store of its own
    /// for it.
    pub fn shared(&self, accounts: &[(&str, &[&Device], Access)]) -> (Self, Vec<Device>) {
        let mut circle = None;
        let mut lists = Vec::new();
        for (name, devices, _) in accounts {
            let account = AccountKey::generate();
            let listed = |d: &Device, n: usize| Listed::new(d.keys.public(), d.role, &format!("{name}{n}"), "", 0);
            let mut list = DeviceList::create(&account, &devices[0].keys, listed(devices[0], 0)).unwrap();
            for (n, device) in devices.iter().enumerate().skip(1) {
                list = list.with_added(&*devices[0].keys, listed(device, n)).unwrap();
            }
            lists.push((account, list));
        }
        let owner = &accounts[0].1[0].keys;
        for ((name, _, access), (account, list)) in accounts.iter().zip(&lists) {
            circle = Some(match circle {
                None => Circle::of_share(MemberList::found(list, owner, name, 0).unwrap(), [list.clone()]),
                Some(circle) => {
                    let jid = (*name).to_owned();
                    let (account, access) = (account.id(), *access);
                    let member = Member { account, jid, access, may_invite: false, added: 0 };
                    let mut circle = Circle::with_member(&circle, owner, member).unwrap();
                    circle.learn(list.clone()).unwrap();
                    circle
                }
            });
        }
        let circle = circle.expect("an owner");
        let share = circle.members().unwrap().share();
        let (account, list) = lists.swap_remove(0);
        let (runtime, hub, admin) = (self.runtime.clone(), self.hub.clone(), owner.clone());
        let lab = Self { runtime, account, share, list, shared: Some(circle), admin, hub };
        (lab, accounts.iter().flat_map(|(_, devices, _)| *devices).map(|d| d.again()).collect())
    }

    /// Another share, of some of the devices: the first is its admin. Each has a store of its own for it.
    pub fn another(&self, share: ShareId, devices: &[&Device]) -> (Self, Vec<Device>) {
        let account = AccountKey::generate();
        let listed = |d: &Device| Listed::new(d.keys.public(), d.role, "again", "", 0);
        let admin = devices[0].keys.clone();
        let mut list = DeviceList::create(&account, &admin, listed(devices[0])).unwrap();
        for device in &devices[1..] {
            list = list.with_added(&*admin, listed(device)).unwrap();
        }
        let lab =
            Self { runtime: self.runtime.clone(), account, share, list, shared: None, admin, hub: self.hub.clone() };
        (lab, devices.iter().map(|d| d.again()).collect())
    }
}

/// Who can be reached, and the lines that are open.
#[derive(Default)]
pub struct Hub {
    serves: Mutex<HashMap<DeviceId, Arc<dyn Serve>>>,
    lines: tokio::sync::Mutex<HashMap<(DeviceId, DeviceId), Client>>,
    tasks: Mutex<HashMap<(DeviceId, DeviceId), Vec<tokio::task::AbortHandle>>>,
    pub meters: Mutex<HashMap<(DeviceId, DeviceId), Arc<Meter>>>,
}

/// What one device read from another; it may break off.
#[derive(Default)]
pub struct Meter {
    pub read: AtomicU64,
    /// Breaks off after so many; 0: never.
    pub budget: AtomicU64,
    pub broke: AtomicBool,
}

impl Hub {
    pub fn serve(&self, device: DeviceId, with: Arc<dyn Serve>) {
        self.serves.lock().unwrap().insert(device, with);
    }

    pub fn meter(&self, reader: &Device, from: &Device) -> Arc<Meter> {
        self.meters.lock().unwrap().entry((reader.id(), from.id())).or_default().clone()
    }

    fn cut(&self, a: DeviceId, b: DeviceId) {
        for pair in [(a, b), (b, a)] {
            self.tasks.lock().unwrap().remove(&pair).into_iter().flatten().for_each(|t| t.abort());
        }
    }

    pub fn forget(&self, device: DeviceId) {
        self.serves.lock().unwrap().remove(&device);
        let pairs: Vec<_> = self.tasks.lock().unwrap().keys().copied().collect();
        pairs.into_iter().filter(|(a, b)| *a == device || *b == device).for_each(|(a, b)| self.cut(a, b));
    }

    async fn line(&self, from: DeviceId, to: DeviceId) -> Result<Client, String> {
        let mut lines = self.lines.lock().await;
        let open = self.tasks.lock().unwrap().get(&(from, to)).is_some_and(|t| t.iter().all(|t| !t.is_finished()));
        if open && let Some(client) = lines.get(&(from, to)) {
            return Ok(client.clone());
        }
        let serve = self.serves.lock().unwrap().get(&to).cloned().ok_or("not there")?;
        let meter = self.meters.lock().unwrap().entry((from, to)).or_default().clone();
        let (mine, theirs) = tokio::io::duplex(1 << 20);
        let server = tokio::spawn(async move {
            let _ = sync::link::http::serve(Box::new(theirs), Pace::Fast, from, serve).await;
        });
        let started = Client::start(Box::new(Metered { io: mine, meter }), Pace::Fast).await;
        let (client, driver) = started.map_err(|e| e.to_string())?;
        let driver = tokio::spawn(async move {
            let _ = driver.await;
        });
        self.tasks.lock().unwrap().insert((from, to), vec![server.abort_handle(), driver.abort_handle()]);
        lines.insert((from, to), client.clone());
        Ok(client)
    }
}

struct Metered {
    io: DuplexStream,
    meter: Arc<Meter>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let budget = self.meter.budget.load(Ordering::SeqCst);
        if budget > 0 && self.meter.read.load(Ordering::SeqCst) > budget {
            self.meter.broke.store(true, Ordering::SeqCst);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.meter.read.fetch_add((buf.filled().len() - before) as u64, Ordering::SeqCst);
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

pub struct Line {
    pub hub: Arc<Hub>,
    pub me: DeviceId,
}

impl Peers for Line {
    fn request(
        &self,
        peer: DeviceId,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Result<Response<Incoming>, String>> {
        let (hub, me) = (self.hub.clone(), self.me);
        Box::pin(async move {
            let client = hub.line(me, peer).await?;
            client.send(request.map(Full::new)).await.map_err(|e| e.to_string())
        })
    }
}

/// Answers as another does, and lies about some of it.
pub struct Liar<F> {
    pub truth: Arc<dyn Serve>,
    pub lie: F,
}

impl<F> Serve for Liar<F>
where
    F: Fn(&str) -> Option<Response<Body>> + Send + Sync + 'static,
{
    fn serve<'a>(&'a self, peer: DeviceId, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
        match (self.lie)(request.uri().path()) {
            Some(answer) => Box::pin(async move { answer }),
            None => self.truth.serve(peer, request),
        }
    }
}

/// Answers as another does; keeps what it answered to requests for bodies, and its feed waits for the word.
pub struct Watched {
    pub truth: Arc<dyn Serve>,
    pub answers: Mutex<Vec<u16>>,
    pub feed: tokio::sync::watch::Sender<bool>,
    /// Told when an answer was begun, whether or not it is there at once.
    pub begun: Box<dyn Fn() + Send + Sync>,
}

impl Watched {
    pub fn new(truth: &Replica, begun: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        let feed = tokio::sync::watch::Sender::new(true);
        Arc::new(Self { truth: Arc::new(truth.clone()), answers: Mutex::default(), feed, begun: Box::new(begun) })
    }
}

impl Serve for Watched {
    fn serve<'a>(&'a self, peer: DeviceId, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
        Box::pin(async move {
            let is_feed = request.uri().path().ends_with("/feed");
            if is_feed {
                let _ = self.feed.subscribe().wait_for(|open| *open).await;
            }
            let mut answer = self.truth.serve(peer, request);
            let first = futures::poll!(&mut answer);
            (self.begun)();
            let answer = match first {
                Poll::Ready(answer) => answer,
                Poll::Pending => answer.await,
            };
            if !is_feed {
                self.answers.lock().unwrap().push(answer.status().as_u16());
            }
            answer
        })
    }
}

/// Gives these bytes as its feed, which then stays open, and has nothing else.
pub struct FeedOf(pub Vec<u8>);

impl Serve for FeedOf {
    fn serve<'a>(&'a self, _: DeviceId, request: Request<Incoming>) -> BoxFuture<'a, Response<Body>> {
        use http_body_util::{BodyExt, StreamBody};
        let bytes = Bytes::from(self.0.clone());
        Box::pin(async move {
            if !request.uri().path().ends_with("/feed") {
                let mut answer = Response::new(sync::link::full(Bytes::new()));
                *answer.status_mut() = hyper::StatusCode::NOT_FOUND;
                return answer;
            }
            use futures::StreamExt;
            let first = futures::stream::once(async move { Ok::<_, io::Error>(hyper::body::Frame::data(bytes)) });
            Response::new(BodyExt::boxed(StreamBody::new(first.chain(futures::stream::pending()))))
        })
    }
}

/// One device: its keys, its store, and what runs on it.
pub struct Device {
    pub keys: Arc<DeviceKeys>,
    pub dir: TempDir,
    pub role: Role,
    pub incarnation: Incarnation,
    pub session: u64,
    pub clean: bool,
    pub shares: Shares,
    replica: Option<Replica>,
}

impl Device {
    fn new(keys: Arc<DeviceKeys>, role: Role) -> Self {
        let incarnation = Incarnation::random();
        let shares = Shares::new(keys.id());
        let dir = tempfile::tempdir().unwrap();
        Self { keys, dir, role, incarnation, session: 1, clean: false, shares, replica: None }
    }

    /// The same device, with a store for another share.
    pub fn again(&self) -> Self {
        let mut again = Self::new(self.keys.clone(), self.role);
        again.shares = self.shares.clone();
        again
    }

    pub fn id(&self) -> DeviceId {
        self.keys.id()
    }

    pub fn replica(&self) -> &Replica {
        self.replica.as_ref().expect("started")
    }

    pub fn store(&self) -> &Path {
        self.dir.path()
    }

    /// How it asks others.
    pub fn line(&self, lab: &Lab) -> Arc<dyn Peers> {
        Arc::new(Line { hub: lab.hub.clone(), me: self.id() })
    }

    pub fn start(&mut self, lab: &Lab) {
        self.start_with(lab, Arc::new(NoKeys::default()));
    }

    /// With a file system of the test's own.
    pub fn start_with(&mut self, lab: &Lab, host: Arc<dyn Host>) {
        let _inside = lab.runtime.enter();
        let config = Config {
            store: self.store().to_owned(),
            share: lab.share,
            keys: self.keys.clone(),
            circle: lab.circle(),
            shelf: Shelf::empty(lab.share),
            incarnation: self.incarnation,
            session: self.session,
            clean: self.clean,
        };
        let opened = Opened::open(self.store(), lab.share, self.id()).unwrap();
        let replica = Replica::start(config, opened).unwrap();
        self.shares.set_net(Some(self.line(lab)));
        self.shares.add(&replica);
        lab.hub.serve(self.id(), Arc::new(self.shares.clone()));
        let host: Option<Arc<dyn Host>> = match self.role {
            Role::Full => Some(host),
            Role::Blind => None,
        };
        if self.role == Role::Full {
            write_folder(&self.store().join("tree"), NodeId::root_of(lab.share));
        }
        replica.begin(host);
        self.replica = Some(replica);
    }

    pub fn stop(&mut self, lab: &Lab, well: bool) {
        let replica = self.replica.take().expect("started");
        lab.hub.forget(self.id());
        self.shares.remove(&lab.share);
        self.shares = Shares::new(self.id());
        replica.end(well);
        (self.session, self.clean) = (self.session + 1, well);
        drop(replica);
        // Whoever still answers or asks ends soon; the index is locked until then.
        until("the index is free", || sync::index::Index::open(self.store()).is_ok());
    }

    pub fn tree(&self) -> PathBuf {
        self.store().join("tree")
    }

    /// All of the tree by its paths, locators included; but not the root's header, which every device makes itself.
    pub fn shows(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut out = BTreeMap::new();
        walk(&self.tree(), Path::new(""), &mut out);
        out.retain(|path, _| path.components().count() > 1 || !path.to_string_lossy().starts_with(".kith-"));
        out
    }

    /// Records everything that the tree shows and the records do not, as fs would. How many records.
    pub fn record(&self, lab: &Lab) -> usize {
        let observe = || {
            let (mut observation, files, _) = scan::scan(self.store(), lab.share, |_, _| None).unwrap();
            for file in &mut observation.files {
                file.attrs = vec![1];
            }
            for folder in &mut observation.folders {
                let path = find(&self.tree(), &header_name(&folder.node)).expect("a folder's header");
                folder.attrs = [std::fs::read(path).unwrap(), vec![2]].concat();
                folder.attrs[LOCATOR].fill(0);
            }
            let bodies = files.iter().map(|f| (f.root, groups_of_file(&f.path).unwrap(), None)).collect();
            Ok::<_, Error>(Some(Observed { observation, bodies }))
        };
        self.replica().author(observe).unwrap()
    }

    /// Writes a file whose pages come from `seed`, and records it.
    pub fn save(&self, lab: &Lab, path: &str, seed: u64, length: usize) -> FileId {
        let path = self.tree().join(path);
        let file = std::fs::read(&path).ok().and_then(|b| FileId::from_slice(&b[28..44]).ok());
        let file = file.unwrap_or_else(FileId::random);
        write_file(&path, file, seed, length);
        self.record(lab);
        file
    }

    pub fn quarantined(&self) -> usize {
        std::fs::read_dir(self.store().join("quarantine")).unwrap().count()
    }

    /// Whether versions/ has a body of this content.
    pub fn keeps(&self, content: &[u8]) -> bool {
        self.has_beside("versions", content)
    }

    /// Whether it came, and is not in the tree.
    pub fn holds(&self, content: &[u8]) -> bool {
        self.has_beside("incoming", content)
    }

    fn has_beside(&self, dir: &str, content: &[u8]) -> bool {
        let kept = std::fs::read_dir(self.store().join(dir)).unwrap();
        kept.flatten().any(|e| {
            let Ok(mut bytes) = std::fs::read(e.path()) else { return false };
            if bytes.len() != content.len() {
                return false;
            }
            bytes[LOCATOR].copy_from_slice(&content[LOCATOR]);
            bytes == content
        })
    }

    /// The logs, by name.
    pub fn logs(&self, lab: &Lab) -> BTreeMap<String, Vec<u8>> {
        let dir = self.store().join("records").join(lab.share.to_string());
        let logs = std::fs::read_dir(dir).unwrap().flatten();
        let named = logs.filter_map(|e| Some((e.file_name().into_string().ok()?, std::fs::read(e.path()).ok()?)));
        named.filter(|(name, _)| name.ends_with(".log")).collect()
    }

    /// Bytes of all logs.
    pub fn logged(&self, lab: &Lab) -> usize {
        self.logs(lab).values().map(Vec::len).sum()
    }

    /// What was found out about others: (device, what).
    pub fn faults(&self) -> Vec<(DeviceId, Wrong)> {
        self.replica().status().faults.iter().map(|f| (f.device, f.what)).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(replica) = self.replica.take() {
            self.shares.remove(&replica.share());
            replica.end(false);
        }
    }
}

pub fn header(kind: u8, id: &[u8; 16]) -> Vec<u8> {
    let mut bytes = vec![0; FOLDER_HEADER];
    bytes[..5].copy_from_slice(b"kith\x01");
    bytes[5] = kind;
    bytes[24] = 1;
    bytes[28..44].copy_from_slice(id);
    bytes[44..60].copy_from_slice(id);
    bytes
}

pub fn write_folder(path: &Path, node: NodeId) {
    std::fs::create_dir_all(path).unwrap();
    std::fs::write(path.join(header_name(&node)), header(16, node.as_bytes())).unwrap();
}

pub fn write_file(path: &Path, file: FileId, seed: u64, length: usize) {
    let mut bytes = header(1, file.as_bytes());
    let mut pages = blake3::Hasher::new_derive_key("kith tests pages");
    pages.update(&seed.to_le_bytes());
    let mut more = vec![0; length.saturating_sub(bytes.len())];
    pages.finalize_xof().fill(&mut more);
    bytes.extend_from_slice(&more);
    // Written aside: whoever follows a link to the old bytes keeps them.
    let aside = path.with_file_name(".kith-tmp-test");
    std::fs::write(&aside, bytes).unwrap();
    std::fs::rename(aside, path).unwrap();
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut out = BTreeMap::new();
    walk(dir, Path::new(""), &mut out);
    out.into_keys().find(|p| p.file_name().is_some_and(|n| n == name)).map(|p| dir.join(p))
}

fn walk(root: &Path, below: &Path, out: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let path = below.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(root, &path, out),
            Ok(kind) if kind.is_file() => {
                if let Ok(bytes) = std::fs::read(root.join(&path)) {
                    out.insert(path, bytes);
                }
            }
            _ => {}
        }
    }
}

pub type Dressing = Box<dyn Fn(&EntryId) + Send + Sync>;

/// A full device's file system, as far as these tests need it: nothing is busy, attributes are what they are.
#[derive(Default)]
pub struct NoKeys {
    /// Called in the midst of a step, when the body of the file left the place where it lay.
    pub dressing: Option<Dressing>,
}

impl Host for NoKeys {
    fn verify(&self, _: &NodeId, _: &StoreName) {}

    fn enter(&self, f: &mut dyn FnMut(&dyn Inside)) {
        f(self);
    }
    fn reseal(&self, _: NodeId, _: &StoreName, _: NodeId, _: EntryId) -> Option<(StoreName, Locator)> {
        None
    }
    fn conflict_name(
        &self,
        _: NodeId,
        _: &StoreName,
        _: EntryId,
        _: &str,
        _: &[u8],
        _: EntryId,
    ) -> Option<(StoreName, Locator)> {
        None
    }
    fn copy_as(&self, _: &Path, _: &Path, _: FileId) -> bool {
        false
    }
    fn readdress(&self, attrs: &[u8], _: EntryId, _: EntryId) -> Option<Vec<u8>> {
        Some(attrs.to_vec())
    }
}

impl Inside for NoKeys {
    fn busy(&self, _: &EntryId) -> bool {
        false
    }
    fn name(&self, _: &Path, _: &EntryId, _: &[u8]) -> io::Result<bool> {
        Ok(false)
    }
    fn dress(&self, _: &Path, id: &EntryId, _: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.dressing.iter().for_each(|f| f(id));
        Ok(None)
    }
    fn touched(&self, _: &[NodeId], _: &[EntryId]) {}
}
