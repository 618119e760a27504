//! The kernels as nvcc compiled them, without a GPU: the PTX of this binary's kernels is executed on the host
//! by the crate `glmae_simt`. It is what the machine code in the fatbins was made of, in the very same run of
//! the compiler.

mod modules;
mod params;
mod programs;
mod run;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex};

pub use glmae_simt::count::Counts;
pub use glmae_simt::machine::Schedule;
use glmae_simt::memory;
pub use glmae_simt::program::{Numerics, Program, SumOrder};
use glmae_simt::ptx::ast::Module;
use glmae_simt::ptx::parse;

use super::launch::{DeviceLimits, Kernel, LaunchConfig, PTX};
use super::on_host::{Engine, Launch, OnHost, lock};
use super::{KernelSet, arena};
use crate::error::{Error, Result};

/// A device that executes PTX.
pub type Ptx = OnHost<Executor>;

/// The architectures whose PTX is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    Sm80,
    Sm90a,
}

impl Arch {
    pub const ALL: [Self; 2] = [Self::Sm80, Self::Sm90a];

    /// As in `sm_80`, and in the name of the device.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "80",
            Self::Sm90a => "90a",
        }
    }

    /// The architecture of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arch| arch.name() == name)
    }

    /// What a GPU of this architecture allows.
    pub fn limits(self) -> &'static DeviceLimits {
        match self {
            Self::Sm80 => &DeviceLimits::SM_80,
            Self::Sm90a => &DeviceLimits::SM_90,
        }
    }
}

impl Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.name())
    }
}

/// Settings of a device that executes PTX.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether every byte has a shadow, which tells reads of what was never written, and races.
    pub checked: bool,
    pub schedule: Schedule,
    /// What the hardware leaves open, and kernels must not depend on.
    pub numerics: Numerics,
    /// Which kernels multiply matrices; those for Hopper need its PTX.
    pub kernels: KernelSet,
}

impl Options {
    /// With the kernels that a GPU of this architecture uses.
    ///
    /// Errors: those of [`KernelSet::of_hopper`].
    pub fn of(arch: Arch) -> Result<Self> {
        let kernels = match arch {
            Arch::Sm80 => KernelSet::Portable,
            Arch::Sm90a => KernelSet::of_hopper()?,
        };
        Ok(Self { kernels, ..Self::default() })
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            checked: true,
            schedule: Schedule::Ascending,
            numerics: Numerics::default(),
            kernels: KernelSet::Portable,
        }
    }
}

/// Executes PTX of one architecture.
pub struct Executor {
    arch: Arch,
    options: Options,
    recorded: Mutex<BTreeMap<&'static str, Recorded>>,
    /// Modules that stand in for those of this binary, by file.
    replaced: Mutex<BTreeMap<String, Module>>,
}

/// What the launches of a kernel did.
#[derive(Clone)]
pub struct Recorded {
    pub program: Arc<Program>,
    pub launches: u64,
    pub counts: Counts,
    /// Of the last launch.
    pub config: LaunchConfig,
}

impl OnHost<Executor> {
    /// Errors: those of [`Executor::new`].
    pub fn new(arch: Arch, options: Options) -> Result<Self> {
        Ok(Self::with(Executor::new(arch, options)?))
    }

    pub fn arch(&self) -> Arch {
        self.engine().arch
    }

    pub fn options(&self) -> &Options {
        &self.engine().options
    }

    /// The PTX that nvcc made of `kernels/FILE.cu`.
    ///
    /// Errors: `Unsupported` when this binary has none.
    pub fn text(&self, file: &str) -> Result<String> {
        modules::text(file, self.arch())
    }

    /// From now on, kernels of `kernels/FILE.cu` are those of this PTX: to see what a change does.
    ///
    /// Errors: `Unsupported` for text that is no PTX, with its line.
    pub fn replace(&self, file: &str, text: &str) -> Result<()> {
        let module = parse(&modules::name(file, self.arch()), text)
            .map_err(|e| Error::Unsupported(e.to_string()))?;
        lock(&self.engine().replaced).insert(file.to_owned(), module);
        Ok(())
    }

    /// What launches did since this was last asked, by kernel.
    pub fn take_counts(&self) -> BTreeMap<&'static str, Recorded> {
        std::mem::take(&mut *lock(&self.engine().recorded))
    }
}

impl Executor {
    /// Errors: `Unsupported` when this binary has no PTX of `arch`.
    pub fn new(arch: Arch, options: Options) -> Result<Self> {
        if PTX.iter().all(|row| row.1 != arch.name()) {
            return Err(Error::Unsupported(format!(
                "device 'ptx:{0}': this binary was built without the PTX of {arch}; build it with {0} in \
                 GLMAE_CUDA_ARCHS",
                arch.name()
            )));
        }
        Ok(Self { arch, options, recorded: Mutex::default(), replaced: Mutex::default() })
    }

    /// What nvcc made of a kernel.
    ///
    /// Errors: `Unsupported` when this binary has none, or when something in it is not implemented.
    pub fn program(&self, kernel: &'static Kernel) -> Result<Arc<Program>> {
        let Options { numerics, .. } = self.options;
        match lock(&self.replaced).get(kernel.file) {
            Some(module) => Ok(Arc::new(programs::decode(module, kernel, self.arch, numerics)?)),
            None => programs::find(kernel, self.arch, numerics),
        }
    }
}

impl Engine for Executor {
    fn limits(&self) -> &DeviceLimits {
        self.arch.limits()
    }

    fn memory(&self) -> memory::Options {
        memory::Options {
            device: "ptx device",
            checked: self.options.checked,
            unit: arena::UNIT,
            poison: |_, _, _| {},
        }
    }

    fn static_bytes(&self, kernel: &'static Kernel) -> Result<u32> {
        Ok(self.program(kernel)?.static_shared())
    }

