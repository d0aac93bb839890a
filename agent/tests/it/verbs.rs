//! What the verbs print: completions, JSON, and nothing at all into a pipe that nobody reads.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{PATIENCE, Running, agent, configuration, output};

fn json(arguments: &[&str]) -> Value {
    let (code, out, err) = output(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

/// Tells whether a process listens to a signal. *Source*: proc(5), `SigCgt`, a mask in hexadecimal.
fn is_caught(process: u32, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Runs an agent for a moment, so that there is a buffer.
fn fill(file: &Path) {
    let mut running = Running::start(file);
    let address = running.address();
    let begun = Instant::now();
    while json(&["status", "--json", "--address", &address])["source"][0]["due"].as_u64() < Some(2) {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(running.signal("-TERM").0, Some(0));
}

#[test]
fn completions_of_every_shell_name_the_verbs_and_the_version_is_the_packages() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, err) = output(&["completions", shell]);
        assert_eq!((code, &*err), (Some(0), ""), "{shell}");
        for word in ["millrace-agent", "status", "verify", "completions"] {
            assert!(out.contains(word), "{shell} {word}: {out}");
        }
    }
    let (code, out, _) = output(&["--version"]);
    assert_eq!((code, &*out), (Some(0), concat!("millrace-agent ", env!("CARGO_PKG_VERSION"), "\n")));
    assert_eq!(output(&["completions", "cmd"]).0, Some(64));
}

#[test]
fn every_verb_that_prints_a_table_prints_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = configuration(&folder);
    let config = file.to_str().unwrap();
    fill(&file);
    let plan = json(&["plan", "--json", "--config", config]);
    assert_eq!(plan["buses"].as_array().map(Vec::len), Some(1), "{plan}");
    let check = json(&["check", "--json", "--config", config]);
    assert_eq!((&check["good"], &check["tags"]), (&true.into(), &1.into()), "{check}");
    for verb in ["show", "verify"] {
        let shown = json(&["buffer", verb, "--json", "--config", config]);
        assert_eq!((&shown["agent"], &shown["books"]["balanced"]), (&"gw".into(), &true.into()), "{shown}");
        assert!(shown["streams"][0]["waiting_rows"].as_u64() > Some(0), "{shown}");
        assert_eq!(shown["streams"][0]["unaccounted_rows"], 0, "{shown}");
    }
    let running = Running::start(&file);
    let status = json(&["status", "--json", "--address", &running.address()]);
    assert_eq!(status["balanced"], true, "{status}");
    assert!(status["transport"][0]["rows"]["waiting"].as_u64() > Some(0), "{status}");
}

#[test]
fn what_nobody_reads_ends_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let file = configuration(&folder);
    let config = file.to_str().unwrap();
    fill(&file);
    let quiet = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = agent(arguments).stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert_eq!((ended.status.code(), &*err), (Some(0), ""), "{arguments:?}");
    };
    for verb in [&["check"][..], &["plan"], &["buffer", "show"], &["buffer", "verify"]] {
        quiet(&[verb, &["--config", config]].concat());
        quiet(&[verb, &["--json", "--config", config]].concat());
    }
    for arguments in [&["--help"][..], &["--version"], &["completions", "bash"], &["completions", "zsh"]] {
        quiet(arguments);
    }
    let running = Running::start(&file);
    let address = running.address();
    quiet(&["status", "--address", &address]);
    quiet(&["status", "--json", "--address", &address]);
    // What is lost for another reason than a reader who has seen enough is a failure.
    for arguments in
        [&["check", "--config", config][..], &["plan", "--config", config], &["completions", "bash"]]
    {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let ended = agent(arguments).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let err = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(1) && err.contains("standard output"), "{arguments:?}: {err}");
    }
}

#[test]
fn an_agent_whose_log_nobody_reads_runs_on_and_stops_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let file = configuration(&folder);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child =
        agent(&["run", "--config", file.to_str().unwrap()]).stderr(Stdio::from(writer)).spawn().unwrap();
    // It has something to log when it starts and when it stops. Before it listens, SIGINT would just kill it.
    let begun = Instant::now();
    while !is_caught(child.id(), 2) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", child.try_wait());
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(ended.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
