//! Barriers in shared memory (9.7.13.15): `mbarrier.*`. Their state is in memory, as `hopper::mbarrier` encodes it;
//! what those who arrived had seen is kept beside.

use std::collections::HashMap;

use super::Trouble;
use super::access::{Access, Who, addresses, resolve, shared_address};
use super::cluster::Cluster;
use super::exec::each;
use super::scopes::Scopes;
use super::warp::Warp;
use crate::clocks::Arrival;
use crate::hopper::mbarrier::{self, INVALIDATED, Mbarrier, MbarrierError};
use crate::program::op::{Address, Arrive, Dst, MbarrierOp, Op, Value};
use crate::ptx::ast::Space;
use crate::shadow::{Flag, Stamp};

/// What is known of a barrier beside its 64 bits.
#[derive(Default)]
pub struct Beside {
    /// Of the current phase, and of those that have ended.
    arrival: Arrival,
    pub last: Arrival,
    /// Of these arrivals, those of other blocks.
    scopes: Scopes,
    pub last_scopes: Scopes,
    /// The initialisation: which thread made it and where, as what it counts, and whether the asynchronous proxy can
    /// see it.
    owner: u32,
    pc: u32,
    init: Option<Stamp>,
    is_fenced: bool,
}

/// The barriers of a block, by offset in its shared memory.
#[derive(Default)]
pub struct Mbarriers {
    pub all: HashMap<u32, Beside>,
}

impl Mbarriers {
    /// A thread makes what it initialised visible to the asynchronous proxy.
    pub fn fence(&mut self, thread: u32) {
        self.all.values_mut().filter(|b| b.owner == thread).for_each(|b| b.is_fenced = true);
    }
}

/// The barrier whose bits are there.
pub fn load(at: *const u8) -> Result<Mbarrier, MbarrierError> {
    // SAFETY: whoever asks has checked 8 bytes there, and only this thread of the host runs the cluster.
    Mbarrier::from_bits(unsafe { at.cast::<u64>().read_unaligned() })
}

fn store(at: *mut u8, bits: u64) {
    // SAFETY: as in `load`.
    unsafe { at.cast::<u64>().write_unaligned(bits) }
}

impl Cluster<'_, '_> {
    /// Block and offset of a barrier.
    pub(super) fn place(&self, warp: &Warp, at: u64, lane: usize) -> Result<(usize, u32), Trouble> {
        let (space, at) = resolve(Space::Generic, at);
        if space != Space::Shared {
            return Err(Trouble::new(1 << lane, "the barrier is not in shared memory"));
        }
        let (cta, offset) = self.shared_cta(warp.cta as usize, at);
        if offset % 8 != 0 {
            let message = format!("a barrier at {offset:#x}, which is no multiple of 8");
            return Err(Trouble::new(1 << lane, message));
        }
        Ok((cta, offset as u32))
    }

    /// Where the barrier's bits are on the host, after the access was checked and recorded.
    pub(super) fn barrier_bits(
        &mut self,
        who: Who,
        lane: usize,
        (cta, offset): (usize, u32),
        access: Access,
        pc: u32,
    ) -> Result<*mut u8, Trouble> {
        self.reach_as(who, lane, (Space::Shared, shared_address(cta, offset)), 8, access, pc)
    }

    /// Where the barrier's bits are on the host, when the range was checked before.
    pub(super) fn known_bits(&mut self, (cta, offset): (usize, u32)) -> *mut u8 {
        self.ctas[cta].shared.as_mut_ptr().cast::<u8>().wrapping_add(offset as usize)
    }

    /// The barrier there, if it is one that this thread may know of.
    fn known_barrier(
        &mut self,
        warp: &Warp,
        lane: usize,
        place: (usize, u32),
    ) -> Result<Mbarrier, Trouble> {
        self.shared_range(place.1.into(), 8)
            .map_err(|m| Trouble::new(1 << lane, format!("a barrier {m}")))?;
        let barrier = load(self.known_bits(place));
        let barrier = barrier.map_err(|e| self.barrier_trouble(lane, place, e))?;
        self.check_init(warp, lane, place)?;
        Ok(barrier)
    }

    /// What is wrong with a barrier, in words.
    pub(super) fn barrier_trouble(
        &self,
        lane: usize,
        (cta, offset): (usize, u32),
        error: MbarrierError,
    ) -> Trouble {
        let place = self.shared_place(cta, offset);
        Trouble::new(1 << lane, format!("barrier at {place}: {error}"))
    }

