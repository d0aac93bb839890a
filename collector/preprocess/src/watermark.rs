//! How far each stream is complete, and who is waited for (F5).
//!
//! The streams of one (agent, machine, category) are a chain (D7): rows of a newer epoch move the
//! watermark only when the older ones are complete to their last sequence, declared lost, or given up.
//! Invariant: only what the caller gives decides (items, sequences, append times, topic clocks); what a
//! clock decided comes out as a [`Control`] and can be given again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_protocol::{Birth, Epoch, Progress, StreamId};
use serde::{Deserialize, Serialize};

use crate::history::MAX_AHEAD_US;

/// A decision that depended on the clock: stored in the lake, so that a replay sees it too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// A stream was silent for longer than `stall_after` and is no longer waited for, until it is heard
    /// again.
    GiveUp {
        /// Which.
        stream: Arc<StreamId>,
        /// Its topic's clock at that moment. *Units*: microseconds since 1970-01-01 UTC.
        at_us: i64,
    },
}

/// Rows read beyond the contiguous sequence: first and last sequence, newest event time.
type Run = (u64, u64, i64);

/// What is known of one stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StreamState {
    topic: Option<String>,
    /// Append time of the last thing heard; `i64::MIN`: nothing yet.
    heard_us: i64,
    contiguous: u64,
    /// Newest event time of the contiguous rows.
    newest_us: i64,
    runs: Vec<Run>,
    /// Progress whose rows are not all there yet: sequence and time.
    promised: Vec<(u64, i64)>,
    /// No row up to this time (exclusive) will come, by the stream's own word, lateness aside.
    promised_us: i64,
    /// The older stream and its last sequence.
    previous: Option<(u64, u64)>,
    given_up_us: Option<i64>,
}

impl Default for StreamState {
    fn default() -> Self {
        Self {
            topic: None,
            heard_us: i64::MIN,
            contiguous: 0,
            newest_us: i64::MIN,
            runs: Vec::new(),
            promised: Vec::new(),
            promised_us: i64::MIN,
            previous: None,
            given_up_us: None,
        }
    }
}

impl StreamState {
    fn advance(&mut self, seq: u64) {
        self.contiguous = self.contiguous.max(seq);
        let (contiguous, mut newest_us, mut promised_us) =
            (self.contiguous, self.newest_us, self.promised_us);
        self.runs.retain(|&(_, last, time_us)| {
            let there = last <= contiguous;
            newest_us = if there { newest_us.max(time_us) } else { newest_us };
            !there
        });
        self.promised.retain(|&(after, until_us)| {
            let there = after <= contiguous;
            promised_us = if there { promised_us.max(until_us) } else { promised_us };
            !there
        });
        (self.newest_us, self.promised_us) = (newest_us, promised_us);
    }

    fn row(&mut self, seq: u64, time_us: i64) {
        if seq <= self.contiguous {
            self.newest_us = self.newest_us.max(time_us);
            return;
        }
        match self.runs.last_mut() {
            Some((_, last, newest)) if last.checked_add(1) == Some(seq) => {
                *last = seq;
                *newest = (*newest).max(time_us);
            }
            _ => self.runs.push((seq, seq, time_us)),
        }
    }

    /// A promise is kept up to the disorder that the view allows, too: of a sensor that stamps its own rows the
    /// agent knows only what has arrived.
    fn low_us(&self, lateness_us: i64) -> i64 {
        self.newest_us.max(self.promised_us).saturating_sub(lateness_us)
    }

    fn given_up(&self, stall_after_us: i64) -> bool {
        self.given_up_us.is_some_and(|at| at >= self.heard_us.saturating_add(stall_after_us))
    }
}

/// How far a chain is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Low {
    /// Nothing was heard of it: nobody waits.
    Silent,
    /// Complete up to this time (exclusive).
    Until(i64),
    /// Given up; its topic's clock.
    GivenUp(i64),
}

/// The streams of one agent, machine and category.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chain {
    streams: BTreeMap<u64, StreamState>,
    /// Older streams that were complete to their end and are forgotten: what is sent again of them says nothing.
    /// Not saved: births and the ledger, given again after a restart, say the same.
    #[serde(skip)]
    done: BTreeSet<u64>,
}

impl Chain {
    /// Gives a stream that is not done with.
    fn stream(&mut self, epoch: Epoch) -> Option<&mut StreamState> {
        (!self.done.contains(&epoch.0)).then(|| self.streams.entry(epoch.0).or_default())
    }

    pub(crate) fn heard(&mut self, epoch: Epoch, topic: &str, append_us: i64) {
        let Some(stream) = self.stream(epoch) else { return };
        stream.heard_us = stream.heard_us.max(append_us);
        if stream.topic.as_deref() != Some(topic) {
            stream.topic = Some(topic.to_owned());
        }
        self.wait_for_older(epoch, append_us);
    }

    /// Older streams that were never heard are waited for as if they had been heard with the newer one.
    fn wait_for_older(&mut self, epoch: Epoch, append_us: i64) {
        let mut at = self.streams.get(&epoch.0).and_then(|s| s.previous);
        let mut steps = self.streams.len();
        while let (Some((older, _)), 1..) = (at.filter(|(older, _)| !self.done.contains(older)), steps) {
            let older = self.streams.entry(older).or_default();
            if older.heard_us == i64::MIN {
                older.heard_us = append_us;
            }
            at = older.previous;
            steps -= 1;
        }
    }

