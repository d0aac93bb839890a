//! The clocks of the agent (D8): the one place where the machine's time is read.
//!
//! Everything else takes a [`Clock`], so that tests and the simulation give the time. Invariant: within
//! one segment the time of [`SystemClock`] never runs backwards; a step of the wall clock by more than a
//! second begins a new segment instead of bending the old one.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_protocol::{BootId, ClockSegment, UnsyncedClock};

/// Where Linux says which boot this is. *Source*: random(4).
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";
/// Where Linux says how long it has been up, in seconds with two decimals. *Source*: proc(5).
const UPTIME_FILE: &str = "/proc/uptime";
/// 2024-01-01 UTC: an earlier wall clock was never set. *Units*: microseconds since 1970-01-01 UTC.
const BELIEVABLE_FROM_US: i64 = 1_704_067_200_000_000;
/// A larger difference between wall and anchored time is a step (D8). *Units*: microseconds.
const STEP_US: i64 = 1_000_000;
/// A smaller difference is followed by at most one part in this many of the time that passed.
const SLEW: i64 = 20;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Gives the wall time. *Units*: microseconds since 1970-01-01 UTC.
    fn now_us(&self) -> i64;
    /// Gives the monotonic time. *Units*: microseconds since boot.
    fn monotonic_us(&self) -> i64;
    /// Says which boot the monotonic time is of.
    fn boot_id(&self) -> BootId;
    /// Gives the part of the agent's life in which the wall clock has not stepped, as of the last
    /// [`Clock::now_us`].
    fn segment(&self) -> ClockSegment;
}

impl std::fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// The machine's own clocks: wall time anchored to the monotonic clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    monotonic_at_start_us: i64,
    anchor: Mutex<Anchor>,
}

impl SystemClock {
    /// Reads the machine's clocks for the first time and begins segment 0.
    #[must_use]
    pub fn new() -> Self {
        let boot_id = std::fs::read_to_string(BOOT_ID_FILE).ok().and_then(|text| parse_boot_id(&text));
        let uptime_us = std::fs::read_to_string(UPTIME_FILE).ok().and_then(|text| parse_uptime_us(&text));
        // Without /proc the number of this process's microseconds has to do; it still never steps.
        let monotonic_at_start_us = uptime_us.unwrap_or(0);
        let boot_id = boot_id.unwrap_or(BootId([0; 16]));
        let anchor = Mutex::new(Anchor::new(boot_id, wall_us(), monotonic_at_start_us));
        Self { started: Instant::now(), monotonic_at_start_us, anchor }
    }

    /// Doubts the wall clock while it is earlier than `seen_us`, a time that it has shown before, and at any
    /// time if `unset` is this boot: an earlier process of it did not see the clock set. It is doubted no
    /// longer than `patience` from now: the time seen may have been the wrong one. *Units*: microseconds
    /// since 1970-01-01 UTC.
    pub fn doubt(&self, seen_us: Option<i64>, unset: Option<BootId>, patience: Duration) {
        let until_us = self.monotonic_us().saturating_add(as_us(patience));
        self.anchor().begin_doubt(seen_us, unset, until_us);
    }

    fn anchor(&self) -> std::sync::MutexGuard<'_, Anchor> {
        // The anchor is whole after every statement, so a panic elsewhere does not spoil it.
        self.anchor.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_us(&self) -> i64 {
        let mut anchor = self.anchor();
        // Both clocks are read under the lock, so that no thread brings an older pair later.
        anchor.read(wall_us(), self.monotonic_us())
    }

    fn monotonic_us(&self) -> i64 {
        self.monotonic_at_start_us.saturating_add(as_us(self.started.elapsed()))
    }

    fn boot_id(&self) -> BootId {
        self.anchor().boot_id
    }

    fn segment(&self) -> ClockSegment {
        self.anchor().segment()
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place where the wall clock is read")]
fn wall_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => as_us(since),
        Err(before) => -as_us(before.duration()),
    }
}

fn as_us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Writes a time as RFC 3339 in UTC, to the microsecond; a time that no calendar has stays a number.
#[must_use]
pub fn rfc3339(time_us: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_us) * 1_000)
        .ok()
        .and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("{time_us} us"))
}

