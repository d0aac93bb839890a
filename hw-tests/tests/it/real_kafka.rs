//! The whole line on a real Apache Kafka, with TLS and ACLs: `make test` starts it (deploy/dev/stack).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_hw_tests::demo::line::{Cluster, DEMO_PLANT, Line, lines, sum};
use millrace_hw_tests::demo::programs::wait_for;
use millrace_hw_tests::demo::proof::on_lake;
use millrace_hw_tests::demo::{proof, report};
use millrace_hw_tests::kafka::{Administrator, make_topics};
use millrace_hw_tests::truth::compare::LakeValue;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

/// Real servers. One test at a time has them: some kill a server.
struct Stack {
    folder: String,
    variables: BTreeMap<String, String>,
    /// Started by this test, and to be stopped by it.
    own: Option<tempfile::TempDir>,
    _alone: MutexGuard<'static, ()>,
}

impl Stack {
    /// Those that `make test` has started.
    fn take() -> Self {
        let alone = Self::alone();
        let folder = std::env::var("MILLRACE_STACK").unwrap_or_else(|_| {
            panic!("these tests need servers: run them by `make test`, or `deploy/dev/stack with cargo test`")
        });
        let variables = std::env::vars().filter(|(name, _)| name.starts_with("MILLRACE_")).collect();
        Self { folder, variables, own: None, _alone: alone }
    }

