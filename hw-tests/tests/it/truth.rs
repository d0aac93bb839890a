//! A client that stores what it reads from a running plant, held against the plant's truth log.

use std::path::Path;
use std::time::Duration;

use millrace_hw_tests::plant::config::PlantConfig;
use millrace_hw_tests::plant::running::Plant;
use millrace_hw_tests::plant::tag::{Table, Tag};
use millrace_hw_tests::truth::compare::{Excuse, LakePoint, LakeValue, compare};
use millrace_hw_tests::truth::decode::{TrueValue, decode};
use millrace_hw_tests::truth::log::TruthLog;
use millrace_hw_tests::truth::readings::Truth;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plants/demo.toml");
const BOUND: Duration = Duration::from_secs(20);
/// Function, first address and count of each block of press-01.
const BLOCKS: [(u8, u16, u16); 3] = [(3, 100, 28), (4, 0, 11), (1, 8, 3)];

async fn read(stream: &mut TcpStream, (function, address, count): (u8, u16, u16)) -> Vec<u8> {
    let [a, b] = address.to_be_bytes();
    stream.write_all(&[0, 7, 0, 0, 0, 6, 1, function, a, b, 0, count as u8]).await.unwrap();
    let mut header = [0; 9];
    tokio::time::timeout(BOUND, stream.read_exact(&mut header)).await.unwrap().unwrap();
    let mut data = vec![0; usize::from(header[8])];
    stream.read_exact(&mut data).await.unwrap();
    data
}

/// Gives the points of one block, as a lake would hold them.
fn points(
    tags: &[Tag],
    (function, address, count): (u8, u16, u16),
    data: &[u8],
    time_us: i64,
) -> Vec<LakePoint> {
    let table = Table::from_function(function).unwrap();
    let held = tags.iter().filter(|tag| tag.table == table && tag.lies_in(address, count));
    let point = |tag: &Tag| {
        let from = usize::from(tag.address - address);
        let value = if table.is_bits() {
            TrueValue::Bool(data[from / 8] >> (from % 8) & 1 == 1)
        } else {
            let registers: Vec<u16> =
                data.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            decode(tag, &registers[from..from + usize::from(tag.width())]).unwrap()
        };
        let value = match value {
            TrueValue::Bool(value) => LakeValue::Bool(value),
            TrueValue::Integer(value) => LakeValue::Integer(value),
            TrueValue::F32(value) => LakeValue::Number(f64::from(value)),
            TrueValue::F64(value) | TrueValue::Scaled(value) => LakeValue::Number(value),
            TrueValue::Text(value) => LakeValue::Text(value),
        };
        LakePoint { machine: "hall3/press-01".to_owned(), tag: tag.name.clone(), time_us, value }
    };
    held.map(point).collect()
}

/// Polls twice over three connections, and gives what was stored with the plant's truth.
async fn poll_and_stop(dir: &Path) -> (Vec<LakePoint>, Truth) {
    let path = dir.join("truth.jsonl");
    let mut config = PlantConfig::load(DEMO.as_ref()).unwrap();
    // Nobody subscribes here; the machines that publish are not needed.
    config.publishers.clear();
    let plant = Plant::start(config, TruthLog::create(&path).unwrap()).await.unwrap();
    let tags = plant.config().profiles["press"].tags.clone();
    let mut lake = Vec::new();
    for connection in 0..3 {
        let mut stream = TcpStream::connect(plant.addresses().buses[0].1).await.unwrap();
        for cycle in 0..2 {
            for block in BLOCKS {
                let data = read(&mut stream, block).await;
                lake.extend(points(&tags, block, &data, 1_000_000 * (2 * connection + cycle)));
            }
        }
    }
    plant.stop().await.unwrap();
    plant.end().await;
    (lake, Truth::load(&path).unwrap())
}

#[tokio::test]
async fn a_client_that_keeps_everything_is_complete_and_every_change_to_what_it_kept_is_found() {
    let dir = TempDir::new().unwrap();
    let (lake, truth) = poll_and_stop(dir.path()).await;
    let report = compare(&truth, lake.clone(), &[]);
    assert!(report.is_complete() && truth.stopped, "{:?}", report.problems);
    assert_eq!((report.sent, report.found), (lake.len(), 6 * 22));

    let place =
        |tag: &str, time_us: i64| lake.iter().position(|p| p.tag == tag && p.time_us == time_us).unwrap();
    for tag in ["polls_holding", "polls_input", "polls_coil"] {
        let mut less = lake.clone();
        less.remove(place(tag, 2_000_000));
        assert!(!compare(&truth, less, &[]).is_complete(), "one {tag} less");
        let mut more = lake.clone();
        more.push(lake[place(tag, 2_000_000)].clone());
        assert!(!compare(&truth, more, &[]).is_complete(), "one {tag} more");
    }
    let mut other = lake.clone();
    let temperature = place("bearing_temp", 3_000_000);
    let LakeValue::Number(value) = other[temperature].value else { panic!("a number") };
    other[temperature].value = LakeValue::Number(value.next_up());
    let problems = compare(&truth, other, &[]).problems;
    assert_eq!(problems.iter().map(|p| p.tag.as_str()).collect::<Vec<_>>(), ["bearing_temp"]);
}

#[tokio::test]
async fn what_a_killed_client_lost_is_excused_for_its_time_only() {
    let dir = TempDir::new().unwrap();
    let (lake, truth) = poll_and_stop(dir.path()).await;
    // The last cycle of the second connection was read and never stored.
    let kept: Vec<_> = lake.into_iter().filter(|point| point.time_us != 3_000_000).collect();
    let sent: Vec<_> = truth.readings.iter().map(|reading| reading.sent_us).collect();
    let excuse = Excuse { from_us: sent[9], to_us: sent[11] };
    let report = compare(&truth, kept.clone(), &[excuse]);
    assert!(report.is_complete(), "{:?}", report.problems);
    assert_eq!(report.excused, 22);
    assert!(!compare(&truth, kept, &[]).is_complete());
}
