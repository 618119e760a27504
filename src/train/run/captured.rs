//! A piece of a step that is launched by itself at first and replayed as a graph afterwards.

use crate::Result;
use crate::device::{Device, Graph};

/// How the launches of a step are started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Launches {
    /// One by one: the only way on the CPU; elsewhere to compare with, and for profilers.
    Single,
    /// The first step one by one, later ones as a captured graph where the device can.
    #[default]
    Graph,
}

/// How pieces of the step under way are started.
pub struct Starter {
    pub device: Device,
    pub launches: Launches,
    /// Steps so far.
    pub steps: u64,
}

/// The piece: its graph, once there is one, and where it leaves its results.
pub struct Captured<T> {
    graph: Option<Graph>,
    outputs: Option<T>,
}

impl<T> Default for Captured<T> {
    fn default() -> Self {
        Self { graph: None, outputs: None }
    }
}

impl<T> Captured<T> {
    /// Runs the piece that `launch` launches: now, or from a graph when `launches` wants one, the device
    /// can, and this is not the first step (`steps` so far), which loads modules and finds sizes.
    /// `launch` must do the same every time and upload or download nothing.
    fn run(
        &mut self,
        device: &Device,
        launches: Launches,
        steps: u64,
        launch: impl FnOnce() -> Result<T>,
    ) -> Result<()> {
        if launches != Launches::Graph || !device.captures() || steps == 0 {
            // The memory of the results before is free for these.
            self.outputs = None;
            self.outputs = Some(launch()?);
            return Ok(());
        }
        if self.graph.is_none() {
            // What single launches have left goes first: the graph gets memory of its own.
            self.outputs = None;
            device.release_unused()?;
            let (graph, outputs) = device.capture(launch)?;
            (self.graph, self.outputs) = (Some(graph), Some(outputs));
        }
        self.graph.as_mut().map_or(Ok(()), Graph::replay)
    }

    /// The results of the last run.
    pub fn outputs(&self) -> Option<&T> {
        self.outputs.as_ref()
    }
}

/// Runs a piece that is a field of the program which launches it.
pub fn run_piece<P, T>(
    program: &mut P,
    starter: &Starter,
    piece: fn(&mut P) -> &mut Captured<T>,
    launch: impl FnOnce(&mut P) -> Result<T>,
) -> Result<()> {
    // Taken out, since `launch` needs the program as well.
    let mut taken = std::mem::take(piece(program));
    let run = taken.run(&starter.device, starter.launches, starter.steps, || launch(program));
    *piece(program) = taken;
    run
}
