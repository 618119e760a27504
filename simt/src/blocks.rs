//! Order between blocks (or clusters of blocks), which share no clocks: who has come to an atomic sees what those
//! before it had let others see there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::clocks::{Arrival, Objects};
use crate::shadow::Stamp;

/// What is seen of other blocks.
#[derive(Clone, Default)]
pub struct Blocks {
    all: HashMap<u32, Arc<Arrival>>,
    /// Whether something was added since the last fence between the proxies.
    is_unfenced: bool,
    /// How often something was added.
    pub version: u64,
}

impl Blocks {
    /// Adds what a block lets others see.
    pub fn add(&mut self, block: u32, arrival: &Arc<Arrival>) {
        match self.all.get_mut(&block) {
            Some(there) if Arc::ptr_eq(there, arrival) => return,
            Some(there) => Arc::make_mut(there).join(arrival),
            None => _ = self.all.insert(block, arrival.clone()),
        }
        self.is_unfenced = true;
        self.version += 1;
    }

    /// Adds all that another one sees.
    pub fn join(&mut self, other: &Self) {
        other.all.iter().for_each(|(&block, arrival)| self.add(block, arrival));
    }

    /// A fence between the proxies that is for global memory: what is seen now, the asynchronous proxy sees as well.
    pub fn fence_proxy(&mut self) {
        if std::mem::take(&mut self.is_unfenced) {
            self.all.values_mut().for_each(|a| Arc::make_mut(a).fence_proxy(Objects::Global));
        }
    }
}

/// What the block of an access sees of others.
#[derive(Clone, Copy)]
pub enum Others<'a> {
    /// All that these have done.
    Whole(&'a HashSet<u32>),
    Seen(&'a Blocks),
}

impl Others<'_> {
    /// Whether there is any order with this block.
    pub fn know(self, block: u32) -> bool {
        match self {
            Self::Whole(blocks) => blocks.contains(&block),
            Self::Seen(blocks) => blocks.all.contains_key(&block),
        }
    }

    /// Whether this access of another block has been seen.
    pub fn have(self, other: Stamp) -> bool {
        match self {
            Self::Whole(blocks) => blocks.contains(&other.block()),
            Self::Seen(blocks) => {
                let arrival = blocks.all.get(&other.block());
                arrival.is_some_and(|arrival| arrival.has(other.thread(), other.clock()))
            }
        }
    }

    /// Whether the asynchronous proxy can see it: shared memory is never another cluster's.
    pub fn proxy_has(self, other: Stamp) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Seen(blocks) => blocks.all.get(&other.block()).is_some_and(|arrival| {
                arrival.proxy_has(Objects::Global, other.thread(), other.clock())
            }),
        }
    }
}
