//! Barriers, warp collectives and asynchronous copies: what the shim calls when a thread has to wait.

use std::ffi::c_void;

use glmae_simt::shadow::Flag;

use super::access::{Access, check};
use super::block::{BARRIERS, Block, Collective, Copy, Fault, State, Status};
use crate::device::abi::{self, Complete, EmuCallbacks};

pub static CALLBACKS: EmuCallbacks = EmuCallbacks {
    access: Some(access),
    barrier: Some(barrier),
    warp: Some(warp),
    copy: Some(copy),
    copy_commit: Some(copy_commit),
    copy_wait: Some(copy_wait),
    fault: Some(fault),
};

/// `WARP_SYNC` of collectives.h: the one collective that orders memory.
const WARP_SYNC: u32 = 0;

/// # Safety
/// `block` is what `block::run` put into this OS thread's `EmuThread`.
unsafe fn running<'a>(block: *mut c_void) -> &'a Block<'a> {
    // SAFETY: the block outlives every fibre that calls this.
    unsafe { &*block.cast_const().cast() }
}

unsafe extern "C" fn access(
    block: *mut c_void,
    at: *const c_void,
    bytes: u64,
    kind: u32,
    pc: *const c_void,
) {
    // SAFETY: called from a fibre of this block; the state is not borrowed over a switch.
    unsafe {
        let block = running(block);
        if !block.launch.checked {
            return;
        }
        let access = match kind {
            abi::ACCESS_READ => Access::Read,
            abi::ACCESS_ATOMIC => Access::Write(Flag::Atomic),
            _ => Access::Write(Flag::Plain),
        };
        if let Some(message) = check(block, at as u64, bytes as usize, access, pc as u64) {
            block.fail(pc as u64, message);
        }
    }
}

unsafe extern "C" fn fault(block: *mut c_void, code: u32, pc: *const c_void) {
    // SAFETY: called from a fibre of this block.
    unsafe { running(block).fail(pc as u64, abi::fault_message(code).into()) }
}

unsafe extern "C" fn barrier(
    block: *mut c_void,
    id: u32,
    threads: u32,
    reduce: u32,
    value: u32,
    pc: *const c_void,
) -> u32 {
    // SAFETY: as in `access`.
    unsafe {
        let block = running(block);
        let pc = pc as u64;
        let whole = if threads == 0 { block.threads } else { threads };
        let bad_count = !threads.is_multiple_of(32) || whole > block.threads;
        if id as usize >= BARRIERS || bad_count {
            block.fail(pc, format!("barrier {id} of {whole} threads: no such barrier or count"));
        }
        let first = block.state().barriers[id as usize].pc;
        let is_first = block.state().barriers[id as usize].members.is_empty();
        if !is_first && first != pc && block.launch.checked {
            let launch = block.launch;
            if let Some(there) = block.on_big_stack(|| launch.other_line(pc, first)) {
                block.fail(pc, format!("divergent barrier: other threads wait at {there}"));
            }
        }
        let state = block.state();
        let me = state.current;
        state.threads[me as usize].pc = pc;
        let b = &mut state.barriers[id as usize];
        if is_first {
            (b.expected, b.reduce, b.pc) = (whole, reduce, pc);
            b.value = u32::from(reduce == abi::REDUCE_AND);
        } else if (b.expected, b.reduce) != (whole, reduce) {
            block.fail(pc, format!("barrier {id} is already used with other operands"));
        }
        b.value = match reduce {
            abi::REDUCE_AND => b.value & value,
            abi::REDUCE_OR => b.value | value,
            _ => b.value + value,
        };
        b.members.push(me);
        if b.members.len() < whole as usize {
            state.status[me as usize] = Status::AtBarrier(id as u8);
            block.suspend();
        } else {
            open(block, state, id as usize, pc);
        }
        block.state().barriers[id as usize].result
    }
}

/// All have arrived: lets them go on.
fn open(block: &Block, state: &mut State, id: usize, pc: u64) {
    let b = &mut state.barriers[id];
    b.result = b.value;
    let mut arrived = [0u32; 32];
    for &t in &b.members {
        state.status[t as usize] = Status::Ready;
        arrived[t as usize / 32] += 1;
    }
    let all = b.members.len() == block.threads as usize;
    b.members.clear();
    if !all && arrived.iter().any(|&n| n != 0 && n != 32) {
        block.fail(pc, format!("barrier {id}: only a part of a warp has arrived"));
    }
    if block.launch.checked {
        state.clocks.barrier((0..32).filter(|&w| arrived[w] != 0));
    }
}

unsafe extern "C" fn warp(
    block: *mut c_void,
    op: u32,
    mask: u32,
    payload: *mut c_void,
    complete: Complete,
    pc: *const c_void,
) {
    // SAFETY: as in `access`. The payloads lie on the stacks of suspended fibres (or of this one).
    unsafe {
        let block = running(block);
        let pc = pc as u64;
        let state = block.state();
        let me = state.current as usize;
        let (first, lane) = (me / 32 * 32, me % 32);
        let there = (block.threads as usize - first).min(32);
        if mask >> lane & 1 == 0 {
            block.fail(pc, format!("warp mask {mask:#010x} does not name the calling lane {lane}"));
        }
        if there < 32 && mask >> there != 0 {
            block.fail(
                pc,
                format!("warp mask {mask:#010x} names lanes that are absent: the warp has {there}"),
            );
        }
        state.threads[me].pc = pc;
        state.threads[me].collective = Collective { op, mask, payload };
        state.status[me] = Status::InWarp;
        let lanes = (0..there).filter(|l| mask >> l & 1 == 1);
        let here = |l: usize| {
            let c = &state.threads[first + l].collective;
            state.status[first + l] == Status::InWarp && c.op == op && c.mask == mask
        };
        if !lanes.clone().all(here) {
            block.suspend();
            return;
        }
        let mut payloads = [std::ptr::null_mut(); 32];
        for l in lanes {
            payloads[l] = state.threads[first + l].collective.payload;
            state.status[first + l] = Status::Ready;
        }
        if let Some(complete) = complete {
            complete(payloads.as_ptr(), mask);
        }
        if op == WARP_SYNC && block.launch.checked {
            state.clocks.sync_warp(first / 32, mask);
        }
    }
}

