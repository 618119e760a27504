//! Multi-head self-attention over packed sequences.
//!
//! All sequences of a step stand in one `[T, 3 C]` matrix of queries, keys and values; row `t`
//! attends to the rows of its own sequence. Nothing is padded.

pub mod fast;
mod hopper;
#[cfg(all(test, feature = "cuda"))]
mod hopper_fault_tests;
#[cfg(all(test, feature = "cuda"))]
mod hopper_tests;
mod launch;
mod packing;

pub use packing::Packing;

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::{DType, Device, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "attention";

impl<'a> Tape<'a> {
    /// `softmax(q k^T / sqrt(d)) v` per sequence and head.
    ///
    /// Shapes: `qkv` `[T, 3 C]`, a row is q, then k, then v, each head-major with head dim
    /// `d = C / heads`; result `[T, C]`.
    /// Numerics: scores minus the row maximum before the exponential; the log-sum-exp of every
    /// row (f32 for bf16 activations) is kept and the probabilities are computed again in the
    /// backward pass. On a GPU bf16 products run on tensor cores for d = 32, 48, 64; the
    /// probabilities and the gradients of the scores are rounded to bf16 before they are multiplied.
    /// On Hopper, with d = 32, one exponential in six is a polynomial with a relative error of at most
    /// 7.5e-5, and the backward pass takes `rowsum(dout * out)` from the rounded result, without what all keys
    /// have in common.
    /// Errors: `Shape`.
    /// Source: Vaswani et al., arXiv 1706.03762; recomputation: Dao et al., arXiv 2205.14135.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::attention::Packing;
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// // Two sequences, of two tokens and of one; a row is q, k, v of one head with d = 1.
    /// let qkv = Var::constant(Tensor::from_slice(&cpu, &[0.0, 0.0, 2.0, 0.0, 0.0, 4.0, 1.0, 1.0, 7.0], &[3, 3])?);
    /// let packing = Packing::new(&cpu, &[2, 1])?;
    /// let y = Tape::new(&cpu).attention(&qkv, &packing, 1)?;
    /// // Equal scores weigh the values 2 and 4 by a half each; a token alone has its own value.
    /// assert_eq!(y.value().to_f64_vec()?, [3.0, 3.0, 7.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn attention(&mut self, qkv: &Var, packing: &Packing, heads: usize) -> Result<Var> {
        let (rows, width) = qkv.value().matrix(OP)?;
        if heads == 0 || width % (3 * heads) != 0 || rows != packing.total() {
            let expected = format!("[{}, 3 x {heads} heads x d]", packing.total());
            return Err(Error::shape(OP, expected, format!("{:?}", qkv.shape())));
        }
        let dtype = qkv.value().dtype();
        let mut out = Tensor::empty(self.device(), dtype, &[rows, width / 3])?;
        let stat = if dtype == DType::Bf16 { DType::F32 } else { dtype };
        let mut lse = Tensor::empty(self.device(), stat, &[heads, rows])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                let cu = packing.cu_seqlens.host::<i32>()?;
                forward::<T>(out.host_mut()?, lse.host_mut()?, qkv.value().host()?, cu, heads)
            })?,
            _ => launch::forward(&mut out, &mut lse, qkv.value(), packing)?,
        }
        let saved = out.clone();
        Ok(self.record(OP, out, needs_grad(&[qkv], &[]), || AttentionBwd {
            qkv: qkv.clone(),
            out: saved,
            lse,
            packing: packing.clone(),
            heads,
        }))
    }
}

struct AttentionBwd {
    qkv: Var,
    out: Tensor,
    lse: Tensor,
    packing: Packing,
    heads: usize,
}

