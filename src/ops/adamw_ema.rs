//! The optimiser over flat memory: clip, AdamW and the teacher's moving average in one pass.
//!
//! ```text
//! g <- clip g            m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
//! p <- p (1 - lr wd) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//! teacher <- mu teacher + (1 - mu) p
//! ```

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::abi::{ADAM_ACTIVE, ADAM_TEACHER, AdamScalars, AdamSegment};
use crate::device::launch::{DevicePtr, LaunchConfig};
use crate::device::{DType, Device, KernelCall, Real, Tensor, TensorMut, with_real};
use crate::param_layout::ParamLayout;
use crate::tape::{Tape, Var};
use crate::{Error, Result};

pub mod fast;

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

/// The flat buffers of an update, or the same piece of each, all of the same length except the teacher's.
pub struct Buffers<'b> {
    pub params: TensorMut<'b>,
    pub grads: &'b Tensor,
    /// First moments.
    pub m: &'b mut Tensor,
    /// Second moments.
    pub v: &'b mut Tensor,
    /// A prefix of the student's layout (encoder and projection head).
    pub teacher: Option<&'b mut Tensor>,
    /// bf16 copies of `params` and `teacher`, written by the same pass (on a GPU).
    pub half: Option<TensorMut<'b>>,
    pub teacher_half: Option<&'b mut Tensor>,
}

impl Buffers<'_> {
    /// Number of parameters; checks that the buffers fit each other.
    fn check(&self) -> Result<usize> {
        let n = self.params.len();
        for tensor in [self.grads, &*self.m, &*self.v] {
            tensor.expect_shape(OP, &[n])?;
        }
        if let Some(half) = self.half.as_ref().filter(|half| half.len() != n) {
            return Err(Error::shape(OP, format!("[{n}]"), format!("{:?}", half.shape())));
        }
        if self.teacher.as_ref().is_some_and(|t| t.len() > n) {
            return Err(Error::shape(OP, "a teacher no larger than its student", "a larger one"));
        }
        if let Some(half) = &self.teacher_half {
            half.expect_shape(OP, &[self.teacher.as_ref().map_or(0, |t| t.len())])?;
        }
        Ok(n)
    }
}

/// Elements that one block covers (`ADAM_CHUNK` of the kernel).
const CHUNK: usize = 8192;

/// The numbers of one update. On a GPU they stand in device memory at addresses that stay from update
/// to update ([`UpdateTable::set`]), as a captured step needs it.
#[derive(Debug)]
pub struct UpdateTable {
    settings: AdamW,
    segments: Vec<Segment>,
    n: usize,
    teacher: usize,
    device: Option<DeviceTable>,
}

/// What the kernel reads.
#[derive(Debug)]
struct DeviceTable {
    /// One `AdamScalars`, as bytes.
    scalars: Tensor,
    /// `AdamSegment`s without gaps, as bytes.
    rows: Tensor,
    /// First segment of every chunk.
    chunks: Tensor,
}

impl UpdateTable {
    /// For buffers of `n` parameters, the first `teacher` of which the teacher has.
    ///
    /// Errors: `Shape`: segments that overlap or end beyond `n`.
    pub fn new(
        device: &Device,
        settings: &AdamW,
        segments: &[Segment],
        n: usize,
        teacher: usize,
    ) -> Result<Self> {
        let rows = cover(settings, segments, n, teacher)?;
        let mut table =
            Self { settings: *settings, segments: segments.to_vec(), n, teacher, device: None };
        if *device == Device::Cpu {
            return Ok(table);
        }
        let (mut chunks, mut first) = (Vec::new(), 0);
        for chunk in 0..n.div_ceil(CHUNK) {
            while rows.get(first).is_some_and(|s| s.end as usize <= chunk * CHUNK) {
                first += 1;
            }
            chunks.push(first as i32);
        }
        let scalars = [scalars(settings)];
        let (scalars, values) = (bytemuck::cast_slice(&scalars), bytemuck::cast_slice(&rows));
        table.device = Some(DeviceTable {
            scalars: Tensor::from_slice::<f32>(device, scalars, &[8])?,
            rows: Tensor::from_slice::<i64>(device, values, &[rows.len(), 4])?,
            chunks: Tensor::from_slice(device, &chunks, &[chunks.len()])?,
        });
        Ok(table)
    }

    /// Puts the numbers of another update in place. Errors: other segments than those of `new`.
    pub fn set(&mut self, settings: &AdamW, segments: &[Segment]) -> Result<()> {
        let rows = cover(settings, segments, self.n, self.teacher)?;
        (self.settings, self.segments) = (*settings, segments.to_vec());
        let Some(device) = &mut self.device else { return Ok(()) };
        let scalars = [scalars(settings)];
        device.scalars.as_mut().upload::<f32>(bytemuck::cast_slice(&scalars))?;
        device.rows.as_mut().upload::<i64>(bytemuck::cast_slice(&rows))
    }
}

