//! Products of warpgroups (9.7.15): `wgmma`. A product goes on while its warps do: until they wait for its
//! group nobody may touch its registers or overwrite its operands in shared memory.
//!
//! The result is computed when a warp issues the product, from what is in shared memory then. That is right for
//! every kernel that keeps the rules, and the rules are checked: operands are busy until the first warp has waited,
//! registers are in flight until their warp has. Every warp must have seen the operands' bytes arrive.
//!
//! Registers. A product wants `wgmma.fence` behind every other access to its registers, reads included (9.7.15.7.1).
//! Compilers copy accumulators from one register to another, which is no access once ptxas has merged the two: an
//! unguarded `mov` of a register in flight is let through, and its target is in flight as well.
//!
//! Not seen: that a product reads its operands later than when it is issued. A write in between is found by the
//! checks of shared memory, and in an unchecked run where the product has not been waited for.

use std::sync::Arc;

use super::Trouble;
use super::access::{Access, Who, shared_address};
use super::cluster::Cluster;
use super::paths::State;
use super::turn::Step;
use super::warp::Warp;
use crate::clocks::Arrival;
use crate::hopper::descriptor::{Descriptor, Major};
use crate::hopper::wgmma::{Lanes, Matrix, Wgmma};
use crate::program::Program;
use crate::program::op::{FactorA, Op, Product, Value};
use crate::ptx::ast::Space;
use crate::shadow::Stamp;

/// A register of a product in flight.
#[derive(Clone, Copy, Default)]
struct Flight {
    /// One more than the group of the product; 0 for a register that is not in flight.
    group: u32,
    /// The product's shape.
    shape: u16,
    /// Whether it holds A.
    is_a: bool,
    /// Whether a `wgmma.fence` came behind the product.
    is_fenced: bool,
}

/// The products of a warp that it has not waited for.
#[derive(Default)]
pub struct Products {
    /// By slot.
    flying: Vec<Flight>,
    /// By slot: whether the register was accessed since the last `wgmma.fence`.
    unfenced: Vec<bool>,
    has_fenced: bool,
    /// Groups committed.
    committed: u32,
    /// Of each product of this warp, in order: its group and instruction.
    open: Vec<(u32, u32)>,
    /// Products issued by this warp.
    issued: u32,
    /// Products that were waited for.
    retired: u32,
}

impl Products {
    /// Ready for another block.
    pub fn clear(&mut self, slots: usize) {
        let mut flying = std::mem::take(&mut self.flying);
        let mut unfenced = std::mem::take(&mut self.unfenced);
        flying.clear();
        flying.resize(slots, Flight::default());
        unfenced.clear();
        unfenced.resize(slots, false);
        *self = Self { flying, unfenced, ..Self::default() };
    }

    /// The first product that was not waited for.
    pub fn first_open(&self) -> Option<u32> {
        self.open.first().map(|o| o.1)
    }

    /// An instruction that is no product reads or writes registers of products.
    pub fn touch(&mut self, pc: u32, program: &Program) -> Result<(), String> {
        let Some(touch) = program.touches.get(&pc) else { return Ok(()) };
        let is_flying = |slot: u32| self.flying[slot as usize].group > 0;
        if let Some((d, a)) = touch.copy
            && (is_flying(a) || !is_flying(d))
        {
            self.flying[d as usize] = self.flying[a as usize];
            self.unfenced[d as usize] = self.unfenced[a as usize];
            return Ok(());
        }
        let all = touch.reads.iter().chain(&touch.writes).copied();
        if let Some(slot) = all.clone().find(|&slot| is_flying(slot)) {
            let why = match self.flying[slot as usize].group - 1 == self.committed {
                true => "wgmma.commit_group and wgmma.wait_group are missing",
                false => "wgmma.wait_group is missing, or leaves too many groups open",
            };
            let verb = if touch.reads.contains(&slot) { "read" } else { "write" };
            return Err(format!(
                "{verb} of {}, which belongs to a product that is under way: {why}",
                program.register_name(slot)
            ));
        }
        all.for_each(|slot| self.unfenced[slot as usize] = true);
        Ok(())
    }
}

/// A product as the first warp of the group issued it.
struct Issued {
    pc: u32,
    a: u64,
    b: u64,
    scale_d: bool,
    matrix: Arc<Matrix>,
    a_matrix: Option<Arc<Matrix>>,
    /// Runs of shared memory that it reads: addresses and bytes.
    reads: Vec<(u32, u32)>,
    /// Who wrote these bytes, each with the address of one of them.
    writers: Vec<(Stamp, u32)>,
    /// The clock of its reads, which count as its warpgroup's agent's.
    clock: u32,
    /// Warps that have issued it, as bits, and how many have waited for it.
    warps: u32,
    waited: u32,
    /// What those who wait for it see.
    arrival: Arrival,
}

