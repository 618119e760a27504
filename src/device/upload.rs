//! In which order the pieces of a large upload reach a GPU while it computes.
//!
//! The host copies a piece into pinned memory and goes on; a stream of its own moves it over the bus
//! into a slot of device memory that nothing else uses (a *landing*), at any time; the compute stream
//! takes it from there to its place, in order with everything else that it does. So the slow way, over the
//! bus, never waits for the kernels under way, whatever the destination was used for until now, and
//! what follows on the compute stream needs no other care than before. The extra copy is within device
//! memory: a hundredth of the time of the bus.
//!
//! Events order the three: a pinned buffer is filled again when it has been read, a slot when what lay
//! there has been taken. Here are only the steps, so that they are tested without a GPU;
//! `device::cuda` carries them out.

/// Bytes of a piece, of a pinned buffer and of a slot.
pub const PIECE: usize = 4 << 20;
/// One is filled while the other is read.
pub const BUFFERS: usize = 2;
/// As many pieces can be under way before the compute stream has to take one: 128 MiB.
pub const SLOTS: usize = 32;

/// One thing to do, in this order. Waits of a stream do not stop the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The host waits until `buffer` was read.
    AwaitRead { buffer: usize },
    /// The host copies `bytes` from byte `from` of the source into `buffer`.
    Fill { buffer: usize, from: usize, bytes: usize },
    /// The copy stream waits until `slot` was taken.
    AwaitTaken { slot: usize },
    /// The copy stream reads `buffer` into `slot`, then marks the one read and the other arrived.
    Send { buffer: usize, slot: usize, bytes: usize },
    /// The compute stream waits until `slot` has arrived.
    AwaitArrived { slot: usize },
    /// The compute stream copies `slot` to byte `to` of the destination, then marks it taken.
    Take { slot: usize, to: usize, bytes: usize },
}

/// Which buffer and which slot are next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pieces {
    buffer: usize,
    slot: usize,
}

