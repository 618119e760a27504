//! Parity of UNETR: repeats a MONAI case of part `network` (`glmae-unetr-1`, docs/verification.md).

use super::channels_first;
use super::network_case::UnetrCase;
use crate::Result;
use crate::checkpoint::FinetuneState;
use crate::device::{DType, Device, Tensor};
use crate::interchange::monai;
use crate::lab::judge::Results;
use crate::nn::segmenter::Segmenter;
use crate::ops::VoxelGrid;
use crate::ops::dice_ce::DiceOptions;
use crate::tape::{ParamGrads, Tape, Var};
use crate::train::finetune::program::{FinetuneBatch, FinetuneLoss, FinetuneProgram};
use crate::train::run::{Launches, value};

const LOSS: FinetuneLoss = FinetuneLoss::DiceCe { dice: 1.0, ce: 1.0 };

/// Repeats the case on `device` in `dtype`.
pub fn run(case: &UnetrCase, device: &Device, dtype: DType) -> Result<Results> {
    let mut state = FinetuneState::new(load(case, device, dtype)?)?;
    let settings = case.optimizer;
    let batch = case.batch;
    let mut program = FinetuneProgram::new(&state, &settings, LOSS, batch, 1, Launches::Graph)?;
    let config = state.segmenter.net.config.clone();
    program.batch_mut().fill(&config, case.get("image")?.1, &case.labels)?;
    let mut out = Results::new();
    activations(&state.segmenter, program.batch_mut(), batch, &mut out)?;
    for t in 0..case.steps {
        program.micro_batch(&state.segmenter)?;
        program.update(&mut state, &settings)?;
        let report = program.finish(&mut state, &settings)?.checked()?;
        let names = [("dice", "dice_loss"), ("ce", "cross_entropy"), ("total", "loss")];
        for (name, ours) in names {
            let value = value(&report.losses, ours).unwrap_or(f64::NAN);
            out.insert(format!("step{t}.loss.{name}"), vec![value]);
        }
        if t == 0 {
            for e in state.segmenter.params.layout().entries() {
                let values = program.grads().flat().view(e.offset, &e.shape)?.to_f64_vec()?;
                out.insert(format!("step0.grad.{}", monai::name(&e.name)), values);
            }
        }
    }
    for e in state.segmenter.params.layout().entries() {
        let values = state.segmenter.params.value(&e.name)?.to_f64_vec()?;
        out.insert(format!("final.{}", monai::name(&e.name)), values);
    }
    let positions = state.segmenter.positions.to_f64_vec()?;
    out.insert(format!("final.{}", monai::POSITIONS), positions);
    Ok(out)
}

fn load(case: &UnetrCase, device: &Device, dtype: DType) -> Result<Segmenter> {
    let positions = case.get(&format!("init.{}", monai::POSITIONS))?.1;
    let mut segmenter = Segmenter::zeros(device, dtype, &case.config, positions)?;
    for e in segmenter.params.layout().entries().to_vec() {
        // Of this shape: that was checked when the case was read.
        let (_, values) = case.get(&format!("init.{}", monai::name(&e.name)))?;
        segmenter.params.value_mut(&e.name)?.upload_f64(values)?;
    }
    segmenter.params.refresh_half()?;
    Ok(segmenter)
}

/// Activations of the first step in MONAI's order `[batch, channels, d, h, w]`, tokens as they are; and
/// the gradient of the position rows, which a training step has no use for.
fn activations(
    segmenter: &Segmenter,
    batch: &FinetuneBatch,
    count: usize,
    out: &mut Results,
) -> Result<()> {
    let device = segmenter.params.flat().device();
    let net = &segmenter.net;
    let plan = net.plan(device, count)?;
    let mut tape = Tape::new(device);
    let positions = tape.leaf(segmenter.positions_of(count)?);
    let inputs = [&batch.voxels, &batch.image].map(|t| Var::constant(t.clone()));
    let inputs = [&inputs[0], &inputs[1], &positions];
    let pass = net.forward(&mut tape, &segmenter.params, &plan, inputs, true)?;
    let grid = VoxelGrid { batch: count, dims: net.config.roi };
    let mut keep = |name: &str, value: &Var, grid: VoxelGrid| -> Result<()> {
        let values = value.value().to_f64_vec()?;
        let values = match name.starts_with("tokens") {
            true => values,
            false => channels_first(&values, grid),
        };
        out.insert(format!("step0.act.{name}"), values);
        Ok(())
    };
    keep("logits", &pass.logits, grid)?;
    for (name, value, grid) in &pass.activations {
        keep(name, value, *grid)?;
    }
    let options = DiceOptions::default();
    let terms = tape.dice_ce(&pass.logits, &batch.labels, &grid, &options)?;
    let total = tape.weighted_sum(&[(&terms, &[1.0, 1.0])])?;
    let flat = segmenter.params.flat();
    let mut grads = ParamGrads::new(device, flat.dtype(), segmenter.params.layout())?;
    let one = Tensor::from_f64(device, flat.dtype(), &[1.0], &[1])?;
    let mut values = tape.backward_from(&[(total, one)], &mut grads)?;
    if let Some(gradient) = values.take(&positions) {
        let rows = gradient.to_f64_vec()?;
        let mut sum = vec![0.0; rows.len() / count];
        for image in rows.chunks_exact(sum.len()) {
            sum.iter_mut().zip(image).for_each(|(s, g)| *s += g);
        }
        out.insert(format!("step0.grad.{}", monai::POSITIONS), sum);
    }
    Ok(())
}
