//! Writes rows and books into the caller's transaction (D12).
//!
//! Invariant: nothing here begins or ends a transaction, and nothing here decides what is new: the ledger has.

mod births;
mod ids;
mod rows;
mod state;

pub use births::{BirthRow, births};
pub use ids::Ids;
pub use rows::{AuditRow, ControlRow, DeadLetter, GapRow, LossRow, QuarantineRow, Reading};
pub use rows::{audits, controls, dead_letters, gaps, losses, quarantine, readings, released};
pub use state::{
    BatchRun, ShardState, StreamState, batch_run, flush_row, next_flush, operator_states, repaired, repairs,
    set_text, shard, streams,
};
