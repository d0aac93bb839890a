//! `status`: asks the running agent over HTTP and prints its books as tables.

use std::time::Duration;

use super::table::table;
use super::{Failure, StatusArgs};
use crate::books::Books;
use crate::status::{Health, Level};

/// An agent answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks and prints.
///
/// *Errors*: [`Failure::Failed`] if no agent answers, [`Failure::Config`] if the address is not known.
pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let address = match &args.address {
        Some(address) => address.clone(),
        None => args.config.load()?.status_listen.to_string(),
    };
    let books = get(&address, "/api/books")?;
    let text = if args.json {
        books
    } else {
        let books: Books = parse(&address, &books)?;
        let health: Health = parse(&address, &get(&address, "/healthz")?)?;
        render(&books, &health)
    };
    super::print(format!("{text}\n").as_bytes())
}

fn get(address: &str, path: &str) -> Result<String, Failure> {
    let url = format!("http://{address}{path}");
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build().into();
    agent.get(&url).call().and_then(|mut answer| answer.body_mut().read_to_string()).map_err(|source| {
        let what = format!("no agent answers at {url}; is it running with this configuration?");
        Failure::Failed { what, source: source.into() }
    })
}

fn parse<T: serde::de::DeserializeOwned>(address: &str, text: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|source| Failure::Failed {
        what: format!("{address} does not answer as an agent of this version does"),
        source: source.into(),
    })
}

fn render(books: &Books, health: &Health) -> String {
    let word = match health.status {
        Level::Ok => "ok",
        Level::Degraded => "degraded",
        Level::Red => "RED",
    };
    let mut text = format!(
        "{word}; Kafka is {}; {} rows wait; books of {}, {}\n",
        health.kafka,
        health.waiting_rows,
        books.flushed_at.as_deref().unwrap_or("no flush yet"),
        if books.balanced { "balanced" } else { "NOT BALANCED" }
    );
    for reason in &health.reasons {
        text.push_str(&format!("  {reason}\n"));
    }
    text.push_str("\nPoints by machine (due = good + bad + skipped; good + bad = suppressed + numbered)\n");
    let header = ["MACHINE", "DUE", "GOOD", "BAD", "SKIPPED", "SUPPRESSED", "NUMBERED"];
    let source = books.source.iter().map(|l| {
        let [due, good, bad, skipped, suppressed, numbered] =
            [l.due, l.good, l.bad, l.skipped, l.suppressed, l.numbered].map(|n| n.to_string());
        [l.machine.to_string(), due, good, bad, skipped, suppressed, numbered]
    });
    text.push_str(&table(header, source));
    text.push_str(
        "\n\nRows by stream (numbered = acknowledged + dropped + set aside + waiting + unaccounted)\n",
    );
    let header = [
        "MACHINE",
        "CATEGORY",
        "EPOCH",
        "NUMBERED",
        "ACKNOWLEDGED",
        "DROPPED",
        "SET ASIDE",
        "WAITING",
        "UNACCOUNTED",
    ];
    let transport = books.transport.iter().map(|l| {
        let b = l.rows;
        let [numbered, acknowledged, dropped, set_aside, waiting] =
            [b.numbered, b.acknowledged, b.dropped, b.set_aside, b.waiting].map(|n| n.to_string());
        let (machine, category) = (l.machine.to_string(), l.category.to_string());
        let unaccounted = b.unaccounted.to_string();
        [machine, category, l.epoch.clone(), numbered, acknowledged, dropped, set_aside, waiting, unaccounted]
    });
    text.push_str(&table(header, transport));
    if books.redelivered > 0 {
        text.push_str(&format!("\n\n{} MQTT publishes came again and were recognised", books.redelivered));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_is_not_there_is_named_with_its_address() {
        // A port that was free a moment ago.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let failure = get(&address, "/api/books").unwrap_err();
        assert!(failure.to_string().contains(&address), "{failure}");
        assert_eq!(failure.exit_code(), 1);
    }

    #[test]
    fn the_tables_show_every_column_of_the_books() {
        let books: Books = serde_json::from_str(
            r#"{"flushed_at":"2026-11-24T12:00:00Z",
            "source":[{"machine":"h/a","due":10,"good":7,"bad":2,"skipped":1,"suppressed":4,"numbered":5}],
            "transport":[{"machine":"h/a","category":"telemetry","epoch":"00000000000000aa",
              "rows":{"numbered":51,"acknowledged":32,"dropped":13,"set_aside":4,"waiting":2,"unaccounted":-7},
              "points":{"numbered":0,"acknowledged":0,"dropped":0,"set_aside":0,"waiting":0}}],
            "redelivered":3,"balanced":true}"#,
        )
        .unwrap();
        let health = Health {
            status: Level::Degraded,
            reasons: vec!["Kafka is down".to_owned()],
            waiting_rows: 2,
            kafka: "down".to_owned(),
        };
        let text = render(&books, &health);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = text.lines().map(words).collect();
        assert!(lines.contains(&words("h/a 10 7 2 1 4 5")), "{text}");
        assert!(lines.contains(&words("h/a telemetry 00000000000000aa 51 32 13 4 2 -7")), "{text}");
        assert!(text.starts_with("degraded; Kafka is down; 2 rows wait"), "{text}");
    }
}
