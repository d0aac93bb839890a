//! What the feature stores need of SQL beside the lake's client.

pub(super) use crate::lake::db::{
    AssertSqlSafe, Connection, Error, Executor, Row, SqliteArguments, SqliteConnectOptions, SqliteConnection,
    SqliteJournalMode, SqliteRow, SqliteSynchronous, bind, is_transient, query_with,
};

/// Quotes a name for SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Cuts `items` into pieces whose lengths are powers of two, so that few different statements are prepared.
pub(super) fn pieces<T>(mut items: &[T], most: usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let power = most.min(items.len()).checked_ilog2()?;
        let length = 1 << power;
        let (piece, rest) = items.split_at_checked(length)?;
        items = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_powers_of_two_and_lose_nothing() {
        let items: Vec<u8> = (0..=200).collect();
        let lengths: Vec<_> = pieces(&items, 64).map(<[_]>::len).collect();
        assert_eq!(lengths, [64, 64, 64, 8, 1]);
        assert_eq!(pieces(&items, 64).flatten().copied().collect::<Vec<_>>(), items);
        assert!(pieces(&items, 40).all(|piece| piece.len() <= 32));
        assert_eq!(pieces::<u8>(&[], 64).count(), 0);
    }
}
