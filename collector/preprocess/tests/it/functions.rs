//! Every function against values computed by hand or with numpy 2.x (named in each table).

use std::sync::Arc;

use millrace_preprocess::{FeatureValue, InputRow};
use millrace_protocol::*;

use crate::it::plant::*;

/// Points of `x`, held 10 s: one before the window [0 s, 60 s), gaps from 36 s to 41 s and 57 s to 58 s.
const POINTS: [(i64, f64); 9] =
    [(-3, 4.0), (2, 1.5), (7, -2.0), (13, 8.0), (20, 8.0), (26, 3.25), (41, 10.0), (47, -1.0), (58, 6.0)];

fn birth(tags: &[(&str, i64, Option<u64>)]) -> Birth {
    let tags = tags.iter().map(|(name, hold_s, modulus)| birth_tag(name, hold_s * S, *modulus));
    Birth { tags: tags.collect(), ..Birth::default() }
}

fn points(tag: &str, points: &[(i64, Cell)]) -> Vec<InputRow> {
    let stream = stream("gw", 1, "telemetry");
    let each = points.iter().enumerate();
    each.map(|(n, (t, cell))| row(&stream, n as u64 + 1, t * S, &[(tag, cell.clone())])).collect()
}

fn numbers(list: &[(i64, f64)]) -> Vec<(i64, Cell)> {
    list.iter().map(|&(t, x)| (t, num(x))).collect()
}

/// Evaluates expressions over one window of a minute that ends at 60 s.
fn minute(birth: &Birth, rows: &[InputRow], features: &[(&str, &str)]) -> millrace_preprocess::FeatureRow {
    let view = view("window = { size = \"1 min\" }", features);
    let mut out = run(&view, birth, rows, 0, 60);
    assert_eq!(out.len(), 1, "one window");
    out.remove(0)
}

fn close(got: Option<f64>, expected: Option<f64>, what: &str) {
    match (got, expected) {
        (Some(a), Some(b)) => assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{what}: {a} is not {b}"),
        (a, b) => assert_eq!(a, b, "{what}"),
    }
}

#[test]
fn aggregates_give_what_numpy_gives() {
    let cases = [
        ("mean(x)", 3.740740740740741),
        ("integral(x)", 202.0),
        ("coverage(x)", 0.9),
        ("count(x)", 8.0),
        ("sum(x)", 33.75),
        ("min(x)", -2.0),
        ("max(x)", 10.0),
        ("p2p(x)", 12.0),
        ("std(x)", 4.174770764664809),
        ("var(x)", 17.4287109375),
        ("rms(x)", 5.935196921754155),
        ("quantile(x, 0.9)", 8.6),
        ("quantile(x, 0.5)", 4.625),
        ("quantile(x, 0.25)", 0.875),
        ("quantile(x, 0)", -2.0),
        ("quantile(x, 1)", 10.0),
        ("slope(x)", 0.05152519893899202),
        ("first(x)", 4.0),
        ("last(x)", 6.0),
        ("delta(x)", 2.0),
        ("duration(x > 3)", 33.0),
        ("share(x > 3)", 0.6111111111111112),
        ("transitions(x)", 7.0),
        ("count(x > 3)", 5.0),
        ("age(x)", 2.0),
    ];
    let names: Vec<String> = (0..cases.len()).map(|n| format!("f{n}")).collect();
    let features: Vec<(&str, &str)> =
        names.iter().map(String::as_str).zip(cases.iter().map(|c| c.0)).collect();
    let row = minute(&birth(&[("x", 10, None)]), &points("x", &numbers(&POINTS)), &features);
    for (name, (expr, expected)) in names.iter().zip(cases) {
        close(f64_of(&row, name), Some(expected), expr);
    }
    close(Some(row.coverage), Some(0.9), "the row's coverage");
    assert_eq!(row.event_us, 60 * S);
}

#[test]
fn values_of_one_instant_give_what_mathematics_gives() {
    let cases = [
        ("max(abs(x))", Some(10.0)),
        ("min(clamp(x, 0, 5))", Some(0.0)),
        ("max(clamp(x, 0, 5))", Some(5.0)),
        ("max(sqrt(x))", Some(3.1622776601683795)),
        ("max(log(x))", Some(std::f64::consts::LN_10)),
        ("min(exp(x))", Some(0.1353352832366127)),
        ("count(sqrt(x))", Some(6.0)),
        ("count(1 / (x - 8))", Some(6.0)),
        ("max(if(x > 3, 1, 2))", Some(2.0)),
        ("sum(case(x > 9, 100, x < 0, 10, 1))", Some(125.0)),
        ("sum(case(x > 9, 100))", Some(100.0)),
        ("max(coalesce(sqrt(x), 7))", Some(7.0)),
        ("max(x) / (min(x) + 2)", None),
        ("max(x) - -min(x) * 2", Some(6.0)),
        ("if(max(x) > 5 and not (min(x) > 0), 1, 0)", Some(1.0)),
        ("max(x * attr.rated)", Some(40.0)),
        ("attr.rated * max(x)", Some(40.0)),
        ("duration(attr.line == 'L1')", Some(60.0)),
    ];
    for (expr, expected) in cases {
        let row = minute(
            &birth(&[("x", 10, None)]),
            &points("x", &numbers(&POINTS)),
            &[("n", "count(x)"), ("f", expr)],
        );
        close(f64_of(&row, "f"), expected, expr);
    }
}

