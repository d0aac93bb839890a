//! Late data through SQLite (F6, F7, F9): one revision, what is no more is withdrawn, and after every step the
//! stored features are those that the batch makes of the lake.

use millrace_preprocess::{FeatureRow, FeatureValue, SourceFile, View, compile};
use millrace_protocol::{Birth, BirthTag, PreviousEpoch, Quality, Reporting};

use super::*;
use crate::features::{self, offline};

const S: i64 = 1_000_000;
const STALL_US: i64 = 600 * S;
const VIEWS: &str = r#"
[[kind]]
name = "press"
machines = ["hall3/*"]
[[feature_view]]
name = "minute"
version = 1
kind = "press"
lateness = "2 s"
window = { size = "10 s" }
[feature_view.features]
mean = "mean(temp)"
n = "count(temp)"
[[feature_view]]
name = "now"
version = 1
kind = "press"
lateness = "2 s"
window = "latest"
min_interval = "5 s"
[feature_view.features]
temp = "temp"
"#;

/// A collector's memory and its SQLite file, and a topic that only grows.
struct Line {
    _folder: tempfile::TempDir,
    file: std::path::PathBuf,
    conn: SqliteConnection,
    memory: Memory,
    settings: Settings,
    offset: i64,
    layout: Arc<Layout>,
}

impl Line {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lake.db");
        let source = SourceFile { name: "v.toml".to_owned(), text: VIEWS.to_owned() };
        let catalog = Arc::new(compile(&[source], &|_| Err(String::new())).unwrap());
        let settings = Settings { catalog, ..settings() };
        let mut conn = lake::open(&file).await.unwrap();
        features::migrate(&mut conn, &crate::app::schemas(&settings.catalog)).await.unwrap();
        let memory = Memory::load(&mut conn, settings.clone()).await.unwrap();
        let column = LayoutColumn { tag: "temp".into(), value_type: ValueType::F64 };
        let layout = Arc::new(Layout::new(vec![column]));
        Self { _folder: folder, file, conn, memory, settings, offset: 0, layout }
    }

    /// Sends items of an epoch; the record is appended at `append_s`.
    fn send(&mut self, epoch: u64, items: &[Item], numbered: u64, append_s: i64) {
        self.send_as(StreamId { epoch: Epoch(epoch), ..stream() }, items, numbered, append_s);
    }

    fn send_as(&mut self, stream: StreamId, items: &[Item], numbered: u64, append_s: i64) {
        let sender = stream.epoch;
        let mut builder = RecordBuilder::new(stream, sender);
        for item in items {
            builder
                .push(&item.encode().unwrap(), Some(&self.layout).filter(|_| matches!(item, Item::Chunk(_))));
        }
        let value = builder.finish(numbered);
        self.memory.absorb(&Incoming { append_us: T0 + append_s * S, ..at(self.offset, value) });
        self.offset += 1;
    }

    /// Makes a chunk of rows (second, value); NaN stands for a bad reading.
    fn chunk(&self, first_seq: u64, rows: &[(f64, f64)]) -> Item {
        let row = |&(second, value): &(f64, f64)| Row {
            time_us: T0 + (second * 1e6) as i64,
            flags: RowFlags::default(),
            layout: Arc::clone(&self.layout),
            cells: vec![if value.is_nan() {
                Cell::Bad(Quality::TIMEOUT)
            } else {
                Cell::Good(Value::F64(value))
            }],
        };
        let rows: Vec<Row> = rows.iter().map(row).collect();
        Item::Chunk(Chunk::pack(first_seq, ClockSegment::default(), &rows).unwrap())
    }

    async fn flush(&mut self) {
        flush(&mut self.conn, &mut self.memory).await.unwrap();
    }

    /// Flushes, does every repair, and holds what is stored against the lake.
    async fn settle(&mut self) {
        self.flush().await;
        while self.memory.repair(&mut self.conn, T0).await.unwrap().is_some() {}
        self.parity().await;
    }

    async fn restart(&mut self) {
        self.conn = lake::open(&self.file).await.unwrap();
        self.memory = Memory::load(&mut self.conn, self.settings.clone()).await.unwrap();
    }

    async fn parity(&mut self) {
        let mut backfill = Backfill::open(&mut self.conn, STALL_US).await.unwrap();
        let machine = stream().machine;
        let catalog = Arc::clone(&self.settings.catalog);
        for view in catalog.views() {
            let closed = backfill.closed_until_us(&mut self.conn, &catalog, view).await.unwrap();
            let to_us = closed.get(&machine).copied().unwrap_or(T0);
            let from_us = T0 - 3_600 * S;
            let rows = backfill.compute(&mut self.conn, view, &machine, from_us, to_us).await.unwrap();
            let computed: BTreeMap<i64, FeatureRow> =
                rows.into_iter().map(|row| (row.event_us, row)).collect();
            let stored = self.stored(view).await;
            assert_eq!(brief(computed.values()), brief(stored.iter()), "{}", view.schema.name);
        }
    }

    async fn stored(&mut self, view: &View) -> Vec<FeatureRow> {
        let machine = stream().machine;
        let rows = offline::newest_between(&mut self.conn, &view.schema, machine.as_str(), 0, i64::MAX).await;
        rows.unwrap().into_iter().map(|row| row.row).collect()
    }

    /// Gives (second, revision, first feature) of every revision, by time and revision.
    async fn revisions(&mut self, view: &str) -> Vec<(f64, i64, Option<f64>)> {
        let view = Arc::clone(self.settings.catalog.view(view).unwrap());
        let day = T0.div_euclid(offline::DAY_US);
        let rows = offline::rows_of_day(&mut self.conn, &view.schema, day).await.unwrap();
        let first = |row: &FeatureRow| match row.values.first() {
            Some(Some(FeatureValue::F64(x))) => Some(*x),
            _ => None,
        };
        rows.iter().map(|r| ((r.row.event_us - T0) as f64 / 1e6, r.revision, first(&r.row))).collect()
    }
}

