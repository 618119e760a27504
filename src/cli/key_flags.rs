//! Flags that stand for keys of a configuration, and `--set` for the others. Their help is the meaning of
//! the key; their values are read as those of `--set` are.

use std::ffi::OsString;
use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use glmae::Error;
use glmae::config::finetune::FinetuneConfig;
use glmae::config::schema::{Kind, Settings};
use glmae::config::{Change, Config};
use glmae::study::StudyConfig;

/// A flag and its key.
#[derive(Clone, Copy)]
pub struct Flag {
    pub long: &'static str,
    pub key: &'static str,
    /// What stands for the value in the help.
    pub value: &'static str,
    pub takes: Takes,
}

/// What follows a flag.
#[derive(Clone, Copy, PartialEq)]
pub enum Takes {
    /// A value as `--set` takes it.
    Value,
    /// A name or a path, whatever it looks like.
    Name,
    /// Nothing: the flag means `true`.
    Nothing,
}

const fn flag(long: &'static str, key: &'static str, value: &'static str) -> Flag {
    Flag { long, key, value, takes: Takes::Value }
}

const fn name(long: &'static str, key: &'static str, value: &'static str) -> Flag {
    Flag { takes: Takes::Name, ..flag(long, key, value) }
}

/// A verb with such flags.
pub trait Verb {
    type Settings: Settings;
    fn flags() -> Vec<Flag>;
}

/// Flags of every verb that pre-trains.
const PRETRAINING: [Flag; 12] = [
    flag("objective", "loss.objective", "NAME"),
    flag("steps", "train.steps", "N"),
    flag("batch", "train.batch", "N"),
    flag("accumulation", "train.accumulation", "N"),
    flag("lr", "optim.lr", "RATE"),
    flag("mask-ratio", "views.mask_ratio", "SHARE"),
    flag("seed", "train.seed", "N"),
    flag("threads", "train.threads", "N"),
    flag("workers", "data.workers", "N"),
    flag("log-every", "train.log_every", "STEPS"),
    flag("save-every", "train.save_every", "STEPS"),
    flag("picture-every", "train.picture_every", "STEPS"),
];

pub struct Pretrain;

impl Verb for Pretrain {
    type Settings = Config;
    fn flags() -> Vec<Flag> {
        [&[name("data", "data.path", "PATH")][..], &PRETRAINING].concat()
    }
}

/// Draws its own data.
pub struct Demo;

impl Verb for Demo {
    type Settings = Config;
    fn flags() -> Vec<Flag> {
        PRETRAINING.to_vec()
    }
}

pub struct Finetune;

impl Verb for Finetune {
    type Settings = FinetuneConfig;
    fn flags() -> Vec<Flag> {
        let frozen = flag("frozen", "model.frozen_encoder", "");
        vec![
            name("task", "data.task", "TASK|FILE"),
            name("data", "data.path", "PATH"),
            flag("subset", "data.subset", "N"),
            Flag { takes: Takes::Nothing, ..frozen },
            flag("epochs", "train.epochs", "N"),
            flag("seed", "train.seed", "N"),
            flag("threads", "train.threads", "N"),
            flag("workers", "data.workers", "N"),
        ]
    }
}

pub struct Study;

impl Verb for Study {
    type Settings = StudyConfig;
    fn flags() -> Vec<Flag> {
        vec![name("task", "data.task", "TASK|FILE"), name("data", "data.path", "PATH")]
    }
}

/// The flags of a verb as they were given.
pub struct KeyFlags<V> {
    set: Vec<OsString>,
    given: Vec<(Flag, OsString)>,
    verb: PhantomData<V>,
}

impl<V> KeyFlags<V> {
    /// What they change, in the order in which it is done: flags win over `--set`.
    /// Errors: an item of `--set` without `=`; text that is not UTF-8.
    pub fn changes(&self) -> glmae::Result<Vec<Change>> {
        let items = self.set.iter().map(|item| Change::set(utf8("--set", item)?));
        let flags = self.given.iter().map(|(flag, value)| {
            let long = format!("--{}", flag.long);
            let text = utf8(&long, value)?;
            Ok(match flag.takes {
                Takes::Name => Change::literal(&long, flag.key, text),
                Takes::Value | Takes::Nothing => Change::flag(&long, flag.key, text),
            })
        });
        items.chain(flags).collect()
    }
}

