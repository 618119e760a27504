//! Streams, events, captured graphs and memory. Work waits in its stream until somebody waits for it
//! (or, under another order, until a throw of dice lets it run): the latest moment that is legal.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

use glmae::device::launch::{DevicePtr, Kernel, Shared};
use glmae::device::on_host::OnHost;
use glmae::rng::{Purpose, Rng};

use super::card::Card;
use super::faults::{Faults, Kind, hang};
use super::kernels::Launch;
use super::{
    Answer, CAPTURE_IMPLICIT, CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, Code, ILLEGAL_ADDRESS,
    INVALID_HANDLE, INVALID_VALUE, NOT_FOUND, OUT_OF_MEMORY,
};

/// The capture mode in which a thread may allocate meanwhile.
const RELAXED: u32 = 2;

/// Where an upload reads: pinned memory when it runs, other memory when it was started.
pub enum Host {
    Pinned(usize),
    Copied(Vec<u8>),
}

pub enum Work {
    Launch(Launch),
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Fill {
        to: u64,
        byte: u8,
        bytes: usize,
    },
    Up {
        to: u64,
        from: Host,
        bytes: usize,
    },
    Down {
        to: usize,
        from: u64,
        bytes: usize,
    },
    /// Until so much of another stream is done.
    Wait {
        stream: u64,
        until: u64,
    },
    Pass {
        event: u64,
    },
    Graph(Arc<Vec<Work>>),
}

#[derive(Default)]
struct Stream {
    queue: VecDeque<Work>,
    started: u64,
    done: u64,
    capture: Option<Capture>,
}

struct Capture {
    mode: u32,
    works: Vec<Work>,
    is_valid: bool,
}

#[derive(Default)]
struct Event {
    /// Stream, and how much of it must be done.
    recorded: Option<(u64, u64)>,
    passed: Option<Instant>,
}

enum Order {
    Lazy,
    Eager,
    Dice(Rng),
}

impl Order {
    fn from_environment() -> Self {
        if std::env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|v| v == "1") {
            return Self::Eager;
        }
        let text = std::env::var("GLMAE_STAND_IN_ORDER").unwrap_or_default();
        match text.strip_prefix("seed:").map(str::parse) {
            Some(Ok(seed)) => Self::Dice(Rng::new(seed, Purpose::Test, 0, 0, 0)),
            _ if text == "eager" => Self::Eager,
            _ => Self::Lazy,
        }
    }
}

pub struct Driver {
    pub faults: Faults,
    device: OnHost<Card>,
    order: Order,
    /// The code that every call gets since a kernel failed.
    lost: Option<Code>,
    handles: u64,
    streams: BTreeMap<u64, Stream>,
    events: HashMap<u64, Event>,
    graphs: HashMap<u64, Arc<Vec<Work>>>,
    /// Bytes by address.
    allocations: BTreeMap<u64, usize>,
    pinned: BTreeMap<usize, Box<[u64]>>,
}

// SAFETY: the pointers within are to statics and to pinned memory, which the lock around guards.
unsafe impl Send for Driver {}

impl Driver {
    pub fn new(card: Card) -> Self {
        Self {
            faults: Faults::from_environment(),
            device: OnHost::with(card),
            order: Order::from_environment(),
            lost: None,
            handles: 0x1000,
            streams: BTreeMap::new(),
            events: HashMap::new(),
            graphs: HashMap::new(),
            allocations: BTreeMap::new(),
            pinned: BTreeMap::new(),
        }
    }

    pub fn next(&mut self) -> u64 {
        self.handles += 1;
        self.handles
    }

    pub fn alive(&self) -> Answer {
        self.lost.map_or(Ok(()), Err)
    }

    /// Lets some work run that nobody waits for, when the order is one of dice.
    pub fn shuffle(&mut self) -> Answer {
        let Order::Dice(rng) = &mut self.order else { return Ok(()) };
        let draws: Vec<(usize, u64)> =
            (0..2).map(|_| (rng.below(8) as usize, rng.below(4))).collect();
        for (which, more) in draws {
            let Some((&stream, state)) = self.streams.iter().nth(which) else { continue };
            let until = (state.done + more).min(state.started);
            self.advance(stream, until)?;
        }
        Ok(())
    }

    // Kernels.

    pub fn card(&self) -> &Card {
        self.device.engine()
    }

    pub fn shared(&self, kernel: &'static Kernel) -> Result<Shared, Code> {
        self.device.shared(kernel).map_err(|_| INVALID_VALUE)
    }

    pub fn opt_in(&mut self, kernel: &'static Kernel, bytes: u32) -> Answer {
        self.device.allow_shared(kernel.name, bytes).map_err(|_| INVALID_VALUE)
    }

    // Memory.

    pub fn allocated(&self) -> usize {
        self.allocations.values().sum()
    }