fn brief<'a>(rows: impl Iterator<Item = &'a FeatureRow>) -> Vec<String> {
    rows.map(|row| format!("{} {:?} {:016x}", row.event_us - T0, row.values, row.coverage.to_bits()))
        .collect()
}

fn birth(hold_s: i64, previous: Option<PreviousEpoch>) -> Item {
    let tag = BirthTag {
        name: "temp".into(),
        value_type: Some(ValueType::F64),
        unit: None,
        source: "test".into(),
        reporting: Reporting::Cyclic { interval_us: S },
        hold_us: hold_s * S,
        counter_modulus: None,
    };
    Item::Birth(Birth { tags: vec![tag], previous, started_us: T0, ..Birth::default() })
}

fn progress(after: u64, until_s: i64) -> Item {
    Item::Progress(Progress {
        after,
        complete_until_us: T0 + until_s * S,
        numbered: after,
        waiting_epochs: Vec::new(),
    })
}

#[tokio::test]
async fn a_late_row_makes_one_revision_of_its_window_and_keeps_the_instant_that_was_the_newest() {
    let mut line = Line::new().await;
    let first = line.chunk(1, &[(1.0, 10.0), (3.0, 20.0), (11.0, 30.0), (21.0, 40.0)]);
    line.send(7, &[birth(30, None), first, progress(4, 24)], 4, 25);
    line.settle().await;
    assert_eq!(line.revisions("now").await[..2], [(3.0, 1, Some(20.0)), (11.0, 1, Some(30.0))]);
    // Two rows of the first cell come late, one before its newest instant, one after.
    let late = line.chunk(5, &[(2.0, 99.0), (4.0, 50.0)]);
    line.send(7, &[late, progress(6, 40)], 6, 41);
    line.settle().await;
    let now = line.revisions("now").await;
    assert_eq!(now[..3], [(3.0, 1, Some(20.0)), (4.0, 1, Some(50.0)), (11.0, 1, Some(30.0))]);
    let minute = line.revisions("minute").await;
    let of_first: Vec<i64> = minute.iter().filter(|row| row.0 == 10.0).map(|row| row.1).collect();
    assert_eq!(of_first, [1, 2], "{minute:?}");
    line.restart().await;
    line.settle().await;
    assert_eq!(line.revisions("minute").await, minute, "a restart writes no revision");
}

#[tokio::test]
async fn a_late_bad_reading_withdraws_what_the_held_value_had_said() {
    let mut line = Line::new().await;
    // The value of second 1 is held for 60 s and makes the windows up to 40 s.
    let first = line.chunk(1, &[(1.0, 10.0)]);
    line.send(7, &[birth(60, None), first, progress(1, 42)], 1, 43);
    line.settle().await;
    let said: Vec<_> = line.revisions("minute").await;
    assert_eq!(said.iter().map(|row| (row.0, row.2)).collect::<Vec<_>>().last(), Some(&(40.0, Some(10.0))));
    for restart in [false, true] {
        if restart {
            line.restart().await;
        }
        // The reading of second 9 (then of second 1 itself: it replaces nothing, it comes after) was bad.
        let seq = if restart { 3 } else { 2 };
        let bad = line.chunk(seq, &[(if restart { 1.5 } else { 9.0 }, f64::NAN)]);
        line.send(7, &[bad, progress(seq, 43)], seq, 44);
        line.settle().await;
    }
    let said = line.revisions("minute").await;
    let newest = |end: f64| said.iter().rfind(|row| row.0 == end).copied();
    assert_eq!((newest(20.0), newest(40.0)), (Some((20.0, 2, None)), Some((40.0, 2, None))), "{said:?}");
    // The value comes after all.
    let good = line.chunk(4, &[(15.0, 7.0)]);
    line.send(7, &[good, progress(4, 44)], 4, 45);
    line.settle().await;
    let said = line.revisions("minute").await;
    assert_eq!(said.iter().rfind(|row| row.0 == 20.0), Some(&(20.0, 3, Some(7.0))));
}