    pub(super) fn mbarrier(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
    ) -> Result<(), Trouble> {
        let Op::Mbarrier { action, at, space, is_cluster } = *op else {
            return Err(Trouble::new(on, "no mbarrier"));
        };
        if let MbarrierOp::PendingCount { d, state } = action {
            let mut out = [0u64; 32];
            for lane in each(on) {
                let state = warp.value_of(Value::Long(state), lane);
                let count = mbarrier::pending_count(state);
                out[lane] = count.map_err(|e| Trouble::new(1 << lane, e.to_string()))?.into();
            }
            warp.put_any(d, &out, on);
            return Ok(());
        }
        let at = self.barrier_addresses(warp, at, space);
        let mut states = [0u64; 32];
        for lane in each(on) {
            let place = self.place(warp, at[lane], lane)?;
            // Whoever says `.shared::cta`, or nothing, gets an instruction for barriers of the own block
            // (9.7.13.15.13). Only bytes are counted elsewhere by a generic address (9.7.13.15.11).
            let needs_word = match action {
                MbarrierOp::Arrive { .. } => !is_cluster,
                MbarrierOp::ExpectTx { .. } | MbarrierOp::CompleteTx { .. } => {
                    !is_cluster && space != Space::Generic
                }
                _ => false,
            };
            if place.0 != warp.cta as usize && needs_word {
                let message = format!(
                    "the barrier is in block {} of the cluster, which needs .shared::cluster",
                    place.0
                );
                return Err(Trouble::new(1 << lane, message));
            }
            states[lane] = self.mbarrier_of_lane(warp, action, lane, place, pc)?;
        }
        if let MbarrierOp::Arrive { state, .. } = action {
            warp.put_any(state, &states, on);
        }
        Ok(())
    }

    /// One lane's operation on a barrier; the state that it returns, if it does.
    fn mbarrier_of_lane(
        &mut self,
        warp: &mut Warp,
        action: MbarrierOp,
        lane: usize,
        place: (usize, u32),
        pc: u32,
    ) -> Result<u64, Trouble> {
        let (cta, offset) = place;
        let fail = |this: &Self, e| this.barrier_trouble(lane, place, e);
        let may_be_remote = match action {
            MbarrierOp::Arrive { state, .. } => state == Dst::Sink,
            MbarrierOp::ExpectTx { .. } | MbarrierOp::CompleteTx { .. } => true,
            _ => false,
        };
        if cta != warp.cta as usize && !may_be_remote {
            let message = format!(
                "the barrier is in block {cta} of the cluster: only arrivals without a state, expect_tx and \
                 complete_tx are for barriers of other blocks"
            );
            return Err(Trouble::new(1 << lane, message));
        }
        if let MbarrierOp::Init { count } = action {
            let barrier = Mbarrier::init(warp.word_of(count, lane)).map_err(|e| fail(self, e))?;
            self.init_barrier(warp, lane, place, barrier, pc)?;
            return Ok(0);
        }
        let flag = match action {
            MbarrierOp::Invalidate => Flag::Plain,
            _ => Flag::Atomic,
        };
        // Whoever waits for an arrival knows that it has come, even if it is relaxed: it counts as an agent's.
        let agent = (cta != warp.cta as usize).then(|| self.arrival_agent(warp));
        let who = agent.map_or_else(|| Who::thread(warp, lane), |a| Who::agent(warp, lane, a));
        let mut barrier = self.known_barrier(warp, lane, place)?;
        let bits = self.barrier_bits(who, lane, place, Access::Write(flag), pc)?;
        let mut returned = 0;
        let ended = match action {
            MbarrierOp::Invalidate => {
                store(bits, INVALIDATED);
                self.ctas[cta].mbarriers.all.remove(&offset);
                return Ok(0);
            }
            MbarrierOp::ExpectTx { bytes } => barrier.expect_tx(warp.word_of(bytes, lane)),
            MbarrierOp::CompleteTx { bytes } => barrier.complete_tx(warp.word_of(bytes, lane)),
            MbarrierOp::Arrive { how, count, tx, .. } => {
                let count = count.map_or(1, |c| warp.word_of(c, lane));
                let tx = tx.map(|t| warp.word_of(t, lane));
                arrive(&mut barrier, how, count, tx).map(|(state, ended)| {
                    returned = state;
                    ended
                })
            }
            MbarrierOp::Init { .. } | MbarrierOp::PendingCount { .. } => Ok(false),
        };
        let ended = ended.map_err(|e| fail(self, e))?;
        store(bits, barrier.to_bits());
        if self.grid.launch.is_checked {
            let beside = self.ctas[cta].mbarriers.all.entry(offset).or_default();
            let (warp, arrival) = (warp.id as usize, &mut beside.arrival);
            if let MbarrierOp::Arrive { is_relaxed, is_wide, .. } = action {
                let mut one = Arrival::default();
                match is_relaxed {
                    false => self.clocks.release(warp, 1 << lane, &mut one),
                    true => self.clocks.release_relaxed(warp, 1 << lane, &mut one),
                }
                arrival.join(&one);
                if agent.is_some() {
                    beside.scopes.arrive(&one, is_wide);
                }
            }
            if let Some(agent) = agent {
                let mut own = Arrival::default();
                self.clocks.end_operation(agent, &mut own);
                self.clocks.acquire(warp, 1 << lane, &own);
                arrival.join(&own);
            }
        }
        self.end_phase(place, ended);
        Ok(returned)
    }

