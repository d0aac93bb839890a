//! A segment of the agent's buffer vanishes while the agent is down: the loss is declared and the audit names it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_hw_tests::demo::line::{DEMO_PLANT, Line, lines, sum};
use millrace_hw_tests::demo::programs::wait_for;
use millrace_hw_tests::demo::proof;

const LIMIT: Duration = Duration::from_secs(60);

/// Finds the folders of segments below a folder: sled keeps a file `db` in each.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.join("db").is_file() {
            found.push(path);
        } else if path.is_dir() {
            found.extend(segments(&path));
        }
    }
    found
}

#[test]
fn a_segment_that_vanished_from_the_buffer_is_a_loss_that_the_audit_names_with_exit_code_2() {
    let mut line = Line::start(DEMO_PLANT).unwrap();
    wait_for("rows in the lake", LIMIT, || match line.rows_in_lake()? {
        0 => Err("no row".to_owned()),
        rows => Ok(rows),
    })
    .unwrap();
    line.cut_link().unwrap();
    let waiting = |books: &serde_json::Value| -> u64 {
        lines(books, "transport").filter_map(|stream| stream["rows"]["waiting"].as_u64()).sum()
    };
    wait_for("rows that wait on the agent's disk", LIMIT, || match waiting(&line.books()?) {
        rows if rows > 20 => Ok(rows),
        rows => Err(format!("{rows} rows wait")),
    })
    .unwrap();
    line.kill_agent().unwrap();
    let vanished = segments(&line.folder().join("agent"));
    assert!(!vanished.is_empty(), "no segment below {}", line.folder().display());
    vanished.iter().for_each(|segment| std::fs::remove_dir_all(segment).unwrap());
    line.start_agent().unwrap();
    line.mend_link().unwrap();
    // The loss goes before every row of the new start.
    let before = line.rows_in_lake().unwrap();
    wait_for("rows of the new start", LIMIT, || match line.rows_in_lake()? {
        rows if rows > before + 20 => Ok(rows),
        rows => Err(format!("{rows} rows")),
    })
    .unwrap();
    line.stop_plant().unwrap();
    wait_for("nothing waiting and nothing in transit", LIMIT, || line.drained()).unwrap();
    line.stop_programs().unwrap();
    let proof = proof::ask(&line).unwrap();
    assert_eq!(proof.audit_exit, Some(2), "{:#}", proof.audit);
    let named = lines(&proof.audit, "streams").filter(|stream| stream["lost_without_end"] == true).count();
    assert!(named > 0, "{:#}", proof.audit);
    assert_eq!(sum(&proof.audit, "missing"), 0, "what is gone is declared: {:#}", proof.audit);
    line.remove_folder().unwrap();
}
