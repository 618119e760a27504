//! Barriers in shared memory (9.7.13.15): `mbarrier.*`. Their state is in memory, as `hopper::mbarrier` encodes it;
//! what those who arrived had seen is kept beside.

use std::collections::HashMap;

use super::Trouble;
use super::access::{Access, Who, addresses, resolve};
use super::cluster::Cluster;
use super::exec::each;
use super::paths::{Path, State};
use super::turn::Step;
use super::warp::Warp;
use crate::clocks::Arrival;
use crate::hopper::mbarrier::{self, INVALIDATED, Mbarrier};
use crate::program::op::{Address, Arrive, MbarrierOp, Op, WaitFor};
use crate::ptx::ast::Space;
use crate::shadow::Flag;

/// What is known of a barrier beside its 64 bits.
#[derive(Default)]
pub struct Beside {
    /// Of the current phase, and of the last one that ended.
    arrival: Arrival,
    last: Arrival,
    /// Whether the initialisation can be seen by the asynchronous proxy, and which thread made it.
    pub is_fenced: bool,
    owner: u32,
}

/// The barriers of a block, by offset in its shared memory.
#[derive(Default)]
pub struct Mbarriers {
    all: HashMap<u32, Beside>,
}

impl Mbarriers {
    /// A thread makes what it initialised visible to the asynchronous proxy.
    pub fn fence(&mut self, thread: u32) {
        self.all.values_mut().filter(|b| b.owner == thread).for_each(|b| b.is_fenced = true);
    }
}

fn bits(at: *mut u8) -> u64 {
    // SAFETY: `reach` has checked 8 bytes there, and only this thread of the host runs the cluster.
    unsafe { at.cast::<u64>().read_unaligned() }
}

impl Cluster<'_, '_> {
    /// Block and offset of a barrier.
    fn place(&self, warp: &Warp, at: u64, lane: usize) -> Result<(usize, u32), Trouble> {
        let (space, at) = resolve(Space::Generic, at);
        if space != Space::Shared {
            return Err(Trouble::new(1 << lane, "the barrier is not in shared memory"));
        }
        let (cta, offset) = self.shared_cta(warp.cta as usize, at);
        if offset % 8 != 0 {
            return Err(Trouble::new(1 << lane, format!("misaligned barrier at {offset:#x}")));
        }
        Ok((cta, offset as u32))
    }

    /// Where the barrier's bits are on the host.
    fn barrier_bits(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        (cta, offset): (usize, u32),
        flag: Flag,
        pc: u32,
    ) -> Result<*mut u8, Trouble> {
        let who = Who::thread(warp, lane);
        let place = (Space::Shared, super::access::shared_address(cta, offset));
        self.reach_as(who, lane, place, 8, Access::Write(flag), pc)
    }

    /// A barrier as it is, or why it is none.
    fn load_barrier(&self, at: *mut u8, lane: usize, offset: u32) -> Result<Mbarrier, Trouble> {
        Mbarrier::from_bits(bits(at)).map_err(|e| {
            Trouble::new(1 << lane, format!("barrier at shared address {offset:#x}: {e}"))
        })
    }

