//! The daemon's side of the control socket.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use keymgr::circle::Access;
use keymgr::devices::Role;
use serde_json::{Value, json};
use sync::net::pair::{self, Code as PairCode, Offer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::control::{AccountRequest, Answer, MAX_LINE, Request};
use super::sharing::Wish;
use super::{Daemon, network, offline, pairing};
use crate::error::{Code, Error, Result};
use crate::paths;

/// Answers until it is dropped; then the socket is gone.
pub struct Control {
    path: PathBuf,
    task: tokio::task::AbortHandle,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

pub fn listen(daemon: Arc<Daemon>) -> Result<Control> {
    let path = paths::socket(&daemon.vault.id().to_string())?;
    // This process holds the vault's lock, so a socket that is there is a dead daemon's.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(|e| Error::io(&path, &e))?;
    let private = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600));
    private.map_err(|e| Error::io(&path, &e))?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ours = stream.peer_cred().is_ok_and(|c| c.uid() == nix::unistd::geteuid().as_raw() || c.uid() == 0);
            if ours {
                tokio::spawn(Conversation::begin(daemon.clone(), stream));
            }
        }
    });
    Ok(Control { path, task: task.abort_handle() })
}

struct Conversation {
    daemon: Arc<Daemon>,
    reader: BufReader<OwnedReadHalf>,
    writer: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
}

impl Conversation {
    async fn begin(daemon: Arc<Daemon>, stream: UnixStream) {
        let (reader, writer) = stream.into_split();
        let mut this = Self { daemon, reader: BufReader::new(reader), writer: Arc::new(writer.into()) };
        while let Some(request) = this.request().await {
            let answer = match this.answer(request).await {
                Ok(value) => Answer::Done { value },
                Err(e) => Answer::Failed { what: e.what, todo: e.todo, code: e.code as u8 },
            };
            if say(&this.writer, &answer).await.is_none() {
                return;
            }
        }
    }

    async fn request(&mut self) -> Option<Request> {
        let mut line = zeroize::Zeroizing::new(String::new());
        (&mut self.reader).take(MAX_LINE).read_line(&mut line).await.ok()?;
        serde_json::from_str(&line).ok()
    }

    async fn answer(&mut self, request: Request) -> Result<Value> {
        match request {
            Request::Status => Ok(status(&self.daemon).await),
            Request::Stop => {
                let (tell, told) = tokio::sync::oneshot::channel();
                let _ = self.daemon.stop.send(Some(tell)).await;
                told.await.unwrap_or(Ok(()))?;
                Ok(json!({}))
            }
            Request::Account(request) => account(&self.daemon, request).await,
            Request::Pair { jid, timeout } => self.pair(jid, timeout).await,
            Request::Allow { .. } => Err(Error::new(Code::Usage, "Nothing was asked.", "Report this.")),
            Request::Fsck { repair } => {
                let daemon = self.daemon.clone();
                let checked = tokio::task::spawn_blocking(move || {
                    offline::check(daemon.volume.as_ref(), &daemon.replica, repair)
                });
                checked.await.unwrap_or_else(|_| Err(Error::new(Code::Other, "fsck was interrupted.", "Run it again.")))
            }
            Request::Share { path, jid, role, may_invite } => {
                let access = match role.as_str() {
                    "writer" => Access::Writer,
                    "reader" => Access::Reader,
                    "blind" => Access::Blind,
                    _ => return Err(Error::new(Code::Usage, "There is no such role.", "writer, reader or blind.")),
                };
                self.daemon.share(Wish { path, jid, access, may_invite }).await
            }
            Request::Invites => Ok(self.daemon.invites().await),
            Request::Accept { which, at } => self.daemon.accept(which.as_deref(), at.as_deref()).await,
            Request::Decline { which } => self.daemon.decline(which.as_deref()).await,
            Request::Leave { path } => self.daemon.leave(&path).await,
            Request::Unshare { path, jid } => self.daemon.unshare(&path, jid.as_deref()).await,
            Request::Safety { jid } => self.daemon.safety(&jid).await,
            Request::Verified { jid, account } => self.daemon.verified(&jid, &account).await,
            Request::RemovePeer { name, lost } => self.daemon.remove_peer(&name, lost).await,
            Request::Recovery => self.daemon.recovery().await,
            Request::RecoveryDone => self.daemon.recovery_done(),
        }
    }