    pub(crate) fn birth(&mut self, epoch: Epoch, birth: &Birth) {
        let previous = birth.previous.map(|previous| (previous.epoch.0, previous.last_seq));
        let previous = previous.filter(|(older, _)| !self.done.contains(older));
        let Some(stream) = self.stream(epoch) else { return };
        stream.previous = previous;
        let heard_us = stream.heard_us;
        if heard_us > i64::MIN {
            self.wait_for_older(epoch, heard_us);
        }
    }

    pub(crate) fn row(&mut self, epoch: Epoch, seq: u64, time_us: i64) {
        if let Some(stream) = self.stream(epoch) {
            stream.row(seq, time_us);
        }
    }

    pub(crate) fn contiguous(&mut self, epoch: Epoch, seq: u64) {
        if let Some(stream) = self.stream(epoch) {
            stream.advance(seq);
        }
    }

    pub(crate) fn progress(&mut self, epoch: Epoch, progress: &Progress, append_us: i64) {
        for older in &progress.waiting_epochs {
            // Its sender still has rows of it: a sign of life.
            if let Some(older) = self.streams.get_mut(&older.0) {
                older.heard_us = older.heard_us.max(append_us);
            }
        }
        let until_us =
            progress.complete_until_us.saturating_add(1).min(append_us.saturating_add(MAX_AHEAD_US));
        let Some(stream) = self.stream(epoch) else { return };
        stream.heard_us = stream.heard_us.max(append_us);
        stream.promised.push((progress.after, until_us));
        stream.advance(0);
    }

    pub(crate) fn give_up(&mut self, epoch: Epoch, at_us: i64) {
        if let Some(stream) = self.stream(epoch) {
            stream.given_up_us = stream.given_up_us.max(Some(at_us));
        }
    }

    /// Gives up streams that are waited for and silent; gives the epochs.
    pub(crate) fn clock(&mut self, topic: &str, now_us: i64, stall_after_us: i64) -> Vec<Epoch> {
        let silent = |s: &StreamState| now_us >= s.heard_us.saturating_add(stall_after_us);
        if !self.streams.values().any(|s| s.heard_us > i64::MIN && silent(s) && !s.given_up(stall_after_us)) {
            return Vec::new();
        }
        let waited = self.waited(stall_after_us);
        let mut given_up = Vec::new();
        for (epoch, stream) in &mut self.streams {
            let silent = now_us >= stream.heard_us.saturating_add(stall_after_us);
            let mine = stream.topic.as_deref().is_none_or(|own| own == topic);
            if silent && mine && waited.contains(epoch) && stream.heard_us > i64::MIN {
                stream.given_up_us = Some(now_us);
                given_up.push(Epoch(*epoch));
            }
        }
        given_up
    }

    /// Gives the streams whose rows are still to come: heads, and older ones that are not complete.
    fn waited(&self, stall_after_us: i64) -> BTreeSet<u64> {
        let mut waited = BTreeSet::new();
        let older: BTreeSet<u64> = self.streams.values().filter_map(|s| s.previous.map(|p| p.0)).collect();
        for (epoch, stream) in &self.streams {
            if older.contains(epoch) || stream.heard_us == i64::MIN {
                continue;
            }
            waited.insert(*epoch);
            let (mut at, mut seen) = (stream.previous, BTreeSet::from([*epoch]));
            while let Some((epoch, last_seq)) = at {
                let Some(stream) = self.streams.get(&epoch).filter(|_| seen.insert(epoch)) else { break };
                if stream.contiguous < last_seq {
                    waited.insert(epoch);
                }
                at = stream.previous;
            }
        }
        waited.retain(|epoch| self.streams.get(epoch).is_some_and(|s| !s.given_up(stall_after_us)));
        waited
    }

    /// Tells how far the chain is complete.
    pub(crate) fn low(
        &self,
        lateness_us: i64,
        stall_after_us: i64,
        clock: impl Fn(Option<&str>) -> i64,
    ) -> Low {
        if let (Some((_, only)), 1) = (self.streams.first_key_value(), self.streams.len())
            && only.heard_us > i64::MIN
            && !only.given_up(stall_after_us)
        {
            return Low::Until(only.low_us(lateness_us));
        }
        let waited = self.waited(stall_after_us);
        let lows = waited.iter().filter_map(|epoch| self.streams.get(epoch)).map(|s| s.low_us(lateness_us));
        if let Some(low) = lows.min() {
            return Low::Until(low);
        }
        let heard = self.streams.values().filter(|s| s.heard_us > i64::MIN);
        heard.map(|s| clock(s.topic.as_deref())).max().map_or(Low::Silent, Low::GivenUp)
    }

    /// Forgets older streams that are complete and behind, so that restarts of an agent leave next to nothing.
    pub(crate) fn prune(&mut self) {
        let complete = |older: &StreamState, last_seq| {
            older.contiguous >= last_seq && older.previous.is_none() && older.runs.is_empty()
        };
        loop {
            let before = self.done.len();
            for (epoch, (older, last_seq)) in
                self.streams.iter().filter_map(|(e, s)| Some((*e, s.previous?))).collect::<Vec<_>>()
            {
                if self.streams.get(&older).is_some_and(|older| complete(older, last_seq)) {
                    self.streams.remove(&older);
                    self.done.insert(older);
                    if let Some(stream) = self.streams.get_mut(&epoch) {
                        stream.previous = None;
                    }
                }
            }
            if self.done.len() == before {
                return;
            }
        }
    }
}