    pub(super) fn mbarrier(
        &mut self,
        warp: &mut Warp,
        op: &Op,
        on: u32,
        pc: u32,
    ) -> Result<(), Trouble> {
        let Op::Mbarrier { action, at, space } = *op else {
            return Err(Trouble::new(on, "no mbarrier"));
        };
        if let MbarrierOp::PendingCount { d, state } = action {
            let mut out = [0u64; 32];
            for lane in each(on) {
                let state = warp.value_of(crate::program::op::Value::Long(state), lane);
                let count = mbarrier::pending_count(state);
                out[lane] = count.map_err(|e| Trouble::new(1 << lane, e.to_string()))?.into();
            }
            warp.put_any(d, &out, on);
            return Ok(());
        }
        let at = self.barrier_addresses(warp, at, space);
        let mut states = [0u64; 32];
        for lane in each(on) {
            let (cta, offset) = self.place(warp, at[lane], lane)?;
            let fail = |e: mbarrier::MbarrierError| {
                Trouble::new(1 << lane, format!("barrier at shared address {offset:#x}: {e}"))
            };
            let flag = match action {
                MbarrierOp::Init { .. } | MbarrierOp::Invalidate => Flag::Plain,
                _ => Flag::Atomic,
            };
            let place = self.barrier_bits(warp, lane, (cta, offset), flag, pc)?;
            let write = |value: u64| {
                // SAFETY: as in `bits`.
                unsafe { place.cast::<u64>().write_unaligned(value) }
            };
            match action {
                MbarrierOp::Init { count } => {
                    let count = warp.word_of(count, lane);
                    write(Mbarrier::init(count).map_err(fail)?.to_bits());
                    let owner = warp.id * 32 + lane as u32;
                    let beside = Beside { owner, ..Beside::default() };
                    self.ctas[cta].mbarriers.all.insert(offset, beside);
                }
                MbarrierOp::Invalidate => {
                    self.load_barrier(place, lane, offset)?;
                    write(INVALIDATED);
                    self.ctas[cta].mbarriers.all.remove(&offset);
                }
                MbarrierOp::ExpectTx { bytes } => {
                    let mut barrier = self.load_barrier(place, lane, offset)?;
                    let ended = barrier.expect_tx(warp.word_of(bytes, lane)).map_err(fail)?;
                    write(barrier.to_bits());
                    self.end_phase(cta, offset, ended);
                }
                MbarrierOp::CompleteTx { bytes } => {
                    let mut barrier = self.load_barrier(place, lane, offset)?;
                    let ended = barrier.complete_tx(warp.word_of(bytes, lane)).map_err(fail)?;
                    write(barrier.to_bits());
                    self.end_phase(cta, offset, ended);
                }
                MbarrierOp::Arrive { how, count, tx, is_relaxed, .. } => {
                    let mut barrier = self.load_barrier(place, lane, offset)?;
                    let count = count.map_or(1, |c| warp.word_of(c, lane));
                    let tx = tx.map(|t| warp.word_of(t, lane));
                    let (state, ended) = arrive(&mut barrier, how, count, tx).map_err(fail)?;
                    write(barrier.to_bits());
                    states[lane] = state;
                    if self.grid.launch.is_checked && !is_relaxed {
                        let beside = self.ctas[cta].mbarriers.all.entry(offset).or_default();
                        self.clocks.release(warp.id as usize, 1 << lane, &mut beside.arrival);
                    }
                    self.end_phase(cta, offset, ended);
                }
                MbarrierOp::PendingCount { .. } => {}
            }
        }
        if let MbarrierOp::Arrive { state, .. } = action {
            warp.put_any(state, &states, on);
        }
        Ok(())
    }

    fn barrier_addresses(&self, warp: &Warp, at: Address, space: Space) -> [u64; 32] {
        let window = super::access::window(space);
        addresses(warp, at).map(|a| a.wrapping_add(window))
    }

    fn end_phase(&mut self, cta: usize, offset: u32, ended: bool) {
        if ended {
            let beside = self.ctas[cta].mbarriers.all.entry(offset).or_default();
            beside.last = std::mem::take(&mut beside.arrival);
        }
    }

    /// Whether a bulk copy may use this barrier: it is one, and the asynchronous proxy can see that.
    pub(super) fn check_barrier(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        (cta, offset): (usize, u32),
        pc: u32,
    ) -> Result<(), Trouble> {
        if offset % 8 != 0 {
            return Err(Trouble::new(1 << lane, format!("misaligned barrier at {offset:#x}")));
        }
        let at = self.barrier_bits(warp, lane, (cta, offset), Flag::Atomic, pc)?;
        self.load_barrier(at, lane, offset)?;
        let beside = self.ctas[cta].mbarriers.all.entry(offset).or_default();
        if beside.is_fenced {
            return Ok(());
        }
        let message = format!(
            "barrier at shared address {offset:#x}: a fence is missing behind its initialisation \
             (fence.mbarrier_init or fence.proxy.async)"
        );
        Err(Trouble::new(1 << lane, message))
    }

    /// The bytes of a copy have arrived.
    pub(super) fn complete_tx(
        &mut self,
        lane: usize,
        (cta, offset): (usize, u32),
        bytes: u32,
        arrival: &Arrival,
    ) -> Result<(), Trouble> {
        let at = self.ctas[cta].shared.as_mut_ptr().cast::<u8>().wrapping_add(offset as usize);
        let mut barrier = self.load_barrier(at, lane, offset)?;
        let ended = barrier.complete_tx(bytes).map_err(|e| {
            Trouble::new(1 << lane, format!("barrier at shared address {offset:#x}: {e}"))
        })?;
        // SAFETY: the place was checked when the copy was started, and still holds a barrier.
        unsafe { at.cast::<u64>().write_unaligned(barrier.to_bits()) };
        self.ctas[cta].mbarriers.all.entry(offset).or_default().arrival.join(arrival);
        self.end_phase(cta, offset, ended);
        Ok(())
    }

