//! `wgmma` (9.7.15): what it computes, from every layout of its operands (9.7.15.5.1), in every shape that is tried.

use glmae_simt::hopper::descriptor::Descriptor;
use glmae_simt::hopper::swizzle::Swizzle;
use glmae_simt::program::SumOrder;
use half::{bf16, f16};

use crate::tensor::swizzled;
use crate::{Arg, Job, Source};
use glmae_simt::random::Random;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Type {
    Bf16,
    F16,
    Tf32,
}

impl Type {
    pub fn bytes(self) -> usize {
        if self == Self::Tf32 { 4 } else { 2 }
    }

    /// K of one instruction.
    pub fn k(self) -> usize {
        32 / self.bytes()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Tf32 => "tf32",
        }
    }

    /// A number's bits, and what they count as. Of tf32 the lower 13 bits do not count.
    fn encode(self, x: f32) -> (Vec<u8>, f64) {
        match self {
            Self::Bf16 => {
                let x = bf16::from_f32(x);
                (x.to_le_bytes().to_vec(), x.to_f64())
            }
            Self::F16 => {
                let x = f16::from_f32(x);
                (x.to_le_bytes().to_vec(), x.to_f64())
            }
            Self::Tf32 => {
                let cut = f32::from_bits(x.to_bits() & 0xffff_e000);
                (x.to_le_bytes().to_vec(), cut.into())
            }
        }
    }
}

/// A matrix of `mn` by `k`: bits and values by mn, then k.
#[derive(Clone)]
pub struct Numbers {
    k: usize,
    bits: Vec<Vec<u8>>,
    values: Vec<f64>,
}

impl Numbers {
    pub fn random(ty: Type, mn: usize, k: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let all = (0..mn * k).map(|i| {
            // Neither symmetric around 0 nor alike in rows and columns.
            let x = random.below(1 << 20) as f32 / (1 << 19) as f32 - 0.75;
            ty.encode(x * (1.0 + (i / k) as f32 / 64.0 + (i % k) as f32 / 16.0))
        });
        let (bits, values) = all.unzip();
        Self { k, bits, values }
    }

    pub fn value(&self, mn: usize, k: usize) -> f64 {
        self.values[mn * self.k + k]
    }

    fn bits(&self, mn: usize, k: usize) -> &[u8] {
        &self.bits[mn * self.k + k]
    }
}

/// How an operand lies in shared memory.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub is_k_major: bool,
    pub swizzle: Swizzle,
}

/// An operand in shared memory.
pub struct Placed {
    pub image: Vec<u8>,
    pub leading: u32,
    pub stride: u32,
    /// Bytes from one step of k to the next.
    pub step: u32,
}

impl Layout {
    /// Steps of k that one panel holds.
    pub fn steps(self) -> usize {
        match (self.is_k_major, self.swizzle) {
            (true, Swizzle::None) => 3,
            (true, swizzle) => swizzle.span() as usize / 32,
            (false, _) => 3,
        }
    }

