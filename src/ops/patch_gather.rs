//! Patch gather (3D patchify of chosen patches): reads patches straight from volumes into packed
//! rows. Only the patches that are wanted are read: the visible ones for the student, all for the
//! teacher, the masked ones as reconstruction targets.

use std::sync::Arc;

use super::cpu::par::for_each_row;
use super::unpatchify;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, TensorMut, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "patch_gather";

/// A volume `[channels, d, h, w]` inside a flat voxel buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VolumeAt {
    /// Index of its first voxel.
    pub offset: usize,
    pub channels: usize,
    /// Voxels along d, h, w.
    pub dims: [usize; 3],
}

impl VolumeAt {
    /// Voxels of all channels.
    pub fn len(&self) -> usize {
        self.channels * self.dims.iter().product::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Patches along d, h, w.
    pub fn grid(&self, patch: usize) -> [usize; 3] {
        self.dims.map(|n| n / patch)
    }
}

/// Order of the voxels within a row of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoxelOrder {
    /// (c, dz, dy, dx): the order of a convolution kernel, so that the patch embedding is a
    /// matrix product with the kernel as it is stored.
    ChannelsFirst,
    /// (dz, dy, dx, c): the order of reconstruction targets and of `decoder_pred`.
    ChannelsLast,
}

/// Which patches of which volumes, in which order. All volumes share patch size and channels.
#[derive(Clone, Debug)]
pub struct PatchPlan {
    patch: usize,
    channels: usize,
    /// `[rows, 4]` i64: first voxel, and the strides of channel, d and h. Those of w are 1.
    table: Tensor,
    /// First voxel of every row: what tells patches apart.
    firsts: Arc<[i64]>,
    voxels: usize,
}

impl PatchPlan {
    /// `rows` are pairs (volume, patch), patches numbered in raster order of the volume's grid.
    /// Errors: a volume whose sides are not multiples of `patch`, a patch outside its grid, two
    /// volumes that overlap without being the same.
    pub fn new(
        device: &Device,
        patch: usize,
        volumes: &[VolumeAt],
        rows: &[(usize, usize)],
    ) -> Result<Self> {
        let channels = volumes.first().map_or(1, |v| v.channels);
        for v in volumes {
            if patch == 0
                || v.dims.iter().any(|n| n % patch != 0 || *n == 0)
                || v.channels != channels
            {
                let expected =
                    format!("{channels} channel(s) and sides that are multiples of {patch}");
                return Err(Error::shape(OP, expected, format!("{v:?}")));
            }
        }
        let mut by_offset: Vec<&VolumeAt> = volumes.iter().collect();
        by_offset.sort_by_key(|v| v.offset);
        for pair in by_offset.windows(2) {
            if pair[1].offset < pair[0].offset + pair[0].len() && pair[0] != pair[1] {
                return Err(Error::shape(OP, "volumes that do not overlap", format!("{pair:?}")));
            }
        }
        let mut table = Vec::with_capacity(rows.len() * 4);
        for &(volume, n) in rows {
            let at = volumes.get(volume).ok_or_else(|| {
                Error::shape(OP, format!("{} volumes", volumes.len()), format!("volume {volume}"))
            })?;
            let [gd, gh, gw] = at.grid(patch);
            if n >= gd * gh * gw {
                return Err(Error::shape(
                    OP,
                    format!("{} patches", gd * gh * gw),
                    format!("patch {n}"),
                ));
            }
            let [d, h, w] = at.dims;
            let (z, y, x) = (n / (gh * gw), n / gw % gh, n % gw);
            let first = at.offset + ((z * h + y) * w + x) * patch;
            table.extend([first, d * h * w, h * w, w].map(|i| i as i64));
        }
        let voxels = volumes.iter().map(|v| v.offset + v.len()).max().unwrap_or(0);
        let firsts = table.iter().step_by(4).copied().collect();
        let table = Tensor::from_slice(device, &table, &[rows.len(), 4])?;
        Ok(Self { patch, channels, table, firsts, voxels })
    }

