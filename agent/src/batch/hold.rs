//! Rows that were read before the clock was set (D8, ADR 0004): when they wait, and what places them.
//!
//! They are on disk like all others, flagged; only sending waits, up to `[clock] hold`. When the clock is
//! right its difference to the monotonic clock goes ahead of them.

use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::BootId;

use crate::clock::Clock;

/// Watches the clock.
#[derive(Debug)]
pub(super) struct Hold {
    clock: Arc<dyn Clock>,
    hold_us: i64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Right,
    /// Rows of this boot were stored and are not placed.
    Owing,
    Holding {
        since_us: i64,
    },
    LetGo,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Rows of this start are not sent from now on; the boot whose clock is wrong.
    Hold(BootId),
    /// They are sent, flagged: the clock was not set in time.
    LetGo,
    /// The clock is right: of this boot, event time = monotonic time + this. *Units*: microseconds.
    Place { boot_id: BootId, offset_us: i64 },
}

impl Hold {
    /// `unset`: the boot of which an earlier start left rows that nothing has placed yet. If it is not this
    /// one, its clock is gone and they stay where they are.
    pub(super) fn new(clock: Arc<dyn Clock>, hold: Duration, unset: Option<BootId>) -> Self {
        let hold_us = i64::try_from(hold.as_micros()).unwrap_or(i64::MAX);
        let is_owed = unset == Some(clock.boot_id());
        Self { clock, hold_us, state: if is_owed { State::Owing } else { State::Right } }
    }

    /// Looks at the clock; says what has changed.
    pub(super) fn look(&mut self) -> Option<Order> {
        let (now_us, monotonic_us) = (self.clock.now_us(), self.clock.monotonic_us());
        let (state, order) = match (self.clock.segment().unsynced, self.state) {
            (Some(clock), State::Right | State::Owing) => {
                (State::Holding { since_us: monotonic_us }, Order::Hold(clock.boot_id))
            }
            (Some(_), State::Holding { since_us })
                if monotonic_us.saturating_sub(since_us) >= self.hold_us =>
            {
                (State::LetGo, Order::LetGo)
            }
            (None, State::Owing | State::Holding { .. } | State::LetGo) => {
                let offset_us = now_us.saturating_sub(monotonic_us);
                (State::Right, Order::Place { boot_id: self.clock.boot_id(), offset_us })
            }
            _ => return None,
        };
        self.state = state;
        Some(order)
    }
}
