//! What must hold at the end of a seed: truth, books, audit and features, each held against the lake.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Context as _;
use millrace_agent::books::Books;
use millrace_collector::audit::{StreamAudit, audit};
use millrace_collector::flush::Backfill;
use millrace_collector::lake::db::{Executor as _, Row as _, SqliteConnection};
use millrace_collector::lake::read;
use millrace_preprocess::InputRow;
use millrace_protocol::{Cell, Chunk, Epoch, IntervalSet, Item, Layout, LossReason, RowFlags, Value};

use super::truth::{TrueRow, Truth};
use super::values::ID;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub kind: &'static str,
    /// Where, and how it shows.
    pub what: String,
}

/// Collects findings, the first few of each kind.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Adds one.
    pub fn say(&mut self, kind: &'static str, what: String) {
        if self.0.iter().filter(|known| known.kind == kind).count() < 5 {
            self.0.push(Finding { kind, what });
        }
    }
}

/// What was counted on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that the plant emitted.
    pub rows: u64,
    /// Rows that the agent confirmed.
    pub confirmed: u64,
    /// Rows in the lake.
    pub in_lake: u64,
    /// Rows in quarantine or dead letters.
    pub rejected: u64,
    /// Rows declared lost.
    pub lost: u64,
    /// Windows compared with the batch driver's.
    pub windows: u64,
    /// Values compared with the oracle's.
    pub oracle: u64,
}

/// A row as it was found at the end.
struct Found {
    stream: (String, u64),
    is_volatile: bool,
    is_same: bool,
}

/// Compares the truth with lake, quarantine and dead letters; gives the rows of each machine. `excuses`: why rows may
/// be declared lost.
///
/// *Errors*: the lake cannot be read.
pub async fn truth(
    conn: &mut SqliteConnection,
    truth: &Truth,
    excuses: &[LossReason],
    counts: &mut Counts,
    findings: &mut Findings,
) -> anyhow::Result<BTreeMap<String, Vec<InputRow>>> {
    let loaded = read::streams(conn).await?;
    let streams = read::by_number(&loaded);
    let names: HashMap<i64, String> = streams.iter().map(|(id, stream)| (*id, stream.to_string())).collect();
    let mut found: BTreeMap<u64, Vec<Found>> = BTreeMap::new();
    let mut machines = BTreeMap::new();
    let mut layouts = read::Layouts::default();
    for machine in Backfill::open(conn, 0).await?.machines() {
        let rows = read::machine_rows(conn, &mut layouts, &streams, &machine, i64::MIN, i64::MAX).await?;
        counts.in_lake += rows.len() as u64;
        for row in &rows {
            let place = (row.stream.to_string(), row.seq);
            note(&mut found, truth, &row.layout, row.time_us, row.flags, &row.cells, place, findings);
        }
        machines.insert(machine.to_string(), rows);
    }
    quarantined(conn, truth, &names, &mut found, counts, findings).await?;
    dead_letters(conn, truth, &names, &mut found, counts, findings).await?;
    let lost = losses(conn, &names, excuses, findings).await?;
    for (id, row) in &truth.rows {
        counts.rows += 1;
        counts.confirmed += u64::from(row.is_confirmed);
        let copies = found.get(id).map(Vec::as_slice).unwrap_or_default();
        let has_passed = truth.passed.contains(id);
        let missing = if has_passed { "missing after pass-through" } else { "missing" };
        judge(*id, row, copies, &lost, missing, findings);
    }
    Ok(machines)
}

#[expect(clippy::too_many_arguments, reason = "a row and its place")]
fn note(
    found: &mut BTreeMap<u64, Vec<Found>>,
    truth: &Truth,
    layout: &Layout,
    time_us: i64,
    flags: RowFlags,
    cells: &[Cell],
    stream: (String, u64),
    findings: &mut Findings,
) {
    let at = layout.columns().iter().position(|column| &*column.tag == ID);
    let Some(Cell::Good(Value::U64(id))) = at.and_then(|at| cells.get(at)) else {
        return findings.say("invented", format!("a row without a number at {stream:?}"));
    };
    let Some(known) = truth.rows.get(id) else {
        return findings.say("invented", format!("row {id} at {stream:?} was never emitted"));
    };
    let is_same = known.is(time_us, flags, cells);
    found.entry(*id).or_default().push(Found {
        stream,
        is_volatile: flags.contains(RowFlags::VOLATILE),
        is_same,
    });
}

