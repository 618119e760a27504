//! Runs what a study still lacks.

use std::path::{Path, PathBuf};

use super::config::StudyConfig;
use super::cost::costs;
use super::grid::{Cell, Start};
use super::judge::{Reading, judge};
use super::report;
use super::result::CellResult;
use crate::config::finetune::FinetuneConfig;
use crate::config::{Config, Explicit};
use crate::data::discover;
use crate::data::layout::DiscoverOptions;
use crate::device::Device;
use crate::report::progress::WorkProgress;
use crate::report::stderr::say;
use crate::seg::Task;
use crate::seg::dataset::LabelledCase;
use crate::train::finetune::cases::{Cases, draw};
use crate::train::finetune::encoder::Origin;
use crate::train::finetune::{FinetuneOptions, finetune};
use crate::train::pretrain::pretrain;
use crate::train::run::{Launches, Resume, RunFolder, RunKind, RunOptions};
use crate::{Error, Result, atomic};

/// Name of the description in a study's folder.
const STUDY_FILE: &str = "study.toml";

/// What a study is told beside its configuration.
#[derive(Clone, Debug)]
pub struct StudyOptions {
    pub out: PathBuf,
    pub device: Device,
    pub launches: Launches,
    /// Worker threads of the CPU device; 0: all cores.
    pub threads: usize,
    /// Judge what is done and write the tables, without another run.
    pub report_only: bool,
}

/// What a study came to.
#[derive(Clone, Debug)]
pub struct StudySummary {
    /// Cells that are done, of how many.
    pub done: usize,
    pub cells: usize,
    /// The table, in Markdown.
    pub table: String,
    pub files: Vec<PathBuf>,
}

/// Runs every cell that has no result yet, then writes the tables. After each cell the tables of what is
/// there are written, so that a study can be looked at while it runs.
///
/// Errors: those of pre-training, fine-tuning, prediction and evaluation; [`Error::Stopped`] on a signal
/// (the same call goes on where it stopped); [`Error::Config`] for a folder of another study.
pub fn study(config: &StudyConfig, options: &StudyOptions) -> Result<StudySummary> {
    let study = Study::open(config, options)?;
    if options.report_only {
        return study.report();
    }
    let file = study.folder().join(report::COSTS);
    if !file.exists() {
        study.say("timing a step of every objective");
        let rows = costs(config, &options.device, options.threads)?;
        atomic::write_json(&file, &rows)?;
    }
    let cells = Cell::all(config)?;
    for (i, cell) in cells.iter().enumerate() {
        if study.result(cell)?.is_some() {
            continue;
        }
        study.say(&format!("cell {} of {}: {}", i + 1, cells.len(), cell.name()));
        let encoder = study.encoder(&cell.start)?;
        study.run(cell, encoder)?;
        study.report()?;
    }
    study.report()
}

/// Writes what every result of a study has in common into its folder: the description, and the files it
/// names as they are read today, since a preset or a file may change between two calls. What changes with
/// the machine (threads) is the caller's.
///
/// Errors: [`Error::Config`] for a folder whose results came of others.
fn same_settings(config: &StudyConfig, task: &str, out: &Path) -> Result<()> {
    let other = |path: &Path, may: &str| {
        let path = path.display();
        Error::Config(format!(
            "{path} is of other settings, whose results must not be mixed with these{may}. Choose another --out"
        ))
    };
    let path = out.join(STUDY_FILE);
    if path.exists() {
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
        let before: StudyConfig = crate::config::parse(&text, &path.display().to_string(), &[])?;
        if !config.continues(&before) {
            return Err(other(&path, "; only the lists of [grid] and [cross] may change"));
        }
    }
    let kept = [
        ("task.toml", Task::text(task)?),
        ("pretrain.toml", config.pretrain_config()?.to_toml()?),
        ("finetune.toml", config.finetune_config()?.to_toml()?),
    ];
    for (name, text) in &kept {
        let path = out.join(name);
        if path.exists() {
            let before = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
            if before != text.as_bytes() {
                return Err(other(&path, ""));
            }
        }
    }
    atomic::write_bytes(&path, config.to_toml()?.as_bytes())?;
    for (name, text) in &kept {
        atomic::write_bytes(out.join(name), text.as_bytes())?;
    }
    Ok(())
}

