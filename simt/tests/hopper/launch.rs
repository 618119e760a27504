//! Kernels with marked lines, and launches of them.

use std::time::{Duration, Instant};

use glmae_simt::count::Counts;
use glmae_simt::hopper::tensor_map::TensorMap;
use glmae_simt::machine::{Fault, Launch, Schedule, run};
use glmae_simt::memory::{Memory, Options};
use glmae_simt::program::{Numerics, Program, SumOrder};
use glmae_simt::ptx;

/// As late, as early, and at random.
pub const SCHEDULES: [Schedule; 5] = [
    Schedule::Ascending,
    Schedule::Descending,
    Schedule::Shuffled(1),
    Schedule::Shuffled(2),
    Schedule::Shuffled(0x5eed),
];

/// The text of a module with one kernel.
#[derive(Clone)]
pub struct Source {
    text: String,
    kernel: String,
    /// Instructions, and what stands in their place.
    changes: Vec<(String, String)>,
}

impl Source {
    /// A kernel of a file of `tests/ptx`; the lines of the other kernels are left blank.
    pub fn kernel(file: &str, kernel: &str) -> Self {
        let path = format!("{}/tests/ptx/{file}.ptx", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let (mut keeps, mut found) = (true, false);
        let mut kept = String::new();
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once(".entry ") {
                keeps = rest.split('(').next() == Some(kernel);
                found |= keeps;
            }
            kept.push_str(if keeps { line } else { "" });
            kept.push('\n');
            // Every kernel ends with a brace at the start of a line.
            keeps |= line == "}";
        }
        assert!(found, "{path} has no kernel {kernel}");
        Self { text: kept, kernel: kernel.to_owned(), changes: Vec::new() }
    }

