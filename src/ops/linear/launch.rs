//! Launches of the kernels of `linear.cu`.

use super::{Layer, OP};
use crate::Result;
use crate::device::launch::{DevicePtr, LaunchConfig};
use crate::device::{DType, KernelCall, Tensor, TensorMut};
use crate::ops::gemm::{self, Plan};
use crate::tape::{GradMode, Grads};

/// `y = x W^T` and what follows it.
pub(in crate::ops) struct Forward<'t> {
    pub plan: Plan,
    x: &'t Tensor,
    weight: &'t Tensor,
    sizes: [i32; 3],
}

impl<'t> Forward<'t> {
    /// Of `x` `[rows, in]` and a weight of `out * in` elements, `[out, ...]`.
    pub fn new(x: &'t Tensor, weight: &'t Tensor) -> Result<Self> {
        let (rows, fan_in) = x.matrix(OP)?;
        let out = weight.len() / fan_in.max(1);
        let vectors = gemm::vectors(&[(x, fan_in), (weight, fan_in)]);
        let plan = gemm::plan(x.dtype(), [rows, out, fan_in], vectors, false);
        let sizes = [gemm::size(OP, rows)?, gemm::size(OP, out)?, gemm::size(OP, fan_in)?];
        Ok(Self { plan, x, weight, sizes })
    }

    pub fn run(
        &self,
        y: &mut Tensor,
        pre: Option<&mut Tensor>,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        applies_gelu: bool,
    ) -> Result<()> {
        if y.is_empty() {
            return Ok(());
        }
        let device = self.x.device();
        let call = KernelCall::new(device, &self.plan.kernel("linear_fwd", self.x.dtype()));
        let call = match pre {
            Some(pre) => call.output(y)?.output(pre)?,
            None => call.output(y)?.value(DevicePtr::NULL),
        };
        let call = call.input(self.x)?.input(self.weight)?.optional(bias)?.optional(residual)?;
        self.sizes
            .into_iter()
            .fold(call, KernelCall::value)
            .value(i32::from(applies_gelu))
            .launch(self.plan.launch)
    }
}

/// `dy gelu'(pre)`, in place when no other tensor shares the memory of `dy`.
pub(super) fn gelu_backward(mut dy: Tensor, pre: &Tensor) -> Result<Tensor> {
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

/// `dx (+)= dy W`, times `gelu'(pre)` where `pre` is given: the GELU that made x, if fused.
pub(in crate::ops) struct InputGradient<'t> {
    pub plan: Plan,
    dy: &'t Tensor,
    weight: &'t Tensor,
    sizes: [i32; 3],
}

impl<'t> InputGradient<'t> {
    pub fn new(dy: &'t Tensor, weight: &'t Tensor) -> Result<Self> {
        let (rows, out) = dy.matrix(OP)?;
        let fan_in = weight.len() / out.max(1);
        let vectors = gemm::vectors(&[(dy, out), (weight, fan_in)]);
        let plan = gemm::plan(dy.dtype(), [rows, fan_in, out], vectors, false);
        let sizes = [gemm::size(OP, rows)?, gemm::size(OP, out)?, gemm::size(OP, fan_in)?];
        Ok(Self { plan, dy, weight, sizes })
    }

    pub fn run(&self, dx: &mut TensorMut<'_>, pre: Option<&Tensor>, mode: GradMode) -> Result<()> {
        if dx.is_empty() {
            return Ok(());
        }
        let name = self.plan.kernel("linear_bwd_x", self.dy.dtype());
        let call = KernelCall::new(self.dy.device(), &name).output_mut(dx)?.optional(pre)?;
        let call = call.input(self.dy)?.input(self.weight)?;
        let call = self.sizes.into_iter().fold(call, KernelCall::value);
        call.value(mode.as_arg()).launch(self.plan.launch)
    }
}

/// Gradients of weight and bias from one pass over `dy` and `x`; where the plan splits the sum over
/// rows, the parts are added in order by a second kernel.
pub(in crate::ops) struct ParamGradient<'t> {
    pub plan: Plan,
    dy: &'t Tensor,
    x: &'t Tensor,
    sizes: [i32; 3],
}

