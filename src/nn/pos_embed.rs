//! Fixed 3D sin-cos position tables.

/// The table of a grid, `[1 + N, dim]` row-major: row 0 (cls) is zero, then the tokens in raster
/// order. With `f = dim / 6` and `w_k = 10000^(-k/f)`, a token at grid position (z, y, x) is
/// `[sin(z w) | cos(z w) | sin(y w) | cos(y w) | sin(x w) | cos(x w) | 0 ...]`: the last
/// `dim - 6 f` channels are zero, so that widths that are no multiple of 6 (512) work too.
///
/// Source: docs/method.md, 3.2 and U8.
pub fn sincos_3d(grid: [usize; 3], dim: usize) -> Vec<f64> {
    let f = dim / 6;
    let omega: Vec<f64> = (0..f).map(|k| libm::pow(10000.0, -(k as f64) / f as f64)).collect();
    let mut table = vec![0.0; dim];
    for z in 0..grid[0] {
        for y in 0..grid[1] {
            for x in 0..grid[2] {
                for at in [z, y, x] {
                    table.extend(omega.iter().map(|w| libm::sin(at as f64 * w)));
                    table.extend(omega.iter().map(|w| libm::cos(at as f64 * w)));
                }
                table.extend(std::iter::repeat_n(0.0, dim - 6 * f));
            }
        }
    }
    table
}

/// A table for the grid `to`, trilinearly interpolated from the table of the grid `from` (without
/// aligned corners, as `torch.nn.functional.interpolate`); the cls row is kept.
///
/// Source: docs/method.md, 3.2, 6.1 and U2.
pub fn interpolate(table: &[f64], dim: usize, from: [usize; 3], to: [usize; 3]) -> Vec<f64> {
    let taps = [0, 1, 2].map(|a| {
        (0..to[a])
            .map(|i| {
                let last = from[a] - 1;
                let at = (i as f64 + 0.5) * from[a] as f64 / to[a] as f64 - 0.5;
                let at = at.clamp(0.0, last as f64);
                let low = at.floor() as usize;
                (low, (low + 1).min(last), at - low as f64)
            })
            .collect::<Vec<_>>()
    });
    let row =
        |z: usize, y: usize, x: usize| &table[(1 + (z * from[1] + y) * from[2] + x) * dim..][..dim];
    let mut out = table[..dim].to_vec();
    for &(z0, z1, wz) in &taps[0] {
        for &(y0, y1, wy) in &taps[1] {
            for &(x0, x1, wx) in &taps[2] {
                out.extend((0..dim).map(|c| {
                    let along_x = |z, y| row(z, y, x0)[c] * (1.0 - wx) + row(z, y, x1)[c] * wx;
                    let along_y = |z| along_x(z, y0) * (1.0 - wy) + along_x(z, y1) * wy;
                    along_y(z0) * (1.0 - wz) + along_y(z1) * wz
                }));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_of_the_table() {
        let table = sincos_3d([2, 3, 2], 14);
        assert_eq!(table.len(), 14 * 13);
        assert!(table[..14].iter().all(|&v| v == 0.0));
        // Token (1, 2, 1) is number (1 * 3 + 2) * 2 + 1 = 11; f = 2, w = 1, 0.01.
        let row = &table[14 * 12..];
        let expected = [
            1f64.sin(),
            0.01f64.sin(),
            1f64.cos(),
            0.01f64.cos(),
            2f64.sin(),
            0.02f64.sin(),
            2f64.cos(),
            0.02f64.cos(),
            1f64.sin(),
            0.01f64.sin(),
            1f64.cos(),
            0.01f64.cos(),
            0.0,
            0.0,
        ];
        for (a, b) in row.iter().zip(expected) {
            assert!((a - b).abs() < 1e-15);
        }
    }

    #[test]
    fn interpolation_to_the_same_grid_is_the_identity() {
        let table = sincos_3d([2, 3, 4], 12);
        assert_eq!(interpolate(&table, 12, [2, 3, 4], [2, 3, 4]), table);
    }

    #[test]
    fn interpolation_of_a_ramp_is_linear_inside() {
        // One channel that holds the x position: doubled grid reads -0.25 (clamped), 0.25, ...
        let table: Vec<f64> = std::iter::once(0.0).chain((0..4).map(f64::from)).collect();
        let out = interpolate(&table, 1, [1, 1, 4], [1, 1, 8]);
        assert_eq!(out, [0.0, 0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
    }
}
