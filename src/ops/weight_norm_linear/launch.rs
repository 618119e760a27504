//! Launches of the kernels of `weight_norm_linear.cu`, and the backward made of them.

use super::{OP, WeightNormBwd};
use crate::Result;
use crate::device::launch::{DevicePtr, LaunchConfig};
use crate::device::tensor_map::allows_boxes;
use crate::device::{DType, KernelCall, Tensor};
use crate::ops::gemm::hopper::{self, Follows};
use crate::ops::gemm::{self, Choice, Wanted};
use crate::tape::{GradMode, Grads, Param};

/// One warp per row of v.
fn warps(rows: usize) -> LaunchConfig {
    LaunchConfig::linear(rows.div_ceil(4).max(1) as u32, 128)
}

fn sizes(rows: usize, out: usize, fan_in: usize) -> Result<[i32; 3]> {
    Ok([gemm::size(OP, rows)?, gemm::size(OP, out)?, gemm::size(OP, fan_in)?])
}

/// Normalised, scaled weight rows, and the lengths of the rows of v.
pub(super) fn normalise(
    weight: &mut Tensor,
    norm: &mut Tensor,
    g: &Tensor,
    v: &Tensor,
) -> Result<()> {
    let (out, fan_in) = weight.matrix(OP)?;
    KernelCall::typed(v.device(), "weight_norm_linear_init", weight.dtype())
        .output(weight)?
        .output(norm)?
        .input(g)?
        .input(v)?
        .value(gemm::size(OP, out)?)
        .value(gemm::size(OP, fan_in)?)
        .launch(warps(out))
}

/// `y = x W^T`.
pub(super) fn forward(y: &mut Tensor, x: &Tensor, weight: &Tensor) -> Result<()> {
    let ((rows, fan_in), (out, _)) = (x.matrix(OP)?, weight.matrix(OP)?);
    if y.is_empty() {
        return Ok(());
    }
    let product = Product {
        stem: "weight_norm_linear_fwd",
        operands: [(x, fan_in), (weight, fan_in)],
        size: [rows, out, fan_in],
        may_split: false,
    };
    match product.choose() {
        Choice::Hopper(plan) => product.run_hopper(y, &plan),
        Choice::Portable(plan) => {
            let call = KernelCall::new(x.device(), &plan.kernel(product.stem, x.dtype()))
                .output(y)?
                .input(x)?
                .input(weight)?;
            sizes(rows, out, fan_in)?.into_iter().fold(call, KernelCall::value).launch(plan.launch)
        }
    }
}

/// One of the products of this op, whose result is f32.
struct Product<'t> {
    stem: &'static str,
    /// Each with its number of columns.
    operands: [(&'t Tensor, usize); 2],
    /// `[m, n, k]`.
    size: [usize; 3],
    may_split: bool,
}

impl Product<'_> {
    fn choose(&self) -> Choice {
        let &Self { stem, operands, size, may_split, .. } = self;
        // The result has whole 16-byte pieces in its rows as well.
        let follows = Some(Follows::Parts).filter(|_| allows_boxes(size[1], DType::F32));
        let (others, bias) = (Vec::new(), None);
        let is_small = true;
        Wanted { stem, size, operands, others, bias, follows, may_split, is_small }.choose()
    }

    /// Into `c`, `[parts, m, n]`.
    fn run_hopper(&self, c: &mut Tensor, plan: &hopper::Plan) -> Result<()> {
        let [(a, a_columns), (b, b_columns)] = self.operands;
        let (tile, [m, n, _]) = (&plan.tile, self.size);
        let [rows, columns] = tile.panel_box(Follows::Parts);
        let rows_of = |t: &Tensor, columns: usize| t.len() / columns.max(1);
        let [a_is_k_major, b_is_k_major] = gemm::is_k_major(self.stem);
        let (a_box, b_box) = (tile.a_box(a_is_k_major), tile.b_box(b_is_k_major));
        let call = KernelCall::new(a.device(), &plan.kernel(self.stem))
            .output_boxes(&mut c.as_mut(), &[plan.parts, m, n], &[1, rows, columns])?
            .boxes(a, &[rows_of(a, a_columns), a_columns], &a_box)?
            .boxes(b, &[rows_of(b, b_columns), b_columns], &b_box)?;
        let call = gemm::sizes(OP, self.size)?.into_iter().fold(call, KernelCall::value);
        call.value(gemm::size(OP, plan.k_part)?).launch(plan.launch)
    }
}

/// One of the products by itself, with a plan of somebody's own: `a`, `b` and `c` as their kernel takes them.
pub(in crate::ops) fn trial(
    stem: &'static str,
    [a, b]: [&Tensor; 2],
    c: &mut Tensor,
    plan: &hopper::Plan,
) -> Result<()> {
    let ((m, n), (rows, columns)) = (c.matrix(OP)?, a.matrix(OP)?);
    let size = [m, n, if gemm::is_k_major(stem)[0] { columns } else { rows }];
    let operands = [(a, columns), (b, b.matrix(OP)?.1)];
    let product = Product { stem, operands, size, may_split: plan.parts > 1 };
    let mut parts = Tensor::empty(c.device(), DType::F32, &[plan.parts, m, n])?;
    product.run_hopper(if plan.parts == 1 { c } else { &mut parts }, plan)
}

