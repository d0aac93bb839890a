//! A row's cells as the lake keeps them, and back: `vals` and `extra` of D16.
//!
//! `vals` is a JSON array with a number for each place of the layout, in the shortest digits that give
//! the bits back, `null` where there is none. `extra` is a JSON object by tag for what a number cannot
//! say; waveforms stand in a table of their own and are only mentioned. Invariant: [`decode`] gives back exactly the
//! cells that [`encode`] was given, bit for bit.

use std::fmt::Write as _;
use std::sync::Arc;

use millrace_protocol::{Cell, Layout, Quality, Value, ValueType, Waveform};
use serde_json::{Map, Value as Json, json};

use super::waveform;

/// Integers beyond this are not exact as doubles, which is how most SQL clients read JSON numbers.
const EXACT_INTEGER: i64 = 1 << 53;

/// What stands in the columns `vals`, `extra` and `quality`.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    /// JSON array; `None` if more than half of the layout is empty.
    pub vals: Option<String>,
    /// JSON object; `None` if `vals` says everything.
    pub extra: Option<String>,
    /// The greatest quality code of the row; 0 if every point is good.
    pub quality: i64,
    /// Waveforms with their tags, for their own table.
    pub waveforms: Vec<(Arc<str>, Arc<Waveform>)>,
}

/// Writes a row's cells.
#[must_use]
pub fn encode(layout: &Layout, cells: &[Cell]) -> Columns {
    let points = cells.iter().filter(|cell| cell.is_point()).count();
    let sparse = points * 2 < layout.columns().len();
    let mut vals = String::with_capacity(if sparse { 0 } else { cells.len() * 8 + 2 });
    let mut extra = Map::new();
    let mut quality = 0;
    let mut waveforms = Vec::new();
    let mut separator = '[';
    for (cell, column) in cells.iter().zip(layout.columns()) {
        if !sparse {
            vals.push(separator);
            separator = ',';
        }
        if let Cell::Good(Value::Waveform(wave)) = cell {
            waveforms.push((Arc::clone(&column.tag), Arc::clone(wave)));
        }
        let written = match cell {
            Cell::Absent => false,
            Cell::Bad(bad) => {
                quality = quality.max(i64::from(bad.code()));
                extra.insert(column.tag.to_string(), json!({ "q": bad.code() }));
                false
            }
            Cell::Good(value) if sparse => {
                let mut digits = String::new();
                let what =
                    if write_number(value, &mut digits) { json!({ "n": digits }) } else { other(value) };
                extra.insert(column.tag.to_string(), what);
                false
            }
            Cell::Good(value) => {
                let written = write_number(value, &mut vals);
                if !written {
                    extra.insert(column.tag.to_string(), other(value));
                }
                written
            }
        };
        if !sparse && !written {
            vals.push_str("null");
        }
    }
    if !sparse {
        vals.push_str(if cells.is_empty() { "[]" } else { "]" });
    }
    Columns {
        vals: (!sparse).then_some(vals),
        extra: (!extra.is_empty()).then(|| Json::Object(extra).to_string()),
        quality,
        waveforms,
    }
}

/// Writes a value as a JSON number; false, and nothing written, if no double holds it.
fn write_number(value: &Value, out: &mut String) -> bool {
    match value {
        Value::Bool(v) => out.push(if *v { '1' } else { '0' }),
        Value::I64(v) if v.unsigned_abs() <= EXACT_INTEGER.unsigned_abs() => write_json(v, out),
        Value::U64(v) if *v <= EXACT_INTEGER.unsigned_abs() => write_json(v, out),
        Value::F32(v) if v.is_finite() => write_json(&f64::from(*v), out),
        Value::F64(v) if v.is_finite() => write_json(v, out),
        _ => return false,
    }
    true
}

/// Writes a number in the shortest digits that give its bits back, as serde_json does for floats.
fn write_json<T: serde::Serialize>(number: &T, out: &mut String) {
    struct Text<'a>(&'a mut String);
    impl std::io::Write for Text<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let text = std::str::from_utf8(bytes).map_err(std::io::Error::other)?;
            self.0.push_str(text);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let written = serde_json::to_writer(Text(out), number);
    debug_assert!(written.is_ok(), "a finite number always has a JSON form");
}

