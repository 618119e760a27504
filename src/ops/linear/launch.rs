//! Launches of the kernels of `linear.cu`.

use super::{Layer, OP};
use crate::Result;
use crate::device::launch::{DevicePtr, LaunchConfig};
use crate::device::{DType, KernelCall, Tensor, TensorMut};
use crate::ops::gemm::hopper::{self, Follows};
use crate::ops::gemm::{self, Choice, Wanted};
use crate::tape::{GradMode, Grads};

/// `y = x W^T` and what follows it.
pub(in crate::ops) struct Forward<'t> {
    /// In place of what the model would choose, for tests.
    pub choice: Option<Choice>,
    x: &'t Tensor,
    weight: &'t Tensor,
    sizes: [usize; 3],
}

impl<'t> Forward<'t> {
    /// Of `x` `[rows, in]` and a weight of `out * in` elements, `[out, ...]`.
    pub fn new(x: &'t Tensor, weight: &'t Tensor) -> Result<Self> {
        let (rows, fan_in) = x.matrix(OP)?;
        let sizes = [rows, weight.len() / fan_in.max(1), fan_in];
        Ok(Self { choice: None, x, weight, sizes })
    }

    /// `outs`: what is as large as the result.
    fn choose(&self, follows: Option<Follows>, outs: &[&Tensor], bias: Option<&Tensor>) -> Choice {
        let [_, out, fan_in] = self.sizes;
        let wanted = Wanted {
            stem: "linear_fwd",
            size: self.sizes,
            operands: [(self.x, fan_in), (self.weight, fan_in)],
            others: outs.iter().map(|&t| (t, out)).collect(),
            bias,
            follows,
            may_split: false,
            is_small: false,
        };
        self.choice.unwrap_or_else(|| wanted.choose())
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
        let follows = match (applies_gelu, &pre, residual) {
            (false, None, None) => Some(Follows::Nothing),
            (true, None, None) => Some(Follows::Gelu),
            (true, Some(_), None) => Some(Follows::GeluKeep),
            (false, None, Some(_)) => Some(Follows::Add),
            _ => None,
        };
        let outs: Vec<&Tensor> =
            [Some(&*y), pre.as_deref(), residual].into_iter().flatten().collect();
        match (self.choose(follows, &outs, bias), follows) {
            (Choice::Hopper(plan), Some(follows)) => {
                self.run_hopper(&plan, follows, y, pre, bias, residual)
            }
            (Choice::Portable(plan), _) => {
                self.run_portable(&plan, y, pre, bias, residual, applies_gelu)
            }
            (Choice::Hopper(_), None) => Err(hopper::unsupported(OP, "a GELU and a residual")),
        }
    }

    fn run_portable(
        &self,
        plan: &gemm::Plan,
        y: &mut Tensor,
        pre: Option<&mut Tensor>,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
        applies_gelu: bool,
    ) -> Result<()> {
        let call = KernelCall::new(self.x.device(), &plan.kernel("linear_fwd", self.x.dtype()))
            .output(y)?
            .optional_output(pre)?
            .input(self.x)?
            .input(self.weight)?
            .optional(bias)?
            .optional(residual)?;
        gemm::sizes(OP, self.sizes)?
            .into_iter()
            .fold(call, KernelCall::value)
            .value(i32::from(applies_gelu))
            .launch(plan.launch)
    }

    fn run_hopper(
        &self,
        plan: &hopper::Plan,
        follows: Follows,
        y: &mut Tensor,
        pre: Option<&mut Tensor>,
        bias: Option<&Tensor>,
        residual: Option<&Tensor>,
    ) -> Result<()> {
        let ([rows, out, fan_in], tile) = (self.sizes, &plan.tile);
        let (sides, panel) = ([rows, out], tile.panel_box(follows));
        let call = KernelCall::new(self.x.device(), &plan.kernel("linear_fwd")).output_boxes(
            &mut y.as_mut(),
            &sides,
            &panel,
        )?;
        let call = match (pre, residual) {
            (Some(pre), _) => call.output_boxes(&mut pre.as_mut(), &sides, &panel)?,
            (None, Some(residual)) => call.boxes(residual, &sides, &panel)?,
            (None, None) => call.no_boxes(),
        };
        let call = call
            .boxes(self.x, &[rows, fan_in], &tile.a_box(true))?
            .boxes(self.weight, &[out, fan_in], &tile.b_box(true))?
            .optional(bias)?;
        finish(call, self.sizes, follows, plan)
    }
}

