//! Waits at barriers in shared memory (9.7.13.15.16): `mbarrier.test_wait`, `mbarrier.try_wait`.
//!
//! `mbarrier.try_wait` waits until the phase has ended; under a shuffled schedule it sometimes gives up early, as the
//! hardware may, so that a kernel that does not ask again is found. Counts of instructions then depend on the seed.

use super::Trouble;
use super::access::{Access, Who};
use super::cluster::Cluster;
use super::exec::each;
use super::mbarriers::load;
use super::paths::State;
use super::turn::Step;
use super::warp::Warp;
use crate::hopper::mbarrier;
use crate::program::op::{Address, Op, Value, WaitFor};
use crate::ptx::ast::Space;
use crate::shadow::Flag;

impl Cluster<'_, '_> {
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
            let place = self.place(warp, at[lane], lane)?;
            let (cta, offset) = place;
            if cta != warp.cta as usize {
                let message = format!(
                    "a wait at a barrier of block {cta} of the cluster, which is not its own"
                );
                return Err(Trouble::new(1 << lane, message));
            }
            self.shared_range(offset.into(), 8)
                .map_err(|m| Trouble::new(1 << lane, format!("a barrier {m}")))?;
            let has_ended = load(self.known_bits(place)).and_then(|barrier| match what {
                WaitFor::Parity(parity) => barrier.test_wait_parity(warp.word_of(parity, lane)),
                WaitFor::State(state) => barrier.test_wait(warp.value_of(Value::Long(state), lane)),
            });
            let has_ended = has_ended.map_err(|e| self.barrier_trouble(lane, place, e))?;
            done |= u32::from(has_ended) << lane;
            places[lane] = place;
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
        let Op::MbarrierWait { at, space, what, p, tries, is_relaxed, is_wide } = *op else {
            return Err(Trouble::new(on, "no wait"));
        };
        let (done, places) = self.ask(warp, (at, space, what), on)?;
        let gives_up = self.random.is_some() && self.draw(4) == 0;
        if tries && done != on && !gives_up {
            warp.paths.get_mut(path).state = State::Mbarrier;
            return Ok(Step::Waits);
        }
        for lane in each(on) {
            self.check_init(warp, lane, places[lane])?;
            let access = Access::Write(Flag::Atomic);
            self.barrier_bits(Who::thread(warp, lane), lane, places[lane], access, pc)?;
        }
        if self.grid.launch.is_checked {
            let mut left = done;
            while left != 0 {
                let place = places[left.trailing_zeros() as usize];
                let same = each(left).filter(|&l| places[l] == place);
                let same = same.fold(0u32, |all, l| all | 1 << l);
                left &= !same;
                let (cta, offset) = place;
                let last = &self.ctas[cta].mbarriers.all.entry(offset).or_default().last;
                match is_relaxed {
                    false => self.clocks.acquire(warp.id as usize, same, last),
                    true => self.clocks.acquire_relaxed(warp.id as usize, same, last),
                }
                // Behind a relaxed wait the fence has a scope, which is not looked at.
                self.pass_scopes(place, is_wide || is_relaxed);
            }
        }
        warp.put_pred(p, done, on);
        if done == on {
            warp.asks = 0;
            return Ok(Step::Done);
        }
        warp.asked = Some(pc);
        warp.asks += 1;
        Ok(Step::Yields)
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

    /// What lanes that wait at a barrier wait for.
    pub(super) fn mbarrier_wait_in_words(&self, warp: &Warp, pc: u32, lanes: u32) -> String {
        let inst = &self.grid.launch.program.instructions[pc as usize];
        let Op::MbarrierWait { at, space, what, .. } = inst.op else { return String::new() };
        let at = self.barrier_addresses(warp, at, space);
        let mut first = None;
        for lane in each(lanes) {
            let Ok((cta, offset)) = self.place(warp, at[lane], lane) else { continue };
            let bits = self.ctas[cta].shared.as_ptr().cast::<u8>().wrapping_add(offset as usize);
            let Ok(barrier) = load(bits) else { continue };
            let parity = match what {
                WaitFor::Parity(parity) => Ok(warp.word_of(parity, lane)),
                WaitFor::State(state) => {
                    mbarrier::state_parity(warp.value_of(Value::Long(state), lane))
                }
            };
            let Ok(parity) = parity else { continue };
            let place = self.shared_place(cta, offset);
            let words = format!("at the barrier at {place}: {}", barrier.wait(parity));
            // Of several lanes, one whose phase has not ended.
            if !barrier.test_wait_parity(parity).unwrap_or(true) {
                return words;
            }
            first.get_or_insert(words);
        }
        first.unwrap_or_else(|| "at a barrier".into())
    }
}
