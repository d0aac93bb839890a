//! The books of the last flush, as the state has them (D14).
//!
//! What waits is counted from what the segments hold and never made of the other terms: so the sum over a
//! stream is a check, and what it lacks shows as `unaccounted`.

use std::collections::BTreeMap;

use super::entry::RowsHead;
use super::state::{Amount, Passing, State};
use crate::books::{Balance, Books, SourceLine, TransportLine};

impl State {
    pub(super) fn count_acknowledged(&mut self, head: &RowsHead) {
        if let Some(stream) = self.streams.get_mut(&head.stream) {
            stream.acknowledged.add(Amount { rows: head.rows, points: head.points });
            self.unsaved.insert(head.stream);
        }
    }

    /// Counts what stands in the segments, or passes through memory, and is not acknowledged: by stream.
    pub(super) fn waiting(&self) -> BTreeMap<u32, Amount> {
        let mut waiting: BTreeMap<u32, Amount> = BTreeMap::new();
        for (&stream, contents) in self.segments.values().flat_map(|segment| &segment.contents) {
            waiting.entry(stream).or_default().add(contents.waiting);
        }
        for Passing { head, .. } in self.passing.values() {
            let amount = Amount { rows: head.rows, points: head.points };
            waiting.entry(head.stream).or_default().add(amount);
        }
        waiting
    }

    /// Gives the books of the last flush.
    pub(super) fn books(&self) -> Books {
        let source = self.sources.iter().map(|(machine, s)| SourceLine {
            machine: machine.clone(),
            due: s.counts.due,
            good: s.counts.good,
            bad: s.counts.bad,
            skipped: s.counts.skipped,
            suppressed: s.counts.suppressed,
            numbered: s.numbered,
        });
        let on_disk = self.waiting();
        let transport = self.streams.iter().map(|(number, s)| {
            let mut waiting = on_disk.get(number).copied().unwrap_or_default();
            // What Kafka has and no flush has noted would wait again after a kill.
            waiting.add(s.acknowledged.less(s.acknowledged_durable));
            let balance = |of: fn(Amount) -> u64| {
                Balance {
                    numbered: of(s.numbered),
                    acknowledged: of(s.acknowledged_durable),
                    dropped: of(s.dropped),
                    set_aside: of(s.set_aside),
                    waiting: of(waiting),
                    unaccounted: 0,
                }
                .closed()
            };
            TransportLine {
                machine: s.id.machine.clone(),
                category: s.id.category.clone(),
                epoch: s.id.epoch.to_string(),
                rows: balance(|a| a.rows),
                points: balance(|a| a.points),
            }
        });
        let mut books = Books {
            flushed_at: self.last_flushed_us.and_then(rfc3339),
            settled_at: self.settled_durable_us.and_then(rfc3339),
            source: source.collect(),
            transport: transport.collect(),
            redelivered: self.redelivered,
            balanced: false,
        };
        books.balanced = books.sums_hold();
        books
    }
}

fn rfc3339(us: i64) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1000).ok()?;
    at.format(&time::format_description::well_known::Rfc3339).ok()
}
