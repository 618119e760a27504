//! Launches of the kernels of `masked_mse.cu`.

use super::{Comparison, OP};
use crate::Result;
use crate::device::launch::LaunchConfig;
use crate::device::{DType, KernelCall, Tensor};
use crate::ops::gemm::hopper::Follows;
use crate::ops::gemm::{self, Choice, Wanted};
use crate::ops::linear::Layer;

/// The product that compares.
pub(in crate::ops) struct Comparing<'t> {
    /// In place of what the model would choose, for tests.
    pub choice: Option<Choice>,
    pub x: &'t Tensor,
    pub head: &'t Layer,
}

impl<'t> Comparing<'t> {
    fn choose(&self, with: &Comparison<'_>, size: [usize; 3]) -> Choice {
        let [_, width, fan_in] = size;
        let follows = if with.wants_prediction { Follows::CompareKeep } else { Follows::Compare };
        let wanted = Wanted {
            stem: "masked_mse_fwd",
            size,
            operands: [(self.x, fan_in), (self.head.weight.operand(), fan_in)],
            others: vec![(with.target, width)],
            bias: self.head.bias.as_ref().map(|b| &b.value),
            follows: Some(follows),
            may_split: false,
            is_small: false,
        };
        self.choice.unwrap_or_else(|| wanted.choose())
    }

    pub fn run(
        &self,
        losses: &mut Tensor,
        gradient: &mut Tensor,
        pred: Option<&mut Tensor>,
        with: &Comparison<'_>,
    ) -> Result<()> {
        let (device, dtype) = (self.x.device(), self.x.dtype());
        let ((rows, width), (_, fan_in)) = (with.target.matrix(OP)?, self.x.matrix(OP)?);
        let mut statistics = None;
        if with.norm_pix {
            let of = statistics.insert(Tensor::empty(device, DType::F32, &[rows, 4])?);
            KernelCall::typed(device, "masked_mse_init", dtype)
                .output(of)?
                .input(with.target)?
                .value(gemm::size(OP, width)?)
                .launch(LaunchConfig::linear(rows as u32, 256))?;
        }
        let per_group = |of: f64| {
            [0, 1].map(|g| {
                let rows = with.group_rows.get(g).map_or(1.0, |&rows| rows as f64);
                (of / (width as f64 * rows)) as f32
            })
        };
        let first_rows = with.group_rows.first().copied().unwrap_or(0);
        let scales = per_group(2.0);
        let sizes = [rows, width, fan_in];
        let sums =
            match self.choose(with, sizes) {
                Choice::Portable(plan) => {
                    let mut sums =
                        Tensor::empty(device, DType::F32, &[plan.launch.grid[0] as usize, 2])?;
                    let call = KernelCall::new(device, &plan.kernel("masked_mse_fwd", dtype))
                        .output(gradient)?
                        .optional_output(pred)?
                        .output(&mut sums)?
                        .input(self.x)?
                        .input(self.head.weight.operand())?
                        .optional(self.head.bias.as_ref().map(|b| &b.value))?
                        .input(with.target)?
                        .optional(statistics.as_ref())?;
                    let call = gemm::sizes(OP, sizes)?.into_iter().fold(call, KernelCall::value);
                    call.value(gemm::size(OP, first_rows)?)
                        .value(scales[0])
                        .value(scales[1])
                        .launch(plan.launch)?;
                    sums
                }
                Choice::Hopper(plan) => {
                    let (tile, sides) = (&plan.tile, [rows, width]);
                    let strips = tile.strips(rows) * width.div_ceil(tile.columns());
                    let mut sums = Tensor::empty(device, DType::F32, &[strips, 2])?;
                    let panel = tile.panel_box(Follows::Compare);
                    let keeps = pred.is_some();
                    let call = KernelCall::new(device, &plan.kernel("masked_mse_fwd"))
                        .output_boxes(&mut gradient.as_mut(), &sides, &panel)?;
                    let call = match pred {
                        Some(pred) => call.output_boxes(&mut pred.as_mut(), &sides, &panel)?,
                        None => call.no_boxes(),
                    };
                    let call = call
                        .boxes(with.target, &sides, &panel)?
                        .boxes(self.x, &[rows, fan_in], &tile.a_box(true))?
                        .boxes(self.head.weight.operand(), &[width, fan_in], &tile.b_box(true))?
                        .output(&mut sums)?
                        .optional(self.head.bias.as_ref().map(|b| &b.value))?
                        .optional(statistics.as_ref())?;
                    let call = gemm::sizes(OP, sizes)?.into_iter().fold(call, KernelCall::value);
                    call.value(gemm::size(OP, first_rows)?)
                        .value(i32::from(keeps))
                        .value(scales[0])
                        .value(scales[1])
                        .launch(plan.launch)?;
                    sums
                }
            };
        let [factor, other_factor] = per_group(1.0);
        KernelCall::new(device, "masked_mse_fwd_f32_mean")
            .output(losses)?
            .input(&sums)?
            .value(gemm::size(OP, sums.shape()[0])?)
            .value(gemm::size(OP, with.group_rows.len())?)
            .value(factor)
            .value(other_factor)
            .launch(LaunchConfig::linear(1, 256))
    }
}