unsafe extern "C" fn copy(
    block: *mut c_void,
    to: *mut c_void,
    from: *const c_void,
    bytes: u32,
    valid: u32,
    pc: *const c_void,
) {
    // SAFETY: as in `access`.
    unsafe {
        let block = running(block);
        let copy = Copy { to: to.cast(), from: from.cast(), bytes, valid, pc: pc as u64 };
        if valid > bytes {
            block.fail(copy.pc, format!("asynchronous copy of {valid} bytes, at most {bytes}"));
        }
        if block.launch.checked {
            if !super::access::is_shared(block, to as u64) {
                block.fail(copy.pc, "asynchronous copy to memory that is not shared".into());
            }
            check_copy(block, &copy, Flag::Pending);
        }
        let state = block.state();
        state.threads[state.current as usize].open_copies.push(copy);
    }
}

/// A copy may read and write at any time from its issue to its wait: both ends are checked at both.
fn check_copy(block: &Block, copy: &Copy, flag: Flag) {
    let read = check(block, copy.from as u64, copy.valid as usize, Access::Read, copy.pc);
    let write = || check(block, copy.to as u64, copy.bytes as usize, Access::Write(flag), copy.pc);
    if let Some(message) = read.or_else(write) {
        block.fail(copy.pc, format!("asynchronous copy: {message}"));
    }
}

unsafe extern "C" fn copy_commit(block: *mut c_void) {
    // SAFETY: as in `access`.
    unsafe {
        let state = running(block).state();
        let thread = &mut state.threads[state.current as usize];
        thread.copy_groups.push_back(std::mem::take(&mut thread.open_copies));
    }
}

unsafe extern "C" fn copy_wait(block: *mut c_void, pending: u32, _: *const c_void) {
    // SAFETY: as in `access`; the copies were checked (on a plain device the kernel answers for them).
    unsafe {
        let block = running(block);
        loop {
            let state = block.state();
            let groups = &mut state.threads[state.current as usize].copy_groups;
            if groups.len() <= pending as usize {
                return;
            }
            for copy in groups.pop_front().into_iter().flatten() {
                if block.launch.checked {
                    check_copy(block, &copy, Flag::Plain);
                }
                let (valid, bytes) = (copy.valid as usize, copy.bytes as usize);
                copy.to.copy_from_nonoverlapping(copy.from, valid);
                copy.to.add(valid).write_bytes(0, bytes - valid);
            }
        }
    }
}

/// No thread can go on: says who waits for whom.
pub fn stuck(block: &Block) -> Fault {
    // SAFETY: called by the scheduler, no fibre runs.
    let state = unsafe { block.state() };
    let n = block.threads as usize;
    let waits = |t: usize| match state.status[t] {
        Status::Returned => "has returned".to_owned(),
        Status::AtBarrier(id) => {
            format!("waits at barrier {id}, {}", block.launch.locate(state.threads[t].pc))
        }
        Status::InWarp => {
            let thread = &state.threads[t];
            let mask = thread.collective.mask;
            format!(
                "waits in a warp operation (mask {mask:#010x}), {}",
                block.launch.locate(thread.pc)
            )
        }
        Status::Ready => "is ready".to_owned(),
    };
    let in_warp = (0..n).find(|&t| state.status[t] == Status::InWarp);
    let (thread, message) = if let Some(t) = in_warp {
        let Collective { op, mask, .. } = state.threads[t].collective;
        let absent = (0..32).filter(|l| mask >> l & 1 == 1).map(|l| t / 32 * 32 + l).find(|&o| {
            let c = &state.threads[o].collective;
            state.status[o] != Status::InWarp || c.op != op || c.mask != mask
        });
        let absent = absent.unwrap_or(t);
        let lane = absent % 32;
        (
            t,
            format!(
                "warp operation with mask {mask:#010x}: lane {lane} is absent, it {}",
                waits(absent)
            ),
        )
    } else {
        let t = (0..n).find(|&t| state.status[t] != Status::Returned).unwrap_or(0);
        let Status::AtBarrier(id) = state.status[t] else {
            return Fault { thread: t as u32, pc: 0, message: "nothing can go on".into() };
        };
        let b = &state.barriers[id as usize];
        let other = (0..n).find(|&o| state.status[o] != state.status[t]).unwrap_or(t);
        let [x, y, z] = block.coordinates(other as u32);
        (
            t,
            format!(
                "barrier {id} reached by only {} of {} threads: thread ({x}, {y}, {z}) {}",
                b.members.len(),
                b.expected,
                waits(other)
            ),
        )
    };
    Fault { thread: thread as u32, pc: state.threads[thread].pc, message }
}
