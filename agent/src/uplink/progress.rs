//! Progress: how far a stream is complete (D1), said for streams that have nothing waiting.
//!
//! It is what lets windows close while a machine is quiet. Invariant: an item never says more than the
//! buffer: everything that was handed over up to its time is on disk, and of this stream all that is on
//! disk is in Kafka.

use std::collections::{HashMap, HashSet};

use millrace_protocol::{Category, Epoch, MachineName, Progress, StreamId};

use crate::buffer::StreamState;

/// Makes the progress items that are due.
///
/// `settled_us` must have been read before `streams`. `in_flight` names streams whose last progress is
/// still on its way: one at a time is enough, and while Kafka is away they do not pile up.
pub(super) fn due(
    settled_us: i64,
    streams: &[StreamState],
    in_flight: &HashSet<StreamId>,
) -> Vec<(StreamId, Progress)> {
    let mut older: HashMap<(&MachineName, &Category), Vec<Epoch>> = HashMap::new();
    for state in streams.iter().filter(|s| !s.is_current && is_waiting(s)) {
        let key = (&state.stream.machine, &state.stream.category);
        older.entry(key).or_default().push(state.stream.epoch);
    }
    let is_due = |s: &&StreamState| s.is_current && !is_waiting(s) && !in_flight.contains(&s.stream);
    let progress = |state: &StreamState| {
        let key = (&state.stream.machine, &state.stream.category);
        let item = Progress {
            after: state.numbered,
            complete_until_us: settled_us,
            numbered: state.numbered,
            waiting_epochs: older.get(&key).cloned().unwrap_or_default(),
        };
        (state.stream.clone(), item)
    };
    streams.iter().filter(is_due).map(progress).collect()
}

const fn is_waiting(state: &StreamState) -> bool {
    state.waiting_rows > 0 || state.waiting_notices > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(machine: &str, epoch: u64, is_current: bool, waiting: (u64, u64)) -> StreamState {
        StreamState {
            stream: StreamId {
                agent: "gw".parse().unwrap(),
                epoch: Epoch(epoch),
                machine: machine.parse().unwrap(),
                category: "telemetry".parse().unwrap(),
            },
            is_current,
            numbered: 40 + epoch,
            waiting_rows: waiting.0,
            waiting_notices: waiting.1,
            newest_us: None,
        }
    }

    #[test]
    fn only_current_streams_with_nothing_waiting_say_how_far_they_are() {
        let states = [
            state("h/quiet", 9, true, (0, 0)),
            state("h/rows", 9, true, (1, 0)),
            state("h/birth", 9, true, (0, 1)),
            state("h/old", 3, false, (0, 0)),
            state("h/sent", 9, true, (0, 0)),
        ];
        let in_flight = HashSet::from([states[4].stream.clone()]);
        let due = due(1_000, &states, &in_flight);
        let expected = Progress { after: 49, complete_until_us: 1_000, numbered: 49, waiting_epochs: vec![] };
        assert_eq!(due, [(states[0].stream.clone(), expected)]);
    }

    #[test]
    fn older_epochs_of_the_same_stream_that_still_wait_are_named() {
        let states = [
            state("h/a", 3, false, (5, 0)),
            state("h/a", 4, false, (0, 1)),
            state("h/a", 5, false, (0, 0)),
            state("h/b", 3, false, (5, 0)),
            state("h/a", 9, true, (0, 0)),
        ];
        let due = due(1_000, &states, &HashSet::new());
        let waiting: Vec<_> = due.iter().map(|(_, p)| p.waiting_epochs.clone()).collect();
        assert_eq!(waiting, [vec![Epoch(3), Epoch(4)]]);
    }
}
