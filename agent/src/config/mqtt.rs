//! MQTT brokers and subscriptions.

use std::path::{Path, PathBuf};

use millrace_protocol::{AgentId, Category, DEFAULT_CATEGORY, ITEM_MAX_BYTES};

use super::device::host_and_port;
use super::problems::At;
use super::section::Section;
use super::tag;
use super::{
    DEFAULT_MAX_PACKET, DEFAULT_MQTT_PORT, DEFAULT_RECEIVE_MAXIMUM, Mqtt, Payload, PayloadTag, Subscription,
    Timestamp, TimestampFormat,
};
use crate::source::mqtt::topic::Pattern;

const FORMATS: [(&str, TimestampFormat); 5] = [
    ("rfc3339", TimestampFormat::Rfc3339),
    ("unix_s", TimestampFormat::UnixS),
    ("unix_ms", TimestampFormat::UnixMs),
    ("unix_us", TimestampFormat::UnixUs),
    ("unix_ns", TimestampFormat::UnixNs),
];

/// Reads `[[mqtt]]`.
pub(super) fn mqtt(mut section: Section<'_>, agent: Option<&AgentId>, base: &Path) -> Option<Mqtt> {
    let name = section.required_text("name", "name = \"…\", for instance \"hall3-broker\"");
    section.set_path(format!("mqtt \"{}\"", name.unwrap_or("?")));
    let address = url(&mut section);
    match section.text("protocol") {
        None | Some("3.1.1") => {}
        Some("5") => {
            let message = "protocol \"5\" comes with a later release; use \"3.1.1\"";
            section.report(&section.line_of("protocol"), message);
        }
        Some(other) => {
            let message = format!("protocol \"{other}\" is none; use \"3.1.1\"");
            section.report(&section.line_of("protocol"), message);
        }
    }
    section.later("tls", "remove it and use mqtt:// on a loopback address");
    section.later("session_expiry", "remove it; it belongs to protocol \"5\"");
    let credentials = credentials(&mut section, base);
    let client_id = section.text("client_id").map(str::to_owned);
    let receive_maximum = section.integer("receive_maximum", 1..=10_000).unwrap_or(DEFAULT_RECEIVE_MAXIMUM);
    let max_packet = section.size("max_packet", 1024..=256 << 20).map(|size| size as usize);
    let path = section.path().to_owned();
    let (sink, tables) = (section.sink(), section.tables("subscription"));
    if tables.is_empty() {
        section.missing("subscription", "[[mqtt.subscription]] with topic = \"…\"");
    }
    let subscriptions = tables
        .into_iter()
        .filter_map(|table| subscription(Section::new(table, path.clone(), sink)))
        .collect();
    section.finish();
    let (name, (host, port)) = (name?.to_owned(), address?);
    let default_id = || format!("millrace-{}-{name}", agent.map_or("", AgentId::as_str));
    Some(Mqtt {
        client_id: client_id.unwrap_or_else(default_id),
        host,
        port,
        credentials: credentials.ok()?,
        receive_maximum,
        max_packet: max_packet.unwrap_or(DEFAULT_MAX_PACKET),
        subscriptions,
        name,
    })
}

fn url(section: &mut Section<'_>) -> Option<(String, u16)> {
    let text = section.required_text("url", "url = \"mqtt://127.0.0.1:1883\"")?;
    let message = match text.split_once("://") {
        Some(("mqtt", rest)) => match host_and_port(rest.trim_end_matches('/'), DEFAULT_MQTT_PORT) {
            Some((host, port)) if super::kafka::is_loopback(&host) => return Some((host, port)),
            Some((host, _)) => format!(
                "url \"{text}\": {host} is not a loopback address, which needs TLS; TLS comes with a later release, use mqtt:// on 127.0.0.1"
            ),
            None => format!("url \"{text}\" has no host; write mqtt://host:1883"),
        },
        Some(("mqtts", _)) => {
            format!("url \"{text}\": TLS comes with a later release; use mqtt:// on a loopback address")
        }
        _ => format!("url \"{text}\" is no address of an MQTT broker; write mqtt://host:1883"),
    };
    section.report(&section.line_of("url"), message);
    None
}

/// Reads user name and password file, which belong together; `Err` if it was reported.
fn credentials(section: &mut Section<'_>, base: &Path) -> Result<Option<(String, PathBuf)>, ()> {
    let username = section.text("username").map(str::to_owned);
    let has_file = section.get("password_file").is_some();
    let file = section.readable_file("password_file", base);
    match (username, file) {
        (Some(username), Some(file)) => Ok(Some((username, file))),
        (None, None) if !has_file => Ok(None),
        (Some(_), None) if !has_file => {
            section.missing("password_file", "password_file = the file that holds the password");
            Err(())
        }
        (None, _) => {
            section.missing("username", "username = the name that the password belongs to");
            Err(())
        }
        (Some(_), None) => Err(()),
    }
}

