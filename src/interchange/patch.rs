//! The kernel of the patch embedding: MONAI's "perceptron" order, and other numbers of channels.

/// `[dim, (p1 p2 p3 c)]` of MONAI's "perceptron" as `[dim, c, p1, p2, p3]`.
///
/// Source: docs/interchange.md, table of names.
pub fn from_perceptron(weight: &[f32], channels: usize, patch: usize) -> Vec<f32> {
    transpose(weight, patch.pow(3), channels)
}

/// `[dim, c, p1, p2, p3]` as `[dim, (p1 p2 p3 c)]`.
pub fn to_perceptron(kernel: &[f32], channels: usize, patch: usize) -> Vec<f32> {
    transpose(kernel, channels, patch.pow(3))
}

/// Every `[rows, columns]` matrix of `values` transposed.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let matrix = |m: &[f32], out: &mut Vec<f32>| {
        out.extend((0..columns).flat_map(|c| m.iter().skip(c).step_by(columns).copied()));
    };
    let mut out = Vec::with_capacity(values.len());
    values.chunks_exact(rows * columns).for_each(|m| matrix(m, &mut out));
    out
}

/// `[dim, from, p1, p2, p3]` with its channels one after another `times` times; nothing is divided.
///
/// Source: docs/method.md, 6.1.
pub fn repeat_channels(kernel: &[f32], dim: usize, times: usize) -> Vec<f32> {
    kernel.chunks_exact(kernel.len() / dim).flat_map(|row| row.repeat(times)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perceptron_order_is_channels_last() {
        // dim 2, 3 channels, patch 2: the element (d, c, voxel) is 100 d + 10 c + voxel.
        let at = |d: usize, c: usize, v: usize| (100 * d + 10 * c + v) as f32;
        let each = |d| (0..3).flat_map(move |c| (0..8).map(move |v| at(d, c, v)));
        let kernel: Vec<f32> = (0..2).flat_map(each).collect();
        let flat = to_perceptron(&kernel, 3, 2);
        assert_eq!(flat[..5], [0.0, 10.0, 20.0, 1.0, 11.0]);
        assert_eq!(flat[24], 100.0);
        assert_eq!(from_perceptron(&flat, 3, 2), kernel);
    }

    #[test]
    fn channels_repeat_within_each_output() {
        assert_eq!(repeat_channels(&[1.0, 2.0, 3.0, 4.0], 2, 2), [1., 2., 1., 2., 3., 4., 3., 4.]);
    }
}
