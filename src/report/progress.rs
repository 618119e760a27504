//! Progress on stderr: a bar on a terminal, otherwise one plain line per interval, so that the log of
//! a batch job stays readable. stdout is left to results.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Weight of the newest interval in the smoothed rate.
const SMOOTHING: f64 = 0.2;
/// Redraws per second of a bar.
const REDRAW_HZ: u8 = 8;

/// Where the lines go.
enum Output {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Output {
    fn stderr(total: u64, template: &str) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines(Box::new(io::stderr()));
        }
        let target = ProgressDrawTarget::stderr_with_hz(REDRAW_HZ);
        let bar = ProgressBar::with_draw_target(Some(total), target);
        // The template is a constant; a default bar is better than none.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        Self::Bar(bar)
    }

    /// A line of its own, above the bar. Progress is a courtesy: when stderr is gone, work goes on.
    fn line(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.println(text),
            Self::Lines(w) => {
                let _ = writeln!(w, "{text}").and_then(|()| w.flush());
            }
        }
    }
}

/// Progress of a training run.
pub struct TrainProgress {
    output: Output,
    total: u64,
    rate: Rate,
}

impl TrainProgress {
    /// Progress towards step `total` of a run that has `done` steps behind it (0, or the step of
    /// the checkpoint it resumed from; speed and remaining time count only what this process does).
    pub fn stderr(total: u64, done: u64) -> Self {
        const TEMPLATE: &str = "{bar:16.cyan/black} {pos}/{len}  {wide_msg}";
        let output = Output::stderr(total, TEMPLATE);
        if let Output::Bar(bar) = &output {
            bar.set_position(done);
        }
        Self { output, total, rate: Rate::new(done, Instant::now()) }
    }

    /// The same as plain lines into any writer.
    pub fn lines(writer: Box<dyn Write + Send>, total: u64, done: u64) -> Self {
        Self { output: Output::Lines(writer), total, rate: Rate::new(done, Instant::now()) }
    }

    /// Call it once per logging interval. Values come in the given order with four significant
    /// digits; a name that ends with `%` is a percentage (`("data wait%", 3.0)`).
    pub fn update(&mut self, step: u64, values: &[(&str, f64)]) {
        self.update_at(step, values, Instant::now());
    }

    fn update_at(&mut self, step: u64, values: &[(&str, f64)], now: Instant) {
        self.rate.update(step, now);
        let mut parts: Vec<String> = values.iter().map(|(n, v)| field(n, *v)).collect();
        let speed = self.rate.per_second().map(|rate| {
            let left = self.total.saturating_sub(step) as f64 / rate;
            format!("{}  ETA {}", speed(rate), duration(left))
        });
        match &mut self.output {
            Output::Bar(bar) => {
                // What does not fit the terminal is cut off at the end: the values, not the time.
                parts.splice(0..0, speed);
                bar.set_position(step);
                bar.set_message(parts.join("  "));
            }
            lines => {
                parts.extend(speed);
                let percent = 100.0 * step as f64 / self.total.max(1) as f64;
                let text = parts.join("  ");
                lines.line(&format!("step {step}/{} ({percent:.1}%)  {text}", self.total));
            }
        }
    }

    /// A message that does not tear the bar (`checkpoint written`, warnings).
    pub fn message(&mut self, text: &str) {
        self.output.line(text);
    }

    /// Ends the bar, leaving its last state visible.
    pub fn finish(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.abandon();
        }
    }
}

/// Progress of any other long work: converting cases, sliding windows, downloads.
pub struct WorkProgress {
    output: Output,
    label: String,
    total: u64,
    done: u64,
    started: Instant,
    last_line: Option<Instant>,
}

impl WorkProgress {
    /// Least time between two plain lines.
    const LINE_INTERVAL: Duration = Duration::from_secs(10);

    /// Progress of `total` items.
    pub fn stderr(label: &str, total: u64) -> Self {
        const TEMPLATE: &str = "{prefix} {bar:30.cyan/black} {pos}/{len}  ETA {eta}  {wide_msg}";
        let output = Output::stderr(total, TEMPLATE);
        if let Output::Bar(bar) = &output {
            bar.set_prefix(label.to_owned());
        }
        Self::new(output, label, total)
    }

    /// The same as plain lines into any writer, one per ten seconds at most and one at the end.
    pub fn lines(writer: Box<dyn Write + Send>, label: &str, total: u64) -> Self {
        Self::new(Output::Lines(writer), label, total)
    }

    fn new(output: Output, label: &str, total: u64) -> Self {
        let started = Instant::now();
        Self { output, label: label.to_owned(), total, done: 0, started, last_line: None }
    }

    /// `n` more items are done; `item` names the latest.
    pub fn advance(&mut self, n: u64, item: &str) {
        self.advance_at(n, item, Instant::now());
    }

    fn advance_at(&mut self, n: u64, item: &str, now: Instant) {
        self.done += n;
        match &mut self.output {
            Output::Bar(bar) => {
                bar.inc(n);
                bar.set_message(item.to_owned());
            }
            lines => {
                let since = now.saturating_duration_since(self.last_line.unwrap_or(self.started));
                if since >= Self::LINE_INTERVAL && self.done < self.total {
                    self.last_line = Some(now);
                    lines.line(&format!("{} {}/{}  {item}", self.label, self.done, self.total));
                }
            }
        }
    }

