//! `millrace-plant` as a process: what it prints, what it takes over HTTP, how it ends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use millrace_hw_tests::truth::decode::TrueValue;
use millrace_hw_tests::truth::readings::Truth;
use serde_json::Value;
use tempfile::TempDir;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plants/demo.toml");

/// A program that runs, with the lines that it printed; killed when dropped.
struct Running {
    child: Child,
    lines: BTreeMap<String, String>,
}

impl Running {
    /// Starts a program and reads its lines up to the one named `last`.
    fn start(arguments: &[&str], last: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-plant"));
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BTreeMap::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let (key, value) = line.split_once('=').unwrap();
            lines.insert(key.to_owned(), value.to_owned());
            if key == last {
                return Self { child, lines };
            }
        }
        panic!("{arguments:?} ended after {lines:?}: {:?}", child.wait());
    }

    fn get(&self, key: &str) -> &str {
        self.lines.get(key).unwrap()
    }

    /// Asks it to end and gives its exit code.
    fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already when it was told to.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Gives status and body of a request.
fn http(method: &str, url: &str, body: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = match method {
        "GET" => agent.get(url).call().unwrap(),
        "DELETE" => agent.delete(url).call().unwrap(),
        _ => agent.post(url).header("content-type", "application/json").send(body).unwrap(),
    };
    let text = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&text).unwrap())
}

/// Reads 23 holding registers of unit 1 and gives the reply's PDU.
fn read_press(address: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&[0, 1, 0, 0, 0, 6, 1, 3, 0, 100, 0, 28]).unwrap();
    let mut reply = vec![0; 9 + 56];
    stream.read_exact(&mut reply).unwrap();
    reply.split_off(7)
}

#[test]
fn the_demo_plant_runs_takes_faults_and_stops_with_its_truth_complete() {
    let dir = TempDir::new().unwrap();
    let place = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (truth, agent) = (place("truth.jsonl"), place("agent.toml"));
    let arguments = ["run", "--config", DEMO, "--truth", &truth, "--write-agent-config", &agent];
    let more = ["--data-dir", "/var/lib/x", "--kafka", "127.0.0.1:9092"];
    let plant = Running::start(&[&arguments[..], &more].concat(), "MILLRACE_PLANT_CONTROL");
    let (control, line_a) =
        (plant.get("MILLRACE_PLANT_CONTROL").to_owned(), plant.get("MILLRACE_MODBUS_LINE_A"));
    let text = std::fs::read_to_string(&agent).unwrap();
    assert!(text.contains(&format!("endpoint = \"tcp://{line_a}\"")), "{text}");
    assert!(text.contains(&format!("url = \"{}\"", plant.get("MILLRACE_MQTT_URL"))), "{text}");

    let good = read_press(line_a);
    assert_eq!(good[..6], [3, 56, 0, 0, 0, 1]);
    let faults = format!("{control}/faults");
    let (status, list) =
        http("POST", &faults, r#"{"machine":"press-01","kind":"exception","code":6,"for":"1 h"}"#);
    assert_eq!((status, list[0]["kind"].as_str()), (200, Some("exception")));
    let mut stream = TcpStream::connect(line_a).unwrap();
    stream.write_all(&[0, 1, 0, 0, 0, 6, 1, 3, 0, 100, 0, 28]).unwrap();
    let mut refusal = [0; 9];
    stream.read_exact(&mut refusal).unwrap();
    assert_eq!(refusal[7..], [0x83, 6]);
    assert_eq!(http("DELETE", &faults, "").1, serde_json::json!([]));
    for (body, status) in [(r#"{"machine":"nobody","kind":"dead"}"#, 404), (r#"{"machine":"press-01"}"#, 400)]
    {
        assert_eq!(http("POST", &faults, body).0, status, "{body}");
    }
    drop(stream);

    let (status, state) = http("POST", &format!("{control}/stop"), "");
    assert_eq!((status, &state["stopped"]), (200, &Value::Bool(true)));
    let truth = Truth::load(truth.as_ref()).unwrap();
    assert!(truth.stopped);
    let press: Vec<_> = truth.readings.iter().filter(|reading| reading.machine == "hall3/press-01").collect();
    // Another test's agent may knock at a port that its own plant has left; it is logged as well.
    assert_eq!(press.first().map(|reading| reading.values.len()), Some(14));
    assert_eq!(press[0].values[0], ("polls_holding".to_owned(), TrueValue::Integer(1)));
    assert_eq!(plant.terminate(), Some(0));
}

#[test]
fn a_plant_that_cannot_be_is_refused_with_the_exit_code_of_a_wrong_configuration() {
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("plant.toml");
    std::fs::write(&config, "version = 1\nsite = \"s\"\nfault = [{ machine = \"x\", kind = \"dead\" }]")
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-plant"));
    let output = command.arg("run").arg("--config").arg(&config).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{log}");
    assert!(log.contains("there is no machine \"x\""), "{log}");
}

#[test]
fn the_kafka_link_is_cut_and_mended_over_http_at_one_address() {
    let broker =
        Running::start(&["broker", "--topics", "a,b", "--partitions", "3"], "MILLRACE_BROKER_LIMITS");
    let (control, kafka) = (broker.get("MILLRACE_BROKER_CONTROL"), broker.get("MILLRACE_KAFKA_BROKERS"));
    for (verb, up) in [("", true), ("down", false), ("down", false), ("up", true)] {
        let method = if verb.is_empty() { "GET" } else { "POST" };
        let (status, state) = http(method, &format!("{control}/{verb}"), "");
        assert_eq!(
            (status, state["up"].as_bool(), state["brokers"].as_str()),
            (200, Some(up), Some(kafka)),
            "{verb}"
        );
        assert_eq!(TcpStream::connect(kafka).is_ok(), up, "{verb}");
    }
    assert_eq!(broker.terminate(), Some(0));
}

#[test]
fn a_demonstration_that_is_told_to_stop_ends_its_programs_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-plant"));
    let mut demo = command
        .arg("demo")
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("points flow")), "it did not come so far");
    let id = demo.id().to_string();
    let ours = || {
        std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(&folder.path().display().to_string())
        })
    };
    assert!(ours(), "its programs run");
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(demo.wait().unwrap().code(), Some(1));
    assert!(!ours(), "its programs ended with it");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its folder is gone");
}