    /// Takes over the rows of another plan of as many, perhaps on the CPU; the tables stay where
    /// they are, for a captured step to read.
    pub fn refill(&mut self, other: &Self) -> Result<()> {
        self.table.as_mut().assign(&other.table)?;
        self.firsts = other.firsts.clone();
        Ok(())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.table.shape()[0]
    }

    /// Voxels of a patch, all channels: the width of a row.
    pub fn width(&self) -> usize {
        self.patch.pow(3) * self.channels
    }

    /// Voxels of the flat buffer that the plan reads from, at least.
    pub fn voxels(&self) -> usize {
        self.voxels
    }

    /// The rows of every touched patch, in order: `starts` `[patches + 1]` and `members` `[rows]`, i32.
    fn owners(&self) -> Result<(Tensor, Tensor)> {
        let mut members: Vec<i32> = (0..self.rows() as i32).collect();
        members.sort_by_key(|&r| self.firsts[r as usize]); // stable: rows of a patch keep their order
        let first_of = |i: usize| self.firsts[members[i] as usize];
        let mut starts: Vec<i32> = (0..members.len())
            .filter(|&i| i == 0 || first_of(i) != first_of(i - 1))
            .map(|i| i as i32)
            .collect();
        starts.push(members.len() as i32);
        let device = self.table.device();
        let upload = |v: &[i32]| Tensor::from_slice(device, v, &[v.len()]);
        Ok((upload(&starts)?, upload(&members)?))
    }

    /// Launches `kernel`, which gathers.
    pub(super) fn gather_kernel(
        &self,
        kernel: &str,
        rows: &mut Tensor,
        voxels: &Tensor,
        order: VoxelOrder,
    ) -> Result<()> {
        if self.rows() == 0 {
            return Ok(());
        }
        KernelCall::new(self.table.device(), kernel)
            .output(rows)?
            .input(voxels)?
            .input(&self.table)?
            .value(self.patch as i32)
            .value(self.channels as i32)
            .value(i32::from(order == VoxelOrder::ChannelsLast))
            .launch(LaunchConfig::linear(self.rows() as u32, 256))
    }

    /// Launches `<op>_<pass>_<dtype of the rows>`, which scatters; `mode` as that kernel wants it.
    pub(super) fn scatter_kernel(
        &self,
        stem: &str,
        voxels: &mut TensorMut<'_>,
        rows: &Tensor,
        order: VoxelOrder,
        mode: Option<i32>,
    ) -> Result<()> {
        if self.rows() == 0 {
            return Ok(());
        }
        let (starts, members) = self.owners()?;
        let mut call = KernelCall::typed(self.table.device(), stem, rows.dtype())
            .output_mut(voxels)?
            .input(rows)?
            .input(&self.table)?
            .input(&starts)?
            .input(&members)?
            .value(self.patch as i32)
            .value(self.channels as i32)
            .value(i32::from(order == VoxelOrder::ChannelsLast));
        if let Some(mode) = mode {
            call = call.value(mode);
        }
        call.launch(LaunchConfig::linear(starts.len() as u32 - 1, 256))
    }

    /// Calls `f(column, voxel)` for every element of row `row`: the one definition of the order.
    fn each(&self, table: &[i64], row: usize, order: VoxelOrder, mut f: impl FnMut(usize, usize)) {
        let p = self.patch;
        let [first, stride_c, stride_d, stride_h] =
            [0, 1, 2, 3].map(|i| table[row * 4 + i] as usize);
        for c in 0..self.channels {
            for dz in 0..p {
                for dy in 0..p {
                    let voxel = first + c * stride_c + dz * stride_d + dy * stride_h;
                    for dx in 0..p {
                        let column = match order {
                            VoxelOrder::ChannelsFirst => ((c * p + dz) * p + dy) * p + dx,
                            VoxelOrder::ChannelsLast => {
                                ((dz * p + dy) * p + dx) * self.channels + c
                            }
                        };
                        f(column, voxel + dx);
                    }
                }
            }
        }
    }

    /// Reference: `rows[r, column] = voxels[...]`.
    pub(super) fn gather<T: Real>(
        &self,
        rows: &mut [T],
        voxels: &[T],
        order: VoxelOrder,
    ) -> Result<()> {
        let (table, width) = (self.table.host::<i64>()?, self.width());
        for_each_row(rows, width, |r, row| {
            self.each(table, r, order, |column, voxel| row[column] = voxels[voxel]);
        });
        Ok(())
    }

