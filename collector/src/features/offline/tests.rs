//! The offline store against F7 and F9, on a database in memory.

use std::sync::Arc;

use millrace_preprocess::{FeatureColumn, FeatureRow, FeatureType, FeatureValue, ViewSchema};

use super::*;
use crate::features::sql::{Connection, Executor, Row, SqliteConnection};

fn schema(name: &str, version: u32, features: &[(&str, FeatureType)]) -> Arc<ViewSchema> {
    let features = features
        .iter()
        .map(|(name, feature_type)| FeatureColumn {
            name: (*name).into(),
            feature_type: *feature_type,
            unit: None,
        })
        .collect();
    Arc::new(ViewSchema {
        name: name.into(),
        version,
        entity: "machine".into(),
        features,
        ttl_us: 0,
        graph_hash: 7,
    })
}

fn press() -> Arc<ViewSchema> {
    schema(
        "press",
        1,
        &[
            ("temp", FeatureType::F64),
            ("n", FeatureType::I64),
            ("on", FeatureType::Bool),
            ("mode", FeatureType::Text),
        ],
    )
}

fn row(view: &Arc<ViewSchema>, entity: &str, event_us: i64, created_us: i64, temp: f64) -> FeatureRow {
    let all = [
        Some(FeatureValue::F64(temp)),
        Some(FeatureValue::I64(i64::MIN)),
        Some(FeatureValue::Bool(true)),
        Some(FeatureValue::Text("auto \u{0} é".into())),
    ];
    let values = all.into_iter().take(view.features.len()).collect();
    FeatureRow { view: view.clone(), entity: entity.into(), event_us, created_us, coverage: 1.0, values }
}

async fn store(views: &[Arc<ViewSchema>]) -> SqliteConnection {
    let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    migrate(&mut conn, views).await.unwrap();
    conn
}

#[tokio::test]
async fn a_changed_window_becomes_a_revision_that_is_known_later() {
    let view = press();
    let mut conn = store(std::slice::from_ref(&view)).await;
    let first = write(&mut conn, &[row(&view, "hall/a", 60, 100, 1.5)], 1, 1_000).await.unwrap();
    assert_eq!((first[0].revision, first[0].row.created_us), (1, 100));
    let again = write(&mut conn, &[row(&view, "hall/a", 60, 500, 1.5)], 2, 2_000).await.unwrap();
    assert_eq!(again, [], "equal bits write nothing");
    let second = write(&mut conn, &[row(&view, "hall/a", 60, 90, 2.5)], 3, 3_000).await.unwrap();
    assert_eq!((second[0].revision, second[0].row.created_us), (2, 101));
    let third = write(&mut conn, &[row(&view, "hall/a", 60, 900, 1.5)], 4, 4_000).await.unwrap();
    assert_eq!((third[0].revision, third[0].row.created_us), (3, 900));
    assert_eq!(newest_between(&mut conn, &view, "hall/a", 0, 60).await.unwrap(), third);
    assert_eq!(newest_between(&mut conn, &view, "hall/a", 60, 1_000).await.unwrap(), []);
    let all = rows_of_day(&mut conn, &view, 0).await.unwrap();
    assert_eq!(all, [first, second, third].concat());
}

#[tokio::test]
async fn of_one_flush_only_a_windows_last_row_is_written() {
    let view = press();
    let mut conn = store(std::slice::from_ref(&view)).await;
    let rows = [
        row(&view, "a", 60, 100, 1.0),
        row(&view, "b", 60, 100, 5.0),
        row(&view, "a", 60, 120, 2.0),
        row(&view, "a", 70, 120, 3.0),
    ];
    let written = write(&mut conn, &rows, 1, 0).await.unwrap();
    let said: Vec<_> =
        written.iter().map(|w| (&*w.row.entity, w.row.event_us, w.revision, w.row.created_us)).collect();
    assert_eq!(said, [("a", 60, 1, 120), ("b", 60, 1, 100), ("a", 70, 1, 120)]);
}

#[tokio::test]
async fn a_backfill_keeps_what_was_known_by_then_unless_the_window_is_there() {
    let view = press();
    let mut conn = store(std::slice::from_ref(&view)).await;
    let twice = [row(&view, "a", 60, 100, 1.0), row(&view, "a", 60, 700, 2.0)];
    let written = write_revisions(&mut conn, &twice, 1, 0).await.unwrap();
    let said: Vec<_> = written.iter().map(|w| (w.revision, w.row.created_us)).collect();
    assert_eq!(said, [(1, 100), (2, 700)]);
    assert_eq!(
        write_revisions(&mut conn, &twice, 2, 0).await.unwrap(),
        [],
        "a second backfill writes nothing"
    );
}

