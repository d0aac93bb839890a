//! From `collector.toml` and `conf.d` to a [`Config`], with every problem at once.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::Category;
use toml::de::DeTable;

use super::problem::{Place, Problem, Source};
use super::reader::{Problems, Section};
use super::security::security;
use super::{Config, Flush, Kafka, Limits};
use crate::intake;

const DATA_DIR: &str = "/var/lib/millrace/collector";
const FEATURES_DIR: &str = "/etc/millrace/features.d";
const STALL_AFTER: Duration = Duration::from_secs(600);
const TOPIC_PREFIX: &str = "millrace";
const FLUSH_MIN: Duration = Duration::from_millis(100);
/// Points that make a flush due before `min` (D12).
const FLUSH_MAX_POINTS: u64 = 5_000;
const FEAST_PROJECT: &str = "plant";
const LISTEN: &str = "127.0.0.1:6570";
const READY_WITHOUT_KAFKA: Duration = Duration::from_secs(30);
/// 2000-01-01: no machine of ours is older, and a clock that lost its battery starts before.
const EARLIEST_US: i64 = 946_684_800_000_000;
const AHEAD: Duration = Duration::from_secs(86_400);

/// librdkafka consumer options that the intake owns (D10), each under every name that it has.
const OWNED_OPTIONS: [&str; 17] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "security.protocol",
    "group.id",
    "group.instance.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
    "statistics.interval.ms",
    "isolation.level",
    "allow.auto.create.topics",
    "fetch.message.max.bytes",
    "max.partition.fetch.bytes",
    "fetch.max.bytes",
    "receive.message.max.bytes",
    "check.crcs",
];

/// Why there is no configuration; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}", .file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The files have problems.
    #[error("{}", listed(.0))]
    Problems(Vec<Problem>),
}

fn listed(problems: &[Problem]) -> String {
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    let count = problems.len();
    format!("{lines}{count} problem{}; nothing was started", if count == 1 { "" } else { "s" })
}

/// Reads a configuration file, and the `*.toml` of the directory `conf.d` beside it in the order of their names.
///
/// # Errors
/// [`ConfigError::Read`], or [`ConfigError::Problems`] with every problem of every file.
pub fn load(file: &Path) -> Result<Config, ConfigError> {
    let mut files = vec![file.to_owned()];
    let beside = file.with_file_name("conf.d");
    if beside.is_dir() {
        let unreadable = |source| ConfigError::Read { file: beside.clone(), source };
        let entries = std::fs::read_dir(&beside).map_err(unreadable)?;
        let mut more = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| ConfigError::Read { file: beside.clone(), source })?.path();
            if path.extension().is_some_and(|e| e == "toml") {
                more.push(path);
            }
        }
        more.sort();
        files.append(&mut more);
    }
    let mut texts = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)
            .map_err(|source| ConfigError::Read { file: file.clone(), source })?;
        let name =
            file.file_name().map_or_else(|| file.display().to_string(), |n| n.to_string_lossy().into_owned());
        texts.push((name, text));
    }
    read(&texts)
}

/// Reads a configuration from (name, text) of its files; later files add to the tables of earlier ones.
///
/// # Errors
/// [`ConfigError::Problems`] with every problem of every file.
pub fn read(files: &[(String, String)]) -> Result<Config, ConfigError> {
    let sources: Vec<Source> = files
        .iter()
        .map(|(name, text)| Source { file: Arc::from(name.as_str()), text: text.clone() })
        .collect();
    let mut problems = Problems::new();
    let mut tables = Vec::new();
    for source in &sources {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            problems.push(source.problem(error.span(), error.message().trim().replace('\n', "; ")));
        }
        tables.push((Place { source, bytes: 0..0 }, table.into_inner()));
    }
    let mut config = None;
    if let Some(first) = sources.first()
        && problems.is_empty()
    {
        let mut top = Section::new(first, "", tables);
        config = whole(&mut top, &mut problems);
        top.end(&mut problems);
    }
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::Problems(problems)),
    }
}

