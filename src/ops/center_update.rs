//! Centre update: `center <- m center + (1 - m) mean over rows of the teacher's logits`.

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "center_update";

/// Updates `center` in place, after the loss has used it. With the norm in `clip` (what
/// [`super::grad_norm::grad_norm`] returned) not finite, nothing changes.
///
/// Shapes: `center` `[K]`, `logits` `[rows, K]` each: all views of the volumes of each micro-batch;
/// `clip` `[2]`.
/// Numerics: rows are summed in order.
/// Errors: `Shape`; no rows at all.
/// Source: DINO, arXiv 2104.14294, section 3.1.
///
/// ```
/// use glmae::device::{Device, Tensor};
/// use glmae::ops::center_update::center_update;
/// let cpu = Device::Cpu;
/// let mut center = Tensor::from_slice(&cpu, &[0.0, 10.0], &[2])?;
/// let logits = Tensor::from_slice(&cpu, &[2.0, 4.0, 4.0, 8.0], &[2, 2])?;
/// center_update(&mut center, &[logits], 0.5, None)?;
/// // The means are 3 and 6: 0.5 * 0 + 0.5 * 3 and 0.5 * 10 + 0.5 * 6.
/// assert_eq!(center.to_f64_vec()?, [1.5, 8.0]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn center_update(
    center: &mut Tensor,
    logits: &[Tensor],
    momentum: f64,
    clip: Option<&Tensor>,
) -> Result<()> {
    let k = center.len();
    let mut rows = 0;
    for part in logits {
        let (count, width) = part.matrix(OP)?;
        if width != k || part.dtype() != center.dtype() {
            let expected = format!("logits of {k} {}", center.dtype());
            return Err(Error::shape(OP, expected, format!("{part:?}")));
        }
        rows += count;
    }
    if rows == 0 || k == 0 {
        return Err(Error::shape(OP, "at least one row and column", format!("{rows} x {k}")));
    }
    let share = (1.0 - momentum) / rows as f64;
    if *center.device() != Device::Cpu {
        return run_kernels(center, logits, momentum, share, clip);
    }
    if let Some([norm, _]) = clip.map(Tensor::to_f64_vec).transpose()?.as_deref()
        && !norm.is_finite()
    {
        return Ok(());
    }
    with_real!(OP, center.dtype(), T => {
        let parts = logits.iter().map(|p| p.host::<T>()).collect::<Result<Vec<_>>>()?;
        let (m, share) = (T::of(momentum), T::of(share));
        for (j, c) in center.host_mut::<T>()?.iter_mut().enumerate() {
            let column = parts.iter().flat_map(|p| p.iter().skip(j).step_by(k));
            *c = m * *c + share * column.copied().sum::<T>();
        }
        Ok(())
    })
}

/// One launch per micro-batch: the first keeps `momentum` of the old centre, the others all of it.
fn run_kernels(
    center: &mut Tensor,
    logits: &[Tensor],
    momentum: f64,
    share: f64,
    clip: Option<&Tensor>,
) -> Result<()> {
    if center.dtype() != DType::F32 {
        return Err(Error::shape(OP, "f32", center.dtype().name()));
    }
    let (device, k) = (center.device().clone(), center.len());
    let mut keep = momentum as f32;
    for part in logits {
        let (rows, _) = part.matrix(OP)?;
        KernelCall::new(&device, "center_update_update_f32")
            .output(center)?
            .input(part)?
            .optional(clip)?
            .value(keep)
            .value(share as f32)
            .value(rows as i32)
            .value(k as i64)
            .launch(LaunchConfig::linear(k.div_ceil(256) as u32, 256))?;
        keep = 1.0;
    }
    Ok(())
}

/// The op in the registry. Dims of a case: rows, K.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "running mean of the teacher's logits"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |rows, k| OpCase::new(&["rows", "k"], &[rows, k]);
        vec![case(1, 1), case(3, 13), case(8, 50), case(5, 130), case(4, 31).with_offset(1000.0)]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "k"], &[8, 65536])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, k] = [case.dims[0], case.dims[1]];
        let logits = case.normal(1, rows * k, case.offset, 1.0);
        vec![
            Input::new("center", InputKind::Constant, &[k], case.normal(0, k, case.offset, 1.0))
                .wide(),
            Input::new("logits", InputKind::Constant, &[rows, k], logits).wide(),
        ]
    }

    fn run(&self, _: &mut Tape<'_>, _: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let mut center = args.var(0)?.value().duplicate()?;
        let logits = args.var(1)?.value();
        // In two pieces, as two micro-batches would bring them.
        let (rows, k) = logits.matrix(OP)?;
        let first = rows.div_ceil(2);
        let parts = [logits.view(0, &[first, k])?, logits.view(first * k, &[rows - first, k])?];
        center_update(&mut center, &parts, 0.9, None)?;
        Ok(vec![Var::constant(center)])
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
        ((case.dims[0] + 2) * case.dims[1] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        (case.dims[0] * case.dims[1]) as u64
    }
}
