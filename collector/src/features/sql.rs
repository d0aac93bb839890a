//! The SQL client's names that the feature stores use, in one place.

pub(super) use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
pub(super) use sqlx::{AssertSqlSafe, Connection, Error, Executor, Row, TypeInfo, ValueRef, query_with};

/// Adds a value to a statement's arguments.
pub(super) fn bind<'q, T>(arguments: &mut SqliteArguments, value: T)
where
    T: sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    let added = sqlx::Arguments::add(arguments, value);
    debug_assert!(added.is_ok(), "numbers, texts and bytes are always encoded");
}

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
