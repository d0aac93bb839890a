//! The audit: does every numbered row stand somewhere, and is its place named (D15)?
//!
//! Three witnesses are held against each other: what agents say they numbered (headers and progress),
//! what the ledger accepted, and what stands in the lake. Invariant: per stream
//! `numbered = in_lake + rejected + lost + accepted + stranded + in_transit + missing`; the audit reads
//! and never writes.

mod read;

use std::collections::BTreeMap;

use millrace_protocol::IntervalSet;
use serde::Serialize;

use crate::lake::db::{self, SqliteConnection};
use crate::lake::write::set_text;

/// Says why the audit could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The lake refused.
    #[error("cannot read {what}")]
    Sql {
        /// What was read.
        what: &'static str,
        /// The database's reason.
        #[source]
        source: db::Error,
    },
    /// A set of sequences in the ledger is no set.
    #[error("stream {stream_id}: {text:?} in column {column} is not a set of sequences")]
    Set {
        /// Which stream.
        stream_id: i64,
        /// Which column.
        column: &'static str,
        /// What stands there.
        text: String,
    },
}

/// One stream's sum, in rows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct StreamAudit {
    /// `site/machine`.
    pub machine: String,
    /// The kind of data.
    pub category: String,
    /// Who read the rows.
    pub agent: String,
    /// At which start, 16 hexadecimal digits.
    pub epoch: String,
    /// Rows that have a sequence, by the last header or progress read.
    pub numbered: u64,
    /// In the lake.
    pub in_lake: u64,
    /// In `dead_letter` or `quarantine`.
    pub rejected: u64,
    /// Declared lost by the agent, and not in the lake.
    pub lost: u64,
    /// A declared loss has no end (D4): beyond `numbered` rows may be gone that nobody can count.
    pub lost_without_end: bool,
    /// Closed by `audit accept` or `agents retire`.
    pub accepted: u64,
    /// Of an ended epoch that its agent no longer has.
    pub stranded: u64,
    /// Not acknowledged to the agent yet, or on the way.
    pub in_transit: u64,
    /// Nowhere.
    pub missing: u64,
    /// Which ones are missing, as ranges.
    pub missing_sequences: String,
    /// Rows of the lake that stand there more than once.
    pub doubled: u64,
    /// Rows of the lake that the ledger does not know.
    pub unledgered: u64,
    /// Records met again with another content.
    pub conflicts: u64,
    /// Rows met again and recognised; no fault.
    pub repeated: u64,
}

impl StreamAudit {
    /// Tells whether something is wrong with the stream.
    #[must_use]
    pub const fn is_wrong(&self) -> bool {
        self.missing > 0
            || self.lost > 0
            || self.lost_without_end
            || self.stranded > 0
            || self.doubled > 0
            || self.unledgered > 0
            || self.conflicts > 0
    }
}

/// The audit of a lake.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Audit {
    /// By machine, category, agent and epoch.
    pub streams: Vec<StreamAudit>,
    /// Rows of the lake whose stream the ledger has never heard of.
    pub orphans: u64,
}

impl Audit {
    /// Tells whether everything adds up.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.orphans == 0 && !self.streams.iter().any(StreamAudit::is_wrong)
    }

    /// Says what is wrong, one sentence for each stream.
    #[must_use]
    pub fn findings(&self) -> Vec<String> {
        let mut found = Vec::new();
        for s in &self.streams {
            let place = format!("{} {} (agent {}, epoch {})", s.machine, s.category, s.agent, s.epoch);
            let mut say = |count: u64, what: String| {
                if count > 0 {
                    found.push(format!("{place}: {count} {what}"));
                }
            };
            say(s.missing, format!("rows are missing: sequences {}", s.missing_sequences));
            say(s.lost, "rows were declared lost by the agent; table loss says which and why".to_owned());
            say(
                u64::from(s.lost_without_end),
                format!(
                    "declared loss has no end: a damaged segment may have had rows after sequence {}, and nobody can \
                     count them; table loss says why",
                    s.numbered
                ),
            );
            say(
                s.stranded,
                "rows are stranded: the agent no longer has them; if the gateway is gone, see `audit accept`"
                    .to_owned(),
            );
            say(s.doubled, "rows stand in the lake more than once".to_owned());
            say(s.unledgered, "rows stand in the lake and not in the ledger: the ledger was cut or restored from an older copy".to_owned());
            say(s.conflicts, "records came again with another content; see table quarantine".to_owned());
        }
        if self.orphans > 0 {
            found.push(format!("{} rows of the lake belong to no stream of the ledger", self.orphans));
        }
        found
    }
}

