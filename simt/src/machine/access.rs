//! Where a load or store goes, and whether it may.

use super::Trouble;
use super::cluster::Cluster;
use super::warp::Warp;
use crate::blocks::Others;
use crate::clocks::{Objects, Sight};
use crate::program::lanes::Lanes64;
use crate::program::layout::SHARED_START;
use crate::program::op::{Address, Base};
use crate::ptx::ast::Space;
use crate::shadow::{Byte, Flag, Stamp, Trouble as Found, View};

/// Generic addresses of shared memory, local memory and parameters lie in windows above all of the host's.
pub const WINDOW: u64 = 1 << 56;
pub const SHARED_WINDOW: u64 = WINDOW;
pub const LOCAL_WINDOW: u64 = 2 * WINDOW;
pub const PARAM_WINDOW: u64 = 3 * WINDOW;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// A read of what nobody may change while the kernel runs (`ld.global.nc`, section 9.7.9.9).
    ReadOnly,
    /// A read that is recorded later, by `Note`: only what is wrong with it.
    Peek,
    Note,
    /// A look at a barrier, which may be used by others at the same time.
    PeekAtomic,
    /// Its flag says whether it is atomic, or will only arrive later.
    Write(Flag),
    /// A read and a write in one, of a reduction through the asynchronous proxy.
    Add,
}

/// The window of a space; 0 for global memory, whose addresses are generic ones.
pub fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
        Space::Global | Space::Generic | Space::Const => 0,
    }
}

/// The space that a generic address lies in, and the address there.
pub fn resolve(space: Space, at: u64) -> (Space, u64) {
    match space {
        Space::Generic => match at / WINDOW {
            1 => (Space::Shared, at - SHARED_WINDOW),
            2 => (Space::Local, at - LOCAL_WINDOW),
            3 => (Space::Param, at - PARAM_WINDOW),
            _ => (Space::Global, at),
        },
        named => (named, at),
    }
}

/// The addresses of all lanes.
pub fn addresses(warp: &Warp, address: Address) -> Lanes64 {
    let offset = address.offset as u64;
    match address.base {
        Base::None => [offset; 32],
        Base::Own => [shared_address(warp.cta as usize, offset as u32); 32],
        Base::Word(slot) => {
            // 32-bit addresses wrap around within their window.
            warp.word_slot(slot).map(|a| u64::from(a.wrapping_add(offset as u32)))
        }
        Base::Long(slot) => warp.long_slot(slot).map(|a| a.wrapping_add(offset)),
    }
}

/// Who makes an access.
#[derive(Clone, Copy)]
pub struct Who<'a> {
    /// The thread whose program it is part of, in the clocks of the cluster.
    thread: u32,
    /// Its block in the cluster.
    cta: usize,
    /// The agent that it counts as, where that is not the thread itself.
    agent: Option<u32>,
    /// What an operation sees that the thread started before; otherwise what the thread sees now.
    sight: Option<&'a Sight>,
    /// Whether it goes through the asynchronous proxy.
    is_async: bool,
}

impl Who<'static> {
    pub fn thread(warp: &Warp, lane: usize) -> Self {
        let thread = warp.id * 32 + lane as u32;
        Self { thread, cta: warp.cta as usize, agent: None, sight: None, is_async: false }
    }
}

impl<'a> Who<'a> {
    /// What the thread does right now, counted as this agent's.
    pub fn agent(warp: &Warp, lane: usize, agent: u32) -> Self {
        Self { agent: Some(agent), ..Who::thread(warp, lane) }
    }

    /// An operation that the thread has started, through the generic proxy.
    pub fn copy(warp: &Warp, lane: usize, agent: u32, sight: &'a Sight) -> Self {
        Self { sight: Some(sight), ..Self::agent(warp, lane, agent) }
    }

    /// The same through the asynchronous proxy.
    pub fn operation(warp: &Warp, lane: usize, agent: u32, sight: &'a Sight) -> Self {
        Self { is_async: true, ..Self::copy(warp, lane, agent, sight) }
    }
}

