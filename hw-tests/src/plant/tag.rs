//! What `plant.toml` says about a tag, and what the truth log repeats, so that the log can be decoded
//! alone.
//!
//! The keys that `agent.toml` knows have its names and meanings; `signal` is the plant's own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One of the four tables of a Modbus device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Function 1.
    Coil,
    /// Function 2.
    Discrete,
    /// Function 3.
    Holding,
    /// Function 4.
    Input,
}

impl Table {
    /// Takes the function code of a request. *Source*: Modbus Application Protocol V1.1b3, section 6.
    #[must_use]
    pub const fn from_function(function: u8) -> Option<Self> {
        match function {
            1 => Some(Self::Coil),
            2 => Some(Self::Discrete),
            3 => Some(Self::Holding),
            4 => Some(Self::Input),
            _ => None,
        }
    }

    /// Tells whether the table holds bits.
    #[must_use]
    pub const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }
}

/// How a tag's registers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the variants are the types of interface.md")]
pub enum Kind {
    Bool,
    Bit,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
    Bcd16,
    Bcd32,
    String,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Bool,
        Self::Bit,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F32,
        Self::F64,
        Self::Bcd16,
        Self::Bcd32,
        Self::String,
    ];

    /// Gives the bytes of a value; text has its own length.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::U32 | Self::I32 | Self::F32 | Self::Bcd32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Bool
            | Self::Bit
            | Self::U8
            | Self::I8
            | Self::U16
            | Self::I16
            | Self::Bcd16
            | Self::String => 2,
        }
    }
}

/// Which half of a register an 8-bit value stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Half {
    /// The byte that is sent first.
    High,
    /// The byte that is sent second.
    Low,
}

/// What a tag shows of its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Bearing temperature. *Units*: °C.
    Temperature,
    /// Oil temperature, slower. *Units*: °C.
    OilTemperature,
    /// Speed of the spindle. *Units*: 1/min.
    Speed,
    /// The speed that is aimed at. *Units*: 1/min.
    Setpoint,
    /// Effective vibration velocity. *Units*: mm/s.
    Vibration,
    /// Vibration at one instant, with sign. *Units*: mm/s.
    Oscillation,
    /// Electric power. *Units*: kW.
    Power,
    /// Work since the start. *Units*: kWh.
    Energy,
    /// Work since the start, as a meter counts it. *Units*: Wh.
    EnergyCount,
    /// 0 stop, 1 automatic, 2 manual.
    State,
    /// Parts made since the start.
    Parts,
    /// Whether the spindle turns.
    Running,
    /// Whether the temperature is too high.
    Overheated,
    /// The name of the program.
    Program,
    /// How many replies with this tag were sent, this one included: 1, 2, 3, …; makes losses and
    /// doubles exact. For a publisher: how many messages.
    Polls,
}

/// One tag of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub signal: Signal,
    /// Which table; holding if not said.
    #[serde(default = "holding")]
    pub table: Table,
    /// 0-based, as sent.
    pub address: u16,
    /// How it is written.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Which byte of the value (A the most significant) stands at each place as sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// For `bit`: 0 the least significant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bit: Option<u8>,
    /// For 8-bit values; low if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte: Option<Half>,
    /// For text. *Units*: bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u16>,
    /// For text: the byte that fills it up; 0 if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<u8>,
    /// value = raw × scale + offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// See `scale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// Texts that stand for integers.
    #[serde(default, rename = "enum", skip_serializing_if = "BTreeMap::is_empty")]
    pub words: BTreeMap<String, String>,
    /// Where the agent's counter starts anew at 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<Counter>,
    /// The unit's symbol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The kind of data; the profile's if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
}

/// How a counter counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// One more than its highest value.
    pub modulus: u64,
}

const fn holding() -> Table {
    Table::Holding
}

impl Tag {
    /// Gives the number of registers or bits.
    #[must_use]
    pub fn width(&self) -> u16 {
        match self.kind {
            _ if self.table.is_bits() => 1,
            Kind::String => self.length.unwrap_or(2).div_ceil(2),
            kind => u16::try_from(kind.bytes() / 2).unwrap_or(1),
        }
    }

    /// Tells whether a read of `count` from `address` holds the whole tag.
    #[must_use]
    pub fn lies_in(&self, address: u16, count: u16) -> bool {
        let (from, to) = (u32::from(address), u32::from(address) + u32::from(count));
        u32::from(self.address) >= from && self.end() <= to
    }

    /// Gives the address behind the tag.
    #[must_use]
    pub fn end(&self) -> u32 {
        u32::from(self.address) + u32::from(self.width())
    }

    /// Says what is wrong with the tag, if anything is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let bits = self.table.is_bits();
        if bits != (self.kind == Kind::Bool) {
            return Some(
                "type bool stands in the tables coil and discrete, every other type in holding and input"
                    .to_owned(),
            );
        }
        if self.end() > 65_536 {
            return Some(format!("{} registers at {} run over the table's end", self.width(), self.address));
        }
        if self.kind == Kind::Bit && self.bit.is_none_or(|bit| bit > 15) {
            return Some("type bit needs bit = 0..15".to_owned());
        }
        let letters = if self.kind == Kind::String { 2 } else { self.kind.bytes() };
        match &self.order {
            Some(order) if !is_order(order, letters) => {
                Some(format!("order {order:?} is not an order of {letters} bytes"))
            }
            _ => None,
        }
    }
}

fn is_order(order: &str, letters: usize) -> bool {
    let mut sorted: Vec<u8> = order.bytes().collect();
    sorted.sort_unstable();
    sorted == b"ABCDEFGH".get(..letters).unwrap_or_default()
}
