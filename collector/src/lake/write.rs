//! Writes rows and books into the caller's transaction (D12).
//!
//! Invariant: nothing here begins or ends a transaction, and nothing here decides what is new: the ledger has.

mod ids;
mod rows;
mod state;

pub use ids::Ids;
pub use rows::{AuditRow, BirthRow, ControlRow, DeadLetter, GapRow, LossRow, QuarantineRow, Reading};
pub use rows::{audits, births, controls, dead_letters, gaps, losses, quarantine, readings};
pub use state::{
    BatchRun, ShardState, StreamState, batch_run, flush_row, next_flush, operator_states, repaired, repairs,
    set_text, shard, streams,
};
