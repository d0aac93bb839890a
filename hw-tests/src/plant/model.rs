//! A machine with a spindle: what it measures, as a function of its seed and the time it has run.
//!
//! Invariant: two models with one seed are equal at equal times, however often they were asked.

use std::time::Duration;

use super::tag::Signal;

/// One step of the model. *Units*: milliseconds.
const STEP_MS: u64 = 20;
const STEP_S: f64 = 0.02;
const AMBIENT_C: f64 = 22.0;
const OVERHEATED_C: f64 = 70.0;
/// Vibration of a spindle out of balance. *Units*: 1/s.
const TURN_HZ: f64 = 24.0;
const PROGRAMS: [&str; 4] = ["bracket-7", "flange-12", "cover-3", "Gehäuse-4"];

/// What a signal shows at one instant.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// A measured quantity.
    Number(f64),
    /// Something counted.
    Count(u64),
    /// Yes or no.
    Flag(bool),
    /// A name.
    Text(&'static str),
}

/// A machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    random: Random,
    steps: u64,
    state: u64,
    dwell_steps: u64,
    program: usize,
    setpoint: f64,
    speed: f64,
    temperature: f64,
    oil: f64,
    vibration: f64,
    power_kw: f64,
    energy_kwh: f64,
    part_progress: f64,
    parts: u64,
}

impl Model {
    /// Makes a cold machine that starts in automatic mode.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            steps: 0,
            state: 1,
            dwell_steps: 200,
            program: 0,
            setpoint: 1200.0,
            speed: 0.0,
            temperature: AMBIENT_C,
            oil: AMBIENT_C,
            vibration: 0.0,
            power_kw: 0.0,
            energy_kwh: 0.0,
            part_progress: 0.0,
            parts: 0,
        }
    }

    /// Runs the machine up to `elapsed` since its start.
    pub fn run_to(&mut self, elapsed: Duration) {
        let target = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX) / STEP_MS;
        while self.steps < target {
            self.step();
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        self.dwell_steps = self.dwell_steps.saturating_sub(1);
        if self.dwell_steps == 0 {
            self.change_state();
        }
        let turning = if self.state == 0 { 0.0 } else { self.setpoint };
        self.speed += (turning - self.speed) * STEP_S / 0.8 + self.random.noise() * 0.4;
        self.speed = self.speed.max(0.0);
        let load = self.speed / 1000.0;
        self.power_kw = 0.3 + 4.2 * load * load + self.random.noise().abs() * 0.05;
        self.temperature +=
            (AMBIENT_C + 28.0 * load - self.temperature) * STEP_S / 20.0 + self.random.noise() * 0.01;
        self.oil += (self.temperature - self.oil) * STEP_S / 60.0;
        let wear = 1.0 + self.energy_kwh * 0.02;
        self.vibration = (0.4 + 1.8 * load * load * wear + self.random.noise() * 0.05).max(0.0);
        self.energy_kwh += self.power_kw * STEP_S / 3600.0;
        self.part_progress += load * STEP_S * 2.5;
        if self.part_progress >= 1.0 {
            self.part_progress -= 1.0;
            self.parts += 1;
        }
    }

    fn change_state(&mut self) {
        self.state = match self.random.below(10) {
            0..=6 => 1,
            7 | 8 => 2,
            _ => 0,
        };
        self.program = usize::try_from(self.random.below(PROGRAMS.len() as u64)).unwrap_or(0);
        self.setpoint = 600.0 + 100.0 * self.random.below(13) as f64;
        self.dwell_steps = 100 + self.random.below(400);
    }

    /// Shows one signal; [`Signal::Polls`] is counted by whoever replies and shows `polls`.
    #[must_use]
    pub fn show(&self, signal: Signal, polls: u64) -> Shown {
        match signal {
            Signal::Temperature => Shown::Number(self.temperature),
            Signal::OilTemperature => Shown::Number(self.oil),
            Signal::Speed => Shown::Number(self.speed),
            Signal::Setpoint => Shown::Number(self.setpoint),
            Signal::Vibration => Shown::Number(self.vibration),
            Signal::Oscillation => {
                let turn = self.steps as f64 * STEP_S * TURN_HZ * std::f64::consts::TAU;
                Shown::Number(turn.sin() * self.vibration * std::f64::consts::SQRT_2)
            }
            Signal::Power => Shown::Number(self.power_kw),
            Signal::Energy => Shown::Number(self.energy_kwh),
            Signal::EnergyCount => Shown::Count((self.energy_kwh * 1000.0) as u64),
            Signal::State => Shown::Count(self.state),
            Signal::Parts => Shown::Count(self.parts),
            Signal::Running => Shown::Flag(self.speed > 50.0),
            Signal::Overheated => Shown::Flag(self.temperature > OVERHEATED_C),
            Signal::Program => Shown::Text(PROGRAMS.get(self.program).copied().unwrap_or("none")),
            Signal::Polls => Shown::Count(polls),
        }
    }
}

/// SplitMix64. *Source*: Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Gives a number from −1 to 1.
    fn noise(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_show_equal_values_however_often_they_are_asked() {
        let (mut often, mut once) = (Model::new(7), Model::new(7));
        for ms in (0..60_000).step_by(130) {
            often.run_to(Duration::from_millis(ms));
        }
        often.run_to(Duration::from_secs(60));
        once.run_to(Duration::from_secs(60));
        assert_eq!(often, once);
        let mut other = Model::new(8);
        other.run_to(Duration::from_secs(60));
        assert_ne!(other.show(Signal::Speed, 0), once.show(Signal::Speed, 0));
    }

    #[test]
    fn a_running_machine_warms_up_makes_parts_and_never_counts_backwards() {
        let mut model = Model::new(1);
        let (mut parts, mut energy) = (0, 0.0);
        for s in 1..120 {
            model.run_to(Duration::from_secs(s));
            assert!(model.parts >= parts && model.energy_kwh > energy, "second {s}");
            (parts, energy) = (model.parts, model.energy_kwh);
        }
        assert!(parts > 20 && model.temperature > AMBIENT_C + 5.0, "{model:?}");
        assert!(model.temperature < 120.0 && model.vibration < 20.0, "{model:?}");
    }
}
