//! Prepared cases in the order a training run asks for them, decoded ahead by threads.
//!
//! Which cases a step gets is a pure function of the step ([`Loader::new`]'s `plan`) and of which
//! files are bad, which is a property of the files; threads and the cache decide only how long
//! [`Loader::get`] waits.
//!
//! A bad case (unreadable, refused, or a panic while it was prepared) is quarantined and replaced
//! by the next good case in the order of the list, round its end. Bad cases are counted as steps ask
//! for them, not when a thread happens to find them, so a run stops at the same step every time. It
//! stops when more than `max_bad_share` of all cases are bad. One bad case is always tolerated in a
//! set of two or more, unless the share is 0; a set in which every case is bad is an error.

mod state;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::state::{Slot, State};
use super::layout::Case;
use super::prepare::{PrepareConfig, Prepared, prepare};
use crate::{Error, Result};

/// How a [`Loader`] works. None of this changes which cases a step gets, except `max_bad_share`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderConfig {
    /// Threads that decode. 0: as many as the machine has cores, at most 8.
    pub threads: usize,
    /// Steps beyond the current one to prepare ahead.
    pub ahead_steps: u64,
    /// Bytes of voxels to keep. Cases the current step needs are kept beyond it.
    pub cache_bytes: usize,
    /// Share of bad cases above which the run ends; see the module.
    pub max_bad_share: f64,
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self { threads: 0, ahead_steps: 2, cache_bytes: 4 << 30, max_bad_share: 0.01 }
    }
}

/// A case that could not be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub index: usize,
    pub id: String,
    pub reason: String,
}

/// What a loader did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoaderStats {
    /// Time [`Loader::get`] waited for data.
    pub wait: Duration,
    /// Cases decoded and prepared.
    pub decoded: u64,
    /// Cases handed out.
    pub served: u64,
    /// Bytes of voxels in the cache now.
    pub cached_bytes: usize,
}

/// What a loader prepares and keeps: an image, or an image with its label.
pub trait Held: Send + Sync + 'static {
    /// Bytes of voxels, for the budget of the cache.
    fn size_bytes(&self) -> usize;
}

impl Held for Prepared {
    fn size_bytes(&self) -> usize {
        Self::size_bytes(self)
    }
}

/// Hands out prepared cases; see the module.
pub struct Loader<T: Held = Prepared> {
    shared: Arc<Shared<T>>,
    plan: Box<dyn Fn(u64) -> Vec<usize> + Send>,
    config: LoaderConfig,
    threads: Vec<JoinHandle<()>>,
    quarantined: Vec<Quarantined>,
    wait: Duration,
    served: u64,
}

type Prepare<T> = dyn Fn(&Case) -> Result<T> + Send + Sync;

struct Shared<T> {
    cases: Vec<Case>,
    prepare: Box<Prepare<T>>,
    budget: usize,
    state: Mutex<State<T>>,
    /// Signals threads: there may be work.
    work: Condvar,
    /// Signals `get`: a case is done.
    done: Condvar,
}

impl Loader {
    /// Starts the threads. `plan` gives the case indices of a step; it must be pure.
    ///
    /// Errors: [`Error::Config`] for no cases or a share outside 0..=1; [`Error::Io`] when threads
    /// cannot be started.
    pub fn new(
        cases: Vec<Case>,
        prepare_config: PrepareConfig,
        plan: impl Fn(u64) -> Vec<usize> + Send + 'static,
        config: LoaderConfig,
    ) -> Result<Self> {
        Self::with_prepare(cases, move |case| prepare(case, &prepare_config), plan, config)
    }
}

impl<T: Held> Loader<T> {
    /// As [`Loader::new`], with another way to prepare a case (a cache, a test).
    pub fn with_prepare(
        cases: Vec<Case>,
        prepare: impl Fn(&Case) -> Result<T> + Send + Sync + 'static,
        plan: impl Fn(u64) -> Vec<usize> + Send + 'static,
        config: LoaderConfig,
    ) -> Result<Self> {
        if cases.is_empty() {
            return Err(Error::Config("there are no cases to load".to_owned()));
        }
        if !(0.0..=1.0).contains(&config.max_bad_share) {
            return Err(Error::Config(format!(
                "data.bad_case_limit = {} must lie in 0..=1",
                config.max_bad_share
            )));
        }
        let state = State::new(cases.len());
        let shared = Arc::new(Shared {
            cases,
            prepare: Box::new(prepare),
            budget: config.cache_bytes,
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let count = match config.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(8)),
            n => n,
        };
        // Built first, so that a failing spawn drops it and ends the threads that did start.
        let mut loader = Self {
            shared,
            plan: Box::new(plan),
            config,
            threads: Vec::with_capacity(count),
            quarantined: Vec::new(),
            wait: Duration::ZERO,
            served: 0,
        };
        for number in 0..count {
            let shared = Arc::clone(&loader.shared);
            let thread = std::thread::Builder::new()
                .name(format!("loader {number}"))
                .spawn(move || shared.run())
                .map_err(|e| Error::threads(&e))?;
            loader.threads.push(thread);
        }
        Ok(loader)
    }

