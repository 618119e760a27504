//! Which boxes of a volume become views, and cutting them.

use super::batch::{Batch, BatchShape, ViewKind};
use super::mask::Mask;
use crate::config::{GlobalCrop, ViewConfig};
use crate::device::{Tensor, TensorMut};
use crate::ops::view_cut::{ViewBox, view_cut};
use crate::rng::{Purpose, Rng};
use crate::{Error, Result};

/// Names the random streams of one view: they depend on nothing else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewKey {
    pub seed: u64,
    pub step: u64,
    /// Place of the volume within the update (all micro-batches).
    pub sample: u32,
    /// Number of the view within its volume, global views first.
    pub view: u32,
}

impl ViewKey {
    fn rng(&self, purpose: Purpose) -> Rng {
        Rng::new(self.seed, purpose, self.step, self.sample, self.view)
    }
}

/// The box that a view is cut from, uniformly placed.
///
/// Local views and native global views are crops of the view's own size. A resized global view
/// is a box with a random share of the volume (`global_scale`), of the volume's own proportions:
/// sides are scaled by the cube root of the share.
///
/// Errors: a native view larger than the volume (prepare the volume with padding).
/// Source: gl-mae 1.2 and U1.
pub fn draw_box(
    config: &ViewConfig,
    kind: ViewKind,
    dims: [usize; 3],
    key: &ViewKey,
) -> Result<ViewBox> {
    let mut rng = key.rng(Purpose::Crop);
    if kind == ViewKind::Global && config.global_crop == GlobalCrop::Resized {
        let [low, high] = config.global_scale;
        let side = libm::cbrt(rng.range(low, high));
        let size = dims.map(|n| n as f64 * side);
        let start = [0, 1, 2].map(|a| rng.uniform() * (dims[a] as f64 - size[a]));
        return Ok(ViewBox { start, size, mirrored: [false; 3] });
    }
    let size = match kind {
        ViewKind::Global => config.global_size,
        ViewKind::Local => config.local_size,
    };
    if (0..3).any(|a| size[a] > dims[a]) {
        let expected = format!("a volume of at least {size:?} voxels");
        return Err(Error::shape("view", expected, format!("{dims:?}")));
    }
    let start = [0, 1, 2].map(|a| rng.below((dims[a] - size[a] + 1) as u64) as usize);
    Ok(ViewBox::native(start, size))
}

/// The mask of a view.
pub fn draw_mask(config: &ViewConfig, tokens: usize, key: &ViewKey) -> Mask {
    Mask::random(&mut key.rng(Purpose::Mask), tokens, config.visible(tokens))
}

/// Cuts a whole batch from prepared volumes `[channels, d, h, w]`, one per sample; `samples[b]` is
/// the place of volume `b` within the update.
pub fn cut_batch(
    config: &ViewConfig,
    shape: &BatchShape,
    volumes: &[Tensor],
    samples: &[u32],
    seed: u64,
    step: u64,
) -> Result<Batch> {
    let Some(first) = volumes.first().filter(|_| volumes.len() == shape.volumes) else {
        let expected = format!("{} volumes", shape.volumes);
        return Err(Error::shape("view", expected, format!("{}", volumes.len())));
    };
    let views = shape.volumes_at();
    let kinds: Vec<ViewKind> = shape.kinds().collect();
    let keys: Vec<ViewKey> = (0..views.len())
        .map(|i| {
            let (view, b) = (i / shape.volumes, i % shape.volumes);
            ViewKey { seed, step, sample: samples[b], view: view as u32 }
        })
        .collect();
    let masks = keys.iter().zip(&kinds).map(|(k, &kind)| draw_mask(config, shape.tokens(kind), k));
    let mut batch = Batch::empty(first.device(), first.dtype(), shape.clone(), masks.collect())?;
    for (i, (at, key)) in views.iter().zip(&keys).enumerate() {
        let volume = &volumes[i % shape.volumes];
        let &[_, d, h, w] = volume.shape() else {
            return Err(Error::shape(
                "view",
                "[channels, d, h, w]",
                format!("{:?}", volume.shape()),
            ));
        };
        let mut view = draw_box(config, kinds[i], [d, h, w], key)?;
        view.mirrored = draw_mirror(config.flip_probability, key);
        let out_shape = [at.channels, at.dims[0], at.dims[1], at.dims[2]];
        let mut out = TensorMut::new(&mut batch.voxels, at.offset, &out_shape)?;
        view_cut(&mut out, volume, &view)?;
    }
    Ok(batch)
}

/// Along which axes a view is mirrored, each with the given probability.
fn draw_mirror(probability: f64, key: &ViewKey) -> [bool; 3] {
    if probability == 0.0 {
        return [false; 3];
    }
    let mut rng = key.rng(Purpose::Augment);
    [0; 3].map(|_| rng.uniform() < probability)
}
