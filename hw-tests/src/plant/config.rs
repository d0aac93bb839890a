//! `plant.toml`, read and checked.
//!
//! Everything that is wrong with the file is said at once, with the key path.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use super::fault::{Fault, human};
use super::tag::{Signal, Tag};

/// Says why a `plant.toml` cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// Where.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or a key is unknown or missing.
    #[error("plant.toml is not understood")]
    Parse(#[from] toml::de::Error),
    /// What it says cannot be.
    #[error("{}", problems.join("\n"))]
    Problems {
        /// One sentence each.
        problems: Vec<String>,
    },
}

/// Everything `plant.toml` says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlantConfig {
    /// The format's version: 1.
    pub version: u32,
    /// The site that stands before every machine's name.
    pub site: String,
    /// Makes the values what they are.
    #[serde(default)]
    pub seed: u64,
    /// The Modbus TCP ports.
    #[serde(default, rename = "bus")]
    pub buses: Vec<BusConfig>,
    /// The units behind them.
    #[serde(default, rename = "device")]
    pub devices: Vec<DeviceConfig>,
    /// What kinds of unit there are.
    #[serde(default, rename = "profile")]
    pub profiles: BTreeMap<String, Profile>,
    /// The MQTT broker.
    #[serde(default)]
    pub mqtt: Option<MqttConfig>,
    /// The machines that publish.
    #[serde(default, rename = "publisher")]
    pub publishers: Vec<PublisherConfig>,
    /// What kinds of publisher there are.
    #[serde(default, rename = "publisher_profile")]
    pub publisher_profiles: BTreeMap<String, PublisherProfile>,
    /// Faults that begin by themselves.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
}

/// A Modbus TCP port.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusConfig {
    /// Its name.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
    /// The time-out of the matching `agent.toml`.
    #[serde(default = "default_timeout", with = "human")]
    pub timeout: Duration,
}

/// A unit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Its machine, without the site.
    pub machine: String,
    /// The port that it is behind.
    pub bus: String,
    /// Its unit id.
    pub unit_id: u8,
    /// What kind of unit it is.
    pub profile: String,
    /// Attributes of the machine.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// A kind of unit: a template of the matching `agent.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// How often the agent shall poll.
    #[serde(with = "human")]
    pub poll_interval: Duration,
    /// The category of tags that name none.
    #[serde(default = "default_category")]
    pub category: String,
    /// What the unit takes in one request.
    #[serde(default = "default_registers")]
    pub max_registers: u16,
    /// How many unwanted registers the agent shall read to join two tags.
    #[serde(default)]
    pub max_gap: Option<u16>,
    /// The tags.
    pub tags: Vec<Tag>,
}

/// The MQTT broker inside the plant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// Its name in the matching `agent.toml`.
    pub name: String,
    /// Where it listens; port 0 takes a free one.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
}

/// A machine that publishes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublisherConfig {
    /// Its name, without the site.
    pub machine: String,
    /// What kind of publisher it is.
    pub profile: String,
    /// The other names of the topic pattern.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// A kind of publisher: a subscription of the matching `agent.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublisherProfile {
    /// With `{machine}` and other names, as in `agent.toml`.
    pub topic: String,
    /// Time between two publishes.
    #[serde(with = "human")]
    pub interval: Duration,
    /// Whether `agent.toml` lists the tags; otherwise it takes every leaf, named by its path.
    #[serde(default)]
    pub listed: bool,
    /// What stands in the payload beside `ts`.
    pub fields: Vec<Field>,
}

/// One leaf of a payload.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// Dotted path.
    pub path: String,
    /// What it shows.
    pub signal: Signal,
    /// The tag's name, where tags are listed; the path if not said.
    #[serde(default)]
    pub name: Option<String>,
    /// The unit's symbol, where tags are listed.
    #[serde(default)]
    pub unit: Option<String>,
    /// The kind of data, where tags are listed.
    #[serde(default)]
    pub category: Option<String>,
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

const fn default_timeout() -> Duration {
    Duration::from_millis(500)
}

