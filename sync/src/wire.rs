//! What goes over a link, as HTTP resources below `/v1/shares/SHARE/` (kith-protocol(7), "Resources"):
//!
//! - `POST feed`, the reader's heads in the request; the response does not end: frames of records and what goes with them;
//! - `GET objects/ROOT`, a body or a `Range` of it; `GET objects/ROOT/groups`, its chaining values.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use keymgr::ids::Root;

use crate::engine::Heads;

/// The longest frame: a record, a body in line, and what stands around them.
pub const MAX_FRAME: usize = 256 * 1024;
/// The longest request body: heads of a thousand authors.
pub const MAX_HELLO: usize = 256 * 1024;
/// The longest list or shelf.
const MAX_LONG: usize = 8 << 20;
const PART: usize = 200 * 1024;
/// The longest invitation.
pub const MAX_INVITATION: usize = 32 << 20;
/// The most groups of a body that is fetched: 128 GiB, 256 MiB of chaining values.
pub const MAX_GROUPS: usize = 1 << 23;

/// How far the reader is.
#[derive(Serialize, Deserialize)]
pub struct Hello {
    pub version: u8,
    pub heads: Heads,
    /// A snapshot is wanted though the heads do not ask for it: what is held came from a blind device.
    pub snapshot: bool,
}

#[derive(Serialize, Deserialize)]
pub enum Frame {
    /// The device list of an account, as the writer knows it.
    List(Vec<u8>),
    /// A signed record, and its body where it is short and was set by it ([`pack`]).
    Record { signed: Vec<u8>, body: Option<Vec<u8>> },
    /// Bodies that are whole at the writer since the last such frame.
    Have(Vec<Root>),
    /// How far the writer has read everybody, itself included: the reader has all of it now.
    Heads(Heads),
    /// Signed heads of a device, [`crate::statement::Seen`]; the reader has all that they cover.
    Seen(Vec<u8>),
    /// A snapshot begins, [`crate::statement::Snapshot`]; so many records of it follow.
    Snapshot(Vec<u8>),
    /// A record of the snapshot, and its body as in [`Frame::Record`].
    Held { signed: Vec<u8>, body: Option<Vec<u8>> },
    /// The share's member list, before the device lists of the accounts that it names.
    Members(Vec<u8>),
    /// The records of its epochs and their wrapped keys.
    Shelf(Vec<u8>),
    /// The first part of the list or shelf that follows, where that is too long for one frame.
    More(Vec<u8>),
}

/// What `GET invitation` answers: all that a device needs to begin a share.
#[derive(Serialize, Deserialize)]
pub struct Invitation {
    pub version: u8,
    /// What the one who answers calls the folder; empty where it does not know.
    pub title: String,
    pub members: Vec<u8>,
    pub lists: Vec<Vec<u8>>,
    pub shelf: Vec<u8>,
}

/// Bytes of a block of [`pack`].
const BLOCK: usize = 128;

/// A short body without its zeros: every page is stored whole, so that a small file is mostly zeros. The length (u32,
/// little-endian), a bit for each block of 128 bytes that is not all zeros (lowest first), then those blocks.
pub fn pack(body: &[u8]) -> Vec<u8> {
    let mut bits = vec![0u8; body.len().div_ceil(BLOCK).div_ceil(8)];
    let mut blocks = Vec::new();
    for (i, block) in body.chunks(BLOCK).enumerate() {
        if block.iter().any(|b| *b != 0) {
            if let Some(byte) = bits.get_mut(i / 8) {
                *byte |= 1 << (i % 8);
            }
            blocks.extend_from_slice(block);
        }
    }
    [&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes(), bits.as_slice(), &blocks].concat()
}

/// The body that [`pack`] was given; `None` for what it does not make, or a body longer than `most`.
pub fn unpack(packed: &[u8], most: usize) -> Option<Vec<u8>> {
    let (len, rest) = packed.split_at_checked(4)?;
    let len = u32::from_le_bytes(len.try_into().ok()?) as usize;
    if len > most {
        return None;
    }
    let (bits, mut blocks) = rest.split_at_checked(len.div_ceil(BLOCK).div_ceil(8))?;
    let mut body = vec![0; len];
    for (i, block) in body.chunks_mut(BLOCK).enumerate() {
        if bits.get(i / 8)? & (1 << (i % 8)) != 0 {
            let (bytes, more) = blocks.split_at_checked(block.len())?;
            block.copy_from_slice(bytes);
            blocks = more;
        }
    }
    blocks.is_empty().then_some(body)
}

/// A frame with its length in front; before one that is too long for that, its beginning.
pub fn encode(frame: &Frame) -> Option<Vec<u8>> {
    let (Frame::List(bytes) | Frame::Members(bytes) | Frame::Shelf(bytes)) = frame else { return one(frame) };
    let (first, last) = bytes.split_at(bytes.len().saturating_sub(1) / PART * PART);
    let mut out = Vec::new();
    for part in first.chunks(PART) {
        out.append(&mut one(&Frame::More(part.to_vec()))?);
    }
    let last = last.to_vec();
    out.append(&mut one(&match frame {
        Frame::List(_) => Frame::List(last),
        Frame::Members(_) => Frame::Members(last),
        _ => Frame::Shelf(last),
    })?);
    Some(out)
}

