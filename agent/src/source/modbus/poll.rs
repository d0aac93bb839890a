//! The poll of one bus: which device is next, its cycle, and what is learned from the answers.
//!
//! Invariant: every due cycle of a device gives one delivery in which each of its tags has been
//! counted once. Trouble on the bus is a point of bad quality, never an error, and costs the other
//! devices at most one timeout per backoff of the device that has it.

use std::sync::Arc;
use std::time::Duration;

use millrace_protocol::{ClockSegment, Quality};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::connection::{Connection, Failure};
use super::decode::Reply;
use super::plan::Request;
use super::unit::{Change, SPLITS, Unit};
use crate::clock::Clock;
use crate::config::Bus;
use crate::delivery::{Delivery, Underway};

/// "Illegal data address" and "illegal data value": the range of a request does not suit the device.
///
/// *Source*: Modbus Application Protocol V1.1b3, section 7.
const RANGE_REFUSED: [u8; 2] = [2, 3];
/// So many requests in a row without an answer end a unit's cycle.
const SILENT_IN_A_ROW: u32 = 2;
/// So often the clock is read until time and segment agree; it does not step twice in a row.
const CLOCK_READINGS: usize = 3;

/// Polls the devices of one bus until it is told to stop or nobody takes the deliveries.
///
/// A device that is due later waits for one that is due sooner, whatever their intervals, so that a
/// busy bus skips ticks of all of them alike.
///
/// `underway` keeps progress behind a running cycle. *Cancel safety*: a cycle that is cut off by the
/// stop is neither delivered nor counted.
pub async fn run(
    mut bus: Bus,
    clock: Arc<dyn Clock>,
    deliveries: mpsc::Sender<Delivery>,
    underway: Underway,
    stop: CancellationToken,
) {
    let start = Instant::now();
    let devices = std::mem::take(&mut bus.devices);
    let mut units: Vec<Unit> = devices.into_iter().map(|device| Unit::new(device, start)).collect();
    let mut poll = Poll { connection: Connection::new(&bus), link: Backoff::default(), clock, bus, start };
    while let Some(unit) = units.iter_mut().min_by_key(|unit| unit.schedule.next()) {
        let turn = async {
            sleep_until(unit.schedule.next()).await;
            underway.begin(poll.clock.now_us());
            let delivery = poll.cycle(unit).await;
            let is_taken = deliveries.send(delivery).await.is_ok();
            underway.end();
            let skipped = unit.schedule.skip(Instant::now());
            unit.readings.skip(skipped);
            is_taken
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            is_taken = turn => if !is_taken { return },
        }
    }
    stop.cancelled().await;
}

/// What the devices of a bus share.
struct Poll {
    bus: Bus,
    connection: Connection,
    /// Grows while the endpoint takes no connection.
    link: Backoff,
    clock: Arc<dyn Clock>,
    start: Instant,
}

/// What a running cycle has seen.
#[derive(Default)]
struct Cycle {
    /// When the first reply came.
    first_reply: Option<(i64, ClockSegment)>,
    /// Whether the unit itself said something.
    has_answered: bool,
    silent_in_a_row: u32,
    splits: usize,
    /// Why the rest of the blocks is not asked.
    given_up: Option<Quality>,
}

impl Poll {
    async fn cycle(&mut self, unit: &mut Unit) -> Delivery {
        let begin = Instant::now();
        let tick = unit.schedule.next().saturating_duration_since(self.start);
        let skipped = unit.schedule.begin(begin);
        unit.readings.skip(skipped);
        unit.join_again(begin);
        let began = self.read_clock();
        let mut cycle = Cycle { given_up: self.left_alone(unit, begin), ..Cycle::default() };
        let mut place = 0;
        while let Some(block) = unit.blocks.get(place) {
            let quality = cycle.given_up.or(block.backoff.is_waiting(begin).then_some(Quality::BACKOFF));
            if let Some(quality) = quality {
                unit.readings.fail(&block.request, quality, tick);
                place += 1;
                continue;
            }
            let is_failing = unit.backoff.is_failing() || block.backoff.is_failing();
            let retries = if is_failing { 0 } else { self.bus.retries };
            let answer = self.ask(unit.device.unit_id, &block.request, retries).await;
            self.watch_link(&answer);
            if cycle.first_reply.is_none() && is_reply(&answer) {
                cycle.first_reply = Some(self.read_clock());
            }
            if is_range_refused(&answer) && cycle.splits < SPLITS && unit.split(place, begin) {
                cycle.splits += 1;
                continue;
            }
            settle(unit, place, answer, &mut cycle, tick);
            place += 1;
        }
        if self.bus.close_after_poll {
            self.connection.close();
        }
        self.learn(unit, &cycle);
        let (time_us, segment) = cycle.first_reply.unwrap_or(began);
        unit.readings.deliver(time_us, segment)
    }

