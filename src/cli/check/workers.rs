//! Cases of ops in processes of their own. A fault of a kernel ends a CUDA context, and a kernel that
//! never ends cannot be stopped: only a process of its own keeps that from the other cases.
//!
//! A worker reads numbers of units from stdin and answers each with a line of JSON on stdout.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use glmae::Error;
use glmae::device::Device;
use glmae::lab::check::ops::{Unit, Verdict};
use glmae::report::progress::WorkProgress;
use serde::{Deserialize, Serialize};

/// Faults of one op after which its other cases are not run: each costs a process.
const FAULTS_OF_AN_OP: usize = 3;
/// What a worker may take to open the device, and to go once it has been told to.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(3);

pub struct Budget {
    pub jobs: usize,
    pub unit: Duration,
    pub until: Option<Instant>,
}

impl Budget {
    /// `limit`, or what is left until all of it ends; at least a second.
    fn left(&self, limit: Duration) -> Duration {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        left.map_or(limit, |left| limit.min(left.max(Duration::from_secs(1))))
    }
}

/// What became of a unit.
#[derive(Clone, Debug)]
pub enum Checked {
    Passed(Verdict),
    /// The numbers are not right.
    Wrong(Verdict),
    /// The device failed, and the context with it.
    Fault(String),
    Hang(String),
    /// The op refused, or the program failed.
    Failed(String),
    NotRun(String),
}

impl Checked {
    /// Kind and message of a failure.
    pub fn failure(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Passed(_) | Self::NotRun(_) => None,
            Self::Wrong(verdict) => Some(("wrong", verdict.fault.as_deref().unwrap_or_default())),
            Self::Fault(message) => Some(("fault", message)),
            Self::Hang(message) => Some(("hang", message)),
            Self::Failed(message) => Some(("error", message)),
        }
    }

    fn of(result: glmae::Result<Verdict>) -> Self {
        match result {
            Ok(verdict) if verdict.fault.is_some() => Self::Wrong(verdict),
            Ok(verdict) => Self::Passed(verdict),
            Err(Error::Device(message)) => Self::Fault(message),
            Err(e) => Self::Failed(e.to_string()),
        }
    }
}

/// A worker's answer.
#[derive(Serialize, Deserialize)]
enum Answer {
    Ready,
    Verdict(Verdict),
    /// The context may be gone: the worker ends after this.
    Fault(String),
    Failed(String),
}

/// What a worker does: reads, checks, answers, until stdin ends or the device fails.
pub fn answer(units: &[Unit], device: &Device) -> Result<()> {
    let send = |answer: &Answer| -> Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(answer)?)?;
        Ok(out.flush()?)
    };
    send(&Answer::Ready)?;
    for line in io::stdin().lines() {
        let line = line?;
        let unit = line.trim().parse().ok().and_then(|i: usize| units.get(i));
        let unit = unit.with_context(|| format!("no unit '{line}'"))?;
        let checked = Checked::of(unit.check(&[device.clone(), device.clone()]));
        match checked {
            Checked::Passed(verdict) | Checked::Wrong(verdict) => send(&Answer::Verdict(verdict))?,
            Checked::Fault(message) => {
                send(&Answer::Fault(message))?;
                // Nothing of the device is usable, not even to let go of it.
                std::process::exit(glmae::error::exit::DEVICE.into());
            }
            Checked::Failed(message) | Checked::Hang(message) | Checked::NotRun(message) => {
                send(&Answer::Failed(message))?;
            }
        }
    }
    Ok(())
}

/// Without processes: for tools that look into this one. The first fault of the device ends it.
pub fn in_process(units: &[Unit], device: &Device) -> Vec<Checked> {
    let mut progress = WorkProgress::stderr("cases", units.len() as u64);
    let mut gone = None;
    let mut checked = Vec::new();
    for unit in units {
        checked.push(match &gone {
            Some(by) => Checked::NotRun(format!("the context was lost by {by}")),
            None => Checked::of(unit.check(&[device.clone(), device.clone()])),
        });
        if matches!(checked.last(), Some(Checked::Fault(_))) && gone.is_none() {
            gone = Some(unit.name());
        }
        progress.advance(1, &unit.name());
    }
    progress.finish();
    checked
}