fn utf8<'a>(flag: &str, text: &'a OsString) -> glmae::Result<&'a str> {
    text.to_str().ok_or_else(|| {
        let shown = text.to_string_lossy();
        Error::Config(format!("{flag} {shown}: must be UTF-8, as it is stored as text"))
    })
}

impl<V: Verb> Args for KeyFlags<V> {
    fn augment_args(command: Command) -> Command {
        let sections = V::Settings::sections();
        let about = |flag: &Flag| {
            let (section, name) = flag.key.split_once('.').unwrap_or((flag.key, ""));
            let section = sections.iter().find(|s| s.name == section);
            let key = section.and_then(|s| s.keys.iter().find(|k| k.name == name));
            let mut text = key.map(|k| k.docs.trim_end_matches('.').to_owned()).unwrap_or_default();
            if let Some(Kind::Choice(words)) = key.map(|k| &k.kind) {
                let words: Vec<&str> = words.iter().map(|(word, _)| word.as_str()).collect();
                text += &format!(" [{}]", words.join(", "));
            }
            format!("{text} `[key: {}]`", flag.key)
        };
        let flags = V::flags();
        let of_flag = |flag: &Flag| {
            let arg = Arg::new(flag.long).long(flag.long).help(about(flag));
            let arg = match flag.takes {
                Takes::Nothing => return arg.help_heading(HEADING).action(ArgAction::SetTrue),
                // What a verb works on stands with its own options.
                Takes::Name => arg,
                Takes::Value => arg.help_heading(HEADING).allow_negative_numbers(true),
            };
            arg.value_name(flag.value).value_parser(value_parser!(OsString))
        };
        let set = Arg::new("set")
            .long("set")
            .value_name("KEY=VALUE")
            .help("Set any key: `--set optim.lr=1e-4`; may be repeated. The other flags win over --set")
            .help_heading(HEADING)
            .action(ArgAction::Append)
            .value_parser(value_parser!(OsString));
        command.arg(set).args(flags.iter().map(of_flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

const HEADING: &str = "Configuration (every flag is also a key of the file)";

impl<V: Verb> FromArgMatches for KeyFlags<V> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let text = |id: &str| matches.get_many::<OsString>(id).into_iter().flatten().cloned();
        let value = |flag: &Flag| match flag.takes {
            Takes::Nothing => matches.get_flag(flag.long).then(|| "true".into()),
            _ => text(flag.long).next(),
        };
        let given = V::flags().into_iter().filter_map(|flag| Some((flag, value(&flag)?)));
        Ok(Self { set: text("set").collect(), given: given.collect(), verb: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_stands_for_a_key_and_has_its_meaning() {
        fn check<V: Verb>() {
            let known = glmae::config::schema::keys::<V::Settings>();
            let command = KeyFlags::<V>::augment_args(Command::new("x"));
            for flag in V::flags() {
                assert!(known.iter().any(|(key, _)| key == flag.key), "--{}", flag.long);
                let arg = command.get_arguments().find(|a| a.get_id() == flag.long).unwrap();
                let help = arg.get_help().unwrap().to_string();
                assert!(help.len() > flag.key.len() + 12 && help.contains(flag.key), "{help}");
            }
        }
        check::<Pretrain>();
        check::<Demo>();
        check::<Finetune>();
        check::<Study>();
    }

    #[test]
    fn flags_are_read_as_set_reads_them_and_win_over_it() {
        let command = KeyFlags::<Pretrain>::augment_args(Command::new("x"));
        let words = ["x", "--lr", "1e19", "--set", "optim.lr=3", "--data", "\"e\u{301}\""];
        let matches = command.try_get_matches_from(words).unwrap();
        let flags = KeyFlags::<Pretrain>::from_arg_matches(&matches).unwrap();
        let config = Config::load_with("tiny", &flags.changes().unwrap()).unwrap().config;
        assert_eq!((config.optim.lr, config.data.path.as_str()), (1e19, "\"e\u{301}\""));
    }
}
