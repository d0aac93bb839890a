//! A broker, records as an agent sends them, and a collector that reads them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_collector::app::{App, AppError};
use millrace_collector::config;
use millrace_collector::lake::{self, db};
use millrace_protocol::{
    AgentId, Birth, BirthTag, Category, Cell, Chunk, ClockSegment, Epoch, Item, Layout, LayoutColumn,
    MachineName, Progress, RecordBuilder, Reporting, Row, RowFlags, StreamId, Value, ValueType,
};
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{DefaultProducerContext, FutureProducer, FutureRecord};
use tokio_util::sync::CancellationToken;

/// Longest wait for a state; reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One view and one service over one tag.
pub(crate) const PRESS: &str = r#"
[[kind]]
name = "press"
machines = ["hall3/press-*"]
[[feature_view]]
name = "press_10s"
version = 1
kind = "press"
window = { size = "10 s" }
lateness = "1 s"
ttl = "1 h"
[feature_view.features]
temp_mean = "mean(temp)"
temp_max = "max(temp)"
[[feature_service]]
name = "model"
features = ["press_10s"]
"#;

pub(crate) struct Plant {
    pub(crate) folder: tempfile::TempDir,
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: FutureProducer,
    brokers: String,
    /// `[serve] listen`.
    pub(crate) listen: String,
    /// Further lines of `[serve]`.
    pub(crate) more: String,
}

impl Plant {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("features.d")).unwrap();
        Self::with(folder)
    }

    fn with(folder: tempfile::TempDir) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("m.telemetry", 3, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let producer = ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
        Self { folder, cluster, producer, brokers, listen: "127.0.0.1:0".to_owned(), more: String::new() }
    }

    /// The same lake, and a broker whose topics are new and empty.
    pub(crate) fn with_new_topics(self) -> Self {
        Self::with(self.folder)
    }

    pub(crate) fn lake(&self) -> PathBuf {
        self.folder.path().join("lake.db")
    }

    pub(crate) fn features(&self, text: &str) {
        std::fs::write(self.folder.path().join("features.d/press.toml"), text).unwrap();
    }

    fn config_text(&self) -> String {
        let folder = self.folder.path().display();
        format!(
            "version = 1\n[collector]\ndata_dir = \"{folder}/data\"\nfeatures_dir = \"{folder}/features.d\"\n\
             [kafka]\nbrokers = [\"{}\"]\ntopic_prefix = \"m\"\n[lake]\nurl = \"sqlite:{folder}/lake.db\"\n\
             [serve]\nlisten = \"{}\"\n{}",
            self.brokers, self.listen, self.more
        )
    }

    pub(crate) fn config(&self) -> config::Config {
        config::read(&[("collector.toml".to_owned(), self.config_text())]).unwrap()
    }

    /// Cuts the link to the broker: connections end and new ones are refused.
    pub(crate) fn down(&self) {
        self.cluster.broker_down(-1).unwrap();
    }

    /// Mends it.
    pub(crate) fn up(&self) {
        self.cluster.broker_up(-1).unwrap();
    }

    /// Writes the configuration; gives its file.
    pub(crate) fn write_config(&self) -> PathBuf {
        let file = self.folder.path().join("collector.toml");
        std::fs::write(&file, self.config_text()).unwrap();
        file
    }

    /// Runs a verb of the program; gives its exit code and what it printed.
    pub(crate) async fn verb(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let file = self.write_config();
        let program = env!("CARGO_BIN_EXE_millrace-collector");
        let output = tokio::process::Command::new(program)
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text)
    }

    pub(crate) async fn send(
        &self,
        partition: i32,
        items: &[Item],
        layout: Option<&Arc<Layout>>,
        numbered: u64,
    ) {
        let mut builder = RecordBuilder::new(stream(), Epoch(7));
        for item in items {
            builder.push(&item.encode().unwrap(), layout.filter(|_| matches!(item, Item::Chunk(_))));
        }
        self.send_bytes(partition, &builder.finish(numbered)).await;
    }

    pub(crate) async fn send_bytes(&self, partition: i32, value: &[u8]) {
        let record =
            FutureRecord::to("m.telemetry").partition(partition).key("hall3/press-03").payload(value);
        self.producer.send(record, PATIENCE).await.unwrap();
    }
}