impl Backward for AttentionBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let qkv = self.qkv.value();
        let mut dqkv = Tensor::empty(qkv.device(), qkv.dtype(), qkv.shape())?;
        match qkv.device() {
            Device::Cpu => with_real!(OP, dy.dtype(), T => {
                backward::<T>(
                    dqkv.host_mut()?, dy.host()?, qkv.host()?, self.out.host()?, self.lse.host()?,
                    self.packing.cu_seqlens.host::<i32>()?, self.heads,
                )
            })?,
            _ => launch::backward(&mut dqkv, &self.out, &self.lse, &dy, qkv, &self.packing)?,
        }
        grads.add(&self.qkv, dqkv)
    }
}

/// See [`Tape::attention`]: in f32 the fast path, where the CPU has the instructions for it; else the
/// plain loops, which in f64 are the oracle.
fn forward<T: Real>(
    out: &mut [T],
    lse: &mut [T],
    qkv: &[T],
    cu: &[i32],
    heads: usize,
) -> Result<()> {
    let Some(f) = T::same_as_f32().filter(|_| fast::is_supported()) else {
        reference(out, lse, qkv, cu, heads);
        return Ok(());
    };
    let shape = fast::Shape::new(cu, heads, out.len() / lse.len().max(1));
    fast::forward(f.of_mut(out), f.of_mut(lse), f.of(qkv), shape)
}

/// Gradient of queries, keys and values.
fn backward<T: Real>(
    dqkv: &mut [T],
    dout: &[T],
    qkv: &[T],
    out: &[T],
    lse: &[T],
    cu: &[i32],
    heads: usize,
) -> Result<()> {
    let Some(f) = T::same_as_f32().filter(|_| fast::is_supported()) else {
        reference_backward(dqkv, dout, qkv, out, lse, cu, heads);
        return Ok(());
    };
    let shape = fast::Shape::new(cu, heads, out.len() / lse.len().max(1));
    fast::backward(f.of_mut(dqkv), f.of(dout), f.of(qkv), f.of(out), f.of(lse), shape)
}

/// Reference forward: `out` `[T, C]`, `lse` `[heads, T]`.
fn reference<T: Real>(out: &mut [T], lse: &mut [T], qkv: &[T], cu: &[i32], heads: usize) {
    let rows = lse.len() / heads;
    let c = out.len() / rows.max(1);
    let d = c / heads;
    let scale = T::of(1.0 / (d as f64).sqrt());
    for span in cu.windows(2) {
        let (begin, end) = (span[0] as usize, span[1] as usize);
        for h in 0..heads {
            for i in begin..end {
                let scores: Vec<T> =
                    (begin..end).map(|j| score(qkv, c, d, h, i, j) * scale).collect();
                let max = scores.iter().copied().fold(scores[0], T::max);
                let sum: T = scores.iter().map(|&s| (s - max).exp()).sum();
                lse[h * rows + i] = max + sum.ln();
                for e in 0..d {
                    let mut acc = T::default();
                    for (j, &s) in (begin..end).zip(&scores) {
                        acc += (s - max).exp() * qkv[j * 3 * c + 2 * c + h * d + e];
                    }
                    out[i * c + h * d + e] = acc / sum;
                }
            }
        }
    }
}

