//! A batch of views: the patches of all global and local views of a few volumes, and their masks.

use super::mask::Mask;
use super::patch_order::PatchOrder;
use crate::config::{Config, ViewKind};
use crate::device::{DType, Device, Tensor, TensorMut};
use crate::ops::patch_gather::{PatchPlan, VolumeAt, VoxelOrder};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// The sizes of a batch: how many views of which kind. Global views come first; views of a kind are
/// view-major, number `v * volumes + b` is view `v` of volume `b`.
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

    /// Where every view lies in a buffer that has them one after the other.
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

    /// Patches of all views, and voxels of each.
    pub fn matrix(&self) -> [usize; 2] {
        let patches = ViewKind::ALL.iter().map(|&kind| self.count(kind) * self.tokens(kind)).sum();
        [patches, self.channels * self.patch.pow(3)]
    }

    /// Voxels of all views.
    pub fn voxels(&self) -> usize {
        self.volumes_at().last().map_or(0, |v| v.offset + v.len())
    }
}

/// Views and masks of one micro-batch. Views lie patch by patch, in the order that the masks give them
/// ([`PatchOrder`]).
#[derive(Clone, Debug)]
pub struct Batch {
    shape: BatchShape,
    /// `[patches, C p^3]`, `(c, dz, dy, dx)` in a row, in the dtype of the activations: what the patch embedding
    /// multiplies, and what predictions are compared with.
    patches: Tensor,
    /// One mask per view, global views first.
    masks: Vec<Mask>,
    order: PatchOrder,
    /// `[patches]` i32: the row of every patch, by view and token.
    rows: Tensor,
}

impl Batch {
    /// A batch with voxels and masks still to be written: zeros, and nothing masked.
    pub fn empty(device: &Device, dtype: DType, shape: &BatchShape) -> Result<Self> {
        let masks: Vec<Mask> = shape.kinds().map(|kind| Mask::none(shape.tokens(kind))).collect();
        Self::new(shape, masks, Tensor::zeros(device, dtype, &shape.matrix())?)
    }

    /// A batch of patches that lie as the masks want it, `[patches, C p^3]`.
    ///
    /// Errors: `Shape`, also for masks that do not belong to the views.
    pub fn new(shape: &BatchShape, masks: Vec<Mask>, patches: Tensor) -> Result<Self> {
        patches.expect_shape("batch", &shape.matrix())?;
        let order = order_of(shape, &masks)?;
        let rows = rows_by_view(&order, &masks);
        let rows = Tensor::from_slice(patches.device(), &rows, &[rows.len()])?;
        Ok(Self { shape: shape.clone(), patches, masks, order, rows })
    }

    /// A batch of given views: `voxels` `[shape.voxels()]`, one view after the other, each `[c, d, h, w]`.
    ///
    /// Errors: `Shape`, also for masks that do not belong to the views.
    pub fn from_views(
        dtype: DType,
        shape: &BatchShape,
        masks: Vec<Mask>,
        voxels: &Tensor,
    ) -> Result<Self> {
        let plan = plan_of_views(voxels.device(), shape, &order_of(shape, &masks)?)?;
        let (voxels, order) = (Var::constant(voxels.clone()), VoxelOrder::ChannelsFirst);
        let mut tape = Tape::inference(voxels.value().device());
        let patches = tape.patch_gather(&voxels, &plan, order, dtype)?;
        Self::new(shape, masks, patches.value().clone())
    }

    pub fn shape(&self) -> &BatchShape {
        &self.shape
    }

    /// One mask per view, global views first.
    pub fn masks(&self) -> &[Mask] {
        &self.masks
    }

    pub fn order(&self) -> &PatchOrder {
        &self.order
    }

    /// `[patches, C p^3]`, `(c, dz, dy, dx)` in a row.
    pub fn patches(&self) -> &Tensor {
        &self.patches
    }

    /// Sets the masks, which also say where patches lie: views have to be written after it.
    ///
    /// Errors: `Shape` for masks that do not belong to the views.
    pub fn set_masks(&mut self, masks: Vec<Mask>) -> Result<()> {
        let order = order_of(&self.shape, &masks)?;
        self.rows.as_mut().upload(&rows_by_view(&order, &masks))?;
        (self.masks, self.order) = (masks, order);
        Ok(())
    }

