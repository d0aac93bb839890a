//! `check --connect`: every address of the configuration is tried once, by hand as it were.

use millrace_link::{PATIENCE, Refusal, reach};

use crate::config::Config;

/// What an address is for, and why it cannot be spoken to.
pub(super) type Tried = (String, Option<Refusal>);

/// Tries the brokers of Kafka with certificates (a user name and password are tried by `run` only), and whether
/// something listens where buses and MQTT brokers are. One after the other.
pub(super) fn try_all(config: &Config) -> Vec<Tried> {
    let tls = config.kafka.security.tls.as_ref();
    let kafka =
        config.kafka.brokers.iter().map(|broker| (format!("kafka {broker}"), reach(broker, tls, PATIENCE)));
    let buses = config.buses.iter().map(|bus| {
        let address = bus.endpoint.to_string();
        (format!("bus {}, {address}", bus.name), reach(&address, None, PATIENCE))
    });
    let mqtt = config.mqtt.iter().map(|mqtt| {
        let address = format!("{}:{}", mqtt.host, mqtt.port);
        (format!("mqtt {}, {address}", mqtt.name), reach(&address, None, PATIENCE))
    });
    kafka.chain(buses).chain(mqtt).map(|(what, tried)| (what, tried.err())).collect()
}
