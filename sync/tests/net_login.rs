//! The way to the broker: what is refused, and that it is told at once. ATTACKS.md N10.

mod support;

use support::Device;
use support::login;
use support::prosody::{Broker, Options, Prosody};
use sync::net::{ConnectError, NetEvent, check_login, register};

const PASSWORD: &str = "a password";

#[tokio::test]
async fn the_right_settings_log_in_by_starttls_and_by_direct_tls() {
    let broker = Prosody::start();
    broker.add_user("alice", PASSWORD);
    let mut config = login(&broker, "alice");
    check_login(&config).await.unwrap();
    config.server = Some(broker.direct_tls());
    check_login(&config).await.unwrap();
    config.server = Some(format!("localhost:{}", broker.port()));
    check_login(&config).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_tried_again() {
    let broker = Prosody::start();
    broker.add_user("alice", PASSWORD);
    let mut device = Device::new(&broker, "alice");
    device.config.broker.password = "wrong".to_owned().into();
    let error = check_login(&device.config.broker).await.unwrap_err();
    assert!(matches!(error, ConnectError::WrongPassword) && error.is_final());
    device.start();
    let why = device.until_down().await;
    assert!(why.contains("wrong user name or password") && why.contains("not tried again"), "{why}");
}

#[tokio::test]
async fn an_account_is_registered_once() {
    let broker = Prosody::start();
    let mut config = login(&broker, "newcomer");
    register(&config).await.unwrap();
    check_login(&config).await.unwrap();
    assert!(matches!(register(&config).await, Err(ConnectError::NoRegistration(_))));
    drop(broker);
    let broker = Prosody::with(Options { registration: false, ..Options::default() });
    (config.server, config.ca) = (Some(broker.address()), Some(broker.ca()));
    assert!(matches!(register(&config).await, Err(ConnectError::NoRegistration(_))));
}

/// N10: a certificate of nobody we know.
#[tokio::test]
async fn n10_a_certificate_of_another_authority_or_for_another_host_is_refused() {
    let (broker, other) = (Prosody::start(), Prosody::start());
    let mut config = login(&broker, "alice");
    config.ca = Some(other.ca());
    for server in [broker.address(), broker.direct_tls()] {
        config.server = Some(server);
        let error = check_login(&config).await.unwrap_err();
        assert!(matches!(error, ConnectError::Certificate(..)), "{error}");
    }
    config.ca = None;
    assert!(matches!(check_login(&config).await, Err(ConnectError::Certificate(..))));
    config.ca = Some(broker.ca());
    config.jid = "alice@elsewhere.example".into();
    assert!(check_login(&config).await.is_err());
    config.ca = Some("/nonexistent".into());
    assert!(matches!(check_login(&config).await, Err(ConnectError::Ca(..))));
}

/// N10: TLS taken out of the broker's offer.
#[tokio::test]
async fn n10_a_broker_without_tls_gets_no_password() {
    let broker = Prosody::with(Options { tls: false, ..Options::default() });
    broker.add_user("alice", PASSWORD);
    let mut config = login(&broker, "alice");
    let error = check_login(&config).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoTls), "{error}");
    // Asked for, and on this machine: then it may.
    config.plaintext = true;
    check_login(&config).await.unwrap();
    config.server = Some("192.0.2.1:5222".into());
    let error = check_login(&config).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotLoopback(_)) && error.is_final(), "{error}");
}

/// N10: SASL downgraded to PLAIN.
#[tokio::test]
async fn n10_plain_is_refused_also_inside_tls() {
    let broker = Prosody::with(Options { scram: false, ..Options::default() });
    broker.add_user("alice", PASSWORD);
    let error = check_login(&login(&broker, "alice")).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoScram), "{error}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_apart() {
    let mut config = login(&Prosody::start(), "alice");
    // That broker is gone again.
    let error = check_login(&config).await.unwrap_err();
    assert!(matches!(error, ConnectError::Ca(..)), "{error}");
    config.ca = None;
    let error = check_login(&config).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused(_)) && !error.is_final(), "{error}");
    config.server = Some("no port".into());
    assert!(matches!(check_login(&config).await, Err(ConnectError::BadServer(_))));
    config.jid = "no user".into();
    assert!(matches!(check_login(&config).await, Err(ConnectError::BadJid(_))));
}

#[tokio::test]
async fn a_second_program_with_the_same_device_is_told_from_a_fault() {
    let broker = Prosody::start();
    broker.add_user("alice", PASSWORD);
    let mut first = Device::new(&broker, "alice");
    first.start();
    first.until(NetEvent::BrokerUp).await;
    let mut second = Device::new(&broker, "alice");
    second.keys = first.keys.clone();
    second.start();
    let why = first.until_down().await;
    assert!(why.contains("another program"), "{why}");
    second.until(NetEvent::BrokerUp).await;
}
