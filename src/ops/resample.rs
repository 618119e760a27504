//! Resampling: a volume on another grid, trilinearly or at the nearest voxel.
//!
//! Output voxel `i` lies at position `map i` of the source, clamped to it. Positions are 24.40 fixed point,
//! the same number on every device: with axes of 1000 voxels they are good to 1.4e-9 voxel, near the origin
//! and far from it.

use rayon::prelude::*;

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::launch::{Arg, LaunchConfig};
use crate::device::{DType, Device, Element, KernelCall, Real, Tensor, abi, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "resample";
/// Bits below the point.
const BITS: u32 = 40;

/// How a value between voxels is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    Linear,
    /// Of two equally near voxels the one with the even index (as MONAI and numpy round).
    Nearest,
}

/// Positions in the source, in voxels along d, h, w: row `a` is
/// `position[a] = map[a][0] i_d + map[a][1] i_h + map[a][2] i_w + map[a][3]`.
pub type AffineMap = [[f64; 4]; 3];

/// A volume on the grid that `map` describes.
///
/// Shapes: `volume` `[channels, d, h, w]` f32 or i16 (any type for `Nearest`: u8, i16, f32 on a GPU), result
/// `[channels, to]`, f32 for `Linear` (f64 of f64), of the volume's type for `Nearest`.
/// Units: voxels; voxel centres are integers (affines of NIfTI files compose to such a map).
/// Numerics: outside of the volume its nearest voxel (border); weights and sums in the result's arithmetic.
/// Errors: `Shape`: an empty volume, a map that is not finite or leaves +-2^22 voxels.
/// Source: MONAI `Spacing` (`padding_mode="border"`, `align_corners=False` with voxel on voxel).
///
/// ```
/// use glmae::device::{Device, Tensor};
/// use glmae::ops::resample::{Interpolation, resample};
/// let cpu = Device::Cpu;
/// let volume = Tensor::from_slice(&cpu, &[0.0, 10.0, 20.0], &[1, 1, 1, 3])?;
/// // Steps of half a voxel along w.
/// let map = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]];
/// let y = resample(&volume, [1, 1, 5], &map, Interpolation::Linear)?;
/// assert_eq!(y.to_f64_vec()?, [0.0, 5.0, 10.0, 15.0, 20.0]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn resample(
    volume: &Tensor,
    to: [usize; 3],
    map: &AffineMap,
    how: Interpolation,
) -> Result<Tensor> {
    let &[channels, d, h, w] = volume.shape() else {
        return Err(Error::shape(OP, "[channels, d, h, w]", format!("{:?}", volume.shape())));
    };
    let from = [d, h, w];
    let grid = Grids { from, to, map: fixed_point(map, from, to)? };
    let dtype = match (how, volume.dtype()) {
        (Interpolation::Linear, DType::F64) => DType::F64,
        (Interpolation::Linear, DType::F32 | DType::I16) => DType::F32,
        (Interpolation::Linear, other) => {
            return Err(Error::shape(OP, "a volume of f32 or i16", other.name()));
        }
        (Interpolation::Nearest, dtype) => dtype,
    };
    let mut out = Tensor::empty(volume.device(), dtype, &[channels, to[0], to[1], to[2]])?;
    if out.is_empty() {
        return Ok(out);
    }
    if *volume.device() != Device::Cpu {
        run_kernel(&mut out, volume, &grid, how)?;
        return Ok(out);
    }
    match (how, volume.dtype()) {
        (Interpolation::Linear, DType::I16) => linear::<f32, i16>(&mut out, volume, &grid)?,
        (Interpolation::Linear, _) => {
            with_real!(OP, dtype, T => linear::<T, T>(&mut out, volume, &grid))?;
        }
        (_, DType::U8) => nearest::<u8>(&mut out, volume, &grid)?,
        (_, DType::I16) => nearest::<i16>(&mut out, volume, &grid)?,
        (_, DType::I32) => nearest::<i32>(&mut out, volume, &grid)?,
        _ => with_real!(OP, dtype, T => nearest::<T>(&mut out, volume, &grid))?,
    }
    Ok(out)
}

struct Grids {
    from: [usize; 3],
    to: [usize; 3],
    map: abi::AffineMap,
}