fn other(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!({ "t": &**text }),
        Value::I64(v) => json!({ "i": v.to_string() }),
        Value::U64(v) => json!({ "i": v.to_string() }),
        Value::F32(v) => json!({ "x": format!("{:08x}", v.to_bits()) }),
        Value::F64(v) => json!({ "x": format!("{:016x}", v.to_bits()) }),
        Value::Bytes(bytes) => json!({ "b": hex(bytes) }),
        Value::Waveform(wave) => waveform::mention(wave),
        Value::Bool(v) => json!({ "n": u8::from(*v).to_string() }),
    }
}

/// Reads a row's cells back, with its waveforms; `None` if the columns are not what [`encode`] writes.
#[must_use]
pub fn decode(
    layout: &Layout,
    vals: Option<&str>,
    extra: Option<&str>,
    waveforms: &[(String, Waveform)],
) -> Option<Vec<Cell>> {
    let mut cells = match vals {
        None => vec![Cell::Absent; layout.columns().len()],
        Some(vals) => decode_vals(layout, vals)?,
    };
    if let Some(extra) = extra {
        let Json::Object(extra) = serde_json::from_str::<Json>(extra).ok()? else { return None };
        for (tag, what) in &extra {
            let at = layout.columns().iter().position(|column| &*column.tag == tag.as_str())?;
            let value_type = layout.columns().get(at)?.value_type;
            *cells.get_mut(at)? = decode_extra(tag, value_type, what, waveforms)?;
        }
    }
    Some(cells)
}

fn decode_vals(layout: &Layout, vals: &str) -> Option<Vec<Cell>> {
    let inside = vals.strip_prefix('[')?.strip_suffix(']')?;
    if layout.columns().is_empty() {
        return inside.is_empty().then(Vec::new);
    }
    let mut numbers = inside.split(',');
    let mut cells = Vec::with_capacity(layout.columns().len());
    for column in layout.columns() {
        cells.push(match numbers.next()?.trim() {
            "null" => Cell::Absent,
            digits => Cell::Good(number(column.value_type, digits)?),
        });
    }
    numbers.next().is_none().then_some(cells)
}

fn number(value_type: ValueType, digits: &str) -> Option<Value> {
    match value_type {
        ValueType::Bool => match digits {
            "0" => Some(Value::Bool(false)),
            "1" => Some(Value::Bool(true)),
            _ => None,
        },
        ValueType::I64 => digits.parse().ok().map(Value::I64),
        ValueType::U64 => digits.parse().ok().map(Value::U64),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it was widened from a single, so the way back is exact"
        )]
        ValueType::F32 => digits.parse::<f64>().ok().map(|v| Value::F32(v as f32)),
        ValueType::F64 => digits.parse().ok().map(Value::F64),
        ValueType::Text | ValueType::Bytes | ValueType::Waveform => None,
    }
}

fn decode_extra(
    tag: &str,
    value_type: ValueType,
    what: &Json,
    waveforms: &[(String, Waveform)],
) -> Option<Cell> {
    let text = |key: &str| what.get(key).and_then(Json::as_str);
    if let Some(code) = what.get("q").and_then(Json::as_u64) {
        return Some(Cell::Bad(Quality::from_code(u8::try_from(code).ok()?)?));
    }
    let value = match value_type {
        ValueType::Text => Value::Text(text("t")?.into()),
        ValueType::Bytes => Value::Bytes(unhex(text("b")?)?.into()),
        ValueType::Waveform => Value::Waveform(waveform::mentioned(tag, what, waveforms)?),
        ValueType::I64 if text("i").is_some() => Value::I64(text("i")?.parse().ok()?),
        ValueType::U64 if text("i").is_some() => Value::U64(text("i")?.parse().ok()?),
        ValueType::F32 if text("x").is_some() => {
            Value::F32(f32::from_bits(u32::from_str_radix(text("x")?, 16).ok()?))
        }
        ValueType::F64 if text("x").is_some() => {
            Value::F64(f64::from_bits(u64::from_str_radix(text("x")?, 16).ok()?))
        }
        _ => number(value_type, text("n")?)?,
    };
    Some(Cell::Good(value))
}

