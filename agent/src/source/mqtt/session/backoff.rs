//! How long to wait before the next try to connect.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
/// A connection that lived so long was a good one; a broker that accepts and drops is waited for.
const GOOD_US: i64 = 10_000_000;

/// Waits that double from 200 ms to 30 s, each shortened by up to a half at random, so that the gateways
/// of a plant do not come back in step.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    connected_us: Option<i64>,
}

impl Backoff {
    /// Notes that there is a connection from this monotonic time on.
    pub(super) fn connected(&mut self, now_us: i64) {
        self.connected_us = Some(now_us);
    }

    /// Gives the next wait, after a try that failed or a connection that was lost at this monotonic time.
    pub(super) fn next(&mut self, now_us: i64) -> Duration {
        let since = self.connected_us.take();
        if since.is_some_and(|since_us| now_us.saturating_sub(since_us) >= GOOD_US) {
            self.failures = 0;
        }
        let longest = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_a_connection_was_good() {
        let mut backoff = Backoff::default();
        let within = |wait: Duration, longest: Duration| wait >= longest / 2 && wait <= longest;
        for n in 0..12 {
            let longest = (FIRST * (1 << n)).min(LONGEST);
            let wait = backoff.next(0);
            assert!(within(wait, longest), "{n}: {wait:?}");
        }
        backoff.connected(5);
        assert!(within(backoff.next(4 + GOOD_US), LONGEST), "accepted and dropped soon");
        backoff.connected(5);
        assert!(within(backoff.next(5 + GOOD_US), FIRST));
    }
}
