//! How many threads help. More than that are not refused, as a configuration may come from a larger machine;
//! they are not started either: results do not depend on them.

use std::thread::available_parallelism;

/// Threads of the CPU device up to which nothing is lost on a machine with fewer cores: runs that are to show
/// the same bits with any number of threads need some everywhere.
const FEW: usize = 8;

/// Readers per core: while one decodes, another waits for a disk.
const READERS_PER_CORE: usize = 4;

/// Cores that this process may use.
pub fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// Threads of the CPU device of `train.threads`; 0 stays 0, all cores.
pub fn threads(asked: usize) -> usize {
    asked.min(cores().max(FEW))
}

/// Threads that read `cases` ahead, of `data.workers`; 0: all cores, at most 8.
pub fn workers(asked: usize, cases: usize) -> usize {
    let most = (READERS_PER_CORE * cores()).min(cases);
    match asked {
        0 => cores().min(FEW).min(most).max(1),
        _ => asked.min(most).max(1),
    }
}

/// A line for each number that is larger than what is started. The number of cases is not known here.
pub(super) fn warnings(threads_asked: usize, workers_asked: usize) -> Vec<String> {
    let here = match cores() {
        1 => "1 core".to_owned(),
        n => format!("{n} cores"),
    };
    let say = |key: &str, asked: usize, used: usize| {
        let text = format!("{key} = {asked}: this process has {here}; {used} are started");
        (asked > used).then_some(text)
    };
    let lines = [
        say("train.threads", threads_asked, threads(threads_asked)),
        say("data.workers", workers_asked.max(1), workers(workers_asked.max(1), usize::MAX)),
    ];
    lines.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_help_is_not_started() {
        assert_eq!((threads(0), threads(1)), (0, 1));
        assert_eq!(threads(5000), cores().max(FEW));
        assert_eq!(threads(usize::MAX), cores().max(FEW));
        assert_eq!(workers(20_000, usize::MAX), READERS_PER_CORE * cores());
        assert_eq!((workers(20_000, 3), workers(2, 1), workers(2, 0), workers(0, 1)), (3, 1, 1, 1));
        assert_eq!(workers(1, 9), 1);
    }

    #[test]
    fn each_is_said_in_a_line() {
        assert!(warnings(0, 0).is_empty() && warnings(1, 1).is_empty());
        let lines = warnings(5000, 20_000);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("train.threads = 5000: this process has "), "{lines:?}");
        assert!(lines[1].starts_with("data.workers = 20000: "), "{lines:?}");
        assert!(lines.iter().all(|line| line.ends_with(" are started") && !line.contains('\n')));
    }
}