/// The sizes of the product, and what follows it.
fn finish(
    call: KernelCall<'_>,
    sizes: [usize; 3],
    follows: Follows,
    plan: &hopper::Plan,
) -> Result<()> {
    let call = gemm::sizes(OP, sizes)?.into_iter().fold(call, KernelCall::value);
    call.value(follows as i32).launch(plan.launch)
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
    /// As in [`Forward`].
    pub choice: Option<Choice>,
    dy: &'t Tensor,
    weight: &'t Tensor,
    /// Of the product: rows, in, out.
    sizes: [usize; 3],
}

impl<'t> InputGradient<'t> {
    pub fn new(dy: &'t Tensor, weight: &'t Tensor) -> Result<Self> {
        let (rows, out) = dy.matrix(OP)?;
        Ok(Self { choice: None, dy, weight, sizes: [rows, weight.len() / out.max(1), out] })
    }

    pub fn run(&self, dx: &mut TensorMut<'_>, pre: Option<&Tensor>, mode: GradMode) -> Result<()> {
        if dx.is_empty() {
            return Ok(());
        }
        let [rows, fan_in, out] = self.sizes;
        let follows = match (pre, mode.accumulates()) {
            (None, false) => Some(Follows::Nothing),
            (None, true) => Some(Follows::Add),
            (Some(_), false) => Some(Follows::GeluGrad),
            (Some(_), true) => None,
        };
        let wanted = Wanted {
            stem: "linear_bwd_x",
            size: self.sizes,
            operands: [(self.dy, out), (self.weight, fan_in)],
            others: pre.map(|pre| (pre, fan_in)).into_iter().collect(),
            bias: None,
            follows: follows.filter(|_| dx.is_aligned(16)),
            may_split: false,
            is_small: false,
        };
        let choice = self.choice.unwrap_or_else(|| wanted.choose());
        match (choice, follows) {
            (Choice::Hopper(plan), Some(follows)) => {
                let (sides, tile) = ([rows, fan_in], &plan.tile);
                let panel = tile.panel_box(follows);
                let call = KernelCall::new(self.dy.device(), &plan.kernel("linear_bwd_x"))
                    .output_boxes(dx, &sides, &panel)?;
                let call = match (follows, pre) {
                    (_, Some(pre)) => call.boxes(pre, &sides, &panel)?,
                    (Follows::Add, None) => call.output_boxes(dx, &sides, &panel)?,
                    _ => call.no_boxes(),
                };
                let call = call
                    .boxes(self.dy, &[rows, out], &tile.a_box(true))?
                    .boxes(self.weight, &[out, fan_in], &tile.b_box(false))?
                    .value(DevicePtr::NULL);
                finish(call, self.sizes, follows, &plan)
            }
            (Choice::Portable(plan), _) => {
                let name = plan.kernel("linear_bwd_x", self.dy.dtype());
                let call =
                    KernelCall::new(self.dy.device(), &name).output_mut(dx)?.optional(pre)?;
                let call = call.input(self.dy)?.input(self.weight)?;
                let sizes = gemm::sizes(OP, [rows, out, fan_in])?;
                let call = sizes.into_iter().fold(call, KernelCall::value);
                call.value(mode.as_arg()).launch(plan.launch)
            }
            (Choice::Hopper(_), None) => {
                Err(hopper::unsupported(OP, "a GELU whose gradient is added"))
            }
        }
    }
}

/// Gradients of weight and bias from one pass over `dy` and `x`; where the plan splits the sum over
/// rows, the parts are added in order by a second kernel.
pub(in crate::ops) struct ParamGradient<'t> {
    pub choice: Choice,
    dy: &'t Tensor,
    x: &'t Tensor,
    /// Of the product: out, in, rows.
    sizes: [usize; 3],
}

/// How a kernel is told where a weight's gradient goes.
pub(in crate::ops) enum Place {
    Pointer,
    /// As boxes of this size of `[parts, out, in]`.
    Boxes {
        dims: [usize; 3],
        box_dims: [usize; 3],
    },
}

impl Place {
    pub fn append<'d>(
        &self,
        call: KernelCall<'d>,
        to: &mut TensorMut<'_>,
    ) -> Result<KernelCall<'d>> {
        match self {
            Self::Pointer => call.output_mut(to),
            Self::Boxes { dims, box_dims } => call.output_boxes(to, dims, box_dims),
        }
    }
}

