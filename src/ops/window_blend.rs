//! Blending of overlapping windows: `sums[v] += importance[u] scores[u]`, `weights[v] += importance[u]`
//! for each window, then `sums[v] / weights[v]`.

use rayon::prelude::*;

use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

const OP: &str = "window_blend";

/// Weighted sums of the windows of one volume.
///
/// ```
/// use glmae::device::{DType, Device, Tensor};
/// use glmae::ops::window_blend::WindowBlend;
/// let cpu = Device::Cpu;
/// let mut blend = WindowBlend::new(&cpu, DType::F64, [1, 1, 3], 1)?;
/// for (start, score) in [(0, 1.0), (1, 3.0)] {
///     let scores = Tensor::from_slice(&cpu, &[score, score], &[2, 1])?;
///     blend.add(&scores, [1, 1, 2], [0, 0, start], None)?;
/// }
/// // The windows meet in the middle voxel: (1 + 3) / 2.
/// assert_eq!(blend.finish()?.to_f64_vec()?, [1.0, 2.0, 3.0]);
/// # Ok::<(), glmae::Error>(())
/// ```
pub struct WindowBlend {
    dims: [usize; 3],
    classes: usize,
    /// `[d * h * w, classes]`
    sums: Tensor,
    /// `[d * h * w]`
    weights: Tensor,
}

impl WindowBlend {
    /// Empty sums for a volume of `dims` = d, h, w voxels (padded to the window where it is smaller).
    ///
    /// `dtype` is f32 on a GPU. Errors: out of memory.
    pub fn new(device: &Device, dtype: DType, dims: [usize; 3], classes: usize) -> Result<Self> {
        let voxels = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let voxels = voxels
            .ok_or_else(|| Error::shape(OP, "a volume that fits memory", format!("{dims:?}")))?;
        if *device != Device::Cpu && dtype != DType::F32 {
            return Err(Error::shape(OP, "f32 sums", dtype.name()));
        }
        Ok(Self {
            dims,
            classes,
            sums: Tensor::zeros(device, dtype, &[voxels, classes])?,
            weights: Tensor::zeros(device, dtype, &[voxels])?,
        })
    }

    /// Adds the scores of one window.
    ///
    /// Shapes: `scores` `[d' * h' * w', classes]` of the window `size`, f32 or bf16 on a GPU;
    /// `importance` `[d' * h' * w']` or `None` for 1; `start` in voxels of the volume.
    /// Numerics: one product and one sum per element; windows add up in the order of the calls.
    /// Errors: `Shape`; a window that is not within the volume.
    /// Source: MONAI `sliding_window_inference`.
    pub fn add(
        &mut self,
        scores: &Tensor,
        size: [usize; 3],
        start: [usize; 3],
        importance: Option<&Tensor>,
    ) -> Result<()> {
        let voxels: usize = size.iter().product();
        scores.expect_shape(OP, &[voxels, self.classes])?;
        if let Some(importance) = importance {
            importance.expect_shape(OP, &[voxels])?;
            if importance.dtype() != self.sums.dtype() {
                return Err(Error::shape(OP, self.sums.dtype().name(), importance.dtype().name()));
            }
        }
        if (0..3).any(|a| start[a].checked_add(size[a]).is_none_or(|end| end > self.dims[a])) {
            let got = format!("{size:?} at {start:?}");
            return Err(Error::shape(OP, format!("a window within {:?}", self.dims), got));
        }
        if voxels == 0 || self.classes == 0 {
            return Ok(());
        }
        if *scores.device() != Device::Cpu {
            return self.run_kernel(scores, size, start, importance);
        }
        with_real!(OP, scores.dtype(), T => {
            let importance = importance.map(Tensor::host::<T>).transpose()?;
            add(self, scores.host::<T>()?, size, start, importance)
        })
    }