    /// The canonical layouts of section 9.7.15.5.1.2, "Strides", element by element. `mn` is a multiple of 8.
    pub fn place(self, ty: Type, numbers: &Numbers, mn: usize, k: usize) -> Placed {
        let (bytes, span) = (ty.bytes(), self.swizzle.span() as usize);
        let (leading, stride, step);
        let at: Box<dyn Fn(usize, usize) -> usize>;
        match (self.is_k_major, self.swizzle) {
            (true, Swizzle::None) => {
                // Core matrices of 8 rows of 16 bytes, side by side along k, with a gap behind each.
                (leading, step) = (144, 288);
                stride = 144 * k * bytes / 16 + 16;
                at = Box::new(move |mn, k| {
                    let x = k * bytes;
                    mn / 8 * stride + x / 16 * leading + mn % 8 * 16 + x % 16
                });
            }
            (true, _) => {
                (leading, stride, step) = (16, 8 * span, 32);
                at = Box::new(move |mn, k| mn / 8 * stride + mn % 8 * span + k * bytes);
            }
            (false, Swizzle::None) => {
                // 8 rows of k, each with 16 bytes along mn.
                stride = 128 * k.div_ceil(8) + 16;
                (leading, step) = (128, 128 * ty.k() / 8);
                at = Box::new(move |mn, k| {
                    let x = mn * bytes;
                    x / 16 * stride + k / 8 * leading + k % 8 * 16 + x % 16
                });
            }
            (false, _) => {
                // 8 rows of k, each with a span along mn; then the next 8; then the next span.
                stride = 8 * span;
                leading = stride * k.div_ceil(8);
                step = stride * ty.k() / 8;
                at = Box::new(move |mn, k| {
                    let x = mn * bytes;
                    x / span * leading + k / 8 * stride + k % 8 * span + x % span
                });
            }
        }
        let mut image = Vec::new();
        for mn in 0..mn {
            for k in 0..k {
                let start = at(mn, k);
                for (b, byte) in numbers.bits(mn, k).iter().enumerate() {
                    let place = swizzled(self.swizzle, start + b);
                    if image.len() <= place {
                        image.resize(place + 1, 0);
                    }
                    image[place] = *byte;
                }
            }
        }
        image.resize(image.len().next_multiple_of(1024), 0);
        let (leading, stride, step) = (leading as u32, stride as u32, step as u32);
        Placed { image, leading, stride, step }
    }
}

/// A product to be tried.
#[derive(Clone)]
pub struct Trial {
    pub ty: Type,
    pub n: usize,
    /// `None`: A in registers.
    pub a: Option<Layout>,
    pub b: Layout,
    pub steps: usize,
    pub negate: (bool, bool),
    /// Whether the first step adds to what is there.
    pub keeps: bool,
    /// `wgmma.wait_group` in the loop.
    pub wait: &'static str,
}

pub const K128: Layout = Layout { is_k_major: true, swizzle: Swizzle::B128 };

impl Trial {
    pub fn new(ty: Type, n: usize, a: Option<Layout>, b: Layout) -> Self {
        let steps = a.map_or(3, Layout::steps).min(b.steps());
        Self { ty, n, a, b, steps, negate: (false, false), keeps: true, wait: "" }
    }

    pub fn source(&self) -> Source {
        let n = self.n;
        let d: Vec<String> = (0..n / 2).map(|i| format!("%f{i}")).collect();
        let sign = |negates: bool| if negates { -1 } else { 1 };
        let mut signs = format!("{}, {}", sign(self.negate.0), sign(self.negate.1));
        let transposed = |layout: Layout| u8::from(!layout.is_k_major);
        if self.ty != Type::Tf32 {
            signs += &self.a.map_or(String::new(), |a| format!(", {}", transposed(a)));
            signs += &format!(", {}", transposed(self.b));
        }
        // Number i of thread t begins with t + i / 4.
        let begin = |i: usize| format!("add.f32 %f{i}, %g, 0f{:08x};", (i as f32 / 4.0).to_bits());
        let end = |i: usize| format!("st.global.f32 [%out+{}], %f{i};", 512 * i);
        let load = "ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%fragments];";
        // Registers of A are written for the next step once this one is done.
        let more = "wgmma.wait_group.sync.aligned 0; @%p1 ld.global.v4.u32 {%a0, %a1, %a2, %a3}, [%fragments]; \
                    wgmma.fence.sync.aligned;";
        let in_registers = self.a.is_none();
        Source::kernel("hopper_wgmma", "product")
            .with("count", n / 2)
            .with("begin", (0..n / 2).map(begin).collect::<String>())
            .with("load", if in_registers { load } else { "" })
            .with("more", if in_registers { more } else { "" })
            .with("before", "")
            .with("nk", format!("{n}k"))
            .with("k", self.ty.k())
            .with("type", self.ty.name())
            .with("d", d.join(", "))
            .with("a,", if in_registers { "{%a0, %a1, %a2, %a3}," } else { "%a," })
            .with("signs", signs)
            .with("wait", self.wait)
            .with("end", (0..n / 2).map(end).collect::<String>())
    }

