//! Teacher targets: which soft assignment the student is asked to reproduce.
//!
//! All three kinds have the form `P_i = softmax((t_i - center) * inv_tau)`; they differ in where
//! `center` `[K]` and `inv_tau` come from, so the loss ([`super::soft_cross_entropy`]) need not know
//! which one is used:
//!
//! - `center` (DINO): the running centre, `1 / tau`.
//! - `standardise`: the batch mean, `1 / (s tau)` with `s` the standard deviation of the centred
//!   logits over rows and prototypes.
//! - `sinkhorn`: Sinkhorn-Knopp scales rows and columns of `exp(t / tau)` in turn and ends with the
//!   rows, so the result is a softmax of `t / tau + f` with one potential `f_k` per prototype:
//!   `center = -tau f`.

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "teacher_targets";

/// Rounds of Sinkhorn-Knopp, as in SwAV.
const SINKHORN_ROUNDS: usize = 3;

/// How the teacher's logits become targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetKind {
    /// Centred and sharpened, as DINO: faithful default of the paper presets.
    #[default]
    Center,
    /// Standardised over the batch: keeps the consistency terms alive on small data sets.
    Standardise,
    /// Sinkhorn-Knopp over the batch, as SwAV.
    Sinkhorn,
}

/// `center` `[K]` and `inv_tau` `[1]` such that the targets are `softmax((t - center) * inv_tau)`.
///
/// Shapes: `logits` `[rows, K]`, `running_center` `[K]`, `inv_tau` `[1]`: one over the temperature of the
/// step, where the kernels read it.
/// Numerics: two-pass statistics; Sinkhorn in the log domain. A batch whose logits do not differ
/// at all (`s` = 0) keeps uniform targets.
/// Errors: `Shape`; Sinkhorn on a GPU: more rows than fit its shared memory.
/// Source: DINO, arXiv 2104.14294; SwAV, arXiv 2006.09882; `standardise`: docs/training.md.
///
/// ```
/// use glmae::device::{Device, Tensor};
/// use glmae::ops::teacher_targets::{TargetKind, teacher_targets};
/// let cpu = Device::Cpu;
/// let logits = Tensor::from_slice(&cpu, &[1.0, 3.0, 3.0, 1.0], &[2, 2])?;
/// let running = Tensor::from_slice(&cpu, &[0.0, 0.0], &[2])?;
/// let inv_tau = Tensor::from_slice(&cpu, &[10.0], &[1])?;
/// let kind = TargetKind::Standardise;
/// let (center, inv_tau) = teacher_targets(kind, &logits, &running, &inv_tau)?;
/// // Every column has mean 2; what is left is +-1, whose deviation is 1.
/// assert_eq!(center.to_f64_vec()?, [2.0, 2.0]);
/// assert_eq!(inv_tau.to_f64_vec()?, [10.0]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn teacher_targets(
    kind: TargetKind,
    logits: &Tensor,
    running_center: &Tensor,
    inv_tau: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (rows, k) = logits.matrix(OP)?;
    running_center.expect_shape(OP, &[k])?;
    inv_tau.expect_shape(OP, &[1])?;
    if rows == 0 {
        return Err(Error::shape(OP, "at least one teacher row", "none"));
    }
    if kind == TargetKind::Center {
        // A copy: the running centre moves on while these targets are still looked at.
        return Ok((running_center.duplicate()?, inv_tau.clone()));
    }
    let mut center = Tensor::empty(logits.device(), logits.dtype(), &[k])?;
    if *logits.device() != Device::Cpu {
        if logits.dtype() != DType::F32 {
            return Err(Error::shape(OP, "f32 logits", logits.dtype().name()));
        }
        if k == 0 {
            return Err(Error::shape(OP, "at least one prototype", "none"));
        }
        let inv_tau = match kind {
            TargetKind::Sinkhorn => {
                run_sinkhorn(&mut center, logits, inv_tau)?;
                inv_tau.clone()
            }
            _ => run_standardise(&mut center, logits, inv_tau)?,
        };
        return Ok((center, inv_tau));
    }
    let mut sharpness = Tensor::empty(logits.device(), logits.dtype(), &[1])?;
    with_real!(OP, logits.dtype(), T => {
        let (t, c) = (logits.host::<T>()?, center.host_mut::<T>()?);
        let inv_tau = inv_tau.host::<T>()?[0];
        sharpness.host_mut::<T>()?[0] = match kind {
            TargetKind::Sinkhorn => sinkhorn(c, t, inv_tau),
            _ => standardise(c, t, inv_tau),
        };
        Ok(())
    })?;
    Ok((center, sharpness))
}

