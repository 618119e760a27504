//! What the two Dice losses share ([`super::dice_ce`], [`super::dice_bce`]): options, the sums, the launches.

use rayon::prelude::*;

use super::VoxelGrid;
use crate::device::launch::LaunchConfig;
use crate::device::{DType, Device, KernelCall, Real, Tensor, with_real};
use crate::tape::{Backward, Grads, Tape, Var};
use crate::{Error, Result};

/// How the Dice loss is counted. The default is UNETR's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiceOptions {
    /// Whether class 0 counts.
    pub include_background: bool,
    /// Squares of the probabilities in the denominator.
    pub squared: bool,
    /// Added to the numerator: 0 makes an absent class cost exactly 1.
    pub smooth_nr: f64,
    /// Added to the denominator.
    pub smooth_dr: f64,
}

impl Default for DiceOptions {
    fn default() -> Self {
        Self { include_background: true, squared: true, smooth_nr: 0.0, smooth_dr: 1e-6 }
    }
}

/// How scores become probabilities, and what a label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One class per voxel.
    Softmax,
    /// A bit per class.
    Sigmoid,
}

impl Form {
    fn op(self) -> &'static str {
        match self {
            Self::Softmax => "dice_ce",
            Self::Sigmoid => "dice_bce",
        }
    }

    fn truth(self, label: i32, class: usize) -> bool {
        match self {
            Self::Softmax => usize::try_from(label) == Ok(class),
            Self::Sigmoid => (label as u32) >> class & 1 == 1,
        }
    }

    /// Probabilities of a voxel, and its cross-entropy (a sum over the classes for `Sigmoid`).
    fn probabilities<T: Real>(self, p: &mut [T], z: &[T], label: i32) -> T {
        let zero = T::default();
        match self {
            Self::Softmax => {
                let max = z.iter().copied().reduce(T::max).unwrap_or_default();
                for (p, &z) in p.iter_mut().zip(z) {
                    *p = (z - max).exp();
                }
                let sum: T = p.iter().copied().sum();
                p.iter_mut().for_each(|p| *p = *p / sum);
                let score = usize::try_from(label).ok().and_then(|l| z.get(l));
                score.map_or(zero, |&score| sum.ln() + max - score)
            }
            Self::Sigmoid => {
                let one = T::of(1.0);
                let mut entropy = zero;
                for (c, (p, &z)) in p.iter_mut().zip(z).enumerate() {
                    let size = if z > zero { z } else { -z };
                    let e = (-size).exp();
                    *p = if z > zero { one / (one + e) } else { e / (one + e) };
                    let t = if self.truth(label, c) { z } else { zero };
                    entropy += T::max(z, zero) - t + (one + e).ln();
                }
                entropy
            }
        }
    }
}

/// One call: what the backward needs, too.
pub(super) struct Loss {
    form: Form,
    logits: Var,
    labels: Tensor,
    grid: VoxelGrid,
    classes: usize,
    options: DiceOptions,
    /// `[batch, 2, k]`: weighted `a` and `q` of `d dice / dP = -a T + q P` (`+ q` when not squared).
    table: Tensor,
}

impl Loss {
    pub fn new(
        form: Form,
        logits: &Var,
        labels: &Tensor,
        grid: &VoxelGrid,
        options: &DiceOptions,
    ) -> Result<Self> {
        let op = form.op();
        let (rows, classes) = logits.value().matrix(op)?;
        let (dtype, fail) = (logits.value().dtype(), |e: &str, g| Err(Error::shape(op, e, g)));
        if rows != grid.rows() || rows == 0 || grid.batch > 65_535 {
            return fail("rows of 1 to 65535 samples", format!("{rows} rows, {grid:?}"));
        }
        labels.expect_shape(op, &[rows])?;
        let most = match (form, labels.dtype()) {
            (Form::Softmax, DType::U8 | DType::I32) => 256,
            (Form::Sigmoid, DType::U8) => 8,
            (Form::Sigmoid, DType::I32) => 32,
            (_, other) => return fail("labels u8 or i32", other.name().into()),
        };
        if classes > most || classes < 1 + usize::from(!options.include_background) {
            return fail("classes that count and fit", format!("{classes}, at most {most}"));
        }
        if *logits.value().device() != Device::Cpu && dtype != DType::F32 {
            return fail("f32 logits", dtype.name().into());
        }
        let device = logits.value().device();
        let table = Tensor::empty(device, dtype, &[grid.batch, 2, classes])?;
        let (logits, labels) = (logits.clone(), labels.clone());
        Ok(Self { form, logits, labels, grid: *grid, classes, options: *options, table })
    }

    /// Computes the terms `[2]` = dice, cross-entropy.
    pub fn record(mut self, tape: &mut Tape<'_>) -> Result<Var> {
        let op = self.form.op();
        let dtype = self.logits.value().dtype();
        let mut terms = Tensor::empty(tape.device(), dtype, &[2])?;
        match tape.device() {
            Device::Cpu => with_real!(op, dtype, T => self.reference::<T>(&mut terms))?,
            _ => self.run_kernels(&mut terms)?,
        }
        let keeps = self.logits.id().is_some();
        Ok(tape.record(op, terms, keeps, || self))
    }

