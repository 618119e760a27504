//! The plan of a pass: for given masks, which patches and rows every op reads and writes. All the
//! index arithmetic of the method is here; ops only follow tables.

use std::ops::Range;

use super::batch::BatchShape;
use super::mask::Mask;
use super::patch_order::PatchOrder;
use crate::config::{Config, Pairs, PositionTable, Target, Term, ViewKind};
use crate::device::{DType, Device, Tensor};
use crate::nn::pos_embed::{interpolate, sincos_3d};
use crate::ops::attention::Packing;
use crate::ops::patch_gather::{PatchPlan, VolumeAt, VoxelOrder};
use crate::ops::row_assemble::{AssemblePlan, RowSource};
use crate::ops::row_gather::GatherPlan;
use crate::ops::soft_cross_entropy::{Anchors, PairPlan};
use crate::tape::{Tape, Var};
use crate::{Error, Result};

/// Position tables of both grids in one matrix: the global table, then the local one.
#[derive(Clone, Debug)]
pub struct PositionTables {
    /// `[rows, dim]`, encoder and decoder.
    pub encoder: Tensor,
    pub decoder: Tensor,
    /// First row of the global and of the local table (their cls rows).
    first: [usize; 2],
}

impl PositionTables {
    /// Tables for the views of `config`.
    pub fn new(device: &Device, dtype: DType, config: &Config) -> Result<Self> {
        let shape = BatchShape::new(config, 1);
        let [global, local] = ViewKind::ALL.map(|kind| shape.grid(kind));
        let build = |dim: usize| {
            let mut tables = [sincos_3d(global, dim), sincos_3d(local, dim)];
            match config.model.position_table {
                PositionTable::Native => {}
                PositionTable::InterpFromLocal => {
                    tables[0] = interpolate(&tables[1], dim, local, global);
                }
                PositionTable::InterpFromGlobal => {
                    tables[1] = interpolate(&tables[0], dim, global, local);
                }
            }
            let [mut rows, local] = tables;
            rows.extend(local);
            Tensor::from_f64(device, dtype, &rows, &[rows.len() / dim, dim])
        };
        Ok(Self {
            encoder: build(config.model.dim)?,
            decoder: build(config.model.dec_dim)?,
            first: [0, 1 + global.iter().product::<usize>()],
        })
    }

    /// Row of the cls position of a kind; token `n` follows at `1 + n`.
    pub fn first(&self, kind: ViewKind) -> usize {
        self.first[kind as usize]
    }

    fn rows(&self) -> usize {
        self.encoder.shape()[0]
    }
}

/// Patches into the encoder and its sequences out of it.
#[derive(Debug)]
pub struct EncodePlan {
    /// Rows of the batch's patches.
    pub patches: Range<usize>,
    pub assemble: AssemblePlan,
    pub packing: Packing,
    /// The cls row of every sequence.
    pub cls: GatherPlan,
}

impl EncodePlan {
    /// Takes over the masks of another plan of the same sizes.
    pub(super) fn refill(&mut self, other: &Self) -> Result<()> {
        same_rows(&self.patches, &other.patches)?;
        self.assemble.refill(&other.assemble)
    }
}

impl DecodePlan {
    /// Takes over the masks of another plan of the same sizes.
    pub(super) fn refill(&mut self, other: &Self) -> Result<()> {
        self.assemble.refill(&other.assemble)?;
        self.wanted.refill(&other.wanted)?;
        self.targets.refill(&other.targets)
    }
}

/// The encoder's rows into the decoder, and the rows that are predicted.
#[derive(Debug)]
pub struct DecodePlan {
    pub assemble: AssemblePlan,
    pub packing: Packing,
    /// Rows that the pixel head runs on.
    pub wanted: GatherPlan,
    /// The patches that the predicted rows belong to, in the same order.
    pub targets: TargetPlan,
    /// Predicted rows of global and of local views.
    pub kind_rows: [usize; 2],
}

