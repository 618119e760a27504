//! Weighted sum of losses: `total = sum_i weight_i loss_i`, over the elements of several vectors.

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::abi::{WEIGHTS, Weights};
use crate::device::launch::{Arg, LaunchConfig};
use crate::device::{DType, Device, KernelCall, Real, Tensor, TensorMut, with_real};
use crate::tape::{Backward, GradMode, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "weighted_sum";

impl<'a> Tape<'a> {
    /// The total loss from its terms.
    ///
    /// Shapes: every part `[n]` with n weights, f32 on a GPU; result `[1]`.
    /// Numerics: terms are added in order.
    /// Errors: `Shape`.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let a = Var::constant(Tensor::from_slice(&cpu, &[2.0], &[1])?);
    /// let b = Var::constant(Tensor::from_slice(&cpu, &[1.0, 3.0], &[2])?);
    /// let total = Tape::new(&cpu).weighted_sum(&[(&a, &[0.5]), (&b, &[1.0, 2.0])])?;
    /// // 0.5 * 2 + 1 * 1 + 2 * 3.
    /// assert_eq!(total.value().to_f64_vec()?, [8.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn weighted_sum(&mut self, parts: &[(&Var, &[f64])]) -> Result<Var> {
        let Some((first, _)) = parts.first() else {
            return Err(Error::shape(OP, "at least one term", "none"));
        };
        let dtype = first.value().dtype();
        let mut total = Tensor::empty(self.device(), dtype, &[1])?;
        for (part, weights) in parts {
            part.value().expect_shape(OP, &[weights.len()])?;
        }
        if *self.device() != Device::Cpu {
            run_kernels(&mut total, parts)?;
            return Ok(self.record_sum(total, parts));
        }
        with_real!(OP, dtype, T => {
            let mut sum = T::default();
            for (part, weights) in parts {
                for (&loss, &weight) in part.value().host::<T>()?.iter().zip(*weights) {
                    sum += T::of(weight) * loss;
                }
            }
            total.host_mut::<T>()?[0] = sum;
            Ok(())
        })?;
        Ok(self.record_sum(total, parts))
    }

    fn record_sum(&mut self, total: Tensor, parts: &[(&Var, &[f64])]) -> Var {
        let vars: Vec<&Var> = parts.iter().map(|(v, _)| *v).collect();
        self.record(OP, total, needs_grad(&vars, &[]), || WeightedSumBwd {
            parts: parts.iter().map(|(v, w)| ((*v).clone(), w.to_vec())).collect(),
        })
    }
}

/// As many weights as travel with one launch.
fn packed(weights: &[f64]) -> Weights {
    let mut out = Weights { weight: [0.0; WEIGHTS] };
    for (to, &w) in out.weight.iter_mut().zip(weights) {
        *to = w as f32;
    }
    out
}

fn run_kernels(total: &mut Tensor, parts: &[(&Var, &[f64])]) -> Result<()> {
    let device = total.device().clone();
    let mut mode = GradMode::Overwrite;
    for (part, weights) in parts {
        if part.value().dtype() != DType::F32 {
            return Err(Error::shape(OP, "f32 losses", part.value().dtype().name()));
        }
        for (i, chunk) in weights.chunks(WEIGHTS).enumerate() {
            KernelCall::new(&device, "weighted_sum_fwd_f32")
                .output(total)?
                .input(&part.value().view(i * WEIGHTS, &[chunk.len()])?)?
                .value(Arg::Pod(bytemuck::bytes_of(&packed(chunk))))
                .value(chunk.len() as i32)
                .value(mode.as_arg())
                .launch(LaunchConfig::linear(1, 32))?;
            mode = GradMode::Accumulate;
        }
    }
    Ok(())
}

struct WeightedSumBwd {
    parts: Vec<(Var, Vec<f64>)>,
}

impl Backward for WeightedSumBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        for (part, weights) in &self.parts {
            if *dy.device() != Device::Cpu {
                part_gradient(part, weights, &dy, grads)?;
                continue;
            }
            with_real!(OP, dy.dtype(), T => {
                let d = dy.host::<T>()?[0];
                let gradient: Vec<_> = weights.iter().map(|&w| T::of(w) * d).collect();
                grads.add(part, Tensor::from_slice(dy.device(), &gradient, &[weights.len()])?)
            })?;
        }
        Ok(())
    }
}

fn part_gradient(part: &Var, weights: &[f64], dy: &Tensor, grads: &mut Grads<'_>) -> Result<()> {
    if part.id().is_none() {
        return Ok(());
    }
    let mut gradient = Tensor::empty(dy.device(), dy.dtype(), &[weights.len()])?;
    for (i, chunk) in weights.chunks(WEIGHTS).enumerate() {
        KernelCall::new(dy.device(), "weighted_sum_bwd_f32")
            .output_mut(&mut TensorMut::new(&mut gradient, i * WEIGHTS, &[chunk.len()])?)?
            .input(dy)?
            .value(Arg::Pod(bytemuck::bytes_of(&packed(chunk))))
            .value(chunk.len() as i32)
            .launch(LaunchConfig::linear(1, 32))?;
    }
    grads.add(part, gradient)
}

/// The op in the registry. Dims of a case: lengths of the two parts.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "total loss from its weighted terms"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 2]| OpCase::new(&["first", "second"], &d);
        vec![case([1, 1]), case([2, 2]), case([7, 13]), case([3, 50]).with_offset(1000.0)]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["first", "second"], &[2, 2])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [a, b] = [case.dims[0], case.dims[1]];
        vec![
            Input::new("first", InputKind::Activation, &[a], case.normal(0, a, case.offset, 1.0))
                .wide(),
            Input::new("second", InputKind::Activation, &[b], case.normal(1, b, case.offset, 1.0))
                .wide(),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let weights: Vec<Vec<f64>> =
            case.dims.iter().map(|&n| (0..n).map(|i| 0.1 + i as f64).collect()).collect();
        let parts = [(args.var(0)?, &weights[0][..]), (args.var(1)?, &weights[1][..])];
        Ok(vec![tape.weighted_sum(&parts)?])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        ((case.dims[0] + case.dims[1] + 1) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        2 * (case.dims[0] + case.dims[1]) as u64
    }
}
