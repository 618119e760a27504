//! Softmax cross-entropy of rows with integer labels, for classification:
//! `loss = mean over rows of -log softmax(z)[label]`.

use super::soft_cross_entropy::softmax;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "cross_entropy";

impl<'a> Tape<'a> {
    /// The mean over the rows.
    ///
    /// Shapes: `logits` `[rows, k]`, f32 on a GPU; `labels` `[rows]` i32; result `[1]`.
    /// Numerics: maximum taken out before the exponential; value and gradient in one pass. A label outside
    /// of `0..k`, which the data layer has to refuse, gives its row loss 0 and gradient 0.
    /// Errors: `Shape`; no rows at all.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let logits = Var::constant(Tensor::from_slice(&cpu, &[0.0, 0.0], &[1, 2])?);
    /// let labels = Tensor::from_slice(&cpu, &[1i32], &[1])?;
    /// let loss = Tape::new(&cpu).cross_entropy(&logits, &labels)?;
    /// // Two classes, equally likely: ln 2.
    /// assert!((loss.value().to_f64_vec()?[0] - 2f64.ln()).abs() < 1e-12);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn cross_entropy(&mut self, logits: &Var, labels: &Tensor) -> Result<Var> {
        let (rows, k) = logits.value().matrix(OP)?;
        labels.expect_shape(OP, &[rows])?;
        if rows == 0 || k == 0 || k > i32::MAX as usize / 2 || labels.dtype() != DType::I32 {
            let got = format!("{rows} x {k}, labels {}", labels.dtype());
            return Err(Error::shape(OP, "rows, classes and labels i32", got));
        }
        let dtype = logits.value().dtype();
        let mut loss = Tensor::empty(self.device(), dtype, &[1])?;
        let mut gradient = Tensor::empty(self.device(), dtype, &[rows, k])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                let (z, labels) = (logits.value().host::<T>()?, labels.host::<i32>()?);
                loss.host_mut::<T>()?[0] = reference(gradient.host_mut()?, z, labels, k);
                Ok(())
            })?,
            _ if dtype != DType::F32 => return Err(Error::shape(OP, "f32 logits", dtype.name())),
            device => {
                let scale = (1.0 / rows as f64) as f32;
                let mut row_loss = Tensor::empty(device, DType::F32, &[rows])?;
                KernelCall::new(device, "cross_entropy_fwd_f32")
                    .output(&mut gradient)?
                    .output(&mut row_loss)?
                    .input(logits.value())?
                    .input(labels)?
                    .value(rows as i64)
                    .value(k as i32)
                    .value(scale)
                    .launch(LaunchConfig::linear(rows.div_ceil(8) as u32, 256))?;
                KernelCall::new(device, "cross_entropy_fwd_f32_sum")
                    .output(&mut loss)?
                    .input(&row_loss)?
                    .value(rows as i64)
                    .value(scale)
                    .launch(LaunchConfig::linear(1, 256))?;
            }
        }
        let keeps = needs_grad(&[logits], &[]);
        Ok(self.record(OP, loss, keeps, || CrossEntropyBwd { logits: logits.clone(), gradient }))
    }
}

/// The loss; its gradient into `gradient`.
fn reference<T: Real>(gradient: &mut [T], z: &[T], labels: &[i32], k: usize) -> T {
    let scale = T::of(1.0 / labels.len() as f64);
    let mut loss = T::default();
    for ((g, z), &label) in gradient.chunks_exact_mut(k).zip(z.chunks_exact(k)).zip(labels) {
        let Some((label, &score)) = usize::try_from(label).ok().and_then(|l| Some((l, z.get(l)?)))
        else {
            g.fill(T::default());
            continue;
        };
        let max = z.iter().copied().reduce(T::max).unwrap_or_default();
        loss += z.iter().map(|&z| (z - max).exp()).sum::<T>().ln() + max - score;
        g.copy_from_slice(z);
        softmax(g);
        g[label] -= T::of(1.0);
        g.iter_mut().for_each(|g| *g *= scale);
    }
    loss * scale
}

struct CrossEntropyBwd {
    logits: Var,
    /// Of the loss.
    gradient: Tensor,
}

impl Backward for CrossEntropyBwd {
    fn run(mut self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let n = self.gradient.len();
        match dy.device() {
            Device::Cpu => with_real!(OP, dy.dtype(), T => {
                let d = dy.host::<T>()?[0];
                self.gradient.host_mut::<T>()?.iter_mut().for_each(|g| *g *= d);
                Ok(())
            })?,
            device => KernelCall::new(device, "cross_entropy_bwd_f32")
                .output(&mut self.gradient)?
                .input(&dy)?
                .value(n as i64)
                .launch(LaunchConfig::flat(n, DType::F32))?,
        }
        grads.add(&self.logits, self.gradient)
    }
}

/// The op in the registry. Dims of a case: rows, classes, and 1 for labels outside of the classes.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "softmax cross-entropy of rows with integer labels"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 3]| OpCase::new(&["rows", "k", "strays"], &d);
        vec![
            case([1, 1, 0]),
            case([7, 3, 1]),
            case([13, 50, 0]),
            case([9, 130, 1]),
            case([300, 4, 0]),
            case([5, 1000, 0]),
            case([21, 6, 0]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "k", "strays"], &[1024, 1000, 0])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let shape = [case.dims[0], case.dims[1]];
        let logits = case.normal(0, shape[0] * shape[1], case.offset, 1.5);
        vec![Input::new("logits", InputKind::Activation, &shape, logits).wide()]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let [rows, k, strays] = [0, 1, 2].map(|i| case.dims[i]);
        let mut rng = case.rng(1);
        let label = |i: usize| match rng.below(k as u64) as i32 {
            _ if strays == 1 && i % 3 == 1 => [-1, k as i32][i % 2],
            label => label,
        };
        let labels: Vec<i32> = (0..rows).map(label).collect();
        let labels = Tensor::from_slice(tape.device(), &labels, &[rows])?;
        Ok(vec![tape.cross_entropy(args.var(0)?, &labels)?])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        (2 * case.dims[0] * case.dims[1] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        6 * (case.dims[0] * case.dims[1]) as u64
    }
}
