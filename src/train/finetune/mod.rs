//! Fine-tuning around a pre-trained encoder: UNETR for segmentation, a linear layer for classes of
//! images.

pub mod cases;
pub mod crops;
pub mod encoder;
pub mod memory;
mod pictures;
pub mod program;
mod training;
mod validate;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::cases::{PreparedCase, loaded};
use self::crops::TrainingCase;
use self::encoder::Origin;
use self::program::FinetuneLoss;
use self::training::{FinetuneRun, Parts};
use super::run::{
    Engine, Opening, Reads, Resumed, RunFolder, RunKind, RunOptions, Summary, changes, resume,
};
use crate::checkpoint::segmenter::{self, Best, FinetuneInfo, Start};
use crate::checkpoint::{DataFingerprint, FinetuneState, activation_dtype_of};
use crate::config::finetune::{ENCODER_KEYS, FinetuneConfig};
use crate::config::{Explicit, cores};
use crate::data::loader::{Loader, LoaderConfig};
use crate::data::{LeftOut, PrepareConfig, prepared_dims};
use crate::device::{DType, Device};
use crate::interchange::ImportReport;
use crate::nn::network::NetworkConfig;
use crate::seg::task::{Target, TaskCase};
use crate::seg::{Task, presence};
use crate::train::run::order::CaseOrder;
use crate::{Error, Result, parallel};

/// What a run is told beside its configuration.
#[derive(Clone, Debug)]
pub struct FinetuneOptions {
    pub run: RunOptions,
    /// What the weights are before the first step.
    pub origin: Origin,
    /// Keys that the user wrote: one that the encoder decides otherwise is refused.
    pub explicit: Explicit,
}

impl FinetuneOptions {
    /// A run from scratch into `out` on `device` that resumes what it finds there.
    pub fn new(out: impl Into<PathBuf>, device: Device) -> Self {
        Self {
            run: RunOptions::new(out, device),
            origin: Origin::Scratch,
            explicit: Explicit::default(),
        }
    }

    /// The same from the encoder at `path`.
    pub fn with_encoder(self, path: impl Into<PathBuf>) -> Self {
        Self { origin: Origin::Encoder { path: path.into(), partial: false }, ..self }
    }
}

/// What a fine-tuning adds to its [`Summary`].
#[derive(Clone, Debug)]
pub struct Finetuned {
    /// Whether the network tells classes of images, not of voxels.
    pub classifies: bool,
    /// The last validation: mean Dice of the regions and that of each; of image classes the accuracy, then
    /// balanced accuracy and AUC, NaN where they are undefined.
    pub validation: Option<(f64, Vec<(String, f64)>)>,
    pub best: Option<Best>,
    pub training_cases: usize,
    pub validation_cases: usize,
    pub parameters: usize,
    /// What became of the encoder's file.
    pub encoder: Option<ImportReport>,
}

/// Fine-tunes on the task and set of `config.data`.
///
/// Errors: as [`crate::train::pretrain::pretrain`]; [`Error::Data`] for label maps that do not fit;
/// [`Error::Config`] for a run folder that began with another encoder.
pub fn finetune(config: &FinetuneConfig, options: &FinetuneOptions) -> Result<Summary<Finetuned>> {
    parallel::in_pool(cores::threads(config.train.threads), || match prepare(config, options)? {
        Prepared::Planned(summary) => Ok(*summary),
        Prepared::Ready(engine) => Ok(engine.run()?.map(FinetuneRun::found)),
    })
}

/// What [`prepare`] comes to.
enum Prepared<'a> {
    /// Of a dry run.
    Planned(Box<Summary<Finetuned>>),
    Ready(Box<Engine<'a, FinetuneRun<'a>>>),
}