    async fn pair(&mut self, jid: Option<String>, timeout: u64) -> Result<Value> {
        let daemon = self.daemon.clone();
        let net = match daemon.online.lock().await.as_ref() {
            Some(online) => online.net().clone(),
            None => {
                return Err(Error::new(
                    Code::PairingFailed,
                    "This device has no account, so no other device can find it.",
                    "Set one first: kith account add JID",
                ));
            }
        };
        let root = daemon.set.get(daemon.root).ok_or_else(gone)?;
        let keyring = daemon.keyring.lock().clone();
        let own = keyring.login.as_ref().map(|l| l.jid.split('/').next().unwrap_or_default().to_owned());
        let own = own.unwrap_or_default();
        let code = PairCode::random();
        let shown = format!("{own}:{}", code.show().as_str());
        say(&self.writer, &Answer::Code { code: shown }).await.ok_or_else(gone)?;

        let (ask, mut asked) = tokio::sync::mpsc::channel::<(String, tokio::sync::oneshot::Sender<bool>)>(1);
        let confirm: pair::Confirm = Arc::new(move |jid| {
            let ask = ask.clone();
            Box::pin(async move {
                let (tell, told) = tokio::sync::oneshot::channel();
                ask.send((jid, tell)).await.is_ok() && told.await.unwrap_or(false)
            })
        });
        let only = jid.is_some();
        let offer = Offer {
            code,
            vault: daemon.vault.id(),
            role: None,
            allowed: vec![jid.unwrap_or(own)],
            confirm: (!only).then_some(confirm),
        };
        let offering = pair::offer(&net, &keyring.device, offer);
        tokio::pin!(offering);
        let late = tokio::time::sleep(Duration::from_secs(timeout));
        tokio::pin!(late);
        let mut paired = loop {
            tokio::select! {
                met = &mut offering => break met.map_err(|e| pairing::told(&e))?,
                () = &mut late => {
                    return Err(Error::new(Code::PairingTimedOut, "Nobody used the code in time.", "Run `kith pair` again for a new one."));
                }
                Some((jid, tell)) = asked.recv() => {
                    say(&self.writer, &Answer::Confirm { jid }).await.ok_or_else(gone)?;
                    let allow = matches!(self.request().await, Some(Request::Allow { allow: true }));
                    let _ = tell.send(allow);
                }
                // The command that waits was ended: nobody must be let in any more.
                () = closed(&self.reader) => return Err(gone()),
            }
        };
        // Its list and keys as they are now: the code may have waited long.
        daemon.tend(&root, true)?;
        let keyring = daemon.keyring.lock().clone();
        let shelf = root.replica.shelf().borrow().clone();
        let (list, listed, shelf) = pairing::welcome(&mut paired, &keyring, shelf).await?;
        daemon.replica.take_list(&list);
        daemon.replica.take_shelf(&shelf);
        let role = if listed.role == Role::Full { "full" } else { "blind" };
        Ok(json!({ "name": listed.name, "role": role, "device": listed.public.id.to_string() }))
    }
}

