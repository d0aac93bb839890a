//! From the files to a [`Config`], or to everything that is wrong with them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::{AgentId, MachineName};

use super::device::{self, Files, Seen};
use super::problems::{At, Problems, Sink};
use super::section::Section;
use super::tree::{self, Entry, Table, Value};
use super::{
    Buffer, Bus, Config, DEFAULT_CLOCK_HOLD, DEFAULT_DATA_DIR, DEFAULT_MAX_BYTES, DEFAULT_STATUS_LISTEN,
    DEFAULT_SYNC_INTERVAL, Mqtt, WhenFull, kafka, mqtt,
};
use crate::source::modbus::load::load as modbus_load;

/// The version of the file's language.
const VERSION: i128 = 1;
/// The smallest buffer: a dozen segments of the smallest size (D6). *Units*: bytes.
const MIN_BUFFER_BYTES: u64 = 8 << 20;

impl Config {
    /// Reads `agent.toml` and the files of `conf.d` beside it.
    ///
    /// *Errors*: everything that is wrong, at once.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let sink = Sink::default();
        let config = read(path, &sink);
        match config {
            Some(config) if sink.is_empty() => Ok(config),
            // A part that could not be made was reported; this is the net below that rule.
            None if sink.is_empty() => {
                let at = At { file: file_name(path), line: 0 };
                sink.report(&at, "", "the configuration cannot be used; please report this as a fault");
                Err(sink.into_problems())
            }
            _ => Err(sink.into_problems()),
        }
    }
}

fn read(path: &Path, sink: &Sink) -> Option<Config> {
    let base = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let main = read_file(path, file_name(path), sink);
    let more: Vec<Option<Table>> = conf_d(base, sink)
        .iter()
        .map(|path| read_file(path, format!("conf.d/{}", file_name(path)).into(), sink))
        .collect();
    // What stands in a file that cannot be read is not known: nothing more can be said of the others.
    let (main, more) = (main?, more.into_iter().collect::<Option<Vec<Table>>>()?);
    if !check_version(&main, true, sink) {
        return None;
    }
    let mut tables = vec![main];
    tables.extend(more.into_iter().filter(|table| check_version(table, false, sink)));
    let merged = merge(tables, sink);
    config(Section::new(&merged, String::new(), sink), base)
}

fn file_name(path: &Path) -> Arc<str> {
    path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy()).into()
}

fn read_file(path: &Path, file: Arc<str>, sink: &Sink) -> Option<Table> {
    match std::fs::read_to_string(path) {
        Ok(text) => tree::parse(file, &text, sink),
        Err(error) => {
            let message = format!("{} cannot be read ({error}); write it or name another", path.display());
            sink.report(&At { file, line: 0 }, "", message);
            None
        }
    }
}

/// Gives the `.toml` files of `conf.d` in the order of their names.
fn conf_d(base: &Path, sink: &Sink) -> Vec<PathBuf> {
    let directory = base.join("conf.d");
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let message = format!("the directory cannot be read ({error}); make it readable");
            sink.report(&At { file: "conf.d".into(), line: 0 }, "", message);
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
}

/// Tells whether the file is of a version that can be read.
fn check_version(table: &Table, required: bool, sink: &Sink) -> bool {
    let entry = table.entries.iter().find(|entry| entry.key == "version");
    let (at, message) = match entry.map(|entry| (&entry.node.at, &entry.node.value)) {
        Some((_, Value::Integer(VERSION))) => return true,
        Some((at, Value::Integer(other))) => {
            (at, format!("version {other} is not known to this release; it reads version {VERSION}"))
        }
        Some((at, other)) => (at, format!("version is {}; write version = {VERSION}", other.kind())),
        None if !required => return true,
        None => {
            sink.report(&table.at, "", format!("version is missing; write version = {VERSION} at the top"));
            return true;
        }
    };
    sink.report(at, "", message);
    false
}

/// Puts the files together: lists grow, tables take new keys, a key that is there twice is a problem.
fn merge(tables: Vec<Table>, sink: &Sink) -> Table {
    let mut tables = tables.into_iter();
    let at = At { file: "agent.toml".into(), line: 1 };
    let mut merged = tables.next().unwrap_or(Table { entries: Vec::new(), at });
    for table in tables {
        for entry in table.entries.into_iter().filter(|entry| entry.key != "version") {
            merge_entry(&mut merged, entry, "", sink);
        }
    }
    merged
}

