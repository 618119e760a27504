//! What a run will need, before it starts: three steps on a device that only keeps the books
//! ([`crate::device::Dry`]), so that the numbers are those of the allocator of the GPU, and the headers of
//! the data.

use crate::Result;
use crate::config::cores;
use crate::data::{Case, PrepareConfig, footprint};
use crate::device::{Device, Dry};
use crate::limits::HostNeed;

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
    /// What the run holds in the memory of the host.
    pub host: HostNeed,
}

/// What a run reads, as far as its memory goes.
pub(in crate::train) struct Reads<'a> {
    pub cases: &'a [Case],
    /// Validation cases, which are kept in half as much memory again.
    pub validation: &'a [Case],
    pub prepare: &'a PrepareConfig,
    /// Bytes of a voxel's label.
    pub label_bytes: u64,
    /// `data.cache_mib` and `data.workers`.
    pub cache_mib: usize,
    pub workers: usize,
    /// Cases of a step.
    pub per_step: usize,
    /// Bytes of a validation beside its case: windows on their way to the device, labels.
    pub judging: u64,
}

impl MemoryPlan {
    /// What the books of `dry` say after three of `step`; the caller adds what they cannot know.
    pub fn of_steps(dry: &Dry, mut step: impl FnMut() -> Result<()>) -> Result<Self> {
        step()?;
        let (launches, eager) = (dry.launches(), dry.usage().reserved);
        // The second step is captured, in memory of its own; the third replays it.
        step()?;
        step()?;
        Ok(Self { launches, reserved_bytes: eager as u64, ..Self::default() }.with_peak_of(dry))
    }

    /// The same with the peak that the books of `dry` have by now.
    pub fn with_peak_of(self, dry: &Dry) -> Self {
        let (usage, classes) = (dry.usage(), dry.peak_by_class());
        Self {
            classes: classes.into_iter().map(|(class, n)| (class, n as u64)).collect(),
            peak_bytes: usage.peak as u64,
            reserved_bytes: self.reserved_bytes.max(usage.reserved as u64),
            ..self
        }
    }

    /// Adds what a run on `device` holds in the memory of the host.
    pub(in crate::train) fn on_host(self, device: &Device, reads: &Reads<'_>) -> Self {
        let is_here = *device == Device::Cpu || device.is_simulated();
        let tensors = if is_here { self.reserved_bytes } else { 0 };
        let cache = (reads.cache_mib as u64) << 20;
        // What is left when the foreground is cut out shows in the voxels only: half is little.
        let left = match reads.prepare.foreground_threshold {
            Some(_) => 2,
            None => 1,
        };
        let size = |cases, few, room: u64| {
            let enough = room.saturating_mul(left);
            footprint(cases, reads.prepare, reads.label_bytes, few, enough)
        };
        let data = size(reads.cases, reads.per_step, cache);
        let validation = size(reads.validation, 0, cache / 2).total / left;
        let loaders = cores::workers(reads.workers, reads.cases.len());
        let sizes = [data.total / left, data.largest / left];
        let need = HostNeed::of_run(tensors, cache, sizes, reads.per_step, loaders);
        let cache = need.cache.saturating_add(validation.min(cache / 2));
        let judging = reads.judging;
        Self { host: HostNeed { cache, largest_case: data.largest, judging, ..need }, ..self }
    }

    /// Bytes of a class.
    pub fn class(&self, name: &str) -> u64 {
        self.classes.iter().find(|(class, _)| *class == name).map_or(0, |(_, bytes)| *bytes)
    }
}
