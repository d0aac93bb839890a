//! Parquet files of the offline store, for Feast's file source: one per view, version and day.
//!
//! `<folder>/<view>_v<N>/<YYYY-MM-DD>.parquet` holds all revisions of the windows that end on that day (UTC).
//! Which days are behind stands in the lake's own transaction (`feature_dirty_day`); a day is written whole
//! into a temporary file and renamed, so a reader sees the old day or the new one. Invariant: a day leaves
//! the list only when a file that holds all its rows has its name. This is the only module that names `parquet`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_preprocess::{FeatureType, FeatureValue, ViewSchema};
use parquet::basic::{
    Compression, ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel,
};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};

use super::offline::{OfflineError, WrittenRow, rows_of_day};
use super::sql::{AssertSqlSafe, Executor, Row, SqliteConnection, literal};
use super::view::versioned_name;

/// Days are rewritten at most this often. *Units*: microseconds.
pub const REWRITE_EVERY_US: i64 = 60_000_000;

/// Hidden from readers of the views' folders, and on their file system, so that a rename is atomic.
const TEMPORARY_FOLDER: &str = ".tmp";

/// Why the Parquet files are behind.
#[derive(Debug, thiserror::Error)]
pub enum ParquetFilesError {
    /// The rows cannot be read.
    #[error("cannot read the rows of a day")]
    Offline(#[from] OfflineError),
    /// A file cannot be written or renamed.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The rows cannot be encoded.
    #[error("cannot encode {path}")]
    Encode {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: ParquetError,
    },
}

/// The folder of Parquet files.
#[derive(Debug)]
pub struct ParquetFiles {
    folder: PathBuf,
    views: Vec<Arc<ViewSchema>>,
    written_at_us: Option<i64>,
}

impl ParquetFiles {
    /// Opens the folder, makes one in it per view, and removes temporary files of a killed process.
    ///
    /// # Errors
    /// [`ParquetFilesError::File`] if a folder cannot be made.
    pub fn open(folder: &Path, views: Vec<Arc<ViewSchema>>) -> Result<Self, ParquetFilesError> {
        let temporary = folder.join(TEMPORARY_FOLDER);
        match fs::remove_dir_all(&temporary) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(ParquetFilesError::File { path: temporary, source });
            }
            _ => {}
        }
        for path in views.iter().map(|view| folder.join(versioned_name(view))).chain([temporary]) {
            fs::create_dir_all(&path).map_err(|source| ParquetFilesError::File { path, source })?;
        }
        Ok(Self { folder: folder.to_owned(), views, written_at_us: None })
    }

    /// Gives the folder of a view's version: the path of its Feast `FileSource`.
    #[must_use]
    pub fn folder_of(folder: &Path, schema: &ViewSchema) -> PathBuf {
        folder.join(versioned_name(schema))
    }

    /// Rewrites the days that are behind, if the last time is long enough ago; returns how many.
    ///
    /// # Errors
    /// [`ParquetFilesError`]; days not yet written stay on the list.
    pub async fn write_due(
        &mut self,
        conn: &mut SqliteConnection,
        now_us: i64,
    ) -> Result<usize, ParquetFilesError> {
        let since = self.written_at_us.map(|at| now_us.saturating_sub(at));
        if since.is_some_and(|since| (0..REWRITE_EVERY_US).contains(&since)) {
            return Ok(0);
        }
        self.written_at_us = Some(now_us);
        self.write_all(conn).await
    }

    /// Rewrites the days that are behind, at once; for a stop. Call it outside a transaction: what it reads must
    /// be committed.
    ///
    /// # Errors
    /// [`ParquetFilesError`]; days not yet written stay on the list.
    ///
    /// # Cancel safety
    /// A day is on the list until its file has its name.
    pub async fn write_all(&mut self, conn: &mut SqliteConnection) -> Result<usize, ParquetFilesError> {
        let mut count = 0;
        for view in self.views.clone() {
            let name = versioned_name(&view);
            for (day, writes) in dirty_days(conn, &name).await? {
                let rows = rows_of_day(conn, &view, day).await?;
                let path = self.folder.join(&name).join(format!("{}.parquet", date(day)));
                let temporary = self.folder.join(TEMPORARY_FOLDER).join(format!("{name}-{day}"));
                write_day(&view, rows, temporary, path).await?;
                forget_day(conn, &name, day, writes).await?;
                count += 1;
            }
        }
        Ok(count)
    }
}

