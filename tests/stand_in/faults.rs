//! Faults on purpose: what a day on a GPU has to survive, so that the scripts for it can be rehearsed.
//!
//! `GLMAE_STAND_IN_FAULTS` holds a list with commas: `crash:KERNEL` (a bad address; the context is lost),
//! `hang:KERNEL` (it never ends), `wrong:KERNEL` (it does nothing, successfully), `no-device`,
//! `memory:MIB` (as much as the device has). A kernel's name may be cut short: `wrong:attention_fwd`
//! is every kernel that begins so.

use std::time::Duration;

/// What happens instead of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Crash,
    Hang,
    Wrong,
}

pub struct Faults {
    kernels: Vec<(Kind, String)>,
    pub has_device: bool,
    /// Bytes of device memory.
    pub memory: usize,
}

impl Faults {
    pub fn from_environment() -> Self {
        let text = std::env::var("GLMAE_STAND_IN_FAULTS").unwrap_or_default();
        let mut faults = Self { kernels: Vec::new(), has_device: true, memory: 8 << 30 };
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (kind, what) = part.split_once(':').unwrap_or((part, ""));
            match (kind, what.parse::<usize>()) {
                ("crash", _) => faults.kernels.push((Kind::Crash, what.into())),
                ("hang", _) => faults.kernels.push((Kind::Hang, what.into())),
                ("wrong", _) => faults.kernels.push((Kind::Wrong, what.into())),
                ("no-device", _) => faults.has_device = false,
                ("memory", Ok(mib)) => faults.memory = mib << 20,
                _ => eprintln!("stand-in: GLMAE_STAND_IN_FAULTS: '{part}' is no fault"),
            }
        }
        faults
    }

    /// The fault of this kernel, if it has one.
    pub fn of(&self, kernel: &str) -> Option<Kind> {
        self.kernels.iter().find(|(_, name)| kernel.starts_with(name.as_str())).map(|f| f.0)
    }
}

/// Never returns.
pub fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
