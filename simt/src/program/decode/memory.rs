//! Loads, stores, atomics, asynchronous copies of sm_80, and matrices from and to shared memory.

use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::program::op::{Access, AtomicOp, Base, Dst, MmaKind, Op, Pipe, Src, Value};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

/// What advises caches, or says how memory may be ordered where this executor is strict anyway.
const ADVICE: &[&str] = &[
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "weak",
    "relaxed",
    "acquire",
    "release",
    "acq_rel",
    "volatile",
    "cta",
    "cluster",
    "gpu",
    "sys",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::64B",
    "L2::128B",
    "L2::256B",
    "L2::evict_first",
    "L2::evict_last",
    "L2::evict_normal",
];

impl Decoder<'_> {
    pub(super) fn load(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let is_read_only = m.take("nc") || inst.opcode == "ldu";
        m.ignore(ADVICE);
        let (space, n, ty) = (m.space(), m.vector(), m.ty()?);
        self.count(inst, 2)?;
        let elements = self.elements(&inst.operands[0]);
        if elements.len() != usize::from(n) {
            return Err(format!("{} registers for {n} elements", elements.len()));
        }
        let mut d = [Dst::Sink; 4];
        for (d, element) in d.iter_mut().zip(elements) {
            *d = self.dst(element)?;
            let room = match d {
                Dst::Half(_) => 2,
                Dst::Word(_) => 4,
                Dst::Long(_) | Dst::Sink => 8,
            };
            if ty.bytes() > room || ty.bytes() == 0 {
                return Err(format!("a register of {room} bytes for a .{ty}"));
            }
        }
        let (bytes, is_signed) = (ty.bytes() as u8, ty.is_signed());
        let address = self.address(&inst.operands[1])?;
        if space == Space::Param {
            if address.base != Base::None {
                return Err("parameters at an address from a register are not implemented".into());
            }
            let end = address.offset.saturating_add(i64::from(bytes) * i64::from(n));
            if address.offset < 0 || end > i64::from(self.layout.param_bytes) {
                return Err(format!("reads bytes {}..{end} of the parameters", address.offset));
            }
            let offset = address.offset as u32;
            let total = u32::from(bytes) * u32::from(n);
            if !offset.is_multiple_of(total) {
                return Err(format!("misaligned read of {total} bytes at byte {offset}"));
            }
            return Ok((Op::LoadParam { offset, bytes, n, d, is_signed }, Pipe::LoadStore));
        }
        let is_cluster = inst.has("shared::cluster");
        let at = Access { space, is_cluster, address, bytes, n };
        Ok((Op::Load { at, d, is_signed, is_read_only }, Pipe::LoadStore))
    }

    pub(super) fn store(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if m.take("async") || m.take("bulk") {
            return Err(not_implemented());
        }
        let is_release = inst.has("release");
        let is_strong = is_release || inst.has("relaxed") || inst.has("volatile");
        let strong = is_strong.then_some(is_release);
        m.ignore(ADVICE);
        let (space, n, ty) = (m.space(), m.vector(), m.ty()?);
        self.count(inst, 2)?;
        if matches!(space, Space::Param | Space::Const) || ty.bytes() == 0 || ty.bytes() > 8 {
            return Err(not_implemented());
        }
        let address = self.address(&inst.operands[0])?;
        let elements = self.elements(&inst.operands[1]);
        if elements.len() != usize::from(n) {
            return Err(format!("{} values for {n} elements", elements.len()));
        }
        let mut from = [Value::Word(Src::Value(0)); 4];
        for (from, element) in from.iter_mut().zip(elements) {
            *from = self.value(element, ty.bytes())?;
        }
        let is_cluster = inst.has("shared::cluster");
        let at = Access { space, is_cluster, address, bytes: ty.bytes() as u8, n };
        Ok((Op::Store { at, strong, from }, Pipe::LoadStore))
    }

    /// `atom`, `red` on whole numbers. Sums of floats in no fixed order are refused when they run.
    pub(super) fn atomic(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        m.ignore(ADVICE);
        if m.take("async") {
            return Err(not_implemented());
        }
        let is_release = inst.has("release") || inst.has("acq_rel");
        let space = m.space();
        let ty = m.ty()?;
        if ty.is_float() {
            return Err("an atomic on a float: the order of the additions is not fixed".into());
        }
        let op = m.atomic_op(ty).ok_or("an operation is needed")?;
        let bytes = ty.bytes();
        let returns = inst.opcode == "atom";
        let is_bits = matches!(ty, Type::B32 | Type::B64);
        let has_type = match op {
            AtomicOp::Exchange | AtomicOp::CompareSwap => is_bits && returns,
            AtomicOp::And | AtomicOp::Or | AtomicOp::Xor => is_bits,
            AtomicOp::Increment | AtomicOp::Decrement => ty == Type::U32,
            _ => !is_bits,
        };
        if bytes != 4 && bytes != 8 || !has_type {
            return Err(not_implemented());
        }
        let sources = if op == AtomicOp::CompareSwap { 2 } else { 1 };
        self.count(inst, 1 + sources + usize::from(returns))?;
        let first = usize::from(returns);
        let d = match inst.operands.first() {
            Some(Operand::Sink) => Dst::Sink,
            Some(d) if returns && bytes == 8 => Dst::Long(self.dst_long(d)?),
            Some(d) if returns => Dst::Word(self.dst_word(d)?),
            _ => Dst::Sink,
        };
        let address = self.address(&inst.operands[first])?;
        let b = self.value(&inst.operands[first + 1], bytes)?;
        let c = match inst.operands.get(first + 2) {
            Some(c) => self.value(c, bytes)?,
            None => b,
        };
        let is_cluster = inst.has("shared::cluster");
        let at = Access { space, is_cluster, address, bytes: bytes as u8, n: 1 };
        Ok((Op::Atomic { at, op, is_release, d, b, c }, Pipe::LoadStore))
    }

    /// Advice about caches does nothing here.
    pub(super) fn hint(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let levels: &[&str] = match inst.opcode.as_str() {
            "prefetch" => &["L1", "L2", "L2::evict_last", "L2::evict_normal", "tensormap"],
            "prefetchu" => &["L1"],
            "applypriority" => &["L2::evict_normal"],
            _ => return Err(not_implemented()),
        };
        if inst.opcode != "prefetchu" {
            m.space();
        }
        m.one_of(levels).ok_or("a level is needed")?;
        self.count(inst, if inst.opcode == "applypriority" { 2 } else { 1 })?;
        self.address(&inst.operands[0])?;
        Ok((Op::Nop, Pipe::LoadStore))
    }

    /// `ldmatrix`, `stmatrix` (9.7.14.5.15, 9.7.14.5.16) of 8 x 8 matrices of 16 bits.
    pub(super) fn matrix(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        for word in ["sync", "aligned", "m8n8"] {
            if !m.take(word) {
                return Err(format!("'.{word}' is needed"));
            }
        }
        let transposed = m.take("trans");
        let n: u8 = match m.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) => 4,
            None => return Err("a count of matrices is needed".into()),
        };
        if !matches!(m.space(), Space::Shared) {
            return Err("the matrix lies in shared memory".into());
        }
        if m.ty()? != Type::B16 {
            return Err(not_implemented());
        }
        self.count(inst, 2)?;
        let (to, from) = (&inst.operands[0], &inst.operands[1]);
        let op = if inst.opcode == "ldmatrix" {
            let d = self.vector(to, n.into(), |o| self.dst_word(o))?;
            Op::LdMatrix { n, transposed, d, from: self.address(from)? }
        } else {
            let mut a = [Src::Value(0); 4];
            let elements = self.elements(from);
            if elements.len() != usize::from(n) {
                return Err(format!("{} registers for {n} matrices", elements.len()));
            }
            for (a, element) in a.iter_mut().zip(elements) {
                *a = self.word(element)?;
            }
            Op::StMatrix { n, transposed, to: self.address(to)?, a }
        };
        Ok((op, Pipe::LoadStore))
    }

    /// `cp.async` of sm_80 (9.7.9.25.3).
    pub(super) fn copy(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if !m.take("async") {
            return Err(not_implemented());
        }
        if m.take("bulk") {
            return self.bulk(inst, m);
        }
        if m.take("mbarrier") {
            return self.copy_arrive(inst, m);
        }
        if m.take("commit_group") {
            self.count(inst, 0)?;
            return Ok((Op::CopyCommit, Pipe::LoadStore));
        }
        if m.take("wait_all") {
            self.count(inst, 0)?;
            return Ok((Op::CopyWait { open: 0, commits: true }, Pipe::LoadStore));
        }
        if m.take("wait_group") {
            self.count(inst, 1)?;
            let open = self.constant(&inst.operands[0])?;
            let open = u32::try_from(open).map_err(|_| format!("{open} groups"))?;
            return Ok((Op::CopyWait { open, commits: false }, Pipe::LoadStore));
        }
        m.ignore_prefix("L2::");
        let is_whole = m.take("cg");
        if !is_whole && !m.take("ca") {
            return Err("'.ca' or '.cg' is needed".into());
        }
        let at = |names: &[&str]| inst.modifiers.iter().position(|w| names.contains(&w.as_str()));
        let is_inward = at(&["shared", "shared::cta"]) < at(&["global"]);
        if !(m.take("shared") || m.take("shared::cta")) || !m.take("global") || !is_inward {
            return Err("copies from global to shared memory only".into());
        }
        if inst.operands.len() < 3 || inst.operands.len() > 4 {
            return Err(format!("{} operands", inst.operands.len()));
        }
        let bytes = self.constant(&inst.operands[2])?;
        if !(matches!(bytes, 4 | 8) && !is_whole || bytes == 16) {
            return Err(format!("a copy of {bytes} bytes"));
        }
        let (mut size, mut ignore) = (None, None);
        if let Some(operand) = inst.operands.get(3) {
            match self.pred(operand) {
                Ok(p) if !matches!(operand, Operand::Integer(_)) => ignore = Some(p),
                _ => size = Some(self.word(operand)?),
            }
        }
        let (to, from) = (self.address(&inst.operands[0])?, self.address(&inst.operands[1])?);
        Ok((Op::CopyAsync { to, from, bytes: bytes as u8, size, ignore }, Pipe::LoadStore))
    }

    /// `mma.sync` (9.7.14.5.14).
    pub(super) fn mma(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        for word in ["sync", "aligned", "row", "col"] {
            if !m.take(word) {
                return Err(not_implemented());
            }
        }
        let shape = m.one_of(&["m16n8k16", "m16n8k8", "m16n8k4"]).ok_or_else(not_implemented)?;
        let tf32 = m.take("tf32") && m.take("tf32");
        let (c, b, a, d) = match tf32 {
            true => (m.ty()?, Type::F32, Type::F32, m.ty()?),
            false => (m.ty()?, m.ty()?, m.ty()?, m.ty()?),
        };
        if c != Type::F32 || d != Type::F32 || a != b {
            return Err(not_implemented());
        }
        let (kind, na, nb) = match (shape, a) {
            ("m16n8k16", Type::Bf16) => (MmaKind::Bf16K16, 4, 2),
            ("m16n8k16", Type::F16) => (MmaKind::F16K16, 4, 2),
            ("m16n8k8", Type::Bf16) => (MmaKind::Bf16K8, 2, 1),
            ("m16n8k8", Type::F16) => (MmaKind::F16K8, 2, 1),
            ("m16n8k8", Type::F32) if tf32 => (MmaKind::Tf32K8, 4, 2),
            ("m16n8k4", Type::F32) if tf32 => (MmaKind::Tf32K4, 2, 1),
            _ => return Err(not_implemented()),
        };
        self.count(inst, 4)?;
        let words = |i: usize, n: usize| -> Result<[Src; 4], String> {
            let elements = self.elements(&inst.operands[i]);
            if elements.len() != n {
                return Err(format!("operand {i} has {} registers instead of {n}", elements.len()));
            }
            let mut all = [Src::Value(0); 4];
            for (slot, element) in all.iter_mut().zip(elements) {
                *slot = self.word(element)?;
            }
            Ok(all)
        };
        let d = self.vector(&inst.operands[0], 4, |o| self.dst_word(o))?;
        let (a, b, c) = (words(1, na)?, words(2, nb)?, words(3, 4)?);
        Ok((Op::Mma { kind, d, a, b: [b[0], b[1]], c }, Pipe::Tensor))
    }
}
