//! Whole files: what they become, and every problem with its line.

use std::path::Path;
use std::time::Duration;

use super::*;

/// The smallest file that can be used, with one device.
const HEAD: &str = r#"version = 1
[agent]
id = "gw"
site = "hall3"
[kafka]
brokers = ["127.0.0.1:9092"]
[[bus]]
name = "line-a"
endpoint = "tcp://192.0.2.10:502"
"#;

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

fn load(files: &[(&str, &str)]) -> Result<Config, Problems> {
    let directory = directory(files);
    Config::load(&directory.path().join("agent.toml"))
}

fn problems(files: &[(&str, &str)]) -> Vec<String> {
    match load(files) {
        Ok(config) => panic!("no problem was found: {config:?}"),
        Err(Problems(problems)) => problems.iter().map(ToString::to_string).collect(),
    }
}

/// Gives the problems of a text that follows the smallest file; lines count from its first line.
fn problems_after_head(text: &str) -> Vec<String> {
    let head = HEAD.lines().count();
    let shown = problems(&[("agent.toml", &format!("{HEAD}{text}"))]);
    let renumbered = shown.iter().map(|problem| {
        let rest = problem.strip_prefix("agent.toml:").unwrap();
        let (line, rest) = rest.split_once(':').unwrap();
        format!("{}:{rest}", line.parse::<usize>().unwrap() - head)
    });
    renumbered.collect()
}

const TEMPLATE: &str = r#"
[[device]]
machine = "press-03"
bus = "line-a"
unit_id = 3
template = "press-v2"
attributes = { line = "L1", year = 2019 }
tags = [{ name = "extra", address = 7, type = "i16" }]

[template.press-v2]
poll_interval = "200 ms"
max_registers = 100
max_gap = 4
address_base = 1
tags_file = "press-v2.csv"
tags = [
  { name = "bearing_temp", address = 101, type = "f32", order = "CDAB", unit = "degC", category = "temperature", deadband = 0.1 },
  { name = "pressure", address = "30017", type = "u16", from = [0, 27648], to = [0, 10], bad_values = [32768] },
  { name = "mode", address = "40021", type = "u16", enum = { 0 = "stop", 1 = "auto" }, max_interval = "5 min" },
  { name = "parts", address = 121, type = "u32", counter = {} },
  { name = "running", table = "coil", address = 9 },
]
"#;

const CSV: &str = "\u{feff}# from the manual\nname;table;address;type;byte;length;scale;valid;counter\n\
    torque;input;201;u8;high;;0.5;[0, 50];\n\
    made;;40301;u64;;;;;{ modulus = 1000 }\n\
    program;holding;301;string;;16;;;\n";

#[test]
fn every_key_of_a_device_becomes_what_it_says() {
    let files = [("agent.toml", &*format!("{HEAD}{TEMPLATE}")), ("press-v2.csv", CSV)];
    let config = load(&files).unwrap();
    assert_eq!((config.id.as_str(), &*config.site), ("gw", "hall3"));
    assert_eq!(config.kafka.brokers, ["127.0.0.1:9092"]);
    assert_eq!(config.buffer.sync_interval, DEFAULT_SYNC_INTERVAL);
    let bus = &config.buses[0];
    assert_eq!((&*bus.endpoint, bus.timeout, bus.retries), ("192.0.2.10:502", DEFAULT_TIMEOUT, 1));
    let device = &bus.devices[0];
    assert_eq!((device.machine.as_str(), device.unit_id), ("hall3/press-03", 3));
    assert_eq!(device.poll_interval, Duration::from_millis(200));
    assert_eq!(device.limits, RequestLimits { max_registers: 100, max_coils: 2000, max_gap: 4 });
    assert_eq!(device.attributes["year"], "2019");
    let shown: Vec<_> = device
        .tags
        .iter()
        .map(|tag| (&*tag.name, format!("{} {} {}", tag.table.word(), tag.address, tag.decode.words())))
        .collect();
    let expected = [
        ("torque", "input 200 u8 high"),
        ("made", "holding 300 u64 ABCDEFGH"),
        ("program", "holding 300 string 16 AB"),
        ("bearing_temp", "holding 100 f32 CDAB"),
        ("pressure", "input 16 u16 AB"),
        ("mode", "holding 20 u16 AB"),
        ("parts", "holding 120 u32 ABCD"),
        ("running", "coil 8 bool"),
        ("extra", "holding 6 i16 AB"),
    ];
    assert_eq!(shown, expected.map(|(name, source)| (name, source.to_owned())));
    let tag = |name: &str| device.tags.iter().find(|tag| &*tag.name == name).unwrap();
    assert_eq!(tag("torque").convert, Convert::Linear { scale: 0.5, offset: 0.0 });
    assert_eq!(tag("torque").valid, Some((0.0, 50.0)));
    assert_eq!(tag("made").convert, Convert::Counter { modulus: Some(1000) });
    assert_eq!(tag("parts").convert, Convert::Counter { modulus: Some(1 << 32) });
    assert_eq!(tag("bearing_temp").max_interval, Some(DEFAULT_MAX_INTERVAL));
    assert_eq!(tag("pressure").convert, Convert::Linear { scale: 10.0 / 27648.0, offset: 0.0 });
}

