//! A fine-tuning step as a fixed program: forward, Dice and cross-entropy, backward over the
//! micro-batches, then clip and AdamW.

use super::state::{SegState, Segmenter};
use crate::device::{DType, Tensor, TensorMut, class, nvtx};
use crate::nn::unetr::{UnetrConfig, UnetrPlan};
use crate::ops::Grid;
use crate::ops::accumulate::accumulate;
use crate::ops::adamw_ema::{AdamW, Buffers, Segment, UpdateTable, adamw_ema};
use crate::ops::dice_ce::DiceOptions;
use crate::ops::grad_norm::grad_norm;
use crate::tape::{ParamGrads, Tape, Var};
use crate::train::captured::Captured;
use crate::train::program::Launches;
use crate::{Error, Result};

/// How logits are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SegLoss {
    /// Softmax; labels are classes. Weights of Dice and cross-entropy.
    DiceCe { dice: f64, ce: f64 },
    /// Sigmoid; labels are bits, one per region. Dice alone (BraTS).
    DiceRegions,
}

impl SegLoss {
    /// Records the terms `[2]` and returns them with their weights.
    fn record(
        self,
        tape: &mut Tape<'_>,
        logits: &Var,
        labels: &Tensor,
        grid: &Grid,
    ) -> Result<(Var, [f64; 2])> {
        match self {
            Self::DiceCe { dice, ce } => {
                let options = DiceOptions::default();
                Ok((tape.dice_ce(logits, labels, grid, &options)?, [dice, ce]))
            }
            Self::DiceRegions => {
                let options = DiceOptions { smooth_dr: 1e-5, ..DiceOptions::default() };
                Ok((tape.dice_bce(logits, labels, grid, &options)?, [1.0, 0.0]))
            }
        }
    }
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegSettings {
    pub lr: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Global gradient norm above which gradients are scaled down; 0: never.
    pub clip_grad: f64,
}

/// What a step did: means over the micro-batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SegReport {
    pub total: f64,
    pub dice: f64,
    pub ce: f64,
    pub grad_norm: f64,
}

impl SegReport {
    /// Whether an update was made.
    pub fn is_finite(&self) -> bool {
        self.grad_norm.is_finite()
    }
}

/// Images and labels of a micro-batch, where a captured step reads them.
pub struct SegBatch {
    /// `[batch * channels * voxels]`, f32: planar.
    pub voxels: Tensor,
    /// The same as `[batch * voxels, channels]`, in the dtype of activations.
    pub image: Tensor,
    /// `[batch * voxels]` u8: classes, or a bit per region.
    pub labels: Tensor,
}

impl SegBatch {
    fn empty(segmenter: &Segmenter, batch: usize) -> Result<Self> {
        let (params, config) = (&segmenter.params, &segmenter.net.config);
        let device = params.flat().device();
        let rows = batch * config.roi.iter().product::<usize>();
        let channels = config.in_chans;
        Ok(Self {
            voxels: Tensor::zeros(device, params.flat().dtype(), &[rows * channels])?,
            image: Tensor::zeros(device, params.activation_dtype(), &[rows, channels])?,
            labels: Tensor::zeros(device, DType::U8, &[rows])?,
        })
    }

    /// Puts crops in place: `voxels` planar `[batch, channels, d, h, w]`, `labels` `[batch, d, h, w]`.
    pub fn fill(&mut self, config: &UnetrConfig, voxels: &[f64], labels: &[u8]) -> Result<()> {
        let n = config.roi.iter().product::<usize>();
        self.voxels.as_mut().upload_f64(voxels)?;
        self.image.as_mut().upload_f64(&channels_last(voxels, config.in_chans, n))?;
        self.labels.as_mut().upload(labels)
    }
}