/// Returns when the other end is gone.
async fn closed(reader: &BufReader<OwnedReadHalf>) {
    let stream = reader.get_ref();
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let mut byte = [0; 1];
        // Only an end is looked for; an answer is read by whoever asked.
        match stream.try_peek_end(&mut byte) {
            true => return,
            false => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

trait PeekEnd {
    fn try_peek_end(&self, byte: &mut [u8; 1]) -> bool;
}

impl PeekEnd for OwnedReadHalf {
    fn try_peek_end(&self, byte: &mut [u8; 1]) -> bool {
        use std::os::fd::{AsFd, AsRawFd};
        let fd = self.as_ref().as_fd().as_raw_fd();
        nix::sys::socket::recv(
            fd,
            byte,
            nix::sys::socket::MsgFlags::MSG_PEEK | nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        ) == Ok(0)
    }
}

fn gone() -> Error {
    Error::new(Code::PairingFailed, "The command that waited for the device was ended.", "Run `kith pair` again.")
}

async fn say(writer: &tokio::sync::Mutex<OwnedWriteHalf>, answer: &Answer) -> Option<()> {
    let mut line = serde_json::to_vec(answer).ok()?;
    line.push(b'\n');
    writer.lock().await.write_all(&line).await.ok()
}

async fn account(daemon: &Arc<Daemon>, request: AccountRequest) -> Result<Value> {
    let register = request.register;
    let login = network::login(request);
    network::check(&login, register).await?;
    let keyring = {
        let mut keyring = daemon.keyring.lock();
        network::set_account(&mut keyring, login.clone())?;
        daemon.vault.save(&keyring).map_err(|e| crate::vault::told(&daemon.store, e))?;
        keyring.clone()
    };
    if let Some(list) = &keyring.list {
        daemon.replica.take_list(list);
    }
    let mut online = daemon.online.lock().await;
    drop(online.take());
    *online = Some(network::Online::start(&login, &keyring, daemon)?);
    let down = online.as_ref().map(|o| o.down.clone());
    drop(online);
    // Whoever is told of this account may share with it at once.
    if let Some(mut down) = down {
        let here = tokio::time::timeout(Duration::from_secs(10), down.wait_for(Option::is_none)).await;
        if here.is_ok_and(|here| here.is_ok()) {
            daemon.show_list().await;
        }
    }
    Ok(json!({ "account": login.jid }))
}

async fn status(daemon: &Daemon) -> Value {
    let s = daemon.replica.status();
    let role = |role: Role| if role == Role::Full { "full" } else { "blind" };
    let peers: Vec<Value> = s
        .peers
        .iter()
        .filter(|p| p.name != super::peers::SHEET || !p.jid.is_empty())
        .map(|p| json!({ "name": p.name, "role": role(p.role), "jid": p.jid, "up": p.up, "device": p.id.to_string() }))
        .collect();
    let broker = daemon.online.lock().await.as_ref().map(|o| o.down.borrow().clone());
    let mending = daemon.volume.as_ref().is_some_and(|v| v.is_unmended());
    let mended = *daemon.mended.lock();
    let running = daemon.set.all();
    let full = running
        .iter()
        .any(|r| r.replica.status().full)
        .then(|| "The disk is full: what your other devices have waits for room.".to_owned());
    let refused: Vec<String> = running.iter().flat_map(|r| r.ears.told(&r.replica)).collect();
    let faults: Vec<Value> = s
        .faults
        .iter()
        .map(|f| {
            json!({
                "device": f.device.to_string(),
                "name": f.name,
                "what": f.what.name(),
                "since": f.since,
                "text": f.to_string(),
            })
        })
        .collect();
    let jid = daemon.keyring.lock().login.as_ref().map(|l| l.jid.clone());
    let shares = daemon.shares_told();
    json!({
        "running": true,
        "store": daemon.store,
        "vault": daemon.vault.id().to_string(),
        "mountpoint": daemon.mountpoint,
        "role": role(if s.access.has_keys() { Role::Full } else { Role::Blind }),
        "jid": jid,
        "broker": broker.flatten(),
        "peers": peers,
        "pending": { "files": s.files, "bytes": s.bytes },
        "conflicts": s.conflicts,
        "mending": mending,
        "mended": mended,
        "faults": faults,
        "unconfirmed": s.unconfirmed,
        "shares": shares,
        "invitations": daemon.invitations().iter().map(|i| json!({ "from": i.from, "share": i.share.to_string() })).collect::<Vec<_>>(),
        "sheet_due": daemon.keyring.lock().account.is_some(),
        "notices": full.into_iter().chain(s.notices).chain(refused).collect::<Vec<_>>(),
    })
}
