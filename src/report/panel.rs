//! One picture of several volumes: three anatomical planes as rows, the volumes as columns, all with
//! one grey window and one scale in millimetres.

use std::borrow::Cow;

use crate::error::{Error, Result};

use super::canvas::{Canvas, Rgb};
use super::slice::{self, Convention, Plane};

const BACKGROUND: Rgb = [16, 17, 20];
const BRIGHT: Rgb = [235, 235, 235];
const DIM: Rgb = [150, 153, 160];
/// Letters of the edges, over the picture.
const EDGE: Rgb = [240, 200, 90];
/// Patches the network has not seen: mid grey with darker stripes, like no tissue.
const HIDDEN: [Rgb; 2] = [[96, 98, 104], [78, 80, 86]];
/// A voxel that is not a number must catch the eye.
const NOT_A_NUMBER: Rgb = [255, 0, 255];
/// Colours of the labels 1, 2, ...; they repeat.
const LABELS: [Rgb; 10] = [
    [230, 75, 60],
    [70, 170, 240],
    [90, 200, 110],
    [245, 190, 60],
    [180, 110, 220],
    [70, 210, 200],
    [240, 130, 180],
    [165, 190, 70],
    [240, 140, 60],
    [140, 150, 240],
];

const MARGIN: usize = 18;
const GAP: usize = 6;
const LEFT: usize = 126;
const TOP: usize = 46;
const BOTTOM: usize = 34;

/// One volume of a [`Panel`]. All slices are `[d, h, w]` with w fastest.
#[derive(Clone, Debug)]
pub struct Column<'a> {
    /// Written above it.
    pub title: Cow<'a, str>,
    /// Intensities, in the units of the window.
    pub voxels: Cow<'a, [f32]>,
    /// Voxels drawn as hidden (`true`).
    pub hidden: Option<Cow<'a, [bool]>>,
    /// Label map laid over in colour; 0 is background.
    pub labels: Option<Cow<'a, [u8]>>,
}

/// A picture of volumes on one grid.
#[derive(Clone, Debug)]
pub struct Panel<'a> {
    shape: [usize; 3],
    spacing_mm: [f64; 3],
    columns: Vec<Column<'a>>,
    /// Voxel through which the planes go.
    pub centre: [usize; 3],
    /// Intensities drawn black and white.
    pub window: [f32; 2],
    /// Side of the patient that is drawn on the left.
    pub convention: Convention,
    /// Width of the widest plane in pixels.
    pub tile_px: usize,
    /// Written below the picture, beside the window.
    pub caption: String,
}

impl<'a> Panel<'a> {
    /// An empty panel of volumes with this shape (RAS axes) and voxel size, through their middle,
    /// window 0..1, radiological.
    ///
    /// Errors: [`Error::Shape`] for an empty shape, [`Error::Config`] for a spacing not above zero.
    pub fn new(shape: [usize; 3], spacing_mm: [f64; 3]) -> Result<Self> {
        if shape.contains(&0) {
            return Err(Error::shape("panel", "a volume with voxels", format!("{shape:?}")));
        }
        if !spacing_mm.iter().all(|s| s.is_finite() && *s > 0.0) {
            return Err(Error::Config(format!("panel: spacing {spacing_mm:?} mm")));
        }
        Ok(Self {
            shape,
            spacing_mm,
            columns: Vec::new(),
            centre: shape.map(|n| n / 2),
            window: [0.0, 1.0],
            convention: Convention::default(),
            tile_px: 256,
            caption: String::new(),
        })
    }

    /// The panel of a masked autoencoder: input, what was visible of it, the reconstruction, and the
    /// visible voxels filled up with the reconstruction. The window is [`robust_window`] of the
    /// input.
    ///
    /// Errors: as [`Panel::new`] and [`Panel::push`].
    pub fn reconstruction(
        shape: [usize; 3],
        spacing_mm: [f64; 3],
        input: &'a [f32],
        reconstruction: &'a [f32],
        hidden: &'a [bool],
    ) -> Result<Self> {
        let mut panel = Self::new(shape, spacing_mm)?;
        panel.window = robust_window(input);
        let blend: Vec<f32> = input
            .iter()
            .zip(reconstruction)
            .zip(hidden)
            .map(|((x, y), hidden)| if *hidden { *y } else { *x })
            .collect();
        let column = |title, voxels, hidden| Column { title, voxels, hidden, labels: None };
        panel.push(column("input".into(), input.into(), None))?;
        panel.push(column("masked".into(), input.into(), Some(hidden.into())))?;
        // What was visible is not predicted: a masked autoencoder learns nothing about it.
        let visible: Vec<bool> = hidden.iter().map(|h| !h).collect();
        panel.push(column("reconstruction".into(), reconstruction.into(), Some(visible.into())))?;
        panel.push(column("visible + recon.".into(), blend.into(), None))?;
        Ok(panel)
    }

