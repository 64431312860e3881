//! A device's keys: Ed25519 for signatures (RFC 8032), Ed25519 for TLS, X-Wing (draft-connolly-cfrg-xwing-kem:
//! X25519 with ML-KEM-768) for receiving epoch keys. What it signs is separated by domain.

use std::fmt;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use x_wing::{Decapsulator, KeyExport};
use zeroize::Zeroizing;

use crate::ids::DeviceId;
use crate::secret::random_bytes;

/// DER up to the 32 bytes of the seed: a sequence of version 0, the algorithm id-Ed25519, an octet string in an octet
/// string. The crate's own encoder leaves a copy of the seed behind.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// What a signature is for. One made for one domain is refused in every other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Domain {
    /// A record of the tree.
    Record,
    /// The heads that a device has seen.
    Heads,
    /// A snapshot's frontier.
    Snapshot,
    /// A statement of the device list.
    DeviceList,
    /// A statement of a share's member list.
    MemberList,
    /// The account key's naming of admins, and its other statements of the device list.
    Naming,
    /// An epoch's record.
    EpochKey,
    /// An epoch key wrapped to a device.
    Wrap,
    /// Pairing.
    Pairing,
    /// A device's own word for its public keys.
    Device,
    /// What a device publishes about itself.
    Presence,
    /// A blob left with a broker.
    Blob,
}

impl Domain {
    const fn context(self) -> &'static str {
        match self {
            Self::Record => "kith.v1 record",
            Self::Heads => "kith.v1 heads",
            Self::Snapshot => "kith.v1 snapshot",
            Self::DeviceList => "kith.v1 device list",
            Self::MemberList => "kith.v1 member list",
            Self::Naming => "kith.v1 naming",
            Self::EpochKey => "kith.v1 epoch",
            Self::Wrap => "kith.v1 wrap",
            Self::Pairing => "kith.v1 pairing",
            Self::Device => "kith.v1 device keys",
            Self::Presence => "kith.v1 presence",
            Self::Blob => "kith.v1 blob",
        }
    }

    /// What is signed: the context's length, the context, the bytes. No context is the beginning of another's.
    fn message(self, bytes: &[u8]) -> Vec<u8> {
        let context = self.context().as_bytes();
        let mut message = Vec::with_capacity(1 + context.len() + bytes.len());
        message.push(context.len() as u8);
        message.extend_from_slice(context);
        message.extend_from_slice(bytes);
        message
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 64]);

impl Signature {
    pub const LEN: usize = 64;

    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature")
    }
}

// serde's arrays end at 32: two halves, which postcard writes as the same 64 bytes.
impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let (mut r, mut rest) = ([0; 32], [0; 32]);
        r.copy_from_slice(&self.0[..32]);
        rest.copy_from_slice(&self.0[32..]);
        (r, rest).serialize(s)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (r, rest) = <([u8; 32], [u8; 32])>::deserialize(d)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&r);
        bytes[32..].copy_from_slice(&rest);
        Ok(Self(bytes))
    }
}

/// The public half, as the device list carries it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DevicePublic {
    /// Ed25519, what the device signs with.
    pub id: DeviceId,
    /// Ed25519, by which a link to it is pinned (RFC 7250).
    pub tls: [u8; 32],
    /// X-Wing, to which epoch keys are wrapped.
    pub receive: Vec<u8>,
    /// The device's own signature over the two: whoever lists a device cannot give it keys of another, so that a stolen
    /// admin cannot slip its own under the name of a device that stays.
    pub proof: Signature,
}

impl DevicePublic {
    /// Whether every key is valid for its use, none stands for two, and the device itself vouches for them.
    pub fn is_well_formed(&self) -> bool {
        let point = |bytes: &[u8; 32]| VerifyingKey::from_bytes(bytes).is_ok_and(|key| !key.is_weak());
        point(self.id.as_bytes())
            && point(&self.tls)
            && self.tls != *self.id.as_bytes()
            && x_wing::EncapsulationKey::try_from(self.receive.as_slice()).is_ok()
            && verify(&self.id, Domain::Device, &proven(&self.tls, &self.receive), &self.proof)
    }
}

fn proven(tls: &[u8; 32], receive: &[u8]) -> Vec<u8> {
    [tls, receive].concat()
}

/// A device's secret keys; they zeroize when dropped. No Debug.
#[derive(Clone)]
pub struct DeviceKeys {
    sign: SigningKey,
    tls: SigningKey,
    receive: x_wing::DecapsulationKey,
}

impl DeviceKeys {
    pub fn generate() -> Self {
        Self::from_secrets(&DeviceSecrets { sign: random_bytes(), tls: random_bytes(), receive: random_bytes() })
    }

    pub fn id(&self) -> DeviceId {
        DeviceId::from_bytes(self.sign.verifying_key().to_bytes())
    }

    pub fn public(&self) -> DevicePublic {
        let tls = self.tls.verifying_key().to_bytes();
        let receive = self.receive.encapsulation_key().to_bytes().to_vec();
        let proof = self.sign(Domain::Device, &proven(&tls, &receive));
        DevicePublic { id: self.id(), tls, receive, proof }
    }

    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        Signature(self.sign.sign(&domain.message(bytes)).to_bytes())
    }

    /// The TLS key as PKCS#8 (RFC 8410, section 7), as rustls takes it.
    pub fn tls_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8.len() + 32));
        der.extend_from_slice(&PKCS8);
        der.extend_from_slice(self.tls.as_bytes());
        der
    }

    pub(crate) fn receive(&self) -> &x_wing::DecapsulationKey {
        &self.receive
    }

    pub(crate) fn from_secrets(secrets: &DeviceSecrets) -> Self {
        Self {
            sign: SigningKey::from_bytes(&secrets.sign),
            tls: SigningKey::from_bytes(&secrets.tls),
            receive: x_wing::DecapsulationKey::from(secrets.receive),
        }
    }

    pub(crate) fn secrets(&self) -> DeviceSecrets {
        DeviceSecrets { sign: *self.sign.as_bytes(), tls: *self.tls.as_bytes(), receive: *self.receive.as_bytes() }
    }
}

