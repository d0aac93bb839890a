//! Topic patterns: `plant/{line}/{machine}/telemetry` is subscribed as `plant/+/+/telemetry`; a topic
//! that matches names the machine and its attributes. Pure: text in, text out.
//!
//! A name in braces stands for one whole level; `+` and `#` mean what they mean to MQTT.
//! *Source*: MQTT 3.1.1, section 4.7.

use thiserror::Error;

/// The level that names the machine.
const MACHINE: &str = "machine";
/// The longest topic or filter. *Source*: MQTT 3.1.1, section 1.5.3.
const TOPIC_MAX_BYTES: usize = 65_535;

/// Says why a text is no topic pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PatternError {
    #[error("a topic pattern must not be empty")]
    Empty,
    #[error("a topic pattern has at most {TOPIC_MAX_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    #[error("no level names the machine; put {{machine}} where its name stands")]
    NoMachine,
    #[error("{{{0}}} stands there twice; each name stands for one level")]
    Twice(String),
    #[error("\"{0}\" is only part of a level; a name in braces, + and # stand for whole levels")]
    PartOfLevel(String),
    #[error("a name in braces must not be empty")]
    NoName,
    #[error("# takes all further levels, so it must be the last one")]
    HashNotLast,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    Machine,
    Name(Box<str>),
    Any,
    Rest,
}

/// A topic pattern of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    levels: Vec<Level>,
}

/// What a topic says of its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match<'a> {
    /// The machine's name without the site, as it stands in the topic.
    pub machine: &'a str,
    /// The other names of the pattern and what stands in their places.
    pub attributes: Vec<(&'a str, &'a str)>,
}

impl Pattern {
    /// Reads a pattern. *Errors*: [`PatternError`] says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > TOPIC_MAX_BYTES {
            return Err(PatternError::TooLong(text.len()));
        }
        let mut levels = Vec::new();
        for part in text.split('/') {
            if levels.last() == Some(&Level::Rest) {
                return Err(PatternError::HashNotLast);
            }
            let level = parse_level(part)?;
            let named = matches!(level, Level::Machine | Level::Name(_));
            if named && levels.contains(&level) {
                return Err(PatternError::Twice(part.trim_matches(['{', '}']).to_owned()));
            }
            levels.push(level);
        }
        if !levels.contains(&Level::Machine) {
            return Err(PatternError::NoMachine);
        }
        Ok(Self { text: text.to_owned(), levels })
    }

    /// Gives the pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Gives the filter to subscribe: every name becomes `+`.
    #[must_use]
    pub fn filter(&self) -> String {
        let levels: Vec<&str> = self
            .levels
            .iter()
            .map(|level| match level {
                Level::Literal(text) => text,
                Level::Machine | Level::Name(_) | Level::Any => "+",
                Level::Rest => "#",
            })
            .collect();
        levels.join("/")
    }

    /// Matches a topic, as a broker matches it with [`Self::filter`].
    #[must_use]
    pub fn matches<'a>(&'a self, topic: &'a str) -> Option<Match<'a>> {
        // A broker's own topics ($SYS) are for those who ask for them by name [MQTT-4.7.2-1].
        if topic.starts_with('$') && !matches!(self.levels.first(), Some(Level::Literal(_))) {
            return None;
        }
        let mut parts = topic.split('/');
        let (mut machine, mut attributes) = (None, Vec::new());
        for level in &self.levels {
            if *level == Level::Rest {
                // "a/#" matches "a" too, so it does not matter whether a part is left.
                return Some(Match { machine: machine?, attributes });
            }
            let part = parts.next()?;
            match level {
                Level::Literal(text) if **text == *part => {}
                Level::Literal(_) => return None,
                Level::Machine => machine = Some(part),
                Level::Name(name) => attributes.push((&**name, part)),
                Level::Any | Level::Rest => {}
            }
        }
        match parts.next() {
            Some(_) => None,
            None => Some(Match { machine: machine?, attributes }),
        }
    }
}

fn parse_level(part: &str) -> Result<Level, PatternError> {
    match part {
        "+" => return Ok(Level::Any),
        "#" => return Ok(Level::Rest),
        _ => {}
    }
    if let Some(name) = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        return match name {
            "" => Err(PatternError::NoName),
            MACHINE => Ok(Level::Machine),
            _ if name.contains(['{', '}', '+', '#']) => Err(PatternError::PartOfLevel(part.to_owned())),
            _ => Ok(Level::Name(name.into())),
        };
    }
    if part.contains(['{', '}', '+', '#', '\0']) {
        return Err(PatternError::PartOfLevel(part.to_owned()));
    }
    Ok(Level::Literal(part.into()))
}

/// Which machines a subscription accepts: glob patterns, `*` for any run of characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineFilter {
    globs: Vec<Vec<char>>,
}

impl MachineFilter {
    /// Takes the patterns; none at all accepts every machine.
    #[must_use]
    pub fn new(globs: &[String]) -> Self {
        Self { globs: globs.iter().map(|glob| glob.chars().collect()).collect() }
    }

    /// Tells whether a machine's name (without the site) is accepted.
    #[must_use]
    pub fn accepts(&self, machine: &str) -> bool {
        let name: Vec<char> = machine.chars().collect();
        self.globs.is_empty() || self.globs.iter().any(|glob| glob_matches(glob, &name))
    }
}