struct Study<'a> {
    config: &'a StudyConfig,
    options: &'a StudyOptions,
    task: Task,
    /// Everything trains on `cases.training` or a share of it; `cases.validation` is held out.
    cases: Cases,
    finetune: FinetuneConfig,
    /// Holds the lock.
    _folder: RunFolder,
}

impl<'a> Study<'a> {
    fn open(config: &'a StudyConfig, options: &'a StudyOptions) -> Result<Self> {
        let d = &config.data;
        if d.path.is_empty() || d.task.is_empty() {
            return Err(Error::Config("give the set with --data and its task with --task".into()));
        }
        let task = Task::load(&d.task)?;
        let mut finetune = config.finetune_config()?;
        finetune.data.path.clone_from(&d.path);
        finetune.data.task.clone_from(&d.task);
        finetune.data.fraction = 1.0;
        let cases = Cases::find(&task, &finetune.data, 0)?;
        let trains = |id: &String| cases.training.iter().any(|c| c.id == *id);
        if let Some(case) = cases.validation.iter().find(|c| trains(&c.id)) {
            let reason = format!(
                "{}: by its split {} trains and is held out; a study needs cases that nothing trains on",
                task.title, case.id
            );
            return Err(Error::Config(reason));
        }
        let out = &options.out;
        let mut folder = RunFolder::look(out, RunKind::Study, &Resume::Auto)?;
        folder.claim()?;
        same_settings(config, &d.task, out)?;
        Ok(Self { config, options, task, cases, finetune, _folder: folder })
    }

    fn folder(&self) -> &Path {
        &self.options.out
    }

    fn say(&self, text: &str) {
        say(&format!("study: {text}"));
    }

    fn cell_folder(&self, cell: &Cell) -> PathBuf {
        self.folder().join("finetune").join(cell.name())
    }

    /// The result of a cell, if it has one for every other set.
    fn result(&self, cell: &Cell) -> Result<Option<CellResult>> {
        let found = CellResult::read(&self.cell_folder(cell))?;
        Ok(found.filter(|r| self.has_crosses(r)))
    }

    fn has_crosses(&self, result: &CellResult) -> bool {
        result.cross.len() >= self.config.cross.tasks.len()
    }

    /// The run folder of a pre-training, which is done now. `None` from scratch.
    fn encoder(&self, start: &Start) -> Result<Option<PathBuf>> {
        let Some(pretraining) = start.pretraining() else { return Ok(None) };
        let out = self.folder().join("pretrain").join(start.name());
        let mut config = self.config.pretrain_config()?;
        config.loss.objective = pretraining.objective;
        config.views.mask_ratio = pretraining.mask_ratio.unwrap_or(config.views.mask_ratio);
        config.train.threads = self.options.threads;
        let d = &self.config.data;
        config.data.path = if d.pretrain.is_empty() { d.path.clone() } else { d.pretrain.clone() };
        config.data.exclude = self.excluded(&config, pretraining.share)?;
        config.data.holdout_every = 0;
        let options = RunOptions {
            launches: self.options.launches,
            ..RunOptions::new(&out, self.options.device.clone())
        };
        let done = pretrain(&config, &options)?;
        for warning in done.warnings.iter().filter(|_| done.steps < config.train.steps) {
            self.say(warning);
        }
        Ok(Some(out))
    }