    /// A message that does not tear the bar.
    pub fn message(&mut self, text: &str) {
        self.output.line(text);
    }

    /// Ends the progress with one line: how many, how long.
    pub fn finish(mut self) {
        let took = duration(self.started.elapsed().as_secs_f64());
        if let Output::Bar(bar) = &self.output {
            bar.finish_and_clear();
        }
        let text = format!("{} {}/{} in {took}", self.label, self.done, self.total);
        match self.output {
            // A cleared bar prints nothing any more.
            Output::Bar(_) => Output::Lines(Box::new(io::stderr())).line(&text),
            ref mut lines => lines.line(&text),
        }
    }
}

/// Steps per second, smoothed over intervals; the first interval (warm-up) weighs nothing later on.
struct Rate {
    step: u64,
    at: Instant,
    smoothed: Option<f64>,
    intervals: u32,
}

impl Rate {
    fn new(step: u64, at: Instant) -> Self {
        Self { step, at, smoothed: None, intervals: 0 }
    }

    fn update(&mut self, step: u64, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        if step <= self.step || seconds <= 0.0 {
            return;
        }
        let newest = (step - self.step) as f64 / seconds;
        self.smoothed = match self.smoothed {
            Some(old) if self.intervals > 1 => Some(old + SMOOTHING * (newest - old)),
            _ => Some(newest),
        };
        self.intervals += 1;
        (self.step, self.at) = (step, now);
    }

    fn per_second(&self) -> Option<f64> {
        self.smoothed.filter(|r| *r > 0.0)
    }
}

fn field(name: &str, x: f64) -> String {
    match name.strip_suffix('%') {
        Some(name) => format!("{} {x:.1}%", name.trim_end()),
        None => format!("{name} {}", significant(x)),
    }
}

/// Four significant digits, with an exponent where plain digits would be long.
fn significant(x: f64) -> String {
    match x.abs() {
        a if a == 0.0 || !a.is_finite() => format!("{x}"),
        a if !(1e-3..1e5).contains(&a) => format!("{x:.3e}"),
        a => format!("{x:.*}", (3 - a.log10().floor() as i32).max(0) as usize),
    }
}

fn speed(per_second: f64) -> String {
    match per_second {
        r if r >= 0.1 => format!("{} it/s", significant(r)),
        r => format!("{} s/it", significant(1.0 / r)),
    }
}

fn duration(seconds: f64) -> String {
    let s = if seconds.is_finite() { seconds.round() as u64 } else { return "?".to_owned() };
    let (d, h, m, s) = (s / 86_400, s / 3600 % 24, s / 60 % 60, s % 60);
    if d > 0 { format!("{d}d {h:02}:{m:02}:{s:02}") } else { format!("{h:02}:{m:02}:{s:02}") }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(data)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_plain_line_per_update() {
        let out = Shared::default();
        let mut p = TrainProgress::lines(Box::new(out.clone()), 1000, 100);
        let start = p.rate.at;
        let values = [("loss", 0.123_456), ("lr", 1.5e-4), ("data wait%", 3.21)];
        p.update_at(150, &values, start + Duration::from_secs(5));
        p.message("checkpoint written");
        p.finish();
        assert_eq!(
            out.text(),
            "step 150/1000 (15.0%)  loss 0.1235  lr 1.500e-4  data wait 3.2%  10.00 it/s  \
             ETA 00:01:25\ncheckpoint written\n"
        );
    }

    #[test]
    fn the_rate_forgets_the_warm_up_and_is_smoothed() {
        let start = Instant::now();
        let mut rate = Rate::new(7, start);
        assert_eq!(rate.per_second(), None);
        rate.update(8, start + Duration::from_secs(10));
        rate.update(8, start + Duration::from_secs(11)); // no progress: not an interval
        assert_eq!(rate.per_second(), Some(0.1));
        rate.update(28, start + Duration::from_secs(20));
        assert_eq!(rate.per_second(), Some(2.0));
        rate.update(38, start + Duration::from_secs(30));
        assert!((rate.per_second().unwrap() - 1.8).abs() < 1e-12);
    }

    #[test]
    fn work_prints_seldom_and_at_the_end() {
        let out = Shared::default();
        let mut p = WorkProgress::lines(Box::new(out.clone()), "prepare", 100);
        let start = p.started;
        for i in 1..=100 {
            p.advance_at(1, "case", start + Duration::from_millis(250 * i));
        }
        p.finish();
        let text = out.text();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(
            text.starts_with("prepare 40/100  case\nprepare 80/100  case\nprepare 100/100 in ")
        );
    }

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (12.345_67, "12.35"),
            (999.96, "1000.0"),
            (123_456.0, "1.235e5"),
            (-0.5, "-0.5000"),
            (f64::NAN, "NaN"),
            (1e-9, "1.000e-9"),
            (54_321.0, "54321"),
        ];
        for (x, text) in cases {
            assert_eq!(significant(x), text);
        }
        assert_eq!(duration(90_061.4), "1d 01:01:01");
        assert_eq!(duration(f64::INFINITY), "?");
        assert_eq!(speed(0.02), "50.00 s/it");
    }

    #[test]
    fn a_closed_output_does_not_stop_the_run() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        TrainProgress::lines(Box::new(Closed), 2, 0).update(1, &[]);
        WorkProgress::lines(Box::new(Closed), "x", 1).finish();
    }
}
