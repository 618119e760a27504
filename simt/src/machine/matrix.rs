//! Matrices in registers: `ldmatrix`, `stmatrix`, `mma.sync`.

use super::access::{Access, addresses, resolve};
use super::cluster::Cluster;
use super::exec::each;
use super::warp::Warp;
use super::{Trouble, traffic};
use crate::arith::convert::Half;
use crate::arith::mma::{self, SumOrder};
use crate::count::Counts;
use crate::program::lanes::{Lanes32, is_wide};
use crate::program::op::{Address, MmaKind, Op, Src};
use crate::ptx::ast::Space;
use crate::shadow::Flag;

impl Cluster<'_, '_> {
    /// The rows of `n` matrices of 8 x 8 halves: lane `8 m + i` gives the address of row `i` of matrix `m`.
    fn rows(
        &mut self,
        warp: &mut Warp,
        (n, address): (u8, Address),
        access: Access,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<[*mut u8; 32], Trouble> {
        let at = addresses(warp, address);
        let mut rows = [std::ptr::null_mut(); 32];
        let lanes = if n == 4 { u32::MAX } else { (1 << (8 * n)) - 1 };
        self.own_block(&at, lanes)?;
        for lane in each(lanes) {
            let (_, place) = resolve(Space::Shared, at[lane]);
            if place % 16 != 0 {
                let message = format!("misaligned row of a matrix at {place:#x}");
                return Err(Trouble::new(1 << lane, message));
            }
            rows[lane] = self.reach(warp, lane, (Space::Shared, place), 16, access, pc)?;
            if access == Access::Read && self.has_scopes() {
                self.check_scopes(lane, (Space::Shared, place), 16)?;
            }
        }
        traffic::count(counts.traffic(pc), Space::Shared, &at, 16, lanes);
        Ok(rows)
    }

    /// Register `m` of lane `l` holds elements `2 (l % 4)` and the next of row `l / 4` of matrix `m`; transposed,
    /// of column `l / 4`.
    pub(super) fn load_matrix(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let Op::LdMatrix { n, transposed, d, from } = *op else {
            return Err(Trouble::new(on, "no ldmatrix"));
        };
        whole(warp, on)?;
        let rows = self.rows(warp, (n, from), Access::Read, pc, counts)?;
        for (m, d) in d[..usize::from(n)].iter().enumerate() {
            let mut elements = [[0u16; 8]; 8];
            for (row, elements) in elements.iter_mut().enumerate() {
                // SAFETY: `rows` has checked 16 bytes there.
                let bytes = unsafe { rows[8 * m + row].cast::<[u8; 16]>().read_unaligned() };
                for (i, element) in elements.iter_mut().enumerate() {
                    *element = u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
                }
            }
            let out = std::array::from_fn(|lane| {
                let (i, j) = (lane / 4, 2 * (lane % 4));
                let [low, high] = match transposed {
                    false => [elements[i][j], elements[i][j + 1]],
                    true => [elements[j][i], elements[j + 1][i]],
                };
                u32::from(low) | u32::from(high) << 16
            });
            warp.put(*d, &out, on);
        }
        Ok(())
    }

    pub(super) fn store_matrix(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
        counts: &mut Counts,
    ) -> Result<(), Trouble> {
        let Op::StMatrix { n, transposed, to, a } = *op else {
            return Err(Trouble::new(on, "no stmatrix"));
        };
        whole(warp, on)?;
        let rows = self.rows(warp, (n, to), Access::Write(Flag::Plain), pc, counts)?;
        for (m, a) in a[..usize::from(n)].iter().enumerate() {
            let mut elements = [[0u16; 8]; 8];
            for lane in 0..32 {
                let value = warp.word_of(*a, lane);
                let (i, j) = (lane / 4, 2 * (lane % 4));
                if transposed {
                    (elements[j][i], elements[j + 1][i]) = (value as u16, (value >> 16) as u16);
                } else {
                    (elements[i][j], elements[i][j + 1]) = (value as u16, (value >> 16) as u16);
                }
            }
            for (row, elements) in elements.iter().enumerate() {
                let bytes: [u8; 16] =
                    std::array::from_fn(|i| (elements[i / 2] >> (8 * (i % 2))) as u8);
                // SAFETY: `rows` has checked 16 bytes there.
                unsafe { rows[8 * m + row].cast::<[u8; 16]>().write_unaligned(bytes) };
            }
        }
        Ok(())
    }

    /// `mma.sync` (9.7.14.5.14).
    pub(super) fn mma(&mut self, warp: &mut Warp, op: &Op, on: u32) -> Result<(), Trouble> {
        let Op::Mma { kind, d, a, b, c } = *op else {
            return Err(Trouble::new(on, "no mma"));
        };
        whole(warp, on)?;
        let mut room = [[0u32; 32]; 4];
        let mut words =
            |sources: &[Src; 4]| std::array::from_fn(|i| *warp.word(sources[i], &mut room[i]));
        let (a, c): ([Lanes32; 4], [Lanes32; 4]) = (words(&a), words(&c));
        let b = words(&[b[0], b[1], b[0], b[1]]);
        let c = c.map(|register| register.map(f32::from_bits));
        let order = self.grid.launch.program.numerics.sums;
        let product = if is_wide() { product_wide } else { product };
        // SAFETY: the wide version only where the processor has what it needs.
        let out = unsafe { product(kind, &a, &[b[0], b[1]], &c, order) };
        for (d, out) in d.iter().zip(out) {
            warp.put(*d, &out.map(f32::to_bits), on);
        }
        Ok(())
    }
}

type Accumulators = [[f32; 32]; 4];

#[inline(always)]
fn product_of(
    kind: MmaKind,
    a: &[Lanes32; 4],
    b: &[Lanes32; 2],
    c: &Accumulators,
    order: SumOrder,
) -> Accumulators {
    let half = [a[0], a[1]];
    match kind {
        MmaKind::Bf16K16 => mma::mma_16x8x16(Half::Bf16, a, b, c, order),
        MmaKind::F16K16 => mma::mma_16x8x16(Half::F16, a, b, c, order),
        MmaKind::Bf16K8 => mma::mma_16x8x8(Half::Bf16, &half, &b[0], c, order),
        MmaKind::F16K8 => mma::mma_16x8x8(Half::F16, &half, &b[0], c, order),
        MmaKind::Tf32K8 => mma::mma_16x8x8_tf32(a, b, c, order),
        MmaKind::Tf32K4 => mma::mma_16x8x4_tf32(&half, &b[0], c, order),
    }
}

unsafe fn product(
    kind: MmaKind,
    a: &[Lanes32; 4],
    b: &[Lanes32; 2],
    c: &Accumulators,
    order: SumOrder,
) -> Accumulators {
    product_of(kind, a, b, c, order)
}

#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
unsafe fn product_wide(
    kind: MmaKind,
    a: &[Lanes32; 4],
    b: &[Lanes32; 2],
    c: &Accumulators,
    order: SumOrder,
) -> Accumulators {
    product_of(kind, a, b, c, order)
}

/// What `.aligned` asks for: all lanes of the warp execute it together.
fn whole(warp: &Warp, on: u32) -> Result<(), Trouble> {
    if on == u32::MAX {
        return Ok(());
    }
    let message = format!(
        "an instruction of the whole warp, reached by only {} of {} lanes",
        on.count_ones(),
        warp.lanes.count_ones()
    );
    Err(Trouble::new(on, message))
}
