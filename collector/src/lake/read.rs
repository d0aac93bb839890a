//! Reads back what a worker needs when it takes its shards, and rows of the lake with their bits.

mod clock;
mod rows;
mod state;

pub use clock::{WaitingRow, clock_corrections, waiting_for_clock};
pub use rows::{HOUR_US, Layouts, first_since, hours_of, machine_rows, rows_seen, time_range};
pub use state::{
    LoadedStream, batch_runs, births, by_number, controls, operator_states, parse_set, recent_chunks,
    repairs, shards, streams, take_shards,
};
