//! Measures every kernel that can do each product of a step on a GPU, and writes down the fastest: see
//! [`crate::ops::gemm::tuning`].

use serde::Serialize;

use super::clock::Moment;
use super::products::Row;
use crate::device::{Device, KernelSet};
use crate::ops::gemm::products::Product;
use crate::ops::gemm::trial::{Candidate, Trial, candidates};
use crate::ops::gemm::tuning::{Tuned, Tuning};
use crate::{Error, Result};

/// Sets of operands that launches go through, so that not all of them are in L2 by accident.
const SETS: u64 = 3;

/// One kernel's times for a product.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    pub tile: &'static str,
    pub parts: usize,
    /// Microseconds of a launch: median of the passes, the least and the most.
    pub us: f64,
    pub us_min: f64,
    pub us_max: f64,
}

/// A product and all its kernels, the model's choice first.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub product: Product,
    pub times: usize,
    pub timed: Vec<Timed>,
}

impl Measured {
    /// The fastest.
    pub fn best(&self) -> Option<&Timed> {
        self.timed.iter().min_by(|a, b| a.us.total_cmp(&b.us))
    }
}

/// Times the kernels of these products; `after` is told of each product.
///
/// Errors: `Unsupported` where there is no GPU with Hopper's instructions; those of the device.
pub fn measure(
    device: &Device,
    rows: &[Row],
    passes: usize,
    after: &mut dyn FnMut(&Measured),
) -> Result<Vec<Measured>> {
    if device.is_simulated() || device.kernel_set() != KernelSet::Hopper {
        return Err(Error::Unsupported(format!(
            "timing Hopper's kernels on {}: they run on GPUs of compute capability 9.0",
            device.name()
        )));
    }
    let mut all = Vec::new();
    for row in rows.iter().filter(|row| row.product.follows.is_some()) {
        let measured = Measured {
            product: row.product.clone(),
            times: row.times,
            timed: product(device, &row.product, passes)?,
        };
        after(&measured);
        all.push(measured);
    }
    Ok(all)
}

fn product(device: &Device, product: &Product, passes: usize) -> Result<Vec<Timed>> {
    let mut sets =
        (0..SETS).map(|seed| Trial::new(device, product, seed)).collect::<Result<Vec<_>>>()?;
    candidates(product).iter().map(|candidate| time(device, &mut sets, candidate, passes)).collect()
}

fn time(
    device: &Device,
    sets: &mut [Trial],
    candidate: &Candidate,
    passes: usize,
) -> Result<Timed> {
    let mut us = Vec::new();
    // The first pass loads the kernel and warms up.
    for pass in 0..=passes.max(1) {
        let begin = Moment::now(device)?;
        for _ in 0..2 {
            for set in &mut *sets {
                set.launch(candidate)?;
            }
        }
        let end = Moment::now(device)?;
        if pass > 0 {
            us.push(1e6 * begin.seconds_to(&end)? / (2 * sets.len()) as f64);
        }
    }
    us.sort_by(f64::total_cmp);
    Ok(Timed {
        tile: candidate.tile(),
        parts: candidate.parts(),
        us: us[us.len() / 2],
        us_min: us[0],
        us_max: us[us.len() - 1],
    })
}

/// The table of the fastest, for a card of this name.
pub fn tuning(card: &str, measured: &[Measured]) -> Tuning {
    let of = |m: &Measured| {
        let (best, model) = (m.best()?, m.timed.first()?);
        let Product { m, n, k, stem, follows, .. } = m.product;
        Some(Tuned {
            stem: stem.to_owned(),
            m,
            n,
            k,
            follows: follows?,
            tile: best.tile.to_owned(),
            parts: best.parts,
            us: best.us,
            model_us: model.us,
        })
    };
    Tuning { card: card.to_owned(), products: measured.iter().filter_map(of).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::lab::products::products;

    fn rows() -> Vec<Row> {
        products(&Config::load("tiny", &["train.batch=1".into()]).unwrap()).unwrap()
    }

    #[test]
    fn it_needs_a_gpu() {
        let message = measure(&Device::dry(), &rows(), 1, &mut |_| {}).unwrap_err().to_string();
        assert!(message.contains("compute capability 9.0"), "{message}");
    }

    #[test]
    fn the_fastest_of_each_product_is_written_down() {
        let row = rows().into_iter().find(|row| row.product.stem == "linear_fwd").unwrap();
        let timed = |tile, us| Timed { tile, parts: 1, us, us_min: us, us_max: us };
        let all = vec![timed("64x64", 3.0), timed("128x128", 2.0), timed("128x192", 4.0)];
        let measured = Measured { product: row.product.clone(), times: row.times, timed: all };
        let tuning = tuning("a card", &[measured]);
        assert_eq!(tuning.products.len(), 1);
        let tuned = &tuning.products[0];
        assert_eq!((tuned.tile.as_str(), tuned.us, tuned.model_us), ("128x128", 2.0, 3.0));
        tuning.apply().unwrap();
        Tuning::default().apply().unwrap();
    }

    /// Every kernel of every kind of product that a step has, once: what is timed is what it says.
    #[cfg(feature = "cuda")]
    #[test]
    fn every_candidate_runs_on_its_operands() {
        use crate::device::ptx::{Arch, Options, Ptx};
        use std::sync::Arc;
        let options = Options { kernels: KernelSet::Hopper, ..Options::default() };
        let Ok(ptx) = Ptx::new(Arch::Sm90a, options) else {
            println!("skipped: this binary has no PTX of sm_90a");
            return;
        };
        let device = Device::Ptx(Arc::new(ptx));
        let mut kinds: Vec<Product> = Vec::new();
        for Row { product, .. } in rows() {
            if kinds.iter().all(|kind| (kind.stem, kind.follows) != (product.stem, product.follows))
            {
                kinds.push(Product { m: product.m.min(80), k: product.k.min(136), ..product });
            }
        }
        assert!(kinds.len() >= 8, "{kinds:?}");
        for kind in kinds {
            let candidates = candidates(&kind);
            assert!(candidates.len() >= 2, "{kind:?}");
            let mut trial = Trial::new(&device, &kind, 1).unwrap();
            for candidate in &candidates {
                trial.launch(candidate).unwrap_or_else(|e| panic!("{kind:?} {candidate:?}: {e}"));
            }
        }
    }
}
