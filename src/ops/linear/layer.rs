//! A linear layer on tensors, without a tape: what the ops that hold one have in common.

use super::launch::{self, Forward, InputGradient};
use super::product::{self, product, sum_rows};
use crate::device::{Device, Real, Tensor, TensorMut, with_real};
use crate::ops::cpu::gemm::{Epilogue, MatRef};
use crate::tape::{GradMode, Grads, Param};
use crate::{Error, Result};

/// Weight `[out, ...]` of `out * in` elements and bias `[out]` of a linear layer.
#[derive(Clone, Debug)]
pub struct Layer {
    pub weight: Param,
    pub bias: Option<Param>,
}

/// What is applied to the product and the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ops) enum Activation {
    None,
    Gelu,
    /// And its input is returned, for the backward pass.
    GeluKeepingInput,
}

impl Layer {
    /// Number of outputs. Errors: `Shape` when weight and bias do not go with `fan_in` inputs.
    pub(in crate::ops) fn out(&self, op: &'static str, fan_in: usize) -> Result<usize> {
        let weight = &self.weight.value;
        let out = weight.shape().first().copied().unwrap_or(0);
        if out * fan_in != weight.len() || out == 0 {
            let expected = format!("a weight of [out, {fan_in}]");
            return Err(Error::shape(op, expected, format!("{:?}", weight.shape())));
        }
        if let Some(bias) = &self.bias {
            bias.value.expect_shape(op, &[out])?;
        }
        Ok(out)
    }

    pub(in crate::ops) fn params(&self) -> Vec<&Param> {
        std::iter::once(&self.weight).chain(&self.bias).collect()
    }

    /// `activation(x W^T + b) + residual`, and the input of the activation where it is kept.
    pub(in crate::ops) fn apply(
        &self,
        x: &Tensor,
        activation: Activation,
        residual: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let (rows, fan_in) = x.matrix(super::OP)?;
        let out = self.weight.value.len() / fan_in.max(1);
        let (device, dtype) = (x.device(), x.dtype());
        let mut y = Tensor::empty(device, dtype, &[rows, out])?;
        let mut pre = None;
        // On the CPU the activation is computed from its stored input.
        if activation == Activation::GeluKeepingInput
            || (activation == Activation::Gelu && *device == Device::Cpu)
        {
            pre = Some(Tensor::empty(device, dtype, &[rows, out])?);
        }
        let bias = self.bias.as_ref().map(|b| &b.value);
        match device {
            Device::Cpu => with_real!(super::OP, dtype, T => {
                let a = MatRef::new(x.host::<T>()?, rows, fan_in)?;
                let w = MatRef::new(self.weight.value.host::<T>()?, out, fan_in)?;
                let epilogue = Epilogue {
                    bias: bias.map(Tensor::host).transpose()?,
                    gelu: pre.as_mut().map(|p| p.host_mut()).transpose()?,
                    residual: residual.map(Tensor::host).transpose()?,
                    gelu_grad: None,
                };
                product(a, w.t(), false, y.host_mut()?, epilogue)
            })?,
            _ => Forward::new(x, self.weight.operand())?.run(
                &mut y,
                pre.as_mut(),
                bias,
                residual,
                activation != Activation::None,
            )?,
        }
        Ok((y, pre))
    }

    /// `dx (+)= dy W`.
    pub(in crate::ops) fn input_gradient(
        &self,
        dx: &mut TensorMut<'_>,
        dy: &Tensor,
        mode: GradMode,
    ) -> Result<()> {
        if *dy.device() != Device::Cpu {
            return InputGradient::new(dy, self.weight.operand())?.run(dx, None, mode);
        }
        with_real!(super::OP, dy.dtype(), T => {
            self.times_weight::<T>(dy, mode.accumulates(), dx.host_mut()?, Epilogue::default())
        })
    }

    /// `dy W gelu'(pre)`: the gradient of what a GELU was taken of, where this layer's input is that
    /// GELU and nothing else reads it. One kernel: the product of the two is formed before it is written.
    pub(in crate::ops) fn gradient_through_gelu(
        &self,
        dy: &Tensor,
        pre: &Tensor,
    ) -> Result<Tensor> {
        let mut du = Tensor::empty(dy.device(), dy.dtype(), pre.shape())?;
        if *dy.device() != Device::Cpu {
            let gradient = InputGradient::new(dy, self.weight.operand())?;
            gradient.run(&mut du.as_mut(), Some(pre), GradMode::Overwrite)?;
            return Ok(du);
        }
        with_real!(super::OP, dy.dtype(), T => {
            let epilogue = Epilogue { gelu_grad: Some(pre.host()?), ..Epilogue::default() };
            self.times_weight::<T>(dy, false, du.host_mut()?, epilogue)
        })?;
        Ok(du)
    }

    fn times_weight<T: Real>(
        &self,
        dy: &Tensor,
        accumulates: bool,
        dx: &mut [T],
        epilogue: Epilogue<'_, T>,
    ) -> Result<()> {
        let (rows, out) = dy.matrix(super::OP)?;
        let weight = self.weight.value.host::<T>()?;
        let fan_in = weight.len() / out.max(1);
        let (dy, w) = (MatRef::new(dy.host::<T>()?, rows, out)?, MatRef::new(weight, out, fan_in)?);
        product(dy, w, accumulates, dx, epilogue)
    }

    /// `dW (+)= dy^T x`, `db (+)=` the column sums of dy, of what is trained.
    pub(in crate::ops) fn param_gradients(
        &self,
        dy: &Tensor,
        x: &Tensor,
        grads: &mut Grads<'_>,
    ) -> Result<()> {
        if *dy.device() != Device::Cpu {
            return self.launch_param_gradients(dy, x, grads);
        }
        let ((rows, out), (_, fan_in)) = (dy.matrix(super::OP)?, x.matrix(super::OP)?);
        with_real!(super::OP, dy.dtype(), T => {
            let d = dy.host::<T>()?;
            if let Some((mut dw, mode)) = grads.param(&self.weight)? {
                let (dy, x) =
                    (MatRef::new(d, rows, out)?, MatRef::new(x.host::<T>()?, rows, fan_in)?);
                product(dy.t(), x, mode.accumulates(), dw.host_mut()?, Epilogue::default())?;
            }
            if let Some(bias) = &self.bias
                && let Some((mut db, mode)) = grads.param(bias)?
            {
                sum_rows(db.host_mut()?, d, mode.accumulates());
            }
            Ok(())
        })
    }
}

/// `dy gelu'(pre)`, in place when no other tensor shares the memory of `dy`.
pub(super) fn gelu_backward(mut dy: Tensor, pre: &Tensor) -> Result<Tensor> {
    if *dy.device() != Device::Cpu {
        return launch::gelu_backward(dy, pre);
    }
    if !dy.is_unique() {
        dy = dy.duplicate()?;
    }
    with_real!(super::OP, dy.dtype(), T => {
        product::gelu_backward(dy.host_mut::<T>()?, pre.host::<T>()?);
        Ok(())
    })?;
    Ok(dy)
}
