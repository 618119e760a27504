//! One running block: its threads as fibres, resumed in turn on one OS thread until all have returned.

use std::cell::{RefCell, UnsafeCell};
use std::collections::{HashSet, VecDeque};
use std::ffi::c_void;

use corosensei::stack::{DefaultStack, Stack as _};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use glmae_simt::clocks::Clocks;
use glmae_simt::memory::POISON;
use glmae_simt::shadow::{Byte, shadow};

use super::sanitizer::{self, Stack as StackRange};
use super::{Launch, Schedule, ffi};
use crate::device::abi::EmuThread;
use crate::device::launch::SANITIZED;
use crate::rng::{Purpose, Rng};

/// Instrumented frames are larger.
const STACK_BYTES: usize = if SANITIZED { 512 << 10 } else { 64 << 10 };
/// Alignment that GLMAE_DYNAMIC_SHARED promises.
const SHARED_ALIGN: usize = 128;
/// Barriers of a block, as on the device.
pub const BARRIERS: usize = 16;

type Fibre = Coroutine<(), (), (), DefaultStack>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ready,
    AtBarrier(u8),
    InWarp,
    Returned,
}

/// A warp collective that a thread has reached.
#[derive(Clone, Copy)]
pub struct Collective {
    pub op: u32,
    pub mask: u32,
    pub payload: *mut c_void,
}

/// A `cp.async` under way.
pub struct Copy {
    pub to: *mut u8,
    pub from: *const u8,
    pub bytes: u32,
    pub valid: u32,
    pub pc: u64,
}

pub struct Thread {
    yielder: *const Yielder<(), ()>,
    /// Its stack, guard page included.
    stack: StackRange,
    /// Where it last called the emulator.
    pub pc: u64,
    pub collective: Collective,
    pub open_copies: Vec<Copy>,
    pub copy_groups: VecDeque<Vec<Copy>>,
}

#[derive(Default)]
pub struct Barrier {
    pub members: Vec<u32>,
    pub expected: u32,
    pub reduce: u32,
    pub value: u32,
    pub result: u32,
    pub pc: u64,
}

/// What is wrong, and where.
#[derive(Clone, Debug)]
pub struct Fault {
    pub thread: u32,
    pub pc: u64,
    pub message: String,
}

pub struct State {
    pub current: u32,
    pub status: Vec<Status>,
    pub threads: Vec<Thread>,
    pub barriers: [Barrier; BARRIERS],
    pub fault: Option<Fault>,
    pub clocks: Clocks,
    /// Blocks ordered before this one by atomics.
    pub seen_blocks: HashSet<u32>,
    /// Index of the allocation found last: the next access is likely to be in it.
    pub last_allocation: usize,
    /// The stack of the scheduler, where the sanitizer has to know it.
    scheduler: StackRange,
}

/// The state that fibres and scheduler share. Only one of them runs at a time, all on one OS thread,
/// and no reference into `state` is held over a switch.
pub struct Block<'a> {
    pub launch: &'a Launch<'a>,
    pub threads: u32,
    /// Number of this block among all that ever ran.
    pub number: u32,
    /// Address of this OS thread's anchor for `__shared__` variables.
    pub anchor: u64,
    pub dynamic: u64,
    pub static_shadow: Box<[Byte]>,
    pub dynamic_shadow: Box<[Byte]>,
    state: UnsafeCell<State>,
}