impl<'t> ParamGradient<'t> {
    pub fn new(dy: &'t Tensor, x: &'t Tensor) -> Result<Self> {
        let ((rows, out), (_, fan_in)) = (dy.matrix(OP)?, x.matrix(OP)?);
        let sizes = [out, fan_in, rows];
        let wanted = Wanted {
            stem: "linear_bwd_params",
            size: sizes,
            operands: [(dy, out), (x, fan_in)],
            others: Vec::new(),
            bias: None,
            follows: Some(Follows::Parts),
            may_split: true,
            is_small: false,
        };
        let choice = wanted.choose();
        Ok(Self { choice, dy, x, sizes })
    }

    /// `place` appends to a call where the gradients of weight and bias go (null for a bias that
    /// has none) and says how each is to be written.
    pub fn run(
        &self,
        has_bias: bool,
        place: impl FnOnce(KernelCall<'t>, &Place) -> Result<(KernelCall<'t>, [GradMode; 2])>,
    ) -> Result<()> {
        let parts = self.choice.parts();
        if parts == 1 {
            let (call, modes) = place(self.product(), &self.place())?;
            return self.finish(call, modes);
        }
        let (device, [out, fan_in, _]) = (self.dy.device(), self.sizes);
        let mut weights = Tensor::empty(device, DType::F32, &[parts, out, fan_in])?;
        let mut biases = Tensor::empty(device, DType::F32, &[parts, out])?;
        let call = self.place().append(self.product(), &mut weights.as_mut())?;
        let call = call.optional_output(Some(&mut biases).filter(|_| has_bias))?;
        self.finish(call, [GradMode::Overwrite; 2])?;

        let reduce = KernelCall::new(device, "linear_bwd_reduce_f32");
        let (call, [weight, bias]) = place(reduce, &Place::Pointer)?;
        let threads = (out * fan_in).div_ceil(4) + out.div_ceil(4);
        call.input(&weights)?
            .input(&biases)?
            .value(gemm::size(OP, parts)?)
            .value((out * fan_in) as i64)
            .value(gemm::size(OP, out)?)
            .value(weight.as_arg())
            .value(bias.as_arg())
            .launch(LaunchConfig::linear(threads.div_ceil(256) as u32, 256))
    }

    fn place(&self) -> Place {
        match &self.choice {
            Choice::Portable(_) => Place::Pointer,
            Choice::Hopper(plan) => {
                let ([out, fan_in, _], [rows, columns]) =
                    (self.sizes, plan.tile.panel_box(Follows::Parts));
                Place::Boxes { dims: [plan.parts, out, fan_in], box_dims: [1, rows, columns] }
            }
        }
    }

    fn product(&self) -> KernelCall<'t> {
        let name = match &self.choice {
            Choice::Portable(plan) => plan.kernel("linear_bwd_params", self.dy.dtype()),
            Choice::Hopper(plan) => plan.kernel("linear_bwd_params"),
        };
        KernelCall::new(self.dy.device(), &name)
    }

    fn finish(&self, call: KernelCall<'t>, [weight, bias]: [GradMode; 2]) -> Result<()> {
        let [out, fan_in, rows] = self.sizes;
        let (call, sizes, k_part, launch) = match &self.choice {
            Choice::Portable(plan) => {
                let call = call.input(self.dy)?.input(self.x)?;
                (call, [rows, out, fan_in], plan.k_part, plan.launch)
            }
            Choice::Hopper(plan) => {
                let call = call.boxes(self.dy, &[rows, out], &plan.tile.a_box(false))?.boxes(
                    self.x,
                    &[rows, fan_in],
                    &plan.tile.b_box(false),
                )?;
                (call, self.sizes, plan.k_part, plan.launch)
            }
        };
        let call = gemm::sizes(OP, sizes)?.into_iter().fold(call, KernelCall::value);
        call.value(gemm::size(OP, k_part)?)
            .value(weight.as_arg())
            .value(bias.as_arg())
            .launch(launch)
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
        gradient.run(bias.is_some(), |call, place| {
            // One after the other: both borrow the flat buffer.
            let (call, weight_mode) = match grads.param(&self.weight)? {
                Some((mut dw, mode)) => (place.append(call, &mut dw)?, mode),
                None => {
                    // The bias alone is trained: the product is a by-product.
                    let [out, fan_in, _] = gradient.sizes;
                    let sides = [out, fan_in];
                    let spare = spare.insert(Tensor::empty(dy.device(), DType::F32, &sides)?);
                    (place.append(call, &mut spare.as_mut())?, GradMode::Overwrite)
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
