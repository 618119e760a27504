//! What a run will need, before it starts: two steps on a device that only keeps the books
//! ([`crate::device::Dry`]), so that the numbers are those of the allocator of the GPU.

use std::sync::Arc;

use super::program::{Launches, StepProgram};
use super::state::{State, activation_dtype};
use crate::Result;
use crate::config::Config;
use crate::device::{DType, Device, Dry};
use crate::glmae::batch::BatchShape;
use crate::glmae::mask::Mask;
use crate::glmae::model::{Networks, Weights};

/// Bytes by class at the moment when a step holds the most.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// Parameters of student and teacher, elements.
    pub student_parameters: u64,
    pub teacher_parameters: u64,
    /// Dtype of activations.
    pub dtype: &'static str,
    /// Class and bytes, the largest first: weights, moments, gradients, activations (what the
    /// tape keeps and what the forward pass needs meanwhile), views, tables, ...
    pub classes: Vec<(&'static str, u64)>,
    /// Sum of the classes: the peak of live tensors.
    pub peak_bytes: u64,
    /// What is asked of the driver: the peak and what the allocator loses to rounding and gaps.
    pub reserved_bytes: u64,
    /// Kernels that a step starts.
    pub launches: u64,
    /// Most the cache of prepared cases may hold (`data.cache_mib`); host memory.
    pub cache_bytes: u64,
}

impl MemoryPlan {
    /// The plan of a run on `device`. For the CPU, whose paths keep a little less or more, it is the
    /// plan of the kernels in f32: a close estimate.
    ///
    /// Errors: those that the first step would meet.
    pub fn new(config: &Config, device: &Device) -> Result<Self> {
        let dtype = activation_dtype(config, device)?;
        let dry = Arc::new(Dry::default());
        let device = Device::Dry(dry.clone());
        let (nets, mut state, mut program) = parts(config, &device, dtype, Launches::Graph)?;
        let teacher = state.weights.teacher.as_ref().map_or(0, |t| t.layout().count());
        Self::of_steps(&dry, || run(&mut program, config, &nets, &mut state)).map(|plan| Self {
            student_parameters: nets.student_layout.count() as u64,
            teacher_parameters: teacher as u64,
            dtype: dtype.name(),
            cache_bytes: (config.data.cache_mib as u64) << 20,
            ..plan
        })
    }

    /// What the books of `dry` say after three of `step`; the caller adds what they cannot know.
    pub(super) fn of_steps(dry: &Dry, mut step: impl FnMut() -> Result<()>) -> Result<Self> {
        step()?;
        let (launches, eager) = (dry.launches(), dry.usage().reserved);
        // The second step is captured, in memory of its own; the third replays it.
        step()?;
        step()?;
        let usage = dry.usage();
        let classes = dry.peak_by_class();
        Ok(Self {
            classes: classes.into_iter().map(|(class, n)| (class, n as u64)).collect(),
            peak_bytes: usage.peak as u64,
            reserved_bytes: usage.reserved.max(eager) as u64,
            launches,
            ..Self::default()
        })
    }

    /// Bytes of a class.
    pub fn class(&self, name: &str) -> u64 {
        self.classes.iter().find(|(class, _)| *class == name).map_or(0, |(_, bytes)| *bytes)
    }
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
    for (mask, kind) in program.batch_mut().masks.iter_mut().zip(shape.kinds()) {
        let tokens = shape.tokens(kind);
        *mask = Mask::leading(tokens, config.views.visible(tokens));
    }
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
        MemoryPlan::new(&config, &Device::emulated(Mode::Plain, Schedule::Ascending)).unwrap()
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
            let plan = MemoryPlan::new(&config, &device).unwrap();
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