/// Products of a warpgroup that its warps have not all waited for.
#[derive(Default)]
pub struct Warpgroup {
    /// From product number `first` on.
    all: std::collections::VecDeque<Issued>,
    first: u32,
}

impl Cluster<'_, '_> {
    pub(super) fn product_fence(&mut self, warp: &mut Warp, on: u32) -> Result<(), Trouble> {
        whole(on)?;
        warp.products.unfenced.fill(false);
        warp.products.flying.iter_mut().for_each(|flight| flight.is_fenced = true);
        warp.products.has_fenced = true;
        Ok(())
    }

    pub(super) fn product_commit(&mut self, warp: &mut Warp, on: u32) -> Result<(), Trouble> {
        whole(on)?;
        warp.products.committed += 1;
        Ok(())
    }

    pub(super) fn product(
        &mut self,
        warp: &mut Warp,
        index: u32,
        on: u32,
        pc: u32,
    ) -> Result<(), Trouble> {
        whole(on)?;
        let fail = |message: String| Trouble::new(on, message);
        let program = self.grid.launch.program;
        let product = &program.products[index as usize];
        let n = self.warps() - warp.index / 4 * 4;
        if n < 4 {
            return Err(fail(format!("the last warpgroup of the block has only {n} warps")));
        }
        self.check_registers(warp, product, program).map_err(fail)?;
        let a_bits = match product.a {
            FactorA::Registers(_) => 0,
            FactorA::Shared(source) => self.uniform(warp, Value::Long(source))?,
        };
        let b_bits = self.uniform(warp, Value::Long(product.b))?;
        let scale = warp.pred(product.scale_d);
        if scale != 0 && scale != u32::MAX {
            return Err(fail("lanes disagree about scale-d".into()));
        }
        let wgmma = Wgmma {
            input: product.input,
            n: product.n,
            scale_d: scale != 0,
            negate_a: product.negate_a,
            negate_b: product.negate_b,
            a_major: match product.a {
                FactorA::Registers(_) => None,
                FactorA::Shared(_) => Some(product.a_major),
            },
            b_major: product.b_major,
            order: program.numerics.sums,
        };
        wgmma.check().map_err(|e| fail(e.to_string()))?;
        let number = warp.products.issued;
        let group = (warp.index / 4) as usize;
        let place = self.issued(warp, group, number, pc, (a_bits, b_bits), &wgmma)?;
        let issued = &self.ctas[warp.cta as usize].warpgroups[group].all[place];
        let matrix = issued.matrix.clone();
        let a = match product.a {
            FactorA::Registers(sources) => {
                let mut room = [0u32; 32];
                let registers: [Lanes; 4] = sources.map(|s| *warp.word(s, &mut room));
                Arc::new(wgmma.a_of_warp(&registers))
            }
            FactorA::Shared(_) => match &issued.a_matrix {
                Some(a) => a.clone(),
                None => return Err(fail("the product has no A".into())),
            },
        };
        let rows = match product.a {
            FactorA::Registers(_) => 0,
            FactorA::Shared(_) => warp.index as usize % 4,
        };
        let mut d: Vec<Lanes> = product.d.iter().map(|slot| *warp.word_slot(*slot)).collect();
        wgmma.accumulate_warp(&mut d, &a, rows, &matrix).map_err(|e| fail(e.to_string()))?;
        for (slot, value) in product.d.iter().zip(&d) {
            warp.put(*slot, value, u32::MAX);
        }
        let products = &mut warp.products;
        products.issued += 1;
        products.open.push((products.committed, pc));
        for (slot, is_a) in product.registers() {
            let (group, shape) = (products.committed + 1, shape(product));
            products.flying[slot as usize] = Flight { group, shape, is_a, is_fenced: false };
        }
        Ok(())
    }

    /// What the rules say about the registers of a product.
    fn check_registers(
        &self,
        warp: &Warp,
        product: &Product,
        program: &Program,
    ) -> Result<(), String> {
        let products = &warp.products;
        if !products.has_fenced {
            return Err("wgmma.fence is missing before the first product of the warp".into());
        }
        for (slot, is_a) in product.registers() {
            let name = program.register_name(slot);
            if products.unfenced[slot as usize] {
                return Err(format!(
                    "wgmma.fence is missing: {name} was read or written since the last one"
                ));
            }
            // Accumulators may go from product to product of one shape; other registers need a fence between two
            // products that use them alike. What one product adds up cannot be A of another before it is there.
            let flight = products.flying[slot as usize];
            let is_same = !is_a && !flight.is_a && flight.shape == shape(product);
            if flight.group == 0 || is_same || is_a == flight.is_a && flight.is_fenced {
                continue;
            }
            let what = match (is_a, flight.is_a) {
                (true, true) => "as A: wgmma.fence",
                (false, false) => "with another shape: wgmma.fence",
                (true, false) => "as an accumulator, and is A of this one: wgmma.wait_group",
                (false, true) => "as A, and is an accumulator of this one: wgmma.wait_group",
            };
            return Err(format!(
                "{name} belongs to a product that is under way, {what} is missing"
            ));
        }
        Ok(())
    }

