//! Values of every type, odd ones among them, and the layouts that they stand in.

use std::sync::Arc;

use millrace_protocol::{
    BirthTag, Category, Cell, Layout, LayoutColumn, MachineName, Quality, Reporting, Samples, Value,
    ValueType, Waveform,
};

use super::dice::Dice;
use super::time::SECOND_US;

/// The tag that tells rows apart: no two have the same number.
pub const ID: &str = "id";

/// Tags of a category, the id last: name and type.
const TELEMETRY: [(&str, ValueType); 8] = [
    ("a", ValueType::F64),
    ("state", ValueType::Text),
    ("x32", ValueType::F32),
    ("x64", ValueType::F64),
    ("i", ValueType::I64),
    ("u", ValueType::U64),
    ("on", ValueType::Bool),
    (ID, ValueType::U64),
];
const COUNTERS: [(&str, ValueType); 5] = [
    ("b", ValueType::F64),
    ("n", ValueType::F64),
    ("blob", ValueType::Bytes),
    ("wave", ValueType::Waveform),
    (ID, ValueType::U64),
];

/// Gives a category's tags, all of them or only the first two and the id.
fn tags(category: &Category, all: bool) -> Vec<(&'static str, ValueType)> {
    let tags: &[_] = if category.as_str() == "telemetry" { &TELEMETRY } else { &COUNTERS };
    tags.iter()
        .enumerate()
        .filter(|(at, (name, _))| all || *at < 2 || *name == ID)
        .map(|(_, tag)| *tag)
        .collect()
}

/// Gives the layout of a row with all tags or a few.
#[must_use]
pub fn layout(category: &Category, all: bool) -> Arc<Layout> {
    let column = |(tag, value_type): (&str, ValueType)| LayoutColumn { tag: tag.into(), value_type };
    Arc::new(Layout::new(tags(category, all).into_iter().map(column).collect()))
}

/// Gives what a birth says of a category's tags.
#[must_use]
pub fn birth_tags(category: &Category, hold_us: i64) -> Vec<BirthTag> {
    let tag = |(name, value_type): (&str, ValueType)| BirthTag {
        name: name.into(),
        value_type: Some(value_type),
        unit: None,
        source: "simulation".into(),
        reporting: Reporting::Cyclic { interval_us: SECOND_US },
        hold_us,
        counter_modulus: None,
    };
    tags(category, true).into_iter().map(tag).collect()
}

/// Makes the values of machines.
#[derive(Debug)]
pub struct Values {
    dice: Dice,
    made: f64,
    last_id: u64,
}

impl Values {
    /// Begins.
    #[must_use]
    pub const fn new(dice: Dice) -> Self {
        Self { dice, made: 0.0, last_id: 0 }
    }

    /// Draws a number that no row had yet.
    pub const fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Makes the cells of a row.
    pub fn cells(&mut self, layout: &Layout, id: u64) -> Vec<Cell> {
        layout.columns().iter().map(|column| self.cell(&column.tag, column.value_type, id)).collect()
    }

    fn cell(&mut self, tag: &str, value_type: ValueType, id: u64) -> Cell {
        if tag == ID {
            return Cell::Good(Value::U64(id));
        }
        match self.dice.roll(14) {
            0 => return Cell::Absent,
            1 => return Cell::Bad(Quality::TIMEOUT),
            _ => {}
        }
        Cell::Good(match tag {
            "a" | "b" => Value::F64((self.dice.us(20_000) - 10_000) as f64 / 7.0),
            "n" => {
                self.made = if self.dice.one_in(60) { 0.0 } else { self.made + self.dice.us(5) as f64 };
                Value::F64(self.made)
            }
            _ => self.odd(value_type),
        })
    }

    fn odd(&mut self, value_type: ValueType) -> Value {
        let bits = self.dice.bits();
        match value_type {
            ValueType::Bool => Value::Bool(bits & 1 == 1),
            ValueType::I64 => {
                Value::I64(if bits & 1 == 1 { bits.cast_signed() } else { 7 - self.dice.us(15) })
            }
            ValueType::U64 => Value::U64(bits >> self.dice.roll(64)),
            ValueType::F32 => Value::F32(f32::from_bits(match bits % 5 {
                0 => 0x8000_0000,
                1 => 1,
                2 => 0x7fa0_0000 | (bits >> 44) as u32,
                _ => (bits >> 32) as u32,
            })),
            ValueType::F64 => Value::F64(f64::from_bits(match bits % 5 {
                0 => 1 << 63,
                1 => bits >> 13,
                2 => 0x7ff0_0000_0000_0001 | (bits >> 16),
                _ => bits,
            })),
            ValueType::Text => Value::Text(["run", "idle", "fault"][self.dice.place(3)].into()),
            ValueType::Bytes => {
                let length = if self.dice.one_in(40) { 20_000 } else { self.dice.roll(5) };
                Value::Bytes((0..length).map(|_| (self.dice.bits() >> 32) as u8).collect())
            }
            ValueType::Waveform => {
                let samples = (0..self.dice.roll(6)).map(|_| (self.dice.bits() >> 48) as i16).collect();
                Value::Waveform(Arc::new(Waveform { rate_hz: 1000.0, samples: Samples::I16(samples) }))
            }
        }
    }
}

/// Gives a machine's name.
///
/// *Errors*: it is none.
pub fn machine(name: &str) -> anyhow::Result<MachineName> {
    Ok(MachineName::new(name)?)
}