/// What an OS thread keeps between blocks.
#[derive(Default)]
struct Pool {
    stacks: Vec<DefaultStack>,
    static_shadow: Box<[Byte]>,
    dynamic_shadow: Box<[Byte]>,
    dynamic: Vec<u8>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

impl Block<'_> {
    /// # Safety
    /// The reference must not outlive the next switch, nor overlap with another one.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn state(&self) -> &mut State {
        // SAFETY: the caller's promise; all users run on this OS thread.
        unsafe { &mut *self.state.get() }
    }

    /// Back to the scheduler, until it resumes this thread.
    pub fn suspend(&self) {
        // SAFETY: the running fibre's own yielder, which lives on its stack.
        unsafe {
            let state = self.state();
            let yielder = state.threads[state.current as usize].yielder;
            let fake = sanitizer::leave(state.scheduler);
            (*yielder).suspend(());
            sanitizer::arrive(fake);
        }
    }

    /// Runs `f` on the stack of the scheduler: fibres have small stacks.
    pub fn on_big_stack<R>(&self, f: impl FnOnce() -> R + Send) -> R {
        // SAFETY: as in `suspend`.
        unsafe {
            let state = self.state();
            let yielder = state.threads[state.current as usize].yielder;
            (*yielder).on_parent_stack(f)
        }
    }

    /// Ends the block with a fault of the running thread. Never returns: the fibre is abandoned.
    pub fn fail(&self, pc: u64, message: String) -> ! {
        // SAFETY: the reference ends before the switch.
        unsafe {
            let state = self.state();
            let thread = state.current;
            state.fault.get_or_insert(Fault { thread, pc, message });
        }
        loop {
            self.suspend();
        }
    }

    /// Coordinates of a thread of this block.
    pub fn coordinates(&self, thread: u32) -> [u32; 3] {
        let [x, y, _] = self.launch.config.block;
        [thread % x, thread / x % y, thread / x / y]
    }
}

/// Runs one block to its end, or to its first fault.
pub fn run(launch: &Launch, index: [u32; 3], number: u32) -> Result<(), Fault> {
    let mut pool = POOL.with(RefCell::take);
    sanitizer::poison(pool.dynamic.as_ptr(), pool.dynamic.capacity(), false);
    let threads = launch.config.threads() as u32;
    let shared = launch.config.shared_bytes as usize;
    pool.dynamic.clear();
    pool.dynamic.resize(shared + 2 * SHARED_ALIGN, POISON);
    let start = pool.dynamic.as_mut_ptr() as usize;
    let dynamic = start.next_multiple_of(SHARED_ALIGN);
    let end = dynamic - start + shared;
    sanitizer::poison(pool.dynamic[end..].as_ptr(), pool.dynamic.len() - end, true);
    sanitizer::poison(pool.dynamic.as_ptr(), dynamic - start, true);
    if launch.checked {
        if pool.static_shadow.len() < launch.shared.len() {
            pool.static_shadow = shadow(launch.shared.len());
        }
        if pool.dynamic_shadow.len() < shared {
            pool.dynamic_shadow = shadow(shared);
        }
    }
    // SAFETY: returns the address of this OS thread's variable, which lives as long as the thread.
    let this = unsafe { ffi::glmae_emu_this_thread() };
    let none = Collective { op: 0, mask: 0, payload: std::ptr::null_mut() };
    let block = Block {
        launch,
        threads,
        number,
        anchor: this as u64,
        dynamic: dynamic as u64,
        static_shadow: std::mem::take(&mut pool.static_shadow),
        dynamic_shadow: std::mem::take(&mut pool.dynamic_shadow),
        state: UnsafeCell::new(State {
            current: 0,
            status: vec![Status::Ready; threads as usize],
            threads: (0..threads)
                .map(|_| Thread {
                    yielder: std::ptr::null(),
                    stack: (0, 0),
                    pc: 0,
                    collective: none,
                    open_copies: Vec::new(),
                    copy_groups: VecDeque::new(),
                })
                .collect(),
            barriers: Default::default(),
            fault: None,
            clocks: Clocks::new(number, threads),
            seen_blocks: HashSet::new(),
            last_allocation: 0,
            scheduler: (0, 0),
        }),
    };
    // SAFETY: `this` belongs to this OS thread, on which nothing else runs meanwhile.
    unsafe {
        *this = EmuThread {
            block: (&raw const block).cast_mut().cast(),
            dynamic_shared: dynamic as *mut c_void,
            stack_low: 0,
            stack_bytes: 0,
            thread_idx: [0; 3],
            block_idx: index,
            block_dim: launch.config.block,
            grid_dim: launch.config.grid,
        };
    }
    let outcome = schedule(&block, this, &mut pool.stacks);
    pool.static_shadow = block.static_shadow;
    pool.dynamic_shadow = block.dynamic_shadow;
    POOL.with(|p| p.replace(pool));
    outcome
}

