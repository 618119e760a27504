//! Linear layer: `y = x W^T + b`, optionally followed by the exact (erf) GELU or by the addition
//! of a residual. The patch embedding is this op with the kernel `[dim, C, p, p, p]` read as a
//! `[dim, C p^3]` matrix.

use super::gemm::{self, Plan};
use super::kernels::Kernels;
use super::{Args, Case, Input, InputKind, OpSpec, Tolerance, needs_grad};
use crate::device::launch::{DevicePtr, LaunchConfig};
use crate::device::{DType, Device, KernelCall, Real, Tensor, TensorMut, with_real};
use crate::tape::{Backward, GradMode, Grads, Param, Tape, Var};
use crate::{Error, Result};

const OP: &str = "linear";

/// What follows the product and the bias.
#[derive(Clone, Copy, Debug, Default)]
pub enum Epilogue<'v> {
    #[default]
    None,
    /// `y = gelu(x W^T + b)`, `gelu(u) = u Phi(u)` with the exact normal distribution function.
    Gelu,
    /// `y = x W^T + b + residual`.
    Add(&'v Var),
}

impl<'a> Tape<'a> {
    /// `y = epilogue(x W^T + b)`.
    ///
    /// Shapes: `x` [rows, in], `weight` [out, ...] of `out * in` elements, `bias` [out],
    /// residual and result [rows, out].
    /// Numerics: products are summed in the arithmetic of the tensors, those of bf16 in f32. What
    /// the backward of a GELU needs, its input, is kept in the dtype of the activations.
    /// Errors: `Shape` when sizes do not match.
    pub fn linear(
        &mut self,
        x: &Var,
        weight: &Param,
        bias: Option<&Param>,
        epilogue: Epilogue<'_>,
    ) -> Result<Var> {
        let (rows, fan_in) = x.value().matrix(OP)?;
        let out = weight.value.shape().first().copied().unwrap_or(0);
        if out * fan_in != weight.value.len() || out == 0 {
            let expected = format!("a weight of [out, {fan_in}]");
            return Err(Error::shape(OP, expected, format!("{:?}", weight.value.shape())));
        }
        if let Some(b) = bias {
            b.value.expect_shape(OP, &[out])?;
        }
        if let Epilogue::Add(r) = epilogue {
            r.value().expect_shape(OP, &[rows, out])?;
        }
        let residual = match epilogue {
            Epilogue::Add(r) => Some(r),
            _ => None,
        };
        let mut vars = vec![x];
        vars.extend(residual);
        let mut params = vec![weight];
        params.extend(bias);
        let keeps = self.records() && needs_grad(&vars, &params);

        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), dtype, &[rows, out])?;
        if *self.device() != Device::Cpu {
            let weight_matrix = weight.operand();
            let vectors = gemm::vectors(&[(x.value(), fan_in), (weight_matrix, fan_in)]);
            let applies_gelu = matches!(epilogue, Epilogue::Gelu);
            let mut pre = match applies_gelu && keeps {
                true => Some(Tensor::empty(self.device(), dtype, &[rows, out])?),
                false => None,
            };
            if !y.is_empty() {
                forward_kernel(
                    &gemm::plan(dtype, [rows, out, fan_in], vectors, false),
                    &mut y,
                    pre.as_mut(),
                    x.value(),
                    weight_matrix,
                    bias.map(|b| &b.value),
                    residual.map(Var::value),
                    applies_gelu,
                )?;
            }
            return Ok(self.record(OP, y, keeps, || LinearBwd {
                x: x.clone(),
                weight: weight.clone(),
                bias: bias.cloned(),
                pre,
                residual: residual.cloned(),
            }));
        }
        let mut pre = None;
        with_real!(OP, dtype, T => {
            let y = y.host_mut::<T>()?;
            let (xs, ws) = (x.value().host::<T>()?, weight.value.host::<T>()?);
            T::gemm(
                [rows, out, fan_in], T::of(1.0), xs, [fan_in, 1], ws, [1, fan_in], T::of(0.0), y, out,
            );
            if let Some(b) = bias {
                let b = b.value.host::<T>()?;
                for row in y.chunks_exact_mut(out) {
                    for (y, &b) in row.iter_mut().zip(b) {
                        *y += b;
                    }
                }
            }
            match epilogue {
                Epilogue::None => {}
                Epilogue::Gelu => {
                    if keeps {
                        pre = Some(Tensor::from_slice(self.device(), y, &[rows, out])?);
                    }
                    T::gelu(y);
                }
                Epilogue::Add(r) => {
                    for (y, &r) in y.iter_mut().zip(r.value().host::<T>()?) {
                        *y += r;
                    }
                }
            }
            Ok(())
        })?;
        Ok(self.record(OP, y, keeps, || LinearBwd {
            x: x.clone(),
            weight: weight.clone(),
            bias: bias.cloned(),
            pre,
            residual: residual.cloned(),
        }))
    }
}

