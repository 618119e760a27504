//! `dst += src`, where two gradients of one value meet. The tape needs it, so it stands here; its cases
//! and its row in the table are those of the op `accumulate`.

use crate::device::launch::LaunchConfig;
use crate::device::{Device, KernelCall, Tensor, TensorMut, with_real};
use crate::{Error, Result};

const OP: &str = "accumulate";

/// Adds `source` to `target` in place.
///
/// Shapes: as many elements in both.
/// Numerics: one addition per element, rounded to the dtype.
/// Errors: `Shape`.
///
/// ```
/// use glmae::device::{Device, Tensor};
/// use glmae::tape::accumulate;
/// let cpu = Device::Cpu;
/// let mut sum = Tensor::from_slice(&cpu, &[1.0, 2.0], &[2])?;
/// let other = Tensor::from_slice(&cpu, &[10.0, 20.0], &[2])?;
/// accumulate(&mut sum.as_mut(), &other)?;
/// // 1 + 10 and 2 + 20.
/// assert_eq!(sum.to_f64_vec()?, [11.0, 22.0]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn accumulate(target: &mut TensorMut<'_>, source: &Tensor) -> Result<()> {
    if target.len() != source.len() || target.dtype() != source.dtype() {
        let got = format!("{:?} and {source:?}", target.shape());
        return Err(Error::shape(OP, "as many elements of the same dtype", got));
    }
    if *source.device() != Device::Cpu {
        return run_kernel(target, source);
    }
    with_real!(OP, source.dtype(), T => {
        for (d, &s) in target.host_mut::<T>()?.iter_mut().zip(source.host::<T>()?) {
            *d += s;
        }
        Ok(())
    })
}

fn run_kernel(target: &mut TensorMut<'_>, source: &Tensor) -> Result<()> {
    let n = source.len();
    if n == 0 {
        return Ok(());
    }
    KernelCall::typed(source.device(), "accumulate_update", source.dtype())
        .output_mut(target)?
        .input(source)?
        .value(n as i64)
        .launch(LaunchConfig::flat(n, source.dtype()))
}
