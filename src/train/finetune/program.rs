//! A fine-tuning step as a fixed program: forward, Dice and cross-entropy (of images: cross-entropy),
//! backward over the micro-batches, then clip and AdamW.

use crate::Result;
use crate::checkpoint::FinetuneState;
use crate::device::{DType, Tensor, TensorMut, class, nvtx};
use crate::nn::segmenter::{Segmenter, channels_last};
use crate::nn::vit::{VitConfig, VitPlan};
use crate::ops::VoxelGrid;
use crate::ops::adamw_ema::{AdamW, Segment, UpdateTable};
use crate::ops::dice_ce::DiceOptions;
use crate::seg::task::TaskKind;
use crate::tape::{ParamGrads, Tape, Var};
use crate::train::run::{Accumulation, Captured, Launches, StepReport, Values, run_piece};

/// How logits are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FinetuneLoss {
    /// Softmax; labels are classes. Weights of Dice and cross-entropy.
    DiceCe { dice: f64, ce: f64 },
    /// Sigmoid; labels are bits, one per region. Dice alone (BraTS).
    DiceRegions,
    /// Softmax of images; labels are their classes.
    CrossEntropy,
}

impl FinetuneLoss {
    /// The loss of a task.
    pub fn of(kind: TaskKind) -> Self {
        match kind {
            TaskKind::Regions => Self::DiceRegions,
            TaskKind::Classes => Self::DiceCe { dice: 1.0, ce: 1.0 },
            TaskKind::ImageClasses => Self::CrossEntropy,
        }
    }

    /// The total and the terms, as logs call them. Cross-entropy alone is the total.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::CrossEntropy => &["loss"],
            _ => &["loss", "dice_loss", "cross_entropy"],
        }
    }

    /// Values that a pass leaves: the total and every term.
    fn values(self) -> usize {
        if self == Self::CrossEntropy { 2 } else { 3 }
    }

    /// Records the terms and returns them with their weights.
    fn record(
        self,
        tape: &mut Tape<'_>,
        logits: &Var,
        labels: &Tensor,
        grid: &VoxelGrid,
    ) -> Result<(Var, Vec<f64>)> {
        match self {
            Self::DiceCe { dice, ce } => {
                let options = DiceOptions::default();
                Ok((tape.dice_ce(logits, labels, grid, &options)?, vec![dice, ce]))
            }
            Self::DiceRegions => {
                let options = DiceOptions { smooth_dr: 1e-5, ..DiceOptions::default() };
                Ok((tape.dice_bce(logits, labels, grid, &options)?, vec![1.0, 0.0]))
            }
            Self::CrossEntropy => Ok((tape.cross_entropy(logits, labels)?, vec![1.0])),
        }
    }
}

/// The numbers of one update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FinetuneSettings {
    pub lr: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Global gradient norm above which gradients are scaled down; 0: never.
    pub clip_grad: f64,
}

/// Images and labels of a micro-batch, where a captured step reads them.
pub struct FinetuneBatch {
    /// `[batch * channels * voxels]`, f32: planar.
    pub voxels: Tensor,
    /// The same as `[batch * voxels, channels]`, in the dtype of activations; empty for a classifier.
    pub image: Tensor,
    /// `[batch * voxels]` u8: classes, or a bit per region; `[batch]` i32 for a classifier.
    pub labels: Tensor,
}

impl FinetuneBatch {
    fn empty(segmenter: &Segmenter, batch: usize) -> Result<Self> {
        let (params, net) = (&segmenter.params, &segmenter.net);
        let device = params.flat().device();
        let voxels = batch * net.config.in_chans * net.config.roi.iter().product::<usize>();
        let image = [net.image_rows(batch), net.config.in_chans];
        let labels = if net.classifies() { DType::I32 } else { DType::U8 };
        Ok(Self {
            voxels: Tensor::zeros(device, params.flat().dtype(), &[voxels])?,
            image: Tensor::zeros(device, params.activation_dtype(), &image)?,
            labels: Tensor::zeros(device, labels, &[net.rows(batch).rows()])?,
        })
    }

