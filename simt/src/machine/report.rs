//! Faults in words: where they happened, and who waits for whom when nothing goes on.

use super::cluster::{ARRIVAL_AGENT, Cluster, INIT_AGENT};
use super::paths::{Path, State};
use super::warp::Warp;
use super::{Fault, Trouble};
use crate::blocks::Others;
use crate::program::op::Op;
use crate::shadow::{Stamp, Trouble as Found};

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

    /// What a path waits for.
    fn waits_for(&self, warp: &Warp, path: &Path) -> String {
        let at = self.at(path.pc);
        match path.state {
            State::Barrier(id) => format!("waits at barrier {id}, {at}"),
            State::Cluster => format!("waits for the cluster, {at}"),
            State::Mbarrier => {
                format!("waits {}, {at}", self.mbarrier_wait_in_words(warp, path.pc, path.lanes))
            }
            State::Warpgroup => format!("waits for the other warps of its warpgroup, {at}"),
            State::Bulk => format!("waits for its bulk copies, {at}"),
            State::Registers => {
                let registers = &self.ctas[warp.cta as usize].registers;
                let (held, free) = (registers.held(warp.index), registers.free());
                format!("waits for registers ({held} a thread held, {free} of one warp free), {at}")
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
        // What each warp does, where it is not among those that have come to the barrier in question.
        let asks = |warp: &Warp| match (warp.paths.ready(), warp.asked) {
            (Some(_), Some(pc)) if warp.asks > 0 => {
                let words = self.mbarrier_wait_in_words(warp, pc, warp.lanes & !warp.exited);
                Some(format!("asks again and again {words}, {}", self.at(pc)))
            }
            (Some(_), _) => Some("goes on without an end".to_owned()),
            (None, _) => None,
        };
        let first = all.first().copied();
        let mut groups: Vec<(String, Vec<&Warp>)> = Vec::new();
        for other in warps {
            let what = asks(other).unwrap_or_else(|| match other.paths.waiting().next() {
                None => "has returned".to_owned(),
                Some((_, p)) => self.waits_for(other, p),
            });
            let has_come = match first.map(|(warp, path)| (warp, path.state)) {
                Some((warp, State::Barrier(id))) => {
                    other.cta != warp.cta
                        || self.ctas[warp.cta as usize].barriers[usize::from(id)].has(other.index)
                }
                Some((_, State::Cluster)) => self.rendezvous.has(other),
                _ => false,
            };
            if has_come
                || other.paths.is_done()
                    && !matches!(first, Some((_, p)) if p.state != State::Mbarrier)
            {
                continue;
            }
            match groups.iter_mut().find(|(words, _)| *words == what) {
                Some((_, members)) => members.push(other),
                None => groups.push((what, vec![other])),
            }
        }
        let mut words: Vec<String> =
            groups.iter().map(|(what, who)| self.sentence(who, what)).collect();
        let n = words.len();
        if n > 8 {
            words.truncate(8);
            words.push(format!("and {} more", n - 8));
        }
        let words = words.join("; ");
        let (warp, pc, lanes) = match first {
            Some((warp, path)) => (warp, path.pc, path.lanes),
            None => {
                let warp = warps.iter().find(|w| w.asked.is_some()).unwrap_or(&warps[0]);
                (warp, warp.asked.unwrap_or(0), warp.lanes & !warp.exited)
            }
        };
        let message = match first.map(|(_, path)| path.state) {
            Some(State::Barrier(id)) => {
                let barrier = &self.ctas[warp.cta as usize].barriers[usize::from(id)];
                let (arrived, expected) = (barrier.arrived(), barrier.expected);
                match words.is_empty() {
                    true => format!(
                        "deadlock: barrier {id} reached by only {arrived} of {expected} warps"
                    ),
                    false => format!(
                        "deadlock: barrier {id} reached by only {arrived} of {expected} warps: {words}"
                    ),
                }
            }
            Some(State::Cluster) => {
                format!(
                    "deadlock: {}: {words}",
                    self.waits_for(warp, &first.map_or(*warp.paths.get(0), |f| f.1))
                )
            }
            _ => format!("deadlock: {words}"),
        };
        self.fault(warp, pc, Trouble::new(lanes, message))
    }

    /// What warps do, given the words for one of them.
    fn sentence(&self, warps: &[&Warp], what: &str) -> String {
        let (verb, rest) = what.split_once(' ').unwrap_or((what, ""));
        let verb = match verb {
            _ if warps.len() == 1 => verb,
            "has" => "have",
            "is" => "are",
            "goes" => "go",
            other => other.strip_suffix('s').unwrap_or(other),
        };
        format!("{} {verb} {rest}", self.names(warps))
    }

    /// Warps in words: `warps 0 to 3, 7`; of each block on its own.
    fn names(&self, warps: &[&Warp]) -> String {
        let mut parts = Vec::new();
        for same in warps.chunk_by(|a, b| a.cta == b.cta) {
            let runs = same.chunk_by(|a, b| a.index + 1 == b.index);
            let runs: Vec<String> = runs
                .map(|run| match run {
                    [one] => one.index.to_string(),
                    [first, second] => format!("{}, {}", first.index, second.index),
                    [first, .., last] => format!("{} to {}", first.index, last.index),
                    [] => String::new(),
                })
                .collect();
            let word = if same.len() == 1 { "warp" } else { "warps" };
            let block = match self.ctas.len() {
                1 => String::new(),
                _ => format!(" of block {} of the cluster", same[0].cta),
            };
            parts.push(format!("{word} {}{block}", runs.join(", ")));
        }
        parts.join(" and ")
    }

    /// What is wrong with an access, in words.
    #[cold]
    pub(super) fn tell(
        &self,
        found: Found,
        (verb, bytes, offset): (&str, usize, usize),
        name: &str,
    ) -> String {
        let place = format!("{verb} of {bytes} bytes at byte {offset} of '{name}'");
        match found {
            Found::Unwritten => format!("{place}, which was never written"),
            Found::Pending(site) => format!(
                "{place}, where an asynchronous copy was not waited for ({})",
                self.at(site)
            ),
            Found::NoFence(other) => {
                let line = self.at(other.site);
                let who = self.who(other.stamp);
                let did = if other.was_write { "written" } else { "read" };
                format!("{place}, {did} by {who} ({line}) with no fence.proxy.async behind it")
            }
            Found::Changed(other) => {
                let line = self.at(other.site);
                let who = self.who(other.stamp);
                format!(
                    "{place} by ld.global.nc, which is for what no thread writes while the kernel runs: written by \
                     {who} ({line})"
                )
            }
            Found::Race(other) => {
                let did = if other.was_write { "written" } else { "read" };
                let line = self.at(other.site);
                let who = self.who(other.stamp);
                let block = other.stamp.block();
                let why = match block != self.number && Others::Seen(&self.seen_blocks).know(block)
                {
                    false => " with no barrier between",
                    // Which is not enough.
                    true => {
                        ", which the atomic that orders the blocks does not release: a fence, a bar.sync or a \
                         wait_group without .read is missing before it"
                    }
                };
                // Atomic as each is: their sum depends on which comes first.
                let order = match verb == "reduction" && self.is_reduction(other.site) {
                    true => ": the order of the two additions is open",
                    false => "",
                };
                format!("data race: {place}, {did} by {who} ({line}){why}{order}")
            }
        }
    }

    /// Whether an instruction adds to global memory through the asynchronous proxy.
    pub(super) fn is_reduction(&self, pc: u32) -> bool {
        let inst = self.grid.launch.program.instructions.get(pc as usize);
        inst.is_some_and(|i| matches!(i.op, Op::TensorCopy { adds: true, .. }))
    }

    fn who(&self, other: Stamp) -> String {
        let (warp, lane) = (other.thread() / 32, other.thread() % 32);
        let per_cta = self.warps() + 1;
        let (rank, index) = (warp / per_cta, warp % per_cta);
        let of_block = match (other.block() == self.number, self.ctas.len()) {
            (true, 1) => String::new(),
            (true, _) => format!(" of block {rank} of the cluster"),
            (false, _) => {
                let linear = other.block() - self.grid.first_block;
                let [x, y, z] = self.grid.block_index(linear, rank);
                format!(" of block ({x}, {y}, {z})")
            }
        };
        if index == self.warps() {
            return match lane {
                0..8 => format!("a product of warpgroup {lane}{of_block}"),
                INIT_AGENT => format!("mbarrier.init{of_block}"),
                ARRIVAL_AGENT => format!("an arrival{of_block}"),
                _ => format!("an asynchronous copy{of_block}"),
            };
        }
        let [x, y, z] = self.grid.thread(index * 32 + lane);
        format!("thread ({x}, {y}, {z}){of_block}")
    }
}
