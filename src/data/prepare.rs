//! From a case to what a model takes: oriented, resampled, mapped, cropped, padded; with the way
//! back.

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::crop::{CropRecord, Pad, foreground_box};
use super::geometry::{Affine, Orientation, spacing_mm, to_ras};
use super::intensity::{Intensity, IntensityMap};
use super::layout::Case;
use super::nifti::{Channels, Frame, ReadLimits, ReadOptions, read_volume};
use super::resample::Resample;
use super::volume::Volume;
use crate::{Error, Result};

/// What to do with NaN and infinite voxels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// Refuse the case and say where they are.
    #[default]
    Error,
    /// Read them as 0.
    Zero,
}

impl FromStr for NonFinite {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        match s {
            "error" => Ok(Self::Error),
            "zero" => Ok(Self::Zero),
            _ => Err(Error::Config(format!("nonfinite = {s:?}: must be \"error\" or \"zero\""))),
        }
    }
}

/// How cases are prepared. Every case is turned to RAS first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrepareConfig {
    /// Bring every case to this spacing along its RAS axes `d h w`, in mm, before the intensity map
    /// (MONAI's `Spacing`, see [`Resample`]). `None` keeps the spacing of the file.
    pub spacing_mm: Option<[f64; 3]>,
    pub intensity: Intensity,
    /// Keep the box of the voxels above this value, *after* the intensity map. `None` keeps all.
    pub foreground_threshold: Option<f32>,
    /// Channels every case must have: files per case times values per voxel.
    pub channels: usize,
    /// Least size `d h w` in voxels after the crop; smaller cases are padded with 0.
    pub min_size: [usize; 3],
    pub pad: Pad,
    pub nonfinite: NonFinite,
    pub limits: ReadLimits,
}

impl Default for PrepareConfig {
    /// The paper's: HU window `[-1000, 1000]`, foreground above 0, one channel, no padding, no
    /// resampling.
    fn default() -> Self {
        Self {
            spacing_mm: None,
            intensity: Intensity::default(),
            foreground_threshold: Some(0.0),
            channels: 1,
            min_size: [1; 3],
            pad: Pad::default(),
            nonfinite: NonFinite::default(),
            limits: ReadLimits::default(),
        }
    }
}

/// Everything that was done to a case, to bring a result of the model back to the input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Grid and affine of the file.
    pub input_dims: [usize; 3],
    pub input_affine: Affine,
    pub space_code: i16,
    /// Axes of the file before they were turned to RAS.
    pub orientation: Orientation,
    /// From the RAS grid of the file to the one of the target spacing, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resample: Option<Resample>,
    /// The box, on the RAS grid (at the target spacing).
    pub crop: CropRecord,
    /// One per channel.
    pub intensity: Vec<IntensityMap>,
}

/// A prepared case: `[c, d, h, w]` in RAS, mapped, cropped to the foreground and padded.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    pub id: String,
    data: Vec<f32>,
    channels: usize,
    dims: [usize; 3],
    affine: Affine,
    record: CaseRecord,
}

impl Prepared {
    /// `channels * d * h * w` mapped values, `w` fastest.
    pub fn voxels(&self) -> &[f32] {
        &self.data
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    /// `d h w` in voxels.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Voxel indices to millimetres in RAS+ world space.
    pub fn affine(&self) -> &Affine {
        &self.affine
    }

    pub fn spacing_mm(&self) -> [f64; 3] {
        spacing_mm(&self.affine)
    }

    /// The way back to the input.
    pub fn record(&self) -> &CaseRecord {
        &self.record
    }

    /// Memory of the voxels.
    pub fn size_bytes(&self) -> usize {
        size_of_val(self.data.as_slice())
    }
}

impl CaseRecord {
    /// Brings `[c, d, h, w]` values of a prepared case back: input units, input grid, input affine.
    /// Voxels outside of the box become `fill`, in input units (-1000 is air in CT). A case that was
    /// resampled is sampled trilinearly on the way back.
    ///
    /// Errors: [`Error::Shape`] when `data` is not the size of the prepared case.
    pub fn restore(&self, data: &[f32], fill: f32) -> Result<Volume> {
        let count: usize = self.crop.dims.iter().product();
        if data.len() != count * self.intensity.len() {
            return Err(Error::shape(
                "restore",
                format!("{} x {:?}", self.intensity.len(), self.crop.dims),
                format!("{} values", data.len()),
            ));
        }
        let maps = data.chunks_exact(count).zip(&self.intensity);
        let values: Vec<f32> =
            maps.flat_map(|(channel, map)| channel.iter().map(|&y| map.inverse(y))).collect();
        Volume::new(
            self.restore_channels(&values, fill)?,
            self.intensity.len(),
            self.input_dims,
            self.input_affine,
            self.space_code,
        )
    }
}

impl CaseRecord {
    /// Brings any number of channels of a prepared case, such as class scores, onto the grid of the
    /// file, values as they are: `[c, input_dims]`. Trilinear where the case was resampled; `fill`
    /// outside of the box.
    ///
    /// Errors: [`Error::Shape`] when `data` is not a whole number of prepared channels.
    pub fn restore_channels(&self, data: &[f32], fill: f32) -> Result<Vec<f32>> {
        let mut ras = self.crop.paste(data, fill)?;
        if let Some(resample) = &self.resample {
            ras = resample.inverse().linear(&ras)?;
        }
        self.turn_back(ras)
    }

