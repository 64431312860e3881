//! Two devices meet by a one-time code over the broker. Afterwards each holds the other's authentic public keys, and
//! they can hand each other bytes under a key that the broker does not know.
//!
//! One attempt burns the code, whatever comes of it; who was not typed or confirmed by the user has none.
//! SPAKE2 resists no quantum computer: secrets among the bytes are to be wrapped for the receiving device (X-Wing).

mod code;
mod desk;
mod handshake;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use keymgr::device::{DeviceKeys, DevicePublic};
use keymgr::devices::Role;
use keymgr::ids::VaultId;
use tokio::time::{sleep, timeout};
use tokio_xmpp::jid::{BareJid, Jid};
use tokio_xmpp::parsers::presence::Presence;
use tokio_xmpp::parsers::stanza_error::DefinedCondition;

pub use self::code::Code;
pub(super) use self::desk::Desk;
use self::desk::{Ear, Knock, PAIR, answer, message};
use self::handshake::{Agreed, Joiner, Keys};
use super::core::Core;
use super::stream::IqError;
use super::{Net, xml};

const ANSWER: Duration = Duration::from_secs(60);
const BROKER: Duration = Duration::from_secs(45);
/// A flood of names costs the user so many questions, and then none is heard.
const MAX_DENIED: usize = 8;
/// Between two calls for an offerer.
const CALL_EVERY: Duration = Duration::from_secs(2);
/// Of what is said after the handshake, in one message and in all.
const CHUNK: usize = 48 << 10;
const MAX_BYTES: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum PairError {
    #[error("a code has ten letters and digits")]
    BadCode,
    #[error("{0:?} is not a JID")]
    BadJid(String),
    #[error("another pairing is going on")]
    Busy,
    #[error("no session with the broker")]
    Offline,
    #[error("nobody at {0} offers to pair")]
    NobodyOffers(String),
    #[error("the code is wrong, or somebody is between the two devices; the code is used up")]
    WrongCode,
    #[error("the two sides disagree on the new device's role")]
    Role,
    #[error("the other device speaks another version")]
    Version,
    #[error("the other device said something that makes no sense")]
    Malformed,
    #[error("the other device gave up: {0}")]
    GaveUp(String),
    #[error("the other device did not answer in time")]
    Slow,
    #[error("more bytes than pairing carries")]
    TooLarge,
}

impl From<IqError> for PairError {
    fn from(e: IqError) -> Self {
        match e {
            IqError::Offline => Self::Offline,
            IqError::Slow => Self::Slow,
            IqError::Refused(why) => Self::GaveUp(why),
        }
    }
}

/// Asks the user whether this bare JID may try.
pub type Confirm = Arc<dyn Fn(String) -> BoxFuture<'static, bool> + Send + Sync>;

/// What a member of the vault offers.
pub struct Offer {
    pub code: Code,
    pub vault: VaultId,
    /// None: what the new device asks for.
    pub role: Option<Role>,
    /// Bare JIDs that may try without being asked about; the own one where the new device shares the account.
    pub allowed: Vec<String>,
    /// For all others; None: they are not heard.
    pub confirm: Option<Confirm>,
}

/// Waits for a device with the code. Drop the future to stop waiting.
pub async fn offer(net: &Net, keys: &DeviceKeys, offer: Offer) -> Result<Paired, PairError> {
    let core = net.core.clone();
    let mut ear = core.pairing.open()?;
    let mut allowed = Vec::new();
    for jid in &offer.allowed {
        allowed.push(bare(jid)?);
    }
    let mut denied: Vec<BareJid> = Vec::new();
    while let Some(knock) = ear.knocks.recv().await {
        let Some((me, _)) = core.here() else { continue };
        match knock {
            Knock::Join(from) if from != me => {
                let who = from.to_bare();
                if !allowed.contains(&who)
                    && !denied.contains(&who)
                    && denied.len() < MAX_DENIED
                    && let Some(confirm) = &offer.confirm
                {
                    if confirm(who.as_str().to_owned()).await {
                        allowed.push(who.clone());
                    } else {
                        denied.push(who.clone());
                    }
                }
                if allowed.contains(&who) {
                    core.line().send(mark("offer", from)).await;
                }
            }
            Knock::Ask(from, id, name, hello) if name == "hello" && allowed.contains(&from.to_bare()) => {
                // From here on the code is used, whatever happens.
                return attempt(core, ear, keys.public(), &offer, (me, from, id), &hello).await;
            }
            Knock::Ask(from, id, ..) => core.refuse(from, id, DefinedCondition::ServiceUnavailable),
            Knock::Join(_) | Knock::Offer(_) => {}
        }
    }
    Err(PairError::Offline)
}

