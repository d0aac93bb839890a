//! What becomes of items when Kafka answers, or does not.

use millrace_protocol::LossReason;
use tracing::{error, warn};

use super::producer::{Answer, Answered};
use super::{InFlight, Outbox, Outside, Uplink};

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
        for position in &sent.positions {
            error!(
                stream = %sent.stream, rows = sent.rows, bytes = sent.bytes, why,
                "Kafka does not take this item at all; it is declared lost"
            );
            self.alone.remove(position);
            self.outbox.refuse(*position, LossReason::Refused);
        }
        let items = sent.positions.len() as u64;
        self.monitor.update(|health| health.refused_items += items);
        self.may_have_more = true;
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