    pub fn job(&self) -> (Job, Wanted) {
        let (source, k) = (self.source(), self.ty.k() * self.steps);
        let a = Numbers::random(self.ty, 64, k, 1);
        let b = Numbers::random(self.ty, self.n, k, 2);
        let placed_a = self.a.map(|layout| layout.place(self.ty, &a, 64, k));
        let placed_b = self.b.place(self.ty, &b, self.n, k);
        let mut image = placed_a.as_ref().map_or(Vec::new(), |p| p.image.clone());
        let descriptor = |start: usize, placed: &Placed, swizzle: Swizzle| {
            let (leading, stride) = (placed.leading, placed.stride);
            let start = start as u32;
            let descriptor = Descriptor { start, leading, stride, base_offset: 0, swizzle };
            descriptor.encode().expect("a descriptor")
        };
        let a_bits = placed_a.as_ref().zip(self.a).map_or(0, |(p, l)| descriptor(0, p, l.swizzle));
        let b_bits = descriptor(image.len(), &placed_b, self.b.swizzle);
        image.extend(&placed_b.image);
        let n = image.len();
        let args = vec![
            Arg::In(image),
            Arg::In(self.fragments(&a)),
            Arg::Out(4 * 64 * self.n),
            Arg::u64(a_bits),
            Arg::u64(b_bits),
            Arg::u64(placed_a.map_or(0, |p| u64::from(p.step / 16))),
            Arg::u64(u64::from(placed_b.step / 16)),
            Arg::u32(n as u32),
            Arg::u32(self.steps as u32),
            Arg::u32(self.keeps.into()),
        ];
        let wanted = self.wanted(&a, &b, k);
        (source.job(args).block(128).shared(n as u32), wanted)
    }

    /// A as registers of all threads, step after step: figures 148 and 150 of the manual.
    fn fragments(&self, a: &Numbers) -> Vec<u8> {
        let mut out = Vec::new();
        for step in 0..self.steps {
            for thread in 0..128 {
                let (row, column) = (16 * (thread / 32) + thread % 32 / 4, thread % 4);
                for register in 0..4 {
                    let row = row + 8 * (register % 2);
                    let first = self.ty.k() * step;
                    match self.ty {
                        Type::Tf32 => out.extend(a.bits(row, first + column + 4 * (register / 2))),
                        _ => {
                            let k = first + 2 * column + 8 * (register / 2);
                            out.extend(a.bits(row, k));
                            out.extend(a.bits(row, k + 1));
                        }
                    }
                }
            }
        }
        out
    }

    /// Of every register of every thread: the exact value, and how far f32 may be off.
    fn wanted(&self, a: &Numbers, b: &Numbers, k: usize) -> Wanted {
        let sign = if self.negate.0 == self.negate.1 { 1.0 } else { -1.0 };
        let mut all = Vec::new();
        for register in 0..self.n / 2 {
            for thread in 0..128 {
                // Figure 149: the fragment of D.
                let row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (register / 2 % 2);
                let column = 8 * (register / 4) + 2 * (thread % 4) + register % 2;
                let begin = if self.keeps { thread as f64 + register as f64 / 4.0 } else { 0.0 };
                let products = (0..k).map(|k| sign * a.value(row, k) * b.value(column, k));
                let sum: f64 = begin + products.clone().sum::<f64>();
                let size: f64 = begin.abs() + products.map(f64::abs).sum::<f64>();
                all.push((sum, size * (k + 1) as f64 * f64::from(f32::EPSILON)));
            }
        }
        Wanted(all)
    }

    /// Runs it under all schedules and with all ways to add up.
    pub fn check(&self, what: &str) {
        for sums in SumOrder::ALL {
            let (mut job, wanted) = self.job();
            job.numerics.sums = sums;
            job.passes(|ran| wanted.check(&ran.buffers[2], what));
        }
    }
}

/// Values with how far they may be off.
pub struct Wanted(Vec<(f64, f64)>);

