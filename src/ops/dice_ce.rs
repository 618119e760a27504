//! Dice loss and cross-entropy of a segmentation, softmax over the classes:
//!
//! `dice = mean over samples and classes of 1 - (2 sum PT + nr) / (sum P^2 + sum T + dr)`, sums over the
//! voxels of a sample, `ce = -mean over voxels of log P[label]`. Value and gradient read the logits once
//! each; probabilities are never stored.

use super::dice::{Form, Loss};
use super::{Input, InputKind, OpArgs, OpCase, OpSpec, Tolerance, VoxelGrid};
use crate::Result;
use crate::device::{DType, Tensor};
use crate::tape::{Tape, Var};

pub use super::dice::DiceOptions;

const OP: &str = "dice_ce";

impl<'a> Tape<'a> {
    /// Both terms; the loss of UNETR is their sum ([`Tape::weighted_sum`] adds them).
    ///
    /// Shapes: `logits` `[batch * d * h * w, k]`, f32 on a GPU; `labels` `[batch * d * h * w]` u8 or i32,
    /// at most 256 classes; result `[2]` = dice, cross-entropy.
    /// Numerics: maximum taken out before the exponential; sums in shares that sizes decide. A label
    /// outside of `0..k`, which the data layer has to refuse, counts for no class and has no cross-entropy.
    /// Errors: `Shape`.
    /// Source: Milletari et al., arXiv 1606.04797; MONAI `DiceCELoss(to_onehot_y, softmax, squared_pred)`.
    ///
    /// ```
    /// use glmae::device::{Device, Tensor};
    /// use glmae::ops::{VoxelGrid, dice_ce::DiceOptions};
    /// use glmae::tape::{Tape, Var};
    /// let cpu = Device::Cpu;
    /// let grid = VoxelGrid { batch: 1, dims: [1, 1, 2] };
    /// let logits = Var::constant(Tensor::from_slice(&cpu, &[50.0, 0.0, 0.0, 50.0], &[2, 2])?);
    /// let labels = Tensor::from_slice(&cpu, &[0u8, 1], &[2])?;
    /// let options = DiceOptions::default();
    /// let terms = Tape::new(&cpu).dice_ce(&logits, &labels, &grid, &options)?.value().to_f64_vec()?;
    /// // Both voxels are right: dice is 1e-6 / (1 + 1 + 1e-6) for each class, cross-entropy e^-50.
    /// assert!((terms[0] - 5e-7).abs() < 1e-11 && terms[1] < 1e-20);
    /// # Ok::<(), glmae::Error>(())
    /// ```
    pub fn dice_ce(
        &mut self,
        logits: &Var,
        labels: &Tensor,
        grid: &VoxelGrid,
        options: &DiceOptions,
    ) -> Result<Var> {
        Loss::new(Form::Softmax, logits, labels, grid, options)?.record(self)
    }
}

/// Options of the cases: UNETR's, without background, and the plain form with a smoothed numerator.
pub(super) fn options(variant: usize) -> DiceOptions {
    match variant {
        0 => DiceOptions::default(),
        1 => DiceOptions { include_background: false, smooth_dr: 1e-5, ..DiceOptions::default() },
        _ => DiceOptions { squared: false, smooth_nr: 0.5, ..DiceOptions::default() },
    }
}

/// The op in the registry. Dims of a case: batch, d, h, w, classes, options (0 UNETR's, 1 without
/// background, 2 not squared and smoothed), and 1 for labels i32, some of them outside of the classes.
pub struct Spec;

impl OpSpec for Spec {
    fn name(&self) -> &'static str {
        OP
    }

    fn summary(&self) -> &'static str {
        "Dice and cross-entropy of a segmentation, softmax"
    }

    fn cases(&self) -> Vec<OpCase> {
        let case =
            |d: [usize; 7]| OpCase::new(&["batch", "d", "h", "w", "classes", "options", "i32"], &d);
        vec![
            case([1, 1, 1, 1, 1, 0, 0]),
            case([2, 3, 5, 7, 3, 0, 0]),
            case([3, 2, 5, 13, 14, 0, 1]),
            case([1, 4, 8, 9, 16, 1, 0]),
            case([2, 1, 3, 43, 5, 2, 1]),
            case([1, 2, 7, 9, 65, 1, 0]),
            case([2, 1, 3, 11, 130, 0, 1]),
            // More shares than the sum over them takes in one round.
            case([1, 21, 31, 53, 2, 0, 0]),
            case([2, 4, 4, 9, 4, 0, 0]).with_offset(1000.0),
        ]
    }

    fn bench_case(&self) -> OpCase {
        OpCase::new(
            &["batch", "d", "h", "w", "classes", "options", "i32"],
            &[2, 96, 96, 96, 14, 0, 0],
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
        let (k, has_strays) = (case.dims[4], case.dims[6] == 1);
        let mut rng = case.rng(1);
        // The last class is absent from the last sample.
        let last = grid.rows() - grid.voxels();
        let labels: Vec<f64> = (0..grid.rows())
            .map(|i| {
                let classes = if i >= last && k > 2 { k - 1 } else { k };
                let label = (rng.range(0.0, 1.0) * classes as f64).floor();
                if has_strays && i % 11 == 5 { [-1.0, k as f64, 1e9][i % 3] } else { label }
            })
            .collect();
        let dtype = if has_strays { DType::I32 } else { DType::U8 };
        let labels = Tensor::from_f64(tape.device(), dtype, &labels, &[grid.rows()])?;
        Ok(vec![tape.dice_ce(args.var(0)?, &labels, &grid, &options(case.dims[5]))?])
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
        12 * case.dims[..5].iter().product::<usize>() as u64
    }
}
