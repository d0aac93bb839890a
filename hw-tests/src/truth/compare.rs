//! Holds the truth against what was found in the lake; the rules stand in `truth`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::decode::TrueValue;
use super::readings::{Origin, Taken, Truth};

/// What scaled values may differ by, relatively: the order of the arithmetic is the agent's.
const SCALED_TOLERANCE: f64 = 1e-12;

/// A good point as it was found. Points of bad quality are left out: the plant knows nothing of them.
#[derive(Debug, Clone, PartialEq)]
pub struct LakePoint {
    /// `site/name`.
    pub machine: String,
    /// Its tag.
    pub tag: String,
    /// Event time. *Units*: microseconds since 1970-01-01 UTC.
    pub time_us: i64,
    /// Its value.
    pub value: LakeValue,
}

/// A value as a lake shows it; how a lake tells types apart is its own business.
#[derive(Debug, Clone, PartialEq)]
pub enum LakeValue {
    /// A number, and 0 or 1 for a truth value.
    Number(f64),
    /// A whole number that a double does not hold, or any other.
    Integer(i128),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
}

/// A time in which the agent was killed: from the last flush before to the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excuse {
    /// *Units*: microseconds since 1970-01-01 UTC, the first that is excused.
    pub from_us: i64,
    /// The last one.
    pub to_us: i64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Values that the plant sent to somebody.
    pub sent: usize,
    /// Those that are in the lake, once.
    pub found: usize,
    /// Those that are not, and need not be: the agent was killed, gave up waiting, or came late.
    pub excused: usize,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl Report {
    /// Tells whether every value that the plant logged was found, and nothing else.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What is wrong with a tag.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// `site/name`.
    pub machine: String,
    /// Its tag.
    pub tag: String,
    /// *Units*: microseconds since 1970-01-01 UTC; when the plant sent it, or the lake's event time.
    pub time_us: i64,
    /// What.
    pub wrong: Wrong,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Wrong {
    /// It was sent and is not in the lake.
    Missing(TrueValue),
    /// It is in the lake more than once.
    Doubled(LakeValue),
    /// It is in the lake, and was not sent, or not there.
    Unknown(LakeValue),
    /// The lake has another value.
    Different(TrueValue, LakeValue),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {} us: ", self.machine, self.tag, self.time_us)?;
        match &self.wrong {
            Wrong::Missing(value) => write!(f, "{value} is missing"),
            Wrong::Doubled(value) => write!(f, "{value:?} is there more than once"),
            Wrong::Unknown(value) => write!(f, "{value:?} was not sent"),
            Wrong::Different(value, found) => write!(f, "{value} became {found:?}"),
        }
    }
}

type Key = (String, String);

/// A value that was sent in a reply.
struct Replied<'a> {
    sent_us: i64,
    connection: &'a (String, u64),
    value: &'a TrueValue,
    may_miss: MayMiss,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MayMiss {
    No,
    /// By itself.
    Alone,
    /// With everything that follows on its connection.
    WithTheRest,
}

/// Compares; `lake` in any order.
#[must_use]
pub fn compare(truth: &Truth, mut lake: Vec<LakePoint>, excuses: &[Excuse]) -> Report {
    lake.sort_by_key(|point| point.time_us);
    let mut found: BTreeMap<Key, Vec<(i64, LakeValue)>> = BTreeMap::new();
    for point in lake {
        found.entry((point.machine, point.tag)).or_default().push((point.time_us, point.value));
    }
    let mut replied: BTreeMap<Key, Vec<Replied<'_>>> = BTreeMap::new();
    let mut published: BTreeMap<Key, BTreeMap<i64, &TrueValue>> = BTreeMap::new();
    for reading in &truth.readings {
        for (tag, value) in &reading.values {
            let key = (reading.machine.clone(), tag.clone());
            match &reading.origin {
                Origin::Reply { connection, taken } => {
                    let may_miss = may_miss(*taken, reading.sent_us, excuses);
                    let reply = Replied { sent_us: reading.sent_us, connection, value, may_miss };
                    replied.entry(key).or_default().push(reply);
                }
                Origin::Publish { time_us, receivers } if *receivers > 0 => {
                    published.entry(key).or_default().insert(*time_us, value);
                }
                Origin::Publish { .. } => {}
            }
        }
    }
    let mut report = Report::default();
    for (key, sent) in &replied {
        let found = found.remove(key).unwrap_or_default();
        compare_replies(key, sent, &found, &mut report);
    }
    for (key, sent) in published {
        let found = found.remove(&key).unwrap_or_default();
        compare_publishes(&key, sent, found, &mut report);
    }
    for (key, points) in found {
        for (time_us, value) in points {
            report.wrong(&key, time_us, Wrong::Unknown(value));
        }
    }
    report
}