fn whole(top: &mut Section<'_>, problems: &mut Problems) -> Option<Config> {
    version(top, problems);
    let mut section = top.table(problems, "collector");
    section.later(problems, "id", "members of a consumer group come with several workers; leave the key out");
    let data_dir = path(&mut section, problems, "data_dir", DATA_DIR);
    let features_dir = match section.text(problems, "features_dir") {
        None => PathBuf::from(FEATURES_DIR),
        Some((at, text)) => {
            let folder = PathBuf::from(&text);
            // A folder that is asked for by name and is not there is a slip; without the key there are no features.
            if !folder.is_dir() {
                let message = format!("{text:?} is no folder; make it, or leave the key out");
                section.wrong(problems, Some(at), "features_dir", &message);
            }
            folder
        }
    };
    let stall_after = section.duration(problems, "stall_after", STALL_AFTER);
    section.end(problems);
    let kafka = kafka(top, problems);
    top.later(problems, "topics", "`topics apply` comes with a later release; leave the table out");
    let lake_file = lake(top, problems);
    let mut section = top.table(problems, "flush");
    let min = section.duration(problems, "min", FLUSH_MIN);
    let max_points = section.whole(problems, "max_points", FLUSH_MAX_POINTS, 1..=10_000_000);
    section.end(problems);
    let limits = limits(top, problems);
    top.later(problems, "archive", "the Parquet archive comes with a later release; leave the table out");
    let mut section = top.table(problems, "online_store");
    let default = format!("sqlite:{}", data_dir.join("online.db").display());
    let online_file = sqlite_file(&mut section, problems, "url", Some(default));
    section.later(problems, "password_file", "Redis comes with a later release; SQLite has no password");
    section.later(problems, "tls", "Redis comes with a later release; SQLite has no network");
    section.end(problems);
    let mut section = top.table(problems, "feast");
    let feast_project = match section.text(problems, "project") {
        None => FEAST_PROJECT.to_owned(),
        Some((at, text)) => {
            // Feast's own rule.
            let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            if text.is_empty() || text.starts_with('_') || !text.chars().all(is_good) {
                let message = format!(
                    "Feast takes no project {text:?}; use letters, digits, '_' and '-', no '_' first"
                );
                section.wrong(problems, Some(at), "project", &message);
            }
            text
        }
    };
    section.end(problems);
    let (serve_listen, ready_without_kafka) = serve(top, problems);
    Some(Config {
        data_dir,
        features_dir,
        stall_after,
        kafka,
        lake_file: lake_file?,
        flush: Flush { min, max_points: usize::try_from(max_points).unwrap_or(usize::MAX) },
        limits,
        online_file: online_file?,
        feast_project,
        serve_listen,
        ready_without_kafka,
    })
}

fn version(top: &mut Section<'_>, problems: &mut Problems) {
    let before = problems.len();
    const MISSING: u64 = 0;
    if top.whole(problems, "version", MISSING, 1..=1) == MISSING && problems.len() == before {
        top.wrong(problems, None, "version", "is missing; write version = 1 in the first line");
    }
}

fn path(section: &mut Section<'_>, problems: &mut Problems, key: &'static str, default: &str) -> PathBuf {
    PathBuf::from(section.text(problems, key).map_or(default.to_owned(), |(_, text)| text))
}

fn kafka(top: &mut Section<'_>, problems: &mut Problems) -> Kafka {
    let mut section = top.table(problems, "kafka");
    let (security, has_tls) = security(&mut section, problems);
    let mut brokers = Vec::new();
    for (at, broker) in section.texts(problems, "brokers") {
        match host_and_port(&broker) {
            None => section.wrong(problems, Some(at), "brokers", &format!("{broker:?} is not host:port")),
            Some(host) if !has_tls && !is_loopback(host) => {
                let message = format!(
                    "{broker:?} is not a loopback address, and plain text goes nowhere else; write tls = {{ ca_file = … }}"
                );
                section.wrong(problems, Some(at), "brokers", &message);
            }
            Some(_) => brokers.push(broker),
        }
    }
    let topic_prefix = match section.text(problems, "topic_prefix") {
        None => TOPIC_PREFIX.to_owned(),
        Some((at, prefix)) => {
            if Category::new(&prefix).is_err() || !prefix.is_ascii() {
                let message = format!("{prefix:?} is no topic name; use letters, digits, '.', '_' and '-'");
                section.wrong(problems, Some(at), "topic_prefix", &message);
            }
            prefix
        }
    };
    section.later(problems, "group", "a consumer group comes with several workers; leave the key out");
    let mut options = BTreeMap::new();
    for (at, name, value) in section.options(problems, "options") {
        if OWNED_OPTIONS.contains(&name.as_str()) || name.starts_with("ssl.") || name.starts_with("sasl.") {
            section.wrong(
                problems,
                Some(at),
                &format!("options.{name}"),
                "belongs to Millrace; leave it out",
            );
        } else if !intake::takes_option(&name, &value) {
            let message =
                format!("librdkafka does not take {value:?}; see its CONFIGURATION.md for names and values");
            section.wrong(problems, Some(at), &format!("options.{name}"), &message);
        } else {
            options.insert(name, value);
        }
    }
    section.end(problems);
    Kafka { brokers, topic_prefix, options, security }
}

