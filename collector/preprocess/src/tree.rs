//! Pointwise expressions: NULL rules and arithmetic (F1).

use std::cmp::Ordering;

use crate::graph::{BinaryOp, Kind, PointFn, Tree};
use crate::value::Val;

/// Where attributes come from: a machine, as it stood just before a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) kind: &'a Kind,
    pub(crate) machine: &'a str,
    pub(crate) before_us: i64,
}

/// Evaluates a tree over the values of its leaves.
pub(crate) fn evaluate(tree: &Tree, leaves: &[Val], scene: Scene<'_>) -> Val {
    match tree {
        Tree::Leaf(leaf) => leaves.get(*leaf).cloned().unwrap_or(Val::Null),
        Tree::Literal(value) => value.clone(),
        Tree::Attribute(name, wanted) => {
            scene.kind.attributes.value(scene.machine, name, *wanted, scene.before_us)
        }
        Tree::Negate(inner) => number(evaluate(inner, leaves, scene), |x| -x),
        Tree::Not(inner) => match evaluate(inner, leaves, scene) {
            Val::Bool(b) => Val::Bool(!b),
            _ => Val::Null,
        },
        Tree::Binary(op, left, right) => {
            binary(*op, &evaluate(left, leaves, scene), || evaluate(right, leaves, scene))
        }
        Tree::Call(function, args) => call(*function, args, leaves, scene),
    }
}

fn number(value: Val, f: impl Fn(f64) -> f64) -> Val {
    value.as_num().map_or(Val::Null, |x| Val::num(f(x)))
}

fn binary(op: BinaryOp, left: &Val, right: impl FnOnce() -> Val) -> Val {
    let ordered = |fits: fn(Ordering) -> bool, right: Val| {
        left.compare(&right).map_or(Val::Null, |order| Val::Bool(fits(order)))
    };
    let computed = |f: fn(f64, f64) -> f64, right: Val| match (left.as_num(), right.as_num()) {
        (Some(a), Some(b)) => Val::num(f(a, b)),
        _ => Val::Null,
    };
    match op {
        BinaryOp::Add => computed(|a, b| a + b, right()),
        BinaryOp::Subtract => computed(|a, b| a - b, right()),
        BinaryOp::Multiply => computed(|a, b| a * b, right()),
        // Division by zero gives an infinity or NaN, which is NULL.
        BinaryOp::Divide => computed(|a, b| a / b, right()),
        BinaryOp::Equal => ordered(Ordering::is_eq, right()),
        BinaryOp::NotEqual => ordered(Ordering::is_ne, right()),
        BinaryOp::Less => ordered(Ordering::is_lt, right()),
        BinaryOp::LessEqual => ordered(Ordering::is_le, right()),
        BinaryOp::Greater => ordered(Ordering::is_gt, right()),
        BinaryOp::GreaterEqual => ordered(Ordering::is_ge, right()),
        BinaryOp::And => match (left.as_bool(), right().as_bool()) {
            (Some(false), _) | (_, Some(false)) => Val::Bool(false),
            (Some(true), Some(true)) => Val::Bool(true),
            _ => Val::Null,
        },
        BinaryOp::Or => match (left.as_bool(), right().as_bool()) {
            (Some(true), _) | (_, Some(true)) => Val::Bool(true),
            (Some(false), Some(false)) => Val::Bool(false),
            _ => Val::Null,
        },
    }
}

fn call(function: PointFn, args: &[Tree], leaves: &[Val], scene: Scene<'_>) -> Val {
    let arg = |n: usize| args.get(n).map_or(Val::Null, |tree| evaluate(tree, leaves, scene));
    match function {
        PointFn::Case | PointFn::If => {
            let pairs = args.len() / 2;
            let taken = (0..pairs).find(|n| arg(2 * n).as_bool() == Some(true));
            match taken {
                Some(n) => arg(2 * n + 1),
                None if args.len() % 2 == 1 => arg(2 * pairs),
                None => Val::Null,
            }
        }
        PointFn::Coalesce => (0..args.len()).map(arg).find(|v| !v.is_null()).unwrap_or(Val::Null),
        PointFn::Abs => number(arg(0), f64::abs),
        PointFn::Clamp => match (arg(0).as_num(), arg(1).as_num(), arg(2).as_num()) {
            (Some(x), Some(low), _) if x < low => Val::Num(low),
            (Some(x), _, Some(high)) if x > high => Val::Num(high),
            (Some(x), Some(_), Some(_)) => Val::Num(x),
            _ => Val::Null,
        },
        // The square root is exact by IEEE 754; the others come from libm, the same on every machine (F2).
        PointFn::Sqrt => number(arg(0), f64::sqrt),
        PointFn::Log => number(arg(0), libm::log),
        PointFn::Exp => number(arg(0), libm::exp),
    }
}
