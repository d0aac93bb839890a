//! Who is waited for, what is late, when a row was known: F5 to F8 on the stream driver.

use std::sync::Arc;

use millrace_preprocess::{BatchDriver, Control, FeatureRow, StreamDriver};
use millrace_protocol::*;

use super::plant::*;

const DAY: i64 = 86_400 * S;
/// A round hour, so that windows and repairs begin there.
const T0: i64 = 472_000 * 3600 * S;

/// T0 lies on a multiple of 8 h.
const T0_TO_END: i64 = 28_800;

const TEN_SECONDS: &str = r#"
[[kind]]
name = "press"
machines = ["h/*"]
[[feature_view]]
name = "v"
kind = "press"
lateness = "1 s"
window = { size = "10 s" }
[feature_view.features]
n = "count(a)"
b = "mean(b)"
"#;

struct Line {
    driver: StreamDriver,
    a: Arc<StreamId>,
    b: Arc<StreamId>,
}

impl Line {
    /// Two categories: `a` in telemetry, `b` in temperature, both held 2 s.
    fn new(text: &str) -> Self {
        let mut driver = StreamDriver::new(catalog(text), STALL);
        let (a, b) = (stream("gw", 1, "telemetry"), stream("gw", 1, "temperature"));
        for (id, tag) in [(&a, "a"), (&b, "b")] {
            driver.heard(id, &id.category.to_string(), T0);
            driver.birth(id, &Birth { tags: vec![birth_tag(tag, 2 * S, None)], ..Birth::default() });
        }
        Self { driver, a, b }
    }

    /// Gives a row each second, appended a second later, or at `append`.
    fn feed(
        &mut self,
        id: &Arc<StreamId>,
        tag: &str,
        from_s: i64,
        to_s: i64,
        first_seq: u64,
        append: Option<i64>,
    ) {
        for (n, t) in (from_s..to_s).enumerate() {
            let seq = first_seq + n as u64;
            let mut row = row(id, seq, T0 + t * S, &[(tag, num(t as f64))]);
            row.append_us = append.unwrap_or(row.time_us + S);
            self.driver.heard(id, id.category.as_str(), row.append_us);
            self.driver.rows(&[row]);
            self.driver.contiguous(id, seq);
        }
    }

    fn close(&mut self) -> Vec<(i64, Option<f64>, f64)> {
        self.driver.close().iter().map(brief).collect()
    }
}

fn brief(row: &FeatureRow) -> (i64, Option<f64>, f64) {
    ((row.event_us - T0) / S, f64_of(row, "n"), row.coverage)
}

#[test]
fn a_view_waits_for_every_stream_that_carries_its_tags() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&a, "a", 0, 60, 1, None);
    assert_eq!(line.close(), vec![], "nothing of b yet");
    line.feed(&b, "b", 0, 22, 1, None);
    assert_eq!(
        line.close(),
        vec![(10, Some(10.0), 1.0), (20, Some(10.0), 1.0)],
        "b is at 21 s, lateness 1 s"
    );
    // A row beyond a hole does not count until the hole is filled.
    line.driver.rows(&[row(&b, 30, T0 + 50 * S, &[("b", num(1.0))])]);
    assert_eq!(line.close(), vec![]);
    let quiet = Progress { after: 30, complete_until_us: T0 + 40 * S, numbered: 30, waiting_epochs: vec![] };
    line.driver.progress(&b, &quiet, T0 + 61 * S);
    assert_eq!(line.close(), vec![], "progress after a sequence that is not there yet");
    line.driver.contiguous(&b, 30);
    let ends: Vec<i64> = line.close().iter().map(|w| w.0).collect();
    assert_eq!(ends, vec![30, 40], "49 s by the row, 40 s by progress; a ends at 59 s");
}