    /// The prepared cases of `step`, in the order of the plan, bad ones replaced.
    ///
    /// Steps may be asked for in any order; in rising order their cases are ready ahead.
    ///
    /// Errors: [`Error::Data`] when too many cases are bad; [`Error::Config`] when the plan names a
    /// case that is not there; whatever else stopped a thread, such as [`Error::OutOfMemory`].
    pub fn get(&mut self, step: u64) -> Result<Vec<Arc<T>>> {
        let count = self.shared.cases.len();
        let plan_of = |step: u64| -> Result<Vec<usize>> {
            let indices = (self.plan)(step);
            match indices.iter().find(|&&i| i >= count) {
                Some(i) => {
                    Err(Error::Config(format!("the plan of step {step} names case {i} of {count}")))
                }
                None => Ok(indices),
            }
        };
        let now = plan_of(step)?;
        let mut later = Vec::new();
        for ahead in 1..=self.config.ahead_steps {
            later.extend(plan_of(step.saturating_add(ahead))?);
        }
        let shared = Arc::clone(&self.shared);
        let started = Instant::now();
        let mut state = shared.lock();
        state.window(&now, &later);
        loop {
            if let Some(error) = state.fatal.take() {
                return Err(error);
            }
            let missing = state.request(&now);
            shared.work.notify_all();
            if !missing {
                break;
            }
            state = shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.wait += started.elapsed();
        let mut batch = Vec::with_capacity(now.len());
        for index in now {
            batch.push(self.take(&mut state, index)?);
        }
        self.served += batch.len() as u64;
        Ok(batch)
    }

    /// The first good case from `index` on; notes the bad ones on the way.
    fn take(&mut self, state: &mut State<T>, index: usize) -> Result<Arc<T>> {
        let count = state.slots.len();
        state.clock += 1;
        let clock = state.clock;
        for index in (index..count).chain(0..index) {
            match state.slots.get_mut(index) {
                Some(Slot::Ready { case, used }) => {
                    *used = clock;
                    return Ok(Arc::clone(case));
                }
                Some(Slot::Bad(reason)) => {
                    let reason = reason.clone();
                    self.quarantine(index, reason)?;
                }
                // `get` waits until the chain of every index ends in a good case or is all bad.
                _ => break,
            }
        }
        Err(self.too_many_bad())
    }

    fn quarantine(&mut self, index: usize, reason: String) -> Result<()> {
        if self.quarantined.iter().any(|q| q.index == index) {
            return Ok(());
        }
        let id = self.shared.cases.get(index).map(|c| c.id.clone()).unwrap_or_default();
        tracing::warn!(case = %id, %reason, "bad case quarantined");
        self.quarantined.push(Quarantined { index, id, reason });
        if self.quarantined.len() > self.tolerated() {
            return Err(self.too_many_bad());
        }
        Ok(())
    }

    /// Bad cases a run survives.
    fn tolerated(&self) -> usize {
        let count = self.shared.cases.len();
        if self.config.max_bad_share == 0.0 {
            return 0;
        }
        let share = (self.config.max_bad_share * count as f64).floor() as usize;
        share.max(1).min(count - 1)
    }

    fn too_many_bad(&self) -> Error {
        let (bad, count) = (self.quarantined.len(), self.shared.cases.len());
        let listed: Vec<String> =
            self.quarantined.iter().take(10).map(|q| format!("{}: {}", q.id, q.reason)).collect();
        let more = if bad > 10 { ", ..." } else { "" };
        let first = self.quarantined.first().and_then(|q| self.shared.cases.get(q.index));
        let path = first.and_then(|c| c.images.first()).cloned().unwrap_or_default();
        Error::data(
            path,
            format!(
                "{bad} of {count} cases cannot be used, {} are tolerated (data.bad_case_limit = \
                 {}): {}{more}",
                self.tolerated(),
                self.config.max_bad_share,
                listed.join("; ")
            ),
        )
    }

    /// Bad cases that steps asked for so far, in the order they were met.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }

    /// The cases, by index.
    pub fn cases(&self) -> &[Case] {
        &self.shared.cases
    }

    pub fn stats(&self) -> LoaderStats {
        let state = self.shared.lock();
        LoaderStats {
            wait: self.wait,
            decoded: state.decoded,
            served: self.served,
            cached_bytes: state.bytes,
        }
    }
}

impl<T: Held> Drop for Loader<T> {
    /// Ends the threads; a case being decoded is finished first.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread catches its own panics, so the result says nothing.
            let _ = thread.join();
        }
    }
}

impl<T: Held> Shared<T> {
    /// A panic inside the lock cannot leave the state half changed in a way that matters more than
    /// going on.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a thread does: take a job, decode it without the lock, store it.
    fn run(&self) {
        let mut state = self.lock();
        loop {
            if state.stop {
                return;
            }
            let Some(index) = state.next_job(self.budget) else {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.slots[index] = Slot::Working;
            state.working += 1;
            drop(state);
            let result = catch_unwind(AssertUnwindSafe(|| (self.prepare)(&self.cases[index])));
            state = self.lock();
            state.working -= 1;
            state.decoded += 1;
            state.slots[index] = match result {
                Ok(Ok(case)) => {
                    state.bytes += case.size_bytes();
                    state.largest = state.largest.max(case.size_bytes());
                    state.clock += 1;
                    Slot::Ready { case: Arc::new(case), used: state.clock }
                }
                Ok(Err(
                    error @ (Error::Config(_)
                    | Error::OutOfMemory(_)
                    | Error::Device(_)
                    | Error::Stopped { .. }),
                )) => {
                    state.fatal = Some(error);
                    Slot::Absent
                }
                Ok(Err(error)) => Slot::Bad(error.to_string()),
                Err(panic) => Slot::Bad(format!("panic: {}", panic_text(&*panic))),
            };
            state.evict(self.budget, true);
            state.evict(self.budget, false);
            self.done.notify_all();
            self.work.notify_all();
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("of unknown kind")
}

#[cfg(test)]
mod tests;
