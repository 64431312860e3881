//! The pairing's cryptography, without I/O: SPAKE2 (RFC 9382's construction, Ed25519) over the code, bound to both JIDs,
//! both devices' keys, the role and the vault; confirmations; keys for what is said afterwards.
//!
//! The joiner confirms first: who offers a false device learns from the joiner whether one guess was right, and no more.

use aes_gcm_siv::aead::Aead;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit, Nonce};
use keymgr::device::DevicePublic;
use keymgr::devices::Role;
use keymgr::ids::VaultId;
use keymgr::secret::Secret32;
use serde::{Deserialize, Serialize};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use super::{Code, PairError};

const VERSION: u8 = 1;
pub(super) type Mac = [u8; 32];

/// joiner -> offerer
#[derive(Serialize, Deserialize)]
struct Hello {
    version: u8,
    public: DevicePublic,
    /// None: what the offerer gives.
    role: Option<Role>,
    share: Vec<u8>,
}

/// offerer -> joiner
#[derive(Serialize, Deserialize)]
struct Reply {
    version: u8,
    public: DevicePublic,
    role: Role,
    vault: VaultId,
    share: Vec<u8>,
}

/// What a handshake agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Agreed {
    pub peer: DevicePublic,
    pub role: Role,
    pub vault: VaultId,
}

/// The keys of a finished handshake.
pub(super) struct Keys {
    confirm_joiner: Secret32,
    confirm_offerer: Secret32,
    from_joiner: Secret32,
    from_offerer: Secret32,
}

pub(super) struct Joiner {
    spake: Spake2<Ed25519Group>,
    share: Vec<u8>,
    public: DevicePublic,
    role: Option<Role>,
    me: String,
}

fn identities(joiner: &str, offerer: &str) -> (Identity, Identity) {
    (
        Identity::new(format!("kith.v1 joiner {joiner}").as_bytes()),
        Identity::new(format!("kith.v1 offerer {offerer}").as_bytes()),
    )
}

impl Joiner {
    /// `me` and `offerer` are full JIDs, as the broker delivers them.
    pub fn start(
        code: &Code,
        me: &str,
        offerer: &str,
        public: DevicePublic,
        role: Option<Role>,
    ) -> Result<(Self, Vec<u8>), PairError> {
        let (a, b) = identities(me, offerer);
        let (spake, share) = Spake2::<Ed25519Group>::start_a(&Password::new(code.bytes()), &a, &b);
        let hello = Hello { version: VERSION, public: public.clone(), role, share: share.clone() };
        let bytes = postcard::to_allocvec(&hello).map_err(|_| PairError::Malformed)?;
        Ok((Self { spake, share, public, role, me: me.to_owned() }, bytes))
    }

    /// The offerer's answer gives the keys; its confirmation has still to be checked.
    pub fn finish(self, offerer: &str, reply: &[u8]) -> Result<(Agreed, Keys), PairError> {
        let reply: Reply = postcard::from_bytes(reply).map_err(|_| PairError::Malformed)?;
        if reply.version != VERSION {
            return Err(PairError::Version);
        }
        if !reply.public.is_well_formed() || reply.public.id == self.public.id {
            return Err(PairError::Malformed);
        }
        if self.role.is_some_and(|wanted| wanted != reply.role) {
            return Err(PairError::Role);
        }
        let secret = Zeroizing::new(self.spake.finish(&reply.share).map_err(|_| PairError::Malformed)?);
        let agreed = Agreed { peer: reply.public.clone(), role: reply.role, vault: reply.vault };
        let keys = Keys::new(
            &secret,
            &Transcript {
                version: VERSION,
                joiner: &self.me,
                offerer,
                joiner_public: &self.public,
                offerer_public: &reply.public,
                role: reply.role,
                vault: reply.vault,
                joiner_share: &self.share,
                offerer_share: &reply.share,
            },
        )?;
        Ok((agreed, keys))
    }
}

/// The offerer's whole part: what it answers, and the keys.
pub(super) fn offer(
    code: &Code,
    me: &str,
    joiner: &str,
    public: &DevicePublic,
    (role, vault): (Option<Role>, VaultId),
    hello: &[u8],
) -> Result<(Vec<u8>, Agreed, Keys), PairError> {
    let hello: Hello = postcard::from_bytes(hello).map_err(|_| PairError::Malformed)?;
    if hello.version != VERSION {
        return Err(PairError::Version);
    }
    if !hello.public.is_well_formed() || hello.public.id == public.id {
        return Err(PairError::Malformed);
    }
    let role = match (role, hello.role) {
        (Some(given), Some(wanted)) if given != wanted => return Err(PairError::Role),
        (Some(role), _) | (None, Some(role)) => role,
        (None, None) => Role::Full,
    };
    let (a, b) = identities(joiner, me);
    let (spake, share) = Spake2::<Ed25519Group>::start_b(&Password::new(code.bytes()), &a, &b);
    let secret = Zeroizing::new(spake.finish(&hello.share).map_err(|_| PairError::Malformed)?);
    let keys = Keys::new(
        &secret,
        &Transcript {
            version: VERSION,
            joiner,
            offerer: me,
            joiner_public: &hello.public,
            offerer_public: public,
            role,
            vault,
            joiner_share: &hello.share,
            offerer_share: &share,
        },
    )?;
    let reply = Reply { version: VERSION, public: public.clone(), role, vault, share };
    let bytes = postcard::to_allocvec(&reply).map_err(|_| PairError::Malformed)?;
    Ok((bytes, Agreed { peer: hello.public, role, vault }, keys))
}

