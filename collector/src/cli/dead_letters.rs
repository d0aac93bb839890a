//! `dead-letters list|show`: what could not be read, and its bytes.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ConfigFile, GOOD, table};
use crate::lake::db::{Row as _, SqliteRow, Statement};
use crate::lake::{self, LakeError, row};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List dead letters, newest first.
    List(List),
    /// Show one with its headers and bytes.
    Show(Show),
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Print the table as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    file: ConfigFile,
    /// Its number, as list shows it.
    id: i64,
    /// Print it as JSON, the bytes in hexadecimal digits.
    #[arg(long)]
    json: bool,
}

/// One dead letter.
struct Letter {
    id: i64,
    received: i64,
    kind: String,
    topic: String,
    part: i32,
    offset: i64,
    rejected: String,
    source: Option<String>,
    headers: String,
    bytes: Vec<u8>,
    reason: String,
}

const COLUMNS: &str = "SELECT dead_letter_id, received, kind, topic, part, kafka_offset, rejected, source, headers, bytes, reason FROM dead_letter";

impl Letter {
    fn read(row: &SqliteRow) -> Result<Self, LakeError> {
        let read = || -> Result<Self, crate::lake::db::Error> {
            Ok(Self {
                id: row.try_get(0)?,
                received: row.try_get(1)?,
                kind: row.try_get(2)?,
                topic: row.try_get(3)?,
                part: row.try_get(4)?,
                offset: row.try_get(5)?,
                rejected: row.try_get(6)?,
                source: row.try_get(7)?,
                headers: row.try_get(8)?,
                bytes: row.try_get(9)?,
                reason: row.try_get(10)?,
            })
        };
        read().map_err(LakeError::sql("read dead letters"))
    }

    fn json(&self) -> serde_json::Value {
        let headers: serde_json::Value = serde_json::from_str(&self.headers).unwrap_or_default();
        json!({
            "id": self.id, "received": table::json_time(Some(self.received)), "kind": self.kind, "topic": self.topic, "partition": self.part,
            "offset": self.offset, "rejected": self.rejected, "source": self.source, "headers": headers,
            "bytes": self.bytes.len(), "reason": self.reason,
        })
    }
}

pub(super) async fn run(verb: &Verb) -> anyhow::Result<u8> {
    match verb {
        Verb::List(arguments) => list(arguments).await,
        Verb::Show(arguments) => show(arguments).await,
    }
}

async fn list(arguments: &List) -> anyhow::Result<u8> {
    let config = super::configuration(&arguments.file.config)?;
    let mut conn = lake::open_reader(&config.lake_file).await?;
    let select =
        Statement::new(format!("{COLUMNS} ORDER BY dead_letter_id DESC LIMIT ?")).bind(arguments.limit);
    let rows = select.fetch_all(&mut conn).await?;
    let letters = rows.iter().map(Letter::read).collect::<Result<Vec<_>, _>>()?;
    if arguments.json {
        table::json(&letters.iter().map(Letter::json).collect::<Vec<_>>())?;
        return Ok(GOOD);
    }
    let mut sheet = table::Sheet::new(&[
        "id>",
        "received",
        "kind",
        "topic",
        "part>",
        "offset>",
        "sequences",
        "bytes>",
        "reason",
    ]);
    for letter in &letters {
        sheet.row(&[
            letter.id.to_string(),
            table::time(Some(letter.received)),
            letter.kind.clone(),
            letter.source.clone().unwrap_or_else(|| letter.topic.clone()),
            letter.part.to_string(),
            letter.offset.to_string(),
            letter.rejected.clone(),
            letter.bytes.len().to_string(),
            letter.reason.clone(),
        ]);
    }
    sheet.print();
    Ok(GOOD)
}

async fn show(arguments: &Show) -> anyhow::Result<u8> {
    let config = super::configuration(&arguments.file.config)?;
    let mut conn = lake::open_reader(&config.lake_file).await?;
    let select = Statement::new(format!("{COLUMNS} WHERE dead_letter_id = ?")).bind(arguments.id);
    let Some(found) = select.fetch_optional(&mut conn).await? else {
        return Err(
            super::Usage(format!("there is no dead letter {}; see dead-letters list", arguments.id)).into()
        );
    };
    let letter = Letter::read(&found)?;
    if arguments.json {
        let mut json = letter.json();
        if let Some(object) = json.as_object_mut() {
            object.insert("bytes".to_owned(), json!(row::hex(&letter.bytes)));
        }
        table::json(&json)?;
        return Ok(GOOD);
    }
    table::line(&format!("dead letter {} ({}): {}", letter.id, letter.kind, letter.reason));
    table::line(&format!("received  {}", table::time(Some(letter.received))));
    table::line(&format!("place     {} partition {} offset {}", letter.topic, letter.part, letter.offset));
    if let Some(source) = &letter.source {
        table::line(&format!("source    {source}"));
    }
    table::line(&format!("sequences {}", letter.rejected));
    table::line(&format!("headers   {}", letter.headers));
    for (at, line) in letter.bytes.chunks(16).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = line
            .iter()
            .map(|&b| if b.is_ascii_graphic() || b == b' ' { char::from(b) } else { '.' })
            .collect();
        table::line(&format!("{:08x}  {:<47}  {text}", at * 16, hex.join(" ")));
    }
    Ok(GOOD)
}
