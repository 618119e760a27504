//! A segmentation network over a whole volume, window by window.

use rayon::prelude::*;

use super::window::{Blender, Blending, Column, WindowGrid, argmax};
use crate::config::finetune::Infer;
use crate::data::Prepared;
use crate::device::Device;
use crate::nn::segmenter::Segmenter;
use crate::nn::vit::VitPlan;
use crate::tape::Var;
use crate::{Error, Result};

/// What a network says of volumes; plans and importance are made once.
pub struct Predictor<'a> {
    segmenter: &'a Segmenter,
    settings: Infer,
    plan: VitPlan,
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

/// A finished part of a volume: one index of axis `d` of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slab {
    pub d: usize,
    pub column: Column,
}

impl Slab {
    /// Its rows in a volume of `dims`: where each begins in `[d, h, w]`, and in the slab.
    pub fn rows(self, dims: [usize; 3]) -> impl Iterator<Item = (usize, usize)> {
        let Column { first, size } = self.column;
        let row = move |h: usize| (self.d * dims[1] + first[0] + h) * dims[2] + first[1];
        (0..size[0]).map(move |h| (row(h), h * size[1]))
    }
}

impl<'a> Predictor<'a> {
    pub fn new(segmenter: &'a Segmenter, mut settings: Infer) -> Result<Self> {
        let (config, outputs) = (&segmenter.net.config, segmenter.net.sizes().outputs());
        let device = segmenter.params.flat().device();
        let blending = match settings.gaussian {
            true => Blending::Gaussian { sigma_scale: 0.125 },
            false => Blending::Constant,
        };
        if *device == Device::Cpu || device.is_simulated() {
            // Scores of a batch share the memory with the sums here: a quarter as much at most.
            let scores = 4 * outputs * config.roi.iter().product::<usize>();
            let room = settings.memory_mib.saturating_mul(1 << 18) / scores.max(1);
            settings.windows = settings.windows.min(room).max(1);
        }
        Ok(Self {
            segmenter,
            settings,
            plan: segmenter.net.plan(device, settings.windows)?,
            positions: Var::constant(segmenter.positions_of(settings.windows)?),
            importance: blending.importance(config.roi),
        })
    }

    /// Blended scores of a prepared volume: `finished(slab, scores)` gets `[outputs, h, w]` of every
    /// slab of every column, in rising order of `d` within a column. `windows` is told how many of how
    /// many windows are done. How many columns there are follows from `infer.memory_mib`; scores do not
    /// depend on it.
    ///
    /// Source: MONAI's `sliding_window_inference` (docs/method.md, 6.7): raw scores are averaged.
    pub fn scores(
        &self,
        case: &Prepared,
        finished: &mut dyn FnMut(Slab, &[f32]) -> Result<()>,
        windows: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let config = &self.segmenter.net.config;
        let outputs = self.segmenter.net.sizes().outputs();
        let grid = WindowGrid::new(case.dims(), config.roi, self.settings.overlap)?;
        let columns = grid.columns(outputs, (self.settings.memory_mib as u64) << 20);
        let n: usize = config.roi.iter().product();
        let (size, batch) = (config.in_chans * n, self.settings.windows);
        let of: usize = columns.iter().map(|&c| grid.windows_of(c).count()).sum();
        let mut done = 0;
        let mut voxels = vec![0.0f32; batch * size];
        let mut planar = Vec::new();
        for column in columns {
            let mut blender = Blender::<f32>::new(&grid, column, outputs, &self.importance)?;
            let mut keep = |d: usize, scores: &[f32]| finished(Slab { d, column }, scores);
            let starts: Vec<[usize; 3]> = grid.windows_of(column).collect();
            let mut blend = |rows: &[f32]| {
                for window in rows.chunks_exact(n * outputs) {
                    channels_first(window, outputs, &mut planar);
                    blender.add(&planar, &mut keep)?;
                }
                done += rows.len() / (n * outputs);
                windows(done, of);
                Ok::<_, Error>(())
            };
            let mut waiting: Option<Vec<f32>> = None;
            for group in starts.chunks(batch) {
                for (start, window) in group.iter().zip(voxels.chunks_exact_mut(size)) {
                    grid.cut(case.voxels(), *start, window)?;
                }
                let logits = self.segmenter.logits(&self.plan, &self.positions, &voxels)?;
                // On a GPU these windows are under way: those before them are blended meanwhile.
                if let Some(rows) = waiting.take() {
                    blend(&rows)?;
                }
                waiting = Some(logits.view(0, &[group.len() * n, outputs])?.to_f32_vec()?);
            }
            waiting.map_or(Ok(()), |rows| blend(&rows))?;
        }
        Ok(())
    }

    /// Windows of a volume of `dims`: with the settings' overlap, and with the default one.
    pub fn cost(&self, dims: [usize; 3]) -> Result<(usize, usize)> {
        let roi = self.segmenter.net.config.roi;
        let count = |overlap| WindowGrid::new(dims, roi, overlap).map(|grid| grid.len());
        Ok((count(self.settings.overlap)?, count(Infer::default().overlap)?))
    }

    /// Labels `[d, h, w]` of a prepared volume.
    pub fn labels(
        &self,
        case: &Prepared,
        decision: Decision,
        windows: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<u8>> {
        let mut labels = vec![0; case.dims().iter().product()];
        let mut keep = |slab: Slab, scores: &[f32]| {
            place(&mut labels, case.dims(), slab, &decide(scores, slab.column.slab(), decision));
            Ok(())
        };
        self.scores(case, &mut keep, windows)?;
        Ok(labels)
    }
}

/// Puts the values of a slab, `[h, w]` of its column, where they belong in a volume `[d, h, w]`.
pub fn place<T: Copy>(volume: &mut [T], dims: [usize; 3], slab: Slab, values: &[T]) {
    let width = slab.column.size[1];
    for (to, from) in slab.rows(dims) {
        volume[to..to + width].copy_from_slice(&values[from..from + width]);
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

/// `[n, channels]` as `[channels, n]`, into `planar`.
fn channels_first(rows: &[f32], channels: usize, planar: &mut Vec<f32>) {
    planar.resize(rows.len(), 0.0);
    let n = (rows.len() / channels.max(1)).max(1);
    planar.par_chunks_mut(n).enumerate().for_each(|(c, channel)| {
        let of_channel = rows.iter().skip(c).step_by(channels);
        channel.iter_mut().zip(of_channel).for_each(|(to, from)| *to = *from);
    });
}