impl SegBatch {
    /// As [`SegBatch::fill`], for the f32 crops of a run.
    pub fn fill_f32(&mut self, config: &UnetrConfig, voxels: &[f32], labels: &[u8]) -> Result<()> {
        let n = config.roi.iter().product::<usize>();
        self.voxels.as_mut().upload(voxels)?;
        let rows = channels_last(voxels, config.in_chans, n);
        match self.image.dtype() {
            DType::Bf16 => {
                let rows: Vec<half::bf16> = rows.into_iter().map(half::bf16::from_f32).collect();
                self.image.as_mut().upload(&rows)?;
            }
            _ => self.image.as_mut().upload(&rows)?,
        }
        self.labels.as_mut().upload(labels)
    }
}

/// `[batch, channels, n]` as `[batch, n, channels]`.
pub fn channels_last<T: Copy>(planar: &[T], channels: usize, n: usize) -> Vec<T> {
    if channels == 1 {
        return planar.to_vec();
    }
    let mut out = Vec::with_capacity(planar.len());
    for image in planar.chunks_exact(channels * n) {
        out.extend((0..n).flat_map(|i| (0..channels).map(move |c| image[c * n + i])));
    }
    out
}

/// See the module. A step is [`SegProgram::micro_batch`] for every micro-batch, then
/// [`SegProgram::update`], then [`SegProgram::finish`].
pub struct SegProgram {
    loss: SegLoss,
    micro_batches: usize,
    batch: SegBatch,
    plan: UnetrPlan,
    positions: Tensor,
    grads: ParamGrads,
    table: UpdateTable,
    clip_grad: f64,
    one: Tensor,
    /// Sum of the losses of the micro-batches so far, `[1]`.
    sum: Tensor,
    launches: Launches,
    done: usize,
    steps: u64,
    pass: Captured<Tensor>,
    update: Captured<()>,
    /// `[norm, factor]`, then total, Dice and cross-entropy of every micro-batch.
    report: Tensor,
}

impl SegProgram {
    /// A program for steps of `micro_batches` micro-batches of `batch` crops.
    pub fn new(
        state: &SegState,
        settings: &SegSettings,
        loss: SegLoss,
        batch: usize,
        micro_batches: usize,
        launches: Launches,
    ) -> Result<Self> {
        let segmenter = &state.segmenter;
        let flat = segmenter.params.flat();
        let (device, dtype) = (flat.device(), flat.dtype());
        let micro_batches = micro_batches.max(1);
        let (segments, n) = (segments(state, 1), flat.len());
        Ok(Self {
            loss,
            micro_batches,
            batch: SegBatch::empty(segmenter, batch)?,
            plan: segmenter.net.plan(device, batch)?,
            positions: segmenter.positions_of(batch)?,
            grads: ParamGrads::new(device, dtype, segmenter.params.layout())?,
            table: UpdateTable::new(device, &adamw(settings), &segments, n, 0)?,
            clip_grad: settings.clip_grad,
            one: Tensor::from_f64(device, dtype, &[1.0], &[1])?,
            sum: Tensor::zeros(device, dtype, &[1])?,
            launches,
            done: 0,
            steps: 0,
            pass: Captured::default(),
            update: Captured::default(),
            report: Tensor::zeros(device, dtype, &[2 + 3 * micro_batches])?,
        })
    }

    /// Where the crops of the micro-batch to come are put.
    pub fn batch_mut(&mut self) -> &mut SegBatch {
        &mut self.batch
    }

    /// The gradients of the last step.
    pub fn grads(&self) -> &ParamGrads {
        &self.grads
    }

    /// Starts forward and backward.
    pub fn micro_batch(&mut self, segmenter: &Segmenter) -> Result<()> {
        let _range = nvtx::range(|| "micro-batch");
        if self.done == 0 {
            self.sum.as_mut().fill_zero()?;
            if self.micro_batches > 1 {
                self.grads.zero()?;
            }
        }
        let device = self.one.device().clone();
        let mut pass = std::mem::take(&mut self.pass);
        let run = pass.run(&device, self.launches, self.steps, || self.pass(segmenter));
        self.pass = pass;
        run?;
        if let Some(values) = self.pass.outputs() {
            TensorMut::new(&mut self.report, 2 + 3 * self.done, &[3])?.assign(values)?;
        }
        self.done += 1;
        Ok(())
    }

