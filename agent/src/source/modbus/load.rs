//! How much of its time a bus needs for its polls (pure).
//!
//! The figure is a bound from below: pauses are certain, a reply within [`FASTEST_REPLY`] is the best
//! that can be hoped for. So a load above 1 means that cycles will be skipped, whatever the devices do.

use std::time::Duration;

use super::plan::{Request, plan};
use crate::config::{Bus, Device};

/// From sending a request to having its reply, with a fast device on a quiet network.
pub const FASTEST_REPLY: Duration = Duration::from_millis(1);

/// Gives the shortest time that a poll cycle of a device takes.
#[must_use]
pub fn cycle_time(bus: &Bus, requests: &[Request]) -> Duration {
    let count = u32::try_from(requests.len()).unwrap_or(u32::MAX);
    let asking = (FASTEST_REPLY + bus.pause).saturating_mul(count);
    let connecting = if bus.close_after_poll { FASTEST_REPLY + bus.connect_pause } else { Duration::ZERO };
    asking + connecting
}

/// Gives the share of the bus's time that a device takes. *Units*: 1 is all of it.
#[must_use]
pub fn share(bus: &Bus, device: &Device, requests: &[Request]) -> f64 {
    cycle_time(bus, requests).as_secs_f64() / device.poll_interval.as_secs_f64()
}

/// Gives the share of its time that a bus needs for all its devices. *Units*: 1 is all of it.
#[must_use]
pub fn load(bus: &Bus) -> f64 {
    bus.devices.iter().map(|device| share(bus, device, &plan(device))).sum()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn load_sums_pauses_and_replies_over_the_poll_intervals() {
        let far_apart = vec![sample::holding("a", 0), sample::holding("b", 1000)];
        let mut one = sample::device(1, far_apart);
        one.poll_interval = Duration::from_millis(100);
        let mut two = sample::device(2, vec![sample::holding("c", 0)]);
        two.poll_interval = Duration::from_millis(50);
        let mut bus = sample::bus("127.0.0.1:502", vec![one, two]);
        bus.pause = Duration::from_millis(4);
        // 2 × (1 + 4) ms in 100 ms and 1 × (1 + 4) ms in 50 ms.
        assert!((load(&bus) - 0.2).abs() < 1e-9, "{}", load(&bus));
        bus.close_after_poll = true;
        bus.connect_pause = Duration::from_millis(9);
        assert!((load(&bus) - 0.5).abs() < 1e-9, "{}", load(&bus));
    }
}
