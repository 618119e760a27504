//! The launches of `kernels/attention.cu`; which kernel takes which sequences is said there.

use super::OP;
use super::hopper::{self, Backward};
use super::packing::{Packing, WHOLE, Work};
use crate::device::launch::LaunchConfig;
use crate::device::{DType, KernelCall, Tensor};
use crate::{Error, Result};

/// Sizes that all launches of one call share.
struct Sizes<'p> {
    work: &'p Work,
    rows: usize,
    heads: usize,
    d: usize,
    /// Tensor cores take bf16 and these head dims: rows of 64, 96 or 128 bytes, from multiples of 16.
    tensor_cores: bool,
}

impl<'p> Sizes<'p> {
    /// `others`: what is read or written besides `qkv` in its dtype.
    fn new(qkv: &Tensor, others: &[&Tensor], lse: &Tensor, packing: &'p Packing) -> Result<Self> {
        let (rows, width) = qkv.matrix(OP)?;
        let (heads, _) = lse.matrix(OP)?;
        let Some(work) = &packing.work else {
            let got = packing.cu_seqlens.device().name();
            return Err(Error::shape(OP, format!("a packing on {}", qkv.device().name()), got));
        };
        // Kernels count the elements of one sequence in 32 bits.
        if work.longest.saturating_mul(width) > i32::MAX as usize {
            let got = format!("{} rows of {width}", work.longest);
            return Err(Error::shape(OP, "sequences of fewer than 2^31 elements", got));
        }
        let d = width / (3 * heads);
        // They read 16 bytes at a time. A view that begins elsewhere takes the other kernels.
        let aligned = qkv.is_aligned(16) && others.iter().all(|t| t.is_aligned(16));
        let tensor_cores = qkv.dtype() == DType::Bf16 && matches!(d, 32 | 48 | 64) && aligned;
        Ok(Self { work, rows, heads, d, tensor_cores })
    }

    /// A block per tile and head, and per slice of 64 columns where the kernel works in slices.
    fn grid(&self, tiles: &Tensor, threads: u32, shared_bytes: usize) -> Result<LaunchConfig> {
        let tiles = tiles.shape().first().copied().unwrap_or(0);
        let blocks = i32::try_from(tiles.saturating_mul(self.heads)).map_err(|_| {
            Error::shape(OP, "fewer than 2^31 tiles", format!("{tiles} x {} heads", self.heads))
        })?;
        let slices = if self.tensor_cores { 1 } else { self.d.div_ceil(64) as u32 };
        let grid = [blocks as u32, slices, 1];
        Ok(LaunchConfig { grid, block: [threads, 1, 1], shared_bytes: shared_bytes as u32 })
    }

    /// Adds the work list and the sizes to a call, and launches it when there is work.
    fn launch(&self, call: KernelCall<'_>, tiles: &Tensor, config: LaunchConfig) -> Result<()> {
        if tiles.is_empty() {
            return Ok(());
        }
        let scale = (1.0 / (self.d as f64).sqrt()) as f32;
        let call = call.input(tiles)?.value(self.rows as i64).value(self.heads as i32);
        let call = if self.tensor_cores { call } else { call.value(self.d as i32) };
        call.value(scale).launch(config)
    }
}

/// Bytes of a 64 x 64 tile of the kernels without tensor cores: rows of 68 f32.
const SIMT_TILE: usize = 64 * 68 * 4;

pub(super) fn forward(
    out: &mut Tensor,
    lse: &mut Tensor,
    qkv: &Tensor,
    packing: &Packing,
) -> Result<()> {
    let sizes = Sizes::new(qkv, &[out], lse, packing)?;
    let (device, work) = (qkv.device(), sizes.work);
    if let Some(parts) = work.hopper.as_ref().filter(|_| sizes.tensor_cores) {
        return hopper::forward(out, lse, qkv, parts, sizes.d);
    }
    let (name, tiles, config) = if sizes.tensor_cores {
        let name = format!("attention_fwd_bf16_d{}", sizes.d);
        (name, &work.by_128, sizes.grid(&work.by_128, 128, 768 * sizes.d)?)
    } else {
        let name = format!("attention_fwd_{}", qkv.dtype());
        (name, &work.by_64, sizes.grid(&work.by_64, 256, 4 * SIMT_TILE)?)
    };
    let call = KernelCall::new(device, &name).output(out)?.output(lse)?.input(qkv)?;
    sizes.launch(call, tiles, config)
}

pub(super) fn backward(
    dqkv: &mut Tensor,
    out: &Tensor,
    lse: &Tensor,
    dout: &Tensor,
    qkv: &Tensor,
    packing: &Packing,
) -> Result<()> {
    let sizes = Sizes::new(qkv, &[dqkv, out, dout], lse, packing)?;
    let (work, d) = (sizes.work, sizes.d);
    let tensors = Backward { dqkv, out, lse, dout, qkv };
    if let Some(parts) = work.hopper.as_ref().filter(|_| sizes.tensor_cores) {
        return tensors.run(parts, d);
    }
    if !sizes.tensor_cores {
        let config = sizes.grid(&work.by_64, 256, 5 * SIMT_TILE)?;
        let suffix = qkv.dtype().to_string();
        return sizes.two_passes(tensors, &suffix, &work.by_64, config);
    }
    for (n, tiles) in WHOLE.into_iter().zip(&work.whole) {
        let threads = if n == 256 { 256 } else { 128 };
        let config =
            sizes.grid(tiles, threads, (4 * n + 256) * d + 68 * n + 4 * threads as usize)?;
        let call = KernelCall::new(qkv.device(), &format!("attention_bwd_bf16_d{d}_s{n}"));
        let call = call.output(tensors.dqkv)?.input(lse)?.input(dout)?.input(qkv)?;
        sizes.launch(call, tiles, config)?;
    }
    let config = sizes.grid(&work.long_by_128, 128, 768 * d + 512)?;
    sizes.two_passes(tensors, &format!("bf16_d{d}"), &work.long_by_128, config)
}

impl Sizes<'_> {
    /// delta and dQ by tiles of queries, then dK and dV by tiles of keys.
    fn two_passes(
        &self,
        t: Backward<'_>,
        suffix: &str,
        tiles: &Tensor,
        config: LaunchConfig,
    ) -> Result<()> {
        if tiles.is_empty() {
            return Ok(());
        }
        let device = t.qkv.device();
        let mut delta = Tensor::empty(device, DType::F32, &[self.heads, self.rows])?;
        let call = KernelCall::new(device, &format!("attention_bwd_q_{suffix}"));
        let call = call.output(t.dqkv)?.output(&mut delta)?.input(t.out)?.input(t.lse)?;
        self.launch(call.input(t.dout)?.input(t.qkv)?, tiles, config)?;
        let call = KernelCall::new(device, &format!("attention_bwd_kv_{suffix}"));
        let call = call.output(t.dqkv)?.input(t.lse)?.input(&delta)?;
        self.launch(call.input(t.dout)?.input(t.qkv)?, tiles, config)
    }
}
