//! The program itself: exit codes, and a stop while Kafka is away.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-agent"));
    command.args(arguments).env_remove("MILLRACE_LOG");
    command
}

pub(crate) fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = agent(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// Writes a configuration with a broker and a device that nobody runs.
pub(crate) fn configuration(folder: &tempfile::TempDir) -> PathBuf {
    // A privileged port: a free one could be given to another test's server a moment later.
    let nobody = "127.0.0.1:1";
    let text = format!(
        r#"version = 1
[agent]
id = "gw"
site = "hall3"
data_dir = "{data}"
[status]
listen = "127.0.0.1:0"
[[bus]]
name = "line-a"
endpoint = "tcp://{nobody}"
[[device]]
machine = "press"
bus = "line-a"
unit_id = 1
template = "press"
[template.press]
poll_interval = "50 ms"
tags = [ {{ name = "level", address = 1, type = "u16" }} ]
[kafka]
brokers = ["{nobody}"]
"#,
        data = folder.path().join("data").display()
    );
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// A running agent; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    pub(crate) fn start(file: &std::path::Path) -> Self {
        let mut command = agent(&["run", "--config", file.to_str().unwrap()]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    /// Waits until the log has a line with each of the parts, in whatever order, and gives these lines.
    pub(crate) fn lines<const N: usize>(&self, parts: [&str; N]) -> [String; N] {
        let mut found = parts.map(|_| None);
        while found.iter().any(Option::is_none) {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no lines with {parts:?}, only {found:?}"));
            for (part, found) in parts.iter().zip(&mut found) {
                if line.contains(part) {
                    found.get_or_insert(line.clone());
                }
            }
        }
        found.map(Option::unwrap_or_default)
    }

    /// Waits until it has started and gives the address of its pages.
    pub(crate) fn address(&self) -> String {
        let [started] = self.lines(["started"]);
        let address = started.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        address.unwrap().trim_matches('"').to_owned()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads the log up to a line with this part and gives all of it.
    pub(crate) fn log_to(&self, part: &str) -> Vec<String> {
        let mut log: Vec<String> = Vec::new();
        while log.last().is_none_or(|line| !line.contains(part)) {
            let line = self.lines.recv_timeout(PATIENCE);
            log.push(line.unwrap_or_else(|_| panic!("no line with {part:?}, only {log:#?}")));
        }
        log
    }

    /// Gives every line that was logged and not looked at, up to now.
    pub(crate) fn logged(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Sends a signal and waits for the end: the exit code, and how long it took.
    pub(crate) fn signal(&mut self, name: &str) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
        (self.child.wait().unwrap().code(), begun.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn exit_codes_tell_good_from_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let good = configuration(&folder);
    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "version = 1\n[agent]\nid = \"a b\"\nfruit = 1\n").unwrap();
    let unknown = folder.path().join("unknown.toml");
    let text = std::fs::read_to_string(&good).unwrap();
    std::fs::write(&unknown, text + "options = { \"linger.msec\" = \"5\" }\n").unwrap();
    let (good, bad, unknown) = (good.to_str().unwrap(), bad.to_str().unwrap(), unknown.to_str().unwrap());
    let table: [(&[&str], i32, &str); 9] = [
        (&["--version"], 0, "millrace-agent 0."),
        (&["completions", "bash"], 0, "millrace-agent"),
        (&["check", "--config", good], 0, "good"),
        (&["plan", "--config", good], 0, "line-a"),
        (&["check", "--config", bad], 64, "fruit"),
        (&["run", "--config", bad], 64, "nothing was started"),
        (&["check", "--config", unknown], 64, "linger.msec"),
        (&["status", "--address", "127.0.0.1:1"], 1, "is it running"),
        (&["walk"], 64, "walk"),
    ];
    for (arguments, code, part) in table {
        let (got, out, err) = output(arguments);
        assert_eq!(got, Some(code), "{arguments:?}: {out}{err}");
        assert!(out.contains(part) || err.contains(part), "{arguments:?}: {out}{err}");
    }
}

#[test]
fn the_running_agent_has_told_the_allocator_to_keep_little_in_the_process_that_was_started() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Running::start(&configuration(&folder));
    agent.address();
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", agent.id())).unwrap();
    let has = |variable: &str| environment.split('\0').any(|entry| entry == variable);
    assert!(has("MALLOC_ARENA_MAX=1") && has("MALLOC_MMAP_THRESHOLD_=524288"), "{environment}");
}

#[test]
fn sigterm_stops_within_five_seconds_while_kafka_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let file = configuration(&folder);
    let mut running = Running::start(&file);
    let [started, _] = running.lines(["started", "no Kafka broker can be reached; rows stay on disk"]);
    let address = started.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    // The log may have said so before it said "started": the state is asked, not the order of lines.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, out, err) = output(&["status", "--address", address.trim_matches('"')]);
        if code == Some(0) && out.starts_with("degraded; Kafka is down") {
            break;
        }
        assert!(Instant::now() < deadline, "{code:?}: {out}{err}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (code, took) = running.signal("-TERM");
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn ctrl_c_stops_within_five_seconds_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(&configuration(&folder));
    running.address();
    let (code, took) = running.signal("-INT");
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    running.lines(["SIGINT", "stopped"]);
}

#[test]
fn a_second_agent_on_a_data_folder_is_told_of_the_first_and_not_of_its_port() {
    let folder = tempfile::tempdir().unwrap();
    let file = configuration(&folder);
    let running = Running::start(&file);
    let address = running.address();
    let text = std::fs::read_to_string(&file).unwrap();
    let same = folder.path().join("same.toml");
    std::fs::write(&same, text.replace("127.0.0.1:0", &address)).unwrap();
    let (code, _, err) = output(&["run", "--config", same.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("is in use by another agent") && !err.contains("[status] listen"), "{err}");
    // With a folder of its own only the port is in the way.
    let other = folder.path().join("other.toml");
    let text = text.replace("127.0.0.1:0", &address).replace("/data\"", "/other\"");
    std::fs::write(&other, text).unwrap();
    let (code, _, err) = output(&["run", "--config", other.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains(&format!("[status] listen: {address} cannot be used")), "{err}");
}
