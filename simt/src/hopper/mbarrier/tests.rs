use super::*;
use crate::hopper::random::Random;

fn kept(barrier: Mbarrier) -> Mbarrier {
    Mbarrier::from_bits(barrier.to_bits()).unwrap()
}

#[test]
fn a_phase_ends_with_the_last_arrival() {
    let mut barrier = Mbarrier::init(3).unwrap();
    for phase in 0..5 {
        assert_eq!(barrier.parity, phase % 2);
        assert_eq!(barrier.test_wait_parity(phase % 2), Ok(false));
        assert_eq!(barrier.test_wait_parity(1 - phase % 2), Ok(true));
        let first = barrier.arrive(1).unwrap();
        assert!(!first.completed);
        assert_eq!(barrier.test_wait(first.state), Ok(false));
        let last = barrier.arrive(2).unwrap();
        assert!(last.completed);
        // The states of the phase that ended, before the next has ended, too.
        assert_eq!(barrier.test_wait(first.state), Ok(true));
        assert_eq!(barrier.test_wait(last.state), Ok(true));
        assert_eq!(pending_count(first.state), Ok(3));
        assert_eq!(pending_count(last.state), Ok(2));
        barrier = kept(barrier);
    }
}

#[test]
fn a_phase_waits_for_arrivals_and_bytes() {
    // As with one producer: arrive with the bytes, then two copies.
    let mut barrier = Mbarrier::init(1).unwrap();
    assert!(!barrier.arrive_expect_tx(3072).unwrap().completed);
    assert_eq!((barrier.pending, barrier.tx), (0, 3072));
    assert_eq!(barrier.complete_tx(1024), Ok(false));
    barrier = kept(barrier);
    assert_eq!(barrier.test_wait_parity(0), Ok(false));
    assert_eq!(barrier.complete_tx(2048), Ok(true));
    assert_eq!(barrier.test_wait_parity(0), Ok(true));
    assert_eq!((barrier.parity, barrier.pending, barrier.tx), (1, 1, 0));

    // The bytes can come before they are expected.
    assert_eq!(barrier.complete_tx(512), Ok(false));
    assert_eq!(barrier.tx, -512);
    assert!(kept(barrier).arrive_expect_tx(512).unwrap().completed);
    // Even after the last arrival.
    assert!(!barrier.arrive(1).unwrap().completed);
    assert_eq!(kept(barrier).expect_tx(256), Ok(false));
    assert_eq!(kept(barrier).expect_tx(512), Ok(true));

    // expect_tx alone is no arrival.
    let mut barrier = Mbarrier::init(1).unwrap();
    assert_eq!(barrier.expect_tx(64), Ok(false));
    assert_eq!(barrier.complete_tx(64), Ok(false));
    assert_eq!(barrier.test_wait_parity(0), Ok(false));
}

#[test]
fn dropping_out() {
    let mut barrier = Mbarrier::init(4).unwrap();
    assert!(!barrier.arrive_drop(1).unwrap().completed);
    assert_eq!((barrier.expected, barrier.pending), (3, 3));
    assert!(barrier.arrive(3).unwrap().completed);
    assert_eq!((barrier.expected, barrier.pending), (3, 3));
    assert!(!barrier.arrive_drop_expect_tx(16).unwrap().completed);
    assert_eq!(barrier.complete_tx(16), Ok(false));
    // The last ones leave: their phase ends, and no other ever does.
    assert!(barrier.arrive_drop(2).unwrap().completed);
    barrier = kept(barrier);
    assert_eq!((barrier.parity, barrier.expected, barrier.pending), (0, 0, 0));
    assert_eq!(barrier.arrive(1), Err(MbarrierError::TooManyArrivals { count: 1, pending: 0 }));
}

#[test]
fn arrivals_of_copies() {
    // cp.async.mbarrier.arrive: one more is pending until the copies are done.
    let mut barrier = Mbarrier::init(1).unwrap();
    barrier.increment_pending().unwrap();
    assert_eq!((barrier.expected, barrier.pending), (1, 2));
    assert!(!barrier.arrive(1).unwrap().completed);
    assert!(kept(barrier).arrive(1).unwrap().completed);
    let mut full = Mbarrier::init(MAX_COUNT).unwrap();
    assert_eq!(full.increment_pending(), Err(MbarrierError::Count(1 << 20)));
}

