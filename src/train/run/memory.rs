//! What a run will need, before it starts: three steps on a device that only keeps the books
//! ([`crate::device::Dry`]), so that the numbers are those of the allocator of the GPU.

use crate::Result;
use crate::device::Dry;

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
    /// What the books of `dry` say after three of `step`; the caller adds what they cannot know.
    pub fn of_steps(dry: &Dry, mut step: impl FnMut() -> Result<()>) -> Result<Self> {
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