/// All that both sides must have seen alike.
#[derive(Serialize)]
struct Transcript<'a> {
    version: u8,
    joiner: &'a str,
    offerer: &'a str,
    joiner_public: &'a DevicePublic,
    offerer_public: &'a DevicePublic,
    role: Role,
    vault: VaultId,
    joiner_share: &'a [u8],
    offerer_share: &'a [u8],
}

impl Keys {
    fn new(secret: &[u8], transcript: &Transcript<'_>) -> Result<Self, PairError> {
        let transcript = postcard::to_allocvec(transcript).map_err(|_| PairError::Malformed)?;
        let secret = Secret32::from_bytes(blake3::derive_key("kith.v1 pairing secret", secret));
        let key = |context| secret.derive(context, &[&transcript]);
        Ok(Self {
            confirm_joiner: key("kith.v1 pairing confirm joiner"),
            confirm_offerer: key("kith.v1 pairing confirm offerer"),
            from_joiner: key("kith.v1 pairing from joiner"),
            from_offerer: key("kith.v1 pairing from offerer"),
        })
    }

    /// What this side shows. The keys are of this handshake only, so that they are their own proof.
    pub fn confirm(&self, joiner: bool) -> Mac {
        let key = if joiner { &self.confirm_joiner } else { &self.confirm_offerer };
        *key.derive("kith.v1 pairing confirmation", &[]).expose()
    }

    /// Whether what the other side shows is right. In constant time.
    pub fn confirmed(&self, joiner: bool, shown: &[u8]) -> bool {
        let Ok(shown) = Mac::try_from(shown) else { return false };
        Secret32::from_bytes(self.confirm(joiner)) == Secret32::from_bytes(shown)
    }

    /// Each message has a key of its own, so that none stands for another and a fixed nonce does.
    pub fn seal(&self, from_joiner: bool, number: u64, plain: &[u8]) -> Result<Vec<u8>, PairError> {
        self.cipher(from_joiner, number).encrypt(&Nonce::default(), plain).map_err(|_| PairError::TooLarge)
    }

