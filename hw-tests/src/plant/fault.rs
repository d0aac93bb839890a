//! What goes wrong, where, and for how long.
//!
//! Faults come from `plant.toml` and from `POST /faults`; each names one machine and ends by itself.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How a machine misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// No answer, no publish.
    Dead,
    /// Every answer comes `delay` later; other units of the port are answered meanwhile.
    Late,
    /// Every answer carries the next unit id.
    WrongUnit,
    /// Every answer holds one register less than asked for, or 8 bits more.
    WrongLength,
    /// Every answer is the exception `code`.
    Exception,
    /// The connection is closed instead of an answer. A publisher: the broker closes the connection of
    /// every subscriber, once.
    Close,
    /// The values stand still; poll counters and payload timestamps go on.
    Frozen,
}

/// A fault as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Whom it hits, without the site.
    pub machine: String,
    /// What happens.
    pub kind: FaultKind,
    /// How long; it is longest by far if not said.
    #[serde(default = "default_time", rename = "for", with = "human")]
    pub lasts: Duration,
    /// How long after the plant's start or the request it begins.
    #[serde(default, with = "human")]
    pub after: Duration,
    /// For `late`.
    #[serde(default = "default_delay", with = "human")]
    pub delay: Duration,
    /// For `exception`. *Source*: Modbus Application Protocol V1.1b3, section 7; 4 is "device failure".
    #[serde(default = "default_code")]
    pub code: u8,
}

const fn default_time() -> Duration {
    Duration::from_secs(24 * 3600)
}

const fn default_delay() -> Duration {
    Duration::from_secs(1)
}

const fn default_code() -> u8 {
    4
}

/// Durations with their unit, as in "500 ms".
pub(crate) mod human {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

#[derive(Debug)]
struct Timed {
    fault: Fault,
    from: Instant,
    to: Instant,
    /// For faults that happen once.
    taken: bool,
}

/// The faults of a plant.
#[derive(Debug, Default)]
pub struct Faults {
    list: Mutex<Vec<Timed>>,
}

impl Faults {
    /// Adds one.
    pub fn add(&self, fault: Fault, now: Instant) {
        let from = now + fault.after;
        let to = from + fault.lasts;
        let mut list = self.lock();
        list.retain(|timed| timed.to > now);
        list.push(Timed { fault, from, to, taken: false });
    }

    /// Ends all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Gives those that hit `machine` now.
    #[must_use]
    pub fn of(&self, machine: &str, now: Instant) -> Vec<Fault> {
        self.lock()
            .iter()
            .filter(|timed| timed.fault.machine == machine && timed.from <= now && now < timed.to)
            .map(|timed| timed.fault.clone())
            .collect()
    }

    /// Takes a fault that happens once; tells whether there was one.
    #[must_use]
    pub fn take(&self, machine: &str, kind: FaultKind, now: Instant) -> bool {
        let mut list = self.lock();
        let found = list.iter_mut().find(|timed| {
            timed.fault.machine == machine && timed.fault.kind == kind && timed.from <= now && !timed.taken
        });
        found.map(|timed| timed.taken = true).is_some()
    }

    /// Gives all that are not over, with the time that is left.
    #[must_use]
    pub fn active(&self, now: Instant) -> Vec<(Fault, Duration)> {
        let list = self.lock();
        list.iter().filter(|t| t.to > now).map(|t| (t.fault.clone(), t.to - now.max(t.from))).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Timed>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Fault {
        serde_json::from_str(text).expect("fault")
    }

    #[test]
    fn a_fault_begins_and_ends_by_itself_and_hits_its_machine_only() {
        let (faults, start) = (Faults::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        faults.add(
            fault(r#"{"machine":"press-01","kind":"late","after":"2s","for":"3s","delay":"70ms"}"#),
            start,
        );
        let seen: Vec<usize> = [1, 2, 4, 5].into_iter().map(|s| faults.of("press-01", at(s)).len()).collect();
        assert_eq!(seen, [0, 1, 1, 0]);
        assert!(faults.of("press-02", at(3)).is_empty());
        assert_eq!(faults.of("press-01", at(3))[0].delay, Duration::from_millis(70));
        assert_eq!(faults.active(at(4))[0].1, Duration::from_secs(1));
    }

    #[test]
    fn a_fault_that_happens_once_is_taken_once() {
        let (faults, now) = (Faults::default(), Instant::now());
        faults.add(fault(r#"{"machine":"oven-01","kind":"close"}"#), now);
        assert!(faults.take("oven-01", FaultKind::Close, now));
        assert!(!faults.take("oven-01", FaultKind::Close, now));
    }
}
