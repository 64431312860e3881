//! An account at a broker: whether the login works, and registration (XEP-0077).

use futures::SinkExt;
use tokio_xmpp::parsers::iq::Iq;
use tokio_xmpp::parsers::stanza::Stanza;
use tokio_xmpp::parsers::stanza_error::DefinedCondition;
use tokio_xmpp::xmlstream::XmppStreamElement;

use super::connect::{self, BrokerConfig, Checked, ConnectError};
use super::xml::{self, Build};

const REGISTER: &str = "jabber:iq:register";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// Logs in and out again: the whole truth about the settings, at once.
pub async fn check_login(broker: &BrokerConfig) -> Result<(), ConnectError> {
    let resource = format!("kith-check-{}", &xml::random_id()[..8]);
    let mut session = connect::login(broker, &resource).await?;
    let _ = tokio::time::timeout(std::time::Duration::from_secs(2), session.stream.shutdown()).await;
    Ok(())
}

/// Makes the account that `broker` names, with its password.
pub async fn register(broker: &BrokerConfig) -> Result<(), ConnectError> {
    tokio::time::timeout(PATIENCE, ask(broker)).await.map_err(|_| ConnectError::Slow)?
}

async fn ask(broker: &BrokerConfig) -> Result<(), ConnectError> {
    let checked = Checked::new(broker)?;
    let user = checked.jid.node().map(|n| n.as_str().to_owned()).unwrap_or_default();
    let (_, mut stream, _, _) = connect::open(&checked).await?;
    let query = xml::element("query", REGISTER)
        .holding(xml::element("username", REGISTER).text_of(&user))
        .holding(xml::element("password", REGISTER).text_of(&broker.password));
    let iq = Iq::Set { from: None, to: None, id: "register".into(), payload: query };
    stream.send(&XmppStreamElement::Stanza(Stanza::Iq(iq))).await?;
    loop {
        match connect::next(&mut stream).await? {
            XmppStreamElement::Stanza(Stanza::Iq(Iq::Result { id, .. })) if id == "register" => return Ok(()),
            XmppStreamElement::Stanza(Stanza::Iq(Iq::Error { id, error, .. })) if id == "register" => {
                return Err(ConnectError::NoRegistration(match error.defined_condition {
                    DefinedCondition::Conflict => "the name is taken".into(),
                    DefinedCondition::ServiceUnavailable
                    | DefinedCondition::NotAllowed
                    | DefinedCondition::FeatureNotImplemented => "accounts are made elsewhere".into(),
                    DefinedCondition::ResourceConstraint => "too many accounts were made from here; wait".into(),
                    other => format!("{other:?}"),
                }));
            }
            _ => {}
        }
    }
}
