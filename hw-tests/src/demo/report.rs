//! What the demonstration says: the balance sheet from bus to lake, the newest features, the audit.

use std::collections::BTreeMap;
use std::io::Write as _;

use serde_json::Value;

use super::line::{Line, lines, sum};
use super::proof::Proof;

/// Columns of the audit, in the order of D15.
const AUDIT: [&str; 7] = ["numbered", "in_lake", "rejected", "lost", "stranded", "in_transit", "missing"];
/// Problems that are shown one by one.
const SHOWN: usize = 10;

/// Prints a line; a closed pipe is no reason to stop.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// Prints where everything is that was left running.
pub fn addresses(running: &Line) {
    line("");
    line(&format!("agent:      {}   (books, tags, metrics)", running.agent_url()));
    line(&format!("collector:  {}   (features, metrics)", running.collector_url()));
    line(&format!("files:      {}", running.folder().display()));
    let ids: Vec<String> = running.process_ids().iter().map(ToString::to_string).collect();
    line(&format!("stop:       kill {}", ids.join(" ")));
}

/// Tells whether the agent's books add up.
#[must_use]
pub fn balanced(books: &Value) -> bool {
    books["balanced"] == Value::Bool(true)
}

/// Holds books that are kept apart against each other: every point that a source numbered stands in a row of
/// transport, and every row of transport is known to the ledger. Gives what differs, as sentences.
#[must_use]
pub fn differences(books: &Value, audit: &Value) -> Vec<String> {
    let mut points: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for line in lines(books, "source") {
        points.entry(line["machine"].as_str().unwrap_or("?")).or_default().0 +=
            line["numbered"].as_u64().unwrap_or(0);
    }
    for line in lines(books, "transport") {
        points.entry(line["machine"].as_str().unwrap_or("?")).or_default().1 +=
            line["points"]["numbered"].as_u64().unwrap_or(0);
    }
    let unlike = points.into_iter().filter(|(_, (source, transport))| source != transport);
    let mut found: Vec<String> = unlike
        .map(|(machine, (source, transport))| {
            format!("{machine}: the source numbered {source} points, its rows in transport have {transport}")
        })
        .collect();
    let (transport, ledger) = (total(books, "numbered"), sum(audit, "numbered"));
    if transport != ledger {
        found.push(format!("the agent numbered {transport} rows, the ledger knows of {ledger}"));
    }
    found
}

fn total(books: &Value, column: &str) -> u64 {
    lines(books, "transport").filter_map(|line| line["rows"][column].as_u64()).sum()
}

/// Prints everything that was found.
pub fn print(books: &Value, features: &Value, proof: &Proof) {
    print_source(books);
    print_transport(books, &proof.audit);
    print_features(features);
    print_truth(proof);
    let found = |column| sum(&proof.audit, column);
    print_parity(proof);
    line("");
    line(&format!(
        "audit: lost = {}, missing = {}, stranded = {}, in transit = {}; exit code {}",
        found("lost"),
        found("missing"),
        found("stranded"),
        found("in_transit"),
        proof.audit_exit.map_or_else(|| "none".to_owned(), |code| code.to_string())
    ));
}

fn print_source(books: &Value) {
    line("");
    line("At the bus, in points (due = good + bad + skipped; good + bad = suppressed + numbered)");
    row("machine", &["due", "good", "bad", "skipped", "suppressed", "numbered"].map(str::to_owned));
    for machine in lines(books, "source") {
        let columns = ["due", "good", "bad", "skipped", "suppressed", "numbered"];
        row(machine["machine"].as_str().unwrap_or("?"), &columns.map(|c| machine[c].to_string()));
    }
}

