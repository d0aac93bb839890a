//! Writes the `agent.toml` that fits a running plant.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::config::{PlantConfig, Profile, PublisherProfile};
use super::tag::{Half, Kind, Table, Tag};

/// What the plant cannot know.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// `[agent] id`.
    pub id: String,
    /// `[agent] data_dir`.
    pub data_dir: PathBuf,
    /// `[status] listen`.
    pub status: SocketAddr,
    /// `[kafka] brokers`.
    pub kafka: String,
    /// `[kafka] topic_prefix`.
    pub topic_prefix: String,
}

/// Where a plant listens.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// By bus, in the order of the file.
    pub buses: Vec<(String, SocketAddr)>,
    /// The MQTT broker.
    pub mqtt: Option<SocketAddr>,
}

/// Gives the text of an `agent.toml`.
#[must_use]
pub fn agent_toml(plant: &PlantConfig, addresses: &Addresses, settings: &AgentSettings) -> String {
    let mut text = String::from(
        "# Written by millrace-plant; it is written anew at every start of the plant.\nversion = 1\n",
    );
    head(&mut text, plant, settings);
    for (name, address) in &addresses.buses {
        let timeout = plant
            .buses
            .iter()
            .find(|bus| bus.name == *name)
            .map_or(Duration::from_millis(500), |bus| bus.timeout);
        push(&mut text, format_args!("\n[[bus]]\nname = {}\nendpoint = \"tcp://{address}\"", quoted(name)));
        push(&mut text, format_args!("timeout = {}", time(timeout)));
    }
    for device in &plant.devices {
        push(
            &mut text,
            format_args!(
                "\n[[device]]\nmachine = {}\nbus = {}",
                quoted(&device.machine),
                quoted(&device.bus)
            ),
        );
        push(&mut text, format_args!("unit_id = {}\ntemplate = {}", device.unit_id, quoted(&device.profile)));
        let attributes: Vec<_> = device
            .attributes
            .iter()
            .map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)))
            .collect();
        if !attributes.is_empty() {
            push(&mut text, format_args!("attributes = {{ {} }}", attributes.join(", ")));
        }
    }
    for (name, profile) in &plant.profiles {
        template(&mut text, name, profile);
    }
    if let (Some(mqtt), Some(address)) = (&plant.mqtt, addresses.mqtt) {
        push(
            &mut text,
            format_args!("\n[[mqtt]]\nname = {}\nurl = \"mqtt://{address}\"", quoted(&mqtt.name)),
        );
        // The release that brings MQTT 5 will have another default.
        push(&mut text, format_args!("protocol = \"3.1.1\""));
        for profile in plant.publisher_profiles.values() {
            subscription(&mut text, profile);
        }
    }
    text
}

fn head(text: &mut String, plant: &PlantConfig, settings: &AgentSettings) {
    let data_dir = settings.data_dir.display().to_string();
    push(text, format_args!("\n[agent]\nid = {}\nsite = {}", quoted(&settings.id), quoted(&plant.site)));
    push(text, format_args!("data_dir = {}", quoted(&data_dir)));
    push(text, format_args!("\n[status]\nlisten = \"{}\"", settings.status));
    push(text, format_args!("\n[kafka]\nbrokers = [{}]", quoted(&settings.kafka)));
    push(text, format_args!("topic_prefix = {}", quoted(&settings.topic_prefix)));
}

fn template(text: &mut String, name: &str, profile: &Profile) {
    push(
        text,
        format_args!("\n[template.{}]\npoll_interval = {}", quoted(name), time(profile.poll_interval)),
    );
    push(
        text,
        format_args!("category = {}\nmax_registers = {}", quoted(&profile.category), profile.max_registers),
    );
    if let Some(gap) = profile.max_gap {
        push(text, format_args!("max_gap = {gap}"));
    }
    push(text, format_args!("tags = ["));
    for tag in &profile.tags {
        push(text, format_args!("  {{ {} }},", tag_keys(tag).join(", ")));
    }
    push(text, format_args!("]"));
}

/// Gives `key = value` of everything that the agent knows of a tag.
fn tag_keys(tag: &Tag) -> Vec<String> {
    let table = match tag.table {
        Table::Coil => "coil",
        Table::Discrete => "discrete",
        Table::Holding => "holding",
        Table::Input => "input",
    };
    let mut keys = vec![
        format!("name = {}", quoted(&tag.name)),
        format!("table = \"{table}\""),
        format!("address = {}", tag.address),
        format!("type = \"{}\"", kind(tag.kind)),
    ];
    let mut add =
        |key: &str, value: Option<String>| keys.extend(value.map(|value| format!("{key} = {value}")));
    add("order", tag.order.as_deref().map(quoted));
    add("bit", tag.bit.map(|bit| bit.to_string()));
    let half = (matches!(tag.kind, Kind::U8 | Kind::I8)).then(|| tag.byte.unwrap_or(Half::Low));
    add("byte", half.map(|half| if half == Half::High { "\"high\"" } else { "\"low\"" }.to_owned()));
    add("length", tag.length.map(|length| length.to_string()));
    add("padding", tag.padding.map(|padding| padding.to_string()));
    add("scale", tag.scale.map(float));
    add("offset", tag.offset.map(float));
    let words: Vec<_> =
        tag.words.iter().map(|(number, word)| format!("{number} = {}", quoted(word))).collect();
    add("enum", (!words.is_empty()).then(|| format!("{{ {} }}", words.join(", "))));
    add("counter", tag.counter.map(|counter| format!("{{ modulus = {} }}", counter.modulus)));
    add("unit", tag.unit.as_deref().map(quoted));
    add("category", tag.category.as_deref().map(quoted));
    keys
}

const fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "bool",
        Kind::Bit => "bit",
        Kind::U8 => "u8",
        Kind::I8 => "i8",
        Kind::U16 => "u16",
        Kind::I16 => "i16",
        Kind::U32 => "u32",
        Kind::I32 => "i32",
        Kind::U64 => "u64",
        Kind::I64 => "i64",
        Kind::F32 => "f32",
        Kind::F64 => "f64",
        Kind::Bcd16 => "bcd16",
        Kind::Bcd32 => "bcd32",
        Kind::String => "string",
    }
}

fn subscription(text: &mut String, profile: &PublisherProfile) {
    push(
        text,
        format_args!(
            "\n[[mqtt.subscription]]\ntopic = {}\nqos = 1\npayload = \"json\"",
            quoted(&profile.topic)
        ),
    );
    push(text, format_args!("timestamp = {{ path = \"ts\", format = \"unix_ms\" }}"));
    if !profile.listed {
        return;
    }
    push(text, format_args!("tags = ["));
    for field in &profile.fields {
        let mut keys = vec![
            format!("name = {}", quoted(profile.tag_name(field))),
            format!("path = {}", quoted(&field.path)),
        ];
        keys.extend(field.unit.as_deref().map(|unit| format!("unit = {}", quoted(unit))));
        keys.extend(field.category.as_deref().map(|category| format!("category = {}", quoted(category))));
        push(text, format_args!("  {{ {} }},", keys.join(", ")));
    }
    push(text, format_args!("]"));
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    text.push_str(&line.to_string());
    text.push('\n');
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A float of TOML has a point.
fn float(number: f64) -> String {
    toml::Value::Float(number).to_string()
}

/// Gives a duration as `agent.toml` writes them.
fn time(duration: Duration) -> String {
    format!("\"{} ms\"", duration.as_millis())
}
