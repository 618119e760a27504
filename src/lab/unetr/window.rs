//! Part `window`: sliding windows over volumes, with a convolution plus a ramp as predictor.

use super::{bound_of, channels_first, channels_last};
use crate::Result;
use crate::device::{DType, Device, Tensor};
use crate::infer::segment::{Slab, place};
use crate::infer::window::{Blender, Blending, Column, Importance, WindowGrid};
use crate::lab::judge::Judge;
use crate::lab::tensors::CaseTensors;
use crate::nn::params::Params;
use crate::ops::VoxelGrid;
use crate::param_layout::ParamLayout;
use crate::tape::{Tape, Var};
use std::sync::Arc;

/// Relative: blended scores in f64 with the stored map, and a map of our own (the stored one is MONAI's
/// f32).
const EXACT: f64 = 1e-12;
const MAP: f64 = 1e-6;

/// What the metadata say of a case; the rest follows from it and is checked when it is there.
#[derive(serde::Deserialize)]
struct About {
    overlap: f64,
    step: Option<Vec<f64>>,
    pad_before: Option<Vec<f64>>,
    pad_after: Option<Vec<f64>>,
}

/// Judges every case of the file: geometry, importance, and windows that are put together on the device as
/// inference does it: as one column (`whole`), and in as many as there can be (`columns`).
pub fn run(case: &CaseTensors, device: &Device, dtype: DType, judge: &mut Judge) -> Result<()> {
    let sigma_scale: f64 = case.json("sigma_scale")?;
    if !(sigma_scale.is_finite() && sigma_scale > 0.0) {
        return Err(case.bad(format!("metadata 'sigma_scale' is {sigma_scale}")));
    }
    for (name, about) in case.cases::<About>()? {
        let named = |part: &str| format!("{name}.{part}");
        let ([batch, channels, d, h, w], x) = case.axes::<5>(&named("x"))?;
        let ([classes, rd, rh, rw], ramp) = case.axes::<4>(&named("ramp"))?;
        let (dims, roi) = ([d, h, w], [rd, rh, rw]);
        let grid = WindowGrid::new(dims, roi, about.overlap)
            .map_err(|e| case.bad(format!("case '{name}': {e}")))?;
        let wide = |v: [usize; 3]| v.map(|n| n as f64);
        let starts: Vec<f64> = grid.windows().flat_map(wide).collect();
        let (_, stored) = case.axes::<2>(&named("starts"))?;
        judge.equal("starts", &named("starts"), &starts, stored);
        let after = [0, 1, 2].map(|a| grid.padded[a] - dims[a] - grid.pad_before[a]);
        let step = [0, 1, 2].map(|a| match grid.starts[a][..] {
            // Between the first two, unless the second one was moved back to end with the volume.
            [first, second, _, ..] => second - first,
            _ => 0,
        });
        for (what, ours, said) in [
            ("pad_before", grid.pad_before, &about.pad_before),
            ("pad_after", after, &about.pad_after),
            ("step", step, &about.step),
        ] {
            let Some(said) = said else { continue };
            // One or two windows do not show the step.
            let shown = |a: &usize| what != "step" || step[*a] > 0;
            let axes: Vec<usize> = (0..3).filter(shown).collect();
            let ours: Vec<f64> = axes.iter().map(|&a| ours[a] as f64).collect();
            let said: Vec<f64> = axes.iter().filter_map(|&a| said.get(a).copied()).collect();
            judge.equal(what, &named(what), &ours, &said);
        }

        let stored = case.shaped(&named("importance"), &roi)?;
        let map = Blending::Gaussian { sigma_scale }.importance(roi);
        let map: Vec<f64> = map.iter().map(|&v| v.into()).collect();
        judge.near("importance", &named("importance"), &map, stored, MAP);

        let predicted = predictions(case, x, [batch, channels], &grid, ramp, classes)?;
        let constant = vec![1.0; stored.len()];
        for (mode, map) in [("constant", &constant[..]), ("gaussian", stored)] {
            let shape = [&[batch, classes], &dims[..]].concat();
            let (tensor, bound) = (named(mode), bound_of(dtype, EXACT));
            let reference = case.shaped(&tensor, &shape)?;
            let map: Vec<f32> = map.iter().map(|&v| v as f32).collect();
            let map = Importance::new(device, dtype.master(), roi, &map)?;
            for (how, bytes) in [("whole", u64::MAX), ("columns", 0)] {
                let columns = grid.columns(classes, bytes);
                let blended = Blended { grid: &grid, columns, classes, map: &map };
                let ours = blended.run(&predicted, device, dtype)?;
                judge.near(&format!("{mode} ({how})"), &tensor, &ours, reference, bound);
            }
        }
    }
    Ok(())
}

