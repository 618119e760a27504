//! Signals that end a run after the step in progress, with a checkpoint. Slurm sends TERM before it kills and
//! USR1 where one asks it to (submitit: USR2), the system XCPU when the processor time is used up; a person
//! presses Ctrl-C (INT) or loses the connection (HUP).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
            // `nohup` starts a program that way, to go on without a connection.
            if *signal == SIGHUP && is_ignored(*signal) {
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
}
