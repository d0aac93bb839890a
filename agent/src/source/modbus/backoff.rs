//! How long something that fails is left alone: doubling, with jitter, up to a limit.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait after the first failure.
const FIRST: Duration = Duration::from_secs(1);

/// Counts failures in a row and says when to try again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Counts a failure and waits from now on for between half of the time and all of it, so that what
    /// failed together does not come back together.
    pub(super) fn grow(&mut self, now: Instant, most: Duration) {
        let wait = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(most);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + wait.mul_f64(rand::random_range(0.5..=1.0)));
    }

    /// Forgets every failure; tells whether there was one.
    pub(super) fn reset(&mut self) -> bool {
        std::mem::take(self).failures > 0
    }

    /// Tells whether it is to be left alone.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Tells whether the last try failed.
    pub(super) const fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_within_its_jitter_up_to_the_limit_and_is_forgotten_after_success() {
        let (start, most) = (Instant::now(), Duration::from_secs(5));
        let mut backoff = Backoff::default();
        for (round, wait_s) in [1, 2, 4, 5, 5].into_iter().chain([5; 60]).enumerate() {
            let wait = Duration::from_secs(wait_s);
            backoff.grow(start, most);
            assert!(backoff.is_waiting(start + wait / 2 - Duration::from_millis(1)), "round {round}");
            assert!(!backoff.is_waiting(start + wait), "round {round}");
        }
        assert!(backoff.is_failing() && backoff.reset());
        assert!(!backoff.is_waiting(start) && !backoff.is_failing() && !backoff.reset());
    }
}
