//! The one-time code: ten symbols, 50 bits, shown as two groups of five.

use zeroize::Zeroizing;

use super::PairError;

/// Crockford's base 32: no i, l, o, u, so that what is read aloud is written down right.
const SYMBOLS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LEN: usize = 10;

/// No Debug, no Display: it is shown on purpose only.
#[derive(Clone)]
pub struct Code(Zeroizing<String>);

impl Code {
    pub fn random() -> Self {
        let bytes = Zeroizing::new(keymgr::secret::random_bytes::<LEN>());
        // 256 is a multiple of 32: no symbol is likelier than another.
        Self(Zeroizing::new(
            bytes.iter().filter_map(|b| SYMBOLS.get(usize::from(b % 32))).map(|s| *s as char).collect(),
        ))
    }

    /// As somebody typed it: case, spaces and hyphens do not count, and o, i, l are what they look like.
    pub fn parse(text: &str) -> Result<Self, PairError> {
        let mut code = Zeroizing::new(String::with_capacity(LEN));
        for c in text.chars().filter(|c| !c.is_whitespace() && *c != '-') {
            let c = match c.to_ascii_lowercase() {
                'o' => '0',
                'i' | 'l' => '1',
                c => c,
            };
            if code.len() == LEN || !SYMBOLS.iter().any(|s| *s as char == c) {
                return Err(PairError::BadCode);
            }
            code.push(c);
        }
        if code.len() == LEN { Ok(Self(code)) } else { Err(PairError::BadCode) }
    }

    /// For the user's eyes.
    pub fn show(&self) -> Zeroizing<String> {
        let (a, b) = self.0.split_at(LEN / 2);
        Zeroizing::new(format!("{a}-{b}"))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_it_is_shown_or_sloppily() {
        let code = Code::random();
        assert_eq!(Code::parse(&code.show()).unwrap().bytes(), code.bytes());
        let sloppy = Code::parse(" 0IL-9Z ABCDE ").unwrap();
        assert_eq!(sloppy.bytes(), b"0119zabcde");
        assert_eq!(Code::parse("oil9zabcde").unwrap().bytes(), sloppy.bytes());
        for bad in ["", "0119zabcd", "0119zabcdef", "0119zabcdu", "0119zabcd\u{e9}"] {
            assert!(Code::parse(bad).is_err(), "{bad}");
        }
    }
}
