//! A segmentation network over a whole volume, window by window.

use rayon::prelude::*;

use super::window::{Blender, Blending, Column, Importance, WindowGrid};
use crate::Result;
use crate::config::finetune::Infer;
use crate::data::Prepared;
use crate::device::{DType, Device, Tensor};
use crate::nn::segmenter::Segmenter;
use crate::nn::vit::VitPlan;
use crate::ops::argmax::{argmax, regions};
use crate::tape::Var;

/// What a network says of volumes; plans and importance are made once.
pub struct Predictor<'a> {
    segmenter: &'a Segmenter,
    settings: Infer,
    plan: VitPlan,
    positions: Var,
    importance: Importance,
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
        settings.windows = windows_at_once(&settings, outputs, config.roi, device);
        let (dtype, weights) = (segmenter.params.flat().dtype(), blending.importance(config.roi));
        Ok(Self {
            segmenter,
            settings,
            plan: segmenter.net.plan(device, settings.windows)?,
            positions: Var::constant(segmenter.positions_of(settings.windows)?),
            importance: Importance::new(device, dtype, config.roi, &weights)?,
        })
    }

    /// Blended scores of a prepared volume: `finished(slab, scores)` gets `[h * w, outputs]` of every slab of
    /// every column on the network's device, in rising order of `d` within a column, and must not keep them
    /// ([`decide`], [`channels_first`]). `windows` is told how many of how many windows are done. How many
    /// columns there are follows from `infer.memory_mib`; scores do not depend on it.
    ///
    /// Source: MONAI's `sliding_window_inference` (docs/method.md, 6.7): raw scores are averaged.
    pub fn scores(
        &self,
        case: &Prepared,
        finished: &mut dyn FnMut(Slab, &Tensor) -> Result<()>,
        windows: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        let config = &self.segmenter.net.config;
        let grid = WindowGrid::new(case.dims(), config.roi, self.settings.overlap)?;
        let columns = self.columns(&grid);
        let (size, batch) = (config.in_chans * grid.window(), self.settings.windows);
        let of: usize = columns.iter().map(|&c| grid.windows_of(c).count()).sum();
        let mut done = 0;
        let mut voxels = vec![0.0f32; batch * size];
        let mut blender = Blender::new(&grid, &columns, self.outputs(), &self.importance)?;
        for column in columns {
            let mut keep = |d: usize, scores: &Tensor| finished(Slab { d, column }, scores);
            blender.begin(column)?;
            let starts: Vec<[usize; 3]> = grid.windows_of(column).collect();
            for group in starts.chunks(batch) {
                for (start, window) in group.iter().zip(voxels.chunks_exact_mut(size)) {
                    grid.cut(case.voxels(), *start, window)?;
                }
                self.blend(&mut blender, &voxels, group.len(), &mut keep)?;
                done += group.len();
                windows(done, of);
            }
        }
        drop(blender);
        // The next volume has another size: what this one needed must not stay beside what that one does.
        self.device().release_unused()
    }

    /// The first `count` windows of `voxels` through the network and into the sums.
    fn blend(
        &self,
        blender: &mut Blender<'_>,
        voxels: &[f32],
        count: usize,
        keep: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let logits = self.segmenter.logits(&self.plan, &self.positions, voxels)?;
        let (n, outputs) = (logits.len() / self.settings.windows, self.outputs());
        (0..count)
            .try_for_each(|i| blender.add(&logits.view(i * n, &[n / outputs, outputs])?, keep))
    }

    /// Holds for a moment, on the device, what [`Predictor::labels`] of volumes of these `dims` holds at most,
    /// also of what is left of them when their foreground is cut out; for plans.
    pub fn rehearse(&self, dims: &[[usize; 3]], decision: Decision) -> Result<()> {
        let config = &self.segmenter.net.config;
        let grid = |&dims| WindowGrid::new(dims, config.roi, self.settings.overlap);
        let grids = dims.iter().map(grid).collect::<Result<Vec<_>>>()?;
        // The sums decide, except among volumes that take the whole budget: there labels do.
        let Some(grid) = grids.iter().max_by_key(|&grid| (self.most(grid), grid.whole().slab()))
        else {
            return Ok(());
        };
        let columns = self.columns(grid);
        let mut blender = Blender::new(grid, &columns, self.outputs(), &self.importance)?;
        let Some(&column) = columns.iter().max_by_key(|c| c.slab()) else { return Ok(()) };
        // A part of the volume may need fewer columns, and these more of the budget.
        let held = grid.column_bytes(column, self.outputs()) + column.slab() as u64;
        let more = (self.most(grid) + grid.whole().slab() as u64).saturating_sub(held) as usize;
        let more =
            (more > 0).then(|| Tensor::empty(self.device(), DType::U8, &[more])).transpose()?;
        blender.begin_first(column)?;
        let voxels = vec![0.0; self.settings.windows * config.in_chans * grid.window()];
        self.blend(&mut blender, &voxels, 1, &mut |_, scores| decide(scores, decision).map(drop))?;
        drop((blender, more));
        Ok(())
    }

    /// Bytes of the sums of a volume, or of a part of it, at most.
    fn most(&self, grid: &WindowGrid) -> u64 {
        let bytes = |column| grid.column_bytes(column, self.outputs());
        let largest = self.columns(grid).into_iter().map(bytes).max().unwrap_or(0);
        let budget = (self.settings.memory_mib as u64) << 20;
        bytes(grid.whole()).min(budget.max(largest))
    }

    fn device(&self) -> &Device {
        self.segmenter.params.flat().device()
    }

    fn outputs(&self) -> usize {
        self.segmenter.net.sizes().outputs()
    }

    fn columns(&self, grid: &WindowGrid) -> Vec<Column> {
        grid.columns(self.outputs(), (self.settings.memory_mib as u64) << 20)
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
        let mut keep = |slab: Slab, scores: &Tensor| {
            place(&mut labels, case.dims(), slab, &decide(scores, decision)?);
            Ok(())
        };
        self.scores(case, &mut keep, windows)?;
        Ok(labels)
    }
}