fn default_category() -> String {
    "telemetry".to_owned()
}

const fn default_registers() -> u16 {
    125
}

impl PublisherProfile {
    /// Gives the tag name of a field, as the agent will call it.
    #[must_use]
    pub fn tag_name<'a>(&self, field: &'a Field) -> &'a str {
        match &field.name {
            Some(name) if self.listed => name,
            _ => &field.path,
        }
    }
}

impl PublisherConfig {
    /// Gives the topic of one machine.
    #[must_use]
    pub fn topic(&self, profile: &PublisherProfile) -> String {
        let named = profile.topic.replace("{machine}", &self.machine);
        self.attributes
            .iter()
            .fold(named, |topic, (name, value)| topic.replace(&format!("{{{name}}}"), value))
    }
}

impl PlantConfig {
    /// Reads and checks a file.
    ///
    /// *Errors*: every variant of [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Reads and checks a text.
    ///
    /// *Errors*: [`ConfigError::Parse`], [`ConfigError::Problems`] with all of them.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        let mut problems = Vec::new();
        config.check_devices(&mut problems);
        config.check_publishers(&mut problems);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Problems { problems }) }
    }

    fn check_devices(&self, problems: &mut Vec<String>) {
        if self.version != 1 {
            problems.push(format!("version: {} is unknown; this release reads 1", self.version));
        }
        let buses: BTreeSet<&str> = self.buses.iter().map(|bus| bus.name.as_str()).collect();
        let mut units = BTreeSet::new();
        for device in &self.devices {
            let place = format!("device {:?}", device.machine);
            if !buses.contains(device.bus.as_str()) {
                problems.push(format!("{place}: there is no bus {:?}", device.bus));
            }
            if !self.profiles.contains_key(&device.profile) {
                problems.push(format!("{place}: there is no profile {:?}", device.profile));
            }
            if !units.insert((device.bus.as_str(), device.unit_id)) {
                problems.push(format!("{place}: unit id {} is taken on {:?}", device.unit_id, device.bus));
            }
        }
        for (name, profile) in &self.profiles {
            if !(1..=125).contains(&profile.max_registers) {
                problems
                    .push(format!("profile.{name}.max_registers: {} is not 1 to 125", profile.max_registers));
            }
            for tag in &profile.tags {
                if let Some(problem) = tag.problem() {
                    problems.push(format!("profile.{name}, tag {:?}: {problem}", tag.name));
                }
            }
        }
        let loopback =
            self.buses.iter().map(|bus| bus.listen).chain(self.mqtt.iter().map(|mqtt| mqtt.listen));
        for address in loopback.filter(|address| !address.ip().is_loopback()) {
            problems.push(format!("listen: {address} is not a loopback address"));
        }
    }

    fn check_publishers(&self, problems: &mut Vec<String>) {
        if !self.publishers.is_empty() && self.mqtt.is_none() {
            problems.push("publisher: there is no [mqtt] to publish to".to_owned());
        }
        for publisher in &self.publishers {
            let place = format!("publisher {:?}", publisher.machine);
            match self.publisher_profiles.get(&publisher.profile) {
                None => {
                    problems.push(format!("{place}: there is no publisher_profile {:?}", publisher.profile))
                }
                Some(profile) => {
                    let topic = publisher.topic(profile);
                    if topic.contains(['{', '+', '#']) {
                        problems.push(format!("{place}: topic {topic} still has a pattern in it"));
                    }
                }
            }
        }
        let mut machines = BTreeSet::new();
        for machine in self.machines() {
            if !machines.insert(machine) {
                problems.push(format!("machine {machine:?} is there twice"));
            }
        }
        for fault in self.faults.iter().filter(|fault| !machines.contains(fault.machine.as_str())) {
            problems.push(format!("fault: there is no machine {:?}", fault.machine));
        }
    }

    /// Gives every machine's name.
    pub fn machines(&self) -> impl Iterator<Item = &str> {
        let devices = self.devices.iter().map(|device| device.machine.as_str());
        devices.chain(self.publishers.iter().map(|publisher| publisher.machine.as_str()))
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
