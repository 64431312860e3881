//! SCRAM (RFC 5802, RFC 7677) and nothing else: never PLAIN, and the broker has to prove that it knows the password.
//!
//! tokio-xmpp's `client_login` takes PLAIN where SCRAM fails to match and does not look at the broker's proof.

use std::io;

use futures::SinkExt;
use sasl::client::Mechanism;
use sasl::client::mechanisms::Scram;
use sasl::common::scram::{Sha1, Sha256};
use sasl::common::{ChannelBinding, Credentials};
use tokio_xmpp::parsers::sasl::{Auth, DefinedCondition, Mechanism as Name, Nonza, Response};
use tokio_xmpp::parsers::stream_features::StreamFeatures;
use tokio_xmpp::xmlstream::{InitiatingStream, XmppStream, XmppStreamElement};
use zeroize::Zeroizing;

use super::connect::{ConnectError, Io, next};

/// RFC 7677 asks for 4096 at least. The cap is what a broker may make this machine work.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=2_000_000;

pub(super) async fn authenticate(
    mut stream: XmppStream<Io>,
    features: &StreamFeatures,
    binding: ChannelBinding,
    user: &str,
    password: &Zeroizing<String>,
) -> Result<InitiatingStream<Io>, ConnectError> {
    let credentials = Credentials::default()
        // RFC 5802, section 5.1: the two characters that have a meaning of their own.
        .with_username(user.replace('=', "=3D").replace(',', "=2C"))
        .with_password(password.as_str())
        .with_channel_binding(binding);
    let wrong = |_| ConnectError::NoScram;
    let candidates: [Box<dyn Mechanism + Send + Sync>; 2] = [
        Box::new(Scram::<Sha256>::from_credentials(credentials.clone()).map_err(wrong)?),
        Box::new(Scram::<Sha1>::from_credentials(credentials).map_err(wrong)?),
    ];
    let mut mechanism =
        candidates.into_iter().find(|m| features.sasl_mechanisms.contains(m.name())).ok_or(ConnectError::NoScram)?;
    let name: Name = mechanism.name().parse().map_err(|_| ConnectError::NoScram)?;
    let data = mechanism.initial();
    stream.send(&XmppStreamElement::Sasl(Nonza::Auth(Auth { mechanism: name, data }))).await?;
    let mut proved = false;
    loop {
        match next(&mut stream).await? {
            XmppStreamElement::Sasl(Nonza::Challenge(challenge)) => {
                let data = if proved {
                    Vec::new()
                } else if challenge.data.starts_with(b"v=") {
                    // The broker's proof may come as a last challenge (RFC 4422, section 3.1).
                    mechanism.success(&challenge.data).map_err(|_| ConnectError::FalseBroker)?;
                    proved = true;
                    Vec::new()
                } else {
                    check_iterations(&challenge.data)?;
                    mechanism.response(&challenge.data).map_err(|e| odd(&e.to_string()))?
                };
                stream.send(&XmppStreamElement::Sasl(Nonza::Response(Response { data }))).await?;
            }
            XmppStreamElement::Sasl(Nonza::Success(success)) => {
                if !proved {
                    mechanism.success(&success.data).map_err(|_| ConnectError::FalseBroker)?;
                }
                return Ok(stream.initiate_reset());
            }
            XmppStreamElement::Sasl(Nonza::Failure(failure)) => {
                return Err(match failure.defined_condition {
                    DefinedCondition::NotAuthorized => ConnectError::WrongPassword,
                    DefinedCondition::TemporaryAuthFailure | DefinedCondition::Aborted => odd("not now"),
                    other => ConnectError::AccountRefused(format!("{other:?}")),
                });
            }
            _ => return Err(odd("not SASL")),
        }
    }
}

fn odd(why: &str) -> ConnectError {
    io::Error::new(io::ErrorKind::InvalidData, format!("while logging in: {why}")).into()
}

fn check_iterations(challenge: &[u8]) -> Result<(), ConnectError> {
    let text = std::str::from_utf8(challenge).map_err(|_| odd("not UTF-8"))?;
    let count = text.split(',').find_map(|part| part.strip_prefix("i=")).and_then(|n| n.parse::<u32>().ok());
    match count {
        Some(n) if ITERATIONS.contains(&n) => Ok(()),
        _ => Err(odd("an iteration count outside 4096 to 2000000")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_or_too_many_iterations_are_refused() {
        assert!(check_iterations(b"r=abc,s=QSXC,i=4096").is_ok());
        for bad in [&b"r=abc,s=QSXC,i=1"[..], b"r=abc,s=QSXC,i=4294967295", b"r=abc,s=QSXC", b"i=x", b"\xff"] {
            assert!(check_iterations(bad).is_err());
        }
    }
}
