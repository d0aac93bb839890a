//! What files compile to, and the golden texts of problems.

use std::fmt::Write as _;
use std::path::PathBuf;

use millrace_protocol::{Birth, BirthTag, MachineName, Reporting, ValueType};

use super::*;
use crate::graph::{Mode, Window};

fn compiled(text: &str) -> Result<Catalog, Vec<Problem>> {
    let attributes = |name: &str| match name {
        "press.csv" => Ok("machine,line,rated_kw\nhall3/press-01,L1,7.5\n".to_owned()),
        _ => Err("no such file".to_owned()),
    };
    compile(&[SourceFile { name: "press.toml".to_owned(), text: text.to_owned() }], &attributes)
}

const PRESS: &str = r#"
[[kind]]
name = "press"
machines = ["hall3/press-*"]
attributes_file = "press.csv"
[kind.tags]
bearing_temp = { unit = "degC" }
oil_temp = { unit = "degC" }
power = { unit = "kW" }
mode = { type = "text" }

[[signal]]
name = "state"
kind = "press"
debounce = "5 s"
expr = "case(alarm != 0, 'fault', spindle_rpm > 50, 'run', 'idle')"

[[feature_view]]
name = "press_health_1m"
version = 2
kind = "press"
mode = "stream"
where = "state == 'run'"
window = { size = "1 min", every = "10 s" }
lateness = "5 s"
ttl = "1 h"
[feature_view.features]
temp_gap = "mean(bearing_temp - oil_temp)"
energy = "integral(power)"
load = "mean(power) / attr.rated_kw"
per_part = "energy / made"
made = "increase(parts)"
mode = "last(mode)"
running = "last(door == true)"
starts = "count(rising(spindle_rpm > 50))"

[[feature_view]]
name = "press_day"
kind = "press"
mode = "batch"
run_every = "6 h"
window = { size = "8 h" }
[feature_view.features]
made = "increase(parts)"

[[feature_view]]
name = "press_now"
kind = "press"
window = "latest"
[feature_view.features]
bearing_temp = "bearing_temp"

[[feature_service]]
name = "anomaly"
features = ["press_health_1m", "press_now:bearing_temp"]
"#;

