//! Where stanzas about pairing arrive: at the one pairing that is open, or nowhere.

use std::sync::Arc;

use data_encoding::BASE64;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::parsers::presence::{Presence, Type};
use tokio_xmpp::parsers::stanza_error::DefinedCondition;

use super::super::core::Core;
use super::super::xml::{self, Build};
use super::PairError;

pub const PAIR: &str = "urn:kith:pair:1";
/// base64 of what one message may hold; brokers stop at 256 KiB.
const MAX_TEXT: usize = 128 << 10;

pub(in super::super) enum Knock {
    /// Somebody wants to join, by presence.
    Join(Jid),
    /// Somebody offers, by presence.
    Offer(Jid),
    /// A question: its sender, id, element's name and bytes.
    Ask(Jid, String, String, Vec<u8>),
}

#[derive(Clone, Default)]
pub(in super::super) struct Desk(Arc<Mutex<Option<Open>>>);

struct Open {
    tx: mpsc::Sender<Knock>,
    /// From the first attempt on there is only this one.
    only: Option<Jid>,
}

/// The open pairing's ear; the desk is free again when it is dropped.
pub(in super::super) struct Ear {
    desk: Desk,
    pub knocks: mpsc::Receiver<Knock>,
}

impl Desk {
    pub fn open(&self) -> Result<Ear, PairError> {
        let mut open = self.0.lock();
        if open.is_some() {
            return Err(PairError::Busy);
        }
        let (tx, knocks) = mpsc::channel(16);
        *open = Some(Open { tx, only: None });
        Ok(Ear { desk: self.clone(), knocks })
    }

    /// False: not about pairing.
    pub fn presence(&self, from: &Jid, presence: &Presence) -> bool {
        let Some(said) = presence.payloads.iter().find(|e| e.has_ns(PAIR)) else { return false };
        if presence.type_ == Type::None
            && let Some(Open { tx, only: None }) = self.0.lock().as_ref()
        {
            let _ = match said.name() {
                "join" => tx.try_send(Knock::Join(from.clone())),
                "offer" => tx.try_send(Knock::Offer(from.clone())),
                _ => Ok(()),
            };
        }
        true
    }

    /// False: not about pairing.
    pub fn asked(&self, core: &Core, from: &Jid, id: &str, payload: &Element, set: bool) -> bool {
        if !payload.has_ns(PAIR) {
            return false;
        }
        let text = payload.text();
        let bytes =
            Some(text.trim()).filter(|t| set && t.len() <= MAX_TEXT).and_then(|t| BASE64.decode(t.as_bytes()).ok());
        let taken = bytes.is_some_and(|bytes| {
            let knock = Knock::Ask(from.clone(), id.to_owned(), payload.name().to_owned(), bytes);
            let open = self.0.lock();
            let open = open.as_ref().filter(|open| open.only.as_ref().is_none_or(|only| only == from));
            open.is_some_and(|open| open.tx.try_send(knock).is_ok())
        });
        if !taken {
            core.refuse(from.clone(), id.to_owned(), DefinedCondition::ServiceUnavailable);
        }
        true
    }
}

impl Ear {
    /// Whoever else knocks, or has knocked, is refused.
    pub fn only(&mut self, core: &Core, jid: &Jid) {
        if let Some(open) = self.desk.0.lock().as_mut() {
            open.only = Some(jid.clone());
        }
        while let Ok(knock) = self.knocks.try_recv() {
            if let Knock::Ask(from, id, ..) = knock {
                core.refuse(from, id, DefinedCondition::ServiceUnavailable);
            }
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        *self.desk.0.lock() = None;
    }
}

pub(super) fn message(name: &str, bytes: &[u8]) -> Element {
    xml::element(name, PAIR).text_of(&BASE64.encode(bytes))
}

/// The bytes of an answer.
pub(super) fn answer(name: &str, element: Option<Element>) -> Result<Vec<u8>, PairError> {
    let element = element.filter(|e| e.is(name, PAIR)).ok_or(PairError::Malformed)?;
    BASE64.decode(element.text().trim().as_bytes()).map_err(|_| PairError::Malformed)
}
