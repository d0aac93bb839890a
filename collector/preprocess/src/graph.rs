//! The compiled feature files: kinds of machines, views as operator graphs, services.
//!
//! Invariant: everything here was checked by `compile`; indices into a view's tables are in range, and
//! a row expression refers only to those before it.

use std::sync::Arc;

use millrace_protocol::MachineName;

use crate::attributes::Attributes;
use crate::compile::births::Recheck;
use crate::feature::ViewSchema;
use crate::glob;
use crate::value::{Type, Val};
use crate::window::next_multiple;

/// All that the feature files say.
#[derive(Debug, Default)]
pub struct Catalog {
    pub(crate) kinds: Vec<Arc<Kind>>,
    pub(crate) views: Vec<Arc<View>>,
    pub(crate) services: Vec<Service>,
    /// For each view what checks it against births.
    pub(crate) rechecks: Vec<Recheck>,
}

impl Catalog {
    /// Gives the kinds of machines in the order of the files.
    #[must_use]
    pub fn kinds(&self) -> &[Arc<Kind>] {
        &self.kinds
    }

    /// Gives the feature views in the order of the files.
    #[must_use]
    pub fn views(&self) -> &[Arc<View>] {
        &self.views
    }

    /// Gives the feature services in the order of the files.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Finds the newest version of a view by its name.
    #[must_use]
    pub fn view(&self, name: &str) -> Option<&Arc<View>> {
        let named = self.views.iter().filter(|view| &*view.schema.name == name);
        named.max_by_key(|view| view.schema.version)
    }

    /// Gives the views of a machine.
    pub fn views_of(&self, machine: &MachineName) -> impl Iterator<Item = &Arc<View>> {
        self.views.iter().filter(move |view| view.kind.holds(machine))
    }
}

/// Machines that are alike.
#[derive(Debug)]
pub struct Kind {
    /// Its name.
    pub name: Arc<str>,
    /// Glob patterns of machine names.
    pub machines: Vec<String>,
    /// What differs from machine to machine.
    pub attributes: Attributes,
}

impl Kind {
    /// Tells whether a machine is of this kind.
    #[must_use]
    pub fn holds(&self, machine: &MachineName) -> bool {
        self.machines.iter().any(|pattern| glob::matches(pattern, machine.as_str()))
    }
}

/// What one model asks for, as in Feast.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Views and the places of the chosen features in their schemas, in the order of the file.
    pub features: Vec<(Arc<View>, Vec<usize>)>,
}

/// When a view's rows are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As the data comes.
    Stream,
    /// From the lake, every so often. *Units*: microseconds.
    Batch {
        /// Time between two runs.
        run_every_us: i64,
    },
}

/// The pieces of time that a view's rows stand for; all aligned to 1970-01-01 UTC, `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Windows of one size, one every so often; tumbling when both are equal. *Units*: microseconds.
    Sliding {
        /// Length of a window.
        size_us: i64,
        /// Distance of two ends.
        every_us: i64,
        /// Length of the panes whose partials are merged; `None`: samples are folded (F2).
        pane_us: Option<i64>,
    },
    /// The newest values, one row for each cell that holds a point (F8). *Units*: microseconds.
    Latest {
        /// Length of a cell.
        cell_us: i64,
    },
}

impl Window {
    /// Gives the length of a window or cell. *Units*: microseconds.
    #[must_use]
    pub const fn size_us(&self) -> i64 {
        match self {
            Self::Sliding { size_us, .. } => *size_us,
            Self::Latest { cell_us } => *cell_us,
        }
    }

    /// Gives the distance of two window ends. *Units*: microseconds.
    #[must_use]
    pub const fn every_us(&self) -> i64 {
        match self {
            Self::Sliding { every_us, .. } => *every_us,
            Self::Latest { cell_us } => *cell_us,
        }
    }

    /// Gives the end of the window or cell to which a row with this event time belongs.
    /// *Units*: microseconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn closed_us(&self, event_us: i64) -> i64 {
        match self {
            Self::Sliding { .. } => event_us,
            Self::Latest { cell_us } => next_multiple(event_us, *cell_us),
        }
    }
}

