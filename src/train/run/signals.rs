//! Signals that end a run after the step in progress, with a checkpoint. Slurm sends TERM before it kills and
//! USR1 where one asks it to (submitit: USR2), the system XCPU when the processor time is used up; a person
//! presses Ctrl-C (INT) or loses the connection (HUP).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};

use crate::{Error, Result};

/// Signals that stop a run, with their names.
const SIGNALS: [(i32, &str); 6] = [
    (SIGTERM, "SIGTERM"),
    (SIGINT, "SIGINT"),
    (SIGUSR1, "SIGUSR1"),
    (SIGUSR2, "SIGUSR2"),
    (SIGHUP, "SIGHUP"),
    (SIGXCPU, "SIGXCPU"),
];

/// Exit code of a second INT, by the shell's convention 128 + 2.
const SECOND_INT: i32 = 130;

/// How many listen. Whoever is the first sees to it that signals without a listener do what they do by default:
/// once a handler is installed, the system's default does not come back by itself.
static LISTENERS: Mutex<Option<usize>> = Mutex::new(None);
/// Whether nobody listens.
static NOBODY: AtomicBool = AtomicBool::new(true);

/// Listens while it lives.
#[derive(Debug)]
pub struct StopSignals {
    /// Index into [`SIGNALS`] plus one of the latest signal; 0: none.
    latest: Arc<AtomicUsize>,
    ids: Vec<SigId>,
}

impl StopSignals {
    /// Installs the handlers. A second INT exits the process at once, with code 130.
    ///
    /// Errors: [`Error::Io`] when the system refuses a handler.
    pub fn listen() -> Result<Self> {
        let mut signals = Self { latest: Arc::new(AtomicUsize::new(0)), ids: Vec::new() };
        let interrupted = Arc::new(AtomicBool::new(false));
        count(1).map_err(Error::io("signal handler", "install the"))?;
        let refused = Error::io("signal handler", "install the");
        signals.install(&interrupted).map_err(refused)?;
        Ok(signals)
    }

    fn install(&mut self, interrupted: &Arc<AtomicBool>) -> std::io::Result<()> {
        use signal_hook::flag;
        // Order matters: the shutdown looks at the flag before the same INT sets it.
        let shutdown = Arc::clone(interrupted);
        self.ids.push(flag::register_conditional_shutdown(SIGINT, SECOND_INT, shutdown)?);
        self.ids.push(flag::register(SIGINT, Arc::clone(interrupted))?);
        for (i, (signal, _)) in SIGNALS.iter().enumerate() {
            if is_left_alone(*signal) {
                continue;
            }
            self.ids.push(flag::register_usize(*signal, Arc::clone(&self.latest), i + 1)?);
        }
        Ok(())
    }

    /// The name of a signal that arrived, if any did.
    pub fn received(&self) -> Option<&'static str> {
        let latest = self.latest.load(Ordering::SeqCst);
        SIGNALS.get(latest.checked_sub(1)?).map(|(_, name)| *name)
    }
}

/// Notes that so many more, or one less, listen.
fn count(change: isize) -> std::io::Result<()> {
    let mut listeners = LISTENERS.lock().unwrap_or_else(PoisonError::into_inner);
    if listeners.is_none() {
        for (signal, _) in SIGNALS.iter().filter(|(signal, _)| !is_left_alone(*signal)) {
            signal_hook::flag::register_conditional_default(*signal, &NOBODY)?;
        }
    }
    let now = listeners.unwrap_or(0).saturating_add_signed(change);
    NOBODY.store(now == 0, Ordering::SeqCst);
    *listeners = Some(now);
    Ok(())
}

/// Whether a signal is none of ours: `nohup` starts a program with HUP ignored, to go on without a connection.
fn is_left_alone(signal: i32) -> bool {
    signal == SIGHUP && is_ignored(signal)
}

/// Whether the process was started to ignore a signal. False where the system does not tell.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

impl Drop for StopSignals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
        // The handlers of the default are there already, so this cannot fail.
        let _ = count(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_noted_by_name() {
        let signals = StopSignals::listen().unwrap();
        assert_eq!(signals.received(), None);
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        assert_eq!(signals.received(), Some("SIGUSR1"));
    }

    /// `demo` and `study` do more than train; Ctrl-C must end that, too.
    #[cfg(unix)]
    #[test]
    fn after_a_run_signals_have_their_default_again() {
        use std::os::unix::process::ExitStatusExt;
        const CHILD: &str = "GLMAE_TEST_RAISE";
        if std::env::var_os(CHILD).is_some() {
            drop(StopSignals::listen().unwrap());
            signal_hook::low_level::raise(SIGTERM).unwrap();
            return;
        }
        let name = "train::run::signals::tests::after_a_run_signals_have_their_default_again";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", name]).env(CHILD, "1").output().unwrap();
        assert_eq!(output.status.signal(), Some(SIGTERM), "{output:?}");
    }
}