#[test]
fn all_problems_of_all_files_are_reported_at_once_with_their_lines() {
    let text = r#"
[[device]]
machine = "press-03"
bus = "line-b"
unit_id = 300
tags = [
  { name = "bearing_temp", address = 100, type = "f32", order = "ABDC" },
  { name = "x", adress = 5, type = "u15" },
]
"#;
    assert_eq!(
        problems_after_head(text),
        [
            "4: device \"press-03\": bus \"line-b\" is not there; did you mean \"line-a\"?",
            "5: device \"press-03\": unit_id is 300; write 0 to 255",
            "7: device \"press-03\", tag \"bearing_temp\": order \"ABDC\" is not an order of a 32-bit value; use ABCD, DCBA, BADC or CDAB",
            "8: device \"press-03\", tag \"x\": address is missing; write address = 100 or address = \"40101\"",
            "8: device \"press-03\", tag \"x\": type \"u15\" is none; use bool, bit, u8, i8, u16, i16, u32, i32, u64, i64, f32, f64, bcd16, bcd32 or string",
            "8: device \"press-03\", tag \"x\": unknown key \"adress\"; did you mean \"address\"?",
        ]
    );
}

#[test]
fn problem_of_a_csv_file_has_the_line_of_that_file() {
    let device = "[[device]]\nmachine = \"m\"\nbus = \"line-a\"\nunit_id = 1\ntags_file = \"press-v2.csv\"\n";
    let csv = "name,address,type\na,1,u16\ntorque,65535,f32\nb,\"40001\",u16\n";
    assert_eq!(
        problems(&[("agent.toml", &*format!("{HEAD}{device}")), ("press-v2.csv", csv)]),
        ["press-v2.csv:3: tag \"torque\": f32 at 65535 needs two registers; the table ends at 65535"]
    );
}

#[test]
fn what_a_later_release_brings_is_refused_and_said_so() {
    let text = r#"
[[bus]]
name = "serial"
endpoint = "rtu:///dev/ttyS0?baud=19200"
[[bus]]
name = "gateway"
endpoint = "rtu+tcp://192.0.2.11:4001"
[buffer]
priority = ["alarm"]
[status]
token_file = "/etc/token"
listen = "0.0.0.0:9601"
[[mqtt]]
name = "m"
url = "mqtts://192.0.2.20:8883"
protocol = "5"
session_expiry = "7 d"
[[mqtt.subscription]]
topic = "plant/{machine}/x"
payload = "sparkplug_b"
"#;
    assert_eq!(
        problems_after_head(text),
        [
            "4: bus \"serial\": endpoint \"rtu:///dev/ttyS0?baud=19200\": Modbus RTU over a serial line comes with a later release; use tcp://host:port",
            "7: bus \"gateway\": endpoint \"rtu+tcp://192.0.2.11:4001\": Modbus RTU over TCP comes with a later release; use tcp://host:port",
            "9: buffer: priority comes with a later release; remove it",
            "11: status: token_file comes with a later release; remove it and listen on a loopback address",
            "12: status: listen \"0.0.0.0:9601\" is not a loopback address, which needs a token and TLS; they come with a later release, use \"127.0.0.1:9601\"",
            "15: mqtt \"m\": url \"mqtts://192.0.2.20:8883\": TLS comes with a later release; use mqtt:// on a loopback address",
            "16: mqtt \"m\": protocol \"5\" comes with a later release; use \"3.1.1\"",
            "17: mqtt \"m\": session_expiry comes with a later release; remove it; it belongs to protocol \"5\"",
            "20: mqtt \"m\", subscription \"plant/{machine}/x\": payload \"sparkplug_b\" comes with a later release; use \"json\"",
        ]
    );
    let kafka = "version = 1\n[agent]\nid = \"a\"\nsite = \"s\"\n[kafka]\nbrokers = [\"kafka-1.example:9093\"]\n\
        max_rate = \"1 MiB/s\"\nbacklog_share = 0.5\noptions = { acks = \"0\", \"linger.mss\" = 50 }\n";
    let shown = problems(&[("agent.toml", kafka)]);
    assert_eq!(shown.len(), 5, "{shown:#?}");
    assert!(shown[0].starts_with("agent.toml:6: kafka: brokers: kafka-1.example is not a loopback address"));
    assert_eq!(shown[3], "agent.toml:9: kafka: options: acks is set by Millrace itself; remove it");
    assert_eq!(
        shown[4],
        "agent.toml:9: kafka: options: librdkafka does not take linger.mss = \"50\"; see its CONFIGURATION.md for names and values"
    );
}