/// Everything before the first step.
fn prepare<'a>(
    config: &'a FinetuneConfig,
    FinetuneOptions { run: options, origin, explicit }: &'a FinetuneOptions,
) -> Result<Prepared<'a>> {
    let (d, t, device) = (&config.data, &config.train, &options.device);
    if d.path.is_empty() || d.task.is_empty() {
        return Err(Error::Config("give the set with --data and its task with --task".into()));
    }
    let task_text = Task::text(&d.task)?;
    let task = Task::parse(&task_text, &d.task)?;
    let [training, validation] = cases::find(&task, d, t.seed)?;
    let dtype = dtype(config, device)?;
    let roi = d.roi.unwrap_or(task.image.roi);
    let how = PrepareConfig { min_size: roi, ..task.prepare_config() };
    let mut folder = RunFolder::look(&options.out, RunKind::Finetune, &options.resume)?;

    let begun = encoder::begin(origin, &folder, &options.resume)?;
    let network = match &begun.network {
        Some(network) => network.clone(),
        None => encoder::network_config(config, begun.encoder.as_ref(), &task, roi),
    };
    network.check()?;
    let fitting = begun.encoder.map(|encoder| encoder::fit(encoder, &network.vit())).transpose()?;
    let asked = config;
    let config = &encoder::used(asked, &network);
    asked.refuse_ignored(config, explicit)?;
    let loss = FinetuneLoss::of(task.kind);
    let images: Vec<_> = training.iter().map(loaded).collect();
    let judged: Vec<_> = validation.iter().map(loaded).collect();
    let sizes: Vec<_> = judged.iter().filter_map(|case| prepared_dims(case, &how)).collect();
    let reads = Reads {
        cases: &images,
        validation: &judged,
        prepare: &how,
        label_bytes: u64::from(loss != FinetuneLoss::CrossEntropy),
        cache_mib: config.data.cache_mib,
        workers: config.data.workers,
        per_step: t.batch * t.accumulation,
        judging: memory::judging_bytes(config, &network, device, &sizes),
    };
    let plan = memory::plan(config, &network, loss, device, &sizes)?.on_host(device, &reads);
    plan.host.check("fine-tuning")?;
    let found = Finetuned {
        classifies: loss == FinetuneLoss::CrossEntropy,
        validation: None,
        best: None,
        training_cases: training.len(),
        validation_cases: validation.len(),
        parameters: plan.student_parameters as usize,
        encoder: fitting.as_ref().map(|encoder| encoder.report.clone()),
    };
    let mut warnings = config.warnings();
    warnings.extend(other_counts(config, &task, [training.len(), validation.len()]));
    warnings.extend(absent_image_classes(&task, &training));
    let files = training.iter().chain(&validation).flat_map(|case| &case.images);
    warnings.extend(LeftOut::beside(files)?.lines());
    if options.dry_run {
        cases::look_at([&training, &validation], &how, &task.label_rules())?;
        return Ok(Prepared::Planned(Box::new(Summary::of_plan(plan, warnings, found))));
    }

    let data = DataFingerprint::new(&images);
    let frozen = config.model.frozen_encoder;
    folder.lock()?;
    let resumed = resume(&mut folder, &options.resume, |path| {
        let info = segmenter::read_info(path)?;
        same_run(path, &info, &task, &network, begun.start.as_ref())?;
        let (info, state) = segmenter::load_state(path, device, dtype, frozen)?;
        Ok((state.counters.step, (info, state)))
    })?;
    let start = match (&begun.start, &resumed) {
        (Some(start), _) => start.clone(),
        (None, Some(Resumed { state: (info, _), .. })) => {
            info.start.clone().unwrap_or(Start::Scratch)
        }
        (None, None) => return Err(encoder::nothing_begun(&options.out)),
    };
    let (state, best, from) = match resumed {
        None => {
            let mut segmenter = encoder::start(device, dtype, &network, t.seed, fitting.as_ref())?;
            if frozen {
                segmenter.freeze_encoder();
            }
            (FinetuneState::new(segmenter)?, None, None)
        }
        Some(Resumed { path, state: (info, state), warnings: damaged, .. }) => {
            warnings.extend(damaged);
            if let (None, Some(now)) = (&info.start, &begun.start) {
                warnings.push(format!(
                    "{} does not say what it began with, as an older version wrote it: taken to be {now}, which \
                     is not read into the network again",
                    path.display()
                ));
            }
            warnings.extend(changed_since(&info, config, &task_text)?);
            if info.data != data {
                warnings.push(data.changed_since(&info.data));
            }
            (state, info.best(), Some(path))
        }
    };
    let per_step = t.batch * t.accumulation;
    let steps_per_epoch = training.len().div_ceil(per_step) as u64;
    let order = Arc::new(CaseOrder::new(t.seed, training.len(), per_step));
    let loader = loader(config, &task, training, how, &order)?;
    let parts = Parts {
        config: config.clone(),
        options,
        task,
        task_text,
        loss,
        prepare: how,
        validation,
        state,
        loader,
        data,
        steps_per_epoch,
        run: folder.run().to_owned(),
        start,
        best,
        found,
    };
    let training = FinetuneRun::new(parts)?;
    let opening = Opening {
        options,
        folder,
        pace: training.pace(),
        order,
        config: config.to_toml()?,
        columns: training.columns(),
        plan,
        resumed: from,
        warnings,
        start: training.start_record(),
    };
    Ok(Prepared::Ready(Box::new(Engine::open(training, opening)?)))
}

