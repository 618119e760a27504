//! Which boxes of a volume become views, and cutting them.

use super::batch::Batch;
use super::mask::Mask;
use crate::config::{GlobalCrop, ViewConfig, ViewKind};
use crate::device::Tensor;
use crate::ops::view_cut::{PatchRows, ViewBox, view_cut};
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
/// Source: docs/method.md, 2.2 and U1.
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

/// Draws the masks of a batch and cuts its views from prepared volumes `[channels, d, h, w]`, one per sample;
/// `samples[b]` is the place of volume `b` within the update.
pub fn cut_batch(
    config: &ViewConfig,
    batch: &mut Batch,
    volumes: &[Tensor],
    samples: &[u32],
    seed: u64,
    step: u64,
) -> Result<()> {
    let shape = batch.shape().clone();
    if volumes.len() != shape.volumes || samples.len() != shape.volumes {
        let expected = format!("{} volumes", shape.volumes);
        return Err(Error::shape("view", expected, format!("{}", volumes.len())));
    }
    let keys: Vec<ViewKey> = (0..shape.kinds().count())
        .map(|i| {
            let (view, b) = ((i / shape.volumes) as u32, i % shape.volumes);
            ViewKey { seed, step, sample: samples[b], view }
        })
        .collect();
    let masks = shape.kinds().zip(&keys);
    let masks = masks.map(|(kind, key)| draw_mask(config, shape.tokens(kind), key));
    batch.set_masks(masks.collect())?;
    for (i, (kind, key)) in shape.kinds().zip(&keys).enumerate() {
        let volume = &volumes[i % shape.volumes];
        let &[_, d, h, w] = volume.shape() else {
            let got = format!("{:?}", volume.shape());
            return Err(Error::shape("view", "[channels, d, h, w]", got));
        };
        let mut view = draw_box(config, kind, [d, h, w], key)?;
        view.mirrored = draw_mirror(config.flip_probability, key);
        let (mut out, rows) = batch.view_mut(i)?;
        let to = PatchRows { size: shape.size(kind), patch: shape.patch, rows: &rows };
        view_cut(&mut out, volume, &view, &to)?;
    }
    Ok(())
}

/// Along which axes a view is mirrored, each with the given probability.
fn draw_mirror(probability: f64, key: &ViewKey) -> [bool; 3] {
    if probability == 0.0 {
        return [false; 3];
    }
    let mut rng = key.rng(Purpose::Augment);
    [0; 3].map(|_| rng.uniform() < probability)
}
