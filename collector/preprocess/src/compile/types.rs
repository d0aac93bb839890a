//! Types and units of expressions (F1): inferred from how tags are used and from what kinds declare.
//!
//! Tags have no types of their own when files are compiled (a sensor may come tomorrow), so each use
//! settles one; what nobody settles is a number. Run once silently over all expressions of a kind, then
//! again to report.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::attributes::Attributes;
use crate::graph::{AggregateFn, BinaryOp, PointFn};
use crate::language::functions::{FUNCTIONS, Function, LATER, Signature, TimeFn, find};
use crate::language::unit::Unit;
use crate::language::{Ast, Node, SyntaxError, duration_us};
use crate::problem::nearest;
use crate::value::Type;

/// What is known of an expression; the type is `None` as long as nothing settles it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Typed {
    pub(super) value_type: Option<Type>,
    pub(super) unit: Unit,
}

impl Typed {
    const fn new(value_type: Type, unit: Unit) -> Self {
        Self { value_type: Some(value_type), unit }
    }

    /// What an expression with a reported problem gives: fits everywhere, so that one mistake is told once.
    const fn unknown() -> Self {
        Self { value_type: None, unit: Unit::Unknown }
    }
}

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// Over tags and signals, at one instant.
    Row,
    /// Over aggregates and other features.
    Scalar,
    /// As `Scalar`, in a view without windows.
    Latest,
}

/// What all expressions of a kind share.
#[derive(Debug)]
pub(super) struct KindScope<'a> {
    pub(super) signals: BTreeMap<String, Ast>,
    pub(super) tags: RefCell<BTreeMap<String, Typed>>,
    pub(super) attributes: &'a Attributes,
}

/// Checks expressions of one view or signal.
pub(super) struct Checker<'a> {
    pub(super) scope: &'a KindScope<'a>,
    /// The view's features by name.
    pub(super) features: BTreeMap<&'a str, &'a Ast>,
    pub(super) problems: Vec<SyntaxError>,
    silent: usize,
    /// The names being resolved, to find circles.
    stack: Vec<String>,
}

impl<'a> Checker<'a> {
    pub(super) fn new(scope: &'a KindScope<'a>, features: BTreeMap<&'a str, &'a Ast>) -> Self {
        Self { scope, features, problems: Vec::new(), silent: 0, stack: Vec::new() }
    }

    fn say(&mut self, span: &Range<usize>, message: String, suggestion: Option<String>) {
        if self.silent == 0 {
            self.problems.push(SyntaxError { span: span.clone(), message, suggestion });
        }
    }

    /// Infers type and unit; `want` settles what is open.
    pub(super) fn infer(&mut self, ast: &Ast, level: Level, want: Option<Type>) -> Typed {
        let typed = match &ast.node {
            Node::Number(_) => Typed::new(Type::Num, Unit::Plain),
            Node::Text(_) => Typed::new(Type::Text, Unit::Plain),
            Node::Bool(_) => Typed::new(Type::Bool, Unit::Plain),
            Node::Attribute(name) => self.attribute(name, &ast.span),
            Node::Name(name) if level == Level::Row => self.row_name(name, want),
            Node::Name(name) => self.feature_name(name, &ast.span, level, want),
            Node::Negate(inner) => {
                let unit = self.infer(inner, level, Some(Type::Num)).unit;
                Typed::new(Type::Num, unit)
            }
            Node::Not(inner) => {
                self.infer(inner, level, Some(Type::Bool));
                Typed::new(Type::Bool, Unit::Plain)
            }
            Node::Binary(op, left, right) => self.binary(ast, *op, left, right, level),
            Node::Call { name, name_span, args } => self.call(ast, name, name_span, args, level, want),
        };
        if let (Some(got), Some(want)) = (typed.value_type, want)
            && got != want
        {
            let what = match &ast.node {
                Node::Name(name) => name.clone(),
                Node::Attribute(name) => format!("attr.{name}"),
                Node::Call { name, .. } => format!("{name}()"),
                _ => "this".to_owned(),
            };
            let message = format!("{what} is a {}, and a {} is needed here", got.name(), want.name());
            self.say(&ast.span, message, None);
            return Typed::unknown();
        }
        typed
    }

