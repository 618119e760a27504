//! Who has seen what of whom within a block, or within a cluster of blocks: a clock for every warp, which advances
//! whenever lanes of it let others see what they did, and for every thread what it has seen of the others.
//!
//! What goes on asynchronously counts as threads of its own (agents), which have no program: an operation sees what
//! the thread that started it had seen then ([`Sight`]), and is seen by those who wait for it.

use std::rc::Rc;

use crate::shadow::{Flag, Stamp};

/// What a thread has seen of all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of every warp: all accesses with a smaller clock, whichever lane's they are.
    warps: Vec<u32>,
    /// Of single lanes of some warps: likewise, where that is more.
    lanes: Vec<(u32, [u32; 32])>,
}

impl Seen {
    pub const NOTHING: Self = Self { warps: Vec::new(), lanes: Vec::new() };

    /// Whether accesses of this thread at this clock have been seen.
    pub fn has(&self, thread: u32, clock: u32) -> bool {
        let (warp, lane) = (thread / 32, (thread % 32) as usize);
        if self.warps.get(warp as usize).is_some_and(|&seen| clock < seen) {
            return true;
        }
        self.lanes.iter().any(|(w, lanes)| *w == warp && clock < lanes[lane])
    }

    /// Adds what another one has seen.
    fn join(&mut self, other: &Self) {
        if self.warps.len() < other.warps.len() {
            self.warps.resize(other.warps.len(), 0);
        }
        for (mine, &theirs) in self.warps.iter_mut().zip(&other.warps) {
            *mine = (*mine).max(theirs);
        }
        for (warp, lanes) in &other.lanes {
            self.see(*warp, |lane| lanes[lane]);
        }
    }

    /// Sees of each lane of a warp what it did before that clock.
    fn see(&mut self, warp: u32, clock: impl Fn(usize) -> u32) {
        let all = self.warps.get(warp as usize).copied().unwrap_or(0);
        let at = self.lanes.iter().position(|(w, _)| *w == warp);
        let mut lanes = at.map_or([0; 32], |i| self.lanes[i].1);
        lanes.iter_mut().enumerate().for_each(|(i, seen)| *seen = (*seen).max(clock(i)));
        match at {
            _ if lanes.iter().all(|&seen| seen <= all) => {
                if let Some(i) = at {
                    self.lanes.swap_remove(i);
                }
            }
            Some(i) => self.lanes[i].1 = lanes,
            None => self.lanes.push((warp, lanes)),
        }
    }

    /// Only what has been seen of one thread.
    fn only(&self, thread: u32) -> Self {
        let (warp, lane) = (thread / 32, (thread % 32) as usize);
        let all = self.warps.get(warp as usize).copied().unwrap_or(0);
        let own = self.lanes.iter().find(|(w, _)| *w == warp).map_or(0, |(_, lanes)| lanes[lane]);
        let mut one = Self::NOTHING;
        one.see(warp, |l| if l == lane { own.max(all) } else { 0 });
        one
    }

    /// Sees all lanes of a warp up to this clock.
    fn see_warp(&mut self, warp: u32, clock: u32) {
        if self.warps.len() <= warp as usize {
            self.warps.resize(warp as usize + 1, 0);
        }
        let seen = &mut self.warps[warp as usize];
        *seen = (*seen).max(clock);
        self.see(warp, |_| 0);
    }
}

/// What is known of every thread, each as what it or something of it can see: by these indices.
const SEEN: usize = 0;
/// What the asynchronous proxy can see when the thread starts something: of shared memory, and of global memory.
const SHARED: usize = 1;
const GLOBAL: usize = 2;
/// What it had seen and done at its last fence, or comes from others who had a fence behind it: a relaxed arrival, or
/// atomic, lets others see that.
const FENCED: usize = 3;
const PARTS: usize = 4;

/// The objects that a fence between the proxies is for: those of one state space (9.7.13.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    Shared = SHARED as isize,
    Global = GLOBAL as isize,
}

