//! Part `layers`: single layers, blocks and losses, forward and all gradients.
//!
//! In f64 on the CPU our numbers are compared with the stored ones. In another arithmetic, or on another
//! device, they are compared with those of f64 from the same, rounded, inputs: an input of mean 1000
//! is off by 3e-5 in f32 before anything is computed. Lines that end in `(f64)` tie that run to the file.

use std::sync::Arc;

use super::{bound_of, channels_first, channels_last};
use crate::Result;
use crate::device::{DType, Device, Tensor};
use crate::lab::judge::Judge;
use crate::lab::tensors::CaseTensors;
use crate::nn::conv_block::{ProjectionBlock, ResBlock, UpBlock};
use crate::nn::params::Params;
use crate::ops::VoxelGrid;
use crate::ops::dice_ce::DiceOptions;
use crate::ops::instance_norm::Shortcut;
use crate::param_layout::{ParamId, ParamLayout};
use crate::tape::{ParamGrads, Tape, Var};

/// Relative, f64: layers; the values of a loss; its gradient (docs/verification.md).
const EXACT: f64 = 1e-10;
const EXACT_LOSS: f64 = 1e-12;
const EXACT_LOSS_GRADIENT: f64 = 1e-11;

/// What a case is; its name begins so.
const KINDS: [&str; 9] = [
    "conv3",
    "conv1",
    "up2",
    "instance_norm",
    "leaky_relu",
    "res_block",
    "up_block",
    "projection_block",
    "dice_ce",
];

/// Judges every case of the file.
pub fn run(case: &CaseTensors, device: &Device, dtype: DType, judge: &mut Judge) -> Result<()> {
    for name in case.cases::<serde_json::Value>()?.keys() {
        let kinds = KINDS.iter().filter(|k| name.starts_with(*k));
        let Some(&kind) = kinds.max_by_key(|k| k.len()) else {
            let known = KINDS.join(", ");
            return Err(case.bad(format!("case '{name}' begins with no known layer: {known}")));
        };
        if kind == "dice_ce" {
            loss(case, name, device, dtype, judge)?;
            continue;
        }
        let layer = Layer::read(case, name, kind)?;
        let wanted = Numbers::read(case, &layer)?;
        let exact = layer.outcomes(case, &wanted, &Device::Cpu, DType::F64)?;
        let is_exact = *device == Device::Cpu && dtype == DType::F64;
        let suffix = if is_exact { "" } else { " (f64)" };
        for outcome in &exact {
            for (tensor, values) in outcome {
                let (_, reference) = case.get(&format!("{name}.{tensor}"))?;
                let quantity = match is_exact {
                    true => format!("{name}.{}", group(tensor)),
                    false => format!("{name}{suffix}"),
                };
                judge.near(&quantity, &format!("{name}.{tensor}"), values, reference, EXACT);
            }
        }
        if is_exact {
            continue;
        }
        let rounded = wanted.rounded(dtype)?;
        let reference = layer.outcomes(case, &rounded, &Device::Cpu, DType::F64)?;
        let ours = layer.outcomes(case, &rounded, device, dtype)?;
        for (ours, reference) in ours.iter().zip(&reference) {
            for ((tensor, values), (_, reference)) in ours.iter().zip(reference) {
                let quantity = format!("{name}.{}", group(tensor));
                let bound = bound_of(dtype, EXACT);
                judge.near(&quantity, &format!("{name}.{tensor}"), values, reference, bound);
            }
        }
    }
    Ok(())
}

/// The line that a tensor counts in.
fn group(tensor: &str) -> &str {
    tensor.split('.').next().unwrap_or(tensor)
}

/// Names (without the case's) and values, in the order of the file's axes.
type Outcome = Vec<(String, Vec<f64>)>;

/// Inputs of a layer: the file's, or rounded.
struct Numbers {
    x: Vec<f64>,
    skip: Option<Vec<f64>>,
    dy: Vec<f64>,
    params: Vec<Vec<f64>>,
}

impl Numbers {
    fn read(case: &CaseTensors, layer: &Layer) -> Result<Self> {
        let Layer { name, grid, channels, .. } = layer;
        let shape = |grid: &VoxelGrid, c: usize| [&[grid.batch, c], &grid.dims[..]].concat();
        let read = |part: &str, grid: &VoxelGrid, c: usize| -> Result<Vec<f64>> {
            Ok(case.shaped(&format!("{name}.{part}"), &shape(grid, c))?.to_vec())
        };
        let out = &layer.out_grid;
        let entries = layer.layout.entries().iter();
        let params = entries.map(|e| Ok(case.shaped(&e.name, &e.shape)?.to_vec()));
        let skip = matches!(layer.kind, Kind::Up(_)).then(|| read("skip", out, channels[1]));
        Ok(Self {
            x: read("x", grid, channels[0])?,
            skip: skip.transpose()?,
            dy: read("dy", out, channels[1])?,
            params: params.collect::<Result<_>>()?,
        })
    }

