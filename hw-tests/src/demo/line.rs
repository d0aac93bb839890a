//! The line of the demonstration: which programs run, where they listen, what they are asked.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::RngExt as _;
use serde_json::Value;

use super::programs::{Program, get_json, post, run};
use crate::clock::now_us;
use crate::truth::compare::Excuse;

/// The features of the demonstration.
const FEATURES: &str = include_str!("../../plants/demo.features.toml");
/// The plant of the demonstration.
pub const DEMO_PLANT: &str = include_str!("../../plants/demo.toml");
/// First part of the topics' names on the in-process broker.
const TOPIC_PREFIX: &str = "millrace";
/// The topics that exist; other categories fall back to `telemetry` (D3).
const TOPICS: &str = "millrace.telemetry,millrace.vibration";
/// Enough to show that shards work, few enough for the in-process broker.
const PARTITIONS: &str = "4";
/// What an agent may have read and not flushed when it is killed: its sync interval, and a slow disk.
/// *Units*: microseconds.
const UNFLUSHED_US: i64 = 2_000_000;
/// Ports that no kernel gives to whoever binds port 0, so that one which is free now still is in a moment.
const CHOSEN_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A Kafka that others started.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// `host:port` each.
    pub brokers: Vec<String>,
    /// First part of the topics' names; they are there.
    pub topic_prefix: String,
    /// What agent.toml says in `[kafka]` beside brokers and prefix.
    pub agent_link: String,
    /// What collector.toml says there.
    pub collector_link: String,
}

/// The running programs and what is needed to reach them.
#[derive(Debug)]
pub struct Line {
    folder: PathBuf,
    broker: Option<Program>,
    plant: Option<Program>,
    agent: Option<Program>,
    collector: Option<Program>,
    brokers: String,
    /// `None`: a Kafka of others, whose link this line cannot cut.
    broker_control: Option<String>,
    plant_control: String,
    agent_url: String,
    collector_url: String,
    excuses: Vec<Excuse>,
}

impl Line {
    /// Starts broker, plant, agent and collector in a new temporary folder; `plant` is the text of `plant.toml`.
    ///
    /// *Errors*: a program does not start; what runs already is killed.
    pub fn start(plant: &str) -> anyhow::Result<Self> {
        let folder = new_folder()?;
        let arguments = ["broker", "--topics", TOPICS, "--partitions", PARTITIONS];
        let broker = Program::start("broker", "millrace-plant", &arguments, &folder)?;
        let cluster = Cluster {
            brokers: vec![broker.key("MILLRACE_KAFKA_BROKERS")?],
            topic_prefix: TOPIC_PREFIX.to_owned(),
            agent_link: String::new(),
            collector_link: String::new(),
        };
        let broker_control = broker.key("MILLRACE_BROKER_CONTROL")?;
        Self::begin(plant, folder, &cluster, Some((broker, broker_control)))
    }

    /// Like [`Self::start`], on a Kafka that is there.
    ///
    /// *Errors*: as there.
    pub fn start_on(plant: &str, cluster: &Cluster) -> anyhow::Result<Self> {
        Self::begin(plant, new_folder()?, cluster, None)
    }

    fn begin(
        plant: &str,
        folder: PathBuf,
        cluster: &Cluster,
        broker: Option<(Program, String)>,
    ) -> anyhow::Result<Self> {
        let brokers = cluster.brokers.join(",");
        let (broker, broker_control) = broker.unzip();
        let [agent_address, serve_address] = free_addresses()?;
        fs::write(folder.join("plant.toml"), plant).context("writing plant.toml")?;
        let plant = start_plant(&folder, &brokers, &agent_address)?;
        let plant_control = plant.key("MILLRACE_PLANT_CONTROL")?;
        write_collector_config(&folder, cluster, &serve_address)?;
        let agent = folder.join("agent.toml");
        let text = fs::read_to_string(&agent).context("reading agent.toml")?;
        let kafka = kafka_table(cluster, &cluster.agent_link);
        let written = format!("[kafka]\nbrokers = [\"{brokers}\"]\ntopic_prefix = \"{TOPIC_PREFIX}\"\n");
        let text = text.replace(&written, &kafka);
        anyhow::ensure!(text.contains(&kafka), "agent.toml has another [kafka] than expected: {text}");
        fs::write(&agent, text).context("writing agent.toml")?;
        let mut line = Self {
            folder,
            broker,
            plant: Some(plant),
            agent: None,
            collector: None,
            brokers,
            broker_control,
            plant_control,
            agent_url: format!("http://{agent_address}"),
            collector_url: format!("http://{serve_address}"),
            excuses: Vec::new(),
        };
        line.start_agent()?;
        line.start_collector()?;
        Ok(line)
    }

