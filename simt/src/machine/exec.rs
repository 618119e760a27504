//! One instruction of a warp that neither branches nor waits.

use super::access::{Access, addresses, resolve, shared_address, window};
use super::cluster::Cluster;
use super::warp::Warp;
use super::{Trouble, traffic};
use crate::arith::integer::{byte_permute, logic3};
use crate::clocks::Objects;
use crate::count::Counts;
use crate::program::lanes::Lanes64;
use crate::program::op::{BoolOp, Cvta, Op, SrcPred};
use crate::ptx::ast::Space;
use crate::shadow::Flag;

/// The lanes that are on, lowest first.
pub fn each(lanes: u32) -> impl Iterator<Item = usize> {
    (0..32).filter(move |l| lanes >> l & 1 == 1)
}

impl Cluster<'_, '_> {
    #[inline(always)]
    pub(super) fn step(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let (mut x, mut y, mut z) = ([0u32; 32], [0u32; 32], [0u32; 32]);
        match *op {
            Op::A1 { f, d, a } => {
                let mut out = [0; 32];
                // SAFETY (of this and all calls of functions over lanes below): the decoder takes them from
                // `lane_fn` and `lane_test`, which hand out what this processor can run.
                unsafe { f(warp.word(a, &mut x), &mut out) };
                warp.put(d, &out, on);
            }
            Op::A2 { f, d, a, b } => {
                let mut out = [0; 32];
                // SAFETY: see above.
                unsafe { f(warp.word(a, &mut x), warp.word(b, &mut y), &mut out) };
                warp.put(d, &out, on);
            }
            Op::A3 { f, d, a, b, c } => {
                let mut out = [0; 32];
                let (a, b, c) = (warp.word(a, &mut x), warp.word(b, &mut y), warp.word(c, &mut z));
                // SAFETY: see above.
                unsafe { f(a, b, c, &mut out) };
                warp.put(d, &out, on);
            }
            Op::Mov { d, a } => {
                let value = *warp.word(a, &mut x);
                warp.put(d, &value, on);
            }
            Op::Setp { f, d, inverse, a, b, with } => {
                // SAFETY: see above.
                let hit = unsafe { f(warp.word(a, &mut x), warp.word(b, &mut y)) };
                set_preds(warp, hit, (d, inverse), with, on);
            }
            Op::Select { d, a, b, p } => {
                let (a, b, p) = (*warp.word(a, &mut x), warp.word(b, &mut y), warp.pred(p));
                let mut out = *b;
                for lane in 0..32 {
                    let is_a = 0u32.wrapping_sub(p >> lane & 1);
                    out[lane] = a[lane] & is_a | b[lane] & !is_a;
                }
                warp.put(d, &out, on);
            }
            Op::Load { at, d, is_signed, is_read_only } => {
                let address = addresses(warp, at.address);
                let total = u32::from(at.bytes) * u32::from(at.n);
                let mut values = [[0u64; 32]; 4];
                let space = self.space_of(&at, &address, on)?;
                self.check_early(warp, ("read", total), (space, &address), on)?;
                let access = if is_read_only { Access::ReadOnly } else { Access::Read };
                let has_scopes = self.has_scopes();
                for lane in each(on) {
                    let (_, place) = resolve(at.space, address[lane]);
                    aligned(lane, place, total, "read")?;
                    let from =
                        self.reach(warp, lane, (space, place), total as usize, access, pc)?;
                    if has_scopes {
                        self.check_scopes(lane, (space, place), total as usize)?;
                    }
                    for (i, value) in values[..usize::from(at.n)].iter_mut().enumerate() {
                        // SAFETY: `reach` has checked that all `total` bytes are there.
                        value[lane] = unsafe {
                            read(from.wrapping_add(i * usize::from(at.bytes)), at.bytes, is_signed)
                        };
                    }
                }
                traffic::count(counts.traffic(pc), space, &address, total, on);
                for (d, value) in d.iter().zip(&values[..usize::from(at.n)]) {
                    warp.put_any(*d, value, on);
                }
            }
            Op::Store { at, strong, from } => {
                let address = addresses(warp, at.address);
                let total = u32::from(at.bytes) * u32::from(at.n);
                let space = self.space_of(&at, &address, on)?;
                self.check_early(warp, ("write", total), (space, &address), on)?;
                if let Some(is_release) = strong {
                    self.let_others_see(warp, (space, &address), on, is_release);
                }
                for lane in each(on) {
                    let (_, place) = resolve(at.space, address[lane]);
                    aligned(lane, place, total, "write")?;
                    let access = Access::Write(Flag::Plain);
                    let to = self.reach(warp, lane, (space, place), total as usize, access, pc)?;
                    for (i, value) in from[..usize::from(at.n)].iter().enumerate() {
                        let value = warp.value_of(*value, lane).to_le_bytes();
                        // SAFETY: as for loads; a kernel that races with others is reported by the shadow.
                        unsafe {
                            to.wrapping_add(i * usize::from(at.bytes))
                                .copy_from_nonoverlapping(value.as_ptr(), at.bytes.into());
                        }
                    }
                }
                traffic::count(counts.traffic(pc), space, &address, total, on);
            }
            Op::LoadParam { offset, bytes, n, d, is_signed } => {
                let params = self.grid.launch.params;
                for (i, d) in d[..usize::from(n)].iter().enumerate() {
                    let at = offset as usize + i * usize::from(bytes);
                    // SAFETY: the decoder has checked the range against the size of the buffer.
                    let value = unsafe { read(params[at..].as_ptr(), bytes, is_signed) };
                    warp.put_any(*d, &[value; 32], on);
                }
            }
            Op::Mma { .. } => return self.mma(warp, op, on),
            Op::LdMatrix { .. } => return self.load_matrix(warp, op, on, pc, counts),
            _ => return self.rare(warp, op, on, pc, counts),
        }
        Ok(())
    }

