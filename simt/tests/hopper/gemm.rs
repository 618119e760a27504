//! A whole pipeline of TMA, barriers and products, as it is in `hopper_gemm.ptx`: right in many shapes, and found out
//! whatever is wrong with it.

use glmae_simt::hopper::swizzle::Swizzle;
use glmae_simt::hopper::tensor_map::{Element, Fill, Promotion, Tensor, TensorMap};
use glmae_simt::machine::Schedule;
use half::bf16;

use crate::{Arg, Job, Source};
use glmae_simt::random::Random;

/// A pipeline for C of `m` by `n`, with `k` in between.
#[derive(Clone, Copy)]
pub struct Pipeline {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub stages: u32,
    /// Columns of a tile.
    pub columns: u32,
    /// Warpgroups that multiply.
    pub groups: u32,
    /// Whether C is bf16 and goes through `stmatrix`, or f32.
    pub is_half: bool,
    /// Blocks of a cluster, along M, that share the loads of B.
    pub cluster: u32,
    /// Whether all numbers are small whole ones, so that sums are exact.
    pub is_exact: bool,
}

pub const GOOD: Pipeline = Pipeline {
    m: 128,
    n: 64,
    k: 448,
    stages: 3,
    columns: 64,
    groups: 2,
    is_half: false,
    cluster: 1,
    is_exact: true,
};

pub fn map(
    element: Element,
    base: u64,
    (rows, columns): (usize, usize),
    size: [u32; 2],
    swizzle: Swizzle,
) -> TensorMap {
    let stride = (columns as u64 * u64::from(element.bytes())).next_multiple_of(16);
    let tensor = Tensor {
        element,
        base,
        dims: &[columns as u64, rows as u64],
        strides: &[stride],
        element_strides: &[1, 1],
        swizzle,
        promotion: Promotion::None,
        fill: Fill::Zeros,
    };
    TensorMap::tiled(&tensor, &size).expect("a map")
}

impl Pipeline {
    fn rows(&self) -> u32 {
        64 * self.groups
    }

    /// Bytes of a stage.
    fn stage(&self) -> u32 {
        128 * (self.rows() + self.columns)
    }

    /// Bytes of the panels through which a warpgroup's part of C goes out.
    fn panels(&self) -> u32 {
        64 * self.columns * if self.is_half { 2 } else { 4 }
    }

    pub fn source(&self) -> Source {
        let (a_bytes, stage) = (128 * self.rows(), self.stage());
        let d: Vec<String> = (0..self.columns / 2).map(|i| format!("%f{i}")).collect();
        let (begin, load_b, release, tail);
        if self.cluster == 1 {
            begin = "bar.sync 0;".to_owned();
            load_b =
                "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes \
                      [%at], [%mb, {%k, %n}], [%full];"
                    .to_owned();
            release = "mbarrier.arrive.shared::cta.b64 _, [%last];".to_owned();
            tail = String::new();
        } else {
            let share = self.columns / self.cluster;
            begin = "barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.acquire.aligned;"
                .to_owned();
            load_b = format!(
                "mul.lo.u32 %r3, %rank, {share}; add.u32 %r4, %n, %r3; mad.lo.u32 %at, %r3, 128, %at; \
                 mov.u16 %mask, {}; \
                 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster \
                 [%at], [%mb, {{%k, %r4}}], [%full], %mask;",
                (1 << self.cluster) - 1
            );
            let to = |rank: u32| {
                format!(
                    "mapa.shared::cluster.u32 %there, %last, {rank}; \
                     mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%there]; "
                )
            };
            release = (0..self.cluster).map(to).collect();
            tail = "barrier.cluster.arrive; barrier.cluster.wait;".to_owned();
        }
        let (put, store) = if self.is_half { self.half() } else { self.single() };
        Source::kernel("hopper_gemm", "gemm")
            .with("stages_bytes", self.stages * stage)
            .with("stage_sixteenths", stage / 16)
            .with("stage_bytes", stage)
            .with("stages", self.stages)
            .with("panel_bytes", self.panels())
            .with("columnsk16", format!("{}k16", self.columns))
            .with("columns", self.columns)
            .with("count", self.columns / 2)
            .with("a_bytes", a_bytes)
            .with("rows", self.rows())
            .with("releases", self.groups * self.cluster)
            .with("cluster", "")
            .with("begin", begin)
            .with("consumers", 4 * self.groups)
            .with("load_b", load_b)
            .with("release", release)
            .with("tail", tail)
            .with("put", put)
            .with("store", store)
            .with("early", "")
            .with("more", "")
            .with("less", "")
            .with("d", d.join(", "))
    }