    fn attribute(&mut self, name: &str, span: &Range<usize>) -> Typed {
        let names = self.scope.attributes.names();
        if !names.iter().any(|known| &***known == name) {
            let hint = nearest(name, names.iter().map(|n| &***n));
            self.say(span, format!("no machine of this kind has an attribute {name:?}"), hint);
            return Typed::unknown();
        }
        Typed::new(self.scope.attributes.value_type(name), Unit::Unknown)
    }

    fn row_name(&mut self, name: &str, want: Option<Type>) -> Typed {
        let scope = self.scope;
        if let Some(signal) = scope.signals.get(name) {
            return self.follow(name, signal, Level::Row, want);
        }
        let mut tags = scope.tags.borrow_mut();
        let tag = tags.entry(name.to_owned()).or_insert_with(Typed::unknown);
        tag.value_type = tag.value_type.or(want);
        tag.clone()
    }

    fn feature_name(&mut self, name: &str, span: &Range<usize>, level: Level, want: Option<Type>) -> Typed {
        if let Some(feature) = self.features.get(name).copied() {
            return self.follow(name, feature, level, want);
        }
        let hint = nearest(name, self.features.keys().copied())
            .or_else(|| Some(format!("a tag's rows are aggregated first: mean({name}), last({name})")));
        self.say(span, format!("this view has no feature {name:?}"), hint);
        Typed::unknown()
    }

    /// Infers what a name stands for; its problems are told where it is defined, circles before.
    fn follow(&mut self, name: &str, ast: &Ast, level: Level, want: Option<Type>) -> Typed {
        if self.stack.iter().any(|open| open == name) {
            return Typed::unknown();
        }
        self.stack.push(name.to_owned());
        self.silent += 1;
        let mut typed = self.infer(ast, level, None);
        if typed.value_type.is_none() && want.is_some() {
            typed = self.infer(ast, level, want);
        }
        self.silent -= 1;
        self.stack.pop();
        typed
    }

    /// Checks a feature or signal under its own name, so that circles are found.
    pub(super) fn define(&mut self, name: &str, ast: &Ast, level: Level) -> Typed {
        self.stack.push(name.to_owned());
        let typed = self.infer(ast, level, None);
        self.stack.pop();
        typed
    }

    fn binary(&mut self, ast: &Ast, op: BinaryOp, left: &Ast, right: &Ast, level: Level) -> Typed {
        match op {
            BinaryOp::And | BinaryOp::Or => {
                self.infer(left, level, Some(Type::Bool));
                self.infer(right, level, Some(Type::Bool));
                Typed::new(Type::Bool, Unit::Plain)
            }
            BinaryOp::Multiply | BinaryOp::Divide => {
                let a = self.infer(left, level, Some(Type::Num)).unit;
                let b = self.infer(right, level, Some(Type::Num)).unit;
                let unit = if op == BinaryOp::Multiply { a.times(&b) } else { a.per(&b) };
                Typed::new(Type::Num, unit)
            }
            BinaryOp::Add | BinaryOp::Subtract => {
                let a = self.infer(left, level, Some(Type::Num)).unit;
                let b = self.infer(right, level, Some(Type::Num)).unit;
                Typed::new(Type::Num, self.join(ast, op.symbol(), &a, &b))
            }
            BinaryOp::Equal | BinaryOp::NotEqual => {
                let (a, b) = self.same_type(left, right, level);
                self.join(ast, op.symbol(), &a.unit, &b.unit);
                Typed::new(Type::Bool, Unit::Plain)
            }
            BinaryOp::Less | BinaryOp::LessEqual | BinaryOp::Greater | BinaryOp::GreaterEqual => {
                let a = self.infer(left, level, Some(Type::Num)).unit;
                let b = self.infer(right, level, Some(Type::Num)).unit;
                self.join(ast, op.symbol(), &a, &b);
                Typed::new(Type::Bool, Unit::Plain)
            }
        }
    }