    fn rounded(&self, dtype: DType) -> Result<Self> {
        let round =
            |data: &[f64]| Tensor::from_f64(&Device::Cpu, dtype, data, &[data.len()])?.to_f64_vec();
        Ok(Self {
            x: round(&self.x)?,
            skip: self.skip.as_deref().map(round).transpose()?,
            dy: round(&self.dy)?,
            params: self.params.iter().map(|p| round(p)).collect::<Result<_>>()?,
        })
    }
}

enum Kind {
    Conv { weight: ParamId, bias: Option<ParamId> },
    Doubled(ParamId),
    Norm,
    Leaky,
    Residual(ResBlock),
    Up(UpBlock),
    Projection(ProjectionBlock),
}

/// A layer with the shapes of a case. Its parameters are called as in the file.
struct Layer {
    name: String,
    kind: Kind,
    layout: Arc<ParamLayout>,
    grid: VoxelGrid,
    out_grid: VoxelGrid,
    /// Of `x` and of `y`.
    channels: [usize; 2],
}

impl Layer {
    fn read(case: &CaseTensors, name: &str, kind: &str) -> Result<Self> {
        let ([batch, inputs, d, h, w], _) = case.axes(&format!("{name}.x"))?;
        let ([_, outputs, ..], _) = case.axes::<5>(&format!("{name}.y"))?;
        let grid = VoxelGrid { batch, dims: [d, h, w] };
        let prefix = format!("{name}.param");
        let mut layout = ParamLayout::default();
        let mut out_grid = grid;
        let kind = match kind {
            "conv3" | "conv1" => {
                let k = if kind == "conv3" { 3 } else { 1 };
                let weight = layout.add(format!("{prefix}.weight"), &[outputs, inputs, k, k, k]);
                let bias = format!("{prefix}.bias");
                let bias = case.find(&bias).is_some().then(|| layout.add(bias, &[outputs]));
                Kind::Conv { weight, bias }
            }
            "up2" => {
                out_grid = grid.doubled();
                Kind::Doubled(layout.add(format!("{prefix}.weight"), &[inputs, outputs, 2, 2, 2]))
            }
            "instance_norm" => Kind::Norm,
            "leaky_relu" => Kind::Leaky,
            "res_block" => Kind::Residual(ResBlock::new(&mut layout, &prefix, inputs, outputs)),
            "up_block" => {
                out_grid = grid.doubled();
                Kind::Up(UpBlock::new(&mut layout, &prefix, inputs, outputs))
            }
            _ => {
                let is_there =
                    |i: &usize| case.find(&format!("{prefix}.blocks.{i}.0.conv.weight")).is_some();
                let rounds = (0usize..).take_while(is_there).count();
                out_grid = (0..=rounds).fold(grid, |grid, _| grid.doubled());
                let block = ProjectionBlock::new(&mut layout, &prefix, inputs, outputs, rounds);
                Kind::Projection(block)
            }
        };
        let known = |tensor: &&str| layout.find(&format!("{prefix}.{tensor}")).is_none();
        if let Some(other) = case.names(&format!("{prefix}.")).find(known) {
            return Err(case.bad(format!("'{prefix}.{other}' is no parameter of this layer")));
        }
        let channels = [inputs, outputs];
        case.shaped(&format!("{name}.y"), &[&[batch, outputs], &out_grid.dims[..]].concat())?;
        for e in layout.entries() {
            case.shaped(&e.name.replacen(".param.", ".dparam.", 1), &e.shape)?;
        }
        if !matches!(kind, Kind::Conv { .. } | Kind::Doubled(_)) && layout.is_empty() {
            // A norm or an activation: as many channels as before.
            case.shaped(&format!("{name}.y"), &[batch, inputs, d, h, w])?;
        }
        case.shaped(&format!("{name}.dx"), &[batch, inputs, d, h, w])?;
        if matches!(kind, Kind::Up(_)) {
            let shape = [&[batch, outputs], &out_grid.dims[..]].concat();
            case.shaped(&format!("{name}.dskip"), &shape)?;
        }
        Ok(Self { name: name.to_owned(), kind, layout: Arc::new(layout), grid, out_grid, channels })
    }

    /// Results and gradients. A convolution of several channels has two outcomes: its input as one
    /// tensor, and as two that it reads side by side.
    fn outcomes(
        &self,
        case: &CaseTensors,
        numbers: &Numbers,
        device: &Device,
        dtype: DType,
    ) -> Result<Vec<Outcome>> {
        let mut all = vec![self.outcome(case, numbers, device, dtype, self.channels[0])?];
        if matches!(self.kind, Kind::Conv { .. }) && self.channels[0] > 1 {
            all.push(self.outcome(case, numbers, device, dtype, self.channels[0] / 2)?);
        }
        Ok(all)
    }