/// Judges one row of the truth by what was found of it.
fn judge(
    id: u64,
    row: &TrueRow,
    copies: &[Found],
    lost: &HashMap<String, IntervalSet>,
    missing: &'static str,
    findings: &mut Findings,
) {
    let machine = &row.machine;
    // Rows that were never on the agent's disk are promised at least once (D9).
    if copies.iter().filter(|copy| !copy.is_volatile).count() > 1 {
        let places: Vec<_> = copies.iter().map(|copy| &copy.stream).collect();
        findings.say("doubled", format!("row {id} of {machine} stands at {places:?}"));
    }
    for copy in copies {
        if !copy.is_same {
            findings.say("changed", format!("row {id} of {machine} at {:?} has other bits", copy.stream));
        }
        if let Some((epoch, seq)) = row.place
            && !copy.is_volatile
            && copies.len() == 1
            && (copy.stream.1 != seq || !copy.stream.0.contains(&epoch.to_string()))
        {
            findings.say("misplaced", format!("row {id} stands at {:?}, not at {epoch} {seq}", copy.stream));
        }
    }
    if !row.is_confirmed || !copies.is_empty() {
        return;
    }
    let of_row = format!(":{machine}:{}", row.category);
    let declared = match row.place {
        Some((epoch, seq)) => lost.get(&format!("gw:{epoch}{of_row}")).is_some_and(|lost| lost.contains(seq)),
        // Nobody outside the agent could count: one of its streams must at least have a loss.
        None => lost.iter().any(|(stream, lost)| stream.ends_with(&of_row) && !lost.is_empty()),
    };
    if !declared {
        findings.say(
            missing,
            format!("row {id} of {machine} {} was confirmed and is nowhere: {:?}", row.category, row.place),
        );
    }
}

async fn quarantined(
    conn: &mut SqliteConnection,
    truth: &Truth,
    names: &HashMap<i64, String>,
    found: &mut BTreeMap<u64, Vec<Found>>,
    counts: &mut Counts,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    for row in conn.fetch_all("SELECT kind, stream_id, layout, item FROM quarantine").await? {
        let kind: String = row.try_get(0)?;
        let stream = names.get(&row.try_get::<i64, _>(1)?).cloned().unwrap_or_default();
        if kind == "conflict" {
            findings.say("conflict", format!("another content under sequences of {stream}"));
            continue;
        }
        let layout: Option<Vec<u8>> = row.try_get(2)?;
        let layout = std::sync::Arc::new(Layout::decode(&layout.context("a layout")?)?);
        let Item::Chunk(chunk) = Item::decode(&row.try_get::<Vec<u8>, _>(3)?)? else { continue };
        for (seq, row) in Chunk::unpack(&chunk, &layout)?.rows() {
            counts.rejected += 1;
            let place = (stream.clone(), seq);
            note(found, truth, &layout, row.time_us, row.flags, &row.cells, place, findings);
        }
    }
    Ok(())
}

async fn dead_letters(
    conn: &mut SqliteConnection,
    truth: &Truth,
    names: &HashMap<i64, String>,
    found: &mut BTreeMap<u64, Vec<Found>>,
    counts: &mut Counts,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let letters = conn.fetch_all("SELECT kind, stream_id, first_seq, bytes, reason FROM dead_letter").await?;
    for row in letters {
        let (kind, reason): (String, String) = (row.try_get(0)?, row.try_get(4)?);
        let bytes: Vec<u8> = row.try_get(3)?;
        let id = bytes.as_slice().try_into().ok().map(u64::from_be_bytes);
        let known = id.and_then(|id| Some((id, truth.rows.get(&id)?)));
        match known {
            Some((id, known)) if kind == "payload" && known.row.is_none() => {
                counts.rejected += 1;
                let stream = row.try_get::<Option<i64>, _>(1)?.and_then(|id| names.get(&id).cloned());
                let seq: Option<i64> = row.try_get(2)?;
                let place =
                    (stream.unwrap_or_default(), seq.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0));
                // A raw row has no flags that could say so.
                let is_volatile = truth.passed.contains(&id);
                found.entry(id).or_default().push(Found { stream: place, is_volatile, is_same: true });
            }
            _ => findings.say("dead letter", format!("{kind}: {reason}")),
        }
    }
    Ok(())
}