    /// What is not in inner loops, or is long.
    fn rare(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let (mut x, mut y) = ([0u32; 32], [0u32; 32]);
        let (mut p, mut q, mut r) = ([0u64; 32], [0u64; 32], [0u64; 32]);
        match *op {
            Op::Nop => {}
            Op::Fence => {
                if self.grid.launch.is_checked {
                    self.clocks.fence(warp.id as usize, on);
                }
            }
            Op::L1 { f, d, a } => {
                let mut out = [0; 32];
                // SAFETY: as in `step`.
                unsafe { f(warp.long(a, &mut p), &mut out) };
                warp.put_long(d, &out, on);
            }
            Op::L2 { f, d, a, b } => {
                let mut out = [0; 32];
                // SAFETY: as in `step`.
                unsafe { f(warp.long(a, &mut p), warp.long(b, &mut q), &mut out) };
                warp.put_long(d, &out, on);
            }
            Op::L3 { f, d, a, b, c } => {
                let mut out = [0; 32];
                let (a, b, c) = (warp.long(a, &mut p), warp.long(b, &mut q), warp.long(c, &mut r));
                // SAFETY: as in `step`.
                unsafe { f(a, b, c, &mut out) };
                warp.put_long(d, &out, on);
            }
            Op::Widen { f, d, a } => {
                let mut out = [0; 32];
                // SAFETY: as in `step`.
                unsafe { f(warp.word(a, &mut x), &mut out) };
                warp.put_long(d, &out, on);
            }
            Op::Narrow { f, d, a } => {
                let mut out = [0; 32];
                // SAFETY: as in `step`.
                unsafe { f(warp.long(a, &mut p), &mut out) };
                warp.put(d, &out, on);
            }
            Op::MulWide { f, d, a, b } => {
                let mut out = [0; 32];
                // SAFETY: as in `step`.
                unsafe { f(warp.word(a, &mut x), warp.word(b, &mut y), &mut out) };
                warp.put_long(d, &out, on);
            }
            Op::MadWide { f, d, a, b, c } => {
                let mut out = [0; 32];
                let (a, b, c) = (warp.word(a, &mut x), warp.word(b, &mut y), warp.long(c, &mut r));
                // SAFETY: as in `step`.
                unsafe { f(a, b, c, &mut out) };
                warp.put_long(d, &out, on);
            }
            Op::Shift64 { f, d, a, b } => {
                let mut out = [0; 32];
                // SAFETY: as in `step`.
                unsafe { f(warp.long(a, &mut p), warp.word(b, &mut y), &mut out) };
                warp.put_long(d, &out, on);
            }
            Op::Divide { f, d, a, b } => {
                let (a, b) = (warp.word(a, &mut x), warp.word(b, &mut y));
                no_zero(b, on)?;
                let mut out = [0; 32];
                // SAFETY: as in `step`.
                unsafe { f(a, b, &mut out) };
                warp.put(d, &out, on);
            }
            Op::Divide64 { f, d, a, b } => {
                let (a, b) = (warp.long(a, &mut p), warp.long(b, &mut q));
                no_zero(b, on)?;
                let mut out = [0; 32];
                // SAFETY: as in `step`.
                unsafe { f(a, b, &mut out) };
                warp.put_long(d, &out, on);
            }
            Op::Mov64 { d, a } => {
                let value = *warp.long(a, &mut p);
                warp.put_long(d, &value, on);
            }
            Op::MovPred { d, a } | Op::NotPred { d, a } => {
                let flip = if matches!(op, Op::NotPred { .. }) { u32::MAX } else { 0 };
                warp.put_pred(d, warp.pred(a) ^ flip, on);
            }
            Op::Pred { op, d, a, b } => {
                warp.put_pred(d, op.apply(warp.pred(a), warp.pred(b)), on);
            }
            Op::Special { d, which } => {
                let value = self.special(warp, which);
                warp.put_any(d, &value, on);
            }
            Op::ExplicitCluster { d } => {
                let is_explicit = self.ctas.len() > 1;
                warp.put_pred(d, if is_explicit { u32::MAX } else { 0 }, on);
            }
            Op::Pack32 { d, low, high } => {
                let (low, high) = (*warp.word(low, &mut x), warp.word(high, &mut y));
                let out = std::array::from_fn(|i| low[i] & 0xffff | high[i] << 16);
                warp.put(d, &out, on);
            }
            Op::Pack64 { d, low, high } => {
                let (low, high) = (*warp.word(low, &mut x), warp.word(high, &mut y));
                let out = std::array::from_fn(|i| u64::from(low[i]) | u64::from(high[i]) << 32);
                warp.put_long(d, &out, on);
            }
            Op::Pack64Of4 { d, parts } => {
                let mut out = [0u64; 32];
                for (i, part) in parts.into_iter().enumerate() {
                    let part = warp.word(part, &mut x);
                    out.iter_mut()
                        .zip(part)
                        .for_each(|(o, &v)| *o |= u64::from(v & 0xffff) << (16 * i));
                }
                warp.put_long(d, &out, on);
            }
            Op::Unpack32 { low, high, a } => {
                let value = *warp.word(a, &mut x);
                warp.put_any(low, &value.map(|v| u64::from(v & 0xffff)), on);
                warp.put_any(high, &value.map(|v| u64::from(v >> 16)), on);
            }
            Op::Unpack64 { low, high, a } => {
                let value = *warp.long(a, &mut p);
                warp.put_any(low, &value.map(|v| v & 0xffff_ffff), on);
                warp.put_any(high, &value.map(|v| v >> 32), on);
            }
            Op::Lop3 { table, d, a, b, c } => {
                let mut z = [0u32; 32];
                let (a, b, c) = (warp.word(a, &mut x), warp.word(b, &mut y), warp.word(c, &mut z));
                let out = std::array::from_fn(|i| logic3(a[i], b[i], c[i], table));
                warp.put(d, &out, on);
            }
            Op::Prmt { d, a, b, c } => {
                let mut z = [0u32; 32];
                let (a, b, c) = (warp.word(a, &mut x), warp.word(b, &mut y), warp.word(c, &mut z));
                let out = std::array::from_fn(|i| byte_permute(a[i], b[i], c[i]));
                warp.put(d, &out, on);
            }
            Op::Setp64 { f, d, inverse, a, b, with } => {
                // SAFETY: as in `step`.
                let hit = unsafe { f(warp.long(a, &mut p), warp.long(b, &mut q)) };
                set_preds(warp, hit, (d, inverse), with, on);
            }
            Op::Set { f, d, yes, a, b } => {
                // SAFETY: as in `step`.
                let hit = unsafe { f(warp.word(a, &mut x), warp.word(b, &mut y)) };
                let out = std::array::from_fn(|i| if hit >> i & 1 == 1 { yes } else { 0 });
                warp.put(d, &out, on);
            }
            Op::Select64 { d, a, b, p: pred } => {
                let (a, b) = (*warp.long(a, &mut p), *warp.long(b, &mut q));
                let pred = warp.pred(pred);
                let out = std::array::from_fn(|i| if pred >> i & 1 == 1 { a[i] } else { b[i] });
                warp.put_long(d, &out, on);
            }
            Op::Cvta { which, d, a } => {
                let a = *warp.long(a, &mut p);
                let mut out = [0; 32];
                for lane in each(on) {
                    out[lane] = convert(which, a[lane]).map_err(|m| Trouble::new(1 << lane, m))?;
                }
                warp.put_long(d, &out, on);
            }
            Op::IsSpace { space, d, a } => {
                let a = *warp.long(a, &mut p);
                // The window of the parameters lies in that of global memory.
                let is_there =
                    |found| found == space || found == Space::Param && space == Space::Global;
                let hit = each(on).filter(|&l| is_there(resolve(Space::Generic, a[l]).0));
                let hit = hit.fold(0, |all, l| all | 1 << l);
                warp.put_pred(d, hit, on);
            }
            Op::Atomic { at, op, is_release, d, b, c } => {
                let address = addresses(warp, at.address);
                let bytes = u32::from(at.bytes);
                let space = self.space_of(&at, &address, on)?;
                self.check_early(warp, ("atomic", bytes), (space, &address), on)?;
                self.let_others_see(warp, (space, &address), on, is_release);
                self.see_others((space, &address), on);
                let mut old = [0u64; 32];
                for lane in each(on) {
                    let (_, place) = resolve(at.space, address[lane]);
                    aligned(lane, place, bytes, "atomic")?;
                    let access = Access::Write(Flag::Atomic);
                    let to = self.reach(warp, lane, (space, place), bytes as usize, access, pc)?;
                    let (b, c) = (warp.value_of(b, lane), warp.value_of(c, lane));
                    // SAFETY: `reach` has checked the range, `aligned` the alignment; other blocks go through
                    // atomics as well, or are reported.
                    old[lane] = unsafe { super::atomic::apply(to, bytes, op, b, c) };
                }
                self.see_others((space, &address), on);
                traffic::count(counts.traffic(pc), space, &address, bytes, on);
                warp.put_any(d, &old, on);
            }
            Op::ActiveMask { d } => warp.put(d, &[on; 32], on),
            Op::CopyAsync { .. } => return self.copy_async(warp, op, on, pc, counts),
            Op::CopyCommit => warp.copies.commit(on),
            Op::CopyWait { open, commits } => {
                if commits {
                    warp.copies.commit(on);
                }
                return self.copy_wait(warp, open, on);
            }
            Op::StMatrix { .. } => return self.store_matrix(warp, op, on, pc, counts),
            Op::Trap => return Err(Trouble::new(on, "trap")),
            Op::Mapa { d, a, rank } => {
                let mut out = [0u64; 32];
                for lane in each(on) {
                    let rank = warp.word_of(rank, lane);
                    if rank as usize >= self.ctas.len() {
                        let message =
                            format!("mapa of block {rank} of a cluster of {}", self.ctas.len());
                        return Err(Trouble::new(1 << lane, message));
                    }
                    let at = warp.value_of(a, lane);
                    // A generic address, or one in the window of shared memory.
                    let base = at / super::access::WINDOW * super::access::WINDOW;
                    let (_, offset) = self.shared_cta(self.cta, at - base);
                    if base != 0 && base != window(Space::Shared) || offset >> 24 != 0 {
                        let message = format!("mapa of {at:#x}, which is not in shared memory");
                        return Err(Trouble::new(1 << lane, message));
                    }
                    out[lane] = base + shared_address(rank as usize, offset as u32);
                }
                warp.put_any(d, &out, on);
            }
            Op::FenceProxy { only } => self.fence_proxy(warp, only, on),
            Op::FenceMbarrierInit => {
                if self.grid.launch.is_checked {
                    let agent = self.init_agent(warp);
                    self.clocks.fence_only(warp.id as usize, on, agent);
                }
                self.fence_barriers(warp, on);
            }
            Op::Mbarrier { .. } => return self.mbarrier(warp, op, on, pc),
            Op::CopyArrive { at, space, is_counted } => {
                return self.copy_arrive(warp, (at, space), is_counted, on, pc);
            }
            Op::BulkCopy { .. } => return self.bulk_copy(warp, op, on, pc, counts),
            Op::TensorCopy { .. } => return self.tensor_copy(warp, op, on, pc, counts),
            Op::BulkPrefetch { from, bytes } => {
                return self.bulk_prefetch(warp, (from, bytes), on, pc, counts);
            }
            Op::GridWait => self.grid_wait(warp, on),
            Op::BulkCommit => warp.bulk.commit(on),
            Op::ProductFence => return self.product_fence(warp, on),
            Op::ProductCommit => return self.product_commit(warp, on),
            Op::Product(index) => return self.product(warp, index, on, pc),
            _ => return Err(Trouble::new(on, "the executor does not know this instruction")),
        }
        Ok(())
    }