/// What predictions are compared with, in channels-last order.
#[derive(Debug)]
pub enum TargetPlan {
    /// Rows of the batch's patches as they are: one channel, masked patches.
    InPlace(Range<usize>),
    /// Rows that have to be put in order.
    Gathered(PatchPlan),
}

impl TargetPlan {
    /// The targets in `patches`, those of a batch: `[predicted rows, p^3 C]`.
    pub fn of(&self, patches: &Tensor) -> Result<Tensor> {
        match self {
            Self::InPlace(rows) => row_range(patches, rows),
            Self::Gathered(plan) => {
                let (order, flat) = (VoxelOrder::ChannelsLast, patches.reshape(&[patches.len()])?);
                let mut tape = Tape::inference(patches.device());
                let rows = tape.patch_gather(&Var::constant(flat), plan, order, patches.dtype())?;
                Ok(rows.value().clone())
            }
        }
    }

    fn refill(&mut self, other: &Self) -> Result<()> {
        match (self, other) {
            (Self::Gathered(plan), Self::Gathered(other)) => plan.refill(other),
            (Self::InPlace(rows), Self::InPlace(other)) => same_rows(rows, other),
            (mine, other) => Err(Error::shape("plan", format!("{mine:?}"), format!("{other:?}"))),
        }
    }
}

/// Neighbouring rows of a matrix, where they are.
pub(super) fn row_range(matrix: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
    let (_, width) = matrix.matrix("rows")?;
    matrix.view(rows.start * width, &[rows.len(), width])
}

/// Rows that a captured step has in it cannot become others.
fn same_rows(mine: &Range<usize>, other: &Range<usize>) -> Result<()> {
    if mine == other {
        return Ok(());
    }
    Err(Error::shape("plan", format!("patches {mine:?}"), format!("{other:?}")))
}

/// Which tokens the decoder predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predict {
    /// Masked tokens: training.
    Masked,
    /// All tokens: pictures and parity with full predictions.
    All,
}

/// Encoder plan for the views `views` of a batch (indices into its views), with what is seen of them, whose
/// patches are the rows `patches` of the batch's.
pub fn encode_plan(
    device: &Device,
    shape: &BatchShape,
    tables: &PositionTables,
    order: &PatchOrder,
    patches: Range<usize>,
    views: &[(usize, &Mask)],
) -> Result<EncodePlan> {
    let kinds: Vec<ViewKind> = shape.kinds().collect();
    let (mut rows, mut lengths, mut cls) = (vec![], vec![], vec![]);
    for &(view, mask) in views {
        let (first, places) = (tables.first(kinds[view]), order.rows(view));
        check_tokens(shape, kinds[view], mask)?;
        cls.push(rows.len());
        rows.push(RowSource { row: None, position: first });
        for &token in mask.keep() {
            // A patch before the range is as wrong as one behind it.
            let row = places[token].wrapping_sub(patches.start);
            rows.push(RowSource { row: Some(row), position: first + 1 + token });
        }
        lengths.push(1 + mask.keep().len());
    }
    Ok(EncodePlan {
        assemble: AssemblePlan::new(device, patches.len(), tables.rows(), &rows)?,
        packing: Packing::new(device, &lengths)?,
        cls: GatherPlan::new(device, rows.len(), &cls)?,
        patches,
    })
}