#[test]
fn a_quiet_stream_advances_by_its_progress_less_the_lateness() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&a, "a", 0, 10, 1, None);
    let quiet = |after| Progress {
        after,
        complete_until_us: T0 + 11 * S - 1,
        numbered: after,
        waiting_epochs: vec![],
    };
    line.driver.progress(&a, &quiet(10), T0 + 11 * S);
    line.driver.progress(&b, &Progress { complete_until_us: T0 + 10 * S, ..quiet(0) }, T0 + 11 * S);
    assert_eq!(
        line.close(),
        vec![],
        "a sensor that stamps its own rows may still bring one of the last second"
    );
    line.driver.progress(&b, &quiet(0), T0 + 11 * S);
    assert_eq!(line.close(), vec![(10, Some(10.0), 0.0)], "b was never known");
    // Nobody can promise the future.
    let far = Progress { after: 10, complete_until_us: T0 + DAY, numbered: 10, waiting_epochs: vec![] };
    line.driver.progress(&a, &far, T0 + 11 * S);
    line.driver.progress(&b, &Progress { after: 0, numbered: 0, ..far }, T0 + 11 * S);
    assert_eq!(
        line.driver.closed_until_us(&catalog(TEN_SECONDS).views()[0].clone(), &machine()),
        Some(T0 + 10 * S)
    );
}

#[test]
fn a_silent_stream_is_given_up_and_what_it_brings_later_is_repaired() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&a, "a", 0, 700, 1, None);
    line.feed(&b, "b", 0, 15, 1, None);
    assert_eq!(line.close(), vec![(10, Some(10.0), 1.0)]);
    line.driver.clock("telemetry", T0 + 900 * S);
    assert_eq!(line.driver.controls(), vec![], "it is not b's topic");
    line.driver.clock("temperature", T0 + 15 * S + STALL);
    let give_up = Control::GiveUp { stream: Arc::clone(&b), at_us: T0 + 15 * S + STALL };
    assert_eq!(line.driver.controls(), vec![give_up.clone()]);
    let closed = line.close();
    assert_eq!((closed.len(), closed[0], closed[1]), (68, (20, Some(10.0), 0.6), (30, Some(10.0), 0.0)));
    // It comes back: its backlog is late for these windows and is repaired, one request for the hour.
    line.feed(&b, "b", 15, 300, 16, Some(T0 + 800 * S));
    let late = line.driver.late();
    assert_eq!(
        late.iter().map(|l| (l.view.schema.name.to_string(), l.hour_us)).collect::<Vec<_>>(),
        vec![("v".into(), T0)]
    );
    // It is waited for again.
    line.feed(&a, "a", 700, 720, 701, None);
    assert_eq!(line.close(), vec![]);
    assert_eq!(line.driver.controls(), vec![]);
    // A replay that is given the control comes to the same.
    let mut again = Line::new(TEN_SECONDS);
    again.feed(&a, "a", 0, 700, 1, None);
    again.feed(&b, "b", 0, 15, 1, None);
    again.driver.control(&give_up);
    assert_eq!(again.close()[1..], closed[..]);
}

#[test]
fn a_gateways_backlog_of_three_days_closes_its_windows_once() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&a, "a", 0, 25, 1, None);
    line.feed(&b, "b", 0, 25, 1, None);
    assert_eq!(line.close().len(), 2);
    for topic in ["telemetry", "temperature"] {
        line.driver.clock(topic, T0 + DAY);
    }
    assert_eq!(line.driver.controls().len(), 2);
    assert_eq!(line.close(), vec![(30, Some(5.0), 0.6)], "what was known goes out once");
    for day in 1..=3 {
        line.driver.clock("telemetry", T0 + day * DAY);
        line.driver.clock("temperature", T0 + day * DAY);
        assert_eq!(line.close(), vec![], "time alone closes nothing more");
    }
    let back = T0 + 3 * DAY;
    line.feed(&a, "a", 25, 3_000, 26, Some(back));
    line.feed(&b, "b", 25, 3_000, 26, Some(back));
    let closed = line.driver.close();
    let late = line.driver.late();
    assert_eq!(late.len(), 1, "only the hour of the window that was given up");
    let first = (closed[0].event_us - T0) / S;
    assert!(first <= 50, "{first}");
    assert!(closed.len() > 290 && closed.windows(2).all(|w| w[1].event_us - w[0].event_us == 10 * S));
    assert!(closed.iter().all(|row| row.created_us == back && row.coverage == 1.0));
}

