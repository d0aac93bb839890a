//! What refers to what by name, among the features of a view or the signals of a kind.

use std::collections::BTreeMap;

use crate::language::functions::{Function, find};
use crate::language::{Ast, Node};

/// How large a feature may become once the names in it are filled in, in operators.
pub(super) const MAX_SIZE: usize = 10_000;

/// Lists the names in an expression; with `outside_aggregates`, only those that can be features.
pub(super) fn names<'a>(ast: &'a Ast, outside_aggregates: bool, found: &mut Vec<&'a str>) -> usize {
    match &ast.node {
        Node::Number(_) | Node::Text(_) | Node::Bool(_) | Node::Attribute(_) => 1,
        Node::Name(name) => {
            found.push(name);
            1
        }
        Node::Negate(inner) | Node::Not(inner) => 1 + names(inner, outside_aggregates, found),
        Node::Binary(_, a, b) => {
            1 + names(a, outside_aggregates, found) + names(b, outside_aggregates, found)
        }
        Node::Call { name, args, .. } => {
            let aggregate = matches!(find(name).map(|s| s.function), Some(Function::Aggregate(_)));
            if aggregate && outside_aggregates {
                return 1;
            }
            1 + args.iter().map(|arg| names(arg, outside_aggregates, found)).sum::<usize>()
        }
    }
}

/// What is wrong with a name that refers to others.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tangle {
    /// It refers to itself over these names.
    Circle(Vec<String>),
    /// It becomes larger than [`MAX_SIZE`].
    Huge,
}

/// Looks for circles and for sizes without end.
pub(super) fn tangles(asts: &BTreeMap<&str, &Ast>, outside_aggregates: bool) -> BTreeMap<String, Tangle> {
    let mut tangles = BTreeMap::new();
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for &name in asts.keys() {
        let mut path = Vec::new();
        let size = size(name, asts, outside_aggregates, &mut path, &mut sizes, &mut tangles);
        if size > MAX_SIZE {
            tangles.entry(name.to_owned()).or_insert(Tangle::Huge);
        }
    }
    tangles
}

fn size<'a>(
    name: &'a str,
    asts: &BTreeMap<&'a str, &'a Ast>,
    outside_aggregates: bool,
    path: &mut Vec<&'a str>,
    sizes: &mut BTreeMap<&'a str, usize>,
    tangles: &mut BTreeMap<String, Tangle>,
) -> usize {
    if let Some(&known) = sizes.get(name) {
        return known;
    }
    if let Some(at) = path.iter().position(|open| *open == name) {
        let mut circle: Vec<String> = path.iter().skip(at).map(|n| (*n).to_owned()).collect();
        circle.push(name.to_owned());
        tangles.entry(name.to_owned()).or_insert(Tangle::Circle(circle));
        return 0;
    }
    let Some(ast) = asts.get(name) else { return 0 };
    let mut refers = Vec::new();
    let mut total = names(ast, outside_aggregates, &mut refers);
    path.push(name);
    for other in refers {
        total = total.saturating_add(size(other, asts, outside_aggregates, path, sizes, tangles));
    }
    path.pop();
    sizes.insert(name, total);
    total
}