/// Decoder plan for the views `views`, whose encoder rows stand in `encoder_starts` order: view
/// `i` of the list begins at row `encoder_starts[i]` of `encoder_rows` rows.
#[allow(clippy::too_many_arguments)] // where everything lies; a struct would only rename it
pub fn decode_plan(
    device: &Device,
    shape: &BatchShape,
    tables: &PositionTables,
    order: &PatchOrder,
    views: &[(usize, &Mask)],
    encoder_starts: &[usize],
    encoder_rows: usize,
    predict: Predict,
) -> Result<DecodePlan> {
    let kinds: Vec<ViewKind> = shape.kinds().collect();
    let (mut rows, mut lengths, mut wanted, mut targets) = (vec![], vec![], vec![], vec![]);
    let mut kind_rows = [0; 2];
    for (&(view, mask), &start) in views.iter().zip(encoder_starts) {
        let first = tables.first(kinds[view]);
        check_tokens(shape, kinds[view], mask)?;
        rows.push(RowSource { row: Some(start), position: first });
        for (token, &target) in order.rows(view).iter().enumerate() {
            let place = mask.place(token);
            if place.is_none() || predict == Predict::All {
                wanted.push(rows.len());
                targets.push(target);
                kind_rows[kinds[view] as usize] += 1;
            }
            let row = place.map(|p| start + 1 + p);
            rows.push(RowSource { row, position: first + 1 + token });
        }
        lengths.push(1 + mask.tokens());
    }
    Ok(DecodePlan {
        assemble: AssemblePlan::new(device, encoder_rows, tables.rows(), &rows)?,
        packing: Packing::new(device, &lengths)?,
        wanted: GatherPlan::new(device, rows.len(), &wanted)?,
        targets: target_plan(device, shape, order, &targets)?,
        kind_rows,
    })
}

/// The rows `targets` of a batch's patches, in place where they are neighbours and one order is the other.
fn target_plan(
    device: &Device,
    shape: &BatchShape,
    order: &PatchOrder,
    targets: &[usize],
) -> Result<TargetPlan> {
    let first = targets.first().copied().unwrap_or(0);
    if shape.channels == 1 && targets.iter().copied().eq(first..first + targets.len()) {
        return Ok(TargetPlan::InPlace(first..first + targets.len()));
    }
    let (dims, channels) = ([shape.patch; 3], shape.channels);
    let width = channels * shape.patch.pow(3);
    let volumes: Vec<VolumeAt> = (0..order.patches().len())
        .map(|row| VolumeAt { offset: row * width, channels, dims })
        .collect();
    let rows: Vec<(usize, usize)> = targets.iter().map(|&row| (row, 0)).collect();
    Ok(TargetPlan::Gathered(PatchPlan::new(device, shape.patch, &volumes, &rows)?))
}

fn check_tokens(shape: &BatchShape, kind: ViewKind, mask: &Mask) -> Result<()> {
    if mask.tokens() == shape.tokens(kind) {
        return Ok(());
    }
    let expected = format!("a mask of {} tokens", shape.tokens(kind));
    Err(Error::shape("plan", expected, format!("{}", mask.tokens())))
}

/// Which student rows are compared with which teacher rows. The student's rows are the cls rows
/// of all views of the batch; a term's group is its place among the objective's terms with the teacher.
pub fn pair_plan(device: &Device, config: &Config, shape: &BatchShape) -> Result<PairPlan> {
    let (volumes, objective) = (shape.volumes, config.loss.objective);
    let n_global = shape.count(ViewKind::Global) / volumes.max(1);
    let n_local = shape.count(ViewKind::Local) / volumes.max(1);
    let [of_globals, of_locals] = [Term::G2g, Term::L2g].map(|term| objective.place(term));
    let mut rows = Vec::new();
    for j in 0..n_global {
        for b in 0..volumes {
            let anchors = (0..n_global).filter(|&i| {
                of_globals.is_some()
                    && match config.loss.gg_pairs {
                        Pairs::Same => i == j,
                        Pairs::Cross => i != j,
                        Pairs::All => true,
                    }
            });
            let teacher_rows = anchors.map(|i| i * volumes + b).collect();
            rows.push(Anchors { group: of_globals.unwrap_or(0), teacher_rows });
        }
    }
    for _ in 0..n_local {
        for b in 0..volumes {
            let all = if of_locals.is_some() { n_global } else { 0 };
            let teacher_rows = (0..all).map(|i| i * volumes + b).collect();
            rows.push(Anchors { group: of_locals.unwrap_or(0), teacher_rows });
        }
    }
    let groups = objective.terms(Target::Teacher).count();
    PairPlan::new(device, n_global * volumes, groups, &rows)
}