#[test]
fn a_newer_epoch_waits_until_the_older_one_is_complete() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&b, "b", 0, 100, 1, None);
    line.feed(&a, "a", 0, 12, 1, None);
    assert_eq!(line.close().len(), 1);
    let newer = stream("gw", 2, "telemetry");
    let previous = Some(PreviousEpoch { epoch: a.epoch, last_seq: 30 });
    line.driver.heard(&newer, "telemetry", T0 + 40 * S);
    let birth = Birth { tags: vec![birth_tag("a", 2 * S, None)], previous, ..Birth::default() };
    line.driver.birth(&newer, &birth);
    line.feed(&newer, "a", 40, 80, 1, None);
    assert_eq!(line.close(), vec![], "13 to 30 of the older epoch are still to come");
    line.feed(&a, "a", 12, 29, 13, Some(T0 + 90 * S));
    assert_eq!(line.close(), vec![(20, Some(10.0), 1.0)]);
    line.driver.contiguous(&a, 30);
    assert_eq!(
        line.close().iter().map(|w| (w.0, w.1)).collect::<Vec<_>>(),
        vec![(30, Some(9.0)), (40, None), (50, Some(10.0)), (60, Some(10.0)), (70, Some(10.0))]
    );
    assert!(line.driver.late().is_empty());
    // The birth comes again (it is an upsert): nobody waits for what is settled.
    line.driver.birth(&newer, &birth);
    line.feed(&newer, "a", 80, 92, 41, None);
    assert_eq!(line.close().len(), 2);
}

#[test]
fn what_is_sent_again_of_a_forgotten_epoch_holds_nothing_up() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&a, "a", 0, 12, 1, None);
    line.feed(&b, "b", 0, 200, 1, None);
    let epochs: Vec<_> = (2..5).map(|epoch| stream("gw", epoch, "telemetry")).collect();
    let mut older = (Arc::clone(&a), 12);
    let births: Vec<_> = epochs
        .iter()
        .map(|newer| {
            let previous = Some(PreviousEpoch { epoch: older.0.epoch, last_seq: older.1 });
            older = (Arc::clone(newer), 10);
            Birth { tags: vec![birth_tag("a", 2 * S, None)], previous, ..Birth::default() }
        })
        .collect();
    for (at, (newer, birth)) in (0..).zip(epochs.iter().zip(&births)) {
        line.driver.birth(newer, birth);
        line.feed(newer, "a", 12 + 10 * at, 22 + 10 * at, 1, None);
        let _ = line.driver.close();
    }
    let saved = line.driver.save();
    // An acknowledgement was lost: the agent sends epochs 1 and 2 again, and a worker that starts anew reads them.
    let mut again = Line::new(TEN_SECONDS);
    again.driver.restore(&machine(), &saved[0].1);
    for (newer, birth) in epochs.iter().zip(&births).rev() {
        again.driver.birth(newer, birth);
    }
    for (id, seq) in [(&a, 12), (&b, 200), (&epochs[0], 10), (&epochs[1], 10), (&epochs[2], 10)] {
        again.driver.contiguous(id, seq);
    }
    for driver in [&mut line.driver, &mut again.driver] {
        for id in [&a, &epochs[0]] {
            driver.heard(id, "telemetry", T0 + 60 * S);
            driver.contiguous(id, if Arc::ptr_eq(id, &a) { 12 } else { 10 });
        }
        driver.birth(&epochs[0], &births[0]);
    }
    for line in [&mut line, &mut again] {
        line.feed(&epochs[2], "a", 42, 72, 11, None);
        let ends: Vec<i64> = line.close().iter().map(|w| w.0).collect();
        assert_eq!(ends, vec![50, 60, 70]);
    }
}

#[test]
fn an_older_epoch_that_nobody_knows_is_given_up_in_the_end() {
    for heard_first in [true, false] {
        let mut line = Line::new(TEN_SECONDS);
        let (b, newer) = (Arc::clone(&line.b), stream("gw", 3, "telemetry"));
        line.feed(&b, "b", 0, 40, 1, None);
        let previous = Some(PreviousEpoch { epoch: Epoch(2), last_seq: 9 });
        let birth = Birth { tags: vec![birth_tag("a", 2 * S, None)], previous, ..Birth::default() };
        let older = stream("gw", 2, "telemetry");
        let older_birth =
            Birth { previous: Some(PreviousEpoch { epoch: Epoch(1), last_seq: 0 }), ..Birth::default() };
        if heard_first {
            line.driver.heard(&newer, "telemetry", T0);
        }
        line.driver.birth(&newer, &birth);
        line.driver.birth(&older, &older_birth);
        line.feed(&newer, "a", 0, 40, 1, None);
        assert_eq!(line.close(), vec![], "epoch 2 is said to have 9 rows");
        line.driver.clock("telemetry", T0 + 39 * S + STALL);
        assert_eq!(line.driver.controls().len(), 1, "the older one, which nobody heard");
        assert_eq!(line.close().len(), 3);
    }
}