impl Wanted {
    pub fn fits(&self, bytes: &[u8]) -> bool {
        let got = bytes.as_chunks::<4>().0.iter().map(|word| f64::from(f32::from_le_bytes(*word)));
        got.zip(&self.0).all(|(got, (value, bound))| (got - value).abs() <= *bound)
    }

    pub fn check(&self, bytes: &[u8], what: &str) {
        for (i, (&word, (value, bound))) in bytes.as_chunks::<4>().0.iter().zip(&self.0).enumerate()
        {
            let got = f64::from(f32::from_le_bytes(word));
            let (register, thread) = (i / 128, i % 128);
            assert!(
                (got - value).abs() <= *bound,
                "{what}: register {register} of thread {thread} is {got}, wanted {value} within {bound:e}"
            );
        }
    }
}

const ALL: [Swizzle; 4] = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];

#[test]
fn operands_that_are_k_major() {
    for ty in [Type::Bf16, Type::F16, Type::Tf32] {
        for swizzle in ALL {
            let layout = Layout { is_k_major: true, swizzle };
            Trial::new(ty, 64, Some(layout), layout).check(&format!("{ty:?} {swizzle:?}"));
        }
    }
}

#[test]
fn operands_that_are_mn_major() {
    let k = Layout { is_k_major: true, swizzle: Swizzle::None };
    for ty in [Type::Bf16, Type::F16] {
        for swizzle in ALL {
            let mn = Layout { is_k_major: false, swizzle };
            for (a, b) in [(mn, k), (k, mn), (mn, mn)] {
                Trial::new(ty, 128, Some(a), b).check(&format!("{ty:?} {a:?} {b:?}"));
            }
        }
    }
}

#[test]
fn different_swizzles_of_a_and_b() {
    let a = Layout { is_k_major: true, swizzle: Swizzle::B64 };
    let b = Layout { is_k_major: false, swizzle: Swizzle::B32 };
    Trial::new(Type::Bf16, 48, Some(a), b).check("64B and 32B");
}

#[test]
fn shapes_of_many_columns() {
    for n in [8, 16, 24, 40, 96, 136, 200, 256] {
        Trial::new(Type::Bf16, n, Some(K128), K128).check(&format!("n = {n}"));
    }
    for n in [8, 256] {
        Trial::new(Type::Tf32, n, Some(K128), K128).check(&format!("tf32, n = {n}"));
    }
    // Fewer columns than the swizzle's span has elements.
    let mn = Layout { is_k_major: false, swizzle: Swizzle::B128 };
    for n in [8, 32, 72, 256] {
        Trial::new(Type::F16, n, Some(K128), mn).check(&format!("MN-major, n = {n}"));
    }
}

#[test]
fn a_in_registers() {
    for ty in [Type::Bf16, Type::F16, Type::Tf32] {
        for n in [8, 64, 256] {
            Trial::new(ty, n, None, K128).check(&format!("{ty:?}, n = {n}"));
        }
    }
    let mn = Layout { is_k_major: false, swizzle: Swizzle::B64 };
    Trial::new(Type::Bf16, 64, None, mn).check("B MN-major");
}

#[test]
fn signs_and_scale_d() {
    for negate in [(true, false), (false, true), (true, true)] {
        Trial { negate, ..Trial::new(Type::Bf16, 32, Some(K128), K128) }
            .check(&format!("{negate:?}"));
        Trial { negate, ..Trial::new(Type::Tf32, 32, None, K128) }.check(&format!("{negate:?}"));
    }
    for a in [Some(K128), None] {
        Trial { keeps: false, ..Trial::new(Type::F16, 32, a, K128) }.check("D is not added to");
    }
}

#[test]
fn groups_that_are_waited_for_in_the_loop() {
    for wait in [
        "wgmma.wait_group.sync.aligned 1;",
        "wgmma.wait_group.sync.aligned 0;",
        "wgmma.wait_group.sync.aligned 3;",
    ] {
        Trial { wait, ..Trial::new(Type::Bf16, 64, Some(K128), K128) }.check(wait);
    }
}
