//! Labels of a segmentation: the argmax over classes, or a bit for each region.

use rayon::prelude::*;

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "argmax";

/// The end of a kernel's name.
const REGIONS: &str = "_regions";

/// The class with the largest score, for every row.
///
/// Shapes: `scores` `[voxels, k]`, k of 1 to 256; result `[voxels]` u8.
/// Numerics: exact; the first of equal maxima wins, NaN is never chosen unless all scores are NaN (class 0).
/// Errors: `Shape`.
///
/// ```
/// use glmae::device::{Device, Tensor};
/// use glmae::ops::argmax::argmax;
/// let cpu = Device::Cpu;
/// let scores = Tensor::from_slice(&cpu, &[1.0, 3.0, 2.0, 5.0, 5.0, 0.0], &[2, 3])?;
/// // The first of equal scores wins.
/// assert_eq!(argmax(&scores)?.to_vec::<u8>()?, [1, 0]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn argmax(scores: &Tensor) -> Result<Tensor> {
    label(scores, "")
}

/// A bit for every region, set where its score is above 0 (probability above one half), for every row.
///
/// Shapes: `scores` `[voxels, k]`, k of 1 to 256; result `[voxels]` u8: bit `c` is of column `c`, and columns
/// after the eighth have none.
/// Numerics: exact; NaN is in no region.
/// Errors: `Shape`.
///
/// ```
/// use glmae::device::{Device, Tensor};
/// use glmae::ops::argmax::regions;
/// let scores = Tensor::from_slice(&Device::Cpu, &[1.0, -3.0, 2.0, 0.0, 0.5, 0.5], &[2, 3])?;
/// assert_eq!(regions(&scores)?.to_vec::<u8>()?, [0b101, 0b110]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn regions(scores: &Tensor) -> Result<Tensor> {
    label(scores, REGIONS)
}

/// Labels by the kernel whose name ends with `rule`, or by what it computes.
fn label(scores: &Tensor, rule: &str) -> Result<Tensor> {
    let (voxels, k) = scores.matrix(OP)?;
    if !(1..=256).contains(&k) {
        return Err(Error::shape(OP, "1 to 256 classes", k.to_string()));
    }
    let mut labels = Tensor::empty(scores.device(), DType::U8, &[voxels])?;
    if voxels == 0 {
        return Ok(labels);
    }
    if *scores.device() != Device::Cpu {
        let rows = if k <= 64 { 128 } else { 32 };
        let blocks = i32::try_from(voxels.div_ceil(rows))
            .map_err(|_| Error::shape(OP, "fewer voxels", voxels.to_string()))?;
        KernelCall::new(scores.device(), &format!("argmax_fwd_{}{rule}", scores.dtype()))
            .output(&mut labels)?
            .input(scores)?
            .value(voxels as i64)
            .value(k as i32)
            .value(rows as i32)
            .launch(LaunchConfig::linear(blocks as u32, 128).shared((rows * k * 4) as u32))?;
        return Ok(labels);
    }
    with_real!(OP, scores.dtype(), T => {
        let of_row = if rule == REGIONS { above_zero::<T> } else { largest::<T> };
        let rows = scores.host::<T>()?.par_chunks_exact(k);
        labels.host_mut::<u8>()?.par_iter_mut().zip(rows).for_each(|(l, row)| *l = of_row(row));
        Ok(())
    })?;
    Ok(labels)
}

fn above_zero<T: Real>(row: &[T]) -> u8 {
    let bits = row.iter().take(8).enumerate();
    bits.fold(0, |bits, (c, &score)| bits | u8::from(score > T::default()) << c)
}

fn largest<T: Real>(row: &[T]) -> u8 {
    let mut best: Option<(u8, T)> = None;
    for (c, &score) in (0..=u8::MAX).zip(row) {
        let wins = match best {
            Some((_, most)) => score > most,
            // Anything but NaN.
            None => score.partial_cmp(&T::default()).is_some(),
        };
        if wins {
            best = Some((c, score));
        }
    }
    best.map_or(0, |(c, _)| c)
}

/// The op in the registry. Dims of a case: voxels, classes, and 1 for scores with equal maxima, zeros and NaN.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "label map: the class with the largest score, or the regions with one above 0"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 3]| OpCase::new(&["voxels", "classes", "odd"], &d);
        vec![
            case([1, 1, 0]),
            case([131, 3, 1]),
            case([300, 14, 1]),
            case([259, 16, 1]),
            case([67, 65, 1]),
            case([33, 256, 0]),
            case([77, 5, 0]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["voxels", "classes", "odd"], &[2 << 20, 14, 0])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let shape = [case.dims[0], case.dims[1]];
        let len = shape[0] * shape[1];
        let mut scores = case.normal(0, len, case.offset, 1.0);
        if case.dims[2] == 1 {
            let mut rng = case.rng(1);
            for (v, row) in scores.chunks_exact_mut(shape[1]).enumerate() {
                for x in row {
                    *x = match rng.below(5) {
                        0 => f64::NAN,
                        1 => f64::NEG_INFINITY,
                        2 => 1.5,
                        3 => 0.0,
                        _ => *x,
                    };
                    *x = if v % 17 == 3 { f64::NAN } else { *x };
                    *x = if v % 17 == 5 && !x.is_nan() { f64::NEG_INFINITY } else { *x };
                }
            }
        }
        vec![Input::new("scores", InputKind::Constant, &shape, scores)]
    }

    fn run(&self, _: &mut Tape<'_>, _: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let scores = args.var(0)?.value();
        Ok(vec![Var::constant(argmax(scores)?), Var::constant(regions(scores)?)])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Bitwise
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        (case.dims[0] * (case.dims[1] * size + 1)) as u64
    }

    fn flops(&self, _: &OpCase) -> u64 {
        0
    }
}
