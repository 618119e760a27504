//! A masked autoencoder on a whole volume: it is covered with views, every view is masked and
//! reconstructed by itself, and every voxel takes its answer from one view, the one in whose middle
//! it lies most. So a voxel is either seen or hidden, never both, and no error is averaged away.

use crate::config::{Config, GlobalCrop, Objective, ViewKind};
use crate::data::Prepared;
use crate::device::{Device, Tensor};
use crate::glmae::batch::{Batch, BatchShape};
use crate::glmae::mask::Mask;
use crate::glmae::model::Networks;
use crate::glmae::plan::{Predict, decode_plan, encode_plan};
use crate::nn::params::Params;
use crate::ops::masked_mse::patch_statistics;
use crate::rng::{Purpose, Rng};
use crate::tape::Tape;
use crate::{Error, Result};

/// Tokens that go through the decoder at once.
const TOKENS_AT_ONCE: usize = 8192;

/// What masks a reconstruction: its seed, the share of hidden tokens, and which volume it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    pub seed: u64,
    pub ratio: f64,
    pub sample: u32,
}

/// A reconstructed volume on the grid of its prepared case, in mapped intensities.
#[derive(Clone, Debug)]
pub struct Reconstruction {
    /// Which kind of view covered it, and how many of them.
    pub kind: ViewKind,
    pub tiles: usize,
    /// Predictions of all voxels, seen or hidden: `[c, d, h, w]`.
    pub prediction: Vec<f32>,
    /// Voxels in masked patches: `[d, h, w]`.
    pub hidden: Vec<bool>,
    pub explained: Explained,
}

impl Reconstruction {
    /// Seen voxels as they are, hidden ones as predicted: `[c, d, h, w]`.
    pub fn blend(&self, input: &[f32]) -> Vec<f32> {
        let hidden = self.hidden.iter().cycle();
        let pairs = input.iter().zip(&self.prediction).zip(hidden);
        pairs.map(|((x, y), hidden)| if *hidden { *y } else { *x }).collect()
    }
}

/// Sums over hidden voxels; several volumes add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Explained {
    pub hidden_values: u64,
    /// Squared error of the prediction.
    pub squared_error: f64,
    /// Squared distance from the mean of the hidden voxels of the same volume and channel.
    pub squared_deviation: f64,
    /// Squared error of the guess "the mean of what is visible in this view".
    pub mean_guess_error: f64,
    /// Squared error and squared target of patch-normalised values; zero without `norm_pix`.
    pub normalised_error: f64,
    pub normalised_deviation: f64,
}

impl Explained {
    /// `1 - MSE / variance` over hidden voxels; 1 is perfect, 0 as good as knowing their mean.
    pub fn share(&self) -> f64 {
        1.0 - self.squared_error / self.squared_deviation
    }

    /// The same for the guess that copies the mean of the visible voxels of the view.
    pub fn mean_guess_share(&self) -> f64 {
        1.0 - self.mean_guess_error / self.squared_deviation
    }

    /// The same for patch-normalised values; absent without `norm_pix`.
    pub fn normalised_share(&self) -> Option<f64> {
        (self.normalised_deviation > 0.0)
            .then(|| 1.0 - self.normalised_error / self.normalised_deviation)
    }

    /// Mean squared error, in squared units of the mapped intensity.
    pub fn mse(&self) -> f64 {
        self.squared_error / self.hidden_values as f64
    }

    pub fn add(&mut self, other: &Self) {
        self.hidden_values += other.hidden_values;
        self.squared_error += other.squared_error;
        self.squared_deviation += other.squared_deviation;
        self.mean_guess_error += other.mean_guess_error;
        self.normalised_error += other.normalised_error;
        self.normalised_deviation += other.normalised_deviation;
    }
}

/// Global views where a native crop of their size is what the model was trained on: native global
/// views, or volumes so small that such a crop is within the share of a resized box. Else local.
pub fn tile_kind(config: &Config, dims: [usize; 3]) -> ViewKind {
    let v = &config.views;
    let count = |n: [usize; 3]| n.iter().product::<usize>() as f64;
    let native = v.global_crop == GlobalCrop::Native
        || count(v.global_size) / count(dims) >= v.global_scale[0];
    if config.loss.objective.has_global_views() && native {
        ViewKind::Global
    } else {
        ViewKind::Local
    }
}