fn fixed_point(map: &AffineMap, from: [usize; 3], to: [usize; 3]) -> Result<abi::AffineMap> {
    const MOST: f64 = 4_194_304.0; // 2^22: sums of four such numbers stay within 63 bits
    let reach = |row: &[f64; 4]| -> f64 {
        let ends = row.iter().zip(to).map(|(step, n)| step.abs() * n as f64).sum::<f64>();
        ends + row[3].abs()
    };
    let near = map.iter().all(|row| reach(row) < MOST); // not so for NaN
    if !near
        || from.iter().any(|&n| n == 0 || n as f64 > MOST)
        || to.iter().any(|&n| n as f64 > MOST)
    {
        let got = format!("{to:?} voxels by {map:?} from {from:?}");
        return Err(Error::shape(OP, "a volume and finite positions within 2^22 voxels", got));
    }
    let fixed = |x: f64| (x * (1i64 << BITS) as f64).round() as i64;
    Ok(abi::AffineMap {
        start: map.map(|row| fixed(row[3])),
        step: [0, 1, 2].map(|b| map.map(|row| fixed(row[b]))),
    })
}

fn run_kernel(out: &mut Tensor, volume: &Tensor, grid: &Grids, how: Interpolation) -> Result<()> {
    let ([to_d, to_h, to_w], [d, h, w]) = (grid.to, grid.from);
    let channels = volume.len() / (d * h * w);
    let (dtype, suffix) = match (how, volume.dtype()) {
        (Interpolation::Linear, dtype @ (DType::F32 | DType::I16)) => (dtype, ""),
        (Interpolation::Nearest, dtype @ (DType::F32 | DType::I16 | DType::U8)) => {
            (dtype, "_nearest")
        }
        (_, other) => return Err(Error::shape(OP, "a volume of f32, i16 or u8", other.name())),
    };
    if to_d > 65_535 || channels > 65_535 {
        let got = format!("{channels} x {to_d}");
        return Err(Error::shape(OP, "at most 65535 channels and slices", got));
    }
    let mut call = KernelCall::new(volume.device(), &format!("resample_fwd_{dtype}{suffix}"))
        .output(out)?
        .input(volume)?
        .value(Arg::Pod(bytemuck::bytes_of(&grid.map)));
    for size in [d, h, w, to_d, to_h, to_w] {
        call = call.value(size as i32); // 2^22 at most
    }
    call.launch(LaunchConfig {
        grid: [to_h.div_ceil(8) as u32, to_d as u32, channels as u32],
        block: [256, 1, 1],
        shared_bytes: 0,
    })
}

impl Grids {
    /// Runs `value(channel of the source, position)` for every voxel of the result.
    fn fill<T: Element, X: Element>(
        &self,
        out: &mut Tensor,
        volume: &Tensor,
        value: impl Fn(&[X], [i64; 3]) -> T + Sync,
    ) -> Result<()> {
        let [to_d, to_h, to_w] = self.to;
        let x = volume.host::<X>()?;
        let voxels: usize = self.from.iter().product();
        let planes = out.host_mut::<T>()?.par_chunks_exact_mut(to_h * to_w).enumerate();
        planes.for_each(|(plane, out)| {
            let (channel, i_d) = (plane / to_d, (plane % to_d) as i64);
            let x = &x[channel * voxels..][..voxels];
            for (i_h, row) in out.chunks_exact_mut(to_w).enumerate() {
                for (i_w, out) in row.iter_mut().enumerate() {
                    let [a, b, c] = &self.map.step;
                    let at = |axis: usize| {
                        self.map.start[axis]
                            + i_d * a[axis]
                            + i_h as i64 * b[axis]
                            + i_w as i64 * c[axis]
                    };
                    *out = value(x, [0, 1, 2].map(at));
                }
            }
        });
        Ok(())
    }
}

fn nearest<X: Element>(out: &mut Tensor, volume: &Tensor, grid: &Grids) -> Result<()> {
    let [_, h, w] = grid.from;
    grid.fill(out, volume, |x: &[X], position| {
        let [z, y, v] = [0, 1, 2].map(|a| nearest_voxel(position[a], grid.from[a]));
        x[(z * h + y) * w + v]
    })
}

/// The nearest voxel; of two the even one.
fn nearest_voxel(position: i64, size: usize) -> usize {
    let half = 1i64 << (BITS - 1);
    let mut at = (position + half) >> BITS;
    if (position + half) & (2 * half - 1) == 0 && at & 1 == 1 {
        at -= 1;
    }
    at.clamp(0, size as i64 - 1) as usize
}

/// Two neighbours along an axis and the weight of the second.
fn tap<T: Real>(position: i64, size: usize) -> (usize, usize, T) {
    let position = position.max(0);
    let (low, last) = ((position >> BITS) as usize, size - 1);
    if low >= last {
        return (last, last, T::default());
    }
    let fraction = position & ((1i64 << BITS) - 1);
    (low, low + 1, T::of(fraction as f64 / (1i64 << BITS) as f64))
}

