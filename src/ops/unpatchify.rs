//! Unpatchify: writes rows of patches back to their places in volumes; voxels of patches that no
//! row brings are zero. The transpose of [`super::patch_gather`], and its gradient.

use super::patch_gather::{PatchPlan, VoxelOrder, case_list, case_plan};
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, needs_grad};
use crate::device::{Device, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

const OP: &str = "unpatchify";

impl<'a> Tape<'a> {
    /// Writes the rows to their patches; a patch that several rows name gets their sum.
    ///
    /// Shapes: `rows` `[plan.rows(), p^3 C]`, result `[voxels]` with `voxels >= plan.voxels()`.
    /// Numerics: exact where every patch has one row.
    /// Errors: `Shape`.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::patch_gather::{PatchPlan, VolumeAt, VoxelOrder};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let volume = VolumeAt { offset: 0, channels: 1, dims: [1, 1, 3] };
    /// let plan = PatchPlan::new(&cpu, 1, &[volume], &[(0, 2), (0, 0)])?;
    /// let rows = Var::constant(Tensor::from_slice(&cpu, &[5.0, 7.0], &[2, 1])?);
    /// let voxels = Tape::new(&cpu).unpatchify(&rows, &plan, VoxelOrder::ChannelsLast, 3)?;
    /// // The first row is patch 2, the second patch 0; patch 1 has none.
    /// assert_eq!(voxels.value().to_f64_vec()?, [7.0, 0.0, 5.0]);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn unpatchify(
        &mut self,
        rows: &Var,
        plan: &PatchPlan,
        order: VoxelOrder,
        voxels: usize,
    ) -> Result<Var> {
        rows.value().expect_shape(OP, &[plan.rows(), plan.width()])?;
        if voxels < plan.voxels() {
            return Err(Error::shape(OP, format!("{} voxels", plan.voxels()), voxels.to_string()));
        }
        let dtype = rows.value().dtype();
        let mut out = Tensor::zeros(self.device(), dtype, &[voxels])?;
        match self.device() {
            Device::Cpu => with_real!(OP, dtype, T => {
                plan.scatter(out.host_mut::<T>()?, rows.value().host::<T>()?, order)
            })?,
            _ => {
                let stem = "unpatchify_fwd";
                plan.scatter_kernel(stem, &mut out.as_mut(), rows.value(), order, None)?;
            }
        }
        Ok(self.record(OP, out, needs_grad(&[rows], &[]), || UnpatchifyBwd {
            rows: rows.clone(),
            plan: plan.clone(),
            order,
        }))
    }
}

struct UnpatchifyBwd {
    rows: Var,
    plan: PatchPlan,
    order: VoxelOrder,
}

impl Backward for UnpatchifyBwd {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let mut drows = Tensor::empty(dy.device(), dy.dtype(), self.rows.shape())?;
        match dy.device() {
            Device::Cpu => with_real!(OP, dy.dtype(), T => {
                self.plan.gather(drows.host_mut::<T>()?, dy.host::<T>()?, self.order)
            })?,
            _ => {
                let kernel = format!("unpatchify_bwd_{}", drows.dtype());
                self.plan.gather_kernel(&kernel, &mut drows, &dy, self.order)?;
            }
        }
        grads.add(&self.rows, drows)
    }
}

pub(super) fn case_bytes(case: &OpCase, size: usize) -> u64 {
    let voxels = 2 * case.dims[1..5].iter().product::<usize>();
    (2 * voxels / case.dims[5] * size) as u64
}

/// The op in the registry. Dims of a case as for [`super::patch_gather::Spec`].
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "rows of patches back into volumes"
    }

    fn cases(&self) -> Vec<OpCase> {
        case_list()
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(&["patch", "channels", "d", "h", "w", "step"], &[8, 1, 80, 80, 80, 1])
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let width = case.dims[0].pow(3) * case.dims[1];
        let patches = 2 * case.dims[1..5].iter().product::<usize>() / width;
        let rows = patches.div_ceil(case.dims[5]);
        let data = case.normal(0, rows * width, case.offset, 1.0);
        vec![Input::new("rows", InputKind::Activation, &[rows, width], data)]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let plan = case_plan(tape.device(), case)?;
        let voxels = 2 * case.dims[1..5].iter().product::<usize>();
        let rows = args.var(0)?;
        Ok(vec![
            tape.unpatchify(rows, &plan, VoxelOrder::ChannelsFirst, voxels)?,
            tape.unpatchify(rows, &plan, VoxelOrder::ChannelsLast, voxels)?,
        ])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Bitwise
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, size: usize) -> u64 {
        case_bytes(case, size)
    }

    fn flops(&self, _: &OpCase) -> u64 {
        0
    }
}
