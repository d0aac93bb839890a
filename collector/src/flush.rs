//! From records to one transaction (D11, D12).
//!
//! [`Memory`] is all that a worker knows of its shards: the ledger, the operator graphs, the open batch. Records are
//! taken into it (`absorb`), and a flush writes what is open, with the ledger, the closed windows and the next
//! offsets, in one transaction (`commit`). Invariant: what is in memory is what is in the lake plus the open
//! batch; after a flush that failed or whose outcome is unknown the memory is thrown away and loaded again (`load`).

mod absorb;
mod batch;
mod clock;
mod commit;
mod load;
mod open;
mod repair;
mod senders;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use millrace_preprocess::{Catalog, StreamDriver};
use millrace_protocol::{LayoutId, MachineName, StreamId};

use crate::config::Limits;
use crate::features::offline::OfflineError;
use crate::intake::{LastRecord, Position};
use crate::lake::LakeError;
use crate::lake::write::{Ids, ShardState};
use crate::ledger::Ledger;

pub use commit::Flushed;
use open::Open;
pub use repair::{Backfill, is_owed, stored};
pub use senders::Duplicates;

/// Why a flush did not happen; its transaction is rolled back or of unknown outcome.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// The lake.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The offline store, in the same transaction.
    #[error("the offline store")]
    Offline(#[from] OfflineError),
}

impl FlushError {
    /// Tells whether waiting may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Lake(error) => error.is_transient(),
            Self::Offline(error) => error.is_transient(),
        }
    }
}

/// What a worker does as configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The compiled feature files.
    pub catalog: Arc<Catalog>,
    /// A stream without progress is given up (F5).
    pub stall_after: Duration,
    /// Bounds of believable event times.
    pub limits: Limits,
}

impl Settings {
    pub(crate) fn stall_after_us(&self) -> i64 {
        i64::try_from(self.stall_after.as_micros()).unwrap_or(i64::MAX)
    }
}

/// All that a worker knows of its shards.
#[derive(Debug)]
pub struct Memory {
    settings: Settings,
    ledger: Ledger,
    ids: Ids,
    shards: BTreeMap<i32, Shard>,
    streams: HashMap<StreamId, Arc<StreamId>>,
    /// Layouts that were looked at and name no tag twice.
    sound: HashSet<LayoutId>,
    open: Open,
    batch: batch::BatchRuns,
    senders: senders::Senders,
    corrections: clock::Corrections,
}

/// One shard's part.
#[derive(Debug)]
struct Shard {
    state: ShardState,
    driver: StreamDriver,
    /// Each topic's clock (F5). *Units*: microseconds since 1970-01-01 UTC.
    clocks: BTreeMap<String, i64>,
    /// Machines whose operator state is in the lake.
    saved: HashSet<MachineName>,
    /// When operator state was saved last. *Units*: microseconds since 1970-01-01 UTC.
    saved_at_us: i64,
    /// Streams with an undeclared hole, since which time of their topic's clock, and on which topic.
    holes: BTreeMap<Arc<StreamId>, (String, i64)>,
}

impl Shard {
    fn new(settings: &Settings, state: ShardState) -> Self {
        Self {
            state,
            driver: StreamDriver::new(Arc::clone(&settings.catalog), settings.stall_after_us()),
            clocks: BTreeMap::new(),
            saved: HashSet::new(),
            saved_at_us: i64::MIN,
            holes: BTreeMap::new(),
        }
    }
}

impl Memory {
    /// Counts the points that wait for a flush.
    #[must_use]
    pub fn waiting_points(&self) -> usize {
        self.open.points
    }

    /// Tells whether a flush would write anything that came by Kafka.
    #[must_use]
    pub fn has_open(&self) -> bool {
        !self.open.shards.is_empty()
    }

    /// Gives where every topic and partition is read on.
    #[must_use]
    pub fn positions(&self) -> BTreeMap<(String, i32), Position> {
        let of_shard = |(&shard, s): (&i32, &Shard)| {
            let positions = s.state.offsets.iter().map(move |(topic, &next)| {
                let last = s.state.last.get(topic).map(|&(offset, crc)| LastRecord { offset, crc });
                ((topic.clone(), shard), Position { next, last })
            });
            positions.collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of_shard).collect()
    }

    /// Takes note of what is wrong in a shard, with a topic or an agent, for the next flush.
    pub fn trouble(&mut self, what: &str, shard: i32, text: &str) {
        self.shard(shard).state.trouble.insert(what.to_owned(), text.to_owned());
        self.open.shards.entry(shard).or_default().trouble = true;
    }

    /// Takes the time at which a topic's end was reached (F5).
    pub fn end_reached(&mut self, topic: &str, shard: i32, at_us: i64) {
        if let Some(shard) = self.shards.get_mut(&shard) {
            let clock = shard.clocks.entry(topic.to_owned()).or_insert(at_us);
            *clock = (*clock).max(at_us);
        }
    }

    fn shard(&mut self, shard: i32) -> &mut Shard {
        let settings = &self.settings;
        self.shards.entry(shard).or_insert_with(|| Shard::new(settings, ShardState::default()))
    }
}

#[cfg(test)]
mod tests;
