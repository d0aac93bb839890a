//! `millrace-agent check`: is the configuration good? All problems at once, exit code 64 if there is one.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::EXIT_USAGE;
use super::connect::{self, Tried};
use crate::config::{Config, Problems};

/// Checks a configuration, and with `connect` its addresses. What is good goes to standard output, problems to standard
/// error; with `json` everything goes to standard output.
#[must_use]
pub fn run(config: &Path, json: bool, connect: bool) -> ExitCode {
    let (mut out, mut problems) = (io::stdout().lock(), io::stderr().lock());
    write(config, json, connect, &mut out, &mut problems).into()
}

/// Gives the exit code. A closed pipe changes nothing about the configuration.
fn write(path: &Path, json: bool, connect: bool, out: &mut impl Write, problems: &mut impl Write) -> u8 {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(found) => return refuse(&found, json, out, problems).unwrap_or(EXIT_USAGE),
    };
    let tried = if connect { connect::try_all(&config) } else { Vec::new() };
    let text = if json {
        good(&config, &tried).to_string()
    } else {
        let lines = tried.iter().map(|(what, refusal)| match refusal {
            None => format!("\n{what}: good"),
            Some(refusal) => format!("\n{what}: {refusal}"),
        });
        format!("{}: {}{}", path.display(), summary(&config), lines.collect::<String>())
    };
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => super::not_printed(&error, problems),
        // The configuration is good; what it points at is not.
        _ => u8::from(tried.iter().any(|(_, refusal)| refusal.is_some())),
    }
}

/// Prints problems, for a script or for a person, and gives the exit code.
pub(super) fn refuse(
    found: &Problems,
    json: bool,
    out: &mut impl Write,
    problems: &mut impl Write,
) -> io::Result<u8> {
    if json {
        writeln!(out, "{}", bad(found))?
    } else {
        writeln!(problems, "{found}")?
    }
    Ok(EXIT_USAGE)
}

fn counts(config: &Config) -> [(&'static str, usize); 5] {
    let devices = || config.buses.iter().flat_map(|bus| &bus.devices);
    [
        ("bus", config.buses.len()),
        ("device", devices().count()),
        ("tag", devices().map(|device| device.tags.len()).sum()),
        ("MQTT broker", config.mqtt.len()),
        ("subscription", config.mqtt.iter().map(|mqtt| mqtt.subscriptions.len()).sum()),
    ]
}

fn summary(config: &Config) -> String {
    let count = |(word, n): (&str, usize)| match (n, word) {
        (1, word) => format!("1 {word}"),
        (n, "bus") => format!("{n} buses"),
        (n, word) => format!("{n} {word}s"),
    };
    format!("good; {}", counts(config).map(count).join(", "))
}

fn good(config: &Config, tried: &[Tried]) -> Value {
    let servers: Vec<Value> = tried
        .iter()
        .map(
            |(what, refusal)| json!({ "server": what, "refusal": refusal.as_ref().map(ToString::to_string) }),
        )
        .collect();
    let [buses, devices, tags, brokers, subscriptions] = counts(config).map(|(_, n)| n);
    json!({
        "good": true, "problems": [], "buses": buses, "devices": devices, "tags": tags,
        "mqtt": brokers, "subscriptions": subscriptions, "servers": servers,
    })
}

fn bad(problems: &Problems) -> Value {
    // Of a file as a whole neither line nor path is known.
    let problem = |p: &crate::config::Problem| {
        let path = Some(&p.path).filter(|path| !path.is_empty());
        let line = Some(p.at.line).filter(|&line| line > 0);
        json!({ "file": &*p.at.file, "line": line, "path": path, "message": p.message })
    };
    json!({ "good": false, "problems": problems.0.iter().map(problem).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"version = 1
[agent]
id = "gw"
site = "hall3"
[kafka]
brokers = ["127.0.0.1:9092"]
[[bus]]
name = "a"
endpoint = "tcp://127.0.0.1:502"
[[device]]
machine = "m"
bus = "a"
unit_id = 1
tags = [{ name = "x", address = 1, type = "u16" }, { name = "y", address = 2, type = "u16" }]
"#;

    fn checked(text: &str, json: bool) -> (u8, String, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        let (mut out, mut problems) = (Vec::new(), Vec::new());
        let code = write(&path, json, false, &mut out, &mut problems);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (code, text(out), text(problems))
    }

    #[test]
    fn good_configuration_is_counted_and_ends_with_zero() {
        let (code, out, problems) = checked(GOOD, false);
        assert_eq!((code, &*problems), (0, ""));
        assert!(out.ends_with("good; 1 bus, 1 device, 2 tags, 0 MQTT brokers, 0 subscriptions\n"), "{out}");
        let (code, out, _) = checked(GOOD, true);
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &value["good"], &value["tags"]), (0, &json!(true), &json!(2)));
    }

    #[test]
    fn every_problem_is_printed_with_their_number_and_ends_with_64() {
        let text = GOOD.replace("unit_id = 1", "unitid = 1");
        let (code, out, problems) = checked(&text, false);
        assert_eq!((code, &*out), (64, ""));
        assert_eq!(
            problems,
            "agent.toml:10: device \"m\": unit_id is missing; write unit_id = 0 to 255\n\
             agent.toml:13: device \"m\": unknown key \"unitid\"; did you mean \"unit_id\"?\n\
             2 problems; nothing was started\n"
        );
        let (code, out, problems) = checked(&text, true);
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &*problems, &value["problems"][1]["line"]), (64, "", &json!(13)));
    }
}
