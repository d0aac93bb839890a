//! Tables and SQL views of the offline store, and which version of a view is promoted.

use std::collections::HashMap;
use std::sync::Arc;

use millrace_preprocess::{FeatureType, ViewSchema};

use super::OfflineError;
use crate::features::sql::{AssertSqlSafe, Executor, Row, SqliteConnection, literal, quoted};
use crate::features::view::{ActiveView, offline_table};

/// Columns that every table has beside its entity and its features; neither may take one's name.
const OWN_COLUMNS: [&str; 7] =
    ["event_timestamp", "created", "computed_at", "revision", "coverage", "flush_id", "bits"];

/// `feature_…`, not `features_…`, so that no view's table can be meant.
const STATE_TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS feature_promotion (view TEXT PRIMARY KEY, version INTEGER NOT NULL, \
     promotion INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS feature_dirty_day (view TEXT NOT NULL, day INTEGER NOT NULL, \
     writes INTEGER NOT NULL, PRIMARY KEY (view, day)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS feature_version (view TEXT NOT NULL, version INTEGER NOT NULL, \
     graph_hash INTEGER NOT NULL, PRIMARY KEY (view, version)) WITHOUT ROWID",
];

/// Creates or completes the tables and SQL views of the offline store; idempotent. Tables of views that are no
/// longer in the files stay.
///
/// The first version of a view that is ever seen is promoted. A version beside it waits for [`promote`]; when
/// the promoted one has left the files, the newest takes its place.
///
/// # Errors
/// Those of [`conflicts`] for views that cannot be stored; the caller should run this in a transaction, then nothing is
/// changed.
pub async fn migrate(
    conn: &mut SqliteConnection,
    views: &[Arc<ViewSchema>],
) -> Result<Vec<ActiveView>, OfflineError> {
    if let Some(first) = conflicts(conn, views).await?.into_iter().next() {
        return Err(first);
    }
    for ddl in STATE_TABLES {
        execute(conn, "create", "feature_promotion", ddl.to_owned()).await?;
    }
    for view in views {
        create_table(conn, view).await?;
        let known = format!(
            "INSERT INTO feature_version (view, version, graph_hash) VALUES ({}, {}, {}) ON CONFLICT DO NOTHING",
            literal(&view.name),
            view.version,
            view.graph_hash.cast_signed(),
        );
        execute(conn, "note the version in", "feature_version", known).await?;
    }
    let active = activate(conn, views).await?;
    for view in active.iter().filter(|view| view.promotion.is_some()) {
        create_views(conn, &view.schema).await?;
    }
    Ok(active)
}

/// Gives everything for which the views cannot be stored beside what is stored (F12); nothing is changed.
///
/// # Errors
/// The database's own.
pub async fn conflicts(
    conn: &mut SqliteConnection,
    views: &[Arc<ViewSchema>],
) -> Result<Vec<OfflineError>, OfflineError> {
    let mut found: Vec<OfflineError> = check_names(views).err().into_iter().collect();
    for view in views {
        found.extend(changed_columns(conn, view).await?);
        found.extend(changed_meaning(conn, view).await?);
    }
    Ok(found)
}

async fn changed_columns(
    conn: &mut SqliteConnection,
    view: &ViewSchema,
) -> Result<Option<OfflineError>, OfflineError> {
    let table = offline_table(view);
    let found = columns_of(conn, &table).await?;
    let list = |columns: &[(String, String)]| {
        columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect::<Vec<_>>().join(", ")
    };
    let own = found.len().saturating_sub(OWN_COLUMNS.len());
    let is_there = !found.is_empty();
    let (found, expected) = (list(found.get(..own).unwrap_or_default()), list(&columns(view)));
    Ok((is_there && found != expected).then(|| OfflineError::Changed {
        view: view.name.to_string(),
        version: view.version,
        found,
        expected,
    }))
}

async fn changed_meaning(
    conn: &mut SqliteConnection,
    view: &ViewSchema,
) -> Result<Option<OfflineError>, OfflineError> {
    // A store of an earlier build does not know: what is there now counts.
    if columns_of(conn, "feature_version").await?.is_empty() {
        return Ok(None);
    }
    let known = format!(
        "SELECT graph_hash FROM feature_version WHERE view = {} AND version = {}",
        literal(&view.name),
        view.version
    );
    let rows = conn
        .fetch_all(AssertSqlSafe(known))
        .await
        .map_err(OfflineError::sql("read the versions in", "feature_version"))?;
    let is_other = rows.first().is_some_and(|row| row.get::<i64, _>(0) != view.graph_hash.cast_signed());
    Ok(is_other.then(|| OfflineError::Meaning { view: view.name.to_string(), version: view.version }))
}

/// Gives the columns of a table and their types; none where there is no such table.
async fn columns_of(conn: &mut SqliteConnection, table: &str) -> Result<Vec<(String, String)>, OfflineError> {
    let info = format!("SELECT name, type FROM pragma_table_info({})", quoted(table));
    let rows =
        conn.fetch_all(AssertSqlSafe(info)).await.map_err(OfflineError::sql("read the columns of", table))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Gives the entity's and the features' columns.
fn columns(view: &ViewSchema) -> Vec<(String, String)> {
    let features = view.features.iter().map(|f| (f.name.to_string(), sql_type(f.feature_type).to_owned()));
    std::iter::once((view.entity.to_string(), "TEXT".to_owned())).chain(features).collect()
}

/// Makes a version the one that is served under the view's own name (F12).
///
/// # Errors
/// [`OfflineError::NoVersion`] if the files do not have it.
pub async fn promote(
    conn: &mut SqliteConnection,
    views: &[Arc<ViewSchema>],
    name: &str,
    version: u32,
) -> Result<(), OfflineError> {
    let schema = views.iter().find(|view| &*view.name == name && view.version == version);
    let missing = || OfflineError::NoVersion { view: name.to_owned(), version };
    let schema = schema.ok_or_else(missing)?;
    set_promoted(conn, schema).await?;
    create_views(conn, schema).await
}

/// Refuses names that SQL would take for one another.
fn check_names(views: &[Arc<ViewSchema>]) -> Result<(), OfflineError> {
    let mut names: HashMap<String, String> = HashMap::new();
    let mut claim = |name: String, owner: String| match names.insert(name.to_lowercase(), owner.clone()) {
        Some(first) if first != owner => Err(OfflineError::NameClash { first, second: owner, name }),
        _ => Ok(()),
    };
    for view in views {
        let owner = format!("view {:?}", view.name);
        claim(offline_table(view), format!("{owner} version {}", view.version))?;
        claim(format!("features_{}", view.name), owner.clone())?;
        claim(format!("features_{}_rev", view.name), format!("{owner} (its revisions)"))?;
    }
    for view in views {
        let mut columns: HashMap<String, String> =
            OWN_COLUMNS.iter().map(|name| ((*name).to_owned(), format!("the column {name}"))).collect();
        let entity = (&*view.entity, "the entity".to_owned());
        let features = view.features.iter().map(|f| (&*f.name, format!("the feature {:?}", f.name)));
        for (name, owner) in std::iter::once(entity).chain(features) {
            let owner = format!("view {:?}: {owner}", view.name);
            if let Some(first) = columns.insert(name.to_lowercase(), owner.clone()) {
                return Err(OfflineError::NameClash { first, second: owner, name: name.to_owned() });
            }
        }
    }
    Ok(())
}

async fn create_table(conn: &mut SqliteConnection, view: &ViewSchema) -> Result<(), OfflineError> {
    let table = offline_table(view);
    let defined: Vec<_> = columns(view)
        .iter()
        .enumerate()
        .map(|(at, (name, kind))| {
            format!("{} {kind}{}", quoted(name), if at == 0 { " NOT NULL" } else { "" })
        })
        .collect();
    let create = format!(
        "CREATE TABLE IF NOT EXISTS {table} ({defined}, event_timestamp INTEGER NOT NULL, \
         created INTEGER NOT NULL, computed_at INTEGER NOT NULL, revision INTEGER NOT NULL, \
         coverage REAL NOT NULL, flush_id INTEGER NOT NULL, bits TEXT, \
         PRIMARY KEY ({entity}, event_timestamp, created)) WITHOUT ROWID",
        table = quoted(&table),
        defined = defined.join(", "),
        entity = quoted(&view.entity),
    );
    execute(conn, "create", &table, create).await?;
    let index = quoted(&format!("{table}_time"));
    let index = format!("CREATE INDEX IF NOT EXISTS {index} ON {} (event_timestamp)", quoted(&table));
    execute(conn, "index", &table, index).await?;
    Ok(())
}

/// Makes `features_<view>_rev` (all revisions) and `features_<view>` (the newest of each window).
async fn create_views(conn: &mut SqliteConnection, view: &ViewSchema) -> Result<(), OfflineError> {
    let table = quoted(&offline_table(view));
    let entity = quoted(&view.entity);
    let features: String = view.features.iter().map(|f| format!("{}, ", quoted(&f.name))).collect();
    let columns = format!("{entity}, {features}event_timestamp, created, computed_at, revision, coverage");
    let all = format!("SELECT {columns} FROM {table}");
    let newest = format!(
        "{all} AS a WHERE NOT EXISTS (SELECT 1 FROM {table} AS b WHERE b.{entity} = a.{entity} \
         AND b.event_timestamp = a.event_timestamp AND b.created > a.created)"
    );
    for (name, select) in
        [(format!("features_{}_rev", view.name), all), (format!("features_{}", view.name), newest)]
    {
        execute(conn, "drop the SQL view", &name, format!("DROP VIEW IF EXISTS {}", quoted(&name))).await?;
        let create = format!("CREATE VIEW {} AS {select}", quoted(&name));
        execute(conn, "create the SQL view", &name, create).await?;
    }
    Ok(())
}

/// Finds, or decides at first sight, which versions are promoted.
async fn activate(
    conn: &mut SqliteConnection,
    views: &[Arc<ViewSchema>],
) -> Result<Vec<ActiveView>, OfflineError> {
    let mut promoted = promotions(conn).await?;
    let mut names: Vec<_> = views.iter().map(|view| &view.name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let mut versions: Vec<_> = views.iter().filter(|view| view.name == *name).collect();
        versions.sort_unstable_by_key(|view| view.version);
        let chosen = match promoted.get(&**name) {
            Some((version, _)) if versions.iter().any(|v| i64::from(v.version) == *version) => None,
            Some(_) => versions.last(),
            None => versions.first(),
        };
        if let Some(schema) = chosen {
            set_promoted(conn, schema).await?;
            promoted = promotions(conn).await?;
        }
    }
    let promotion = |view: &ViewSchema| {
        let (version, promotion) = promoted.get(&*view.name)?;
        (*version == i64::from(view.version)).then_some(promotion.unsigned_abs())
    };
    Ok(views.iter().map(|view| ActiveView { schema: view.clone(), promotion: promotion(view) }).collect())
}

async fn promotions(conn: &mut SqliteConnection) -> Result<HashMap<String, (i64, i64)>, OfflineError> {
    let rows = conn
        .fetch_all("SELECT view, version, promotion FROM feature_promotion")
        .await
        .map_err(OfflineError::sql("read", "feature_promotion"))?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

async fn set_promoted(conn: &mut SqliteConnection, schema: &ViewSchema) -> Result<(), OfflineError> {
    let set = format!(
        "INSERT INTO feature_promotion (view, version, promotion) VALUES ({}, {}, 1) \
         ON CONFLICT (view) DO UPDATE SET version = excluded.version, promotion = promotion + 1 \
         WHERE version <> excluded.version",
        literal(&schema.name),
        schema.version
    );
    execute(conn, "write", "feature_promotion", set).await
}

fn sql_type(feature_type: FeatureType) -> &'static str {
    match feature_type {
        FeatureType::F64 => "REAL",
        FeatureType::I64 => "INTEGER",
        FeatureType::Bool => "BOOLEAN",
        FeatureType::Text => "TEXT",
    }
}

async fn execute(
    conn: &mut SqliteConnection,
    what: &'static str,
    table: &str,
    statement: String,
) -> Result<(), OfflineError> {
    let done = conn.execute(AssertSqlSafe(statement)).await;
    done.map(|_| ()).map_err(OfflineError::sql(what, table))
}