    /// Puts crops in place: `voxels` planar `[batch, channels, d, h, w]`, `labels` `[batch, d, h, w]`, or
    /// `[batch]` for a classifier.
    pub fn fill(&mut self, config: &VitConfig, voxels: &[f64], labels: &[u8]) -> Result<()> {
        let n = config.roi.iter().product::<usize>();
        self.voxels.as_mut().upload_f64(voxels)?;
        if !self.image.is_empty() {
            self.image.as_mut().upload_f64(&channels_last(voxels, config.in_chans, n))?;
        }
        self.fill_labels(labels)
    }

    /// As [`FinetuneBatch::fill`], for the f32 crops of a run.
    pub fn fill_f32(&mut self, config: &VitConfig, voxels: &[f32], labels: &[u8]) -> Result<()> {
        let n = config.roi.iter().product::<usize>();
        self.voxels.as_mut().upload(voxels)?;
        if !self.image.is_empty() {
            let rows = channels_last(voxels, config.in_chans, n);
            match self.image.dtype() {
                DType::Bf16 => {
                    let rows: Vec<half::bf16> =
                        rows.into_iter().map(half::bf16::from_f32).collect();
                    self.image.as_mut().upload(&rows)?;
                }
                _ => self.image.as_mut().upload(&rows)?,
            }
        }
        self.fill_labels(labels)
    }

    fn fill_labels(&mut self, labels: &[u8]) -> Result<()> {
        match self.labels.dtype() {
            DType::I32 => {
                let labels: Vec<i32> = labels.iter().map(|&l| i32::from(l)).collect();
                self.labels.as_mut().upload(&labels)
            }
            _ => self.labels.as_mut().upload(labels),
        }
    }
}

/// The step of a network. A step is [`FinetuneProgram::micro_batch`] for every micro-batch, then
/// [`FinetuneProgram::update`], then [`FinetuneProgram::finish`].
pub struct FinetuneProgram {
    sums: Accumulation,
    loss: FinetuneLoss,
    clip_grad: f64,
    micro_batches: usize,
    batch: FinetuneBatch,
    plan: VitPlan,
    positions: Tensor,
    /// Leaves the total and the terms.
    pass: Captured<Tensor>,
    update: Captured<()>,
}

impl FinetuneProgram {
    /// A program for steps of `micro_batches` micro-batches of `batch` crops.
    pub fn new(
        state: &FinetuneState,
        settings: &FinetuneSettings,
        loss: FinetuneLoss,
        batch: usize,
        micro_batches: usize,
        launches: Launches,
    ) -> Result<Self> {
        let segmenter = &state.segmenter;
        let crops = {
            let _class = class::scope("crops");
            FinetuneBatch::empty(segmenter, batch)?
        };
        let _class = class::scope("tables");
        let (params, updated) = (&segmenter.params, segmenter.params.layout().trained());
        let (device, n) = (params.flat().device(), updated.len());
        let table = UpdateTable::new(device, &adamw(settings), &segments(state, 1), n, 0)?;
        Ok(Self {
            sums: Accumulation::new(params, updated, table, micro_batches, launches)?,
            loss,
            clip_grad: settings.clip_grad,
            micro_batches: micro_batches.max(1),
            batch: crops,
            plan: segmenter.net.plan(device, batch)?,
            positions: segmenter.positions_of(batch)?,
            pass: Captured::default(),
            update: Captured::default(),
        })
    }

    /// Where the crops of the micro-batch to come are put.
    pub fn batch_mut(&mut self) -> &mut FinetuneBatch {
        &mut self.batch
    }

    /// The gradients of the last step.
    pub fn grads(&self) -> &ParamGrads {
        self.sums.grads()
    }

    /// Starts forward and backward.
    pub fn micro_batch(&mut self, segmenter: &Segmenter) -> Result<()> {
        let _range = nvtx::range(|| "micro-batch");
        self.sums.begin()?;
        let starter = self.sums.starter();
        run_piece(self, &starter, |p| &mut p.pass, |p| p.pass(segmenter))?;
        match self.pass.outputs() {
            Some(values) => self.sums.keep(values),
            None => Ok(()),
        }
    }

