//! Tasks that end, fail, panic and are late.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::*;

type Never = std::convert::Infallible;

#[tokio::test]
async fn sources_stop_first_and_the_writer_after_all_who_have_something_for_it() {
    let stop = CancellationToken::new();
    let mut supervisor = Supervisor::new(stop.clone());
    let order = Arc::new(Mutex::new(Vec::new()));
    let (feed, mut fed) = mpsc::channel::<u8>(1);
    for (stage, name) in [(Stage::Status, "status"), (Stage::Uplink, "uplink")] {
        let order = Arc::clone(&order);
        supervisor.critical(stage, name, |token| async move {
            token.cancelled().await;
            order.lock().unwrap().push(name);
            Ok::<_, Never>(())
        });
    }
    let at_batch = Arc::clone(&order);
    supervisor.critical_thread(Stage::Batch, "batch", move || {
        while fed.blocking_recv().is_some() {}
        at_batch.lock().unwrap().push("batch");
        Ok::<_, Never>(())
    });
    let (at_source, fed_by_source) = (Arc::clone(&order), feed.clone());
    supervisor.critical(Stage::Source, "source", |token| async move {
        fed_by_source.send(1).await.unwrap();
        token.cancelled().await;
        at_source.lock().unwrap().push("source");
        Ok::<_, Never>(())
    });
    supervisor.critical(Stage::Batch, "gate", |token| async move {
        token.cancelled().await;
        drop(feed);
        Ok::<_, Never>(())
    });
    stop.cancel();
    supervisor.run().await.unwrap();
    assert_eq!(*order.lock().unwrap(), ["source", "uplink", "batch", "status"]);
}

#[tokio::test]
async fn a_critical_task_that_ends_stops_the_others_and_is_named() {
    type Ending = fn() -> Result<(), BoxError>;
    let cases: [(&str, Ending, &str); 3] = [
        ("returns", || Ok(()), "writer ended although nobody stopped it"),
        ("fails", || Err("disk gone".into()), "writer failed: disk gone"),
        ("panics", || panic!("bug"), "writer panicked: task"),
    ];
    for (case, end, expected) in cases {
        let mut supervisor = Supervisor::new(CancellationToken::new());
        let peer_stopped = CancellationToken::new();
        let flag = peer_stopped.clone();
        supervisor.critical(Stage::Source, "peer", |token| async move {
            token.cancelled().await;
            flag.cancel();
            Ok::<_, Never>(())
        });
        supervisor.critical(Stage::Batch, "writer", |_| async move { end() });
        let error = supervisor.run().await.unwrap_err();
        assert!(chain(&error).starts_with(expected), "{case}: {}", chain(&error));
        assert!(peer_stopped.is_cancelled(), "{case}");
    }
}

#[tokio::test]
async fn a_restartable_task_is_built_again_after_errors_and_panics() {
    let stop = CancellationToken::new();
    let mut supervisor = Supervisor::new(stop.clone());
    let runs = Arc::new(AtomicU32::new(0));
    let (counted, at_end) = (Arc::clone(&runs), stop.clone());
    let none = Backoff { first: Duration::ZERO, most: Duration::ZERO };
    supervisor.restartable(Stage::Source, "device", none, move |token| {
        let run = counted.fetch_add(1, Ordering::SeqCst);
        let at_end = at_end.clone();
        async move {
            match run {
                0 => Err(BoxError::from("no route")),
                1 => panic!("bug"),
                2 => Ok(()),
                _ => {
                    at_end.cancel();
                    token.cancelled().await;
                    Ok(())
                }
            }
        }
    });
    supervisor.run().await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn who_is_late_is_named_and_dropped_so_that_the_next_stage_can_end() {
    let mut supervisor = Supervisor::new(CancellationToken::new());
    supervisor.deadline = Duration::from_secs(2);
    let (feed, mut fed) = mpsc::channel::<u8>(1);
    supervisor.critical(Stage::Source, "stuck", |_| async move {
        feed.closed().await;
        Ok::<_, Never>(())
    });
    supervisor.critical_thread(Stage::Batch, "batch", move || {
        while fed.blocking_recv().is_some() {}
        Ok::<_, Never>(())
    });
    assert_eq!(supervisor.stop_in_order().await, [(Stage::Source, "stuck".to_owned())]);
    assert!(supervisor.running.is_empty());
}

#[test]
fn the_stages_patience_makes_the_deadline() {
    assert_eq!(Stage::ALL.iter().map(|s| s.patience()).sum::<u32>(), 10);
}

#[test]
fn pauses_double_up_to_the_most_and_differ_by_chance() {
    let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };
    for (failures, full_s) in [(0, 1), (1, 2), (5, 32), (6, 60), (31, 60), (32, 60), (u32::MAX, 60)] {
        let full = Duration::from_secs(full_s);
        for _ in 0..50 {
            let pause = backoff.pause(failures);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
        }
    }
}
