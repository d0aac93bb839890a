//! Where points come from. A source reads machines and hands [`crate::delivery::Delivery`] on; it
//! knows nothing of what becomes of them, but for MQTT learns when they are on disk (D5).

pub mod modbus;
pub mod mqtt;