    pub fn alloc(&mut self, bytes: usize) -> Result<u64, Code> {
        if bytes == 0 {
            return Err(INVALID_VALUE);
        }
        if self.allocated() + bytes > self.faults.memory {
            return Err(OUT_OF_MEMORY);
        }
        let at = self.device.alloc(bytes, "device memory").map_err(|_| OUT_OF_MEMORY)?.0;
        self.allocations.insert(at, bytes);
        Ok(at)
    }

    /// A driver waits for the device here; a program must not rely on it, so this one does not.
    pub fn free(&mut self, at: u64) -> Answer {
        self.allocations.remove(&at).ok_or(INVALID_VALUE)?;
        self.device.free(DevicePtr(at)).map_err(|e| self.lose(&e.to_string()))
    }

    pub fn alloc_host(&mut self, bytes: usize) -> Result<*mut c_void, Code> {
        let mut memory = vec![u64::MAX; bytes.div_ceil(8).max(1)].into_boxed_slice();
        let at: *mut c_void = memory.as_mut_ptr().cast();
        self.pinned.insert(at.addr(), memory);
        Ok(at)
    }

    pub fn free_host(&mut self, at: *mut c_void) -> Answer {
        self.pinned.remove(&at.addr()).map(|_| ()).ok_or(INVALID_VALUE)
    }

    pub fn is_pinned(&self, at: *const c_void, bytes: usize) -> bool {
        let (start, before) = (at.addr(), self.pinned.range(..=at.addr()).next_back());
        before.is_some_and(|(first, memory)| start + bytes <= first + 8 * memory.len())
    }

    // Streams and events.

    pub fn new_stream(&mut self) -> u64 {
        let stream = self.next();
        self.streams.insert(stream, Stream::default());
        stream
    }

    pub fn drop_stream(&mut self, stream: u64) -> Answer {
        self.finish(stream)?;
        self.streams.remove(&stream);
        Ok(())
    }

    fn stream(&mut self, stream: u64) -> Result<&mut Stream, Code> {
        self.streams.get_mut(&stream).ok_or(INVALID_HANDLE)
    }

    /// Puts work into a stream, or into the graph that it captures.
    pub fn start(&mut self, stream: u64, work: Work) -> Answer {
        // Whether a driver takes ranges without bytes is not said; this one does not.
        if let Work::Copy { bytes: 0, .. }
        | Work::Fill { bytes: 0, .. }
        | Work::Up { bytes: 0, .. }
        | Work::Down { bytes: 0, .. } = work
        {
            return Err(INVALID_VALUE);
        }
        let is_eager = matches!(self.order, Order::Eager);
        let place = self.stream(stream)?;
        if let Some(capture) = &mut place.capture {
            capture.works.push(work);
            return Ok(());
        }
        place.queue.push_back(work);
        place.started += 1;
        if is_eager { self.finish(stream) } else { Ok(()) }
    }

    pub fn finish(&mut self, stream: u64) -> Answer {
        let until = self.stream(stream)?.started;
        self.advance(stream, until)
    }

