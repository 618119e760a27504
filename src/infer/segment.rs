//! A segmentation network over a whole volume, window by window.

use crate::Result;
use crate::config::finetune::Infer;
use crate::data::Prepared;
use crate::device::Tensor;
use crate::nn::unetr::UnetrPlan;
use crate::seg::window::{Blender, Blending, WindowGrid, argmax};
use crate::tape::{Tape, Var};
use crate::train::finetune::program::channels_last;
use crate::train::finetune::state::Segmenter;

/// What a network says of volumes; plans and importance are made once.
pub struct Predictor<'a> {
    segmenter: &'a Segmenter,
    settings: Infer,
    plan: UnetrPlan,
    positions: Var,
    importance: Vec<f32>,
}

/// How scores become labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The class with the largest score.
    Classes,
    /// A bit per region, set where its score is above 0 (probability above one half).
    Regions,
}

impl<'a> Predictor<'a> {
    pub fn new(segmenter: &'a Segmenter, settings: Infer) -> Result<Self> {
        let device = segmenter.params.flat().device();
        let blending = match settings.gaussian {
            true => Blending::Gaussian { sigma_scale: 0.125 },
            false => Blending::Constant,
        };
        Ok(Self {
            segmenter,
            settings,
            plan: segmenter.net.plan(device, settings.windows)?,
            positions: Var::constant(segmenter.positions_of(settings.windows)?),
            importance: blending.importance(segmenter.net.config.roi),
        })
    }

    /// Blended scores of a prepared volume, slab by slab: `finished(d, scores)` gets `[outputs, h, w]`
    /// in rising order of `d`. `windows` is told how many of how many windows are done.
    ///
    /// Source: MONAI's `sliding_window_inference` (`UNETR_CASES.md`, window): raw scores are averaged.
    pub fn scores(
        &self,
        case: &Prepared,
        finished: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
        windows: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let config = &self.segmenter.net.config;
        let grid = WindowGrid::new(case.dims(), config.roi, self.settings.overlap)?;
        let mut blender = Blender::<f32>::new(&grid, config.outputs, &self.importance)?;
        let n: usize = config.roi.iter().product();
        let (size, batch) = (config.in_chans * n, self.settings.windows);
        let starts: Vec<[usize; 3]> = grid.windows().collect();
        let mut voxels = vec![0.0f32; batch * size];
        for (k, group) in starts.chunks(batch).enumerate() {
            for (start, window) in group.iter().zip(voxels.chunks_exact_mut(size)) {
                grid.cut(case.voxels(), *start, window)?;
            }
            let logits = self.logits(&voxels)?;
            for window in logits.chunks_exact(config.outputs * n).take(group.len()) {
                let planar = channels_first(window, config.outputs);
                blender.add(&planar, finished)?;
            }
            windows(k * batch + group.len(), starts.len());
        }
        Ok(())
    }

    /// Labels `[d, h, w]` of a prepared volume.
    pub fn labels(
        &self,
        case: &Prepared,
        decision: Decision,
        windows: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<u8>> {
        let [d, h, w] = case.dims();
        let mut labels = Vec::with_capacity(d * h * w);
        let mut keep = |_: usize, scores: &[f32]| {
            labels.extend(decide(scores, h * w, decision));
            Ok(())
        };
        self.scores(case, &mut keep, windows)?;
        Ok(labels)
    }

    /// Scores of a full batch of windows, `[batch, n, outputs]`.
    fn logits(&self, voxels: &[f32]) -> Result<Vec<f32>> {
        let (net, params) = (&self.segmenter.net, &self.segmenter.params);
        let device = params.flat().device();
        let n: usize = net.config.roi.iter().product();
        let rows = self.settings.windows * n;
        let planar = Tensor::from_slice(device, voxels, &[voxels.len()])?;
        let last = channels_last(voxels, net.config.in_chans, n);
        let last: Vec<f64> = last.into_iter().map(f64::from).collect();
        let shape = [rows, net.config.in_chans];
        let image = Tensor::from_f64(device, params.activation_dtype(), &last, &shape)?;
        let mut tape = Tape::inference(device);
        let inputs = [&Var::constant(planar), &Var::constant(image), &self.positions];
        net.forward(&mut tape, params, &self.plan, inputs, false)?.logits.value().to_f32_vec()
    }
}

/// Labels of scores `[outputs, n]`.
pub fn decide(scores: &[f32], n: usize, decision: Decision) -> Vec<u8> {
    match decision {
        Decision::Classes => argmax(scores, n),
        Decision::Regions => {
            let mut bits = vec![0u8; n];
            for (region, channel) in scores.chunks_exact(n.max(1)).enumerate().take(8) {
                for (bits, &score) in bits.iter_mut().zip(channel) {
                    *bits |= u8::from(score > 0.0) << region;
                }
            }
            bits
        }
    }
}

/// `[n, channels]` as `[channels, n]`.
fn channels_first(rows: &[f32], channels: usize) -> Vec<f32> {
    (0..channels).flat_map(|c| rows.iter().skip(c).step_by(channels).copied()).collect()
}