/// Shared addresses have the rank of their block in its cluster from this bit on, those of the own block too: so the
/// machine code has it, where `shl SR_CgaCtaId, 24` is part of every address. Who packs an address into a descriptor
/// must cut it off (section 9.7.15.5: `(x & 0x3FFFF) >> 4`).
const RANK_AT: u32 = 24;

/// The shared address of an offset in a block, from anywhere in the cluster.
pub fn shared_address(cta: usize, offset: u32) -> u64 {
    (cta as u64) << RANK_AT | u64::from(offset)
}

impl Cluster<'_, '_> {
    /// The block that a shared address is in, and the offset there.
    pub fn shared_cta(&self, own: usize, at: u64) -> (usize, u64) {
        let offset = at & ((1 << RANK_AT) - 1);
        match (at >> RANK_AT) as usize {
            rank if rank < self.ctas.len() => (rank, offset),
            // No block: an offset that nothing can hold.
            _ => (own, 0xffff_fc00),
        }
    }

    /// Whether shared addresses that are to be the block's own are.
    #[inline]
    pub fn own_block(&self, at: &Lanes64, on: u32) -> Result<(), Trouble> {
        if self.ctas.len() == 1 && at.iter().fold(0, |all, at| all | at) >> RANK_AT == 0 {
            return Ok(());
        }
        for lane in (0..32).filter(|l| on >> l & 1 == 1) {
            let (cta, _) = self.shared_cta(self.cta, at[lane]);
            if cta != self.cta {
                let message = format!(
                    "an address in shared memory of block {cta} of the cluster, which needs .shared::cluster"
                );
                return Err(Trouble::new(1 << lane, message));
            }
        }
        Ok(())
    }

    /// Checks and records an access of one lane to `bytes` from `at` on; where they are on the host.
    #[inline]
    pub fn reach(
        &mut self,
        warp: &mut Warp,
        lane: usize,
        (space, at): (Space, u64),
        bytes: usize,
        access: Access,
        pc: u32,
    ) -> Result<*mut u8, Trouble> {
        if space == Space::Local {
            let size = self.grid.launch.program.layout.local_bytes as usize;
            return match within(at, bytes, 0, size) {
                Some(offset) => Ok(warp.local[lane * size + offset..].as_mut_ptr()),
                None => {
                    let verb = if access == Access::Read { "read" } else { "write" };
                    let message = format!(
                        "{verb} of {bytes} bytes at byte {at} of {size} bytes of local memory"
                    );
                    Err(Trouble::new(1 << lane, message))
                }
            };
        }
        self.reach_as(Who::thread(warp, lane), lane, (space, at), bytes, access, pc)
    }