/// A feature view: the operator graph of its features.
#[derive(Debug)]
pub struct View {
    /// Name, version, features, ttl, identity.
    pub schema: Arc<ViewSchema>,
    /// Whose machines it is for.
    pub kind: Arc<Kind>,
    /// When its rows are computed.
    pub mode: Mode,
    /// Its windows.
    pub window: Window,
    /// `where`, as it was written.
    pub filter: Option<Arc<str>>,
    /// How much disorder inside a stream it waits for (F5). *Units*: microseconds.
    pub lateness_us: i64,
    /// How far before its window an operator looks, held values apart (F4). *Units*: microseconds.
    pub memory_us: i64,
    /// The tags it reads.
    pub(crate) tags: Vec<TagUse>,
    /// Row expressions; later ones refer to earlier ones.
    pub(crate) rows: Vec<RowExpr>,
    /// Where the rows count; a place in `rows`.
    pub(crate) domain: Option<usize>,
    /// Aggregates, each once.
    pub(crate) aggregates: Vec<Aggregate>,
    /// The features in the order of the schema.
    pub(crate) features: Vec<Feature>,
}

impl View {
    /// Gives the names of the tags that the view reads, each once.
    pub fn tags(&self) -> impl Iterator<Item = &Arc<str>> {
        self.tags.iter().map(|tag| &tag.name)
    }

    /// Gives a feature's expression as it was written.
    #[must_use]
    pub fn expression(&self, feature: usize) -> Option<&str> {
        self.features.get(feature).map(|f| &*f.text)
    }

    /// Gives the tags that a feature reads, `where` apart.
    #[must_use]
    pub fn feature_tags(&self, feature: usize) -> Vec<&Arc<str>> {
        let tags = self.features.get(feature).map(|f| f.tags.as_slice()).unwrap_or_default();
        tags.iter().filter_map(|&tag| self.tags.get(tag)).map(|tag| &tag.name).collect()
    }
}

/// A tag that a view reads.
#[derive(Debug, Clone)]
pub(crate) struct TagUse {
    pub(crate) name: Arc<str>,
    pub(crate) wanted: Type,
    /// Whether a feature reads it (then it counts for the row's coverage).
    pub(crate) in_features: bool,
}

/// A feature: a scalar expression over aggregates; in a `latest` view over row expressions.
#[derive(Debug)]
pub(crate) struct Feature {
    pub(crate) text: Arc<str>,
    pub(crate) tree: Tree,
    pub(crate) tags: Vec<usize>,
}

/// A row expression: a pointwise tree over leaves that know time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowExpr {
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) tree: Tree,
}

/// What a row expression stands on. `row` is the place of an earlier row expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Leaf {
    Tag(usize),
    Debounce { row: usize, stable_us: i64 },
    Rising { row: usize },
    Falling { row: usize },
    Lag { row: usize, span_us: i64 },
    Rate { row: usize },
}

/// One aggregate over a row expression.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Aggregate {
    pub(crate) function: AggregateFn,
    pub(crate) row: usize,
}

/// The aggregates of this release.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum AggregateFn {
    Count,
    Mean,
    Min,
    Max,
    Sum,
    Std,
    Var,
    Rms,
    P2p,
    Slope,
    First,
    Last,
    Quantile(f64),
    Increase,
    Delta,
    Integral,
    Duration,
    Share,
    Transitions,
    Age,
    Coverage,
}

/// A pointwise expression over numbered leaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Leaf(usize),
    Literal(Val),
    Attribute(Arc<str>, Type),
    Negate(Box<Tree>),
    Not(Box<Tree>),
    Binary(BinaryOp, Box<Tree>, Box<Tree>),
    Call(PointFn, Vec<Tree>),
}

/// Operators with two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Subtract,
    Multiply,
    Divide,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
}

/// Functions of values at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PointFn {
    Case,
    If,
    Coalesce,
    Abs,
    Clamp,
    Sqrt,
    Log,
    Exp,
}
