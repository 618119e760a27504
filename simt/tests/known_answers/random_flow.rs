//! Random flow of control, also such as no compiler would make: blocks that end in branches to anywhere, in returns
//! of some lanes, or in tables of targets. Each lane is computed alone by a few lines here, and must come to the same.

use glmae_simt::machine::{Launch, run};
use glmae_simt::program::{Numerics, Program};
use glmae_simt::ptx;

use crate::run::{SCHEDULES, new_memory};

const REGISTERS: usize = 4;
const THREADS: u32 = 72;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }
}

/// A lane goes there whose register has this remainder modulo `of`.
#[derive(Clone, Copy)]
struct Condition {
    register: usize,
    of: u32,
    is: u32,
}

#[derive(Clone, Copy)]
enum End {
    Falls,
    Jump(usize),
    Branch(Condition, usize),
    /// Lanes return, the others go on.
    Return(Condition),
    Trap(Condition),
}

/// `d = a * factor + b`, perhaps for some lanes only.
#[derive(Clone, Copy)]
struct Step {
    guard: Option<Condition>,
    d: usize,
    a: usize,
    factor: u32,
    b: usize,
}

struct Block {
    steps: Vec<Step>,
    end: End,
}

fn condition(random: &mut Random) -> Condition {
    let of = 2 + random.below(4) as u32;
    let register = random.below(REGISTERS as u64) as usize;
    Condition { register, of, is: random.below(of.into()) as u32 }
}

fn program(random: &mut Random) -> Vec<Block> {
    let n = 2 + random.below(9);
    (0..n)
        .map(|_| {
            let steps = (0..1 + random.below(3)).map(|_| Step {
                guard: (random.below(3) == 0).then(|| condition(random)),
                d: random.below(REGISTERS as u64) as usize,
                a: random.below(REGISTERS as u64) as usize,
                factor: random.below(7) as u32,
                b: random.below(REGISTERS as u64) as usize,
            });
            let steps = steps.collect();
            let target = random.below(n) as usize;
            let end = match random.below(10) {
                0 => End::Falls,
                1 | 2 => End::Jump(target),
                3 => End::Return(condition(random)),
                // Nobody has this remainder.
                4 => End::Trap(Condition { is: 9, ..condition(random) }),
                _ => End::Branch(condition(random), target),
            };
            Block { steps, end }
        })
        .collect()
}

/// Each block costs a lane one of this; without any left it goes to the end.
const FUEL: u32 = 24;

/// What one thread ends with, and the blocks it came through.
fn alone(blocks: &[Block], thread: u32) -> ([u32; REGISTERS], u32) {
    let mut r: [u32; REGISTERS] = std::array::from_fn(|i| thread.wrapping_mul(i as u32 * 5 + 1));
    let holds = |r: &[u32; REGISTERS], c: Condition| r[c.register] % c.of == c.is;
    let (mut at, mut passed) = (0, 0);
    while at < blocks.len() && passed < FUEL {
        passed += 1;
        for step in &blocks[at].steps {
            if step.guard.is_none_or(|guard| holds(&r, guard)) {
                r[step.d] = r[step.a].wrapping_mul(step.factor).wrapping_add(r[step.b]);
            }
        }
        at = match blocks[at].end {
            End::Jump(target) => target,
            End::Branch(c, target) if holds(&r, c) => target,
            End::Return(c) if holds(&r, c) => blocks.len(),
            _ => at + 1,
        };
    }
    (r, passed)
}

