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
    /// Checks the views against the births of the machines that are known, the newest of each stream, later
    /// ones last: tags that no machine of the kind reports, types and units that do not fit, and functions
    /// that weigh samples over tags that are reported by exception (F3).
    ///
    /// A tag that only some machines of a kind have is no problem: sensors come one at a time, and what a
    /// machine lacks is NULL.
    #[must_use]
    pub fn check(&self, machines: &BTreeMap<MachineName, Vec<&Birth>>) -> Vec<Problem> {
        let machines: Vec<Reported<'_>> = machines.iter().map(Reported::new).collect();
        let mut findings = Findings::default();
        for (view, recheck) in self.views.iter().zip(&self.rechecks) {
            let of_kind: Vec<_> = machines.iter().filter(|known| view.kind.holds(known.machine)).collect();
            recheck.missing(view, &of_kind, &mut findings);
            for known in of_kind {
                recheck.types(view, known, &mut findings);
                recheck.samples(view, known, &mut findings);
                recheck.units(view, known, &mut findings);
            }
        }
        findings.into_problems()
    }
}

/// The tags that a machine reports.
struct Reported<'a> {
    machine: &'a MachineName,
    tags: BTreeMap<&'a str, &'a BirthTag>,
}

impl<'a> Reported<'a> {
    fn new((machine, births): (&'a MachineName, &Vec<&'a Birth>)) -> Self {
        let tags = births.iter().flat_map(|birth| &birth.tags);
        Self { machine, tags: tags.map(|tag| (&*tag.name, tag)).collect() }
    }
}

/// Problems with the machines that have them; what many have is told once, for the first of them.
#[derive(Default)]
struct Findings<'a>(Vec<(String, Problem, BTreeSet<&'a MachineName>)>);

impl<'a> Findings<'a> {
    fn add(&mut self, machine: &'a MachineName, problem: Problem) {
        let same = problem.to_string().replace(machine.as_str(), "");
        match self.0.iter_mut().find(|(known, ..)| *known == same) {
            Some((.., machines)) => {
                machines.insert(machine);
            }
            None => self.0.push((same, problem, BTreeSet::from([machine]))),
        }
    }

    fn into_problems(self) -> Vec<Problem> {
        let told = |(_, mut problem, machines): (String, Problem, BTreeSet<&MachineName>)| {
            match machines.len() {
                0 | 1 => {}
                2 => problem.message.push_str("; so it is with 1 more machine"),
                n => problem.message.push_str(&format!("; so it is with {} more machines", n - 1)),
            }
            problem
        };
        self.0.into_iter().map(told).collect()
    }
}

impl Recheck {
    /// Finds tags that nobody has; without any machine nothing is known.
    fn missing<'a>(&self, view: &View, machines: &[&Reported<'a>], findings: &mut Findings<'a>) {
        let Some(first) = machines.first() else { return };
        for (at, used) in view.tags.iter().enumerate() {
            if machines.iter().any(|known| known.tags.contains_key(&*used.name)) {
                continue;
            }
            let who = match machines.len() {
                1 => format!("{} reports no", first.machine),
                n => format!("none of the {n} known machines of kind {:?} reports a", view.kind.name),
            };
            let message = format!("{who} tag {:?}", used.name);
            let names: BTreeSet<&str> =
                machines.iter().flat_map(|known| known.tags.keys().copied()).collect();
            let problem = self.problem(self.place(view, at), message);
            findings.add(first.machine, problem.suggest(nearest(&used.name, names)));
        }
    }

    fn types<'a>(&self, view: &View, known: &Reported<'a>, findings: &mut Findings<'a>) {
        let machine = known.machine;
        for (at, used) in view.tags.iter().enumerate() {
            let Some(tag) = known.tags.get(&*used.name) else { continue };
            let text = tag.value_type.map(|t| matches!(t, ValueType::Text));
            let fits = match (tag.value_type, used.wanted) {
                (None, _) => true,
                (Some(ValueType::Bytes | ValueType::Waveform), _) => false,
                (Some(_), wanted) => text == Some(wanted == Type::Text),
            };
            if !fits {
                let given = tag.value_type.map_or("", ValueType::name);
                // A tag of a type that no use settles counts as a number.
                let remedy = if text == Some(true) {
                    format!("; declare it under its kind: tags = {{ {} = {{ type = \"text\" }} }}", used.name)
                } else {
                    String::new()
                };
                let message = format!(
                    "{:?} of {machine} is {given}, and it is used as a {}: it will always be NULL{remedy}",
                    used.name,
                    used.wanted.name()
                );
                findings.add(machine, self.problem(self.place(view, at), message));
            }
        }
    }

    /// Finds functions that weigh samples over tags whose samples are no fair choice of times.
    fn samples<'a>(&self, view: &View, known: &Reported<'a>, findings: &mut Findings<'a>) {
        let machine = known.machine;
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
                        .tags
                        .get(&*used.name)
                        .is_some_and(|tag| matches!(tag.reporting, Reporting::ByException { .. }));
                    if by_exception {
                        let message = format!(
                            "{name}() weighs samples, and {machine} reports {:?} only when it changes",
                            used.name
                        );
                        let hint = "use mean(), min(), max() or p2p(), or poll the tag without a deadband";
                        let problem = self.problem(expr.span.clone(), message);
                        findings.add(machine, problem.suggest(Some(hint.to_owned())));
                    }
                }
            }
        }
    }

    fn units<'a>(&self, view: &View, known: &Reported<'a>, findings: &mut Findings<'a>) {
        let machine = known.machine;
        let mut tags = self.tags.clone();
        for (name, typed) in &mut tags {
            let born = known.tags.get(name.as_str()).and_then(|tag| tag.unit.as_deref());
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
                let problem = self.problem(expr.place(&found.span), message);
                findings.add(machine, problem.suggest(found.suggestion));
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
