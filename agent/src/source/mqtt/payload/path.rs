//! Dotted paths into JSON: `bearing.temp`, `axes[0].load`, and the names that leaves get by them.

use serde_json::Value;
use thiserror::Error;

/// Says why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PathError {
    #[error("a path must not be empty")]
    Empty,
    #[error("a path has a name between any two dots, and before and after them")]
    NoName,
    #[error("\"[{0}]\" is no place of an array; write [0], [1], …")]
    NoPlace(String),
    #[error("a bracket is left open or stands alone in \"{0}\"")]
    Bracket(String),
    #[error("rows must end in [*], for instance \"samples[*]\"")]
    NoStar,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A member of an object.
    Key {
        name: Box<str>,
        /// The path from here on, for keys that have dots themselves (`{"bearing.temp": 1}`).
        rest: Box<str>,
    },
    /// An element of an array.
    Place(usize),
}

/// A way to one value of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    text: String,
    steps: Vec<Step>,
}

impl Path {
    /// Reads a path. *Errors*: [`PathError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        let mut steps = Vec::new();
        let mut rest = text;
        loop {
            let part = rest.split_once('.').map_or(rest, |(part, _)| part);
            parse_part(part, rest, steps.is_empty(), &mut steps)?;
            match rest.split_once('.') {
                Some((_, after)) => rest = after,
                None => return Ok(Self { text: text.to_owned(), steps }),
            }
        }
    }

    /// Reads the path to an array whose elements are meant: `samples[*]`; `[*]` for a payload that is
    /// an array itself. *Errors*: [`PathError`].
    pub fn parse_rows(text: &str) -> Result<Self, PathError> {
        match text.strip_suffix("[*]").ok_or(PathError::NoStar)? {
            "" => Ok(Self { text: String::new(), steps: Vec::new() }),
            array => Self::parse(array),
        }
    }

    /// Gives the path as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Finds the value; `None` if there is none.
    #[must_use]
    pub fn find<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        let mut value = root;
        for step in &self.steps {
            value = match step {
                Step::Place(at) => value.get(*at)?,
                Step::Key { name, rest } => match value.get(&**name) {
                    Some(member) => member,
                    None => return value.get(&**rest),
                },
            };
        }
        Some(value)
    }
}

/// Reads `name[0][1]`.
fn parse_part(part: &str, rest: &str, first: bool, steps: &mut Vec<Step>) -> Result<(), PathError> {
    let (name, places) = part.find('[').map_or((part, ""), |at| part.split_at(at));
    if name.contains(']') {
        return Err(PathError::Bracket(part.to_owned()));
    }
    match name {
        "" if places.is_empty() || !first => return Err(PathError::NoName),
        "" => {}
        _ => steps.push(Step::Key { name: name.into(), rest: rest.into() }),
    }
    let mut places = places;
    while let Some(open) = places.strip_prefix('[') {
        let (digits, after) = open.split_once(']').ok_or_else(|| PathError::Bracket(part.to_owned()))?;
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let place = digits.parse().ok().filter(|_| is_number);
        steps.push(Step::Place(place.ok_or_else(|| PathError::NoPlace(digits.to_owned()))?));
        places = after;
    }
    if places.is_empty() { Ok(()) } else { Err(PathError::Bracket(part.to_owned())) }
}

/// Calls `leaf` with every text, number, truth value and null below `value`, named by its dotted path;
/// a payload that is nothing but such a value is called `value`.
pub(super) fn for_each_leaf<'v>(value: &'v Value, leaf: &mut impl FnMut(&str, &'v Value)) {
    match value {
        Value::Object(_) | Value::Array(_) => walk(value, &mut String::new(), leaf),
        _ => leaf("value", value),
    }
}

// The depth is bounded: the JSON parser refuses more than 128 levels.
fn walk<'v>(value: &'v Value, name: &mut String, leaf: &mut impl FnMut(&str, &'v Value)) {
    let length = name.len();
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                if length > 0 {
                    name.push('.');
                }
                name.push_str(key);
                walk(member, name, leaf);
                name.truncate(length);
            }
        }
        Value::Array(elements) => {
            for (at, element) in elements.iter().enumerate() {
                name.push_str(&format!("[{at}]"));
                walk(element, name, leaf);
                name.truncate(length);
            }
        }
        _ => leaf(name, value),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_find_members_and_places() {
        let payload = json!({"a": {"b": [10, {"c": 11}]}, "x.y": 12, "d": {"e.f": 13}, "n": null});
        let cases = [
            ("a.b[0]", Some(json!(10))),
            ("a.b[1].c", Some(json!(11))),
            ("x.y", Some(json!(12))),
            ("d.e.f", Some(json!(13))),
            ("n", Some(json!(null))),
            ("a.b[2]", None),
            ("a.z", None),
            ("a.b.c", None),
        ];
        for (path, expected) in cases {
            assert_eq!(Path::parse(path).unwrap().find(&payload), expected.as_ref(), "{path}");
        }
        let array = json!([[1, 2]]);
        assert_eq!(Path::parse("[0][1]").unwrap().find(&array), Some(&json!(2)));
        assert_eq!(Path::parse_rows("[*]").unwrap().find(&array), Some(&array));
    }

    #[test]
    fn wrong_paths_are_refused_with_the_reason() {
        let cases = [
            ("", PathError::Empty),
            ("a..b", PathError::NoName),
            (".a", PathError::NoName),
            ("a.", PathError::NoName),
            ("a.[0]", PathError::NoName),
            ("a[x]", PathError::NoPlace("x".to_owned())),
            ("a[]", PathError::NoPlace(String::new())),
            ("a[*]", PathError::NoPlace("*".to_owned())),
            ("a[-1]", PathError::NoPlace("-1".to_owned())),
            ("a[0", PathError::Bracket("a[0".to_owned())),
            ("a]0", PathError::Bracket("a]0".to_owned())),
            ("a[0]b", PathError::Bracket("a[0]b".to_owned())),
        ];
        for (text, expected) in cases {
            assert_eq!(Path::parse(text), Err(expected), "{text:?}");
        }
        assert_eq!(Path::parse_rows("samples"), Err(PathError::NoStar));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<i64>().prop_map(|n| json!(n)), "[a-z]{0,3}".prop_map(|t| json!(t))];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[a-z]{1,3}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_name_of_a_leaf_is_the_path_to_it(payload in any_json()) {
            let mut leaves = Vec::new();
            for_each_leaf(&payload, &mut |name, value| leaves.push((name.to_owned(), value)));
            for (name, value) in leaves {
                if payload.is_object() || payload.is_array() {
                    prop_assert_eq!(Path::parse(&name).unwrap().find(&payload), Some(value), "{}", name);
                }
            }
        }

        #[test]
        fn any_text_is_a_path_or_an_error(text in "[a-c.\\[\\]0-9*]{0,10}", payload in any_json()) {
            if let Ok(path) = Path::parse(&text) {
                prop_assert_eq!(path.as_str(), &text);
                drop(path.find(&payload).cloned());
            }
        }
    }
}
