//! View cutting: boxes of a volume, native or resized, into the rows of a matrix, a patch each.
//!
//! A box that has the size of its view on an integer position is copied (native crop). Otherwise
//! it is resized trilinearly: output voxel `i` of `n` reads position `start + (i + 0.5) size / n
//! - 0.5` along each axis, clamped to the volume (the convention without aligned corners).

use rayon::prelude::*;

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::launch::{Arg, LaunchConfig};
use crate::device::{DType, Device, Element, KernelCall, Real, Tensor, TensorMut, abi, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "view_cut";

/// A box in voxels of its volume, possibly fractional, along d, h, w. Voxel `i` covers the
/// interval from `i` to `i + 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewBox {
    pub start: [f64; 3],
    pub size: [f64; 3],
    /// Axes along which the view is mirrored.
    pub mirrored: [bool; 3],
}

impl ViewBox {
    /// A native crop.
    pub fn native(start: [usize; 3], size: [usize; 3]) -> Self {
        Self { start: start.map(|x| x as f64), size: size.map(|x| x as f64), mirrored: [false; 3] }
    }

    /// As the kernel reads it, for a view of `to` voxels.
    fn fixed_point(&self, to: [usize; 3]) -> abi::ViewBox {
        // 32.32: exact for integers, else good to 2^-33 voxel.
        let fixed = |x: f64| (x * 4_294_967_296.0).round() as i64;
        let axes = [0, 1, 2].map(|a| {
            let step = self.size[a] / to[a] as f64;
            let first = self.start[a] + 0.5 * step - 0.5;
            let last = first + (to[a] - 1) as f64 * step;
            let (start, step) = if self.mirrored[a] { (last, -step) } else { (first, step) };
            (fixed(start), fixed(step))
        });
        abi::ViewBox { start: axes.map(|a| a.0), step: axes.map(|a| a.1) }
    }
}

/// Where the patches of a view go: voxels of the view along d, h, w, edge of a patch, and the row of every
/// patch, `[patches]` i32 in raster order.
#[derive(Clone, Copy, Debug)]
pub struct PatchRows<'a> {
    pub size: [usize; 3],
    pub patch: usize,
    pub rows: &'a Tensor,
}