impl Pieces {
    /// The steps that upload `bytes` bytes.
    pub fn steps(&mut self, bytes: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        for from in (0..bytes).step_by(PIECE) {
            let (buffer, slot) = (self.buffer, self.slot);
            (self.buffer, self.slot) = ((buffer + 1) % BUFFERS, (slot + 1) % SLOTS);
            let bytes = PIECE.min(bytes - from);
            steps.extend([
                Step::AwaitRead { buffer },
                Step::Fill { buffer, from, bytes },
                Step::AwaitTaken { slot },
                Step::Send { buffer, slot, bytes },
                Step::AwaitArrived { slot },
                Step::Take { slot, to: from, bytes },
            ]);
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Rng};
    use std::collections::VecDeque;

    /// An event: how often it was recorded, as the host sees it, and how often that has come to pass.
    #[derive(Clone, Copy, Default)]
    struct Event {
        recorded: usize,
        passed: usize,
    }

    /// Work of a stream. Memory is modelled by one number a piece; `usize` names an event.
    enum Work {
        Await {
            event: usize,
            record: usize,
        },
        Record(usize),
        Send {
            buffer: usize,
            slot: usize,
        },
        Take {
            slot: usize,
            to: usize,
        },
        /// A kernel reads the destination, then overwrites it.
        Use {
            at: usize,
        },
    }

    struct Model {
        events: Vec<Event>,
        /// Of the copy stream and the compute stream.
        queues: [VecDeque<Work>; 2],
        buffers: [u64; BUFFERS],
        slots: [u64; SLOTS],
        memory: Vec<u64>,
        seen: Vec<u64>,
        rng: Rng,
        /// How likely it is that the copy stream goes on, and not the compute stream.
        bias: f64,
    }

    const READ: usize = 0;
    const TAKEN: usize = BUFFERS;
    const ARRIVED: usize = BUFFERS + SLOTS;

    impl Model {
        fn new(run: u64, destinations: usize) -> Self {
            Self {
                events: vec![Event::default(); BUFFERS + 2 * SLOTS],
                queues: Default::default(),
                buffers: [0; BUFFERS],
                slots: [0; SLOTS],
                memory: vec![0; destinations],
                seen: Vec::new(),
                rng: Rng::new(7, Purpose::Test, run, 0, 0),
                bias: [0.02, 0.5, 0.98][run as usize % 3],
            }
        }

        fn await_on(&mut self, stream: usize, event: usize) {
            let record = self.events[event].recorded;
            self.queues[stream].push_back(Work::Await { event, record });
        }

        fn record_on(&mut self, stream: usize, event: usize) {
            self.events[event].recorded += 1;
            self.queues[stream].push_back(Work::Record(event));
        }

        /// Lets one of the streams do the first thing in its queue, if it can.
        fn advance(&mut self) {
            let stream = usize::from(self.rng.uniform() > self.bias);
            match self.queues[stream].front() {
                None => return,
                Some(&Work::Await { event, record }) if self.events[event].passed < record => {
                    return;
                }
                Some(_) => {}
            }
            match self.queues[stream].pop_front() {
                Some(Work::Record(event)) => self.events[event].passed += 1,
                Some(Work::Send { buffer, slot }) => self.slots[slot] = self.buffers[buffer],
                Some(Work::Take { slot, to }) => self.memory[to] = self.slots[slot],
                Some(Work::Use { at }) => {
                    self.seen.push(self.memory[at]);
                    self.memory[at] = u64::MAX;
                }
                Some(Work::Await { .. }) | None => {}
            }
        }

        /// What the host does; `value` is what the piece holds.
        fn start(&mut self, step: Step, value: u64, destination: usize) {
            match step {
                Step::AwaitRead { buffer } => {
                    let record = self.events[READ + buffer].recorded;
                    while self.events[READ + buffer].passed < record {
                        self.advance();
                    }
                }
                Step::Fill { buffer, .. } => self.buffers[buffer] = value,
                Step::AwaitTaken { slot } => self.await_on(0, TAKEN + slot),
                Step::Send { buffer, slot, .. } => {
                    self.queues[0].push_back(Work::Send { buffer, slot });
                    self.record_on(0, READ + buffer);
                    self.record_on(0, ARRIVED + slot);
                }
                Step::AwaitArrived { slot } => self.await_on(1, ARRIVED + slot),
                Step::Take { slot, .. } => {
                    self.queues[1].push_back(Work::Take { slot, to: destination });
                    self.record_on(1, TAKEN + slot);
                }
            }
            // The streams go on meanwhile, or do not.
            for _ in 0..self.rng.below(4) {
                self.advance();
            }
        }
    }

    /// Whether every kernel saw the bytes of the upload before it, with the steps that `keeps` keeps.
    fn kernels_see_their_uploads(run: u64, keeps: impl Fn(&Step) -> bool) -> bool {
        const DESTINATIONS: usize = 5;
        let (mut model, mut pieces) = (Model::new(run, DESTINATIONS), Pieces::default());
        let (mut value, mut expected) = (0, Vec::new());
        for upload in 0..40 {
            let count = 1 + upload % 7;
            for steps in pieces.steps(count * PIECE - upload).chunks(6) {
                value += 1;
                let destination = value as usize % DESTINATIONS;
                for &step in steps.iter().filter(|s| keeps(s)) {
                    model.start(step, value, destination);
                }
                model.queues[1].push_back(Work::Use { at: destination });
                expected.push(value);
            }
        }
        while model.queues.iter().any(|q| !q.is_empty()) {
            model.advance();
        }
        model.seen == expected
    }

    #[test]
    fn whatever_the_streams_do_kernels_see_what_was_uploaded() {
        for run in 0..300 {
            assert!(kernels_see_their_uploads(run, |_| true), "run {run}");
        }
    }

    #[test]
    fn no_wait_can_be_left_out() {
        let fails =
            |keeps: fn(&Step) -> bool| (0..300).any(|run| !kernels_see_their_uploads(run, keeps));
        assert!(fails(|s| !matches!(s, Step::AwaitRead { .. })), "filled before it was read");
        assert!(fails(|s| !matches!(s, Step::AwaitTaken { .. })), "sent before it was taken");
        assert!(fails(|s| !matches!(s, Step::AwaitArrived { .. })), "taken before it arrived");
    }

    #[test]
    fn pieces_cover_the_upload() {
        let mut pieces = Pieces::default();
        for bytes in [1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17] {
            let (mut sent, mut taken) = (0, 0);
            for step in pieces.steps(bytes) {
                match step {
                    Step::Fill { from, bytes, .. } => {
                        assert_eq!(from, sent);
                        sent += bytes;
                    }
                    Step::Take { to, bytes, .. } => {
                        assert_eq!(to, taken);
                        taken += bytes;
                    }
                    _ => {}
                }
            }
            assert_eq!((sent, taken), (bytes, bytes));
        }
        assert!(pieces.steps(0).is_empty());
    }
}
