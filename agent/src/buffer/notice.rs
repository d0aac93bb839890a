//! Births, losses and corrections of the clock on their way: they survive any drop and go out before the rows they concern (D4).

use millrace_protocol::{IntervalSet, Item, Loss, LossReason, SeqRange};

/// A loss that waits takes no more ranges than this; the next begins a new one.
const RANGES_MAX: usize = 10_000;

/// A birth, a loss or a correction of the clock that Kafka does not have yet.
#[derive(Debug)]
pub(super) struct Notice {
    pub(super) stream: u32,
    pub(super) body: NoticeBody,
    pub(super) in_flight: bool,
}

#[derive(Debug)]
pub(super) enum NoticeBody {
    /// An encoded item.
    Birth(Vec<u8>),
    /// A correction of the clock, encoded.
    Clock(Vec<u8>),
    /// Ranges that grow while the loss waits.
    Loss { reason: LossReason, ranges: IntervalSet, open_from: Option<u64>, points: u64 },
}

impl Notice {
    pub(super) const fn loss(stream: u32, reason: LossReason) -> Self {
        let body = NoticeBody::Loss { reason, ranges: IntervalSet::new(), open_from: None, points: 0 };
        Self { stream, body, in_flight: false }
    }

    /// Tells whether a further loss of this stream and reason can be added here: it must not change
    /// while the uplink holds it.
    pub(super) fn takes_loss(&self, of: u32, why: LossReason) -> bool {
        !self.in_flight
            && self.stream == of
            && matches!(&self.body, NoticeBody::Loss { reason, ranges, .. }
                if *reason == why && ranges.ranges().count() < RANGES_MAX)
    }

    pub(super) fn extend_loss(
        &mut self,
        range: Option<std::ops::RangeInclusive<u64>>,
        open: Option<u64>,
        more: u64,
    ) {
        if let NoticeBody::Loss { ranges, open_from, points, .. } = &mut self.body {
            if let Some(range) = range {
                ranges.insert(range);
            }
            *open_from = match (*open_from, open) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            *points = points.saturating_add(more);
        }
    }

    /// Gives the item's bytes.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        match &self.body {
            NoticeBody::Birth(bytes) | NoticeBody::Clock(bytes) => Some(bytes.clone()),
            NoticeBody::Loss { reason, ranges, open_from, points } => {
                let closed = ranges.ranges().map(|r| SeqRange { from: *r.start(), to: Some(*r.end()) });
                let open = open_from.map(|from| SeqRange { from, to: None });
                let ranges: Vec<SeqRange> = closed.chain(open).collect();
                let after = ranges.first().map_or(0, |r| r.from.saturating_sub(1));
                // Behind an open end nobody knows how many points there were.
                let points = open_from.is_none().then_some(*points);
                Item::Loss(Loss { after, reason: *reason, ranges, points }).encode().ok()
            }
        }
    }
}