/// What the ledger has of a stream.
#[derive(Debug, Default)]
struct Entry {
    line: StreamAudit,
    acknowledged: u64,
    stored: IntervalSet,
    rejected: IntervalSet,
    lost: IntervalSet,
    accepted: IntervalSet,
    lake: IntervalSet,
    lake_rows: u64,
    sender: String,
    append_us: i64,
    heard_progress: bool,
    waiting: String,
}

/// Makes the audit of a lake, for one machine (`site/machine`) or all.
///
/// *Errors*: [`AuditError`]; nothing is changed in any case.
pub async fn audit(conn: &mut SqliteConnection, machine: Option<&str>) -> Result<Audit, AuditError> {
    let mut entries = read::streams(conn).await?;
    read::losses(conn, &mut entries).await?;
    read::accepted(conn, &mut entries).await?;
    let orphans = read::lake(conn, &mut entries).await?;
    let newest = newest_of_chains(&entries);
    let mut streams: Vec<StreamAudit> = entries
        .iter()
        .filter(|(_, entry)| machine.is_none_or(|wanted| wanted == entry.line.machine))
        .map(|(id, entry)| sum(*id, entry, &newest))
        .collect();
    streams.sort_by(|a, b| {
        (&a.machine, &a.category, &a.agent, &a.epoch).cmp(&(&b.machine, &b.category, &b.agent, &b.epoch))
    });
    Ok(Audit { streams, orphans })
}

/// The newest stream of a chain, as far as it was heard.
struct Newest {
    stream_id: i64,
    heard_progress: bool,
    waiting: String,
}

type Chain = (String, String, String);

fn chain(line: &StreamAudit) -> Chain {
    (line.agent.clone(), line.machine.clone(), line.category.clone())
}

/// Streams that the sending process made itself are newer than those it only carried on.
fn newest_of_chains(entries: &BTreeMap<i64, Entry>) -> BTreeMap<Chain, Newest> {
    let mut newest: BTreeMap<Chain, (bool, i64, i64)> = BTreeMap::new();
    for (&id, entry) in entries {
        let rank = (entry.sender == entry.line.epoch, entry.append_us, id);
        let known = newest.entry(chain(&entry.line)).or_insert(rank);
        *known = rank.max(*known);
    }
    newest
        .into_iter()
        .filter_map(|(chain, (_, _, id))| {
            let entry = entries.get(&id)?;
            let newest = Newest {
                stream_id: id,
                heard_progress: entry.heard_progress,
                waiting: entry.waiting.clone(),
            };
            Some((chain, newest))
        })
        .collect()
}

