//! What a seed does, and how often: its character is drawn first, so that seeds differ in kind.

use millrace_agent::config::WhenFull;
use millrace_protocol::LossReason;

use super::Sabotage;
use super::agent::Cap;
use super::dice::Dice;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Poll,
    Publish,
    Receive,
    BufferFlush,
    Send,
    Link,
    Trouble,
    Cut,
    Read,
    LakeFlush,
    KillCollector,
    FillLake,
    StartAgent,
    KillAgent,
    EndAtStep,
    Reconnect,
    FillDisk,
    StepClock,
    LoseTopic,
    Silence,
}

/// What a seed does, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Character {
    pub(super) steps: u64,
    pub(super) kills_agent: bool,
    pub(super) cuts_power: bool,
    pub(super) kills_collector: bool,
    bad_link: bool,
    steps_clock: bool,
    fills_disk: bool,
    fills_lake: bool,
    loses_topic: bool,
    is_capped: bool,
}

impl Character {
    /// Draws each trait from a stream of its own: a new one leaves the others as they are.
    pub(super) fn draw(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let dice = |concern: &str| Dice::of(seed, concern);
        let often = |concern: &str| !dice(concern).one_in(3);
        let kills_agent = often("kills the agent");
        let mut character = Self {
            steps: 400 + dice("steps").roll(600),
            kills_agent,
            cuts_power: kills_agent && dice("cuts the power").one_in(2),
            kills_collector: often("kills the collector"),
            bad_link: often("bad link"),
            steps_clock: often("steps the clock"),
            fills_disk: dice("fills the disk").one_in(4),
            fills_lake: dice("fills the lake").one_in(4),
            loses_topic: dice("loses a topic").one_in(6),
            is_capped: dice("capped").one_in(4),
        };
        // Nothing piles up behind a good link.
        character.bad_link |= character.is_capped;
        if matches!(sabotage, Some(Sabotage::ConfirmEarly | Sabotage::ForgetSync)) {
            (character.kills_agent, character.cuts_power) = (true, true);
        }
        character
    }

    pub(super) fn cap(self, seed: u64) -> Cap {
        let when_full =
            if Dice::of(seed, "when full").one_in(2) { WhenFull::DropOldest } else { WhenFull::DropNewest };
        let max_bytes = if self.is_capped { 3 << 20 } else { 1 << 30 };
        Cap { max_bytes, when_full }
    }

    /// Gives why rows that were confirmed may be declared lost in this seed: no other reason is a good one.
    pub(super) fn excuses(self, when_full: WhenFull, is_refused: bool) -> Vec<LossReason> {
        let when_full = match when_full {
            WhenFull::DropOldest => LossReason::DroppedOldest,
            WhenFull::DropNewest => LossReason::DroppedNewest,
        };
        let mut excuses = Vec::new();
        excuses.extend(self.is_capped.then_some(when_full));
        if self.fills_disk {
            // Rows pass through a small part of memory, and what a kill takes of it is as if it had been damaged.
            excuses.extend([LossReason::DroppedOldest, LossReason::SetAsideDamaged]);
        }
        excuses.extend(is_refused.then_some(LossReason::Refused));
        excuses
    }

    /// Weights of the events.
    pub(super) fn weights(self, is_running: bool) -> Vec<(u32, Event)> {
        let when = |does: bool, weight: u32| if does { weight } else { 0 };
        vec![
            (when(is_running, 60), Event::Poll),
            (25, Event::Publish),
            (when(is_running, 45), Event::Receive),
            (when(is_running, 35), Event::BufferFlush),
            (when(is_running, 60), Event::Send),
            (120, Event::Link),
            (when(self.bad_link, 6), Event::Trouble),
            (when(self.bad_link, 4), Event::Cut),
            (45, Event::Read),
            (30, Event::LakeFlush),
            (when(self.kills_collector, 2), Event::KillCollector),
            (when(self.fills_lake, 3), Event::FillLake),
            (when(!is_running, 40), Event::StartAgent),
            (when(self.kills_agent && is_running, 2), Event::KillAgent),
            (when(self.kills_agent && is_running, 3), Event::EndAtStep),
            (when(is_running, 3), Event::Reconnect),
            (when(self.fills_disk && is_running, 4), Event::FillDisk),
            (when(self.steps_clock, 4), Event::StepClock),
            (when(self.loses_topic, 2), Event::LoseTopic),
            (2, Event::Silence),
        ]
    }
}