#[test]
fn the_language_of_the_design_compiles() {
    let catalog = compiled(PRESS).unwrap();
    let view = catalog.view("press_health_1m").unwrap();
    let columns: Vec<String> = view
        .schema
        .features
        .iter()
        .map(|c| format!("{} {:?} {}", c.name, c.feature_type, c.unit.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(
        columns,
        [
            "temp_gap F64 degC",
            "energy F64 kW*s",
            "load F64 -",
            "per_part F64 -",
            "made F64 -",
            "mode Text -",
            "running Bool -",
            "starts I64 -"
        ]
    );
    assert_eq!((view.schema.version, view.schema.ttl_us, view.lateness_us), (2, 3_600_000_000, 5_000_000));
    let window = Window::Sliding { size_us: 60_000_000, every_us: 10_000_000, pane_us: None };
    assert_eq!((view.window, view.mode), (window, Mode::Stream));
    assert_eq!(view.expression(0), Some("mean(bearing_temp - oil_temp)"));
    let tags: Vec<&str> = view.feature_tags(0).into_iter().map(|t| &**t).collect();
    assert_eq!(tags, ["bearing_temp", "oil_temp"]);
    let mut all: Vec<&str> = view.tags().map(|t| &**t).collect();
    all.sort_unstable();
    assert_eq!(all, ["alarm", "bearing_temp", "door", "mode", "oil_temp", "parts", "power", "spindle_rpm"]);

    let day = catalog.view("press_day").unwrap();
    let pane_us = Some(600_000_000);
    assert_eq!(day.window, Window::Sliding { size_us: 28_800_000_000, every_us: 28_800_000_000, pane_us });
    assert_eq!(day.mode, Mode::Batch { run_every_us: 21_600_000_000 });
    let press = MachineName::new("hall3/press-01").unwrap();
    assert_eq!(catalog.views_of(&press).count(), 3);
    assert_eq!(catalog.views_of(&MachineName::new("hall3/saw-1").unwrap()).count(), 0);
    assert_eq!(catalog.services()[0].features.iter().map(|(_, f)| f.len()).collect::<Vec<_>>(), [8, 1]);
}

#[test]
fn the_identity_follows_the_meaning_and_not_the_writing() {
    let hash = |text: &str| compiled(text).unwrap().view("press_health_1m").unwrap().schema.graph_hash;
    let same =
        PRESS.replace("bearing_temp - oil_temp", "(bearing_temp)   -  oil_temp").replace("1 min", "60 s");
    assert_eq!(hash(PRESS), hash(&same));
    for (from, to) in [
        ("bearing_temp - oil_temp", "oil_temp - bearing_temp"),
        ("every = \"10 s\"", "every = \"20 s\""),
        ("> 50, 'run'", "> 60, 'run'"),
        ("debounce = \"5 s\"", "debounce = \"6 s\""),
        ("lateness = \"5 s\"", "lateness = \"6 s\""),
        ("where = \"state == 'run'\"", "where = \"state != 'run'\""),
        ("version = 2", "version = 3"),
    ] {
        assert_ne!(hash(PRESS), hash(&PRESS.replacen(from, to, 1)), "{from}");
    }
}

/// Each case of `tests/golden/problems.txt` is a file, a line of dashes, and the problems it has.
#[test]
fn golden_problems_tell_place_and_remedy() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/problems.txt");
    let golden = std::fs::read_to_string(&path).unwrap();
    let (mut written, mut cases) = (String::new(), 0);
    for case in golden.split("=====\n").filter(|case| !case.trim().is_empty()) {
        let input = case.split("-----\n").next().unwrap_or_default();
        let problems = compiled(input).map(|_| Vec::new()).unwrap_or_else(|problems| problems);
        let _ = write!(written, "=====\n{input}-----\n");
        for problem in problems {
            let _ = writeln!(written, "{problem}");
        }
        cases += 1;
    }
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    assert!(cases > 10);
    assert_eq!(golden, written);
}

#[test]
fn no_text_makes_the_compiler_panic_or_hang() {
    for end in 0..PRESS.len() {
        if let Some(head) = PRESS.get(..end) {
            let _ = compiled(head);
        }
    }
    let doubled: String = (1..40).map(|n| format!("f{n} = \"f{m} + f{m}\"\n", m = n - 1)).collect();
    let head = "[[kind]]\nname=\"k\"\nmachines=[\"*\"]\n[[feature_view]]\nname=\"v\"\nkind=\"k\"\nwindow={size=\"1 s\"}\n";
    let problems =
        compiled(&format!("{head}[feature_view.features]\nf0 = \"mean(x)\"\n{doubled}")).unwrap_err();
    assert!(problems.iter().all(|p| p.message.contains("more than 10000 operators")), "{problems:?}");
}

#[test]
fn births_show_what_does_not_fit() {
    let text = "[[kind]]\nname = \"press\"\nmachines = [\"hall3/*\"]\n[[feature_view]]\nname = \"v\"\nkind = \"press\"\n\
        window = { size = \"1 min\" }\n[feature_view.features]\na = \"mean(temp + power)\"\nb = \"std(temp)\"\nc = \"max(tmep)\"\n\
        d = \"mean(mode)\"\ne = \"mean(power)\"\n";
    let catalog = compiled(text).unwrap();
    let tag = |name: &str, value_type, unit: &str, reporting| BirthTag {
        name: name.into(),
        value_type: Some(value_type),
        unit: Some(unit.into()),
        source: "test".into(),
        reporting,
        hold_us: 0,
        counter_modulus: None,
    };
    let cyclic = Reporting::Cyclic { interval_us: 1 };
    let temp = tag("temp", ValueType::F32, "degC", Reporting::ByException { max_interval_us: 1 });
    let power = tag("power", ValueType::F64, "kW", cyclic);
    let mode = tag("mode", ValueType::Text, "", cyclic);
    let birth = Birth { tags: vec![temp, power, mode], ..Birth::default() };
    let machine = |name: &str| MachineName::new(name).unwrap();
    let check = |machines: &[(&str, &Birth)]| {
        let machines = machines.iter().map(|(name, birth)| (machine(name), vec![*birth])).collect();
        let mut problems: Vec<String> = catalog.check(&machines).iter().map(ToString::to_string).collect();
        problems.iter_mut().for_each(|p| p.truncate(p.find('\n').unwrap_or(p.len())));
        problems
    };
    assert_eq!(
        check(&[("hall3/press-01", &birth), ("hall4/saw", &birth)]),
        [
            "press.toml:11:5: hall3/press-01 reports no tag \"tmep\"; did you mean \"temp\"?",
            "press.toml:12:5: \"mode\" of hall3/press-01 is text, and it is used as a number: it will always be NULL; \
             declare it under its kind: tags = { mode = { type = \"text\" } }",
            "press.toml:10:5: std() weighs samples, and hall3/press-01 reports \"temp\" only when it changes; \
             use mean(), min(), max() or p2p(), or poll the tag without a deadband",
            "press.toml:9:11: + needs one unit on both sides, and these are degC and kW (as hall3/press-01 reports them)",
        ]
    );
    assert!(check(&[("hall4/saw", &birth)]).is_empty());
    // One machine more has the tag, and shares one fault with the first.
    let tmep = tag("tmep", ValueType::F64, "degC", cyclic);
    let other = Birth { tags: vec![tmep, birth.tags[2].clone()], ..Birth::default() };
    assert_eq!(
        check(&[("hall3/press-01", &birth), ("hall3/press-02", &other)])[0],
        "press.toml:12:5: \"mode\" of hall3/press-01 is text, and it is used as a number: it will always be NULL; \
         declare it under its kind: tags = { mode = { type = \"text\" } }; so it is with 1 more machine"
    );
    let lacking = Birth::default();
    assert_eq!(
        check(&[("hall3/press-01", &birth), ("hall3/press-02", &lacking)])[0],
        "press.toml:11:5: none of the 2 known machines of kind \"press\" reports a tag \"tmep\"; did you mean \"temp\"?"
    );
}

#[test]
fn what_is_wrong_with_a_view_hides_nothing_else_of_it_and_makes_no_view_missing() {
    const KIND: &str = "[[kind]]\nname = \"press\"\nmachines = [\"hall3/*\"]\n";
    const HEAD: &str = "[[feature_view]]\nname = \"v\"\nkind = \"press\"\n";
    const WINDOW: &str = "window = { size = \"1 min\" }\n";
    const REST: &str = "[feature_view.features]\na = \"maen(temp)\"\n[[feature_service]]\nname = \"s\"\nfeatures = [\"v\"]\n";
    let each = |view: &str, wrong: &str| {
        let problems = compiled(&format!("{KIND}{view}{REST}")).unwrap_err();
        let told: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(told.len(), 2, "{view}: {told:?}");
        assert!(told.iter().any(|text| text.contains(wrong)), "{view}: {told:?}");
        assert!(told.iter().any(|text| text.contains("maen")), "{view}: {told:?}");
    };
    each(&format!("{HEAD}window = {{ size = \"soon\" }}\n"), "soon");
    each(&format!("{HEAD}window = {{ every = \"10 s\" }}\n"), "a window has a size");
    each(&format!("{HEAD}window = {{ calendar = \"shift\" }}\n"), "later release");
    each(&format!("{HEAD}window = \"latets\"\n"), "a window is");
    each(&format!("{HEAD}window = \"1 min\"\n"), "a window is");
    each(HEAD, "has no window");
    // A word that means nothing near: of what form the features are nobody knows.
    let problems = compiled(&format!("{KIND}{HEAD}window = \"current\"\n{REST}")).unwrap_err();
    assert!(problems.len() == 1 && problems[0].message.contains("a window is"), "{problems:?}");
    each(&format!("{HEAD}{WINDOW}mode = \"steam\"\n"), "is no mode");
    each(&format!("{HEAD}{WINDOW}where = \"temp >\"\n"), "a value is expected");
    each(&format!("{HEAD}{WINDOW}where = \"temp + 1\"\n"), "a bool is needed");
    each(&format!("[[feature_view]]\nname = \"v\"\nkind = \"perss\"\n{WINDOW}"), "no kind");
    each(&format!("[[feature_view]]\nname = \"v\"\n{WINDOW}"), "has no kind");
    // Its service asks for a view that has no name, which is a third problem.
    let nameless =
        compiled(&format!("{KIND}[[feature_view]]\nkind = \"press\"\n{WINDOW}{REST}")).unwrap_err();
    assert!(nameless.iter().any(|p| p.message.contains("maen")), "{nameless:?}");
}

#[test]
fn a_circle_hides_no_other_feature_and_a_stray_signal_is_looked_at() {
    let problems = compiled(
        r#"
[[kind]]
name = "press"
machines = ["hall3/*"]
[[signal]]
name = "x"
kind = "perss"
expr = "y > "
[[signal]]
kind = "press"
expr = "absolute(y)"
[[feature_view]]
name = "v"
kind = "press"
window = { size = "1 min" }
[feature_view.features]
a = "b + 1"
b = "a + 1"
c = "maen(temp)"
d = "mean(temp"
e = "d + 1"
"#,
    )
    .unwrap_err();
    let told: Vec<&str> = problems.iter().map(|p| p.message.as_str()).collect();
    assert!(!told.iter().any(|text| text.contains("no feature")), "{told:#?}");
    for wanted in ["no kind", "a value is expected", "has no name", "absolute", "refers to itself", "maen"] {
        assert!(told.iter().any(|text| text.contains(wanted)), "{wanted}: {told:#?}");
    }
}