    /// What the device does in a micro-batch. Uploads and downloads nothing.
    fn pass(&mut self, segmenter: &Segmenter) -> Result<Tensor> {
        let device = self.one.device().clone();
        let _class = class::scope("activations");
        if self.micro_batches == 1 {
            self.grads.clear();
        }
        let mut tape = Tape::new(&device);
        let inputs = [&self.batch.voxels, &self.batch.image, &self.positions];
        let [voxels, image, positions] = inputs.map(|t| Var::constant(t.clone()));
        let (net, params) = (&segmenter.net, &segmenter.params);
        let inputs = [&voxels, &image, &positions];
        let pass = net.forward(&mut tape, params, &self.plan, inputs, false)?;
        let grid = Grid { batch: self.plan.batch, dims: net.config.roi };
        let (terms, weights) =
            self.loss.record(&mut tape, &pass.logits, &self.batch.labels, &grid)?;
        let total = tape.weighted_sum(&[(&terms, &weights)])?;
        let mut values = Tensor::empty(&device, total.value().dtype(), &[3])?;
        TensorMut::new(&mut values, 0, &[1])?.assign(total.value())?;
        TensorMut::new(&mut values, 1, &[2])?.assign(terms.value())?;
        accumulate(&mut self.sum.as_mut(), total.value())?;
        drop((terms, pass));
        let _class = class::scope("gradients of activations");
        tape.backward_from(&[(total, self.one.clone())], &mut self.grads)?;
        Ok(values)
    }

    /// Starts clip and AdamW.
    pub fn update(&mut self, state: &mut SegState, settings: &SegSettings) -> Result<()> {
        let _range = nvtx::range(|| "update");
        self.table.set(&adamw(settings), &segments(state, state.updates + 1))?;
        let device = self.one.device().clone();
        let mut update = std::mem::take(&mut self.update);
        let run = update.run(&device, self.launches, self.steps, || self.apply(state));
        self.update = update;
        run?;
        (self.done, self.steps) = (0, self.steps + 1);
        Ok(())
    }

    fn apply(&mut self, state: &mut SegState) -> Result<()> {
        let _class = class::scope("update");
        let SegState { segmenter, m, v, .. } = state;
        let flat = self.grads.finish(segmenter.params.layout())?;
        let scale = 1.0 / self.micro_batches as f64;
        let clip = grad_norm(flat, Some(&self.sum), scale, self.clip_grad)?;
        let (params, half) = segmenter.params.buffers_mut();
        let grads = self.grads.flat();
        let buffers = Buffers { params, grads, m, v, teacher: None, half, teacher_half: None };
        adamw_ema(&self.table, Some(&clip), buffers)?;
        TensorMut::new(&mut self.report, 0, &[2])?.assign(&clip)
    }

    /// Waits for the step that was started, and counts it.
    pub fn finish(&mut self, state: &mut SegState) -> Result<SegReport> {
        let values = self.report.to_f64_vec()?;
        let [grad_norm, _, terms @ ..] = &values[..] else {
            return Err(Error::shape("step", "a report", format!("{} values", values.len())));
        };
        let mean =
            |i: usize| terms.iter().skip(i).step_by(3).sum::<f64>() / self.micro_batches as f64;
        let report =
            SegReport { total: mean(0), dice: mean(1), ce: mean(2), grad_norm: *grad_norm };
        state.step += 1;
        if report.is_finite() {
            state.updates += 1;
            state.bad_in_a_row = 0;
        } else {
            state.bad_in_a_row += 1;
        }
        Ok(report)
    }
}

fn adamw(settings: &SegSettings) -> AdamW {
    let SegSettings { lr, weight_decay, beta1, beta2, eps, .. } = *settings;
    AdamW { lr, weight_decay, beta1, beta2, eps, grad_scale: 1.0, ema: 0.0 }
}

/// Every parameter that trains, all with weight decay, as MONAI's users have it.
fn segments(state: &SegState, update: u64) -> Vec<Segment> {
    let mut all = Segment::of_layout(state.segmenter.params.layout(), |_| update);
    all.iter_mut().for_each(|s| s.decays = true);
    all
}
