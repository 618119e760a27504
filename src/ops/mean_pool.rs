//! Mean pooling of packed sequences: `y[s] = mean of the rows of sequence s`, for classification.

use super::attention::Packing;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "mean_pool";

/// Which tokens of a sequence count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooled {
    All,
    /// All but the first: the class token.
    AllButFirst,
}

impl Pooled {
    fn skipped(self) -> usize {
        usize::from(self == Self::AllButFirst)
    }
}

impl<'a> Tape<'a> {
    /// Mean of every sequence.
    ///
    /// Shapes: `x` `[T, c]` packed as `packing` says; result `[sequences, c]`.
    /// Numerics: f32 sums for bf16 activations, in an order that sizes decide.
    /// Errors: `Shape`; a sequence of which no token counts.
    /// Source: He et al., arXiv 2111.06377, A.1 (global pooling).
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::{attention::Packing, mean_pool::Pooled};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 2.0, 6.0], &[3, 1])?);
    /// let packing = Packing::new(&cpu, &[1, 2])?;
    /// let y = Tape::new(&cpu).mean_pool(&x, &packing, Pooled::All)?;
    /// // The sequences are [1] and [2, 6].
    /// assert_eq!(y.value().to_f64_vec()?, [1.0, 4.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn mean_pool(&mut self, x: &Var, packing: &Packing, pooled: Pooled) -> Result<Var> {
        let (rows, c) = x.value().matrix(OP)?;
        let skip = pooled.skipped();
        if rows != packing.total() || c == 0 || c > i32::MAX as usize / 8 {
            let expected = format!("[{}, c]", packing.total());
            return Err(Error::shape(OP, expected, format!("{:?}", x.shape())));
        }
        if let Some(n) = packing.lengths().iter().find(|&&n| n <= skip) {
            let expected = format!("sequences of more than {skip} tokens");
            return Err(Error::shape(OP, expected, n.to_string()));
        }
        let sequences = packing.lengths().len();
        if sequences > 65_535 {
            return Err(Error::shape(OP, "at most 65535 sequences", sequences.to_string()));
        }
        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), dtype, &[sequences, c])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                let (x, y) = (x.value().host::<T>()?, y.host_mut::<T>()?);
                for ((y, &n), first) in y.chunks_exact_mut(c).zip(packing.lengths()).zip(packing.starts()) {
                    y.fill(T::default());
                    for row in x[(first + skip) * c..(first + n) * c].chunks_exact(c) {
                        y.iter_mut().zip(row).for_each(|(y, &x)| *y += x);
                    }
                    let share = T::of(1.0 / (n - skip) as f64);
                    y.iter_mut().for_each(|y| *y *= share);
                }
                Ok(())
            })?,
            _ if sequences == 0 => {}
            device => {
                let vector = 16 / dtype.size();
                let fits = c.is_multiple_of(vector) && x.value().is_aligned(16);
                let each = if fits { vector } else { 1 };
                KernelCall::typed(device, "mean_pool_fwd", dtype)
                    .output(&mut y)?
                    .input(x.value())?
                    .input(&packing.cu_seqlens)?
                    .value(skip as i32)
                    .value(c as i32)
                    .value(each as i32)
                    .launch(LaunchConfig {
                        grid: [c.div_ceil(8 * each) as u32, sequences as u32, 1],
                        block: [8, 32, 1],
                        shared_bytes: 0,
                    })?;
            }
        }
        Ok(self.record(OP, y, needs_grad(&[x], &[]), || MeanPoolBwd {
            x: x.clone(),
            packing: packing.clone(),
            skip,
        }))
    }
}

struct MeanPoolBwd {
    x: Var,
    packing: Packing,
    skip: usize,
}

impl Backward for MeanPoolBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Some((mut dx, mode)) = grads.slot(&self.x)? else { return Ok(()) };
        let (sequences, c) = dy.matrix(OP)?;
        let lengths = self.packing.lengths();
        if *dy.device() != Device::Cpu {
            let longest = lengths.iter().copied().max().unwrap_or(0);
            if longest == 0 {
                return Ok(());
            }
            return KernelCall::typed(dy.device(), "mean_pool_bwd", dy.dtype())
                .output_mut(&mut dx)?
                .input(&dy)?
                .input(&self.packing.cu_seqlens)?
                .value(self.skip as i32)
                .value(c as i32)
                .value(mode.as_arg())
                .launch(LaunchConfig {
                    grid: [longest.div_ceil(8) as u32, sequences as u32, 1],
                    block: [256, 1, 1],
                    shared_bytes: 0,
                });
        }
        with_real!(OP, dy.dtype(), T => {
            let (dx, dy) = (dx.host_mut::<T>()?, dy.host::<T>()?);
            for ((dy, &n), first) in dy.chunks_exact(c).zip(lengths).zip(self.packing.starts()) {
                let share = T::of(1.0 / (n - self.skip) as f64);
                for (i, row) in dx[first * c..(first + n) * c].chunks_exact_mut(c).enumerate() {
                    for (dx, &dy) in row.iter_mut().zip(dy) {
                        let g = if i < self.skip { T::default() } else { dy * share };
                        *dx = if mode.accumulates() { *dx + g } else { g };
                    }
                }
            }
            Ok(())
        })
    }
}

/// The op in the registry. Dims of a case: c, 1 to leave the first token out, then the lengths.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "mean over the tokens of each packed sequence"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |dims: &[usize]| {
            let mut case = OpCase::new(&["c", "skip"], dims);
            case.label += &format!(",lengths={:?}", &dims[2..]);
            case
        };
        vec![
            case(&[1, 0, 1]),
            case(&[7, 1, 2, 13, 5]),
            case(&[96, 1, 55, 7]),
            case(&[50, 0, 3, 37, 1]),
            case(&[136, 0, 33, 70]),
            case(&[24, 1, 129, 65]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["c", "skip"], &[768, 1, 217, 217, 217, 217, 217, 217, 217, 217])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let shape = [case.dims[2..].iter().sum(), case.dims[0]];
        let x = case.normal(0, shape[0] * shape[1], case.offset, 1.0);
        vec![Input::new("x", InputKind::Activation, &shape, x)]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let packing = Packing::new(tape.device(), &case.dims[2..])?;
        let pooled = if case.dims[1] == 1 { Pooled::AllButFirst } else { Pooled::All };
        Ok(vec![tape.mean_pool(args.var(0)?, &packing, pooled)?])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let (tokens, sequences) = (case.dims[2..].iter().sum::<usize>(), case.dims.len() - 2);
        ((tokens + sequences) * case.dims[0] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        (case.dims[2..].iter().sum::<usize>() * case.dims[0]) as u64
    }
}