    /// Ids that a pre-training must not see: of held-out cases, whatever they are called there, and of
    /// the share that it leaves out.
    fn excluded(&self, config: &Config, share: f64) -> Result<Vec<String>> {
        let found = discover(Path::new(&config.data.path), &DiscoverOptions::default())?.cases;
        let real = |p: &PathBuf| p.canonicalize().unwrap_or_else(|_| p.clone());
        let held: Vec<PathBuf> =
            self.cases.validation.iter().flat_map(|c| c.images.iter().map(real)).collect();
        let is_held = |images: &[PathBuf]| images.iter().any(|i| held.contains(&real(i)));
        let (out, kept): (Vec<_>, Vec<_>) = found.into_iter().partition(|c| is_held(&c.images));
        let mut ids: Vec<String> = out.into_iter().map(|c| c.id).collect();
        let kept = kept.into_iter().map(|c| c.id).collect();
        ids.extend(draw(kept, share, config.train.seed).1);
        ids.sort();
        Ok(ids)
    }

    fn run(&self, cell: &Cell, encoder: Option<PathBuf>) -> Result<()> {
        let folder = self.cell_folder(cell);
        let mut config = self.finetune.clone();
        config.data.fraction = cell.fraction;
        config.train.seed = cell.seed;
        config.train.threads = self.options.threads;
        // Nothing is chosen by held-out cases, so nothing looks at them on the way.
        config.train.validate_every = 0;
        let training = Cases::find(&self.task, &config.data, cell.seed)?.training.len();
        let per_epoch =
            training.div_ceil(config.train.batch * config.train.accumulation).max(1) as u64;
        if self.config.grid.updates > 0 {
            config.train.epochs = self.config.grid.updates.div_ceil(per_epoch);
        }
        config.optim.warmup_epochs = config.optim.warmup_epochs.min(config.train.epochs / 2);
        let options = FinetuneOptions {
            run: RunOptions {
                launches: self.options.launches,
                ..RunOptions::new(&folder, self.options.device.clone())
            },
            origin: match encoder {
                Some(path) => Origin::Encoder { path, partial: false },
                None => Origin::Scratch,
            },
            explicit: Explicit::default(),
        };
        let done = finetune(&config, &options)?;
        let Some(checkpoint) = done.checkpoint else {
            return Err(Error::data(&folder, "the run left no checkpoint"));
        };
        let own = Reading::own(&self.task);
        let held_out =
            self.judge(&checkpoint, &folder, "predictions", &self.cases.validation, &own)?;
        let mut cross = Vec::new();
        for (i, (name, path)) in
            self.config.cross.tasks.iter().zip(&self.config.cross.paths).enumerate()
        {
            let other = Task::load(name)?;
            let mut data = self.finetune.data.clone();
            data.path.clone_from(path);
            (data.subset, data.fraction) = (0, 1.0);
            let found = Cases::find(&other, &data, 0)?;
            let all = [found.training, found.validation].concat();
            let reading = Reading::foreign(&self.task, &other)?;
            let into = format!("cross_{i}");
            cross.push((
                other.title.clone(),
                self.judge(&checkpoint, &folder, &into, &all, &reading)?,
            ));
        }
        CellResult {
            start: cell.start.name().to_owned(),
            fraction: cell.fraction,
            seed: cell.seed,
            training_cases: done.found.training_cases,
            updates: done.steps,
            held_out,
            cross,
        }
        .write(&folder)
    }

    fn judge(
        &self,
        checkpoint: &Path,
        folder: &Path,
        into: &str,
        cases: &[LabelledCase],
        reading: &Reading,
    ) -> Result<super::result::Scores> {
        let mut progress = WorkProgress::stderr("predict", cases.len() as u64);
        let paths = [folder, Path::new(into)];
        let device = &self.options.device;
        let scores = judge(checkpoint, paths, cases, reading, &self.task, device, &mut |id| {
            progress.advance(1, id);
        })?;
        progress.finish();
        Ok(scores)
    }

    fn report(&self) -> Result<StudySummary> {
        let cells = Cell::all(self.config)?;
        let mut results = Vec::new();
        for cell in &cells {
            results.extend(self.result(cell)?);
        }
        let (table, files) = report::write(self.folder(), self.config, &self.task, &results)?;
        Ok(StudySummary { done: results.len(), cells: cells.len(), table, files })
    }
}
