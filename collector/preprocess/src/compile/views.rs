//! Feature views: their expressions checked and lowered, their windows cut, their identity computed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::births::Recheck;
use super::files::{Expression, RawFile, RawSignal, RawView, RawWindow};
use super::lower::Lowering;
use super::names::{MAX_SIZE, Tangle, names, tangles};
use super::section::{Report, Word};
use super::types::{Checker, KindScope, Level, Typed};
use crate::feature::{FeatureColumn, FeatureType, ViewSchema};
use crate::graph::{AggregateFn, Feature, Kind, Mode, Tree, View, Window};
use crate::language::functions::{Function, find};
use crate::language::unit::Unit;
use crate::language::{Ast, Node, SyntaxError, parse};
use crate::problem::nearest;
use crate::value::Type;

/// Windows up to this length fold samples; longer ones merge panes (F2).
const FOLD_MAX_US: i64 = 600_000_000;
/// The most panes or steps that one window may have.
const MAX_PIECES: i64 = 10_000;
/// Counts the changes of what the functions mean; part of every graph's identity.
const RULES: u32 = 1;

/// The kinds with their signals, ready to check expressions.
pub(super) struct Scopes<'a> {
    kinds: Vec<Scope<'a>>,
}

/// A kind, what its expressions may name, and how long its signals are debounced.
type Scope<'a> = (Arc<Kind>, KindScope<'a>, BTreeMap<String, i64>);

