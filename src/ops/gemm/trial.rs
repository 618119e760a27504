//! A product of a step by itself, with any of the kernels that can do it: to find the fastest on a card.

use super::hopper::{self, Follows, Plan};
use super::products::Product;
use super::{Choice, is_k_major};
use crate::device::{DType, Device, Tensor};
use crate::ops::linear::Layer;
use crate::ops::linear::launch::{Forward, InputGradient, ParamGradient};
use crate::ops::masked_mse::{Comparing, Comparison};
use crate::ops::patch_embed::Embedding;
use crate::ops::row_assemble::{AssemblePlan, Assembly, RowSource};
use crate::ops::weight_norm_linear;
use crate::rng::{Purpose, Rng};
use crate::tape::{GradMode, Param};
use crate::{Error, Result};

/// A kernel that can do a product, and into how many parts it splits the sums.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    plan: Plan,
}

impl Candidate {
    pub fn tile(&self) -> &'static str {
        self.plan.tile.name()
    }

    pub fn parts(&self) -> usize {
        self.plan.parts
    }
}

/// All tiles that can do the product, the model's choice first; of parts those that the model prefers for a tile, and
/// half and twice as many.
pub fn candidates(product: &Product) -> Vec<Candidate> {
    let Product { m, n, k, parts, may_split: splits, is_small, .. } = *product;
    let Some(follows) = product.follows else { return Vec::new() };
    let mut found: Vec<Candidate> = Vec::new();
    for tile in hopper::tiles(is_small).iter().filter(|tile| tile.can(follows)) {
        let best = hopper::choose(&[*tile], [m, n, k], follows, splits).parts;
        let tried = if splits { vec![parts, best, best / 2, 2 * best] } else { vec![1] };
        for parts in tried.into_iter().filter(|&parts| parts > 0) {
            let plan = Plan::new(*tile, [m, n, k], parts);
            if found.iter().all(|c| c.plan.tile != plan.tile || c.plan.parts != plan.parts) {
                found.push(Candidate { plan });
            }
        }
    }
    let is_chosen = |c: &Candidate| {
        product.kernel.ends_with(c.plan.tile.variant) && c.plan.parts == product.parts
    };
    found.sort_by_key(|c| !is_chosen(c));
    found
}

/// Operands and results of a product on a device.
pub struct Trial {
    stem: &'static str,
    follows: Follows,
    a: Tensor,
    b: Tensor,
    /// What is added, or what a derivative is taken at, or the target.
    other: Tensor,
    bias: Tensor,
    out: Tensor,
    /// A second result.
    kept: Tensor,
    /// Every row stays where it is, and its position.
    places: Option<(AssemblePlan, Tensor)>,
}

impl Trial {
    /// With random operands, other ones for every `seed`.
    ///
    /// Errors: `Unsupported` for a product that no kernel of Hopper does; those of the device.
    pub fn new(device: &Device, product: &Product, seed: u64) -> Result<Self> {
        let Product { m, n, k, stem, .. } = *product;
        let follows = product.follows.ok_or_else(|| {
            Error::Unsupported(format!("{stem} {m} x {n} x {k}: no kernel for Hopper does it"))
        })?;
        let mut rng = Rng::new(seed, Purpose::Test, 0, 0, 0);
        let pattern: Vec<half::bf16> =
            (0..1 << 16).map(|_| half::bf16::from_f64(rng.range(-1.0, 1.0))).collect();
        let random = |rows: usize, columns: usize| -> Result<Tensor> {
            let values: Vec<half::bf16> =
                pattern.iter().copied().cycle().take(rows * columns).collect();
            Tensor::from_slice(device, &values, &[rows, columns])
        };
        // As they lie in memory: what is MN-major has k as its rows.
        let [a_is_k_major, b_is_k_major] = is_k_major(stem);
        let sides = |is_k_major, n| if is_k_major { [n, k] } else { [k, n] };
        let ([am, ak], [bn, bk]) = (sides(a_is_k_major, m), sides(b_is_k_major, n));
        let out = match follows {
            Follows::Parts => DType::F32,
            _ => DType::Bf16,
        };
        let mut places = None;
        if follows == Follows::Place {
            const POSITIONS: usize = 128;
            let rows: Vec<RowSource> =
                (0..m).map(|i| RowSource { row: Some(i), position: i % POSITIONS }).collect();
            let table = Tensor::zeros(device, DType::F32, &[POSITIONS, n])?;
            places = Some((AssemblePlan::new(device, m, POSITIONS, &rows)?, table));
        }
        Ok(Self {
            stem,
            follows,
            places,
            a: random(am, ak)?,
            b: random(bn, bk)?,
            other: random(m, n)?,
            bias: Tensor::zeros(device, DType::F32, &[n.max(m)])?.view(0, &[n])?,
            // Where the result is added to what is there.
            out: Tensor::zeros(device, out, &[m, n])?,
            kept: Tensor::empty(device, out, &[m, n])?,
        })
    }

    /// Starts the kernels of one product.
    ///
    /// Errors: those of the device.
    pub fn launch(&mut self, candidate: &Candidate) -> Result<()> {
        let choice = Choice::Hopper(candidate.plan);
        let Self { stem, follows, a, b, other, bias, out, kept, places } = self;
        let is = |wanted| *follows == wanted;
        let layer = || Layer {
            weight: Param::constant(b.clone()),
            bias: Some(Param::constant(bias.clone())),
        };
        match *stem {
            "linear_fwd" => {
                let mut forward = Forward::new(a, b)?;
                forward.choice = Some(choice);
                let keeps = is(Follows::GeluKeep);
                let adds = Some(&*other).filter(|_| is(Follows::Add));
                let applies_gelu = keeps || is(Follows::Gelu);
                forward.run(out, Some(kept).filter(|_| keeps), Some(bias), adds, applies_gelu)
            }
            "linear_bwd_x" => {
                let mut gradient = InputGradient::new(a, b)?;
                gradient.choice = Some(choice);
                let pre = Some(&*other).filter(|_| is(Follows::GeluGrad));
                let mode =
                    if is(Follows::Add) { GradMode::Accumulate } else { GradMode::Overwrite };
                gradient.run(&mut out.as_mut(), pre, mode)
            }
            "linear_bwd_params" => {
                let mut gradient = ParamGradient::new(a, b)?;
                gradient.choice = choice;
                let mut biases = kept.as_mut();
                gradient.run(true, |call, place| {
                    let call = place.append(call, &mut out.as_mut())?;
                    Ok((call.output_mut(&mut biases)?, [GradMode::Overwrite; 2]))
                })
            }
            "masked_mse_fwd" => {
                let comparing = Comparing { choice: Some(choice), x: a, head: &layer() };
                let keeps = is(Follows::CompareKeep);
                let (rows, _) = a.matrix(stem)?;
                let with = Comparison {
                    target: other,
                    group_rows: &[rows],
                    norm_pix: false,
                    wants_prediction: keeps,
                };
                let mut losses = Tensor::empty(a.device(), DType::F32, &[1])?;
                comparing.run(&mut losses, out, Some(kept).filter(|_| keeps), &with)
            }
            "patch_embed_fwd" => {
                let Some((plan, table)) = places else {
                    return Err(hopper::unsupported(stem, "a product without places"));
                };
                let with = Assembly { token: &Param::constant(bias.clone()), table, plan };
                let choice = Some(choice);
                Embedding { choice, x: a, layer: &layer(), with: &with }.run(out)
            }
            _ => weight_norm_linear::launch::trial(stem, [a, b], out, &candidate.plan),
        }
    }
}
