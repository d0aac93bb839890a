//! The collector: from Kafka to the lake and the feature stores.
//!
//! Data flows through the modules in this order: `intake` reads records, `ledger` decides what is new,
//! `lake` stores it, `features` turns it into rows of features and keeps them offline and online, `serve`
//! answers. `app` connects them.

pub mod intake;

pub mod ledger;

pub mod lake;

pub mod features;

pub mod flush;

pub mod serve;

pub mod audit;

pub mod app;

pub mod cli;
pub mod clock;
pub mod config;
pub mod status;
pub mod supervise;