pub(crate) fn stream() -> StreamId {
    StreamId {
        agent: AgentId::new("gw").unwrap(),
        epoch: Epoch(7),
        machine: MachineName::new("hall3/press-03").unwrap(),
        category: Category::new("telemetry").unwrap(),
    }
}

/// One row a second from a time on, of one tag.
pub(crate) fn rows(first_seq: u64, from_us: i64, values: &[f64]) -> (Item, Arc<Layout>) {
    let column = LayoutColumn { tag: "temp".into(), value_type: ValueType::F64 };
    let layout = Arc::new(Layout::new(vec![column]));
    let row = |(at, value): (usize, &f64)| Row {
        time_us: from_us + at as i64 * 1_000_000,
        flags: RowFlags::default(),
        layout: Arc::clone(&layout),
        cells: vec![Cell::Good(Value::F64(*value))],
    };
    let rows: Vec<Row> = values.iter().enumerate().map(row).collect();
    (Item::Chunk(Chunk::pack(first_seq, ClockSegment::default(), &rows).unwrap()), layout)
}

pub(crate) fn birth(started_us: i64) -> Item {
    let tag = BirthTag {
        name: "temp".into(),
        value_type: Some(ValueType::F64),
        unit: Some("degC".into()),
        source: "line-a unit 3 holding 100 f32 ABCD".into(),
        reporting: Reporting::Cyclic { interval_us: 1_000_000 },
        hold_us: 2_000_000,
        counter_modulus: None,
    };
    let last_flushed_us = Some(started_us - 5_000_000);
    Item::Birth(Birth { tags: vec![tag], started_us, last_flushed_us, ..Birth::default() })
}

pub(crate) fn progress(after: u64, complete_until_us: i64) -> Item {
    Item::Progress(Progress { after, complete_until_us, numbered: after, waiting_epochs: vec![] })
}

/// A collector that runs until it is stopped.
pub(crate) struct Running {
    pub(crate) address: std::net::SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), AppError>>,
}

impl Running {
    pub(crate) async fn start(plant: &Plant) -> Self {
        let app = App::build(plant.config()).await.unwrap();
        let address = app.address().unwrap();
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
        let task = tokio::spawn(app.run(stop.clone()));
        Self { address, stop, task }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// As kill -9: whatever it does, it does no more.
    pub(crate) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

/// Asks the lake for one number until it is the wanted one.
pub(crate) async fn until(file: &Path, sql: &'static str, wanted: i64) {
    let started = Instant::now();
    let mut last = None;
    while started.elapsed() < PATIENCE {
        last = number(file, sql).await;
        if last == Some(wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{sql}: {last:?} instead of {wanted} after {PATIENCE:?}");
}

pub(crate) async fn number(file: &Path, sql: &'static str) -> Option<i64> {
    use db::{Executor as _, Row as _};
    let mut conn = lake::open_reader(file).await.ok()?;
    conn.fetch_one(sql).await.ok()?.try_get(0).ok()
}

/// Asks the server; gives status and text.
pub(crate) async fn http(
    address: std::net::SocketAddr,
    path: &'static str,
    body: Option<String>,
) -> (u16, String) {
    let ask = move || {
        let agent =
            ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        let url = format!("http://{address}{path}");
        let answer = match body {
            Some(body) => agent.post(&url).header("content-type", "application/json").send(body),
            None => agent.get(&url).call(),
        };
        let mut answer = answer.unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    };
    tokio::task::spawn_blocking(ask).await.unwrap()
}

/// Asks the server until the answer has a text in it.
pub(crate) async fn http_until(
    address: std::net::SocketAddr,
    path: &'static str,
    body: Option<String>,
    wanted: &str,
) -> String {
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < PATIENCE {
        last = http(address, path, body.clone()).await.1;
        if last.contains(wanted) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} says {last:?}, without {wanted:?}, after {PATIENCE:?}");
}