    /// C in f32: panels of 32 columns, written pair by pair.
    fn single(&self) -> (String, String) {
        let mut put = "shr.u32 %row, %lane, 2; add.u32 %row, %row, %r1; shl.b32 %row, %row, 7; \
                       and.b32 %x, %lane, 3; shl.b32 %x, %x, 3; add.u32 %x, %x, %row; \
                       add.u32 %x, %x, %panel;\n"
            .to_owned();
        for i in (0..self.columns / 2).step_by(2) {
            let column = 8 * (i / 4);
            let at = column / 32 * 8192 + i / 2 % 2 * 1024 + column % 32 * 4;
            put += &format!("st.shared.v2.f32 [%x+{at}], {{%f{i}, %f{}}}; // @put\n", i + 1);
        }
        (put, self.stores(32))
    }

    /// C in bf16: swizzled panels of 64 columns, four matrices of 8 x 8 at a time.
    fn half(&self) -> (String, String) {
        let mut put = "and.b32 %row, %lane, 15; add.u32 %row, %row, %r1; and.b32 %r5, %row, 7; \
                       shl.b32 %row, %row, 7; add.u32 %row, %row, %panel; shr.u32 %r6, %lane, 4;\n"
            .to_owned();
        for j in 0..self.columns / 16 {
            for h in 0..4 {
                let i = 8 * j + 2 * h;
                put += &format!("cvt.rn.bf16x2.f32 %h{h}, %f{}, %f{i};\n", i + 1);
            }
            put += &format!(
                "add.u32 %x, %r6, {}; xor.b32 %x, %x, %r5; shl.b32 %x, %x, 4; add.u32 %x, %x, %row;\n\
                 stmatrix.sync.aligned.m8n8.x4.shared.b16 [%x+{}], {{%h0, %h1, %h2, %h3}}; // @put\n",
                2 * (j % 4),
                j / 4 * 8192
            );
        }
        (put, self.stores(64))
    }

    /// A store for each panel of so many columns.
    fn stores(&self, columns: u32) -> String {
        let one = |i: u32| {
            format!(
                "add.u32 %r3, %n, {}; add.u32 %r4, %panel, {}; \
                 cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%mc, {{%r3, %y}}], [%r4]; ",
                columns * i,
                8192 * i
            )
        };
        (0..self.columns / columns).map(one).collect()
    }

    fn numbers(&self, rows: usize, seed: u64) -> Vec<bf16> {
        let mut random = Random::new(seed);
        let stride = self.k.next_multiple_of(8);
        (0..rows * stride)
            .map(|i| match (i % stride < self.k, self.is_exact) {
                // Bytes between the rows belong to nobody.
                (false, _) => bf16::NAN,
                (true, true) => bf16::from_f32(random.below(3) as f32 - 1.0),
                (true, false) => {
                    bf16::from_f32(random.below(1 << 20) as f32 / (1 << 20) as f32 - 0.4)
                }
            })
            .collect()
    }

    pub fn job(&self) -> Job {
        self.job_of(&self.source())
    }

    pub fn job_of(&self, source: &Source) -> Job {
        let Self { m, n, k, .. } = *self;
        let bytes = |all: Vec<bf16>| Arg::In(all.iter().flat_map(|x| x.to_le_bytes()).collect());
        let bf = Element::Bf16;
        let (c, c_size) = match self.is_half {
            true => (bf, [64, 64]),
            false => (Element::F32, [32, 64]),
        };
        let c_swizzle = if self.is_half { Swizzle::B128 } else { Swizzle::None };
        let (rows, share) = (self.rows(), self.columns / self.cluster);
        let c_stride = (n * c.bytes() as usize).next_multiple_of(16);
        let args = vec![
            Arg::map(move |at| map(bf, at[0], (m, k), [64, rows], Swizzle::B128)),
            Arg::map(move |at| map(bf, at[1], (n, k), [64, share], Swizzle::B128)),
            Arg::map(move |at| map(c, at[2], (m, n), c_size, c_swizzle)),
            Arg::u32(k.div_ceil(64) as u32),
            bytes(self.numbers(m, 1)),
            bytes(self.numbers(n, 2)),
            Arg::In(vec![0x33; m * c_stride]),
        ];
        let tiles = m.div_ceil(rows as usize).next_multiple_of(self.cluster as usize) as u32;
        let mut job = source.job(args).block(128 * self.groups + 32);
        job.cluster = [self.cluster, 1, 1];
        let grid = [tiles, n.div_ceil(self.columns as usize) as u32, 1];
        job.grid(grid).shared(self.stages * self.stage() + self.groups * self.panels())
    }

