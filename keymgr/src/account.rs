//! The account key: it names the admins of the device list, and beats whatever they sign. It is the recovery
//! sheet's; until the sheet is printed it lies in the first keyring.

use ed25519_dalek::SigningKey;
use zeroize::Zeroize;

use crate::device::{self, Domain, Signature};
pub use crate::ids::AccountId;
use crate::secret::{Secret32, random_bytes};

/// The account's secret key; it zeroizes when dropped. No Debug.
#[derive(Clone)]
pub struct AccountKey(SigningKey);

impl AccountKey {
    pub fn generate() -> Self {
        let mut seed = random_bytes();
        let key = Self(SigningKey::from_bytes(&seed));
        seed.zeroize();
        key
    }

    /// From the 32 bytes of a recovery sheet.
    pub fn from_secret(secret: &Secret32) -> Self {
        Self(SigningKey::from_bytes(secret.expose()))
    }

    /// The 32 bytes that a recovery sheet carries.
    pub fn secret(&self) -> Secret32 {
        Secret32::from_bytes(*self.0.as_bytes())
    }

    pub fn id(&self) -> AccountId {
        AccountId::from_bytes(self.0.verifying_key().to_bytes())
    }

    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        device::sign_with(&self.0, domain, bytes)
    }
}

/// Whether the account key signed these bytes for this domain.
pub fn verify(account: &AccountId, domain: Domain, bytes: &[u8], sig: &Signature) -> bool {
    device::verify_key(account.as_bytes(), domain, bytes, sig)
}

impl AccountId {
    /// What two people compare: 40 digits in groups of five, some 132 bits of a hash of the account key. Nobody finds
    /// a second key with the same digits; both sides compare both numbers.
    pub fn safety_number(&self) -> String {
        let mut bytes = [0u8; 64];
        let mut hasher = blake3::Hasher::new_derive_key("kith.v1 safety number");
        hasher.update(self.as_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        let groups: Vec<String> = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|chunk| format!("{:05}", u64::from_le_bytes(*chunk) % 100_000))
            .collect();
        groups.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_safety_number_is_forty_digits_of_this_account() {
        let (a, b) = (AccountKey::generate().id(), AccountKey::generate().id());
        assert_eq!(a.safety_number().chars().filter(char::is_ascii_digit).count(), 40);
        assert_eq!(a.safety_number().split(' ').count(), 8);
        assert_ne!(a.safety_number(), b.safety_number());
    }

    #[test]
    fn the_account_comes_back_from_the_sheet() {
        let key = AccountKey::generate();
        let again = AccountKey::from_secret(&key.secret());
        assert_eq!(again.id(), key.id());
        assert!(verify(&key.id(), Domain::Naming, b"x", &again.sign(Domain::Naming, b"x")));
    }
}
