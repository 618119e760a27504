//! Weight-normalised linear layer, the prototypes of the projection head:
//! `y = x W^T` with `W[k] = g[k] v[k] / |v[k]|`, no bias.

use super::cpu::gemm::{Epilogue, MatRef};
use super::linear::product;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::{Device, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Param, Tape, Var};
use crate::{Error, Result};

pub(super) mod launch;

const OP: &str = "weight_norm_linear";

impl<'a> Tape<'a> {
    /// Products with normalised, scaled weight rows.
    ///
    /// Shapes: `x` `[rows, in]`, `g` `[out, 1]`, `v` `[out, in]`, result `[rows, out]`.
    /// Numerics: no epsilon in the norm, as `torch.nn.utils.weight_norm`. Where activations are
    /// bf16, so are the operands of the products (normalised weight, and dy in the backward); the
    /// result and all sums are f32.
    /// Errors: `Shape`.
    /// Source: Salimans and Kingma, arXiv 1602.07868; DINO's last layer (g frozen at 1).
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::tape::{Param, Tape, Var};
    /// let cpu = Device::Cpu;
    /// let x = Var::constant(Tensor::from_slice(&cpu, &[1.0, 1.0], &[1, 2])?);
    /// let g = Param::constant(Tensor::from_slice(&cpu, &[10.0], &[1, 1])?);
    /// let v = Param::constant(Tensor::from_slice(&cpu, &[3.0, 4.0], &[1, 2])?);
    /// let y = Tape::new(&cpu).weight_norm_linear(&x, &g, &v)?;
    /// // |v| = 5, so W is [6, 8].
    /// assert_eq!(y.value().to_f64_vec()?, [14.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn weight_norm_linear(&mut self, x: &Var, g: &Param, v: &Param) -> Result<Var> {
        let (rows, fan_in) = x.value().matrix(OP)?;
        let (out, width) = v.value.matrix(OP)?;
        if width != fan_in || g.value.len() != out {
            let expected = format!("g [out, 1] and v [out, {fan_in}]");
            return Err(Error::shape(OP, expected, format!("{:?}, {:?}", g.value, v.value)));
        }
        let dtype = x.value().dtype();
        let mut y = Tensor::empty(self.device(), v.value.dtype(), &[rows, out])?;
        let mut norm = Tensor::empty(self.device(), v.value.dtype(), &[out])?;
        let mut weight = Tensor::empty(self.device(), dtype, &[out, fan_in])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                normalise::<T>(
                    weight.host_mut()?, norm.host_mut()?, g.value.host()?, v.value.host()?,
                );
                let x = MatRef::new(x.value().host::<T>()?, rows, fan_in)?;
                let w = MatRef::new(weight.host::<T>()?, out, fan_in)?;
                product(x, w.t(), false, y.host_mut()?, Epilogue::default())
            })?,
            _ => {
                launch::normalise(&mut weight, &mut norm, &g.value, &v.value)?;
                launch::forward(&mut y, x.value(), &weight)?;
            }
        }
        Ok(self.record(OP, y, needs_grad(&[x], &[g, v]), || WeightNormBwd {
            x: x.clone(),
            g: g.clone(),
            v: v.clone(),
            weight,
            norm,
        }))
    }
}

struct WeightNormBwd {
    x: Var,
    g: Param,
    v: Param,
    weight: Tensor,
    norm: Tensor,
}

impl Backward for WeightNormBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (rows, out) = dy.matrix(OP)?;
        let (_, fan_in) = self.x.value().matrix(OP)?;
        if *dy.device() != Device::Cpu {
            return self.run_kernels(dy, grads);
        }
        with_real!(OP, dy.dtype(), T => {
            let d = MatRef::new(dy.host::<T>()?, rows, out)?;
            if let Some((mut dx, mode)) = grads.slot(&self.x)? {
                let w = MatRef::new(self.weight.host::<T>()?, out, fan_in)?;
                product(d, w, mode.accumulates(), dx.host_mut()?, Epilogue::default())?;
            }
            if self.g.slot.is_none() && self.v.slot.is_none() {
                return Ok(());
            }
            let mut dw = Tensor::empty(dy.device(), dy.dtype(), &[out, fan_in])?;
            let x = MatRef::new(self.x.value().host::<T>()?, rows, fan_in)?;
            product(d.t(), x, false, dw.host_mut()?, Epilogue::default())?;
            let (dw, norm) = (dw.host::<T>()?, self.norm.host::<T>()?);
            let (g, v) = (self.g.value.host::<T>()?, self.v.value.host::<T>()?);
            if let Some((mut dg, mode)) = grads.param(&self.g)? {
                for (k, dst) in dg.host_mut::<T>()?.iter_mut().enumerate() {
                    let grad = dot(&dw[k * fan_in..][..fan_in], &v[k * fan_in..][..fan_in]) / norm[k];
                    *dst = if mode.accumulates() { *dst + grad } else { grad };
                }
            }
            if let Some((mut dv, mode)) = grads.param(&self.v)? {
                for (k, dst) in dv.host_mut::<T>()?.chunks_exact_mut(fan_in).enumerate() {
                    let (dw, v) = (&dw[k * fan_in..][..fan_in], &v[k * fan_in..][..fan_in]);
                    let along = dot(dw, v) / (norm[k] * norm[k]);
                    for ((dst, &dw), &v) in dst.iter_mut().zip(dw).zip(v) {
                        let grad = g[k] / norm[k] * (dw - v * along);
                        *dst = if mode.accumulates() { *dst + grad } else { grad };
                    }
                }
            }
            Ok(())
        })
    }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

fn normalise<T: Real>(weight: &mut [T], norm: &mut [T], g: &[T], v: &[T]) {
    let c = v.len() / norm.len().max(1);
    for (k, n) in norm.iter_mut().enumerate() {
        let row = &v[k * c..][..c];
        *n = dot(row, row).sqrt();
        for (w, &v) in weight[k * c..][..c].iter_mut().zip(row) {
            *w = v * (g[k] / *n);
        }
    }
}

/// The op in the registry. Dims of a case: rows, in, out.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "products with unit-length weight rows (prototypes)"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 3]| OpCase::new(&["rows", "in", "out"], &d);
        vec![
            // Width 1 has no direction: its gradient is zero and says nothing. A few values in bf16 would
            // be at the mercy of their roundings (two where the gradient of x is added).
            case([1, 50, 1]),
            case([3, 7, 5]),
            case([13, 12, 31]),
            case([6, 64, 130]),
            // Sides that allow 16-byte loads in bf16; the gradient of x is made in two parts.
            case([5, 24, 520]),
            case([5, 20, 11]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["rows", "in", "out"], &[6, 128, 1024])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, fan_in, out] = [case.dims[0], case.dims[1], case.dims[2]];
        let x = case.normal(0, rows * fan_in, case.offset, 1.0);
        vec![
            Input::new("x", InputKind::Activation, &[rows, fan_in], x),
            Input::new("g", InputKind::Param, &[out, 1], case.normal(1, out, 1.0, 0.2)).wide(),
            Input::new(
                "v",
                InputKind::Param,
                &[out, fan_in],
                case.normal(2, out * fan_in, 0.0, 1.0),
            ),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, _: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        Ok(vec![tape.weight_norm_linear(args.var(0)?, args.param(1)?, args.param(2)?)?])
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        Tolerance::Products { k: case.dims.iter().copied().max().unwrap_or(1) }
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let [m, k, n] = [case.dims[0], case.dims[1], case.dims[2]];
        ((m * k + n * k + m * n) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        2 * case.dims.iter().product::<usize>() as u64
    }
}
