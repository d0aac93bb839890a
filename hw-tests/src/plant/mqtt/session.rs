//! What the broker remembers of one client.
//!
//! Invariant: a QoS 1 message is in `waiting` or in `sent` until it is acknowledged, and both keep the
//! order in which messages came (section 4.6); what a new connection sends again carries DUP.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;

use super::packet::{self, Again};

/// Messages that are sent and not acknowledged; Mosquitto's `max_inflight_messages`.
pub const IN_FLIGHT: usize = 20;
/// Messages that wait for a client; above it the newest is dropped, counted, and reported as an error.
pub const WAITING: usize = 200_000;

/// A message on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// As published.
    pub qos: u8,
}

/// What others may know of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SessionState {
    /// Whether the client is there.
    pub connected: bool,
    /// Messages not yet sent.
    pub waiting: usize,
    /// Messages sent and not acknowledged.
    pub in_flight: usize,
    /// Messages dropped because too many waited.
    pub dropped: u64,
}

/// The session of one client.
#[derive(Debug)]
pub struct Session {
    clean: bool,
    subscriptions: Vec<(String, u8)>,
    /// Answers to the client's own packets, as bytes.
    answers: Vec<u8>,
    waiting: VecDeque<(Arc<Message>, u8)>,
    sent: VecDeque<InFlight>,
    last_id: u16,
    dropped: u64,
}

#[derive(Debug)]
struct InFlight {
    packet_id: u16,
    message: Arc<Message>,
    /// It has to be sent on this connection too.
    due_again: bool,
}

impl Session {
    /// Makes an empty session.
    #[must_use]
    pub const fn new(clean: bool) -> Self {
        Self {
            clean,
            subscriptions: Vec::new(),
            answers: Vec::new(),
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            last_id: 0,
            dropped: 0,
        }
    }

    /// Tells whether the session ends with its connection.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.clean
    }

    /// Tells whether the client wants anything.
    #[must_use]
    pub const fn has_subscriptions(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// Gives what others may know.
    #[must_use]
    pub fn state(&self, connected: bool) -> SessionState {
        let (waiting, in_flight) = (self.waiting.len(), self.sent.len());
        SessionState { connected, waiting, in_flight, dropped: self.dropped }
    }

    /// Prepares for a new connection: whatever was sent is due again, in its order [MQTT-4.4.0-1].
    pub fn reconnected(&mut self) {
        self.answers.clear();
        self.sent.iter_mut().for_each(|sent| sent.due_again = true);
    }

    /// Takes subscriptions and gives a return code for each: the QoS that is granted.
    pub fn subscribe(&mut self, filters: Vec<(String, u8)>) -> Vec<u8> {
        let mut codes = Vec::with_capacity(filters.len());
        for (filter, qos) in filters {
            let granted = qos.min(1);
            codes.push(granted);
            self.subscriptions.retain(|(own, _)| *own != filter);
            self.subscriptions.push((filter, granted));
        }
        codes
    }

    /// Forgets subscriptions.
    pub fn unsubscribe(&mut self, filters: &[String]) {
        self.subscriptions.retain(|(own, _)| !filters.contains(own));
    }

    /// Gives the highest QoS that a topic is subscribed with.
    #[must_use]
    pub fn granted(&self, topic: &str) -> Option<u8> {
        self.subscriptions.iter().filter(|(filter, _)| matches(filter, topic)).map(|(_, qos)| *qos).max()
    }

    /// Queues a message that the session has subscribed to.
    pub fn queue(&mut self, message: &Arc<Message>) {
        let qos = message.qos.min(self.granted(&message.topic).unwrap_or(0));
        if self.waiting.len() >= WAITING {
            self.dropped += 1;
            tracing::error!(topic = message.topic, "a message is dropped: {WAITING} wait for one client");
            return;
        }
        self.waiting.push_back((Arc::clone(message), qos));
    }

    /// Queues an answer to the client's own packet.
    pub fn answer(&mut self, bytes: &[u8]) {
        self.answers.extend(bytes);
    }

    /// Forgets an acknowledged message; an unknown packet id is one of an earlier connection.
    pub fn acknowledge(&mut self, packet_id: u16) {
        self.sent.retain(|sent| sent.packet_id != packet_id);
    }

    /// Takes the bytes that can be sent now.
    pub fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.answers);
        for sent in self.sent.iter_mut().filter(|sent| sent.due_again) {
            sent.due_again = false;
            let message = &sent.message;
            bytes.extend(packet::publish_to(
                &message.topic,
                &message.payload,
                Some(sent.packet_id),
                Again::Yes,
            ));
        }
        while self.sent.len() < IN_FLIGHT {
            let Some((message, qos)) = self.waiting.pop_front() else { break };
            let packet_id = (qos > 0).then(|| self.free_id());
            bytes.extend(packet::publish_to(&message.topic, &message.payload, packet_id, Again::No));
            if let Some(packet_id) = packet_id {
                self.sent.push_back(InFlight { packet_id, message, due_again: false });
            }
        }
        bytes
    }

    fn free_id(&mut self) -> u16 {
        // At most `IN_FLIGHT` ids are taken, so the search ends.
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.sent.iter().all(|sent| sent.packet_id != self.last_id) {
                return self.last_id;
            }
        }
    }
}

/// Tells whether a filter covers a topic, section 4.7.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_cover_what_the_standard_says() {
        let cases = [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/b", "/b", true),
            ("a", "a/b", false),
        ];
        for (filter, topic, expected) in cases {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn at_most_the_window_is_in_flight_and_a_new_connection_sends_it_again_in_order_with_dup() {
        let mut session = Session::new(false);
        session.subscribe(vec![("t".to_owned(), 1)]);
        for n in 0..30u8 {
            session.queue(&Arc::new(Message { topic: "t".to_owned(), payload: vec![n], qos: 1 }));
        }
        let sent = |bytes: &[u8]| bytes.chunks(8).map(|p| (p[0], p[6], p[7])).collect::<Vec<_>>();
        let first = sent(&session.outgoing());
        assert_eq!(first, (0..20).map(|n| (0x32, n + 1, n)).collect::<Vec<_>>());
        assert!(session.outgoing().is_empty());
        session.acknowledge(1);
        session.acknowledge(3);
        session.reconnected();
        let again = sent(&session.outgoing());
        let expected = [1u8].into_iter().chain(3..20).map(|n| (0x3a, n + 1, n));
        let expected: Vec<_> = expected.chain([(0x32, 21, 20), (0x32, 22, 21)]).collect();
        assert_eq!(again, expected);
        let state = session.state(true);
        assert_eq!((state.waiting, state.in_flight), (8, 20));
    }
}