fn print_transport(books: &Value, audit: &Value) {
    line("");
    line("On the agent's disk, in rows, all epochs that it still accounts for");
    let columns = ["numbered", "acknowledged", "dropped", "set_aside", "waiting"];
    row("", &columns.map(str::to_owned));
    row("all streams", &columns.map(|c| total(books, c).to_string()));
    let unaccounted: i64 =
        lines(books, "transport").filter_map(|l| l["rows"]["unaccounted"].as_i64()).map(i64::abs).sum();
    let points = |of: &str, at: fn(&Value) -> &Value| -> u64 {
        lines(books, of).filter_map(|line| at(line).as_u64()).sum()
    };
    line(&format!(
        "  unaccounted: {unaccounted} rows; numbered at the bus: {} points, in transport: {} points",
        points("source", |l| &l["numbered"]),
        points("transport", |l| &l["points"]["numbered"]),
    ));
    for difference in differences(books, audit) {
        line(&format!("  {difference}"));
    }
    line("");
    line("In the lake, in rows (numbered = in_lake + rejected + lost + stranded + in_transit + missing)");
    row("machine, category, epoch", &AUDIT.map(str::to_owned));
    for stream in lines(audit, "streams") {
        let text = |key: &str| stream[key].as_str().unwrap_or("?").to_owned();
        let epoch: String = text("epoch").chars().take(6).collect();
        row(
            &format!("{} {} {epoch}", text("machine"), text("category")),
            &AUDIT.map(|c| stream[c].to_string()),
        );
    }
    row("all streams", &AUDIT.map(|c| sum(audit, c).to_string()));
}

fn print_features(features: &Value) {
    line("");
    line("The newest features, as POST /get-online-features serves them");
    let names: Vec<String> = features["metadata"]["feature_names"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|n| n.as_str().unwrap_or("?").to_owned())
        .collect();
    for (name, result) in names.iter().zip(lines(features, "results")) {
        let values: Vec<String> = result["values"].as_array().into_iter().flatten().map(short).collect();
        row(name, &values);
    }
}

fn print_truth(proof: &Proof) {
    line("");
    line(&format!(
        "The plant's own log: {} values sent, {} found in the lake once and bit for bit, {} not in any book because the \
         agent was killed before it had them on disk, {} wrong",
        proof.truth.sent,
        proof.truth.found,
        proof.truth.excused,
        proof.truth.problems.len()
    ));
    for problem in proof.truth.problems.iter().take(SHOWN) {
        line(&format!("  {problem}"));
    }
}

fn print_parity(proof: &Proof) {
    let counts: Vec<String> = lines(&proof.parity, "views")
        .map(|view| {
            let different = view["differences"].as_array().map_or(0, Vec::len);
            format!(
                "{} {} windows, {different} different",
                view["view"].as_str().unwrap_or("?"),
                view["windows"]
            )
        })
        .collect();
    line("");
    line(&format!("parity, stored features against the batch over the lake: {}", counts.join("; ")));
    let differences = lines(&proof.parity, "views").flat_map(|view| lines(view, "differences"));
    for difference in differences.take(SHOWN) {
        line(&format!("  {}", difference.as_str().unwrap_or("?")));
    }
}

fn short(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() => format!("{number:.3}"),
        _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    }
}

fn row(name: &str, columns: &[String]) {
    let mut text = format!("  {name:<36}");
    for column in columns {
        text.push_str(&format!("{column:>15}"));
    }
    line(&text);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn points_and_rows_that_one_book_has_and_the_next_one_lacks_are_named() {
        let books = json!({
            "source": [{ "machine": "h/a", "numbered": 7 }, { "machine": "h/b", "numbered": 5 }],
            "transport": [
                { "machine": "h/a", "rows": { "numbered": 2 }, "points": { "numbered": 4 } },
                { "machine": "h/a", "rows": { "numbered": 1 }, "points": { "numbered": 3 } },
                { "machine": "h/b", "rows": { "numbered": 5 }, "points": { "numbered": 5 } },
                { "machine": "h/gw", "rows": { "numbered": 1 }, "points": { "numbered": 0 } },
            ],
        });
        let audit = |rows: u64| json!({ "streams": [{ "numbered": rows }, { "numbered": 1 }] });
        assert!(differences(&books, &audit(8)).is_empty());
        assert_eq!(differences(&books, &audit(7)), ["the agent numbered 9 rows, the ledger knows of 8"]);
        let mut fewer = books;
        fewer["transport"][1]["points"]["numbered"] = 2.into();
        assert_eq!(
            differences(&fewer, &audit(8)),
            ["h/a: the source numbered 7 points, its rows in transport have 6"]
        );
        fewer["source"][1] = json!({ "machine": "h/b", "numbered": 6 });
        assert_eq!(differences(&fewer, &audit(8)).len(), 2);
    }
}