/// Matches with at most one place to fall back to: the last `*` takes one character more.
fn glob_matches(glob: &[char], name: &[char]) -> bool {
    let (mut at_glob, mut at_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at_name < name.len() {
        match glob.get(at_glob) {
            Some('*') => {
                star = Some((at_glob, at_name));
                at_glob += 1;
            }
            Some(c) if *c == '?' || Some(c) == name.get(at_name) => {
                at_glob += 1;
                at_name += 1;
            }
            _ => match star {
                Some((glob_star, taken)) => {
                    star = Some((glob_star, taken + 1));
                    at_glob = glob_star + 1;
                    at_name = taken + 1;
                }
                None => return false,
            },
        }
    }
    glob.get(at_glob..).unwrap_or_default().iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_wildcards_and_come_back_from_the_topic() {
        let pattern = Pattern::parse("plant/{line}/{machine}/+/telemetry").unwrap();
        assert_eq!(pattern.filter(), "plant/+/+/+/telemetry");
        let found = pattern.matches("plant/L1/press-03/x/telemetry").unwrap();
        assert_eq!(found, Match { machine: "press-03", attributes: vec![("line", "L1")] });
        for other in [
            "plant/L1/press-03/telemetry",
            "plant/L1/press-03/x/telemetry/y",
            "Plant/L1/press-03/x/telemetry",
            "",
        ] {
            assert_eq!(pattern.matches(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_hash_takes_all_further_levels_and_none() {
        let pattern = Pattern::parse("{machine}/#").unwrap();
        assert_eq!(pattern.filter(), "+/#");
        for topic in ["m1", "m1/a", "m1/a/b", "m1/"] {
            assert_eq!(pattern.matches(topic).map(|m| m.machine), Some("m1"), "{topic:?}");
        }
        assert_eq!(pattern.matches("$SYS/uptime"), None);
    }

    #[test]
    fn wrong_patterns_are_refused_with_the_reason() {
        let cases = [
            ("", PatternError::Empty),
            ("a/b", PatternError::NoMachine),
            ("a/{machine}/{machine}", PatternError::Twice("machine".to_owned())),
            ("{x}/{machine}/{x}", PatternError::Twice("x".to_owned())),
            ("a/press-{machine}", PatternError::PartOfLevel("press-{machine}".to_owned())),
            ("{machine}/a+", PatternError::PartOfLevel("a+".to_owned())),
            ("{machine}/{}", PatternError::NoName),
            ("{machine}/#/a", PatternError::HashNotLast),
        ];
        for (text, expected) in cases {
            assert_eq!(Pattern::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn globs_accept_machines() {
        let cases = [
            ("press-*", "press-03", true),
            ("press-*", "press-", true),
            ("press-*", "xpress-03", false),
            ("*-0?", "oven-01", true),
            ("*-0?", "oven-012", false),
            ("*a*b*", "xxaxbxab", true),
            ("?", "ü", true),
            ("", "x", false),
        ];
        for (glob, name, expected) in cases {
            assert_eq!(MachineFilter::new(&[glob.to_owned()]).accepts(name), expected, "{glob} {name}");
        }
        assert!(MachineFilter::new(&[]).accepts("anything"));
    }

    /// The definition of a glob, without thought for speed.
    fn slow_glob(glob: &[char], name: &[char]) -> bool {
        match glob.split_first() {
            None => name.is_empty(),
            Some(('*', rest)) => (0..=name.len()).any(|n| slow_glob(rest, &name[n..])),
            Some((c, rest)) => {
                name.split_first().is_some_and(|(n, tail)| (*c == '?' || c == n) && slow_glob(rest, tail))
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_an_error_and_matches_what_its_filter_matches(
            text in "[a-c{}+#/$]{0,12}|(\\{machine\\}|a|\\+|\\{x\\})(/(\\{y\\}|b|\\+)){0,3}(/#)?",
            topic in "[a-c/$]{0,10}",
        ) {
            if let Ok(pattern) = Pattern::parse(&text) {
                let filter = pattern.filter();
                prop_assert_eq!(filter.split('/').count(), text.split('/').count());
                prop_assert_eq!(pattern.matches(&topic).is_some(), slow_match(&filter, &topic));
            }
        }

        #[test]
        fn globs_agree_with_their_definition(glob in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            let (g, n): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
            prop_assert_eq!(glob_matches(&g, &n), slow_glob(&g, &n));
        }
    }

    /// Section 4.7 read literally; a topic without the machine's level names no machine.
    fn slow_match(filter: &str, topic: &str) -> bool {
        fn levels(filter: &[&str], topic: &[&str]) -> bool {
            match (filter.split_first(), topic.split_first()) {
                (Some((&"#", _)), _) => true,
                (None, None) => true,
                (Some((f, filter)), Some((t, topic))) => (*f == "+" || f == t) && levels(filter, topic),
                _ => false,
            }
        }
        let (f, t): (Vec<_>, Vec<_>) = (filter.split('/').collect(), topic.split('/').collect());
        let hidden = topic.starts_with('$') && matches!(f.first(), Some(&"+" | &"#"));
        !hidden && levels(&f, &t)
    }
}
