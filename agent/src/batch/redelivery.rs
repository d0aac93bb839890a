//! Recognises publishes that the broker sends again (D5).
//!
//! Of each session the hashes of the last two windows of stored publishes are known; the broker may
//! not have seen their acknowledgement. On one connection each of them can come again once.

use std::collections::{HashMap, VecDeque};

use crate::buffer::PublishId;
use crate::delivery::Publish;

/// What is known of the publishes of every session.
#[derive(Debug)]
pub(super) struct Redelivery {
    kept: usize,
    sessions: HashMap<u64, Session>,
}

#[derive(Debug, Default)]
struct Session {
    /// Stored publishes, oldest first.
    stored: VecDeque<u64>,
    /// How often each hash stands in `stored`.
    counts: HashMap<u64, u32>,
    connection: u64,
    /// How often each hash came again on this connection.
    used: HashMap<u64, u32>,
}

impl Redelivery {
    /// Begins with what the buffer remembers. `kept`: hashes of each session, two windows.
    pub(super) fn new(kept: usize, stored: Vec<(u64, Vec<u64>)>) -> Self {
        let mut known = Self { kept, sessions: HashMap::new() };
        for (session, hashes) in stored {
            hashes.into_iter().for_each(|hash| known.store(session, hash));
        }
        known
    }

    /// Tells whether a publish is one that is stored already; if not, it counts as stored from now on.
    pub(super) fn is_stored(&mut self, publish: &Publish) -> bool {
        let session = self.sessions.entry(publish.session).or_default();
        if session.connection != publish.connection {
            session.connection = publish.connection;
            session.used.clear();
        }
        if publish.dup {
            let stored = session.counts.get(&publish.hash).copied().unwrap_or(0);
            let used = session.used.entry(publish.hash).or_default();
            if *used < stored {
                *used += 1;
                return true;
            }
        }
        self.store(publish.session, publish.hash);
        false
    }

    fn store(&mut self, session: u64, hash: u64) {
        let kept = self.kept;
        let session = self.sessions.entry(session).or_default();
        session.stored.push_back(hash);
        *session.counts.entry(hash).or_default() += 1;
        while session.stored.len() > kept
            && let Some(old) = session.stored.pop_front()
        {
            session.uncount(old);
        }
    }

    /// Forgets a publish whose rows are gone after all: when it comes again it is new.
    pub(super) fn forget(&mut self, (session, hash): PublishId) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        if let Some(at) = session.stored.iter().rposition(|stored| *stored == hash) {
            session.stored.remove(at);
            session.uncount(hash);
        }
    }
}

impl Session {
    fn uncount(&mut self, hash: u64) {
        if let Some(count) = self.counts.get_mut(&hash) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&hash);
                self.used.remove(&hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn publish(connection: u64, hash: u64, dup: bool) -> Publish {
        Publish { session: 1, connection, hash, dup, confirm: oneshot::channel().0 }
    }

    #[test]
    fn a_publish_is_dropped_only_while_its_count_is_not_used_up() {
        // (connection, hash, dup, is it one that is stored?)
        let cases = [
            ("new", 1, 7, false, false),
            ("the same payload, not sent again", 1, 7, false, false),
            ("sent again on the next connection", 2, 7, true, true),
            ("and the other one", 2, 7, true, true),
            ("a third one was never stored", 2, 7, true, false),
            ("sent again, but never seen before", 2, 8, true, false),
            ("once more on a third connection", 3, 8, true, true),
            ("twice on it was never stored", 3, 8, true, false),
        ];
        let mut known = Redelivery::new(40, Vec::new());
        for (what, connection, hash, dup, expected) in cases {
            assert_eq!(known.is_stored(&publish(connection, hash, dup)), expected, "{what}");
        }
    }

    #[test]
    fn only_the_last_two_windows_are_known() {
        let mut known = Redelivery::new(2, vec![(1, vec![1, 2, 3])]);
        assert!(!known.is_stored(&publish(1, 1, true)));
        assert!(known.is_stored(&publish(1, 3, true)));
    }
}
