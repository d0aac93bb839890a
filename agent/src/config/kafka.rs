//! `[kafka]`: brokers, topics, and librdkafka's own options.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use millrace_link::Security;

use super::device::{host_and_port, joined};
use super::problems::At;
use super::section::Section;
use super::security::security;
use super::tree::{Node, Value};
use super::{DEFAULT_TOPIC_PREFIX, Kafka, OWNED_KAFKA_OPTIONS, PROGRESS_INTERVAL};

pub(super) fn kafka(mut section: Section<'_>, base: &Path) -> Option<Kafka> {
    let security = security(&mut section, base);
    // What is wrong with tls was said; it does not make the brokers wrong, too.
    let has_tls = section.get("tls").is_some();
    if section.get("brokers").is_none() {
        section.missing("brokers", "brokers = [\"127.0.0.1:9092\"]");
    }
    let written = section.texts("brokers");
    if written.as_ref().is_some_and(Vec::is_empty) {
        section.report(&section.line_of("brokers"), "brokers is empty; write at least one host:port");
    }
    let brokers: Vec<String> = written
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(at, text)| broker(&section, at, text, has_tls))
        .collect();
    let topic_prefix = section.text("topic_prefix").unwrap_or(DEFAULT_TOPIC_PREFIX).to_owned();
    let is_topic = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic_prefix.is_empty() || topic_prefix.len() > 100 || !topic_prefix.chars().all(is_topic) {
        let message = format!(
            "topic_prefix \"{topic_prefix}\" cannot begin a topic; write 1 to 100 letters, digits, '.', '_' and '-'"
        );
        section.report(&section.line_of("topic_prefix"), message);
    }
    section.later("max_rate", "remove it");
    section.later("backlog_share", "remove it");
    let options = kafka_options(&mut section);
    let progress_interval =
        section.duration_in("progress_interval", Duration::from_millis(100)..=PROGRESS_INTERVAL);
    section.finish();
    let progress_interval = progress_interval.unwrap_or(PROGRESS_INTERVAL);
    Some(Kafka { brokers, topic_prefix, options, security, progress_interval })
}

fn broker(section: &Section<'_>, at: &At, text: &str, has_tls: bool) -> Option<String> {
    let message = match host_and_port(text, 9092) {
        Some((host, port)) if has_tls || is_loopback(&host) => return Some(joined(&host, port)),
        Some((host, _)) => format!(
            "brokers: {host} is not a loopback address, and plain text goes nowhere else; write tls = {{ ca_file = … }}"
        ),
        None => format!("brokers: \"{text}\" is no host and port; write \"127.0.0.1:9092\""),
    };
    section.report(at, message);
    None
}

fn kafka_options(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let Some(table) = section.table("options", "kafka".to_owned()) else { return BTreeMap::new() };
    let mut options = BTreeMap::new();
    for (key, Node { value, at }) in table.own_keys() {
        let own = OWNED_KAFKA_OPTIONS.contains(&key) || key.starts_with("ssl.") || key.starts_with("sasl.");
        let text = match value {
            Value::Text(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::List(_) | Value::Table(_) | Value::Date => {
                let message = format!(
                    "options: {key} is {}; write a text, with \"quotes\" around a key with dots",
                    value.kind()
                );
                table.report(at, message);
                continue;
            }
        };
        if own {
            table.report(at, format!("options: {key} is set by Millrace itself; remove it"));
            continue;
        }
        if !is_taken_by_librdkafka(key, &text) {
            let message = format!(
                "options: librdkafka does not take {key} = \"{text}\"; see its CONFIGURATION.md for names and values"
            );
            table.report(at, message);
            continue;
        }
        options.insert(key.to_owned(), text);
    }
    options
}

/// Has librdkafka look at one option, without connecting.
fn is_taken_by_librdkafka(key: &str, value: &str) -> bool {
    let options = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let alone = Kafka {
        brokers: vec!["127.0.0.1:9092".to_owned()],
        topic_prefix: DEFAULT_TOPIC_PREFIX.to_owned(),
        options,
        security: Security::default(),
        progress_interval: PROGRESS_INTERVAL,
    };
    crate::uplink::check(&alone).is_ok()
}

/// Tells whether a host is this machine; a name other than localhost may be anyone's.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
