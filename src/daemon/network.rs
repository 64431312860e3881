//! The account, and the network that it opens: the link between sync's `Net` and its shares.

use std::sync::Arc;

use futures::future::BoxFuture;
use keymgr::devices::{DeviceList, Role};
use keymgr::ids::DeviceId;
use keymgr::keyring::{Keyring, Login};
use sync::link::Serve;
use sync::net::{self, BrokerConfig, ConnectError, Net, NetConfig, NetEvent};
use sync::replica::Peers;
use tokio::sync::watch;

use super::control::AccountRequest;
use crate::error::{Code, Error, Result, printable};

/// What is said of the broker before the first session with it.
pub const CONNECTING: &str = "connecting";

/// The account that a request names.
pub fn login(request: AccountRequest) -> Login {
    let AccountRequest { jid, password, ca, server, plaintext_loopback, .. } = request;
    Login { jid, password, ca, server, plaintext: plaintext_loopback }
}

/// Makes the account where that is asked for, then logs in once: all that can be wrong is said now.
pub async fn check(login: &Login, register: bool) -> Result<()> {
    let broker = BrokerConfig::from(login);
    if register {
        net::register(&broker).await.map_err(|e| told(&e))?;
    }
    net::check_login(&broker).await.map_err(|e| told(&e))
}

/// [`check`], for a command without a runtime of its own.
pub fn try_login(login: &Login, register: bool) -> Result<()> {
    runtime()?.block_on(check(login, register))
}

pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Error::new(Code::Other, format!("No threads: {e}."), "Check the limits of this machine."))
}

/// Puts the account into the keyring, and its JID on the device list.
pub fn set_account(keyring: &mut Keyring, login: Login) -> Result<()> {
    let bare = login.jid.split('/').next().unwrap_or_default().to_owned();
    if let Some(list) = &keyring.list {
        let me = keyring.device.id();
        if let Some(mine) = list.get(&me).filter(|mine| mine.jid != bare) {
            let mut mine = mine.clone();
            mine.jid = bare;
            keyring.list = Some(with_added(keyring, list, mine)?);
        }
    }
    keyring.login = Some(login);
    Ok(())
}

/// The list with a device more, or changed; signed by this admin, or by the account key where it is still here.
pub fn with_added(keyring: &Keyring, list: &DeviceList, listed: keymgr::devices::Listed) -> Result<DeviceList> {
    let refused = |e: keymgr::devices::Error| {
        Error::new(
            Code::Other,
            format!("This device cannot change the list of devices: {e}."),
            "Do it on a device that is an admin: the first one, or one that joined with all keys.",
        )
    };
    let (id, full) = (listed.public.id, listed.role == Role::Full);
    match &keyring.account {
        Some(account) => {
            let list = list.with_added(account, listed).map_err(refused)?;
            if !full || list.is_admin(&id) {
                return Ok(list);
            }
            // Every full device may let others in and remove a lost one.
            let admins: Vec<DeviceId> = list.admins().iter().copied().chain([id]).collect();
            list.with_admins(account, &admins).map_err(refused)
        }
        None => list.with_added(&keyring.device, listed).map_err(refused),
    }
}

/// The broker's session and the links to the peers, as long as it is kept.
pub struct Online {
    net: Arc<Net>,
    events: tokio::task::AbortHandle,
    /// Why the broker cannot be reached now.
    pub down: watch::Receiver<Option<String>>,
}

impl Online {
    pub fn start(login: &Login, keyring: &Keyring, daemon: &Arc<super::Daemon>) -> Result<Self> {
        let shares = &daemon.shares;
        let serve: Arc<dyn Serve> = Arc::new(shares.clone());
        let config = NetConfig::new(BrokerConfig::from(login));
        let started = Net::start(config, Arc::new(keyring.device.clone()), shares.peers(), serve);
        let (net, mut events) =
            started.map_err(|e| Error::new(Code::Other, e.to_string(), "See kith(1), account add."))?;
        let net = Arc::new(net);
        shares.set_net(Some(Arc::new(Asked(net.clone()))));
        let (tell, down) = watch::channel(Some(CONNECTING.to_owned()));
        let daemon = Arc::downgrade(daemon);
        let events = tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Some(daemon) = daemon.upgrade() else { return };
                match event {
                    NetEvent::PeerUp(peer) => {
                        daemon.up.lock().insert(peer);
                        daemon.set.ask_again();
                        daemon.shares.peer_up(peer);
                    }
                    NetEvent::PeerDown(peer) => {
                        daemon.up.lock().remove(&peer);
                        daemon.shares.peer_down(peer);
                    }
                    NetEvent::BrokerUp => {
                        let _ = tell.send(None);
                        tokio::spawn(async move { daemon.look_at_contacts().await });
                    }
                    NetEvent::Unlisted(jid) => {
                        tracing::debug!("a new device of {}", printable(&jid));
                        tokio::spawn(async move {
                            // It comes online first and shows its list then.
                            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                            daemon.look_at_contacts().await;
                        });
                    }
                    NetEvent::Letter(letter) => drop(daemon.letters.send(letter)),
                    NetEvent::BrokerDown(why) => drop(tell.send(Some(why))),
                }
            }
        });
        Ok(Self { net, events: events.abort_handle(), down })
    }

    pub fn net(&self) -> &Arc<Net> {
        &self.net
    }
}

impl Drop for Online {
    fn drop(&mut self) {
        self.events.abort();
    }
}

/// The shares ask peers by this.
struct Asked(Arc<Net>);

impl Peers for Asked {
    fn request(
        &self,
        peer: DeviceId,
        request: hyper::Request<bytes::Bytes>,
    ) -> BoxFuture<'static, Result<hyper::Response<hyper::body::Incoming>, String>> {
        let net = self.0.clone();
        Box::pin(async move { net.request(peer, request).await.map_err(|e| e.to_string()) })
    }
}

/// What a person is told of a broker that gives no session.
pub fn told(error: &ConnectError) -> Error {
    use ConnectError as E;
    let what = format!("{}.", printable(&error.to_string()));
    let (code, todo) = match error {
        E::BadJid(_) => (Code::Usage, "Write it as user@domain."),
        E::BadServer(_) => (Code::Usage, "Write --server as host:port."),
        E::NoSuchHost(_) => {
            (Code::NoSuchAccount, "Check the domain of the JID, or name the server with --server HOST:PORT.")
        }
        E::Refused(_) | E::Unreachable(..) | E::Slow | E::Ended(_) | E::Stream(_) | E::Replaced => {
            (Code::BrokerUnreachable, "Check the network and --server, and try again; nothing was changed.")
        }
        E::Ca(..) => (Code::Usage, "--ca takes a file of certificates in PEM form."),
        E::Certificate(..) => (
            Code::BrokerCertificate,
            "If the server has a CA of its own, give it with --ca FILE; otherwise somebody may be in between.",
        ),
        E::Tls(_) | E::NoTls => (
            Code::BrokerCertificate,
            "kith does not talk to a server without TLS. Use another server, or ask its admin.",
        ),
        E::NotLoopback(_) => (Code::PlaintextRefused, "Leave out --plaintext-loopback: TLS is used then."),
        E::WrongPassword | E::AccountRefused(_) | E::FalseBroker => (
            Code::LoginRefused,
            "Check the JID and the password; --register makes a new account where the server allows it.",
        ),
        E::NoScram => (Code::LoginRefused, "The server must offer SCRAM; ask its admin, or use another server."),
        E::NoRegistration(_) => (
            Code::RegistrationRefused,
            "Make the account in the way that the server offers, then leave out --register.",
        ),
    };
    Error::new(code, what, todo)
}
