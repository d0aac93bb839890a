//! What the demonstration says: the balance sheet from bus to lake, the newest features, the audit.

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
    let total =
        |column: &str| -> u64 { lines(books, "transport").filter_map(|l| l["rows"][column].as_u64()).sum() };
    row("all streams", &columns.map(|c| total(c).to_string()));
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
