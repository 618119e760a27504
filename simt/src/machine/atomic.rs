//! Atomics on whole numbers (9.7.13.6), by those of the host.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::program::op::AtomicOp;

/// What an operation makes of `a`, as 32 or 64 bits.
pub fn combine(op: AtomicOp, bytes: u32, a: u64, b: u64, c: u64) -> u64 {
    let signed = |v: u64| if bytes == 4 { i64::from(v as i32) } else { v as i64 };
    match op {
        AtomicOp::Add => a.wrapping_add(b),
        AtomicOp::MinSigned => signed(a).min(signed(b)) as u64,
        AtomicOp::MaxSigned => signed(a).max(signed(b)) as u64,
        AtomicOp::MinUnsigned => a.min(b),
        AtomicOp::MaxUnsigned => a.max(b),
        AtomicOp::And => a & b,
        AtomicOp::Or => a | b,
        AtomicOp::Xor => a ^ b,
        AtomicOp::Exchange => b,
        AtomicOp::CompareSwap => {
            if a == b {
                c
            } else {
                a
            }
        }
        AtomicOp::Increment => {
            if a >= b {
                0
            } else {
                a + 1
            }
        }
        AtomicOp::Decrement => {
            if a == 0 || a > b {
                b
            } else {
                a - 1
            }
        }
    }
}

/// Applies the operation to memory; what was there before.
///
/// # Safety
/// 4 or 8 bytes are there, aligned to as many.
pub unsafe fn apply(at: *mut u8, bytes: u32, op: AtomicOp, b: u64, c: u64) -> u64 {
    if bytes == 4 {
        let (b, c) = (b & 0xffff_ffff, c & 0xffff_ffff);
        // SAFETY: the caller's promise.
        let place = unsafe { AtomicU32::from_ptr(at.cast()) };
        let change = |old: u32| Some(combine(op, 4, old.into(), b, c) as u32);
        place.fetch_update(SeqCst, SeqCst, change).unwrap_or_default().into()
    } else {
        // SAFETY: as above.
        let place = unsafe { AtomicU64::from_ptr(at.cast()) };
        let change = |old: u64| Some(combine(op, 8, old, b, c));
        place.fetch_update(SeqCst, SeqCst, change).unwrap_or_default()
    }
}