    /// The folder that holds configuration, data and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the agent's pages are.
    #[must_use]
    pub fn agent_url(&self) -> &str {
        &self.agent_url
    }

    /// Where the collector's pages are.
    #[must_use]
    pub fn collector_url(&self) -> &str {
        &self.collector_url
    }

    /// Starts the agent on the data that is there.
    ///
    /// *Errors*: it does not start.
    pub fn start_agent(&mut self) -> anyhow::Result<()> {
        let config = self.path("agent.toml");
        self.agent =
            Some(Program::start("agent", "millrace-agent", &["run", "--config", &config], &self.folder)?);
        Ok(())
    }

    /// Starts the collector on the data that is there.
    ///
    /// *Errors*: it does not start.
    pub fn start_collector(&mut self) -> anyhow::Result<()> {
        let config = self.path("collector.toml");
        let arguments = ["run", "--config", &config];
        self.collector = Some(Program::start("collector", "millrace-collector", &arguments, &self.folder)?);
        Ok(())
    }

    /// Kills the agent as a power cut would, and takes down which replies it may have read and not flushed.
    ///
    /// *Errors*: the system refuses.
    pub fn kill_agent(&mut self) -> anyhow::Result<()> {
        // By its own books, where it answers, to the microsecond.
        let settled_us = self.books().ok().and_then(|books| settled_us(&books));
        let from_us = settled_us.unwrap_or_else(|| now_us() - UNFLUSHED_US);
        if let Some(agent) = self.agent.take() {
            agent.kill()?;
        }
        self.excuses.push(Excuse { from_us, to_us: now_us() });
        Ok(())
    }

    /// Kills the collector as a power cut would.
    ///
    /// *Errors*: the system refuses.
    pub fn kill_collector(&mut self) -> anyhow::Result<()> {
        self.collector.take().map_or(Ok(()), Program::kill)
    }

    /// The times in which replies may be in nobody's books.
    #[must_use]
    pub fn excuses(&self) -> &[Excuse] {
        &self.excuses
    }

    /// Cuts the link to Kafka.
    ///
    /// *Errors*: as a sentence.
    pub fn cut_link(&self) -> Result<(), String> {
        self.broker("down")
    }

    /// Mends the link to Kafka.
    ///
    /// *Errors*: as a sentence.
    pub fn mend_link(&self) -> Result<(), String> {
        self.broker("up")
    }

    fn broker(&self, order: &str) -> Result<(), String> {
        let control = self.broker_control.as_ref().ok_or("the Kafka of others has no control")?;
        post(&format!("{control}/{order}"), None).map(drop)
    }

    /// Lets a machine misbehave: the body of `POST /faults`.
    ///
    /// *Errors*: as a sentence.
    pub fn fault(&self, fault: &Value) -> Result<(), String> {
        post(&format!("{}/faults", self.plant_control), Some(fault)).map(drop)
    }

    /// Starts `millrace-plant load` beside the plant, into the same Kafka.
    ///
    /// *Errors*: it does not start.
    pub fn start_load(&self, arguments: &[&str]) -> anyhow::Result<Program> {
        let all = [&["load", "--kafka", &self.brokers], arguments].concat();
        Program::start("load", "millrace-plant", &all, &self.folder)
    }

    /// Stops the machines; when it returns, all that they sent stands in the truth log.
    ///
    /// *Errors*: as a sentence.
    pub fn stop_plant(&self) -> Result<(), String> {
        post(&format!("{}/stop", self.plant_control), None).map(drop)
    }

