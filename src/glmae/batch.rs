//! A batch of views: the voxels of all global and local views of a few volumes, and their masks.

use super::mask::Mask;
use crate::config::{Config, ViewKind};
use crate::device::{DType, Device, Tensor};
use crate::ops::patch_gather::VolumeAt;
use crate::{Error, Result};

/// The sizes of a batch: how many views of which kind, in one voxel buffer. Global views come
/// first; views of a kind are view-major, row `v * volumes + b` is view `v` of volume `b`.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchShape {
    /// Volumes of the batch, B.
    pub volumes: usize,
    /// Edge of a patch, and channels of a volume.
    pub patch: usize,
    pub channels: usize,
    sizes: [[usize; 3]; 2],
    counts: [usize; 2],
}

impl BatchShape {
    /// The views that the objective of `config` needs of `volumes` volumes.
    pub fn new(config: &Config, volumes: usize) -> Self {
        let v = &config.views;
        let global = if config.loss.objective.has_global_views() { v.n_global } else { 0 };
        Self {
            volumes,
            patch: config.model.patch,
            channels: config.model.in_chans,
            sizes: [v.global_size, v.local_size],
            counts: [global * volumes, v.n_local * volumes],
        }
    }

    /// Views of a kind.
    pub fn count(&self, kind: ViewKind) -> usize {
        self.counts[kind as usize]
    }

    /// Voxels of a view along d, h, w.
    pub fn size(&self, kind: ViewKind) -> [usize; 3] {
        self.sizes[kind as usize]
    }

    /// Patches of a view along d, h, w.
    pub fn grid(&self, kind: ViewKind) -> [usize; 3] {
        self.size(kind).map(|n| n / self.patch)
    }

    /// Tokens of a view.
    pub fn tokens(&self, kind: ViewKind) -> usize {
        self.grid(kind).iter().product()
    }

    /// Kind of every view, in order.
    pub fn kinds(&self) -> impl Iterator<Item = ViewKind> + '_ {
        ViewKind::ALL.into_iter().flat_map(|k| std::iter::repeat_n(k, self.count(k)))
    }

    /// Where every view lies in the voxel buffer.
    pub fn volumes_at(&self) -> Vec<VolumeAt> {
        let mut offset = 0;
        self.kinds()
            .map(|kind| {
                let at = VolumeAt { offset, channels: self.channels, dims: self.size(kind) };
                offset += at.len();
                at
            })
            .collect()
    }

    /// Voxels of all views.
    pub fn voxels(&self) -> usize {
        self.volumes_at().last().map_or(0, |v| v.offset + v.len())
    }
}

/// Views and masks of one micro-batch.
#[derive(Clone, Debug)]
pub struct Batch {
    pub shape: BatchShape,
    /// `[shape.voxels()]`, in the dtype of the activations: targets and patches are made of them.
    pub voxels: Tensor,
    /// One mask per view, global views first.
    pub masks: Vec<Mask>,
}

impl Batch {
    /// A batch with voxels and masks still to be written: zeros, and nothing masked.
    pub fn empty(device: &Device, dtype: DType, shape: &BatchShape) -> Result<Self> {
        let voxels = Tensor::zeros(device, dtype, &[shape.voxels()])?;
        let masks = shape.kinds().map(|kind| Mask::none(shape.tokens(kind))).collect();
        Ok(Self { shape: shape.clone(), voxels, masks })
    }

    /// Takes over the views and masks of another batch of the same shape; the voxels stay where they
    /// are, for a captured step to read.
    pub fn assign(&mut self, other: &Self) -> Result<()> {
        if self.shape != other.shape {
            let expected = format!("{:?}", self.shape);
            return Err(Error::shape("batch", expected, format!("{:?}", other.shape)));
        }
        self.masks.clone_from(&other.masks);
        self.voxels.as_mut().assign(&other.voxels)
    }
}