/// Writes bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a string does not fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// Reads hexadecimal digits; `None` if they are none.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use millrace_protocol::{LayoutColumn, Samples};
    use proptest::prelude::*;

    use super::*;

    fn any_value(value_type: ValueType) -> BoxedStrategy<Value> {
        match value_type {
            ValueType::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
            ValueType::I64 => {
                prop_oneof![any::<i64>(), -10i64..10, Just(i64::MIN)].prop_map(Value::I64).boxed()
            }
            ValueType::U64 => prop_oneof![any::<u64>(), 0u64..10, Just(1 << 53)].prop_map(Value::U64).boxed(),
            ValueType::F32 => any::<u32>().prop_map(|b| Value::F32(f32::from_bits(b))).boxed(),
            ValueType::F64 => prop_oneof![any::<u64>(), Just(1 << 63), Just(1)]
                .prop_map(|b| Value::F64(f64::from_bits(b)))
                .boxed(),
            ValueType::Text => "\\PC{0,8}".prop_map(|t| Value::Text(t.into())).boxed(),
            ValueType::Bytes => {
                prop::collection::vec(any::<u8>(), 0..6).prop_map(|b| Value::Bytes(b.into())).boxed()
            }
            ValueType::Waveform => (any::<u64>(), prop::collection::vec(any::<i16>(), 0..5))
                .prop_map(|(rate, s)| {
                    Value::Waveform(Arc::new(Waveform {
                        rate_hz: f64::from_bits(rate),
                        samples: Samples::I16(s),
                    }))
                })
                .boxed(),
        }
    }

    fn any_row() -> impl Strategy<Value = (Layout, Vec<Cell>)> {
        prop::collection::vec(prop::sample::select(ValueType::ALL.to_vec()), 0..9).prop_flat_map(|types| {
            let cells: Vec<_> = types
                .iter()
                .map(|&t| {
                    prop_oneof![
                        2 => Just(Cell::Absent),
                        1 => (1u8..255).prop_map(|c| Cell::Bad(Quality::from_code(c).unwrap())),
                        4 => any_value(t).prop_map(Cell::Good)
                    ]
                    .boxed()
                })
                .collect();
            let column = |(at, value_type): (usize, ValueType)| LayoutColumn {
                tag: format!("tag \"{at}\".x").into(),
                value_type,
            };
            let layout = Layout::new(types.into_iter().enumerate().map(column).collect());
            (Just(layout), cells)
        })
    }

    proptest! {
        #[test]
        fn lake_row_gives_every_bit_back((layout, cells) in any_row()) {
            let columns = encode(&layout, &cells);
            if let Some(vals) = &columns.vals {
                prop_assert!(serde_json::from_str::<Json>(vals).is_ok(), "{}", vals);
            }
            let waves: Vec<_> =
                columns.waveforms.iter().map(|(tag, wave)| (tag.to_string(), (**wave).clone())).collect();
            let back = decode(&layout, columns.vals.as_deref(), columns.extra.as_deref(), &waves).unwrap();
            prop_assert_eq!(back.len(), cells.len());
            for (got, wanted) in back.iter().zip(&cells) {
                prop_assert!(got.same_bits(wanted), "{:?} is not {:?}: {:?}", got, wanted, columns);
            }
        }
    }

    #[test]
    fn row_that_would_be_mostly_empty_stands_in_extra() {
        let column = |tag: &str| LayoutColumn { tag: tag.into(), value_type: ValueType::F64 };
        let layout = Layout::new(vec![column("a"), column("b"), column("c")]);
        let columns = encode(&layout, &[Cell::Absent, Cell::Good(Value::F64(-0.0)), Cell::Absent]);
        assert_eq!(
            columns,
            Columns {
                vals: None,
                extra: Some(r#"{"b":{"n":"-0.0"}}"#.to_owned()),
                quality: 0,
                waveforms: vec![]
            }
        );
        let columns =
            encode(&layout, &[Cell::Good(Value::F64(1.5)), Cell::Bad(Quality::TIMEOUT), Cell::Absent]);
        assert_eq!((columns.vals.as_deref(), columns.quality), (Some("[1.5,null,null]"), 1));
    }
}