/// Cuts one view, patch by patch.
///
/// Shapes: `out` `[rows, channels p^3]`, each row `(c, dz, dy, dx)`, `volume` `[channels, d, h, w]`, of the same
/// dtype or i16. On a GPU `out` is f32 or bf16, `volume` f32 or i16. Rows that no patch goes to stay as they are.
/// Numerics: native crops are exact; weights and sums in the arithmetic of the tensors; a view in bf16
/// is rounded once, at the end.
/// Errors: `Shape`: rows of another width, a view whose sides are no multiples of the patch, a box that is empty
/// or not within the volume; on the CPU, rows that do not exist or are named twice (kernels trust them).
/// Source: docs/method.md, 2.2, 3.1 and U1.
///
/// ```
/// use glmae::device::{DType, Device, Tensor};
/// use glmae::ops::view_cut::{PatchRows, ViewBox, view_cut};
/// let cpu = Device::Cpu;
/// let volume = Tensor::from_slice(&cpu, &[0.0, 1.0, 2.0, 3.0], &[1, 1, 1, 4])?;
/// let rows = Tensor::from_slice(&cpu, &[1i32, 0], &[2])?;
/// let to = PatchRows { size: [1, 1, 2], patch: 1, rows: &rows };
/// let mut view = Tensor::zeros(&cpu, DType::F64, &[2, 1])?;
/// view_cut(&mut view.as_mut(), &volume, &ViewBox::native([0, 0, 0], [1, 1, 4]), &to)?;
/// // Four voxels in two: voxel i reads position (i + 0.5) 4 / 2 - 0.5, which is 0.5 and 2.5.
/// assert_eq!(view.to_f64_vec()?, [2.5, 0.5]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub fn view_cut(
    out: &mut TensorMut<'_>,
    volume: &Tensor,
    view: &ViewBox,
    to: &PatchRows<'_>,
) -> Result<()> {
    let &[channels, d, h, w] = volume.shape() else {
        return Err(Error::shape(OP, "[channels, d, h, w]", format!("{:?}", volume.shape())));
    };
    let p = to.patch;
    let divides = p > 0 && to.size.iter().all(|&n| n > 0 && n.is_multiple_of(p));
    let patches: usize = if divides { to.size.iter().map(|n| n / p).product() } else { 0 };
    let fits = matches!(*out.shape(), [_, width] if width == channels * p.pow(3));
    if !divides || !fits || to.rows.shape() != [patches] || to.rows.dtype() != DType::I32 {
        let expected = format!("whole patches of {p}^3 in rows of {channels} channels");
        let got = format!("{:?} in {:?} by {:?}", to.size, out.shape(), to.rows.shape());
        return Err(Error::shape(OP, expected, got));
    }
    let from = [d, h, w];
    let inside = (0..3).all(|a| {
        let (start, size) = (view.start[a], view.size[a]);
        size > 0.0 && start >= 0.0 && start + size <= from[a] as f64 + 1e-6
    });
    if !inside {
        return Err(Error::shape(OP, format!("a box within {from:?}"), format!("{view:?}")));
    }
    if *volume.device() != Device::Cpu {
        return run_kernel(out, volume, view, to);
    }
    let axes = [0, 1, 2].map(|a| taps(view, a, to.size[a], from[a]));
    let cut =
        Cut { from, axes, patch: p, patch_of: inverse(to.rows.host::<i32>()?, out.shape()[0])? };
    with_real!(OP, out.dtype(), T => {
        match volume.dtype() {
            DType::I16 => cut.run(out.host_mut::<T>()?, volume.host::<i16>()?),
            _ => cut.run(out.host_mut::<T>()?, volume.host::<T>()?),
        }
        Ok(())
    })
}

fn run_kernel(
    out: &mut TensorMut<'_>,
    volume: &Tensor,
    view: &ViewBox,
    to: &PatchRows<'_>,
) -> Result<()> {
    let (&[channels, d, h, w], [to_d, to_h, to_w]) = (volume.shape(), to.size) else {
        return Err(Error::shape(OP, "[channels, d, h, w]", format!("{:?}", volume.shape())));
    };
    let name = match (volume.dtype(), out.dtype()) {
        (from @ (DType::F32 | DType::I16), DType::F32) => format!("view_cut_fwd_{from}"),
        (from @ (DType::F32 | DType::I16), DType::Bf16) => format!("view_cut_fwd_{from}_half"),
        (from, to) => {
            let expected = "f32 or bf16 views of f32 or i16 volumes";
            return Err(Error::shape(OP, expected, format!("{to} from {from}")));
        }
    };
    if channels == 0 {
        return Ok(());
    }
    let fixed = view.fixed_point(to.size);
    let mut call = KernelCall::new(volume.device(), &name)
        .output_mut(out)?
        .input(volume)?
        .input(to.rows)?
        .value(Arg::Pod(bytemuck::bytes_of(&fixed)));
    for size in [d, h, w, to_h, to_w, to.patch] {
        let size = i32::try_from(size)
            .map_err(|_| Error::shape(OP, "axes below 2^31 voxels", size.to_string()))?;
        call = call.value(size);
    }
    call.launch(LaunchConfig {
        grid: [to_h.div_ceil(8) as u32, to_d as u32, channels as u32],
        block: [256, 1, 1],
        shared_bytes: 0,
    })
}

/// For every row the patch that goes there.
fn inverse(rows: &[i32], count: usize) -> Result<Vec<Option<usize>>> {
    let mut patch_of = vec![None; count];
    for (patch, &row) in rows.iter().enumerate() {
        let place = usize::try_from(row).ok().and_then(|row| patch_of.get_mut(row));
        match place {
            Some(place @ None) => *place = Some(patch),
            _ => {
                let expected = format!("distinct rows below {count}");
                return Err(Error::shape(OP, expected, format!("row {row}")));
            }
        }
    }
    Ok(patch_of)
}

