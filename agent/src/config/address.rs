//! Addresses as manuals write them: `40101` is holding register 100. Pure.

use super::Table;

/// What the first digit stands for. *Source*: the "Modicon" notation of Modbus manuals; the Modbus
/// Application Protocol itself (V1.1b3, section 4.4) knows 0-based addresses only.
const TABLES: [(u8, Table); 4] =
    [(b'0', Table::Coil), (b'1', Table::Discrete), (b'3', Table::Input), (b'4', Table::Holding)];

/// Tells whether a text looks like the notation: five or six digits, the first a table.
pub(super) fn is_notation(text: &str) -> bool {
    parse(text).is_some()
}

/// Reads the notation: the table and the 0-based address.
pub(super) fn parse(text: &str) -> Option<(Table, u16)> {
    if !matches!(text.len(), 5 | 6) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (first, rest) = text.split_at_checked(1)?;
    let table = TABLES.into_iter().find(|(digit, _)| first.as_bytes() == [*digit])?.1;
    let number: u32 = rest.parse().ok()?;
    let address = u16::try_from(number.checked_sub(1)?).ok()?;
    Some((table, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation_names_the_table_and_counts_from_one() {
        for (text, expected) in [
            ("40101", Some((Table::Holding, 100))),
            ("400101", Some((Table::Holding, 100))),
            ("465536", Some((Table::Holding, 65535))),
            ("465537", None),
            ("30017", Some((Table::Input, 16))),
            ("10001", Some((Table::Discrete, 0))),
            ("00009", Some((Table::Coil, 8))),
            ("40000", None),
            ("20001", None),
            ("4010", None),
            ("4x101", None),
            ("４0101", None),
            ("100", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