    /// Fails if a program has ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        for program in
            [&mut self.broker, &mut self.plant, &mut self.agent, &mut self.collector].into_iter().flatten()
        {
            program.check_alive()?;
        }
        Ok(())
    }

    /// The agent's books.
    ///
    /// *Errors*: as a sentence.
    pub fn books(&self) -> Result<Value, String> {
        get_json(&format!("{}/api/books", self.agent_url))
    }

    /// What the agent says of itself at `/healthz`, whatever its code.
    ///
    /// *Errors*: as a sentence.
    pub fn health(&self) -> Result<Value, String> {
        get_json(&format!("{}/healthz", self.agent_url))
    }

    /// What the collector says of its link to Kafka.
    ///
    /// *Errors*: as a sentence.
    pub fn collector_kafka(&self) -> Result<Value, String> {
        get_json(&format!("{}/api/kafka", self.collector_url))
    }

    /// Rows in the lake, by the collector's audit.
    ///
    /// *Errors*: as a sentence.
    pub fn rows_in_lake(&self) -> Result<u64, String> {
        let (_, audit) = self.audit()?;
        Ok(sum(&audit, "in_lake"))
    }

    /// Tells that nothing waits at the agent and nothing is in transit.
    ///
    /// *Errors*: a sentence that says what still does.
    pub fn drained(&self) -> Result<(), String> {
        let plant = get_json(&self.plant_control)?;
        let queued: u64 = plant["sessions"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, session)| {
                session["waiting"].as_u64().unwrap_or(0) + session["in_flight"].as_u64().unwrap_or(0)
            })
            .sum();
        let books = self.books()?;
        let waiting: u64 =
            lines(&books, "transport").filter_map(|line| line["rows"]["waiting"].as_u64()).sum();
        let numbered: u64 =
            lines(&books, "transport").filter_map(|line| line["rows"]["numbered"].as_u64()).sum();
        let (_, audit) = self.audit()?;
        let (in_transit, known) = (sum(&audit, "in_transit"), sum(&audit, "numbered"));
        if queued > 0 || waiting > 0 || in_transit > 0 || known < numbered {
            return Err(format!(
                "{queued} publishes at the broker, {waiting} rows at the agent, {in_transit} in transit, \
                 {known} of {numbered} numbered rows known to the ledger"
            ));
        }
        Ok(())
    }

    /// Asks for the newest features as a model would.
    ///
    /// *Errors*: as a sentence.
    pub fn newest_features(&self) -> Result<Value, String> {
        let machines: Vec<String> = (1..=3).map(|n| format!("hall3/press-{n:02}")).collect();
        let request =
            serde_json::json!({ "feature_service": "press_anomaly_v1", "entities": { "machine": machines } });
        let answer = post(&format!("{}/get-online-features", self.collector_url), Some(&request))?;
        serde_json::from_str(&answer).map_err(|e| format!("{e}: {answer}"))
    }

    /// Stops agent and collector as systemd would.
    ///
    /// *Errors*: one does not stop in time or fails.
    pub fn stop_programs(&mut self) -> anyhow::Result<()> {
        self.agent.take().map_or(Ok(()), Program::stop)?;
        self.collector.take().map_or(Ok(()), Program::stop)
    }

    /// Runs the collector's audit: its exit code and what it says.
    ///
    /// *Errors*: as a sentence.
    pub fn audit(&self) -> Result<(Option<i32>, Value), String> {
        self.verb_json("audit")
    }

    /// Holds the stored features against the lake: the exit code and what it says.
    ///
    /// *Errors*: as a sentence.
    pub fn parity(&self) -> Result<(Option<i32>, Value), String> {
        self.verb_json("parity")
    }

    fn verb_json(&self, verb: &str) -> Result<(Option<i32>, Value), String> {
        let (code, text) = self.collector_verb(&[verb, "--json"]).map_err(|e| e.to_string())?;
        let said =
            serde_json::from_str(&text).map_err(|e| format!("millrace-collector {verb}: {e}: {text}"))?;
        Ok((code, said))
    }

    /// Runs a verb of the collector on this line's configuration.
    ///
    /// *Errors*: the program does not start.
    pub fn collector_verb(&self, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let config = self.path("collector.toml");
        let mut all = arguments.to_vec();
        all.extend(["--config", config.as_str()]);
        run("millrace-collector", &all)
    }

    /// Runs a verb of the agent on this line's configuration.
    ///
    /// *Errors*: the program does not start.
    pub fn agent_verb(&self, arguments: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
        let config = self.path("agent.toml");
        let mut all = arguments.to_vec();
        all.extend(["--config", config.as_str()]);
        run("millrace-agent", &all)
    }

    /// The lake's file.
    #[must_use]
    pub fn lake(&self) -> PathBuf {
        self.folder.join("lake.db")
    }

    /// The plant's log.
    #[must_use]
    pub fn truth(&self) -> PathBuf {
        self.folder.join("truth.jsonl")
    }

    /// The process ids of what runs.
    #[must_use]
    pub fn process_ids(&self) -> Vec<u32> {
        [&self.broker, &self.plant, &self.agent, &self.collector]
            .into_iter()
            .flatten()
            .filter_map(Program::id)
            .collect()
    }

    /// Removes the folder once nothing needs it any more.
    ///
    /// *Errors*: the system refuses.
    pub fn remove_folder(self) -> anyhow::Result<()> {
        let folder = self.folder.clone();
        drop(self);
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))
    }

    /// Leaves every program running when this process ends.
    pub fn leave_running(self) {
        for program in [self.broker, self.plant, self.agent, self.collector].into_iter().flatten() {
            program.leave_running();
        }
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }
}

