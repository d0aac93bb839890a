//! A running plant, spoken to in raw frames.

use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::plant::config::PlantConfig;
use crate::plant::fault::FaultKind;
use crate::plant::running::Plant;

const BOUND: Duration = Duration::from_secs(20);
const PLANT: &str = r#"
    version = 1
    site = "s"
    bus = [{ name = "a" }]
    device = [
        { machine = "one", bus = "a", unit_id = 1, profile = "p" },
        { machine = "two", bus = "a", unit_id = 2, profile = "p" },
    ]
    [profile.p]
    poll_interval = "1 s"
    tags = [
        { name = "polls", signal = "polls", address = 0, type = "u32" },
        { name = "speed", signal = "speed", address = 2, type = "f32" },
        { name = "on", signal = "polls", table = "discrete", address = 0, type = "bool" },
    ]"#;

struct Client(TcpStream, u16);

impl Client {
    async fn new(plant: &Plant) -> Self {
        Self(TcpStream::connect(plant.addresses().buses[0].1).await.expect("connected"), 0)
    }

    async fn ask(&mut self, unit: u8, function: u8, address: u16, count: u16) -> u16 {
        self.1 += 1;
        let [a, b, c, d] = [address.to_be_bytes(), count.to_be_bytes()].concat()[..] else {
            panic!("four bytes")
        };
        let frame = frame(self.1, unit, &[function, a, b, c, d]);
        self.0.write_all(&frame).await.expect("sent");
        self.1
    }

    /// Gives transaction, unit and PDU; `None`: the plant hung up.
    async fn reply(&mut self) -> Option<(u16, u8, Vec<u8>)> {
        let read = async {
            let mut header = [0; HEADER_BYTES];
            self.0.read_exact(&mut header).await.ok()?;
            let mut pdu = vec![0; usize::from(u16::from_be_bytes([header[4], header[5]])) - 1];
            self.0.read_exact(&mut pdu).await.ok()?;
            Some((u16::from_be_bytes([header[0], header[1]]), header[6], pdu))
        };
        tokio::time::timeout(BOUND, read).await.expect("a reply or a hang-up in time")
    }

    async fn read(&mut self, unit: u8) -> Vec<u8> {
        let asked = self.ask(unit, 3, 0, 4).await;
        let (transaction, from, pdu) = self.reply().await.expect("reply");
        assert_eq!((transaction, from), (asked, unit));
        pdu
    }
}

async fn plant(dir: &TempDir) -> Plant {
    plant_of(dir, PLANT).await
}

async fn plant_of(dir: &TempDir, text: &str) -> Plant {
    let truth = TruthLog::create(&dir.path().join("truth.jsonl")).expect("truth");
    Plant::start(PlantConfig::parse(text).expect("config"), truth).await.expect("plant")
}

fn truth(dir: &Path) -> Vec<ReplyEntry> {
    let text = std::fs::read_to_string(dir.join("truth.jsonl")).expect("truth");
    let entries = text.lines().map(|line| serde_json::from_str(line).expect("entry"));
    entries.filter_map(|entry| if let Entry::Reply(reply) = entry { Some(reply) } else { None }).collect()
}

fn add(plant: &Plant, keys: &str) {
    plant
        .add_fault(serde_json::from_str(&format!("{{\"machine\":\"one\",{keys}}}")).expect("fault"))
        .expect("known");
}

#[tokio::test]
async fn several_units_answer_behind_one_port_and_every_reply_is_in_the_truth_before_it_arrives() {
    let dir = TempDir::new().expect("dir");
    let plant = plant(&dir).await;
    let mut client = Client::new(&plant).await;
    for n in 1..=3u8 {
        for unit in [1, 2] {
            let pdu = client.read(unit).await;
            assert_eq!(pdu[..6], [3, 8, 0, 0, 0, n]);
            let last = truth(dir.path()).pop().expect("written down");
            assert_eq!(
                (last.unit, last.function, last.address, last.count, last.connection),
                (unit, 3, 0, 4, 1)
            );
            let registers: Vec<u8> =
                last.registers.expect("registers").iter().flat_map(|r| r.to_be_bytes()).collect();
            assert_eq!(registers, pdu[2..]);
        }
    }
    client.ask(2, 2, 0, 1).await;
    assert_eq!(client.reply().await.expect("bits").2, [2, 1, 1]);
    assert_eq!(truth(dir.path()).pop().and_then(|reply| reply.bits).as_deref(), Some("1"));
    client.ask(9, 3, 0, 4).await;
    assert_eq!(client.reply().await.expect("no such unit").2, [0x83, GATEWAY_TARGET_FAILED]);
    plant.end().await;
}

