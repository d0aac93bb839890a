//! Buses, templates and devices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::{Category, DEFAULT_CATEGORY, MachineName};

use super::problems::{At, Sink};
use super::section::Section;
use super::tag::{self, ParsedTag, TagDefaults};
use super::tree::{Table, Value};
use super::{
    Bus, DEFAULT_BACKOFF, DEFAULT_MAX_GAP, DEFAULT_POLL_INTERVAL, DEFAULT_RETRIES, DEFAULT_TIMEOUT, Device,
    MAX_COILS, MAX_REGISTERS, RequestLimits, csv,
};

/// Longer silence than this is not meant.
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const MS: Duration = Duration::from_millis(1);

/// What both a template and a device may say; a device's word is the stronger.
#[derive(Debug, Default)]
pub(super) struct Shape {
    poll_interval: Option<Duration>,
    max_registers: Option<u16>,
    max_coils: Option<u16>,
    max_gap: Option<u16>,
    category: Option<Category>,
    address_base: Option<u16>,
    tags: Vec<ParsedTag>,
}

/// Where the files are: `base` is the directory that paths are relative to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    pub(super) base: &'a Path,
}

/// Reads `[[bus]]` without its devices.
pub(super) fn bus(mut section: Section<'_>) -> Option<Bus> {
    let name = section.required_text("name", "name = \"…\", for instance \"line-a\"");
    section.set_path(format!("bus \"{}\"", name.unwrap_or("?")));
    let endpoint = endpoint(&mut section);
    let timeout = section.duration_in("timeout", MS..=HOUR).unwrap_or(DEFAULT_TIMEOUT);
    let retries = section.integer("retries", 0..=10).unwrap_or(DEFAULT_RETRIES);
    let pause = section.duration_in("pause", Duration::ZERO..=HOUR).unwrap_or_default();
    let connect_pause = section.duration_in("connect_pause", Duration::ZERO..=HOUR).unwrap_or_default();
    let close_after_poll = section.flag("close_after_poll", false);
    let backoff = section.duration_in("backoff", MS..=DAY).unwrap_or(DEFAULT_BACKOFF);
    section.finish();
    Some(Bus {
        name: name?.to_owned(),
        endpoint: endpoint?,
        timeout,
        retries,
        pause,
        connect_pause,
        close_after_poll,
        backoff,
        devices: Vec::new(),
    })
}

fn endpoint(section: &mut Section<'_>) -> Option<String> {
    let text = section.required_text("endpoint", "endpoint = \"tcp://host:502\"")?;
    let at = section.line_of("endpoint");
    let later = |what| format!("endpoint \"{text}\": {what} comes with a later release; use tcp://host:port");
    let message = match text.split_once("://") {
        Some(("tcp", rest)) => match host_and_port(rest, 502) {
            Some((host, port)) => return Some(joined(&host, port)),
            None => format!("endpoint \"{text}\" has no host and port; write tcp://host:502"),
        },
        Some(("rtu", _)) => later("Modbus RTU over a serial line"),
        Some(("rtu+tcp", _)) => later("Modbus RTU over TCP"),
        _ => format!("endpoint \"{text}\" is no address of a bus; write tcp://host:502"),
    };
    section.report(&at, message);
    None
}

/// Takes `host`, `host:port`, `[v6]` or `[v6]:port` apart.
pub(super) fn host_and_port(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => default_port,
    };
    (!host.is_empty() && host.chars().all(is_host)).then(|| (host.to_owned(), port))
}

