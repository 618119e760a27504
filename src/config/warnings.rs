//! Combinations of values that cannot teach, and those that can but may surprise.

use super::finetune::{FinetuneConfig, Infer};
use super::{Config, cores};
use crate::{Error, Result};

impl Config {
    /// Targets of `standardise` and `sinkhorn` compare the teacher's rows of a micro-batch with one
    /// another: batch times global views. With one row there is nothing to compare: it minus its mean is 0,
    /// its share of each prototype is the whole, and every target is uniform from the first step on.
    ///
    /// Errors: [`Error::Config`] for such a run.
    pub(super) fn check_targets(&self) -> Result<()> {
        let rows = self.train.batch * self.views.n_global;
        if !self.compares_rows() || rows > 1 {
            return Ok(());
        }
        Err(Error::Config(format!(
            "loss.teacher_targets = \"{}\" compares the global views of a micro-batch, and train.batch = 1 \
             with views.n_global = 1 has a single one: its targets would be uniform from the first step. \
             Use train.batch of at least 2 (train.accumulation does not help: every micro-batch is \
             compared by itself), or loss.teacher_targets = \"center\"",
            self.targets_name()
        )))
    }

    /// What a user should know before the run, a line each.
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = cores::warnings(self.train.threads, self.data.workers);
        let (batch, parts, views) =
            (self.train.batch, self.train.accumulation, self.views.n_global);
        if self.compares_rows() && batch == 1 {
            lines.push(format!(
                "train.batch = 1 with loss.teacher_targets = \"{}\": targets compare the {views} global \
                 views of one volume with one another and say nothing of what tells volumes apart; \
                 train.batch of at least 2 does",
                self.targets_name()
            ));
        }
        if self.compares_rows() && parts > 1 {
            lines.push(format!(
                "train.accumulation = {parts} with loss.teacher_targets = \"{}\" is not train.batch = {}: \
                 targets compare the {} global views of a micro-batch, not those of the update",
                self.targets_name(),
                batch * parts,
                batch * views
            ));
        }
        lines
    }

    /// Whether the run has targets that follow from the other rows of their micro-batch.
    fn compares_rows(&self) -> bool {
        self.loss.objective.has_head() && self.loss.teacher_targets.is_of_the_batch()
    }

    fn targets_name(&self) -> &'static str {
        self.loss.teacher_targets.name()
    }
}

impl FinetuneConfig {
    /// As [`Config::warnings`].
    pub fn warnings(&self) -> Vec<String> {
        let mut lines = cores::warnings(self.train.threads, self.data.workers);
        let factor = self.infer.cost();
        if factor >= 2.0 {
            lines.push(format!(
                "infer.overlap = {}: a validation takes about {factor:.0} times the windows of an overlap of \
                 {}",
                self.infer.overlap,
                Infer::default().overlap
            ));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(set: &[&str]) -> Result<Config> {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        Config::load("tiny", &set)
    }

    #[test]
    fn targets_of_a_single_row_are_refused_with_a_remedy_that_helps() {
        let kinds = ["loss.teacher_targets=standardise", "loss.teacher_targets=sinkhorn"];
        for kind in kinds {
            let alone = [kind, "train.batch=1", "views.n_global=1"];
            let e = load(&alone).unwrap_err().to_string();
            assert!(e.contains("train.batch of at least 2"), "{e}");
            assert!(!e.contains("n_global of"), "two views of one volume do not help: {e}");
            // Accumulation does not help, what the message says does.
            assert!(load(&[&alone[..], &["train.accumulation=8"]].concat()).is_err());
            load(&[&alone[..], &["train.batch=2"]].concat()).unwrap();
            load(&[&alone[..], &["loss.teacher_targets=center"]].concat()).unwrap();
            // Without a teacher there are no targets.
            load(&[&alone[..], &["loss.objective=mae3d"]].concat()).unwrap();
        }
        // A checkpoint of such a run can still be read.
        let mut config = load(&["loss.teacher_targets=standardise"]).unwrap();
        (config.train.batch, config.views.n_global) = (1, 1);
        assert_eq!(Config::parse(&config.to_toml().unwrap(), "checkpoint", &[]).unwrap(), config);
    }

    #[test]
    fn runs_that_may_surprise_say_so() {
        let quiet = ["train.threads=1", "data.workers=1", "train.batch=2"];
        let warnings =
            |set: &[&str]| load(&[&quiet[..], set].concat()).unwrap().warnings().join("\n");
        let standardise = "loss.teacher_targets=standardise";
        assert_eq!(warnings(&[standardise]), "");
        let text = warnings(&[standardise, "train.accumulation=4", "views.n_global=2"]);
        assert!(text.contains("train.accumulation = 4") && text.contains("is not train.batch = 8"));
        assert!(text.contains("the 4 global views of a micro-batch"), "{text}");
        let text = warnings(&[standardise, "train.batch=1", "views.n_global=2"]);
        assert!(text.contains("the 2 global views of one volume"), "{text}");
        // The running centre is one of whole updates.
        let center = ["loss.teacher_targets=center", "train.accumulation=4", "train.batch=1"];
        assert_eq!(warnings(&center), "");
        assert_eq!(warnings(&["loss.objective=mae3d", standardise, "train.accumulation=4"]), "");
        assert_eq!(warnings(&["train.threads=5000", "data.workers=20000"]).lines().count(), 2);
    }

    #[test]
    fn a_costly_overlap_says_so() {
        let warnings = |overlap: &str| {
            let set = ["train.threads=1", "data.workers=1", overlap].map(str::to_owned);
            FinetuneConfig::load("author", &set).unwrap().warnings().join("\n")
        };
        assert_eq!(warnings("infer.overlap=0.5"), "");
        assert!(warnings("infer.overlap=0.75").contains("about 8 times the windows"));
        assert!(warnings("infer.overlap=0.99").contains("infer.overlap = 0.99"));
    }
}