fn may_miss(taken: Taken, sent_us: i64, excuses: &[Excuse]) -> MayMiss {
    if excuses.iter().any(|excuse| (excuse.from_us..=excuse.to_us).contains(&sent_us)) {
        return MayMiss::WithTheRest;
    }
    match taken {
        Taken::Yes => MayMiss::No,
        Taken::PerhapsLate | Taken::PerhapsGivenUp => MayMiss::Alone,
    }
}

fn compare_publishes(
    key: &Key,
    mut sent: BTreeMap<i64, &TrueValue>,
    found: Vec<(i64, LakeValue)>,
    report: &mut Report,
) {
    report.sent += sent.len();
    let mut seen = BTreeSet::new();
    for (time_us, value) in found {
        match sent.remove(&time_us) {
            Some(expected) if same(expected, &value) => {
                report.found += 1;
                seen.insert(time_us);
            }
            Some(expected) => report.wrong(key, time_us, Wrong::Different(expected.clone(), value)),
            None if seen.contains(&time_us) => report.wrong(key, time_us, Wrong::Doubled(value)),
            None => report.wrong(key, time_us, Wrong::Unknown(value)),
        }
    }
    for (time_us, value) in sent {
        report.wrong(key, time_us, Wrong::Missing(value.clone()));
    }
}