/// Puts all days of a view on the list, for files that were lost.
///
/// # Errors
/// [`OfflineError::Sql`] if the database refuses.
pub async fn owe_all_days(conn: &mut SqliteConnection, schema: &ViewSchema) -> Result<(), OfflineError> {
    let note = format!(
        "INSERT INTO feature_dirty_day (view, day, writes) SELECT DISTINCT {}, event_timestamp / {}, 1 FROM {} \
         WHERE true ON CONFLICT (view, day) DO UPDATE SET writes = writes + 1",
        literal(&versioned_name(schema)),
        super::offline::DAY_US,
        super::sql::quoted(&super::view::offline_table(schema))
    );
    execute(conn, note).await
}

async fn dirty_days(conn: &mut SqliteConnection, view: &str) -> Result<Vec<(i64, i64)>, OfflineError> {
    let select = format!("SELECT day, writes FROM feature_dirty_day WHERE view = {}", literal(view));
    let rows = conn.fetch_all(AssertSqlSafe(select)).await.map_err(sql_error("read"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Takes a day off the list, unless it was written to since its rows were read.
async fn forget_day(
    conn: &mut SqliteConnection,
    view: &str,
    day: i64,
    writes: i64,
) -> Result<(), OfflineError> {
    let view = literal(view);
    let forget =
        format!("DELETE FROM feature_dirty_day WHERE view = {view} AND day = {day} AND writes = {writes}");
    execute(conn, forget).await
}

async fn execute(conn: &mut SqliteConnection, statement: String) -> Result<(), OfflineError> {
    conn.execute(AssertSqlSafe(statement)).await.map(|_| ()).map_err(sql_error("write"))
}

fn sql_error(what: &'static str) -> impl FnOnce(super::sql::Error) -> OfflineError {
    move |source| OfflineError::Sql { what, table: "feature_dirty_day".to_owned(), source }
}

/// Encodes and writes on a thread for blocking work.
async fn write_day(
    view: &Arc<ViewSchema>,
    rows: Vec<WrittenRow>,
    temporary: PathBuf,
    path: PathBuf,
) -> Result<(), ParquetFilesError> {
    let (view, target) = (view.clone(), path.clone());
    let written = tokio::task::spawn_blocking(move || {
        let file_error = |source| ParquetFilesError::File { path: path.clone(), source };
        let file = File::create(&temporary).map_err(file_error)?;
        let written = encode(&view, &rows, file.try_clone().map_err(file_error)?);
        written.map_err(|source| ParquetFilesError::Encode { path: path.clone(), source })?;
        file.sync_all().map_err(file_error)?;
        fs::rename(&temporary, &path).map_err(file_error)?;
        let folder = path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all());
        folder.map_err(file_error)
    });
    match written.await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(written) => written,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is being shut down; the day stays on the list.
        Err(Err(cancelled)) => {
            Err(ParquetFilesError::File { path: target, source: io::Error::other(cancelled) })
        }
    }
}

fn encode(view: &ViewSchema, rows: &[WrittenRow], file: File) -> Result<(), ParquetError> {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let properties = Arc::new(WriterProperties::builder().set_compression(zstd).build());
    let mut writer = SerializedFileWriter::new(file, file_schema(view)?, properties)?;
    let mut group = writer.next_row_group()?;
    let mut place = 0;
    while let Some(mut column) = group.next_column()? {
        write_column(view, rows, place, column.untyped())?;
        column.close()?;
        place += 1;
    }
    group.close()?;
    writer.close()?;
    Ok(())
}

/// The columns: entity, features, then the store's own.
fn file_schema(view: &ViewSchema) -> Result<TypePtr, ParquetError> {
    let text = Some(LogicalType::String);
    let time = Some(LogicalType::timestamp(true, TimeUnit::MICROS));
    let mut columns = vec![column(&view.entity, Physical::BYTE_ARRAY, text.clone(), Repetition::REQUIRED)?];
    for feature in &view.features {
        let (physical, logical) = match feature.feature_type {
            FeatureType::F64 => (Physical::DOUBLE, None),
            FeatureType::I64 => (Physical::INT64, None),
            FeatureType::Bool => (Physical::BOOLEAN, None),
            FeatureType::Text => (Physical::BYTE_ARRAY, text.clone()),
        };
        columns.push(column(&feature.name, physical, logical, Repetition::OPTIONAL)?);
    }
    for name in ["event_timestamp", "created", "computed_at"] {
        columns.push(column(name, Physical::INT64, time.clone(), Repetition::REQUIRED)?);
    }
    columns.push(column("revision", Physical::INT64, None, Repetition::REQUIRED)?);
    columns.push(column("coverage", Physical::DOUBLE, None, Repetition::REQUIRED)?);
    Ok(Arc::new(Type::group_type_builder("features").with_fields(columns).build()?))
}

fn column(
    name: &str,
    physical: Physical,
    logical: Option<LogicalType>,
    repetition: Repetition,
) -> Result<TypePtr, ParquetError> {
    let builder = Type::primitive_type_builder(name, physical).with_repetition(repetition);
    let builder = builder.with_logical_type(logical).with_converted_type(ConvertedType::NONE);
    Ok(Arc::new(builder.build()?))
}

fn write_column(
    view: &ViewSchema,
    rows: &[WrittenRow],
    place: usize,
    writer: &mut ColumnWriter<'_>,
) -> Result<(), ParquetError> {
    let text = |text: &str| ByteArray::from(text.as_bytes().to_vec());
    let value = |row: &WrittenRow| row.row.values.get(place.wrapping_sub(1)).cloned().flatten();
    let own = place.checked_sub(1 + view.features.len());
    match (writer, own) {
        (ColumnWriter::ByteArrayColumnWriter(writer), _) if place == 0 => {
            let entities: Vec<_> = rows.iter().map(|row| text(&row.row.entity)).collect();
            writer.write_batch(&entities, None, None)?;
        }
        (ColumnWriter::Int64ColumnWriter(writer), Some(own)) => {
            let number = |row: &WrittenRow| match own {
                0 => row.row.event_us,
                1 => row.row.created_us,
                2 => row.computed_at_us,
                _ => row.revision,
            };
            writer.write_batch(&rows.iter().map(number).collect::<Vec<_>>(), None, None)?;
        }
        (ColumnWriter::DoubleColumnWriter(writer), Some(_)) => {
            let coverage: Vec<_> = rows.iter().map(|row| row.row.coverage).collect();
            writer.write_batch(&coverage, None, None)?;
        }
        (ColumnWriter::DoubleColumnWriter(writer), None) => {
            let (values, levels) = optional(rows, |row| match value(row) {
                Some(FeatureValue::F64(number)) => Some(number),
                _ => None,
            });
            writer.write_batch(&values, Some(&levels), None)?;
        }
        (ColumnWriter::Int64ColumnWriter(writer), None) => {
            let (values, levels) = optional(rows, |row| match value(row) {
                Some(FeatureValue::I64(number)) => Some(number),
                _ => None,
            });
            writer.write_batch(&values, Some(&levels), None)?;
        }
        (ColumnWriter::BoolColumnWriter(writer), None) => {
            let (values, levels) = optional(rows, |row| match value(row) {
                Some(FeatureValue::Bool(truth)) => Some(truth),
                _ => None,
            });
            writer.write_batch(&values, Some(&levels), None)?;
        }
        (ColumnWriter::ByteArrayColumnWriter(writer), None) => {
            let (values, levels) = optional(rows, |row| match value(row) {
                Some(FeatureValue::Text(value)) => Some(text(&value)),
                _ => None,
            });
            writer.write_batch(&values, Some(&levels), None)?;
        }
        _ => return Err(ParquetError::General(format!("column {place} has a type that no feature has"))),
    }
    Ok(())
}

/// Gives the values that are there, and for every row whether it has one.
fn optional<T>(rows: &[WrittenRow], value: impl Fn(&WrittenRow) -> Option<T>) -> (Vec<T>, Vec<i16>) {
    let values: Vec<Option<T>> = rows.iter().map(value).collect();
    let levels = values.iter().map(|value| i16::from(value.is_some())).collect();
    (values.into_iter().flatten().collect(), levels)
}

/// Writes a day as `YYYY-MM-DD`.
fn date(day: i64) -> String {
    let epoch = time::Date::from_calendar_date(1970, time::Month::January, 1);
    let date = epoch.ok().and_then(|epoch| epoch.checked_add(time::Duration::days(day)));
    // Years beyond 9999 have no date; their number still names the file.
    date.map_or_else(
        || format!("day-{day}"),
        |date| format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day()),
    )
}

#[cfg(test)]
mod tests;
