//! sync: carries ciphertext and signed records between devices. Holds no key that opens a file, and never authors.

pub mod bodies;
pub mod engine;
pub mod frontier;
pub mod index;
pub mod install;
pub mod link;
pub mod log;
pub mod members;
pub mod net;
pub mod record;
pub mod replica;
pub mod scan;
pub mod shares;
pub mod statement;
pub mod wire;