fn merge_entry(into: &mut Table, entry: Entry, path: &str, sink: &Sink) {
    let Some(there) = into.entries.iter_mut().find(|there| there.key == entry.key) else {
        into.entries.push(entry);
        return;
    };
    match (&mut there.node.value, entry.node.value) {
        (Value::List(list), Value::List(more)) if path.is_empty() => list.extend(more),
        (Value::Table(table), Value::Table(more)) if path.is_empty() => {
            for inner in more.entries {
                merge_entry(table, inner, &entry.key, sink);
            }
        }
        _ => {
            let message = format!("{} stands at {} already; keep one", entry.key, there.at);
            sink.report(&entry.at, path, message);
        }
    }
}

fn config(mut top: Section<'_>, base: &Path) -> Option<Config> {
    let sink = top.sink();
    let nothing = Table { entries: Vec::new(), at: At { line: 0, ..top.at().clone() } };
    top.get("version");
    let mut part = |key: &'static str| {
        top.table(key, key.to_owned()).unwrap_or(Section::new(&nothing, key.to_owned(), sink))
    };
    let agent = agent(part("agent"), base);
    let status_listen = status(part("status"));
    let clock_hold = clock(part("clock"));
    let kafka = kafka::kafka(part("kafka"), base);
    let buffer = buffer(part("buffer"));
    let files = Files { base };
    let templates = match top.get("template").map(|node| (node, &node.value)) {
        Some((_, Value::Table(table))) => device::templates(table, files, sink),
        Some((node, _)) => {
            top.wrong("template", node, "[template.name]");
            BTreeMap::new()
        }
        None => BTreeMap::new(),
    };
    let site = agent.as_ref().map_or("site", |agent| agent.site.as_str());
    let buses = buses(&mut top, files, site, &templates);
    let mqtt = brokers(&mut top, agent.as_ref().map(|agent| &agent.id), base);
    if buses.is_empty() && mqtt.is_empty() && sink.is_empty() {
        top.report(top.at(), "there is nothing to read; write [[bus]] and [[device]], or [[mqtt]]");
    }
    top.finish();
    let agent = agent?;
    Some(Config {
        id: agent.id,
        site: agent.site,
        data_dir: agent.data_dir,
        status_listen: status_listen?,
        clock_hold,
        kafka: kafka?,
        buffer: buffer?,
        buses,
        mqtt,
    })
}

struct Agent {
    id: AgentId,
    site: String,
    data_dir: PathBuf,
}

fn agent(mut section: Section<'_>, base: &Path) -> Option<Agent> {
    let text = section.required_text("id", "id = \"…\", unique in the plant, or \"@hostname\"");
    let id = text.and_then(|text| agent_id(&section, text));
    let site = section.required_text("site", "site = \"…\", which stands before every machine's name");
    if let Some(site) = site
        && let Err(error) = MachineName::new(&format!("{site}/x"))
    {
        section.report(&section.line_of("site"), format!("site \"{site}\": {error}"));
    }
    let data_dir = base.join(section.text("data_dir").unwrap_or(DEFAULT_DATA_DIR));
    section.finish();
    Some(Agent { id: id?, site: site?.to_owned(), data_dir })
}

fn agent_id(section: &Section<'_>, text: &str) -> Option<AgentId> {
    let name = match text {
        "@hostname" => match std::fs::read_to_string("/proc/sys/kernel/hostname") {
            Ok(name) => name.trim().to_owned(),
            Err(error) => {
                let message =
                    format!("id \"@hostname\": the machine's name cannot be read ({error}); write a name");
                section.report(&section.line_of("id"), message);
                return None;
            }
        },
        other => other.to_owned(),
    };
    match AgentId::new(&name) {
        Ok(id) => Some(id),
        Err(error) => {
            section.report(&section.line_of("id"), format!("id \"{name}\": {error}"));
            None
        }
    }
}

fn status(mut section: Section<'_>) -> Option<SocketAddr> {
    let text = section.text("listen").unwrap_or(DEFAULT_STATUS_LISTEN);
    section.later("tls", "remove it and listen on a loopback address");
    section.later("token_file", "remove it and listen on a loopback address");
    let message = match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => {
            section.finish();
            return Some(address);
        }
        Ok(_) => format!(
            "listen \"{text}\" is not a loopback address, which needs a token and TLS; they come with a later release, use \"{DEFAULT_STATUS_LISTEN}\""
        ),
        Err(_) => format!("listen \"{text}\" is no address and port; write \"{DEFAULT_STATUS_LISTEN}\""),
    };
    section.report(&section.line_of("listen"), message);
    section.finish();
    None
}