/// What those that arrive somewhere let others see: at a barrier, at a phase of one in shared memory, or at an atomic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    parts: [Seen; PARTS],
}

/// What an operation sees that goes on while its thread does: what the thread had seen when it started it.
#[derive(Clone, Debug)]
pub struct Sight {
    seen: Rc<Seen>,
    /// What the asynchronous proxy could see then, of shared and of global memory.
    proxies: [Option<Rc<Seen>>; 2],
}

impl Sight {
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    pub fn proxy(&self, of: Objects) -> &Seen {
        static NOTHING: Seen = Seen::NOTHING;
        self.proxies[of as usize - SHARED].as_deref().unwrap_or(&NOTHING)
    }
}

impl Arrival {
    /// Adds those of another one.
    pub fn join(&mut self, other: &Self) {
        self.parts.iter_mut().zip(&other.parts).for_each(|(mine, theirs)| mine.join(theirs));
    }

    /// Whether accesses of this thread at this clock are among what others may see.
    pub fn has(&self, thread: u32, clock: u32) -> bool {
        self.parts[SEEN].has(thread, clock)
    }

    /// The same for the asynchronous proxy.
    pub fn proxy_has(&self, of: Objects, thread: u32, clock: u32) -> bool {
        self.parts[of as usize].has(thread, clock)
    }

    /// A fence between the proxies behind it.
    pub fn fence_proxy(&mut self, of: Objects) {
        let [seen, proxies @ ..] = &mut self.parts;
        proxies[of as usize - SHARED].join(seen);
    }
}

pub struct Clocks {
    block: u32,
    /// Per warp.
    clock: Vec<u32>,
    /// Per warp: its lanes that are threads.
    lanes: Vec<u32>,
    /// Of each part, per thread. Threads that synchronise share it. All but the first are empty until the first fence
    /// that they are about.
    parts: [Vec<Rc<Seen>>; PARTS],
    /// Per thread: what a relaxed wait has come behind, to be seen from the next fence on. Empty until one.
    pending: Vec<Arrival>,
    /// Per thread: the stamp of its next access.
    stamps: Vec<Stamp>,
}

impl Clocks {
    /// Of one block.
    pub fn new(block: u32, threads: u32) -> Self {
        let whole = |w: u32| (threads - 32 * w).min(32);
        let lanes = (0..threads.div_ceil(32)).map(|w| u32::MAX >> (32 - whole(w)));
        Self::of_warps(block, lanes.collect())
    }

    /// Of warps with these lanes; thread `32 w + l` is lane `l` of warp `w`.
    pub fn of_warps(block: u32, lanes: Vec<u32>) -> Self {
        let warps = lanes.len();
        let mut clocks = Self {
            block,
            clock: vec![0; warps],
            lanes,
            parts: [vec![Rc::default(); 32 * warps], Vec::new(), Vec::new(), Vec::new()],
            pending: Vec::new(),
            stamps: vec![Stamp(0); 32 * warps],
        };
        (0..warps).for_each(|w| clocks.restamp(w));
        clocks
    }

    /// The stamp of the thread's next access.
    pub fn stamp(&self, thread: u32) -> Stamp {
        self.stamps[thread as usize]
    }

    pub fn stamp_as(&self, thread: u32, flag: Flag) -> Stamp {
        Stamp::new(self.block, flag, thread, self.clock[thread as usize / 32])
    }

    pub fn seen(&self, thread: u32) -> &Seen {
        &self.parts[SEEN][thread as usize]
    }

    /// What an operation sees that this thread starts now.
    pub fn sight(&self, thread: u32) -> Sight {
        let proxies = [SHARED, GLOBAL].map(|i| self.parts[i].get(thread as usize).cloned());
        Sight { seen: self.parts[SEEN][thread as usize].clone(), proxies }
    }

