//! Simulated universes of devices, each from one seed: see tests/simulation.rs.

pub mod device;
pub mod disk;
pub mod people;
pub mod rng;
pub mod user;
pub mod world;

pub use world::{Options, universe};