/// Columns per block of the row pass (`TARGET_PIECE` of the kernel).
const PIECE: usize = 2048;

fn columns_launch(k: usize) -> LaunchConfig {
    LaunchConfig::linear(k.div_ceil(256) as u32, 256)
}

fn run_standardise(center: &mut Tensor, logits: &Tensor, inv_tau: &Tensor) -> Result<Tensor> {
    let (rows, k) = logits.matrix(OP)?;
    let device = logits.device();
    let launch = columns_launch(k);
    let blocks = launch.grid[0];
    let mut squares = Tensor::empty(device, DType::F32, &[blocks as usize])?;
    let mut out = Tensor::empty(device, DType::F32, &[1])?;
    KernelCall::new(device, "teacher_targets_fwd_f32_mean")
        .output(center)?
        .output(&mut squares)?
        .input(logits)?
        .value(rows as i32)
        .value(k as i64)
        .launch(launch)?;
    KernelCall::new(device, "teacher_targets_fwd_f32_spread")
        .output(&mut out)?
        .input(&squares)?
        .input(inv_tau)?
        .value(blocks as i32)
        .value((rows * k) as f32)
        .launch(LaunchConfig::linear(1, 256))?;
    Ok(out)
}

fn run_sinkhorn(center: &mut Tensor, logits: &Tensor, inv_tau: &Tensor) -> Result<()> {
    let (rows, k) = logits.matrix(OP)?;
    let (device, pieces) = (logits.device(), k.div_ceil(PIECE));
    if rows > 12_000 {
        return Err(Error::shape(OP, "at most 12000 teacher rows for Sinkhorn", rows.to_string()));
    }
    let mut stats = Tensor::empty(device, DType::F32, &[rows, pieces, 2])?;
    for round in 0..SINKHORN_ROUNDS {
        KernelCall::new(device, "teacher_targets_fwd_f32_sinkhorn_columns")
            .output(center)?
            .optional((round > 0).then_some(&stats))?
            .input(logits)?
            .input(inv_tau)?
            .value(rows as i32)
            .value(pieces as i32)
            .value(i32::from(round + 1 == SINKHORN_ROUNDS))
            .value(k as i64)
            .launch(columns_launch(k).shared(4 * rows as u32))?;
        // The potentials of the rows after the last round are the softmax's own.
        if round + 1 < SINKHORN_ROUNDS {
            KernelCall::new(device, "teacher_targets_fwd_f32_sinkhorn_rows")
                .output(&mut stats)?
                .input(center)?
                .input(logits)?
                .input(inv_tau)?
                .value(k as i64)
                .launch(LaunchConfig {
                    grid: [pieces as u32, rows as u32, 1],
                    block: [256, 1, 1],
                    shared_bytes: 0,
                })?;
        }
    }
    Ok(())
}

/// Batch mean into `center`; returns `1 / (s tau)`.
fn standardise<T: Real>(center: &mut [T], logits: &[T], inv_tau: T) -> T {
    let k = center.len();
    super::linear::sum_rows(center, logits, false);
    let rows = T::of((logits.len() / k) as f64);
    center.iter_mut().for_each(|c| *c = *c / rows);
    let mut squares = T::default();
    for row in logits.chunks_exact(k) {
        squares += row.iter().zip(&*center).map(|(&t, &c)| (t - c) * (t - c)).sum::<T>();
    }
    let s = (squares / T::of(logits.len() as f64)).sqrt();
    if s > T::default() { inv_tau / s } else { inv_tau }
}

