//! From checked trees to a view's tables of rows, aggregates and features.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::types::{KindScope, span_us};
use crate::graph::{Aggregate, AggregateFn, Leaf, PointFn, RowExpr, TagUse, Tree};
use crate::language::functions::{Function, TimeFn, find};
use crate::language::{Ast, Node};
use crate::row::DEBOUNCE_MEMORY_US;
use crate::value::{Type, Val};

/// Builds the tables of one view. Everything was checked; what cannot be is lowered to NULL.
pub(super) struct Lowering<'a> {
    scope: &'a KindScope<'a>,
    debounce_us: &'a BTreeMap<String, i64>,
    features: BTreeMap<&'a str, &'a Ast>,
    pub(super) tags: Vec<TagUse>,
    pub(super) rows: Vec<RowExpr>,
    pub(super) aggregates: Vec<Aggregate>,
    pub(super) signals: BTreeSet<String>,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(
        scope: &'a KindScope<'a>,
        debounce_us: &'a BTreeMap<String, i64>,
        features: BTreeMap<&'a str, &'a Ast>,
    ) -> Self {
        let (tags, rows, aggregates) = (Vec::new(), Vec::new(), Vec::new());
        Self { scope, debounce_us, features, tags, rows, aggregates, signals: BTreeSet::new() }
    }

    /// Lowers a row expression; equal ones share a place.
    pub(super) fn row(&mut self, ast: &Ast) -> usize {
        let mut leaves = Vec::new();
        let tree = self.row_tree(ast, &mut leaves);
        place(&mut self.rows, RowExpr { leaves, tree })
    }

    fn row_tree(&mut self, ast: &Ast, leaves: &mut Vec<Leaf>) -> Tree {
        match &ast.node {
            Node::Name(name) => {
                let scope = self.scope;
                if let Some(signal) = scope.signals.get(name) {
                    self.signals.insert(name.clone());
                    return match self.debounce_us.get(name) {
                        Some(&stable_us) if stable_us > 0 => {
                            let row = self.row(signal);
                            Tree::Leaf(place(leaves, Leaf::Debounce { row, stable_us }))
                        }
                        _ => self.row_tree(signal, leaves),
                    };
                }
                let tag = self.tag(name);
                Tree::Leaf(place(leaves, Leaf::Tag(tag)))
            }
            Node::Call { name, args, .. } => match (find(name).map(|s| s.function), args.first()) {
                (Some(Function::Time(function)), Some(arg)) => {
                    let row = self.row(arg);
                    let leaf = match function {
                        TimeFn::Rising => Leaf::Rising { row },
                        TimeFn::Falling => Leaf::Falling { row },
                        TimeFn::Rate => Leaf::Rate { row },
                        TimeFn::Lag => Leaf::Lag { row, span_us: args.get(1).and_then(span_us).unwrap_or(1) },
                    };
                    Tree::Leaf(place(leaves, leaf))
                }
                (Some(Function::Point(function)), _) => {
                    let args = args.iter().map(|arg| self.row_tree(arg, leaves)).collect();
                    point(function, args)
                }
                _ => Tree::Literal(Val::Null),
            },
            _ => self.common(ast, &mut |this, inner| this.row_tree(inner, leaves)),
        }
    }

    /// Lowers a scalar expression over aggregates.
    pub(super) fn scalar(&mut self, ast: &Ast) -> Tree {
        match &ast.node {
            Node::Name(name) => match self.features.get(name.as_str()).copied() {
                Some(feature) => self.scalar(feature),
                None => Tree::Literal(Val::Null),
            },
            Node::Call { name, args, .. } => match (find(name).map(|s| s.function), args.first()) {
                (Some(Function::Aggregate(function)), Some(arg)) => {
                    let function = match (function, args.get(1).map(|q| &q.node)) {
                        (AggregateFn::Quantile(_), Some(Node::Number(q))) => AggregateFn::Quantile(*q),
                        (other, _) => other,
                    };
                    let row = self.row(arg);
                    Tree::Leaf(place(&mut self.aggregates, Aggregate { function, row }))
                }
                (Some(Function::Point(function)), _) => {
                    let args = args.iter().map(|arg| self.scalar(arg)).collect();
                    point(function, args)
                }
                _ => Tree::Literal(Val::Null),
            },
            _ => self.common(ast, &mut Self::scalar),
        }
    }

    fn common(&mut self, ast: &Ast, next: &mut dyn FnMut(&mut Self, &Ast) -> Tree) -> Tree {
        match &ast.node {
            Node::Number(x) => Tree::Literal(Val::num(*x)),
            Node::Text(text) => Tree::Literal(Val::Text(text.as_str().into())),
            Node::Bool(b) => Tree::Literal(Val::Bool(*b)),
            Node::Attribute(name) => {
                Tree::Attribute(name.as_str().into(), self.scope.attributes.value_type(name))
            }
            Node::Negate(inner) => Tree::Negate(Box::new(next(self, inner))),
            Node::Not(inner) => Tree::Not(Box::new(next(self, inner))),
            Node::Binary(op, a, b) => {
                let (a, b) = (next(self, a), next(self, b));
                Tree::Binary(*op, Box::new(a), Box::new(b))
            }
            Node::Name(_) | Node::Call { .. } => Tree::Literal(Val::Null),
        }
    }

    fn tag(&mut self, name: &str) -> usize {
        if let Some(at) = self.tags.iter().position(|tag| &*tag.name == name) {
            return at;
        }
        let wanted = self.scope.tags.borrow().get(name).and_then(|t| t.value_type).unwrap_or(Type::Num);
        self.tags.push(TagUse { name: Arc::from(name), wanted, in_features: false });
        self.tags.len() - 1
    }

    /// Gives the tags that a row expression reads.
    pub(super) fn tags_of_row(&self, row: usize) -> BTreeSet<usize> {
        let mut tags = BTreeSet::new();
        for leaf in self.rows.get(row).map(|r| r.leaves.as_slice()).unwrap_or_default() {
            match *leaf {
                Leaf::Tag(tag) => {
                    tags.insert(tag);
                }
                Leaf::Debounce { row, .. }
                | Leaf::Rising { row }
                | Leaf::Falling { row }
                | Leaf::Lag { row, .. }
                | Leaf::Rate { row } => tags.extend(self.tags_of_row(row)),
            }
        }
        tags
    }

    /// Gives the tags that a feature reads.
    pub(super) fn tags_of_tree(&self, tree: &Tree) -> BTreeSet<usize> {
        let mut tags = BTreeSet::new();
        leaves_of(tree, &mut |leaf| {
            if let Some(aggregate) = self.aggregates.get(leaf) {
                tags.extend(self.tags_of_row(aggregate.row));
            }
        });
        tags
    }

    /// Gives how far before its range a row expression looks, held values apart (F4).
    pub(super) fn memory_us(&self, row: usize) -> i64 {
        let leaves = self.rows.get(row).map(|r| r.leaves.as_slice()).unwrap_or_default();
        let of = |leaf: &Leaf| match *leaf {
            Leaf::Tag(_) => 0,
            Leaf::Debounce { row, stable_us } => self.memory_us(row) + stable_us + DEBOUNCE_MEMORY_US,
            Leaf::Lag { row, span_us } => self.memory_us(row) + span_us,
            Leaf::Rising { row } | Leaf::Falling { row } | Leaf::Rate { row } => self.memory_us(row),
        };
        leaves.iter().map(of).max().unwrap_or(0)
    }
}

fn place<T: PartialEq>(table: &mut Vec<T>, item: T) -> usize {
    table.iter().position(|known| *known == item).unwrap_or_else(|| {
        table.push(item);
        table.len() - 1
    })
}

fn point(function: PointFn, args: Vec<Tree>) -> Tree {
    Tree::Call(function, args)
}

fn leaves_of(tree: &Tree, visit: &mut dyn FnMut(usize)) {
    match tree {
        Tree::Leaf(leaf) => visit(*leaf),
        Tree::Literal(_) | Tree::Attribute(..) => {}
        Tree::Negate(inner) | Tree::Not(inner) => leaves_of(inner, visit),
        Tree::Binary(_, a, b) => {
            leaves_of(a, visit);
            leaves_of(b, visit);
        }
        Tree::Call(_, args) => args.iter().for_each(|arg| leaves_of(arg, visit)),
    }
}
