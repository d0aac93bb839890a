//! The simulated time: one true time, and the gateway's clocks, which step.
//!
//! Kafka and the collector go by the true time; the agent sees a monotonic clock that begins anew at each boot and
//! a wall clock that is off, through its own anchor (D8).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_agent::clock::{Anchor, Clock};
use millrace_protocol::{BootId, ClockSegment};
use tokio::time::Instant;

/// When every simulation begins. *Units*: microseconds since 1970-01-01 UTC.
pub const BEGIN_US: i64 = 1_750_000_000_000_000;
/// *Units*: microseconds.
pub const SECOND_US: i64 = 1_000_000;

/// The time. Clones share it.
#[derive(Debug, Clone)]
pub struct Time {
    base: std::time::Instant,
    times: Arc<Mutex<Times>>,
}

#[derive(Debug)]
struct Times {
    true_us: i64,
    booted_us: i64,
    boot: u8,
    /// Wall time − true time.
    off_us: i64,
}

impl Time {
    /// Begins.
    #[must_use]
    pub fn new() -> Self {
        let times = Times { true_us: BEGIN_US, booted_us: BEGIN_US - 40 * SECOND_US, boot: 1, off_us: 0 };
        // Only a base for a type that cannot be made of numbers; no difference ever shows.
        Self { base: std::time::Instant::now(), times: Arc::new(Mutex::new(times)) }
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the true time. *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn now_us(&self) -> i64 {
        self.lock().true_us
    }

    /// Lets time pass.
    pub fn advance(&self, us: i64) {
        self.lock().true_us += us;
    }

    /// Sets how far the gateway's wall clock is off; gives how far it was.
    pub fn set_wall_off(&self, us: i64) -> i64 {
        std::mem::replace(&mut self.lock().off_us, us)
    }

    /// Boots the gateway: its monotonic clock begins anew.
    pub fn reboot(&self) {
        let mut times = self.lock();
        times.booted_us = times.true_us - 10 * SECOND_US;
        times.boot = times.boot.wrapping_add(1);
    }

    /// Gives the monotonic time as tokio writes it.
    #[must_use]
    pub fn instant(&self) -> Instant {
        let passed = u64::try_from(self.now_us() - BEGIN_US).unwrap_or(0);
        Instant::from_std(self.base + Duration::from_micros(passed))
    }

    fn wall_and_monotonic_us(&self) -> (i64, i64) {
        let times = self.lock();
        (times.true_us + times.off_us, times.true_us - times.booted_us)
    }
}

impl Default for Time {
    fn default() -> Self {
        Self::new()
    }
}

/// The gateway's clocks as one start of the agent reads them.
#[derive(Debug)]
pub struct GatewayClock {
    time: Time,
    anchor: Mutex<Anchor>,
}

impl GatewayClock {
    /// Reads them for the first time.
    #[must_use]
    pub fn new(time: &Time) -> Self {
        let (wall_us, monotonic_us) = time.wall_and_monotonic_us();
        let anchor = Anchor::new(BootId([time.lock().boot; 16]), wall_us, monotonic_us);
        Self { time: time.clone(), anchor: Mutex::new(anchor) }
    }

    fn anchor(&self) -> MutexGuard<'_, Anchor> {
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for GatewayClock {
    fn now_us(&self) -> i64 {
        let (wall_us, monotonic_us) = self.time.wall_and_monotonic_us();
        self.anchor().read(wall_us, monotonic_us)
    }

    fn monotonic_us(&self) -> i64 {
        self.time.wall_and_monotonic_us().1
    }

    fn boot_id(&self) -> BootId {
        BootId([self.time.lock().boot; 16])
    }

    fn segment(&self) -> ClockSegment {
        self.anchor().segment()
    }
}