fn sum(id: i64, entry: &Entry, newest: &BTreeMap<Chain, Newest>) -> StreamAudit {
    let mut line = entry.line.clone();
    let mut accounted = IntervalSet::new();
    // Each sequence is counted once, in the first category that has it.
    let mut count = |set: &IntervalSet| {
        let mut new = 0;
        for range in set.ranges() {
            let end = (*range.end()).min(line.numbered);
            if *range.start() <= end {
                new += accounted.missing_in(*range.start()..=end).len();
            }
        }
        accounted.union_with(set);
        new
    };
    line.in_lake = count(&entry.lake);
    line.rejected = count(&entry.rejected);
    line.lost = count(&entry.lost);
    line.accepted = count(&entry.accepted);
    let rest = if line.numbered == 0 { IntervalSet::new() } else { accounted.missing_in(1..=line.numbered) };
    let mut missing = rest.intersection(&entry.stored);
    if entry.acknowledged > 0 {
        missing.union_with(&rest.intersection(&IntervalSet::from_iter([1..=entry.acknowledged])));
    }
    line.missing = missing.len();
    line.missing_sequences = set_text(&missing);
    let open = rest.len() - missing.len();
    let ended = newest.get(&chain(&entry.line)).is_some_and(|newest| {
        newest.stream_id != id && newest.heard_progress && !newest.waiting.contains(&entry.line.epoch)
    });
    if ended {
        line.stranded = open;
    } else {
        line.in_transit = open;
    }
    line.doubled = entry.lake_rows - entry.lake.len();
    line.unledgered = entry.lake.len() - entry.lake.intersection(&entry.stored).len();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> IntervalSet {
        crate::lake::read::parse_set(text).unwrap()
    }

    fn entry(epoch: &str, numbered: u64) -> Entry {
        let line = StreamAudit {
            machine: "hall3/m".to_owned(),
            category: "telemetry".to_owned(),
            agent: "gw".to_owned(),
            epoch: epoch.to_owned(),
            numbered,
            ..StreamAudit::default()
        };
        Entry { line, sender: epoch.to_owned(), heard_progress: true, ..Entry::default() }
    }

    fn audited(entries: Vec<Entry>) -> Vec<StreamAudit> {
        let entries: BTreeMap<i64, Entry> = (1..).zip(entries).collect();
        let newest = newest_of_chains(&entries);
        entries.iter().map(|(id, entry)| sum(*id, entry, &newest)).collect()
    }

    fn adds_up(line: &StreamAudit) -> bool {
        let parts = [
            line.in_lake,
            line.rejected,
            line.lost,
            line.accepted,
            line.stranded,
            line.in_transit,
            line.missing,
        ];
        line.numbered == parts.iter().sum::<u64>()
    }

    #[test]
    fn every_sequence_is_counted_once_in_the_first_category_that_has_it() {
        let lines = audited(vec![Entry {
            lake: set("1-50,60"),
            lake_rows: 51,
            stored: set("1-50,60"),
            rejected: set("50-52"),
            lost: set("52-55"),
            accepted: set("55-56"),
            acknowledged: 58,
            ..entry("a", 100)
        }]);
        let line = &lines[0];
        assert_eq!((line.in_lake, line.rejected, line.lost, line.accepted), (51, 2, 3, 1));
        assert_eq!((line.missing, line.missing_sequences.as_str(), line.in_transit), (2, "57-58", 41));
        assert!(adds_up(line) && line.is_wrong());
    }

    #[test]
    fn a_loss_without_an_end_is_a_finding_though_all_that_was_heard_of_is_there() {
        let mut entry = Entry { lake: set("1-4"), lake_rows: 4, stored: set("1-4"), ..entry("a", 4) };
        entry.line.lost_without_end = true;
        let lines = audited(vec![entry]);
        assert_eq!((lines[0].lost, lines[0].missing), (0, 0));
        let findings = Audit { streams: lines, orphans: 0 }.findings();
        assert!(findings.len() == 1 && findings[0].contains("after sequence 4"), "{findings:?}");
    }

    #[test]
    fn a_dropped_segment_is_a_finding_though_its_agent_declared_it() {
        let lines = audited(vec![Entry {
            lake: set("1-4"),
            lake_rows: 4,
            stored: set("1-4"),
            lost: set("5-9"),
            acknowledged: 9,
            ..entry("a", 9)
        }]);
        assert_eq!((lines[0].lost, lines[0].missing), (5, 0));
        assert!(lines[0].is_wrong());
        let findings = Audit { streams: lines, orphans: 0 }.findings();
        assert!(findings.len() == 1 && findings[0].contains("5 rows were declared lost"), "{findings:?}");
    }

    #[test]
    fn deleted_doubled_and_unknown_rows_are_found() {
        let deleted = Entry {
            lake: set("1-4,6-10"),
            lake_rows: 9,
            stored: set("1-10"),
            acknowledged: 10,
            ..entry("a", 10)
        };
        let doubled = Entry { lake: set("1-10"), lake_rows: 11, stored: set("1-10"), ..entry("b", 10) };
        let cut = Entry { lake: set("1-10"), lake_rows: 10, stored: set("1-7"), ..entry("c", 10) };
        let lines = audited(vec![deleted, doubled, cut]);
        assert_eq!((lines[0].missing, lines[0].missing_sequences.as_str()), (1, "5"));
        assert_eq!((lines[1].doubled, lines[1].missing), (1, 0));
        assert_eq!((lines[2].unledgered, lines[2].missing), (3, 0));
        assert!(lines.iter().all(|l| adds_up(l) && l.is_wrong()));
    }

    #[test]
    fn what_an_ended_epoch_left_is_in_transit_while_its_agent_lists_it_and_stranded_after() {
        let old = || Entry { lake: set("1-5"), lake_rows: 5, stored: set("1-5"), ..entry("a", 9) };
        let newer = |waiting: &str| Entry { append_us: 1, waiting: waiting.to_owned(), ..entry("b", 0) };
        let listed = audited(vec![old(), newer("[\"a\"]")]);
        assert_eq!((listed[0].in_transit, listed[0].stranded), (4, 0));
        let gone = audited(vec![old(), newer("[]")]);
        assert_eq!((gone[0].in_transit, gone[0].stranded), (0, 4));
        assert!(!listed[0].is_wrong() && gone[0].is_wrong());
    }
}
