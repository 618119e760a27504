//! Planes of a volume as flat images on the screen. Volumes have the axes `[d, h, w]` with d growing
//! to the patient's right, h to anterior and w to superior (RAS).

/// An anatomical plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    Axial,
    Coronal,
    Sagittal,
}

/// Which side of the patient is on the left of axial and coronal pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convention {
    /// The patient's right, as when one looks at the patient from the feet and from the front.
    #[default]
    Radiological,
    /// The patient's left.
    Neurological,
}

impl Plane {
    /// In the order of a panel's rows.
    pub const ALL: [Self; 3] = [Self::Axial, Self::Coronal, Self::Sagittal];

    /// The name written beside a row.
    pub fn name(self) -> &'static str {
        match self {
            Self::Axial => "axial",
            Self::Coronal => "coronal",
            Self::Sagittal => "sagittal",
        }
    }

    /// The axis that is cut, the one along the columns of the picture, the one along its rows.
    pub fn axes(self) -> [usize; 3] {
        match self {
            Self::Axial => [2, 0, 1],
            Self::Coronal => [1, 0, 2],
            Self::Sagittal => [0, 1, 2],
        }
    }

    /// The letters of the left and the top edge. Superior is up, or anterior in axial pictures; the
    /// patient of a sagittal picture looks to the left.
    pub fn edges(self, convention: Convention) -> [&'static str; 2] {
        let left = match convention {
            Convention::Radiological => "R",
            Convention::Neurological => "L",
        };
        match self {
            Self::Axial => [left, "A"],
            Self::Coronal => [left, "S"],
            Self::Sagittal => ["A", "S"],
        }
    }

    /// Whether columns run against their axis. Rows always do: index 0 is at the bottom.
    pub fn flips_columns(self, convention: Convention) -> bool {
        self == Self::Sagittal || convention == Convention::Radiological
    }

    /// The plane at `index` of the cut axis, row by row as on the screen. Voxels that the slice does
    /// not hold come out as the default value.
    pub fn cut<T: Copy + Default>(
        self,
        voxels: &[T],
        shape: [usize; 3],
        index: usize,
        convention: Convention,
    ) -> Vec<T> {
        let [cut, across, down] = self.axes();
        let strides = [shape[1] * shape[2], shape[2], 1];
        let (columns, rows) = (shape[across], shape[down]);
        let flip = self.flips_columns(convention);
        let mut out = Vec::with_capacity(columns * rows);
        for row in (0..rows).rev() {
            for x in 0..columns {
                let column = if flip { columns - 1 - x } else { x };
                let at = index * strides[cut] + column * strides[across] + row * strides[down];
                out.push(voxels.get(at).copied().unwrap_or_default());
            }
        }
        out
    }
}

/// Resamples an image of `[columns, rows]` pixels: linear when it is enlarged, the mean under a
/// triangle as wide as two target pixels when it is reduced (so that nothing aliases).
pub fn resample_linear(image: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let (across, down) = (taps(from[0], to[0]), taps(from[1], to[1]));
    let mut wide = Vec::with_capacity(to[0] * from[1]);
    for row in image.chunks_exact(from[0].max(1)) {
        wide.extend(across.iter().map(|(first, weights)| {
            weights.iter().zip(row.iter().skip(*first)).map(|(w, v)| w * v).sum::<f32>()
        }));
    }
    let mut out = Vec::with_capacity(to[0] * to[1]);
    for (first, weights) in &down {
        for x in 0..to[0] {
            let column = wide.iter().skip(first * to[0] + x).step_by(to[0].max(1));
            out.push(weights.iter().zip(column).map(|(w, v)| w * v).sum::<f32>());
        }
    }
    out
}