    /// What an operation sees that a warp starts as a whole: all that any of its lanes has seen and done, as they have
    /// come together.
    pub fn sight_of_warp(&self, warp: usize) -> Sight {
        let lanes = self.lanes[warp];
        let joined = |all: &[Rc<Seen>]| match Self::shared(all, warp, lanes) {
            Some(seen) => seen.clone(),
            None => Rc::new(Self::together(all, warp, lanes)),
        };
        let mut seen = joined(&self.parts[SEEN]);
        Rc::make_mut(&mut seen).see_warp(warp as u32, self.clock[warp] + 1);
        let of = |i: usize| (!self.parts[i].is_empty()).then(|| joined(&self.parts[i]));
        Sight { seen, proxies: [of(SHARED), of(GLOBAL)] }
    }

    fn restamp(&mut self, warp: usize) {
        for t in warp * 32..warp * 32 + 32 {
            self.stamps[t] = self.stamp_as(t as u32, Flag::Plain);
        }
    }

    fn tick(&mut self, warp: usize) -> u32 {
        self.clock[warp] += 1;
        self.restamp(warp);
        self.clock[warp]
    }

    /// What these lanes have seen, where they have seen the same and share it.
    fn shared(all: &[Rc<Seen>], warp: usize, mask: u32) -> Option<&Rc<Seen>> {
        let mut of = (0..32).filter(|l| mask >> l & 1 == 1).map(|l| &all[warp * 32 + l]);
        let first = of.next()?;
        of.all(|seen| Rc::ptr_eq(first, seen)).then_some(first)
    }

    /// What these lanes have seen and done, together.
    fn together(all: &[Rc<Seen>], warp: usize, mask: u32) -> Seen {
        let mut joined = Seen::default();
        let mut last: Option<&Rc<Seen>> = None;
        for l in (0..32).filter(|l| mask >> l & 1 == 1) {
            let seen = &all[warp * 32 + l];
            if last.is_none_or(|last| !Rc::ptr_eq(last, seen)) {
                joined.join(seen);
            }
            last = Some(seen);
        }
        joined
    }

    fn add_own(&self, seen: &mut Seen, warp: usize, mask: u32, clock: u32) {
        if mask == self.lanes[warp] {
            seen.see_warp(warp as u32, clock);
        } else {
            seen.see(warp as u32, |l| if mask >> l & 1 == 1 { clock } else { 0 });
        }
    }

    fn share(all: &mut [Rc<Seen>], warp: usize, mask: u32, seen: Seen) {
        let seen = Rc::new(seen);
        for l in (0..32).filter(|l| mask >> l & 1 == 1) {
            all[warp * 32 + l] = seen.clone();
        }
    }

    /// A barrier of these whole warps: each has now seen all that any of them had seen or done.
    pub fn barrier(&mut self, members: impl Iterator<Item = usize> + Clone) {
        let mut arrival = Arrival::default();
        members.clone().for_each(|w| self.release(w, self.lanes[w], &mut arrival));
        members.for_each(|w| self.acquire_all(w, &arrival));
    }

    /// A whole warp goes on behind arrivals.
    pub fn acquire_all(&mut self, warp: usize, arrival: &Arrival) {
        self.acquire(warp, self.lanes[warp], arrival);
    }

    /// A `__syncwarp` of the lanes in `mask`.
    pub fn sync_warp(&mut self, warp: usize, mask: u32) {
        let clock = self.tick(warp);
        for i in 0..PARTS {
            if self.parts[i].is_empty() {
                continue;
            }
            let mut seen = Self::together(&self.parts[i], warp, mask);
            if i == SEEN {
                self.add_own(&mut seen, warp, mask, clock);
            }
            Self::share(&mut self.parts[i], warp, mask, seen);
        }
    }

    /// Lanes arrive somewhere: adds what they have seen and done. What they do from now on is not part of it.
    pub fn release(&mut self, warp: usize, mask: u32, arrival: &mut Arrival) {
        let clock = self.tick(warp);
        for (all, part) in self.parts.iter().zip(&mut arrival.parts).filter(|p| !p.0.is_empty()) {
            part.join(&Self::together(all, warp, mask));
        }
        self.add_own(&mut arrival.parts[SEEN], warp, mask, clock);
    }