    /// Reference: `voxels[...] += rows[r, column]`, rows in order.
    pub(super) fn scatter<T: Real>(
        &self,
        voxels: &mut [T],
        rows: &[T],
        order: VoxelOrder,
    ) -> Result<()> {
        let (table, width) = (self.table.host::<i64>()?, self.width());
        for (r, row) in rows.chunks_exact(width).enumerate() {
            self.each(table, r, order, |column, voxel| voxels[voxel] += row[column]);
        }
        Ok(())
    }
}

impl<'a> Tape<'a> {
    /// Gathers the patches of `plan` from a flat voxel buffer into rows of `dtype`.
    ///
    /// Shapes: `voxels` [at least `plan.voxels()`], result `[plan.rows(), p^3 C]`.
    /// Numerics: data movement, exact; bf16 rows of f32 voxels (on a GPU) are rounded.
    /// Errors: `Shape`; on the CPU, rows of another dtype than the voxels'; bf16 voxels (on a GPU) whose
    /// rows are not bf16, or that a gradient is wanted of.
    /// Source: docs/method.md, 3.1; target order as in MAE (He et al., arXiv 2111.06377).
    ///
    /// ```
    /// use glmae::device::{DType, Device, Tensor};
    /// use glmae::ops::patch_gather::{PatchPlan, VolumeAt, VoxelOrder};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let volume = VolumeAt { offset: 0, channels: 1, dims: [2, 2, 4] };
    /// let plan = PatchPlan::new(&cpu, 2, &[volume], &[(0, 1)])?;
    /// let numbers: Vec<f64> = (0..16).map(f64::from).collect();
    /// let voxels = Var::constant(Tensor::from_slice(&cpu, &numbers, &[16])?);
    /// let order = VoxelOrder::ChannelsFirst;
    /// let rows = Tape::new(&cpu).patch_gather(&voxels, &plan, order, DType::F64)?;
    /// // Patch 1 begins at w = 2: voxel (z, y, x) is 8 z + 4 y + 2 + x.
    /// assert_eq!(rows.value().to_f64_vec()?, [2., 3., 6., 7., 10., 11., 14., 15.]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn patch_gather(
        &mut self,
        voxels: &Var,
        plan: &PatchPlan,
        order: VoxelOrder,
        dtype: DType,
    ) -> Result<Var> {
        if voxels.value().len() < plan.voxels {
            let expected = format!("{} voxels", plan.voxels);
            return Err(Error::shape(OP, expected, format!("{:?}", voxels.shape())));
        }
        let from = voxels.value().dtype();
        let is_data = from == DType::Bf16 && dtype == DType::Bf16 && voxels.id().is_none();
        if *self.device() != Device::Cpu && from != DType::F32 && !is_data {
            let expected = "f32 voxels, or bf16 rows of bf16 voxels without a gradient";
            return Err(Error::shape(OP, expected, format!("{dtype} rows of {from} voxels")));
        }
        let mut rows = Tensor::empty(self.device(), dtype, &[plan.rows(), plan.width()])?;
        match self.device() {
            Device::Cpu => with_real!(OP, from, T => {
                plan.gather(rows.host_mut::<T>()?, voxels.value().host::<T>()?, order)
            })?,
            _ => {
                let half = if from == DType::Bf16 { "_half" } else { "" };
                let kernel = format!("patch_gather_fwd_{dtype}{half}");
                plan.gather_kernel(&kernel, &mut rows, voxels.value(), order)?;
            }
        }
        Ok(self.record(OP, rows, needs_grad(&[voxels], &[]), || PatchGatherBwd {
            voxels: voxels.clone(),
            plan: plan.clone(),
            order,
        }))
    }
}

struct PatchGatherBwd {
    voxels: Var,
    plan: PatchPlan,
    order: VoxelOrder,
}

