//! Counter-based randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011). Every draw is a pure function of a key and a counter, so a run depends
//! neither on threads nor on where it was resumed, and a kernel can draw the same bits.

use std::f64::consts::TAU;

use rayon::prelude::*;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// One block of Philox4x32-10: four random words from a 128-bit counter and a 64-bit key.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
        }
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [
            (p1 >> 32) as u32 ^ c[1] ^ k[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ c[3] ^ k[1],
            p0 as u32,
        ];
    }
    c
}

/// What a stream of random numbers is for. Streams of different purposes never share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Initial parameters; `sample` is the index of the parameter.
    Init = 1,
    /// The order of the cases within an epoch; `step` is the epoch.
    Order = 2,
    /// Position and size of a view.
    Crop = 3,
    /// Which tokens of a view are masked.
    Mask = 4,
    /// Augmentation of a view or a crop.
    Augment = 5,
    /// Synthetic volumes of the demo.
    Synthetic = 6,
    /// Tests and benchmarks.
    Test = 7,
    /// Which labelled cases a fraction of a set holds.
    Subset = 8,
    /// Resamples of cases for a confidence interval.
    Bootstrap = 9,
}

/// A stream of random numbers named by `(seed, purpose, step, sample, view)`.
///
/// The key is the seed. The counter holds, from word 3 to word 0: purpose (8 bits) and view
/// (24 bits), sample, step (low 32 bits), and the number of the block within the stream; the high
/// bits of a step beyond 2^32 are mixed into the key.
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    counter: [u32; 4],
    words: [u32; 4],
    used: usize,
}

impl Rng {
    /// Opens the stream of these names. `view` must be below 2^24.
    pub fn new(seed: u64, purpose: Purpose, step: u64, sample: u32, view: u32) -> Self {
        debug_assert!(view < 1 << 24, "view number {view} does not fit 24 bits");
        let high = (step >> 32) as u32;
        Self {
            key: [seed as u32, (seed >> 32) as u32 ^ high.wrapping_mul(WEYL[0])],
            counter: [0, step as u32, sample, (purpose as u32) << 24 | (view & 0x00FF_FFFF)],
            words: [0; 4],
            used: 4,
        }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox4x32(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// The same stream, `words` 32-bit numbers further on.
    fn ahead(&self, words: usize) -> Self {
        let mut later = self.clone();
        let from_block = self.used + words;
        // Words 0..4 of the block at hand, 4..8 of the next one, and so on.
        if from_block > 4 {
            let blocks = (from_block - 1) / 4;
            later.counter[0] = self.counter[0].wrapping_add(blocks as u32 - 1);
            later.words = philox4x32(later.counter, self.key);
            later.counter[0] = later.counter[0].wrapping_add(1);
            later.used = from_block - 4 * blocks;
        } else {
            later.used = from_block;
        }
        later
    }

    /// `n` draws, the same as one after the other, on all cores. Each must use exactly `words` 32-bit numbers.
    fn many(&mut self, n: usize, words: usize, draw: impl Fn(&mut Self) -> f64 + Sync) -> Vec<f64> {
        const PIECE: usize = 1 << 14;
        if n <= PIECE {
            return (0..n).map(|_| draw(self)).collect();
        }
        let mut drawn = vec![0.0; n];
        let start = &*self;
        drawn.par_chunks_mut(PIECE).enumerate().for_each(|(i, piece)| {
            let mut rng = start.ahead(i * PIECE * words);
            piece.iter_mut().for_each(|x| *x = draw(&mut rng));
        });
        *self = self.ahead(n * words);
        drawn
    }

    /// What `n` calls of [`Rng::uniform`] give, on all cores.
    pub fn uniforms(&mut self, n: usize) -> Vec<f64> {
        self.many(n, 2, Self::uniform)
    }

    /// What `n` calls of [`Rng::range`] give, on all cores.
    pub fn ranges(&mut self, n: usize, lo: f64, hi: f64) -> Vec<f64> {
        self.many(n, 2, |rng| rng.range(lo, hi))
    }

    /// What `n` calls of [`Rng::normal`] give, on all cores.
    pub fn normals(&mut self, n: usize) -> Vec<f64> {
        self.many(n, 4, Self::normal)
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [lo, hi).
    pub fn range(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * self.uniform()
    }

    /// Uniform in 0..n without modulo bias (Lemire's multiplication with rejection). `n` > 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a random index needs a non-empty range");
        let threshold = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal (Box-Muller, one of the pair; libm's `log` and `cos` for the same bits
    /// on every platform).
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * libm::log(u)).sqrt() * libm::cos(TAU * v)
    }

    /// Normal with the tails beyond two standard deviations redrawn.
    pub fn truncated_normal(&mut self) -> f64 {
        loop {
            let x = self.normal();
            if x.abs() <= 2.0 {
                return x;
            }
        }
    }

    /// A uniform permutation of 0..n (Fisher-Yates).
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..n as u32).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64 + 1) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with the Random123 library for philox4x32-10.
    #[test]
    fn random123_known_answers() {
        assert_eq!(
            philox4x32([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    /// Whole pieces and a part of one, from every place within a block.
    #[test]
    fn many_draws_are_the_draws_one_by_one() {
        for skipped in 0..5 {
            let mut one = Rng::new(11, Purpose::Test, 3, 1, 4);
            for _ in 0..skipped {
                one.next_u32();
            }
            let mut many = one.clone();
            let normals: Vec<f64> = (0..40_001).map(|_| one.normal()).collect();
            let uniforms: Vec<f64> = (0..33_001).map(|_| one.uniform()).collect();
            assert_eq!(many.normals(40_001), normals);
            assert_eq!(many.uniforms(33_001), uniforms);
            assert_eq!(many.ranges(3, -2.0, 5.0), [0; 3].map(|_| one.range(-2.0, 5.0)));
            assert!(many.normals(0).is_empty());
            assert_eq!(many.next_u32(), one.next_u32());
        }
    }

    #[test]
    fn streams_differ_in_every_name() {
        let first = |s, p, t, i, v| Rng::new(s, p, t, i, v).next_u64();
        let base = first(1, Purpose::Crop, 2, 3, 4);
        for other in [
            first(9, Purpose::Crop, 2, 3, 4),
            first(1, Purpose::Mask, 2, 3, 4),
            first(1, Purpose::Crop, 9, 3, 4),
            first(1, Purpose::Crop, 2 + (1 << 32), 3, 4),
            first(1, Purpose::Crop, 2, 9, 4),
            first(1, Purpose::Crop, 2, 3, 9),
        ] {
            assert_ne!(base, other);
        }
    }

    /// Chi-square over the buckets of `below`: 99 degrees of freedom, p > 1e-3 is below 148.2.
    #[test]
    fn below_is_uniform() {
        let mut rng = Rng::new(5, Purpose::Test, 0, 0, 0);
        let mut counts = [0u32; 100];
        for _ in 0..1_000_000 {
            counts[rng.below(100) as usize] += 1;
        }
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi2 < 148.2, "chi-square {chi2}");
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut rng = Rng::new(6, Purpose::Test, 0, 0, 0);
        let draws: Vec<f64> = (0..200_000).map(|_| rng.normal()).collect();
        let mean = draws.iter().sum::<f64>() / 2e5;
        let var = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2e5;
        assert!(mean.abs() < 0.01 && (var - 1.0).abs() < 0.015, "mean {mean}, variance {var}");
    }
}