    /// `mbarrier.init`. It counts as an agent's access, as a `fence.mbarrier_init` is for these only.
    fn init_barrier(
        &mut self,
        warp: &Warp,
        lane: usize,
        place: (usize, u32),
        barrier: Mbarrier,
        pc: u32,
    ) -> Result<(), Trouble> {
        let (cta, offset) = place;
        let agent = self.init_agent(warp);
        let who = Who::agent(warp, lane, agent);
        let bits = self.barrier_bits(who, lane, place, Access::Write(Flag::Plain), pc)?;
        let is_known = self.ctas[cta].mbarriers.all.contains_key(&offset);
        if is_known && load(bits).is_ok() {
            let place = self.shared_place(cta, offset);
            let message =
                format!("there is a barrier at {place} already: it needs mbarrier.inval first");
            return Err(Trouble::new(1 << lane, message));
        }
        store(bits, barrier.to_bits());
        let owner = warp.id * 32 + lane as u32;
        let init = Some(self.clocks.stamp(agent));
        let beside = Beside { owner, pc, init, ..Beside::default() };
        self.ctas[cta].mbarriers.all.insert(offset, beside);
        if self.grid.launch.is_checked {
            let mut arrival = Arrival::default();
            self.clocks.end_operation(agent, &mut arrival);
            self.clocks.acquire(warp.id as usize, 1 << lane, &arrival);
        }
        Ok(())
    }

    /// Whether a thread may know that a barrier was initialised. The shadow alone does not tell: the initialisation is
    /// not the last write once one has used the barrier.
    pub(super) fn check_init(
        &self,
        warp: &Warp,
        lane: usize,
        place: (usize, u32),
    ) -> Result<(), Trouble> {
        let (cta, offset) = place;
        let Some(beside) = self.ctas[cta].mbarriers.all.get(&offset) else { return Ok(()) };
        let seen = self.clocks.seen(warp.id * 32 + lane as u32);
        if !self.grid.launch.is_checked
            || beside.init.is_none_or(|init| seen.has(init.thread(), init.clock()))
        {
            return Ok(());
        }
        let message = format!(
            "data race: the barrier at {} was initialised by another thread ({}) with no barrier between",
            self.shared_place(cta, offset),
            self.at(beside.pc)
        );
        Err(Trouble::new(1 << lane, message))
    }

    pub(super) fn barrier_addresses(&self, warp: &Warp, at: Address, space: Space) -> [u64; 32] {
        let window = super::access::window(space);
        addresses(warp, at).map(|a| a.wrapping_add(window))
    }

    fn end_phase(&mut self, (cta, offset): (usize, u32), ended: bool) {
        if ended {
            let beside = self.ctas[cta].mbarriers.all.entry(offset).or_default();
            // Arrivals are read-modify-writes of one place: who sees a phase end has come behind the earlier ones as well
            // (8.9.2).
            beside.last.join(&std::mem::take(&mut beside.arrival));
            beside.last_scopes.join(&std::mem::take(&mut beside.scopes));
        }
    }

