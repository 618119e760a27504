//! Limits and ticks of an axis.

/// Most ticks on a linear axis.
const TICKS: f64 = 8.0;

/// Maps values to 0..=1 along the axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// Linear, from the smallest to the largest of finite values, widened by a fraction on each side.
    pub fn linear(values: impl Iterator<Item = f64>, margin: f64) -> Self {
        let (mut low, mut high) = limits(values).unwrap_or((0.0, 1.0));
        // Halves, so that the range of any two finite numbers is finite.
        if high / 2.0 - low / 2.0 <= f64::MIN_POSITIVE.max(low.abs() * 1e-12) {
            let room = if low == 0.0 { 0.5 } else { low.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        } else {
            let room = (high - low) * margin;
            (low, high) = (low - room, high + room);
        }
        Self { low: low.max(f64::MIN / 4.0), high: high.min(f64::MAX / 4.0), log: false }
    }

    /// Logarithmic over positive values, at least from one decade to the next.
    pub fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = limits(values.map(f64::log10)).unwrap_or((0.0, 1.0));
        let room = ((high - low) * 0.04).max(0.02);
        let (mut low, mut high) = (low - room, high + room);
        if high.floor() < low.ceil() + 1.0 && high - low < 1.0 {
            (low, high) = (low.floor(), high.ceil());
        }
        Self { low, high, log: true }
    }

    /// Where a value lies; not finite for a value that cannot be drawn.
    pub fn place(&self, value: f64) -> f64 {
        let value = if !self.log {
            value
        } else if value > 0.0 {
            value.log10()
        } else {
            f64::NAN
        };
        (value - self.low) / (self.high - self.low)
    }

    /// Values with a labelled line, in rising order.
    pub fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (first, last) = (self.low.ceil() as i32, self.high.floor() as i32);
            let every = ((last - first) as f64 / TICKS).ceil().max(1.0) as usize;
            let decades = (first..=last).step_by(every).map(|e| 10f64.powi(e));
            // Powers near the ends of f64 round to zero or infinity.
            return decades.filter(|v| v.is_normal()).collect();
        }
        let step = self.step();
        let (first, last) = ((self.low / step).ceil(), (self.high / step).floor());
        // Multiples, not sums, so that zero is zero.
        (0..=(last - first).max(0.0) as usize).map(|i| (first + i as f64) * step).collect()
    }

    /// Values with a faint line: 2 to 9 within the decades of a logarithmic axis.
    pub fn minor_ticks(&self) -> Vec<f64> {
        if !self.log || self.high - self.low > 6.0 {
            return Vec::new();
        }
        let decades = self.low.floor() as i32..=self.high.floor() as i32;
        let all = decades.flat_map(|e| (2..10).map(move |m| f64::from(m) * 10f64.powi(e)));
        all.filter(|v| (0.0..=1.0).contains(&self.place(*v))).collect()
    }

    /// How a tick is written.
    pub fn label(&self, tick: f64) -> String {
        if self.log {
            let exponent = tick.log10().round() as i32;
            return match exponent {
                -3..=3 => format!("{tick:.*}", (-exponent).max(0) as usize),
                _ => format!("1e{exponent}"),
            };
        }
        let (step, largest) = (self.step(), self.low.abs().max(self.high.abs()));
        if tick == 0.0 {
            return "0".to_owned();
        }
        let digits = |unit: f64| (-(step / unit).log10().floor()).clamp(0.0, 12.0) as usize;
        match largest {
            m if !(1e-3..1e7).contains(&m) => {
                let unit = 10f64.powf(m.log10().floor());
                format!("{:.*}e{}", digits(unit), tick / unit, unit.log10().round())
            }
            m if m >= 1e4 && step >= 100.0 => {
                format!("{:.*}k", digits(1e3), tick / 1e3)
            }
            _ => format!("{tick:.*}", digits(1.0)),
        }
    }

    /// Distance of the ticks: 1, 2 or 5 times a power of ten.
    fn step(&self) -> f64 {
        let raw = (self.high - self.low) / TICKS;
        let unit = 10f64.powf(raw.log10().floor());
        [1.0, 2.0, 5.0].into_iter().map(|m| m * unit).find(|s| *s >= raw).unwrap_or(10.0 * unit)
    }
}

fn limits(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |limits, v| match limits {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}