#[test]
fn bus_without_time_for_its_polls_is_refused() {
    let text = r#"pause = "100 ms"
[[device]]
machine = "m"
bus = "line-a"
unit_id = 1
poll_interval = "150 ms"
tags = [{ name = "a", address = 1, type = "u16" }, { name = "b", address = 1000, type = "u16" }]
"#;
    assert_eq!(
        problems(&[("agent.toml", &format!("{HEAD}{text}"))]),
        [
            "agent.toml:7: bus \"line-a\": the polls of its devices need at least 135 % of its time; poll less often, join more tags (max_gap, max_registers) or shorten pause"
        ]
    );
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    let cases = [
        ("[bufer]\nmax_bytes = \"1 GiB\"\n", "1: unknown key \"bufer\"; did you mean \"buffer\"?"),
        ("[clock]\nhodl = \"1 s\"\n", "2: clock: unknown key \"hodl\"; did you mean \"hold\"?"),
        ("[clock]\nelephant = 1\n", "2: clock: unknown key \"elephant\"; known here: hold"),
        (
            "[template.t]\ntags = [\n{ name = \"a\", address = 1, type = \"u16\", dead_band = 1 },\n]\n",
            "3: template \"t\", tag \"a\": unknown key \"dead_band\"; did you mean \"deadband\"?",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(problems_after_head(text), [expected]);
    }
}

#[test]
fn tags_that_contradict_themselves_are_refused() {
    let tag = |keys: &str| {
        let text = format!("[template.t]\ntags = [{{ name = \"a\", {keys} }}]\n");
        problems_after_head(&text)
            .into_iter()
            .map(|p| p.replace("2: template \"t\", tag \"a\": ", ""))
            .collect::<Vec<_>>()
    };
    let cases = [
        (
            "address = 1, type = \"bool\"",
            "type \"bool\" is for coils and discrete inputs; use type = \"bit\" with bit = 0 to 15 for a register",
        ),
        ("address = 1, type = \"bit\", bit = 16", "bit is 16; write 0 to 15"),
        ("address = 1, type = \"u16\", bit = 1", "bit does not belong to this type; remove it"),
        (
            "address = 1, type = \"bit\", bit = 1, order = \"AB\"",
            "order does not belong to this type; remove it",
        ),
        ("table = \"coil\", address = 1, type = \"u16\"", "type \"u16\": a coil is a bool; write bool"),
        (
            "table = \"holdin\", address = 1, type = \"u16\"",
            "table \"holdin\" is none; use coil, discrete, input or holding",
        ),
        (
            "table = \"input\", address = \"40001\", type = \"u16\"",
            "address \"40001\" is of the table holding, but table says another; remove one of them",
        ),
        (
            "address = \"20001\", type = \"u16\"",
            "address \"20001\" is not in the notation of manuals; write five or six digits that begin with 0, 1, 3 or 4, or a number without quotes",
        ),
        ("address = 65536, type = \"u16\"", "address 65536 is none; write 0 to 65535 (address_base is 0)"),
        (
            "address = 1, type = \"u16\", scale = 2, from = [0, 1], to = [0, 1]",
            "scale and offset, from and to exclude each other; keep one",
        ),
        (
            "address = 1, type = \"u16\", from = [1, 1], to = [0, 1]",
            "from and to must each have two different numbers; write them",
        ),
        (
            "address = 1, type = \"u16\", from = [1, 2]",
            "to is missing; write to = [the value for the first of from, for the second]",
        ),
        (
            "address = 1, type = \"f32\", counter = { modulus = 5 }",
            "counter cannot be used with this type; remove it",
        ),
        (
            "address = 1, type = \"string\", length = 4, deadband = 1",
            "deadband is for numbers; remove it; max_interval alone reports every change",
        ),
        (
            "address = 1, type = \"u16\", enum = { a = \"b\" }",
            "enum: a must be an integer and stand for a text; write a = \"…\"",
        ),
        (
            "address = 1, type = \"u16\", valid = [2, 1]",
            "valid ends before it begins; write [lowest, highest]",
        ),
        ("address = 1, type = \"u16\", deadband = -1", "deadband is negative or not finite; write 0 or more"),
        (
            "address = 1, type = \"u16\", max_interval = 60",
            "max_interval is no duration; write a number with its unit, for instance \"500 ms\" or \"10 min\"",
        ),
    ];
    for (keys, expected) in cases {
        assert_eq!(tag(keys), [expected], "{keys}");
    }
}

#[test]
fn conf_d_is_merged_and_doubles_are_named() {
    let device = |machine: &str, category: &str| {
        format!(
            "[[device]]\nmachine = \"{machine}\"\nbus = \"line-a\"\nunit_id = 1\ncategory = \"{category}\"\n\
             tags = [{{ name = \"{category}\", address = 1, type = \"u16\" }}]\n"
        )
    };
    let good = load(&[
        ("agent.toml", HEAD),
        ("conf.d/b.toml", &device("m2", "telemetry")),
        ("conf.d/a.toml", &format!("version = 1\n[clock]\nhold = \"1 min\"\n{}", device("m1", "telemetry"))),
        ("conf.d/notes.txt", "not read"),
    ])
    .unwrap();
    let machines: Vec<_> = good.buses[0].devices.iter().map(|d| d.machine.as_str()).collect();
    assert_eq!(machines, ["hall3/m1", "hall3/m2"]);
    assert_eq!(good.clock_hold, Duration::from_secs(60));
    let shown = problems(&[
        ("agent.toml", &format!("{HEAD}{}", device("m1", "telemetry"))),
        ("conf.d/a.toml", "[agent]\nid = \"other\"\n"),
        ("conf.d/b.toml", &device("m1", "telemetry")),
        ("conf.d/c.toml", "version = 2\n"),
    ]);
    assert_eq!(
        shown,
        [
            "conf.d/a.toml:2: agent: id stands at agent.toml:3 already; keep one",
            "conf.d/b.toml:1: device \"m1\": category \"telemetry\" of hall3/m1 is read by the device at agent.toml:10 already; give these tags another category",
            "conf.d/b.toml:6: device \"m1\", tag \"telemetry\": hall3/m1 has a tag of this name already; names are unique in a machine, rename one",
            "conf.d/c.toml:1: version 2 is not known to this release; it reads version 1",
        ]
    );
    let two = format!("{HEAD}{}{}", device("m1", "telemetry"), device("m1", "energy"));
    assert_eq!(load(&[("agent.toml", &two)]).unwrap().buses[0].devices.len(), 2);
}

#[test]
fn a_bus_that_is_not_there_is_named_whatever_else_is_wrong() {
    let tags = "tags = [ { name = \"x\", address = 1, type = \"u16\" } ]";
    let shown = problems(&[(
        "agent.toml",
        &format!(
            "{}[[device]]\nmachine = \"a b\"\nbus = \"line-x\"\nunit_id = 300\n{tags}\n[[device]]\nbus = \"line-y\"\n{tags}\n",
            HEAD.replace("tcp://", "udp://")
        ),
    )]);
    let said = |line: usize, what: &str| {
        shown.iter().any(|p| p.starts_with(&format!("agent.toml:{line}: ")) && p.contains(what))
    };
    for (line, what) in [
        (9, "is no address of a bus"),
        (11, "is not allowed in a name"),
        (12, "bus \"line-x\" is not there; did you mean \"line-a\"?"),
        (13, "unit_id is 300"),
        (15, "machine is missing"),
        (16, "bus \"line-y\" is not there"),
        (15, "unit_id is missing"),
    ] {
        assert!(said(line, what), "{line} {what}: {shown:#?}");
    }
    assert_eq!(shown.len(), 7, "{shown:#?}");
}

#[test]
fn files_that_are_no_toml_or_not_there_are_problems_too() {
    // One problem with line and column, and none that only follows from it.
    for (broken, place) in [
        ("version = 1\n[agent\nid = 5\nfruit = 1\n", "agent.toml:2: column 7: this is not TOML: "),
        (
            "version = 1\n[kafka]\nbrokers = [\"a:1\"\n[[bus]]\nname = 1\n",
            "agent.toml:4: column 1: this is not TOML: ",
        ),
        ("version = 1\n[agent]\nid = \"é\nsite = \"h\"\n", "agent.toml:3: column "),
    ] {
        let shown = problems(&[("agent.toml", broken), ("conf.d/a.toml", "fruit = 1\n")]);
        assert!(matches!(&shown[..], [one] if one.starts_with(place)), "{broken}: {shown:#?}");
    }
    let shown =
        problems(&[("agent.toml", "x = \n"), ("conf.d/a.toml", "y = 1\nx\n"), ("conf.d/b.toml", "z = 1\n")]);
    let files: Vec<_> = shown.iter().filter_map(|problem| problem.split(": column").next()).collect();
    assert_eq!(files, ["agent.toml:1", "conf.d/a.toml:2"], "each file's first: {shown:#?}");
    let error = Config::load(Path::new("/nonexistent/agent.toml")).unwrap_err();
    assert!(error.to_string().starts_with("agent.toml: /nonexistent/agent.toml cannot be read ("), "{error}");
    assert!(error.to_string().ends_with("\n1 problem; nothing was started"));
    let shown = problems(&[("agent.toml", "[agent]\nid = \"@hostname\"\nsite = \"a b\"\n")]);
    assert_eq!(
        shown,
        [
            "agent.toml: kafka: brokers is missing; write brokers = [\"127.0.0.1:9092\"]",
            "agent.toml:1: version is missing; write version = 1 at the top",
            "agent.toml:3: agent: site \"a b\": ' ' is not allowed in a name; use letters, digits, '.', '_' and '-'",
        ]
    );
}

#[test]
fn mqtt_sections_become_what_they_say() {
    let text = r#"
[[mqtt]]
name = "hall3-broker"
url = "mqtt://127.0.0.1"
username = "gw"
password_file = "mqtt.pw"
max_packet = "64 KiB"
[[mqtt.subscription]]
topic = "plant/{line}/{machine}/telemetry"
qos = 0
timestamp = { path = "ts", format = "unix_ms" }
rows = "samples[*]"
machines = ["press-*"]
tags = [{ name = "t", path = "bearing.temp", unit = "degC", category = "temperature" }]
"#;
    let config = load(&[("agent.toml", &format!("{HEAD}{text}")), ("mqtt.pw", "secret")]).unwrap();
    let mqtt = &config.mqtt[0];
    assert_eq!((&*mqtt.host, mqtt.port, &*mqtt.client_id), ("127.0.0.1", 1883, "millrace-gw-hall3-broker"));
    let (user, file) = mqtt.credentials.as_ref().unwrap();
    assert_eq!((&**user, file.file_name().unwrap().to_str()), ("gw", Some("mqtt.pw")));
    assert_eq!((mqtt.receive_maximum, mqtt.max_packet), (20, 65_536));
    let subscription = &mqtt.subscriptions[0];
    assert_eq!((subscription.qos, subscription.rows.as_deref()), (0, Some("samples[*]")));
    assert_eq!(subscription.timestamp.as_ref().unwrap().format, TimestampFormat::UnixMs);
    assert_eq!(subscription.tags[0].category.as_str(), "temperature");
    let shown = problems(&[("agent.toml", &format!("{HEAD}{text}"))]);
    assert_eq!(shown.len(), 1, "{shown:#?}");
    assert!(shown[0].starts_with("agent.toml:15: mqtt \"hall3-broker\": password_file "), "{shown:#?}");
}

#[test]
fn a_link_is_secured_whole_or_not_at_all() {
    let shown = |lines: &str| {
        let kafka = format!(
            "{}\n[kafka]\nbrokers = [\"kafka-1.example:9093\"]\n{lines}",
            "version = 1\n[agent]\nid = \"a\"\nsite = \"s\""
        );
        problems(&[("agent.toml", &kafka), ("here.pem", "x")])
    };
    for (lines, says) in [
        ("tls = {}", &["tls: ca_file is missing"][..]),
        ("tls = { ca_file = \"gone.pem\" }", &["gone.pem cannot be read"]),
        ("tls = { ca_file = \"here.pem\", cert_file = \"here.pem\" }", &["key_file is missing"]),
        ("tls = { ca_file = \"here.pem\", key_file = \"here.pem\" }", &["cert_file is missing"]),
        ("tls = { ca_file = \"here.pem\", verify = false }", &["unknown key \"verify\""]),
        (
            "tls = { ca_file = \"here.pem\" }\nsasl = { mechanism = \"PLAIN\" }",
            &["\"PLAIN\" is not known; use SCRAM-SHA-512", "username is missing", "password_file is missing"],
        ),
        (
            "sasl = { username = \"u\", password_file = \"here.pem\" }",
            &["not a loopback address", "sasl needs tls"],
        ),
    ] {
        let shown = shown(lines);
        // Beside them: there is nothing to read.
        for part in says {
            assert!(shown.iter().any(|line| line.contains(part)), "{lines}: {part}: {shown:#?}");
        }
    }
}

/// The example of docs/interface.md, with the files that it names.
fn documented() -> tempfile::TempDir {
    let page = include_str!("../../../docs/interface.md");
    let (_, section) = page.split_once("## agent.toml").unwrap();
    let (_, block) = section.split_once("```toml\n").unwrap();
    let (text, _) = block.split_once("```").unwrap();
    let text = text.replace("/etc/millrace/", "");
    directory(&[
        ("agent.toml", &text),
        ("ca.pem", ""),
        ("agent.pem", ""),
        ("agent.key", ""),
        ("kafka.pw", "x"),
        ("press-v2.csv", "name,address,type\nspeed,50,u16\n"),
        ("mqtt.pw", "x"),
    ])
}

#[test]
fn documented_example_has_no_problem_but_what_a_later_release_brings() {
    let directory = documented();
    let Problems(problems) = Config::load(&directory.path().join("agent.toml")).unwrap_err();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(lines.iter().all(|line| line.contains("comes with a later release")), "{lines:#?}");
    let keys = ["max_rate", "priority", "url", "protocol", "tls", "session_expiry"];
    assert_eq!(lines.len(), keys.len(), "{lines:#?}");
    for (line, key) in lines.iter().zip(keys) {
        assert!(line.contains(key), "{key}: {line}");
    }
}

/// Takes out every key of the example that a later release brings, by the lines of their problems.
fn documented_for_this_release() -> String {
    let directory = documented();
    let path = directory.path().join("agent.toml");
    let Problems(problems) = Config::load(&path).unwrap_err();
    let text = std::fs::read_to_string(&path).unwrap();
    let refused = |number: usize| problems.iter().any(|problem| problem.at.line == number + 1);
    let kept: Vec<&str> =
        text.lines().enumerate().filter(|(number, _)| !refused(*number)).map(|(_, line)| line).collect();
    let text = kept.join("\n");
    text.replace("name = \"hall3-broker\"", "name = \"hall3-broker\"\nurl = \"mqtt://127.0.0.1\"")
}

#[test]
fn documented_example_without_that_is_good() {
    let directory = documented();
    std::fs::write(directory.path().join("agent.toml"), documented_for_this_release()).unwrap();
    let config = Config::load(&directory.path().join("agent.toml")).unwrap();
    let device = &config.buses[0].devices[0];
    assert_eq!((device.tags.len(), config.mqtt[0].subscriptions.len()), (6, 1));
    assert_eq!(config.kafka.options["linger.ms"], "50");
    let (tls, sasl) = (config.kafka.security.tls.unwrap(), config.kafka.security.sasl.unwrap());
    assert_eq!(tls.ca_file, directory.path().join("ca.pem"));
    assert_eq!(tls.identity.unwrap().key_file, directory.path().join("agent.key"));
    assert_eq!((sasl.mechanism, sasl.username.as_str()), ("SCRAM-SHA-512", "gw-hall3"));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_file_is_a_configuration_or_problems_and_never_a_panic(
        cuts in proptest::collection::vec((0usize..5000, 0usize..40, "[ -~\n]{0,8}"), 1..6),
    ) {
        let mut text = documented_for_this_release();
        for (at, length, insert) in cuts {
            let at = at % text.len().max(1);
            // The example has one character beyond ASCII at the most in a place; cut around it.
            let start = (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            let end = (start + length..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
            text.replace_range(start..end, &insert);
        }
        let directory = directory(&[("agent.toml", &text)]);
        if let Err(Problems(problems)) = Config::load(&directory.path().join("agent.toml")) {
            proptest::prop_assert!(!problems.is_empty());
            for problem in problems {
                proptest::prop_assert!(!problem.message.contains("report this as a fault"), "{text}");
            }
        }
    }
}