/// How many of `settings.windows` of `roi` voxels with `outputs` scores each go through a network at a time
/// on `device`: where their scores share the host's memory with the sums, a quarter as much as these at most.
pub fn windows_at_once(
    settings: &Infer,
    outputs: usize,
    roi: [usize; 3],
    device: &Device,
) -> usize {
    if *device != Device::Cpu && !device.is_simulated() {
        return settings.windows;
    }
    let scores = 4 * outputs * roi.iter().product::<usize>();
    let room = settings.memory_mib.saturating_mul(1 << 18) / scores.max(1);
    settings.windows.min(room).max(1)
}

/// Puts the values of a slab, `[h, w]` of its column, where they belong in a volume `[d, h, w]`.
pub fn place<T: Copy>(volume: &mut [T], dims: [usize; 3], slab: Slab, values: &[T]) {
    let width = slab.column.size[1];
    for (to, from) in slab.rows(dims) {
        volume[to..to + width].copy_from_slice(&values[from..from + width]);
    }
}

/// Labels of scores `[n, outputs]`, decided where they are: a byte per voxel leaves the device.
pub fn decide(scores: &Tensor, decision: Decision) -> Result<Vec<u8>> {
    match decision {
        Decision::Classes => argmax(scores)?.to_vec(),
        Decision::Regions => regions(scores)?.to_vec(),
    }
}

/// Scores `[n, outputs]` of any device as `[outputs, n]`. Errors: those of the device.
pub fn channels_first(scores: &Tensor) -> Result<Vec<f32>> {
    let ((n, outputs), rows) = (scores.matrix("scores")?, scores.to_f32_vec()?);
    let mut planar = vec![0.0; rows.len()];
    planar.par_chunks_mut(n.max(1)).enumerate().for_each(|(c, channel)| {
        let of_channel = rows.iter().skip(c).step_by(outputs);
        channel.iter_mut().zip(of_channel).for_each(|(to, from)| *to = *from);
    });
    Ok(planar)
}
