//! From the configuration to prepared cases: how they are prepared, and whether views fit in them.

use crate::config::{Config, GlobalCrop, IntensityKind, NonFinite};
use crate::data::layout::Case;
use crate::data::nifti::{ReadLimits, read_header};
use crate::data::{self, Intensity, Orientation, PrepareConfig};
use crate::{Error, Result};

/// How cases are prepared for a configuration: native views must fit, so smaller volumes are padded
/// with zeros to their size.
pub fn prepare_config(config: &Config) -> PrepareConfig {
    let d = &config.data;
    let [lo, hi] = d.percentiles.map(|p| p as f32);
    let intensity = match d.intensity {
        IntensityKind::Window => {
            Intensity::Window { lo: d.window_hu[0] as f32, hi: d.window_hu[1] as f32 }
        }
        IntensityKind::Percentile => Intensity::PercentileScale { lo, hi },
        IntensityKind::Zscore => Intensity::PercentileZScore { lo, hi },
    };
    PrepareConfig {
        intensity,
        foreground_threshold: d.foreground.map(|f| f as f32),
        channels: config.model.in_chans,
        min_size: native_size(config),
        nonfinite: match d.nonfinite {
            NonFinite::Error => data::NonFinite::Error,
            NonFinite::Zero => data::NonFinite::Zero,
        },
        ..PrepareConfig::default()
    }
}

/// Least size of a volume that all native views fit in.
fn native_size(config: &Config) -> [usize; 3] {
    let v = &config.views;
    let native_global =
        config.loss.objective.has_global_views() && v.global_crop == GlobalCrop::Native;
    [0, 1, 2].map(|a| match native_global {
        true => v.local_size[a].max(v.global_size[a]),
        false => v.local_size[a],
    })
}

/// A volume smaller than a native view is padded, as in the paper; a view that is larger than
/// *every* volume along some axis is refused: all views would be partly padding, which nobody means.
pub fn check_view_sizes(config: &Config, cases: &[Case]) -> Result<()> {
    let wanted = native_size(config);
    let mut largest = [0; 3];
    for image in cases.iter().filter_map(|case| case.images.first()) {
        // A file that cannot be read is the loader's to report.
        let Ok(header) = read_header(image, &ReadLimits::default()) else { continue };
        let Ok(orientation) = Orientation::from_affine(&header.affine) else { continue };
        let dims = orientation.ras_dims(header.spatial_dims());
        largest = [0, 1, 2].map(|a| largest[a].max(dims[a]));
        if (0..3).all(|a| largest[a] >= wanted[a]) {
            return Ok(());
        }
    }
    if largest == [0; 3] {
        return Ok(());
    }
    Err(Error::Config(format!(
        "native views of {wanted:?} voxels (views.local_size, and views.global_size with \
         views.global_crop = \"native\") are larger than every volume in {}: the largest extents \
         are {largest:?} voxels in RAS order; choose smaller views",
        config.data.path
    )))
}