    pub fn finish_all(&mut self) -> Answer {
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| self.finish(stream))
    }

    /// Runs a stream until `until` of its works are done.
    fn advance(&mut self, stream: u64, until: u64) -> Answer {
        loop {
            // A stream that is gone has finished.
            let Some(place) = self.streams.get_mut(&stream) else { return Ok(()) };
            if place.done >= until {
                return Ok(());
            }
            let Some(work) = place.queue.pop_front() else { return Ok(()) };
            self.run(&work)?;
            self.stream(stream)?.done += 1;
        }
    }

    fn run(&mut self, work: &Work) -> Answer {
        let done = match work {
            Work::Wait { stream, until } => return self.advance(*stream, *until),
            Work::Pass { event } => {
                if let Some(event) = self.events.get_mut(event) {
                    event.passed = Some(Instant::now());
                }
                return Ok(());
            }
            Work::Graph(works) => return works.iter().try_for_each(|work| self.run(work)),
            Work::Launch(launch) => match self.faults.of(launch.kernel.name) {
                Some(Kind::Crash) => return Err(self.lose(launch.kernel.name)),
                Some(Kind::Hang) => hang(),
                Some(Kind::Wrong) => return Ok(()),
                None => self.device.launch(launch.kernel.name, &launch.config, &launch.args()),
            },
            &Work::Copy { to, from, bytes } => {
                self.device.copy(DevicePtr(to), DevicePtr(from), bytes)
            }
            &Work::Fill { to, byte, bytes } => self.device.fill(DevicePtr(to), byte, bytes),
            Work::Up { to, from, bytes } => {
                let from: &[u8] = match from {
                    Host::Copied(from) => from,
                    Host::Pinned(at) => match self.pinned_bytes(*at, *bytes) {
                        Some(from) => from,
                        None => return Err(self.lose("an upload from pinned memory that is gone")),
                    },
                };
                self.device.upload(DevicePtr(*to), from)
            }
            &Work::Down { to, from, bytes } => {
                let to = std::ptr::with_exposed_provenance_mut::<u8>(to);
                // SAFETY: the caller's memory, which it must keep until it has waited for the copy.
                let to = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
                self.device.download(DevicePtr(from), to)
            }
        };
        done.map_err(|e| self.lose(&e.to_string()))
    }

    fn pinned_bytes(&self, at: usize, bytes: usize) -> Option<&[u8]> {
        let (&first, memory) = self.pinned.range(..=at).next_back()?;
        // SAFETY: the box is alive and all its bytes were initialised.
        let all =
            unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u8>(), 8 * memory.len()) };
        all.get(at - first..at - first + bytes)
    }

    /// From here on the context is lost.
    fn lose(&mut self, why: &str) -> Code {
        eprintln!("stand-in: {why}");
        self.lost = Some(ILLEGAL_ADDRESS);
        ILLEGAL_ADDRESS
    }

    pub fn new_event(&mut self) -> u64 {
        let event = self.next();
        self.events.insert(event, Event::default());
        event
    }

    pub fn drop_event(&mut self, event: u64) -> Answer {
        self.events.remove(&event).map(|_| ()).ok_or(INVALID_HANDLE)
    }

    pub fn record(&mut self, event: u64, stream: u64) -> Answer {
        self.not_capturing(Some(stream))?;
        let until = self.stream(stream)?.started + 1;
        let place = self.events.get_mut(&event).ok_or(INVALID_HANDLE)?;
        *place = Event { recorded: Some((stream, until)), passed: None };
        self.start(stream, Work::Pass { event })
    }

    pub fn wait(&mut self, stream: u64, event: u64) -> Answer {
        self.not_capturing(Some(stream))?;
        match self.events.get(&event).ok_or(INVALID_HANDLE)?.recorded {
            Some((other, until)) => self.start(stream, Work::Wait { stream: other, until }),
            // An event that was never recorded holds nobody up.
            None => Ok(()),
        }
    }

    pub fn await_event(&mut self, event: u64) -> Answer {
        match self.events.get(&event).ok_or(INVALID_HANDLE)?.recorded {
            Some((stream, until)) => self.advance(stream, until),
            None => Ok(()),
        }
    }

    pub fn elapsed_ms(&self, begin: u64, end: u64) -> Result<f32, Code> {
        let at = |event| -> Result<Instant, Code> {
            self.events.get(&event).and_then(|e: &Event| e.passed).ok_or(INVALID_HANDLE)
        };
        Ok(at(end)?.saturating_duration_since(at(begin)?).as_secs_f32() * 1e3)
    }

    // Graphs.

    pub fn begin_capture(&mut self, stream: u64, mode: u32) -> Answer {
        let place = self.stream(stream)?;
        if place.capture.is_some() {
            return Err(INVALID_VALUE);
        }
        place.capture = Some(Capture { mode, works: Vec::new(), is_valid: true });
        Ok(())
    }

    pub fn end_capture(&mut self, stream: u64) -> Result<u64, Code> {
        let capture = self.stream(stream)?.capture.take().ok_or(INVALID_VALUE)?;
        if !capture.is_valid {
            return Err(CAPTURE_INVALIDATED);
        }
        Ok(self.keep(Arc::new(capture.works)))
    }

    /// Waiting for a stream that captures, or for any, spoils the capture.
    pub fn not_capturing(&mut self, stream: Option<u64>) -> Answer {
        let meant = |s: u64| stream.is_none_or(|stream| stream == s);
        for (_, place) in self.streams.iter_mut().filter(|(s, _)| meant(**s)) {
            if let Some(capture) = &mut place.capture {
                capture.is_valid = false;
                return Err(CAPTURE_UNSUPPORTED);
            }
        }
        Ok(())
    }

    /// Allocating meanwhile is allowed in the relaxed mode alone.
    pub fn not_unsafe_in_capture(&mut self) -> Answer {
        for place in self.streams.values_mut() {
            if let Some(capture) = place.capture.as_mut().filter(|c| c.mode != RELAXED) {
                capture.is_valid = false;
                return Err(CAPTURE_IMPLICIT);
            }
        }
        Ok(())
    }

    fn keep(&mut self, works: Arc<Vec<Work>>) -> u64 {
        let graph = self.next();
        self.graphs.insert(graph, works);
        graph
    }

    pub fn instantiate(&mut self, graph: u64) -> Result<u64, Code> {
        let works = self.graph(graph)?;
        Ok(self.keep(works))
    }

    pub fn graph(&self, graph: u64) -> Result<Arc<Vec<Work>>, Code> {
        self.graphs.get(&graph).cloned().ok_or(NOT_FOUND)
    }

    pub fn drop_graph(&mut self, graph: u64) -> Answer {
        self.graphs.remove(&graph).map(|_| ()).ok_or(INVALID_HANDLE)
    }
}