fn compare_replies(key: &Key, sent: &[Replied<'_>], found: &[(i64, LakeValue)], report: &mut Report) {
    report.sent += sent.len();
    match align(sent, found) {
        Ok(()) => {
            report.found += found.len();
            report.excused += sent.len() - found.len();
        }
        Err(problem) => name_problems(key, sent, found, problem, report),
    }
}

/// Where the order breaks: up to here everything can be matched.
struct Break {
    sent: usize,
    found: usize,
}

/// Tries to match every point found with a value sent, in order, leaving out only what may miss.
///
/// A state is (how many values were left out, the connection whose rest is being left out); only the
/// values that may miss make new states, so there are few.
fn align(sent: &[Replied<'_>], found: &[(i64, LakeValue)]) -> Result<(), Break> {
    let mut states = BTreeSet::from([(0usize, None::<&(String, u64)>)]);
    for (n, reply) in sent.iter().enumerate() {
        let mut next = BTreeSet::new();
        for (left_out, rest) in &states {
            let leaving = *rest == Some(reply.connection);
            let matches = found.get(n - left_out).is_some_and(|(_, value)| same(reply.value, value));
            if matches && !leaving {
                next.insert((*left_out, *rest));
            }
            match reply.may_miss {
                MayMiss::No => {}
                MayMiss::Alone => drop(next.insert((left_out + 1, *rest))),
                MayMiss::WithTheRest => drop(next.insert((left_out + 1, Some(reply.connection)))),
            }
        }
        if next.is_empty() {
            let left_out = states.iter().map(|state| state.0).min().unwrap_or(0);
            return Err(Break { sent: n, found: n - left_out });
        }
        states = next;
    }
    let all = |state: &(usize, _)| sent.len() - state.0 == found.len();
    if states.iter().any(all) {
        return Ok(());
    }
    let left_out = states.iter().map(|state| state.0).min().unwrap_or(0);
    Err(Break { sent: sent.len(), found: sent.len() - left_out })
}

/// Says what is wrong with a tag whose values cannot be matched. Where each value is unlike every other
/// (a poll counter) losses and doubles are named one by one, else the place where the order breaks.
fn name_problems(
    key: &Key,
    sent: &[Replied<'_>],
    found: &[(i64, LakeValue)],
    place: Break,
    report: &mut Report,
) {
    let texts: BTreeSet<String> = sent.iter().map(|reply| reply.value.to_string()).collect();
    let before = report.problems.len();
    if texts.len() == sent.len() {
        let mut times = vec![0usize; sent.len()];
        for (time_us, value) in found {
            match sent.iter().position(|reply| same(reply.value, value)) {
                Some(n) => {
                    let count = times.get_mut(n).map_or(0, |count| {
                        *count += 1;
                        *count
                    });
                    if count > 1 {
                        report.wrong(key, *time_us, Wrong::Doubled(value.clone()));
                    }
                }
                None => report.wrong(key, *time_us, Wrong::Unknown(value.clone())),
            }
        }
        for (reply, times) in sent.iter().zip(&times) {
            match (times, reply.may_miss) {
                (0, MayMiss::No) => report.wrong(key, reply.sent_us, Wrong::Missing(reply.value.clone())),
                (0, _) => report.excused += 1,
                _ => report.found += 1,
            }
        }
    }
    if report.problems.len() > before {
        return;
    }
    match (sent.get(place.sent), found.get(place.found)) {
        (Some(reply), Some((_, value))) => {
            report.wrong(key, reply.sent_us, Wrong::Different(reply.value.clone(), value.clone()));
        }
        (Some(reply), None) => report.wrong(key, reply.sent_us, Wrong::Missing(reply.value.clone())),
        (None, Some((time_us, value))) => report.wrong(key, *time_us, Wrong::Unknown(value.clone())),
        // Every point was matched, with something left out that should not have been.
        (None, None) => {
            if let Some(reply) = sent.last() {
                report.wrong(key, reply.sent_us, Wrong::Missing(reply.value.clone()));
            }
        }
    }
}

impl Report {
    fn wrong(&mut self, key: &Key, time_us: i64, wrong: Wrong) {
        let (machine, tag) = key.clone();
        self.problems.push(Problem { machine, tag, time_us, wrong });
    }
}

/// Tells whether the lake's value is the truth, bit for bit where it was not scaled.
#[must_use]
pub fn same(truth: &TrueValue, found: &LakeValue) -> bool {
    match (truth, found) {
        (TrueValue::Bool(a), LakeValue::Bool(b)) => a == b,
        (TrueValue::Bool(a), LakeValue::Number(b)) => f64::from(u8::from(*a)) == *b,
        (TrueValue::Bool(a), LakeValue::Integer(b)) => i128::from(*a) == *b,
        (TrueValue::Integer(a), LakeValue::Integer(b)) => a == b,
        (TrueValue::Integer(a), LakeValue::Number(b)) => *a as f64 == *b && (*a as f64) as i128 == *a,
        (TrueValue::Integer(a), LakeValue::Text(b)) => a.to_string() == *b,
        (TrueValue::F32(a), LakeValue::Number(b)) => f64::from(*a).to_bits() == b.to_bits(),
        (TrueValue::F64(a), LakeValue::Number(b)) => a.to_bits() == b.to_bits(),
        // A lake may show 3.0 as 3.
        (TrueValue::F32(a), LakeValue::Integer(b)) => f64::from(*a).to_bits() == (*b as f64).to_bits(),
        (TrueValue::F64(a), LakeValue::Integer(b)) => a.to_bits() == (*b as f64).to_bits(),
        (TrueValue::Scaled(a), LakeValue::Number(b)) => (a - b).abs() <= SCALED_TOLERANCE * a.abs().max(1.0),
        (TrueValue::Scaled(a), LakeValue::Integer(b)) => *a == *b as f64,
        (TrueValue::Text(a), LakeValue::Text(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
#[path = "compare/tests.rs"]
mod tests;
