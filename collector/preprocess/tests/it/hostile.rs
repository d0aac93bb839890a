//! Foreign texts and bytes: whatever stands in a feature file, an attributes file or a saved state, there are problems
//! or there are none, and nothing panics.

use millrace_preprocess::{Problem, SourceFile, StreamDriver, compile};
use millrace_protocol::{Birth, BirthTag, Reporting, ValueType};
use proptest::prelude::*;

use super::plant::*;

const GOOD: &str = r#"
[[kind]]
name = "press"
machines = ["h/*"]
attributes_file = "press.csv"
[kind.tags]
temp = { unit = "degC" }
mode = { type = "text" }
[[signal]]
name = "state"
kind = "press"
debounce = "5 s"
expr = "case(alarm != 0, 'fault', speed > 50, 'run', 'idle')"
[[feature_view]]
name = "v"
version = 2
kind = "press"
mode = "batch"
run_every = "1 h"
where = "state == 'run'"
window = { size = "1 min", every = "10 s" }
lateness = "5 s"
ttl = "1 h"
[feature_view.features]
a = "mean(temp - lag(temp, '7 s')) / attr.rated"
b = "quantile(`temp`, 0.5) + 1e-3 * a"
[[feature_service]]
name = "s"
features = ["v", "v:a"]
"#;

/// What people write, and what nobody would.
const WORDS: &[&str] = &[
    "mean(",
    "lag(",
    "quantile(",
    "case(",
    "rate(",
    "if(",
    ")",
    "(",
    ",",
    "temp",
    "state",
    "a",
    "attr.rated",
    "'",
    "'7 s'",
    "'9999999999 d'",
    "'-1 s'",
    "0",
    "1",
    "-",
    "+",
    "*",
    "/",
    "%",
    "==",
    "not ",
    "and ",
    "or ",
    "1e308",
    "1e999",
    "0.0000000001",
    "9223372036854775808",
    "`",
    "\"",
    "\"\"\"",
    "{",
    "}",
    "[",
    "]",
    "[[",
    "]]",
    "=",
    "\n",
    "#",
    "\\",
    "\\u0000",
    "\u{0}",
    "\u{feff}",
    "é",
    "🏭",
    "\u{202e}",
    "size",
    "every",
    "\"1 us\"",
    "\"0 s\"",
    "latest",
    "true",
    "inf",
    "nan",
    "1979-05-27",
    "version = 4294967296\n",
    "window = \"latest\"\n",
    "[feature_view.features]\n",
];

/// Compiles a file and looks at it in every way that `check` does.
fn checked(text: &str, attributes: &str) -> Result<(), Vec<Problem>> {
    let file = SourceFile { name: "f.toml".to_owned(), text: text.to_owned() };
    let catalog = compile(&[file], &|_| Ok(attributes.to_owned()))?;
    let tag = |name: &str, value_type| BirthTag {
        name: name.into(),
        value_type: Some(value_type),
        unit: Some("kW^999999999999".into()),
        source: "x".into(),
        reporting: Reporting::ByException { max_interval_us: i64::MIN },
        hold_us: i64::MIN,
        counter_modulus: Some(0),
    };
    let birth =
        Birth { tags: vec![tag("temp", ValueType::Text), tag("", ValueType::F64)], ..Birth::default() };
    let _shown: Vec<String> =
        catalog.check(&[(machine(), vec![&birth])].into()).iter().map(ToString::to_string).collect();
    for view in catalog.views() {
        for at in 0..view.schema.features.len() {
            assert!(view.expression(at).is_some() && view.feature_tags(at).len() <= view.tags().count());
        }
    }
    Ok(())
}

/// Problems have places that exist, and can be shown.
fn is_told(result: Result<(), Vec<Problem>>, text: &str) {
    if let Err(problems) = result {
        assert!(!problems.is_empty());
        for problem in problems {
            assert!(problem.line >= 1 && problem.line <= text.matches('\n').count() + 1, "{problem}");
            assert!(problem.to_string().starts_with("f.toml:"), "{problem}");
        }
    }
}

/// Pieces of the good file between which words are put: nearly right is further inside than noise.
fn nearly_right() -> impl Strategy<Value = String> {
    let edit = (0..GOOD.len(), 0..GOOD.len() / 8, prop::sample::select(WORDS));
    prop::collection::vec(edit, 1..5).prop_map(|edits| {
        let mut text = GOOD.to_owned();
        for (at, length, word) in edits {
            let bound = |mut at: usize| {
                at = at.min(text.len());
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let (from, to) = (bound(at), bound(at + length % 12));
            text.replace_range(from..to, word);
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn no_feature_file_makes_the_compiler_panic(text in nearly_right()) {
        is_told(checked(&text, "machine,rated\nh/m,3\n"), &text);
    }

    #[test]
    fn no_expression_makes_the_compiler_panic(words in prop::collection::vec(prop::sample::select(WORDS), 0..30)) {
        let expr = words.concat().replace("'''", "");
        let text = GOOD.replace("mean(temp - lag(temp, '7 s')) / attr.rated", &expr);
        is_told(checked(&text, "machine,rated\nh/m,3\n"), &text);
    }

    #[test]
    fn no_attributes_file_makes_the_compiler_panic(rest in "(machine|valid_from|rated|h/m|[\",\r\n]|2024-0[0-9]-31|\\PC){0,30}") {
        is_told(checked(GOOD, &rest), GOOD);
        is_told(checked(GOOD, &format!("machine,valid_from,rated\nh/m,{rest}")), GOOD);
    }

    #[test]
    fn no_saved_state_makes_the_driver_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 0usize..400) {
        let catalog = catalog(&GOOD.replace("attributes_file = \"press.csv\"\n", "").replace(" / attr.rated", ""));
        let mut driver = StreamDriver::new(catalog, STALL);
        driver.restore(&machine(), &bytes);
        driver.birth(&stream("gw", 1, "t"), &Birth::default());
        let mut saved = driver.save().remove(0).1;
        let at = cut.min(saved.len());
        saved.splice(at.., bytes);
        driver.restore(&machine(), &saved);
        driver.clock("t", i64::MAX);
        prop_assert!(driver.close().is_empty());
    }
}

#[test]
fn nesting_and_length_have_bounds() {
    let deep = format!("{}temp{}", "(".repeat(100_000), ")".repeat(100_000));
    let not = format!("{}temp", "not ".repeat(100_000));
    let signs = format!("{}temp", "-".repeat(100_000));
    let long = format!("temp{}", " + temp".repeat(100_000));
    let calls = format!("{}temp{}", "abs(".repeat(100_000), ")".repeat(100_000));
    for expr in [deep, not, signs, long, calls] {
        let text = GOOD.replace("mean(temp - lag(temp, '7 s')) / attr.rated", &expr);
        let problems = checked(&text, "machine,rated\nh/m,3\n").unwrap_err();
        assert!(problems.iter().any(|p| p.message.contains("at most")), "{:?}", problems[0].message);
    }
    let tables = format!("x = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(checked(&tables, "").is_err());
}
