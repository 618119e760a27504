//! What changes from step to step. Every value is a pure function of the step.

use std::f64::consts::PI;

use crate::config::Config;
use crate::train::run::Values;

/// The values that step `t` uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scheduled {
    pub lr: f64,
    pub weight_decay: f64,
    /// Teacher momentum.
    pub ema: f64,
    /// Teacher temperature.
    pub tau_t: f64,
}

impl Scheduled {
    /// Names and values for the logs.
    pub fn values(&self) -> Values {
        vec![
            ("lr", self.lr),
            ("weight_decay", self.weight_decay),
            ("ema", self.ema),
            ("tau_t", self.tau_t),
        ]
    }
}

/// Half a cosine from `start` at `t` = 0 to `end` at `total` and beyond.
fn cosine(start: f64, end: f64, t: f64, total: f64) -> f64 {
    let share = if total > 0.0 { (t / total).min(1.0) } else { 1.0 };
    end + 0.5 * (start - end) * (1.0 + libm::cos(PI * share))
}

/// Values of step `t` = 0, 1, ... The learning rate starts at 0, reaches `lr` at `t = warmup` and
/// falls to `lr_end`; decay and teacher momentum follow half cosines over the whole run, the
/// teacher temperature a line over its own warm-up.
///
/// Source: docs/method.md, 5.2.
pub fn schedule(config: &Config, t: u64) -> Scheduled {
    let (o, l) = (&config.optim, &config.loss);
    let (now, total) = (t as f64, config.train.steps as f64);
    let lr = if t < o.warmup {
        o.lr * now / o.warmup as f64
    } else {
        let rest = config.train.steps.saturating_sub(o.warmup).max(1) as f64;
        cosine(o.lr, o.lr_end, (t - o.warmup) as f64, rest)
    };
    let warm = match l.tau_t_warmup {
        0 => 1.0,
        steps => (now / steps as f64).min(1.0),
    };
    Scheduled {
        lr,
        weight_decay: cosine(o.weight_decay, o.weight_decay_end, now, total),
        ema: cosine(o.ema_start, 1.0, now, total),
        tau_t: l.tau_t_start + (l.tau_t - l.tau_t_start) * warm,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warms_up_and_falls() {
        let set = ["optim.warmup=10", "train.steps=110", "optim.lr=1", "optim.lr_end=0.1"];
        let config = Config::load("tiny", &set.map(String::from)).unwrap();
        let lr = |t| schedule(&config, t).lr;
        assert_eq!((lr(0), lr(5), lr(10)), (0.0, 0.5, 1.0));
        assert!((lr(60) - 0.55).abs() < 1e-12 && (lr(110) - 0.1).abs() < 1e-12 && lr(500) >= 0.1);
        assert!((schedule(&config, 110).ema - 1.0).abs() < 1e-15);
    }
}