/// Views along one axis: their first voxels, and which of them every voxel belongs to.
struct Axis {
    starts: Vec<usize>,
    owner: Vec<usize>,
}

impl Axis {
    /// The fewest views of `size` voxels that cover `length`, evenly spread.
    fn new(length: usize, size: usize) -> Self {
        let count = length.div_ceil(size);
        let slack = length.saturating_sub(size);
        let starts: Vec<usize> = (0..count).map(|i| i * slack / (count - 1).max(1)).collect();
        // Twice the distance of a voxel from the middle of a view, so that it stays whole.
        let distance = |x: usize, start: usize| (2 * x + 1).abs_diff(2 * start + size);
        let nearest = |x: usize| (0..count).min_by_key(|&i| distance(x, starts[i])).unwrap_or(0);
        let owner = (0..length).map(nearest).collect();
        Self { starts, owner }
    }
}

/// Masks and reconstructs a prepared case with the student `params`.
///
/// A volume smaller than a view is continued by its border voxels; what is predicted there is
/// dropped. With `norm_pix` predictions are brought back with mean and deviation of the *target*
/// patch, as MAE's own visualisation does, so they know what was hidden: such shares of variance
/// are not honest measures, the patch-normalised ones are.
///
/// Errors: [`Error::Shape`] for another number of channels than the model's; [`Error::Config`] for
/// a mask ratio that leaves no token visible or none hidden.
pub fn reconstruct_volume(
    device: &Device,
    config: &Config,
    nets: &Networks,
    params: &Params,
    case: &Prepared,
    masking: &Masking,
) -> Result<Reconstruction> {
    let (dims, channels) = (case.dims(), case.channels());
    if channels != config.model.in_chans {
        let expected = format!("{} channels", config.model.in_chans);
        return Err(Error::shape("reconstruct", expected, format!("{channels}")));
    }
    let kind = tile_kind(config, dims);
    let size = match kind {
        ViewKind::Global => config.views.global_size,
        ViewKind::Local => config.views.local_size,
    };
    let tokens: usize = size.iter().map(|n| n / config.model.patch).product();
    let visible = (tokens as f64 * (1.0 - masking.ratio)) as usize;
    if visible == 0 || visible >= tokens {
        return Err(Error::Config(format!(
            "a mask ratio of {} leaves {visible} of {tokens} tokens visible; some must be visible \
             and some hidden",
            masking.ratio
        )));
    }
    let axes = [0, 1, 2].map(|a| Axis::new(dims[a], size[a]));
    let counts = [0, 1, 2].map(|a| axes[a].starts.len());
    let tiles: Vec<[usize; 3]> = (0..counts.iter().product())
        .map(|i| [i / (counts[1] * counts[2]), i / counts[2] % counts[1], i % counts[2]])
        .collect();
    let values = case.voxels().len();
    let mut out = Reconstruction {
        kind,
        tiles: tiles.len(),
        prediction: vec![0.0; values],
        hidden: vec![false; dims.iter().product()],
        explained: Explained::default(),
    };
    for (chunk, part) in tiles.chunks((TOKENS_AT_ONCE / tokens).max(1)).enumerate() {
        let shape = shape_of(config, kind, part.len());
        let first = chunk * (TOKENS_AT_ONCE / tokens).max(1);
        let masks: Vec<Mask> = (0..part.len())
            .map(|i| {
                let tile = (first + i) as u32;
                let mut rng = Rng::new(masking.seed, Purpose::Mask, u64::MAX, masking.sample, tile);
                Mask::random(&mut rng, tokens, visible)
            })
            .collect();
        let voxels = cut(case, &axes, part, size);
        let rows = predict(device, nets, params, &shape, kind, &masks, &voxels)?;
        let work = Part { config, case, axes: &axes, tiles: part, size, masks: &masks };
        work.place(&voxels, &rows, &mut out);
    }
    deviations(case, &mut out);
    Ok(out)
}