fn clock(mut section: Section<'_>) -> Duration {
    let hold = section.duration_in("hold", Duration::ZERO..=Duration::from_secs(86_400));
    section.finish();
    hold.unwrap_or(DEFAULT_CLOCK_HOLD)
}

fn buffer(mut section: Section<'_>) -> Option<Buffer> {
    let max_bytes = section.size("max_bytes", MIN_BUFFER_BYTES..=1 << 50).unwrap_or(DEFAULT_MAX_BYTES);
    let when_full = match section.text("when_full") {
        None | Some("drop_oldest") => WhenFull::DropOldest,
        Some("drop_newest") => WhenFull::DropNewest,
        Some(word) => {
            let message = format!("when_full \"{word}\" is none; use drop_oldest or drop_newest");
            section.report(&section.line_of("when_full"), message);
            WhenFull::DropOldest
        }
    };
    section.later("priority", "remove it");
    let sync_interval =
        section.duration_in("sync_interval", Duration::from_millis(1)..=Duration::from_secs(60));
    section.finish();
    let sync_interval = sync_interval.unwrap_or(DEFAULT_SYNC_INTERVAL);
    Some(Buffer { max_bytes, when_full, sync_interval })
}

fn buses(
    top: &mut Section<'_>,
    files: Files<'_>,
    site: &str,
    templates: &BTreeMap<String, device::Shape>,
) -> Vec<Bus> {
    let sink = top.sink();
    let tables = top.tables("bus");
    let mut buses: Vec<Bus> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for table in &tables {
        // A bus with a fault is still there for the devices that name it.
        if let Some(name) = table.entries.iter().find(|entry| entry.key == "name")
            && let Value::Text(name) = &name.node.value
        {
            if names.contains(&name.as_str()) {
                sink.report(
                    &table.at,
                    &format!("bus \"{name}\""),
                    "there is a bus of this name already; rename one",
                );
            }
            names.push(name);
        }
        buses.extend(device::bus(Section::new(table, "bus".to_owned(), sink)));
    }
    let mut seen = Seen::default();
    for table in top.tables("device") {
        let section = Section::new(table, "device".to_owned(), sink);
        let device = device::device(section, files, site, templates, &names, &mut seen);
        let Some((bus, device)) = device else { continue };
        if let Some(bus) = buses.iter_mut().find(|known| known.name == bus) {
            bus.devices.push(device);
        }
    }
    for bus in &buses {
        let table = tables.iter().find(|table| is_named(table, &bus.name));
        check_load(bus, table.map_or(top.at(), |table| &table.at), sink);
    }
    buses
}

fn is_named(table: &Table, name: &str) -> bool {
    let is_name = |entry: &Entry| matches!(&entry.node.value, Value::Text(text) if text == name);
    table.entries.iter().any(|entry| entry.key == "name" && is_name(entry))
}

/// More polls than the bus has time for would be skipped for ever.
fn check_load(bus: &Bus, at: &At, sink: &Sink) {
    let load = modbus_load(bus);
    if load > 1.0 {
        let message = format!(
            "the polls of its devices need at least {:.0} % of its time; poll less often, join more tags (max_gap, max_registers) or shorten pause",
            load * 100.0
        );
        sink.report(at, &format!("bus \"{}\"", bus.name), message);
    }
}

fn brokers(top: &mut Section<'_>, agent: Option<&AgentId>, base: &Path) -> Vec<Mqtt> {
    let sink = top.sink();
    let mut brokers: Vec<Mqtt> = Vec::new();
    for table in top.tables("mqtt") {
        let Some(broker) = mqtt::mqtt(Section::new(table, "mqtt".to_owned(), sink), agent, base) else {
            continue;
        };
        let path = format!("mqtt \"{}\"", broker.name);
        if brokers.iter().any(|known| known.name == broker.name) {
            sink.report(&table.at, &path, "there is an MQTT broker of this name already; rename one");
        }
        let same_session = |known: &Mqtt| {
            (&known.host, known.port, &known.client_id) == (&broker.host, broker.port, &broker.client_id)
        };
        if brokers.iter().any(same_session) {
            sink.report(&table.at, &path, "another [[mqtt]] has this broker and client_id; two sessions would end each other, change client_id");
        }
        brokers.push(broker);
    }
    brokers
}