async fn attempt(
    core: Arc<Core>,
    mut ear: Ear,
    public: DevicePublic,
    offer: &Offer,
    (me, from, id): (Jid, Jid, String),
    hello: &[u8],
) -> Result<Paired, PairError> {
    ear.only(&core, &from);
    let made = handshake::offer(&offer.code, me.as_str(), from.as_str(), &public, (offer.role, offer.vault), hello);
    let (reply, agreed, keys) = match made {
        Ok(made) => made,
        Err(e) => {
            let condition = match e {
                PairError::Role => DefinedCondition::Conflict,
                _ => DefinedCondition::BadRequest,
            };
            core.refuse(from, id, condition);
            return Err(e);
        }
    };
    core.line().send(xml::result(from.clone(), id, Some(message("hello", &reply)))).await;
    let (id, shown) = ear.ask_of(&core, &from, "confirm").await?;
    if !keys.confirmed(true, &shown) {
        core.refuse(from, id, DefinedCondition::NotAuthorized);
        return Err(PairError::WrongCode);
    }
    core.line().send(xml::result(from.clone(), id, Some(message("confirm", &keys.confirm(false))))).await;
    Ok(Paired { core, ear, jid: from, agreed, keys, joiner: false, sent: 0, received: 0 })
}

/// Joins with the code that a device at `offerer` (a bare JID, maybe the own one) shows.
pub async fn join(
    net: &Net,
    keys: &DeviceKeys,
    code: &Code,
    offerer: &str,
    role: Option<Role>,
    patience: Duration,
) -> Result<Paired, PairError> {
    let core = net.core.clone();
    let offerer = bare(offerer)?;
    let mut ear = core.pairing.open()?;
    let mut here = core.watch_here();
    let me = match timeout(BROKER, here.wait_for(Option::is_some)).await {
        Ok(Ok(here)) => here.as_ref().map(|(me, _)| me.clone()).ok_or(PairError::Offline)?,
        _ => return Err(PairError::Offline),
    };
    let calling = async {
        loop {
            core.line().send(mark("join", offerer.clone().into())).await;
            sleep(CALL_EVERY).await;
        }
    };
    let found = async {
        loop {
            match ear.knocks.recv().await {
                Some(Knock::Offer(from)) if from.to_bare() == offerer => return Ok(from),
                Some(Knock::Ask(from, id, ..)) => core.refuse(from, id, DefinedCondition::ServiceUnavailable),
                Some(_) => {}
                None => return Err(PairError::Offline),
            }
        }
    };
    let at = tokio::select! {
        never = calling => never,
        found = timeout(patience, found) => {
            found.map_err(|_| PairError::NobodyOffers(offerer.to_string()))??
        }
    };
    ear.only(&core, &at);
    let (joiner, hello) = Joiner::start(code, me.as_str(), at.as_str(), keys.public(), role)?;
    let ask = |name: &'static str, bytes: Vec<u8>| {
        let iq = xml::set(Some(at.clone()), message(name, &bytes));
        let core = &core;
        async move { answer(name, core.line().iq(iq, ANSWER).await?) }
    };
    let reply = ask("hello", hello).await?;
    let (agreed, keys) = joiner.finish(at.as_str(), &reply)?;
    let shown = match ask("confirm", keys.confirm(true).to_vec()).await {
        Err(PairError::GaveUp(_)) => return Err(PairError::WrongCode),
        other => other?,
    };
    if !keys.confirmed(false, &shown) {
        return Err(PairError::WrongCode);
    }
    Ok(Paired { core: core.clone(), ear, jid: at, agreed, keys, joiner: true, sent: 0, received: 0 })
}