/// Reference backward: with `P = exp(S - lse)`, `delta_i = dout_i . out_i`:
/// `dv_j = sum_i P_ij dout_i`, `dS_ij = P_ij (dout_i . v_j - delta_i)`,
/// `dq_i = scale sum_j dS_ij k_j`, `dk_j = scale sum_i dS_ij q_i`.
#[allow(clippy::needless_range_loop)] // four rows are addressed by the same column
fn reference_backward<T: Real>(
    dqkv: &mut [T],
    dout: &[T],
    qkv: &[T],
    out: &[T],
    lse: &[T],
    cu: &[i32],
    heads: usize,
) {
    let rows = lse.len() / heads;
    let c = out.len() / rows.max(1);
    let d = c / heads;
    let scale = T::of(1.0 / (d as f64).sqrt());
    dqkv.fill(T::default());
    for span in cu.windows(2) {
        let (begin, end) = (span[0] as usize, span[1] as usize);
        for h in 0..heads {
            let head = h * d..(h + 1) * d;
            for i in begin..end {
                let (dout, out) = (&dout[i * c..][head.clone()], &out[i * c..][head.clone()]);
                let delta: T = dout.iter().zip(out).map(|(&a, &b)| a * b).sum();
                for j in begin..end {
                    let p = (score(qkv, c, d, h, i, j) * scale - lse[h * rows + i]).exp();
                    let value = &qkv[j * 3 * c + 2 * c..][head.clone()];
                    let dp: T = dout.iter().zip(value).map(|(&a, &b)| a * b).sum();
                    let ds = p * (dp - delta) * scale;
                    for (e, &g) in dout.iter().enumerate() {
                        let column = h * d + e;
                        dqkv[i * 3 * c + column] += ds * qkv[j * 3 * c + c + column];
                        dqkv[j * 3 * c + c + column] += ds * qkv[i * 3 * c + column];
                        dqkv[j * 3 * c + 2 * c + column] += p * g;
                    }
                }
            }
        }
    }
}

fn score<T: Real>(qkv: &[T], c: usize, d: usize, h: usize, i: usize, j: usize) -> T {
    let q = &qkv[i * 3 * c + h * d..][..d];
    let k = &qkv[j * 3 * c + c + h * d..][..d];
    q.iter().zip(k).map(|(&a, &b)| a * b).sum()
}

/// The op in the registry. Dims of a case: heads, head dim, then the lengths of the sequences.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "multi-head attention over packed sequences (cu_seqlens)"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |dims: &[usize]| {
            let mut case = OpCase::new(&["heads", "d"], dims);
            case.label += &format!(",lengths={:?}", &dims[2..]);
            case
        };
        vec![
            case(&[1, 1, 1]),
            case(&[1, 4, 7]),
            case(&[3, 5, 1, 13, 2]),
            case(&[5, 7, 6, 19]),
            case(&[2, 32, 31, 17]),
            case(&[3, 64, 55, 9, 66]),
            // The backward has a kernel for up to 64, 128 and 256 rows, and two passes beyond.
            case(&[1, 48, 129, 60, 100]),
            // Two passes of the backward, between them sequences of one pass.
            case(&[1, 64, 260, 1, 70, 200]),
            case(&[1, 32, 33, 257, 150, 97]),
            case(&[1, 48, 289]),
            // More than one slice of the head dim without tensor cores.
            case(&[1, 72, 67, 3]),
            case(&[1, 131, 5]),
            // A larger offset would test the exponential of scores in the hundreds, not the op.
            case(&[2, 12, 40, 23]).with_offset(2.0),
            case(&[1, 32, 40, 23]).with_offset(1.0),
            case(&[1, 32, 131, 300]).with_offset(1.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        let mut case = OpCase::new(&["heads", "d"], &[3, 64, 1001, 1001]);
        case.label += ",lengths=[1001, 1001]";
        case
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let width = 3 * case.dims[0] * case.dims[1];
        let rows: usize = case.dims[2..].iter().sum();
        let qkv = case.normal(0, rows * width, case.offset, 1.0);
        vec![Input::new("qkv", InputKind::Activation, &[rows, width], qkv)]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let packing = Packing::new(tape.device(), &case.dims[2..])?;
        Ok(vec![tape.attention(args.var(0)?, &packing, case.dims[0])?])
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        let longest = case.dims[2..].iter().copied().max().unwrap_or(1);
        Tolerance::Products { k: longest.max(case.dims[1]) }
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let rows: usize = case.dims[2..].iter().sum();
        (4 * rows * case.dims[0] * case.dims[1] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        let squares: usize = case.dims[2..].iter().map(|n| n * n).sum();
        4 * (squares * case.dims[0] * case.dims[1]) as u64
    }
}
