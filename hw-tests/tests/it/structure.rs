//! House rules that a compiler does not check (docs/architecture.md): stages do not import their
//! neighbours, an outside crate is named in one module, every file says what it owns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Tests may set up what they need by the neighbour's own means.
fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs") || file.contains("/tests/")
}

/// Tells whether a line names an outside crate: its path begins there, and not in a module of ours.
fn names(line: &str, outside: &str) -> bool {
    let path = format!("{outside}::");
    line.match_indices(&path).any(|(at, _)| {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        before.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, ':' | '_')))
    })
}

/// Every Rust source file below a folder of the repository, with its path from there.
fn sources(folder: &str) -> Vec<(String, String)> {
    let base = root().join(folder);
    let mut found = Vec::new();
    let mut folders = vec![base.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// Code without comments: a comment may name a neighbour.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// Gives the modules of its own crate that a file names, each by its first word: `crate::a::b`, `crate::{a, b::c}`.
fn imports(text: &str) -> BTreeSet<String> {
    let code = code(text).collect::<Vec<_>>().join(" ");
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        let group = if rest.starts_with('{') { group(rest) } else { vec![rest] };
        let word = |part: &str| {
            part.trim().split(|c: char| !(c.is_alphanumeric() || c == '_')).next().map(str::to_owned)
        };
        found.extend(group.into_iter().filter_map(word));
    }
    found
}

/// Takes `{a::{b, c}, d}` apart at the commas of its outer level.
fn group(text: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0, 1, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => {
                parts.push(&text[begin..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 1 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts
}

#[test]
fn grouped_imports_are_seen() {
    let text = "use crate::{batch::{Batch, Row},\n    buffer, uplink::Uplink};\n// crate::source\nuse crate::clock::Clock;";
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), ["batch", "buffer", "clock", "uplink"]);
}

/// Gives the outside crates that a crate depends on, as code names them.
fn dependencies(folder: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let lines = text.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let own = lines.take_while(|line| !line.starts_with('['));
    let names = own.filter_map(|line| {
        line.split(['.', '=', ' ']).next().filter(|name| !name.is_empty() && !name.starts_with('#'))
    });
    let found: Vec<String> =
        names.map(|name| name.replace('-', "_")).filter(|name| !name.starts_with("millrace")).collect();
    assert!(!found.is_empty(), "{folder} depends on nothing");
    found
}

/// Tells whether a file belongs to a module: `x.rs` or anything in `x/`.
fn belongs(file: &str, module: &str) -> bool {
    file == format!("{module}.rs") || file.starts_with(&format!("{module}/"))
}

#[test]
fn stages_do_not_import_their_neighbours() {
    let stages = [
        ("agent/src", &["source", "batch", "buffer", "uplink"][..]),
        ("collector/src", &["intake", "ledger", "flush", "lake", "features", "audit", "serve"][..]),
    ];
    // What one stage may know of another, with the reason.
    let allowed = [
        ("agent/src", "batch", "buffer", "the batch stage writes through the buffer's append side"),
        ("agent/src", "uplink", "buffer", "the uplink reads and acknowledges through the buffer's read side"),
        (
            "collector/src",
            "features",
            "lake",
            "features are written in the lake's transaction, by its connection type",
        ),
        ("collector/src", "flush", "intake", "a flush begins with the record that intake read"),
        ("collector/src", "flush", "ledger", "the ledger decides what of a record is new"),
        ("collector/src", "flush", "lake", "rows are written in the lake's transaction"),
        ("collector/src", "flush", "features", "closed windows are written in the same transaction"),
        ("collector/src", "audit", "lake", "the audit reads the lake's tables"),
        ("collector/src", "serve", "features", "the server reads the online store through its read side"),
    ];
    let mut wrong = Vec::new();
    for (folder, stages) in stages {
        for (file, text) in sources(folder).into_iter().filter(|(file, _)| !is_test(file)) {
            let Some(own) = stages.iter().find(|stage| belongs(&file, stage)) else { continue };
            for other in stages.iter().filter(|other| other != &own) {
                let excused = allowed.iter().any(|&(f, a, b, _)| (f, a, b) == (folder, *own, *other));
                let names_it = imports(&text).contains(*other);
                if names_it && !excused {
                    wrong.push(format!("{folder}/{file} imports {other}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn outside_crates_are_named_in_one_module() {
    let homes = [
        ("agent/src", "rdkafka", "uplink"),
        ("agent/src", "sled", "buffer"),
        ("agent/src", "zstd", "buffer"),
        ("agent/src", "rumqttc", "source/mqtt"),
        ("agent/src", "tokio_modbus", "source/modbus"),
        ("collector/src", "rdkafka", "intake"),
        ("collector/src", "sqlx", "lake/db"),
        ("collector/src", "parquet", "features/parquet"),
        ("collector/src", "prometheus", "status"),
        ("hw-tests/src", "rdkafka", "kafka"),
        ("hw-tests/src", "rumqttc", "plant/publisher"),
        ("agent/src", "axum", "status"),
        ("agent/src", "strsim", "config"),
        ("collector/src", "axum", "serve"),
        ("collector/src", "strsim", "config"),
        ("collector/src", "indicatif", "cli"),
    ];
    let mut wrong = Vec::new();
    for (folder, outside, home) in homes {
        for (file, text) in sources(folder) {
            // A module of the same name as the crate behind it is declared beside its user.
            let module_of_ours = text.contains(&format!("mod {outside};"));
            let named = code(&text).any(|line| names(line, outside)) && !module_of_ours;
            if named && !belongs(&file, home) {
                wrong.push(format!("{folder}/{file} names {outside}, whose home is {home}"));
            }
        }
    }
    for folder in ["agent/src", "collector/src", "collector/preprocess/src"] {
        for (file, text) in sources(folder) {
            if code(&text).any(|line| line.contains("serde_cbor::")) {
                wrong.push(format!("{folder}/{file} names serde_cbor, whose home is protocol"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What an outside crate gives is at home in one module of a crate; what every stage speaks is named here.
#[test]
fn only_a_few_outside_crates_are_named_in_many_modules() {
    let spoken = [
        ("tokio", "every stage is a task"),
        ("tokio_util", "every task is told to stop"),
        ("futures_util", "panics of tasks are caught"),
        ("tracing", "every stage logs"),
        ("thiserror", "every library stage has its errors"),
        ("anyhow", "programs have one kind of error"),
        ("serde", "what is written and read says how"),
        ("serde_json", "JSON is both configuration of Feast, answer and state"),
        ("serde_bytes", "bytes are bytes in CBOR"),
        ("serde_cbor", "records and chunks are CBOR; the rule above keeps it in protocol"),
        ("crc32c", "items and chunks have a sum of their own"),
        ("clap", "the command line"),
        ("rand", "epochs and jitter"),
        ("time", "times as people write them"),
        ("humantime", "durations as people write them"),
        ("libm", "mathematics that is the same on every machine"),
        ("tempfile", "folders that go with their run"),
    ];
    let mut wrong = Vec::new();
    for folder in ["protocol", "protocol/link", "agent", "collector", "collector/preprocess", "hw-tests"] {
        for outside in
            dependencies(folder).iter().filter(|name| !spoken.iter().any(|(known, _)| known == name))
        {
            let mut modules = BTreeSet::new();
            for (file, text) in
                sources(&format!("{folder}/src")).into_iter().filter(|(file, _)| !is_test(file))
            {
                let module_of_ours = text.contains(&format!("mod {outside};"));
                if !module_of_ours && code(&text).any(|line| names(line, outside)) {
                    modules.insert(file.split('/').next().unwrap().trim_end_matches(".rs").to_owned());
                }
            }
            if modules.len() > 1 {
                wrong.push(format!("{folder}: {outside} is named in {modules:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_crates_name_neither_clock_nor_task_nor_file() {
    let banned =
        ["std::fs", "std::net", "std::time::Instant", "SystemTime", "std::thread", "tokio", "HashMap"];
    let mut wrong = BTreeSet::new();
    for folder in ["protocol/src", "collector/preprocess/src"] {
        for (file, text) in sources(folder).into_iter().filter(|(file, _)| !is_test(file)) {
            for word in banned {
                if code(&text).any(|line| line.contains(word)) {
                    wrong.insert(format!("{folder}/{file} names {word}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_says_what_it_owns() {
    let mut silent = Vec::new();
    for folder in ["protocol/src", "agent/src", "collector/src", "collector/preprocess/src", "hw-tests/src"] {
        for (file, text) in sources(folder) {
            if !text.starts_with("//! ") {
                silent.push(format!("{folder}/{file}"));
            }
            assert!(!file.ends_with("mod.rs"), "{folder}/{file}: x.rs with x/, no mod.rs");
        }
    }
    assert!(silent.is_empty(), "no //! at the top of {silent:#?}");
}
