//! Names and numbers that say who sent a row and which row it is.
//!
//! Names are shared (`Arc<str>`), so that cloning one costs a counter and not an allocation.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name in bytes; Kafka keys, lake texts and file names all hold it.
const NAME_MAX_BYTES: usize = 200;

/// Says why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a name must not be empty")]
    Empty,
    /// The text is longer than 200 bytes.
    #[error("a name has at most {NAME_MAX_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    /// The text has a character that no name may have.
    #[error("{0:?} is not allowed in a name; use letters, digits, '.', '_' and '-'")]
    Character(char),
    /// A machine name is not `site/name`.
    #[error("a machine is named site/name, for instance hall3/press-03")]
    NotSiteAndName,
}

fn check_part(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_MAX_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    match text.chars().find(|c| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        Some(c) => Err(NameError::Character(c)),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text as a name. *Errors*: [`NameError`] says what is wrong with it.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// Gives the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type! {
    /// The name of an agent, unique in the plant (`[agent] id`).
    AgentId, check_part
}

name_type! {
    /// The kind of data a tag belongs to (`telemetry`, `vibration`, …); the last part of a topic's name.
    Category, check_part
}

name_type! {
    /// The name of a machine, `site/name`: the Kafka key, the name in the lake, the value of Feast's
    /// entity `machine`.
    MachineName, |text| {
        let (site, name) = text.split_once('/').ok_or(NameError::NotSiteAndName)?;
        check_part(site)?;
        check_part(name)
    }
}

impl MachineName {
    /// Gives the site, the part before the slash.
    #[must_use]
    pub fn site(&self) -> &str {
        self.0.split_once('/').map_or("", |(site, _)| site)
    }
}

/// A random 64-bit number that an agent draws at every start (D7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Epoch {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// The identity of one boot of a gateway's kernel, for its monotonic clock (D8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(pub [u8; 16]);

/// The unit of order: rows of one stream are numbered from 1 without holes.
///
/// (stream, sequence) is a row's identity for ever. The order of this type is the canonical order of
/// streams in F2: agent, epoch, machine, category.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    /// Who read the rows.
    pub agent: AgentId,
    /// At which of its starts.
    pub epoch: Epoch,
    /// From which machine.
    pub machine: MachineName,
    /// Which kind of data.
    pub category: Category,
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.agent, self.epoch, self.machine, self.category)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_with_the_reason() {
        let cases = [
            ("", NameError::NotSiteAndName),
            ("press", NameError::NotSiteAndName),
            ("/press", NameError::Empty),
            ("hall3/", NameError::Empty),
            ("hall3/press 3", NameError::Character(' ')),
            ("hall3/a/b", NameError::Character('/')),
        ];
        for (text, expected) in cases {
            assert_eq!(MachineName::new(text), Err(expected), "{text:?}");
        }
        assert_eq!(
            MachineName::new("hall3/Presse-Süd.1").map(|m| m.site().to_owned()),
            Ok("hall3".to_owned())
        );
        assert_eq!(AgentId::new(&"x".repeat(201)), Err(NameError::TooLong(201)));
    }

    #[test]
    fn epochs_are_read_as_they_are_written() {
        let epoch = Epoch(0x00ab);
        assert_eq!(epoch.to_string(), "00000000000000ab");
        assert_eq!(epoch.to_string().parse::<Epoch>(), Ok(epoch));
    }
}
