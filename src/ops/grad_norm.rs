//! Global gradient norm over the flat gradient buffer, and the factor that clips it:
//! `g <- g min(1, clip / (norm + 1e-6))`.

use rayon::prelude::*;

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "grad_norm";

/// Elements that one partial sum covers: fixed, so that the result does not depend on threads.
const CHUNK: usize = 1 << 16;

/// The norm and the factor for [`super::adamw_ema`], left on the device so that no host waits:
/// `[norm, factor]` with `norm = scale |flat|` and `factor = scale clip_factor(norm, clip)`. The norm is
/// NaN when `loss` is not finite: then nothing is updated.
///
/// Shapes: `flat` `[n]`, whose padding and untrained parameters hold zeros; `loss` `[1]`; result `[2]`
/// of the dtype of `flat`.
/// Numerics: squares are summed in f64, chunk by chunk in order; on a GPU in f32 by a fixed tree.
/// Not finite if any element is not.
/// Errors: `Shape`.
///
/// ```
/// use glmae::device::{Device, Tensor};
/// use glmae::ops::grad_norm::grad_norm;
/// let cpu = Device::Cpu;
/// let gradients = Tensor::from_slice(&cpu, &[3.0, 4.0], &[2])?;
/// let norm = grad_norm(&gradients, None, 1.0, 1.0)?.to_f64_vec()?;
/// // sqrt(9 + 16), and what makes it 1.
/// assert!(norm[0] == 5.0 && (norm[1] - 0.2).abs() < 1e-6);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn grad_norm(flat: &Tensor, loss: Option<&Tensor>, scale: f64, clip: f64) -> Result<Tensor> {
    let (device, n) = (flat.device(), flat.len());
    if let Some(loss) = loss {
        loss.expect_shape(OP, &[1])?;
    }
    if *device == Device::Cpu {
        let loss = loss.map(Tensor::to_f64_vec).transpose()?;
        let is_finite = loss.iter().flatten().all(|x| x.is_finite());
        let norm = if is_finite { scale * norm_of(flat)? } else { f64::NAN };
        let values = [norm, scale * clip_factor(norm, clip)];
        return Tensor::from_f64(device, flat.dtype(), &values, &[2]);
    }
    for tensor in [Some(flat), loss].into_iter().flatten() {
        if tensor.dtype() != DType::F32 {
            return Err(Error::shape(OP, "f32", tensor.dtype().name()));
        }
    }
    // The grid fixes the order of the sum: from the size alone.
    let parts = n.div_ceil(8192).clamp(1, 1024);
    let mut partial = Tensor::empty(device, DType::F32, &[parts])?;
    let mut out = Tensor::empty(device, DType::F32, &[2])?;
    KernelCall::new(device, "grad_norm_fwd_f32")
        .output(&mut partial)?
        .input(flat)?
        .value(n as i64)
        .launch(LaunchConfig::linear(parts as u32, 256))?;
    KernelCall::new(device, "grad_norm_fwd_f32_clip")
        .output(&mut out)?
        .input(&partial)?
        .optional(loss)?
        .value(parts as i32)
        .value(scale as f32)
        .value(clip as f32)
        .launch(LaunchConfig::linear(1, 1024))?;
    Ok(out)
}

fn norm_of(flat: &Tensor) -> Result<f64> {
    fn squares<T: Real>(x: &[T]) -> f64 {
        x.iter().map(|&x| x.to_f64() * x.to_f64()).sum()
    }
    with_real!(OP, flat.dtype(), T => {
        let partial: Vec<f64> = flat.host::<T>()?.par_chunks(CHUNK).map(squares).collect();
        Ok(partial.iter().sum::<f64>().sqrt())
    })
}

/// The factor that brings a norm down to `clip`; 1 when `clip` is 0 (no clipping).
/// Source: `torch.nn.utils.clip_grad_norm_`.
fn clip_factor(norm: f64, clip: f64) -> f64 {
    if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

/// The op in the registry. Dims of a case: elements.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "Euclidean norm of all gradients"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |n| OpCase::new(&["n"], &[n]);
        vec![case(1), case(13), case(1001), case(200_003), case(777).with_offset(1000.0)]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["n"], &[3_000_000])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let n = case.dims[0];
        vec![
            Input::new("flat", InputKind::Constant, &[n], case.normal(0, n, case.offset, 1.0))
                .wide(),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, _: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let flat = args.var(0)?.value();
        let loss = Tensor::from_f64(tape.device(), flat.dtype(), &[3.0], &[1])?;
        // No clip, one that bites, and one that does not.
        let none = grad_norm(flat, None, 1.0, 0.0)?;
        let hard = grad_norm(flat, Some(&loss), 0.5, 0.1)?;
        let loose = grad_norm(flat, Some(&loss), 0.5, 1e9)?;
        Ok([none, hard, loose].map(Var::constant).to_vec())
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        (case.dims[0] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        2 * case.dims[0] as u64
    }
}
