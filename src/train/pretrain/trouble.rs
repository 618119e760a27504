//! When a step goes wrong: numbers that are not finite, a device that fails.

use serde_json::json;

use super::{Run, checkpoint};
use crate::device::Tensor;
use crate::train::report::StepReport;
use crate::{Error, Result, atomic};

impl Run<'_> {
    /// A device that has failed takes the state with it: says from where the run can go on.
    pub(super) fn with_checkpoint(&self, error: Error) -> Error {
        match error {
            Error::Device(text) => Error::Device(match &self.summary.checkpoint {
                Some(path) => {
                    format!("{text}\nthe last checkpoint is {}: resume from it", path.display())
                }
                None => format!("{text}\nno checkpoint was written yet"),
            }),
            other => other,
        }
    }

    /// Reports a step without finite numbers, and ends the run after too many in a row.
    pub(super) fn bad_step(&mut self, report: &StepReport, what: &str) -> Result<()> {
        let cases = self.loader.get(report.step)?;
        let ids: Vec<&str> = cases.iter().map(|c| c.id.as_str()).collect();
        let counters = self.state.counters;
        self.progress.message(&format!(
            "warning: step {} skipped, {what} (cases {}); {} in a row",
            report.step,
            ids.join(", "),
            counters.bad_in_a_row
        ));
        let fields = json!({ "what": what, "cases": ids, "in_a_row": counters.bad_in_a_row });
        self.logs.event(report.step, "not_finite", fields)?;
        if counters.bad_in_a_row < self.config.train.max_bad_steps.max(1) {
            return Ok(());
        }
        let path = self.options.out.join(format!("bad_step_{:08}.safetensors", report.step));
        let mut tensors = Vec::new();
        // The views of the next step may stand there already.
        for k in 0..self.config.train.accumulation {
            self.prepare(report.step, k)?;
            let batch = self.program.batch_mut();
            tensors.push((format!("batch.{k}.voxels"), batch.voxels.duplicate()?));
            for (v, mask) in batch.masks.iter().enumerate() {
                let keep: Vec<i32> = mask.keep().iter().map(|&t| t as i32).collect();
                let keep = Tensor::from_slice(&self.options.device, &keep, &[keep.len()])?;
                tensors.push((format!("batch.{k}.view.{v}.keep"), keep));
            }
        }
        let notes = [("cases", ids.join("\n")), ("what", what.to_owned())];
        checkpoint::write_tensors(&atomic::Disk, &path, &tensors, &notes)?;
        self.logs.sync()?;
        Err(Error::NotFinite(format!(
            "{} steps in a row had no finite numbers, the last is step {}: {what} (cases {}). Its \
             views are in {}; the weights are those of step {}. Remedies: a lower optim.lr, a \
             longer optim.warmup, a look at these cases",
            counters.bad_in_a_row,
            report.step,
            ids.join(", "),
            path.display(),
            report.step + 1 - u64::from(counters.bad_in_a_row)
        )))
    }
}