    fn same_type(&mut self, left: &Ast, right: &Ast, level: Level) -> (Typed, Typed) {
        let a = self.infer(left, level, None);
        let b = self.infer(right, level, a.value_type);
        let a = if a.value_type.is_none() { self.infer(left, level, b.value_type) } else { a };
        (a, b)
    }

    fn join(&mut self, ast: &Ast, what: &str, a: &Unit, b: &Unit) -> Unit {
        a.join(b).unwrap_or_else(|| {
            self.say(
                &ast.span,
                format!("{what} needs one unit on both sides, and these are {a} and {b}"),
                None,
            );
            Unit::Unknown
        })
    }

    fn call(
        &mut self,
        ast: &Ast,
        name: &str,
        name_span: &Range<usize>,
        args: &[Ast],
        level: Level,
        want: Option<Type>,
    ) -> Typed {
        let Some(signature) = find(name) else {
            let (message, hint) = if LATER.contains(&name) {
                (format!("{name}() comes with a later release"), None)
            } else {
                (format!("there is no function {name:?}"), nearest(name, FUNCTIONS.iter().map(|f| f.name)))
            };
            self.say(name_span, message, hint);
            return Typed::unknown();
        };
        if args.len() < signature.min_args || args.len() > signature.max_args {
            self.say(&ast.span, format!("{name} is called as {}", signature.usage), None);
            return Typed::unknown();
        }
        match (signature.function, level) {
            (Function::Point(function), _) => self.point(ast, function, args, level, want),
            (Function::Aggregate(_), Level::Row) => {
                let message = format!("{name}() stands where rows are expected; aggregates do not nest");
                self.say(name_span, message, None);
                Typed::unknown()
            }
            (Function::Aggregate(function), Level::Latest)
                if !matches!(function, AggregateFn::Last | AggregateFn::Age) =>
            {
                let message = format!("{name}() needs a window, and a \"latest\" view has none");
                self.say(name_span, message, Some("use the tag itself, last() or age()".to_owned()));
                Typed::unknown()
            }
            (Function::Aggregate(function), _) => self.aggregate(function, signature, args, want),
            (Function::Time(function), Level::Row) => self.time(function, args, want),
            (Function::Time(_), _) => {
                self.say(name_span, format!("{name}() works on rows: put it inside an aggregate"), None);
                Typed::unknown()
            }
        }
    }