/// Gives the lines of a list in an answer.
pub fn lines<'a>(answer: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    answer[list].as_array().into_iter().flatten()
}

/// Gives before which time the books have everything that was read. *Units*: microseconds since 1970-01-01 UTC.
fn settled_us(books: &Value) -> Option<i64> {
    let at = humantime::parse_rfc3339(books["settled_at"].as_str()?).ok()?;
    i64::try_from(at.duration_since(std::time::UNIX_EPOCH).ok()?.as_micros()).ok()
}

/// Sums a column over the audit's streams.
#[must_use]
pub fn sum(audit: &Value, column: &str) -> u64 {
    lines(audit, "streams").filter_map(|stream| stream[column].as_u64()).sum()
}

/// Finds two free loopback ports. They are free again for a moment before their users bind them; each is held until the
/// other is found, so that they differ.
fn free_addresses() -> anyhow::Result<[String; 2]> {
    let (first, second) = (free_port()?, free_port()?);
    Ok([first.local_addr()?.to_string(), second.local_addr()?.to_string()])
}

fn free_port() -> anyhow::Result<TcpListener> {
    for _ in 0..100 {
        let port = rand::rng().random_range(CHOSEN_PORTS);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener);
        }
    }
    anyhow::bail!("no free port was found in {CHOSEN_PORTS:?}")
}

fn start_plant(folder: &Path, brokers: &str, agent_address: &str) -> anyhow::Result<Program> {
    let path = |file: &str| folder.join(file).display().to_string();
    let (config, truth, agent, data) =
        (path("plant.toml"), path("truth.jsonl"), path("agent.toml"), path("agent"));
    let arguments = [
        "run",
        "--config",
        &config,
        "--truth",
        &truth,
        "--write-agent-config",
        &agent,
        "--data-dir",
        &data,
        "--kafka",
        brokers,
        "--agent-status",
        agent_address,
    ];
    Program::start("plant", "millrace-plant", &arguments, folder)
}

fn new_folder() -> anyhow::Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix("millrace-demo-").tempdir()?.keep())
}

fn kafka_table(cluster: &Cluster, link: &str) -> String {
    let brokers: Vec<String> = cluster.brokers.iter().map(|broker| format!("\"{broker}\"")).collect();
    format!(
        "[kafka]\nbrokers = [{}]\ntopic_prefix = \"{}\"\n{link}",
        brokers.join(", "),
        cluster.topic_prefix
    )
}

fn write_collector_config(folder: &Path, cluster: &Cluster, serve_address: &str) -> anyhow::Result<()> {
    let features = folder.join("features.d");
    fs::create_dir_all(&features).context("making features.d")?;
    fs::write(features.join("demo.toml"), FEATURES).context("writing features.d/demo.toml")?;
    let text = format!(
        r#"version = 1

[collector]
data_dir = "{data}"
features_dir = "{features}"

{kafka}
[lake]
url = "sqlite:{lake}"

[online_store]
url = "sqlite:{online}"

[feast]
project = "plant"

[serve]
listen = "{serve_address}"
"#,
        kafka = kafka_table(cluster, &cluster.collector_link),
        data = folder.join("collector").display(),
        features = features.display(),
        lake = folder.join("lake.db").display(),
        online = folder.join("online.db").display(),
    );
    fs::write(folder.join("collector.toml"), text).context("writing collector.toml")
}