#[test]
fn rows_ahead_of_their_append_time_take_no_part() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&b, "b", 0, 40, 1, None);
    line.feed(&a, "a", 0, 5, 1, None);
    // A clock that is a day fast: neither a sample nor a reason to close.
    line.feed(&a, "a", 86_400, 86_401, 6, Some(T0 + 6 * S));
    assert_eq!(line.close(), vec![]);
    line.feed(&a, "a", 5, 22, 7, None);
    assert_eq!(line.close().iter().map(|w| w.1).collect::<Vec<_>>(), vec![Some(10.0), Some(10.0)]);
}

#[test]
fn a_late_row_asks_for_the_hours_of_the_windows_that_see_it() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&a, "a", 0, 3_700, 1, None);
    line.feed(&b, "b", 0, 3_700, 1, None);
    assert_eq!(line.close().len(), 369);
    let hours = |line: &mut Line| {
        line.driver.late().iter().map(|l| (l.hour_us - T0) / (3600 * S)).collect::<Vec<_>>()
    };
    let mut late = |t_s: i64, seq: u64| {
        let mut row = row(&a, seq, T0 + t_s * S + 1, &[("a", num(1.0))]);
        row.append_us = T0 + 4000 * S;
        line.driver.rows(&[row.clone(), row]);
        hours(&mut line)
    };
    assert_eq!(late(100, 4001), vec![0]);
    assert_eq!(late(3_599, 4002), vec![0, 1], "held into the next hour");
    assert_eq!(late(3_695, 4003), Vec::<i64>::new(), "its window is open");
    assert_eq!(late(-3_000, 4004), vec![-1]);
    let mut other = row(&a, 4005, T0 + 100 * S, &[("c", num(1.0))]);
    other.append_us = T0 + 4000 * S;
    line.driver.rows(&[other]);
    assert!(line.driver.late().is_empty(), "no view reads that tag");
}

#[test]
fn the_batch_knows_what_was_known_in_time() {
    let view = Arc::clone(&catalog(TEN_SECONDS).views()[0]);
    let id = stream("gw", 1, "telemetry");
    let mut rows = Vec::new();
    for t in 0..30 {
        let mut row = row(&id, t as u64 + 1, T0 + t * S, &[("a", num(1.0))]);
        row.append_us = match t {
            3 => T0 + 500 * S,
            15 => T0 + 5_000 * S,
            20.. => T0 + 9_000 * S,
            _ => row.time_us + 200_000,
        };
        rows.push(row);
    }
    let mut driver = BatchDriver::new(view, &machine(), STALL);
    driver.birth(&id, &Birth { tags: vec![birth_tag("a", S, None)], ..Birth::default() });
    driver.rows(&rows);
    let got: Vec<_> = driver
        .run(T0, T0 + 30 * S)
        .iter()
        .map(|r| ((r.event_us - T0) / S, f64_of(r, "n"), (r.created_us - T0) as f64 / 1e6))
        .collect();
    assert_eq!(
        got,
        vec![
            // 500 s is before 10 + 1 + 600 s: waited for.
            (10, Some(10.0), 500.0),
            // 5,000 s is after it: once without, once with; the first could be known at 20 + 1 s.
            (20, Some(9.0), 21.0),
            (20, Some(10.0), 5_000.0),
            // Nothing known in time: once.
            (30, Some(10.0), 9_000.0),
        ]
    );
}

#[test]
fn a_restart_reads_little_and_loses_no_window() {
    let mut line = Line::new(TEN_SECONDS);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    line.feed(&a, "a", 0, 3_000, 1, None);
    line.feed(&b, "b", 0, 3_000, 1, None);
    let _ = line.driver.close();
    let saved = line.driver.save();
    assert!(saved.len() == 1 && saved[0].1.len() < 2_000, "{} bytes", saved[0].1.len());
    assert!(line.driver.save().is_empty(), "nothing changed since");
    let mut again = Line::new(TEN_SECONDS);
    again.driver.restore(&machine(), &saved[0].1);
    let from = again.driver.rows_from_us(&machine());
    assert_eq!(
        (from - T0) / S,
        2_990 - 10 - 600,
        "the window, and the longest hold of a tag without a birth"
    );
    again.driver.restore(&machine(), b"from another version");
    assert_eq!(
        again.driver.closed_until_us(&catalog(TEN_SECONDS).views()[0].clone(), &machine()),
        Some(T0 + 2_990 * S)
    );
}

