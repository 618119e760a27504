//! Numbers for tests of random geometry: the same in every run.

pub struct Random(crate::random::Random);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(crate::random::Random::new(seed))
    }

    pub fn bits(&mut self) -> u64 {
        self.0.draw()
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: i64, high: i64) -> i64 {
        low + self.0.below((high - low + 1) as u64) as i64
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.within(0, from.len() as i64 - 1) as usize]
    }
}