    /// The space of an access; lanes of one generic access may not be in several here.
    fn space_of(
        &self,
        at: &crate::program::op::Access,
        address: &Lanes64,
        on: u32,
    ) -> Result<Space, Trouble> {
        if at.space == Space::Shared && !at.is_cluster {
            self.own_block(address, on)?;
        }
        let mut spaces = each(on).map(|lane| resolve(at.space, address[lane]).0);
        let first = spaces.next().unwrap_or(Space::Global);
        if spaces.any(|other| other != first) {
            return Err(Trouble::new(on, "the lanes of one access are in several spaces"));
        }
        Ok(first)
    }

    /// `fence.proxy.async`, for all objects or those of one space.
    fn fence_proxy(&mut self, warp: &Warp, only: Option<Objects>, on: u32) {
        let is_for = |of: Objects| only.is_none_or(|only| only == of);
        if self.grid.launch.is_checked {
            for of in [Objects::Shared, Objects::Global].into_iter().filter(|&of| is_for(of)) {
                self.clocks.fence_proxy(warp.id as usize, on, of);
            }
            if is_for(Objects::Global) && on != 0 {
                self.seen_blocks.fence_proxy();
            }
        }
        if is_for(Objects::Shared) {
            self.fence_barriers(warp, on);
        }
    }

