//! Every problem is named with its line; what a later release brings is refused.

use super::*;

fn file(text: &str) -> Vec<(String, String)> {
    vec![("collector.toml".to_owned(), text.to_owned())]
}

const SMALLEST: &str =
    "version = 1\n[kafka]\nbrokers = [\"127.0.0.1:9092\"]\n[lake]\nurl = \"sqlite:/tmp/lake.db\"\n";

fn problems(text: &str) -> Vec<String> {
    match read(&file(text)) {
        Ok(config) => panic!("no problem was found: {config:?}"),
        Err(ConfigError::Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_smallest_file_gets_the_defaults() {
    let config = read(&file(SMALLEST)).unwrap();
    assert_eq!(config.lake_file, PathBuf::from("/tmp/lake.db"));
    assert_eq!(config.online_file, PathBuf::from("/var/lib/millrace/collector/online.db"));
    assert_eq!((config.flush.min, config.flush.max_points), (Duration::from_millis(100), 5_000));
    assert_eq!(config.stall_after, Duration::from_secs(600));
    assert_eq!(config.serve_listen.to_string(), "127.0.0.1:6570");
}

#[test]
fn all_problems_are_named_at_once_with_their_lines() {
    let text = "version = 1\n[collector]\nstall_after = \"soon\"\nfeature_dir = \"x\"\n[kafka]\nbrokers = [\"kafka\", \
                \"127.0.0.1:9092\"]\n[flush]\nmax_points = 0\n";
    assert_eq!(
        problems(text),
        [
            "collector.toml:3: [collector] stall_after: \"soon\" is no duration; write it as \"10 min\"",
            "collector.toml:4: [collector] feature_dir: is not a key of this file; did you mean \"features_dir\"?",
            "collector.toml:6: [kafka] brokers: \"kafka\" is not host:port",
            "collector.toml: [lake] url: is missing",
            "collector.toml:8: [flush] max_points: must be a whole number from 1 to 10000000",
        ]
    );
}

#[test]
fn what_a_later_release_brings_is_refused_in_a_sentence() {
    let cases = [
        ("[lake]\nurl = \"postgresql://db/x\"\n", "PostgreSQL comes with the next release"),
        ("[online_store]\nurl = \"rediss://r:6380/0\"\n", "Redis comes with the next release"),
        ("[archive]\nurl = \"file:///srv\"\n", "archive comes with a later release"),
        ("[serve]\nlisten = \"0.0.0.0:6570\"\n", "is not a loopback address"),
        ("[kafka]\ntls = { ca_file = \"/gone.pem\" }\n", "/gone.pem cannot be read"),
        ("[kafka]\ntls = { cert_file = \"/etc/hostname\" }\n", "is missing: the key of cert_file"),
        ("[kafka]\ntls = 5\n", "must be a table"),
        ("[kafka]\nsasl = {}\n", "needs tls"),
        ("[kafka]\nsasl = { mechanism = \"PLAIN\" }\n", "\"PLAIN\" is not known"),
        ("[kafka]\nbrokers = [\"kafka-1.example:9093\"]\n", "is not a loopback address"),
        ("[kafka]\noptions = { \"group.id\" = \"x\" }\n", "belongs to Millrace"),
        ("[feast]\nproject = \"my plant\"\n", "Feast takes no project"),
        ("[lake]\nhot = \"60 d\"\n", "come with a later release"),
        // Keys that this release knows and that would have no effect.
        ("[collector]\nid = \"collector-0\"\n", "come with several workers"),
        ("[kafka]\ngroup = \"millrace\"\n", "comes with several workers"),
        ("[topics]\npartitions = 12\n", "`topics apply` comes with a later release"),
        ("[kafka]\noptions = { \"metadata.broker.list\" = \"x\" }\n", "belongs to Millrace"),
        ("[kafka]\noptions = { \"fetch.wait.max.ms\" = \"soon\" }\n", "librdkafka does not take \"soon\""),
        ("[kafka]\noptions = { \"fetch.wait.maximum\" = 50 }\n", "librdkafka does not take \"50\""),
    ];
    for (text, expected) in cases {
        let found = problems(&format!("version = 1\n{text}"));
        assert!(
            found.iter().any(|p| p.contains(expected) && p.starts_with("collector.toml:3: ")
                || p.contains(expected) && p.starts_with("collector.toml:2: ")),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn broken_toml_and_a_missing_version_are_problems_too() {
    assert!(problems("version = 1\n[kafka\n").iter().any(|p| p.starts_with("collector.toml:2: ")));
    let without = SMALLEST.replace("version = 1\n", "");
    assert_eq!(
        problems(&without),
        ["collector.toml:1: version: is missing; write version = 1 in the first line"]
    );
    let found = problems(&SMALLEST.replace("version = 1", "version = 2"));
    assert_eq!(found, ["collector.toml:1: version: must be a whole number from 1 to 1"]);
}

#[test]
fn later_files_add_keys_but_do_not_replace_them() {
    let mut files = file(SMALLEST);
    files
        .push(("more.toml".to_owned(), "[flush]\nmin = \"1 s\"\n[kafka]\ntopic_prefix = \"g\"\n".to_owned()));
    let config = read(&files).unwrap();
    assert_eq!((config.flush.min, config.kafka.topic_prefix.as_str()), (Duration::from_secs(1), "g"));
    files.push(("z.toml".to_owned(), "\n[flush]\nmin = \"2 s\"\n".to_owned()));
    let error = read(&files).unwrap_err().to_string();
    assert_eq!(error, "z.toml:3: [flush] min: is set in an earlier file\n1 problem; nothing was started");
}

#[test]
fn the_readmes_example_is_a_good_configuration() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let example = readme.split("```toml\n").find(|part| part.contains("[collector]")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let example = example.split("```").next().unwrap().replace("/etc/millrace/features.d", folder);
    let config = read(&file(&example)).unwrap();
    assert_eq!((config.feast_project.as_str(), config.features_dir.to_str().unwrap()), ("plant", folder));
}