/// The reference: what is read from where.
struct Cut {
    from: [usize; 3],
    axes: [Vec<Tap>; 3],
    patch: usize,
    patch_of: Vec<Option<usize>>,
}

impl Cut {
    fn run<T: Real, X: Element>(&self, out: &mut [T], x: &[X]) {
        let (p, [id, ih, iw]) = (self.patch, self.from);
        let [_, gh, gw] = [0, 1, 2].map(|a| self.axes[a].len() / p);
        let width = out.len() / self.patch_of.len().max(1);
        let rows = out.par_chunks_mut(width.max(1)).zip(&self.patch_of);
        rows.for_each(|(row, patch)| {
            let Some(patch) = *patch else { return };
            let first = [patch / (gh * gw), patch / gw % gh, patch % gw].map(|n| n * p);
            let [z, y, w] = [0, 1, 2].map(|a| &self.axes[a][first[a]..first[a] + p]);
            for (line, out) in row.chunks_exact_mut(p).enumerate() {
                let (channel, dz, dy) = (line / (p * p), line / p % p, line % p);
                let x = &x[channel * id * ih * iw..][..id * ih * iw];
                cut_row(out, x, [ih, iw], &z[dz], &y[dy], w);
            }
        });
    }
}

/// Two neighbours along an axis and the weight of the second.
struct Tap {
    low: usize,
    high: usize,
    weight: f64,
}

fn taps(view: &ViewBox, axis: usize, to: usize, from: usize) -> Vec<Tap> {
    let last = from - 1;
    let (start, size) = (view.start[axis], view.size[axis]);
    (0..to)
        .map(|i| if view.mirrored[axis] { to - 1 - i } else { i })
        .map(|i| {
            let position = start + (i as f64 + 0.5) * (size / to as f64) - 0.5;
            let position = position.clamp(0.0, last as f64);
            let low = (position.floor() as usize).min(last);
            Tap { low, high: (low + 1).min(last), weight: position - low as f64 }
        })
        .collect()
}

fn cut_row<T: Real, X: Element>(
    row: &mut [T],
    x: &[X],
    [h, w]: [usize; 2],
    z: &Tap,
    y: &Tap,
    axis: &[Tap],
) {
    let along = |line: &[X], t: &Tap| {
        lerp(T::of(line[t.low].to_f64()), T::of(line[t.high].to_f64()), t.weight)
    };
    let line = |z: usize, y: usize| &x[(z * h + y) * w..][..w];
    if z.weight == 0.0 && y.weight == 0.0 {
        let line = line(z.low, y.low);
        for (out, t) in row.iter_mut().zip(axis) {
            // No arithmetic on exact positions: a native crop is a copy.
            *out = if t.weight == 0.0 { T::of(line[t.low].to_f64()) } else { along(line, t) };
        }
        return;
    }
    let lines =
        [line(z.low, y.low), line(z.low, y.high), line(z.high, y.low), line(z.high, y.high)];
    for (out, t) in row.iter_mut().zip(axis) {
        let [a, b, c, d] = lines.map(|l| along(l, t));
        *out = lerp(lerp(a, b, y.weight), lerp(c, d, y.weight), z.weight);
    }
}

fn lerp<T: Real>(a: T, b: T, t: f64) -> T {
    a + (b - a) * T::of(t)
}

/// The op in the registry. Dims of a case: channels, volume d, h, w, view d, h, w, edge of a patch, then 1 for a
/// native crop or 0 for a resized box, 2 and 3 the same mirrored along d and w, 4 for the whole volume;
/// then 1 for views in the dtype of activations, 0 for the volume's.
pub struct Spec;

