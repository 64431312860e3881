//! Small tools for building and reading elements. What a peer sent is read tolerantly and bounded by its callers.

use tokio_xmpp::jid::Jid;
use tokio_xmpp::minidom::Element;
use tokio_xmpp::minidom::rxml::{Namespace, NcName};
use tokio_xmpp::parsers::iq::Iq;
use tokio_xmpp::parsers::stanza_error::{DefinedCondition, ErrorType, StanzaError};

pub const KITH: &str = "urn:kith:1";
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";

/// An element built attribute by attribute.
pub trait Build: Sized {
    fn with(self, name: &str, value: impl Into<String>) -> Self;
    fn holding(self, child: Element) -> Self;
    fn text_of(self, text: &str) -> Self;
}

impl Build for Element {
    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        // Names are literals of ours; one that is no name would be left out.
        if let Ok(name) = NcName::try_from(name) {
            self.set_attr(Namespace::NONE, name, value.into());
        }
        self
    }

    fn holding(mut self, child: Element) -> Self {
        self.append_child(child);
        self
    }

    fn text_of(mut self, text: &str) -> Self {
        self.append_text_node(text);
        self
    }
}

pub fn element(name: &str, ns: &str) -> Element {
    Element::bare(name, ns)
}

/// 128 random bits as hex: ids that nobody guesses.
pub fn random_id() -> String {
    data_encoding::HEXLOWER.encode(&keymgr::secret::random_bytes::<16>())
}

pub fn get(to: Option<Jid>, payload: Element) -> Iq {
    Iq::Get { from: None, to, id: random_id(), payload }
}

pub fn set(to: Option<Jid>, payload: Element) -> Iq {
    Iq::Set { from: None, to, id: random_id(), payload }
}

pub fn result(to: Jid, id: String, payload: Option<Element>) -> Iq {
    Iq::Result { from: None, to: Some(to), id, payload }
}

pub fn refusal(to: Jid, id: String, condition: DefinedCondition) -> Iq {
    let error = StanzaError {
        type_: ErrorType::Cancel,
        by: None,
        defined_condition: condition,
        texts: Default::default(),
        other: None,
    };
    Iq::Error { from: None, to: Some(to), id, error, payload: None }
}
