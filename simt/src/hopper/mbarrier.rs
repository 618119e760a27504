//! The mbarrier object (section 9.7.13.15): 64 bits of shared memory that count arrivals and bytes.
//!
//! # Phases and parity
//!
//! A barrier is always in an incomplete phase; all earlier ones are complete. A phase ends when no
//! arrival and no byte is pending; then the next begins with the expected arrivals pending.
//! `test_wait.parity p` asks whether the phase of parity p is complete, of the current phase and
//! the one before it:
//!
//! ```text
//! phase              0          1          2
//! parity             0          1          0
//! wait for 0      blocks     passes     blocks
//! wait for 1      passes     blocks     passes
//! ```
//!
//! So a wait passes exactly if its parity is not that of the current phase. After `init` a wait for
//! parity 1 passes: that is how the producer's first wait for an empty stage does not block. And a
//! wait that comes a whole phase late, or with the wrong parity, cannot be told from a good one by
//! the object: it blocks where it should pass, or passes where it should block. [`Wait`] says what
//! a blocked wait waits for.
//!
//! # Encoding
//!
//! The real object is opaque. This one leaves two bits for a check, as the ranges of the manual
//! (section 9.7.13.15.2) need 62. They catch all zeros, all ones, any one changed bit, and
//! three of four arbitrary values; whoever must catch all keeps a list of the barriers.
//!
//! ```text
//! bits 19..0 pending   39..20 expected   60..40 tx + 2^20   61 phase   63..62 check
//! ```

use std::fmt;

#[cfg(test)]
mod tests;

/// The largest count of arrivals, and of bytes in either direction.
pub const MAX_COUNT: u32 = (1 << 20) - 1;

/// What `mbarrier.inval` leaves behind.
pub const INVALIDATED: u64 = 0;

/// An initialised barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mbarrier {
    /// The parity of the current phase.
    parity: u32,
    /// Arrivals of the next phase; 0 once all participants have dropped out.
    expected: u32,
    /// Arrivals that the current phase still waits for.
    pending: u32,
    /// Bytes that the current phase still waits for; negative if more came than were expected.
    tx: i32,
}

/// What an arrival did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The opaque state that the instruction returns.
    pub state: u64,
    /// Whether it ended the phase.
    pub completed: bool,
}

impl Mbarrier {
    /// `mbarrier.init`.
    pub fn init(count: u32) -> Result<Self, MbarrierError> {
        check_count(count)?;
        Ok(Self { parity: 0, expected: count, pending: count, tx: 0 })
    }

    /// The barrier in shared memory.
    pub fn from_bits(bits: u64) -> Result<Self, MbarrierError> {
        let count = |shift: u32| (bits >> shift) as u32 & MAX_COUNT;
        let barrier = Self {
            parity: (bits >> 61 & 1) as u32,
            expected: count(20),
            pending: count(0),
            tx: (bits >> 40 & 0x1f_ffff) as i32 - (1 << 20),
        };
        // A phase with nothing pending would have ended, unless all have dropped out.
        let ended = barrier.pending == 0 && barrier.tx == 0 && barrier.expected != 0;
        let beyond = barrier.tx < -(MAX_COUNT as i32);
        if ended || beyond || barrier.to_bits() != bits {
            return Err(MbarrierError::NotABarrier(bits));
        }
        Ok(barrier)
    }

    pub fn to_bits(self) -> u64 {
        let fields = u64::from(self.pending)
            | u64::from(self.expected) << 20
            | ((self.tx + (1 << 20)) as u64) << 40
            | u64::from(self.parity) << 61;
        fields | check(fields) << 62
    }

    /// `mbarrier.arrive`, and `cp.async.mbarrier.arrive.noinc` when the copies are done.
    pub fn arrive(&mut self, count: u32) -> Result<Arrival, MbarrierError> {
        let after = self.after_arrival(count)?;
        let state = self.state();
        *self = after;
        Ok(Arrival { state, completed: self.end_phase() })
    }

    /// `mbarrier.arrive.noComplete`.
    pub fn arrive_no_complete(&mut self, count: u32) -> Result<u64, MbarrierError> {
        let mut after = self.after_arrival(count)?;
        if after.end_phase() {
            return Err(MbarrierError::Completed);
        }
        let state = self.state();
        *self = after;
        Ok(state)
    }

