//! The watch on collapse: numbers that show whether the consistency terms still teach something,
//! and a warning by name when they do not (docs/training.md).

use rayon::prelude::*;

use crate::Result;
use crate::config::{Config, LossConfig, TERMS, Target};
use crate::device::Tensor;
use crate::glmae::objective::Consistency;
use crate::train::run::value;

/// What is seen of the teacher at one step. Entropies and divergences in nats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// Mean over the teacher's rows of H(P); ln K when its targets are uniform.
    pub teacher_entropy: f64,
    /// H of the mean of P over the rows; 0 when all rows choose the same prototype.
    pub assignment_entropy: f64,
    /// Mean KL(P || Q) between every intact global view and its masked copy.
    pub kl: f64,
    /// L2 norm of the running centre.
    pub center_norm: f64,
    /// Standard deviation of the teacher's logits over the batch, mean over prototypes.
    pub spread: f64,
    /// Standard deviation of the teacher's cls outputs over the batch, mean over channels.
    pub embedding_std: f64,
    /// Mean cosine between the teacher's cls outputs of different rows; 1: all the same.
    pub embedding_cosine: f64,
}

impl Observation {
    /// Observes the consistency side of a pass. `center` is the running centre.
    pub fn new(pass: &Consistency, center: Option<&Tensor>, loss: &LossConfig) -> Result<Self> {
        let (rows, k) = pass.teacher_logits.matrix("watch")?;
        let teacher = pass.teacher_logits.to_f64_vec()?;
        let student = pass.student_logits.to_f64_vec()?;
        let shift = pass.center.to_f64_vec()?;
        let inv_tau = pass.inv_tau.to_f64_vec()?.first().copied().unwrap_or(1.0);
        let mut seen = Self::default();
        let each = |(t, s): (&[f64], &[f64])| {
            let log_p = log_softmax(t.iter().zip(&shift).map(|(t, c)| (t - c) * inv_tau));
            let log_q = log_softmax(s.iter().map(|s| s / loss.tau_s));
            let p: Vec<f64> = log_p.iter().map(|lp| libm::exp(*lp)).collect();
            let entropy = -p.iter().zip(&log_p).map(|(p, lp)| p * lp).sum::<f64>();
            let pairs = log_p.iter().zip(&log_q);
            let kl = p.iter().zip(pairs).map(|(p, (lp, lq))| p * (lp - lq)).sum::<f64>();
            (p, entropy, kl)
        };
        // Rows are independent; at 65536 prototypes and 96 rows one thread would take half a second.
        let pairs = teacher.par_chunks_exact(k).zip(student.par_chunks_exact(k));
        let seen_rows: Vec<(Vec<f64>, f64, f64)> = pairs.map(each).collect();
        let mut mean = vec![0.0; k];
        for (p, entropy, kl) in &seen_rows {
            seen.teacher_entropy += entropy / rows as f64;
            seen.kl += kl / rows as f64;
            mean.iter_mut().zip(p).for_each(|(m, p)| *m += p / rows as f64);
        }
        seen.assignment_entropy =
            -mean.iter().filter(|p| **p > 0.0).map(|p| p * libm::log(*p)).sum::<f64>();
        if let Some(center) = center {
            seen.center_norm = center.to_f64_vec()?.iter().map(|c| c * c).sum::<f64>().sqrt();
        }
        seen.spread = mean_column_std(&teacher, k);
        let (_, dim) = pass.teacher_cls.matrix("watch")?;
        let cls = pass.teacher_cls.to_f64_vec()?;
        seen.embedding_std = mean_column_std(&cls, dim);
        seen.embedding_cosine = mean_cosine(&cls, dim);
        Ok(seen)
    }

