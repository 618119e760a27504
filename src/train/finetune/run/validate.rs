//! Validation: whole volumes, the best network kept, a picture.

use std::sync::Arc;

use serde_json::json;

use super::super::cases::dice;
use super::super::checkpoint::{self, Best};
use super::super::pictures;
use super::Run;
use crate::Result;
use crate::infer::segment::{Decision, Predictor};
use crate::seg::task::TaskKind;

impl Run<'_> {
    /// Predicts the validation cases whole; keeps the network if it is the best so far.
    pub(super) fn validate(&mut self, epoch: u64) -> Result<()> {
        if self.validation.is_empty() {
            return Ok(());
        }
        let decision = match self.task.kind {
            TaskKind::Regions => Decision::Regions,
            _ => Decision::Classes,
        };
        let (mut sums, mut case_means) = (vec![(0.0, 0usize); self.regions.len()], Vec::new());
        let mut shown = None;
        {
            let predictor = Predictor::new(&self.state.segmenter, self.config.infer)?;
            let mut room = self.config.data.cache_mib << 19;
            for (case, kept) in self.validation.iter().zip(&mut self.prepared) {
                let pair = match kept {
                    Some(pair) => pair.clone(),
                    None => Arc::new(case.prepare(&self.prepare, &self.task.label_rules())?),
                };
                let bytes = pair.image.size_bytes() + pair.classes.len();
                if room >= bytes {
                    room -= bytes;
                    *kept = Some(pair.clone());
                }
                let labels = predictor.labels(&pair.image, decision, &mut |_, _| {})?;
                let truth: Vec<u8> =
                    pair.classes.iter().map(|&c| self.table[usize::from(c)]).collect();
                let dice = dice(&self.task, &self.regions, &labels, &truth);
                let finite: Vec<f64> = dice.iter().copied().filter(|d| d.is_finite()).collect();
                if !finite.is_empty() {
                    case_means.push(finite.iter().sum::<f64>() / finite.len() as f64);
                }
                for (sum, d) in sums.iter_mut().zip(&dice).filter(|(_, d)| d.is_finite()) {
                    *sum = (sum.0 + d, sum.1 + 1);
                }
                if shown.is_none() {
                    shown = Some((pair, truth, labels, finite));
                }
            }
        }
        // Mean over the regions of a case, then over cases (gl-mae 2.2).
        let mean = case_means.iter().sum::<f64>() / case_means.len().max(1) as f64;
        let by_region: Vec<(String, f64)> = self
            .regions
            .iter()
            .zip(&sums)
            .map(|(r, (sum, n))| (r.to_string(), sum / *n as f64))
            .collect();
        let listed: Vec<String> =
            by_region.iter().map(|(name, d)| format!("{name} {:.4}", d)).collect();
        let step = self.state.step;
        self.progress.message(&format!(
            "epoch {epoch}: Dice {mean:.4} on {} validation cases ({})",
            self.validation.len(),
            listed.join(", ")
        ));
        self.logs.event(
            step,
            "validation",
            json!({ "epoch": epoch, "dice": mean, "regions": by_region }),
        )?;
        self.summary.validation = Some((mean, by_region));
        if self.summary.best.is_none_or(|b| mean > b.dice) {
            self.summary.best = Some(Best { epoch, dice: mean });
            checkpoint::save(&self.options.out, &self.state, &self.snapshot(), true)?;
        }
        if let Some((pair, truth, labels, _)) = shown {
            let path = self.options.out.join("pictures").join(format!("epoch_{epoch:06}.png"));
            let title = format!("{}, epoch {epoch}", pair.image.id);
            let (size, png) = pictures::write(&path, &pair.image, &truth, &labels, &title)?;
            self.logs.picture(step, "segmentation", size, &png)?;
            self.summary.pictures.push(path);
        }
        Ok(())
    }
}