    /// The same for whoever it is, in memory that more than one thread can reach.
    #[inline]
    pub fn reach_as(
        &mut self,
        who: Who,
        lane: usize,
        (space, at): (Space, u64),
        bytes: usize,
        access: Access,
        pc: u32,
    ) -> Result<*mut u8, Trouble> {
        let trouble =
            |message: String| Trouble { pc: Some(pc), ..Trouble::new(1 << lane, message) };
        let is_write = matches!(access, Access::Write(_) | Access::Add);
        let verb = || match access {
            Access::Write(_) => "write",
            Access::Add => "reduction",
            _ => "read",
        };
        match space {
            Space::Global => {
                let live = &self.grid.launch.memory.live;
                let found = match live.get(self.last_allocation) {
                    Some(a) if within(at, bytes, a.start, a.len).is_some() => {
                        Some(self.last_allocation)
                    }
                    _ => live.partition_point(|a| a.start <= at).checked_sub(1),
                };
                if let Some(i) = found
                    && let Some(offset) = within(at, bytes, live[i].start, live[i].len)
                {
                    self.last_allocation = i;
                    if self.grid.launch.is_checked {
                        let view = self.view(who, access, Objects::Global, pc);
                        let mut visit = recorder(&view, access, false);
                        let shadow = live[i].shadow[offset..offset + bytes].iter().enumerate();
                        let found = shadow.into_iter().find_map(|(i, b)| Some((i, visit(b)?)));
                        if let Some((byte, found)) = found {
                            let what = (verb(), bytes, offset + byte);
                            return Err(trouble(self.tell(found, what, &live[i].name)));
                        }
                    }
                    return Ok(at as *mut u8);
                }
                let there = self.grid.launch.memory.describe(at, bytes);
                Err(trouble(format!("{} of {bytes} bytes reaches {there}", verb())))
            }
            Space::Shared => {
                let (cta, at) = self.shared_cta(who.cta, at);
                let name =
                    self.shared_range(at, bytes).map_err(|m| trouble(format!("{} {m}", verb())))?;
                let offset = at as usize;
                if cta != who.cta && self.ctas[cta].has_ended {
                    let message = format!(
                        "{} of {bytes} bytes at byte {} of '{}' of block {cta} of the cluster, which has \
                         ended: a barrier.cluster is missing before its end",
                        verb(),
                        offset - self.shared_start(name),
                        self.shared_name(name)
                    );
                    return Err(trouble(message));
                }
                if is_write && !self.ctas[cta].busy.is_empty() {
                    let chunks = offset / 16..(offset + bytes).div_ceil(16);
                    if let Some(chunk) = chunks.into_iter().find(|&c| self.ctas[cta].busy[c] > 0) {
                        let reader = self.reader(cta, chunk as u32 * 16);
                        let message = format!(
                            "write of {bytes} bytes at byte {} of '{}', which {reader} still reads",
                            offset - self.shared_start(name),
                            self.shared_name(name)
                        );
                        return Err(trouble(message));
                    }
                }
                if self.grid.launch.is_checked {
                    let view = View {
                        first_block: u32::MAX,
                        ..self.view(who, access, Objects::Shared, pc)
                    };
                    let stamp = view.stamp;
                    let visit = recorder(&view, access, true);
                    let found = self.ctas[cta].shadow.visit(offset, bytes, visit);
                    if let Some((byte, found)) = found {
                        let start = self.shared_start(name);
                        let what = (verb(), bytes, offset + byte - start);
                        let name = self.shared_name(name);
                        return Err(trouble(self.tell(found, what, &name)));
                    }
                    if cta != who.cta && !matches!(access, Access::Peek | Access::PeekAtomic) {
                        self.ctas[cta].visit(stamp, pc);
                    }
                }
                // Within the vector: `shared_range` has checked it.
                Ok(self.ctas[cta].shared.as_mut_ptr().cast::<u8>().wrapping_add(offset))
            }
            Space::Param if !is_write => {
                let params = self.grid.launch.params;
                match within(at, bytes, 0, params.len()) {
                    Some(offset) => Ok(params[offset..].as_ptr().cast_mut()),
                    None => Err(trouble(format!(
                        "read of {bytes} bytes at byte {at} of {} bytes of parameters",
                        params.len()
                    ))),
                }
            }
            _ => Err(trouble(format!("{} in a space that cannot be reached so", verb()))),
        }
    }

    /// Which variable of a block's shared memory a range is in; `None` for dynamic memory.
    pub fn shared_range(&self, at: u64, bytes: usize) -> Result<Option<usize>, String> {
        let layout = &self.grid.launch.program.layout;
        let size = self.grid.launch.shared_bytes as usize;
        if within(at, bytes, layout.dynamic_start, size).is_some() {
            return Ok(None);
        }
        let index = layout.shared.partition_point(|v| v.start <= at).checked_sub(1);
        if let Some(i) = index
            && let Some(variable) = layout.shared.get(i)
        {
            if within(at, bytes, variable.start, variable.bytes as usize).is_some() {
                return Ok(Some(i));
            }
            if at < layout.dynamic_start || size == 0 {
                let end = at.saturating_add(bytes as u64);
                let past = end.saturating_sub(variable.start + variable.bytes);
                return Err(format!(
                    "of {bytes} bytes, {past} bytes past the end of __shared__ {} ({} bytes)",
                    variable.name, variable.bytes
                ));
            }
        }
        if at < SHARED_START {
            return Err(format!("of {bytes} bytes at shared address {at}, below every variable"));
        }
        Err(format!(
            "of {bytes} bytes at byte {} of dynamic shared memory ({size} bytes)",
            (at as i64).wrapping_sub(layout.dynamic_start as i64)
        ))
    }

