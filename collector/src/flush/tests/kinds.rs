//! Values of every kind, in the tables and views that people read (D16).

use millrace_protocol::{Quality, Samples, Waveform};

use super::*;
use crate::lake::read;

/// Tags with their types and values; a row of each alone shows the sparse form, too.
fn cells() -> Vec<(&'static str, ValueType, Cell)> {
    let wave = |samples| {
        Value::Waveform(Arc::new(Waveform { rate_hz: f64::from_bits(0x7ff8_0000_0000_0007), samples }))
    };
    vec![
        ("big", ValueType::U64, Cell::Good(Value::U64(u64::MAX))),
        ("bytes", ValueType::Bytes, Cell::Good(Value::Bytes([0, 255].into()))),
        ("cold", ValueType::F64, Cell::Bad(Quality::TIMEOUT)),
        ("door", ValueType::Bool, Cell::Good(Value::Bool(false))),
        ("inf", ValueType::F32, Cell::Good(Value::F32(f32::NEG_INFINITY))),
        ("nan", ValueType::F64, Cell::Good(Value::F64(f64::NAN))),
        ("none", ValueType::F64, Cell::Absent),
        ("run", ValueType::Bool, Cell::Good(Value::Bool(true))),
        ("temp", ValueType::F64, Cell::Good(Value::F64(0.1))),
        ("text", ValueType::Text, Cell::Good(Value::Text("a \"quoted\" one".into()))),
        ("zero", ValueType::F64, Cell::Good(Value::F64(-0.0))),
        ("~wave", ValueType::Waveform, Cell::Good(wave(Samples::I16(vec![1, -2])))),
    ]
}

/// Stores one row of all cells and one of each alone; gives them as sent.
async fn store(conn: &mut SqliteConnection, memory: &mut Memory) -> Vec<Vec<Cell>> {
    let all = cells();
    let column = |(tag, value_type, _): &(&str, ValueType, Cell)| LayoutColumn {
        tag: (*tag).into(),
        value_type: *value_type,
    };
    let layout = Arc::new(Layout::new(all.iter().map(column).collect()));
    let mut sent = vec![all.iter().map(|(.., cell)| cell.clone()).collect::<Vec<_>>()];
    for (at, (.., cell)) in all.iter().enumerate() {
        let mut alone = vec![Cell::Absent; all.len()];
        alone[at] = cell.clone();
        sent.push(alone);
    }
    let row = |(at, cells): (usize, &Vec<Cell>)| Row {
        time_us: T0 + at as i64 * 1_000_000,
        flags: RowFlags::default(),
        layout: Arc::clone(&layout),
        cells: cells.clone(),
    };
    let rows: Vec<Row> = sent.iter().enumerate().map(row).collect();
    let item = Item::Chunk(Chunk::pack(1, ClockSegment::default(), &rows).unwrap());
    memory.absorb(&at(0, record(&[item], Some(&layout), rows.len() as u64)));
    flush(conn, memory).await.unwrap();
    sent
}

#[tokio::test]
async fn values_of_every_kind_come_back_from_the_lake_with_their_bits_waveforms_from_their_own_table() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    let sent = store(&mut conn, &mut memory).await;
    let streams = read::by_number(&read::streams(&mut conn).await.unwrap());
    let machine = stream().machine;
    let mut layouts = read::Layouts::default();
    let rows = read::machine_rows(&mut conn, &mut layouts, &streams, &machine, i64::MIN, i64::MAX);
    let rows = rows.await.unwrap();
    assert_eq!(rows.len(), sent.len());
    for (row, sent) in rows.iter().zip(&sent) {
        assert!(
            row.cells.iter().zip(sent).all(|(a, b)| a.same_bits(b)),
            "{:?} instead of {sent:?}",
            row.cells
        );
    }
    let waves =
        texts(&mut conn, "SELECT tag || ' ' || seq || ' ' || format || ' ' || hex(samples) FROM waveform")
            .await;
    assert_eq!(waves, ["~wave 1 i16 0100FEFF", "~wave 13 i16 0100FEFF"]);
    let extra = texts(&mut conn, "SELECT extra FROM reading WHERE seq = 13").await;
    assert_eq!(extra, [r#"{"~wave":{"samples":2}}"#]);
    // The view for people has it, too: the proof of the demonstration reads it there.
    let points = texts(&mut conn, "SELECT text FROM point WHERE tag = '~wave'").await;
    assert_eq!(points, ["0100feff", "0100feff"]);
    assert!(audited(&mut conn).await.is_clean());
}

#[tokio::test]
async fn reading_json_shows_every_row_as_one_object() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    store(&mut conn, &mut memory).await;
    let json = texts(
        &mut conn,
        "SELECT readings FROM reading_json WHERE machine = 'hall3/press-03' AND category = 'telemetry' ORDER BY ts",
    )
    .await;
    let parts = [
        r#""big":18446744073709551615"#,
        r#""bytes":"00ff""#,
        r#""cold":null"#,
        r#""door":false"#,
        r#""inf":"-Infinity""#,
        r#""nan":"NaN""#,
        r#""run":true"#,
        r#""temp":0.1"#,
        r#""text":"a \"quoted\" one""#,
        r#""zero":-0.0"#,
        r#""~wave":{"samples":2}"#,
    ];
    assert_eq!(json[0], format!("{{{}}}", parts.join(",")));
    let alone: Vec<_> = json[1..].iter().filter(|json| *json != "{}").collect();
    assert_eq!(alone.len(), parts.len());
    assert!(alone.iter().zip(parts).all(|(json, part)| **json == format!("{{{part}}}")), "{alone:?}");
}