/// The seeds, as the keyring keeps them.
#[derive(Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
pub(crate) struct DeviceSecrets {
    pub sign: [u8; 32],
    pub tls: [u8; 32],
    pub receive: [u8; 32],
}

/// Whether `device` signed these bytes for this domain. Strict: no small-order keys, no second form of a signature.
pub fn verify(device: &DeviceId, domain: Domain, bytes: &[u8], sig: &Signature) -> bool {
    verify_key(device.as_bytes(), domain, bytes, sig)
}

pub(crate) fn verify_key(key: &[u8; 32], domain: Domain, bytes: &[u8], sig: &Signature) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else { return false };
    let signature = ed25519_dalek::Signature::from_bytes(&sig.0);
    key.verify_strict(&domain.message(bytes), &signature).is_ok()
}

/// Signs as a key that is no device's: the account key.
pub(crate) fn sign_with(key: &SigningKey, domain: Domain, bytes: &[u8]) -> Signature {
    Signature(key.sign(&domain.message(bytes)).to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_device_domain_and_bytes_only() {
        let (a, b) = (DeviceKeys::generate(), DeviceKeys::generate());
        let sig = a.sign(Domain::Record, b"bytes");
        assert!(verify(&a.id(), Domain::Record, b"bytes", &sig));
        assert!(!verify(&b.id(), Domain::Record, b"bytes", &sig));
        assert!(!verify(&a.id(), Domain::Heads, b"bytes", &sig));
        assert!(!verify(&a.id(), Domain::Record, b"byteS", &sig));
        for i in 0..64 {
            let mut bad = *sig.as_bytes();
            bad[i] ^= 1;
            assert!(!verify(&a.id(), Domain::Record, b"bytes", &Signature::from_bytes(bad)), "byte {i}");
        }
    }

    #[test]
    fn a_small_order_key_signs_nothing() {
        // The identity point: with it a signature of zeros would pass a lax check for every message.
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut sig = [0; 64];
        sig[0] = 1;
        assert!(!verify_key(&identity, Domain::Record, b"any", &Signature::from_bytes(sig)));
        let good = DeviceKeys::generate().public();
        assert!(good.is_well_formed());
        assert!(!DevicePublic { id: DeviceId::from_bytes(identity), ..good.clone() }.is_well_formed());
        assert!(!DevicePublic { tls: *good.id.as_bytes(), ..good.clone() }.is_well_formed());
        assert!(!DevicePublic { receive: vec![0; 3], ..good }.is_well_formed());
    }

    #[test]
    fn n8_keys_that_a_device_does_not_vouch_for_itself_are_refused() {
        let (victim, thief) = (DeviceKeys::generate().public(), DeviceKeys::generate().public());
        assert!(!DevicePublic { tls: thief.tls, ..victim.clone() }.is_well_formed());
        assert!(!DevicePublic { receive: thief.receive.clone(), ..victim.clone() }.is_well_formed());
        assert!(!DevicePublic { id: victim.id, ..thief }.is_well_formed());
    }

    #[test]
    fn keys_come_back_from_their_seeds() {
        let keys = DeviceKeys::generate();
        let again = DeviceKeys::from_secrets(&keys.secrets());
        assert_eq!(again.public(), keys.public());
        assert_eq!(again.tls_pkcs8(), keys.tls_pkcs8());
        assert_eq!(keys.tls_pkcs8().len(), 48);
    }

    #[test]
    fn a_signature_survives_postcard_as_64_bytes() {
        let sig = DeviceKeys::generate().sign(Domain::Heads, b"x");
        let bytes = postcard::to_allocvec(&sig).unwrap();
        assert_eq!(bytes, sig.as_bytes());
        assert_eq!(postcard::from_bytes::<Signature>(&bytes).unwrap(), sig);
    }

    #[test]
    fn vectors() {
        use crate::vectors::hex;
        let keys = DeviceKeys::from_secrets(&DeviceSecrets { sign: [1; 32], tls: [2; 32], receive: [3; 32] });
        let public = keys.public();
        let domains = [
            Domain::Record,
            Domain::Heads,
            Domain::Snapshot,
            Domain::DeviceList,
            Domain::MemberList,
            Domain::Naming,
            Domain::EpochKey,
            Domain::Wrap,
            Domain::Pairing,
            Domain::Device,
            Domain::Presence,
            Domain::Blob,
        ];
        let signed = domains.map(|d| (d.context().to_owned(), hex(keys.sign(d, b"kith").as_bytes()).into()));
        let made = serde_json::json!({
            "about": "seeds 01.., 02.., 03..; signatures over 'kith'; the X-Wing public key as its BLAKE3 hash",
            "id": public.id.to_string(),
            "tls": hex(&public.tls),
            "receive": blake3::hash(&public.receive).to_string(),
            "proof": hex(public.proof.as_bytes()),
            "pkcs8": hex(&keys.tls_pkcs8()),
            "signatures": serde_json::Map::from_iter(signed),
        });
        crate::vectors::check("device", made);
    }
}
