//! The one source of chance: everything that a seed does follows from it.

/// SplitMix64. *Source*: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Begins with a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Begins the stream of one concern of a seed, so that what another concern rolls does not move this one's.
    ///
    /// *Source*: FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
    #[must_use]
    pub fn of(seed: u64, concern: &str) -> Self {
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        let hash = concern.bytes().fold(0xcbf2_9ce4_8422_2325, step);
        Self(Self(seed ^ hash).bits())
    }

    /// Makes dice that roll on their own from here on.
    pub const fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// Gives 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Gives a number below a bound; 0 where the bound is 0.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.bits() % below.max(1)
    }

    /// Gives a number below a bound, for times.
    pub fn us(&mut self, below: i64) -> i64 {
        i64::try_from(self.roll(below.unsigned_abs())).unwrap_or(0)
    }

    /// Gives a place in something so long.
    pub fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.roll(length as u64)).unwrap_or(0)
    }

    /// Is true once in so many times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }

    /// Chooses by weight; `None` where all weights are 0.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u32, T)]) -> Option<T> {
        let total: u32 = choices.iter().map(|(weight, _)| weight).sum();
        let mut left = self.roll(u64::from(total));
        for &(weight, choice) in choices {
            if left < u64::from(weight) {
                return Some(choice);
            }
            left -= u64::from(weight);
        }
        None
    }
}
