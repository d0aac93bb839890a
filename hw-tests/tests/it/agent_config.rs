//! The plant and the agent agree on `agent.toml`.

use std::path::Path;

use millrace_agent::config::Config;
use millrace_hw_tests::plant::agent_config::{Addresses, AgentSettings, agent_toml};
use millrace_hw_tests::plant::config::PlantConfig;

#[test]
fn agent_reads_what_the_plant_writes() {
    let plants = Path::new(env!("CARGO_MANIFEST_DIR")).join("plants");
    let mut read = 0;
    for entry in std::fs::read_dir(&plants).unwrap() {
        let path = entry.unwrap().path();
        // The folder holds the features of the demonstration too; a plant names its site.
        if !std::fs::read_to_string(&path).unwrap().contains("\nsite = ") {
            continue;
        }
        let plant = PlantConfig::load(&path).unwrap();
        let listening = "127.0.0.1:1502".parse().unwrap();
        let addresses = Addresses {
            buses: plant.buses.iter().map(|bus| (bus.name.clone(), listening)).collect(),
            mqtt: plant.mqtt.as_ref().map(|_| listening),
        };
        let settings = AgentSettings {
            id: "gw".into(),
            data_dir: "/tmp/data".into(),
            status: "127.0.0.1:0".parse().unwrap(),
            kafka: "127.0.0.1:9092".into(),
            topic_prefix: "millrace".into(),
        };
        let directory = tempfile::tempdir().unwrap();
        let written = directory.path().join("agent.toml");
        std::fs::write(&written, agent_toml(&plant, &addresses, &settings)).unwrap();
        let config =
            Config::load(&written).unwrap_or_else(|problems| panic!("{}: {problems}", path.display()));
        let devices: usize = config.buses.iter().map(|bus| bus.devices.len()).sum();
        assert_eq!((devices, config.mqtt.len()), (plant.devices.len(), usize::from(plant.mqtt.is_some())));
        read += 1;
    }
    assert!(read > 0, "no plant in {}", plants.display());
}