    pub fn open(&self, from_joiner: bool, number: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, PairError> {
        let opened = self.cipher(from_joiner, number).decrypt(&Nonce::default(), sealed);
        opened.map(Zeroizing::new).map_err(|_| PairError::Malformed)
    }

    fn cipher(&self, from_joiner: bool, number: u64) -> Aes256GcmSiv {
        let key = if from_joiner { &self.from_joiner } else { &self.from_offerer };
        let key = key.derive("kith.v1 pairing message", &[&number.to_le_bytes()]);
        Aes256GcmSiv::new(&(*key.expose()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keymgr::device::{DeviceKeys, Signature};
    use keymgr::ids::DeviceId;

    const J: &str = "new@example.org/kith-1";
    const O: &str = "me@example.org/kith-2";

    struct Run {
        joiner: DevicePublic,
        offerer: DevicePublic,
        vault: VaultId,
    }

    impl Run {
        fn new() -> Self {
            let public = || DeviceKeys::generate().public();
            Self { joiner: public(), offerer: public(), vault: VaultId::random() }
        }

        /// The joiner believes in `seen.1` as the offerer's JID, the offerer in `seen.0` as the joiner's.
        fn keys(&self, codes: (&Code, &Code), seen: (&str, &str)) -> (Keys, Keys) {
            let (joiner, hello) = Joiner::start(codes.0, J, seen.1, self.joiner.clone(), None).unwrap();
            let (reply, _, right) =
                offer(codes.1, O, seen.0, &self.offerer, (Some(Role::Blind), self.vault), &hello).unwrap();
            let (agreed, left) = joiner.finish(seen.1, &reply).unwrap();
            assert_eq!(agreed, Agreed { peer: self.offerer.clone(), role: Role::Blind, vault: self.vault });
            (left, right)
        }
    }

    #[test]
    fn one_code_gives_both_the_same_keys() {
        let (run, code) = (Run::new(), Code::random());
        let (left, right) = run.keys((&code, &code), (J, O));
        assert!(right.confirmed(true, &left.confirm(true)));
        assert!(left.confirmed(false, &right.confirm(false)));
        assert!(!right.confirmed(true, &right.confirm(false)), "a confirmation reflected");
        let sealed = left.seal(true, 0, b"secret").unwrap();
        assert_eq!(right.open(true, 0, &sealed).unwrap().as_slice(), b"secret");
        assert!(right.open(false, 0, &sealed).is_err(), "a message reflected");
        assert!(right.open(true, 1, &sealed).is_err(), "a message repeated");
    }

    /// ATTACKS.md N9: guessed, or relayed by somebody between the two.
    #[test]
    fn n9_another_code_or_another_jid_confirms_nothing() {
        let (run, code) = (Run::new(), Code::random());
        let differs = |keys: (Keys, Keys)| !keys.1.confirmed(true, &keys.0.confirm(true));
        assert!(differs(run.keys((&Code::random(), &code), (J, O))));
        assert!(differs(run.keys((&code, &code), ("mallory@example.org/x", O))));
        assert!(differs(run.keys((&code, &code), (J, "mallory@example.org/x"))));
    }

    /// ATTACKS.md N9: who relays changes a key, the role or the vault.
    #[test]
    fn n9_what_is_changed_on_the_way_confirms_nothing() {
        let (run, code) = (Run::new(), Code::random());
        let (joiner, hello) = Joiner::start(&code, J, O, run.joiner.clone(), None).unwrap();
        let about = (Some(Role::Blind), run.vault);
        let mut forged: Hello = postcard::from_bytes(&hello).unwrap();
        forged.public = DeviceKeys::generate().public();
        let forged = postcard::to_allocvec(&forged).unwrap();
        let (reply, agreed, right) = offer(&code, O, J, &run.offerer, about, &forged).unwrap();
        assert_ne!(agreed.peer, run.joiner);
        let (_, left) = joiner.finish(O, &reply).unwrap();
        assert!(!right.confirmed(true, &left.confirm(true)));

        for change in [
            &(|r: &mut Reply| r.public = DeviceKeys::generate().public()) as &dyn Fn(&mut Reply),
            &|r| r.role = Role::Full,
            &|r| r.vault = VaultId::random(),
        ] {
            let (joiner, hello) = Joiner::start(&code, J, O, run.joiner.clone(), None).unwrap();
            let (reply, _, right) = offer(&code, O, J, &run.offerer, about, &hello).unwrap();
            let mut reply: Reply = postcard::from_bytes(&reply).unwrap();
            change(&mut reply);
            let (_, left) = joiner.finish(O, &postcard::to_allocvec(&reply).unwrap()).unwrap();
            assert!(!left.confirmed(false, &right.confirm(false)));
            assert!(!right.confirmed(true, &left.confirm(true)));
        }
    }

    /// Frozen: devices of two versions pair only while these stay.
    #[test]
    fn vectors() {
        let public = |n: u8| DevicePublic {
            id: DeviceId::from_bytes([n; 32]),
            tls: [n + 1; 32],
            receive: vec![n + 2; 4],
            proof: Signature::from_bytes([n + 3; 64]),
        };
        let transcript = Transcript {
            version: VERSION,
            joiner: J,
            offerer: O,
            joiner_public: &public(1),
            offerer_public: &public(11),
            role: Role::Blind,
            vault: VaultId::from_bytes([21; 16]),
            joiner_share: &[31; 33],
            offerer_share: &[41; 33],
        };
        let keys = Keys::new(&[51; 32], &transcript).unwrap();
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        assert_eq!(hex(&keys.confirm(true)), "3b529b6212d96ebec94db5f2d9a8dcb78c01ccb19b0c5a2a11869bdcc2bc1f40");
        assert_eq!(hex(&keys.confirm(false)), "370fb76673c1f72f62e26473d557a0e300208f71411a98324017f60c4181f38a");
        assert_eq!(hex(&keys.seal(true, 0, b"kith").unwrap()), "ab22b52c08bd879d473314e0d328dcf858f2fb37");
        assert_eq!(hex(&keys.seal(false, 1, b"kith").unwrap()), "c36302a62345d2b85573edc96a92ed7a8796728b");
    }

    #[test]
    fn roles_that_differ_and_bytes_that_are_no_message_are_refused() {
        let (run, code) = (Run::new(), Code::random());
        let (_, hello) = Joiner::start(&code, J, O, run.joiner.clone(), Some(Role::Full)).unwrap();
        let blind = (Some(Role::Blind), run.vault);
        assert!(matches!(offer(&code, O, J, &run.offerer, blind, &hello), Err(PairError::Role)));
        for n in 0..hello.len() {
            assert!(offer(&code, O, J, &run.offerer, (None, run.vault), &hello[..n]).is_err());
        }
        let (joiner, _) = Joiner::start(&code, J, O, run.joiner.clone(), None).unwrap();
        assert!(joiner.finish(O, b"junk").is_err());
    }
}
