//! Soft cross-entropy between teacher and student assignments, the consistency loss:
//!
//! `loss_g = mean over the pairs (i, j) of group g of -sum_k P_i[k] log softmax(s_j / tau_s)[k]`,
//! `P_i = softmax((t_i - center) * inv_tau)`; no gradient flows to the teacher.

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "soft_cross_entropy";

/// Which teacher rows each student row is compared with. A student row belongs to one group
/// (global-to-global, local-to-global).
#[derive(Clone, Debug)]
pub struct PairPlan {
    /// `[student rows + 1]` i32: the pairs of row j are `starts[j] .. starts[j + 1]`.
    starts: Tensor,
    /// `[pairs]` i32.
    teacher_rows: Tensor,
    /// `[student rows]` i32.
    group: Tensor,
    /// Pairs of every group, and `[groups]` f32: one over that, as kernels read it.
    counts: Vec<usize>,
    scale: Tensor,
    teachers: usize,
}

/// The teacher rows of one student row, and the group its loss counts in.
#[derive(Clone, Debug, PartialEq)]
pub struct Anchors {
    pub group: usize,
    pub teacher_rows: Vec<usize>,
}

impl PairPlan {
    /// One entry per student row, in order. Errors: a teacher row beyond `teachers`, a group
    /// beyond `groups`, a group without pairs (its mean does not exist).
    pub fn new(device: &Device, teachers: usize, groups: usize, rows: &[Anchors]) -> Result<Self> {
        let (mut starts, mut teacher_rows, mut group) = (vec![0i32], Vec::new(), Vec::new());
        let mut counts = vec![0usize; groups];
        for row in rows {
            let bad = row.teacher_rows.iter().any(|&t| t >= teachers);
            let Some(count) = counts.get_mut(row.group).filter(|_| !bad) else {
                let expected = format!("{teachers} teacher rows and {groups} groups");
                return Err(Error::shape(OP, expected, format!("{row:?}")));
            };
            *count += row.teacher_rows.len();
            teacher_rows.extend(row.teacher_rows.iter().map(|&t| t as i32));
            starts.push(teacher_rows.len() as i32);
            group.push(row.group as i32);
        }
        if let Some(g) = counts.iter().position(|&n| n == 0) {
            return Err(Error::shape(OP, "pairs in every group", format!("none in group {g}")));
        }
        let upload = |v: &[i32]| Tensor::from_slice(device, v, &[v.len()]);
        let scale: Vec<f64> = counts.iter().map(|&n| 1.0 / n as f64).collect();
        Ok(Self {
            scale: Tensor::from_f64(device, DType::F32, &scale, &[groups])?,
            starts: upload(&starts)?,
            teacher_rows: upload(&teacher_rows)?,
            group: upload(&group)?,
            counts,
            teachers,
        })
    }
}

/// The teacher's side of the loss; see [`super::teacher_targets`].
pub struct Targets<'t> {
    /// `[teacher rows, K]`
    pub logits: &'t Tensor,
    /// `[K]`
    pub center: &'t Tensor,
    /// `[1]`
    pub inv_tau: &'t Tensor,
}

impl<'a> Tape<'a> {
    /// One loss per group.
    ///
    /// Shapes: `student` `[rows, K]`; `targets` as documented there; result `[groups]`.
    /// Numerics: log-sum-exp with the maximum taken out; value and gradient in one pass.
    /// Errors: `Shape`.
    /// Source: docs/method.md, 4.3; DINO, arXiv 2104.14294.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::soft_cross_entropy::{Anchors, PairPlan, Targets};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let logits = Tensor::from_slice(&cpu, &[0.0, 0.0], &[1, 2])?;
    /// let center = Tensor::from_slice(&cpu, &[0.0, 0.0], &[2])?;
    /// let inv_tau = Tensor::from_slice(&cpu, &[1.0], &[1])?;
    /// let targets = Targets { logits: &logits, center: &center, inv_tau: &inv_tau };
    /// let pairs = PairPlan::new(&cpu, 1, 1, &[Anchors { group: 0, teacher_rows: vec![0] }])?;
    /// let student = Var::constant(Tensor::from_slice(&cpu, &[0.0, 0.0], &[1, 2])?);
    /// let loss = Tape::new(&cpu).soft_cross_entropy(&student, &targets, 1.0, &pairs)?;
    /// // Both are uniform over two prototypes: ln 2.
    /// assert!((loss.value().to_f64_vec()?[0] - 2f64.ln()).abs() < 1e-12);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn soft_cross_entropy(
        &mut self,
        student: &Var,
        targets: &Targets<'_>,
        tau_s: f64,
        pairs: &PairPlan,
    ) -> Result<Var> {
        let (rows, k) = student.value().matrix(OP)?;
        targets.logits.expect_shape(OP, &[pairs.teachers, k])?;
        targets.center.expect_shape(OP, &[k])?;
        targets.inv_tau.expect_shape(OP, &[1])?;
        if rows != pairs.group.len() {
            return Err(Error::shape(
                OP,
                format!("{} student rows", pairs.group.len()),
                rows.to_string(),
            ));
        }
        let dtype = student.value().dtype();
        let mut losses = Tensor::empty(self.device(), dtype, &[pairs.counts.len()])?;
        let mut gradient = Tensor::empty(self.device(), dtype, &[rows, k])?;
        if *self.device() != Device::Cpu {
            let logits = student.value();
            run_kernels(&mut losses, &mut gradient, logits, targets, tau_s, pairs)?;
            return Ok(self.record_loss(student, losses, gradient, pairs));
        }
        with_real!(OP, dtype, T => {
            let mut p = targets.logits.to_vec::<T>()?;
            let center = targets.center.host::<T>()?;
            let inv_tau = targets.inv_tau.host::<T>()?[0];
            for row in p.chunks_exact_mut(k) {
                for (t, &c) in row.iter_mut().zip(center) {
                    *t = (*t - c) * inv_tau;
                }
                softmax(row);
            }
            let student = student.value().host::<T>()?;
            reference::<T>(losses.host_mut()?, gradient.host_mut()?, student, &p, T::of(tau_s), pairs)
        })?;
        Ok(self.record_loss(student, losses, gradient, pairs))
    }

    fn record_loss(
        &mut self,
        student: &Var,
        losses: Tensor,
        gradient: Tensor,
        pairs: &PairPlan,
    ) -> Var {
        self.record(OP, losses, needs_grad(&[student], &[]), || SoftCrossEntropyBwd {
            student: student.clone(),
            gradient,
            group: pairs.group.clone(),
        })
    }
}