fn one(frame: &Frame) -> Option<Vec<u8>> {
    let body = postcard::to_stdvec(frame).ok()?;
    if body.len() > MAX_FRAME {
        return None;
    }
    let mut out = u32::try_from(body.len()).ok()?.to_le_bytes().to_vec();
    out.extend_from_slice(&body);
    Some(out)
}

/// Frames out of the bytes that come.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Of what is too long for one frame.
    more: Vec<u8>,
}

/// What came is no frame.
#[derive(Debug, thiserror::Error)]
#[error("a frame that cannot be")]
pub struct BadFrame;

impl Decoder {
    /// The frames that are whole now.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, BadFrame> {
        self.buffer.extend_from_slice(bytes);
        let (mut frames, mut at) = (Vec::new(), 0);
        while let Some(front) = self.buffer.get(at..at + 4) {
            let len = u32::from_le_bytes(front.try_into().map_err(|_| BadFrame)?) as usize;
            if len > MAX_FRAME {
                return Err(BadFrame);
            }
            let Some(body) = self.buffer.get(at + 4..at + 4 + len) else { break };
            let mut frame = decode(body)?;
            at += 4 + len;
            match &mut frame {
                Frame::More(part) => {
                    if self.more.len() + part.len() > MAX_LONG {
                        return Err(BadFrame);
                    }
                    self.more.append(part);
                    continue;
                }
                Frame::List(bytes) | Frame::Members(bytes) | Frame::Shelf(bytes) => {
                    *bytes = [std::mem::take(&mut self.more).as_slice(), bytes].concat();
                }
                _ if !self.more.is_empty() => return Err(BadFrame),
                _ => {}
            }
            frames.push(frame);
        }
        self.buffer.drain(..at);
        Ok(frames)
    }
}

/// Strict: nothing may follow.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadFrame> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(BadFrame),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_body_comes_back_and_a_forged_one_does_not() {
        for len in [0, 1, 127, 128, 129, 4096, 8485] {
            let mut body = vec![0; len];
            for i in (0..len.min(700)).step_by(3) {
                body[i] = i as u8;
            }
            let packed = pack(&body);
            assert_eq!(unpack(&packed, len), Some(body.clone()), "{len}");
            assert_eq!(unpack(&packed, len.saturating_sub(1)), if len == 0 { Some(body) } else { None });
            assert_eq!(unpack(&[packed.as_slice(), &[0]].concat(), len), None, "a byte too many");
            for end in 0..packed.len() {
                assert_eq!(unpack(&packed[..end], len), None, "cut at {end}");
            }
        }
        assert!(pack(&vec![0; 8485]).len() < 20);
    }

    #[test]
    fn frames_come_out_of_any_pieces() {
        let root = Root::from_bytes([7; 32]);
        let bytes: Vec<u8> =
            [Frame::Have(vec![root]), Frame::List(vec![1, 2, 3])].iter().flat_map(|f| encode(f).unwrap()).collect();
        for piece in [1, 3, 7, bytes.len()] {
            let mut decoder = Decoder::default();
            let frames: Vec<Frame> = bytes.chunks(piece).flat_map(|c| decoder.push(c).unwrap()).collect();
            assert!(
                matches!(&frames[..], [Frame::Have(roots), Frame::List(list)] if roots == &[root] && list == &[1, 2, 3])
            );
        }
    }

    #[test]
    fn what_is_too_long_for_a_frame_goes_in_parts() {
        for len in [0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 7] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut decoder = Decoder::default();
            let frames = decoder.push(&encode(&Frame::Shelf(bytes.clone())).unwrap()).unwrap();
            assert!(matches!(&frames[..], [Frame::Shelf(came)] if *came == bytes), "{len}");
        }
        let part = encode(&Frame::More(vec![1; PART])).unwrap();
        let mut decoder = Decoder::default();
        assert!((0..=MAX_LONG / PART).any(|_| decoder.push(&part).is_err()), "without an end");
        let mut decoder = Decoder::default();
        assert!(decoder.push(&part).unwrap().is_empty());
        assert!(decoder.push(&encode(&Frame::Have(vec![])).unwrap()).is_err(), "what it belongs to must follow");
    }

    #[test]
    fn what_is_no_frame_is_refused_before_it_is_held() {
        assert!(Decoder::default().push(&u32::MAX.to_le_bytes()).is_err());
        assert!(Decoder::default().push(&[2, 0, 0, 0, 99, 99]).is_err());
        let mut long = encode(&Frame::Have(vec![])).unwrap();
        long[0] += 1;
        long.push(0);
        assert!(Decoder::default().push(&long).is_err(), "a byte too many");
    }
}
