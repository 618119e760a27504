//! Blending of overlapping windows in bounded memory: `sums[v] += importance[u] scores[u]`,
//! `weights[v] += importance[u]` for each window, then `sums[v] / weights[v]`, slice by slice.

use rayon::prelude::*;

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, TensorMut, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "window_blend";

/// Of the dims of a case.
const NAMES: [&str; 9] = ["d", "h", "w", "size_d", "size_h", "size_w", "classes", "map", "ring"];

/// The part of a window that is blended, in voxels: d, h, w.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its first voxel in the volume.
    pub start: [usize; 3],
    /// Its first voxel in the window.
    pub skip: [usize; 3],
    pub size: [usize; 3],
}

impl Part {
    /// A whole window of `size` at `start`.
    pub fn whole(size: [usize; 3], start: [usize; 3]) -> Self {
        Self { start, skip: [0; 3], size }
    }
}

/// Weighted sums of windows over as many slices of a volume as are held at a time: slice `d` of the volume
/// is slice `d % depth` of the ring.
///
/// ```
/// use glmae::device::{DType, Device, Tensor};
/// use glmae::ops::window_blend::{Part, WindowBlend};
/// let cpu = Device::Cpu;
/// let mut blend = WindowBlend::new(&cpu, DType::F64, [1, 1, 3], 1)?;
/// for (start, score) in [(0, 1.0), (1, 3.0)] {
///     let scores = Tensor::from_slice(&cpu, &[score, score], &[2, 1])?;
///     blend.add(&scores, [1, 1, 2], Part::whole([1, 1, 2], [0, 0, start]), None)?;
/// }
/// // The windows meet in the middle voxel: (1 + 3) / 2.
/// assert_eq!(blend.finish(0, |mean| mean.to_f64_vec())?, [1.0, 2.0, 3.0]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub struct WindowBlend {
    depth: usize,
    slice: [usize; 2],
    classes: usize,
    /// `[depth * h * w, classes]`
    sums: Tensor,
    /// `[depth * h * w]`
    weights: Tensor,
}

impl WindowBlend {
    /// Empty sums for `ring` = depth, h, w voxels: `(classes + 1) depth h w` elements of `dtype`.
    ///
    /// `dtype` is f32 on a GPU. Errors: out of memory.
    pub fn new(device: &Device, dtype: DType, ring: [usize; 3], classes: usize) -> Result<Self> {
        let voxels = ring.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let voxels = voxels
            .ok_or_else(|| Error::shape(OP, "a volume that fits memory", format!("{ring:?}")))?;
        if *device != Device::Cpu && dtype != DType::F32 {
            return Err(Error::shape(OP, "f32 sums", dtype.name()));
        }
        let [depth, h, w] = ring;
        Ok(Self {
            depth,
            slice: [h, w],
            classes,
            sums: Tensor::zeros(device, dtype, &[voxels, classes])?,
            weights: Tensor::zeros(device, dtype, &[voxels])?,
        })
    }

    /// Forgets the windows and has `slice` = h, w voxels from now on, at most as many as at first.
    ///
    /// Errors: `Shape`.
    pub fn restart(&mut self, slice: [usize; 2]) -> Result<()> {
        let [h, w] = slice;
        let needs = h.checked_mul(w).and_then(|n| n.checked_mul(self.depth));
        if needs.is_none_or(|n| n > self.weights.len()) {
            let expected = format!("{} slices within {} voxels", self.depth, self.weights.len());
            return Err(Error::shape(OP, expected, format!("{slice:?}")));
        }
        self.slice = slice;
        self.sums.as_mut().fill_zero()?;
        self.weights.as_mut().fill_zero()
    }

    /// Adds the scores of a part of a window.
    ///
    /// Shapes: `scores` `[voxels, classes]` of the `window` of d, h, w voxels, f32 or bf16 on a GPU;
    /// `importance` `[voxels]` or `None` for 1; the part has at most as many slices as the ring.
    /// Numerics: a product and a sum per element, not fused; windows add up in the order of the calls.
    /// Errors: `Shape`; a part that is not within the window or the slices.
    /// Source: MONAI `sliding_window_inference`.
    pub fn add(
        &mut self,
        scores: &Tensor,
        window: [usize; 3],
        part: Part,
        importance: Option<&Tensor>,
    ) -> Result<()> {
        let voxels = window.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
        scores.expect_shape(OP, &[voxels, self.classes])?;
        if let Some(importance) = importance {
            importance.expect_shape(OP, &[voxels])?;
            if importance.dtype() != self.sums.dtype() {
                return Err(Error::shape(OP, self.sums.dtype().name(), importance.dtype().name()));
            }
        }
        let Part { start, skip, size } = part;
        let within = |a: usize, first: [usize; 3], end: usize| {
            first[a].checked_add(size[a]).is_some_and(|last| last <= end)
        };
        let [h, w] = self.slice;
        let fits = (0..3).all(|a| within(a, skip, window[a])) && within(1, start, h);
        if !fits || !within(2, start, w) || size[0] > self.depth {
            let expected =
                format!("a part of {window:?} within {} slices of {h} x {w}", self.depth);
            return Err(Error::shape(OP, expected, format!("{part:?}")));
        }
        if size.contains(&0) || self.classes == 0 {
            return Ok(());
        }
        if *scores.device() != Device::Cpu {
            return self.run_kernel(scores, window, part, importance);
        }
        with_real!(OP, scores.dtype(), T => {
            let importance = importance.map(Tensor::host::<T>).transpose()?;
            add(self, scores.host::<T>()?, window, part, importance)
        })
    }

