//! The matrix products of a step, which kernel each of them is given, and what the choice rests on. Runs no kernel.

use serde::Serialize;

use crate::Result;
use crate::config::Config;
use crate::device::KernelSet;
use crate::ops::gemm::products::Product;
use crate::train::pretrain::memory;

/// Equal products of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub product: Product,
    /// How often the step has it.
    pub times: usize,
    /// The kernel for GPUs without Hopper's instructions, and its blocks.
    pub portable: String,
    pub portable_blocks: u64,
}

impl Row {
    /// 10^9 FLOP of all of them.
    pub fn gflop(&self) -> f64 {
        let Product { m, n, k, .. } = self.product;
        2e-9 * self.times as f64 * m as f64 * n as f64 * k as f64
    }
}

/// The products of a micro-batch of `config` in bf16, those with the most FLOP first.
///
/// Errors: those that the first step would meet.
pub fn products(config: &Config) -> Result<Vec<Row>> {
    let mut config = config.clone();
    config.train.accumulation = 1;
    let hopper = memory::products(&config, KernelSet::Hopper)?;
    let portable = memory::products(&config, KernelSet::Portable)?;
    let mut rows: Vec<Row> = Vec::new();
    for (product, other) in hopper.into_iter().zip(portable) {
        match rows.iter_mut().find(|row| row.product == product) {
            Some(row) => row.times += 1,
            None => rows.push(Row {
                product,
                times: 1,
                portable: other.kernel,
                portable_blocks: other.blocks,
            }),
        }
    }
    rows.sort_by(|a, b| b.gflop().total_cmp(&a.gflop()));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_large_product_of_a_step_has_a_kernel_of_hopper() {
        let config = Config::load("vit-b", &["train.batch=1".into()]).unwrap();
        let rows = products(&config).unwrap();
        let all: f64 = rows.iter().map(Row::gflop).sum();
        let portable: Vec<&Row> = rows.iter().filter(|row| row.product.model.is_none()).collect();
        assert!(rows.len() > 20, "{}", rows.len());
        assert!(portable.is_empty(), "{portable:?}");
        // Attention is no product of this kind: a seventh of the step is missing here.
        let mut config = config;
        config.train.accumulation = 1;
        let step = crate::lab::bench_step::step_gflop(&config);
        assert!(all > 0.8 * step && all < 1.05 * step, "{all} of {step}");
        for row in &rows {
            let model = row.product.model.as_ref().unwrap();
            assert!(model.cycles <= model.second_cycles * 1.0001, "{row:?}");
            assert!(row.product.kernel.contains("_bf16_hopper_"), "{row:?}");
            assert!(row.portable.contains("_bf16_") && !row.portable.contains("hopper"), "{row:?}");
        }
    }
}