    /// What the device does in a micro-batch. Uploads and downloads nothing.
    fn pass(&mut self, segmenter: &Segmenter) -> Result<Tensor> {
        let device = self.sums.device().clone();
        let _class = class::scope("activations");
        self.sums.open();
        let mut tape = Tape::new(&device);
        let inputs = [&self.batch.voxels, &self.batch.image, &self.positions];
        let [voxels, image, positions] = inputs.map(|t| Var::constant(t.clone()));
        let (net, params) = (&segmenter.net, &segmenter.params);
        let inputs = [&voxels, &image, &positions];
        let logits = {
            let _range = nvtx::range(|| "forward");
            net.forward(&mut tape, params, &self.plan, inputs, false)?.logits
        };
        let grid = net.rows(self.plan.batch);
        let (terms, weights) = self.loss.record(&mut tape, &logits, &self.batch.labels, &grid)?;
        let total = tape.weighted_sum(&[(&terms, &weights)])?;
        let n = weights.len();
        let mut values = Tensor::empty(&device, total.value().dtype(), &[1 + n])?;
        TensorMut::new(&mut values, 0, &[1])?.assign(total.value())?;
        TensorMut::new(&mut values, 1, &[n])?.assign(terms.value())?;
        drop((terms, logits));
        let _range = nvtx::range(|| "backward");
        self.sums.close(tape, total)?;
        Ok(values)
    }

    /// Starts clip and AdamW.
    pub fn update(&mut self, state: &mut FinetuneState, settings: &FinetuneSettings) -> Result<()> {
        let _range = nvtx::range(|| "update");
        let update = state.counters.updates + 1;
        self.sums.schedule(&adamw(settings), &segments(state, update))?;
        let starter = self.sums.starter();
        run_piece(
            self,
            &starter,
            |p| &mut p.update,
            |p| {
                let _class = class::scope("update");
                let FinetuneState { segmenter, m, v, .. } = state;
                let clip = p.sums.clip(segmenter.params.layout(), p.clip_grad)?;
                p.sums.apply(&clip, &mut segmenter.params, [m, v], None)
            },
        )?;
        self.sums.end();
        Ok(())
    }

    /// Waits for the step that was started with `settings`, and counts it.
    pub fn finish(
        &mut self,
        state: &mut FinetuneState,
        settings: &FinetuneSettings,
    ) -> Result<StepReport> {
        let (grad_norm, values) = self.sums.read()?;
        let per_batch = self.loss.values();
        let mean = |i: usize| {
            values.iter().skip(i).step_by(per_batch).sum::<f64>() / self.micro_batches as f64
        };
        let names = self.loss.names().iter().enumerate();
        let losses: Values = names.map(|(i, name)| (*name, mean(i))).collect();
        let not_finite = match grad_norm.is_finite() {
            true => None,
            false => {
                let layout = state.segmenter.params.layout();
                Some(self.sums.first_not_finite(layout, &losses, grad_norm)?)
            }
        };
        let step = state.counters.step;
        let waits = false;
        state.counters = state.counters.after_step(not_finite.is_none(), waits);
        let scheduled = vec![("lr", settings.lr)];
        Ok(StepReport { step, losses, grad_norm, scheduled, not_finite })
    }
}

fn adamw(settings: &FinetuneSettings) -> AdamW {
    let FinetuneSettings { lr, weight_decay, beta1, beta2, eps, .. } = *settings;
    AdamW { lr, weight_decay, beta1, beta2, eps, grad_scale: 1.0, ema: 0.0 }
}

/// Every parameter that trains, all with weight decay, as MONAI's users have it; counted from the first of
/// them.
fn segments(state: &FinetuneState, update: u64) -> Vec<Segment> {
    let layout = state.segmenter.params.layout();
    let trained = layout.trained();
    let all = Segment::of_layout(layout, |_| update).into_iter();
    all.filter(|s| trained.contains(&s.offset))
        .map(|s| Segment { offset: s.offset - trained.start, decays: true, ..s })
        .collect()
}
