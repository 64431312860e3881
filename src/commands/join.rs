//! kith join: this device becomes one of yours.

use std::sync::Arc;
use std::time::Duration;

use keymgr::device::DeviceKeys;
use keymgr::devices::Role;
use sync::link::{Body, Serve, full};
use sync::net::pair::{self, Code as PairCode};
use sync::net::{BrokerConfig, Net, NetConfig};

use super::account;
use crate::cli::Join;
use crate::daemon::{network, pairing};
use crate::error::{Code, Error, Result};
use crate::vault;

/// How long the other device is looked for.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(args: &Join, json: bool) -> Result<()> {
    let store = vault::store(args.store.as_deref())?;
    vault::must_be_new(&store)?;
    let (offerer, code) = args.code.rsplit_once(':').ok_or_else(|| {
        Error::new(Code::Usage, "The code has no account in it.", "Copy the code as `kith pair` shows it: JID:CODE.")
    })?;
    let code = PairCode::parse(code).map_err(|e| pairing::told(&e))?;
    let request = account::request(&args.jid, &args.login)?;
    let passphrase = vault::new_secret(args.blind, &args.unlock)?;
    let role = if args.blind { Role::Blind } else { Role::Full };
    let name = vault::device_name(args.name.as_deref());
    let login = network::login(request);

    let runtime = network::runtime()?;
    let (mut keyring, shelf) = runtime.block_on(async {
        network::check(&login, args.login.register).await?;
        let device = DeviceKeys::generate();
        let (_peers, watched) = tokio::sync::watch::channel(Vec::new());
        let config = NetConfig::new(BrokerConfig::from(&login));
        let started = Net::start(config, Arc::new(device.clone()), watched, Arc::new(Nothing));
        let (net, mut events) =
            started.map_err(|e| Error::new(Code::Other, e.to_string(), "See kith(1), account add."))?;
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let met = pair::join(&net, &device, &code, offerer, Some(role), PATIENCE).await;
        let mut paired = met.map_err(|e| pairing::told(&e))?;
        let keyring = pairing::introduce(&mut paired, device, &name).await;
        drop(paired);
        net.close().await;
        keyring
    })?;
    keyring.login = Some(login);
    let opened = vault::create_joined(&store, &args.unlock, &passphrase, args.blind, &keyring)?;
    if let Some(keys) = keyring.share(keyring.root) {
        fs::volume::Volume::init(&store, opened.vault.id(), keys).map_err(|e| crate::daemon::told(&e))?;
    }
    let list = keyring.list.clone();
    let circle = list.map(keymgr::circle::Circle::of_account);
    if let Some(mut circle) = circle {
        let mut shelf = shelf;
        sync::members::Kept::open(&store, &mut circle, &mut shelf)
            .map_err(|e| Error::new(Code::Other, e.to_string(), "Check the disk, then join again."))?;
    }
    let next = if args.blind { "kith sync" } else { "kith mount MOUNTPOINT" };
    super::done(
        json,
        &format!("{name} is one of your devices now. Next: {next}"),
        &serde_json::json!({ "store": store, "vault": opened.vault.id().to_string(), "blind": args.blind }),
    );
    Ok(())
}

/// Nobody has a link to a device that is only pairing.
struct Nothing;

impl Serve for Nothing {
    fn serve<'a>(
        &'a self,
        _: keymgr::ids::DeviceId,
        _: hyper::Request<hyper::body::Incoming>,
    ) -> futures::future::BoxFuture<'a, hyper::Response<Body>> {
        Box::pin(async { hyper::Response::new(full(bytes::Bytes::new())) })
    }
}