fn parse_boot_id(text: &str) -> Option<BootId> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    (digits.len() == 32).then_some(())?;
    u128::from_str_radix(&digits, 16).ok().map(|n| BootId(n.to_be_bytes()))
}

fn parse_uptime_us(text: &str) -> Option<i64> {
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().map(as_us)
}

/// How wall time follows from monotonic time, as a function of readings of both.
#[derive(Debug)]
pub struct Anchor {
    boot_id: BootId,
    number: u32,
    /// Wall time − monotonic time.
    offset_us: i64,
    last_monotonic_us: i64,
    is_synced: bool,
    doubt: Option<Doubt>,
}

/// Why a wall clock of this century may be wrong all the same: a gateway without a battery comes up with
/// the time at which it was switched off.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// Wall time below which it is in doubt.
    before_us: i64,
    /// Monotonic time from which on it is believed without proof.
    until_us: i64,
}

impl Anchor {
    /// Begins segment 0 with a first reading.
    #[must_use]
    pub const fn new(boot_id: BootId, wall_us: i64, monotonic_us: i64) -> Self {
        Self {
            boot_id,
            number: 0,
            offset_us: wall_us.saturating_sub(monotonic_us),
            last_monotonic_us: monotonic_us,
            is_synced: wall_us >= BELIEVABLE_FROM_US,
            doubt: None,
        }
    }

    fn begin_doubt(&mut self, seen_us: Option<i64>, unset: Option<BootId>, until_us: i64) {
        let before_us = if unset == Some(self.boot_id) { Some(i64::MAX) } else { seen_us };
        // A second less: anchored time may be ahead of the wall clock by so much.
        self.doubt = before_us.map(|us| Doubt { before_us: us.saturating_sub(STEP_US), until_us });
    }

    fn is_believable(&self, wall_us: i64, monotonic_us: i64) -> bool {
        let in_doubt = self.doubt.is_some_and(|d| wall_us < d.before_us && monotonic_us < d.until_us);
        wall_us >= BELIEVABLE_FROM_US && !in_doubt
    }

    /// Takes a reading and gives the anchored time. *Units*: microseconds since 1970-01-01 UTC.
    pub fn read(&mut self, wall_us: i64, monotonic_us: i64) -> i64 {
        let passed_us = monotonic_us.saturating_sub(self.last_monotonic_us).max(0);
        self.last_monotonic_us = monotonic_us;
        let seen_us = wall_us.saturating_sub(monotonic_us);
        let ahead_us = seen_us.saturating_sub(self.offset_us);
        let is_synced = self.is_believable(wall_us, monotonic_us);
        if ahead_us.saturating_abs() > STEP_US || is_synced != self.is_synced {
            self.number = self.number.saturating_add(1);
            self.offset_us = seen_us;
            self.is_synced = is_synced;
        } else if self.is_synced {
            // Before it is synchronised the offset stands still: rows are placed later by monotonic
            // time, which is their event time minus one number for the whole segment.
            let most_us = passed_us / SLEW;
            self.offset_us = self.offset_us.saturating_add(ahead_us.clamp(-most_us, most_us));
        }
        monotonic_us.saturating_add(self.offset_us)
    }

