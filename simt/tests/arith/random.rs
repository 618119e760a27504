//! Numbers for tests: repeatable, and rich in the cases that are hard.

pub struct Random(glmae_simt::random::Random);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(glmae_simt::random::Random::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.draw()
    }

    pub fn word(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bits of a word: random, with long runs, or near an end of the range.
    pub fn bits(&mut self) -> u64 {
        match self.below(4) {
            0 => self.next(),
            1 => self.next() >> self.below(64),
            2 => (self.below(5) as i64 - 2) as u64,
            _ => (u64::MAX << self.below(64)) ^ self.below(3),
        }
    }

    /// A single-precision number, among them many zeros, subnormal numbers, infinities, NaN, numbers with few
    /// bits, and numbers with exponents near one.
    pub fn f32(&mut self) -> f32 {
        let sign = self.word() & 1 << 31;
        let fraction = match self.below(4) {
            0 => 0,
            1 => 0x007f_ffff & (u32::MAX << self.below(24)),
            2 => 1 << self.below(23),
            _ => self.word() & 0x007f_ffff,
        };
        let exponent = match self.below(8) {
            0 => 0,
            1 => [1, 2, 254, 255][self.below(4) as usize],
            2 | 3 => self.below(256) as u32,
            _ => 100 + self.below(54) as u32,
        };
        f32::from_bits(sign | exponent << 23 | fraction)
    }

    /// A double-precision number of the same kinds.
    pub fn f64(&mut self) -> f64 {
        let sign = self.next() & 1 << 63;
        let fraction = match self.below(4) {
            0 => 0,
            1 => ((1 << 52) - 1) & (u64::MAX << self.below(53)),
            2 => 1 << self.below(52),
            _ => self.next() >> 12,
        };
        let exponent = match self.below(8) {
            0 => 0,
            1 => [1, 2, 2046, 2047][self.below(4) as usize],
            2 => self.below(2048),
            3 => 500 + self.below(60),
            _ => 990 + self.below(66),
        };
        f64::from_bits(sign | exponent << 52 | fraction)
    }
}
