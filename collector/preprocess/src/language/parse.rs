//! From tokens to a tree, by precedence: or, and, not, comparison, + -, * /, sign.

use std::ops::Range;

use super::lex::{Token, lex};
use super::{Ast, Node, SyntaxError};
use crate::graph::BinaryOp;

/// How deep an expression may nest.
const MAX_DEPTH: usize = 64;

/// How long an expression may be, in words and signs.
const MAX_TOKENS: usize = 1000;

/// Parses one expression.
pub(crate) fn parse(text: &str) -> Result<Ast, SyntaxError> {
    let tokens = lex(text)?;
    if let Some((_, span)) = tokens.get(MAX_TOKENS) {
        let message = format!("an expression has at most {MAX_TOKENS} words and signs");
        return Err(SyntaxError { span: span.clone(), message, suggestion: None });
    }
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    let ast = parser.or()?;
    match parser.peek() {
        (Token::End, _) => Ok(ast),
        (token, span) => {
            Err(parser.error(span.clone(), format!("the expression ends before {}", token.describe())))
        }
    }
}

struct Parser {
    tokens: Vec<(Token, Range<usize>)>,
    at: usize,
    depth: usize,
}

type Parsed = Result<Ast, SyntaxError>;

impl Parser {
    fn peek(&self) -> (&Token, &Range<usize>) {
        let last = self.tokens.len().saturating_sub(1);
        self.tokens.get(self.at.min(last)).map_or((&Token::End, &(0..0)), |(token, span)| (token, span))
    }

    fn error(&self, span: Range<usize>, message: String) -> SyntaxError {
        SyntaxError { span, message, suggestion: None }
    }

