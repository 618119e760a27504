//! L2 normalise: `y = x / max(|x|, 1e-12)` per row, as in front of the prototypes of the
//! projection head.

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::Result;
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};

const OP: &str = "l2_normalize";
const EPS: f64 = 1e-12;

impl<'a> Tape<'a> {
    /// Rows divided by their Euclidean length.
    ///
    /// Shapes: `x` and result `[rows, c]`.
    /// Numerics: a row shorter than 1e-12 is divided by 1e-12 and its gradient is that of a
    /// constant divisor, as `torch.nn.functional.normalize`.
    /// Errors: `Shape`.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[3.0, 4.0], &[1, 2])?);
    /// let y = Tape::new(&cpu).l2_normalize(&x)?.value().to_f64_vec()?;
    /// // The row is 5 long.
    /// assert!((y[0] - 0.6).abs() < 1e-12 && (y[1] - 0.8).abs() < 1e-12);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn l2_normalize(&mut self, x: &Var) -> Result<Var> {
        let (rows, c) = x.value().matrix(OP)?;
        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), dtype, &[rows, c])?;
        let stat = if dtype == DType::Bf16 { DType::F32 } else { dtype };
        let mut norm = Tensor::empty(self.device(), stat, &[rows])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                forward::<T>(y.host_mut()?, norm.host_mut()?, x.value().host()?);
                Ok(())
            })?,
            _ if y.is_empty() => {}
            device => KernelCall::typed(device, "l2_normalize_fwd", dtype)
                .output(&mut y)?
                .output(&mut norm)?
                .input(x.value())?
                .value(rows as i64)
                .value(c as i32)
                .launch(LaunchConfig::linear(rows.div_ceil(4) as u32, 128))?,
        }
        // The kernels' backward takes the unrounded row from `x`.
        let saved = (*self.device() == Device::Cpu).then(|| y.clone());
        let keeps = needs_grad(&[x], &[]);
        Ok(self.record(OP, y, keeps, || L2NormalizeBwd { x: x.clone(), y: saved, norm }))
    }
}

struct L2NormalizeBwd {
    x: Var,
    /// On the CPU.
    y: Option<Tensor>,
    norm: Tensor,
}

impl Backward for L2NormalizeBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Some((mut dx, mode)) = grads.slot(&self.x)? else { return Ok(()) };
        let Some(y) = &self.y else {
            let (rows, c) = dy.matrix(OP)?;
            if dy.is_empty() {
                return Ok(());
            }
            return KernelCall::typed(dy.device(), "l2_normalize_bwd", dy.dtype())
                .output_mut(&mut dx)?
                .input(&self.norm)?
                .input(&dy)?
                .input(self.x.value())?
                .value(rows as i64)
                .value(c as i32)
                .value(mode.as_arg())
                .launch(LaunchConfig::linear(rows.div_ceil(4) as u32, 128));
        };
        with_real!(OP, dy.dtype(), T => {
            let (dx, norm) = (dx.host_mut()?, self.norm.host()?);
            backward::<T>(dx, dy.host()?, y.host()?, norm, mode.accumulates());
            Ok(())
        })
    }
}

fn forward<T: Real>(y: &mut [T], norm: &mut [T], x: &[T]) {
    let c = x.len() / norm.len().max(1);
    for (r, n) in norm.iter_mut().enumerate() {
        let row = &x[r * c..][..c];
        *n = row.iter().map(|&x| x * x).sum::<T>().sqrt();
        let divisor = n.max(T::of(EPS));
        for (y, &x) in y[r * c..][..c].iter_mut().zip(row) {
            *y = x / divisor;
        }
    }
}

/// `dx = (dy - y (y . dy)) / |x|`.
fn backward<T: Real>(dx: &mut [T], dy: &[T], y: &[T], norm: &[T], accumulate: bool) {
    let c = y.len() / norm.len().max(1);
    for (r, &n) in norm.iter().enumerate() {
        let (dy, y) = (&dy[r * c..][..c], &y[r * c..][..c]);
        let clamped = n < T::of(EPS);
        let dot: T =
            if clamped { T::default() } else { dy.iter().zip(y).map(|(&a, &b)| a * b).sum() };
        let divisor = n.max(T::of(EPS));
        for ((dst, &d), &y) in dx[r * c..][..c].iter_mut().zip(dy).zip(y) {
            let g = (d - y * dot) / divisor;
            *dst = if accumulate { *dst + g } else { g };
        }
    }
}

/// The op in the registry. Dims of a case: rows, c.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "rows divided by their Euclidean length"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |rows, c| OpCase::new(&["rows", "c"], &[rows, c]);
        vec![case(1, 2), case(5, 13), case(11, 50), case(6, 256), case(7, 31).with_offset(1000.0)]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "c"], &[40, 256])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, c] = [case.dims[0], case.dims[1]];
        let x = case.normal(0, rows * c, case.offset, 1.0);
        vec![Input::new("x", InputKind::Activation, &[rows, c], x)]
    }

    fn run(&self, tape: &mut Tape<'_>, _: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        Ok(vec![tape.l2_normalize(args.var(0)?)?])
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
        3 * (case.dims[0] * case.dims[1]) as u64
    }
}