/// Two devices that confirmed each other. Each side may send; what is sent must be received in the same order.
pub struct Paired {
    core: Arc<Core>,
    ear: Ear,
    jid: Jid,
    agreed: Agreed,
    keys: Keys,
    joiner: bool,
    sent: u64,
    received: u64,
}

impl Paired {
    /// The other device's authentic keys.
    pub fn peer(&self) -> &DevicePublic {
        &self.agreed.peer
    }

    /// The other device's bare JID.
    pub fn jid(&self) -> String {
        self.jid.to_bare().to_string()
    }

    /// The new device's role.
    pub fn role(&self) -> Role {
        self.agreed.role
    }

    /// The vault of who offered.
    pub fn vault(&self) -> VaultId {
        self.agreed.vault
    }

    /// Returns when the other side has taken all of it.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), PairError> {
        if bytes.len() > MAX_BYTES {
            return Err(PairError::TooLarge);
        }
        let mut chunks: Vec<&[u8]> = bytes.chunks(CHUNK).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let last = chunks.len() - 1;
        for (i, chunk) in chunks.into_iter().enumerate() {
            let plain = zeroize::Zeroizing::new([&[u8::from(i == last)][..], chunk].concat());
            let sealed = self.keys.seal(self.joiner, self.sent, &plain)?;
            self.sent += 1;
            let iq = xml::set(Some(self.jid.clone()), message("sealed", &sealed));
            self.core.line().iq(iq, ANSWER).await?;
        }
        Ok(())
    }

    /// What the other side sent with one `send`. Waits up to `patience` for each part of it.
    pub async fn receive(&mut self, patience: Duration) -> Result<zeroize::Zeroizing<Vec<u8>>, PairError> {
        let mut all = zeroize::Zeroizing::new(Vec::new());
        loop {
            let next = self.ear.ask_of(&self.core, &self.jid, "sealed");
            let (id, sealed) = timeout(patience, next).await.map_err(|_| PairError::Slow)??;
            let plain = self.keys.open(!self.joiner, self.received, &sealed);
            let refused = match plain {
                Ok(plain) => {
                    self.received += 1;
                    match plain.split_first() {
                        Some((more, chunk)) if all.len() + chunk.len() <= MAX_BYTES => {
                            all.extend_from_slice(chunk);
                            self.core.line().send(xml::result(self.jid.clone(), id, None)).await;
                            if *more == 1 {
                                return Ok(all);
                            }
                            continue;
                        }
                        _ => PairError::TooLarge,
                    }
                }
                Err(e) => e,
            };
            self.core.refuse(self.jid.clone(), id, DefinedCondition::BadRequest);
            return Err(refused);
        }
    }
}

impl Ear {
    /// The next question of this name from this device; whoever else asks is refused.
    fn ask_of<'a>(
        &'a mut self,
        core: &'a Core,
        whom: &'a Jid,
        wanted: &'a str,
    ) -> impl Future<Output = Result<(String, Vec<u8>), PairError>> + 'a {
        let next = async move {
            loop {
                match self.knocks.recv().await {
                    Some(Knock::Ask(from, id, name, bytes)) if from == *whom => {
                        if name == wanted {
                            return Ok((id, bytes));
                        }
                        core.refuse(from, id, DefinedCondition::UnexpectedRequest);
                        return Err(PairError::Malformed);
                    }
                    Some(Knock::Ask(from, id, ..)) => core.refuse(from, id, DefinedCondition::ServiceUnavailable),
                    Some(_) => {}
                    None => return Err(PairError::Offline),
                }
            }
        };
        async move { timeout(ANSWER * 5, next).await.unwrap_or(Err(PairError::Slow)) }
    }
}

fn bare(jid: &str) -> Result<BareJid, PairError> {
    Jid::new(jid).map(|jid| jid.to_bare()).map_err(|_| PairError::BadJid(jid.to_owned()))
}

fn mark(name: &str, to: Jid) -> Presence {
    let mut presence = super::presence::quiet().with_to(to);
    presence.payloads.push(xml::element(name, PAIR));
    presence
}
