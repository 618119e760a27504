//! A line chart of series over steps: losses, learning rate, validation scores.

use crate::error::{Error, Result};

use super::canvas::{Canvas, Rgb, SERIES_COLOURS};

mod axis;

use axis::Axis;

const PAPER: Rgb = [255; 3];
const INK: Rgb = [45, 48, 54];
const FAINT: Rgb = [110, 114, 122];
const GRID: Rgb = [228, 230, 234];
/// Half the width of a line in pixels.
const HALF_WIDTH: f32 = 1.1;

/// A named line; points with a coordinate that is not finite leave a gap.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    pub name: String,
    /// (x, y), in drawing order.
    pub points: Vec<(f64, f64)>,
    /// x, and from where to where a vertical bar goes there: the spread of a point.
    pub bars: Vec<(f64, [f64; 2])>,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    /// Logarithmic y axis; values of zero and below then leave a gap.
    pub log_y: bool,
    /// Width and height in pixels, at least 320 x 240.
    pub size: [usize; 2],
    pub series: Vec<Series>,
}

impl Curve {
    /// An empty chart of 1000 x 600 pixels over `step`, linear.
    pub fn new(title: &str, y_label: &str) -> Self {
        Self {
            title: title.to_owned(),
            x_label: "step".to_owned(),
            y_label: y_label.to_owned(),
            log_y: false,
            size: [1000, 600],
            series: Vec::new(),
        }
    }

    /// Adds a line.
    pub fn push(&mut self, name: &str, points: Vec<(f64, f64)>) {
        self.series.push(Series { name: name.to_owned(), points, bars: Vec::new() });
    }

    /// Draws the chart; without a drawable point it says "no data".
    ///
    /// Errors: [`Error::Config`] for a size below 320 x 240 or above 16384 pixels.
    pub fn render(&self) -> Result<Canvas> {
        let [width, height] = self.size;
        if !(320..=16_384).contains(&width) || !(240..=16_384).contains(&height) {
            return Err(Error::Config(format!("chart of {width} x {height} pixels")));
        }
        let mut canvas = Canvas::new(width, height, PAPER);
        let (x, y) = self.axes();
        let labels: Vec<String> = y.ticks().iter().map(|t| y.label(*t)).collect();
        let widest = labels.iter().map(|l| Canvas::text_width(l, 2)).max().unwrap_or(0);
        let legend = self.legend(width);
        let top = 74 + 24 * legend.len();
        let plot = Plot { left: 30 + widest, top, right: width - 30, bottom: height - 62 };
        canvas.text([24, 20], 2, INK, &self.title);
        canvas.text([24, top as isize - 24], 2, FAINT, &self.y_label);
        self.draw_axes(&mut canvas, &plot, &x, &y);
        let mut empty = true;
        for (i, series) in self.series.iter().enumerate() {
            let mut runs = visible_runs(&series.points, &x, &y, &plot);
            empty &= runs.is_empty();
            for (at, limits) in &series.bars {
                let ends = limits.map(|limit| (*at, limit));
                runs.extend(visible_runs(&ends, &x, &y, &plot).into_iter().filter(|r| r.len() > 1));
            }
            draw_runs(&mut canvas, &plot, &runs, colour(i));
        }
        if empty {
            let middle = [(plot.left + plot.right) / 2 - 48, (plot.top + plot.bottom) / 2];
            canvas.text(middle.map(|v| v as isize), 2, FAINT, "no data");
        }
        for (row, entries) in legend.iter().enumerate() {
            for (i, left) in entries {
                let y = 48 + 24 * row as isize;
                canvas.rect([*left as isize, y + 5], [22, 4], colour(*i));
                if let Some(series) = self.series.get(*i) {
                    canvas.text([*left as isize + 30, y], 2, INK, &series.name);
                }
            }
        }
        Ok(canvas)
    }

    fn axes(&self) -> (Axis, Axis) {
        let drawable =
            |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite() && (!self.log_y || p.1 > 0.0);
        let bar_ends = |(x, limits): &(f64, [f64; 2])| limits.map(|y| (*x, y));
        let all = |s: &Series| -> Vec<(f64, f64)> {
            s.points.iter().copied().chain(s.bars.iter().flat_map(bar_ends)).collect()
        };
        let points: Vec<_> = self.series.iter().flat_map(all).filter(|p| drawable(&p)).collect();
        let x = Axis::linear(points.iter().map(|p| p.0), 0.0);
        let ys = points.iter().map(|p| p.1);
        (x, if self.log_y { Axis::logarithmic(ys) } else { Axis::linear(ys, 0.05) })
    }

    /// Rows of (series, left edge) that fit the width.
    fn legend(&self, width: usize) -> Vec<Vec<(usize, usize)>> {
        let mut rows = vec![Vec::new()];
        let mut left = 24;
        for (i, series) in self.series.iter().enumerate() {
            let entry = 30 + Canvas::text_width(&series.name, 2) + 28;
            if left + entry > width && left > 24 {
                rows.push(Vec::new());
                left = 24;
            }
            if let Some(row) = rows.last_mut() {
                row.push((i, left));
            }
            left += entry;
        }
        rows
    }

