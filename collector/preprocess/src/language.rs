//! The language of features (F1): from text to a tree with places.
//!
//! Invariant: nothing here knows tags, kinds or views; a text either becomes a tree or an error that
//! tells its place. Nesting is bounded, so that no text can exhaust the stack.

pub(crate) mod functions;
mod lex;
mod parse;
pub(crate) mod unit;

use std::fmt;
use std::ops::Range;

use crate::graph::BinaryOp;

pub(crate) use parse::parse;

/// Why a text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    /// Bytes of the expression.
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
}

/// An expression and where it stands in its text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ast {
    pub(crate) span: Range<usize>,
    pub(crate) node: Node,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    Number(f64),
    Text(String),
    Bool(bool),
    /// A tag, signal or feature.
    Name(String),
    /// `attr.name`.
    Attribute(String),
    Negate(Box<Ast>),
    Not(Box<Ast>),
    Binary(BinaryOp, Box<Ast>, Box<Ast>),
    Call {
        name: String,
        name_span: Range<usize>,
        args: Vec<Ast>,
    },
}

impl BinaryOp {
    pub(crate) const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::And => "and",
            Self::Or => "or",
        }
    }
}

/// The canonical form: fully in parentheses, the same for every way of writing it; what `graph_hash`
/// stands on. Numbers are written by their bits.
impl fmt::Display for Ast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Node::Number(x) => write!(f, "#{:016x}", x.to_bits()),
            Node::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Node::Bool(b) => write!(f, "{b}"),
            Node::Name(name) => write!(f, "`{name}`"),
            Node::Attribute(name) => write!(f, "attr.`{name}`"),
            Node::Negate(a) => write!(f, "(-{a})"),
            Node::Not(a) => write!(f, "(not {a})"),
            Node::Binary(op, a, b) => write!(f, "({a} {} {b})", op.symbol()),
            Node::Call { name, args, .. } => {
                write!(f, "{name}(")?;
                for (n, arg) in args.iter().enumerate() {
                    write!(f, "{}{arg}", if n > 0 { ", " } else { "" })?;
                }
                write!(f, ")")
            }
        }
    }
}

/// Reads a duration written with its unit (`"10 s"`). *Units*: microseconds.
pub(crate) fn duration_us(text: &str) -> Option<i64> {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(at);
    let unit_us = match unit.trim() {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "min" => 60e6,
        "h" => 3_600e6,
        "d" => 86_400e6,
        _ => return None,
    };
    let us = number.parse::<f64>().ok()? * unit_us;
    (us.fract() == 0.0 && us < 9e15).then_some(us as i64)
}