/// A batch of `tiles` views of one kind and none of the other.
fn shape_of(config: &Config, kind: ViewKind, tiles: usize) -> BatchShape {
    let mut only = config.clone();
    let global = kind == ViewKind::Global;
    only.loss.objective = if global { Objective::Global } else { Objective::Mae3d };
    only.views.n_global = if global { tiles } else { 0 };
    only.views.n_local = if global { 0 } else { tiles };
    BatchShape::new(&only, 1)
}

/// The voxels of tiles, `[tile, c, d, h, w]`; positions beyond the volume read its border.
fn cut(case: &Prepared, axes: &[Axis; 3], tiles: &[[usize; 3]], size: [usize; 3]) -> Vec<f32> {
    let [nd, nh, nw] = case.dims();
    let mut out =
        Vec::with_capacity(tiles.len() * case.channels() * size.iter().product::<usize>());
    for tile in tiles {
        let start = [0, 1, 2].map(|a| axes[a].starts[tile[a]]);
        for channel in case.voxels().chunks_exact(nd * nh * nw) {
            for d in (start[0]..start[0] + size[0]).map(|d| d.min(nd - 1)) {
                for h in (start[1]..start[1] + size[1]).map(|h| h.min(nh - 1)) {
                    let row = &channel[(d * nh + h) * nw..][..nw];
                    out.extend((start[2]..start[2] + size[2]).map(|w| row[w.min(nw - 1)]));
                }
            }
        }
    }
    out
}

/// Predictions for all tokens, `[tile * tokens, p^3 C]` in channels-last order.
fn predict(
    device: &Device,
    nets: &Networks,
    params: &Params,
    shape: &BatchShape,
    kind: ViewKind,
    masks: &[Mask],
    voxels: &[f32],
) -> Result<Vec<f32>> {
    let voxels = Tensor::from_slice(device, voxels, &[voxels.len()])?;
    let batch = Batch::from_views(params.activation_dtype(), shape, masks.to_vec(), &voxels)?;
    let views: Vec<(usize, &Mask)> = masks.iter().enumerate().collect();
    let (tables, order) = (&nets.tables, batch.order());
    let encode = encode_plan(device, shape, tables, order, order.student(), &views)?;
    let (starts, rows) = (encode.packing.starts(), encode.packing.total());
    let all = Predict::All;
    let decode = decode_plan(device, shape, tables, order, &views, &starts, rows, all)?;
    let mut tape = Tape::inference(device);
    let latent = nets.encode(&mut tape, params, batch.patches(), &encode)?;
    // Two decoders: the first is for global, the second for local views.
    let decoder = nets.decoders.get(kind as usize).or(nets.decoders.first());
    let Some(decoder) = decoder else {
        return Err(Error::Config("the model has no decoder".into()));
    };
    let out = decoder.forward(
        &mut tape,
        params,
        &latent,
        &nets.tables.decoder,
        &decode.assemble,
        &decode.packing,
        &decode.wanted,
    )?;
    out.value().to_f32_vec()
}

/// One chunk of tiles on its way back to the volume.
struct Part<'a> {
    config: &'a Config,
    case: &'a Prepared,
    axes: &'a [Axis; 3],
    tiles: &'a [[usize; 3]],
    size: [usize; 3],
    masks: &'a [Mask],
}

