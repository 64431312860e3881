//! A page: 4096 bytes that prove themselves (kith-store(5), "Pages").
//!
//! Page 0 gives its first 256 bytes to the header, so its sealed part begins there; every other page is sealed whole.
//! A page of zeros is a hole. What follows the payload is zeros, checked like the rest.

use keymgr::ids::LineageId;

use super::seal::{Cipher, NONCE, TAG};
use super::tag::EpochTag;
use super::{HEADER, PAGE, Refused, VERSION, field};

/// Bytes before a page's payload: nonce, tag, epoch tag, payload length, reserved.
pub const OVERHEAD: usize = 36;
/// The most payload of a page.
pub const PAYLOAD: usize = PAGE - OVERHEAD;
/// The most payload of page 0.
pub const FIRST_PAYLOAD: usize = PAGE - HEADER - OVERHEAD;

const AT_TAG: usize = NONCE;
const AT_EPOCH: usize = AT_TAG + TAG;
const AT_LENGTH: usize = AT_EPOCH + EpochTag::LEN;
const AT_RESERVED: usize = AT_LENGTH + 2;

/// Where page `page`'s sealed part lies within its 4096 bytes.
pub const fn body_start(page: u64) -> usize {
    if page == 0 { HEADER } else { 0 }
}

/// Whether a page's sealed part is a hole.
pub fn is_hole(body: &[u8]) -> bool {
    // Compared as memory, which is many times faster than byte by byte.
    body.chunks(PAGE).all(|piece| ZEROS.get(..piece.len()) == Some(piece))
}

static ZEROS: [u8; PAGE] = [0; PAGE];

/// What a page says in the clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clear {
    pub epoch: EpochTag,
    /// Bytes of payload.
    pub payload: usize,
}

impl Clear {
    /// From the first [`OVERHEAD`] bytes of a page's sealed part; `None` where they are a hole's.
    pub fn parse(page: u64, body: &[u8]) -> Result<Option<Self>, Refused> {
        let head = body.get(..OVERHEAD).ok_or(Refused::Layout)?;
        if is_hole(head) {
            return Ok(None);
        }
        let payload = u16::from_le_bytes(field(head, AT_LENGTH)?) as usize;
        if payload > super::length::capacity(page) || field::<2>(head, AT_RESERVED)? != [0; 2] {
            return Err(Refused::Layout);
        }
        Ok(Some(Self { epoch: EpochTag(field(head, AT_EPOCH)?), payload }))
    }
}

fn about(lineage: &LineageId, page: u64, clear: &[u8]) -> [u8; 33] {
    let mut about = [0; 33];
    about[0] = VERSION;
    about[1..17].copy_from_slice(lineage.as_bytes());
    about[17..25].copy_from_slice(&page.to_le_bytes());
    about[25..33].copy_from_slice(clear);
    about
}

/// Seals in place: `body` is the page's sealed part with the payload already at [`OVERHEAD`] and zeros after it.
///
/// `nonce` is fresh randomness for each call.
pub fn seal(
    cipher: &Cipher,
    epoch: EpochTag,
    lineage: &LineageId,
    page: u64,
    nonce: &[u8; NONCE],
    payload: usize,
    body: &mut [u8],
) {
    body[AT_EPOCH..AT_LENGTH].copy_from_slice(&epoch.0);
    body[AT_LENGTH..AT_RESERVED].copy_from_slice(&(payload as u16).to_le_bytes());
    body[AT_RESERVED..OVERHEAD].fill(0);
    let about = about(lineage, page, &body[AT_EPOCH..OVERHEAD]);
    let tag = cipher.seal(nonce, &about, &mut body[OVERHEAD..OVERHEAD + payload]);
    body[..AT_TAG].copy_from_slice(nonce);
    body[AT_TAG..AT_EPOCH].copy_from_slice(&tag);
}

/// Opens in place; the payload is then at [`OVERHEAD`]. `clear` is what [`Clear::parse`] found in `body`.
pub fn open(cipher: &Cipher, lineage: &LineageId, page: u64, clear: &Clear, body: &mut [u8]) -> Result<(), Refused> {
    let nonce = field(body, 0)?;
    let tag = field(body, AT_TAG)?;
    let about = about(lineage, page, body.get(AT_EPOCH..OVERHEAD).ok_or(Refused::Layout)?);
    let end = OVERHEAD + clear.payload;
    if !is_hole(body.get(end..).ok_or(Refused::Layout)?) {
        return Err(Refused::Layout);
    }
    cipher.open(&nonce, &about, body.get_mut(OVERHEAD..end).ok_or(Refused::Layout)?, &tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keymgr::secret::Secret32;

    const LINEAGE: LineageId = LineageId::from_bytes([5; 16]);
    const EPOCH: EpochTag = EpochTag([1, 2, 3, 4]);

    fn sealed(page: u64, payload: &[u8]) -> (Cipher, Vec<u8>) {
        let cipher = Cipher::new(&Secret32::from_bytes([9; 32]));
        let mut body = vec![0; PAGE - body_start(page)];
        body[OVERHEAD..OVERHEAD + payload.len()].copy_from_slice(payload);
        seal(&cipher, EPOCH, &LINEAGE, page, &[7; 12], payload.len(), &mut body);
        (cipher, body)
    }

    fn opened(cipher: &Cipher, lineage: &LineageId, page: u64, body: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
        let mut body = body.to_vec();
        let Some(clear) = Clear::parse(page, &body)? else {
            return if is_hole(&body) { Ok(None) } else { Err(Refused::Layout) };
        };
        if clear.epoch != EPOCH {
            return Err(Refused::NoKey);
        }
        open(cipher, lineage, page, &clear, &mut body)?;
        Ok(Some(body[OVERHEAD..OVERHEAD + clear.payload].to_vec()))
    }

    #[test]
    fn a_page_opens_only_as_itself() {
        for page in [0, 1, 77] {
            let (cipher, body) = sealed(page, b"hello");
            assert_eq!(opened(&cipher, &LINEAGE, page, &body).unwrap().unwrap(), b"hello");
            assert!(opened(&cipher, &LINEAGE, page + 1, &body).is_err());
            assert!(opened(&cipher, &LineageId::from_bytes([6; 16]), page, &body).is_err());
        }
    }

    #[test]
    fn a_flip_of_any_byte_is_refused() {
        let (cipher, body) = sealed(3, &[0xaa; 100]);
        for at in 0..body.len() {
            for bit in [1, 0x80] {
                let mut bad = body.clone();
                bad[at] ^= bit;
                assert!(opened(&cipher, &LINEAGE, 3, &bad).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn full_and_empty_payloads_fit() {
        for (page, most) in [(0, FIRST_PAYLOAD), (1, PAYLOAD)] {
            let (cipher, body) = sealed(page, &vec![3; most]);
            assert_eq!(opened(&cipher, &LINEAGE, page, &body).unwrap().unwrap().len(), most);
            let (cipher, body) = sealed(page, b"");
            assert_eq!(opened(&cipher, &LINEAGE, page, &body).unwrap().unwrap(), b"");
        }
    }
}
