//! From points to features: the operator graph, and the two drivers that run it.
//!
//! Data flows through the modules in this order: [`mod@compile`] turns feature files into a [`graph`];
//! [`input`] rows of the lake or of Kafka go to the [`stream`] driver, which asks the [`watermark`]s
//! which windows can be closed, or to the [`batch`] driver; both give [`feature`] rows.
//!
//! Invariant: values in, values out. No I/O, no clock, no random number, no tokio; what is computed
//! depends on the set of rows only, never on the order or the pieces in which they came (F2).

mod aggregate;
mod attributes;
mod glob;
mod history;
mod language;
mod row;
mod sketch;
mod tree;
mod value;
mod window;

pub mod compile;
pub mod problem;

pub mod graph;

pub mod input;

pub mod watermark;

pub mod batch;
pub mod stream;

pub mod feature;

pub use attributes::Attributes;
pub use batch::BatchDriver;
pub use compile::compile;
pub use feature::{FeatureColumn, FeatureRow, FeatureType, FeatureValue, ViewSchema};
pub use graph::{Catalog, Kind, Mode, Service, View, Window};
pub use input::InputRow;
pub use problem::{Problem, SourceFile};
pub use stream::{RepairRequest, StreamDriver};
pub use watermark::Control;