#[tokio::test]
async fn a_dead_unit_is_silent_and_the_others_go_on() {
    let dir = TempDir::new().expect("dir");
    let plant = plant(&dir).await;
    let mut client = Client::new(&plant).await;
    add(&plant, r#""kind":"dead""#);
    client.ask(1, 3, 0, 4).await;
    client.read(2).await;
    plant.clear_faults();
    assert_eq!(client.read(1).await[..6], [3, 8, 0, 0, 0, 1]);
    assert!(truth(dir.path()).iter().all(|reply| reply.fault.is_none()));
    plant.end().await;
}

#[tokio::test]
async fn a_late_reply_comes_after_the_answers_to_later_questions() {
    let dir = TempDir::new().expect("dir");
    let plant = plant(&dir).await;
    let mut client = Client::new(&plant).await;
    add(&plant, r#""kind":"late","delay":"300ms""#);
    let late = client.ask(1, 3, 0, 4).await;
    client.read(2).await;
    assert_eq!(client.reply().await.expect("late").0, late);
    let faults: Vec<_> = truth(dir.path()).into_iter().map(|reply| (reply.unit, reply.fault)).collect();
    assert_eq!(faults, [(2, None), (1, Some(FaultKind::Late))]);
    plant.end().await;
}

#[tokio::test]
async fn wrong_unit_wrong_length_and_exceptions_are_sent_as_named_and_written_down_with_their_name() {
    let dir = TempDir::new().expect("dir");
    let plant = plant(&dir).await;
    let mut client = Client::new(&plant).await;
    for (keys, unit, start) in [
        (r#""kind":"wrong_unit""#, 2, vec![3, 8]),
        (r#""kind":"wrong_length""#, 1, vec![3, 6]),
        (r#""kind":"exception","code":6"#, 1, vec![0x83, 6]),
    ] {
        plant.clear_faults();
        add(&plant, keys);
        client.ask(1, 3, 0, 4).await;
        let (_, from, pdu) = client.reply().await.expect("reply");
        assert_eq!(from, unit, "{keys}");
        assert!(pdu.starts_with(&start), "{keys}: {pdu:?}");
    }
    let names: Vec<_> = truth(dir.path()).into_iter().map(|reply| reply.fault).collect();
    assert_eq!(names, [FaultKind::WrongUnit, FaultKind::WrongLength, FaultKind::Exception].map(Some));
    plant.end().await;
}

#[tokio::test]
async fn a_fault_of_the_configuration_begins_by_itself() {
    let dir = TempDir::new().expect("dir");
    let fault = r#"fault = [{ machine = "one", kind = "exception", code = 6, for = "1 h" }]"#;
    let plant = plant_of(&dir, &PLANT.replacen("device =", &format!("{fault}\ndevice ="), 1)).await;
    let mut client = Client::new(&plant).await;
    assert_eq!(client.read(1).await, [0x83, 6]);
    assert_eq!(client.read(2).await[..2], [3, 8], "its neighbour is well");
    plant.end().await;
}

#[tokio::test]
async fn a_closed_connection_is_closed_and_a_new_one_is_served_when_the_fault_is_over() {
    let dir = TempDir::new().expect("dir");
    let plant = plant(&dir).await;
    let mut client = Client::new(&plant).await;
    add(&plant, r#""kind":"close""#);
    client.ask(1, 3, 0, 4).await;
    assert_eq!(client.reply().await, None);
    plant.clear_faults();
    let mut second = Client::new(&plant).await;
    second.read(1).await;
    assert_eq!(truth(dir.path()).pop().map(|reply| reply.connection), Some(2));
    plant.end().await;
}

#[tokio::test]
async fn bytes_that_are_no_modbus_close_the_connection() {
    let dir = TempDir::new().expect("dir");
    let plant = plant(&dir).await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0, 1, 0, 0, 0, 1, 1], &[0, 1, 0, 0, 0, 3, 1, 3, 0]] {
        let mut client = Client::new(&plant).await;
        client.0.write_all(bytes).await.expect("sent");
        assert_eq!(client.reply().await, None, "{bytes:?}");
    }
    plant.end().await;
}

#[tokio::test]
async fn a_stopped_plant_has_sent_everything_that_it_wrote_down_and_answers_no_more() {
    let dir = TempDir::new().expect("dir");
    let plant = plant(&dir).await;
    let mut client = Client::new(&plant).await;
    client.ask(1, 3, 0, 4).await;
    client.ask(2, 3, 0, 4).await;
    let reading = async {
        let mut replies = 0;
        while client.reply().await.is_some() {
            replies += 1;
        }
        drop(client);
        replies
    };
    let (replies, stopped) = tokio::join!(reading, plant.stop());
    stopped.expect("stopped");
    assert_eq!(truth(dir.path()).len(), replies);
    let address = plant.addresses().buses[0].1;
    let refused = TcpStream::connect(address).await.map_err(|error| error.kind());
    assert_eq!(refused.err(), Some(std::io::ErrorKind::ConnectionRefused));
    let text = std::fs::read_to_string(dir.path().join("truth.jsonl")).expect("truth");
    assert!(text.lines().last().is_some_and(|line| line.contains("\"stopped\"")));
    plant.end().await;
}