/// Resumes the ready threads in the order of the schedule, pass after pass.
fn schedule(
    block: &Block,
    this: *mut EmuThread,
    stacks: &mut Vec<DefaultStack>,
) -> Result<(), Fault> {
    let n = block.threads as usize;
    let mut fibres: Vec<Option<Fibre>> = (0..n).map(|_| None).collect();
    let mut order: Vec<u32> = (0..block.threads).collect();
    if block.launch.schedule == Schedule::Descending {
        order.reverse();
    }
    let mut random = match block.launch.schedule {
        Schedule::Shuffled(seed) => {
            Some(Rng::new(seed, Purpose::Test, 0, block.number - block.launch.first_block, 1))
        }
        _ => None,
    };
    let mut left = n;
    let mut fault = None;
    'block: while left > 0 {
        if let Some(random) = &mut random {
            shuffle(&mut order, random);
        }
        let mut progress = false;
        for &t in &order {
            let i = t as usize;
            // SAFETY: no fibre runs now, and the reference ends here.
            if unsafe { block.state() }.status[i] != Status::Ready {
                continue;
            }
            progress = true;
            if fibres[i].is_none() {
                let stack = match stacks.pop().map_or_else(|| DefaultStack::new(STACK_BYTES), Ok) {
                    Ok(stack) => stack,
                    Err(e) => {
                        let message = format!("no memory for the stack of a thread: {e}");
                        fault = Some(Fault { thread: t, pc: 0, message });
                        break 'block;
                    }
                };
                fibres[i] = Some(start(block, t, stack));
            }
            let Some(fibre) = &mut fibres[i] else { continue };
            // SAFETY: `this` is this OS thread's; no fibre runs now.
            unsafe {
                let state = block.state();
                state.current = t;
                ((*this).stack_low, (*this).stack_bytes) = state.threads[i].stack;
                (*this).thread_idx = block.coordinates(t);
            }
            // SAFETY: as above.
            let fake = sanitizer::leave(unsafe { block.state() }.threads[i].stack);
            let result = fibre.resume(());
            sanitizer::arrive(fake);
            // SAFETY: as above.
            let state = unsafe { block.state() };
            if let CoroutineResult::Return(()) = result {
                state.status[i] = Status::Returned;
                left -= 1;
                stacks.extend(fibres[i].take().map(Coroutine::into_stack));
            }
            if state.fault.is_some() {
                fault = state.fault.take();
                break 'block;
            }
        }
        if !progress {
            fault = Some(super::sync::stuck(block));
            break;
        }
    }
    for mut fibre in fibres.into_iter().flatten() {
        // SAFETY: only C++ frames without destructors and the emulator's own frames are on the
        // abandoned stack; of the latter a fault may leak a few bytes, and nothing is borrowed.
        unsafe { fibre.force_reset() };
        let stack = fibre.into_stack();
        let (low, high) = (stack.limit().get(), stack.base().get());
        sanitizer::poison(low as *const u8, high - low, false);
        stacks.push(stack);
    }
    fault.map_or(Ok(()), Err)
}

fn start(block: &Block, thread: u32, stack: DefaultStack) -> Fibre {
    let (low, high) = (stack.limit().get() as u64, stack.base().get() as u64);
    // SAFETY: no fibre runs now, and the reference ends here.
    unsafe { block.state() }.threads[thread as usize].stack = (low, high - low);
    let (state, call) = (block.state.get(), block.launch.call);
    let args = block.launch.args.as_ptr().cast_mut();
    Coroutine::with_stack(stack, move |yielder: &Yielder<(), ()>, ()| {
        // SAFETY: the block outlives its fibres. `call` is the kernel's trampoline, and `args` were
        // checked against its signature.
        unsafe {
            (*state).scheduler = sanitizer::arrive(std::ptr::null_mut());
            (&mut (*state).threads)[thread as usize].yielder = yielder;
            call(args);
            sanitizer::leave_for_good((*state).scheduler);
        }
    })
}

fn shuffle(order: &mut [u32], random: &mut Rng) {
    for i in (1..order.len()).rev() {
        order.swap(i, random.below(i as u64 + 1) as usize);
    }
}