/// Reads what was declared lost, by stream; an open end reaches as far as numbers go.
async fn losses(
    conn: &mut SqliteConnection,
    names: &HashMap<i64, String>,
    excuses: &[LossReason],
    findings: &mut Findings,
) -> anyhow::Result<HashMap<String, IntervalSet>> {
    let mut lost: HashMap<String, IntervalSet> = HashMap::new();
    for row in conn.fetch_all("SELECT stream_id, from_seq, to_seq, reason FROM loss").await? {
        let Some(stream) = names.get(&row.try_get::<i64, _>(0)?) else { continue };
        let from = u64::try_from(row.try_get::<i64, _>(1)?)?;
        let reason: String = row.try_get(3)?;
        if !excuses.iter().any(|excuse| excuse.name() == reason) {
            findings.say("loss without a cause", format!("{stream} from {from} on: {reason}"));
        }
        let to = row.try_get::<Option<i64>, _>(2)?.map_or(Ok(u64::MAX), u64::try_from)?;
        lost.entry(stream.clone()).or_default().insert(from..=to);
    }
    Ok(lost)
}

/// Holds the agent's books and the audit against each other (D14, D15). `volatile`: ended epochs some rows of which
/// were never on disk.
///
/// *Errors*: the audit cannot be made.
pub async fn books(
    conn: &mut SqliteConnection,
    books: &Books,
    volatile: &BTreeSet<Epoch>,
    counts: &mut Counts,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    if !books.balanced {
        findings.say("books", format!("they do not balance: {books:?}"));
    }
    let audit = audit(conn, None).await?;
    if audit.orphans > 0 {
        findings.say("audit", format!("{} rows belong to no stream", audit.orphans));
    }
    let mut heard = HashSet::new();
    for line in &audit.streams {
        counts.lost += line.lost;
        heard.insert((line.machine.clone(), line.category.clone(), line.epoch.clone()));
        // What passed through the memory of a process that was killed is in no book of the next one.
        let is_volatile = line.epoch.parse().is_ok_and(|epoch| volatile.contains(&epoch));
        audited(line, is_volatile, findings);
        let of_agent = books.transport.iter().find(|stream| {
            stream.epoch == line.epoch
                && stream.machine.as_str() == line.machine
                && stream.category.as_str() == line.category
        });
        let Some(of_agent) = of_agent.filter(|_| !is_volatile) else { continue };
        let rows = of_agent.rows;
        let declared = rows.dropped + rows.set_aside;
        if rows.waiting > 0 || rows.numbered != line.numbered || line.lost > declared {
            findings.say("books", format!("the agent says {rows:?}, the audit {line:?}"));
        }
    }
    for stream in books.transport.iter().filter(|stream| stream.rows.numbered > 0) {
        let key = (stream.machine.to_string(), stream.category.to_string(), stream.epoch.clone());
        if !heard.contains(&key) {
            findings.say("books", format!("nobody heard of {key:?}: {:?}", stream.rows));
        }
    }
    Ok(())
}

/// Rows that passed through memory and died with it are stranded: the audit names them, nobody promised them.
fn audited(line: &StreamAudit, is_volatile: bool, findings: &mut Findings) {
    let stranded = if is_volatile { 0 } else { line.stranded };
    let sum = line.in_lake + line.rejected + line.lost + line.accepted + line.stranded;
    let open = [line.missing, stranded, line.in_transit, line.doubled, line.unledgered, line.conflicts];
    if open != [0; 6] || sum != line.numbered {
        findings.say("audit", format!("{line:?}"));
    }
}