struct LinearBwd {
    x: Var,
    weight: Param,
    bias: Option<Param>,
    /// Pre-activation, when a GELU follows.
    pre: Option<Tensor>,
    residual: Option<Var>,
}

impl Backward for LinearBwd {
    fn run(self: Box<Self>, mut dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        if *dy.device() != Device::Cpu {
            return self.run_kernels(dy, grads);
        }
        let (rows, fan_in) = self.x.value().matrix(OP)?;
        let out = dy.len() / rows.max(1);
        with_real!(OP, dy.dtype(), T => {
            if let Some(pre) = &self.pre {
                if !dy.is_unique() {
                    dy = dy.duplicate()?;
                }
                T::gelu_backward(dy.host_mut::<T>()?, pre.host::<T>()?);
            }
            let d = dy.host::<T>()?;
            if let Some((mut dx, mode)) = grads.slot(&self.x)? {
                let w = self.weight.value.host::<T>()?;
                let beta = T::of(if mode.accumulates() { 1.0 } else { 0.0 });
                T::gemm(
                    [rows, fan_in, out], T::of(1.0), d, [out, 1], w, [fan_in, 1], beta,
                    dx.host_mut::<T>()?, fan_in,
                );
            }
            if let Some((mut dw, mode)) = grads.param(&self.weight)? {
                let x = self.x.value().host::<T>()?;
                let beta = T::of(if mode.accumulates() { 1.0 } else { 0.0 });
                T::gemm(
                    [out, fan_in, rows], T::of(1.0), d, [1, out], x, [fan_in, 1], beta,
                    dw.host_mut::<T>()?, fan_in,
                );
            }
            if let Some(bias) = &self.bias
                && let Some((mut db, mode)) = grads.param(bias)?
            {
                sum_rows(db.host_mut::<T>()?, d, mode.accumulates());
            }
            Ok(())
        })?;
        if let Some(residual) = &self.residual {
            grads.add(residual, dy)?;
        }
        Ok(())
    }
}

impl LinearBwd {
    fn run_kernels(&self, mut dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (rows, out) = dy.matrix(OP)?;
        let (_, fan_in) = self.x.value().matrix(OP)?;
        if let Some(pre) = &self.pre {
            dy = gelu_backward_kernel(dy, pre)?;
        }
        if let Some((mut dx, mode)) = grads.slot(&self.x)?
            && !dx.is_empty()
        {
            let weight = self.weight.operand();
            let vectors = gemm::vectors(&[(&dy, out), (weight, fan_in)]);
            let plan = gemm::plan(dy.dtype(), [rows, fan_in, out], vectors, false);
            dx_kernel(&plan, &mut dx, None, &dy, weight, out, mode)?;
        }
        params_kernels(None, &dy, self.x.value(), &self.weight, self.bias.as_ref(), grads)?;
        match &self.residual {
            Some(residual) => grads.add(residual, dy),
            None => Ok(()),
        }
    }
}

/// `linear_fwd_*` of `linear.cu`.
#[allow(clippy::too_many_arguments)] // the kernel's own argument list
fn forward_kernel(
    plan: &Plan,
    y: &mut Tensor,
    pre: Option<&mut Tensor>,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    applies_gelu: bool,
) -> Result<()> {
    let (rows, out) = y.matrix(OP)?;
    let (_, fan_in) = x.matrix(OP)?;
    let device = y.device().clone();
    let call = KernelCall::new(&device, &plan.kernel("linear_fwd", x.dtype())).output(y)?;
    let call = match pre {
        Some(pre) => call.output(pre)?,
        None => call.value(DevicePtr::NULL),
    };
    call.input(x)?
        .input(weight)?
        .optional(bias)?
        .optional(residual)?
        .value(gemm::size(OP, rows)?)
        .value(gemm::size(OP, out)?)
        .value(gemm::size(OP, fan_in)?)
        .value(i32::from(applies_gelu))
        .launch(plan.launch)
}