    /// Lanes go on behind arrivals.
    pub fn acquire(&mut self, warp: usize, mask: u32, arrival: &Arrival) {
        for (all, part) in self.parts.iter_mut().zip(&arrival.parts).filter(|p| !p.0.is_empty()) {
            let mut seen = Self::together(all, warp, mask);
            seen.join(part);
            // What one lane acquires its neighbours have not, unless they do so as well: each keeps its own.
            let own = Self::shared(all, warp, mask).is_none();
            Self::take(all, (warp, mask), own, seen, part);
        }
    }

    /// Gives lanes what they have acquired: one for all where they had seen the same before.
    fn take(
        all: &mut [Rc<Seen>],
        (warp, mask): (usize, u32),
        is_own: bool,
        joined: Seen,
        arrival: &Seen,
    ) {
        if !is_own {
            Self::share(all, warp, mask, joined);
            return;
        }
        for l in (0..32).filter(|l| mask >> l & 1 == 1) {
            Rc::make_mut(&mut all[warp * 32 + l]).join(arrival);
        }
    }

    /// Lanes arrive somewhere without a release: others see what the lanes had seen and done at their last fence.
    pub fn release_relaxed(&mut self, warp: usize, mask: u32, arrival: &mut Arrival) {
        for (i, part) in [(FENCED, SEEN), (FENCED, FENCED), (SHARED, SHARED), (GLOBAL, GLOBAL)] {
            if !self.parts[i].is_empty() {
                arrival.parts[part].join(&Self::together(&self.parts[i], warp, mask));
            }
        }
    }

    /// Lanes come behind arrivals without an acquire: they see them from their next fence on.
    pub fn acquire_relaxed(&mut self, warp: usize, mask: u32, arrival: &Arrival) {
        if self.pending.is_empty() {
            self.pending = vec![Arrival::default(); self.stamps.len()];
        }
        for l in (0..32).filter(|l| mask >> l & 1 == 1) {
            self.pending[warp * 32 + l].join(arrival);
        }
    }

    /// A fence by these lanes, which makes relaxed arrivals and waits around it a release and an acquire.
    pub fn fence(&mut self, warp: usize, mask: u32) {
        for l in (0..32).filter(|l| mask >> l & 1 == 1) {
            if let Some(pending) = self.pending.get_mut(warp * 32 + l) {
                let pending = std::mem::take(pending);
                self.acquire(warp, 1 << l, &pending);
            }
        }
        let clock = self.tick(warp);
        self.remember(FENCED, warp, mask, |seen, lane| {
            let mut seen = seen.clone();
            seen.see(warp as u32, |l| if l == lane { clock } else { 0 });
            seen
        });
    }

    /// A fence by these lanes that is only about what they have seen of one agent.
    pub fn fence_only(&mut self, warp: usize, mask: u32, agent: u32) {
        self.remember(FENCED, warp, mask, |seen, _| seen.only(agent));
    }

    /// A fence between the proxies by these lanes: what each has seen and done to such objects, the asynchronous proxy
    /// sees from now on as well.
    pub fn fence_proxy(&mut self, warp: usize, mask: u32, of: Objects) {
        let clock = self.tick(warp);
        self.remember(of as usize, warp, mask, |seen, lane| {
            let mut seen = seen.clone();
            seen.see(warp as u32, |l| if l == lane { clock } else { 0 });
            seen
        });
    }

    /// Adds something of what lanes have seen to another part.
    fn remember(
        &mut self,
        part: usize,
        warp: usize,
        mask: u32,
        what: impl Fn(&Seen, usize) -> Seen,
    ) {
        let [seen, others @ ..] = &mut self.parts;
        let all = &mut others[part - 1];
        if all.is_empty() {
            *all = vec![Rc::default(); seen.len()];
        }
        for l in (0..32).filter(|l| mask >> l & 1 == 1) {
            let t = warp * 32 + l;
            Rc::make_mut(&mut all[t]).join(&what(&seen[t], l));
        }
    }

