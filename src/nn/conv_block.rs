//! The blocks of UNETR's convolutional side, over channels-last volumes.

use super::params::Params;
use crate::Result;
use crate::ops::VoxelGrid;
use crate::ops::instance_norm::Shortcut;
use crate::param_layout::{ParamId, ParamLayout};
use crate::tape::{Tape, Var};

/// `leaky(norm(conv2(leaky(norm(conv1(x))))) + shortcut)`, where the shortcut is `x`, or
/// `norm(conv3(x))` when the number of channels changes. MONAI's `UnetResBlock`, non-affine norms.
#[derive(Clone, Debug)]
pub struct ResBlock {
    conv1: ParamId,
    conv2: ParamId,
    conv3: Option<ParamId>,
}

impl ResBlock {
    /// `name` is the prefix of the checkpoint names; `inputs` channels become `outputs`.
    pub fn new(layout: &mut ParamLayout, name: &str, inputs: usize, outputs: usize) -> Self {
        let mut conv = |part: &str, c: usize, k: usize| {
            layout.add(format!("{name}.{part}.conv.weight"), &[outputs, c, k, k, k])
        };
        let (conv1, conv2) = (conv("conv1", inputs, 3), conv("conv2", outputs, 3));
        let conv3 = (inputs != outputs).then(|| conv("conv3", inputs, 1));
        Self { conv1, conv2, conv3 }
    }

    /// Shapes: one or two inputs `[grid.rows(), c]`, taken as one along the channels; result
    /// `[grid.rows(), outputs]`.
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        inputs: &[&Var],
        grid: VoxelGrid,
    ) -> Result<Var> {
        let y = tape.conv3d(inputs, grid, &params.get(self.conv1)?, None)?;
        let y = tape.instance_norm_leaky(&y, &grid)?;
        let y = tape.conv3d(&[&y], grid, &params.get(self.conv2)?, None)?;
        match self.conv3 {
            Some(conv3) => {
                let shortcut = tape.conv3d(inputs, grid, &params.get(conv3)?, None)?;
                tape.instance_norm_residual(&y, Shortcut::Normed(&shortcut), &grid)
            }
            None => tape.instance_norm_residual(&y, Shortcut::Plain(inputs[0]), &grid),
        }
    }
}

/// From tokens to a skip connection: doubled once, then rounds of (doubled, residual block).
#[derive(Clone, Debug)]
pub struct ProjectionBlock {
    first: ParamId,
    rounds: Vec<(ParamId, ResBlock)>,
}

impl ProjectionBlock {
    pub fn new(
        layout: &mut ParamLayout,
        name: &str,
        inputs: usize,
        outputs: usize,
        rounds: usize,
    ) -> Self {
        let first = up(layout, &format!("{name}.transp_conv_init"), inputs, outputs);
        let rounds = (0..rounds)
            .map(|i| {
                let name = format!("{name}.blocks.{i}");
                let up = up(layout, &format!("{name}.0"), outputs, outputs);
                (up, ResBlock::new(layout, &format!("{name}.1"), outputs, outputs))
            })
            .collect();
        Self { first, rounds }
    }

    /// Shapes: `x` `[grid.rows(), inputs]`; result on the grid that is returned beside it.
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        x: &Var,
        grid: VoxelGrid,
    ) -> Result<(Var, VoxelGrid)> {
        let mut y = tape.conv_transpose(x, grid, &params.get(self.first)?)?;
        let mut grid = grid.doubled();
        for (up, block) in &self.rounds {
            y = tape.conv_transpose(&y, grid, &params.get(*up)?)?;
            grid = grid.doubled();
            y = block.forward(tape, params, &[&y], grid)?;
        }
        Ok((y, grid))
    }
}

/// One step up: doubled, beside the skip connection, residual block.
#[derive(Clone, Debug)]
pub struct UpBlock {
    up: ParamId,
    block: ResBlock,
}

impl UpBlock {
    pub fn new(layout: &mut ParamLayout, name: &str, inputs: usize, outputs: usize) -> Self {
        let up = up(layout, &format!("{name}.transp_conv"), inputs, outputs);
        Self {
            up,
            block: ResBlock::new(layout, &format!("{name}.conv_block"), 2 * outputs, outputs),
        }
    }

    /// Shapes: `x` `[grid.rows(), inputs]`, `skip` `[8 grid.rows(), outputs]`; result like `skip`.
    pub fn forward(
        &self,
        tape: &mut Tape<'_>,
        params: &Params,
        x: &Var,
        skip: &Var,
        grid: VoxelGrid,
    ) -> Result<Var> {
        let up = tape.conv_transpose(x, grid, &params.get(self.up)?)?;
        self.block.forward(tape, params, &[&up, skip], grid.doubled())
    }
}

fn up(layout: &mut ParamLayout, name: &str, inputs: usize, outputs: usize) -> ParamId {
    layout.add(format!("{name}.conv.weight"), &[inputs, outputs, 2, 2, 2])
}