/// Puts host and port together so that they can be resolved.
pub(super) fn joined(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Reads `[template.name]`.
pub(super) fn template(mut section: Section<'_>, files: Files<'_>) -> Shape {
    let shape = shape(&mut section, files, None);
    section.finish();
    shape
}

/// Reads what templates and devices have in common.
fn shape(section: &mut Section<'_>, files: Files<'_>, template: Option<&Shape>) -> Shape {
    let mut shape = Shape {
        poll_interval: section.duration_in("poll_interval", MS..=DAY),
        max_registers: section.integer("max_registers", 1..=MAX_REGISTERS),
        max_coils: section.integer("max_coils", 1..=MAX_COILS),
        max_gap: section.integer("max_gap", 0..=MAX_COILS),
        category: tag::category(section),
        address_base: section.integer("address_base", 0..=1),
        tags: Vec::new(),
    };
    let inherited =
        |own: &Option<Category>| own.clone().or_else(|| template.and_then(|t| t.category.clone()));
    let category = inherited(&shape.category).or_else(|| Category::new(DEFAULT_CATEGORY).ok());
    // The default category is a name, so one is always there.
    let Some(category) = category else { return shape };
    let base = shape.address_base.or_else(|| template.and_then(|t| t.address_base));
    let defaults = TagDefaults { category, address_base: base.unwrap_or(0) };
    let prefix = format!("{}, ", section.path());
    let sink = section.sink();
    shape.tags = from_file(section, files, &defaults, sink);
    for table in section.tables("tags") {
        let tag = Section::new(table, prefix.clone(), sink);
        shape.tags.extend(tag::tag(tag, &prefix, &defaults));
    }
    shape
}

fn from_file(
    section: &mut Section<'_>,
    files: Files<'_>,
    defaults: &TagDefaults,
    sink: &Sink,
) -> Vec<ParsedTag> {
    let Some(path) = section.readable_file("tags_file", files.base) else { return Vec::new() };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("tags_file {} cannot be read ({error}); write UTF-8", path.display());
            section.report(&section.line_of("tags_file"), message);
            return Vec::new();
        }
    };
    let shown = path.strip_prefix(files.base).unwrap_or(&path).display().to_string();
    let tables = csv::tables(&Arc::from(shown), &text, sink);
    tables
        .iter()
        .filter_map(|table| tag::tag(Section::new(table, String::new(), sink), "", defaults))
        .collect()
}

/// What has been read so far of all devices, to find what they must not share.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Which device feeds each stream.
    streams: BTreeMap<(MachineName, Category), At>,
    /// The tag names of each machine.
    tags: BTreeMap<MachineName, BTreeSet<Arc<str>>>,
    attributes: BTreeMap<(MachineName, String), String>,
}

/// Reads `[[device]]`; gives the name of its bus too.
pub(super) fn device(
    mut section: Section<'_>,
    files: Files<'_>,
    site: &str,
    templates: &BTreeMap<String, Shape>,
    buses: &[&str],
    seen: &mut Seen,
) -> Option<(String, Device)> {
    let name = section.required_text("machine", "machine = \"…\", for instance \"press-03\"");
    section.set_path(format!("device \"{}\"", name.unwrap_or("?")));
    let machine = name.and_then(|name| machine(&section, site, name));
    let bus = named_bus(&mut section, buses);
    if section.get("unit_id").is_none() {
        section.missing("unit_id", "unit_id = 0 to 255");
    }
    let unit_id = section.integer("unit_id", 0..=255);
    let template = named_template(&mut section, templates);
    let attributes = attributes(&mut section);
    let own = shape(&mut section, files, template);
    let none = Shape::default();
    let base = template.unwrap_or(&none);
    let limits = RequestLimits {
        max_registers: own.max_registers.or(base.max_registers).unwrap_or(MAX_REGISTERS),
        max_coils: own.max_coils.or(base.max_coils).unwrap_or(MAX_COILS),
        max_gap: own.max_gap.or(base.max_gap).unwrap_or(DEFAULT_MAX_GAP),
    };
    let tags: Vec<&ParsedTag> = base.tags.iter().chain(&own.tags).collect();
    let has_tag_keys =
        template.is_some() || section.get("tags").is_some() || section.get("tags_file").is_some();
    if tags.is_empty() && !has_tag_keys {
        section.report(section.at(), "the device has no tag; write template, tags or tags_file");
    }
    check_widths(&section, &tags, limits);
    if let Some(machine) = &machine {
        check_shared(&section, machine, &tags, &attributes, seen);
    }
    section.finish();
    let device = Device {
        machine: machine?,
        unit_id: unit_id?,
        poll_interval: own.poll_interval.or(base.poll_interval).unwrap_or(DEFAULT_POLL_INTERVAL),
        limits,
        attributes,
        tags: tags.into_iter().map(|parsed| Arc::clone(&parsed.tag)).collect(),
    };
    Some((bus?, device))
}

fn machine(section: &Section<'_>, site: &str, name: &str) -> Option<MachineName> {
    match MachineName::new(&format!("{site}/{name}")) {
        Ok(machine) => Some(machine),
        Err(error) => {
            section.report(&section.line_of("machine"), format!("machine \"{name}\": {error}"));
            None
        }
    }
}

