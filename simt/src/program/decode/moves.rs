//! `mov` in all its forms (9.7.9.3, 9.7.9.4), `selp`, `cvta` (9.7.9.21), `isspacep`.

use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::program::layout::Class;
use crate::program::op::{Cvta, Dst, Op, Pipe, Special, Src};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

impl Decoder<'_> {
    pub(super) fn mov(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let ty = m.ty()?;
        self.count(inst, 2)?;
        let (to, from) = (&inst.operands[0], &inst.operands[1]);
        if let Operand::Special(name, axis) = from {
            let which = special(name, *axis)?;
            if which == Special::IsExplicitCluster {
                let op = Op::ExplicitCluster { d: self.dst_pred(to)? };
                return Ok((op, Pipe::Integer));
            }
            let d = self.dst(to)?;
            let is_long = matches!(which, Special::Clock | Special::GlobalTimer | Special::GridId);
            if matches!(d, Dst::Long(_)) && !is_long {
                return Err(format!("%{name} has 32 bits"));
            }
            return Ok((Op::Special { d, which }, Pipe::Integer));
        }
        let op = match (to, from, ty) {
            (Operand::Vector(parts), _, _) => self.unpack(parts, from, ty)?,
            (_, Operand::Vector(parts), _) => self.pack(to, parts, ty)?,
            (_, _, Type::Pred) => Op::MovPred { d: self.dst_pred(to)?, a: self.pred(from)? },
            _ => match ty.bytes() {
                2 => Op::Mov { d: self.dst_half(to)?, a: self.half(from)? },
                4 => Op::Mov { d: self.dst_word(to)?, a: self.word(from)? },
                8 => Op::Mov64 { d: self.dst_long(to)?, a: self.long(from)? },
                _ => return Err(not_implemented()),
            },
        };
        Ok((op, Pipe::Integer))
    }

    fn pack(&self, to: &Operand, parts: &[Operand], ty: Type) -> Result<Op, String> {
        match (ty.bytes(), parts) {
            (4, [low, high]) => {
                let (low, high) = (self.half(low)?, self.half(high)?);
                Ok(Op::Pack32 { d: self.dst_word(to)?, low, high })
            }
            (8, [low, high]) => {
                let (low, high) = (self.word(low)?, self.word(high)?);
                Ok(Op::Pack64 { d: self.dst_long(to)?, low, high })
            }
            (8, [a, b, c, d]) => {
                let parts = [self.half(a)?, self.half(b)?, self.half(c)?, self.half(d)?];
                Ok(Op::Pack64Of4 { d: self.dst_long(to)?, parts })
            }
            _ => Err(not_implemented()),
        }
    }

    fn unpack(&self, parts: &[Operand], from: &Operand, ty: Type) -> Result<Op, String> {
        let [low, high] = parts else { return Err(not_implemented()) };
        let (low, high) = (self.dst(low)?, self.dst(high)?);
        let is = |d: Dst, half: bool| match d {
            Dst::Half(_) => half,
            Dst::Word(_) => !half,
            Dst::Sink => true,
            Dst::Long(_) => false,
        };
        match ty.bytes() {
            4 if is(low, true) && is(high, true) => {
                Ok(Op::Unpack32 { low, high, a: self.word(from)? })
            }
            8 if is(low, false) && is(high, false) => {
                Ok(Op::Unpack64 { low, high, a: self.long(from)? })
            }
            _ => Err("the parts do not make up the whole".into()),
        }
    }

    pub(super) fn selp(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let ty = m.ty()?;
        self.count(inst, 4)?;
        let [to, a, b, p] = &inst.operands[..] else { return Err(not_implemented()) };
        let p = self.pred(p)?;
        let op = match ty.bytes() {
            2 => Op::Select { d: self.dst_half(to)?, a: self.half(a)?, b: self.half(b)?, p },
            4 => Op::Select { d: self.dst_word(to)?, a: self.word(a)?, b: self.word(b)?, p },
            8 => Op::Select64 { d: self.dst_long(to)?, a: self.long(a)?, b: self.long(b)?, p },
            _ => return Err(not_implemented()),
        };
        Ok((op, Pipe::Integer))
    }

    /// `cvta`, `isspacep`.
    pub(super) fn address_of(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if inst.opcode == "mapa" {
            return self.mapa(inst, m);
        }
        if inst.opcode == "isspacep" {
            self.count(inst, 2)?;
            let space = m.space();
            if space == Space::Generic {
                return Err("a space is needed".into());
            }
            let (d, a) = (self.dst_pred(&inst.operands[0])?, self.long(&inst.operands[1])?);
            return Ok((Op::IsSpace { space, d, a }, Pipe::Integer));
        }
        self.count(inst, 2)?;
        let to = m.take("to");
        let space = m.space();
        if space == Space::Generic {
            return Err("a space is needed".into());
        }
        let which = if to { Cvta::To(space) } else { Cvta::From(space) };
        let (d, a) = (&inst.operands[0], &inst.operands[1]);
        match m.ty()? {
            Type::U64 => {
                let (d, a) = (self.dst_long(d)?, self.long(a)?);
                Ok((Op::Cvta { which, d, a }, Pipe::Integer))
            }
            _ => Err("addresses have 64 bits".into()),
        }
    }

    /// Whether the operand is a register of 16 bits.
    pub(super) fn is_half(&self, operand: &Operand) -> bool {
        matches!(operand, Operand::Register(r) if matches!(self.slots.class(*r), Class::Half(_)))
    }

    /// A source of 16 or 32 bits, whichever the type has.
    pub(super) fn narrow(&self, operand: &Operand, ty: Type) -> Result<Src, String> {
        if ty.bytes() == 2 { self.half(operand) } else { self.word(operand) }
    }
}

/// The special register of this name (chapter 10).
pub(super) fn special(name: &str, axis: Option<u8>) -> Result<Special, String> {
    let axes: Option<fn(u8) -> Special> = match name {
        "tid" => Some(Special::Tid),
        "ntid" => Some(Special::Ntid),
        "ctaid" => Some(Special::Ctaid),
        "nctaid" => Some(Special::Nctaid),
        "clusterid" => Some(Special::ClusterId),
        "nclusterid" => Some(Special::NClusterId),
        "cluster_ctaid" => Some(Special::ClusterCtaid),
        "cluster_nctaid" => Some(Special::ClusterNctaid),
        _ => None,
    };
    if let (Some(of), Some(axis @ 0..3)) = (axes, axis) {
        return Ok(of(axis));
    }
    Ok(match name {
        "laneid" => Special::LaneId,
        "warpid" => Special::WarpId,
        "nwarpid" => Special::NWarpId,
        "smid" => Special::SmId,
        "gridid" => Special::GridId,
        "lanemask_eq" => Special::LaneMaskEq,
        "lanemask_le" => Special::LaneMaskLe,
        "lanemask_lt" => Special::LaneMaskLt,
        "lanemask_ge" => Special::LaneMaskGe,
        "lanemask_gt" => Special::LaneMaskGt,
        "dynamic_smem_size" => Special::DynamicShared,
        "total_smem_size" => Special::TotalShared,
        "cluster_ctarank" => Special::ClusterRank,
        "cluster_nctarank" => Special::ClusterSize,
        "is_explicit_cluster" => Special::IsExplicitCluster,
        "clock" | "clock64" => Special::Clock,
        "globaltimer" | "globaltimer_lo" => Special::GlobalTimer,
        _ => return Err(format!("the special register %{name} is not implemented")),
    })
}