    /// One over samples times counted classes.
    fn weight(&self) -> f64 {
        let counted = self.classes - usize::from(!self.options.include_background);
        1.0 / (self.grid.batch * counted) as f64
    }

    fn entropy_weight(&self) -> f64 {
        let each = if self.form == Form::Sigmoid { self.classes } else { 1 };
        1.0 / (self.grid.rows() * each) as f64
    }

    fn host_labels(&self) -> Result<Vec<i32>> {
        match self.labels.dtype() {
            DType::U8 => Ok(self.labels.host::<u8>()?.iter().map(|&l| l.into()).collect()),
            _ => self.labels.to_vec::<i32>(),
        }
    }

    fn reference<T: Real>(&mut self, terms: &mut Tensor) -> Result<()> {
        let (k, form, options) = (self.classes, self.form, self.options);
        let labels = self.host_labels()?;
        let logits = self.logits.value().host::<T>()?;
        let weight = T::of(self.weight());
        let first = usize::from(!options.include_background);
        let voxels = self.grid.voxels();
        let (mut dice, mut entropy) = (T::default(), T::default());
        let mut table = vec![T::default(); self.table.len()];
        for (sample, table) in table.chunks_exact_mut(2 * k).enumerate() {
            let z = &logits[sample * voxels * k..][..voxels * k];
            let sums = sums(form, z, &labels[sample * voxels..][..voxels], k, options.squared);
            entropy += sums.entropy;
            for c in first..k {
                let [both, prob, there, gap] = sums.classes[c];
                let den = prob + there + T::of(options.smooth_dr);
                let ratio = (both + both + T::of(options.smooth_nr)) / den;
                // 1 - ratio, without its cancellation where the prediction is good.
                dice += (gap + T::of(options.smooth_dr - options.smooth_nr)) / den;
                table[c] = weight * T::of(2.0) / den;
                table[k + c] =
                    weight * T::of(if options.squared { 2.0 } else { 1.0 }) * ratio / den;
            }
        }
        self.table.host_mut::<T>()?.copy_from_slice(&table);
        let terms = terms.host_mut::<T>()?;
        terms[0] = dice * weight;
        terms[1] = entropy * T::of(self.entropy_weight());
        Ok(())
    }

    fn reference_backward<T: Real>(&self, dterms: &Tensor, dx: &mut [T], add: bool) -> Result<()> {
        let (k, form, squared) = (self.classes, self.form, self.options.squared);
        let (labels, voxels) = (self.host_labels()?, self.grid.voxels());
        let (logits, table) = (self.logits.value().host::<T>()?, self.table.host::<T>()?);
        let [of_dice, of_entropy] = [0, 1].map(|i| dterms.host::<T>().map(|d| d[i]));
        let (of_dice, of_entropy) = (of_dice?, of_entropy? * T::of(self.entropy_weight()));
        dx.par_chunks_mut(ROWS * k).enumerate().for_each(|(block, part)| {
            let (mut p, mut g) = (vec![T::default(); k], vec![T::default(); k]);
            for (r, dx) in part.chunks_exact_mut(k).enumerate() {
                let row = block * ROWS + r;
                let (label, table) = (labels[row], &table[row / voxels * 2 * k..][..2 * k]);
                form.probabilities(&mut p, &logits[row * k..][..k], label);
                for c in 0..k {
                    let t = if form.truth(label, c) { table[c] } else { T::default() };
                    g[c] = of_dice * (table[k + c] * if squared { p[c] } else { T::of(1.0) } - t);
                }
                let inner: T = p.iter().zip(&g).map(|(&p, &g)| p * g).sum();
                let counts = form == Form::Sigmoid || usize::try_from(label).is_ok_and(|l| l < k);
                let of_p = if counts { of_entropy } else { T::default() };
                for (c, dx) in dx.iter_mut().enumerate() {
                    let t = T::of(f64::from(u8::from(form.truth(label, c))));
                    let of_dice = match form {
                        Form::Softmax => p[c] * (g[c] - inner),
                        Form::Sigmoid => p[c] * (T::of(1.0) - p[c]) * g[c],
                    };
                    let d = of_dice + of_p * (p[c] - t);
                    *dx = if add { *dx + d } else { d };
                }
            }
        });
        Ok(())
    }

    /// Rows of a tile in shared memory, and the tiles of a sample.
    fn tiles(&self) -> (usize, usize) {
        let rows = if self.classes <= 64 { 128 } else { 32 };
        (rows, self.grid.voxels().div_ceil(rows))
    }

    fn launch(&self, blocks: usize) -> Result<LaunchConfig> {
        let (rows, _) = self.tiles();
        let blocks = u32::try_from(blocks).ok().filter(|&b| b <= i32::MAX as u32);
        let blocks = blocks.ok_or_else(|| {
            Error::shape(self.form.op(), "fewer voxels", format!("{:?}", self.grid.dims))
        })?;
        Ok(LaunchConfig {
            grid: [blocks, self.grid.batch as u32, 1],
            block: [128, 1, 1],
            shared_bytes: (rows * self.classes * 4) as u32,
        })
    }

