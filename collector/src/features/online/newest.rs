//! The newest rows in memory, as the HTTP answers need them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::{OnlineError, OnlineStore};
use crate::features::feast::Value;
use crate::features::sql::{self, AssertSqlSafe, Executor, Row, SqliteRow, literal};
use crate::features::view::ActiveView;

/// An entity's newest row of a view.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// Window end. *Units*: microseconds since 1970-01-01 UTC.
    pub event_us: i64,
    /// When it was known. *Units*: microseconds since 1970-01-01 UTC.
    pub created_us: i64,
    /// Which revision; 0 before the offline store has it.
    pub revision: i64,
    /// Share of the window in which the values were known.
    pub coverage: f64,
    /// One value per feature of the view.
    pub values: Box<[Value]>,
}

/// An entity with its newest row.
pub type NewestRow = (Arc<str>, Arc<Served>);

/// A view with the newest row of each of its entities.
#[derive(Debug)]
pub struct Slot {
    /// The view.
    pub view: ActiveView,
    /// The name under which it is asked for.
    pub feast_name: Arc<str>,
    rows: RwLock<HashMap<Arc<str>, Arc<Served>>>,
}

impl Slot {
    /// Gives the newest row of each asked entity, all as of one moment.
    #[must_use]
    pub fn rows<'a>(&self, entities: impl Iterator<Item = &'a str>) -> Vec<Option<Arc<Served>>> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        entities.map(|entity| rows.get(entity).cloned()).collect()
    }

    /// Gives all rows, ordered by entity.
    #[must_use]
    pub fn all(&self) -> Vec<NewestRow> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = rows.iter().map(|(entity, row)| (entity.clone(), row.clone())).collect();
        drop(rows);
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }

    pub(super) fn replace(&self, newer: impl IntoIterator<Item = NewestRow>) {
        self.rows.write().unwrap_or_else(PoisonError::into_inner).extend(newer);
    }
}

/// The newest rows of all views.
#[derive(Debug)]
pub struct Newest {
    slots: Vec<Slot>,
    places: HashMap<Arc<str>, usize>,
}

impl Newest {
    pub(super) fn new(views: &[ActiveView]) -> Self {
        let slot = |view: &ActiveView| Slot {
            feast_name: view.feast_name().into(),
            view: view.clone(),
            rows: RwLock::default(),
        };
        let slots: Vec<_> = views.iter().map(slot).collect();
        let places = slots.iter().enumerate().map(|(at, slot)| (slot.feast_name.clone(), at)).collect();
        Self { slots, places }
    }

    /// Gives the views in the order of the files.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Finds a view by the name that Feast knows.
    #[must_use]
    pub fn slot(&self, feast_name: &str) -> Option<(usize, &Slot)> {
        let place = *self.places.get(feast_name)?;
        self.slots.get(place).map(|slot| (place, slot))
    }
}

impl OnlineStore {
    /// Fills the map from the file. A value that cannot be decoded (written by somebody else) counts as null.
    pub(super) async fn load(&self) -> Result<(), OnlineError> {
        let conn = &mut self.writer.lock().await.conn;
        for (table, slot) in self.tables.iter().zip(self.newest.slots()) {
            let select = format!(
                "SELECT s.entity, s.event_us, s.created_us, s.revision, s.coverage, f.feature_name, f.value \
                 FROM millrace_online AS s LEFT JOIN {} AS f ON f.entity_key = s.entity_key \
                 WHERE s.view = {} AND s.promotion = {}",
                table.name,
                literal(&table.feast_name),
                table.promotion
            );
            let wrong = || OnlineError::new(format!("read {}", table.feast_name));
            let rows = conn.fetch_all(AssertSqlSafe(select)).await.map_err(wrong())?;
            slot.replace(collect(&slot.view, &rows).map_err(wrong())?);
        }
        Ok(())
    }
}

/// Puts the features of each entity together.
fn collect(view: &ActiveView, rows: &[SqliteRow]) -> Result<Vec<NewestRow>, sql::Error> {
    let features = &view.schema.features;
    let places: HashMap<&str, usize> = features.iter().enumerate().map(|(at, f)| (&*f.name, at)).collect();
    let mut served: HashMap<String, Served> = HashMap::new();
    for row in rows {
        let entity: String = row.try_get(0)?;
        let known = match served.get_mut(&entity) {
            Some(known) => known,
            None => served.entry(entity).or_insert(Served {
                event_us: row.try_get(1)?,
                created_us: row.try_get(2)?,
                revision: row.try_get(3)?,
                coverage: row.try_get(4)?,
                values: vec![Value::Null; features.len()].into(),
            }),
        };
        let Some(name) = row.try_get::<Option<String>, _>(5)? else { continue };
        let bytes: Vec<u8> = row.try_get::<Option<Vec<u8>>, _>(6)?.unwrap_or_default();
        let value = places.get(&*name).and_then(|place| known.values.get_mut(*place));
        if let (Some(value), Ok(decoded)) = (value, Value::decode(&bytes)) {
            *value = decoded;
        }
    }
    Ok(served.into_iter().map(|(entity, row)| (entity.into(), Arc::new(row))).collect())
}
