//! Where the lanes of a warp are. Lanes that are at one place form a path; a branch that they disagree about
//! splits it, and they join again where the program says that all ways meet.
//!
//! Paths make progress one after the other, each until it joins, ends or waits. A path that waits (for lanes of
//! another path, or at a barrier) lets the others go on, as threads have done since sm_70.

use crate::program::flow::NEVER;

/// Why a path does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    /// Its lanes are in other paths, until they meet.
    Split,
    /// At a barrier of the block.
    Barrier(u8),
    /// At an instruction that these lanes have to reach together: this one, or any `bar.warp.sync` ([`ANYWHERE`]).
    Collective(u32, u32),
    /// For the other blocks of the cluster.
    Cluster,
    /// For a phase of a barrier in shared memory.
    Mbarrier,
    /// For bulk stores.
    Bulk,
    /// For the other warps of the warpgroup.
    Warpgroup,
    /// For registers.
    Registers,
    Free,
}

/// The place of a `bar.warp.sync`: lanes may execute different ones with the same mask.
pub const ANYWHERE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub pc: u32,
    pub lanes: u32,
    /// Where it joins its parent.
    pub meet: u32,
    pub parent: Option<u32>,
    /// Paths that have yet to join this one.
    children: u32,
    pub state: State,
}

#[derive(Default)]
pub struct Paths {
    all: Vec<Path>,
}

impl Paths {
    /// One path from the start.
    pub fn begin(&mut self, lanes: u32) {
        self.all.clear();
        self.all.push(Path {
            pc: 0,
            lanes,
            meet: NEVER,
            parent: None,
            children: 0,
            state: State::Ready,
        });
    }

    pub fn get(&self, path: u32) -> &Path {
        &self.all[path as usize]
    }

    pub fn get_mut(&mut self, path: u32) -> &mut Path {
        &mut self.all[path as usize]
    }

    /// A path that can go on.
    pub fn ready(&self) -> Option<u32> {
        self.all.iter().position(|p| p.state == State::Ready).map(|i| i as u32)
    }

    pub fn is_done(&self) -> bool {
        self.all.iter().all(|p| p.state == State::Free)
    }

    /// The paths that wait, with their numbers.
    pub fn waiting(&self) -> impl Iterator<Item = (u32, &Path)> {
        let waits = |p: &Path| !matches!(p.state, State::Ready | State::Split | State::Free);
        self.all.iter().enumerate().filter(move |(_, p)| waits(p)).map(|(i, p)| (i as u32, p))
    }

    /// Lanes at collectives of this mask and place.
    pub fn gathered(&self, mask: u32, place: u32) -> u32 {
        let here = |p: &&Path| p.state == State::Collective(mask, place);
        self.all.iter().filter(here).fold(0, |lanes, p| lanes | p.lanes)
    }

    /// Lets all that wait at this collective go on behind it.
    pub fn release(&mut self, mask: u32, place: u32) {
        for path in &mut self.all {
            if path.state == State::Collective(mask, place) {
                path.state = State::Ready;
                path.pc += 1;
            }
        }
    }

    fn add(&mut self, path: Path) -> u32 {
        match self.all.iter().position(|p| p.state == State::Free) {
            Some(free) => {
                self.all[free] = path;
                free as u32
            }
            None => {
                self.all.push(path);
                self.all.len() as u32 - 1
            }
        }
    }

    /// Splits a path at a branch: these lanes go to `target`, the others to `other`; all meet at `meet`. Returns
    /// the path that goes on first, if any is ready.
    pub fn split(&mut self, path: u32, lanes: u32, target: u32, other: u32, meet: u32) {
        let whole = *self.get(path);
        let (parent, base) = if meet == whole.meet {
            // Both sides join where this path would.
            self.get_mut(path).state = State::Free;
            if let Some(parent) = whole.parent {
                self.get_mut(parent).children -= 1;
            }
            (whole.parent, whole)
        } else {
            let this = self.get_mut(path);
            (this.pc, this.lanes, this.state, this.children) = (meet, 0, State::Split, 0);
            (Some(path), whole)
        };
        for (pc, lanes) in [(other, base.lanes & !lanes), (target, lanes)] {
            if pc == meet
                && let Some(parent) = parent
            {
                self.get_mut(parent).lanes |= lanes;
                continue;
            }
            if let Some(parent) = parent {
                self.get_mut(parent).children += 1;
            }
            self.add(Path { pc, lanes, meet, parent, children: 0, state: State::Ready });
        }
        if let Some(parent) = parent {
            self.settle(parent);
        }
    }

    /// A path has come to its meeting point.
    pub fn join(&mut self, path: u32) {
        let Path { lanes, parent, .. } = *self.get(path);
        self.get_mut(path).state = State::Free;
        if let Some(parent) = parent {
            let p = self.get_mut(parent);
            p.lanes |= lanes;
            p.children -= 1;
            self.settle(parent);
        }
    }

    /// Lanes of a path have ended; the path as well if none is left.
    pub fn exit(&mut self, path: u32, lanes: u32) {
        let this = self.get_mut(path);
        this.lanes &= !lanes;
        if this.lanes != 0 {
            return;
        }
        this.state = State::Free;
        if let Some(parent) = this.parent {
            self.get_mut(parent).children -= 1;
            self.settle(parent);
        }
    }

    /// A split path goes on once all have joined; it ends, should they all have ended.
    fn settle(&mut self, path: u32) {
        let this = self.get_mut(path);
        if this.children > 0 || this.state != State::Split {
            return;
        }
        if this.lanes != 0 {
            this.state = State::Ready;
            return;
        }
        this.state = State::Free;
        if let Some(parent) = this.parent {
            self.get_mut(parent).children -= 1;
            self.settle(parent);
        }
    }
}
