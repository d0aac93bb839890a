//! The whole line on a real Apache Kafka, with TLS and ACLs: `make test` starts it (deploy/dev/stack).

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_hw_tests::demo::line::{Cluster, DEMO_PLANT, Line, lines, sum};
use millrace_hw_tests::demo::programs::wait_for;
use millrace_hw_tests::demo::{proof, report};
use millrace_hw_tests::kafka::{Administrator, make_topics};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// The servers that `make test` has started. One test at a time has them: some kill a server.
struct Stack {
    folder: String,
    _alone: MutexGuard<'static, ()>,
}

impl Stack {
    fn take() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let folder = std::env::var("MILLRACE_STACK").unwrap_or_else(|_| {
            panic!("these tests need servers: run them by `make test`, or `deploy/dev/stack with cargo test`")
        });
        Self { folder, _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    fn tls(&self, file: &str) -> String {
        format!("{}/tls/{file}", self.folder)
    }

    /// Makes topics of a new prefix and says how the programs reach them.
    fn cluster(&self, name: &str, brokers: &str, agent_link: String, collector_link: String) -> Cluster {
        let topic_prefix = format!("m.{name}-{:08x}", rand::random::<u32>());
        let (ca_file, cert_file, key_file) =
            (self.tls("ca.pem"), self.tls("admin.pem"), self.tls("admin.key"));
        let administrator = Administrator {
            brokers: &variable("MILLRACE_KAFKA_BROKERS"),
            ca_file: &ca_file,
            cert_file: &cert_file,
            key_file: &key_file,
        };
        let topics = ["telemetry", "vibration"].map(|category| format!("{topic_prefix}.{category}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(make_topics(administrator, &topics.each_ref().map(String::as_str), 4, 1)).unwrap();
        let brokers = brokers.split(',').map(str::to_owned).collect();
        Cluster { brokers, topic_prefix, agent_link, collector_link }
    }

    fn mtls(&self, identity: &str) -> String {
        self.tls_table("ca.pem", Some(identity))
    }

    fn tls_table(&self, ca: &str, identity: Option<&str>) -> String {
        let identity = identity.map_or_else(String::new, |identity| {
            let (cert, key) = (self.tls(&format!("{identity}.pem")), self.tls(&format!("{identity}.key")));
            format!(", cert_file = \"{cert}\", key_file = \"{key}\"")
        });
        format!("tls = {{ ca_file = \"{}\"{identity} }}\n", self.tls(ca))
    }

    fn scram(&self, user: &str) -> String {
        let tls = self.tls_table("ca.pem", None);
        let password = format!("{}/{user}.password", self.folder);
        format!("{tls}sasl = {{ username = \"{user}\", password_file = \"{password}\" }}\n")
    }

    fn kill(&self, name: &str) {
        let pid = std::fs::read_to_string(format!("{}/{name}.pid", self.folder)).unwrap();
        assert!(Command::new("kill").args(["-9", pid.trim()]).status().unwrap().success());
    }

    fn revive(&self, name: &str) {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/stack");
        let revived = Command::new(script).args(["revive", &self.folder, name]).status().unwrap();
        assert!(revived.success(), "{name}");
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; deploy/dev/stack sets it"))
}

/// Stops everything and holds the plant's log, the books, the audit and the features against each other.
fn prove(mut line: Line) {
    line.stop_plant().unwrap();
    wait_for("nothing waiting and nothing in transit", PATIENCE, || line.drained()).unwrap();
    let books = line.books().unwrap();
    line.stop_programs().unwrap();
    let proof = proof::ask(&line).unwrap();
    let what = line.folder().display().to_string();
    let problems: Vec<String> = proof.truth.problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{what}: {problems:#?}");
    assert!(proof.truth.found > 500, "{what}: {} values", proof.truth.found);
    assert!(report::balanced(&books), "{what}: {books:#}");
    assert_eq!(
        (proof.audit_exit, proof.parity_exit),
        (Some(0), Some(0)),
        "{what}: {:#} {:#}",
        proof.audit,
        proof.parity
    );
    for column in ["lost", "missing", "stranded", "in_transit"] {
        assert_eq!(sum(&proof.audit, column), 0, "{what}: {column}");
    }
    println!("{} values sent, {} found", proof.truth.sent, proof.truth.found);
    line.remove_folder().unwrap();
}

fn rows(line: &Line, more_than: u64) -> u64 {
    wait_for("rows in the lake", PATIENCE, || match line.rows_in_lake()? {
        rows if rows > more_than => Ok(rows),
        rows => Err(format!("{rows} rows")),
    })
    .unwrap()
}

#[test]
fn over_mutual_tls_nothing_is_lost_when_the_broker_is_killed() {
    let stack = Stack::take();
    let brokers = variable("MILLRACE_KAFKA_BROKERS");
    let cluster = stack.cluster("mtls", &brokers, stack.mtls("gw-hall3"), stack.mtls("collector"));
    let line = Line::start_on(DEMO_PLANT, &cluster).unwrap();
    let before = rows(&line, 50);
    stack.kill("kafka-1");
    std::thread::sleep(Duration::from_secs(2));
    stack.revive("kafka-1");
    rows(&line, before + 100);
    prove(line);
}

#[test]
fn with_user_name_and_password_the_line_works_and_no_log_has_the_password() {
    let stack = Stack::take();
    let brokers = variable("MILLRACE_KAFKA_SASL_BROKERS");
    let cluster = stack.cluster("scram", &brokers, stack.scram("gw-hall3"), stack.scram("collector"));
    let line = Line::start_on(DEMO_PLANT, &cluster).unwrap();
    rows(&line, 300);
    for log in std::fs::read_dir(line.folder()).unwrap().flatten() {
        let text = std::fs::read(log.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for secret in ["agent-secret", "collector-secret"] {
            assert!(!text.contains(secret), "{} has a password", log.path().display());
        }
    }
    prove(line);
}

/// What the agent says of a link that cannot work, while it goes on buffering.
fn trouble(line: &Line) -> String {
    wait_for("the agent's trouble", PATIENCE, || {
        let books = line.books()?;
        let waiting: u64 =
            lines(&books, "transport").filter_map(|line| line["rows"]["waiting"].as_u64()).sum();
        let health: Value = line.health()?;
        let reasons = health["reasons"].to_string();
        match reasons.contains("Kafka is down: ") && !reasons.contains("no answer") && waiting > 20 {
            true => Ok(reasons),
            false => Err(format!("{waiting} rows wait: {health}")),
        }
    })
    .unwrap()
}

#[test]
fn a_link_that_is_refused_is_told_and_the_agent_goes_on_buffering() {
    let stack = Stack::take();
    let (mtls, sasl) = (variable("MILLRACE_KAFKA_BROKERS"), variable("MILLRACE_KAFKA_SASL_BROKERS"));
    let wrong_password = PathBuf::from(&stack.folder).join("wrong.password");
    std::fs::write(&wrong_password, "not-the-secret\n").unwrap();
    let wrong = stack.scram("gw-hall3").replace("gw-hall3.password", "wrong.password");
    for (what, brokers, link, says) in [
        ("another authority", &mtls, stack.tls_table("other-ca.pem", Some("gw-hall3")), "certificate"),
        ("a stranger's certificate", &mtls, stack.mtls("stranger"), "certificate"),
        ("no certificate", &mtls, stack.tls_table("ca.pem", None), "certificate"),
        ("an expired certificate", &mtls, stack.mtls("expired"), "certificate"),
        ("a wrong password", &sasl, wrong, "Authentication failed"),
    ] {
        let cluster = stack.cluster("refused", brokers, link, stack.mtls("collector"));
        let mut line = Line::start_on(DEMO_PLANT, &cluster).unwrap();
        let told = trouble(&line);
        println!("{what}: {told}");
        assert!(told.contains(says), "{what}: {told}");
        line.stop_programs().unwrap();
        line.remove_folder().unwrap();
    }
}
