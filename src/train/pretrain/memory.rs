//! What a pre-training will need, before it starts; see [`MemoryPlan`].

use std::sync::Arc;

use super::program::StepProgram;
use crate::Result;
use crate::checkpoint::{State, activation_dtype};
use crate::config::Config;
use crate::device::{DType, Device, Dry, KernelSet};
use crate::glmae::batch::BatchShape;
use crate::glmae::mask::Mask;
use crate::glmae::model::{Networks, Weights};
use crate::ops::gemm::products::{self, Product};
use crate::train::run::{Launches, MemoryPlan};

/// The plan of a run on `device`. For the CPU, whose paths keep a little less or more, it is the
/// plan of the kernels in f32: a close estimate.
///
/// Errors: those that the first step would meet.
pub fn plan(config: &Config, device: &Device) -> Result<MemoryPlan> {
    let dtype = activation_dtype(config, device)?;
    let dry = Arc::new(Dry::new(device.kernel_set()));
    let device = Device::Dry(dry.clone());
    let (nets, mut state, mut program) = parts(config, &device, dtype, Launches::Graph)?;
    let teacher = state.weights.teacher.as_ref().map_or(0, |t| t.layout().count());
    let plan = MemoryPlan::of_steps(&dry, || run(&mut program, config, &nets, &mut state))?;
    Ok(MemoryPlan {
        student_parameters: nets.student_layout.count() as u64,
        teacher_parameters: teacher as u64,
        dtype: dtype.name(),
        ..plan
    })
}

/// The matrix products of a step in bf16 on a device with these kernels, in their order.
///
/// Errors: those that the first step would meet.
pub fn products(config: &Config, kernels: KernelSet) -> Result<Vec<Product>> {
    let device = Device::Dry(Arc::new(Dry::new(kernels)));
    let (nets, mut state, mut program) = parts(config, &device, DType::Bf16, Launches::Single)?;
    let (done, products) = products::record(|| run(&mut program, config, &nets, &mut state));
    done.map(|()| products)
}

/// What a run holds, with weights of zeros and some mask.
fn parts(
    config: &Config,
    device: &Device,
    dtype: DType,
    launches: Launches,
) -> Result<(Networks, State, StepProgram)> {
    let nets = Networks::new(device, dtype, config)?;
    let state = State::from_weights(Weights::zeros(device, dtype, config, &nets)?)?;
    let shape = BatchShape::new(config, config.train.batch);
    let micro_batches = config.train.accumulation;
    let mut program = StepProgram::new(config, &state, &shape, micro_batches, launches)?;
    let masks = shape.kinds().map(|kind| {
        let tokens = shape.tokens(kind);
        Mask::leading(tokens, config.views.visible(tokens))
    });
    program.batch_mut().set_masks(masks.collect())?;
    Ok((nets, state, program))
}

/// Starts a step.
fn run(
    program: &mut StepProgram,
    config: &Config,
    nets: &Networks,
    state: &mut State,
) -> Result<()> {
    for _ in 0..config.train.accumulation {
        program.micro_batch(config, nets, state)?;
    }
    program.update(config, state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Precision;
    use crate::device::emulated::{Mode, Schedule};

    fn plan(set: &[&str]) -> MemoryPlan {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        let config = Config::load("tiny", &set).unwrap();
        super::plan(&config, &Device::emulated(Mode::Plain, Schedule::Ascending)).unwrap()
    }

    #[test]
    fn classes_add_up_to_the_peak() {
        let plan = plan(&[]);
        assert_eq!(plan.classes.iter().map(|c| c.1).sum::<u64>(), plan.peak_bytes);
        assert!(plan.peak_bytes <= plan.reserved_bytes && plan.launches > 100);
        assert!(plan.class("activations") > 0);
        let flat = 4 * plan.student_parameters;
        for (class, copies) in [("gradients", 1), ("moments", 2)] {
            let bytes = plan.class(class);
            // Gaps of the layout are small.
            assert!(bytes >= copies * flat && bytes < copies * flat * 11 / 10, "{class}: {bytes}");
        }
    }

    /// The same step on a device with memory holds, at most, exactly what the plan says.
    #[test]
    fn the_peak_is_that_of_a_real_step() {
        let set = ["model.depth=1", "train.accumulation=2", "train.batch=1"].map(String::from);
        let config = Config::load("tiny", &set).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let mut config = config.clone();
            config.train.precision = precision;
            let device = Device::emulated(Mode::Plain, Schedule::Ascending);
            let plan = super::plan(&config, &device).unwrap();
            let dtype = activation_dtype(&config, &device).unwrap();
            let (nets, mut state, mut program) =
                parts(&config, &device, dtype, Launches::Single).unwrap();
            for _ in 0..2 {
                run(&mut program, &config, &nets, &mut state).unwrap();
            }
            let Device::Emulated(emulated) = &device else { panic!("not emulated") };
            assert_eq!(emulated.usage().peak as u64, plan.peak_bytes, "{precision:?}");
        }
    }

    #[test]
    fn more_volumes_need_more_and_recompute_needs_less() {
        let base = plan(&["train.batch=2"]);
        let wide = plan(&["train.batch=4"]);
        assert_eq!(base.class("weights"), wide.class("weights"));
        let (a, b) = (base.class("activations"), wide.class("activations"));
        assert!(b > a * 17 / 10, "{a} -> {b}");
        let lean = plan(&["train.batch=4", "model.recompute=true"]);
        assert!(lean.class("activations") < b && lean.launches > wide.launches);
        let half = plan(&["train.batch=4", "train.precision=bf16"]);
        assert_eq!(half.dtype, "bf16");
        assert!(
            half.class("activations") < b * 3 / 4 && half.class("weights") > wide.class("weights")
        );
    }
}
