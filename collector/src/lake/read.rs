//! Reads back what a worker needs when it takes its shards, and rows of the lake with their bits.

mod rows;
mod state;

pub use rows::{Layouts, machine_rows, time_range};
pub use state::{
    LoadedStream, births, by_number, controls, operator_states, parse_set, recent_chunks, repairs, shards,
    streams, take_shards,
};