/// One update in place. `clip` is what [`super::grad_norm::grad_norm`] returned: its factor takes the
/// place of `grad_scale`, and with a norm that is not finite nothing changes.
///
/// Shapes: `params`, `grads`, `m`, `v`, `half` `[n]`, `teacher`, `teacher_half` `[at most n]`, `clip`
/// `[2]`.
/// Numerics: in the arithmetic of the buffers (f32 masters); scalars are prepared in f64. Parameters
/// and their copies outside of active segments keep their values; the teacher follows everywhere.
/// Errors: `Shape`; buffers of other sizes than the table's.
///
/// ```
/// use glmae::device::{Device, Tensor};
/// use glmae::ops::adamw_ema::{AdamW, Buffers, Segment, UpdateTable, adamw_ema};
/// let cpu = Device::Cpu;
/// let settings = AdamW {
///     lr: 0.1, weight_decay: 0.0, beta1: 0.9, beta2: 0.95, eps: 1e-8, grad_scale: 1.0, ema: 0.5,
/// };
/// let segment = Segment { offset: 0, len: 1, decays: false, update: 1 };
/// let table = UpdateTable::new(&cpu, &settings, &[segment], 1, 1)?;
/// let one = |x: f64| Tensor::from_slice(&cpu, &[x], &[1]);
/// let (mut p, grads, mut m, mut v, mut t) = (one(1.0)?, one(2.0)?, one(0.0)?, one(0.0)?, one(1.0)?);
/// adamw_ema(&table, None, Buffers {
///     params: p.as_mut(), grads: &grads, m: &mut m, v: &mut v, teacher: Some(&mut t), half: None,
///     teacher_half: None,
/// })?;
/// // The first step is lr long whatever the gradient; the teacher goes half of the way.
/// assert!((p.to_f64_vec()?[0] - 0.9).abs() < 1e-6 && (t.to_f64_vec()?[0] - 0.95).abs() < 1e-6);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn adamw_ema(
    table: &UpdateTable,
    clip: Option<&Tensor>,
    mut buffers: Buffers<'_>,
) -> Result<()> {
    let n = buffers.check()?;
    let teacher = buffers.teacher.as_ref().map_or(0, |t| t.len());
    if (n, teacher) != (table.n, table.teacher) {
        let expected = format!("{} parameters, {} of the teacher", table.n, table.teacher);
        return Err(Error::shape(OP, expected, format!("{n}, {teacher}")));
    }
    if let Some(clip) = clip {
        clip.expect_shape(OP, &[2])?;
    }
    if let Some(device) = &table.device {
        return run_kernel(device, clip, buffers);
    }
    if buffers.half.is_some() || buffers.teacher_half.is_some() {
        return Err(Error::shape(OP, "no bf16 copies on the CPU", "one"));
    }
    let mut settings = table.settings;
    if let Some(&[norm, factor]) = clip.map(Tensor::to_f64_vec).transpose()?.as_deref() {
        if !norm.is_finite() {
            return Ok(());
        }
        settings.grad_scale = factor;
    }
    with_real!(OP, buffers.params.dtype(), T => {
        let params = buffers.params.host_mut::<T>()?;
        let grads = buffers.grads.host::<T>()?;
        let (m, v) = (buffers.m.host_mut::<T>()?, buffers.v.host_mut::<T>()?);
        for s in table.segments.iter().filter(|s| s.update > 0) {
            let range = s.offset..s.offset + s.len;
            let (p, g) = (&mut params[range.clone()], &grads[range.clone()]);
            adamw(&settings, s, p, g, &mut m[range.clone()], &mut v[range]);
        }
        if let Some(teacher) = buffers.teacher {
            let teacher = teacher.host_mut::<T>()?;
            ema(teacher, &params[..teacher.len()], settings.ema);
        }
        Ok(())
    })
}

fn run_kernel(table: &DeviceTable, clip: Option<&Tensor>, mut buffers: Buffers<'_>) -> Result<()> {
    let wide = [Some(buffers.grads), Some(&*buffers.m), Some(&*buffers.v)].into_iter();
    let wide = wide.chain([buffers.teacher.as_deref(), clip]).flatten().map(Tensor::dtype);
    for dtype in wide.chain([buffers.params.dtype()]) {
        if dtype != DType::F32 {
            return Err(Error::shape(OP, "f32 buffers", dtype.name()));
        }
    }
    let halves = [
        buffers.half.as_ref().map(TensorMut::dtype),
        buffers.teacher_half.as_ref().map(|t| t.dtype()),
    ];
    for dtype in halves.into_iter().flatten() {
        if dtype != DType::Bf16 {
            return Err(Error::shape(OP, "copies in bf16", dtype.name()));
        }
    }
    let n = buffers.params.len();
    if n == 0 {
        return Ok(());
    }
    let device = buffers.grads.device();
    let call = KernelCall::new(device, "adamw_ema_update_f32")
        .output_mut(&mut buffers.params)?
        .output(buffers.m)?
        .output(buffers.v)?
        .optional_output(buffers.teacher)?;
    let call = match &mut buffers.half {
        Some(half) => call.output_mut(half)?,
        None => call.value(DevicePtr::NULL),
    };
    call.optional_output(buffers.teacher_half)?
        .input(buffers.grads)?
        .input(&table.scalars)?
        .input(&table.rows)?
        .input(&table.chunks)?
        .optional(clip)?
        .value(table.rows.shape()[0] as i32)
        .value(n as i64)
        .launch(LaunchConfig::linear(n.div_ceil(CHUNK) as u32, 256))
}