fn lake(top: &mut Section<'_>, problems: &mut Problems) -> Option<PathBuf> {
    let mut section = top.table(problems, "lake");
    let file = sqlite_file(&mut section, problems, "url", None);
    section.later(
        problems,
        "password_file",
        "PostgreSQL comes with the next release; SQLite has no password",
    );
    section.later(problems, "tls", "PostgreSQL comes with the next release; SQLite has no network");
    for key in ["hot", "archive_after", "retention", "max_bytes"] {
        section.later(
            problems,
            key,
            "packing, archive and retention come with a later release; leave the key out",
        );
    }
    section.end(problems);
    file
}

/// Reads `sqlite:/path`.
fn sqlite_file<'a>(
    section: &mut Section<'a>,
    problems: &mut Problems,
    key: &'static str,
    default: Option<String>,
) -> Option<PathBuf> {
    let (at, url): (Option<Place<'a>>, String) = match default {
        None => section.required(problems, key).map(|(at, url)| (Some(at), url))?,
        Some(default) => section.text(problems, key).map_or((None, default), |(at, url)| (Some(at), url)),
    };
    let file =
        url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")).filter(|f| !f.is_empty());
    if let Some(file) = file {
        return Some(PathBuf::from(file));
    }
    let scheme = url.split(':').next().unwrap_or_default();
    let message = match scheme {
        "postgresql" | "postgres" => {
            "PostgreSQL comes with the next release; use sqlite:/path/to/file.db".to_owned()
        }
        "redis" | "rediss" | "redis+sentinel" | "redis+cluster" => {
            "Redis comes with the next release; use sqlite:/path/to/file.db".to_owned()
        }
        _ => format!("{url:?} is not sqlite:/path/to/file.db"),
    };
    section.wrong(problems, at, key, &message);
    None
}

fn limits(top: &mut Section<'_>, problems: &mut Problems) -> Limits {
    let mut section = top.table(problems, "limits");
    let mut earliest_us = EARLIEST_US;
    if let Some((at, text)) = section.text(problems, "earliest") {
        match humantime::parse_rfc3339_weak(&format!("{text}T00:00:00Z"))
            .or_else(|_| humantime::parse_rfc3339_weak(&text))
        {
            Ok(time) => {
                let since = time.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros());
                earliest_us = i64::try_from(since).unwrap_or(EARLIEST_US);
            }
            Err(_) => {
                let message = format!("{text:?} is no date; write it as \"2000-01-01\"");
                section.wrong(problems, Some(at), "earliest", &message);
            }
        }
    }
    let ahead = section.duration(problems, "ahead", AHEAD);
    section.end(problems);
    Limits { earliest_us, ahead }
}

fn serve(top: &mut Section<'_>, problems: &mut Problems) -> (SocketAddr, Duration) {
    let default = SocketAddr::from(([127, 0, 0, 1], 6570));
    let mut section = top.table(problems, "serve");
    let (at, text) =
        section.text(problems, "listen").map_or((None, LISTEN.to_owned()), |(at, t)| (Some(at), t));
    let listen = match text.parse::<SocketAddr>() {
        Ok(listen) if listen.ip().is_loopback() => listen,
        Ok(_) => {
            let message = format!(
                "{text:?} is not a loopback address; tokens and TLS come with the next release, listen on 127.0.0.1"
            );
            section.wrong(problems, at, "listen", &message);
            default
        }
        Err(_) => {
            section.wrong(problems, at, "listen", &format!("{text:?} is not address:port"));
            default
        }
    };
    section.later(problems, "token_file", "tokens come with the next release; leave the key out");
    section.later(problems, "tls", "TLS comes with the next release; leave the key out");
    let ready_without_kafka = section.duration(problems, "ready_without_kafka", READY_WITHOUT_KAFKA);
    section.end(problems);
    (listen, ready_without_kafka)
}

fn host_and_port(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    (!host.is_empty() && port > 0).then(|| host.trim_matches(['[', ']']))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
