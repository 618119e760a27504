//! What sm_90 added: clusters, barriers in shared memory, bulk copies, products of warpgroups.

use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::clocks::Objects;
use crate::hopper::descriptor::Major;
use crate::hopper::wgmma::Input;
use crate::program::op::{
    Address, Arrive, BulkWay, Dst, FactorA, MbarrierOp, Op, Pipe, Product, Src, Src64, TensorWay,
    WaitFor,
};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

impl Decoder<'_> {
    /// `barrier.cluster` (9.7.13.3).
    pub(super) fn cluster_barrier(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        self.count(inst, 0)?;
        m.ignore(&["aligned", "acquire", "release"]);
        let is_relaxed = m.take("relaxed");
        let waits = m.take("wait");
        if !waits && !m.take("arrive") {
            return Err(not_implemented());
        }
        Ok((Op::ClusterBarrier { waits, is_relaxed }, Pipe::Control))
    }

    /// `mapa` (9.7.9.23).
    pub(super) fn mapa(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        self.count(inst, 3)?;
        let is_shared = m.take("shared::cluster");
        let ty = m.ty()?;
        if !is_shared && ty.bytes() != 8 {
            return Err(not_implemented());
        }
        let d = self.dst(&inst.operands[0])?;
        let a = self.value(&inst.operands[1], ty.bytes())?;
        let rank = self.word(&inst.operands[2])?;
        Ok((Op::Mapa { d, a, rank }, Pipe::Integer))
    }

    /// `fence.proxy`, `fence.mbarrier_init` (9.7.13.4).
    pub(super) fn proxy_fence(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        self.count(inst, 0)?;
        if m.take("mbarrier_init") {
            m.ignore(&["release", "cluster"]);
            return Ok((Op::FenceMbarrierInit, Pipe::Control));
        }
        if !m.take("proxy") || m.one_of(&["async", "async::generic"]).is_none() {
            return Err(not_implemented());
        }
        let only = match m.one_of(&["global", "shared::cta", "shared::cluster"]) {
            None => None,
            Some("global") => Some(Objects::Global),
            Some(_) => Some(Objects::Shared),
        };
        Ok((Op::FenceProxy { only }, Pipe::Control))
    }

    /// `mbarrier` (9.7.13.15).
    pub(super) fn mbarrier(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let action = m.first().ok_or("an action is needed")?;
        let is_relaxed = m.take("relaxed");
        m.ignore(&["release", "acquire", "cta"]);
        let is_wide = m.take("cluster");
        let is_cluster = m.take("shared::cluster");
        let space = if is_cluster { Space::Shared } else { m.space() };
        let pipe = Pipe::LoadStore;
        if action == "pending_count" {
            self.count(inst, 2)?;
            let (d, state) = (self.dst(&inst.operands[0])?, self.long(&inst.operands[1])?);
            let at = Address { base: crate::program::op::Base::None, offset: 0 };
            if m.ty()? != Type::B64 {
                return Err(not_implemented());
            }
            let action = MbarrierOp::PendingCount { d, state };
            return Ok((Op::Mbarrier { action, at, space, is_cluster }, pipe));
        }
        let expects = m.take("expect_tx");
        let no_complete = m.take("noComplete");
        let parity = m.take("parity");
        if m.ty()? != Type::B64 {
            return Err(not_implemented());
        }
        let word = |i: usize| self.word(self.operand(inst, i)?);
        let op = match action {
            "init" => {
                self.count(inst, 2)?;
                let action = MbarrierOp::Init { count: word(1)? };
                Op::Mbarrier { action, at: self.address(&inst.operands[0])?, space, is_cluster }
            }
            "inval" => {
                self.count(inst, 1)?;
                let at = self.address(&inst.operands[0])?;
                Op::Mbarrier { action: MbarrierOp::Invalidate, at, space, is_cluster }
            }
            "expect_tx" | "complete_tx" => {
                self.count(inst, 2)?;
                let bytes = word(1)?;
                let action = match action {
                    "expect_tx" => MbarrierOp::ExpectTx { bytes },
                    _ => MbarrierOp::CompleteTx { bytes },
                };
                Op::Mbarrier { action, at: self.address(&inst.operands[0])?, space, is_cluster }
            }
            "arrive" | "arrive_drop" => {
                // The state is left out for barriers of other blocks.
                let has_state = !matches!(self.operand(inst, 0)?, Operand::Address(..));
                let first = usize::from(has_state);
                let state = if has_state { self.dst(&inst.operands[0])? } else { Dst::Sink };
                let at = self.address(self.operand(inst, first)?)?;
                let last = inst.operands.get(first + 1).map(|o| self.word(o)).transpose()?;
                if inst.operands.len() > first + 2 {
                    return Err(format!("{} operands", inst.operands.len()));
                }
                let (count, tx) = if expects { (None, last) } else { (last, None) };
                if expects && tx.is_none() || no_complete && count.is_none() {
                    return Err("a count is needed".into());
                }
                let how = match (action, no_complete) {
                    ("arrive", false) => Arrive::Plain,
                    ("arrive", true) => Arrive::NoComplete,
                    (_, false) => Arrive::Drop,
                    (_, true) => Arrive::DropNoComplete,
                };
                let action = MbarrierOp::Arrive { how, count, tx, state, is_relaxed, is_wide };
                Op::Mbarrier { action, at, space, is_cluster }
            }
            "test_wait" | "try_wait" => {
                // A hint of how long to wait may follow.
                if inst.operands.len() < 3 || inst.operands.len() > 4 {
                    return Err(format!("{} operands", inst.operands.len()));
                }
                let p = self.dst_pred(&inst.operands[0])?;
                let at = self.address(&inst.operands[1])?;
                let what = match parity {
                    true => WaitFor::Parity(word(2)?),
                    false => WaitFor::State(self.long(&inst.operands[2])?),
                };
                Op::MbarrierWait {
                    at,
                    space,
                    what,
                    p,
                    tries: action == "try_wait",
                    is_relaxed,
                    is_wide,
                }
            }
            _ => return Err(not_implemented()),
        };
        Ok((op, pipe))
    }

    /// `cp.async.mbarrier.arrive` (9.7.13.15.17).
    pub(super) fn copy_arrive(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if !m.take("arrive") {
            return Err(not_implemented());
        }
        let is_counted = m.take("noinc");
        let space = m.space();
        if m.ty()? != Type::B64 {
            return Err(not_implemented());
        }
        self.count(inst, 1)?;
        let at = self.address(&inst.operands[0])?;
        Ok((Op::CopyArrive { at, space, is_counted }, Pipe::LoadStore))
    }

    /// `cp.async.bulk`, `cp.async.bulk.tensor` and, of `cp.reduce.async.bulk`, what is for tensors (9.7.9.25.5).
    pub(super) fn bulk(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let pipe = Pipe::LoadStore;
        if m.take("commit_group") {
            self.count(inst, 0)?;
            return Ok((Op::BulkCommit, pipe));
        }
        if m.take("wait_group") {
            self.count(inst, 1)?;
            let open = self.constant(&inst.operands[0])?;
            let open = u32::try_from(open).map_err(|_| format!("{open} groups"))?;
            return Ok((Op::BulkWait { open, reads_only: m.take("read") }, pipe));
        }
        let is_tensor = m.take("tensor");
        let (prefetches, reduces) = (m.take("prefetch"), m.take("reduce"));
        if reduces && (!is_tensor || prefetches) {
            return Err(not_implemented());
        }
        let has_hint = m.take("L2::cache_hint");
        m.ignore(&["L2"]);
        let multicasts = m.take("multicast::cluster");
        let tells = m.take("mbarrier::complete_tx::bytes");
        let in_groups = m.take("bulk_group");
        if is_tensor {
            let adds = reduces && only_add(m)?;
            let words = (prefetches, adds, multicasts, tells, in_groups, has_hint);
            return self.tensor(inst, m, words);
        }
        if prefetches {
            m.ignore(&["global"]);
            self.check_count(inst, 2, has_hint)?;
            let from = self.address(&inst.operands[0])?;
            return Ok((Op::BulkPrefetch { from, bytes: self.word(&inst.operands[1])? }, pipe));
        }
        let way = match direction(m) {
            (Some("shared::cluster" | "shared::cta"), Some("global")) => BulkWay::Load,
            (Some("shared::cluster"), Some("shared::cta")) => BulkWay::Across,
            (Some("global"), Some("shared::cta")) => BulkWay::Store,
            _ => return Err(not_implemented()),
        };
        if multicasts && way != BulkWay::Load {
            return Err("only loads can be multicast".into());
        }
        if (way == BulkWay::Store) != in_groups || (way != BulkWay::Store) != tells {
            return Err("the way of completion does not fit the direction".into());
        }
        let base = if way == BulkWay::Store { 3 } else { 4 };
        self.check_count(inst, base + usize::from(multicasts), has_hint)?;
        let (to, from) = (self.address(&inst.operands[0])?, self.address(&inst.operands[1])?);
        let bytes = self.word(&inst.operands[2])?;
        let barrier = match way {
            BulkWay::Store => None,
            _ => Some(self.address(&inst.operands[3])?),
        };
        let multicast = if multicasts { Some(self.half(&inst.operands[4])?) } else { None };
        Ok((Op::BulkCopy { way, to, from, bytes, barrier, multicast }, pipe))
    }

    fn check_count(&self, inst: &Instruction, n: usize, has_hint: bool) -> Result<(), String> {
        self.count(inst, n + usize::from(has_hint))
    }

    fn tensor(
        &mut self,
        inst: &Instruction,
        m: &mut Modifiers,
        words: (bool, bool, bool, bool, bool, bool),
    ) -> Decoded {
        let (prefetches, adds, multicasts, tells, in_groups, has_hint) = words;
        let rank = match m.one_of(&["1d", "2d", "3d", "4d", "5d"]) {
            Some(word) => word.as_bytes()[0] - b'0',
            None => return Err("a rank is needed".into()),
        };
        let im2col = m.one_of(&["im2col", "im2col_no_offs", "tile"]);
        let is_im2col = matches!(im2col, Some("im2col" | "im2col_no_offs"));
        let pipe = Pipe::LoadStore;
        if prefetches {
            // Only a hint; the map is not looked at.
            m.ignore(&["global"]);
            return Ok((Op::Nop, pipe));
        }
        let is_store = match direction(m) {
            (Some("shared::cluster" | "shared::cta"), Some("global")) if !adds => false,
            (Some("global"), Some("shared::cta")) => true,
            _ => return Err(not_implemented()),
        };
        if is_store != in_groups || is_store == tells {
            return Err("the way of completion does not fit the direction".into());
        }
        let im2col_words = if is_store { "im2col_no_offs" } else { "im2col" };
        if is_im2col && im2col != Some(im2col_words) {
            return Err(not_implemented());
        }
        if multicasts && is_store {
            return Err("only loads can be multicast".into());
        }
        let way = match (is_store, is_im2col) {
            (false, false) => TensorWay::Load,
            (false, true) => TensorWay::LoadIm2col,
            (true, false) => TensorWay::Store,
            (true, true) => TensorWay::StoreIm2col,
        };
        let (shared, tensor) = match is_store {
            false => (self.operand(inst, 0)?, self.operand(inst, 1)?),
            true => (self.operand(inst, 1)?, self.operand(inst, 0)?),
        };
        let Operand::Tensor(map, all) = tensor else {
            return Err("a tensor map with coordinates is needed".into());
        };
        if all.len() != usize::from(rank) {
            return Err(format!("{} coordinates of rank {rank}", all.len()));
        }
        let mut coordinates = [Src::Value(0); 5];
        for (c, operand) in coordinates.iter_mut().zip(all) {
            *c = self.word(operand)?;
        }
        let (map, shared) = (self.map_address(map)?, self.address(shared)?);
        let mut next = 2;
        let mut barrier = None;
        if !is_store {
            barrier = Some(self.address(self.operand(inst, next)?)?);
            next += 1;
        }
        let mut offsets = [Src::Value(0); 3];
        if way == TensorWay::LoadIm2col {
            let all = self.elements(self.operand(inst, next)?);
            if all.len() + 2 != usize::from(rank) {
                return Err(format!("{} offsets of rank {rank}", all.len()));
            }
            for (o, operand) in offsets.iter_mut().zip(all) {
                *o = self.half(operand)?;
            }
            next += 1;
        }
        let multicast = match multicasts {
            true => {
                next += 1;
                Some(self.half(self.operand(inst, next - 1)?)?)
            }
            false => None,
        };
        self.check_count(inst, next, has_hint)?;
        let op = Op::TensorCopy {
            way,
            adds,
            rank,
            shared,
            map,
            coordinates,
            offsets,
            barrier,
            multicast,
        };
        Ok((op, pipe))
    }

    /// A tensor map's generic address.
    fn map_address(&self, map: &Operand) -> Result<Src64, String> {
        match map {
            Operand::Symbol(name, offset) => {
                let (space, at) = self.symbol(name)?;
                let base = crate::machine::window_of(space);
                Ok(Src64::Value(base.wrapping_add(at).wrapping_add_signed(*offset)))
            }
            other => self.long(other),
        }
    }

    /// `setmaxnreg` (9.7.19.5).
    pub(super) fn set_max_registers(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let is_more = m.take("inc");
        if !is_more && !m.take("dec") {
            return Err("'.inc' or '.dec' is needed".into());
        }
        m.ignore(&["sync", "aligned"]);
        if m.ty()? != Type::U32 {
            return Err(not_implemented());
        }
        self.count(inst, 1)?;
        let count = self.constant(&inst.operands[0])?;
        if !(24..=256).contains(&count) || count % 8 != 0 {
            return Err(format!("{count} registers: a multiple of 8 from 24 to 256 is needed"));
        }
        Ok((Op::SetMaxRegisters { count: count as u32, is_more }, Pipe::Control))
    }

    /// `wgmma` (9.7.15).
    pub(super) fn wgmma(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        for word in ["sync", "aligned"] {
            if !m.take(word) {
                return Err(format!("'.{word}' is needed"));
            }
        }
        if m.take("fence") {
            self.count(inst, 0)?;
            return Ok((Op::ProductFence, Pipe::Control));
        }
        if m.take("commit_group") {
            self.count(inst, 0)?;
            return Ok((Op::ProductCommit, Pipe::Control));
        }
        if m.take("wait_group") {
            self.count(inst, 1)?;
            let open = self.constant(&inst.operands[0])?;
            let open = u32::try_from(open).map_err(|_| format!("{open} groups"))?;
            return Ok((Op::ProductWait { open }, Pipe::Control));
        }
        if !m.take("mma_async") {
            return Err(not_implemented());
        }
        let shape = m.first().ok_or("a shape is needed")?;
        let tf32 = m.take("tf32") && m.take("tf32");
        let (b, a) = if tf32 { (Type::F32, Type::F32) } else { (m.ty()?, m.ty()?) };
        let d_type = m.ty()?;
        let input = match (a, b) {
            _ if tf32 => Input::Tf32,
            (Type::Bf16, Type::Bf16) => Input::Bf16,
            (Type::F16, Type::F16) => Input::F16,
            _ => return Err(not_implemented()),
        };
        let n = shape
            .strip_prefix("m64n")
            .and_then(|rest| rest.strip_suffix(&format!("k{}", input.k())))
            .and_then(|n| n.parse::<u32>().ok())
            .filter(|n| (8..=256).contains(n) && n % 8 == 0);
        let (Some(n), Type::F32) = (n, d_type) else { return Err(not_implemented()) };
        let registers = self.elements(self.operand(inst, 0)?);
        if registers.len() != n as usize / 2 {
            return Err(format!("{} accumulators for n = {n}", registers.len()));
        }
        let d = registers.iter().map(|o| self.dst_word(o)).collect::<Result<Vec<_>, _>>()?;
        let a = match self.operand(inst, 1)? {
            Operand::Vector(_) => {
                let all = self.elements(&inst.operands[1]);
                let [a, b, c, e] = all else { return Err("A has four registers".into()) };
                FactorA::Registers([self.word(a)?, self.word(b)?, self.word(c)?, self.word(e)?])
            }
            descriptor => FactorA::Shared(self.long(descriptor)?),
        };
        let b = self.long(self.operand(inst, 2)?)?;
        let scale_d = self.pred(self.operand(inst, 3)?)?;
        let sign = |i: usize| match self.constant(self.operand(inst, i)?)? {
            1 => Ok(false),
            -1 => Ok(true),
            n => Err(format!("a scale of {n}")),
        };
        let (negate_a, negate_b) = (sign(4)?, sign(5)?);
        let major = |i: usize| match self.constant(self.operand(inst, i)?)? {
            0 => Ok(Major::K),
            1 => Ok(Major::Mn),
            n => Err(format!("a transposition of {n}")),
        };
        let (mut a_major, mut b_major) = (Major::K, Major::K);
        match (input, a) {
            (Input::Tf32, _) => self.count(inst, 6)?,
            (_, FactorA::Registers(_)) => {
                self.count(inst, 7)?;
                b_major = major(6)?;
            }
            (_, FactorA::Shared(_)) => {
                self.count(inst, 8)?;
                (a_major, b_major) = (major(6)?, major(7)?);
            }
        }
        let product = Product { input, n, d, a, b, scale_d, negate_a, negate_b, a_major, b_major };
        self.products.push(product);
        Ok((Op::Product(self.products.len() as u32 - 1), Pipe::Tensor))
    }
}

/// Whether a reduction adds, which is the only one there is here; the others are refused by their names.
fn only_add(m: &mut Modifiers) -> Result<bool, String> {
    if m.take("add") {
        return Ok(true);
    }
    match m.one_of(&["min", "max", "inc", "dec", "and", "or", "xor"]) {
        Some(word) => Err(format!("this instruction is not implemented with '.{word}'")),
        None => Err("'.add' is needed".into()),
    }
}

/// Where a copy goes and where it comes from: the spaces in the order in which they are named.
fn direction<'a>(m: &mut Modifiers<'a>) -> (Option<&'a str>, Option<&'a str>) {
    const SPACES: &[&str] = &["shared::cluster", "shared::cta", "global"];
    (m.one_of(SPACES), m.one_of(SPACES))
}