    /// Names and values for the logs.
    pub fn terms(&self) -> [(&'static str, f64); 7] {
        [
            ("teacher_entropy", self.teacher_entropy),
            ("assignment_entropy", self.assignment_entropy),
            ("kl", self.kl),
            ("center_norm", self.center_norm),
            ("spread", self.spread),
            ("embedding_std", self.embedding_std),
            ("embedding_cosine", self.embedding_cosine),
        ]
    }
}

fn log_softmax(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let norm = max + libm::log(values.iter().map(|v| libm::exp(v - max)).sum());
    values.into_iter().map(|v| v - norm).collect()
}

/// Population standard deviation of every column, two-pass; their mean.
fn mean_column_std(values: &[f64], columns: usize) -> f64 {
    let columns = columns.max(1);
    let rows = (values.len() / columns).max(1) as f64;
    let mut mean = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v / rows);
    }
    let mut variance = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        let of_column = variance.iter_mut().zip(&mean);
        of_column.zip(row).for_each(|((s, m), v)| *s += (v - m).powi(2) / rows);
    }
    variance.iter().map(|v| v.sqrt()).sum::<f64>() / columns as f64
}

/// Mean cosine of different rows, from the length of the sum of the unit rows. 1 for one row.
fn mean_cosine(values: &[f64], columns: usize) -> f64 {
    let n = values.len() / columns.max(1);
    if n < 2 {
        return 1.0;
    }
    let mut sum = vec![0.0; columns];
    for row in values.chunks_exact(columns) {
        let length = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        row.iter().zip(&mut sum).for_each(|(v, s)| *s += v / length);
    }
    let n = n as f64;
    (sum.iter().map(|s| s * s).sum::<f64>() - n) / (n * (n - 1.0))
}

/// Names of the terms that compare with the teacher.
fn with_teacher() -> impl Iterator<Item = &'static str> {
    TERMS.iter().filter(|row| row.target == Target::Teacher).map(|row| row.name)
}

/// Two ways in which a consistency term dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collapse {
    /// The teacher's targets are uniform and the losses sit at ln K.
    Uniform,
    /// All rows choose one prototype.
    OnePrototype,
}

/// Follows a run and warns once per collapse that lasts.
#[derive(Clone, Debug)]
pub struct CollapseWatch {
    ln_k: f64,
    tau_t: f64,
    /// What to do about a collapse.
    remedy: &'static str,
    /// Steps for which a sign must last.
    patience: u64,
    /// Since when each kind is seen, and whether it was warned about.
    seen: [(Option<u64>, bool); 2],
}

impl CollapseWatch {
    /// A watch for a run of `config`: a tenth of the run, at least 20 and at most 500 steps.
    pub fn new(config: &Config) -> Self {
        Self {
            ln_k: libm::log(config.head.prototypes as f64),
            tau_t: config.loss.tau_t,
            remedy: match config.loss.teacher_targets.is_of_the_batch() {
                true => "a larger train.batch, a higher loss.tau_t",
                false => "loss.teacher_targets = \"standardise\"",
            },
            patience: (config.train.steps / 10).clamp(20, 500),
            seen: [(None, false); 2],
        }
    }