/// `dy gelu'(pre)`, in place when nobody else holds `dy`.
fn gelu_backward_kernel(mut dy: Tensor, pre: &Tensor) -> Result<Tensor> {
    if dy.is_empty() {
        return Ok(dy);
    }
    let (device, dtype, len) = (dy.device().clone(), dy.dtype(), dy.len());
    let blocks = len.div_ceil(256 * 16 / dtype.size()).min(132 * 16) as u32;
    let call = KernelCall::typed(&device, "linear_bwd_gelu", dtype);
    let (call, du) = if dy.is_unique() {
        (call.output(&mut dy)?.input(&dy)?, dy)
    } else {
        let mut du = Tensor::empty(&device, dtype, dy.shape())?;
        (call.output(&mut du)?.input(&dy)?, du)
    };
    call.input(pre)?.value(len as i64).launch(LaunchConfig::linear(blocks, 256))?;
    Ok(du)
}

/// `dx (+)= dy W`, times `gelu'(pre)` where `pre` is given.
fn dx_kernel(
    plan: &Plan,
    dx: &mut TensorMut<'_>,
    pre: Option<&Tensor>,
    dy: &Tensor,
    weight: &Tensor,
    out: usize,
    mode: GradMode,
) -> Result<()> {
    let (rows, fan_in) = (dy.len() / out.max(1), weight.len() / out.max(1));
    KernelCall::new(dy.device(), &plan.kernel("linear_bwd_x", dy.dtype()))
        .output_mut(dx)?
        .optional(pre)?
        .input(dy)?
        .input(weight)?
        .value(gemm::size(OP, rows)?)
        .value(gemm::size(OP, out)?)
        .value(gemm::size(OP, fan_in)?)
        .value(mode.as_arg())
        .launch(plan.launch)
}

/// Gradients of weight and bias from one pass over `dy` and `x`, added up in parts where the plan
/// (by default the best) splits the sum over rows.
fn params_kernels(
    plan: Option<Plan>,
    dy: &Tensor,
    x: &Tensor,
    weight: &Param,
    bias: Option<&Param>,
    grads: &mut Grads<'_>,
) -> Result<()> {
    let ((rows, out), (_, fan_in)) = (dy.matrix(OP)?, x.matrix(OP)?);
    let bias = bias.filter(|b| b.slot.is_some());
    if weight.slot.is_none() && bias.is_none() {
        return Ok(());
    }
    let (device, dtype) = (dy.device(), dy.dtype());
    let plan = plan.unwrap_or_else(|| {
        let vectors = gemm::vectors(&[(dy, out), (x, fan_in)]);
        gemm::plan(dtype, [out, fan_in, rows], vectors, true)
    });
    let sizes = [gemm::size(OP, rows)?, gemm::size(OP, out)?, gemm::size(OP, fan_in)?];
    let mut partial = None;
    if plan.parts > 1 {
        let mut weight_parts = Tensor::empty(device, DType::F32, &[plan.parts, out, fan_in])?;
        let mut bias_parts = Tensor::empty(device, DType::F32, &[plan.parts, out])?;
        let call = KernelCall::new(device, &plan.kernel("linear_bwd_params", dtype))
            .output(&mut weight_parts)?;
        let call = match bias {
            Some(_) => call.output(&mut bias_parts)?,
            None => call.value(DevicePtr::NULL),
        };
        let overwrite = GradMode::Overwrite.as_arg();
        let call = sizes.into_iter().fold(call.input(dy)?.input(x)?, KernelCall::value);
        call.value(gemm::size(OP, plan.k_part)?)
            .value(overwrite)
            .value(overwrite)
            .launch(plan.launch)?;
        partial = Some((weight_parts, bias_parts));
    }

    let name = match &partial {
        Some(_) => "linear_bwd_reduce_f32".to_owned(),
        None => plan.kernel("linear_bwd_params", dtype),
    };
    let call = KernelCall::new(device, &name);
    let mut spare;
    let (call, weight_mode) = match grads.param(weight)? {
        Some((mut dw, mode)) => (call.output_mut(&mut dw)?, mode),
        None => {
            // The bias alone is trained: the product is a by-product.
            spare = Tensor::empty(device, DType::F32, &[out, fan_in])?;
            (call.output(&mut spare)?, GradMode::Overwrite)
        }
    };
    let slot = match bias {
        Some(bias) => grads.param(bias)?,
        None => None,
    };
    let (call, bias_mode) = match slot {
        Some((mut db, mode)) => (call.output_mut(&mut db)?, mode),
        None => (call.value(DevicePtr::NULL), GradMode::Overwrite),
    };
    let (call, launch) = match &partial {
        Some((weight_parts, bias_parts)) => {
            let threads = (out * fan_in).div_ceil(4) + out.div_ceil(4);
            let call = call
                .input(weight_parts)?
                .input(bias_parts)?
                .value(gemm::size(OP, plan.parts)?)
                .value((out * fan_in) as i64)
                .value(gemm::size(OP, out)?);
            (call, LaunchConfig::linear(threads.div_ceil(256) as u32, 256))
        }
        None => {
            let call = sizes.into_iter().fold(call.input(dy)?.input(x)?, KernelCall::value);
            (call.value(gemm::size(OP, plan.k_part)?), plan.launch)
        }
    };
    call.value(weight_mode.as_arg()).value(bias_mode.as_arg()).launch(launch)
}

