//! The plant that Millrace is tried on: simulated machines, an MQTT broker, Kafka in a process of its
//! own, and a log of the truth.
//!
//! Data flows through the modules in this order: `plant` makes values and answers over Modbus TCP and
//! MQTT, `truth` writes down and reads back what was sent, `load` makes records without an agent, `kafka`
//! is the broker that both are sent to, `lake` reads what arrived, `demo` runs the whole line and
//! compares. `cli` and `control` are how people and tests steer them. Nothing here is part of the product;
//! the decoders are written apart from the agent's, so that the two can be compared.

pub mod cli;
pub mod clock;
pub mod control;
pub mod demo;
pub mod kafka;
pub mod lake;
pub mod load;
pub mod plant;
pub mod sim;
pub mod supervise;
pub mod truth;
