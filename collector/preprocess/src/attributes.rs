//! What differs from machine to machine of a kind: values with the time from which they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::glob;
use crate::value::{Type, Val};

/// One line of an attributes file.
#[derive(Debug, Clone)]
pub(crate) struct AttributeRow {
    /// Machine name or pattern.
    pub(crate) machine: String,
    /// From when on it holds. *Units*: microseconds since 1970-01-01 UTC.
    pub(crate) valid_from_us: i64,
    pub(crate) values: BTreeMap<Arc<str>, Arc<str>>,
}

/// The attributes of a kind's machines.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// Sorted by `valid_from_us`; of equal ones the later line wins.
    pub(crate) rows: Vec<AttributeRow>,
}

impl Attributes {
    /// Gives the names of all attributes.
    #[must_use]
    pub fn names(&self) -> BTreeSet<&Arc<str>> {
        self.rows.iter().flat_map(|row| row.values.keys()).collect()
    }

    /// Finds a machine's attribute as it stood just before a time.
    #[must_use]
    pub fn text(&self, machine: &str, name: &str, before_us: i64) -> Option<&Arc<str>> {
        let rows = self.rows.iter().rev().filter(|row| row.valid_from_us < before_us);
        rows.filter(|row| glob::matches(&row.machine, machine)).find_map(|row| row.values.get(name))
    }

    /// Gives the type: a number if every value of that name is one.
    pub(crate) fn value_type(&self, name: &str) -> Type {
        let mut values = self.rows.iter().filter_map(|row| row.values.get(name));
        if values.all(|text| number(text).is_some()) { Type::Num } else { Type::Text }
    }

    pub(crate) fn value(&self, machine: &str, name: &str, wanted: Type, before_us: i64) -> Val {
        match (self.text(machine, name, before_us), wanted) {
            (None, _) => Val::Null,
            (Some(text), Type::Num) => number(text).map_or(Val::Null, Val::num),
            (Some(text), _) => Val::Text(Arc::clone(text)),
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|x| x.is_finite())
}