fn subscription(mut section: Section<'_>) -> Option<Subscription> {
    let topic = section.required_text("topic", "topic = \"plant/{machine}/telemetry\"");
    let path = format!("{}, subscription \"{}\"", section.path(), topic.unwrap_or("?"));
    section.set_path(path);
    if let Some(Err(error)) = topic.map(Pattern::parse) {
        section.report(&section.line_of("topic"), format!("topic \"{}\": {error}", topic.unwrap_or("")));
    }
    let qos = section.integer("qos", 0..=1).unwrap_or(1);
    payload(&mut section);
    let timestamp = timestamp(&mut section);
    let rows = rows(&mut section);
    let machines = section.texts("machines").unwrap_or_default();
    let category = tag::category(&mut section).or_else(|| Category::new(DEFAULT_CATEGORY).ok());
    let sink = section.sink();
    let prefix = format!("{}, ", section.path());
    let mut tags: Vec<PayloadTag> = Vec::new();
    for table in section.tables("tags") {
        let tag_section = Section::new(table, prefix.clone(), sink);
        let at: At = table.at.clone();
        let Some(tag) = payload_tag(tag_section, &prefix, category.as_ref()) else { continue };
        if tags.iter().any(|other| other.name == tag.name) {
            let message = "the subscription has a tag of this name already; rename one";
            sink.report(&at, &format!("{prefix}tag \"{}\"", tag.name), message);
        }
        tags.push(tag);
    }
    section.finish();
    Some(Subscription {
        topic: topic?.to_owned(),
        qos,
        payload: Payload::Json,
        timestamp,
        rows,
        machines: machines.into_iter().map(|(_, glob)| glob.to_owned()).collect(),
        tags,
        category: category?,
    })
}

fn payload(section: &mut Section<'_>) {
    let message = match section.text("payload") {
        None | Some("json") => return,
        Some(word @ ("text" | "cbor" | "waveform" | "sparkplug_b")) => {
            format!("payload \"{word}\" comes with a later release; use \"json\"")
        }
        Some(word) => format!("payload \"{word}\" is none; use \"json\""),
    };
    section.report(&section.line_of("payload"), message);
}

fn timestamp(section: &mut Section<'_>) -> Option<Timestamp> {
    let path = format!("{}, timestamp", section.path());
    let mut table = section.table("timestamp", path)?;
    let path = table.required_text("path", "path = \"ts\"").map(str::to_owned);
    check_path(&table, "path", path.as_deref());
    let word = table.required_text("format", "format = \"unix_ms\"");
    let format = word.and_then(|word| FORMATS.iter().find(|(known, _)| *known == word));
    if let (Some(word), None) = (word, format) {
        let known: Vec<_> = FORMATS.iter().map(|(word, _)| *word).collect();
        let message = format!("format \"{word}\" is none; use one of {}", known.join(", "));
        table.report(&table.line_of("format"), message);
    }
    table.finish();
    Some(Timestamp { path: path?, format: format?.1 })
}

fn rows(section: &mut Section<'_>) -> Option<String> {
    let text = section.text("rows")?;
    let list = text.strip_suffix("[*]");
    if list.is_none_or(|list| list.contains('[')) {
        let message = format!(
            "rows \"{text}\" names no array; write its path with [*] at the end, for instance \"samples[*]\""
        );
        section.report(&section.line_of("rows"), message);
    }
    Some(text.to_owned())
}

fn payload_tag(mut section: Section<'_>, prefix: &str, category: Option<&Category>) -> Option<PayloadTag> {
    let name = section.required_text("name", "name = \"…\"");
    section.set_path(format!("{prefix}tag \"{}\"", name.unwrap_or("?")));
    let name = name.filter(|name| tag::check_name(&section, name));
    let path = section.required_text("path", "path = \"bearing.temp\"").map(str::to_owned);
    check_path(&section, "path", path.as_deref());
    let unit = section.text("unit").map(str::to_owned);
    let category = tag::category(&mut section).or_else(|| category.cloned());
    section.text("description");
    section.finish();
    Some(PayloadTag { name: name?.to_owned(), path: path?, unit, category: category? })
}

fn check_path(section: &Section<'_>, key: &str, path: Option<&str>) {
    if path.is_some_and(|path| path.is_empty() || path.split('.').any(str::is_empty)) {
        let message = format!(
            "{key} has an empty step; write keys with dots between them, for instance \"bearing.temp\""
        );
        section.report(&section.line_of(key), message);
    }
}

// A payload must fit into a raw row at worst (D2).
const _: () = assert!(DEFAULT_MAX_PACKET <= ITEM_MAX_BYTES);
