//! Two processes that send as one agent are told of, and a restart is not (D7).

use super::*;
use crate::status::Status;

/// A record of one row, sent by a process.
fn sent_by(sender: u64, partition: i32, offset: i64, seq: u64) -> Incoming {
    let (item, layout) = rows(seq, &[1.0]);
    let mut builder = RecordBuilder::new(stream(), Epoch(sender));
    builder.push(&item.encode().unwrap(), Some(&layout));
    Incoming { partition, ..at(offset, builder.finish(seq)) }
}

#[tokio::test]
async fn restarts_of_an_agent_raise_no_alarm_however_partitions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    // Partition 4 is read only when the agent was already started twice again.
    for (offset, sender) in [1, 1, 2, 2, 3].into_iter().enumerate() {
        memory.absorb(&sent_by(sender, 3, offset as i64, offset as u64 + 1));
    }
    memory.absorb(&sent_by(1, 4, 0, 6));
    memory.absorb(&sent_by(2, 4, 1, 7));
    let flushed = flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!(flushed.duplicates, Duplicates::default());
    assert!(texts(&mut conn, "SELECT kind FROM audit_log").await.is_empty());
}

#[tokio::test]
async fn two_processes_that_alternate_as_one_agent_are_told_of_once_and_cost_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let (mut conn, mut memory) = open(&folder.path().join("lake.db")).await;
    let status = Status::new(std::time::Duration::MAX);
    for (offset, sender) in [1, 2, 1, 2, 2].into_iter().enumerate() {
        memory.absorb(&sent_by(sender, 3, offset as i64, offset as u64 + 1));
    }
    status.flushed(&flush(&mut conn, &mut memory).await.unwrap());
    memory.absorb(&sent_by(1, 3, 5, 6));
    let flushed = flush(&mut conn, &mut memory).await.unwrap();
    assert_eq!((flushed.duplicates.records, flushed.duplicates.texts.len()), (1, 0));
    status.flushed(&flushed);
    let said = texts(&mut conn, "SELECT kind || ': ' || sequences || reason FROM audit_log").await;
    let text =
        "duplicate_agent: two processes send as agent gw, with epochs 0000000000000002 and 0000000000000001";
    assert!(said.len() == 1 && said[0].starts_with(&format!("duplicate_agent: {text}")), "{said:?}");
    let trouble = texts(&mut conn, "SELECT json_extract(trouble, '$.\"agent gw\"') FROM shard").await;
    assert!(trouble.len() == 1 && trouble[0].starts_with(text), "{trouble:?}");
    let troubles = status.troubles(0);
    assert!(troubles.len() == 1 && troubles[0].starts_with(text), "{troubles:?}");
    let metrics = status.metrics();
    assert!(metrics.contains("\nmillrace_collector_duplicate_agent_records_total 3\n"), "{metrics}");
    let audit = audited(&mut conn).await;
    assert!(audit.is_clean() && audit.streams[0].in_lake == 6, "{audit:?}");
}
