//! The books of the last flush, as the state has them (D14).

use super::entry::RowsHead;
use super::state::{Amount, State};
use crate::books::{Balance, Books, SourceLine, TransportLine};

impl State {
    pub(super) fn count_acknowledged(&mut self, head: &RowsHead) {
        if let Some(stream) = self.streams.get_mut(&head.stream) {
            stream.acknowledged.add(Amount { rows: head.rows, points: head.points });
            self.unsaved.insert(head.stream);
        }
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
        let transport = self.streams.values().map(|s| {
            let waiting = s.numbered.less(s.dropped).less(s.set_aside).less(s.acknowledged_durable);
            let balance = |of: fn(Amount) -> u64| Balance {
                numbered: of(s.numbered),
                acknowledged: of(s.acknowledged_durable),
                dropped: of(s.dropped),
                set_aside: of(s.set_aside),
                waiting: of(waiting),
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
