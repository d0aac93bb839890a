//! The agent: from the shop floor's bus to Kafka, with everything on disk in between.
//!
//! Data flows through the modules in this order: `source` (Modbus, MQTT) reads points and makes rows
//! of them, `batch` numbers the rows and packs them into chunks, `buffer` keeps them on disk until
//! Kafka has them, `uplink` sends them and says how far a stream is complete. `app` connects the
//! stages by bounded channels; they do not know each other. The agent only reads machines.

pub mod source;

pub mod batch;
pub mod books;
pub mod buffer;
pub mod uplink;

pub mod app;
pub mod supervise;

pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod status;