fn named_bus(section: &mut Section<'_>, buses: &[&str]) -> Option<String> {
    let name = section.required_text("bus", "bus = the name of a [[bus]]")?;
    if !buses.contains(&name) {
        let message = format!("bus \"{name}\" is not there; {}", choice(name, buses, "[[bus]]"));
        section.report(&section.line_of("bus"), message);
    }
    Some(name.to_owned())
}

fn named_template<'t>(
    section: &mut Section<'_>,
    templates: &'t BTreeMap<String, Shape>,
) -> Option<&'t Shape> {
    let name = section.text("template")?;
    let template = templates.get(name);
    if template.is_none() {
        let known: Vec<_> = templates.keys().map(String::as_str).collect();
        let message = format!("template \"{name}\" is not there; {}", choice(name, &known, "[template.…]"));
        section.report(&section.line_of("template"), message);
    }
    template
}

/// Says which of the known names may be meant.
fn choice(name: &str, known: &[&str], kind: &str) -> String {
    match known.iter().min_by_key(|known| strsim::damerau_levenshtein(name, known)) {
        Some(nearest) => format!("did you mean \"{nearest}\"?"),
        None => format!("there is no {kind}; write one"),
    }
}

fn attributes(section: &mut Section<'_>) -> BTreeMap<String, String> {
    let path = section.path().to_owned();
    let Some(table) = section.table("attributes", path) else { return BTreeMap::new() };
    let mut attributes = BTreeMap::new();
    for (name, node) in table.own_keys() {
        match &node.value {
            Value::Text(text) => drop(attributes.insert(name.to_owned(), text.clone())),
            Value::Integer(number) => drop(attributes.insert(name.to_owned(), number.to_string())),
            Value::Float(number) => drop(attributes.insert(name.to_owned(), number.to_string())),
            Value::Bool(flag) => drop(attributes.insert(name.to_owned(), flag.to_string())),
            Value::List(_) | Value::Table(_) | Value::Date => {
                table.wrong(&format!("attribute {name}"), node, "a text in quotes");
            }
        }
    }
    attributes
}

/// A tag must fit into one request, so that its value is of one instant.
fn check_widths(section: &Section<'_>, tags: &[&ParsedTag], limits: RequestLimits) {
    for ParsedTag { tag, at, path } in tags {
        let width = tag.decode.width();
        if !tag.table.is_bits() && width > limits.max_registers {
            let message = format!(
                "{} needs {width} registers in one request, but {} has max_registers {}; raise it or make the tag shorter",
                tag.decode.words(),
                section.path(),
                limits.max_registers
            );
            section.sink().report(at, path, message);
        }
    }
}

/// Names are unique in a machine, and a stream has one device: its rows must be in order of time.
fn check_shared(
    section: &Section<'_>,
    machine: &MachineName,
    tags: &[&ParsedTag],
    attributes: &BTreeMap<String, String>,
    seen: &mut Seen,
) {
    let names = seen.tags.entry(machine.clone()).or_default();
    let mut categories = BTreeSet::new();
    for ParsedTag { tag, at, path } in tags {
        if !names.insert(Arc::clone(&tag.name)) {
            section.sink().report(
                at,
                path,
                format!(
                    "{machine} has a tag of this name already; names are unique in a machine, rename one"
                ),
            );
        }
        categories.insert(tag.category.clone());
    }
    for category in categories {
        if let Some(first) = seen.streams.get(&(machine.clone(), category.clone())) {
            let message = format!(
                "category \"{category}\" of {machine} is read by the device at {first} already; give these tags another category"
            );
            section.report(section.at(), message);
        } else {
            seen.streams.insert((machine.clone(), category), section.at().clone());
        }
    }
    for (name, value) in attributes {
        let key = (machine.clone(), name.clone());
        let first = seen.attributes.entry(key).or_insert_with(|| value.clone());
        if first != value {
            let message =
                format!("attribute {name} of {machine} is \"{first}\" at another device; write the same");
            section.report(&section.line_of("attributes"), message);
        }
    }
}

/// Reads every template of `[template]`.
pub(super) fn templates(table: &Table, files: Files<'_>, sink: &Sink) -> BTreeMap<String, Shape> {
    let mut templates = BTreeMap::new();
    for entry in &table.entries {
        let path = format!("template \"{}\"", entry.key);
        match &entry.node.value {
            Value::Table(table) => {
                templates.insert(entry.key.clone(), template(Section::new(table, path, sink), files));
            }
            other => {
                let message =
                    format!("a template is a table, not {}; write [template.{}]", other.kind(), entry.key);
                sink.report(&entry.at, &path, message);
            }
        }
    }
    templates
}