#[tokio::test]
async fn every_double_comes_back_with_its_bits() {
    let view = press();
    let mut conn = store(std::slice::from_ref(&view)).await;
    let numbers = [
        0.0,
        -0.0,
        5e-324,
        f64::MAX,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        f64::from_bits(0xfff8_0000_0000_1234),
        0.1 + 0.2,
        9_007_199_254_740_993.0,
    ];
    let rows: Vec<_> = (0..).zip(numbers).map(|(at, number)| row(&view, "a", at, 0, number)).collect();
    write(&mut conn, &rows, 1, 0).await.unwrap();
    let back = newest_between(&mut conn, &view, "a", -1, 100).await.unwrap();
    let bits: Vec<_> = back
        .iter()
        .map(|stored| match &stored.row.values[0] {
            Some(FeatureValue::F64(number)) => number.to_bits(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(bits, numbers.map(f64::to_bits));
    assert_eq!(back[0].row.values[1..], rows[0].values[1..]);
    assert_eq!(write(&mut conn, &rows, 2, 0).await.unwrap(), [], "the same bits are recognised");
}

#[tokio::test]
async fn the_newest_row_of_each_entity_is_found() {
    let view = press();
    let mut conn = store(std::slice::from_ref(&view)).await;
    assert_eq!(newest_per_entity(&mut conn, &view).await.unwrap(), []);
    let rows: Vec<_> = (0..300)
        .map(|at| row(&view, if at % 3 == 0 { "a" } else { "b" }, 60 * at, 60 * at, at as f64))
        .collect();
    write(&mut conn, &rows, 1, 0).await.unwrap();
    write(&mut conn, &[row(&view, "b", 60 * 299, 0, -1.0)], 2, 0).await.unwrap();
    let newest = newest_per_entity(&mut conn, &view).await.unwrap();
    let said: Vec<_> = newest.iter().map(|w| (&*w.row.entity, w.row.event_us, w.revision)).collect();
    assert_eq!(said, [("a", 60 * 297, 1), ("b", 60 * 299, 2)]);
}

#[tokio::test]
async fn the_sql_views_show_the_promoted_version() {
    let (one, two) = (press(), schema("press", 2, &[("temp", FeatureType::F64)]));
    let mut conn = store(std::slice::from_ref(&one)).await;
    let both = [one.clone(), two.clone()];
    let active = migrate(&mut conn, &both).await.unwrap();
    assert_eq!(active.iter().map(|v| v.promotion).collect::<Vec<_>>(), [Some(1), None]);
    assert_eq!(active[1].feast_name(), "press_v2");
    write(&mut conn, &[row(&one, "a", 60, 1, 1.0), row(&two, "a", 60, 1, 2.0)], 1, 0).await.unwrap();
    write(&mut conn, &[row(&one, "a", 60, 1, 1.5)], 2, 0).await.unwrap();
    let shown = |rows: Vec<crate::features::sql::SqliteRow>| {
        rows.iter().map(|r| r.get::<f64, _>("temp")).collect::<Vec<_>>()
    };
    assert_eq!(shown(conn.fetch_all("SELECT * FROM features_press").await.unwrap()), [1.5]);
    assert_eq!(shown(conn.fetch_all("SELECT * FROM features_press_rev").await.unwrap()), [1.0, 1.5]);
    promote(&mut conn, &both, "press", 2).await.unwrap();
    assert_eq!(shown(conn.fetch_all("SELECT * FROM features_press").await.unwrap()), [2.0]);
    let active = migrate(&mut conn, &both).await.unwrap();
    assert_eq!(active.iter().map(|v| v.promotion).collect::<Vec<_>>(), [None, Some(2)]);
    let active = migrate(&mut conn, std::slice::from_ref(&one)).await.unwrap();
    assert_eq!(active[0].promotion, Some(3), "what left the files makes room");
    assert!(promote(&mut conn, &both, "press", 3).await.is_err());
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_a_reason() {
    let mut conn = store(&[press()]).await;
    for (views, says) in [
        (vec![schema("press", 1, &[("temp", FeatureType::I64)])], "give the view a new version"),
        (vec![schema("x", 1, &[("Temp", FeatureType::F64), ("temp", FeatureType::F64)])], "rename one"),
        (vec![schema("x", 1, &[("created", FeatureType::F64)])], "the column created"),
        (vec![schema("x", 1, &[]), schema("x_v1", 1, &[])], "rename one"),
        (vec![schema("x", 1, &[]), schema("x_rev", 1, &[])], "rename one"),
        (vec![schema("x", 1, &[]), schema("X", 2, &[])], "rename one"),
    ] {
        let error = migrate(&mut conn, &views).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let view = press();
    let mut short = row(&view, "a", 1, 1, 1.0);
    short.values.pop();
    assert!(matches!(
        write(&mut conn, &[short], 1, 0).await,
        Err(OfflineError::Shape { found: 3, expected: 4, .. })
    ));
}
