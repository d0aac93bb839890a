//! The online store and the HTTP server against the Feast SDK's figures on the same kind of machine (2 cores):
//! 6.7 k rows/s of 10 features into SQLite, 672 requests/s for 1 entity and 47 for 100. Prints, never judges.
//!
//! `cargo bench -p millrace-collector --bench online`

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_collector::features::online::{OnlineRow, OnlineStore};
use millrace_collector::features::view::ActiveView;
use millrace_collector::serve::{Serving, router, run};
use millrace_collector::status::Status;
use millrace_preprocess::{FeatureColumn, FeatureRow, FeatureType, FeatureValue, ViewSchema};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const ROWS: usize = 10_000;
const REPETITIONS: usize = 7;
const CLIENTS: usize = 8;
const RUN: Duration = Duration::from_secs(3);

/// Ten features, as Feast was measured with: 6 Float64, 2 Int64, String, Bool.
fn view() -> ActiveView {
    use FeatureType::{Bool, F64, I64, Text};
    let types = [F64, F64, F64, F64, F64, F64, I64, I64, Text, Bool];
    let column =
        |(at, feature_type)| FeatureColumn { name: format!("f{at}").into(), feature_type, unit: None };
    let features = types.into_iter().enumerate().map(column).collect();
    let (name, entity) = ("bench".into(), "machine".into());
    let schema = ViewSchema { name, version: 1, entity, features, ttl_us: 0, graph_hash: 0 };
    ActiveView { schema: Arc::new(schema), promotion: Some(1) }
}

fn rows(view: &ActiveView, event_us: i64) -> Vec<FeatureRow> {
    let value = |at: usize, feature: &FeatureColumn| match feature.feature_type {
        FeatureType::F64 => FeatureValue::F64(at as f64 * 0.731 + event_us as f64 * 1e-7),
        FeatureType::I64 => FeatureValue::I64(at as i64),
        FeatureType::Bool => FeatureValue::Bool(at.is_multiple_of(2)),
        FeatureType::Text => FeatureValue::Text(format!("state-{}", at % 7).into()),
    };
    (0..ROWS)
        .map(|at| FeatureRow {
            view: view.schema.clone(),
            entity: format!("hall3/press-{at:05}").into(),
            event_us,
            created_us: event_us,
            coverage: 1.0,
            values: view.schema.features.iter().map(|feature| Some(value(at, feature))).collect(),
        })
        .collect()
}

/// CPU time of this process so far, user and system; other work on the machine does not count.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in brackets: the 12th and 13th field, in hundredths of a second.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    Duration::from_millis(fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10)
}

async fn write(store: &OnlineStore, view: &ActiveView) {
    let (mut rates, mut used) = (Vec::new(), Duration::ZERO);
    for repetition in 0..=REPETITIONS {
        let rows = rows(view, 1_000_000 * repetition as i64);
        let (start, cpu_before) = (Instant::now(), cpu());
        let taken = store.push(rows.iter().map(|row| OnlineRow { row, revision: 1 })).await;
        assert_eq!(taken.ok(), Some(ROWS));
        let rate = ROWS as f64 / start.elapsed().as_secs_f64();
        if repetition == 0 {
            println!("online write, first rows of {ROWS} entities: {rate:.0} rows/s");
        } else {
            rates.push(rate);
            used += cpu().saturating_sub(cpu_before);
        }
    }
    rates.sort_by(f64::total_cmp);
    let median = rates.get(rates.len() / 2).copied().unwrap_or_default();
    let per_cpu = (ROWS * REPETITIONS) as f64 / used.as_secs_f64();
    println!(
        "online write, newer rows: median {median:.0} rows/s [{:.0}..{:.0}], Feast's 6,731: x{:.1}; {per_cpu:.0} rows per \
         CPU second, Feast's 8,624: x{:.1}",
        rates.first().copied().unwrap_or_default(),
        rates.last().copied().unwrap_or_default(),
        median / 6_731.0,
        per_cpu / 8_624.0
    );
}

/// Sends one request over and over on one kept connection; returns how many were answered.
fn client(address: SocketAddr, entities: usize, from: usize) -> std::io::Result<(usize, usize)> {
    let names: Vec<_> =
        (0..entities).map(|at| format!("\"hall3/press-{:05}\"", (from + at * 37) % ROWS)).collect();
    let features: Vec<_> = (0..10).map(|at| format!("\"bench:f{at}\"")).collect();
    let (features, names) = (features.join(","), names.join(","));
    let body = format!("{{\"features\":[{features}],\"entities\":{{\"machine\":[{names}]}}}}");
    let request = format!(
        "POST /get-online-features HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: \
         {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    let (mut buffer, mut count, mut bytes) = (vec![0; 1 << 18], 0, 0);
    let start = Instant::now();
    while start.elapsed() < RUN {
        connection.write_all(request.as_bytes())?;
        bytes += read_answer(&mut connection, &mut buffer)?;
        count += 1;
    }
    Ok((count, bytes))
}

fn read_answer(connection: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    let (mut have, mut need) = (0, None);
    while need.is_none_or(|need| have < need) {
        have += connection.read(&mut buffer[have..])?;
        if need.is_none()
            && let Some(head) = buffer[..have].windows(4).position(|four| four == b"\r\n\r\n")
        {
            let text = String::from_utf8_lossy(&buffer[..head]).to_lowercase();
            assert!(text.starts_with("http/1.1 200"), "{text}");
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            need = length.and_then(|length| length.parse::<usize>().ok()).map(|length| head + 4 + length);
        }
    }
    Ok(have)
}

async fn serve(store: &OnlineStore) {
    let serving = Serving {
        newest: store.newest(),
        services: vec![],
        project: "bench".to_owned(),
        now_us: Box::new(|| 0),
        status: Status::new(Duration::MAX),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let stop = CancellationToken::new();
    #[expect(clippy::disallowed_methods, reason = "a benchmark awaits its server itself")]
    let server = tokio::spawn(run(listener, router(serving), stop.clone()));
    for (entities, feast) in [(1, 672.0), (100, 47.0)] {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|at| std::thread::spawn(move || client(address, entities, at * 1_001)))
            .collect();
        let (mut count, mut bytes) = (0, 0);
        for client in clients {
            let done =
                tokio::task::spawn_blocking(move || client.join()).await.expect("joined").expect("no panic");
            let (requests, read) = done.expect("answers");
            count += requests;
            bytes += read / CLIENTS / requests.max(1);
        }
        let rate = count as f64 / RUN.as_secs_f64();
        println!(
            "get-online-features, {entities} entities x 10 features, {CLIENTS} connections, {bytes} B each: {rate:.0} \
             requests/s, Feast's {feast:.0}: x{:.1}",
            rate / feast
        );
    }
    stop.cancel();
    server.await.expect("the server ends").expect("without an error");
}

fn main() {
    // Tests run benchmarks, too, to see that they work; then nothing is measured.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let view = view();
        let path = folder.path().join("online.db");
        let store = OnlineStore::open(&path, "bench", std::slice::from_ref(&view)).await.expect("a store");
        write(&store, &view).await;
        serve(&store).await;
    });
}