/// A set of another size than the task's is worth a word.
fn other_counts(config: &FinetuneConfig, task: &Task, found: [usize; 2]) -> Vec<String> {
    let is_whole = config.data.subset == 0 && config.data.fraction == 1.0;
    if found == task.cases || !is_whole {
        return Vec::new();
    }
    let ([a, b], [c, e]) = (found, task.cases);
    vec![format!("{a} training and {b} validation cases; the task is of {c} and {e}")]
}

/// Of images with one class each the set says which there are; classes of voxels show while cases are read.
fn absent_image_classes(task: &Task, training: &[TaskCase]) -> Option<String> {
    let mut with = [0; 256];
    for case in training {
        match case.target {
            Target::Class(class) => with[usize::from(class)] += 1,
            Target::Labels(_) => return None,
        }
    }
    presence::absent(task, &with, training.len())
}

/// Reads and prepares training cases ahead; the first step's are there when this returns, so that bad data
/// shows before a new folder is made.
fn loader(
    config: &FinetuneConfig,
    task: &Task,
    training: Vec<TaskCase>,
    how: PrepareConfig,
    order: &Arc<CaseOrder>,
) -> Result<Loader<TrainingCase>> {
    let loader_config = LoaderConfig {
        threads: cores::workers(config.data.workers, training.len()),
        cache_bytes: config.data.cache_mib << 20,
        // A labelled case that cannot be used is a mistake in the set.
        max_bad_share: 0.0,
        ..LoaderConfig::default()
    };
    let images: Vec<_> = training.iter().map(loaded).collect();
    let rules = task.label_rules();
    let by_id: HashMap<String, TaskCase> =
        training.into_iter().map(|case| (case.id.clone(), case)).collect();
    let order = Arc::clone(order);
    Loader::with_prepare(
        images,
        move |case| {
            let case = by_id.get(&case.id).ok_or_else(|| {
                Error::Config(format!("{}: no case of the training set", case.id))
            })?;
            Ok(TrainingCase::new(PreparedCase::read(case, &how, &rules)?))
        },
        move |step| order.step(step),
        loader_config,
    )
}

/// Refuses a checkpoint that the run cannot go on from.
fn same_run(
    path: &Path,
    info: &FinetuneInfo,
    task: &Task,
    network: &NetworkConfig,
    start: Option<&Start>,
) -> Result<()> {
    let path = path.display();
    if let (Some(then), Some(now)) = (&info.start, start)
        && !then.is_same(now)
    {
        return Err(Error::Config(format!(
            "{path} began with {then}, not with {now}. Leave --encoder and --scratch out to go on as it \
             began, or choose another --out"
        )));
    }
    let saved = info.network()?;
    if saved != *network {
        let lines = changes(&nested(&saved)?, &nested(network)?)?;
        let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        let what = if lines.is_empty() { "another kind".to_owned() } else { lines.join("; ") };
        return Err(Error::Config(format!(
            "{path} is of another network (checkpoint -> configuration): {what}; set these back, or choose \
             another --out"
        )));
    }
    if !task.has_networks_of(&info.task()?) {
        return Err(Error::Config(format!(
            "{path} is of a task with other classes, channels or preparation than {}; choose another --out",
            task.title
        )));
    }
    Ok(())
}

/// The sizes of a network as a section, for [`changes`].
fn nested(network: &NetworkConfig) -> Result<String> {
    Ok(format!("[network]\n{}", network.to_toml()?))
}

/// What a resume changes, as lines for the log.
fn changed_since(info: &FinetuneInfo, config: &FinetuneConfig, task: &str) -> Result<Vec<String>> {
    let differing = changes(&info.config()?.to_toml()?, &config.to_toml()?)?;
    // Older versions wrote down what was asked for, not what the encoder brought.
    let is_known = |key: &str| info.start.is_some() || !ENCODER_KEYS.contains(&key);
    let mut lines: Vec<String> = differing
        .into_iter()
        .filter(|(key, _)| is_known(key))
        .map(|(_, line)| format!("changed since: {line}"))
        .collect();
    if info.task_text() != task {
        lines.push("changed since: the description of the task".into());
    }
    Ok(lines)
}

/// The dtype of activations on `device`. Errors: bf16 on the CPU.
fn dtype(config: &FinetuneConfig, device: &Device) -> Result<DType> {
    activation_dtype_of(config.train.precision, device)
}