    /// Adds a column.
    ///
    /// Errors: [`Error::Shape`] when one of its arrays has not the size of the panel's shape.
    pub fn push(&mut self, column: Column<'a>) -> Result<()> {
        let voxels: usize = self.shape.iter().product();
        let hidden = column.hidden.as_ref().map_or(voxels, |h| h.len());
        let labels = column.labels.as_ref().map_or(voxels, |l| l.len());
        for found in [column.voxels.len(), hidden, labels] {
            if found != voxels {
                let wanted = format!("{voxels} voxels ({:?})", self.shape);
                return Err(Error::shape("panel", wanted, format!("{found} voxels")));
            }
        }
        self.columns.push(column);
        Ok(())
    }

    /// Draws the picture.
    ///
    /// Errors: [`Error::Shape`] when the centre lies outside, [`Error::Config`] for a window that
    /// is not finite.
    pub fn render(&self) -> Result<Canvas> {
        if self.centre.iter().zip(self.shape).any(|(c, n)| *c >= n) {
            let wanted = format!("a centre within {:?}", self.shape);
            return Err(Error::shape("panel", wanted, format!("{:?}", self.centre)));
        }
        if !self.window.iter().all(|v| v.is_finite()) {
            return Err(Error::Config(format!("panel: window {:?}", self.window)));
        }
        let tiles = Plane::ALL.map(|plane| self.tile(plane));
        let column_px = tiles.iter().map(|t| t[0]).max().unwrap_or(1);
        let rows_px: usize = tiles.iter().map(|t| t[1] + GAP).sum();
        let width = LEFT + self.columns.len() * (column_px + GAP) + MARGIN - GAP;
        let mut canvas = Canvas::new(width, TOP + rows_px + BOTTOM, BACKGROUND);
        for (i, column) in self.columns.iter().enumerate() {
            let left = LEFT + i * (column_px + GAP);
            let scale = if Canvas::text_width(&column.title, 2) <= column_px { 2 } else { 1 };
            centred(&mut canvas, left, column_px, [16, scale], BRIGHT, &column.title);
            let mut top = TOP;
            for (plane, size) in Plane::ALL.into_iter().zip(tiles) {
                let at = [left + (column_px - size[0]) / 2, top].map(|v| v as isize);
                self.draw(&mut canvas, column, plane, at, size);
                if i == 0 {
                    self.label_row(&mut canvas, plane, at, size);
                }
                top += size[1] + GAP;
            }
        }
        let ([low, high], range) = (self.window, (self.window[1] - self.window[0]).abs());
        let separator = if self.caption.is_empty() { "" } else { "   " };
        let [low, high] = [low, high].map(|v| format!("{v:.*}", if range < 20.0 { 2 } else { 0 }));
        let text = format!("{}{separator}window {low} to {high}", self.caption);
        let scale = if Canvas::text_width(&text, 2) + LEFT + MARGIN <= width { 2 } else { 1 };
        canvas.text([LEFT as isize, (TOP + rows_px + 8) as isize], scale, DIM, &text);
        Ok(canvas)
    }

    /// Size of a plane on the picture, in pixels of equal millimetres.
    fn tile(&self, plane: Plane) -> [usize; 2] {
        let mm = |axis: usize| self.shape[axis] as f64 * self.spacing_mm[axis];
        let longest = Plane::ALL.iter().map(|p| mm(p.axes()[1])).fold(0.0, f64::max);
        let px = |axis| ((mm(axis) / longest * self.tile_px as f64).round() as usize).max(1);
        let [_, across, down] = plane.axes();
        // A very long scan in a narrow field must not make a picture without end.
        [px(across), px(down).min(8 * self.tile_px.max(1))]
    }

