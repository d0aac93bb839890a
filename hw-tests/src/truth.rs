//! The log of what the plant sent, and what can be proved with it.
//!
//! `log` writes one JSON line for each reply and publish before it is sent; `decode` and `readings`
//! read the log back into values, slowly and by rules of their own; `compare` holds them against what
//! was found in the lake.
//!
//! Invariant: a value that a client saw stands in the log. The reverse does not hold: a reply can be
//! logged and never arrive, if its connection breaks in that moment.

pub mod decode;
pub mod entry;
pub mod log;