    /// `cut` channels are in the first input, the others in a second.
    fn outcome(
        &self,
        case: &CaseTensors,
        numbers: &Numbers,
        device: &Device,
        dtype: DType,
        cut: usize,
    ) -> Result<Outcome> {
        let mut params = Params::zeros(device, dtype, self.layout.clone(), true)?;
        for (e, values) in self.layout.entries().iter().zip(&numbers.params) {
            params.value_mut(&e.name)?.upload_f64(values)?;
        }
        params.refresh_half()?;
        let mut tape = Tape::new(device);
        let (grid, [inputs, outputs]) = (self.grid, self.channels);
        let rows = channels_last(&numbers.x, inputs, grid);
        let mut leaves = Vec::new();
        for range in [0..cut, cut..inputs].into_iter().filter(|r| !r.is_empty()) {
            let part: Vec<f64> =
                rows.chunks_exact(inputs).flat_map(|row| row[range.clone()].to_vec()).collect();
            let shape = [grid.rows(), range.len()];
            leaves.push(tape.leaf(Tensor::from_f64(device, dtype, &part, &shape)?));
        }
        if let Some(skip) = &numbers.skip {
            let rows = channels_last(skip, outputs, self.out_grid);
            let shape = [self.out_grid.rows(), outputs];
            leaves.push(tape.leaf(Tensor::from_f64(device, dtype, &rows, &shape)?));
        }
        let y = self.forward(&mut tape, &params, &leaves)?;
        let values = channels_first(&y.value().to_f64_vec()?, self.out_grid);
        let mut out = vec![("y".to_owned(), values)];
        let dy = channels_last(&numbers.dy, outputs, self.out_grid);
        let dy = Tensor::from_f64(device, y.value().dtype(), &dy, y.shape())?;
        let mut grads = ParamGrads::new(device, dtype.master(), &self.layout)?;
        let mut found = tape.backward_from(&[(y, dy)], &mut grads)?;
        let mut gradient = |leaf: &Var| -> Result<Vec<f64>> {
            let gradient = found.take(leaf);
            gradient.ok_or_else(|| case.bad("an input has no gradient"))?.to_f64_vec()
        };
        let skips = usize::from(numbers.skip.is_some());
        let parts = leaves[..leaves.len() - skips].iter().map(&mut gradient);
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let widths: Vec<usize> = parts.iter().map(|p| p.len() / grid.rows()).collect();
        let row = |i: usize| {
            let pieces = parts.iter().zip(&widths).map(move |(p, &c)| &p[i * c..][..c]);
            pieces.flatten().copied().collect::<Vec<f64>>()
        };
        let dx: Vec<f64> = (0..grid.rows()).flat_map(row).collect();
        out.push(("dx".to_owned(), channels_first(&dx, grid)));
        if let Some(skip) = leaves.last().filter(|_| skips > 0) {
            out.push(("dskip".to_owned(), channels_first(&gradient(skip)?, self.out_grid)));
        }
        let flat = grads.finish(&self.layout)?;
        for e in self.layout.entries() {
            let tensor = e.name.replacen(".param.", ".dparam.", 1);
            let tensor = tensor.strip_prefix(&format!("{}.", self.name)).unwrap_or(&tensor);
            out.push((tensor.to_owned(), flat.view(e.offset, &e.shape)?.to_f64_vec()?));
        }
        Ok(out)
    }

    fn forward(&self, tape: &mut Tape<'_>, params: &Params, inputs: &[Var]) -> Result<Var> {
        let (refs, grid): (Vec<&Var>, VoxelGrid) = (inputs.iter().collect(), self.grid);
        match &self.kind {
            Kind::Conv { weight, bias } => {
                let bias = bias.map(|b| params.get(b)).transpose()?;
                tape.conv3d(&refs, grid, &params.get(*weight)?, bias.as_ref())
            }
            Kind::Doubled(weight) => tape.conv_transpose(&inputs[0], grid, &params.get(*weight)?),
            Kind::Norm => tape.instance_norm(&inputs[0], &grid),
            Kind::Leaky => {
                // The norm of a constant is 0: what is left is the activation of the shortcut.
                let value = inputs[0].value();
                let zero = Tensor::zeros(value.device(), value.dtype(), value.shape())?;
                let zero = Var::constant(zero);
                tape.instance_norm_residual(&zero, Shortcut::Plain(&inputs[0]), &grid)
            }
            Kind::Residual(block) => block.forward(tape, params, &refs, grid),
            Kind::Up(block) => block.forward(tape, params, &inputs[0], &inputs[1], grid),
            Kind::Projection(block) => Ok(block.forward(tape, params, &inputs[0], grid)?.0),
        }
    }
}

