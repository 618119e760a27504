//! Where a load or store goes, and whether it may.

use super::Trouble;
use super::cluster::Cluster;
use super::warp::Warp;
use crate::clocks::Seen;
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
    /// A read that is recorded later: only what is wrong with it.
    Peek,
    /// Its flag says whether it is atomic, or will only arrive later.
    Write(Flag),
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
        Base::Word(slot) => {
            // 32-bit addresses wrap around within their window.
            warp.word_slot(slot).map(|a| u64::from(a.wrapping_add(offset as u32)))
        }
        Base::Long(slot) => warp.long_slot(slot).map(|a| a.wrapping_add(offset)),
    }
}

/// Who makes an access.
#[derive(Clone, Copy)]
pub struct Who {
    /// In the clocks of the cluster.
    thread: u32,
    /// Its block in the cluster.
    cta: usize,
    /// Whether it goes through the asynchronous proxy.
    proxy: bool,
    /// The thread that it counts as, where that is another one.
    agent: Option<u32>,
}

impl Who {
    pub fn thread(warp: &Warp, lane: usize) -> Self {
        let thread = warp.id * 32 + lane as u32;
        Self { thread, cta: warp.cta as usize, proxy: false, agent: None }
    }

    /// Through the asynchronous proxy.
    pub fn proxy(warp: &Warp, lane: usize) -> Self {
        Self { proxy: true, ..Self::thread(warp, lane) }
    }

    /// What the thread started, as the thread that stands for it.
    pub fn agent(warp: &Warp, lane: usize, agent: u32) -> Self {
        Self { agent: Some(agent), ..Self::proxy(warp, lane) }
    }
}

/// Shared addresses of other blocks of a cluster have the block's rank, plus 1, from this bit on.
const RANK_AT: u32 = 24;

/// The shared address of an offset in a block, from anywhere in the cluster.
pub fn shared_address(cta: usize, offset: u32) -> u64 {
    (cta as u64 + 1) << RANK_AT | u64::from(offset)
}

impl Cluster<'_, '_> {
    /// The block that a shared address is in, and the offset there; addresses without a rank are the own block's.
    pub fn shared_cta(&self, own: usize, at: u64) -> (usize, u64) {
        let offset = at & ((1 << RANK_AT) - 1);
        match (at >> RANK_AT) as usize {
            0 => (own, offset),
            rank if rank <= self.ctas.len() => (rank - 1, offset),
            // No block: an offset that nothing can hold.
            _ => (own, at),
        }
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
        let is_write = matches!(access, Access::Write(_));
        let verb = || if is_write { "write" } else { "read" };
        match space {
            Space::Global => {
                if access == Access::Write(Flag::Atomic) {
                    self.grid.meet(at, self.number, &mut self.seen_blocks);
                }
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
                        let view = self.view(who, access, pc);
                        let shadow = &live[i].shadow[offset..offset + bytes];
                        if let Some((byte, found)) = record(&view, shadow, access, false) {
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
                let name = self
                    .shared_range(cta, at, bytes)
                    .map_err(|m| trouble(format!("{} {m}", verb())))?;
                let offset = at as usize;
                if is_write && !self.ctas[cta].busy.is_empty() {
                    let chunks = offset / 16..(offset + bytes).div_ceil(16);
                    if self.ctas[cta].busy[chunks].iter().any(|&n| n > 0) {
                        let message = format!(
                            "write of {bytes} bytes at byte {} of '{}', which an asynchronous operation \
                             still reads",
                            offset - self.shared_start(name),
                            self.shared_name(name)
                        );
                        return Err(trouble(message));
                    }
                }
                if self.grid.launch.is_checked {
                    let view = View { first_block: u32::MAX, ..self.view(who, access, pc) };
                    let shadow = &self.ctas[cta].shadow[offset..offset + bytes];
                    if let Some((byte, found)) = record(&view, shadow, access, true) {
                        let start = self.shared_start(name);
                        let what = (verb(), bytes, offset + byte - start);
                        let name = self.shared_name(name);
                        return Err(trouble(self.tell(found, what, &name)));
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
    pub fn shared_range(
        &self,
        _cta: usize,
        at: u64,
        bytes: usize,
    ) -> Result<Option<usize>, String> {
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

    fn view(&self, who: Who, access: Access, pc: u32) -> View<'_> {
        static NOTHING: Seen = Seen::NOTHING;
        let own = who.agent.unwrap_or(who.thread);
        let stamp = match access {
            Access::Read | Access::Peek | Access::Write(Flag::Plain) if who.agent.is_none() => {
                self.clocks.stamp(own)
            }
            Access::Write(flag) => self.clocks.stamp_as(own, flag),
            Access::Read | Access::Peek => self.clocks.stamp_as(own, Flag::Async),
        };
        let proxy = who.proxy.then(|| self.clocks.proxy(who.thread).unwrap_or(&NOTHING));
        View {
            stamp,
            first_block: self.grid.first_block,
            seen: self.clocks.seen(who.thread),
            proxy,
            seen_blocks: &self.seen_blocks,
            site: pc,
        }
    }

    #[cold]
    fn tell(
        &self,
        found: Found,
        (verb, bytes, offset): (&str, usize, usize),
        name: &str,
    ) -> String {
        let place = format!("{verb} of {bytes} bytes at byte {offset} of '{name}'");
        match found {
            Found::Unwritten => format!("{place}, which was never written"),
            Found::Pending => format!("{place}, where an asynchronous copy was not waited for"),
            Found::NoFence(other) => {
                let line = self.at(other.site);
                let who = self.who(other.stamp);
                format!("{place}, written by {who} ({line}) with no fence.proxy.async behind it")
            }
            Found::Race(other) => {
                let did = if other.was_write { "written" } else { "read" };
                let line = self.at(other.site);
                let who = self.who(other.stamp);
                format!("data race: {place}, {did} by {who} ({line}) with no barrier between")
            }
        }
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
                _ => format!("a bulk copy{of_block}"),
            };
        }
        let [x, y, z] = self.grid.thread(index * 32 + lane);
        format!("thread ({x}, {y}, {z}){of_block}")
    }
}

/// Offset of `[at, at + bytes)` within `[start, start + len)`, if it lies there as a whole.
fn within(at: u64, bytes: usize, start: u64, len: usize) -> Option<usize> {
    let offset = at.wrapping_sub(start);
    let end = offset.checked_add(bytes as u64)?;
    (end <= len as u64).then_some(offset as usize)
}

/// Notes the access in the shadow; the first byte with trouble, and which.
#[inline]
fn record(view: &View, shadow: &[Byte], access: Access, shared: bool) -> Option<(usize, Found)> {
    let note = |b: &Byte| match access {
        Access::Read => b.read(view, shared),
        Access::Peek => b.peek(view, shared),
        Access::Write(_) => b.write(view, shared),
    };
    shadow.iter().enumerate().find_map(|(i, b)| Some((i, note(b)?)))
}