#[test]
fn no_complete_must_not_complete() {
    let mut barrier = Mbarrier::init(2).unwrap();
    let state = barrier.arrive_no_complete(1).unwrap();
    assert_eq!(pending_count(state), Ok(2));
    let before = barrier;
    assert_eq!(barrier.arrive_no_complete(1), Err(MbarrierError::Completed));
    assert_eq!(barrier.arrive_drop_no_complete(1), Err(MbarrierError::Completed));
    assert_eq!(barrier, before);
    let mut barrier = Mbarrier::init(2).unwrap();
    assert_eq!(pending_count(barrier.arrive_drop_no_complete(1).unwrap()), Ok(2));
    assert_eq!((barrier.expected, barrier.pending), (1, 1));
}

#[test]
fn what_is_beyond_its_range_is_named_and_changes_nothing() {
    for count in [0, 1 << 20, u32::MAX] {
        let error = Err(MbarrierError::Count(count));
        assert_eq!(Mbarrier::init(count), error);
        let mut barrier = Mbarrier::init(5).unwrap();
        assert_eq!(barrier.arrive(count).map(|_| barrier), error);
        assert_eq!(barrier.arrive_drop(count).map(|_| barrier), error);
    }
    assert!(Mbarrier::init(MAX_COUNT).is_ok());
    let mut barrier = Mbarrier::init(2).unwrap();
    let fresh = barrier;
    let error = MbarrierError::TooManyArrivals { count: 3, pending: 2 };
    assert_eq!(barrier.arrive(3), Err(error));
    let error = MbarrierError::TooManyDropped { count: 3, expected: 2 };
    assert_eq!(barrier.arrive_drop(3), Err(error));
    assert_eq!(barrier.expect_tx(1 << 20), Err(MbarrierError::Tx(1 << 20)));
    assert_eq!(barrier.arrive_expect_tx(u32::MAX).unwrap_err(), MbarrierError::Tx(u32::MAX.into()));
    assert_eq!(barrier.complete_tx(1 << 20), Err(MbarrierError::Tx(-(1 << 20))));
    assert_eq!(barrier.test_wait_parity(2), Err(MbarrierError::Parity(2)));
    assert_eq!(barrier.test_wait(7), Err(MbarrierError::NotAState(7)));
    assert_eq!(pending_count(0), Err(MbarrierError::NotAState(0)));
    assert_eq!(barrier, fresh);
    assert_eq!(barrier.expect_tx(MAX_COUNT), Ok(false));
    assert_eq!(barrier.expect_tx(1), Err(MbarrierError::Tx(1 << 20)));
    let mut barrier = fresh;
    assert_eq!(barrier.complete_tx(MAX_COUNT), Ok(false));
    assert_eq!(kept(barrier).tx, -((1 << 20) - 1));
    // One dropped, one arrived: a second drop is one arrival too many.
    let mut barrier = Mbarrier::init(2).unwrap();
    barrier.arrive_drop(1).unwrap();
    barrier.expect_tx(16).unwrap();
    barrier.arrive(1).unwrap();
    let error = MbarrierError::TooManyArrivals { count: 1, pending: 0 };
    assert_eq!(barrier.arrive_drop(1), Err(error));
    assert_eq!(barrier.expected, 1);
}

/// A barrier as the manual describes it, with a phase that is counted.
#[derive(Default)]
struct Naive {
    phase: u64,
    expected: i64,
    pending: i64,
    tx: i64,
}

impl Naive {
    fn settle(&mut self) {
        if self.pending == 0 && self.tx == 0 {
            self.phase += 1;
            self.pending = self.expected;
        }
    }
}

