//! Launches of the kernels of `masked_mse.cu`.

use super::{Comparison, OP};
use crate::Result;
use crate::device::launch::LaunchConfig;
use crate::device::{DType, KernelCall, Tensor};
use crate::ops::gemm::hopper::{self, Follows};
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
        let (mut statistics, keeps) = (None, pred.is_some());
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
        let sizes = [rows, width, fan_in];
        let choice = self.choose(with, sizes);
        let (call, sums, launch) = match &choice {
            Choice::Portable(plan) => {
                self.portable(plan, gradient, pred, with, statistics.as_ref())?
            }
            Choice::Hopper(plan) => self.hopper(plan, gradient, pred, with, statistics.as_ref())?,
        };
        let call = gemm::sizes(OP, sizes)?.into_iter().fold(call, KernelCall::value);
        let first_rows = with.group_rows.first().copied().unwrap_or(0);
        let call = call.value(gemm::size(OP, first_rows)?);
        let call = match choice {
            Choice::Portable(_) => call,
            Choice::Hopper(_) => call.value(i32::from(keeps)),
        };
        let [scale, other_scale] = per_group(2.0);
        call.value(scale).value(other_scale).launch(launch)?;
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

    /// The call up to its matrices, the sums that it writes, and its extent.
    fn portable(
        &self,
        plan: &gemm::Plan,
        gradient: &mut Tensor,
        pred: Option<&mut Tensor>,
        with: &Comparison<'_>,
        statistics: Option<&Tensor>,
    ) -> Result<(KernelCall<'t>, Tensor, LaunchConfig)> {
        let (device, dtype) = (self.x.device(), self.x.dtype());
        let blocks = plan.launch.grid[0] as usize;
        let mut sums = Tensor::empty(device, DType::F32, &[blocks, 2])?;
        let call = KernelCall::new(device, &plan.kernel("masked_mse_fwd", dtype))
            .output(gradient)?
            .optional_output(pred)?
            .output(&mut sums)?
            .input(self.x)?
            .input(self.head.weight.operand())?
            .optional(self.head.bias.as_ref().map(|b| &b.value))?
            .input(with.target)?
            .optional(statistics)?;
        Ok((call, sums, plan.launch))
    }

    /// Likewise.
    fn hopper(
        &self,
        plan: &hopper::Plan,
        gradient: &mut Tensor,
        pred: Option<&mut Tensor>,
        with: &Comparison<'_>,
        statistics: Option<&Tensor>,
    ) -> Result<(KernelCall<'t>, Tensor, LaunchConfig)> {
        let ((rows, width), (_, fan_in)) = (with.target.matrix(OP)?, self.x.matrix(OP)?);
        let (device, tile, sides) = (self.x.device(), &plan.tile, [rows, width]);
        let strips = tile.strips(rows) * width.div_ceil(tile.columns());
        let mut sums = Tensor::empty(device, DType::F32, &[strips, 2])?;
        let panel = tile.panel_box(Follows::Compare);
        let call = KernelCall::new(device, &plan.kernel("masked_mse_fwd"));
        let call = call.output_boxes(&mut gradient.as_mut(), &sides, &panel)?;
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
            .optional(statistics)?;
        Ok((call, sums, plan.launch))
    }
}