    /// Whether a bulk copy may use this barrier: it is one, and the asynchronous proxy can see that.
    pub(super) fn check_barrier(
        &mut self,
        warp: &Warp,
        lane: usize,
        place: (usize, u32),
        pc: u32,
    ) -> Result<(), Trouble> {
        let (cta, offset) = place;
        if offset % 8 != 0 {
            let message = format!("a barrier at {offset:#x}, which is no multiple of 8");
            return Err(Trouble::new(1 << lane, message));
        }
        let who = Who::thread(warp, lane);
        self.known_barrier(warp, lane, place)?;
        self.barrier_bits(who, lane, place, Access::PeekAtomic, pc)?;
        if self.ctas[cta].mbarriers.all.entry(offset).or_default().is_fenced {
            return Ok(());
        }
        let message = format!(
            "barrier at {}: a fence is missing behind its initialisation (fence.mbarrier_init or \
             fence.proxy.async)",
            self.shared_place(cta, offset)
        );
        Err(Trouble::new(1 << lane, message))
    }

    /// The bytes of a copy have arrived.
    pub(super) fn complete_tx(
        &mut self,
        lane: usize,
        place: (usize, u32),
        bytes: u32,
        arrival: &Arrival,
    ) -> Result<(), Trouble> {
        self.change_barrier(lane, place, arrival, |barrier| barrier.complete_tx(bytes))
    }

    /// The copies are there that an arrival was to come behind.
    pub(super) fn arrive_behind(
        &mut self,
        lane: usize,
        place: (usize, u32),
        arrival: &Arrival,
    ) -> Result<(), Trouble> {
        self.change_barrier(lane, place, arrival, |barrier| barrier.arrive(1).map(|a| a.completed))
    }

    /// What an operation that ends does to its barrier. The place was checked when it was started.
    fn change_barrier(
        &mut self,
        lane: usize,
        place: (usize, u32),
        arrival: &Arrival,
        what: impl FnOnce(&mut Mbarrier) -> Result<bool, MbarrierError>,
    ) -> Result<(), Trouble> {
        let (cta, offset) = place;
        let bits = self.known_bits(place);
        let ended = load(bits).and_then(|mut barrier| {
            let ended = what(&mut barrier)?;
            store(bits, barrier.to_bits());
            Ok(ended)
        });
        let ended = ended.map_err(|e| self.barrier_trouble(lane, place, e))?;
        self.ctas[cta].mbarriers.all.entry(offset).or_default().arrival.join(arrival);
        self.end_phase(place, ended);
        Ok(())
    }

    /// The barrier (an offset) of a `cp.async.mbarrier.arrive`, which waits for one arrival more from now on if it
    /// does not count it anyway.
    pub(super) fn arrival_to_come(
        &mut self,
        warp: &Warp,
        (at, space): (Address, Space),
        lane: usize,
        is_counted: bool,
        pc: u32,
    ) -> Result<u32, Trouble> {
        let place = self.place(warp, self.barrier_addresses(warp, at, space)[lane], lane)?;
        if place.0 != warp.cta as usize {
            return Err(Trouble::new(1 << lane, "the barrier is in another block of the cluster"));
        }
        let who = Who::thread(warp, lane);
        let mut barrier = self.known_barrier(warp, lane, place)?;
        let bits = self.barrier_bits(who, lane, place, Access::Write(Flag::Atomic), pc)?;
        if !is_counted {
            barrier.increment_pending().map_err(|e| self.barrier_trouble(lane, place, e))?;
            store(bits, barrier.to_bits());
        }
        Ok(place.1)
    }
}

/// One arrival: the state it returns, and whether it ended the phase.
fn arrive(
    barrier: &mut Mbarrier,
    how: Arrive,
    count: u32,
    tx: Option<u32>,
) -> Result<(u64, bool), MbarrierError> {
    let done = |arrival: mbarrier::Arrival| (arrival.state, arrival.completed);
    Ok(match (how, tx) {
        (Arrive::Plain, None) => done(barrier.arrive(count)?),
        (Arrive::Plain, Some(bytes)) => done(barrier.arrive_expect_tx(bytes)?),
        (Arrive::NoComplete, _) => (barrier.arrive_no_complete(count)?, false),
        (Arrive::Drop, None) => done(barrier.arrive_drop(count)?),
        (Arrive::Drop, Some(bytes)) => done(barrier.arrive_drop_expect_tx(bytes)?),
        (Arrive::DropNoComplete, _) => (barrier.arrive_drop_no_complete(count)?, false),
    })
}
