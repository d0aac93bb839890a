//! Simulated machines: what they measure, how they answer, and how they misbehave.
//!
//! In the order of the data: `model` makes values, `registers` puts them into Modbus tables, `device`
//! answers requests (or not, as `fault` says), `modbus` carries the answers over TCP; `publisher`
//! sends values to `mqtt`, the broker inside the plant. `config` is `plant.toml`, `tag` what both
//! sides of it say about a tag, `agent_config` writes the matching `agent.toml`, and `running` puts
//! everything together.

pub mod agent_config;
pub mod config;
pub mod device;
pub mod fault;
pub mod modbus;
pub mod model;
pub mod mqtt;
pub mod publisher;
pub mod registers;
pub mod running;
pub mod tag;
