//! The agent's books (D14): what was due, what became of it, and where every row is.
//!
//! Invariant: the books are those of the last flush, so a kill at any instant leaves them as shown.
//! The JSON form is `/api/books` of the interface and must not change.

use millrace_protocol::{Category, MachineName};
use serde::{Deserialize, Serialize};

/// Everything the agent accounts for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Books {
    /// When the last flush ended, RFC 3339 in UTC; `None` before the first.
    pub flushed_at: Option<String>,
    /// Everything that was read before this is in the books, RFC 3339 in UTC: earlier than the flush by the time that a
    /// delivery may take to be handed over, and by more while a poll cycle is under way; `None` before the first.
    #[serde(default)]
    pub settled_at: Option<String>,
    /// For each machine, in points: `due = good + bad + skipped`, `good + bad = suppressed + numbered`.
    pub source: Vec<SourceLine>,
    /// For each stream: `numbered = acknowledged + dropped + set_aside + waiting`; what the sum lacks is
    /// `unaccounted`.
    pub transport: Vec<TransportLine>,
    /// Publishes that were recognised as sent again (D5).
    pub redelivered: u64,
    /// Whether every sum holds.
    pub balanced: bool,
}

/// A machine's part of the books. *Units*: points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLine {
    /// `site/machine`.
    pub machine: MachineName,
    /// Tags × due cycles, or points of the messages received.
    pub due: u64,
    /// Of good quality.
    pub good: u64,
    /// Of bad quality.
    pub bad: u64,
    /// Whose cycle fell into a running poll.
    pub skipped: u64,
    /// Read and not reported (deadband, repeated bad quality).
    pub suppressed: u64,
    /// In rows that have a sequence.
    pub numbered: u64,
}

impl SourceLine {
    /// Tells whether both sums hold.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        let sum = |terms: &[u64]| terms.iter().map(|&n| u128::from(n)).sum::<u128>();
        sum(&[self.due]) == sum(&[self.good, self.bad, self.skipped])
            && sum(&[self.good, self.bad]) == sum(&[self.suppressed, self.numbered])
    }
}

/// A stream's part of the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportLine {
    /// `site/machine`.
    pub machine: MachineName,
    /// The kind of data.
    pub category: Category,
    /// The epoch, 16 hexadecimal digits.
    pub epoch: String,
    /// In rows.
    pub rows: Balance,
    /// In points.
    pub points: Balance,
}

/// Where the rows or points of a stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Balance {
    /// Have a sequence.
    pub numbered: u64,
    /// Kafka has them.
    pub acknowledged: u64,
    /// Gave way or were refused, each declared as a loss.
    pub dropped: u64,
    /// Stand in damaged segments, each declared as a loss.
    pub set_aside: u64,
    /// On disk, not yet acknowledged: counted there.
    pub waiting: u64,
    /// Numbered and nowhere to be found; below zero if something was counted twice. Zero if all is well.
    #[serde(default)]
    pub unaccounted: i64,
}

impl Balance {
    /// Sets `unaccounted` to what the other terms lack.
    #[must_use]
    pub fn closed(self) -> Self {
        let terms = [self.acknowledged, self.dropped, self.set_aside, self.waiting];
        let lacking = i128::from(self.numbered) - terms.iter().map(|&n| i128::from(n)).sum::<i128>();
        let bounded = lacking.clamp(i64::MIN.into(), i64::MAX.into());
        Self { unaccounted: i64::try_from(bounded).unwrap_or(i64::MAX), ..self }
    }

    /// Tells whether everything that is numbered is somewhere.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.closed().unaccounted == 0
    }
}

impl Books {
    /// Tells whether every line's sums hold.
    #[must_use]
    pub fn sums_hold(&self) -> bool {
        self.source.iter().all(SourceLine::is_balanced)
            && self.transport.iter().all(|line| line.rows.is_balanced() && line.points.is_balanced())
    }
}