    /// An operation has begun, with accesses of this agent at the clock that is returned: later ones have another.
    pub fn start_operation(&mut self, agent: u32) -> u32 {
        self.tick(agent as usize / 32) - 1
    }

    /// An operation ends that had accesses at this clock: those who wait for it see these.
    pub fn end_operation_at(&mut self, agent: u32, clock: u32, arrival: &mut Arrival) {
        let (warp, lane) = (agent / 32, agent as usize % 32);
        arrival.parts[SEEN].see(warp, |l| if l == lane { clock + 1 } else { 0 });
    }

    /// An asynchronous operation ends, which counts as an access of this agent: those who wait for it see it.
    pub fn end_operation(&mut self, agent: u32, arrival: &mut Arrival) {
        let clock = self.tick(agent as usize / 32);
        self.end_operation_at(agent, clock - 1, arrival);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Clocks;
    use crate::blocks::Others;
    use crate::random::Random;
    use crate::shadow::{Byte, Trouble, View};

    const THREADS: u32 = 96;

    /// Happens-before by the book: the accesses that each thread has seen, as a set.
    struct Model {
        seen: Vec<HashSet<u32>>,
    }

    impl Model {
        fn sync(&mut self, threads: &[u32]) {
            let all: HashSet<u32> =
                threads.iter().flat_map(|&t| self.seen[t as usize].iter().copied()).collect();
            for &t in threads {
                self.seen[t as usize] = all.clone();
            }
        }
    }

    /// Random programs of accesses to one byte, barriers of some warps, and `__syncwarp`s of some
    /// lanes: a write after a write is a race exactly when the model has no path between them.
    #[test]
    fn clocks_agree_with_happens_before() {
        let (mut races, mut orders) = (0, 0);
        for seed in 0..300 {
            let mut rng = Random::new(seed);
            let mut clocks = Clocks::new(2, THREADS);
            let mut model = Model { seen: vec![HashSet::new(); THREADS as usize] };
            let byte = Byte::default();
            let mut last = None;
            for access in 0..40 {
                for _ in 0..rng.below(4) {
                    if rng.below(2) == 0 {
                        let warps: Vec<usize> = (0..3).filter(|_| rng.below(3) > 0).collect();
                        let of = |w: &usize| *w as u32 * 32..*w as u32 * 32 + 32;
                        model.sync(&warps.iter().flat_map(of).collect::<Vec<_>>());
                        clocks.barrier(warps.iter().copied());
                    } else {
                        let (warp, mask) = (rng.below(3) as u32, (rng.draw() | rng.draw()) as u32);
                        let lanes = (0..32).filter(|l| mask >> l & 1 == 1);
                        model.sync(&lanes.map(|l| warp * 32 + l).collect::<Vec<_>>());
                        clocks.sync_warp(warp as usize, mask);
                    }
                }
                let thread = rng.below(THREADS.into()) as u32;
                let view = View {
                    stamp: clocks.stamp(thread),
                    owner: thread,
                    first_block: 2,
                    seen: clocks.seen(thread),
                    proxy: None,
                    others: Others::Whole(&HashSet::new()),
                    site: 0,
                };
                let seen = &mut model.seen[thread as usize];
                let race = last.is_some_and(|l| !seen.contains(&l));
                seen.insert(access);
                let found = matches!(byte.write(&view, false), Some(Trouble::Race(_)));
                assert_eq!(found, race, "seed {seed}, access {access} of thread {thread}");
                last = Some(access);
                races += u32::from(race);
                orders += u32::from(!race);
            }
        }
        assert!(races > 1000 && orders > 1000, "{races} races, {orders} in order: one-sided test");
    }
}