    fn mark(&mut self, marks: &[&'static str]) -> Option<&'static str> {
        let Token::Mark(mark) = *self.peek().0 else { return None };
        if !marks.contains(&mark) {
            return None;
        }
        self.at += 1;
        Some(mark)
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek().0, Token::Name { text, quoted: false } if text == word);
        self.at += usize::from(found);
        found
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Parsed) -> Parsed {
        if self.depth >= MAX_DEPTH {
            let span = self.peek().1.clone();
            return Err(self.error(span, format!("expressions nest at most {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let parsed = inner(self);
        self.depth -= 1;
        parsed
    }

    fn binary(op: BinaryOp, left: Ast, right: Ast) -> Ast {
        let span = left.span.start..right.span.end;
        Ast { span, node: Node::Binary(op, Box::new(left), Box::new(right)) }
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.word("or") {
            let right = self.and()?;
            left = Self::binary(BinaryOp::Or, left, right);
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.not()?;
        while self.word("and") {
            let right = self.not()?;
            left = Self::binary(BinaryOp::And, left, right);
        }
        Ok(left)
    }

    fn not(&mut self) -> Parsed {
        let start = self.peek().1.start;
        if self.word("not") {
            let inner = self.nested(Self::not)?;
            return Ok(Ast { span: start..inner.span.end, node: Node::Not(Box::new(inner)) });
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Parsed {
        const COMPARISONS: [(&str, BinaryOp); 6] = [
            ("==", BinaryOp::Equal),
            ("!=", BinaryOp::NotEqual),
            ("<", BinaryOp::Less),
            ("<=", BinaryOp::LessEqual),
            (">", BinaryOp::Greater),
            (">=", BinaryOp::GreaterEqual),
        ];
        let marks = COMPARISONS.map(|(mark, _)| mark);
        let left = self.sum()?;
        let Some(mark) = self.mark(&marks) else { return Ok(left) };
        let op = COMPARISONS.iter().find(|(m, _)| *m == mark).map_or(BinaryOp::Equal, |&(_, op)| op);
        let right = self.sum()?;
        let span = self.peek().1.clone();
        if self.mark(&marks).is_some() {
            let mut error = self.error(span, "two values are compared at a time".to_owned());
            error.suggestion = Some("write: a < b and b < c".to_owned());
            return Err(error);
        }
        Ok(Self::binary(op, left, right))
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        while let Some(mark) = self.mark(&["+", "-"]) {
            let right = self.product()?;
            let op = if mark == "+" { BinaryOp::Add } else { BinaryOp::Subtract };
            left = Self::binary(op, left, right);
        }
        Ok(left)
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.sign()?;
        while let Some(mark) = self.mark(&["*", "/"]) {
            let right = self.sign()?;
            let op = if mark == "*" { BinaryOp::Multiply } else { BinaryOp::Divide };
            left = Self::binary(op, left, right);
        }
        Ok(left)
    }

    fn sign(&mut self) -> Parsed {
        let start = self.peek().1.start;
        if self.mark(&["-"]).is_some() {
            let inner = self.nested(Self::sign)?;
            let span = start..inner.span.end;
            // A negative literal is a literal: functions that want one take it.
            let node = match inner.node {
                Node::Number(x) => Node::Number(-x),
                _ => Node::Negate(Box::new(inner)),
            };
            return Ok(Ast { span, node });
        }
        self.primary()
    }

    fn primary(&mut self) -> Parsed {
        let (token, span) = self.peek();
        let (token, span) = (token.clone(), span.clone());
        self.at += 1;
        let node = match token {
            Token::Number(x) => Node::Number(x),
            Token::Text(text) => Node::Text(text),
            Token::Mark("(") => {
                let inner = self.nested(Self::or)?;
                let end = self.close(&span)?;
                return Ok(Ast { span: span.start..end, node: inner.node });
            }
            Token::Name { text, quoted } => return self.name(text, quoted, span),
            other => {
                let message = format!("a value is expected before {}", other.describe());
                return Err(self.error(span, message));
            }
        };
        Ok(Ast { span, node })
    }

    fn name(&mut self, text: String, quoted: bool, span: Range<usize>) -> Parsed {
        if !quoted && self.mark(&["("]).is_some() {
            return self.call(text, span);
        }
        let node = match text.as_str() {
            _ if quoted => Node::Name(text),
            "true" => Node::Bool(true),
            "false" => Node::Bool(false),
            "and" | "or" | "not" => {
                return Err(self.error(span, format!("a value is expected before {text:?}")));
            }
            _ => match text.strip_prefix("attr.") {
                Some(name) => Node::Attribute(name.to_owned()),
                None => Node::Name(text),
            },
        };
        Ok(Ast { span, node })
    }

    fn call(&mut self, name: String, name_span: Range<usize>) -> Parsed {
        let mut args = Vec::new();
        let opened = name_span.end..name_span.end + 1;
        if self.mark(&[")"]).is_none() {
            args.push(self.nested(Self::or)?);
            while self.mark(&[","]).is_some() {
                args.push(self.nested(Self::or)?);
            }
            self.close(&opened)?;
        }
        let before = self.tokens.get(self.at.saturating_sub(1)).map_or(name_span.end, |(_, span)| span.end);
        Ok(Ast { span: name_span.start..before, node: Node::Call { name, name_span, args } })
    }

    fn close(&mut self, opened: &Range<usize>) -> Result<usize, SyntaxError> {
        let (token, span) = self.peek();
        let (message, span) = (token.describe(), span.clone());
        if self.mark(&[")"]).is_some() {
            return Ok(span.end);
        }
        let (span, message) = match message.as_str() {
            "the end" => (opened.clone(), "this parenthesis is not closed".to_owned()),
            other => (span, format!("\")\" is expected before {other}")),
        };
        Err(self.error(span, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_is_that_of_mathematics() {
        let cases = [
            ("a + b * c", "(`a` + (`b` * `c`))"),
            ("a - b - c", "((`a` - `b`) - `c`)"),
            ("-a * b", "((-`a`) * `b`)"),
            ("not a == 'x' and b or c", "(((not (`a` == 'x')) and `b`) or `c`)"),
            ("a or b and c", "(`a` or (`b` and `c`))"),
            ("(a or b) and c", "((`a` or `b`) and `c`)"),
            ("case(x != 0, 'f', 'it''s')", "case((`x` != #0000000000000000), 'f', 'it''s')"),
            ("attr.rated / x.y.z", "(attr.`rated` / `x.y.z`)"),
            ("`a-b` + `and`", "(`a-b` + `and`)"),
            ("1.5e3", "#4097700000000000"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text).map(|a| a.to_string()), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn errors_tell_place_and_remedy() {
        let cases = [
            ("a = 1", 2..3, "\"=\" means nothing here", Some("two values are compared with ==")),
            ("a && b", 2..4, "\"&&\" means nothing here", Some("write: and")),
            ("mean(a", 4..5, "this parenthesis is not closed", None),
            ("mean(a b)", 7..8, "\")\" is expected before \"b\"", None),
            ("a +", 3..3, "a value is expected before the end", None),
            ("'run", 0..4, "this text is not closed", Some("add a ' at its end")),
            ("a < b < c", 6..7, "two values are compared at a time", Some("write: a < b and b < c")),
            ("a b", 2..3, "the expression ends before \"b\"", None),
            ("", 0..0, "a value is expected before the end", None),
            ("1e999", 0..5, "this number is too large", None),
        ];
        for (text, span, message, suggestion) in cases {
            let expected =
                SyntaxError { span, message: message.to_owned(), suggestion: suggestion.map(str::to_owned) };
            assert_eq!(parse(text), Err(expected), "{text}");
        }
        let deep = format!("{}a{}", "(".repeat(5000), ")".repeat(5000));
        assert!(parse(&deep).is_err());
        assert!(parse(&"-".repeat(5000)).is_err());
        assert!(parse(&"not ".repeat(5000)).is_err());
    }
}