    fn alternatives<'b>(
        &mut self,
        ast: &Ast,
        values: impl Iterator<Item = &'b Ast> + Clone,
        level: Level,
        want: Option<Type>,
    ) -> Typed {
        let mut value_type = want;
        for value in values.clone() {
            value_type = value_type.or(self.infer_silently(value, level));
        }
        let mut unit = Unit::Plain;
        for value in values {
            let next = self.infer(value, level, value_type).unit;
            unit = self.join(ast, "every alternative", &unit, &next);
        }
        Typed { value_type, unit }
    }

    fn infer_silently(&mut self, ast: &Ast, level: Level) -> Option<Type> {
        self.silent += 1;
        let typed = self.infer(ast, level, None);
        self.silent -= 1;
        typed.value_type
    }

    fn point(&mut self, ast: &Ast, f: PointFn, args: &[Ast], level: Level, want: Option<Type>) -> Typed {
        match f {
            PointFn::Case | PointFn::If => {
                let pairs = args.len() / 2 * 2;
                for condition in args.iter().take(pairs).step_by(2) {
                    self.infer(condition, level, Some(Type::Bool));
                }
                let values = args.iter().enumerate().filter(|(n, _)| n % 2 == 1 || *n == pairs);
                self.alternatives(ast, values.map(|(_, value)| value), level, want)
            }
            PointFn::Coalesce => self.alternatives(ast, args.iter(), level, want),
            PointFn::Clamp => self.alternatives(ast, args.iter(), level, Some(Type::Num)),
            PointFn::Abs | PointFn::Sqrt | PointFn::Log | PointFn::Exp => {
                let unit = args.first().map_or(Unit::Plain, |x| self.infer(x, level, Some(Type::Num)).unit);
                let unit = match f {
                    PointFn::Abs => unit,
                    PointFn::Sqrt => unit.root(),
                    _ => Unit::ratio(),
                };
                Typed::new(Type::Num, unit)
            }
        }
    }

    fn aggregate(
        &mut self,
        function: AggregateFn,
        signature: &Signature,
        args: &[Ast],
        want: Option<Type>,
    ) -> Typed {
        use AggregateFn as F;
        let Some(arg) = args.first() else { return Typed::unknown() };
        let wanted = match function {
            F::Duration | F::Share => Some(Type::Bool),
            F::Count | F::Transitions | F::Age | F::Coverage => None,
            F::First | F::Last => want,
            _ => Some(Type::Num),
        };
        let inner = self.infer(arg, Level::Row, wanted);
        match function {
            F::Quantile(_) => {
                let q = args.get(1);
                if !matches!(q.map(|a| &a.node), Some(Node::Number(q)) if (0.0..=1.0).contains(q)) {
                    let span = q.map_or(0..0, |a| a.span.clone());
                    self.say(
                        &span,
                        format!("{}: the second argument is a number from 0 to 1", signature.usage),
                        None,
                    );
                }
            }
            F::Increase if !self.is_tag(arg) => {
                let hint = Some("add the increases: increase(a) + increase(b)".to_owned());
                self.say(&arg.span, "increase() takes a counter's tag".to_owned(), hint);
            }
            _ => {}
        }
        let unit = match function {
            F::Count | F::Transitions | F::Share | F::Coverage => Unit::ratio(),
            F::Duration | F::Age => Unit::seconds(),
            F::Var => inner.unit.times(&inner.unit),
            F::Slope => inner.unit.per(&Unit::seconds()),
            F::Integral => inner.unit.times(&Unit::seconds()),
            _ => inner.unit,
        };
        match function {
            F::First | F::Last => Typed { value_type: inner.value_type, unit },
            _ => Typed::new(Type::Num, unit),
        }
    }

    fn is_tag(&self, ast: &Ast) -> bool {
        matches!(&ast.node, Node::Name(name) if !self.scope.signals.contains_key(name))
    }

    fn time(&mut self, function: TimeFn, args: &[Ast], want: Option<Type>) -> Typed {
        let Some(arg) = args.first() else { return Typed::unknown() };
        match function {
            TimeFn::Rising | TimeFn::Falling => {
                self.infer(arg, Level::Row, Some(Type::Bool));
                Typed::new(Type::Bool, Unit::Plain)
            }
            TimeFn::Rate => {
                let unit = self.infer(arg, Level::Row, Some(Type::Num)).unit;
                Typed::new(Type::Num, unit.per(&Unit::seconds()))
            }
            TimeFn::Lag => {
                if let Some(span) = args.get(1)
                    && span_us(span).is_none()
                {
                    let message = "lag() goes back by a time, at most 1 d: lag(x, '10 s')".to_owned();
                    self.say(&span.span, message, None);
                }
                self.infer(arg, Level::Row, want)
            }
        }
    }
}

/// Reads `lag`'s time: a text with its unit, or a number of seconds. *Units*: microseconds.
pub(super) fn span_us(ast: &Ast) -> Option<i64> {
    const DAY_US: i64 = 86_400_000_000;
    let us = match &ast.node {
        Node::Text(text) => duration_us(text)?,
        Node::Number(s) if s.is_finite() && *s < 1e6 => (s * 1e6) as i64,
        _ => return None,
    };
    (1..=DAY_US).contains(&us).then_some(us)
}
