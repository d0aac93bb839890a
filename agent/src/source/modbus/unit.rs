//! A device as the poll sees it: when it is due, what is asked, and what is left alone (no I/O).
//!
//! Invariant: the blocks of a unit hold every tag of the device exactly once, however they were split.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::plan::{Request, plan};
use super::readings::Readings;
use crate::config::Device;

/// After this the planned requests are tried again whole: what the device refused may have been the
/// mood of its start.
const WHOLE_AGAIN: Duration = Duration::from_secs(3_600);
/// So many times blocks are split within one cycle; the rest waits for the next one.
pub(super) const SPLITS: usize = 16;

/// A device and everything that is remembered of it.
pub(super) struct Unit {
    pub(super) device: Device,
    pub(super) readings: Readings,
    pub(super) schedule: Schedule,
    /// Grows while nothing of the unit answers.
    pub(super) backoff: Backoff,
    pub(super) blocks: Vec<Block>,
    split_at: Option<Instant>,
}

/// A request and its own backoff: a device may be silent about one part of its tables only.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) request: Request,
    pub(super) backoff: Backoff,
    /// It got no answer in the running cycle.
    pub(super) is_silent: bool,
}

impl Block {
    fn new(request: Request) -> Self {
        Self { request, backoff: Backoff::default(), is_silent: false }
    }
}

impl Unit {
    pub(super) fn new(device: Device, now: Instant) -> Self {
        Self {
            readings: Readings::new(&device),
            schedule: Schedule::new(device.poll_interval, now),
            backoff: Backoff::default(),
            blocks: plan(&device).into_iter().map(Block::new).collect(),
            split_at: None,
            device,
        }
    }

    /// Puts two halves in the place of a block that the device refused; tells whether it could.
    pub(super) fn split(&mut self, place: usize, now: Instant) -> bool {
        let halves = self.blocks.get(place).and_then(|block| block.request.split(&self.device));
        let Some((low, high)) = halves else { return false };
        self.blocks.splice(place..=place, [Block::new(low), Block::new(high)]);
        self.split_at = Some(now);
        true
    }

    /// Forgets the splits after an hour.
    pub(super) fn join_again(&mut self, now: Instant) {
        if self.split_at.is_some_and(|at| now.saturating_duration_since(at) >= WHOLE_AGAIN) {
            self.forget_splits();
        }
    }

    fn forget_splits(&mut self) {
        if self.split_at.take().is_some() {
            self.blocks = plan(&self.device).into_iter().map(Block::new).collect();
        }
    }

    /// Draws the conclusions of a cycle in which the unit was asked something. Tells whether it fell
    /// silent or came back.
    pub(super) fn conclude(&mut self, has_answered: bool, now: Instant, most: Duration) -> Option<Change> {
        if has_answered {
            // Then the silent blocks are silent by themselves.
            for block in &mut self.blocks {
                if std::mem::take(&mut block.is_silent) {
                    block.backoff.grow(now, most);
                }
            }
            if !self.backoff.reset() {
                return None;
            }
            // It may have been exchanged or restarted.
            self.forget_splits();
            return Some(Change::Back);
        }
        let silent = self.blocks.iter().position(|block| block.is_silent)?;
        for block in &mut self.blocks {
            block.is_silent = false;
        }
        // Next time another block is asked first, in case only this one is never answered.
        self.blocks.rotate_left(silent + 1);
        let was_failing = self.backoff.is_failing();
        self.backoff.grow(now, most);
        (!was_failing).then_some(Change::Silent)
    }
}

/// What changed with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It does not answer any more.
    Silent,
    /// It answers again.
    Back,
}

/// When a device is due. Ticks lie at whole intervals from the start, so that a slow poll never shifts
/// the following ones.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    next: Instant,
}

impl Schedule {
    fn new(interval: Duration, start: Instant) -> Self {
        // An interval of nothing would keep the bus busy with one device.
        Self { interval: interval.max(Duration::from_millis(1)), next: start }
    }

