//! What `plant.toml` may say, and that the agent understands what is written for it.

use super::*;
use crate::plant::tag::{Kind, Table};

const DEMO: &str = include_str!("../../../plants/demo.toml");

#[test]
fn the_demo_plant_is_sound_and_shows_every_type_table_and_order_of_bytes() {
    let config = PlantConfig::parse(DEMO).expect("sound");
    let tags: Vec<&Tag> = config.profiles.values().flat_map(|profile| &profile.tags).collect();
    for kind in Kind::ALL {
        assert!(tags.iter().any(|tag| tag.kind == kind), "no tag is {kind:?}");
    }
    for table in [Table::Coil, Table::Discrete, Table::Holding, Table::Input] {
        assert!(tags.iter().any(|tag| tag.table == table), "no tag stands in {table:?}");
    }
    for order in ["BA", "ABCD", "DCBA", "BADC", "CDAB", "ABCDEFGH", "HGFEDCBA", "BADCFEHG", "GHEFCDAB"] {
        assert!(tags.iter().any(|tag| tag.order.as_deref() == Some(order)), "no tag is {order}");
    }
    let shared = config.devices.iter().filter(|device| device.bus == "line-a").count();
    assert!(shared > 1, "several unit ids stand behind one port");
    assert_eq!(config.machines().count(), 6);
    let profile = config.publisher_profiles.get("cell").expect("cell");
    assert_eq!(config.publishers[0].topic(profile), "plant/L3/oven-01/telemetry");
}

#[test]
fn all_problems_are_said_at_once_with_their_place() {
    let text = r#"
        version = 2
        site = "hall3"
        bus = [{ name = "a", listen = "0.0.0.0:502" }]
        device = [
            { machine = "m", bus = "b", unit_id = 1, profile = "p" },
            { machine = "m", bus = "b", unit_id = 1, profile = "q" },
        ]
        publisher = [{ machine = "o", profile = "none" }]
        fault = [{ machine = "x", kind = "dead", for = "1 s" }]
        [profile.p]
        poll_interval = "1 s"
        max_registers = 126
        tags = [
            { name = "t", signal = "speed", address = 65535, type = "f32" },
            { name = "u", signal = "speed", address = 1, type = "f32", order = "ABDE" },
            { name = "v", signal = "speed", address = 1, type = "bool" },
            { name = "w", signal = "speed", address = 1, type = "bit" },
        ]"#;
    let Err(ConfigError::Problems { problems }) = PlantConfig::parse(text) else { panic!("problems") };
    let expected = [
        "version: 2",
        "device \"m\": there is no bus \"b\"",
        "no profile \"q\"",
        "unit id 1 is taken",
        "profile.p.max_registers: 126",
        "tag \"t\": 2 registers at 65535",
        "\"ABDE\" is not an order",
        "tag \"v\": type bool stands in",
        "tag \"w\": type bit needs",
        "0.0.0.0:502 is not a loopback",
        "no [mqtt]",
        "no publisher_profile \"none\"",
        "machine \"m\" is there twice",
        "fault: there is no machine \"x\"",
    ];
    for part in expected {
        assert_eq!(
            problems.iter().filter(|problem| problem.contains(part)).count(),
            1 + usize::from(part.contains("no bus")),
            "{part}: {problems:#?}"
        );
    }
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let error = PlantConfig::parse("version = 1\nsite = \"s\"\nsed = 4").expect_err("unknown");
    assert!(matches!(&error, ConfigError::Parse(inner) if inner.to_string().contains("sed")), "{error:?}");
}