fn ptx_of(blocks: &[Block]) -> String {
    let mut text = String::from(
        ".version 9.0\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 out)\n{\n.reg .pred %p<4>; .reg .b32 %r<8>; .reg .b32 %w<4>;\n\
         .reg .b64 %d<4>;\nmov.u32 %w0, %tid.x; mul.wide.u32 %d0, %w0, 20; ld.param.u64 %d1, [out];\n\
         add.u64 %d1, %d1, %d0; mov.u32 %w1, 0;\n",
    );
    for i in 0..REGISTERS {
        text += &format!("mul.lo.u32 %r{i}, %w0, {};\n", 5 * i + 1);
    }
    let test = |c: Condition, p: &str| {
        let Condition { register, of, is } = c;
        format!("rem.u32 %w2, %r{register}, {of}; setp.eq.u32 {p}, %w2, {is};\n")
    };
    let store = |guard: &str| {
        let word = |i: usize| format!("{guard}st.global.u32 [%d1+{}], %r{i};\n", 4 * i);
        (0..REGISTERS).map(word).collect::<String>()
            + &format!("{guard}st.global.u32 [%d1+16], %w1;\n")
    };
    for (i, block) in blocks.iter().enumerate() {
        text +=
            &format!("L{i}:\nsetp.eq.u32 %p0, %w1, {FUEL};\n@%p0 bra END;\nadd.u32 %w1, %w1, 1;\n");
        for Step { guard, d, a, factor, b } in &block.steps {
            let mut prefix = "";
            if let Some(guard) = guard {
                text += &test(*guard, "%p1");
                prefix = "@%p1 ";
            }
            text += &format!("{prefix}mad.lo.u32 %r{d}, %r{a}, {factor}, %r{b};\n");
        }
        match block.end {
            End::Falls => {}
            End::Jump(target) => text += &format!("bra L{target};\n"),
            End::Branch(c, target) => text += &format!("{}@%p2 bra L{target};\n", test(c, "%p2")),
            End::Return(c) => {
                text += &test(c, "%p2");
                // Some by a guard, some in a branch of their own.
                if i % 2 == 0 {
                    text += &format!("{}@%p2 exit;\n", store("@%p2 "));
                } else {
                    text += &format!("@!%p2 bra M{i};\n{}ret;\nM{i}:\n", store(""));
                }
            }
            End::Trap(c) => text += &format!("{}@!%p2 bra M{i};\ntrap;\nM{i}:\n", test(c, "%p2")),
        }
    }
    text + "END:\n" + &store("") + "ret;\n}\n"
}

#[test]
fn lanes_end_as_if_each_were_alone() {
    let mut lengths = 0;
    for seed in 0..400 {
        let blocks = program(&mut Random(seed));
        let text = ptx_of(&blocks);
        let module = ptx::parse("random", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let program = Program::new(&module, "k", Numerics::default());
        let program = program.unwrap_or_else(|e| panic!("{e}\n{text}"));
        let checked = seed % 2 == 0;
        let mut memory = new_memory(checked);
        let bytes = 20 * THREADS as usize;
        let out = memory.alloc(bytes, "out").expect("memory");
        let schedule = SCHEDULES[seed as usize % SCHEDULES.len()];
        let launch = Launch {
            program: &program,
            grid: [1; 3],
            block: [THREADS, 1, 1],
            cluster: [1; 3],
            shared_bytes: 0,
            params: &out.to_le_bytes(),
            memory: memory.map.clone(),
            is_checked: checked,
            schedule,
        };
        let counts = run(&launch).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        let mut got = vec![0; bytes];
        memory.download(out, &mut got).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        let mut words = got.chunks(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let mut passed = 0;
        for thread in 0..THREADS {
            let (registers, blocks) = alone(&blocks, thread);
            let there: Vec<u32> = words.by_ref().take(REGISTERS + 1).collect();
            let wanted = [&registers[..], &[blocks]].concat();
            assert_eq!(there, wanted, "seed {seed}, thread {thread}, {schedule:?}\n{text}");
            passed += u64::from(blocks);
        }
        // Lanes are counted once for every block that they pass, however they came together.
        let steps =
            program.instructions.iter().enumerate().filter(|(_, i)| {
                text.lines().nth(i.line as usize - 1) == Some("add.u32 %w1, %w1, 1;")
            });
        let lanes: u64 = steps.map(|(pc, _)| counts.instructions[pc].lanes).sum();
        assert_eq!(lanes, passed, "seed {seed}\n{text}");
        lengths += passed;
    }
    assert!(lengths > 100_000, "only {lengths} blocks were passed");
}
