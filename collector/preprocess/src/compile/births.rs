//! What only births can tell: whether the tags are there, and fit in type, unit and way of reporting.
//!
//! None of this changes a graph: a view computes the same whether or not anybody looked.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use millrace_protocol::{Birth, BirthTag, MachineName, Reporting, ValueType};

use super::files::Expression;
use super::types::{Checker, KindScope, Level, Typed};
use crate::graph::{AggregateFn, Catalog, Leaf, Tree, View};
use crate::language::Ast;
use crate::language::unit::Unit;
use crate::problem::{Problem, SourceFile, nearest};
use crate::value::Type;

/// The checked expressions of a view, kept to be checked again.
#[derive(Debug)]
pub(crate) struct Recheck {
    pub(super) file: SourceFile,
    pub(super) signals: BTreeMap<String, Ast>,
    pub(super) tags: BTreeMap<String, Typed>,
    pub(super) domain: Option<(Expression, Ast)>,
    pub(super) features: Vec<(String, Expression, Ast)>,
    pub(super) level: Level,
}

impl Catalog {
    /// Checks the views of a machine against the births of its streams, the newest of each: tags that
    /// nobody reports, types and units that do not fit, and functions that weigh samples over tags that
    /// are reported by exception (F3).
    #[must_use]
    pub fn check(&self, machine: &MachineName, births: &[&Birth]) -> Vec<Problem> {
        let tags = births.iter().flat_map(|birth| &birth.tags);
        let tags: BTreeMap<&str, &BirthTag> = tags.map(|tag| (&*tag.name, tag)).collect();
        let mut problems = Vec::new();
        for (view, recheck) in self.views.iter().zip(&self.rechecks) {
            if view.kind.holds(machine) {
                recheck.tags(view, machine, &tags, &mut problems);
                recheck.units(view, machine, &tags, &mut problems);
            }
        }
        problems.dedup();
        problems
    }
}

impl Recheck {
    fn tags(
        &self,
        view: &View,
        machine: &MachineName,
        known: &BTreeMap<&str, &BirthTag>,
        problems: &mut Vec<Problem>,
    ) {
        for (at, used) in view.tags.iter().enumerate() {
            let place = self.place(view, at);
            let Some(tag) = known.get(&*used.name) else {
                let message = format!("{machine} reports no tag {:?}", used.name);
                problems
                    .push(self.problem(place, message).suggest(nearest(&used.name, known.keys().copied())));
                continue;
            };
            let text = tag.value_type.map(|t| matches!(t, ValueType::Text));
            let fits = match (tag.value_type, used.wanted) {
                (None, _) => true,
                (Some(ValueType::Bytes | ValueType::Waveform), _) => false,
                (Some(_), wanted) => text == Some(wanted == Type::Text),
            };
            if !fits {
                let given = tag.value_type.map_or("", ValueType::name);
                let message = format!(
                    "{:?} of {machine} is {given}, and it is used as a {}: it will always be NULL",
                    used.name,
                    used.wanted.name()
                );
                problems.push(self.problem(place, message));
            }
        }
        self.samples(view, machine, known, problems);
    }

    /// Finds functions that weigh samples over tags whose samples are no fair choice of times.
    fn samples(
        &self,
        view: &View,
        machine: &MachineName,
        known: &BTreeMap<&str, &BirthTag>,
        problems: &mut Vec<Problem>,
    ) {
        for (feature, (_, expr, _)) in view.features.iter().zip(&self.features) {
            let mut leaves = BTreeSet::new();
            aggregates_of(&feature.tree, &mut leaves);
            for aggregate in leaves.into_iter().filter_map(|leaf| view.aggregates.get(leaf)) {
                use AggregateFn as F;
                let name = match aggregate.function {
                    F::Std => "std",
                    F::Var => "var",
                    F::Rms => "rms",
                    F::Quantile(_) => "quantile",
                    _ => continue,
                };
                for tag in tags_of_row(view, aggregate.row) {
                    let Some(used) = view.tags.get(tag) else { continue };
                    let by_exception = known
                        .get(&*used.name)
                        .is_some_and(|tag| matches!(tag.reporting, Reporting::ByException { .. }));
                    if by_exception {
                        let message = format!(
                            "{name}() weighs samples, and {machine} reports {:?} only when it changes",
                            used.name
                        );
                        let hint = "use mean(), min(), max() or p2p(), or poll the tag without a deadband";
                        problems
                            .push(self.problem(expr.span.clone(), message).suggest(Some(hint.to_owned())));
                    }
                }
            }
        }
    }

    fn units(
        &self,
        view: &View,
        machine: &MachineName,
        known: &BTreeMap<&str, &BirthTag>,
        problems: &mut Vec<Problem>,
    ) {
        let mut tags = self.tags.clone();
        for (name, typed) in &mut tags {
            let born = known.get(name.as_str()).and_then(|tag| tag.unit.as_deref());
            if let (Some(symbol), Unit::Unknown) = (born, &typed.unit) {
                typed.unit = Unit::read(symbol);
            }
        }
        let scope = KindScope {
            signals: self.signals.clone(),
            tags: RefCell::new(tags),
            attributes: &view.kind.attributes,
        };
        let by_name = self.features.iter().map(|(name, _, ast)| (name.as_str(), ast));
        let mut checker = Checker::new(&scope, by_name.collect());
        let domain = self.domain.iter().map(|(expr, ast)| ("", expr, ast, Level::Row));
        let features = self.features.iter().map(|(name, expr, ast)| (name.as_str(), expr, ast, self.level));
        for (name, expr, ast, level) in domain.chain(features) {
            checker.define(name, ast, level);
            for found in std::mem::take(&mut checker.problems) {
                let message = format!("{} (as {machine} reports them)", found.message);
                problems.push(self.problem(expr.place(&found.span), message).suggest(found.suggestion));
            }
        }
    }

    fn problem(&self, place: std::ops::Range<usize>, message: String) -> Problem {
        Problem::at(&self.file, place, message)
    }

    /// Finds the first expression that reads a tag.
    fn place(&self, view: &View, tag: usize) -> std::ops::Range<usize> {
        let feature = view.features.iter().position(|feature| feature.tags.contains(&tag));
        let feature = feature.and_then(|at| self.features.get(at)).map(|(_, expr, _)| expr);
        feature.or(self.domain.as_ref().map(|(expr, _)| expr)).map_or(0..0, |expr| expr.span.clone())
    }
}

fn aggregates_of(tree: &Tree, leaves: &mut BTreeSet<usize>) {
    match tree {
        Tree::Leaf(leaf) => {
            leaves.insert(*leaf);
        }
        Tree::Literal(_) | Tree::Attribute(..) => {}
        Tree::Negate(inner) | Tree::Not(inner) => aggregates_of(inner, leaves),
        Tree::Binary(_, a, b) => {
            aggregates_of(a, leaves);
            aggregates_of(b, leaves);
        }
        Tree::Call(_, args) => args.iter().for_each(|arg| aggregates_of(arg, leaves)),
    }
}

fn tags_of_row(view: &View, row: usize) -> BTreeSet<usize> {
    let mut tags = BTreeSet::new();
    for leaf in view.rows.get(row).map(|row| row.leaves.as_slice()).unwrap_or_default() {
        match *leaf {
            Leaf::Tag(tag) => {
                tags.insert(tag);
            }
            Leaf::Debounce { row, .. }
            | Leaf::Rising { row }
            | Leaf::Falling { row }
            | Leaf::Lag { row, .. }
            | Leaf::Rate { row } => tags.extend(tags_of_row(view, row)),
        }
    }
    tags
}
