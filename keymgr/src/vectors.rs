//! tests/vectors/keys.json: what every release must go on making and reading, byte for byte. Each module checks its own
//! part; a change that is meant is a new version of the format with new vectors beside these.

use serde_json::Value;

const FILE: &str = include_str!("../../tests/vectors/keys.json");

pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// What the file has under this name.
pub(crate) fn frozen(name: &str) -> Value {
    let all: Value = serde_json::from_str(FILE).unwrap();
    all.get(name).unwrap_or_else(|| panic!("no vector {name}")).clone()
}

/// What the file has under this name must be what the code makes now.
pub(crate) fn check(name: &str, made: Value) {
    assert_eq!(frozen(name), made, "{name}: made now: {made:#}");
}