#[test]
fn rows_are_seen_along_time() {
    let birth = birth(&[("x", 30, None)]);
    let rows = points("x", &numbers(&[(0, 0.0), (10, 1.0), (20, 5.0), (30, 0.0), (40, 0.0), (50, 2.0)]));
    let cases = [
        ("count(rising(x > 0))", 2.0),
        ("count(falling(x > 0))", 1.0),
        ("transitions(x > 0)", 3.0),
        // 1/10, 4/10, -5/10, 0, 2/10 per second, each held 10 s.
        ("max(rate(x))", 0.4),
        ("min(rate(x))", -0.5),
        ("count(rate(x))", 5.0),
        ("mean(rate(x))", 0.04),
        // x of 15 s ago: 0 from 15 s, 1 from 25 s, 5 from 35 s, 0 from 45 s.
        ("max(lag(x, '15 s'))", 5.0),
        ("integral(lag(x, '15 s'))", 60.0),
        ("integral(x - lag(x, 10))", 20.0),
    ];
    for (expr, expected) in cases {
        let row = minute(&birth, &rows, &[("f", expr)]);
        close(f64_of(&row, "f"), Some(expected), expr);
    }
}

#[test]
fn counters_know_resets_and_overflows_and_add_up() {
    let counter = |modulus| birth(&[("n", 30, modulus)]);
    let cases = [
        ("grows", None, vec![(-5, 100.0), (10, 103.0), (50, 110.0)], Some(10.0)),
        ("nothing before", None, vec![(10, 103.0), (50, 110.0)], Some(7.0)),
        ("one value", None, vec![(10, 103.0)], Some(0.0)),
        ("reset", None, vec![(-5, 100.0), (10, 4.0), (20, 6.0)], Some(6.0)),
        ("overflow", Some(65536), vec![(-5, 65530.0), (10, 4.0)], Some(10.0)),
        ("reset, not overflow", Some(65536), vec![(-5, 100.0), (10, 4.0)], Some(4.0)),
        ("silence longer than hold", None, vec![(-40, 100.0), (10, 103.0), (11, 104.0)], Some(1.0)),
        ("silence inside", None, vec![(1, 100.0), (55, 130.0)], Some(30.0)),
    ];
    for (what, modulus, list, expected) in cases {
        let row = minute(&counter(modulus), &points("n", &numbers(&list)), &[("f", "increase(n)")]);
        close(f64_of(&row, "f"), expected, what);
    }
    // A bad reading loses nothing, and neighbouring windows add up to the total.
    let mut list: Vec<(i64, Cell)> = (0..12).map(|n| (n * 10 + 3, num((n * n) as f64))).collect();
    list.insert(6, (58, Cell::Bad(Quality::TIMEOUT)));
    let view = view("window = { size = \"20 s\" }", &[("f", "increase(n)")]);
    let out = run(&view, &counter(None), &points("n", &list), 0, 120);
    assert_eq!(out.iter().filter_map(|row| f64_of(row, "f")).sum::<f64>(), 121.0);
}

#[test]
fn nothing_known_is_null_and_gives_no_row() {
    let view = view("window = { size = \"10 s\" }", &[("m", "mean(x)"), ("n", "count(x)")]);
    let birth = birth(&[("x", 5, None)]);
    let rows =
        points("x", &[(1, num(1.0)), (21, Cell::Bad(Quality::TIMEOUT)), (31, num(f64::NAN)), (41, num(2.0))]);
    let out = run(&view, &birth, &rows, 0, 60);
    let ends: Vec<(i64, Option<f64>, f64)> =
        out.iter().map(|r| (r.event_us / S, f64_of(r, "m"), r.coverage)).collect();
    assert_eq!(ends, vec![(10, Some(1.0), 0.5), (50, Some(2.0), 0.5)]);
}

#[test]
fn where_chooses_time_and_samples() {
    let stream = stream("gw", 1, "telemetry");
    let cells = [(0, "run", 1.0), (10, "idle", 5.0), (20, "run", 3.0), (40, "fault", 7.0)];
    let rows: Vec<InputRow> = cells
        .iter()
        .enumerate()
        .map(|(n, (t, state, x))| {
            row(&stream, n as u64 + 1, t * S, &[("state", text(state)), ("x", num(*x))])
        })
        .collect();
    let birth = birth(&[("x", 60, None), ("state", 60, None)]);
    let features = [
        ("m", "mean(x)"),
        ("n", "count(x)"),
        ("s", "sum(x)"),
        ("t", "duration(state == 'run')"),
        ("last", "last(state)"),
    ];
    let view = view("window = { size = \"1 min\" }\nwhere = \"state == 'run'\"", &features);
    let out = run(&view, &birth, &rows, 0, 60);
    // run from 0 to 10 with 1, from 20 to 40 with 3
    close(f64_of(&out[0], "m"), Some(70.0 / 30.0), "mean");
    close(f64_of(&out[0], "n"), Some(2.0), "count");
    close(f64_of(&out[0], "s"), Some(4.0), "sum");
    close(f64_of(&out[0], "t"), Some(30.0), "duration");
    assert_eq!(out[0].values[4], Some(FeatureValue::Text("run".into())));
    assert_eq!(out[0].coverage, 1.0);
    let never = Arc::clone(&crate::it::plant::view(
        "window = { size = \"1 min\" }\nwhere = \"state == 'off'\"",
        &features,
    ));
    assert!(run(&never, &birth, &rows, 0, 60).is_empty(), "an empty domain gives no row");
}