impl Backward for PatchGatherBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Some((mut dx, mode)) = grads.slot(&self.voxels)? else { return Ok(()) };
        if *dy.device() != Device::Cpu {
            if !mode.accumulates() {
                dx.fill_zero()?;
            }
            let (plan, mode) = (&self.plan, Some(mode.as_arg()));
            return plan.scatter_kernel("patch_gather_bwd", &mut dx, &dy, self.order, mode);
        }
        with_real!(OP, dy.dtype(), T => {
            let dx = dx.host_mut::<T>()?;
            if !mode.accumulates() {
                dx.fill(T::default());
            }
            self.plan.scatter(dx, dy.host::<T>()?, self.order)
        })
    }
}

/// The op in the registry. Dims of a case: patch, channels, d, h, w of two volumes (the second
/// has d and w swapped), every how many-th patch is taken, whether rows are also gathered of views, voxels
/// in the dtype of activations.
pub struct Spec;

/// The volumes and rows of a case, shared with [`unpatchify`].
pub(super) fn case_plan(device: &Device, case: &OpCase) -> Result<PatchPlan> {
    let [patch, channels, d, h, w, step] = [0, 1, 2, 3, 4, 5].map(|i| case.dims[i]);
    let first = VolumeAt { offset: 0, channels, dims: [d, h, w] };
    let second = VolumeAt { offset: first.len(), channels, dims: [w, h, d] };
    let patches = d * h * w / patch.pow(3);
    let mut rows: Vec<(usize, usize)> =
        (0..2).flat_map(|v| (0..patches).map(move |n| (v, n))).step_by(step).collect();
    rows.reverse();
    PatchPlan::new(device, patch, &[first, second], &rows)
}

const NAMES: [&str; 7] = ["patch", "channels", "d", "h", "w", "step", "half"];

pub(super) fn case_list() -> Vec<OpCase> {
    let case = |d: [usize; 6]| OpCase::new(&NAMES, &[&d[..], &[0]].concat());
    vec![
        case([1, 1, 1, 1, 1, 1]),
        case([2, 1, 4, 2, 6, 1]),
        case([3, 2, 6, 3, 9, 2]),
        case([4, 3, 8, 12, 4, 1]),
        case([8, 1, 16, 16, 16, 3]),
        // The edge of the models, for which the kernels have a variant of their own.
        case([16, 2, 16, 16, 32, 3]),
        case([5, 1, 5, 10, 15, 2]).with_offset(1000.0),
    ]
}

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "chosen patches of volumes as packed rows"
    }

    fn cases(&self) -> Vec<OpCase> {
        let half = [[16, 1, 16, 32, 16, 2, 1], [8, 2, 8, 16, 8, 1, 1], [3, 2, 6, 3, 9, 1, 1]];
        let half = half.map(|d| OpCase::new(&NAMES, &d));
        case_list().into_iter().chain(half).collect()
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&NAMES, &[8, 1, 80, 80, 80, 1, 1])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let len = 2 * case.dims[1..5].iter().product::<usize>();
        let voxels = case.normal(0, len, case.offset, 1.0);
        let views = case.normal(1, len, case.offset, 1.0);
        vec![
            Input::new("voxels", InputKind::Activation, &[len], voxels).wide(),
            Input::new("views", InputKind::Constant, &[len], views),
        ]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let plan = case_plan(tape.device(), case)?;
        // Rows in the dtype of activations, which the second input has, and in f32.
        let (voxels, like) = (args.var(0)?, args.var(1)?.value().dtype());
        let first = tape.patch_gather(voxels, &plan, VoxelOrder::ChannelsFirst, like)?;
        let wide = voxels.value().dtype();
        let last = tape.patch_gather(voxels, &plan, VoxelOrder::ChannelsLast, wide)?;
        let mut rows = vec![first, last];
        if case.dims[6] == 1 {
            for order in [VoxelOrder::ChannelsFirst, VoxelOrder::ChannelsLast] {
                rows.push(tape.patch_gather(args.var(1)?, &plan, order, like)?);
            }
        }
        Ok(rows)
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Bitwise
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        unpatchify::case_bytes(case, size)
    }

    fn flops(&self, _: &OpCase) -> u64 {
        0
    }
}