/// `out[j] (+)= sum_i x[i, j]`, rows in order.
pub(super) fn sum_rows<T: Real>(out: &mut [T], x: &[T], accumulate: bool) {
    if !accumulate {
        out.fill(T::default());
    }
    if out.is_empty() {
        return;
    }
    for row in x.chunks_exact(out.len()) {
        for (o, &x) in out.iter_mut().zip(row) {
            *o += x;
        }
    }
}

/// `gelu(u) = u/2 (1 + erf(u / sqrt 2))`.
pub(super) fn gelu<T: Real>(u: T) -> T {
    T::of(0.5) * u * (T::of(1.0) + (u * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
}

/// `gelu'(u) = (1 + erf(u / sqrt 2)) / 2 + u phi(u)`.
pub(super) fn gelu_derivative<T: Real>(u: T) -> T {
    let phi = (T::of(-0.5) * u * u).exp() * T::of(0.398_942_280_401_432_7);
    T::of(0.5) * (T::of(1.0) + (u * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf()) + u * phi
}

/// The op in the registry. Dims of a case: rows, in, out, epilogue (0 none, 1 GELU, 2 residual),
/// bias (0 or 1).
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "y = x W^T + b, with erf-GELU or residual addition"
    }

    fn cases(&self) -> Vec<Case> {
        let case = |d: [usize; 5]| Case::new(&["rows", "in", "out", "epilogue", "bias"], &d);
        vec![
            case([1, 1, 1, 0, 1]),
            case([7, 13, 5, 0, 0]),
            case([37, 29, 31, 1, 1]),
            case([33, 48, 144, 2, 1]),
            case([130, 50, 70, 1, 1]),
            case([19, 66, 18, 2, 0]),
            case([23, 40, 12, 0, 1]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> Case {
        Case::new(&["rows", "in", "out", "epilogue", "bias"], &[2002, 192, 768, 1, 1])
    }

    fn inputs(&self, case: &Case) -> Vec<Input> {
        let [rows, fan_in, out] = [case.dims[0], case.dims[1], case.dims[2]];
        let scale = 1.0 / (fan_in as f64).sqrt();
        let weight = case.normal(1, out * fan_in, 0.0, scale);
        vec![
            Input::new(
                "x",
                InputKind::Activation,
                &[rows, fan_in],
                case.normal(0, rows * fan_in, case.offset, 1.0),
            ),
            Input::new("weight", InputKind::Param, &[out, fan_in], weight),
            Input::new("bias", InputKind::Param, &[out], case.normal(2, out, 0.0, 0.5)).wide(),
            Input::new(
                "residual",
                InputKind::Activation,
                &[rows, out],
                case.normal(3, rows * out, 0.0, 1.0),
            ),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &Case, args: &Args) -> Result<Vec<Var>> {
        let epilogue = match case.dims[3] {
            0 => Epilogue::None,
            1 => Epilogue::Gelu,
            _ => Epilogue::Add(args.var(3)?),
        };
        let bias = if case.dims[4] == 1 { Some(args.param(2)?) } else { None };
        Ok(vec![tape.linear(args.var(0)?, args.param(1)?, bias, epilogue)?])
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        Tolerance::Products { k: case.dims[1].max(case.dims[0]).max(case.dims[2]) }
    }

    fn bytes(&self, case: &Case, size: usize) -> u64 {
        let [m, k, n] = [case.dims[0], case.dims[1], case.dims[2]];
        let extra = if case.dims[3] == 0 { 0 } else { m * n };
        ((m * k + n * k + m * n + extra) * size) as u64
    }

    fn flops(&self, case: &Case) -> u64 {
        2 * (case.dims[0] * case.dims[1] * case.dims[2]) as u64
    }
}
