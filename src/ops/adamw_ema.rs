//! The optimiser over flat memory: clip, AdamW and the teacher's moving average in one pass.
//!
//! ```text
//! g <- clip g            m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
//! p <- p (1 - lr wd) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//! teacher <- mu teacher + (1 - mu) p
//! ```

use super::kernels::Kernels;
use super::{Args, Case, Input, InputKind, OpSpec, Tolerance};
use crate::device::{Real, Tensor, with_real};
use crate::nn::params::ParamLayout;
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "adamw_ema";

/// What changes from step to step. `beta1`, `beta2`, `eps` and `weight_decay` as in AdamW
/// (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Factor on every gradient: clipping, and the mean over micro-batches.
    pub grad_scale: f64,
    /// Momentum of the teacher; it follows the updated student.
    pub ema: f64,
}

/// A piece of the flat buffer with settings of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    pub offset: usize,
    pub len: usize,
    pub decays: bool,
    /// Number of this update for the bias correction, from 1; 0: left out of the update
    /// altogether (frozen: no decay, no moments).
    pub update: u64,
}

impl Segment {
    /// The segments of a layout; `update` gives each parameter's update number.
    pub fn of_layout(layout: &ParamLayout, update: impl Fn(&str) -> u64) -> Vec<Self> {
        let entries = layout.entries().iter();
        entries
            .map(|e| Self {
                offset: e.offset,
                len: e.len(),
                decays: e.decays,
                update: if e.trains { update(&e.name) } else { 0 },
            })
            .collect()
    }
}

/// The flat buffers of an update, all of the same length except the teacher's.
pub struct Buffers<'b> {
    pub params: &'b mut Tensor,
    pub grads: &'b Tensor,
    /// First moments.
    pub m: &'b mut Tensor,
    /// Second moments.
    pub v: &'b mut Tensor,
    /// A prefix of the student's layout (encoder and projection head).
    pub teacher: Option<&'b mut Tensor>,
}

/// One update in place.
///
/// Shapes: `params`, `grads`, `m`, `v` [n], `teacher` [at most n].
/// Numerics: in the arithmetic of the buffers (f32 masters); scalars are prepared in f64.
/// Errors: `Shape`.
pub fn adamw_ema(settings: &AdamW, segments: &[Segment], buffers: Buffers<'_>) -> Result<()> {
    let n = buffers.params.len();
    for tensor in [buffers.grads, &*buffers.m, &*buffers.v] {
        tensor.expect_shape(OP, &[n])?;
    }
    if segments.iter().any(|s| s.offset + s.len > n) {
        return Err(Error::shape(
            OP,
            format!("segments within {n} elements"),
            format!("{segments:?}"),
        ));
    }
    with_real!(OP, buffers.params.dtype(), T => {
        let params = buffers.params.host_mut::<T>()?;
        let grads = buffers.grads.host::<T>()?;
        let (m, v) = (buffers.m.host_mut::<T>()?, buffers.v.host_mut::<T>()?);
        for s in segments.iter().filter(|s| s.update > 0) {
            let range = s.offset..s.offset + s.len;
            let (p, g) = (&mut params[range.clone()], &grads[range.clone()]);
            T::adamw(settings, s, p, g, &mut m[range.clone()], &mut v[range]);
        }
        if let Some(teacher) = buffers.teacher {
            let teacher = teacher.host_mut::<T>()?;
            let Some(student) = params.get(..teacher.len()) else {
                return Err(Error::shape(OP, "a teacher no larger than its student", "a larger one"));
            };
            T::ema(teacher, student, settings.ema);
        }
        Ok(())
    })
}

/// Reference update of one segment.
pub(super) fn reference<T: Real>(
    a: &AdamW,
    s: &Segment,
    p: &mut [T],
    g: &[T],
    m: &mut [T],
    v: &mut [T],
) {
    let correction = |beta: f64| 1.0 - libm::pow(beta, s.update as f64);
    let step_size = T::of(a.lr / correction(a.beta1));
    let root = T::of(1.0 / correction(a.beta2).sqrt());
    let keep = T::of(if s.decays { 1.0 - a.lr * a.weight_decay } else { 1.0 });
    let (b1, c1) = (T::of(a.beta1), T::of(1.0 - a.beta1));
    let (b2, c2) = (T::of(a.beta2), T::of(1.0 - a.beta2));
    let (eps, scale) = (T::of(a.eps), T::of(a.grad_scale));
    for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        let g = g * scale;
        *m = b1 * *m + c1 * g;
        *v = b2 * *v + c2 * g * g;
        *p = *p * keep - step_size * (*m / (v.sqrt() * root + eps));
    }
}

/// The op in the registry. Dims of a case: elements of a decayed and of a plain segment, update.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "clip, AdamW and teacher average over flat memory"
    }

    fn cases(&self) -> Vec<Case> {
        let case = |d: [usize; 3]| Case::new(&["decayed", "plain", "update"], &d);
        vec![
            case([1, 1, 1]),
            case([13, 7, 2]),
            case([1000, 50, 100]),
            case([70_001, 33, 7]),
            case([64, 31, 3]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> Case {
        Case::new(&["decayed", "plain", "update"], &[3_000_000, 20_000, 10])
    }

    fn inputs(&self, case: &Case) -> Vec<Input> {
        let n = case.dims[0] + case.dims[1];
        let input = |name, i, mean| {
            Input::new(name, InputKind::Constant, &[n], case.normal(i, n, mean, 1.0))
        };
        let squares = case.normal(3, n, 0.0, 1.0).iter().map(|x| x * x + 1e-3).collect();
        vec![
            input("params", 0, case.offset),
            input("grads", 1, 0.0),
            input("m", 2, 0.0),
            Input::new("v", InputKind::Constant, &[n], squares),
            input("teacher", 4, case.offset),
        ]
    }

    fn run(&self, _: &mut Tape<'_>, case: &Case, args: &Args) -> Result<Vec<Var>> {
        let mut state = Vec::new();
        for i in [0, 2, 3, 4] {
            state.push(args.var(i)?.value().duplicate()?);
        }
        let [params, m, v, teacher] = &mut state[..] else { unreachable!("four buffers") };
        let settings = AdamW {
            lr: 0.01,
            weight_decay: 0.05,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            grad_scale: 0.7,
            ema: 0.9,
        };
        let (decayed, plain) = (case.dims[0], case.dims[1]);
        let update = case.dims[2] as u64;
        let segments = [
            Segment { offset: 0, len: decayed, decays: true, update },
            // The second half of the plain ones is frozen.
            Segment { offset: decayed, len: plain / 2, decays: false, update },
            Segment {
                offset: decayed + plain / 2,
                len: plain - plain / 2,
                decays: false,
                update: 0,
            },
        ];
        let grads = args.var(1)?.value();
        adamw_ema(&settings, &segments, Buffers { params, grads, m, v, teacher: Some(teacher) })?;
        Ok(state.into_iter().map(Var::constant).collect())
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        Tolerance::Elementwise
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &Case, size: usize) -> u64 {
        // p, g, m, v, teacher in; p, m, v, teacher out.
        (9 * (case.dims[0] + case.dims[1]) * size) as u64
    }

    fn flops(&self, case: &Case) -> u64 {
        16 * (case.dims[0] + case.dims[1]) as u64
    }
}
