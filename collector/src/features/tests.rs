//! The stores together, over a kill between COMMIT and push.

use millrace_preprocess::{FeatureColumn, FeatureType, FeatureValue};

use super::*;
use crate::features::feast::Value;
use crate::features::offline::{DAY_US, write};
use crate::features::sql::Connection;

fn view() -> Arc<ViewSchema> {
    let temp = FeatureColumn { name: "temp".into(), feature_type: FeatureType::F64, unit: None };
    let (name, entity) = ("press".into(), "machine".into());
    Arc::new(ViewSchema { name, version: 1, entity, features: vec![temp], ttl_us: DAY_US, graph_hash: 0 })
}

fn row(view: &Arc<ViewSchema>, event_us: i64, temp: f64) -> FeatureRow {
    let values = vec![Some(FeatureValue::F64(temp))];
    FeatureRow {
        view: view.clone(),
        entity: "hall/a".into(),
        event_us,
        created_us: event_us,
        coverage: 1.0,
        values,
    }
}

fn newest(stores: &Stores) -> Option<Value> {
    let newest = stores.newest();
    let (_, slot) = newest.slot("press").unwrap();
    slot.rows(std::iter::once("hall/a"))[0].as_ref().map(|row| row.values[0].clone())
}

#[tokio::test]
async fn a_row_committed_but_never_pushed_is_online_after_the_next_start() {
    let (dir, view) = (tempfile::tempdir().unwrap(), view());
    let places = Places {
        online_file: dir.path().join("online.db"),
        parquet_folder: dir.path().join("features"),
        project: "plant".to_owned(),
    };
    let mut lake = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let views = [view.clone()];
    let stores = Stores::open(&mut lake, &places, &views).await.unwrap();
    let written = write(&mut lake, &[row(&view, 60, 1.0)], 1, 0).await.unwrap();
    assert_eq!(stores.push(&written).await.unwrap(), 1);
    assert_eq!(stores.push_latest(&[row(&view, 61, 1.5)]).await.unwrap(), 1);
    assert_eq!(newest(&stores), Some(Value::Float64(1.5)));
    write(&mut lake, &[row(&view, 120, 2.0)], 2, 0).await.unwrap();
    drop(stores);

    let stores = Stores::open(&mut lake, &places, &views).await.unwrap();
    assert_eq!(newest(&stores), Some(Value::Float64(2.0)));
    drop(stores);
    std::fs::remove_file(&places.online_file).unwrap();
    let stores = Stores::open(&mut lake, &places, &views).await.unwrap();
    assert_eq!(newest(&stores), Some(Value::Float64(2.0)), "a lost file is made again");
    stores.tend(&mut lake, 2 * DAY_US).await.unwrap();
    let file = places.parquet_folder.join("press_v1/1970-01-01.parquet");
    assert!(file.exists());
    assert_eq!(stores.finish(&mut lake).await.unwrap(), 0);
}
