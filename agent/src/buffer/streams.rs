//! What the batch stage asks the buffer about streams: their numbers, their past, their hashes (D5, D7).

use millrace_protocol::{
    AgentId, Birth, BootId, Category, Epoch, Item, MachineName, PreviousEpoch, StreamId,
};

use super::notice::{Notice, NoticeBody};
use super::writer::Buffer;

impl Buffer {
    /// Gives the agent whose rows these are.
    #[must_use]
    pub const fn agent(&self) -> &AgentId {
        &self.options.agent
    }

    /// Gives the epoch of this start.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.options.epoch
    }

    /// Reads the wall clock. *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn now_us(&self) -> i64 {
        self.options.clock.now_us()
    }

    /// Gives the number by which [`super::NewRows`] name this epoch's stream of a machine and category.
    pub fn stream(&mut self, machine: &MachineName, category: &Category) -> u32 {
        let id = StreamId {
            agent: self.options.agent.clone(),
            epoch: self.options.epoch,
            machine: machine.clone(),
            category: category.clone(),
        };
        self.shared.lock().stream_number(&id)
    }

    /// Gives the stream before this epoch's in the chain, and its last sequence on disk (D7).
    #[must_use]
    pub fn previous(&self, machine: &MachineName, category: &Category) -> Option<PreviousEpoch> {
        let state = self.shared.lock();
        let stream = state.previous(machine, category)?;
        Some(PreviousEpoch { epoch: stream.id.epoch, last_seq: stream.numbered.rows })
    }

    /// Gives when the buffer was last flushed; at start: by the previous process.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn last_flushed_us(&self) -> Option<i64> {
        self.shared.lock().last_flushed_us
    }

    /// Gives the time before which everything that the previous process read is on disk; asked at start.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn settled_before_us(&self) -> Option<i64> {
        let state = self.shared.lock();
        // Until a process has said it for the first time: its flush, which is not far from it.
        let flushed_us = state.last_flushed_us?;
        Some(state.settled_durable_us.map_or(flushed_us, |settled_us| settled_us.min(flushed_us)))
    }

    /// Gives the newest birth of every machine and category that ever had one.
    #[must_use]
    pub fn births(&self) -> Vec<(MachineName, Category, Birth)> {
        let state = self.shared.lock();
        let decoded =
            state.births.iter().filter_map(|((machine, category), item)| match Item::decode(item) {
                Ok(Item::Birth(birth)) => Some((machine.clone(), category.clone(), birth)),
                _ => None,
            });
        decoded.collect()
    }

    /// Gives the hashes of the publishes that were stored last, oldest first, by session (D5).
    #[must_use]
    pub fn hashes(&self) -> Vec<(u64, Vec<u64>)> {
        let state = self.shared.lock();
        state.hashes.iter().map(|(&session, ring)| (session, ring.iter().copied().collect())).collect()
    }

    /// Keeps only so many hashes of each session from now on.
    pub fn keep_hashes(&mut self, kept: usize) {
        let mut state = self.shared.lock();
        state.hashes_kept = kept;
        for ring in state.hashes.values_mut() {
            ring.drain(..ring.len().saturating_sub(kept));
        }
    }

    /// Stores the births of this start in the manifest.
    pub fn begin(&mut self, births: Vec<(u32, Vec<u8>)>) {
        {
            let mut state = self.shared.lock();
            births.into_iter().for_each(|(stream, item)| state.add_birth(stream, item));
        }
        // A dead disk leaves them in memory; they are sent all the same.
        if let Err(error) = self.checkpoint() {
            tracing::error!(%error, "the births of this start are not on disk");
        }
        self.shared.changed.notify_one();
    }

    /// Gives the boot whose rows wait for a correction of the clock.
    #[must_use]
    pub fn unset_boot(&self) -> Option<BootId> {
        self.shared.lock().unset_boot
    }

    /// Keeps rows of this start from the uplink: the clock of this boot is not set (D8).
    pub fn hold(&mut self, boot_id: BootId) {
        {
            let mut state = self.shared.lock();
            state.unset_boot = Some(boot_id);
            state.is_live_held = true;
        }
        if let Err(error) = self.checkpoint() {
            tracing::error!(%error, "if the process ends now, nothing will place rows of the wrong clock");
        }
    }

    /// Gives rows of this start to the uplink again.
    pub fn let_go(&mut self) {
        self.shared.lock().is_live_held = false;
        self.shared.changed.notify_one();
    }

    /// Sends corrections of the clock, then the rows that waited for them: stream and encoded item.
    pub fn place(&mut self, corrections: Vec<(u32, Vec<u8>)>) {
        {
            let mut state = self.shared.lock();
            state.unset_boot = None;
            for (stream, item) in corrections {
                state.push_notice(Notice { stream, body: NoticeBody::Clock(item), in_flight: false });
            }
        }
        if let Err(error) = self.checkpoint() {
            tracing::error!(%error, "the corrections of the clock are not on disk");
        }
        self.let_go();
    }

    /// Says that everything the sources handed over until then is on disk. A clock that was set back takes
    /// it back, too: what was promised by the wrong clock must not be promised again.
    pub fn settled(&self, until_us: i64) {
        self.shared.lock().settled_us = Some(until_us);
    }
}
