//! `glmae evaluate` for a task with one class per image.

use anyhow::Result;
use glmae::error::exit;
use glmae::infer::classify::FILE;
use glmae::seg::Task;
use glmae::seg::class_table::{Paired, read, references};
use glmae::seg::classes::{ClassScores, Judgement};
use glmae::{Error, atomic};
use serde_json::json;

use super::{Args, check_folder};
use crate::cli::term;

/// Judges a table of predictions against a set or a table of classes.
pub fn run(args: &Args, task: &Task) -> Result<u8> {
    for path in [&args.json, &args.csv].into_iter().flatten() {
        check_folder(path)?;
    }
    let table = if args.pred.is_dir() { args.pred.join(FILE) } else { args.pred.clone() };
    let names = task.class_names();
    let shown = table.to_string_lossy();
    if [".nii", ".nii.gz"].iter().any(|end| shown.ends_with(end)) {
        let reason = format!(
            "--task {}: has one class per image, and no label maps; --pred is the table of \
             `glmae predict`",
            args.task.as_deref().unwrap_or_default()
        );
        return Err(Error::Config(reason).into());
    }
    let predictions = read(&table, names)?;
    let mut paired = Paired::new(predictions, references(task, &args.reference, args.validation)?);
    if args.validation {
        // Those of training cases.
        paired.only_predicted.clear();
    }
    if paired.judged.is_empty() {
        let unpaired = paired.unpaired().unwrap_or_default();
        let reason = format!("no prediction has the id of a reference ({unpaired})");
        return Err(Error::data(&table, reason).into());
    }
    match paired.unpaired() {
        Some(text) if !args.allow_missing => {
            let reason = format!(
                "not every case has a partner: {text}; --allow-missing judges the others, \
                 --validation the validation cases of the task's split"
            );
            return Err(Error::data(&table, reason).into());
        }
        Some(text) => {
            term::say(&format!("warning: not every case has a partner: {}", term::clean(&text)));
        }
        None => {}
    }
    let judged: Vec<Judgement> = paired.judged.iter().map(|(_, j)| j.clone()).collect();
    let scores = ClassScores::new(names, &judged)?;
    if let Some(path) = &args.json {
        let mut all = scores.to_json();
        all["task"] = json!(task.title);
        let case = |(id, j): &(String, Judgement)| {
            json!({
                "case": id,
                "reference": names[j.truth],
                "predicted": names[j.predicted],
                "probabilities": j.probabilities,
            })
        };
        all["metric_per_case"] = paired.judged.iter().map(case).collect();
        atomic::write_json(path, &all)?;
    }
    if let Some(path) = &args.csv {
        let mut out = csv::Writer::from_writer(Vec::new());
        out.write_record(["id", "reference", "predicted"])?;
        for (id, j) in &paired.judged {
            out.write_record([id, &names[j.truth], &names[j.predicted]])?;
        }
        atomic::write_bytes(path, &out.into_inner()?)?;
    }
    term::print(&scores.to_text())?;
    Ok(exit::OK)
}
