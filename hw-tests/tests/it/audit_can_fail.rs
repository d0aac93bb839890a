//! The audit of the real program can fail: what is done to a lake behind its back is found and named, with exit code 2.
//!
//! A segment that vanished from the agent's buffer is `dropped_segment`'s.

use std::path::PathBuf;
use std::time::Duration;

use millrace_hw_tests::demo::line::{DEMO_PLANT, Line, sum};
use millrace_hw_tests::demo::programs::wait_for;
use millrace_hw_tests::demo::proof::on_lake;

const LIMIT: Duration = Duration::from_secs(60);

/// What is done, and what the audit says of it.
const DEEDS: [(&str, &str, &str); 3] = [
    (
        "a deleted row",
        "DELETE FROM reading WHERE rowid = (SELECT max(rowid) / 2 FROM reading)",
        "1 rows are missing: sequences ",
    ),
    (
        "a doubled row",
        "INSERT INTO reading SELECT ts + 1, machine_id, stream_id, seq, flush_id, append_ts, quality, flags, layout_id, \
         vals, extra FROM reading WHERE rowid = (SELECT max(rowid) / 2 FROM reading)",
        "1 rows stand in the lake more than once",
    ),
    (
        "a cut ledger",
        "UPDATE stream SET stored = ''",
        "rows stand in the lake and not in the ledger: the ledger was cut or restored from an older copy",
    ),
];

/// The lake's file and the log beside it; the index of the log is made anew.
fn files(line: &Line) -> impl Iterator<Item = PathBuf> {
    ["lake.db", "lake.db-wal"].map(|name| line.folder().join(name)).into_iter()
}

#[test]
fn a_deleted_row_a_doubled_row_and_a_cut_ledger_are_found_and_named_with_exit_code_2() {
    let mut line = Line::start(DEMO_PLANT).unwrap();
    wait_for("rows in the lake", LIMIT, || match line.rows_in_lake()? {
        rows if rows > 100 => Ok(rows),
        rows => Err(format!("{rows} rows")),
    })
    .unwrap();
    line.stop_plant().unwrap();
    wait_for("nothing waiting and nothing in transit", LIMIT, || line.drained()).unwrap();
    line.stop_programs().unwrap();
    let (code, text) = line.collector_verb(&["audit"]).unwrap();
    assert!(code == Some(0) && text.contains("everything adds up"), "{code:?} {text}");
    let whole: Vec<_> = files(&line).map(|file| (file.clone(), std::fs::read(file).ok())).collect();
    let before = sum(&line.audit().unwrap().1, "in_lake");
    for (deed, statement, finding) in DEEDS {
        on_lake(&line, async |lake| lake.spoil(statement).await).unwrap();
        let (code, text) = line.collector_verb(&["audit"]).unwrap();
        assert!(code == Some(2) && text.contains(finding), "{deed}: {code:?} {text}");
        for (file, bytes) in &whole {
            match bytes {
                Some(bytes) => std::fs::write(file, bytes).unwrap(),
                // It need not be there.
                None => drop(std::fs::remove_file(file)),
            }
        }
        drop(std::fs::remove_file(line.folder().join("lake.db-shm")));
        let (code, audit) = line.audit().unwrap();
        assert_eq!((code, sum(&audit, "in_lake")), (Some(0), before), "mended after {deed}");
    }
    line.remove_folder().unwrap();
}
