//! Which version of a view is served under the view's own name (F12), and what its tables are called.

use std::sync::Arc;

use millrace_preprocess::{Service, ViewSchema};

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

/// A feature service with its views under the names that Feast knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedService {
    /// Its name.
    pub name: Arc<str>,
    /// The views and their chosen features, in the order of the file.
    pub features: Vec<NamedFeatures>,
}

/// Features of one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFeatures {
    /// The view, as Feast knows it.
    pub view: String,
    /// The features that were chosen.
    pub features: Vec<Arc<str>>,
    /// Whether these are all that the view has.
    pub whole: bool,
}

impl NamedService {
    /// Names a service's views. One whose version is not among `views` is left out; `check` refuses that before.
    #[must_use]
    pub fn new(service: &Service, views: &[ActiveView]) -> Self {
        let named = |schema: &ViewSchema, places: &[usize]| {
            let active = views
                .iter()
                .find(|view| view.schema.name == schema.name && view.schema.version == schema.version)?;
            let features: Vec<_> = places
                .iter()
                .filter_map(|place| schema.features.get(*place))
                .map(|f| f.name.clone())
                .collect();
            let whole = features.len() == schema.features.len();
            Some(NamedFeatures { view: active.feast_name(), features, whole })
        };
        let features = service.features.iter().filter_map(|(view, places)| named(&view.schema, places));
        Self { name: service.name.clone(), features: features.collect() }
    }
}