    /// Asks a barrier for a phase: of these lanes, those for which it has ended.
    fn ask(
        &mut self,
        warp: &Warp,
        (at, space, what): (Address, Space, WaitFor),
        on: u32,
    ) -> Result<(u32, [(usize, u32); 32]), Trouble> {
        let at = self.barrier_addresses(warp, at, space);
        let (mut done, mut places) = (0, [(0, 0); 32]);
        for lane in each(on) {
            let (cta, offset) = self.place(warp, at[lane], lane)?;
            self.shared_range(cta, offset.into(), 8).map_err(|m| Trouble::new(1 << lane, m))?;
            let bits =
                self.ctas[cta].shared.as_mut_ptr().cast::<u8>().wrapping_add(offset as usize);
            let barrier = self.load_barrier(bits, lane, offset)?;
            let has_ended = match what {
                WaitFor::Parity(parity) => barrier.test_wait_parity(warp.word_of(parity, lane)),
                WaitFor::State(state) => {
                    let state = warp.value_of(crate::program::op::Value::Long(state), lane);
                    barrier.test_wait(state)
                }
            };
            let has_ended = has_ended.map_err(|e| Trouble::new(1 << lane, e.to_string()))?;
            done |= u32::from(has_ended) << lane;
            places[lane] = (cta, offset);
        }
        Ok((done, places))
    }

    /// `mbarrier.test_wait`, `mbarrier.try_wait`. The latter waits until the phase of every lane has ended: how long
    /// it tries is up to the hardware.
    pub(super) fn mbarrier_wait(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
        pc: u32,
    ) -> Result<Step, Trouble> {
        let Op::MbarrierWait { at, space, what, p, tries, is_relaxed } = *op else {
            return Err(Trouble::new(on, "no wait"));
        };
        let (done, places) = self.ask(warp, (at, space, what), on)?;
        if tries && done != on {
            warp.paths.get_mut(path).state = State::Mbarrier;
            return Ok(Step::Waits);
        }
        for lane in each(on) {
            let (cta, offset) = places[lane];
            // Records the access: it races with an initialisation that is not behind a barrier.
            self.barrier_bits(warp, lane, (cta, offset), Flag::Atomic, pc)?;
        }
        if self.grid.launch.is_checked && !is_relaxed {
            let mut left = done;
            while left != 0 {
                let (cta, offset) = places[left.trailing_zeros() as usize];
                let same = each(left).filter(|&l| places[l] == (cta, offset));
                let same = same.fold(0u32, |all, l| all | 1 << l);
                left &= !same;
                let beside = self.ctas[cta].mbarriers.all.entry(offset).or_default();
                self.clocks.acquire(warp.id as usize, same, &beside.last);
            }
        }
        warp.put_pred(p, done, on);
        Ok(if done == on { Step::Done } else { Step::Yields })
    }

    pub(super) fn mbarrier_has_come(
        &mut self,
        warp: &Warp,
        op: &Op,
        on: u32,
    ) -> Result<bool, Trouble> {
        let Op::MbarrierWait { at, space, what, .. } = *op else { return Ok(false) };
        Ok(self.ask(warp, (at, space, what), on)?.0 == on)
    }

    /// What a path that waits at a barrier waits for.
    pub(super) fn mbarrier_wait_in_words(&self, warp: &Warp, path: &Path) -> String {
        let inst = &self.grid.launch.program.instructions[path.pc as usize];
        let Op::MbarrierWait { at, space, what, .. } = inst.op else { return "waits".into() };
        let lane = path.lanes.trailing_zeros().min(31) as usize;
        let at = self.barrier_addresses(warp, at, space);
        let Ok((cta, offset)) = self.place(warp, at[lane], lane) else { return "waits".into() };
        let there = self.ctas[cta].shared.as_ptr().cast::<u8>().wrapping_add(offset as usize);
        let barrier = self.load_barrier(there.cast_mut(), lane, offset);
        let (Ok(barrier), WaitFor::Parity(parity)) = (barrier, what) else {
            return format!("waits at the barrier at shared address {offset:#x}");
        };
        let wait = barrier.wait(warp.word_of(parity, lane));
        format!("waits at the barrier at shared address {offset:#x}: {wait}")
    }
}

/// One arrival: the state it returns, and whether it ended the phase.
fn arrive(
    barrier: &mut Mbarrier,
    how: Arrive,
    count: u32,
    tx: Option<u32>,
) -> Result<(u64, bool), mbarrier::MbarrierError> {
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
