//! A piece of a step that is launched by itself at first and replayed as a graph afterwards.

use super::program::Launches;
use crate::Result;
use crate::device::{Device, Graph};

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
    pub fn run(
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