    /// A place in shared memory in words.
    pub fn shared_place(&self, cta: usize, offset: u32) -> String {
        let block = match self.ctas.len() {
            1 => String::new(),
            _ => format!(" of block {cta} of the cluster"),
        };
        match self.shared_range(offset.into(), 1) {
            Ok(name) => {
                let at = offset as usize - self.shared_start(name);
                format!("byte {at} of '{}'{block}", self.shared_name(name))
            }
            Err(_) => format!("shared address {offset:#x}{block}"),
        }
    }

    fn shared_start(&self, name: Option<usize>) -> usize {
        let layout = &self.grid.launch.program.layout;
        name.map_or(layout.dynamic_start, |i| layout.shared[i].start) as usize
    }

    fn shared_name(&self, name: Option<usize>) -> String {
        let layout = &self.grid.launch.program.layout;
        match name {
            Some(i) => format!("__shared__ {}", layout.shared[i].name),
            None => "dynamic shared memory".into(),
        }
    }

    #[inline]
    fn view<'v>(&'v self, who: Who<'v>, access: Access, of: Objects, pc: u32) -> View<'v> {
        let own = who.agent.unwrap_or(who.thread);
        let stamp = match access {
            Access::Write(flag) if flag != Flag::Plain => self.clocks.stamp_as(own, flag),
            Access::PeekAtomic => self.clocks.stamp_as(own, Flag::Atomic),
            _ if who.is_async => self.clocks.stamp_as(own, Flag::Async),
            _ => self.clocks.stamp(own),
        };
        let seen = who.sight.map_or_else(|| self.clocks.seen(who.thread), Sight::seen);
        let proxy = who.sight.filter(|_| who.is_async).map(|sight| sight.proxy(of));
        View {
            stamp,
            owner: who.thread,
            first_block: self.grid.first_block,
            seen,
            proxy,
            others: Others::Seen(&self.seen_blocks),
            site: pc,
        }
    }

    /// Whether the first writer of each of these bytes precedes what a warp starts now: what is wrong if not. For
    /// bytes that another warp's operation has read already.
    pub fn recheck(
        &self,
        who: Who,
        cta: usize,
        writers: &[(Stamp, u32)],
        pc: u32,
    ) -> Result<(), Trouble> {
        let view =
            View { first_block: u32::MAX, ..self.view(who, Access::Peek, Objects::Shared, pc) };
        for &(stamp, at) in writers {
            if !view.precedes(stamp) {
                let found = self.ctas[cta].shadow.byte(at as usize).peek(&view, true);
                let name = self.shared_range(at.into(), 1).unwrap_or_default();
                let offset = at as usize - self.shared_start(name);
                let Some(found) = found else { continue };
                let message = self.tell(found, ("read", 1, offset), &self.shared_name(name));
                return Err(Trouble::new(u32::MAX, message));
            }
        }
        Ok(())
    }
}

/// Offset of `[at, at + bytes)` within `[start, start + len)`, if it lies there as a whole.
fn within(at: u64, bytes: usize, start: u64, len: usize) -> Option<usize> {
    let offset = at.wrapping_sub(start);
    let end = offset.checked_add(bytes as u64)?;
    (end <= len as u64).then_some(offset as usize)
}

/// Notes an access in the shadow, byte after byte: what is wrong with it.
#[inline]
fn recorder<'v>(
    view: &'v View<'v>,
    access: Access,
    shared: bool,
) -> impl FnMut(&Byte) -> Option<Found> + 'v {
    // Neighbours have mostly the same writer, which has to be asked about only once.
    let mut good = Stamp(0);
    move |byte| match access {
        Access::Write(_) => byte.write(view, shared),
        Access::Add => byte.peek(view, shared).or_else(|| byte.write(view, shared)),
        Access::Note => {
            byte.note(view);
            None
        }
        Access::Read | Access::ReadOnly | Access::Peek | Access::PeekAtomic => {
            if matches!(access, Access::Read | Access::ReadOnly) {
                byte.note(view);
            }
            let writer = byte.writer();
            if writer == good && writer != Stamp(0) {
                return None;
            }
            let mut found = byte.peek(view, shared);
            if found.is_none() && access == Access::ReadOnly {
                found = byte.changed(view);
            }
            if found.is_none() {
                good = writer;
            }
            found
        }
    }
}
