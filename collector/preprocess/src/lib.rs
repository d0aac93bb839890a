//! From points to features: the operator graph, and the two drivers that run it.
//!
//! Data flows through the modules in this order: [`input`] rows of the lake or of Kafka, the graph
//! compiled from the feature files, windows, [`feature`] rows.
//!
//! Invariant: values in, values out. No I/O, no clock, no random number, no tokio; what is computed
//! depends on the set of rows only, never on the order or the pieces in which they came (F2).

pub mod feature;
pub mod input;
