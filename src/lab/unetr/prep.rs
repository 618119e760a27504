//! Part `prep`: a volume and its label map on their way to the network, stage by stage; and the whole way
//! in one call, as a run prepares its cases.

use std::path::Path;

use crate::Result;
use crate::data::crop::foreground_box;
use crate::data::geometry::to_ras;
use crate::data::{
    Affine, CropRecord, Intensity, Pad, PrepareConfig, Resample, Volume, prepare_volume,
};
use crate::device::{DType, Device, Tensor};
use crate::lab::judge::Judge;
use crate::lab::tensors::CaseTensors;
use crate::ops::resample::{Interpolation, resample};

/// Relative: affines; intensities, which are stored in f32.
const AFFINE: f64 = 1e-12;
const IMAGE: f64 = 1e-6;

struct Stages<'a> {
    case: &'a CaseTensors,
    name: String,
}

impl Stages<'_> {
    fn named(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    fn values(&self, part: &str, dims: [usize; 3]) -> Result<&[f64]> {
        self.case.shaped(&self.named(part), &dims)
    }

    fn volume(&self, part: &str) -> Result<Volume> {
        let (dims, image) = self.case.axes::<3>(&self.named(&format!("{part}.image")))?;
        let data = image.iter().map(|&v| v as f32).collect();
        Volume::new(data, 1, dims, self.affine(part)?, 1)
    }

    fn affine(&self, part: &str) -> Result<Affine> {
        let v = self.case.shaped(&self.named(&format!("{part}.affine")), &[4, 4])?;
        Ok(std::array::from_fn(|r| std::array::from_fn(|c| v[4 * r + c])))
    }
}

/// Judges every case of the file. Voxels of `ties`, where the nearest label hangs on rounding, are left out.
pub fn run(case: &CaseTensors, device: &Device, dtype: DType, judge: &mut Judge) -> Result<()> {
    let spacing: [f64; 3] = case.json("spacing")?;
    let [lo, hi]: [f32; 2] = case.json("window")?;
    let config = PrepareConfig {
        spacing_mm: Some(spacing),
        intensity: Intensity::Window { lo, hi },
        ..PrepareConfig::default()
    };
    for name in case.cases::<serde_json::Value>()?.into_keys() {
        let stages = Stages { case, name };
        one(&stages, &config, device, dtype, judge)
            .map_err(|e| case.bad(format!("case '{}': {e}", stages.name)))?;
    }
    Ok(())
}