fn scalars(a: &AdamW) -> AdamScalars {
    AdamScalars {
        beta1: a.beta1 as f32,
        rest1: (1.0 - a.beta1) as f32,
        beta2: a.beta2 as f32,
        rest2: (1.0 - a.beta2) as f32,
        eps: a.eps as f32,
        grad_scale: a.grad_scale as f32,
        ema: a.ema as f32,
        ema_rest: (1.0 - a.ema) as f32,
    }
}

/// The segments in order, gaps filled with inactive ones, cut where the teacher ends.
fn cover(a: &AdamW, segments: &[Segment], n: usize, teacher: usize) -> Result<Vec<AdamSegment>> {
    let mut sorted: Vec<&Segment> = segments.iter().filter(|s| s.len > 0).collect();
    sorted.sort_by_key(|s| s.offset);
    let (mut rows, mut at) = (Vec::with_capacity(2 * sorted.len() + 2), 0);
    let mut push = |begin: usize, end: usize, segment: Option<&Segment>| {
        let middle = teacher.clamp(begin, end);
        for (begin, end) in [(begin, middle), (middle, end)] {
            if begin == end {
                continue;
            }
            let update = segment.map_or(0, |s| s.update);
            let correction = |beta: f64| 1.0 - libm::pow(beta, update.max(1) as f64);
            let decays = segment.is_some_and(|s| s.decays);
            rows.push(AdamSegment {
                begin: begin as i64,
                end: end as i64,
                step_size: (a.lr / correction(a.beta1)) as f32,
                root: (1.0 / correction(a.beta2).sqrt()) as f32,
                keep: if decays { (1.0 - a.lr * a.weight_decay) as f32 } else { 1.0 },
                flags: if update > 0 { ADAM_ACTIVE } else { 0 }
                    | if begin < teacher { ADAM_TEACHER } else { 0 },
            });
        }
    };
    for s in sorted {
        if s.offset < at || s.offset + s.len > n {
            let expected = format!("segments within {n} elements that do not overlap");
            return Err(Error::shape(OP, expected, format!("{s:?}")));
        }
        push(at, s.offset, None);
        push(s.offset, s.offset + s.len, Some(s));
        at = s.offset + s.len;
    }
    push(at, n, None);
    Ok(rows)
}

/// The update of one segment: the fast path in f32, the plain loop, which is the oracle, in f64.
fn adamw<T: Real>(a: &AdamW, s: &Segment, p: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
    match T::same_as_f32() {
        Some(f) => fast::adamw(a, s, f.of_mut(p), f.of(g), f.of_mut(m), f.of_mut(v)),
        None => reference(a, s, p, g, m, v),
    }
}

/// `teacher <- momentum teacher + (1 - momentum) student`, chosen as above.
fn ema<T: Real>(teacher: &mut [T], student: &[T], momentum: f64) {
    if let Some(f) = T::same_as_f32() {
        return fast::ema(f.of_mut(teacher), f.of(student), momentum);
    }
    let (mu, rest) = (T::of(momentum), T::of(1.0 - momentum));
    for (t, &s) in teacher.iter_mut().zip(student) {
        *t = mu * *t + rest * s;
    }
}

fn reference<T: Real>(a: &AdamW, s: &Segment, p: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
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

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 3]| OpCase::new(&["decayed", "plain", "update"], &d);
        vec![
            case([1, 1, 1]),
            case([13, 7, 2]),
            case([1000, 50, 100]),
            case([70_001, 33, 7]),
            case([64, 31, 3]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["decayed", "plain", "update"], &[3_000_000, 20_000, 10])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let n = case.dims[0] + case.dims[1];
        let input = |name, i, mean| {
            Input::new(name, InputKind::Constant, &[n], case.normal(i, n, mean, 1.0)).wide()
        };
        let squares = case.normal(3, n, 0.0, 1.0).iter().map(|x| x * x + 1e-3).collect();
        vec![
            input("params", 0, case.offset),
            input("grads", 1, 0.0),
            input("m", 2, 0.0),
            Input::new("v", InputKind::Constant, &[n], squares).wide(),
            input("teacher", 4, case.offset),
        ]
    }

    fn run(&self, _: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
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
        let params = params.as_mut();
        let buffers =
            Buffers { params, grads, m, v, teacher: Some(teacher), half: None, teacher_half: None };
        let device = grads.device();
        let n = decayed + plain;
        // The table of another update first, so that `set` has to do its part.
        let other = AdamW { lr: 0.5, ..settings };
        let mut table = UpdateTable::new(device, &other, &segments, n, n)?;
        table.set(&settings, &segments)?;
        adamw_ema(&table, None, buffers)?;
        Ok(state.into_iter().map(Var::constant).collect())
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Elementwise
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        // p, g, m, v, teacher in; p, m, v, teacher out.
        (9 * (case.dims[0] + case.dims[1]) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        16 * (case.dims[0] + case.dims[1]) as u64
    }
}