/// `conv3d(window, weight, bias, zero padding) + ramp` of every window of every sample in f64:
/// `[batch][window]` of `[classes, roi]`.
fn predictions(
    case: &CaseTensors,
    x: &[f64],
    [batch, channels]: [usize; 2],
    grid: &WindowGrid,
    ramp: &[f64],
    classes: usize,
) -> Result<Vec<Vec<Vec<f64>>>> {
    let mut layout = ParamLayout::default();
    let ([_, _, k, ..], _) = case.axes::<5>("weight")?;
    let weight = layout.add("weight", &[classes, channels, k, k, k]);
    let bias = layout.add("bias", &[classes]);
    let layout = Arc::new(layout);
    let mut params = Params::zeros(&Device::Cpu, DType::F64, layout.clone(), false)?;
    for e in layout.entries() {
        params.value_mut(&e.name)?.upload_f64(case.shaped(&e.name, &e.shape)?)?;
    }
    let at = VoxelGrid { batch: 1, dims: grid.roi };
    let mut window = vec![0.0; channels * at.voxels()];
    let sample = x.len() / batch;
    x.chunks_exact(sample)
        .map(|x| {
            let of_window = |start: [usize; 3]| {
                grid.cut(x, start, &mut window)?;
                let mut tape = Tape::inference(&Device::Cpu);
                let rows = channels_last(&window, channels, at);
                let rows = Tensor::from_slice(&Device::Cpu, &rows, &[at.rows(), channels])?;
                let (weight, bias) = (params.get(weight)?, params.get(bias)?);
                let y = tape.conv3d(&[&Var::constant(rows)], at, &weight, Some(&bias))?;
                let y = channels_first(y.value().host::<f64>()?, at);
                Ok(y.iter().zip(ramp).map(|(y, r)| y + r).collect())
            };
            grid.windows().map(of_window).collect()
        })
        .collect()
}

/// How windows are put together.
struct Blended<'a> {
    grid: &'a WindowGrid,
    columns: Vec<Column>,
    classes: usize,
    map: &'a Importance,
}

impl Blended<'_> {
    /// `[batch, classes, dims]` of scores that the network would leave in `dtype`.
    fn run(&self, predicted: &[Vec<Vec<f64>>], device: &Device, dtype: DType) -> Result<Vec<f64>> {
        let (dims, all) = (self.grid.dims, self.grid.windows().collect::<Vec<_>>());
        let of_window = VoxelGrid { batch: 1, dims: self.grid.roi };
        let count: usize = dims.iter().product();
        let mut out = Vec::new();
        for windows in predicted {
            let mut scores = vec![0.0; self.classes * count];
            let mut blender = Blender::new(self.grid, &self.columns, self.classes, self.map)?;
            for &column in &self.columns {
                let slab = VoxelGrid { batch: 1, dims: [1, column.size[0], column.size[1]] };
                let mut keep = |d: usize, means: &Tensor| {
                    let values = channels_first(&means.to_f64_vec()?, slab);
                    let channels = scores.chunks_exact_mut(count);
                    for (volume, values) in channels.zip(values.chunks_exact(column.slab())) {
                        place(volume, dims, Slab { d, column }, values);
                    }
                    Ok(())
                };
                blender.begin(column)?;
                for start in self.grid.windows_of(column) {
                    let found = all.iter().zip(windows).find(|(s, _)| **s == start);
                    let window = found.map(|(_, w)| w.as_slice()).unwrap_or_default();
                    let rows = channels_last(window, self.classes, of_window);
                    let shape = [of_window.rows(), self.classes];
                    blender.add(&Tensor::from_f64(device, dtype, &rows, &shape)?, &mut keep)?;
                }
            }
            out.append(&mut scores);
        }
        Ok(out)
    }
}
