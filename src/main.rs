//! kith.
fn main() {}