    /// Where the patches of all views can be written, and the rows of view `view`'s, `[tokens]` i32.
    pub fn view_mut(&mut self, view: usize) -> Result<(TensorMut<'_>, Tensor)> {
        let before = self.masks.iter().take(view).map(Mask::tokens).sum();
        let tokens = self.masks.get(view).map_or(0, Mask::tokens);
        Ok((self.patches.as_mut(), self.rows.view(before, &[tokens])?))
    }

    /// The voxels of all views, as [`Batch::from_views`] takes them.
    pub fn voxels(&self) -> Result<Tensor> {
        let (device, order) = (self.patches.device(), VoxelOrder::ChannelsFirst);
        let plan = plan_of_views(device, &self.shape, &self.order)?;
        let rows = Var::constant(self.patches.clone());
        let mut tape = Tape::inference(device);
        Ok(tape.unpatchify(&rows, &plan, order, self.shape.voxels())?.value().clone())
    }

    /// Takes over the views and masks of another batch of the same shape; memory stays where it is, for a
    /// captured step to read.
    pub fn assign(&mut self, other: &Self) -> Result<()> {
        if self.shape != other.shape {
            let expected = format!("{:?}", self.shape);
            return Err(Error::shape("batch", expected, format!("{:?}", other.shape)));
        }
        self.masks.clone_from(&other.masks);
        self.order.clone_from(&other.order);
        self.rows.as_mut().assign(&other.rows)?;
        self.patches.as_mut().assign(&other.patches)
    }
}

/// The order that these masks give the views of a batch.
fn order_of(shape: &BatchShape, masks: &[Mask]) -> Result<PatchOrder> {
    let kinds: Vec<ViewKind> = shape.kinds().collect();
    let tokens = || kinds.iter().map(|&kind| shape.tokens(kind));
    if !masks.iter().map(Mask::tokens).eq(tokens()) {
        let expected = format!("masks of {:?} tokens", tokens().collect::<Vec<_>>());
        let got: Vec<usize> = masks.iter().map(Mask::tokens).collect();
        return Err(Error::shape("batch", expected, format!("{got:?}")));
    }
    Ok(PatchOrder::new(&kinds, masks))
}

/// Which patch of which view every row is.
fn plan_of_views(device: &Device, shape: &BatchShape, order: &PatchOrder) -> Result<PatchPlan> {
    PatchPlan::new(device, shape.patch, &shape.volumes_at(), order.patches())
}

fn rows_by_view(order: &PatchOrder, masks: &[Mask]) -> Vec<i32> {
    (0..masks.len()).flat_map(|view| order.rows(view)).map(|&row| row as i32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Rng};

    #[test]
    fn views_come_back_as_they_went_in() {
        let set = ["model.in_chans=2".to_owned()];
        let config = Config::load("tiny", &set).unwrap();
        let shape = BatchShape::new(&config, 2);
        let masks = shape.kinds().enumerate().map(|(view, kind)| {
            let mut rng = Rng::new(5, Purpose::Mask, 0, 0, view as u32);
            Mask::random(&mut rng, shape.tokens(kind), config.views.visible(shape.tokens(kind)))
        });
        let masks: Vec<Mask> = masks.collect();
        let voxels = Rng::new(5, Purpose::Test, 0, 0, 0).uniforms(shape.voxels());
        let voxels = Tensor::from_slice(&Device::Cpu, &voxels, &[voxels.len()]).unwrap();
        let batch = Batch::from_views(DType::F64, &shape, masks.clone(), &voxels).unwrap();
        assert_eq!(batch.voxels().unwrap().to_f64_vec().unwrap(), voxels.to_f64_vec().unwrap());
        let mut other = Batch::empty(&Device::Cpu, DType::F64, &shape).unwrap();
        other.assign(&batch).unwrap();
        assert_eq!((other.masks(), other.order()), (batch.masks(), batch.order()));
        assert!(other.set_masks(masks[1..].to_vec()).is_err());
    }
}
