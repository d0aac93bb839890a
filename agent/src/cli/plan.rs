//! `millrace-agent plan`: the requests of every poll cycle, their bytes, and the load of every bus.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use comfy_table::{Cell, CellAlignment, Table as Grid};
use serde_json::{Value, json};

use super::check;
use crate::config::{Bus, Config, Device};
use crate::source::modbus::load::{FASTEST_REPLY, load, share};
use crate::source::modbus::plan::{Request, plan};

/// Length of every request over TCP: header (7), function, address, count. *Units*: bytes.
///
/// *Source*: Modbus Messaging on TCP/IP Implementation Guide V1.0b, section 3.1.
const REQUEST_BYTES: usize = 12;

/// Prints the plan of a configuration; problems go to standard error.
#[must_use]
pub fn run(config: &Path, json: bool) -> ExitCode {
    let (mut out, mut problems) = (io::stdout().lock(), io::stderr().lock());
    let code = match write(config, json, &mut out, &mut problems) {
        Ok(code) => code,
        // Who closes the pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => super::not_printed(&error, &mut problems),
    };
    code.into()
}

fn write(path: &Path, json: bool, out: &mut impl Write, problems: &mut impl Write) -> io::Result<u8> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(found) => return check::refuse(&found, json, out, problems),
    };
    if json {
        let buses: Vec<_> = config.buses.iter().map(bus_json).collect();
        let assumed_reply_us = u64::try_from(FASTEST_REPLY.as_micros()).unwrap_or(u64::MAX);
        writeln!(out, "{}", json!({ "buses": buses, "assumed_reply_us": assumed_reply_us }))?;
        return Ok(0);
    }
    for bus in &config.buses {
        writeln!(out, "bus {}, {}, load at least {}", bus.name, bus.endpoint, percent(load(bus)))?;
        for device in &bus.devices {
            device_text(bus, device, out)?;
        }
        writeln!(out)?;
    }
    if config.buses.is_empty() {
        writeln!(out, "no [[bus]]; nothing is polled")?;
        return Ok(0);
    }
    let reply = FASTEST_REPLY.as_millis();
    writeln!(
        out,
        "The load counts {reply} ms for each reply, and the pauses; slower devices make it larger."
    )?;
    Ok(0)
}

fn device_text(bus: &Bus, device: &Device, out: &mut impl Write) -> io::Result<()> {
    let requests = plan(device);
    let sent = requests.len() * REQUEST_BYTES;
    let received: usize = requests.iter().map(Request::reply_bytes).sum();
    writeln!(
        out,
        "\n{} unit {}: {} tags every {:?}, {} requests, {sent} bytes sent, {received} received, {} of the bus",
        device.machine,
        device.unit_id,
        device.tags.len(),
        device.poll_interval,
        requests.len(),
        percent(share(bus, device, &requests)),
    )?;
    let mut grid = Grid::new();
    grid.load_style(comfy_table::presets::NOTHING);
    grid.set_header(["function", "table", "from", "to", "count", "bytes", "tags"]);
    for request in &requests {
        let last = u32::from(request.address) + u32::from(request.count) - 1;
        let number = |n: usize| Cell::new(n).set_alignment(CellAlignment::Right);
        grid.add_row([
            number(request.function().into()),
            Cell::new(request.table.word()),
            number(request.address.into()),
            number(last as usize),
            number(request.count.into()),
            number(REQUEST_BYTES + request.reply_bytes()),
            Cell::new(names(device, request).join(" ")),
        ]);
    }
    writeln!(out, "{}", grid.trim_fmt())
}

fn percent(share: f64) -> String {
    // A sum of nothing is -0.
    format!("{:.1} %", share * 100.0 + 0.0)
}

fn names<'d>(device: &'d Device, request: &Request) -> Vec<&'d str> {
    request.tags.iter().filter_map(|&place| device.tags.get(place)).map(|tag| &*tag.name).collect()
}

fn bus_json(bus: &Bus) -> Value {
    let devices: Vec<_> = bus.devices.iter().map(|device| device_json(bus, device)).collect();
    json!({
        "name": bus.name, "endpoint": bus.endpoint, "load_percent": load(bus) * 100.0, "devices": devices,
    })
}

fn device_json(bus: &Bus, device: &Device) -> Value {
    let requests = plan(device);
    let shown: Vec<_> = requests
        .iter()
        .map(|request| {
            json!({
                "function": request.function(), "table": request.table.word(), "address": request.address,
                "count": request.count, "request_bytes": REQUEST_BYTES,
                "reply_bytes": request.reply_bytes(), "tags": names(device, request),
            })
        })
        .collect();
    json!({
        "machine": device.machine.as_str(), "unit_id": device.unit_id,
        "poll_interval_us": u64::try_from(device.poll_interval.as_micros()).unwrap_or(u64::MAX),
        "load_percent": share(bus, device, &requests) * 100.0, "requests": shown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"version = 1
[agent]
id = "gw"
site = "hall3"
[kafka]
brokers = ["127.0.0.1:9092"]
[[bus]]
name = "line-a"
endpoint = "tcp://192.0.2.10:502"
pause = "4 ms"
[[device]]
machine = "m"
bus = "line-a"
unit_id = 3
poll_interval = "100 ms"
tags = [
  { name = "a", address = 100, type = "f32" },
  { name = "b", address = 110, type = "u16" },
  { name = "c", table = "coil", address = 3 },
]
"#;

    fn planned(text: &str, json: bool) -> (u8, String, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        let (mut out, mut problems) = (Vec::new(), Vec::new());
        let code = write(&path, json, &mut out, &mut problems).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (code, text(out), text(problems))
    }

    #[test]
    fn plan_shows_every_request_with_its_bytes_and_the_load_of_the_bus() {
        let (code, out, _) = planned(CONFIG, false);
        assert_eq!(code, 0);
        let words: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[0].join(" "), "bus line-a, 192.0.2.10:502, load at least 10.0 %");
        assert_eq!(
            words[2].join(" "),
            "hall3/m unit 3: 3 tags every 100ms, 2 requests, 24 bytes sent, 41 received, 10.0 % of the bus"
        );
        assert!(words.contains(&vec!["1", "coil", "3", "3", "1", "22", "c"]), "{out}");
        assert!(words.contains(&vec!["3", "holding", "100", "110", "11", "43", "a", "b"]), "{out}");
    }

    #[test]
    fn plan_is_the_same_in_json() {
        let (code, out, _) = planned(CONFIG, true);
        let value: Value = serde_json::from_str(&out).unwrap();
        let device = &value["buses"][0]["devices"][0];
        assert_eq!((code, &device["load_percent"]), (0, &json!(10.0)));
        assert_eq!(
            device["requests"][1],
            json!({
                "function": 3, "table": "holding", "address": 100, "count": 11, "request_bytes": 12,
                "reply_bytes": 31, "tags": ["a", "b"],
            })
        );
    }

    #[test]
    fn configuration_with_a_problem_is_not_planned() {
        let (code, out, problems) = planned(&CONFIG.replace("type = \"u16\"", "type = \"u17\""), false);
        assert_eq!((code, &*out), (64, ""));
        assert!(problems.ends_with("1 problem; nothing was started\n"), "{problems}");
    }
}
