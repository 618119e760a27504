//! What the programs of pre-training and of fine-tuning share: gradients and losses that add up over the
//! micro-batches of a step, then clip and AdamW, and the numbers that the host reads afterwards.

use std::ops::Range;

use super::captured::{Launches, Starter};
use crate::device::{Device, Tensor, TensorMut, class};
use crate::nn::params::Params;
use crate::ops::adamw_ema::{AdamW, Buffers, Segment, UpdateTable, adamw_ema};
use crate::ops::grad_norm::grad_norm;
use crate::param_layout::ParamLayout;
use crate::tape::accumulate;
use crate::tape::{ParamGrads, Tape, Var};
use crate::{Error, Result};

/// The sums of a step. A step is [`Accumulation::begin`], a pass ([`Accumulation::open`], forward,
/// [`Accumulation::close`]) and [`Accumulation::keep`] for every micro-batch, then
/// [`Accumulation::schedule`], [`Accumulation::clip`], [`Accumulation::apply`] and
/// [`Accumulation::end`]. Passes, `clip` and `apply` may be captured; the others may not.
pub struct Accumulation {
    micro_batches: usize,
    launches: Launches,
    /// Micro-batches of the step under way, and steps so far.
    done: usize,
    steps: u64,
    grads: ParamGrads,
    /// The piece of the flat buffer that `table` is for.
    updated: Range<usize>,
    table: UpdateTable,
    /// The gradient of the loss with respect to itself, `[1]`.
    one: Tensor,
    /// Sum of the losses of the micro-batches so far, `[1]`.
    loss: Tensor,
    /// `[norm, factor]` of [`grad_norm`], then the values of every micro-batch.
    report: Option<Tensor>,
}

impl Accumulation {
    /// For steps of `micro_batches` on `params`, of whose flat buffer the piece `updated` is, with the numbers of
    /// an update in `table`.
    pub fn new(
        params: &Params,
        updated: Range<usize>,
        table: UpdateTable,
        micro_batches: usize,
        launches: Launches,
    ) -> Result<Self> {
        let (device, dtype) = (params.flat().device(), params.flat().dtype());
        let grads = {
            let _class = class::scope("gradients");
            ParamGrads::new(device, dtype, params.layout())?
        };
        Ok(Self {
            micro_batches: micro_batches.max(1),
            launches,
            done: 0,
            steps: 0,
            grads,
            updated,
            table,
            one: Tensor::from_f64(device, dtype, &[1.0], &[1])?,
            loss: Tensor::zeros(device, dtype, &[1])?,
            report: None,
        })
    }

    pub fn device(&self) -> &Device {
        self.one.device()
    }

    pub fn starter(&self) -> Starter {
        Starter { device: self.device().clone(), launches: self.launches, steps: self.steps }
    }

    /// The gradients of the last step.
    pub fn grads(&self) -> &ParamGrads {
        &self.grads
    }

    /// Micro-batches of the step under way that are done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Before a micro-batch.
    pub fn begin(&mut self) -> Result<()> {
        if self.done > 0 {
            return Ok(());
        }
        self.loss.as_mut().fill_zero()?;
        match self.micro_batches {
            1 => Ok(()),
            // Then every micro-batch is the same program: it adds.
            _ => self.grads.zero(),
        }
    }

    /// Begins a pass.
    pub fn open(&mut self) {
        if self.micro_batches == 1 {
            self.grads.clear();
        }
    }

    /// Ends a pass: adds its loss `total` and, from the end of `tape`, its gradients. What the caller
    /// still holds of the forward pass lives through it.
    pub fn close(&mut self, tape: Tape<'_>, total: Var) -> Result<()> {
        accumulate(&mut self.loss.as_mut(), total.value())?;
        let _class = class::scope("gradients of activations");
        tape.backward_from(&[(total, self.one.clone())], &mut self.grads)?;
        Ok(())
    }

    /// After a pass: keeps its values, of the same number every time, where the next one does not
    /// overwrite them.
    pub fn keep(&mut self, values: &Tensor) -> Result<()> {
        let (n, _class) = (values.len(), class::scope("tables"));
        let report = match &mut self.report {
            Some(report) => report,
            none => {
                let shape = [2 + self.micro_batches * n];
                none.insert(Tensor::zeros(values.device(), values.dtype(), &shape)?)
            }
        };
        TensorMut::new(report, 2 + self.done * n, &[n])?.assign(values)?;
        self.done += 1;
        Ok(())
    }

    /// Puts the numbers of the update to come in place.
    pub fn schedule(&mut self, settings: &AdamW, segments: &[Segment]) -> Result<()> {
        self.table.set(settings, segments)
    }

    /// Norm of the mean gradients and the factor that clips it, 0 where a number is not finite: `[2]`.
    pub fn clip(&mut self, layout: &ParamLayout, max_norm: f64) -> Result<Tensor> {
        let scale = 1.0 / self.micro_batches as f64;
        grad_norm(self.grads.finish(layout)?, Some(&self.loss), scale, max_norm)
    }

    /// AdamW on the updated piece of `params` with its moments `[m, v]`; `teacher` follows.
    pub fn apply(
        &mut self,
        clip: &Tensor,
        params: &mut Params,
        [m, v]: [&mut Tensor; 2],
        teacher: Option<&mut Params>,
    ) -> Result<()> {
        let (at, n) = (self.updated.start, self.updated.len());
        let (params, half) = params.buffers_mut();
        let params = TensorMut::new(params, at, &[n])?;
        let half = half.map(|half| TensorMut::new(half, at, &[n])).transpose()?;
        let (teacher, teacher_half) = match teacher.map(Params::buffers_mut) {
            Some((flat, half)) => (Some(flat), half),
            None => (None, None),
        };
        let grads = &self.grads.flat().view(at, &[n])?;
        let buffers = Buffers { params, grads, m, v, teacher, half, teacher_half };
        adamw_ema(&self.table, Some(clip), buffers)?;
        match &mut self.report {
            Some(report) => TensorMut::new(report, 0, &[2])?.assign(clip),
            None => Err(Error::shape("step", "a micro-batch before the update", "none")),
        }
    }

    /// After the update was started.
    pub fn end(&mut self) {
        (self.done, self.steps) = (0, self.steps + 1);
    }

    /// Waits for the step that was started: the gradient norm and the values of its micro-batches.
    pub fn read(&self) -> Result<(f64, Vec<f64>)> {
        let mut values = self.report.as_ref().map_or(Ok(Vec::new()), Tensor::to_f64_vec)?;
        let rest = values.split_off(2.min(values.len()));
        Ok((values.first().copied().unwrap_or(f64::NAN), rest))
    }

    /// Names what is not finite: a term of the loss, else the first parameter whose gradient is not,
    /// else the norm.
    pub fn first_not_finite(
        &self,
        layout: &ParamLayout,
        terms: &[(&str, f64)],
        norm: f64,
    ) -> Result<String> {
        if let Some((name, value)) = terms.iter().find(|(_, v)| !v.is_finite()) {
            return Ok(format!("{name} = {value}"));
        }
        for entry in layout.entries() {
            let values = self.grads.flat().view(entry.offset, &entry.shape)?.to_f64_vec()?;
            if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
                return Ok(format!("gradient of {} = {bad}", entry.name));
            }
        }
        Ok(format!("gradient norm = {norm}"))
    }
}