#[test]
fn a_long_window_keeps_panes_and_not_points() {
    let text = TEN_SECONDS.replace("size = \"10 s\"", "size = \"8 h\"");
    let mut line = Line::new(&text);
    let (a, b) = (Arc::clone(&line.a), Arc::clone(&line.b));
    let mut closed = Vec::new();
    for minute in 0..485 {
        let from = minute * 60;
        line.feed(&a, "a", from, from + 60, from as u64 + 1, None);
        line.feed(&b, "b", from, from + 60, from as u64 + 1, None);
        closed.extend(line.close());
        assert!(line.driver.points_in_memory() < 2 * 900, "{}", line.driver.points_in_memory());
    }
    assert_eq!(closed, vec![(T0_TO_END, Some(T0_TO_END as f64), 1.0)]);
    // A row that comes hours late finds its pane's points gone: the window is asked of the lake instead.
    let mut late = row(&a, 30_000, T0 + T0_TO_END * S + 60 * S, &[("a", num(1.0))]);
    line.feed(&a, "a", 29_100, 40_000, 29_101, None);
    line.feed(&b, "b", 29_100, 40_000, 29_101, None);
    assert_eq!(line.close(), vec![]);
    late.append_us = T0 + 41_000 * S;
    line.driver.rows(&[late]);
    assert!(line.driver.late().is_empty(), "its window is open");
    line.feed(&a, "a", 40_000, 60_000, 40_001, None);
    line.feed(&b, "b", 40_000, 60_000, 40_001, None);
    assert_eq!(line.close(), vec![]);
    assert_eq!(
        line.driver.late().iter().map(|l| l.hour_us + 3600 * S).collect::<Vec<_>>(),
        vec![T0 + 2 * 28_800 * S]
    );
}

#[test]
fn a_counter_goes_on_after_a_bad_reading_that_was_long_ago() {
    let text = TEN_SECONDS.replace("count(a)", "increase(a)");
    let mut driver = StreamDriver::new(catalog(&text), STALL);
    let id = stream("gw", 1, "telemetry");
    driver.heard(&id, "telemetry", T0);
    driver.birth(&id, &Birth { tags: vec![birth_tag("a", 30 * S, None)], ..Birth::default() });
    let points = [
        (5, num(10.0)),
        (15, Cell::Bad(Quality::TIMEOUT)),
        (22, Cell::Bad(Quality::TIMEOUT)),
        (35, num(14.0)),
        (52, num(15.0)),
    ];
    let mut got = Vec::new();
    for (n, (t, cell)) in points.into_iter().enumerate() {
        driver.rows(&[row(&id, n as u64 + 1, T0 + t * S, &[("a", cell)])]);
        driver.contiguous(&id, n as u64 + 1);
        got.extend(driver.close().iter().map(brief).map(|(end, n, _)| (end, n)));
    }
    assert_eq!(got, vec![(10, Some(0.0)), (20, Some(0.0)), (40, Some(4.0)), (50, Some(0.0))]);
}

#[test]
fn open_cells_are_given_before_they_close() {
    let text = TEN_SECONDS
        .replace("window = { size = \"10 s\" }", "window = \"latest\"")
        .replace("count(a)", "a")
        .replace("mean(b)", "b");
    let mut line = Line::new(&text);
    let a = Arc::clone(&line.a);
    let b = Arc::clone(&line.b);
    line.feed(&a, "a", 0, 3, 1, None);
    line.feed(&b, "b", 0, 1, 1, None);
    assert_eq!(line.driver.close().len(), 0);
    let open: Vec<_> = line.driver.open().iter().map(brief).collect();
    assert_eq!(open, vec![(2, Some(2.0), 0.0)], "the newest cell; b's value is no longer held");
    assert!(line.driver.open().is_empty(), "nothing new");
    line.feed(&b, "b", 1, 6, 2, None);
    line.feed(&a, "a", 3, 4, 4, None);
    assert_eq!(line.close(), vec![(0, Some(0.0), 1.0), (1, Some(1.0), 1.0)]);
}