fn one(
    stages: &Stages,
    config: &PrepareConfig,
    device: &Device,
    dtype: DType,
    judge: &mut Judge,
) -> Result<()> {
    let near = |judge: &mut Judge, part: &str, ours: &[f64], bound: f64| -> Result<()> {
        let tensor = stages.named(part);
        let reference = match part.ends_with("affine") {
            true => stages.case.shaped(&tensor, &[4, 4])?,
            false => stages.case.axes::<3>(&tensor)?.1,
        };
        judge.near(part, &tensor, ours, reference, bound);
        Ok(())
    };
    // Orientation: permutes and flips, and nothing else.
    let raw = stages.volume("raw")?;
    let raw_label = stages.case.labels(&stages.named("raw.label"), &raw.dims)?;
    let (ras, orientation) = to_ras(raw.clone())?;
    let label = orientation.voxels_to_ras(&raw_label, raw.dims)?;
    let stored = |part: &str, dims: [usize; 3]| stages.values(part, dims);
    for (part, ours) in [("ras.image", wide(&ras.data)), ("ras.label", wide(&label))] {
        judge.equal(part, &stages.named(part), &ours, stored(part, ras.dims)?);
    }
    near(judge, "ras.affine", &ras.affine.concat(), AFFINE)?;

    // Spacing.
    let to = Resample::to_spacing(ras.dims, &ras.affine, config.spacing_mm.unwrap_or([1.0; 3]))?;
    let (dims, spaced) = stages.case.axes::<3>(&stages.named("spaced.image"))?;
    let sizes = |v: [usize; 3]| v.map(|n| n as f64);
    let named = stages.named("spaced.image");
    judge.equal("spaced.shape", &format!("{named} shape"), &sizes(to.to_dims), &sizes(dims));
    near(judge, "spaced.affine", &to.to_affine.concat(), AFFINE)?;
    if to.to_dims != dims {
        return Ok(());
    }
    let image = to.linear(&ras.data)?;
    near(judge, "spaced.image", &wide(&image), IMAGE)?;
    let ties = stored("spaced.ties", dims)?;
    let clear = |values: &[f64], ties: &[f64]| -> Vec<f64> {
        values.iter().zip(ties).filter(|(_, t)| **t == 0.0).map(|(v, _)| *v).collect()
    };
    let want_label = stored("spaced.label", dims)?;
    let labels = wide(&to.nearest(&label)?);
    let part = "spaced.label";
    judge.equal(part, &stages.named(part), &clear(&labels, ties), &clear(want_label, ties));

    // The same by the op of the device.
    let map = to.index_map_rows()?;
    let shape = [&[1], &ras.dims[..]].concat();
    // Scanners store int16: that must give what f32 gives. There is no bf16 here.
    let sampled = if dtype == DType::F64 { vec![DType::F64] } else { vec![DType::F32, DType::I16] };
    let is_short = |v: &f32| v.fract() == 0.0 && (-32768.0..=32767.0).contains(v);
    for sampled in sampled {
        if sampled == DType::I16 && !ras.data.iter().all(is_short) {
            continue;
        }
        let tensor = Tensor::from_f64(device, sampled, &wide(&ras.data), &shape)?;
        let ours = resample(&tensor, dims, &map, Interpolation::Linear)?.to_f64_vec()?;
        judge.near("spaced.image (op)", &named, &ours, spaced, IMAGE);
    }
    let tensor = Tensor::from_f64(device, DType::U8, &wide(&label), &shape)?;
    let ours = resample(&tensor, dims, &map, Interpolation::Nearest)?.to_f64_vec()?;
    let quantity = "spaced.label (op)";
    judge.equal(quantity, &stages.named(part), &clear(&ours, ties), &clear(want_label, ties));

    // Intensities.
    let intensity = config.intensity.fit(&image)?;
    let scaled: Vec<f32> = image.iter().map(|&v| intensity.forward(v)).collect();
    near(judge, "scaled.image", &wide(&scaled), IMAGE)?;

    // Crop: the box of the stored image, so that it is judged by itself.
    let stored_scaled: Vec<f32> = stored("scaled.image", dims)?.iter().map(|&v| v as f32).collect();
    let (start, size) = foreground_box(&stored_scaled, dims, 0.0)
        .ok_or_else(|| stages.case.bad("scaled.image has no foreground"))?;
    let end = [0, 1, 2].map(|a| start[a] + size[a]);
    let part = "cropped.box";
    let want = stages.case.shaped(&stages.named(part), &[2, 3])?;
    judge.equal(part, &stages.named(part), &[sizes(start), sizes(end)].concat(), want);
    let crop = CropRecord::new(dims, start, size, [1; 3], Pad::default());
    near(judge, "cropped.image", &wide(&crop.cut(&scaled)?), IMAGE)?;
    near(judge, "cropped.affine", &crop.affine(&to.to_affine).concat(), AFFINE)?;
    let want_label: Vec<u8> = stages.case.labels(&stages.named("spaced.label"), &dims)?;
    let part = "cropped.label";
    let want = stored(part, size)?;
    judge.equal(part, &stages.named(part), &wide(&crop.cut(&want_label)?), want);

    // The whole way in one call.
    let path = Path::new(&stages.name);
    let prepared = prepare_volume(&stages.name, raw, path, config)?;
    let (image, affine) = (prepared.voxels(), prepared.affine());
    let named = stages.named("cropped.image");
    judge.near("prepared.image", &named, &wide(image), stored("cropped.image", size)?, IMAGE);
    let tensor = stages.named("cropped.affine");
    let want_affine = stages.case.get(&tensor)?.1;
    judge.near("prepared.affine", &tensor, &affine.concat(), want_affine, AFFINE);
    let ties: Vec<f64> = crop.cut(ties)?;
    let placed = wide(&prepared.record().place_labels(&raw_label)?);
    let (ours, want) = (clear(&placed, &ties), clear(want, &ties));
    judge.equal("prepared.label", &stages.named("cropped.label"), &ours, &want);
    Ok(())
}

fn wide<T: Copy + Into<f64>>(values: &[T]) -> Vec<f64> {
    values.iter().map(|&v| v.into()).collect()
}