    /// Gives the next tick.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// Takes the next tick for a cycle that begins now; ticks that passed since then are skipped.
    pub(super) fn begin(&mut self, now: Instant) -> u64 {
        self.next += self.interval;
        self.skip(now)
    }

    /// Leaves out every tick up to now and gives their number: they fell into a running poll, or the
    /// bus had no time for them.
    pub(super) fn skip(&mut self, now: Instant) -> u64 {
        let Some(late) = now.checked_duration_since(self.next) else { return 0 };
        let passed = late.as_nanos() / self.interval.as_nanos() + 1;
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        self.next += self.interval.saturating_mul(passed);
        u64::from(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn unit(tags: u16) -> Unit {
        let tags = (0..tags).map(|i| sample::holding(&format!("t{i}"), i * 50)).collect();
        Unit::new(sample::device(1, tags), Instant::now())
    }

    #[test]
    fn ticks_that_pass_during_a_poll_are_skipped_and_the_others_keep_their_places() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(Duration::from_millis(100), start);
        // (begins at, ends at, ticks skipped, next tick)
        let table = [(0, 30, 0, 100), (100, 250, 1, 300), (300, 400, 1, 500), (730, 740, 2, 800)];
        for (begin, end, skipped, next) in table {
            let sum = schedule.begin(at(begin)) + schedule.skip(at(end));
            assert_eq!((sum, schedule.next()), (skipped, at(next)), "poll of {begin} to {end}");
        }
    }

    #[test]
    fn a_unit_that_answers_nothing_backs_off_and_is_asked_for_another_block_next() {
        let (mut unit, now, most) = (unit(3), Instant::now(), Duration::from_secs(60));
        let first = |unit: &Unit| unit.blocks[0].request.address;
        unit.blocks[0].is_silent = true;
        assert_eq!(unit.conclude(false, now, most), Some(Change::Silent));
        assert!(unit.backoff.is_waiting(now) && unit.blocks.iter().all(|b| !b.backoff.is_waiting(now)));
        assert_eq!(first(&unit), 50);
        unit.blocks[0].is_silent = true;
        assert_eq!(unit.conclude(false, now, most), None);
        assert_eq!(first(&unit), 100);
        assert_eq!(unit.conclude(true, now, most), Some(Change::Back));
        assert!(!unit.backoff.is_waiting(now));
    }

    #[test]
    fn a_block_that_alone_is_silent_backs_off_alone() {
        let (mut unit, now, most) = (unit(3), Instant::now(), Duration::from_secs(60));
        unit.blocks[1].is_silent = true;
        assert_eq!(unit.conclude(true, now, most), None);
        let waiting: Vec<_> = unit.blocks.iter().map(|b| b.backoff.is_waiting(now)).collect();
        assert_eq!((waiting, unit.backoff.is_waiting(now)), (vec![false, true, false], false));
    }

    #[test]
    fn splits_last_an_hour_or_until_the_unit_comes_back() {
        let tags = (0..4).map(|i| sample::holding(&format!("t{i}"), i)).collect();
        let (now, most) = (Instant::now(), Duration::from_secs(60));
        let mut unit = Unit::new(sample::device(1, tags), now);
        assert!(unit.split(0, now) && unit.split(0, now) && !unit.split(0, now));
        assert_eq!(unit.blocks.iter().map(|b| b.request.tags.len()).collect::<Vec<_>>(), [1, 1, 2]);
        unit.join_again(now + WHOLE_AGAIN - Duration::from_secs(1));
        assert_eq!(unit.blocks.len(), 3);
        unit.join_again(now + WHOLE_AGAIN);
        assert_eq!(unit.blocks.len(), 1);
        assert!(unit.split(0, now));
        unit.blocks[0].is_silent = true;
        unit.conclude(false, now, most);
        assert_eq!(unit.blocks.len(), 2);
        unit.conclude(true, now, most);
        assert_eq!(unit.blocks.len(), 1);
    }
}
