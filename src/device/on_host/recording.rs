//! Capture on a device that is executed on the host: launches, copies and fills are written down and run at
//! replay.

use std::sync::Arc;

use super::{Engine, OnHost, lock};
use crate::device::launch::{Arg, DevicePtr, Kernel, LaunchConfig};
use crate::error::Result;

/// What a capture writes down. Memory freed meanwhile stays until the graph goes: replays use it.
#[derive(Default)]
pub(super) struct Recording {
    steps: Vec<Step>,
    freed: Vec<DevicePtr>,
}

enum Step {
    Launch { kernel: &'static str, config: LaunchConfig, args: Vec<Value> },
    Copy { to: DevicePtr, from: DevicePtr, bytes: usize },
    Fill { to: DevicePtr, byte: u8, bytes: usize },
}

/// An argument that owns its bytes.
enum Value {
    Plain(Arg<'static>),
    Pod(Vec<u8>),
}

impl Value {
    fn new(arg: &Arg<'_>) -> Self {
        Self::Plain(match *arg {
            Arg::Ptr(v) => Arg::Ptr(v),
            Arg::I32(v) => Arg::I32(v),
            Arg::U32(v) => Arg::U32(v),
            Arg::I64(v) => Arg::I64(v),
            Arg::U64(v) => Arg::U64(v),
            Arg::F32(v) => Arg::F32(v),
            Arg::Map(map) => Arg::Map(map),
            Arg::Pod(bytes) => return Self::Pod(bytes.to_vec()),
        })
    }

    fn arg(&self) -> Arg<'_> {
        match self {
            Self::Plain(arg) => *arg,
            Self::Pod(bytes) => Arg::Pod(bytes),
        }
    }
}

/// See [`crate::device::Graph`].
pub struct Graph<E: Engine> {
    device: Arc<OnHost<E>>,
    recording: Recording,
}

impl<E: Engine> Graph<E> {
    /// Runs what was recorded, to its end.
    pub fn replay(&mut self) -> Result<()> {
        for step in &self.recording.steps {
            match step {
                Step::Launch { kernel, config, args } => {
                    let args: Vec<Arg<'_>> = args.iter().map(Value::arg).collect();
                    self.device.launch(kernel, config, &args)?;
                }
                Step::Copy { to, from, bytes } => self.device.copy(*to, *from, *bytes)?,
                Step::Fill { to, byte, bytes } => self.device.fill(*to, *byte, *bytes)?,
            }
        }
        Ok(())
    }
}

impl<E: Engine> Drop for Graph<E> {
    fn drop(&mut self) {
        for ptr in std::mem::take(&mut self.recording.freed) {
            if let Err(error) = self.device.free(ptr) {
                tracing::error!(%error, "memory of a graph");
            }
        }
    }
}

impl<E: Engine> OnHost<E> {
    /// See [`crate::device::Device::capture`].
    pub fn capture<T>(
        self: &Arc<Self>,
        record: impl FnOnce() -> Result<T>,
    ) -> Result<(Graph<E>, T)> {
        let capture = self.capturing.begin()?;
        let recorded = record();
        let recording = std::mem::take(&mut *lock(&self.recording));
        drop(capture);
        // On an error this gives the memory back at once.
        let graph = Graph { device: self.clone(), recording };
        Ok((graph, recorded?))
    }

    /// Writes `step` down if a graph is being captured.
    fn note(&self, what: &str, step: impl FnOnce() -> Step) -> Result<bool> {
        let is_captured = self.capturing.takes_in(what)?;
        if is_captured {
            lock(&self.recording).steps.push(step());
        }
        Ok(is_captured)
    }

    pub(super) fn note_launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        args: &[Arg],
    ) -> Result<bool> {
        self.note(kernel.name, || Step::Launch {
            kernel: kernel.name,
            config: *config,
            args: args.iter().map(Value::new).collect(),
        })
    }

    pub(super) fn note_copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<bool> {
        self.note("copy", || Step::Copy { to, from, bytes })
    }

    pub(super) fn note_fill(&self, to: DevicePtr, byte: u8, bytes: usize) -> Result<bool> {
        self.note("fill", || Step::Fill { to, byte, bytes })
    }

    /// Of any thread: the memory stays while the graph lives.
    pub(super) fn note_free(&self, ptr: DevicePtr) -> bool {
        let is_captured = self.capturing.refuse("free").is_err();
        if is_captured {
            lock(&self.recording).freed.push(ptr);
        }
        is_captured
    }
}
