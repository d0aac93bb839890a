//! The words for types and byte orders, and what they mean. Pure.

use super::{Decode, NumberKind};

/// The types of registers that hold a number, by their words in the file.
pub(super) const NUMBERS: [(&str, NumberKind); 12] = [
    ("u8", NumberKind::U8Low),
    ("i8", NumberKind::I8Low),
    ("u16", NumberKind::U16),
    ("i16", NumberKind::I16),
    ("u32", NumberKind::U32),
    ("i32", NumberKind::I32),
    ("u64", NumberKind::U64),
    ("i64", NumberKind::I64),
    ("f32", NumberKind::F32),
    ("f64", NumberKind::F64),
    ("bcd16", NumberKind::Bcd16),
    ("bcd32", NumberKind::Bcd32),
];

/// Gives the words for the orders of a value of so many bytes; the first is the default.
pub(super) const fn orders(bytes: usize) -> &'static [&'static str] {
    match bytes {
        2 => &["AB", "BA"],
        4 => &["ABCD", "DCBA", "BADC", "CDAB"],
        8 => &["ABCDEFGH", "HGFEDCBA", "BADCFEHG", "GHEFCDAB", "CDABGHEF", "EFGHABCD"],
        _ => &[],
    }
}

/// Turns an order word (which letter stands at each place as sent, A the most significant) into the
/// place of each byte, most significant first.
pub(super) fn places(word: &str) -> Vec<u8> {
    let mut places = vec![0; word.len()];
    for (sent, letter) in (0u8..).zip(word.bytes()) {
        if let Some(place) = places.get_mut(usize::from(letter.wrapping_sub(b'A'))) {
            *place = sent;
        }
    }
    places
}

impl NumberKind {
    /// Gives the number of bytes that are read.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8High | Self::U8Low | Self::I8High | Self::I8Low => 2,
            Self::U16 | Self::I16 | Self::Bcd16 => 2,
            Self::U32 | Self::I32 | Self::F32 | Self::Bcd32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Tells whether the raw value is an integer.
    #[must_use]
    pub const fn is_integer(self) -> bool {
        !matches!(self, Self::F32 | Self::F64)
    }

    /// Gives the word for the type.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::U8High => "u8",
            Self::I8High => "i8",
            other => NUMBERS.iter().find(|(_, kind)| *kind == other).map_or("", |(word, _)| word),
        }
    }
}

impl Decode {
    /// Gives how many registers, coils or inputs are read, at least 1: none cannot be asked for.
    #[must_use]
    pub fn width(&self) -> u16 {
        match self {
            Self::Bool | Self::Bit(_) => 1,
            Self::Number { kind, .. } => (kind.bytes() / 2) as u16,
            Self::Text { length, .. } => length.div_ceil(2).max(1),
        }
    }

    /// Gives the type and order as an installer writes them (`f32 ABCD`).
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Bool => "bool".into(),
            Self::Bit(bit) => format!("bit {bit}"),
            Self::Text { length, swapped, .. } => {
                format!("string {length} {}", if *swapped { "BA" } else { "AB" })
            }
            Self::Number { kind: kind @ (NumberKind::U8High | NumberKind::I8High), .. } => {
                format!("{} high", kind.word())
            }
            Self::Number { kind: kind @ (NumberKind::U8Low | NumberKind::I8Low), .. } => {
                format!("{} low", kind.word())
            }
            Self::Number { kind, order } => {
                let word = orders(kind.bytes()).iter().find(|word| places(word) == *order);
                format!("{} {}", kind.word(), word.unwrap_or(&""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_words_say_where_each_byte_stands() {
        assert_eq!(places("ABCD"), [0, 1, 2, 3]);
        assert_eq!(places("CDAB"), [2, 3, 0, 1]);
        // In GHEFCDAB, A is sent at place 6 and H at place 1.
        assert_eq!(places("GHEFCDAB"), [6, 7, 4, 5, 2, 3, 0, 1]);
        for bytes in [2, 4, 8] {
            for word in orders(bytes) {
                let mut sorted = places(word);
                sorted.sort_unstable();
                assert_eq!(sorted, (0..bytes as u8).collect::<Vec<_>>(), "{word}");
            }
        }
    }
}