    fn draw_axes(&self, canvas: &mut Canvas, plot: &Plot, x: &Axis, y: &Axis) {
        let (left, bottom) = (plot.left as isize, plot.bottom as isize);
        for tick in y.minor_ticks() {
            let at = plot.y(y.place(tick)).round() as isize;
            canvas.rect([left, at], [plot.width(), 1], [243, 244, 246]);
        }
        for tick in y.ticks() {
            let (at, label) = (plot.y(y.place(tick)).round() as isize, y.label(tick));
            canvas.rect([left, at], [plot.width(), 1], GRID);
            let start = left - 10 - Canvas::text_width(&label, 2) as isize;
            canvas.text([start, at - 7], 2, FAINT, &label);
        }
        let mut free_from = 0;
        for tick in x.ticks() {
            let (at, label) = (plot.x(x.place(tick)).round() as isize, x.label(tick));
            canvas.rect([at, plot.top as isize], [1, plot.height()], GRID);
            canvas.rect([at, bottom], [1, 6], INK);
            let wide = Canvas::text_width(&label, 2) as isize;
            let start = (at - wide / 2).min(canvas.size()[0] as isize - wide - 4);
            if start >= free_from {
                canvas.text([start, bottom + 12], 2, FAINT, &label);
                free_from = start + wide + 12;
            }
        }
        canvas.rect([left, bottom], [plot.width(), 1], INK);
        canvas.rect([left, plot.top as isize], [1, plot.height()], INK);
        let start = plot.right - Canvas::text_width(&self.x_label, 2).min(plot.right);
        canvas.text([start as isize, bottom + 36], 2, FAINT, &self.x_label);
    }
}

fn colour(i: usize) -> Rgb {
    SERIES_COLOURS[i % SERIES_COLOURS.len()]
}

/// The rectangle of the chart, in pixels.
struct Plot {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

impl Plot {
    fn width(&self) -> usize {
        self.right.saturating_sub(self.left).max(1)
    }
    fn height(&self) -> usize {
        self.bottom.saturating_sub(self.top).max(1)
    }
    fn x(&self, fraction: f64) -> f32 {
        self.left as f32 + fraction as f32 * (self.width() - 1) as f32
    }
    fn y(&self, fraction: f64) -> f32 {
        self.bottom as f32 - fraction as f32 * (self.height() - 1) as f32
    }
}

/// The unbroken runs of drawable points, in pixels.
fn visible_runs(points: &[(f64, f64)], x: &Axis, y: &Axis, plot: &Plot) -> Vec<Vec<[f32; 2]>> {
    let place = |p: &(f64, f64)| {
        let (fx, fy) = (x.place(p.0), y.place(p.1));
        (fx.is_finite() && fy.is_finite()).then(|| [plot.x(fx), plot.y(fy)])
    };
    let mut runs = vec![Vec::new()];
    for point in points {
        match (place(point), runs.last_mut()) {
            (Some(at), Some(run)) => run.push(at),
            _ => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// Draws one series through a coverage map, so that where its segments overlap it is not darker.
fn draw_runs(canvas: &mut Canvas, plot: &Plot, runs: &[Vec<[f32; 2]>], colour: Rgb) {
    let [width, height] = canvas.size();
    let mut coverage = vec![0f32; width * height];
    let mut segment = |a: [f32; 2], b: [f32; 2], half_width: f32| {
        let reach = half_width + 1.0;
        let low = |i: usize| (a[i].min(b[i]) - reach).floor().max(0.0) as usize;
        let high = |i: usize, n: usize| ((a[i].max(b[i]) + reach).ceil() as usize).min(n);
        for y in low(1)..high(1, height) {
            for x in low(0)..high(0, width) {
                let cover =
                    (half_width + 0.5 - distance([x as f32, y as f32], a, b)).clamp(0.0, 1.0);
                if let Some(pixel) = coverage.get_mut(y * width + x) {
                    *pixel = pixel.max(cover);
                }
            }
        }
    };
    for run in runs {
        match run.as_slice() {
            // A point without neighbours is a dot.
            [only] => segment(*only, *only, 3.0),
            points => points.windows(2).for_each(|w| {
                if let [a, b] = w {
                    segment(*a, *b, HALF_WIDTH);
                }
            }),
        }
    }
    for (i, cover) in coverage.iter().enumerate().filter(|(_, c)| **c > 0.0) {
        let (x, y) = (i % width, i / width);
        if x + 4 >= plot.left && x <= plot.right + 4 && y + 4 >= plot.top && y <= plot.bottom + 4 {
            canvas.blend(x as isize, y as isize, colour, *cover);
        }
    }
}

/// Distance of a point from a segment.
fn distance(p: [f32; 2], a: [f32; 2], b: [f32; 2]) -> f32 {
    let (d, q) = ([b[0] - a[0], b[1] - a[1]], [p[0] - a[0], p[1] - a[1]]);
    let length2 = d[0] * d[0] + d[1] * d[1];
    let t =
        if length2 > 0.0 { ((q[0] * d[0] + q[1] * d[1]) / length2).clamp(0.0, 1.0) } else { 0.0 };
    (q[0] - t * d[0]).hypot(q[1] - t * d[1])
}

#[cfg(test)]
mod tests;
