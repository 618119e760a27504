//! Dice loss and binary cross-entropy of classes that may overlap, a sigmoid per class (BraTS):
//!
//! `dice` as in [`super::dice_ce`] with `P = sigmoid(z)`, `bce = mean over voxels and classes of
//! max(z, 0) - z T + log(1 + exp(-|z|))`.

use super::dice::{DiceOptions, Form, Loss};
use super::dice_ce::options;
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, VoxelGrid};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::tape::{Tape, Var};

const OP: &str = "dice_bce";

impl<'a> Tape<'a> {
    /// Both terms; BraTS trains on the first alone, with `smooth_dr` 1e-5.
    ///
    /// Shapes: `logits` `[batch * d * h * w, k]`, f32 on a GPU; `targets` `[batch * d * h * w]` u8 (k <= 8)
    /// or i32 (k <= 32): bit `c` says whether the voxel belongs to class `c`; result `[2]` = dice, bce.
    /// Numerics: exponentials of negative numbers only on the CPU; bits from `k` on are not looked at.
    /// Errors: `Shape`.
    /// Source: MONAI `DiceLoss(sigmoid=True)`, `BCEWithLogitsLoss`.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::{VoxelGrid, dice_ce::DiceOptions};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let grid = VoxelGrid { batch: 1, dims: [1, 1, 1] };
    /// let logits = Var::constant(Tensor::from_slice(&cpu, &[50.0, 50.0], &[1, 2])?);
    /// // One voxel of both classes.
    /// let bits = Tensor::from_slice(&cpu, &[0b11u8], &[1])?;
    /// let options = DiceOptions::default();
    /// let terms = Tape::new(&cpu).dice_bce(&logits, &bits, &grid, &options)?.value().to_f64_vec()?;
    /// // Both classes are right: dice is 1e-6 / (1 + 1 + 1e-6) for each, cross-entropy e^-50.
    /// assert!((terms[0] - 5e-7).abs() < 1e-11 && terms[1] < 1e-20);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn dice_bce(
        &mut self,
        logits: &Var,
        targets: &Tensor,
        grid: &VoxelGrid,
        options: &DiceOptions,
    ) -> Result<Var> {
        Loss::new(Form::Sigmoid, logits, targets, grid, options)?.record(self)
    }
}

/// The op in the registry. Dims of a case: batch, d, h, w, classes, options as in `dice_ce`, and 1 for
/// targets in i32.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "Dice and cross-entropy of overlapping classes, sigmoid"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case =
            |d: [usize; 7]| OpCase::new(&["batch", "d", "h", "w", "classes", "options", "i32"], &d);
        vec![
            case([1, 1, 1, 1, 1, 0, 0]),
            case([2, 3, 5, 7, 3, 0, 0]),
            case([1, 4, 8, 9, 8, 1, 0]),
            case([2, 2, 5, 13, 32, 2, 1]),
            case([1, 11, 17, 19, 13, 0, 1]),
            case([2, 4, 4, 9, 4, 0, 0]).with_offset(20.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(
            &["batch", "d", "h", "w", "classes", "options", "i32"],
            &[2, 128, 128, 128, 3, 0, 0],
        )
    }

    fn inputs(&self, case: &OpCase) -> Vec<Input> {
        let [rows, k] = [case.dims[..4].iter().product(), case.dims[4]];
        let logits = case.normal(0, rows * k, case.offset, 1.5);
        vec![Input::new("logits", InputKind::Activation, &[rows, k], logits).wide()]
    }

    fn run(&self, tape: &mut Tape<'_>, case: &OpCase, args: &OpArgs) -> Result<Vec<Var>> {
        let grid =
            VoxelGrid { batch: case.dims[0], dims: [case.dims[1], case.dims[2], case.dims[3]] };
        let (mut rng, wide) = (case.rng(1), case.dims[6] == 1);
        let most = if wide { 2f64.powi(31) } else { 256.0 };
        // More bits than classes; those beyond must not matter.
        let bits: Vec<f64> = (0..grid.rows())
            .map(|_| rng.range(if wide { -most } else { 0.0 }, most).floor())
            .collect();
        let dtype = if wide { DType::I32 } else { DType::U8 };
        let targets = Tensor::from_f64(tape.device(), dtype, &bits, &[grid.rows()])?;
        Ok(vec![tape.dice_bce(args.var(0)?, &targets, &grid, &options(case.dims[5]))?])
    }

    fn tolerance(&self, _: &OpCase) -> Tolerance {
        Tolerance::Reduction
    }

    fn has_kernels(&self) -> bool {
        true
    }

    fn bytes(&self, case: &OpCase, _: usize) -> u64 {
        let label = if case.dims[6] == 1 { 4 } else { 1 };
        (case.dims[..4].iter().product::<usize>() * (4 * case.dims[4] + label)) as u64
    }

    fn flops(&self, case: &OpCase) -> u64 {
        14 * case.dims[..5].iter().product::<usize>() as u64
    }
}