#[test]
fn debounced_signals_wait_until_a_value_is_steady() {
    let text = "[[kind]]\nname = \"press\"\nmachines = [\"h/*\"]\n\
        [[signal]]\nname = \"state\"\nkind = \"press\"\ndebounce = \"5 s\"\nexpr = \"if(rpm > 50, 'run', 'idle')\"\n\
        [[feature_view]]\nname = \"v\"\nkind = \"press\"\nwindow = { size = \"1 min\" }\n[feature_view.features]\n\
        run = \"duration(state == 'run')\"\nflips = \"transitions(state)\"\n";
    let view = Arc::clone(&catalog(text).views()[0]);
    // steady from -10 s; a flicker of 2 s at 10 s; run from 20 s (taken over at 25 s) to 40 s (45 s)
    let list = [(-10, 0.0), (10, 90.0), (12, 0.0), (20, 90.0), (40, 0.0)];
    let out = run(&view, &birth(&[("rpm", 60, None)]), &points("rpm", &numbers(&list)), 0, 60);
    close(f64_of(&out[0], "run"), Some(20.0), "run");
    close(f64_of(&out[0], "flips"), Some(2.0), "flips");
}

#[test]
fn latest_gives_one_row_for_each_cell_with_a_point() {
    let view = view(
        "window = \"latest\"\nmin_interval = \"2 s\"",
        &[("x", "x"), ("state", "state == 'run'"), ("age", "age(x)"), ("double", "last(x) * 2")],
    );
    let stream = stream("gw", 1, "telemetry");
    let rows = [
        row(&stream, 1, 500_000, &[("x", num(1.0))]),
        row(&stream, 2, 1_500_000, &[("x", num(2.0)), ("state", text("run"))]),
        row(&stream, 3, 4_250_000, &[("state", text("idle"))]),
        row(&stream, 4, 20 * S, &[("state", text("run"))]),
    ];
    let out = run(&view, &birth(&[("x", 10, None), ("state", 10, None)]), &rows, 0, 60);
    let got: Vec<_> = out
        .iter()
        .map(|r| (r.event_us, f64_of(r, "x"), r.values[1].clone(), f64_of(r, "age"), r.created_us))
        .collect();
    let yes = |b| Some(FeatureValue::Bool(b));
    assert_eq!(
        got,
        vec![
            (1_500_000, Some(2.0), yes(true), Some(0.0), 2 * S),
            (4_250_000, Some(2.0), yes(false), Some(2.75), 6 * S),
            (20 * S, None, yes(true), None, 22 * S),
        ]
    );
}

#[test]
fn long_windows_merge_panes_to_the_same_values() {
    let list: Vec<(i64, f64)> = (0..3600).map(|n| (n, ((n * 7919) % 1000) as f64 * 0.25 - 60.0)).collect();
    let rows = points("x", &numbers(&list));
    let features = [
        ("mean", "mean(x)"),
        ("std", "std(x)"),
        ("slope", "slope(x)"),
        ("rms", "rms(x)"),
        ("sum", "sum(x)"),
        ("max", "max(x)"),
        ("q", "quantile(x, 0.9)"),
        ("flips", "transitions(x > 0)"),
        ("delta", "delta(x)"),
        ("share", "share(x > 0)"),
    ];
    let view = view("window = { size = \"1 h\", every = \"20 min\" }", &features);
    let out = run(&view, &birth(&[("x", 10, None)]), &rows, 0, 3600);
    let row = out.iter().find(|r| r.event_us == 3600 * S).unwrap();
    // numpy: v = (arange(3600) * 7919 % 1000) * 0.25 - 60
    let cases = [
        ("mean", 64.91666666666667),
        ("std", 72.17049162303879),
        ("slope", 6.634516972826214e-05),
        ("rms", 97.07086829848707),
        ("sum", 233700.0),
        ("max", 189.75),
        ("flips", 583.0),
        ("delta", 120.25),
        ("share", 0.7591666666666667),
    ];
    for (name, expected) in cases {
        let got = f64_of(row, name).unwrap();
        assert!((got - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{name}: {got} is not {expected}");
    }
    let q = f64_of(row, "q").unwrap();
    assert!(
        (q - 164.77499999999998).abs() <= 0.005 * 164.77499999999998,
        "the sketch is right to half a percent: {q}"
    );
}