/// `-tau f` into `center`, `f` the prototypes' potentials; returns `1 / tau`.
fn sinkhorn<T: Real>(center: &mut [T], logits: &[T], inv_tau: T) -> T {
    let k = center.len();
    let mut row_potential = vec![T::default(); logits.len() / k];
    for _ in 0..SINKHORN_ROUNDS {
        for (j, c) in center.iter_mut().enumerate() {
            let column = row_potential.iter().enumerate();
            let total = log_sum_exp(column.map(|(i, &g)| logits[i * k + j] * inv_tau + g));
            *c = total / inv_tau;
        }
        for (row, g) in logits.chunks_exact(k).zip(&mut row_potential) {
            *g = -log_sum_exp(row.iter().zip(&*center).map(|(&t, &c)| (t - c) * inv_tau));
        }
    }
    inv_tau
}

fn log_sum_exp<T: Real>(values: impl Iterator<Item = T> + Clone) -> T {
    let max = values.clone().reduce(T::max).unwrap_or_default();
    max + values.map(|v| (v - max).exp()).sum::<T>().ln()
}

/// The op in the registry. Dims of a case: rows, K, kind (0 center, 1 standardise, 2 sinkhorn).
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "centre and temperature of the teacher's soft assignment"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 3]| OpCase::new(&["rows", "k", "kind"], &d);
        vec![
            case([1, 5, 0]),
            case([1, 7, 2]),
            case([4, 13, 1]),
            case([6, 50, 2]),
            case([16, 130, 1]),
            // Several blocks of columns.
            case([4, 600, 1]),
            // Two pieces of the row pass, the second one ragged.
            case([3, 2060, 2]),
            case([3, 31, 0]).with_offset(1000.0),
            case([5, 33, 1]).with_offset(100.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "k", "kind"], &[8, 65536, 1])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, k] = [case.dims[0], case.dims[1]];
        let logits = case.normal(0, rows * k, case.offset, 1.0);
        vec![
            Input::new("logits", InputKind::Constant, &[rows, k], logits).wide(),
            Input::new("running_center", InputKind::Constant, &[k], case.normal(1, k, 0.0, 1.0))
                .wide(),
            Input::new("inv_tau", InputKind::Constant, &[1], vec![4.0]).wide(),
        ]
    }

    fn run(&self, _: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let kind =
            [TargetKind::Center, TargetKind::Standardise, TargetKind::Sinkhorn][case.dims[2]];
        let (logits, running, inv_tau) = (args.var(0)?, args.var(1)?, args.var(2)?);
        let (center, inv_tau) =
            teacher_targets(kind, logits.value(), running.value(), inv_tau.value())?;
        Ok(vec![Var::constant(center), Var::constant(inv_tau)])
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
        (case.dims[0] * case.dims[1] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        4 * (case.dims[0] * case.dims[1]) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the plain algorithm on the matrix of assignments.
    #[test]
    fn sinkhorn_equals_alternating_normalisation() {
        let (rows, k, tau) = (5, 7, 0.3);
        let case = OpCase::new(&["sinkhorn"], &[1]);
        let logits = case.normal(0, rows * k, 0.0, 1.0);
        let mut q: Vec<f64> = logits.iter().map(|t| (t / tau).exp()).collect();
        for _ in 0..SINKHORN_ROUNDS {
            for j in 0..k {
                let sum: f64 = (0..rows).map(|i| q[i * k + j]).sum();
                (0..rows).for_each(|i| q[i * k + j] /= sum);
            }
            for row in q.chunks_exact_mut(k) {
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|v| *v /= sum);
            }
        }
        let mut center = vec![0.0; k];
        let inv_tau = sinkhorn(&mut center, &logits, 1.0 / tau);
        for (i, row) in logits.chunks_exact(k).enumerate() {
            let e: Vec<f64> =
                row.iter().zip(&center).map(|(t, c)| ((t - c) * inv_tau).exp()).collect();
            let sum: f64 = e.iter().sum();
            for (j, e) in e.iter().enumerate() {
                assert!((e / sum - q[i * k + j]).abs() < 1e-12, "row {i} prototype {j}");
            }
        }
    }
}
