//! Initial parameters.

use super::params::Params;
use crate::Result;
use crate::param_layout::ParamEntry;
use crate::rng::{Purpose, Rng};

/// Draws every parameter from its own stream, named by its place in the layout, so that the order of
/// drawing does not matter.
///
/// Xavier uniform for linear weights and for the patch kernel seen as `[dim, C p^3]`; cls and
/// mask tokens N(0, 0.02^2); weights of the head's MLP truncated normal with sigma 0.02;
/// `weight_v` uniform in +-1/sqrt(fan-in); `weight_g` and norm weights 1; biases 0; kernels of
/// convolutions uniform in +-1/sqrt(fan-in), as PyTorch draws them.
///
/// Source: docs/method.md, 3.9.
pub fn init(params: &mut Params, seed: u64) -> Result<()> {
    let entries = params.layout().entries().to_vec();
    for (index, entry) in entries.iter().enumerate() {
        let mut rng = Rng::new(seed, Purpose::Init, 0, index as u32, 0);
        params.value_mut(&entry.name)?.upload_f64(&draws(entry, &mut rng))?;
    }
    Ok(())
}

fn draws(entry: &ParamEntry, rng: &mut Rng) -> Vec<f64> {
    let n = entry.len();
    let fan_out = entry.shape[0] as f64;
    let fan_in = n as f64 / fan_out;
    let name = entry.name.as_str();
    let within = |rng: &mut Rng, bound: f64| rng.ranges(n, -bound, bound);
    // PyTorch's default for convolutions, which MONAI leaves as it is.
    if name.ends_with(".conv.weight") {
        let fan = match entry.shape[..] {
            // Transposed: [in, out, 2, 2, 2].
            [_, out, 2, 2, 2] => out * 8,
            [_, c, k, ..] => c * k * k * k,
            _ => n,
        };
        within(rng, 1.0 / (fan as f64).sqrt())
    } else if name.ends_with(".bias") {
        vec![0.0; n]
    } else if entry.shape.len() == 1 || name.ends_with("weight_g") {
        vec![1.0; n]
    } else if name.ends_with("_token") {
        (0..n).map(|_| 0.02 * rng.normal()).collect()
    } else if name.starts_with("head.mlp.") {
        (0..n).map(|_| 0.02 * rng.truncated_normal()).collect()
    } else if name.ends_with("weight_v") {
        rng.ranges(n, -1.0, 1.0).into_iter().map(|x| x / fan_in.sqrt()).collect()
    } else {
        let bound = (6.0 / (fan_in + fan_out)).sqrt();
        rng.ranges(n, -1.0, 1.0).into_iter().map(|x| x * bound).collect()
    }
}