    /// Compares C with the product as a naive loop has it.
    pub fn check(&self, c: &[u8]) {
        let (a, b) = (self.numbers(self.m, 1), self.numbers(self.n, 2));
        let stride = self.k.next_multiple_of(8);
        let size = if self.is_half { 2 } else { 4 };
        let c_stride = (self.n * size).next_multiple_of(16);
        for row in 0..self.m {
            for column in 0..self.n {
                let products = (0..self.k)
                    .map(|k| a[row * stride + k].to_f64() * b[column * stride + k].to_f64());
                let (sum, magnitude) = products.fold((0.0, 0.0), |(s, m), p| (s + p, m + p.abs()));
                let at = row * c_stride + column * size;
                let got = match self.is_half {
                    true => bf16::from_le_bytes([c[at], c[at + 1]]).to_f64(),
                    false => f32::from_le_bytes(c[at..at + 4].try_into().expect("4 bytes")).into(),
                };
                let unit = if self.is_half { 1.0 / 256.0 } else { 0.0 };
                let bound = match self.is_exact {
                    true => 0.0,
                    false => {
                        magnitude * self.k as f64 * f64::from(f32::EPSILON) + f64::abs(sum) * unit
                    }
                };
                let far = (got - sum).abs();
                assert!(far <= bound, "row {row}, column {column}: {got}, wanted {sum}");
            }
        }
    }

    fn passes(&self) {
        self.job().passes(|ran| self.check(&ran.buffers[2]));
    }

    /// The pipeline with a line changed.
    pub fn changed(&self, mark: &str, instead: &str) -> Job {
        self.job_of(&self.source().change(mark, instead))
    }
}

#[test]
fn one_and_two_warpgroups() {
    for groups in [1, 2] {
        for stages in [2, 3, 4] {
            Pipeline { m: 64 * groups as usize, groups, stages, ..GOOD }.passes();
        }
    }
}

#[test]
fn shapes_with_tails() {
    // Fewer steps than stages, one step; rows, columns and k that do not fill their tiles.
    Pipeline { k: 64, ..GOOD }.passes();
    Pipeline { k: 128, stages: 4, ..GOOD }.passes();
    Pipeline { m: 200, n: 100, k: 328, ..GOOD }.passes();
    Pipeline { m: 70, n: 72, k: 200, groups: 1, stages: 2, ..GOOD }.passes();
}

#[test]
fn tiles_of_many_columns() {
    Pipeline { columns: 256, n: 300, k: 200, stages: 2, is_half: true, ..GOOD }.passes();
    Pipeline { columns: 192, n: 192, k: 200, stages: 2, ..GOOD }.passes();
}

#[test]
fn c_through_stmatrix() {
    Pipeline { is_half: true, ..GOOD }.passes();
    Pipeline { is_half: true, m: 150, n: 104, k: 200, stages: 2, ..GOOD }.passes();
}

#[test]
fn sums_that_round() {
    for is_half in [false, true] {
        let pipeline = Pipeline { is_exact: false, is_half, ..GOOD };
        pipeline.passes();
        pipeline.job().reordered().passes(|ran| pipeline.check(&ran.buffers[2]));
    }
}

#[test]
fn clusters_that_share_their_loads() {
    for (cluster, m) in [(2, 256), (4, 512)] {
        Pipeline { cluster, m, k: 320, ..GOOD }.passes();
    }
    Pipeline { cluster: 2, m: 300, n: 72, k: 200, groups: 1, stages: 2, ..GOOD }.passes();
    // Stages are released without a scope, as CUTLASS does.
    let pair = Pipeline { cluster: 2, m: 256, k: 320, ..GOOD };
    let to = |rank: u32| {
        format!(
            "mapa.shared::cluster.u32 %there, %last, {rank}; mbarrier.arrive.shared::cluster.b64 _, [%there];"
        )
    };
    pair.changed("release", &(to(0) + &to(1))).passes(|ran| pair.check(&ran.buffers[2]));
}

/// Prints how long products take: `cargo test --release -p glmae-simt --test hopper -- --ignored --nocapture times`.
#[test]
#[ignore = "prints times, checks nothing"]
fn times() {
    let pipeline = Pipeline { columns: 256, n: 256, k: 64 * 256, stages: 4, is_half: true, ..GOOD };
    let job = pipeline.job();
    let program = job.program();
    for is_checked in [false, true] {
        let ran = job.run(&program, Schedule::Ascending, is_checked);
        assert!(ran.outcome.is_ok());
        let each = ran.took / 2048;
        println!("checked {is_checked}: {each:?} for each of 2048 products of 64 x 256 x 16");
    }
}
