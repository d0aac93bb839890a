//! Waveforms as the lake keeps them: in a table of their own, since a row of numbers must not carry kilobytes.
//!
//! Invariant: [`read()`] gives back exactly the bits that [`write()`] was given.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_protocol::{MachineName, Samples, Waveform};
use serde_json::Value as Json;

use super::LakeError;
use super::db::{Row as _, SqliteConnection, SqliteRow, Statement};
use super::row::unhex;
use super::write::Reading;

/// The waveforms of some rows, by stream and sequence, with their tags.
pub type Waveforms = HashMap<(i64, i64), Vec<(String, Waveform)>>;

/// Adds the waveforms of rows to `waveform`.
///
/// # Errors
/// [`LakeError::Sql`]; roll the transaction back.
pub async fn write(conn: &mut SqliteConnection, rows: &[Reading]) -> Result<(), LakeError> {
    for row in rows {
        for (tag, wave) in &row.columns.waveforms {
            let insert = Statement::new(
                "INSERT INTO waveform (ts, machine_id, stream_id, seq, tag, rate_hz, rate_bits, format, samples, flush_id) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            );
            let (format, samples) = bytes(&wave.samples);
            let insert = insert
                .bind(row.ts)
                .bind(row.machine_id)
                .bind(row.stream_id)
                .bind(i64::try_from(row.seq).unwrap_or(i64::MAX))
                .bind(tag.to_string())
                .bind(Some(wave.rate_hz).filter(|rate| rate.is_finite()))
                .bind(wave.rate_hz.to_bits().cast_signed())
                .bind(format)
                .bind(samples)
                .bind(row.flush_id);
            insert.execute(conn).await.map_err(LakeError::sql("add rows to waveform"))?;
        }
    }
    Ok(())
}

/// Reads a machine's waveforms with `from_us` ≤ event time ≤ `to_us`.
///
/// # Errors
/// [`LakeError`].
pub async fn read(
    conn: &mut SqliteConnection,
    machine: &MachineName,
    from_us: i64,
    to_us: i64,
) -> Result<Waveforms, LakeError> {
    const WHAT: &str = "read rows of waveform";
    let select = Statement::new(
        "SELECT stream_id, seq, tag, rate_bits, format, samples FROM waveform \
         WHERE machine_id = (SELECT machine_id FROM machine WHERE name = ?) AND ts >= ? AND ts <= ?",
    );
    let select = select.bind(machine.as_str().to_owned()).bind(from_us).bind(to_us);
    let rows = select.fetch_all(conn).await.map_err(LakeError::sql(WHAT))?;
    let mut waveforms = Waveforms::new();
    let columns = |row: &SqliteRow| {
        let key: (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let (tag, rate_bits): (String, i64) = (row.try_get(2)?, row.try_get(3)?);
        Ok((key, tag, rate_bits, row.try_get::<String, _>(4)?, row.try_get::<Vec<u8>, _>(5)?))
    };
    for row in &rows {
        let (key, tag, rate_bits, format, bytes) = columns(row).map_err(LakeError::sql(WHAT))?;
        let samples = samples(&format, &bytes).ok_or_else(|| {
            LakeError::stored("a row of waveform", format!("stream {}, sequence {}", key.0, key.1))
        })?;
        let rate_hz = f64::from_bits(rate_bits.cast_unsigned());
        waveforms.entry(key).or_default().push((tag, Waveform { rate_hz, samples }));
    }
    Ok(waveforms)
}

/// What `extra` says of a waveform: that it is there, and how long it is.
pub(super) fn mention(wave: &Waveform) -> Json {
    serde_json::json!({ "samples": wave.samples.len() })
}

/// Finds the waveform that `extra` mentions; before version 2 of the tables it stood there as a whole.
pub(super) fn mentioned(tag: &str, what: &Json, known: &[(String, Waveform)]) -> Option<Arc<Waveform>> {
    if what.get("samples").is_some() {
        return known.iter().find(|(name, _)| name == tag).map(|(_, wave)| Arc::new(wave.clone()));
    }
    let text = |key: &str| what.get(key).and_then(Json::as_str);
    let rate_hz = f64::from_bits(u64::from_str_radix(text("rate")?, 16).ok()?);
    Some(Arc::new(Waveform { rate_hz, samples: samples(text("format")?, &unhex(text("w")?)?)? }))
}

/// Samples as bytes, little-endian.
fn bytes(samples: &Samples) -> (&'static str, Vec<u8>) {
    match samples {
        Samples::I16(s) => ("i16", s.iter().flat_map(|v| v.to_le_bytes()).collect()),
        Samples::F32(s) => ("f32", s.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect()),
        Samples::F64(s) => ("f64", s.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect()),
    }
}

fn samples(format: &str, bytes: &[u8]) -> Option<Samples> {
    Some(match format {
        "i16" => Samples::I16(bytes.as_chunks::<2>().0.iter().map(|b| i16::from_le_bytes(*b)).collect()),
        "f32" => Samples::F32(
            bytes.as_chunks::<4>().0.iter().map(|b| f32::from_bits(u32::from_le_bytes(*b))).collect(),
        ),
        "f64" => Samples::F64(
            bytes.as_chunks::<8>().0.iter().map(|b| f64::from_bits(u64::from_le_bytes(*b))).collect(),
        ),
        _ => return None,
    })
}
