//! Devices and tags for the tests of this module.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::{Category, MachineName};

use crate::config::{Bus, Convert, Decode, Device, NumberKind, RequestLimits, Table, Tag};

pub(super) fn tag(name: &str, table: Table, address: u16, decode: Decode) -> Tag {
    Tag {
        name: name.into(),
        category: Category::new("telemetry").unwrap(),
        table,
        address,
        decode,
        convert: Convert::None,
        unit: None,
        bad_values: Vec::new(),
        valid: None,
        deadband: None,
        max_interval: None,
    }
}

/// A number in the order that a device without peculiarities has.
pub(super) fn number(name: &str, table: Table, address: u16, kind: NumberKind) -> Tag {
    let bytes = match kind {
        NumberKind::U32 | NumberKind::I32 | NumberKind::F32 | NumberKind::Bcd32 => 4,
        NumberKind::U64 | NumberKind::I64 | NumberKind::F64 => 8,
        _ => 2,
    };
    tag(name, table, address, Decode::Number { kind, order: (0..bytes).collect() })
}

pub(super) fn holding(name: &str, address: u16) -> Tag {
    number(name, Table::Holding, address, NumberKind::U16)
}

pub(super) fn bit(name: &str, table: Table, address: u16) -> Tag {
    tag(name, table, address, Decode::Bool)
}

pub(super) fn device(unit_id: u8, tags: Vec<Tag>) -> Device {
    Device {
        machine: MachineName::new(&format!("hall/unit-{unit_id}")).unwrap(),
        unit_id,
        poll_interval: Duration::from_millis(1),
        limits: RequestLimits { max_registers: 125, max_coils: 2_000, max_gap: 8 },
        attributes: BTreeMap::new(),
        tags: tags.into_iter().map(Arc::new).collect(),
    }
}

pub(super) fn bus(endpoint: &str, devices: Vec<Device>) -> Bus {
    Bus {
        name: "line-a".to_owned(),
        endpoint: endpoint.to_owned(),
        timeout: Duration::from_millis(200),
        retries: 0,
        pause: Duration::ZERO,
        connect_pause: Duration::ZERO,
        close_after_poll: false,
        backoff: Duration::from_secs(60),
        devices,
    }
}
