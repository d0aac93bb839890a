//! The online store against F10, on a database file.

use std::sync::Arc;

use millrace_preprocess::{FeatureColumn, FeatureRow, FeatureType, FeatureValue, ViewSchema};

use super::*;
use crate::features::feast::Value;
use crate::features::sql::Row;

fn view(version: u32, promotion: Option<u64>, features: &[&str]) -> ActiveView {
    let column =
        |name: &&str| FeatureColumn { name: (*name).into(), feature_type: FeatureType::F64, unit: None };
    let schema = ViewSchema {
        name: "press".into(),
        version,
        entity: "machine".into(),
        features: features.iter().map(column).collect(),
        ttl_us: 1_000_000,
        graph_hash: 0,
    };
    ActiveView { schema: Arc::new(schema), promotion }
}

fn row(view: &ActiveView, entity: &str, event_us: i64, revision: i64, value: f64) -> WrittenRow {
    let values = vec![Some(FeatureValue::F64(value)); view.schema.features.len()];
    let (view, entity) = (view.schema.clone(), entity.into());
    let row = FeatureRow { view, entity, event_us, created_us: event_us + 5, coverage: 0.5, values };
    WrittenRow { row, revision, computed_at_us: 0, flush_id: 0 }
}

async fn push(store: &OnlineStore, rows: &[WrittenRow]) -> usize {
    store.push(rows.iter().map(OnlineRow::from)).await.unwrap()
}

/// What a reader of Feast's table sees: (entity key's end, feature, value, event seconds).
async fn seen(store: &OnlineStore, table: &str) -> Vec<(String, Value, i64)> {
    let statement = format!(
        "SELECT feature_name, value, event_ts FROM {} ORDER BY entity_key, feature_name",
        quoted(table)
    );
    let rows = store.writer.lock().await.conn.fetch_all(AssertSqlSafe(statement)).await.unwrap();
    let value = |row: &sql::SqliteRow| Value::decode(row.get::<&[u8], _>(1)).unwrap();
    rows.iter().map(|row| (row.get(0), value(row), row.get(2))).collect()
}

fn served(store: &OnlineStore, view: &str, entity: &str) -> Option<(i64, i64, Value)> {
    let newest = store.newest();
    let rows = newest.slot(view)?.1.rows(std::iter::once(entity));
    rows[0].as_ref().map(|row| (row.event_us, row.revision, row.values[0].clone()))
}

#[tokio::test]
async fn the_store_never_goes_back_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let press = view(1, Some(1), &["temp"]);
    let path = dir.path().join("online.db");
    let store = OnlineStore::open(&path, "plant", std::slice::from_ref(&press)).await.unwrap();
    let second = 1_000_000;
    for (event_us, revision, value, taken) in [
        (5 * second, 1, 1.0, 1),
        (5 * second, 1, 9.0, 0),
        (4 * second, 7, 9.0, 0),
        (5 * second, 2, 2.0, 1),
        (6 * second, 0, 3.0, 1),
        (6 * second, 0, 4.0, 1),
        (6 * second, 1, 5.0, 1),
        (6 * second, 0, 9.0, 0),
    ] {
        let pushed = push(&store, &[row(&press, "hall/a", event_us, revision, value)]).await;
        assert_eq!(pushed, taken, "{event_us} {revision} {value}");
    }
    let newest = Some((6 * second, 1, Value::Float64(5.0)));
    assert_eq!(served(&store, "press", "hall/a"), newest);
    assert_eq!(seen(&store, "plant_press").await, [("temp".to_owned(), Value::Float64(5.0), 6)]);
    assert_eq!(served(&store, "press", "hall/b"), None);
    drop(store);
    let store = OnlineStore::open(&path, "plant", std::slice::from_ref(&press)).await.unwrap();
    assert_eq!(served(&store, "press", "hall/a"), newest, "read back from the file");
}

#[tokio::test]
async fn of_one_push_the_newest_row_of_an_entity_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let press = view(1, Some(1), &["temp", "p2p"]);
    let store = OnlineStore::open(&dir.path().join("o.db"), "p", std::slice::from_ref(&press)).await.unwrap();
    let rows: Vec<_> = (0..500)
        .map(|at| {
            row(&press, &format!("m{}", at % 150), 1_000_000 * ((at * 7) % 500), 1, f64::from(at as u16))
        })
        .collect();
    assert_eq!(push(&store, &rows).await, 150);
    assert_eq!(seen(&store, "p_press").await.len(), 300);
    for entity in 0..150 {
        let name = format!("m{entity}");
        let best =
            rows.iter().filter(|row| *row.row.entity == *name).max_by_key(|row| row.row.event_us).unwrap();
        assert_eq!(served(&store, "press", &name).unwrap().0, best.row.event_us);
    }
    assert_eq!(push(&store, &rows).await, 0, "the same again changes nothing");
}

#[tokio::test]
async fn a_promoted_version_replaces_the_old_ones_fields() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("online.db");
    let (old, beside) = (view(1, Some(1), &["temp", "gone"]), view(2, None, &["temp"]));
    let store = OnlineStore::open(&path, "p", &[old.clone(), beside.clone()]).await.unwrap();
    let rows = [
        row(&old, "a", 9_000_000, 3, 1.0),
        row(&old, "b", 9_000_000, 3, 1.0),
        row(&beside, "a", 5_000_000, 1, 2.0),
    ];
    assert_eq!(push(&store, &rows).await, 3);
    assert_eq!(served(&store, "press", "a").unwrap().2, Value::Float64(1.0));
    assert_eq!(served(&store, "press_v2", "a").unwrap().2, Value::Float64(2.0));
    drop(store);

    let new = view(2, Some(2), &["temp"]);
    let store = OnlineStore::open(&path, "p", std::slice::from_ref(&new)).await.unwrap();
    assert_eq!(served(&store, "press", "a"), None, "the old version is not served as the new one");
    assert_eq!(store.rebuild(&[row(&new, "a", 5_000_000, 1, 2.0)]).await.unwrap(), 1);
    assert_eq!(
        served(&store, "press", "a").unwrap().2,
        Value::Float64(2.0),
        "older in time, newer in promotion"
    );
    assert_eq!(seen(&store, "p_press").await, [("temp".to_owned(), Value::Float64(2.0), 5)]);
    assert_eq!(push(&store, &[row(&old, "a", 99_000_000, 1, 9.0)]).await, 0, "a retired version is ignored");
}

#[tokio::test]
async fn expired_fields_are_cleared_and_cannot_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let press = view(1, Some(1), &["temp"]);
    let store = OnlineStore::open(&dir.path().join("o.db"), "p", std::slice::from_ref(&press)).await.unwrap();
    let old = row(&press, "a", 5_000_000, 1, 1.0);
    push(&store, std::slice::from_ref(&old)).await;
    assert_eq!(store.sweep(6_000_000).await.unwrap(), 0, "exactly ttl old is not expired");
    assert_eq!(store.sweep(6_000_001).await.unwrap(), 1);
    assert_eq!(store.sweep(6_000_001).await.unwrap(), 0);
    assert_eq!(seen(&store, "p_press").await, []);
    assert_eq!(push(&store, &[old]).await, 0);
    assert_eq!(push(&store, &[row(&press, "a", 7_000_000, 1, 2.0)]).await, 1);
    assert_eq!(seen(&store, "p_press").await.len(), 1);
}