    /// Takes note of a step; returns a warning when a collapse has lasted long enough. A run that
    /// recovers is warned anew when it collapses again.
    pub fn note(
        &mut self,
        step: u64,
        losses: &[(&'static str, f64)],
        seen: &Observation,
    ) -> Option<String> {
        let near = |x: f64| (x - self.ln_k).abs() < 0.01 * self.ln_k;
        let at_ln_k = with_teacher().filter_map(|term| value(losses, term)).any(near);
        let uniform = at_ln_k && seen.teacher_entropy > 0.99 * self.ln_k;
        let single = seen.assignment_entropy < 0.02 * self.ln_k;
        let mut warning = None;
        for (kind, signs) in [(Collapse::Uniform, uniform), (Collapse::OnePrototype, single)] {
            let (since, warned) = &mut self.seen[kind as usize];
            if !signs {
                (*since, *warned) = (None, false);
                continue;
            }
            let start = *since.get_or_insert(step);
            if !*warned && step - start >= self.patience {
                *warned = true;
                warning = Some(kind);
            }
        }
        warning.map(|kind| self.text(kind, step, losses, seen))
    }

    fn text(
        &self,
        kind: Collapse,
        step: u64,
        losses: &[(&'static str, f64)],
        seen: &Observation,
    ) -> String {
        let show = |term: &str| match value(losses, term) {
            Some(loss) => format!("{term} {loss:.3}"),
            None => format!("{term} absent"),
        };
        match kind {
            Collapse::Uniform => format!(
                "uniform-teacher collapse at step {step}: {} sit at ln K = {:.3}, \
                 the teacher's entropy is {:.3} and its logits differ by {:.4} over the batch \
                 (tau_t = {}). The consistency terms teach nothing. Remedy: \
                 {} (docs/training.md)",
                with_teacher().map(show).collect::<Vec<_>>().join(" and "),
                self.ln_k,
                seen.teacher_entropy,
                seen.spread,
                self.tau_t,
                self.remedy
            ),
            Collapse::OnePrototype => format!(
                "one-prototype collapse at step {step}: the entropy of the mean assignment is \
                 {:.4} of ln K = {:.3}, so every view gets the same target. Remedy: \
                 {}, or a higher optim.ema_start (docs/training.md)",
                seen.assignment_entropy, self.ln_k, self.remedy
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    fn observe(teacher: &[f32], student: &[f32], k: usize, inv_tau: f32) -> Observation {
        let matrix = |v: &[f32]| Tensor::from_slice(&Device::Cpu, v, &[v.len() / k, k]).unwrap();
        let pass = Consistency {
            student_logits: matrix(student),
            teacher_cls: matrix(teacher),
            teacher_logits: matrix(teacher),
            center: Tensor::from_slice(&Device::Cpu, &vec![0f32; k], &[k]).unwrap(),
            inv_tau: Tensor::from_slice(&Device::Cpu, &[inv_tau], &[1]).unwrap(),
        };
        let loss = LossConfig { tau_s: 1.0, ..LossConfig::default() };
        Observation::new(&pass, None, &loss).unwrap()
    }

    #[test]
    fn entropies_of_known_distributions() {
        // Two rows that are sure of different prototypes; the student is uniform.
        let seen = observe(&[50.0, 0.0, 0.0, 50.0], &[0.0; 4], 2, 1.0);
        let ln2 = 2f64.ln();
        assert!(seen.teacher_entropy < 1e-12 && (seen.assignment_entropy - ln2).abs() < 1e-12);
        assert!((seen.kl - ln2).abs() < 1e-12 && seen.spread == 25.0);
        assert!(seen.embedding_cosine.abs() < 1e-12);
        let same = observe(&[1.0, 1.0, 1.0, 1.0], &[0.0; 4], 2, 1.0);
        assert!((same.teacher_entropy - ln2).abs() < 1e-12 && same.kl.abs() < 1e-12);
        assert!((same.embedding_cosine - 1.0).abs() < 1e-12 && same.spread == 0.0);
    }

    #[test]
    fn a_lasting_collapse_is_named_once_with_its_remedy() {
        let config = Config::default();
        let ln_k = (config.head.prototypes as f64).ln();
        let mut watch = CollapseWatch::new(&config);
        let dead = [("loss", 1.0), ("g2g", 0.999 * ln_k), ("l2g", ln_k)];
        let uniform = Observation {
            teacher_entropy: ln_k,
            assignment_entropy: ln_k,
            ..Observation::default()
        };
        let warnings: Vec<String> =
            (0..2000).filter_map(|t| watch.note(10 * t, &dead, &uniform)).collect();
        assert_eq!(warnings.len(), 1);
        let text = &warnings[0];
        assert!(text.contains("uniform-teacher") && text.contains("\"standardise\""), "{text}");
        let losses = format!("g2g {:.3} and l2g {ln_k:.3} sit at ln K", 0.999 * ln_k);
        assert!(text.contains(&losses), "{text}");
        // A sharp teacher at the same loss is no collapse; after it, patience starts anew.
        let sharp = Observation { teacher_entropy: 0.5 * ln_k, ..uniform };
        assert_eq!(watch.note(20_000, &dead, &sharp), None);
        assert_eq!(watch.note(20_010, &dead, &uniform), None);
        let single = Observation { assignment_entropy: 1e-3, ..sharp };
        let found = (0..200).find_map(|t| watch.note(30_000 + 10 * t, &dead, &single));
        assert!(found.is_some_and(|t| t.contains("one-prototype")));
    }
}