    fn kernel(&self, pass: &str) -> KernelCall<'_> {
        KernelCall::new(self.logits.value().device(), &format!("{}_{pass}", self.form.op()))
    }

    fn run_kernels(&mut self, terms: &mut Tensor) -> Result<()> {
        let (device, k) = (self.logits.value().device().clone(), self.classes);
        let (batch, squared) = (self.grid.batch, i32::from(self.options.squared));
        let (rows, tiles) = self.tiles();
        // About eight blocks on each of 132 multiprocessors; the sizes alone decide.
        let each = (tiles * batch).div_ceil(1056).max(2);
        let shares = tiles.div_ceil(each);
        let mut partial = Tensor::empty(&device, DType::F32, &[batch, shares, 4 * k + 1])?;
        self.kernel(&format!("fwd_f32_{}", self.labels.dtype()))
            .output(&mut partial)?
            .input(self.logits.value())?
            .input(&self.labels)?
            .value(self.grid.voxels() as i64)
            .value(k as i32)
            .value(rows as i32)
            .value(each as i32)
            .value(squared)
            .launch(self.launch(shares)?)?;
        let mut scores = Tensor::empty(&device, DType::F32, &[batch, k + 1])?;
        let (weight, name) = (self.weight() as f32, self.form.op());
        KernelCall::new(&device, &format!("{name}_fwd_f32_merge"))
            .output(&mut self.table)?
            .output(&mut scores)?
            .input(&partial)?
            .value(k as i32)
            .value(shares as i32)
            .value(self.options.smooth_nr as f32)
            .value(self.options.smooth_dr as f32)
            .value(weight)
            .value(squared)
            .value(i32::from(!self.options.include_background))
            .launch(LaunchConfig {
                grid: [k as u32 + 1, batch as u32, 1],
                block: [128, 1, 1],
                shared_bytes: 0,
            })?;
        self.kernel("fwd_f32_terms")
            .output(terms)?
            .input(&scores)?
            .value(batch as i32)
            .value(k as i32)
            .value(weight)
            .value(self.entropy_weight() as f32)
            .launch(LaunchConfig::linear(1, 128))
    }
}

impl Backward for Loss {
    fn run(self: Box<Self>, dy: Tensor, grads: &mut Grads<'_>) -> Result<()> {
        let Some((mut dx, mode)) = grads.slot(&self.logits)? else { return Ok(()) };
        if *dy.device() == Device::Cpu {
            return with_real!(self.form.op(), dy.dtype(), T => {
                self.reference_backward::<T>(&dy, dx.host_mut()?, mode.accumulates())
            });
        }
        let (rows, tiles) = self.tiles();
        self.kernel(&format!("bwd_f32_{}", self.labels.dtype()))
            .output_mut(&mut dx)?
            .input(&dy)?
            .input(&self.table)?
            .input(self.logits.value())?
            .input(&self.labels)?
            .value(self.grid.voxels() as i64)
            .value(self.classes as i32)
            .value(rows as i32)
            .value(self.entropy_weight() as f32)
            .value(i32::from(self.options.squared))
            .value(mode.as_arg())
            .launch(self.launch(tiles)?)
    }
}

/// Rows that one task works on; partial sums are one per so many, added in order.
const ROWS: usize = 2048;

/// Of every class the sums of PT, P^2 (or P), T and (P - T)^2 (or |P - T|); and the cross-entropy.
struct Sums<T> {
    classes: Vec<[T; 4]>,
    entropy: T,
}

fn sums<T: Real>(form: Form, z: &[T], labels: &[i32], k: usize, squared: bool) -> Sums<T> {
    let parts: Vec<Sums<T>> = z
        .par_chunks(ROWS * k)
        .zip(labels.par_chunks(ROWS))
        .map(|(z, labels)| {
            let mut sums = Sums { classes: vec![[T::default(); 4]; k], entropy: T::default() };
            let mut p = vec![T::default(); k];
            for (z, &label) in z.chunks_exact(k).zip(labels) {
                sums.entropy += form.probabilities(&mut p, z, label);
                for (c, (sum, &p)) in sums.classes.iter_mut().zip(&p).enumerate() {
                    let is_true = form.truth(label, c);
                    let gap = if is_true { T::of(1.0) - p } else { p };
                    if is_true {
                        sum[0] += p;
                        sum[2] += T::of(1.0);
                    }
                    sum[1] += if squared { p * p } else { p };
                    sum[3] += if squared { gap * gap } else { gap };
                }
            }
            sums
        })
        .collect();
    let mut total = Sums { classes: vec![[T::default(); 4]; k], entropy: T::default() };
    for part in parts {
        total.entropy += part.entropy;
        for (to, from) in total.classes.iter_mut().zip(part.classes) {
            to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
        }
    }
    total
}