    fn run(&self, launch: &Launch) -> Result<()> {
        let program = self.program(launch.kernel)?;
        if launch.kernel.needs_hopper() && !program.awaits_grids {
            return Err(Error::Device(format!(
                "kernel {}: a GPU may start it before the kernel before it has ended, and it never waits for that",
                launch.kernel.name
            )));
        }
        let params = params::pack(launch.kernel.name, program.params(), launch.args)?;
        let counts = run::run(&program, &self.options, launch, &params)?;
        let mut recorded = lock(&self.recorded);
        let of = recorded.entry(launch.kernel.name).or_insert_with(|| Recorded {
            counts: Counts::new(&program),
            program,
            launches: 0,
            config: *launch.config,
        });
        of.counts.add(&counts);
        of.launches += 1;
        of.config = *launch.config;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::abi::ArgKind;
    use crate::device::launch::{Arg, DevicePtr, KERNELS};
    use crate::device::{Device, Tensor};

    /// Of the first architecture of this binary.
    fn device() -> Arc<Ptx> {
        let has = |arch: &Arch| PTX.iter().any(|row| row.1 == arch.name());
        let arch = Arch::ALL.into_iter().find(has).unwrap();
        Arc::new(Ptx::new(arch, Options::default()).unwrap())
    }

    #[test]
    fn tensors_live_on_it() {
        let ptx = device();
        let device = Device::Ptx(ptx.clone());
        let x = Tensor::from_slice(&device, &[1.0f32, 2.0, 3.0], &[3]).unwrap();
        assert_eq!(x.duplicate().unwrap().to_f32_vec().unwrap(), [1.0, 2.0, 3.0]);
        assert!(ptx.usage().live > 0);
        drop(x);
        assert_eq!(ptx.usage().live, 0);
    }

    #[test]
    fn architectures_differ_in_the_shared_memory_there_is() {
        assert_eq!(Arch::Sm80.limits().shared_bytes_opt_in, 163 * 1024);
        assert_eq!(Arch::Sm90a.limits().shared_bytes_opt_in, 227 * 1024);
        let device = device();
        let kernel = KERNELS.iter().find(|kernel| kernel.file == "primitives").unwrap();
        let fixed = device.shared(kernel).unwrap().static_bytes;
        let most = device.arch().limits().shared_bytes_opt_in - fixed;
        device.allow_shared(kernel.name, most).unwrap();
        assert_eq!(device.shared(kernel).unwrap().opted_in, most);
        assert!(device.allow_shared(kernel.name, most + 1).is_err());
    }

    /// The parameters of every kernel are those of its C++ type, and it was compiled for enough threads.
    #[test]
    fn parameters_are_those_of_the_kernels_types() {
        let mut kernels = 0;
        for (file, arch, _) in PTX {
            let arch = Arch::parse(arch).unwrap();
            for kernel in KERNELS.iter().filter(|kernel| kernel.file == *file) {
                let program = programs::find(kernel, arch, Numerics::default()).unwrap();
                let sizes: Vec<_> = program.params().iter().map(|p| p.bytes).collect();
                let expected = kernel.signature().args.into_iter().map(|(_, size)| size as u32);
                assert_eq!(sizes, expected.collect::<Vec<_>>(), "{}", kernel.name);
                kernels += 1;
            }
        }
        assert!(kernels > 100, "only {kernels} kernels");
    }

    #[test]
    fn launches_are_checked_as_on_every_device() {
        let device = device();
        let name = "layer_norm_fwd_f32";
        let wrong = |name: &str, args: &[Arg]| {
            device.launch(name, &LaunchConfig::linear(1, 32), args).unwrap_err().to_string()
        };
        assert!(wrong("nothing", &[]).contains("no kernel 'nothing'"));
        assert!(wrong(name, &[Arg::I32(1)]).contains("arguments, got 1"));
        let arg = |kind: ArgKind, size: usize| match (kind, size) {
            (ArgKind::Pointer, _) => Arg::Ptr(DevicePtr(4096)),
            (ArgKind::Signed, 4) => Arg::I32(1),
            (ArgKind::Signed, _) => Arg::I64(1),
            (ArgKind::Unsigned, 4) => Arg::U32(1),
            (ArgKind::Unsigned, _) => Arg::U64(1),
            (ArgKind::Float, _) => Arg::F32(1.0),
            other => panic!("{other:?}"),
        };
        let signature = Kernel::find(name).unwrap().signature();
        let args: Vec<_> = signature.args.iter().map(|&(kind, size)| arg(kind, size)).collect();
        let message = wrong(name, &args);
        assert!(message.contains("argument 0 points to 0x1000, in no allocation"), "{message}");
    }

    #[test]
    fn captures_are_replayed() {
        let device = device();
        let (x, y) = (device.alloc(4, "x").unwrap(), device.alloc(4, "y").unwrap());
        device.upload(x, &[1, 2, 3, 4]).unwrap();
        let record = || {
            device.copy(y, x, 4)?;
            device.fill(x, 9, 2)
        };
        let (mut graph, ()) = device.capture(record).unwrap();
        let read = |at| {
            let mut bytes = [0; 4];
            device.download(at, &mut bytes).map(|()| bytes)
        };
        assert!(read(y).is_err(), "nothing ran yet, so nothing was written");
        assert_eq!(read(x).unwrap(), [1, 2, 3, 4]);
        graph.replay().unwrap();
        assert_eq!((read(y).unwrap(), read(x).unwrap()), ([1, 2, 3, 4], [9, 9, 3, 4]));
        let refused = device.capture(|| device.upload(x, &[0])).err().unwrap().to_string();
        assert!(refused.contains("while a graph is captured"), "{refused}");
    }
}