    /// Barriers that these lanes have initialised can be seen by the asynchronous proxy.
    fn fence_barriers(&mut self, warp: &Warp, on: u32) {
        for lane in each(on) {
            self.here().mbarriers.fence(warp.id * 32 + lane as u32);
        }
    }
}

/// Writes a comparison, and its opposite, each combined with a further predicate.
fn set_preds(
    warp: &mut Warp,
    hit: u32,
    (d, inverse): (u32, Option<u32>),
    with: Option<(BoolOp, SrcPred)>,
    on: u32,
) {
    let combine = |hit: u32, warp: &Warp| match with {
        Some((op, p)) => op.apply(hit, warp.pred(p)),
        None => hit,
    };
    let (yes, no) = (combine(hit, warp), combine(!hit, warp));
    warp.put_pred(d, yes, on);
    if let Some(inverse) = inverse {
        warp.put_pred(inverse, no, on);
    }
}

fn aligned(lane: usize, at: u64, bytes: u32, verb: &str) -> Result<(), Trouble> {
    if at.is_multiple_of(bytes.into()) {
        return Ok(());
    }
    Err(Trouble::new(1 << lane, format!("misaligned {verb} of {bytes} bytes at {at:#x}")))
}

/// `cvta`: between a window and the addresses in it.
fn convert(which: Cvta, at: u64) -> Result<u64, String> {
    match which {
        Cvta::From(space) => Ok(at.wrapping_add(window(space))),
        Cvta::To(Space::Global | Space::Const) => Ok(at),
        Cvta::To(space) => {
            let (there, place) = resolve(Space::Generic, at);
            if there == space {
                Ok(place)
            } else {
                Err(format!("the generic address {at:#x} is not in that space"))
            }
        }
    }
}

fn no_zero<T: PartialEq + Default + Copy>(b: &[T; 32], on: u32) -> Result<(), Trouble> {
    let zeros = each(on).filter(|&l| b[l] == T::default()).fold(0, |all, l| all | 1 << l);
    if zeros == 0 { Ok(()) } else { Err(Trouble::new(zeros, "integer division by zero")) }
}

/// # Safety
/// `bytes` bytes are there.
unsafe fn read(from: *const u8, bytes: u8, is_signed: bool) -> u64 {
    let mut raw = [0u8; 8];
    // SAFETY: the caller's promise; at most 8 bytes.
    unsafe { raw.as_mut_ptr().copy_from_nonoverlapping(from, bytes.into()) };
    let value = u64::from_le_bytes(raw);
    if is_signed && bytes < 8 {
        let shift = 64 - 8 * u32::from(bytes);
        ((value << shift) as i64 >> shift) as u64
    } else {
        value
    }
}
