//! Pass-through: with a dead disk rows go through memory, flagged volatile (D9): at least once instead
//! of exactly once, and bounded.

use std::sync::Arc;

use millrace_protocol::LossReason;

use super::entry::{Note, delta_of, hex};
use super::state::{Amount, Done, Passing, State};
use super::writer::{Buffer, Group};

/// What passes through memory at most; then the oldest gives way. *Units*: bytes.
const PASSING_MAX_BYTES: usize = 8 * 1024 * 1024;

impl Buffer {
    /// Takes a group that the disk refused; its rows must carry `VOLATILE`. `done` is called when Kafka
    /// has all of its rows, and dropped if some of them had to give way.
    pub fn pass(&mut self, group: &Group, done: Done) {
        let done = Arc::new(done);
        let mut state = self.shared.lock();
        for rows in &group.rows {
            let head = rows.head();
            if let Some(stream) = state.streams.get_mut(&head.stream) {
                stream.numbered.add(Amount { rows: head.rows, points: head.points });
                stream.newest_us = stream.newest_us.max(Some(head.newest_us));
                let machine = stream.id.machine.clone();
                state.sources.entry(machine).or_default().numbered += head.points;
            }
            let passing = Passing {
                head,
                item: rows.item.clone(),
                layout: rows.layout.clone(),
                in_flight: false,
                done: Arc::clone(&done),
            };
            let number = state.next_passing;
            state.passing.insert(number, passing);
            state.next_passing += 1;
        }
        let note = Note {
            flushed_us: state.last_flushed_us.unwrap_or_default(),
            sources: group.sources.iter().map(|(m, c)| (m.clone(), delta_of(c))).collect(),
            hashes: group.hashes.clone(),
            redelivered: group.redelivered,
            births: group.births.iter().map(|(stream, item)| (*stream, hex(item))).collect(),
            ..Note::default()
        };
        state.fold_note(&note);
        give_way(&mut state);
        drop(state);
        // A group without rows has reached its end.
        if let Some(done) = Arc::into_inner(done) {
            done.run();
        }
        self.shared.changed.notify_one();
    }
}

/// Drops the oldest rows beyond the bound, and declares them.
fn give_way(state: &mut State) {
    let mut bytes: usize = state.passing.values().map(|p| p.item.len()).sum();
    while bytes > PASSING_MAX_BYTES
        && let Some((_, passing)) = state.passing.pop_first()
    {
        bytes -= passing.item.len();
        let head = passing.head;
        if let Some(stream) = state.streams.get_mut(&head.stream) {
            stream.lose(LossReason::DroppedOldest, Amount { rows: head.rows, points: head.points });
        }
        let range = Some(head.first_seq..=head.last_seq());
        state.add_loss(head.stream, LossReason::DroppedOldest, range, None, head.points);
    }
}

impl Done {
    pub(super) fn run(self) {
        self.0.into_iter().for_each(|tell| tell());
    }
}
