//! Faults in words: where they happened, and who waits for whom when nothing goes on.

use super::cluster::Cluster;
use super::paths::{Path, State};
use super::warp::Warp;
use super::{Fault, Trouble};

impl Cluster<'_, '_> {
    /// Where the trouble happened.
    pub(super) fn fault(&self, warp: &Warp, pc: u32, trouble: Trouble) -> Box<Fault> {
        let program = self.grid.launch.program;
        let pc = trouble.pc.unwrap_or(pc);
        let line = program.instructions.get(pc as usize).map_or(0, |i| i.line);
        let lane = trouble.lanes.trailing_zeros().min(31);
        Box::new(Fault {
            kernel: program.name.clone(),
            block: self.ctas[warp.cta as usize].index,
            warp: warp.index,
            lanes: trouble.lanes,
            thread: self.grid.thread(warp.index * 32 + lane),
            line,
            instruction: program.name_of(pc),
            place: program.place(pc),
            message: trouble.message,
        })
    }

    /// An instruction in words.
    pub(super) fn at(&self, pc: u32) -> String {
        let program = self.grid.launch.program;
        let place = program.place(pc);
        let line = program.instructions[pc as usize].line;
        match place.is_empty() {
            true => format!("PTX line {line}"),
            false => format!("{place}, PTX line {line}"),
        }
    }

    /// A warp's name in messages.
    fn name(&self, warp: &Warp) -> String {
        match self.ctas.len() {
            1 => format!("warp {}", warp.index),
            _ => format!("warp {} of block {} of the cluster", warp.index, warp.cta),
        }
    }

    /// What a path waits for.
    fn waits_for(&self, warp: &Warp, path: &Path) -> String {
        let at = self.at(path.pc);
        match path.state {
            State::Barrier(id) => format!("waits at barrier {id}, {at}"),
            State::Cluster => format!("waits for the cluster, {at}"),
            State::Mbarrier => format!("{}, {at}", self.mbarrier_wait_in_words(warp, path)),
            State::Warpgroup => format!("waits for the other warps of its warpgroup, {at}"),
            State::Bulk => format!("waits for its bulk copies, {at}"),
            State::Registers => {
                let free = self.ctas[warp.cta as usize].registers.free();
                format!("waits for registers ({free} a thread of a warp are free), {at}")
            }
            State::Collective(mask, _) => format!("waits for lanes of mask {mask:#010x}, {at}"),
            State::Ready | State::Split | State::Free => format!("is at {at}"),
        }
    }

    /// No warp can go on: says who waits for whom.
    pub(super) fn stuck(&self, warps: &[Warp]) -> Box<Fault> {
        let all = warps.iter().flat_map(|w| w.paths.waiting().map(move |(_, path)| (w, *path)));
        let all: Vec<(&Warp, Path)> = all.collect();
        let absent = all.iter().find_map(|(warp, path)| match path.state {
            State::Collective(mask, place) => {
                let missing = mask & !warp.paths.gathered(mask, place);
                Some((*warp, *path, mask, missing))
            }
            _ => None,
        });
        if let Some((warp, path, mask, missing)) = absent {
            let lane = missing.trailing_zeros();
            let elsewhere = warp.paths.waiting().find(|(_, p)| p.lanes >> lane & 1 == 1);
            let what = match elsewhere {
                _ if warp.exited >> lane & 1 == 1 => "has returned".to_owned(),
                Some((_, p)) => self.waits_for(warp, p),
                None => "is elsewhere".to_owned(),
            };
            let message =
                format!("mask {mask:#010x} names lanes that are absent: lane {lane} {what}");
            return self.fault(warp, path.pc, Trouble::new(path.lanes, message));
        }
        let Some((warp, path)) = all.first() else {
            let message = "a warp asks again and again for what does not come";
            let path = warps[0].paths.get(0);
            return self.fault(&warps[0], path.pc, Trouble::new(1, message));
        };
        let mut others = Vec::new();
        for other in warps {
            let what = match other.paths.waiting().next() {
                _ if other.paths.ready().is_some() => "asks for what does not come".to_owned(),
                None => "has returned".to_owned(),
                Some((_, p)) => self.waits_for(other, p),
            };
            let is_first = other.id == warp.id;
            let arrived = match path.state {
                State::Barrier(id) => {
                    other.cta != warp.cta
                        || self.ctas[warp.cta as usize].barriers[usize::from(id)].has(other.index)
                }
                _ => false,
            };
            if !is_first && !arrived {
                others.push(format!("{} {what}", self.name(other)));
            }
        }
        others.truncate(8);
        let begin = match path.state {
            State::Barrier(id) => {
                let barrier = &self.ctas[warp.cta as usize].barriers[usize::from(id)];
                format!(
                    "deadlock: barrier {id} reached by only {} of {} warps",
                    barrier.arrived(),
                    barrier.expected
                )
            }
            _ => format!("deadlock: {} {}", self.name(warp), self.waits_for(warp, path)),
        };
        let message = match others.is_empty() {
            true => begin,
            false => format!("{begin}: {}", others.join("; ")),
        };
        self.fault(warp, path.pc, Trouble::new(path.lanes, message))
    }
}