    fn uniform(&self, warp: &Warp, value: Value) -> Result<u64, Trouble> {
        let first = warp.value_of(value, 0);
        if (1..32).any(|lane| warp.value_of(value, lane) != first) {
            return Err(Trouble::new(u32::MAX, "lanes disagree about a descriptor"));
        }
        Ok(first)
    }

    /// The product of that number of a warpgroup: its first warp reads the operands, the others must agree.
    fn issued(
        &mut self,
        warp: &mut Warp,
        group: usize,
        number: u32,
        pc: u32,
        (a_bits, b_bits): (u64, u64),
        wgmma: &Wgmma,
    ) -> Result<usize, Trouble> {
        let fail = |message: String| Trouble::new(u32::MAX, message);
        let cta = warp.cta as usize;
        while self.ctas[cta].warpgroups.len() <= group {
            self.ctas[cta].warpgroups.push(Warpgroup::default());
        }
        let is_checked = self.grid.launch.is_checked;
        let agent = self.product_agent(warp);
        let sight = self.clocks.sight_of_warp(warp.id as usize);
        let who = Who::operation(warp, 0, agent, &sight);
        let warpgroup = &mut self.ctas[cta].warpgroups[group];
        let place = number.wrapping_sub(warpgroup.first) as usize;
        if let Some(there) = warpgroup.all.get_mut(place) {
            if there.pc != pc {
                let line = self.grid.launch.program.instructions[there.pc as usize].line;
                return Err(fail(format!(
                    "the warps of a warpgroup disagree: another one is at the product in PTX line {line}"
                )));
            }
            if (there.a, there.b, there.scale_d) != (a_bits, b_bits, wgmma.scale_d) {
                let message = "the warps of a warpgroup disagree about a descriptor or scale-d";
                return Err(fail(message.into()));
            }
            there.warps |= 1 << (warp.index % 4);
            if is_checked {
                let writers = &self.ctas[cta].warpgroups[group].all[place].writers;
                self.recheck(who, cta, writers, pc)?;
            }
            return Ok(place);
        }
        let mut reads: Vec<(u32, u32)> = Vec::new();
        let mut writers: Vec<(Stamp, u32)> = Vec::new();
        let mut operand = |this: &mut Self, (name, bits): (&str, u64), major: Major, mn: u32| {
            let wrong = |e: &dyn std::fmt::Display| fail(format!("operand {name}: {e}"));
            let descriptor = Descriptor::decode(bits).map_err(|e| wrong(&e))?;
            let bytes = wgmma.input.bytes();
            descriptor.check(major, mn, bytes).map_err(|e| wrong(&e))?;
            let mut read = |at: u32| {
                let place = (Space::Shared, shared_address(cta, at));
                let from = this
                    .reach_as(who, 0, place, 16, Access::Read, pc)
                    .map_err(|t| wrong(&t.message))?;
                match reads.last_mut() {
                    Some((start, n)) if *start + *n == at => *n += 16,
                    _ => reads.push((at, 16)),
                }
                if is_checked {
                    this.note_writers(cta, at, &mut writers);
                }
                // SAFETY: `reach_as` has checked 16 bytes there.
                Ok::<_, Trouble>(unsafe { from.cast::<[u8; 16]>().read_unaligned() })
            };
            match name {
                "A" => wgmma.a_from_shared(&descriptor, &mut read),
                _ => wgmma.b_from_shared(&descriptor, &mut read),
            }
        };
        let a_matrix = match wgmma.a_major {
            Some(major) => Some(Arc::new(operand(self, ("A", a_bits), major, 64)?)),
            None => None,
        };
        let matrix = Arc::new(operand(self, ("B", b_bits), wgmma.b_major, wgmma.n)?);
        let clock = self.clocks.start_operation(agent);
        let there = &mut self.ctas[cta];
        reads.iter().for_each(|&(at, n)| there.read_by_operation(at, n, true));
        there.warpgroups[group].all.push_back(Issued {
            pc,
            a: a_bits,
            b: b_bits,
            scale_d: wgmma.scale_d,
            matrix,
            a_matrix,
            reads,
            writers,
            clock,
            warps: 1 << (warp.index % 4),
            waited: 0,
            arrival: Arrival::default(),
        });
        Ok(self.ctas[cta].warpgroups[group].all.len() - 1)
    }