    /// Others, with so many brokers.
    fn start(brokers: u8) -> Self {
        let alone = Self::alone();
        let own = tempfile::tempdir().unwrap();
        let folder = own.path().join("stack").to_str().unwrap().to_owned();
        // PostgreSQL runs as another user, who must be able to pass.
        std::fs::set_permissions(own.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let started = script().args(["start", &folder]).env("BROKERS", brokers.to_string()).output().unwrap();
        let told = String::from_utf8(started.stdout).unwrap();
        assert!(started.status.success(), "{told} {}", String::from_utf8_lossy(&started.stderr));
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { folder, variables: told.lines().filter_map(pair).collect(), own: Some(own), _alone: alone }
    }

    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn variable(&self, name: &str) -> String {
        self.variables
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not set; deploy/dev/stack sets it"))
            .clone()
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
            brokers: &self.variable("MILLRACE_KAFKA_BROKERS"),
            ca_file: &ca_file,
            cert_file: &cert_file,
            key_file: &key_file,
        };
        let topics = ["telemetry", "vibration"].map(|category| format!("{topic_prefix}.{category}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let copies = i32::try_from(administrator.brokers.split(',').count()).unwrap();
        runtime
            .block_on(make_topics(administrator, &topics.each_ref().map(String::as_str), 4, copies))
            .unwrap();
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
        let revived = script().args(["revive", &self.folder, name]).status().unwrap();
        assert!(revived.success(), "{name}");
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if self.own.is_some() {
            let stopped = script().args(["stop", &self.folder]).status().unwrap();
            assert!(stopped.success() || std::thread::panicking());
        }
    }
}

fn script() -> Command {
    Command::new(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/stack"))
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
    let brokers = stack.variable("MILLRACE_KAFKA_BROKERS");
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
fn of_three_brokers_one_is_killed_and_nothing_is_lost() {
    let stack = Stack::start(3);
    let brokers = stack.variable("MILLRACE_KAFKA_BROKERS");
    let cluster = stack.cluster("three", &brokers, stack.mtls("gw-hall3"), stack.mtls("collector"));
    let mut line = Line::start_on(DEMO_PLANT, &cluster).unwrap();
    let before = rows(&line, 50);
    stack.kill("kafka-2");
    // Two of three are enough for every acknowledgement.
    let before = rows(&line, before + 200);
    stack.revive("kafka-2");
    stack.kill("kafka-3");
    rows(&line, before + 200);
    line.check_alive().unwrap();
    prove(line);
}

#[test]
fn with_user_name_and_password_the_line_works_and_no_log_has_the_password() {
    let stack = Stack::take();
    let brokers = stack.variable("MILLRACE_KAFKA_SASL_BROKERS");
    let cluster = stack.cluster("scram", &brokers, stack.scram("gw-hall3"), stack.scram("collector"));
    let line = Line::start_on(DEMO_PLANT, &cluster).unwrap();
    rows(&line, 300);
    let (code, text) = line.agent_verb(&["check", "--connect"]).unwrap();
    assert!(code == Some(0) && text.contains("kafka localhost:"), "{code:?} {text}");
    a_reader_in_python_finds_the_lakes_values(&stack, &line, &format!("{}.telemetry", cluster.topic_prefix));
    for log in std::fs::read_dir(line.folder()).unwrap().flatten() {
        let text = std::fs::read(log.path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for secret in ["agent-secret", "collector-secret"] {
            assert!(!text.contains(secret), "{} has a password", log.path().display());
        }
    }
    prove(line);
}

/// Reads records with the example of docs/howto, which knows the documented format only.
fn a_reader_in_python_finds_the_lakes_values(stack: &Stack, line: &Line, topic: &str) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/howto/read_records.py");
    let (ca_file, password) = (stack.tls("ca.pem"), format!("{}/collector.password", stack.folder));
    let read = Command::new(stack.variable("MILLRACE_FEAST_PYTHON"))
        .arg(script)
        .args([topic, "300"])
        .arg(format!("bootstrap.servers={}", stack.variable("MILLRACE_KAFKA_SASL_BROKERS")))
        .arg(format!("ssl.ca.location={ca_file}"))
        .arg(format!("sasl.password={}", std::fs::read_to_string(password).unwrap()))
        .args(["security.protocol=sasl_ssl", "sasl.mechanism=SCRAM-SHA-512", "sasl.username=collector"])
        .arg("group.id=millrace-readers")
        .output()
        .unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    assert!(read.status.success(), "{text} {}", String::from_utf8_lossy(&read.stderr));
    let points: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let good: Vec<&Value> = points.iter().filter(|point| point["quality"] == 0).collect();
    assert!(good.len() > 200, "{} good points of {}", good.len(), points.len());
    let key = |machine: &str, tag: &str, us: i64| format!("{machine} {tag} {us}");
    wait_for("the same points in the lake", PATIENCE, || {
        let lake =
            on_lake(line, async |lake| lake.good_points().await).map_err(|error| format!("{error:#}"))?;
        let lake: BTreeMap<String, LakeValue> = lake
            .into_iter()
            .map(|point| (key(&point.machine, &point.tag, point.time_us), point.value))
            .collect();
        let differs = good.iter().find(|point| {
            let (machine, tag) = (point["machine"].as_str().unwrap(), point["tag"].as_str().unwrap());
            let same = match (lake.get(&key(machine, tag, point["us"].as_i64().unwrap())), &point["value"]) {
                (Some(LakeValue::Number(number)), Value::Number(read)) => read.as_f64() == Some(*number),
                (Some(LakeValue::Integer(number)), Value::Number(read)) => {
                    read.to_string() == number.to_string()
                }
                (Some(LakeValue::Integer(number)), Value::Bool(read)) => *number == i128::from(*read),
                (Some(LakeValue::Text(text)), Value::String(read)) => text == read,
                _ => false,
            };
            !same
        });
        differs.map_or(Ok(()), |point| Err(format!("{point}")))
    })
    .unwrap();
    println!("{} points read in Python, {} good ones as in the lake", points.len(), good.len());
}

/// Waits until the agent says something of a link that cannot work, and goes on buffering.
fn told(line: &Line, says: &str) -> String {
    wait_for("the agent's trouble", PATIENCE, || {
        let books = line.books()?;
        let waiting: u64 =
            lines(&books, "transport").filter_map(|line| line["rows"]["waiting"].as_u64()).sum();
        let health: Value = line.health()?;
        let reasons = health["reasons"].to_string();
        match reasons.contains(says) && waiting > 20 {
            true => Ok(reasons),
            false => Err(format!("{waiting} rows wait: {health}")),
        }
    })
    .unwrap()
}

/// A TLS server that shows the certificate of another name, on a port of its own; ended when it is dropped.
struct OtherName(Child, String);

impl OtherName {
    fn start(stack: &Stack) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let arguments = ["s_server", "-quiet", "-accept", &address];
        let server = Command::new("openssl")
            .args(arguments)
            .args(["-cert", &stack.tls("wrong-name.pem"), "-key", &stack.tls("wrong-name.key")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(server, address)
    }
}

impl Drop for OtherName {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_link_that_is_refused_is_told_in_a_sentence_and_the_agent_goes_on_buffering() {
    let stack = Stack::take();
    let (mtls, sasl) =
        (stack.variable("MILLRACE_KAFKA_BROKERS"), stack.variable("MILLRACE_KAFKA_SASL_BROKERS"));
    let wrong_password = PathBuf::from(&stack.folder).join("wrong.password");
    std::fs::write(&wrong_password, "not-the-secret\n").unwrap();
    let wrong = stack.scram("gw-hall3").replace("gw-hall3.password", "wrong.password");
    let other_name = OtherName::start(&stack);
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain_address = plain.local_addr().unwrap().to_string();
    // As a broker without TLS does: what it reads is no request, and it hangs up.
    std::thread::spawn(move || {
        plain.incoming().flatten().for_each(|mut client| drop(client.read(&mut [0; 4])))
    });
    let good = || stack.mtls("gw-hall3");
    for (what, brokers, link, says) in [
        (
            "another authority",
            mtls.as_str(),
            stack.tls_table("other-ca.pem", Some("gw-hall3")),
            "is not signed by the authority in",
        ),
        ("another name", other_name.1.as_str(), good(), "is for another name"),
        ("a stranger's certificate", &mtls, stack.mtls("stranger"), "does not accept our certificate"),
        ("no certificate", &mtls, stack.tls_table("ca.pem", None), "wants a certificate of ours"),
        ("an expired certificate", &mtls, stack.mtls("expired"), "has expired or is not valid yet"),
        ("a wrong password", &sasl, wrong, "user name or password are refused"),
        ("a port of plain text", &plain_address, good(), "does not speak TLS"),
        ("a port of nobody", "127.0.0.1:9", good(), "does not take a connection"),
        ("no right to write", &mtls, stack.mtls("wrong-name"), "Kafka gives us no right"),
    ] {
        let cluster = stack.cluster("refused", brokers, link, stack.mtls("collector"));
        let mut line = Line::start_on(DEMO_PLANT, &cluster).unwrap();
        println!("{what}: {}", told(&line, says));
        // The same by hand; a password and a right are tried by the running agent only.
        if !matches!(what, "a wrong password" | "no right to write") {
            let (code, text) = line.agent_verb(&["check", "--connect"]).unwrap();
            assert!(code == Some(1) && text.contains(says), "{what}: {code:?} {text}");
        }
        line.stop_programs().unwrap();
        line.remove_folder().unwrap();
    }
}

#[test]
fn a_certificate_that_is_replaced_is_followed_without_a_restart() {
    let stack = Stack::take();
    let own = tempfile::tempdir().unwrap();
    let copy = |name: &str, to: &str| {
        for kind in ["pem", "key"] {
            let copied = own.path().join(format!("{to}.{kind}"));
            std::fs::copy(stack.tls(&format!("{name}.{kind}")), copied).unwrap();
        }
    };
    copy("stranger", "agent");
    let (cert, key) = (own.path().join("agent.pem"), own.path().join("agent.key"));
    let link = format!(
        "progress_interval = \"1 s\"\ntls = {{ ca_file = \"{}\", cert_file = \"{}\", key_file = \"{}\" }}\n",
        stack.tls("ca.pem"),
        cert.display(),
        key.display()
    );
    let brokers = stack.variable("MILLRACE_KAFKA_BROKERS");
    // The collector has a copy of its own: its certificate is for other rights.
    let link_of_collector =
        link.replace("progress_interval = \"1 s\"\n", "").replace("/agent.", "/collector.");
    copy("stranger", "collector");
    let cluster = stack.cluster("renewed", &brokers, link, link_of_collector);
    let line = Line::start_on(DEMO_PLANT, &cluster).unwrap();
    told(&line, "does not accept our certificate");
    let (code, text) = line.collector_verb(&["check", "--connect", "--json"]).unwrap();
    let checked: Value = serde_json::from_str(&text).unwrap();
    assert!(code == Some(1) && checked["good"] == true, "{text}");
    assert!(
        checked["servers"][0]["refusal"].as_str().unwrap().contains("does not accept our certificate"),
        "{text}"
    );
    wait_for("the collector's reason", PATIENCE, || {
        let kafka = line.collector_kafka()?;
        let reason = kafka["reason"].to_string();
        if reason.contains("does not accept our certificate") { Ok(()) } else { Err(kafka.to_string()) }
    })
    .unwrap();
    copy("gw-hall3", "agent");
    copy("collector", "collector");
    rows(&line, 300);
    prove(line);
}