    /// Gives the segment of the last reading.
    #[must_use]
    pub fn segment(&self) -> ClockSegment {
        let unsynced = (!self.is_synced)
            .then_some(UnsyncedClock { boot_id: self.boot_id, wall_minus_monotonic_us: self.offset_us });
        ClockSegment { number: self.number, unsynced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([7; 16]);
    const T0: i64 = BELIEVABLE_FROM_US + 1_000_000_000;

    #[test]
    fn a_step_of_more_than_a_second_begins_a_new_segment_and_a_smaller_one_is_slewed() {
        // (wall, monotonic) read, (now, segment) expected
        let table = [
            (T0, 1_000_000, T0, 0),
            (T0 + 1_000_000, 2_000_000, T0 + 1_000_000, 0),
            // half a second back: time goes on, a twentieth of what passed slower
            (T0 + 1_500_000, 3_000_000, T0 + 1_950_000, 0),
            (T0 + 2_500_000, 4_000_000, T0 + 2_900_000, 0),
            // an hour forward
            (T0 + 3_603_500_000, 5_000_000, T0 + 3_603_500_000, 1),
            // two seconds back
            (T0 + 3_602_500_000, 6_000_000, T0 + 3_602_500_000, 2),
        ];
        let mut anchor = Anchor::new(BOOT, T0, 1_000_000);
        for (wall, monotonic, now, segment) in table {
            let got = anchor.read(wall, monotonic);
            assert_eq!((got - T0, anchor.segment().number), (now - T0, segment), "at {monotonic}");
            assert_eq!(anchor.segment().unsynced, None);
        }
    }

    #[test]
    fn a_clock_that_was_never_set_is_unsynchronised_until_it_steps_into_the_present() {
        let mut anchor = Anchor::new(BOOT, 5_000_000, 1_000_000);
        let unsynced = Some(UnsyncedClock { boot_id: BOOT, wall_minus_monotonic_us: 4_000_000 });
        assert_eq!(anchor.segment(), ClockSegment { number: 0, unsynced });
        // Its drift is not followed: the offset of a segment is one number.
        assert_eq!(anchor.read(6_400_000, 2_000_000), 6_000_000);
        assert_eq!(anchor.segment(), ClockSegment { number: 0, unsynced });
        assert_eq!(anchor.read(T0, 3_000_000), T0);
        assert_eq!(anchor.segment(), ClockSegment { number: 1, unsynced: None });
    }

    #[test]
    fn a_clock_behind_what_it_has_shown_is_doubted_until_it_steps_or_patience_ends() {
        const BEHIND: i64 = T0 - 500_000_000;
        let other = BootId([8; 16]);
        let table = [
            ("behind", BEHIND, 1_000_000, other, false),
            ("set right", T0, 1_000_000, other, true),
            ("a restart within the second", T0 - STEP_US, 1_000_000, other, true),
            ("patience ends", BEHIND, 60_000_000, other, true),
            ("never set", 5_000_000, 60_000_000, other, false),
            ("not set in the process before", T0, 1_000_000, BOOT, false),
            ("nor in this one", T0, 60_000_000, BOOT, true),
        ];
        for (what, wall, monotonic, unset, is_synced) in table {
            let mut anchor = Anchor::new(BOOT, BEHIND, 0);
            anchor.begin_doubt(Some(T0), Some(unset), 60_000_000);
            anchor.read(wall, monotonic);
            assert_eq!(anchor.segment().unsynced.is_none(), is_synced, "{what}");
        }
    }

    #[test]
    fn small_corrections_never_turn_time_back() {
        let mut anchor = Anchor::new(BOOT, T0, 0);
        let mut last = T0;
        for step in 1..2_000_i64 {
            let monotonic = step * 1_000;
            let wobble = if step % 3 == 0 { -900_000 } else { 400_000 };
            let now = anchor.read(T0 + monotonic + wobble, monotonic);
            assert!(now > last, "at {step}: {now} after {last}");
            last = now;
        }
        assert_eq!(anchor.segment().number, 0);
    }

    #[test]
    fn the_kernels_files_are_read_and_rubbish_is_not() {
        assert_eq!(
            parse_boot_id("0f0e0d0c-0b0a-0908-0706-050403020100\n"),
            Some(BootId([15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]))
        );
        for rubbish in ["", "0f0e", "zz0e0d0c-0b0a-0908-0706-050403020100"] {
            assert_eq!(parse_boot_id(rubbish), None, "{rubbish:?}");
        }
        assert_eq!(parse_uptime_us("12.34 99.0\n"), Some(12_340_000));
        for rubbish in ["", "x", "-1 2", "inf"] {
            assert_eq!(parse_uptime_us(rubbish), None, "{rubbish:?}");
        }
    }

    #[test]
    fn times_are_written_for_people_and_never_panic() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_704_067_200_250_000), "2024-01-01T00:00:00.25Z");
        assert_eq!(rfc3339(i64::MAX), "9223372036854775807 us");
    }

    #[test]
    fn the_machines_clock_goes_forward() {
        let clock = SystemClock::new();
        let (first, monotonic) = (clock.now_us(), clock.monotonic_us());
        assert!(clock.now_us() >= first && clock.monotonic_us() >= monotonic);
        assert_eq!(clock.segment().number, 0);
    }
}