#[tokio::test]
async fn a_stream_that_was_given_up_comes_back_and_its_windows_are_repaired_also_after_a_restart() {
    for restart in [false, true] {
        let mut line = Line::new().await;
        let first = line.chunk(1, &[(1.0, 10.0), (12.0, 20.0)]);
        line.send(7, &[birth(5, None), first], 2, 13);
        line.settle().await;
        // A newer epoch says that the older one has a row more; it does not come.
        let previous = Some(PreviousEpoch { epoch: Epoch(7), last_seq: 3 });
        let newer = line.chunk(1, &[(500.0, 1.0), (501.0, 2.0)]);
        line.send(8, &[birth(5, previous), newer], 2, 502);
        line.settle().await;
        assert_eq!(line.revisions("minute").await.len(), 1, "epoch 7 is waited for");
        if restart {
            line.restart().await;
        }
        line.memory.end_reached("m.telemetry", 3, T0 + 14 * S + STALL_US);
        line.memory.end_reached("m.telemetry", 3, T0 + 502 * S + STALL_US);
        let more = line.chunk(3, &[(1_110.0, 3.0)]);
        line.send(8, &[more], 3, 1_111);
        line.settle().await;
        assert_eq!(
            texts(&mut line.conn, "SELECT kind FROM control").await,
            ["give_up"],
            "restart: {restart}"
        );
        let before = line.revisions("minute").await;
        assert!(before.iter().any(|row| row.0 == 510.0), "{before:?}");
        // The missing row arrives after all.
        let late = line.chunk(3, &[(14.0, 60.0)]);
        line.send(7, &[late], 3, 1_112);
        line.settle().await;
        let after = line.revisions("minute").await;
        let of_window: Vec<_> = after.iter().filter(|row| row.0 == 20.0).map(|row| row.1).collect();
        assert_eq!(of_window, [1, 2], "restart {restart}: {after:?}");
        assert!(audited(&mut line.conn).await.is_clean());
    }
}

#[tokio::test]
async fn a_restart_still_waits_for_streams_that_were_heard_since_the_state_was_saved() {
    let mut line = Line::new().await;
    let first = line.chunk(1, &[(1.0, 10.0)]);
    line.send(7, &[birth(5, None), first], 1, 2);
    line.settle().await;
    // Within a minute of the last save another stream begins to carry the tag; then the worker is killed.
    let other = StreamId { category: Category::new("other").unwrap(), ..stream() };
    let second = line.chunk(1, &[(2.0, 11.0)]);
    line.send_as(other.clone(), &[birth(5, None), second], 1, 3);
    line.settle().await;
    line.restart().await;
    let third = line.chunk(2, &[(3.0, 12.0), (60.0, 13.0)]);
    line.send(7, &[third], 3, 61);
    line.settle().await;
    assert_eq!(line.revisions("minute").await, [], "the other stream stands at 2 s");
    let fourth = line.chunk(2, &[(33.0, 14.0)]);
    line.send_as(other, &[fourth], 2, 62);
    line.settle().await;
    let ends: Vec<f64> = line.revisions("minute").await.iter().map(|row| row.0).collect();
    assert_eq!(ends, [10.0], "the values of 3 s are held to 8 s; the other stream stands at 33 s");
}

#[tokio::test]
async fn a_birth_that_comes_when_its_rows_have_left_memory_has_their_windows_computed_again() {
    for restart in [false, true] {
        let mut line = Line::new().await;
        let first = line.chunk(1, &[(1.0, 10.0)]);
        line.send(7, &[birth(5, None), first], 1, 2);
        // Of another stream, an hour later than its event time; its birth is on its way in another topic.
        let other = StreamId { category: Category::new("other").unwrap(), ..stream() };
        let unborn = line.chunk(1, &[(2.0, 30.0)]);
        line.send_as(other.clone(), &[unborn], 1, 3);
        line.settle().await;
        let on = line.chunk(2, &[(7_200.0, 12.0), (7_260.0, 13.0)]);
        line.send(7, &[on], 3, 7_261);
        line.settle().await;
        if restart {
            line.restart().await;
        }
        let before = line.revisions("minute").await;
        assert!(
            before.iter().any(|row| row.0 == 300.0),
            "held for ten minutes as nobody said how long: {before:?}"
        );
        line.send_as(other.clone(), &[birth(5, None)], 1, 7_262);
        line.settle().await;
        // The same birth again is nothing new.
        line.send_as(other, &[birth(5, None)], 1, 7_263);
        line.flush().await;
        assert!(line.memory.repair(&mut line.conn, T0).await.unwrap().is_none(), "restart: {restart}");
        line.parity().await;
    }
}
