//! What happened in a seed, and how often, by name: so that a test can ask whether a fault was tried at all.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<String, u64>);

/// Every kind of event that the seeds of the test run must bring about.
pub const EVENTS: [&str; 29] = [
    "agent killed",
    "agent: power cut",
    "agent ended before WriteManifest",
    "agent ended before ReplaceManifest",
    "agent ended before ManifestReplaced",
    "agent ended before MakeSegment",
    "agent ended before OpenSegment",
    "agent ended before Append",
    "agent ended before Flush",
    "agent ended before Sync",
    "agent ended before Synced",
    "agent ended before RemoveSegment",
    "collector killed",
    "clock stepped forward",
    "clock stepped back",
    "clock not set",
    "agent's disk full",
    "lake's disk full",
    "buffer full",
    "rows through memory",
    "link cut",
    "topic lost",
    "record lost",
    "record doubled",
    "record late",
    "record refused",
    "records reordered",
    "lake flush killed at an instruction",
    "lake flush failed at an instruction",
];

impl Tally {
    /// Counts something once.
    pub fn once(&mut self, name: &str) {
        self.add(name, 1);
    }

    /// Counts something so many times.
    pub fn add(&mut self, name: &str, times: u64) {
        if times == 0 {
            return;
        }
        match self.0.get_mut(name) {
            Some(count) => *count += times,
            None => drop(self.0.insert(name.to_owned(), times)),
        }
    }

    /// Adds another tally.
    pub fn add_all(&mut self, other: &Self) {
        other.iter().for_each(|(name, times)| self.add(name, times));
    }

    /// Gives how often something happened.
    #[must_use]
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Gives everything that happened.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, times)| (name.as_str(), *times))
    }

    /// Gives the sum of everything whose name begins so.
    #[must_use]
    pub fn sum(&self, begin: &str) -> u64 {
        self.iter().filter(|(name, _)| name.starts_with(begin)).map(|(_, times)| times).sum()
    }
}