impl<'a> Scopes<'a> {
    /// Parses and checks the signals, and settles the types of tags over everything of each kind.
    pub(super) fn new(reports: &[Report<'_>], raw: &[RawFile], kinds: &'a [Arc<Kind>]) -> Self {
        let mut scopes = Vec::new();
        for kind in kinds {
            let mut scope = KindScope {
                signals: BTreeMap::new(),
                tags: RefCell::new(declared(raw, kind)),
                attributes: &kind.attributes,
            };
            let mut debounce_us = BTreeMap::new();
            let of_kind = |signal: &&RawSignal| is_of(signal.kind.as_ref(), kind);
            for (report, file) in reports.iter().zip(raw) {
                for signal in file.signals.iter().filter(of_kind) {
                    let Some(ast) = parsed(report, &signal.expr) else { continue };
                    if scope.signals.insert(signal.name.text.clone(), ast).is_some() {
                        let message = format!("there is another signal {:?}", signal.name.text);
                        report.say(signal.name.span.clone(), message);
                    }
                    debounce_us.insert(signal.name.text.clone(), signal.debounce_us);
                }
            }
            tangled_signals(reports, raw, kind, &mut scope);
            scopes.push((Arc::clone(kind), scope, debounce_us));
        }
        let scopes = Self { kinds: scopes };
        scopes.settle(raw);
        for (report, file) in reports.iter().zip(raw) {
            for signal in &file.signals {
                scopes.signal(report, signal);
            }
        }
        scopes
    }

    /// Goes silently over all expressions until no use settles another type.
    fn settle(&self, raw: &[RawFile]) {
        for (kind, scope, _) in &self.kinds {
            for _ in 0..3 {
                let mut checker = Checker::new(scope, BTreeMap::new());
                for (name, ast) in &scope.signals {
                    checker.define(name, ast, Level::Row);
                }
                for view in raw.iter().flat_map(|f| &f.views).filter(|v| is_of(v.kind.as_ref(), kind)) {
                    if let Some(Ok(domain)) = view.domain.as_ref().map(|d| parse(&d.text)) {
                        checker.infer(&domain, Level::Row, Some(Type::Bool));
                    }
                    let Some(window) = &view.window else { continue };
                    for (_, expr) in &view.features {
                        let Ok(ast) = parse(&expr.text).map(|ast| wrap(ast, window)) else { continue };
                        checker.infer(&ast, level(window), None);
                    }
                }
            }
            for tag in scope.tags.borrow_mut().values_mut() {
                tag.value_type = tag.value_type.or(Some(Type::Num));
            }
        }
    }

    /// Finds the scope of a kind. For one that is missing, or is not there, which is told: the scope that was most
    /// likely meant (the only one, or one of a near name), so that expressions are looked at all the same, and `false`.
    fn find(&self, report: &Report<'_>, kind: Option<&Word>) -> (Option<&Scope<'a>>, bool) {
        let named = |name: &str| self.kinds.iter().find(|(known, ..)| *known.name == *name);
        let only = || match self.kinds.as_slice() {
            [only] => Some(only),
            _ => None,
        };
        let Some(kind) = kind else { return (only(), false) };
        if let Some(found) = named(&kind.text) {
            return (Some(found), true);
        }
        let hint = nearest(&kind.text, self.kinds.iter().map(|(known, ..)| &*known.name));
        let meant = hint.as_deref().and_then(|hint| {
            self.kinds.iter().find(|(known, ..)| hint.contains(&format!("{:?}", known.name)))
        });
        report.suggest(kind.span.clone(), format!("there is no kind {:?}", kind.text), hint);
        (meant, false)
    }

    fn signal(&self, report: &Report<'_>, raw: &RawSignal) {
        let (scope, is_named) = self.find(report, raw.kind.as_ref());
        // What belongs to a kind was parsed with it.
        let stray = if is_named { None } else { parsed(report, &raw.expr) };
        let Some((_, scope, _)) = scope else { return };
        let known = scope.signals.get(&raw.name.text).filter(|_| is_named);
        let Some(ast) = known.or(stray.as_ref()) else { return };
        let mut checker = Checker::new(scope, BTreeMap::new());
        checker.define(&raw.name.text, ast, Level::Row);
        tell(report, &raw.expr, checker.problems);
    }

    /// Builds a view and what checks it against births; `None` when it has problems, which were reported.
    pub(super) fn view(&self, reports: &[Report<'_>], file: usize, raw: &RawView) -> Option<(View, Recheck)> {
        let report = reports.get(file)?;
        let (found, is_named) = self.find(report, raw.kind.as_ref());
        let window = raw.window.as_ref().and_then(|window| self::window(report, window));
        let domain = raw.domain.as_ref().map(|expr| (expr, parsed(report, expr)));
        let mut asts: Vec<(&Word, &Expression, Ast)> = Vec::new();
        for (name, expr) in &raw.features {
            asts.extend(parsed(report, expr).map(|ast| (name, expr, ast)));
        }
        let form = raw.window.as_ref()?;
        asts.iter_mut().for_each(|(.., ast)| *ast = wrap(ast.clone(), form));
        let (kind, scope, debounce_us) = found?;
        let mut complete = is_named && !raw.is_broken && asts.len() == raw.features.len();
        let all: BTreeMap<&str, &Ast> = asts.iter().map(|(n, _, ast)| (n.text.as_str(), ast)).collect();
        let tangled = tangles(&all, true);
        for (name, expr, _) in &asts {
            if let Some(tangle) = tangled.get(&name.text) {
                report.say(expr.span.clone(), tangle_text(tangle));
            }
        }
        complete &= tangled.is_empty();
        let mut out: BTreeSet<String> = tangled.into_keys().collect();
        let is_parsed = |name: &Word| asts.iter().any(|(known, ..)| known.text == name.text);
        out.extend(
            raw.features.iter().map(|(name, _)| name).filter(|n| !is_parsed(n)).map(|n| n.text.clone()),
        );
        leave_out(&mut asts, out);
        let by_name: BTreeMap<&str, &Ast> = asts.iter().map(|(n, _, ast)| (n.text.as_str(), ast)).collect();
        if let Some((expr, ast)) = &domain {
            let mut checker = Checker::new(scope, BTreeMap::new());
            if let Some(ast) = ast {
                checker.infer(ast, Level::Row, Some(Type::Bool));
            }
            complete &= ast.is_some() && checker.problems.is_empty();
            tell(report, expr, checker.problems);
        }
        let mut typed = Vec::new();
        for (name, expr, ast) in &asts {
            let mut checker = Checker::new(scope, by_name.clone());
            typed.push(checker.define(&name.text, ast, level(form)));
            complete &= checker.problems.is_empty();
            tell(report, expr, checker.problems);
        }
        if !complete || asts.is_empty() {
            return None;
        }
        let mut lowering = Lowering::new(scope, debounce_us, by_name);
        let features: Vec<Feature> =
            asts.iter().map(|(_, expr, ast)| feature(&mut lowering, expr, ast)).collect();
        let domain = domain.and_then(|(_, ast)| ast);
        let domain_row = domain.as_ref().map(|ast| lowering.row(ast));
        let columns = columns(&asts, &typed, &features, &lowering);
        let memory_us = (0..lowering.rows.len()).map(|row| lowering.memory_us(row)).max().unwrap_or(0);
        let schema = ViewSchema {
            name: raw.name.text.as_str().into(),
            version: raw.version,
            entity: "machine".into(),
            features: columns,
            ttl_us: raw.ttl_us,
            graph_hash: identity(raw, window?, domain.as_ref(), &asts, &lowering, scope, debounce_us),
        };
        for tag in features.iter().flat_map(|f| &f.tags) {
            if let Some(tag) = lowering.tags.get_mut(*tag) {
                tag.in_features = true;
            }
        }
        let recheck = Recheck {
            file: report.file.clone(),
            signals: scope.signals.clone(),
            tags: scope.tags.borrow().clone(),
            domain: raw.domain.clone().zip(domain),
            features: asts.iter().map(|(n, e, ast)| (n.text.clone(), (*e).clone(), ast.clone())).collect(),
            level: level(form),
        };
        let view = View {
            schema: Arc::new(schema),
            kind: Arc::clone(kind),
            mode: raw.run_every_us.map_or(Mode::Stream, |run_every_us| Mode::Batch { run_every_us }),
            window: window?,
            filter: raw.domain.as_ref().map(|expr| expr.text.as_str().into()),
            lateness_us: raw.lateness_us,
            memory_us,
            tags: lowering.tags,
            rows: lowering.rows,
            domain: domain_row,
            aggregates: lowering.aggregates,
            features,
        };
        Some((view, recheck))
    }
}

/// Leaves features out, and those that refer to them: of these nobody knows the type.
fn leave_out(asts: &mut Vec<(&Word, &Expression, Ast)>, mut out: BTreeSet<String>) {
    loop {
        let refers = |ast: &Ast| {
            let mut found = Vec::new();
            names(ast, true, &mut found);
            found.iter().any(|name| out.contains(*name))
        };
        let more: Vec<String> = asts
            .iter()
            .filter(|(name, _, ast)| !out.contains(&name.text) && refers(ast))
            .map(|(name, ..)| name.text.clone())
            .collect();
        if more.is_empty() {
            break;
        }
        out.extend(more);
    }
    asts.retain(|(name, ..)| !out.contains(&name.text));
}

fn is_of(word: Option<&Word>, kind: &Kind) -> bool {
    word.is_some_and(|word| *word.text == *kind.name)
}

fn declared(raw: &[RawFile], kind: &Kind) -> BTreeMap<String, Typed> {
    let of_kind = raw.iter().flat_map(|f| &f.kinds).filter(|k| *k.name.text == *kind.name);
    let tags = of_kind.flat_map(|k| &k.tags);
    tags.map(|(name, tag)| {
        let unit = tag.unit.as_deref().map_or(Unit::Unknown, Unit::read);
        (name.clone(), Typed { value_type: tag.value_type, unit })
    })
    .collect()
}

fn tangled_signals(reports: &[Report<'_>], raw: &[RawFile], kind: &Kind, scope: &mut KindScope<'_>) {
    let by_name: BTreeMap<&str, &Ast> =
        scope.signals.iter().map(|(name, ast)| (name.as_str(), ast)).collect();
    let tangled = tangles(&by_name, false);
    for (report, file) in reports.iter().zip(raw) {
        for signal in file.signals.iter().filter(|s| is_of(s.kind.as_ref(), kind)) {
            if let Some(tangle) = tangled.get(&signal.name.text) {
                report.say(signal.expr.span.clone(), tangle_text(tangle));
            }
        }
    }
    scope.signals.retain(|name, _| !tangled.contains_key(name));
}

fn tangle_text(tangle: &Tangle) -> String {
    match tangle {
        Tangle::Circle(names) => format!("this refers to itself: {}", names.join(" -> ")),
        Tangle::Huge => format!("with its names filled in, this has more than {MAX_SIZE} operators"),
    }
}

fn parsed(report: &Report<'_>, expr: &Expression) -> Option<Ast> {
    match parse(&expr.text) {
        Ok(ast) => Some(ast),
        Err(error) => {
            tell(report, expr, vec![error]);
            None
        }
    }
}

fn tell(report: &Report<'_>, expr: &Expression, problems: Vec<SyntaxError>) {
    for problem in problems {
        report.suggest(expr.place(&problem.span), problem.message, problem.suggestion);
    }
}

const fn level(window: &RawWindow) -> Level {
    match window {
        RawWindow::Sliding { .. } => Level::Scalar,
        RawWindow::Latest { .. } => Level::Latest,
    }
}

/// In a view without windows, a feature without an aggregate means its newest value.
fn wrap(ast: Ast, window: &RawWindow) -> Ast {
    fn aggregated(ast: &Ast) -> bool {
        match &ast.node {
            Node::Number(_) | Node::Text(_) | Node::Bool(_) | Node::Name(_) | Node::Attribute(_) => false,
            Node::Negate(a) | Node::Not(a) => aggregated(a),
            Node::Binary(_, a, b) => aggregated(a) || aggregated(b),
            Node::Call { name, args, .. } => {
                matches!(find(name).map(|s| s.function), Some(Function::Aggregate(_)))
                    || args.iter().any(aggregated)
            }
        }
    }
    if matches!(window, RawWindow::Sliding { .. }) || aggregated(&ast) {
        return ast;
    }
    let span = ast.span.clone();
    let node = Node::Call { name: "last".to_owned(), name_span: span.clone(), args: vec![ast] };
    Ast { span, node }
}

fn window(report: &Report<'_>, raw: &RawWindow) -> Option<Window> {
    let (size_us, every_us, span) = match raw {
        RawWindow::Latest { cell_us } => return Some(Window::Latest { cell_us: *cell_us }),
        RawWindow::Sliding { size_us, every_us, span } => (*size_us, *every_us, span),
    };
    let wrong = if size_us <= 0 || every_us <= 0 {
        Some("a window and its steps last longer than nothing")
    } else if every_us > size_us {
        Some("every is longer than size, so that time between the windows would be lost")
    } else if size_us / every_us > MAX_PIECES {
        Some("the window has more than 10000 steps; choose a longer every")
    } else {
        None
    };
    if let Some(message) = wrong {
        report.say(span.clone(), message);
        return None;
    }
    if size_us <= FOLD_MAX_US {
        return Some(Window::Sliding { size_us, every_us, pane_us: None });
    }
    let common = gcd(size_us, every_us);
    let fewest = (common + FOLD_MAX_US - 1) / FOLD_MAX_US;
    let parts = (fewest..fewest + MAX_PIECES).find(|parts| common % parts == 0);
    match parts.map(|parts| common / parts).filter(|pane| size_us / pane <= MAX_PIECES) {
        Some(pane_us) => Some(Window::Sliding { size_us, every_us, pane_us: Some(pane_us) }),
        None => {
            report.say(span.clone(), "size and every have no common part; choose round times");
            None
        }
    }
}

const fn gcd(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn feature(lowering: &mut Lowering<'_>, expr: &Expression, ast: &Ast) -> Feature {
    let tree = lowering.scalar(ast);
    let tags = lowering.tags_of_tree(&tree).into_iter().collect();
    Feature { text: expr.text.as_str().into(), tree, tags }
}

fn columns(
    asts: &[(&Word, &Expression, Ast)],
    typed: &[Typed],
    features: &[Feature],
    lowering: &Lowering<'_>,
) -> Vec<FeatureColumn> {
    let each = asts.iter().zip(typed).zip(features);
    each.map(|(((name, _, _), typed), feature)| {
        let counts = match &feature.tree {
            Tree::Leaf(leaf) => lowering
                .aggregates
                .get(*leaf)
                .is_some_and(|a| matches!(a.function, AggregateFn::Count | AggregateFn::Transitions)),
            _ => false,
        };
        let feature_type = match typed.value_type {
            _ if counts => FeatureType::I64,
            Some(Type::Bool) => FeatureType::Bool,
            Some(Type::Text) => FeatureType::Text,
            Some(Type::Num) | None => FeatureType::F64,
        };
        let unit = typed.unit.symbol().map(Arc::from);
        FeatureColumn { name: name.text.as_str().into(), feature_type, unit }
    })
    .collect()
}

/// Computes `graph_hash`: CRC-64/XZ over the view's canonical form.
fn identity(
    raw: &RawView,
    window: Window,
    domain: Option<&Ast>,
    asts: &[(&Word, &Expression, Ast)],
    lowering: &Lowering<'_>,
    scope: &KindScope<'_>,
    debounce_us: &BTreeMap<String, i64>,
) -> u64 {
    const CRC: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_XZ);
    let mut text = format!("rules {RULES}\nview {} {}\n", raw.name.text, raw.version);
    let mut line = |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").unwrap_or_default();
    match window {
        Window::Latest { cell_us } => line(format_args!("latest {cell_us}")),
        Window::Sliding { size_us, every_us, pane_us } => {
            line(format_args!("window {size_us} {every_us} {}", pane_us.unwrap_or(0)));
        }
    }
    line(format_args!("lateness {}", raw.lateness_us));
    if let Some(domain) = domain {
        line(format_args!("where {domain}"));
    }
    for (name, _, ast) in asts {
        line(format_args!("feature {} {ast}", name.text));
    }
    for name in &lowering.signals {
        if let Some(ast) = scope.signals.get(name) {
            line(format_args!("signal {name} {} {ast}", debounce_us.get(name).unwrap_or(&0)));
        }
    }
    let tags: BTreeSet<(&str, &str)> =
        lowering.tags.iter().map(|tag| (&*tag.name, tag.wanted.name())).collect();
    for (name, wanted) in tags {
        line(format_args!("tag {name} {wanted}"));
    }
    CRC.checksum(text.as_bytes())
}