/// The units, shared out to `budget.jobs` processes that are started with `arguments`. `so_far` sees what
/// there is about once a second, should there be no end.
pub fn in_children(
    units: &[Unit],
    arguments: &[String],
    budget: &Budget,
    so_far: &(dyn Fn(&[Checked]) + Sync),
) -> Result<Vec<Checked>> {
    let program = std::env::current_exe().context("the path of this program")?;
    let start = |is_blocking| {
        let limit = budget.left(START);
        Worker::start(&program, arguments, is_blocking, limit)
    };
    let progress = Mutex::new(WorkProgress::stderr("cases", units.len() as u64));
    let next = Mutex::new(0);
    let faults: Mutex<HashMap<&str, usize>> = Mutex::default();
    let none = || Checked::NotRun("its process has not come to it".into());
    let results = Mutex::new((vec![none(); units.len()], Instant::now()));
    let work = || {
        let mut worker: Option<Worker> = None;
        loop {
            let index = {
                let mut next = next.lock().expect("no thread panics while it holds this");
                let index = *next;
                *next += 1;
                index
            };
            let Some(unit) = units.get(index) else { break };
            let checked = match excuse(unit, &faults, budget) {
                Some(why) => Checked::NotRun(why),
                None => one(index, &mut worker, &start, budget),
            };
            if matches!(checked, Checked::Fault(_) | Checked::Hang(_)) {
                let mut faults = faults.lock().expect("as above");
                *faults.entry(unit.op.name()).or_default() += 1;
            }
            let mut results = results.lock().expect("as above");
            results.0[index] = checked;
            if results.1.elapsed() >= Duration::from_secs(1) {
                so_far(&results.0);
                results.1 = Instant::now();
            }
            drop(results);
            progress.lock().expect("as above").advance(1, &unit.name());
        }
    };
    std::thread::scope(|scope| {
        let start = || Builder::new().spawn_scoped(scope, work);
        // Those that did start end by themselves.
        (0..budget.jobs).try_for_each(|_| start().map(drop).map_err(|e| Error::threads(&e)))
    })?;
    progress.into_inner().expect("as above").finish();
    Ok(results.into_inner().expect("as above").0)
}

/// Why a unit is not run, if it is not.
fn excuse(unit: &Unit, faults: &Mutex<HashMap<&str, usize>>, budget: &Budget) -> Option<String> {
    if budget.until.is_some_and(|until| Instant::now() >= until) {
        return Some("the time was up".into());
    }
    let faults = faults.lock().expect("no thread panics while it holds this");
    let count = faults.get(unit.op.name()).copied().unwrap_or(0);
    (count >= FAULTS_OF_AN_OP).then(|| format!("{} has faulted {count} times", unit.op.name()))
}

/// One unit; a fault is looked at again with every launch waited for, which names the kernel.
fn one(
    index: usize,
    worker: &mut Option<Worker>,
    start: &dyn Fn(bool) -> Result<Worker>,
    budget: &Budget,
) -> Checked {
    let ready = match worker.take() {
        Some(ready) => Ok(ready),
        None => start(false),
    };
    let mut ready = match ready {
        Ok(ready) => ready,
        Err(e) => return Checked::Failed(format!("{e:#}")),
    };
    match ready.ask(index, budget.left(budget.unit)) {
        Ok(checked @ Checked::Fault(_)) => {
            let again = start(true).and_then(|mut w| w.ask(index, budget.left(budget.unit)));
            match again {
                Ok(Checked::Fault(message)) => Checked::Fault(message),
                Ok(_) => match checked {
                    Checked::Fault(message) => {
                        Checked::Fault(format!("{message} (not when every launch is waited for)"))
                    }
                    other => other,
                },
                Err(_) => checked,
            }
        }
        Ok(checked @ Checked::Hang(_)) => checked,
        Ok(checked) => {
            *worker = Some(ready);
            checked
        }
        Err(e) => Checked::Fault(format!("{e:#}")),
    }
}

struct Worker {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
}

impl Worker {
    fn start(
        program: &std::path::Path,
        arguments: &[String],
        is_blocking: bool,
        limit: Duration,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("RAYON_NUM_THREADS", "2");
        if is_blocking {
            // The driver then returns from a launch when it is done, with its error.
            command.env("CUDA_LAUNCH_BLOCKING", "1");
        }
        let mut child =
            command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let (Some(requests), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            anyhow::bail!("a worker without pipes");
        };
        let (sender, answers) = channel();
        let read = move || {
            for line in BufReader::new(output).lines().map_while(io::Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        };
        Builder::new().spawn(read).map_err(|e| Error::threads(&e))?;
        let mut worker = Self { child, requests, answers };
        match worker.receive(limit)? {
            Some(Answer::Ready) => Ok(worker),
            None => anyhow::bail!("a worker had not opened the device after {} s", limit.as_secs()),
            _ => anyhow::bail!("a worker did not start (what it said stands above)"),
        }
    }

    /// `None` when the time is up.
    fn receive(&mut self, limit: Duration) -> Result<Option<Answer>> {
        match self.answers.recv_timeout(limit) {
            Ok(line) => Ok(Some(serde_json::from_str(&line).context("a worker's answer")?)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.child.wait().context("waiting for a worker")?;
                anyhow::bail!("the process of the case ended with {status}")
            }
        }
    }

    fn ask(&mut self, index: usize, limit: Duration) -> Result<Checked> {
        let sent = writeln!(self.requests, "{index}").and_then(|()| self.requests.flush());
        if sent.is_err() {
            let status = self.child.wait().context("waiting for a worker")?;
            anyhow::bail!("the process of the case ended with {status}");
        }
        Ok(match self.receive(limit)? {
            Some(Answer::Verdict(v)) if v.fault.is_some() => Checked::Wrong(v),
            Some(Answer::Verdict(v)) => Checked::Passed(v),
            Some(Answer::Fault(message)) => Checked::Fault(message),
            Some(Answer::Failed(message)) => Checked::Failed(message),
            Some(Answer::Ready) => Checked::Failed("a worker answered out of turn".into()),
            None => Checked::Hang(format!("no answer after {} s", limit.as_secs())),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A kernel that hangs keeps its process alive when asked politely.
        let _ = self.child.kill();
        // A process that waits in the driver may stay even when killed; the others do not wait for it.
        let told = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && told.elapsed() < END {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
