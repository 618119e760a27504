//! Random token masks.

use crate::rng::Rng;
use crate::{Error, Result};

/// Which tokens of a view the student sees.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// Visible tokens in the order in which they enter the encoder.
    keep: Vec<usize>,
    /// Masked tokens in raster order.
    masked: Vec<usize>,
    /// For every token, its place in `keep`; `None` for masked ones.
    place: Vec<Option<usize>>,
}

impl Mask {
    /// Keeps a uniformly random choice of `visible` of `tokens` tokens, in random order: the
    /// first of a random permutation, as MAE does.
    ///
    /// Source: docs/method.md, 2.3 (independent for every view, global and local alike).
    pub fn random(rng: &mut Rng, tokens: usize, visible: usize) -> Self {
        let order = rng.permutation(tokens);
        let keep: Vec<usize> = order[..visible.min(tokens)].iter().map(|&t| t as usize).collect();
        Self::build(tokens, keep)
    }

    /// Keeps `keep`. Errors: a token that does not exist or is named twice.
    pub fn from_keep(tokens: usize, keep: &[usize]) -> Result<Self> {
        let mut seen = vec![false; tokens];
        for &t in keep {
            if t >= tokens || std::mem::replace(&mut seen[t], true) {
                let expected = format!("distinct tokens below {tokens}");
                return Err(Error::shape("mask", expected, format!("token {t}")));
            }
        }
        Ok(Self::build(tokens, keep.to_vec()))
    }

    /// The first `visible` tokens are visible: all that a plan of memory needs to know of a mask.
    pub fn leading(tokens: usize, visible: usize) -> Self {
        Self::build(tokens, (0..visible.min(tokens)).collect())
    }

    /// Keeps every token in raster order: what the teacher sees.
    pub fn none(tokens: usize) -> Self {
        Self::build(tokens, (0..tokens).collect())
    }

    fn build(tokens: usize, keep: Vec<usize>) -> Self {
        let mut place = vec![None; tokens];
        for (i, &t) in keep.iter().enumerate() {
            place[t] = Some(i);
        }
        let masked = (0..tokens).filter(|&t| place[t].is_none()).collect();
        Self { keep, masked, place }
    }

    pub fn tokens(&self) -> usize {
        self.place.len()
    }

    pub fn keep(&self) -> &[usize] {
        &self.keep
    }

    pub fn masked(&self) -> &[usize] {
        &self.masked
    }

    /// The place of a token among the visible ones.
    pub fn place(&self, token: usize) -> Option<usize> {
        self.place.get(token).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    /// Chi-square over how often each of 64 tokens is kept in 20,000 masks of 16. The counts of
    /// one mask are not independent (they sum to 16), which shrinks the statistic by 48/63.
    #[test]
    fn every_token_is_kept_equally_often() {
        let mut counts = [0u32; 64];
        for step in 0..20_000 {
            let mut rng = Rng::new(3, Purpose::Mask, step, 0, 0);
            for &t in Mask::random(&mut rng, 64, 16).keep() {
                counts[t] += 1;
            }
        }
        let variance = 20_000.0 * 0.25 * 0.75;
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - 5000.0).powi(2) / variance).sum();
        // 63 degrees of freedom: p > 1e-3 lies between 32.9 and 103.4.
        assert!((32.0..104.0).contains(&chi2), "chi-square {chi2}");
    }

    #[test]
    fn keep_and_masked_partition_the_tokens() {
        let mut rng = Rng::new(3, Purpose::Mask, 1, 2, 3);
        let mask = Mask::random(&mut rng, 27, 6);
        let mut all: Vec<usize> = mask.keep().iter().chain(mask.masked()).copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..27).collect::<Vec<_>>());
        assert!(mask.keep().iter().enumerate().all(|(i, &t)| mask.place(t) == Some(i)));
        assert!(Mask::from_keep(4, &[1, 1]).is_err() && Mask::from_keep(4, &[4]).is_err());
    }
}