    /// `mbarrier.expect_tx`: more bytes to wait for. No arrival.
    ///
    /// It can end a phase, too: if all have arrived and the bytes came before they were expected.
    pub fn expect_tx(&mut self, bytes: u32) -> Result<bool, MbarrierError> {
        self.set_tx(i64::from(self.tx) + i64::from(bytes))?;
        Ok(self.end_phase())
    }

    /// `mbarrier.arrive.expect_tx`: the bytes first, then one arrival.
    pub fn arrive_expect_tx(&mut self, bytes: u32) -> Result<Arrival, MbarrierError> {
        let mut after = *self;
        after.set_tx(i64::from(self.tx) + i64::from(bytes))?;
        let arrival = after.arrive(1)?;
        *self = after;
        Ok(arrival)
    }

    /// `mbarrier.complete_tx`, and what a bulk copy does when it is done. Whether the phase ended.
    pub fn complete_tx(&mut self, bytes: u32) -> Result<bool, MbarrierError> {
        self.set_tx(i64::from(self.tx) - i64::from(bytes))?;
        Ok(self.end_phase())
    }

    /// `mbarrier.arrive_drop`: an arrival that is not expected in later phases.
    pub fn arrive_drop(&mut self, count: u32) -> Result<Arrival, MbarrierError> {
        let mut after = self.dropped(count)?;
        let arrival = after.arrive(count)?;
        *self = after;
        Ok(arrival)
    }

    /// `mbarrier.arrive_drop.noComplete`.
    pub fn arrive_drop_no_complete(&mut self, count: u32) -> Result<u64, MbarrierError> {
        let mut after = self.dropped(count)?;
        let state = after.arrive_no_complete(count)?;
        *self = after;
        Ok(state)
    }

    /// `mbarrier.arrive_drop.expect_tx`.
    pub fn arrive_drop_expect_tx(&mut self, bytes: u32) -> Result<Arrival, MbarrierError> {
        let mut after = self.dropped(1)?;
        let arrival = after.arrive_expect_tx(bytes)?;
        *self = after;
        Ok(arrival)
    }

    /// `cp.async.mbarrier.arrive` without `.noinc`, when it is issued: one more arrival is pending,
    /// which [`Mbarrier::arrive`] takes back when the copies are done.
    pub fn increment_pending(&mut self) -> Result<(), MbarrierError> {
        if self.pending == MAX_COUNT {
            return Err(MbarrierError::Count(MAX_COUNT + 1));
        }
        self.pending += 1;
        Ok(())
    }

    /// `mbarrier.test_wait` with the state of an arrival.
    pub fn test_wait(&self, state: u64) -> Result<bool, MbarrierError> {
        let (parity, _) = open_state(state)?;
        self.test_wait_parity(parity)
    }

    /// `mbarrier.test_wait.parity`: whether the phase of this parity is complete.
    pub fn test_wait_parity(&self, parity: u32) -> Result<bool, MbarrierError> {
        if parity > 1 {
            return Err(MbarrierError::Parity(parity));
        }
        Ok(parity != self.parity)
    }

    /// What a wait for this parity would wait for.
    pub fn wait(&self, parity: u32) -> Wait {
        Wait { parity, barrier: *self }
    }

    /// Ends the phase if nothing is pending.
    fn end_phase(&mut self) -> bool {
        let ends = self.pending == 0 && self.tx == 0;
        if ends {
            self.parity ^= 1;
            self.pending = self.expected;
        }
        ends
    }

    fn after_arrival(&self, count: u32) -> Result<Self, MbarrierError> {
        check_count(count)?;
        let Some(pending) = self.pending.checked_sub(count) else {
            return Err(MbarrierError::TooManyArrivals { count, pending: self.pending });
        };
        Ok(Self { pending, ..*self })
    }

    fn dropped(&self, count: u32) -> Result<Self, MbarrierError> {
        check_count(count)?;
        let Some(expected) = self.expected.checked_sub(count) else {
            return Err(MbarrierError::TooManyDropped { count, expected: self.expected });
        };
        Ok(Self { expected, ..*self })
    }

    fn set_tx(&mut self, tx: i64) -> Result<(), MbarrierError> {
        if tx.unsigned_abs() > MAX_COUNT.into() {
            return Err(MbarrierError::Tx(tx));
        }
        self.tx = tx as i32;
        Ok(())
    }