    /// Puts something in place of `$name`, everywhere.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        let name = format!("${name}");
        assert!(self.text.contains(&name), "there is no {name}");
        self.text = self.text.replace(&name, &value.to_string());
        self
    }

    /// The lines that end with `// @mark`.
    pub fn lines_of(&self, mark: &str) -> Vec<u32> {
        let is_marked = |line: &str| {
            line.rsplit_once("// ").is_some_and(|(_, comment)| {
                comment.split_whitespace().any(|word| word.strip_prefix('@') == Some(mark))
            })
        };
        let lines = self.text.lines().enumerate().filter(|(_, line)| is_marked(line));
        let lines: Vec<u32> = lines.map(|(i, _)| i as u32 + 1).collect();
        assert!(!lines.is_empty(), "no line is marked @{mark}");
        lines
    }

    /// The same with other instructions in the marked lines.
    pub fn change(&self, mark: &str, instead: &str) -> Self {
        let n = self.lines_of(mark).len();
        self.change_each(mark, &vec![instead.to_owned(); n])
    }

    /// The same with these instructions in the marked lines, one after the other.
    pub fn change_each(&self, mark: &str, instead: &[String]) -> Self {
        let marked = self.lines_of(mark);
        assert_eq!(marked.len(), instead.len(), "lines marked @{mark}");
        let mut changes = self.changes.clone();
        let lines = self.text.lines().enumerate().map(|(i, line)| {
            match marked.iter().position(|&n| n == i as u32 + 1) {
                None => line.to_owned(),
                Some(i) => {
                    let (was, comment) = line.rsplit_once("// ").expect("the mark");
                    changes.push((was.trim().to_owned(), instead[i].clone()));
                    format!("{} // {comment}", instead[i])
                }
            }
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        Self { text, kernel: self.kernel.clone(), changes }
    }

    /// Prints a row of `scripts/ptx-faults.sh`.
    fn tell(&self, fault: &Fault) {
        let cell = |text: &str| {
            let short: String = text.chars().take(110).collect();
            let dots = if short.len() < text.len() { "..." } else { "" };
            format!("{}{dots}", short.replace('|', "\\|").replace('\n', " "))
        };
        let Some((was, instead)) = self.changes.first() else { return };
        let instead = if instead.is_empty() { "(nothing)" } else { instead };
        let message = fault.message.lines().next().unwrap_or_default();
        println!("| `{}` | `{}` | {} |", cell(was), cell(instead), cell(message));
    }

    /// Puts directives of performance (section 11.4) between the parameters and the body of the kernel.
    pub fn entry(&self, directives: &str) -> Self {
        Self { text: self.text.replacen("\n{", &format!(" {directives}\n{{"), 1), ..self.clone() }
    }

    /// The same without the marked lines.
    pub fn without(&self, mark: &str) -> Self {
        self.change(mark, "")
    }

    pub fn job(&self, args: Vec<Arg>) -> Job {
        Job {
            source: self.clone(),
            kernel: self.kernel.clone(),
            grid: [1; 3],
            block: [32, 1, 1],
            cluster: [1; 3],
            shared: 0,
            args,
            numerics: Numerics::default(),
        }
    }
}

/// What a tensor map is made of, given the addresses of all buffers.
pub type MapOf = Box<dyn Fn(&[u64]) -> TensorMap>;

pub enum Arg {
    /// A buffer that holds these bytes before.
    In(Vec<u8>),
    /// A buffer of so many bytes that nobody has written.
    Out(usize),
    Map(MapOf),
    /// Parameters as they are.
    Raw(Vec<u8>),
}

impl Arg {
    pub fn words(values: impl IntoIterator<Item = u32>) -> Self {
        Self::In(values.into_iter().flat_map(u32::to_le_bytes).collect())
    }

    pub fn u32(value: u32) -> Self {
        Self::Raw(value.to_le_bytes().to_vec())
    }

    pub fn u64(value: u64) -> Self {
        Self::Raw(value.to_le_bytes().to_vec())
    }

    pub fn map(map: impl Fn(&[u64]) -> TensorMap + 'static) -> Self {
        Self::Map(Box::new(map))
    }
}

/// A launch to come.
pub struct Job {
    pub source: Source,
    pub kernel: String,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
    pub shared: u32,
    pub args: Vec<Arg>,
    pub numerics: Numerics,
}

/// A launch that has been.
pub struct Ran {
    pub outcome: Result<Counts, Box<Fault>>,
    /// How long the kernel itself took.
    pub took: Duration,
    /// Every buffer; 0xff where nobody has written.
    pub buffers: Vec<Vec<u8>>,
}

impl Job {
    pub fn block(mut self, threads: u32) -> Self {
        self.block = [threads, 1, 1];
        self
    }

    pub fn grid(mut self, grid: [u32; 3]) -> Self {
        self.grid = grid;
        self
    }

    pub fn cluster(mut self, blocks: u32) -> Self {
        self.cluster = [blocks, 1, 1];
        self.grid = [blocks.max(self.grid[0]), self.grid[1], self.grid[2]];
        self
    }

    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Matrix products that add up in the other order.
    pub fn reordered(mut self) -> Self {
        self.numerics.sums = SumOrder::Second;
        self
    }

    pub fn program(&self) -> Program {
        let module = ptx::parse("hopper", &self.source.text).unwrap_or_else(|e| panic!("{e}"));
        Program::new(&module, &self.kernel, self.numerics).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Why the kernel does not decode.
    pub fn refusal(&self) -> String {
        let module = ptx::parse("hopper", &self.source.text).unwrap_or_else(|e| panic!("{e}"));
        match Program::new(&module, &self.kernel, self.numerics) {
            Ok(_) => panic!("{} decodes", self.kernel),
            Err(error) => error.to_string(),
        }
    }

    pub fn run(&self, program: &Program, schedule: Schedule, is_checked: bool) -> Ran {
        let options =
            Options { device: "test", checked: is_checked, unit: 512, poison: |_, _, _| {} };
        let mut memory = Memory::new(options);
        let mut addresses = Vec::new();
        let mut lengths = Vec::new();
        for arg in &self.args {
            let n = match arg {
                Arg::In(bytes) => bytes.len(),
                Arg::Out(n) => *n,
                Arg::Map(_) | Arg::Raw(_) => continue,
            };
            let at = memory.alloc(n, &format!("buffer {}", addresses.len())).expect("memory");
            if let Arg::In(bytes) = arg {
                memory.upload(at, bytes).expect("upload");
            }
            addresses.push(at);
            lengths.push(n);
        }
        let mut params = vec![0u8; program.param_bytes() as usize];
        // Buffers behind the last parameter are there for tensor maps only.
        assert!(program.params().len() <= self.args.len(), "parameters of {}", self.kernel);
        let mut next = addresses.iter();
        for (arg, param) in self.args.iter().zip(program.params()) {
            let bytes = match arg {
                Arg::In(_) | Arg::Out(_) => {
                    next.next().expect("as many as buffers").to_le_bytes().to_vec()
                }
                Arg::Map(map) => map(&addresses).to_bytes().to_vec(),
                Arg::Raw(bytes) => bytes.clone(),
            };
            assert_eq!(bytes.len(), param.bytes as usize, "size of a parameter");
            let at = param.offset as usize;
            params[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        let start = Instant::now();
        let outcome = run(&Launch {
            program,
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            shared_bytes: self.shared,
            params: &params,
            memory: memory.map.clone(),
            is_checked,
            schedule,
        });
        let took = start.elapsed();
        memory.check_guards().expect("guards");
        let read = |(&at, &n): (&u64, &usize)| {
            let mut bytes = vec![0xff; n];
            if memory.download(at, &mut bytes).is_err() {
                // Byte by byte where not all is written.
                for (byte, at) in bytes.iter_mut().zip(at..) {
                    let mut one = [0xff];
                    *byte = memory.download(at, &mut one).map_or(0xff, |()| one[0]);
                }
            }
            bytes
        };
        Ran { outcome, took, buffers: addresses.iter().zip(&lengths).map(read).collect() }
    }

    /// Runs under all schedules, checked and unchecked; all must end well and pass the check.
    pub fn passes(&self, check: impl Fn(&Ran)) {
        let program = self.program();
        for schedule in SCHEDULES {
            for is_checked in [true, false] {
                let ran = self.run(&program, schedule, is_checked);
                if let Err(fault) = &ran.outcome {
                    panic!("{schedule:?}, checked {is_checked}: {fault}");
                }
                let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&ran)));
                assert!(told.is_ok(), "{}: {schedule:?}, checked {is_checked}", self.kernel);
            }
        }
    }

    /// The same, and buffer `i` must hold these words.
    pub fn gives(&self, i: usize, wanted: &[u32]) {
        self.passes(|ran| assert_eq!(words(&ran.buffers[i]), wanted, "buffer {i}"));
    }

    /// Every checked run must fail, and each with one of these texts at one of these marks.
    pub fn fails(&self, wanted: &Wanted) {
        let found = self.faults(wanted);
        let missing: Vec<Schedule> =
            SCHEDULES.into_iter().filter(|s| found.iter().all(|(other, _)| other != s)).collect();
        assert!(missing.is_empty(), "{}: no fault under {missing:?}", self.kernel);
    }

    /// At least the checked runs under these schedules must fail so.
    pub fn fails_under(&self, schedules: &[Schedule], wanted: &Wanted) {
        let found = self.faults(wanted);
        for schedule in schedules {
            assert!(
                found.iter().any(|(other, _)| other == schedule),
                "{}: no fault under {schedule:?}",
                self.kernel
            );
        }
    }

    fn faults(&self, wanted: &Wanted) -> Vec<(Schedule, Box<Fault>)> {
        let program = self.program();
        let lines: Vec<u32> =
            wanted.at.iter().flat_map(|mark| self.source.lines_of(mark)).collect();
        let mut found = Vec::new();
        for schedule in SCHEDULES {
            let Err(fault) = self.run(&program, schedule, true).outcome else { continue };
            if found.is_empty() {
                self.source.tell(&fault);
            }
            let has_text = wanted.texts.iter().any(|text| fault.message.contains(text));
            assert!(has_text, "{schedule:?}: not the fault that was wanted: {fault}");
            assert_eq!(fault.kernel, self.kernel, "{fault}");
            let is_there = lines.is_empty() || lines.contains(&fault.line);
            assert!(is_there, "{schedule:?}: not in one of the lines {lines:?}: {fault}");
            if let Some(lanes) = wanted.lanes {
                assert_eq!(fault.lanes, lanes, "{schedule:?}: lanes: {fault}");
            }
            found.push((schedule, fault));
        }
        found
    }
}

/// What a fault must be like.
pub struct Wanted<'a> {
    /// One of these is in the message.
    pub texts: &'a [&'a str],
    /// It is in a line with one of these marks; any line without.
    pub at: &'a [&'a str],
    pub lanes: Option<u32>,
}

/// A fault with this text at this mark.
pub fn fault<'a>(texts: &'a [&'a str], at: &'a [&'a str]) -> Wanted<'a> {
    Wanted { texts, at, lanes: None }
}

impl Wanted<'_> {
    pub fn lanes(mut self, lanes: u32) -> Self {
        self.lanes = Some(lanes);
        self
    }
}

pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}