    async fn ask(&mut self, unit_id: u8, request: &Request, retries: u32) -> Result<Reply, Failure> {
        let mut left = retries;
        loop {
            match self.connection.ask(unit_id, request).await {
                Err(failure) if left > 0 && failure.is_transient() => left -= 1,
                answer => return answer,
            }
        }
    }

    /// Says why nothing is asked in this cycle, if so.
    fn left_alone(&self, unit: &Unit, now: Instant) -> Option<Quality> {
        if self.link.is_waiting(now) {
            return Some(Quality::NO_CONNECTION);
        }
        unit.backoff.is_waiting(now).then_some(Quality::BACKOFF)
    }

    /// Reads time and segment that belong together: another thread may meet a step between the two.
    fn read_clock(&self) -> (i64, ClockSegment) {
        let mut now_us = self.clock.now_us();
        let mut segment = self.clock.segment();
        for _ in 0..CLOCK_READINGS {
            now_us = self.clock.now_us();
            let after = self.clock.segment();
            if std::mem::replace(&mut segment, after) == after {
                break;
            }
        }
        (now_us, segment)
    }

    fn watch_link(&mut self, answer: &Result<Reply, Failure>) {
        if let Err(Failure::Connect(error)) = answer {
            if !self.link.is_failing() {
                warn!(bus = self.bus.name, endpoint = self.bus.endpoint, %error, "cannot connect");
            }
            self.link.grow(Instant::now(), self.bus.backoff);
        } else if self.link.reset() {
            info!(bus = self.bus.name, endpoint = self.bus.endpoint, "connected again");
        }
    }

    fn learn(&self, unit: &mut Unit, cycle: &Cycle) {
        let change = unit.conclude(cycle.has_answered, Instant::now(), self.bus.backoff);
        let (bus, machine, unit_id) = (&self.bus.name, unit.device.machine.as_str(), unit.device.unit_id);
        match change {
            Some(Change::Silent) => warn!(bus, machine, unit_id, "the unit does not answer, backing off"),
            Some(Change::Back) => info!(bus, machine, unit_id, "the unit answers again"),
            None => {}
        }
    }
}

/// Tells whether something came that is the answer to the question, if only a refusal.
fn is_reply(answer: &Result<Reply, Failure>) -> bool {
    matches!(answer, Ok(_) | Err(Failure::Exception(_) | Failure::WrongLength))
}

fn is_range_refused(answer: &Result<Reply, Failure>) -> bool {
    matches!(answer, Err(Failure::Exception(code)) if RANGE_REFUSED.contains(code))
}

/// Hands what came for a block to the tags of the block, and to no others.
fn settle(unit: &mut Unit, place: usize, answer: Result<Reply, Failure>, cycle: &mut Cycle, tick: Duration) {
    let Some(block) = unit.blocks.get_mut(place) else { return };
    let failure = match answer {
        Ok(reply) => {
            unit.readings.take(&block.request, &reply, tick);
            None
        }
        Err(failure) => {
            unit.readings.fail(&block.request, failure.quality(), tick);
            Some(failure)
        }
    };
    match failure {
        // It says nothing about the unit, and the other blocks would fare no better.
        Some(failure @ Failure::Connect(_)) => cycle.given_up = Some(failure.quality()),
        Some(failure) if failure.is_silence() => {
            block.is_silent = true;
            cycle.silent_in_a_row += 1;
            if !cycle.has_answered || cycle.silent_in_a_row >= SILENT_IN_A_ROW {
                cycle.given_up = Some(failure.quality());
            }
        }
        Some(_) | None => {
            block.backoff.reset();
            cycle.has_answered = true;
            cycle.silent_in_a_row = 0;
        }
    }
}

#[cfg(test)]
mod tests;
