//! Pre-training: volumes in, an encoder out.

pub mod memory;
pub mod program;
pub mod schedule;
mod training;
mod volumes;
pub mod watch;

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use self::memory::plan;
use self::training::PretrainRun;
use super::run::{
    Engine, MemoryPlan, Opening, Reads, RunFolder, RunKind, RunOptions, Summary, changes, resume,
};
use crate::checkpoint::{self, DataFingerprint, State, activation_dtype};
use crate::config::{Config, cores};
use crate::data::layout::DiscoverOptions;
use crate::data::loader::{Loader, LoaderConfig, Quarantined};
use crate::data::{discover, exclude, hold_out};
use crate::glmae::inputs::{check_view_sizes, prepare_config};
use crate::glmae::model::Networks;
use crate::infer::heldout::HeldOut;
use crate::train::run::order::CaseOrder;
use crate::{Error, Result, parallel};

/// What a pre-training adds to its [`Summary`].
#[derive(Clone, Debug, Default)]
pub struct Pretrained {
    /// Reconstruction on held-out cases at the end; absent when none are held out.
    pub heldout: Option<HeldOut>,
    /// Cases that were left out.
    pub quarantined: Vec<Quarantined>,
}

/// Pre-trains `config` on the cases at `config.data.path`.
///
/// The run uses a thread pool of its own with `train.threads` threads (0: all cores); its results do
/// not depend on how many there are.
///
/// Errors: [`Error::Config`] and [`Error::Data`] before anything is written when configuration,
/// data or the checkpoint to resume from cannot be used, [`Error::OutOfMemory`] when the run does not
/// fit; [`Error::Stopped`] after a signal, with
/// the checkpoint written; [`Error::NotFinite`] after `train.max_bad_steps` bad steps in a row;
/// [`Error::Io`].
pub fn pretrain(config: &Config, options: &RunOptions) -> Result<Summary<Pretrained>> {
    config.validate()?;
    parallel::in_pool(cores::threads(config.train.threads), || match start(config, options)? {
        Start::Planned(plan, notes) => Ok(Summary::of_plan(plan, notes, Pretrained::default())),
        Start::Ready(engine) => Ok(engine.run()?.map(PretrainRun::found)),
    })
}

/// What [`start`] comes to.
enum Start<'a> {
    /// Of a dry run, with what deserves attention.
    Planned(MemoryPlan, Vec<String>),
    Ready(Box<Engine<'a, PretrainRun<'a>>>),
}

/// Everything before the first step.
fn start<'a>(config: &'a Config, options: &'a RunOptions) -> Result<Start<'a>> {
    let device = &options.device;
    if config.data.path.is_empty() {
        return Err(Error::Config("data.path is empty: pass --data PATH".into()));
    }
    let source = discover(Path::new(&config.data.path), &DiscoverOptions::default())?;
    let all = exclude(source.cases, &config.data.exclude)?;
    let (cases, held) = hold_out(&all, config.data.holdout_every)?;
    check_view_sizes(config, &all)?;
    let notes = [config.warnings(), source.left_out.lines()].concat();
    let mut folder = RunFolder::look(&options.out, RunKind::Pretrain, &options.resume)?;
    let how = prepare_config(config);
    let per_step = config.train.batch * config.train.accumulation;
    let reads = Reads {
        cases: &cases,
        validation: &[],
        prepare: &how,
        label_bytes: 0,
        cache_mib: config.data.cache_mib,
        workers: config.data.workers,
        per_step,
        judging: 0,
    };
    let plan = plan(config, device)?.on_host(device, &reads);
    plan.host.check("pre-training")?;
    if options.dry_run {
        return Ok(Start::Planned(plan, notes));
    }
    let dtype = activation_dtype(config, device)?;
    let nets = Networks::new(device, dtype, config)?;
    folder.lock()?;
    let resumed = resume(&mut folder, &options.resume, |path| {
        let info = checkpoint::read_info(path)?;
        let changed = changed_since(&info.config, config)?;
        let (info, state) = checkpoint::load_state(path, device, config, &nets)?;
        Ok((info.step, (info.data, state, changed)))
    })?;
    let data = DataFingerprint::new(&cases);
    let (state, mut warnings, from) = match resumed {
        None => (State::init(device, dtype, config, &nets)?, Vec::new(), None),
        Some(resumed) => {
            let (then, state, changed) = resumed.state;
            let mut warnings = [resumed.warnings, changed].concat();
            if then != data {
                warnings.push(data.changed_since(&then));
            }
            (state, warnings, Some(resumed.path))
        }
    };
    let step = state.counters.step;
    let order = Arc::new(CaseOrder::new(config.train.seed, cases.len(), per_step));
    let loader_config = LoaderConfig {
        threads: cores::workers(config.data.workers, cases.len()),
        cache_bytes: config.data.cache_mib << 20,
        max_bad_share: config.data.bad_case_limit,
        ..LoaderConfig::default()
    };
    let order_of = Arc::clone(&order);
    let mut loader = Loader::new(cases, how, move |step| order_of.step(step), loader_config)?;
    // Bad data shows here, before a new folder is made.
    if step < config.train.steps {
        loader.get(step)?;
    }
    let start = json!({ "cases": data.cases, "held_out": held.len() });
    warnings.extend(notes);
    let run = folder.run().to_owned();
    let training = PretrainRun::new(config, options, nets, state, loader, &order, held, data, run)?;
    let opening = Opening {
        options,
        folder,
        pace: training::pace(config),
        order,
        config: config.to_toml()?,
        columns: training::columns(),
        plan,
        resumed: from,
        warnings,
        start,
    };
    Ok(Start::Ready(Box::new(Engine::open(training, opening)?)))
}

/// What a resume changes, as lines for the log.
///
/// Errors: [`Error::Config`] when the model itself differs, with the keys and both values.
fn changed_since(saved: &Config, now: &Config) -> Result<Vec<String>> {
    let differing = changes(&saved.to_toml()?, &now.to_toml()?)?;
    let (model, other): (Vec<_>, Vec<_>) =
        differing.into_iter().partition(|(key, _)| is_model_key(key));
    if model.is_empty() {
        return Ok(other.into_iter().map(|(_, line)| format!("changed since: {line}")).collect());
    }
    let lines: Vec<String> = model.into_iter().map(|(_, line)| line).collect();
    Err(Error::Config(format!(
        "the checkpoint is of another model (checkpoint -> configuration): {}; set these back, or \
         start a new run with another --out",
        lines.join("; ")
    )))
}

/// Whether a key makes another model: its parameters, its tables, or which networks there are.
fn is_model_key(key: &str) -> bool {
    key != "model.recompute"
        && (key.starts_with("model.")
            || key.starts_with("head.")
            || ["views.global_size", "views.local_size", "loss.objective"].contains(&key))
}
