//! What the `.add` of `cp.reduce.async.bulk.tensor` makes of global memory (9.7.9.25.5): one sum per element, of what
//! is there and what comes from shared memory.
//!
//! Sums of floats are rounded to nearest even, once. Those of `.f32` flush subnormal operands and results to a zero
//! of the same sign; those of `.f16` and `.bf16` keep them. The manual says so of `cp.reduce.async.bulk` only, and
//! nothing of the form with a tensor.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::arith::convert::Half;
use crate::arith::round::{Mode, Rounding};
use crate::hopper::tensor_map::Element;

/// How elements are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    F32,
    Half(Half),
    /// Whole numbers, with a sign or without.
    Word,
    Long,
}

impl Sum {
    /// Of elements of this type. The manual has none of the others.
    pub fn of(element: Element) -> Result<Self, String> {
        Ok(match element {
            Element::F32 => Self::F32,
            Element::F16 => Self::Half(Half::F16),
            Element::Bf16 => Self::Half(Half::Bf16),
            Element::U32 | Element::I32 => Self::Word,
            Element::U64 => Self::Long,
            Element::U8 | Element::U16 | Element::I64 | Element::F64 => {
                return Err(format!(
                    "a tensor map of {element:?}, for which a reduction has no .add"
                ));
            }
        })
    }

    /// Adds elements to those at `to`, each as an atomic of its own: another block may come to the same place, which
    /// is reported, but must not tear what is there.
    ///
    /// # Safety
    /// As many bytes as `from` has are there, aligned to an element; of both there are whole elements.
    pub unsafe fn add(self, to: *mut u8, from: &[u8]) {
        match self {
            Self::F32 => {
                let mode = Mode { rounding: Rounding::Nearest, ftz: true, sat: false };
                for (i, b) in from.as_chunks::<4>().0.iter().enumerate() {
                    let b = f32::from_bits(u32::from_le_bytes(*b));
                    // SAFETY: the caller's promise.
                    let place = unsafe { AtomicU32::from_ptr(to.cast::<u32>().add(i)) };
                    let add = |a: u32| Some(mode.add(f32::from_bits(a), b).to_bits());
                    _ = place.fetch_update(Relaxed, Relaxed, add);
                }
            }
            Self::Half(half) => {
                for (i, b) in from.as_chunks::<2>().0.iter().enumerate() {
                    // SAFETY: as above.
                    let place = unsafe { AtomicU16::from_ptr(to.cast::<u16>().add(i)) };
                    let add = |a: u16| Some(half.add(a, u16::from_le_bytes(*b)));
                    _ = place.fetch_update(Relaxed, Relaxed, add);
                }
            }
            Self::Word => {
                for (i, b) in from.as_chunks::<4>().0.iter().enumerate() {
                    // SAFETY: as above.
                    let place = unsafe { AtomicU32::from_ptr(to.cast::<u32>().add(i)) };
                    place.fetch_add(u32::from_le_bytes(*b), Relaxed);
                }
            }
            Self::Long => {
                for (i, b) in from.as_chunks::<8>().0.iter().enumerate() {
                    // SAFETY: as above.
                    let place = unsafe { AtomicU64::from_ptr(to.cast::<u64>().add(i)) };
                    place.fetch_add(u64::from_le_bytes(*b), Relaxed);
                }
            }
        }
    }
}