impl WeightNormBwd {
    pub(super) fn run_kernels(&self, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let ((rows, out), (_, fan_in)) = (dy.matrix(OP)?, self.x.value().matrix(OP)?);
        let d = match self.weight.dtype() {
            DType::Bf16 => rounded(&dy)?,
            _ => dy,
        };
        self.x_gradient(&d, [rows, out, fan_in], grads)?;
        if self.g.slot.is_none() && self.v.slot.is_none() {
            return Ok(());
        }
        let (device, dtype) = (d.device(), d.dtype());
        let mut dweight = Tensor::empty(device, DType::F32, &[out, fan_in])?;
        let sizes = sizes(rows, out, fan_in)?;
        let product = Product {
            stem: "weight_norm_linear_bwd_params",
            operands: [(&d, out), (self.x.value(), fan_in)],
            size: [out, fan_in, rows],
            may_split: false,
        };
        match product.choose() {
            Choice::Hopper(plan) => product.run_hopper(&mut dweight, &plan)?,
            Choice::Portable(plan) => {
                let call = KernelCall::new(device, &plan.kernel(product.stem, dtype))
                    .output(&mut dweight)?
                    .input(&d)?
                    .input(self.x.value())?;
                sizes.into_iter().fold(call, KernelCall::value).launch(plan.launch)?;
            }
        }

        let call = KernelCall::new(device, "weight_norm_linear_bwd_norm_f32");
        let (call, g_mode) = destination(call, &self.g, grads)?;
        let (call, v_mode) = destination(call, &self.v, grads)?;
        call.input(&dweight)?
            .input(&self.norm)?
            .input(&self.g.value)?
            .input(&self.v.value)?
            .value(sizes[1])
            .value(sizes[2])
            .value(g_mode.as_arg())
            .value(v_mode.as_arg())
            .launch(warps(out))
    }

    /// `dx (+)= d W`: a short result and a long sum over the prototypes, so it is made in parts.
    fn x_gradient(
        &self,
        d: &Tensor,
        [rows, out, fan_in]: [usize; 3],
        grads: &mut Grads<'_>,
    ) -> Result<()> {
        let Some((mut dx, mode)) = grads.slot(&self.x)? else { return Ok(()) };
        if dx.is_empty() {
            return Ok(());
        }
        let (device, dtype) = (d.device(), d.dtype());
        let product = Product {
            stem: "weight_norm_linear_bwd_x",
            operands: [(d, out), (&self.weight, fan_in)],
            size: [rows, fan_in, out],
            may_split: true,
        };
        let choice = product.choose();
        let mut parts = Tensor::empty(device, DType::F32, &[choice.parts(), rows, fan_in])?;
        match choice {
            Choice::Hopper(plan) => product.run_hopper(&mut parts, &plan)?,
            Choice::Portable(plan) => {
                let call = KernelCall::new(device, &plan.kernel(product.stem, dtype))
                    .output(&mut parts)?
                    .input(d)?
                    .input(&self.weight)?;
                sizes(rows, out, fan_in)?
                    .into_iter()
                    .fold(call, KernelCall::value)
                    .value(gemm::size(OP, plan.k_part)?)
                    .launch(plan.launch)?;
            }
        }
        let count = rows * fan_in;
        KernelCall::typed(device, "weight_norm_linear_bwd_reduce", dtype)
            .output_mut(&mut dx)?
            .input(&parts)?
            .value(gemm::size(OP, choice.parts())?)
            .value(count as i64)
            .value(mode.as_arg())
            .launch(LaunchConfig::linear(count.div_ceil(4 * 256) as u32, 256))
    }
}

/// `dy` in bf16, as an operand of tensor cores.
fn rounded(dy: &Tensor) -> Result<Tensor> {
    let mut d = Tensor::empty(dy.device(), DType::Bf16, dy.shape())?;
    if !dy.is_empty() {
        KernelCall::new(dy.device(), "weight_norm_linear_bwd_round_bf16")
            .output(&mut d)?
            .input(dy)?
            .value(dy.len() as i64)
            .launch(LaunchConfig::linear(dy.len().div_ceil(8 * 256) as u32, 256))?;
    }
    Ok(d)
}

/// Appends the place of a parameter's gradient, or null when it is not trained.
fn destination<'c>(
    call: KernelCall<'c>,
    param: &Param,
    grads: &mut Grads<'_>,
) -> Result<(KernelCall<'c>, GradMode)> {
    match grads.param(param)? {
        Some((mut gradient, mode)) => Ok((call.output_mut(&mut gradient)?, mode)),
        None => Ok((call.value(DevicePtr::NULL), GradMode::Overwrite)),
    }
}