    /// The state before an arrival.
    fn state(&self) -> u64 {
        STATE | u64::from(self.parity) << 20 | u64::from(self.pending)
    }
}

/// `mbarrier.pending_count`: the arrivals that were pending before the arrival of this state.
pub fn pending_count(state: u64) -> Result<u32, MbarrierError> {
    open_state(state).map(|(_, pending)| pending)
}

/// The parity of the phase of an arrival that returned this state.
pub fn state_parity(state: u64) -> Result<u32, MbarrierError> {
    open_state(state).map(|(parity, _)| parity)
}

/// What marks a state.
const STATE: u64 = 0x6d62_6172 << 32;

/// Parity and pending count of a state.
fn open_state(state: u64) -> Result<(u32, u32), MbarrierError> {
    if state & !0x1f_ffff != STATE {
        return Err(MbarrierError::NotAState(state));
    }
    Ok(((state >> 20 & 1) as u32, state as u32 & MAX_COUNT))
}

/// One more than the sum of all pairs of bits, modulo 4.
fn check(fields: u64) -> u64 {
    let sum: u64 = (0..62).step_by(2).map(|shift| fields >> shift & 3).sum();
    (sum + 1) % 4
}

fn check_count(count: u32) -> Result<(), MbarrierError> {
    if (1..=MAX_COUNT).contains(&count) { Ok(()) } else { Err(MbarrierError::Count(count)) }
}

/// What a wait waits for, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    parity: u32,
    barrier: Mbarrier,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Mbarrier { parity, expected, pending, tx } = self.barrier;
        if self.parity != parity {
            return write!(
                f,
                "a wait for parity {} passes: the barrier is in a phase of parity {parity}",
                self.parity
            );
        }
        write!(f, "a wait for the phase of parity {parity} to end, ")?;
        match (pending, tx) {
            (0, 0) => write!(f, "in which nobody takes part any more"),
            (0, 1..) => write!(f, "in which all arrived but {tx} bytes are missing"),
            (0, _) => write!(f, "in which all arrived but {} bytes too many came", -tx),
            (_, 0) => write!(f, "in which {pending} of {expected} arrivals are missing"),
            (_, 1..) => {
                write!(f, "in which {pending} of {expected} arrivals and {tx} bytes are missing")
            }
            _ => write!(
                f,
                "in which {pending} of {expected} arrivals are missing and {} bytes came that \
                 were not expected",
                -tx
            ),
        }?;
        if pending == expected && tx == 0 && expected > 0 {
            write!(
                f,
                "; nothing has happened in it, so if the phase before was meant, the parity is \
                 wrong"
            )?;
        }
        Ok(())
    }
}

/// Why an operation on a barrier has no defined result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarrierError {
    /// These bits are no barrier: never initialised, invalidated, or overwritten.
    NotABarrier(u64),
    /// A count beyond 1 to 2^20 - 1.
    Count(u32),
    /// More arrivals than the phase waits for.
    TooManyArrivals {
        count: u32,
        pending: u32,
    },
    TooManyDropped {
        count: u32,
        expected: u32,
    },
    /// A count of bytes beyond 2^20 - 1.
    Tx(i64),
    /// An arrival that promised not to end the phase would.
    Completed,
    Parity(u32),
    /// The operand is no state that an arrival returned.
    NotAState(u64),
}

impl std::error::Error for MbarrierError {}

impl fmt::Display for MbarrierError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "mbarrier: ")?;
        match self {
            Self::NotABarrier(bits) => write!(
                f,
                "{bits:#018x} is no barrier: it was never initialised, or was overwritten"
            ),
            Self::Count(count) => write!(f, "a count of {count}; it must be 1 to 2^20 - 1"),
            Self::TooManyArrivals { count, pending } => {
                write!(
                    f,
                    "{count} arrive where {pending} are pending: too many arrivals, or too early"
                )
            }
            Self::TooManyDropped { count, expected } => {
                write!(f, "{count} drop out where {expected} are expected")
            }
            Self::Tx(tx) => {
                write!(f, "{tx} bytes pending; there can be 2^20 - 1 in either direction")
            }
            Self::Completed => write!(f, "an arrival with noComplete would end the phase"),
            Self::Parity(parity) => write!(f, "parity {parity}; it must be 0 or 1"),
            Self::NotAState(state) => write!(f, "{state:#x} is no state that an arrival returned"),
        }
    }
}
