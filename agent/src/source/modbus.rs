//! Modbus TCP: one task per bus asks its devices for their tags and delivers a row per category.
//!
//! Data flows through the modules in this order: `plan` groups a device's tags into requests,
//! `connection` asks them, `decode` reads the replies, `readings` decides what is worth reporting and
//! makes the rows. `unit` and `backoff` remember how each device behaves; `poll` drives all of it. Only
//! `connection` and `poll` do I/O.

pub mod load;
pub mod plan;

mod backoff;
mod births;
mod connection;
pub mod decode;
mod poll;
mod readings;
mod unit;

pub use births::streams;
pub use poll::run;

#[cfg(test)]
mod sample;
#[cfg(test)]
mod script;