    /// Adds who wrote these 16 bytes, where that is not known yet.
    fn note_writers(&self, cta: usize, at: u32, writers: &mut Vec<(Stamp, u32)>) {
        for (stamp, at) in self.ctas[cta].shadow.writers(at as usize) {
            // The last one is the likely one.
            if writers.last().is_some_and(|w| w.0 == stamp) {
                continue;
            }
            match writers.iter().position(|w| w.0 == stamp) {
                Some(i) => {
                    let last = writers.len() - 1;
                    writers.swap(i, last);
                }
                None => writers.push((stamp, at as u32)),
            }
        }
    }

    /// The first product under way that reads these 16 bytes: its warpgroup and instruction.
    pub(super) fn product_that_reads(&self, cta: usize, at: u32) -> Option<(usize, u32)> {
        let groups = self.ctas[cta].warpgroups.iter().enumerate();
        let mut all = groups.flat_map(|(i, group)| group.all.iter().map(move |p| (i, p)));
        let holds =
            |p: &Issued| p.reads.iter().any(|&(start, n)| start < at + 16 && at < start + n);
        all.find(|(_, p)| holds(p)).map(|(group, p)| (group, p.pc))
    }

    /// Products of this warp that a wait with so many open groups is for.
    fn due(&self, warp: &Warp, open: u32) -> usize {
        let below = warp.products.committed.saturating_sub(open);
        warp.products.open.iter().take_while(|o| o.0 < below).count()
    }

    /// Whether all warps of the group have issued what this warp waits for.
    pub(super) fn products_are_done(&self, warp: &Warp, open: u32) -> bool {
        let due = self.due(warp, open);
        if due == 0 {
            return true;
        }
        let warpgroup = &self.ctas[warp.cta as usize].warpgroups[(warp.index / 4) as usize];
        (warp.products.retired..warp.products.retired + due as u32).all(|number| {
            let place = number.wrapping_sub(warpgroup.first) as usize;
            warpgroup.all.get(place).is_some_and(|p| p.warps == 0xf)
        })
    }

    /// `wgmma.wait_group`.
    pub(super) fn product_wait(
        &mut self,
        warp: &mut Warp,
        path: u32,
        op: &Op,
        on: u32,
    ) -> Result<Step, Trouble> {
        let Op::ProductWait { open } = *op else {
            return Err(Trouble::new(on, "no wait"));
        };
        whole(on)?;
        if !self.products_are_done(warp, open) {
            warp.paths.get_mut(path).state = State::Warpgroup;
            return Ok(Step::Waits);
        }
        let due = self.due(warp, open);
        let (cta, group) = (warp.cta as usize, (warp.index / 4) as usize);
        for _ in 0..due {
            let number = warp.products.retired;
            warp.products.retired += 1;
            warp.products.open.remove(0);
            let first = self.ctas[cta].warpgroups[group].first;
            let place = number.wrapping_sub(first) as usize;
            self.retire(warp, (cta, group, place));
        }
        let below = warp.products.committed.saturating_sub(open);
        let landed = warp.products.flying.iter_mut().filter(|f| f.group <= below);
        landed.for_each(|flight| *flight = Flight::default());
        // Numbers that every warp has retired are forgotten.
        if let Some(warpgroup) = self.ctas[cta].warpgroups.get_mut(group) {
            while warpgroup.all.front().is_some_and(|p| p.waited == 4) {
                warpgroup.all.pop_front();
                warpgroup.first += 1;
            }
        }
        Ok(Step::Done)
    }

    /// A warp has waited for a product. With the first one its operands are free again.
    fn retire(&mut self, warp: &Warp, (cta, group, place): (usize, usize, usize)) {
        let agent = self.product_agent(warp);
        let issued = &mut self.ctas[cta].warpgroups[group].all[place];
        issued.waited += 1;
        if issued.waited == 1 {
            let (reads, clock) = (std::mem::take(&mut issued.reads), issued.clock);
            for &(at, n) in &reads {
                self.ctas[cta].read_by_operation(at, n, false);
            }
            let arrival = &mut self.ctas[cta].warpgroups[group].all[place].arrival;
            self.clocks.end_operation_at(agent, clock, arrival);
        }
        if self.grid.launch.is_checked {
            let arrival = self.ctas[cta].warpgroups[group].all[place].arrival.clone();
            self.clocks.acquire(warp.id as usize, warp.lanes, &arrival);
        }
    }
}

/// What distinguishes the shapes of products.
fn shape(product: &Product) -> u16 {
    product.n as u16 | (product.input as u16) << 10
}

fn whole(on: u32) -> Result<(), Trouble> {
    if on == u32::MAX {
        return Ok(());
    }
    let message =
        format!("an instruction of the whole warpgroup, reached by only {} lanes", on.count_ones());
    Err(Trouble::new(on, message))
}