    /// Grid, affine and codes of the file.
    pub fn frame(&self) -> Frame {
        let (dims, affine, space_code) = (self.input_dims, self.input_affine, self.space_code);
        Frame { dims, affine, space_code, placement: None }
    }

    /// Brings class indices of a prepared case onto the grid of the file: nearest voxel, background
    /// outside of the box.
    ///
    /// Errors: [`Error::Shape`] when `labels` is not the size of the prepared case.
    pub fn restore_labels(&self, labels: &[u8]) -> Result<Vec<u8>> {
        let mut ras = self.crop.paste(labels, 0)?;
        if let Some(resample) = &self.resample {
            ras = resample.inverse().nearest(&ras)?;
        }
        self.turn_back(ras)
    }

    /// RAS voxels on the axes of the file; as they are, without a copy, where those are RAS.
    fn turn_back<T: Copy + bytemuck::Zeroable>(&self, ras: Vec<T>) -> Result<Vec<T>> {
        let count = self.input_dims.iter().product::<usize>();
        match self.orientation.is_ras() && count > 0 && ras.len().is_multiple_of(count) {
            true => Ok(ras),
            false => self.orientation.voxels_from_ras(&ras, self.input_dims),
        }
    }

    /// Brings class indices on the grid of the file (`[d, h, w]` of `input_dims`) onto the grid of
    /// the prepared case: moved, or the nearest voxel where the case was resampled; padding is 0.
    ///
    /// Errors: [`Error::Shape`] when `labels` is not the size of the file's grid.
    pub fn place_labels(&self, labels: &[u8]) -> Result<Vec<u8>> {
        let mut ras = self.orientation.voxels_to_ras(labels, self.input_dims)?;
        if let Some(resample) = &self.resample {
            ras = resample.nearest(&ras)?;
        }
        self.crop.cut(&ras)
    }
}

/// Reads and prepares a case.
///
/// Errors: [`Error::Io`] and [`Error::Data`] when a file of the case cannot be used (also: channels
/// on different grids, NaN or infinite voxels, no foreground, no contrast); [`Error::Config`] for a wrong
/// configuration; [`Error::OutOfMemory`].
pub fn prepare(case: &Case, config: &PrepareConfig) -> Result<Prepared> {
    config.intensity.check()?;
    if config.channels == 0 || config.min_size.contains(&0) {
        return Err(Error::Config(
            "model.in_chans and the least size must be at least 1".to_owned(),
        ));
    }
    prepare_volume(&case.id, read_case(case, config)?, first_path(case), config)
}

fn first_path(case: &Case) -> &Path {
    case.images.first().map_or(Path::new(&case.id), |p| p.as_path())
}

/// Reads the files of a case into one volume.
fn read_case(case: &Case, config: &PrepareConfig) -> Result<Volume> {
    let options = ReadOptions { channels: Channels::UpTo(config.channels), limits: config.limits };
    let mut whole: Option<Volume> = None;
    for path in &case.images {
        let mut volume = read_volume(path, &options)?;
        settle_nonfinite(path, &mut volume, config.nonfinite)?;
        match &mut whole {
            None => whole = Some(volume),
            Some(first) => {
                if first.dims != volume.dims
                    || !same_place(first.dims, &first.affine, &volume.affine)
                {
                    return Err(Error::data(
                        path,
                        format!(
                            "lies on another grid ({:?} voxels) than the first channel of case {} \
                             ({:?} voxels): resample the channels of a case onto one grid",
                            volume.dims, case.id, first.dims
                        ),
                    ));
                }
                first.data.append(&mut volume.data);
                first.channels += volume.channels;
            }
        }
    }
    let path = first_path(case);
    let volume = whole.ok_or_else(|| Error::data(path, "the case names no image"))?;
    if volume.channels != config.channels {
        return Err(Error::data(
            path,
            format!(
                "case {} has {} channels, {} are expected (pre-training: model.in_chans; a task: as \
                 many as its channels)",
                case.id, volume.channels, config.channels
            ),
        ));
    }
    Ok(volume)
}

/// Whether two affines put every corner of a grid within a hundredth of a voxel.
pub(super) fn same_place(dims: [usize; 3], a: &Affine, b: &Affine) -> bool {
    let tolerance = 0.01 * spacing_mm(a).into_iter().fold(f64::INFINITY, f64::min);
    (0..8).all(|corner: usize| {
        (0..3).all(|r| {
            let moved = (0..3).map(|c| {
                let at = if corner >> c & 1 == 1 { dims[c] as f64 - 1.0 } else { 0.0 };
                (a[r][c] - b[r][c]) * at
            });
            (moved.sum::<f64>() + a[r][3] - b[r][3]).abs() <= tolerance
        })
    })
}

fn settle_nonfinite(path: &Path, volume: &mut Volume, rule: NonFinite) -> Result<()> {
    let Some(first) = volume.data.iter().position(|v| !v.is_finite()) else { return Ok(()) };
    if rule == NonFinite::Zero {
        for v in volume.data.iter_mut().filter(|v| !v.is_finite()) {
            *v = 0.0;
        }
        return Ok(());
    }
    let count = volume.data.iter().filter(|v| !v.is_finite()).count();
    let [_, nh, nw] = volume.dims;
    let at = first % volume.voxels_per_channel();
    let voxel = [at / (nh * nw), at / nw % nh, at % nw];
    Err(Error::data(
        path,
        format!(
            "{count} voxels are NaN or infinite, the first at {voxel:?} of channel {}; repair the file \
             (pre-training can read them as 0: data.nonfinite = \"zero\")",
            first / volume.voxels_per_channel()
        ),
    ))
}

/// The value of all voxels of all channels in a box, if they have one. A single channel may be empty, as
/// a sequence that was not taken is.
fn constant(data: &[f32], dims: [usize; 3], start: [usize; 3], size: [usize; 3]) -> Option<f32> {
    let [nd, nh, nw] = dims;
    let first = *data.get((start[0] * nh + start[1]) * nw + start[2])?;
    let mut rows = data.chunks_exact(nd * nh * nw).flat_map(|channel| {
        (start[0]..start[0] + size[0]).flat_map(move |d| {
            (start[1]..start[1] + size[1]).map(move |h| {
                let row = (d * nh + h) * nw + start[2];
                &channel[row..row + size[2]]
            })
        })
    });
    rows.all(|row| row.iter().all(|&v| v == first)).then_some(first)
}

/// Prepares a volume that is already in memory; `path` is for messages.
///
/// Errors: as [`prepare`].
pub fn prepare_volume(
    id: &str,
    volume: Volume,
    path: &Path,
    config: &PrepareConfig,
) -> Result<Prepared> {
    let (input_dims, input_affine, space_code) = (volume.dims, volume.affine, volume.space_code);
    let (mut ras, orientation) = to_ras(volume)?;
    let resample = config.spacing_mm.map(|mm| Resample::to_spacing(ras.dims, &ras.affine, mm));
    // The same grid within a hundredth of a voxel: nothing would change but rounding.
    let resample = resample
        .transpose()?
        .filter(|r| r.to_dims != ras.dims || !same_place(ras.dims, &ras.affine, &r.to_affine));
    if let Some(to) = &resample {
        ras.data = to.linear(&ras.data)?;
        (ras.dims, ras.affine) = (to.to_dims, to.to_affine);
    }
    let count = ras.voxels_per_channel();
    let mut intensity = Vec::with_capacity(ras.channels);
    for channel in ras.data.chunks_exact_mut(count) {
        let map = config.intensity.fit(channel)?;
        for v in channel.iter_mut() {
            *v = map.forward(*v);
        }
        intensity.push(map);
    }
    let (start, size) = match config.foreground_threshold {
        None => ([0; 3], ras.dims),
        Some(threshold) => foreground_box(&ras.data, ras.dims, threshold).ok_or_else(|| {
            let largest = ras.data.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            Error::data(
                path,
                format!(
                    "no foreground: the largest voxel is {largest} after the intensity map \
                     {:?}, the threshold of the foreground is {threshold}",
                    config.intensity
                ),
            )
        })?,
    };
    if let Some(value) = constant(&ras.data, ras.dims, start, size) {
        let reason = format!(
            "no contrast: every voxel is {value} after the intensity map {:?}",
            config.intensity
        );
        return Err(Error::data(path, reason));
    }
    let crop = CropRecord::new(ras.dims, start, size, config.min_size, config.pad);
    let data = if crop.dims == ras.dims { ras.data } else { crop.cut(&ras.data)? };
    Ok(Prepared {
        id: id.to_owned(),
        data,
        channels: ras.channels,
        dims: crop.dims,
        affine: crop.affine(&ras.affine),
        record: CaseRecord {
            input_dims,
            input_affine,
            space_code,
            orientation,
            resample,
            crop,
            intensity,
        },
    })
}