/// Columns that one block covers (`ENTROPY_PIECE` of the kernel).
const PIECE: usize = 2048;

/// Statistics of every piece of every row, then losses and gradient, then the sums of the groups.
fn run_kernels(
    losses: &mut Tensor,
    gradient: &mut Tensor,
    student: &Tensor,
    targets: &Targets<'_>,
    tau_s: f64,
    pairs: &PairPlan,
) -> Result<()> {
    let (rows, k) = student.matrix(OP)?;
    for tensor in [student, targets.logits, targets.center, targets.inv_tau] {
        if tensor.dtype() != DType::F32 {
            return Err(Error::shape(
                OP,
                "f32 logits, centre and temperature",
                tensor.dtype().name(),
            ));
        }
    }
    if rows == 0 || k == 0 {
        return Err(Error::shape(OP, "at least one row and column", format!("{rows} x {k}")));
    }
    let (device, teachers, pieces) = (student.device(), pairs.teachers, k.div_ceil(PIECE));
    let inv_tau_s = (1.0 / tau_s) as f32;
    let grid = |rows: usize| LaunchConfig {
        grid: [pieces as u32, rows as u32, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
    };
    let mut stats = Tensor::empty(device, DType::F32, &[teachers + rows, pieces, 2])?;
    let mut partial = Tensor::empty(device, DType::F32, &[rows, pieces])?;
    KernelCall::new(device, "soft_cross_entropy_fwd_f32_stats")
        .output(&mut stats)?
        .input(student)?
        .input(targets.logits)?
        .input(targets.center)?
        .input(targets.inv_tau)?
        .value(teachers as i32)
        .value(inv_tau_s)
        .value(k as i64)
        .launch(grid(teachers + rows))?;
    KernelCall::new(device, "soft_cross_entropy_fwd_f32")
        .output(gradient)?
        .output(&mut partial)?
        .input(&stats)?
        .input(student)?
        .input(targets.logits)?
        .input(targets.center)?
        .input(targets.inv_tau)?
        .input(&pairs.starts)?
        .input(&pairs.teacher_rows)?
        .input(&pairs.group)?
        .input(&pairs.scale)?
        .value(teachers as i32)
        .value(inv_tau_s)
        .value(k as i64)
        .launch(grid(rows))?;
    KernelCall::new(device, "soft_cross_entropy_fwd_f32_sum")
        .output(losses)?
        .input(&partial)?
        .input(&pairs.group)?
        .input(&pairs.scale)?
        .value(rows as i32)
        .value(pieces as i32)
        .launch(LaunchConfig::linear(pairs.counts.len() as u32, 256))
}

struct SoftCrossEntropyBwd {
    student: Var,
    /// Gradient of each row's own group loss.
    gradient: Tensor,
    group: Tensor,
}

impl Backward for SoftCrossEntropyBwd {
    fn run(mut self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let (rows, k) = self.gradient.matrix(OP)?;
        if *dy.device() != Device::Cpu {
            KernelCall::new(dy.device(), "soft_cross_entropy_bwd_f32")
                .output(&mut self.gradient)?
                .input(&dy)?
                .input(&self.group)?
                .value(k as i64)
                .launch(LaunchConfig {
                    grid: [k.div_ceil(PIECE) as u32, rows as u32, 1],
                    block: [256, 1, 1],
                    shared_bytes: 0,
                })?;
            return grads.add(&self.student, self.gradient);
        }
        with_real!(OP, dy.dtype(), T => {
            let dy = dy.host::<T>()?;
            let groups = self.group.host::<i32>()?;
            for (row, &g) in self.gradient.host_mut::<T>()?.chunks_exact_mut(k).zip(groups) {
                row.iter_mut().for_each(|v| *v *= dy[g as usize]);
            }
            Ok(())
        })?;
        grads.add(&self.student, self.gradient)
    }
}

/// Softmax in place.
pub fn softmax<T: Real>(row: &mut [T]) {
    let max = row.iter().copied().reduce(T::max).unwrap_or_default();
    row.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: T = row.iter().copied().sum();
    row.iter_mut().for_each(|v| *v = *v / sum);
}

/// `p` `[teacher rows, K]` are probabilities. Row gradient: `(n Q - sum_i P_i) / (tau_s pairs)`.
fn reference<T: Real>(
    losses: &mut [T],
    gradient: &mut [T],
    student: &[T],
    p: &[T],
    tau_s: T,
    pairs: &PairPlan,
) -> Result<()> {
    let (starts, teacher_rows) = (pairs.starts.host::<i32>()?, pairs.teacher_rows.host::<i32>()?);
    let groups = pairs.group.host::<i32>()?;
    let k = student.len() / groups.len().max(1);
    losses.fill(T::default());
    for (j, &group) in groups.iter().enumerate() {
        let scale = T::of(1.0 / pairs.counts[group as usize] as f64);
        let s = &student[j * k..][..k];
        let grad = &mut gradient[j * k..][..k];
        let anchors = &teacher_rows[starts[j] as usize..starts[j + 1] as usize];
        // The maximum goes before the division: differences of near values are exact.
        let max = s.iter().copied().reduce(T::max).unwrap_or_default();
        let log_sum = s.iter().map(|&v| ((v - max) / tau_s).exp()).sum::<T>().ln();
        let count = T::of(anchors.len() as f64);
        for (g, &v) in grad.iter_mut().zip(s) {
            *g = count * ((v - max) / tau_s - log_sum).exp();
        }
        for &i in anchors {
            let p = &p[i as usize * k..][..k];
            let mut loss = T::default();
            for ((g, &p), &v) in grad.iter_mut().zip(p).zip(s) {
                loss -= p * ((v - max) / tau_s - log_sum);
                *g -= p;
            }
            losses[group as usize] += loss * scale;
        }
        grad.iter_mut().for_each(|g| *g = *g * scale / tau_s);
    }
    Ok(())
}

/// The op in the registry. Dims of a case: teacher rows, student rows, K.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "consistency loss between teacher and student assignments"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 3]| OpCase::new(&["teachers", "students", "k"], &d);
        vec![
            case([1, 2, 3]),
            case([2, 6, 13]),
            case([3, 7, 50]),
            case([4, 8, 130]),
            // Several pieces, the last one ragged; rows that are not aligned.
            case([2, 4, 4100]),
            case([2, 4, 2051]),
            case([2, 5, 31]).with_offset(100.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["teachers", "students", "k"], &[8, 40, 65536])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [teachers, students, k] = [case.dims[0], case.dims[1], case.dims[2]];
        let normal = |i, rows: usize| case.normal(i, rows * k, case.offset, 0.3);
        vec![
            Input::new("student", InputKind::Activation, &[students, k], normal(0, students))
                .wide(),
            Input::new("teacher", InputKind::Constant, &[teachers, k], normal(1, teachers)).wide(),
            Input::new("center", InputKind::Constant, &[k], case.normal(2, k, case.offset, 0.1))
                .wide(),
            Input::new("inv_tau", InputKind::Constant, &[1], vec![4.0]).wide(),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let [teachers, students] = [case.dims[0], case.dims[1]];
        // The first rows have one anchor each, the others all; the last group 0 row has none.
        let rows: Vec<Anchors> = (0..students)
            .map(|j| match j {
                j if j < students / 2 => Anchors { group: 0, teacher_rows: vec![j % teachers] },
                j if j == students / 2 && students > 3 => {
                    Anchors { group: 0, teacher_rows: vec![] }
                }
                _ => Anchors { group: 1, teacher_rows: (0..teachers).collect() },
            })
            .collect();
        let pairs = PairPlan::new(tape.device(), teachers, 2, &rows)?;
        let targets = Targets {
            logits: args.var(1)?.value(),
            center: args.var(2)?.value(),
            inv_tau: args.var(3)?.value(),
        };
        Ok(vec![tape.soft_cross_entropy(args.var(0)?, &targets, 0.1, &pairs)?])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        ((case.dims[0] + 2 * case.dims[1]) * case.dims[2] * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        10 * (case.dims[1] * case.dims[2]) as u64
    }
}
