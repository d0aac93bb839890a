//! From characters to tokens.

use std::ops::Range;

use super::SyntaxError;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Number(f64),
    Text(String),
    /// A name, dotted names included; `quoted` ones are never keywords.
    Name {
        text: String,
        quoted: bool,
    },
    /// An operator or punctuation mark.
    Mark(&'static str),
    End,
}

impl Token {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Number(x) => format!("the number {x}"),
            Self::Text(text) => format!("the text '{text}'"),
            Self::Name { text, .. } => format!("{text:?}"),
            Self::Mark(mark) => format!("{mark:?}"),
            Self::End => "the end".to_owned(),
        }
    }
}

const MARKS: [&str; 14] = ["==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "(", ")", ",", "%"];
/// Marks of other languages, and what this one writes.
const FOREIGN: [(&str, &str); 7] = [
    ("&&", "write: and"),
    ("||", "write: or"),
    ("<>", "write: !="),
    ("=", "two values are compared with =="),
    ("!", "write: not"),
    ("^", "there are no powers; multiply, or use sqrt() or exp()"),
    ("\"", "texts stand in single quotes: 'run'"),
];

pub(super) fn lex(text: &str) -> Result<Vec<(Token, Range<usize>)>, SyntaxError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text.get(at..).and_then(|rest| rest.chars().next()) {
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let (token, end) = token(text, at, c)?;
        tokens.push((token, at..end));
        at = end;
    }
    tokens.push((Token::End, text.len()..text.len()));
    Ok(tokens)
}

fn token(text: &str, at: usize, c: char) -> Result<(Token, usize), SyntaxError> {
    let rest = text.get(at..).unwrap_or_default();
    if c.is_ascii_digit() {
        return number(rest, at);
    }
    if c.is_alphabetic() || c == '_' {
        let inside = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let length = rest.find(|c: char| !inside(c)).unwrap_or(rest.len());
        let name = rest.get(..length).unwrap_or_default().trim_end_matches('.');
        return Ok((Token::Name { text: name.to_owned(), quoted: false }, at + name.len()));
    }
    if c == '\'' {
        return quoted(rest, at);
    }
    if c == '`' {
        let Some(length) = rest.get(1..).and_then(|r| r.find('`')) else {
            return Err(error(at..text.len(), "this name is not closed", Some("add a ` at its end")));
        };
        let name = rest.get(1..=length).unwrap_or_default().to_owned();
        return Ok((Token::Name { text: name, quoted: true }, at + length + 2));
    }
    let two = FOREIGN.iter().take(3).find(|(mark, _)| rest.starts_with(mark));
    let own = MARKS.iter().find(|mark| rest.starts_with(**mark));
    if let (None, Some(mark)) = (two, own) {
        return Ok((Token::Mark(mark), at + mark.len()));
    }
    let foreign = FOREIGN.iter().find(|(mark, _)| rest.starts_with(mark));
    let length = foreign.map_or(c.len_utf8(), |(mark, _)| mark.len());
    let message = format!("{:?} means nothing here", rest.get(..length).unwrap_or_default());
    Err(error(at..at + length, &message, foreign.map(|&(_, hint)| hint)))
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), SyntaxError> {
    let bytes = rest.as_bytes();
    let digits = |mut n: usize| {
        while bytes.get(n).is_some_and(u8::is_ascii_digit) {
            n += 1;
        }
        n
    };
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    let word = rest.get(..end).unwrap_or_default();
    match word.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok((Token::Number(x), at + end)),
        _ => Err(error(at..at + end, "this number is too large", None)),
    }
}

fn quoted(rest: &str, at: usize) -> Result<(Token, usize), SyntaxError> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((n, c)) = chars.next() {
        if c != '\'' {
            text.push(c);
        } else if chars.next_if(|&(_, c)| c == '\'').is_some() {
            text.push('\'');
        } else {
            return Ok((Token::Text(text), at + n + 1));
        }
    }
    Err(error(at..at + rest.len(), "this text is not closed", Some("add a ' at its end")))
}

fn error(span: Range<usize>, message: &str, suggestion: Option<&str>) -> SyntaxError {
    SyntaxError { span, message: message.to_owned(), suggestion: suggestion.map(str::to_owned) }
}