fn linear<T: Real, X: Element>(out: &mut Tensor, volume: &Tensor, grid: &Grids) -> Result<()> {
    let [_, h, w] = grid.from;
    grid.fill(out, volume, |x: &[X], position| {
        let [z, y, v] = [0, 1, 2].map(|a| tap::<T>(position[a], grid.from[a]));
        let at = |z: usize, y: usize, v: usize| T::of(x[(z * h + y) * w + v].to_f64());
        // Where a weight is 0 the neighbour is not looked at.
        let lerp = |a: T, b: &dyn Fn() -> T, t: T| {
            if t == T::default() { a } else { a + (b() - a) * t }
        };
        let along_w = |z: usize, y: usize| lerp(at(z, y, v.0), &|| at(z, y, v.1), v.2);
        let along_h = |z: usize| lerp(along_w(z, y.0), &|| along_w(z, y.1), y.2);
        lerp(along_h(z.0), &|| along_h(z.1), z.2)
    })
}

/// The op in the registry. Dims of a case: channels, volume d, h, w, result d, h, w, and the kind: 0 linear,
/// 1 nearest, both oblique and partly outside; 2 the volume as it is; 3 linear from i16; 4 nearest of u8,
/// 5 of i16; 6 nearest with many ties.
pub struct Spec;

const NAMES: [&str; 8] = ["channels", "d", "h", "w", "to_d", "to_h", "to_w", "kind"];

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "a volume on another grid, trilinear or nearest"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 8]| OpCase::new(&NAMES, &d);
        vec![
            case([1, 1, 1, 1, 1, 1, 1, 0]),
            case([2, 7, 5, 11, 6, 9, 35, 0]),
            case([1, 9, 13, 8, 5, 17, 40, 1]),
            case([2, 4, 9, 33, 4, 9, 33, 2]),
            case([1, 12, 10, 9, 8, 7, 33, 3]),
            case([3, 5, 6, 7, 7, 9, 5, 4]),
            case([1, 6, 5, 13, 3, 10, 7, 5]),
            case([1, 6, 7, 8, 11, 13, 15, 6]),
            case([1, 8, 9, 10, 11, 6, 34, 0]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[1, 160, 160, 160, 128, 128, 128, 0])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let shape = &case.dims[..4];
        let data = case.normal(0, shape.iter().product(), case.offset, 1.0);
        vec![Input::new("volume", InputKind::Constant, shape, data).wide()]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let at = |i: usize| [case.dims[i], case.dims[i + 1], case.dims[i + 2]];
        let (from, to, kind) = (at(1), at(4), case.dims[7]);
        let as_dtype = |dtype: DType, scale: f64| {
            let data = args.var(0)?.value().to_f64_vec()?;
            let data: Vec<f64> = data.iter().map(|x| (x * scale).round().abs()).collect();
            Tensor::from_f64(tape.device(), dtype, &data, &case.dims[..4])
        };
        let volume = match kind {
            3 | 5 => as_dtype(DType::I16, 900.0)?,
            4 => as_dtype(DType::U8, 60.0)?,
            _ => args.var(0)?.value().clone(),
        };
        let how = match kind {
            0 | 2 | 3 => Interpolation::Linear,
            _ => Interpolation::Nearest,
        };
        let ratio = [0, 1, 2].map(|a| from[a] as f64 / to[a] as f64);
        let map = match kind {
            2 => [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]],
            6 => [[0.5, 0.0, 0.0, 0.5], [0.0, 0.5, 0.0, -0.5], [0.0, 0.0, 0.5, 0.0]],
            _ => [
                [1.1 * ratio[0], -0.213 * ratio[1], 0.07 * ratio[2], -0.6],
                [0.19 * ratio[0], 0.97 * ratio[1], 0.031 * ratio[2], -1.3],
                [-0.11 * ratio[0], 0.153 * ratio[1], 1.07 * ratio[2], 0.37],
            ],
        };
        Ok(vec![Var::constant(resample(&volume, to, &map, how)?)])
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        if [0, 3].contains(&case.dims[7]) { Tolerance::Reduction } else { Tolerance::Bitwise }
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &OpCase, _: usize) -> u64 {
        let of = |dims: &[usize]| case.dims[0] * dims.iter().product::<usize>();
        4 * (of(&case.dims[1..4]) + of(&case.dims[4..7])) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        14 * (case.dims[0] * case.dims[4..7].iter().product::<usize>()) as u64
    }
}
