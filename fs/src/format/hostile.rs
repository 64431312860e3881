//! Bytes from a disk are anything: whatever they are, opening them ends in a refusal and never in a panic.

use keymgr::ids::{LineageId, NodeId, ShareId, StoreName};
use keymgr::secret::Secret32;
use keymgr::share::ShareKeys;
use proptest::prelude::*;

use super::attrs::Attrs;
use super::header::{FolderHeader, Header, Kind};
use super::name::{self, Names};
use super::seal::Cipher;
use super::tag::EpochTag;
use super::{HEADER, folder, length, page, xattr};

fn keys() -> ShareKeys {
    ShareKeys::new(ShareId::from_bytes([1; 16]), Secret32::from_bytes([2; 32]))
}

/// Bytes with the right epoch tag in front, so that they come as far as the cipher.
fn tagged(bytes: &[u8]) -> Vec<u8> {
    [&EpochTag::current(&keys()).0, bytes].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_opens_and_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), number in 0u64..3) {
        let names = Names::new(&keys(), &NodeId::from_bytes([3; 16]));
        for bytes in [bytes.clone(), tagged(&bytes)] {
            prop_assert!(Attrs::open(&keys(), &[4; 16], &bytes).is_err());
            prop_assert!(xattr::open(&keys(), &[4; 16], "user.kith.x", &bytes).is_err());
            let _ = (xattr::is_stored(&bytes), name::check(&bytes), folder::sort(&bytes), name::of_sidecar(&bytes));
            let text = data_encoding::BASE64URL_NOPAD.encode(bytes.get(..191).unwrap_or(&bytes));
            if let Ok(sealed) = StoreName::parse(&text) {
                prop_assert!(names.open(&sealed, None).is_err());
                prop_assert!(names.open(&sealed, Some(&bytes)).is_err());
            }
            if let Ok(sealed) = name::of_sidecar(&bytes) {
                prop_assert!(names.open(&sealed, Some(&bytes)).is_err());
            }
        }
        let mut body = bytes.clone();
        if let Ok(Some(clear)) = page::Clear::parse(number, &body) {
            let cipher = Cipher::new(&Secret32::from_bytes([7; 32]));
            prop_assert!(page::open(&cipher, &LineageId::from_bytes([5; 16]), number, &clear, &mut body).is_err());
        }
    }

    #[test]
    fn a_header_with_anything_in_it_is_refused(at in 0usize..240, bytes in prop::collection::vec(any::<u8>(), 1..40)) {
        let good = Header::new(&keys(), keymgr::ids::FileId::from_bytes([6; 16]), Kind::File);
        let good = good.seal(&keys(), &super::locator::NOWHERE).unwrap();
        let mut bad = good;
        for (place, byte) in bad[at..240].iter_mut().zip(&bytes) {
            *place = *byte;
        }
        prop_assert_eq!(Header::open(&keys(), &bad).is_ok(), bad == good);
        prop_assert!(FolderHeader::open(&keys(), &bad).is_err());
        let mut random = [0; HEADER];
        random.iter_mut().zip(bytes.iter().cycle()).for_each(|(place, byte)| *place = *byte);
        prop_assert!(Header::open(&keys(), &random).is_err());
    }

    #[test]
    fn any_length_is_a_size(length in any::<u64>()) {
        let size = length::to_size(length);
        prop_assert!(size <= length);
        if size < length::MAX_SIZE {
            prop_assert_eq!(length::to_size(length::of_size(size)), size);
        }
    }
}
