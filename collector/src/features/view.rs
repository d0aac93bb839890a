//! Which version of a view is served under the view's own name (F12), and what its tables are called.

use std::sync::Arc;

use millrace_preprocess::ViewSchema;

/// A view's version with its place in the order of promotions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveView {
    /// What it holds.
    pub schema: Arc<ViewSchema>,
    /// The how-manieth promotion of this view's name it is; `None` while it runs beside the promoted one.
    pub promotion: Option<u64>,
}

impl ActiveView {
    /// Gives the name under which Feast knows it: the view's own when promoted, else `<view>_v<N>`.
    #[must_use]
    pub fn feast_name(&self) -> String {
        match self.promotion {
            Some(_) => self.schema.name.to_string(),
            None => versioned_name(&self.schema),
        }
    }

    /// Gives the name of its table in the offline store: `features_<view>_v<N>`.
    #[must_use]
    pub fn offline_table(&self) -> String {
        offline_table(&self.schema)
    }
}

/// Gives `<view>_v<N>`, which names a version's Parquet folder, too.
#[must_use]
pub fn versioned_name(schema: &ViewSchema) -> String {
    format!("{}_v{}", schema.name, schema.version)
}

/// Gives the name of a version's table in the offline store.
#[must_use]
pub fn offline_table(schema: &ViewSchema) -> String {
    format!("features_{}", versioned_name(schema))
}