/// Resamples labels or masks: the nearest pixel.
pub fn resample_nearest<T: Copy + Default>(
    image: &[T],
    from: [usize; 2],
    to: [usize; 2],
) -> Vec<T> {
    let nearest = |i: usize, axis: usize| (2 * i + 1) * from[axis] / (2 * to[axis]).max(1);
    let mut out = Vec::with_capacity(to[0] * to[1]);
    for y in 0..to[1] {
        for x in 0..to[0] {
            let at = nearest(y, 1) * from[0] + nearest(x, 0);
            out.push(image.get(at).copied().unwrap_or_default());
        }
    }
    out
}

/// For each target pixel the first source pixel and the weights from there on (they sum to 1).
fn taps(from: usize, to: usize) -> Vec<(usize, Vec<f32>)> {
    let step = from as f64 / to.max(1) as f64;
    let radius = step.max(1.0);
    let tap = |i: usize| {
        let centre = (i as f64 + 0.5) * step - 0.5;
        let first = (centre - radius).floor().max(0.0) as usize;
        let last = ((centre + radius).ceil() as usize).min(from.saturating_sub(1));
        let weight = |j: usize| (1.0 - (j as f64 - centre).abs() / radius).max(0.0);
        let sum: f64 = (first..=last).map(weight).sum();
        (first, (first..=last).map(|j| (weight(j) / sum) as f32).collect())
    };
    (0..to).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A volume whose voxels say where they are: 100 d + 10 h + w.
    fn coordinates(shape: [usize; 3]) -> Vec<u32> {
        let mut out = Vec::new();
        for d in 0..shape[0] {
            for h in 0..shape[1] {
                out.extend((0..shape[2]).map(|w| (100 * d + 10 * h + w) as u32));
            }
        }
        out
    }

    #[test]
    fn planes_lie_as_radiologists_expect() {
        let shape = [2, 3, 4];
        let volume = coordinates(shape);
        let cut = |plane: Plane, i, c| plane.cut(&volume, shape, i, c);
        use Convention::{Neurological, Radiological};
        // Top left of a radiological axial picture: right (d high), anterior (h high).
        assert_eq!(cut(Plane::Axial, 3, Radiological), [123, 23, 113, 13, 103, 3]);
        assert_eq!(cut(Plane::Axial, 3, Neurological), [23, 123, 13, 113, 3, 103]);
        // Coronal: right, superior (w high).
        assert_eq!(cut(Plane::Coronal, 1, Radiological), [113, 13, 112, 12, 111, 11, 110, 10]);
        assert_eq!(cut(Plane::Coronal, 1, Neurological)[..2], [13, 113]);
        // Sagittal, in either convention: anterior to the left, superior up.
        for c in [Radiological, Neurological] {
            assert_eq!(cut(Plane::Sagittal, 0, c)[..4], [23, 13, 3, 22]);
        }
    }

    #[test]
    fn resampling_keeps_constants_ramps_and_means() {
        let constant = resample_linear(&[3.0; 35], [7, 5], [16, 3]);
        assert!(constant.len() == 48 && constant.iter().all(|v| (v - 3.0).abs() < 1e-5));
        // The same size is the same image, to the bit.
        let image: Vec<f32> = (0..12).map(|i| (i * i) as f32).collect();
        assert_eq!(resample_linear(&image, [4, 3], [4, 3]), image);
        let ramp = resample_linear(&[0.0, 1.0, 2.0, 3.0], [4, 1], [8, 1]);
        assert_eq!(ramp, [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
        // A fine checkerboard becomes grey; picking pixels would make it black or white.
        let checks: Vec<f32> = (0..64 * 64).map(|i| ((i / 64 + i) % 2) as f32).collect();
        let small = resample_linear(&checks, [64, 64], [16, 16]);
        assert!(small.iter().all(|v| (v - 0.5).abs() < 0.1), "{small:?}");
    }

    #[test]
    fn labels_are_picked_never_mixed() {
        assert_eq!(resample_nearest(&[1u8, 9], [2, 1], [4, 2]), [1, 1, 9, 9, 1, 1, 9, 9]);
        assert_eq!(resample_nearest(&[1u8, 2, 3], [3, 1], [1, 1]), [2]);
    }
}