impl Part<'_> {
    fn place(&self, voxels: &[f32], rows: &[f32], out: &mut Reconstruction) {
        let (p, channels) = (self.config.model.patch, self.case.channels());
        let row_len = p * p * p * channels;
        let tokens = self.size.iter().map(|n| n / p).product::<usize>();
        let tile_len = channels * self.size.iter().product::<usize>();
        let tiles = self.tiles.iter().zip(self.masks).zip(voxels.chunks_exact(tile_len));
        for (((tile, mask), voxels), rows) in tiles.zip(rows.chunks_exact(tokens * row_len)) {
            let guess = self.visible_means(mask, voxels);
            for (token, row) in rows.chunks_exact(row_len).enumerate() {
                let target: Vec<f32> = self.patch(token).map(|(at, ..)| voxels[at]).collect();
                let hidden = mask.place(token).is_none();
                let (mean, inv_std) = match self.config.loss.norm_pix {
                    true => patch_statistics(&target),
                    false => (0.0, 1.0),
                };
                if hidden && self.config.loss.norm_pix {
                    for (y, t) in row.iter().zip(&target) {
                        let t = f64::from((t - mean) * inv_std);
                        out.explained.normalised_error += (f64::from(*y) - t).powi(2);
                        out.explained.normalised_deviation += t * t;
                    }
                }
                for ((_, channel, at), (y, t)) in self.patch(token).zip(row.iter().zip(&target)) {
                    let Some(voxel) = self.voxel_of(tile, at) else { continue };
                    let y = y / inv_std + mean;
                    let n = out.hidden.len();
                    out.prediction[channel * n + voxel] = y;
                    out.hidden[voxel] = hidden;
                    if hidden {
                        let e = &mut out.explained;
                        e.hidden_values += 1;
                        e.squared_error += (f64::from(y) - f64::from(*t)).powi(2);
                        e.mean_guess_error += (guess[channel] - f64::from(*t)).powi(2);
                    }
                }
            }
        }
    }

    /// Elements of a token's patch in channels-last order: index in the tile's voxels, channel,
    /// position in the tile.
    fn patch(&self, token: usize) -> impl Iterator<Item = (usize, usize, [usize; 3])> {
        let (p, channels, size) = (self.config.model.patch, self.case.channels(), self.size);
        let [_, gh, gw] = size.map(|n| n / p);
        let first = [token / (gh * gw), token / gw % gh, token % gw].map(|g| g * p);
        (0..p * p * p * channels).map(move |i| {
            let (voxel, c) = (i / channels, i % channels);
            let at = [voxel / (p * p), voxel / p % p, voxel % p];
            let at = [0, 1, 2].map(|a| first[a] + at[a]);
            (((c * size[0] + at[0]) * size[1] + at[1]) * size[2] + at[2], c, at)
        })
    }

    /// Where a voxel of a tile lies in the volume, if the tile owns it.
    fn voxel_of(&self, tile: &[usize; 3], at: [usize; 3]) -> Option<usize> {
        let dims = self.case.dims();
        let mut index = 0;
        for a in 0..3 {
            let x = self.axes[a].starts[tile[a]] + at[a];
            if self.axes[a].owner.get(x) != Some(&tile[a]) {
                return None;
            }
            index = index * dims[a] + x;
        }
        Some(index)
    }

    /// Mean of the visible voxels of a tile, per channel.
    fn visible_means(&self, mask: &Mask, voxels: &[f32]) -> Vec<f64> {
        let mut sums = vec![(0.0, 0.0); self.case.channels()];
        for &token in mask.keep() {
            for (at, c, _) in self.patch(token) {
                sums[c].0 += f64::from(voxels[at]);
                sums[c].1 += 1.0;
            }
        }
        sums.into_iter().map(|(sum, n)| sum / n).collect()
    }
}

/// The denominator of the share: hidden voxels about their mean, per channel.
fn deviations(case: &Prepared, out: &mut Reconstruction) {
    for channel in case.voxels().chunks_exact(out.hidden.len()) {
        let hidden = || channel.iter().zip(&out.hidden).filter(|(_, h)| **h).map(|(x, _)| *x);
        let count = hidden().count().max(1) as f64;
        let mean = hidden().map(f64::from).sum::<f64>() / count;
        out.explained.squared_deviation +=
            hidden().map(|x| (f64::from(x) - mean).powi(2)).sum::<f64>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_cover_every_voxel_with_the_view_it_is_deepest_in() {
        for (length, size) in [(5, 8), (8, 8), (9, 8), (16, 8), (50, 24), (47, 16), (1, 4)] {
            let axis = Axis::new(length, size);
            assert_eq!(axis.owner.len(), length);
            assert_eq!(axis.starts.len(), length.div_ceil(size));
            for (x, &i) in axis.owner.iter().enumerate() {
                let inside = |i: usize| (axis.starts[i]..axis.starts[i] + size).contains(&x);
                assert!(inside(i), "{length} {size}: voxel {x} in view {i}");
                let depth = |i: usize| (x - axis.starts[i]).min(axis.starts[i] + size - 1 - x);
                let best = (0..axis.starts.len()).filter(|&i| inside(i)).map(depth).max();
                assert_eq!(Some(depth(i)), best);
            }
        }
    }
}