const NAMES: [&str; 10] =
    ["channels", "d", "h", "w", "to_d", "to_h", "to_w", "patch", "native", "half"];

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "crop and trilinear resize of a volume into a view, patch by patch"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 10]| OpCase::new(&NAMES, &d);
        vec![
            case([1, 1, 1, 1, 1, 1, 1, 1, 1, 0]),
            case([1, 7, 5, 9, 3, 4, 5, 1, 1, 0]),
            case([2, 13, 11, 6, 8, 8, 8, 8, 0, 0]),
            case([1, 31, 17, 23, 16, 12, 20, 4, 0, 0]),
            case([3, 9, 10, 8, 9, 9, 6, 3, 1, 0]),
            case([1, 9, 11, 70, 4, 6, 40, 2, 3, 0]),
            case([1, 14, 9, 8, 6, 4, 10, 2, 2, 0]),
            // The whole volume, enlarged: positions before its first and behind its last voxel; along h
            // every voxel is met, along the others none.
            case([2, 5, 6, 7, 9, 6, 12, 3, 4, 0]),
            case([1, 20, 20, 20, 12, 8, 16, 4, 0, 0]).with_offset(1000.0),
            // The edge of the models, for which the kernels have a variant of their own.
            case([2, 18, 16, 50, 16, 16, 48, 16, 1, 0]),
            case([1, 19, 30, 17, 32, 16, 16, 16, 2, 0]),
            case([2, 9, 10, 37, 5, 5, 35, 5, 1, 1]),
            case([1, 13, 11, 9, 8, 12, 40, 4, 0, 1]),
            case([1, 14, 9, 8, 6, 4, 10, 2, 2, 1]),
            case([1, 20, 33, 17, 16, 32, 16, 16, 0, 1]),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[1, 128, 128, 128, 80, 80, 80, 16, 0, 1])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let shape = &case.dims[..4];
        let len = shape.iter().product();
        vec![
            Input::new("volume", InputKind::Constant, shape, case.normal(0, len, case.offset, 1.0))
                .wide(),
            Input::new("dtype", InputKind::Constant, &[1], vec![0.0]),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let from = [case.dims[1], case.dims[2], case.dims[3]];
        let size = [case.dims[4], case.dims[5], case.dims[6]];
        let (patch, native) = (case.dims[7], case.dims[8]);
        let mut view = if native % 2 == 1 {
            ViewBox::native([0, 1, 2].map(|a| (from[a] - size[a]) / 2), size)
        } else {
            let (start, share) = if native == 4 { (0.0, 1.0) } else { (0.11, 0.83) };
            ViewBox {
                start: from.map(|n| start * n as f64),
                size: from.map(|n| share * n as f64),
                mirrored: [false; 3],
            }
        };
        if native > 1 {
            view.mirrored = [true, false, true];
        }
        let volume = args.var(0)?.value();
        let like = if case.dims[9] == 1 { args.var(1)?.value() } else { volume };
        // The last patch first, and one row that no patch goes to.
        let patches = size.iter().product::<usize>() / patch.pow(3);
        let rows: Vec<i32> = (0..patches as i32).rev().collect();
        let rows = Tensor::from_slice(tape.device(), &rows, &[patches])?;
        let shape = [patches + 1, case.dims[0] * patch.pow(3)];
        let mut out = Tensor::zeros(tape.device(), like.dtype(), &shape)?;
        view_cut(&mut out.as_mut(), volume, &view, &PatchRows { size, patch, rows: &rows })?;
        Ok(vec![Var::constant(out)])
    }

    fn tolerance(&self, case: &OpCase) -> Tolerance {
        if case.dims[8] % 2 == 1 { Tolerance::Bitwise } else { Tolerance::Reduction }
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let volume: usize = case.dims[..4].iter().product();
        let view = case.dims[0] * case.dims[4..7].iter().product::<usize>();
        ((volume.min(8 * view) + view) * size) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        21 * (case.dims[0] * case.dims[4..7].iter().product::<usize>()) as u64
    }
}
