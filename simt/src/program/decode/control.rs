//! Branches, barriers, fences, and what the lanes of a warp do together.

use super::modifiers::Modifiers;
use super::{Decoded, Decoder, not_implemented};
use crate::program::op::{AtomicOp, Dst, Op, Pipe, Reduce, Shuffle, Src, SrcPred, Vote};
use crate::ptx::ast::{Instruction, Operand, Type};

impl Decoder<'_> {
    pub(super) fn branch(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        let is_uniform = m.take("uni");
        let op = match inst.opcode.as_str() {
            "ret" | "exit" => {
                self.count(inst, 0)?;
                Op::Exit
            }
            "trap" => {
                self.count(inst, 0)?;
                Op::Trap
            }
            "bra" => {
                self.count(inst, 1)?;
                Op::Branch { target: self.target(self.label(&inst.operands[0])?), is_uniform }
            }
            _ => {
                if !m.take("idx") {
                    return Err(not_implemented());
                }
                self.count(inst, 2)?;
                let index = self.word(&inst.operands[0])?;
                let label = self.label(&inst.operands[1])?;
                let targets = &self.function.labels[label.0 as usize].targets;
                if targets.is_empty() {
                    return Err("the label is no table of targets".into());
                }
                let targets = targets.iter().map(|&l| self.target(l)).collect();
                self.tables.push(targets);
                Op::BranchTable { table: self.tables.len() as u32 - 1, index, is_uniform }
            }
        };
        Ok((op, Pipe::Control))
    }

    /// `bar`, `barrier` within a block (9.7.13.1), and `bar.warp.sync` (9.7.13.2).
    pub(super) fn barrier(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if m.take("warp") {
            if !m.take("sync") {
                return Err(not_implemented());
            }
            self.count(inst, 1)?;
            return Ok((Op::WarpSync { mask: self.word(&inst.operands[0])? }, Pipe::Control));
        }
        if m.take("cluster") {
            return self.cluster_barrier(inst, m);
        }
        m.ignore(&["cta"]);
        // `bar` is `barrier` with `.aligned`.
        m.take("aligned");
        let no = SrcPred::Value(false);
        let count = |i: usize| inst.operands.get(i).map(|o| self.word(o)).transpose();
        if m.take("red") {
            let how = m.one_of(&["and", "or", "popc"]).ok_or("an operation is needed")?;
            let reduce = match how {
                "and" => Reduce::And,
                "or" => Reduce::Or,
                _ => Reduce::Popc,
            };
            let ty = m.ty()?;
            let (d, d_pred) = match (reduce, ty) {
                (Reduce::Popc, Type::U32) => {
                    (Dst::Word(self.dst_word(self.operand(inst, 0)?)?), u32::MAX)
                }
                (Reduce::And | Reduce::Or, Type::Pred) => {
                    (Dst::Sink, self.dst_pred(self.operand(inst, 0)?)?)
                }
                _ => return Err(not_implemented()),
            };
            let id = self.word(self.operand(inst, 1)?)?;
            let (threads, p) = match inst.operands.len() {
                3 => (None, self.pred(&inst.operands[2])?),
                4 => (count(2)?, self.pred(&inst.operands[3])?),
                n => return Err(format!("{n} operands")),
            };
            let op = Op::Barrier { id, threads, waits: true, reduce, d, d_pred, p };
            return Ok((op, Pipe::Control));
        }
        let waits = m.take("sync");
        if !waits && !m.take("arrive") {
            return Err(not_implemented());
        }
        if inst.operands.is_empty() || inst.operands.len() > 2 {
            return Err(format!("{} operands", inst.operands.len()));
        }
        let id = self.word(&inst.operands[0])?;
        let threads = count(1)?;
        if !waits && threads.is_none() {
            return Err("an arrival needs a count of threads".into());
        }
        let (d, d_pred, reduce) = (Dst::Sink, u32::MAX, Reduce::None);
        let op = Op::Barrier { id, threads, waits, reduce, d, d_pred, p: no };
        Ok((op, Pipe::Control))
    }

    /// `griddepcontrol`. When dependents may start changes nothing here: what they do before this kernel has ended is
    /// looked at in themselves.
    pub(super) fn grid_dependency(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        self.count(inst, 0)?;
        match m.one_of(&["wait", "launch_dependents"]) {
            Some("wait") => Ok((Op::GridWait, Pipe::Control)),
            Some(_) => Ok((Op::Nop, Pipe::Control)),
            None => Err("an action is needed".into()),
        }
    }

    /// `membar`, `fence` (9.7.13.4).
    pub(super) fn fence(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if inst.has("proxy") || inst.has("mbarrier_init") {
            return self.proxy_fence(inst, m);
        }
        self.count(inst, 0)?;
        m.ignore(&["cta", "cluster", "gpu", "gl", "sys", "sc", "acq_rel", "acquire", "release"]);
        Ok((Op::Fence, Pipe::Control))
    }

    /// `shfl`, `vote`, `match`, `redux`, `activemask`, `elect`.
    pub(super) fn collective(&mut self, inst: &Instruction, m: &mut Modifiers) -> Decoded {
        if inst.opcode == "activemask" {
            self.count(inst, 1)?;
            if m.ty()? != Type::B32 {
                return Err(not_implemented());
            }
            return Ok((Op::ActiveMask { d: self.dst_word(&inst.operands[0])? }, Pipe::Integer));
        }
        if !m.take("sync") {
            return Err("'.sync' is needed".into());
        }
        let op = match inst.opcode.as_str() {
            "shfl" => self.shuffle(inst, m)?,
            "vote" => self.vote(inst, m)?,
            "match" => self.matching(inst, m)?,
            "elect" => {
                self.count(inst, 2)?;
                let Operand::Pair(d, p) = &inst.operands[0] else {
                    return Err("two results are needed".into());
                };
                let mask = self.word(&inst.operands[1])?;
                Op::Elect { d: self.dst(d)?, p: self.dst_pred(p)?, mask }
            }
            _ => {
                let ty = m.ty()?;
                self.count(inst, 3)?;
                let op = m.atomic_op(ty).ok_or("an operation is needed")?;
                let is_bits = matches!(op, AtomicOp::And | AtomicOp::Or | AtomicOp::Xor);
                let is_number = matches!(
                    op,
                    AtomicOp::Add
                        | AtomicOp::MinSigned
                        | AtomicOp::MinUnsigned
                        | AtomicOp::MaxSigned
                        | AtomicOp::MaxUnsigned
                );
                let has_type = match ty {
                    Type::U32 | Type::S32 => is_number,
                    Type::B32 => is_bits,
                    _ => false,
                };
                if !has_type {
                    return Err(not_implemented());
                }
                let d = self.dst_word(&inst.operands[0])?;
                let (a, mask) = (self.word(&inst.operands[1])?, self.word(&inst.operands[2])?);
                Op::Redux { op, d, a, mask }
            }
        };
        Ok((op, Pipe::LoadStore))
    }

    fn shuffle(&self, inst: &Instruction, m: &mut Modifiers) -> Result<Op, String> {
        let how = match m.one_of(&["up", "down", "bfly", "idx"]) {
            Some("up") => Shuffle::Up,
            Some("down") => Shuffle::Down,
            Some("bfly") => Shuffle::Bfly,
            Some(_) => Shuffle::Idx,
            None => return Err("a mode is needed".into()),
        };
        if m.ty()? != Type::B32 {
            return Err(not_implemented());
        }
        self.count(inst, 5)?;
        let (d, p) = match &inst.operands[0] {
            Operand::Pair(d, p) => (self.dst_word(d)?, Some(self.dst_pred(p)?)),
            one => (self.dst_word(one)?, None),
        };
        let word = |i: usize| self.word(&inst.operands[i]);
        Ok(Op::Shuffle { how, d, p, a: word(1)?, b: word(2)?, c: word(3)?, mask: word(4)? })
    }

    fn vote(&self, inst: &Instruction, m: &mut Modifiers) -> Result<Op, String> {
        let how = match m.one_of(&["all", "any", "uni", "ballot"]) {
            Some("all") => Vote::All,
            Some("any") => Vote::Any,
            Some("uni") => Vote::Uni,
            Some(_) => Vote::Ballot,
            None => return Err("a mode is needed".into()),
        };
        self.count(inst, 3)?;
        let d = match (how, m.ty()?) {
            (Vote::Ballot, Type::B32) => self.dst_word(&inst.operands[0])?,
            (Vote::Ballot, _) => return Err(not_implemented()),
            (_, Type::Pred) => self.dst_pred(&inst.operands[0])?,
            _ => return Err(not_implemented()),
        };
        let (p, mask) = (self.pred(&inst.operands[1])?, self.word(&inst.operands[2])?);
        Ok(Op::Vote { how, d, p, mask })
    }

    fn matching(&self, inst: &Instruction, m: &mut Modifiers) -> Result<Op, String> {
        let all = m.take("all");
        if !all && !m.take("any") {
            return Err("a mode is needed".into());
        }
        self.count(inst, 3)?;
        let ty = m.ty()?;
        let (d, p) = match &inst.operands[0] {
            Operand::Pair(d, p) if all => (self.dst_word(d)?, Some(self.dst_pred(p)?)),
            one => (self.dst_word(one)?, None),
        };
        let mask: Src = self.word(&inst.operands[2])?;
        match (ty, all) {
            (Type::B32, true) => Ok(Op::MatchAll { d, p, a: self.word(&inst.operands[1])?, mask }),
            (Type::B32, false) => Ok(Op::MatchAny { d, a: self.word(&inst.operands[1])?, mask }),
            (Type::B64, true) => {
                Ok(Op::MatchAll64 { d, p, a: self.long(&inst.operands[1])?, mask })
            }
            (Type::B64, false) => Ok(Op::MatchAny64 { d, a: self.long(&inst.operands[1])?, mask }),
            _ => Err(not_implemented()),
        }
    }
}