impl<'t> ParamGradient<'t> {
    pub fn new(dy: &'t Tensor, x: &'t Tensor) -> Result<Self> {
        let ((rows, out), (_, fan_in)) = (dy.matrix(OP)?, x.matrix(OP)?);
        let vectors = gemm::vectors(&[(dy, out), (x, fan_in)]);
        let plan = gemm::plan(dy.dtype(), [out, fan_in, rows], vectors, true);
        let sizes = [gemm::size(OP, rows)?, gemm::size(OP, out)?, gemm::size(OP, fan_in)?];
        Ok(Self { plan, dy, x, sizes })
    }

    fn sides(&self) -> [usize; 2] {
        [self.sizes[1] as usize, self.sizes[2] as usize]
    }

    /// `place` appends to a call where the gradients of weight and bias go (null for a bias that
    /// has none) and says how each is to be written.
    pub fn run(
        &self,
        has_bias: bool,
        place: impl FnOnce(KernelCall<'t>) -> Result<(KernelCall<'t>, [GradMode; 2])>,
    ) -> Result<()> {
        if self.plan.parts == 1 {
            let (call, modes) = place(self.product())?;
            return self.finish(call, modes);
        }
        let device = self.dy.device();
        let ([out, fan_in], parts) = (self.sides(), self.plan.parts);
        let mut weights = Tensor::empty(device, DType::F32, &[parts, out, fan_in])?;
        let mut biases = Tensor::empty(device, DType::F32, &[parts, out])?;
        let call = self.product().output(&mut weights)?;
        let call = match has_bias {
            true => call.output(&mut biases)?,
            false => call.value(DevicePtr::NULL),
        };
        self.finish(call, [GradMode::Overwrite; 2])?;

        let (call, [weight, bias]) = place(KernelCall::new(device, "linear_bwd_reduce_f32"))?;
        let threads = (out * fan_in).div_ceil(4) + out.div_ceil(4);
        call.input(&weights)?
            .input(&biases)?
            .value(gemm::size(OP, parts)?)
            .value((out * fan_in) as i64)
            .value(self.sizes[1])
            .value(weight.as_arg())
            .value(bias.as_arg())
            .launch(LaunchConfig::linear(threads.div_ceil(256) as u32, 256))
    }

    fn product(&self) -> KernelCall<'t> {
        let name = self.plan.kernel("linear_bwd_params", self.dy.dtype());
        KernelCall::new(self.dy.device(), &name)
    }

    fn finish(&self, call: KernelCall<'t>, [weight, bias]: [GradMode; 2]) -> Result<()> {
        let call = call.input(self.dy)?.input(self.x)?;
        let call = self.sizes.into_iter().fold(call, KernelCall::value);
        call.value(gemm::size(OP, self.plan.k_part)?)
            .value(weight.as_arg())
            .value(bias.as_arg())
            .launch(self.plan.launch)
    }
}

impl Layer {
    /// See [`Layer::param_gradients`].
    pub(super) fn launch_param_gradients(
        &self,
        dy: &Tensor,
        x: &Tensor,
        grads: &mut Grads<'_>,
    ) -> Result<()> {
        let bias = self.bias.as_ref().filter(|b| b.slot.is_some());
        if self.weight.slot.is_none() && bias.is_none() {
            return Ok(());
        }
        let gradient = ParamGradient::new(dy, x)?;
        let mut spare = None;
        gradient.run(bias.is_some(), |call| {
            // One after the other: both borrow the flat buffer.
            let (call, weight_mode) = match grads.param(&self.weight)? {
                Some((mut dw, mode)) => (call.output_mut(&mut dw)?, mode),
                None => {
                    // The bias alone is trained: the product is a by-product.
                    let sides = gradient.sides();
                    let spare = spare.insert(Tensor::empty(dy.device(), DType::F32, &sides)?);
                    (call.output(spare)?, GradMode::Overwrite)
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
            Ok((call, [weight_mode, bias_mode]))
        })
    }
}