/// Dice and cross-entropy of logits, with labels of both types, and the gradient of their sum.
fn loss(
    case: &CaseTensors,
    name: &str,
    device: &Device,
    dtype: DType,
    judge: &mut Judge,
) -> Result<()> {
    let ([batch, classes, d, h, w], x) = case.axes::<5>(&format!("{name}.x"))?;
    let grid = VoxelGrid { batch, dims: [d, h, w] };
    let labels = case.labels(&format!("{name}.label"), &[batch, 1, d, h, w])?;
    if let Some(label) = labels.iter().find(|l| usize::from(**l) >= classes) {
        return Err(case.bad(format!("{name}.label holds {label} of {classes} classes")));
    }
    let options = options(case)?;
    let terms = ["dice", "ce", "total"].map(|t| format!("{name}.{t}"));
    let mut wanted = Vec::new();
    for term in &terms {
        wanted.push(case.shaped(term, &[1])?.to_vec());
    }
    let dx = format!("{name}.dx");
    wanted.push(case.shaped(&dx, &[batch, classes, d, h, w])?.to_vec());
    let run = |x: &[f64], label: DType, device: &Device, dtype| -> Result<Vec<Vec<f64>>> {
        let values: Vec<f64> = labels.iter().map(|&l| l.into()).collect();
        let labels = Tensor::from_f64(device, label, &values, &[grid.rows()])?;
        let mut tape = Tape::new(device);
        let rows = channels_last(x, classes, grid);
        let leaf = tape.leaf(Tensor::from_f64(device, dtype, &rows, &[grid.rows(), classes])?);
        let terms = tape.dice_ce(&leaf, &labels, &grid, &options)?;
        let values = terms.value().to_f64_vec()?;
        let total = tape.weighted_sum(&[(&terms, &[1.0, 1.0])])?;
        let sum = total.value().to_f64_vec()?;
        let mut grads = ParamGrads::new(device, dtype.master(), &ParamLayout::default())?;
        let mut found = tape.backward(&total, &mut grads)?;
        let gradient = found.take(&leaf).ok_or_else(|| case.bad("the logits have no gradient"))?;
        let mut out: Vec<Vec<f64>> = values.into_iter().map(|v| vec![v]).collect();
        out.extend([sum, channels_first(&gradient.to_f64_vec()?, grid)]);
        Ok(out)
    };
    let is_exact = *device == Device::Cpu && dtype == DType::F64;
    let names = terms.iter().chain([&dx]);
    let bounds = [EXACT_LOSS, EXACT_LOSS, EXACT_LOSS, EXACT_LOSS_GRADIENT];
    let mut reference = wanted;
    if !is_exact {
        let exact = run(x, DType::U8, &Device::Cpu, DType::F64)?;
        for (((tensor, ours), wanted), bound) in
            names.clone().zip(&exact).zip(&reference).zip(bounds)
        {
            // Two bounds, two lines.
            let what = if tensor == &dx { "gradient (f64)" } else { "(f64)" };
            judge.near(&format!("{name} {what}"), tensor, ours, wanted, bound);
        }
    }
    let x = match is_exact {
        true => x.to_vec(),
        false => Tensor::from_f64(&Device::Cpu, dtype, x, &[x.len()])?.to_f64_vec()?,
    };
    if !is_exact {
        reference = run(&x, DType::U8, &Device::Cpu, DType::F64)?;
    }
    for label in [DType::U8, DType::I32] {
        let ours = run(&x, label, device, dtype)?;
        for (((tensor, ours), wanted), bound) in
            names.clone().zip(&ours).zip(&reference).zip(bounds)
        {
            judge.near(tensor, tensor, ours, wanted, bound_of(dtype, bound));
        }
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Loss {
    softmax: bool,
    to_onehot_y: bool,
    squared_pred: bool,
    include_background: bool,
    smooth_nr: f64,
    smooth_dr: f64,
}

/// How the loss of the file is counted.
///
/// Errors: a loss that is not ours.
pub(super) fn options(case: &CaseTensors) -> Result<DiceOptions> {
    let loss: Loss = case.json("loss")?;
    if !(loss.softmax && loss.to_onehot_y) {
        return Err(case.bad("metadata 'loss': softmax and to_onehot_y must be true"));
    }
    Ok(DiceOptions {
        include_background: loss.include_background,
        squared: loss.squared_pred,
        smooth_nr: loss.smooth_nr,
        smooth_dr: loss.smooth_dr,
    })
}
