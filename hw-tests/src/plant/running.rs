//! A plant that runs: its ports, publishers, broker and faults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent_config::Addresses;
use super::config::PlantConfig;
use super::device::Device;
use super::fault::{Fault, Faults};
use super::modbus::{self, Port};
use super::mqtt::Broker;
use super::publisher::{self, Publisher, Surroundings};
use crate::clock;
use crate::supervise::Tasks;
use crate::truth::entry::{DeviceEntry, Entry, PublisherEntry};
use crate::truth::log::{TruthError, TruthLog};

/// How long a stop waits for the broker to take what was published.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Says why a plant does not start, or does not do what it is told.
#[derive(Debug, Error)]
pub enum PlantError {
    /// A port is taken, for instance.
    #[error("{name} cannot listen on {address}")]
    Listen {
        /// Bus or broker.
        name: String,
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The truth cannot be written down.
    #[error("the truth log fails")]
    Truth(#[from] TruthError),
    /// A fault for nobody.
    #[error("there is no machine {0:?}")]
    NoMachine(String),
    /// The publishers' last messages were not taken in time.
    #[error("{0} publishes were not taken by the plant's own broker")]
    NotTaken(usize),
}

/// A plant that runs.
#[derive(Debug)]
pub struct Plant {
    config: PlantConfig,
    addresses: Addresses,
    faults: Arc<Faults>,
    broker: Option<Broker>,
    /// Publishes on their way to the broker.
    unacknowledged: Option<watch::Receiver<usize>>,
    truth: Arc<TruthLog>,
    start: Instant,
    stop: CancellationToken,
    /// Ports and their connections, which end in order when the plant stops.
    ports: Tasks,
    /// The machines that publish, which end when the plant stops.
    publishers: Tasks,
    /// The broker and the plant's own client, which go on so that clients can fetch what waits for them.
    tasks: Tasks,
}

impl Plant {
    /// Starts everything that the configuration names.
    ///
    /// *Errors*: [`PlantError::Listen`], [`PlantError::Truth`]; what was started ends with the runtime.
    pub async fn start(config: PlantConfig, truth: TruthLog) -> Result<Self, PlantError> {
        let mut plant = Self {
            config,
            addresses: Addresses::default(),
            faults: Arc::default(),
            broker: None,
            unacknowledged: None,
            truth: Arc::new(truth),
            start: Instant::now(),
            stop: CancellationToken::new(),
            ports: Tasks::new(),
            publishers: Tasks::new(),
            tasks: Tasks::new(),
        };
        for fault in &plant.config.faults {
            plant.faults.add(fault.clone(), plant.start);
        }
        plant.start_ports().await?;
        plant.start_publishers().await?;
        Ok(plant)
    }

    async fn start_ports(&mut self) -> Result<(), PlantError> {
        for bus in self.config.buses.clone() {
            let listener = listen(&bus.name, bus.listen).await?;
            let address = local(&bus.name, bus.listen, &listener)?;
            let port = Port {
                bus: bus.name.clone(),
                site: self.config.site.clone(),
                devices: self.devices(&bus.name)?,
                faults: Arc::clone(&self.faults),
                truth: Arc::clone(&self.truth),
                start: self.start,
                connections: AtomicU64::new(0),
                stop: self.stop.clone(),
            };
            self.addresses.buses.push((bus.name, address));
            self.ports
                .start_graceful("modbus port", modbus::serve(Arc::new(port), listener, self.ports.clone()));
        }
        Ok(())
    }

    fn devices(&self, bus: &str) -> Result<BTreeMap<u8, Arc<Device>>, PlantError> {
        let mut devices = BTreeMap::new();
        for device in self.config.devices.iter().filter(|device| device.bus == bus) {
            let Some(profile) = self.config.profiles.get(&device.profile) else { continue };
            self.truth.write(&Entry::Device(DeviceEntry {
                machine: self.full_name(&device.machine),
                bus: bus.to_owned(),
                unit: device.unit_id,
                tags: profile.tags.clone(),
            }))?;
            let (tags, seed) = (profile.tags.clone(), self.seed(&device.machine));
            let unit = Device::new(&device.machine, device.unit_id, profile.max_registers, tags, seed);
            devices.insert(device.unit_id, Arc::new(unit));
        }
        Ok(devices)
    }

    async fn start_publishers(&mut self) -> Result<(), PlantError> {
        let Some(mqtt) = self.config.mqtt.clone() else { return Ok(()) };
        let listener = listen(&mqtt.name, mqtt.listen).await?;
        let address = local(&mqtt.name, mqtt.listen, &listener)?;
        self.addresses.mqtt = Some(address);
        let broker = Broker::new(Arc::clone(&self.truth));
        self.tasks.start("mqtt broker", broker.clone().serve(listener, self.tasks.clone()));
        let mut publishers = Vec::new();
        for publisher in &self.config.publishers {
            let Some(profile) = self.config.publisher_profiles.get(&publisher.profile) else { continue };
            let topic = publisher.topic(profile);
            let name = |field| (profile.tag_name(field).to_owned(), field.path.clone());
            self.truth.write(&Entry::Publisher(PublisherEntry {
                machine: self.full_name(&publisher.machine),
                topic: topic.clone(),
                tags: profile.fields.iter().map(name).collect(),
            }))?;
            publishers.push(Publisher::new(
                &publisher.machine,
                topic,
                profile,
                self.seed(&publisher.machine),
            ));
        }
        let around = Surroundings {
            faults: Arc::clone(&self.faults),
            broker: broker.clone(),
            start: self.start,
            stop: self.stop.clone(),
        };
        self.unacknowledged =
            Some(publisher::start(address, publishers, &around, &self.tasks, &self.publishers));
        self.broker = Some(broker);
        Ok(())
    }

    fn full_name(&self, machine: &str) -> String {
        format!("{}/{machine}", self.config.site)
    }

    /// Machines of one plant differ. *Source*: FNV-1a of Fowler, Noll and Vo.
    fn seed(&self, machine: &str) -> u64 {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        machine.bytes().fold(self.config.seed ^ 0xcbf2_9ce4_8422_2325, mix)
    }

    /// Gives the configuration.
    #[must_use]
    pub const fn config(&self) -> &PlantConfig {
        &self.config
    }

    /// Tells where it listens.
    #[must_use]
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Adds a fault that begins `after` from now.
    ///
    /// *Errors*: [`PlantError::NoMachine`].
    pub fn add_fault(&self, fault: Fault) -> Result<(), PlantError> {
        if !self.config.machines().any(|machine| machine == fault.machine) {
            return Err(PlantError::NoMachine(fault.machine));
        }
        tracing::info!(machine = fault.machine, kind = ?fault.kind, "fault");
        self.faults.add(fault, Instant::now());
        Ok(())
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// Gives the faults that are not over.
    #[must_use]
    pub fn faults(&self) -> Value {
        let active = self.faults.active(Instant::now());
        let list = active.into_iter().map(|(fault, left)| {
            let mut value = serde_json::to_value(fault).unwrap_or_default();
            value["left_ms"] = json!(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            value
        });
        list.collect()
    }

    /// Tells what runs and what waits.
    #[must_use]
    pub fn state(&self) -> Value {
        let sessions = self.broker.as_ref().map(Broker::sessions).unwrap_or_default();
        json!({
            "stopped": self.stop.is_cancelled(),
            "buses": self.addresses.buses.iter().map(|(name, at)| (name.clone(), json!(at))).collect::<BTreeMap<_, _>>(),
            "mqtt": self.addresses.mqtt,
            "sessions": sessions.into_iter().collect::<BTreeMap<_, _>>(),
        })
    }

    /// Stops the machines: no reply and no publish is made after this returns, and every one that was
    /// made stands in the truth log. The MQTT broker goes on, so that clients can fetch what waits.
    ///
    /// *Errors*: [`PlantError::NotTaken`], [`PlantError::Truth`]; the machines are stopped all the same.
    pub async fn stop(&self) -> Result<(), PlantError> {
        let stopped_before = self.stop.is_cancelled();
        self.stop.cancel();
        self.ports.finish().await;
        self.publishers.finish().await;
        if let Some(mut open) = self.unacknowledged.clone() {
            let late = tokio::time::timeout(STOP_TIMEOUT, open.wait_for(|open| *open == 0)).await.is_err();
            if late {
                return Err(PlantError::NotTaken(*open.borrow()));
            }
        }
        if !stopped_before {
            self.truth.write(&Entry::Stopped { t: clock::now_us() })?;
        }
        Ok(())
    }

    /// Ends everything.
    pub async fn end(&self) {
        self.stop.cancel();
        self.ports.stop().await;
        self.publishers.stop().await;
        self.tasks.stop().await;
    }
}

async fn listen(name: &str, address: SocketAddr) -> Result<TcpListener, PlantError> {
    TcpListener::bind(address).await.map_err(|source| PlantError::Listen {
        name: name.to_owned(),
        address,
        source,
    })
}

fn local(name: &str, address: SocketAddr, listener: &TcpListener) -> Result<SocketAddr, PlantError> {
    listener.local_addr().map_err(|source| PlantError::Listen { name: name.to_owned(), address, source })
}