    fn run_kernel(
        &mut self,
        scores: &Tensor,
        [_, rows, width]: [usize; 3],
        Part { start, skip, size }: Part,
        importance: Option<&Tensor>,
    ) -> Result<()> {
        let small = |n: usize| {
            let fits = i32::try_from(n).ok().filter(|&n| n <= 1 << 30);
            fits.ok_or_else(|| Error::shape(OP, "windows and axes below 2^30", n.to_string()))
        };
        small(width.saturating_mul(self.classes))?;
        small(scores.shape()[0])?;
        if size[0] > 65_535 {
            return Err(Error::shape(OP, "windows of at most 65535 slices", size[0].to_string()));
        }
        let first = (skip[0] * rows + skip[1]) * width + skip[2];
        let mut call = KernelCall::typed(scores.device(), "window_blend_update", scores.dtype())
            .output(&mut self.sums)?
            .output(&mut self.weights)?
            .input(scores)?
            .optional(importance)?;
        let ([h, w], at_d) = (self.slice, start[0] % self.depth);
        let ring = [self.depth, h, w, self.classes];
        let part = [at_d, start[1], start[2], first, rows * width, width, size[2]];
        for n in ring.into_iter().chain(part) {
            call = call.value(small(n)?);
        }
        call.launch(LaunchConfig {
            grid: [small(size[1])? as u32, size[0] as u32, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
        })
    }

    /// Ends slice `d` of the volume: `read` gets its weighted means `[h * w, classes]`, NaN where no window
    /// was, and must not keep them. Afterwards the place is empty, for a slice to come.
    ///
    /// Numerics: a division per element, rounded to the nearest number.
    /// Errors: `Device`; those of `read`, after which the sums are of no use.
    pub fn finish<R>(&mut self, d: usize, read: impl FnOnce(&Tensor) -> Result<R>) -> Result<R> {
        let (n, k) = (self.slice[0] * self.slice[1], self.classes);
        let first = d % self.depth.max(1) * n;
        let device = self.sums.device().clone();
        if n * k > 0 && device == Device::Cpu {
            with_real!(OP, self.sums.dtype(), T => {
                let weights = self.weights.host::<T>()?.get(first..first + n);
                let sums = self.sums.host_mut::<T>()?.get_mut(first * k..(first + n) * k);
                if let (Some(sums), Some(weights)) = (sums, weights) {
                    divide(sums, weights, k);
                }
                Ok(())
            })?;
        } else if n * k > 0 {
            let blocks = i32::try_from(n.div_ceil(256)).ok().filter(|_| k <= 1 << 20);
            let blocks = blocks
                .ok_or_else(|| Error::shape(OP, "fewer voxels or classes", format!("{n} x {k}")))?;
            KernelCall::new(&device, "window_blend_update_f32_divide")
                .output_mut(&mut TensorMut::new(&mut self.sums, first * k, &[n, k])?)?
                .input(&self.weights.view(first, &[n])?)?
                .value(n as i64)
                .value(k as i32)
                .launch(LaunchConfig::linear(blocks as u32, 256))?;
        }
        let found = read(&self.sums.view(first * k, &[n, k])?)?;
        TensorMut::new(&mut self.sums, first * k, &[n, k])?.fill_zero()?;
        TensorMut::new(&mut self.weights, first, &[n])?.fill_zero()?;
        Ok(found)
    }
}

fn divide<T: Real>(sums: &mut [T], weights: &[T], k: usize) {
    let rows = sums.par_chunks_exact_mut(k);
    rows.zip(weights).for_each(|(row, &w)| row.iter_mut().for_each(|x| *x = *x / w));
}

fn add<T: Real>(
    blend: &mut WindowBlend,
    scores: &[T],
    window: [usize; 3],
    Part { start, skip, size }: Part,
    importance: Option<&[T]>,
) -> Result<()> {
    let (k, depth, [h, w]) = (blend.classes, blend.depth, blend.slice);
    let sums = blend.sums.host_mut::<T>()?.par_chunks_exact_mut(h * w * k);
    let weights = blend.weights.host_mut::<T>()?.par_chunks_exact_mut(h * w);
    sums.zip(weights).take(depth).enumerate().for_each(|(place, (sums, weights))| {
        // The slice of the part that lies here.
        let z = (place + depth - start[0] % depth) % depth;
        if z >= size[0] {
            return;
        }
        for y in 0..size[1] {
            let to = (start[1] + y) * w + start[2];
            let (sums, weights) =
                (&mut sums[to * k..][..size[2] * k], &mut weights[to..][..size[2]]);
            let from = ((skip[0] + z) * window[1] + skip[1] + y) * window[2] + skip[2];
            let row = &scores[from * k..];
            for (u, (sums, weight)) in sums.chunks_exact_mut(k).zip(weights).enumerate() {
                let a = importance.map_or(T::of(1.0), |i| i[from + u]);
                sums.iter_mut().zip(&row[u * k..]).for_each(|(sum, &score)| *sum += a * score);
                *weight += a;
            }
        }
    });
    Ok(())
}

/// The op in the registry: two windows at opposite corners of a volume. Dims of a case: volume d, h, w,
/// window d, h, w, classes, 1 for an importance map, and 1 for a ring of as many slices as a window has, around
/// which the second window goes, without its first slice, row and column.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "importance-weighted mean of overlapping windows"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 9]| OpCase::new(&NAMES, &d);
        vec![
            case([1, 1, 1, 1, 1, 1, 1, 0, 0]),
            case([5, 7, 11, 3, 5, 7, 3, 1, 0]),
            case([3, 4, 9, 2, 3, 8, 14, 1, 0]),
            case([4, 5, 12, 4, 4, 8, 4, 0, 0]),
            case([2, 3, 90, 2, 3, 83, 13, 1, 0]),
            case([3, 5, 6, 2, 4, 5, 5, 1, 0]).with_offset(1000.0),
            case([5, 7, 11, 4, 5, 9, 3, 1, 1]),
            case([6, 4, 12, 3, 4, 9, 4, 0, 1]),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[128, 128, 128, 96, 96, 96, 14, 1, 0])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let voxels: usize = case.dims[3..6].iter().product();
        let (shape, mut rng) = ([voxels, case.dims[6]], case.rng(2));
        let scores = |i| case.normal(i, shape[0] * shape[1], case.offset, 1.0);
        let importance = (0..voxels).map(|_| rng.range(0.05, 1.0)).collect();
        vec![
            Input::new("first", InputKind::Constant, &shape, scores(0)),
            Input::new("second", InputKind::Constant, &shape, scores(1)),
            Input::new("importance", InputKind::Constant, &[voxels], importance).wide(),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let at = |i: usize| [case.dims[i], case.dims[i + 1], case.dims[i + 2]];
        let (dims, size, classes) = (at(0), at(3), case.dims[6]);
        let importance = args.var(2)?.value();
        let map = (case.dims[7] == 1).then_some(importance);
        let mut last = Part::whole(size, [0, 1, 2].map(|a| dims[a] - size[a]));
        let mut depth = dims[0];
        if case.dims[8] == 1 {
            depth = size[0];
            let shorter = |n: usize| n - usize::from(n > 1);
            last.size = size.map(shorter);
            last.skip = [0, 1, 2].map(|a| size[a] - last.size[a]);
            last.start = [0, 1, 2].map(|a| dims[a] - last.size[a]);
        }
        let ring = [depth, dims[1], dims[2]];
        let mut blend = WindowBlend::new(tape.device(), importance.dtype(), ring, classes)?;
        blend.add(args.var(0)?.value(), size, Part::whole(size, [0; 3]), map)?;
        blend.add(args.var(1)?.value(), size, last, map)?;
        let mut found = vec![blend.sums.duplicate()?, blend.weights.duplicate()?];
        for d in 0..depth {
            found.push(blend.finish(d, Tensor::duplicate)?);
        }
        // What is left: nothing.
        found.push(blend.sums.duplicate()?);
        found.push(blend.weights.duplicate()?);
        Ok(found.into_iter().map(Var::constant).collect())
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Elementwise
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn differentiable(&self) -> bool {
        false
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        let window: usize = case.dims[3..6].iter().product();
        let volume: usize = case.dims[..3].iter().product();
        let k = case.dims[6];
        (2 * window * (k * (8 + size) + 8 + 4 * case.dims[7]) + volume * (8 * k + 4)) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        4 * case.dims[3..7].iter().product::<usize>() as u64
    }
}
