//! The Parquet files, read back by the same crate's reader.

use millrace_preprocess::{FeatureColumn, FeatureRow};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row as Record};

use super::*;
use crate::features::offline::{DAY_US, migrate, write};
use crate::features::sql::Connection;

fn view() -> Arc<ViewSchema> {
    let column = |(name, feature_type): &(&str, FeatureType)| FeatureColumn {
        name: (*name).into(),
        feature_type: *feature_type,
        unit: None,
    };
    let features = [
        ("temp", FeatureType::F64),
        ("n", FeatureType::I64),
        ("on", FeatureType::Bool),
        ("mode", FeatureType::Text),
    ];
    Arc::new(ViewSchema {
        name: "press".into(),
        version: 1,
        entity: "machine".into(),
        features: features.iter().map(column).collect(),
        ttl_us: 0,
        graph_hash: 0,
    })
}

fn row(view: &Arc<ViewSchema>, entity: &str, event_us: i64, number: Option<i64>) -> FeatureRow {
    let values = vec![
        number.map(|_| FeatureValue::F64(0.1)),
        number.map(FeatureValue::I64),
        number.map(|n| FeatureValue::Bool(n > 0)),
        number.map(|n| FeatureValue::Text(format!("é{n}").into())),
    ];
    FeatureRow {
        view: view.clone(),
        entity: entity.into(),
        event_us,
        created_us: event_us + 7,
        coverage: 0.5,
        values,
    }
}

fn records(path: &Path) -> Vec<Record> {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    reader.get_row_iter(None).unwrap().map(Result::unwrap).collect()
}

fn field(record: &Record, name: &str) -> Field {
    record.get_column_iter().find(|(column, _)| *column == name).unwrap().1.clone()
}

#[tokio::test]
async fn days_are_written_whole_with_typed_columns() {
    let (dir, view) = (tempfile::tempdir().unwrap(), view());
    let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    migrate(&mut conn, std::slice::from_ref(&view)).await.unwrap();
    let mut files = ParquetFiles::open(dir.path(), vec![view.clone()]).unwrap();
    let day_us = 20_000 * DAY_US;
    let rows = [
        row(&view, "a", day_us, Some(5)),
        row(&view, "b", day_us + 1, None),
        row(&view, "a", day_us + DAY_US, Some(-1)),
    ];
    write(&mut conn, &rows, 1, day_us + 9).await.unwrap();
    assert_eq!(files.write_due(&mut conn, 0).await.unwrap(), 2);
    assert_eq!(files.write_due(&mut conn, REWRITE_EVERY_US).await.unwrap(), 0, "nothing is behind");

    let path = ParquetFiles::folder_of(dir.path(), &view).join("2024-10-04.parquet");
    let records_of_day = records(&path);
    assert_eq!(records_of_day.len(), 2);
    let first = &records_of_day[0];
    for (name, expected) in [
        ("machine", Field::Str("a".into())),
        ("temp", Field::Double(0.1)),
        ("n", Field::Long(5)),
        ("on", Field::Bool(true)),
        ("mode", Field::Str("é5".into())),
        ("event_timestamp", Field::TimestampMicros(day_us)),
        ("created", Field::TimestampMicros(day_us + 7)),
        ("computed_at", Field::TimestampMicros(day_us + 9)),
        ("revision", Field::Long(1)),
        ("coverage", Field::Double(0.5)),
    ] {
        assert_eq!(field(first, name), expected, "{name}");
    }
    assert_eq!(field(&records_of_day[1], "mode"), Field::Null);

    write(&mut conn, &[row(&view, "a", day_us, Some(6))], 2, 0).await.unwrap();
    assert_eq!(files.write_due(&mut conn, REWRITE_EVERY_US + 1).await.unwrap(), 0, "not yet");
    assert_eq!(files.write_all(&mut conn).await.unwrap(), 1, "but at a stop");
    let revisions: Vec<_> = records(&path).iter().map(|record| field(record, "revision")).collect();
    assert_eq!(revisions, [Field::Long(1), Field::Long(2), Field::Long(1)]);
}

#[tokio::test]
async fn a_killed_process_owes_its_days_still_and_leaves_no_litter() {
    let (dir, view) = (tempfile::tempdir().unwrap(), view());
    let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    migrate(&mut conn, std::slice::from_ref(&view)).await.unwrap();
    drop(ParquetFiles::open(dir.path(), vec![view.clone()]).unwrap());
    let litter = dir.path().join(TEMPORARY_FOLDER).join("half");
    fs::write(&litter, b"PAR1").unwrap();
    write(&mut conn, &[row(&view, "a", DAY_US, Some(5))], 1, 0).await.unwrap();

    let mut files = ParquetFiles::open(dir.path(), vec![view.clone()]).unwrap();
    assert!(!litter.exists());
    assert_eq!(files.write_all(&mut conn).await.unwrap(), 1);
    let path = ParquetFiles::folder_of(dir.path(), &view).join("1970-01-02.parquet");
    fs::remove_file(&path).unwrap();
    assert_eq!(files.write_all(&mut conn).await.unwrap(), 0);
    owe_all_days(&mut conn, &view).await.unwrap();
    assert_eq!(files.write_all(&mut conn).await.unwrap(), 1);
    assert_eq!(records(&path).len(), 1);
}

#[tokio::test]
async fn a_write_between_reading_and_forgetting_keeps_the_day_on_the_list() {
    let view = view();
    let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    migrate(&mut conn, std::slice::from_ref(&view)).await.unwrap();
    write(&mut conn, &[row(&view, "a", 1, Some(5))], 1, 0).await.unwrap();
    let read = dirty_days(&mut conn, "press_v1").await.unwrap();
    assert_eq!(read, [(0, 1)]);
    write(&mut conn, &[row(&view, "a", 2, Some(5))], 2, 0).await.unwrap();
    forget_day(&mut conn, "press_v1", 0, 1).await.unwrap();
    assert_eq!(dirty_days(&mut conn, "press_v1").await.unwrap(), [(0, 2)]);
}