    fn draw(
        &self,
        canvas: &mut Canvas,
        column: &Column,
        plane: Plane,
        at: [isize; 2],
        size: [usize; 2],
    ) {
        let [cut, across, down] = plane.axes();
        let from = [self.shape[across], self.shape[down]];
        let (index, side) = (self.centre[cut], self.convention);
        let grey = plane.cut(&column.voxels, self.shape, index, side);
        let grey = slice::resample_linear(&grey, from, size);
        let hidden = column.hidden.as_ref().map(|hidden| {
            slice::resample_nearest(&plane.cut(hidden, self.shape, index, side), from, size)
        });
        let labels = column.labels.as_ref().map(|labels| {
            slice::resample_nearest(&plane.cut(labels, self.shape, index, side), from, size)
        });
        let [low, high] = self.window;
        let range = if high > low { high - low } else { 1.0 };
        for (i, value) in grey.iter().enumerate() {
            let (x, y) = (i % size[0], i / size[0]);
            let level = ((value - low) / range * 255.0).round().clamp(0.0, 255.0) as u8;
            let mut colour = if value.is_nan() { NOT_A_NUMBER } else { [level; 3] };
            if hidden.as_ref().and_then(|h| h.get(i)).is_some_and(|h| *h) {
                colour = HIDDEN[usize::from((x + y) % 8 < 2)];
            }
            let (x, y) = (at[0] + x as isize, at[1] + y as isize);
            canvas.blend(x, y, colour, 1.0);
            if let Some((label, border)) = labels.as_ref().and_then(|l| label_at(l, i, size[0])) {
                let colour = LABELS[usize::from(label - 1) % LABELS.len()];
                canvas.blend(x, y, colour, if border { 0.95 } else { 0.35 });
            }
        }
    }

    fn label_row(&self, canvas: &mut Canvas, plane: Plane, at: [isize; 2], size: [usize; 2]) {
        let [cut, ..] = plane.axes();
        let middle = at[1] + size[1] as isize / 2;
        canvas.text([MARGIN as isize, middle - 14], 2, BRIGHT, plane.name());
        let name = ["d", "h", "w"][cut];
        let place = format!("{name} = {} of {}", self.centre[cut], self.shape[cut]);
        canvas.text([MARGIN as isize, middle + 6], 1, DIM, &place);
        let [left, top] = plane.edges(self.convention);
        canvas.text_on_image([at[0] + 5, middle - 7], 2, EDGE, left);
        canvas.text_on_image([at[0] + size[0] as isize / 2 - 5, at[1] + 5], 2, EDGE, top);
    }
}

/// The label of a pixel that has one, and whether another label begins beside it.
fn label_at(labels: &[u8], i: usize, width: usize) -> Option<(u8, bool)> {
    let label = *labels.get(i).filter(|l| **l > 0)?;
    let neighbours = [i.checked_sub(1), Some(i + 1), i.checked_sub(width), Some(i + width)];
    let differs = |n: usize| labels.get(n).is_some_and(|other| *other != label);
    Some((label, neighbours.into_iter().flatten().any(differs)))
}

fn centred(
    canvas: &mut Canvas,
    left: usize,
    width: usize,
    [y, scale]: [usize; 2],
    colour: Rgb,
    text: &str,
) {
    let inset = width.saturating_sub(Canvas::text_width(text, scale)) / 2;
    canvas.text([(left + inset) as isize, y as isize], scale, colour, text);
}

/// The 0.5 and 99.5 percentiles of the finite voxels (0..1 when there are none).
pub fn robust_window(voxels: &[f32]) -> [f32; 2] {
    let mut finite: Vec<f32> = voxels.iter().copied().filter(|v| v.is_finite()).collect();
    if finite.is_empty() {
        return [0.0, 1.0];
    }
    let last = finite.len() - 1;
    let mut at = |q: f64| {
        let (_, value, _) =
            finite.select_nth_unstable_by((last as f64 * q) as usize, f32::total_cmp);
        *value
    };
    let (low, high) = (at(0.005), at(0.995));
    if high > low { [low, high] } else { [low, low + 1.0] }
}

#[cfg(test)]
mod tests;