    fn run_kernel(
        &mut self,
        scores: &Tensor,
        size: [usize; 3],
        start: [usize; 3],
        importance: Option<&Tensor>,
    ) -> Result<()> {
        let small = |n: usize| {
            let fits = i32::try_from(n).ok().filter(|&n| n <= 1 << 30);
            fits.ok_or_else(|| Error::shape(OP, "axes and rows below 2^30", n.to_string()))
        };
        small(size[2].saturating_mul(self.classes))?;
        if size[0] > 65_535 {
            return Err(Error::shape(OP, "windows of at most 65535 slices", size[0].to_string()));
        }
        let mut call = KernelCall::typed(scores.device(), "window_blend_update", scores.dtype())
            .output(&mut self.sums)?
            .output(&mut self.weights)?
            .input(scores)?
            .optional(importance)?;
        let [_, h, w] = self.dims;
        for n in [h, w, self.classes, start[0], start[1], start[2], size[2]] {
            call = call.value(small(n)?);
        }
        call.launch(LaunchConfig {
            grid: [small(size[1])? as u32, size[0] as u32, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
        })
    }

    /// The weighted mean `[d * h * w, classes]`; NaN where no window was. The largest class of a voxel is
    /// that of the sums ([`WindowBlend::sums`]), too: labels alone do not need the division.
    ///
    /// Errors: `Device`.
    pub fn finish(mut self) -> Result<Tensor> {
        let (voxels, k) = (self.weights.len(), self.classes);
        if self.sums.is_empty() {
            return Ok(self.sums);
        }
        if *self.sums.device() != Device::Cpu {
            let blocks = u32::try_from(voxels.div_ceil(256));
            let blocks = blocks.ok().filter(|&b| b <= i32::MAX as u32 && k <= 1 << 20);
            let blocks = blocks.ok_or_else(|| {
                Error::shape(OP, "fewer voxels or classes", format!("{voxels} x {k}"))
            })?;
            KernelCall::new(&self.sums.device().clone(), "window_blend_update_f32_divide")
                .output(&mut self.sums)?
                .input(&self.weights)?
                .value(voxels as i64)
                .value(k as i32)
                .launch(LaunchConfig::linear(blocks, 256))?;
            return Ok(self.sums);
        }
        with_real!(OP, self.sums.dtype(), T => {
            divide(self.sums.host_mut::<T>()?, self.weights.host()?, k);
            Ok(())
        })?;
        Ok(self.sums)
    }

    /// Forgets the windows: ready for the next volume of the same size.
    ///
    /// Errors: `Device`.
    pub fn clear(&mut self) -> Result<()> {
        self.sums.as_mut().fill_zero()?;
        self.weights.as_mut().fill_zero()
    }

    /// The sums as they are: `[d * h * w, classes]`.
    pub fn sums(&self) -> &Tensor {
        &self.sums
    }
}

fn divide<T: Real>(sums: &mut [T], weights: &[T], k: usize) {
    let rows = sums.par_chunks_exact_mut(k);
    rows.zip(weights).for_each(|(row, &w)| row.iter_mut().for_each(|x| *x = *x / w));
}

fn add<T: Real>(
    blend: &mut WindowBlend,
    scores: &[T],
    [_, sh, sw]: [usize; 3],
    start: [usize; 3],
    importance: Option<&[T]>,
) -> Result<()> {
    let (k, [_, h, w]) = (blend.classes, blend.dims);
    let sums = blend.sums.host_mut::<T>()?.par_chunks_exact_mut(h * w * k);
    let weights = blend.weights.host_mut::<T>()?.par_chunks_exact_mut(h * w);
    let slices = scores.par_chunks_exact(sh * sw * k).enumerate();
    slices.zip(sums.zip(weights).skip(start[0])).for_each(|((z, scores), (sums, weights))| {
        for (y, row) in scores.chunks_exact(sw * k).enumerate() {
            let to = (start[1] + y) * w + start[2];
            let (sums, weights) = (&mut sums[to * k..][..sw * k], &mut weights[to..][..sw]);
            let from = (z * sh + y) * sw;
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
/// window d, h, w, classes, and 1 for an importance map.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "importance-weighted mean of overlapping windows"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case = |d: [usize; 8]| {
            OpCase::new(&["d", "h", "w", "size_d", "size_h", "size_w", "classes", "map"], &d)
        };
        vec![
            case([1, 1, 1, 1, 1, 1, 1, 0]),
            case([5, 7, 11, 3, 5, 7, 3, 1]),
            case([3, 4, 9, 2, 3, 8, 14, 1]),
            case([4, 5, 12, 4, 4, 8, 4, 0]),
            case([2, 3, 90, 2, 3, 83, 13, 1]),
            case([3, 5, 6, 2, 4, 5, 5, 1]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        let names = ["d", "h", "w", "size_d", "size_h", "size_w", "classes", "map"];
        OpCase::new(&names, &[128, 128, 128, 96, 96, 96, 14, 1])
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
        let mut blend = WindowBlend::new(tape.device(), importance.dtype(), dims, classes)?;
        blend.add(args.var(0)?.value(), size, [0; 3], map)?;
        let last = [0, 1, 2].map(|a| dims[a] - size[a]);
        blend.add(args.var(1)?.value(), size, last, map)?;
        let sums = blend.sums().duplicate()?;
        // Only where a window was: NaN says that none was.
        let (k, device, dtype) = (classes, tape.device().clone(), importance.dtype());
        let mean = blend.finish()?;
        let first = mean.view(0, &[size[2], k])?.to_f64_vec()?;
        let first = Tensor::from_f64(&device, dtype, &first, &[size[2], k])?;
        let last = mean.view(mean.len() - size[2] * k, &[size[2], k])?.to_f64_vec()?;
        let last = Tensor::from_f64(&device, dtype, &last, &[size[2], k])?;
        Ok([sums, mean, first, last].map(Var::constant).into())
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