#[test]
fn random_histories_as_the_manual_tells_them() {
    let mut random = Random::new(6);
    for _ in 0..200 {
        let count = random.within(1, 40);
        let mut barrier = Mbarrier::init(count as u32).unwrap();
        let mut naive = Naive { expected: count, pending: count, ..Naive::default() };
        for _ in 0..200 {
            let bytes = 16 * random.within(1, 3);
            match random.within(0, 5) {
                0 if naive.pending > 0 => {
                    let count = random.within(1, naive.pending);
                    let phase = naive.phase;
                    let arrival = barrier.arrive(count as u32).unwrap();
                    assert_eq!(i64::from(pending_count(arrival.state).unwrap()), naive.pending);
                    naive.pending -= count;
                    naive.settle();
                    assert_eq!(arrival.completed, naive.phase != phase);
                    assert_eq!(barrier.test_wait(arrival.state), Ok(naive.phase != phase));
                }
                1 => {
                    let _ = barrier.expect_tx(bytes as u32).unwrap();
                    naive.tx += bytes;
                    naive.settle();
                }
                2 => {
                    let _ = barrier.complete_tx(bytes as u32).unwrap();
                    naive.tx -= bytes;
                    naive.settle();
                }
                3 if naive.pending > 0 => {
                    barrier.arrive_expect_tx(bytes as u32).unwrap();
                    naive.tx += bytes;
                    naive.pending -= 1;
                    naive.settle();
                }
                4 if naive.pending > 0 && naive.expected > 1 && random.within(0, 9) == 0 => {
                    barrier.arrive_drop(1).unwrap();
                    naive.expected -= 1;
                    naive.pending -= 1;
                    naive.settle();
                }
                _ => {
                    if naive.tx > 0 {
                        barrier.complete_tx(naive.tx as u32).unwrap();
                    } else if naive.tx < 0 {
                        barrier.expect_tx(-naive.tx as u32).unwrap();
                    } else {
                        continue;
                    }
                    naive.tx = 0;
                    naive.settle();
                }
            }
            barrier = kept(barrier);
            assert_eq!(u64::from(barrier.parity), naive.phase % 2);
            assert_eq!(i64::from(barrier.pending), naive.pending);
            assert_eq!(i64::from(barrier.tx), naive.tx);
            assert_eq!(i64::from(barrier.expected), naive.expected);
        }
    }
}

#[test]
fn what_is_no_barrier_is_noticed() {
    let not = |bits| assert_eq!(Mbarrier::from_bits(bits), Err(MbarrierError::NotABarrier(bits)));
    not(INVALIDATED);
    not(u64::MAX);
    let mut barrier = Mbarrier::init(128).unwrap();
    barrier.expect_tx(49152).unwrap();
    barrier.arrive(5).unwrap();
    let good = barrier.to_bits();
    assert_eq!(Mbarrier::from_bits(good), Ok(barrier));
    for bit in 0..64 {
        not(good ^ 1 << bit);
    }
    // Three quarters of arbitrary values, no more and no less.
    let mut random = Random::new(7);
    let refused = (0..4000).filter(|_| Mbarrier::from_bits(random.bits()).is_err()).count();
    assert!((2850..3150).contains(&refused), "{refused}");
}

#[test]
fn a_barrier_of_which_nothing_is_pending_is_none() {
    // The fields of a phase that should have ended, with a right check.
    let fields = 7 << 20 | 1 << 60;
    let sum: u64 = (0..31).map(|i| fields >> (2 * i) & 3).sum();
    let bits = fields | (((sum + 1) % 4) << 62);
    assert_eq!(Mbarrier::from_bits(bits), Err(MbarrierError::NotABarrier(bits)));
    // The same with one pending arrival is a barrier.
    let bits = (fields | 1) | (((sum + 2) % 4) << 62);
    assert_eq!(Mbarrier::from_bits(bits).unwrap().expected, 7);
}

#[test]
fn a_wait_is_told_in_words() {
    let mut barrier = Mbarrier::init(4).unwrap();
    assert_eq!(
        barrier.wait(0).to_string(),
        "a wait for the phase of parity 0 to end, in which 4 of 4 arrivals are missing; nothing \
         has happened in it, so if the phase before was meant, the parity is wrong"
    );
    assert_eq!(
        barrier.wait(1).to_string(),
        "a wait for parity 1 passes: the barrier is in a phase of parity 0"
    );
    barrier.arrive_expect_tx(100).unwrap();
    assert_eq!(
        barrier.wait(0).to_string(),
        "a wait for the phase of parity 0 to end, in which 3 of 4 arrivals and 100 bytes are \
         missing"
    );
    barrier.arrive(3).unwrap();
    assert_eq!(
        barrier.wait(0).to_string(),
        "a wait for the phase of parity 0 to end, in which all arrived but 100 bytes are missing"
    );
    barrier.complete_tx(116).unwrap();
    assert_eq!(
        barrier.wait(0).to_string(),
        "a wait for the phase of parity 0 to end, in which all arrived but 16 bytes too many came"
    );
    let error = MbarrierError::TooManyArrivals { count: 1, pending: 0 };
    assert_eq!(
        error.to_string(),
        "mbarrier: 1 arrive where 0 are pending: too many arrivals, or too early"
    );
}
