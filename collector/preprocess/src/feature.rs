//! What comes out: rows of features.

use std::sync::Arc;

/// The type of a feature; each is one of Feast's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FeatureType {
    /// Feast `Float64`.
    F64,
    /// Feast `Int64`.
    I64,
    /// Feast `Bool`.
    Bool,
    /// Feast `String`.
    Text,
}

/// A feature's value; NULL is `None` around it.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the feature types")]
pub enum FeatureValue {
    F64(f64),
    I64(i64),
    Bool(bool),
    Text(Arc<str>),
}

impl FeatureValue {
    /// Compares bit for bit.
    #[must_use]
    pub fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::F64(a), Self::F64(b)) => a.to_bits() == b.to_bits(),
            _ => self == other,
        }
    }
}

/// One feature of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureColumn {
    /// Its name.
    pub name: Arc<str>,
    /// Its type.
    pub feature_type: FeatureType,
    /// The unit's symbol, where one was inferred.
    pub unit: Option<Arc<str>>,
}

/// What the stores and the server need to know of a feature view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewSchema {
    /// The view's name.
    pub name: Arc<str>,
    /// Its version, from 1.
    pub version: u32,
    /// The join key of its entity: `machine`, or the group of a second stage.
    pub entity: Arc<str>,
    /// The features in the order of the file.
    pub features: Vec<FeatureColumn>,
    /// How long a row can be served. *Units*: microseconds; 0 for ever.
    pub ttl_us: i64,
    /// The identity of the operator graph.
    pub graph_hash: u64,
}

/// One window's features of one machine.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureRow {
    /// Which view.
    pub view: Arc<ViewSchema>,
    /// The entity's value: the machine's name.
    pub entity: Arc<str>,
    /// Window end. *Units*: microseconds since 1970-01-01 UTC.
    pub event_us: i64,
    /// When it could be known (F7), before the store raises it past the previous revision's.
    /// *Units*: microseconds since 1970-01-01 UTC.
    pub created_us: i64,
    /// Share of the window in which the values were known, 0 to 1 (F4).
    pub coverage: f64,
    /// One value for each of the view's features.
    pub values: Vec<Option<FeatureValue>>,
}
