//! What becomes of items when Kafka answers, or does not.

use millrace_protocol::LossReason;
use tracing::{error, warn};

use super::producer::{Answer, Answered};
use super::{InFlight, Outbox, Outside, Uplink};
use crate::buffer::Position;

impl<O: Outbox, W: Outside> Uplink<O, W> {
    /// Takes an answer and all that are there with it.
    pub(super) fn hear(&mut self, first: Answered) {
        let mut next = Some(first);
        while let Some((ticket, answer)) = next {
            if let Some(sent) = self.in_flight.remove(&ticket) {
                self.in_flight_bytes -= sent.bytes;
                self.settle(sent, answer);
            }
            next = self.answers.try_recv().ok();
        }
        self.show();
    }

    pub(super) fn settle(&mut self, sent: InFlight, answer: Answer) {
        match answer {
            Answer::Delivered => {
                self.outbox.acknowledge(&sent.positions);
                if sent.is_alone {
                    self.alone.retain(|position| !sent.positions.contains(position));
                    self.refused.retain(|position| !sent.positions.contains(position));
                    self.show_refused();
                }
                self.count_delivered(&sent);
            }
            // The next one says the same and more.
            _ if sent.is_progress => self.is_suspect = true,
            Answer::RecordRefused(why) if sent.is_alone => self.refuse(&sent, &why),
            Answer::RecordRefused(why) => {
                warn!(stream = %sent.stream, items = sent.positions.len(), why, "refused; each item is tried alone");
                self.alone.extend(sent.positions.iter().copied());
                self.give_back(&sent);
            }
            Answer::TopicRefused(why) => {
                let category = &sent.stream.category;
                if self.routes.refused(category) {
                    warn!(%category, why, "the category's records go to telemetry until the next start");
                } else {
                    self.monitor.trouble("topic", &why);
                    self.pause();
                }
                self.give_back(&sent);
            }
            Answer::Unknown(why) => {
                self.monitor.link_trouble("record", &why);
                self.give_back(&sent);
                self.pause();
                self.is_suspect = true;
            }
        }
    }

    fn refuse(&mut self, sent: &InFlight, why: &str) {
        for &position in &sent.positions {
            if matches!(position, Position::Notice(_)) {
                self.hold_back(sent, position, why);
                continue;
            }
            error!(
                stream = %sent.stream, rows = sent.rows, bytes = sent.bytes, why,
                "Kafka does not take this item at all; it is declared lost"
            );
            self.alone.remove(&position);
            self.outbox.refuse(position, LossReason::Refused);
            self.monitor.update(|health| health.refused_items += 1);
        }
        self.may_have_more = true;
    }

    /// Keeps a birth or a loss: without a loss the rows it names would be missing and nobody could say why
    /// (D4). It stays in the buffer and is tried again, alone.
    fn hold_back(&mut self, sent: &InFlight, position: Position, why: &str) {
        if self.refused.insert(position) {
            error!(
                stream = %sent.stream, bytes = sent.bytes, why,
                "Kafka does not take this birth or loss; it is kept and tried again"
            );
        }
        self.held_back.push(position);
        self.show_refused();
    }

    /// Lets births and losses go again that were refused.
    pub(super) fn try_refused_again(&mut self) {
        if !self.held_back.is_empty() {
            self.outbox.give_back(&std::mem::take(&mut self.held_back));
            self.may_have_more = true;
        }
    }

    fn show_refused(&self) {
        let kept = self.refused.len() as u64;
        self.monitor.update(|health| health.refused_notices = kept);
    }

    pub(super) fn give_back(&mut self, sent: &InFlight) {
        self.outbox.give_back(&sent.positions);
        // What was going to follow it goes back too, so that the order of the stream stays.
        for record in self.pending.drain(..) {
            self.outbox.give_back(&record.positions);
        }
        self.may_have_more = true;
        self.monitor.update(|health| health.resent_records += 1);
    }

    fn count_delivered(&self, sent: &InFlight) {
        self.monitor.update(|health| {
            if sent.is_progress {
                health.sent_progress += 1;
            }
            health.sent_records += 1;
            health.sent_bytes += sent.bytes as u64;
            health.sent_rows += sent.rows;
            health.sent_points += sent.points;
        });
    }
}
