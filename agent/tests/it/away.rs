//! Kafka goes away and comes back while the program runs: one line each, rows on disk, flat memory.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::device::Device;
use crate::kafka::Broker;
use crate::program::{PATIENCE, Running, output};

/// How long Kafka is away while memory is looked at.
const AWAY: Duration = Duration::from_secs(10);
/// The most by which memory may grow in the second half of it. *Units*: KiB.
const GROWTH_MAX_KIB: u64 = 8 * 1024;
const LOST: &str = "no Kafka broker can be reached; rows stay on disk";
const FOUND: &str = "Kafka takes records";

/// A device with eighty tags that is polled every five milliseconds.
fn configuration(folder: &tempfile::TempDir, device: &Device, broker: &Broker) -> PathBuf {
    let tag = |n: u16| format!("{{ name = \"t{n}\", address = {n}, type = \"u16\" }}");
    let text = format!(
        r#"version = 1
[agent]
id = "gw"
site = "hall3"
data_dir = "{data}"
[status]
listen = "127.0.0.1:0"
[kafka]
brokers = ["{brokers}"]
topic_prefix = "m"
options = {{ "reconnect.backoff.max.ms" = "300" }}
[buffer]
sync_interval = "20 ms"
[[bus]]
name = "line-a"
endpoint = "tcp://{device}"
[[device]]
machine = "press"
bus = "line-a"
unit_id = 1
poll_interval = "5 ms"
tags = [ {tags} ]
"#,
        data = folder.path().join("data").display(),
        brokers = broker.address(),
        device = device.address,
        tags = (0..80).map(tag).collect::<Vec<_>>().join(", "),
    );
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// Gives the memory of a process. *Source*: proc(5), `VmRSS` in kB.
fn resident_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Gives numbered and waiting rows.
fn rows(address: &str) -> (u64, u64) {
    let (code, out, err) = output(&["status", "--json", "--address", address]);
    assert_eq!(code, Some(0), "{err}");
    let books: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(books["balanced"], true, "{books}");
    let rows = &books["transport"][0]["rows"];
    (rows["numbered"].as_u64().unwrap_or(0), rows["waiting"].as_u64().unwrap_or(0))
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn kafka_goes_and_comes_with_one_line_each_while_rows_pile_up_on_disk_and_not_in_memory() {
    let (folder, device, broker) =
        (tempfile::tempdir().unwrap(), Device::start(), Broker::start(&["m.telemetry"]));
    let mut running = Running::start(&configuration(&folder, &device, &broker));
    let address = running.address();
    running.log_to(FOUND);
    broker.down();
    let mut log = running.log_to(LOST);

    let (begun, mut half) = (Instant::now(), None);
    let mut samples = Vec::new();
    while begun.elapsed() < AWAY {
        std::thread::sleep(Duration::from_millis(250));
        samples.push(resident_kib(running.id()));
        if half.is_none() && begun.elapsed() > AWAY / 2 {
            half = Some((samples.len(), rows(&address)));
        }
    }
    let (at_half, (_, waiting_at_half)) = half.unwrap();
    let (_, waiting) = rows(&address);
    assert!(
        waiting > waiting_at_half && waiting_at_half > 100,
        "{waiting_at_half}, then {waiting} rows wait"
    );
    let growth = samples[at_half..].iter().max().unwrap().saturating_sub(samples[at_half - 1]);
    println!("{waiting} rows wait; memory {samples:?} KiB, {growth} KiB more in the second half");
    assert!(growth <= GROWTH_MAX_KIB, "{growth} KiB more: {samples:?}");

    broker.up();
    log.extend(running.log_to(FOUND));
    until("the backlog is gone", || rows(&address).1 < waiting_at_half);
    assert_eq!(running.signal("-TERM").0, Some(0));
    log.extend(running.logged());
    for line in [LOST, FOUND] {
        assert_eq!(log.iter().filter(|l| l.contains(line)).count(), 1, "{line}: {log:#?}");
    }
    let warnings: Vec<_> = log.iter().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
}
