//! `cp.async.bulk.tensor` (9.7.9.25.5.5): boxes of tensors of all ranks, with all swizzles, filled and clipped, in
//! tiled and im2col mode. The expected bytes are computed element by element from section 5.5.

use glmae_simt::hopper::swizzle::Swizzle;
use glmae_simt::hopper::tensor_map::{Element, Fill, Promotion, Tensor, TensorMap};

use crate::launch::fault;
use crate::{Arg, Job, Source};
use glmae_simt::random::Random;

/// A tensor and a box of it, innermost dimension first.
#[derive(Clone)]
pub struct Shape {
    pub element: Element,
    pub dims: Vec<u64>,
    /// Bytes, of all dimensions but the innermost.
    pub strides: Vec<u64>,
    pub steps: Vec<u32>,
    pub size: Vec<u32>,
    pub swizzle: Swizzle,
    pub fill: Fill,
}

impl Shape {
    /// A tensor whose rows are padded to whole 16 bytes, and one row more.
    pub fn new(element: Element, dims: &[u64], size: &[u32]) -> Self {
        let mut strides = Vec::new();
        let mut bytes = (dims[0] * u64::from(element.bytes())).next_multiple_of(16);
        for dim in &dims[1..] {
            strides.push(bytes);
            bytes = bytes * dim + 16;
        }
        let (dims, steps, size) = (dims.to_vec(), vec![1; dims.len()], size.to_vec());
        Self { element, dims, strides, steps, size, swizzle: Swizzle::None, fill: Fill::Zeros }
    }

    fn swizzled(mut self, swizzle: Swizzle) -> Self {
        self.swizzle = swizzle;
        self
    }

    pub fn tensor(&self, base: u64) -> Tensor<'_> {
        Tensor {
            element: self.element,
            base,
            dims: &self.dims,
            strides: &self.strides,
            element_strides: &self.steps,
            swizzle: self.swizzle,
            promotion: Promotion::B128,
            fill: self.fill,
        }
    }

    /// Bytes from the tensor's first element to behind its last.
    pub fn bytes(&self) -> usize {
        let mut last = (self.dims[0] - 1) * u64::from(self.element.bytes());
        for (dim, stride) in self.dims[1..].iter().zip(&self.strides) {
            last += (dim - 1) * stride;
        }
        last as usize + self.element.bytes() as usize
    }

    /// Elements of the box by dimension: every so many of those that it spans.
    fn counts(&self) -> Vec<u32> {
        let steps = std::iter::once(&1).chain(&self.steps[1..]);
        self.size.iter().zip(steps).map(|(size, step)| size.div_ceil(*step)).collect()
    }

    pub fn box_bytes(&self) -> u32 {
        self.counts().iter().product::<u32>() * self.element.bytes()
    }

    /// Of every element of a box, in the order of shared memory: where it is in the tensor, in bytes.
    pub fn places(&self, at: &[i32]) -> Vec<Option<usize>> {
        let counts = self.counts();
        let n: u32 = counts.iter().product();
        (0..n)
            .map(|mut i| {
                let mut place = 0;
                for d in 0..self.dims.len() {
                    let step = if d == 0 { 1 } else { self.steps[d] };
                    let x = i64::from(at[d]) + i64::from(i % counts[d] * step);
                    i /= counts[d];
                    let stride =
                        if d == 0 { self.element.bytes().into() } else { self.strides[d - 1] };
                    place += usize::try_from(x).ok().filter(|x| (*x as u64) < self.dims[d])?
                        * stride as usize;
                }
                Some(place)
            })
            .collect()
    }

    pub fn map(&self) -> impl Fn(&[u64]) -> TensorMap + use<> {
        let shape = self.clone();
        move |at| TensorMap::tiled(&shape.tensor(at[2]), &shape.size).expect("a map")
    }
}

/// Where a byte of a box lies in shared memory: the tables of section 5.5.7, in chunks of 16 bytes by lines of 128.
pub fn swizzled(swizzle: Swizzle, offset: usize) -> usize {
    const LINES: [[usize; 8]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [1, 0, 3, 2, 5, 4, 7, 6],
        [2, 3, 0, 1, 6, 7, 4, 5],
        [3, 2, 1, 0, 7, 6, 5, 4],
        [4, 5, 6, 7, 0, 1, 2, 3],
        [5, 4, 7, 6, 1, 0, 3, 2],
        [6, 7, 4, 5, 2, 3, 0, 1],
        [7, 6, 5, 4, 3, 2, 1, 0],
    ];
    let period = match swizzle {
        Swizzle::None => 1,
        Swizzle::B32 => 2,
        Swizzle::B64 => 4,
        Swizzle::B128 => 8,
    };
    let (line, chunk, byte) = (offset / 128, offset / 16 % 8, offset % 16);
    128 * line + 16 * LINES[line % period][chunk] + byte
}

/// Random bytes.
pub fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.below(255) as u8).collect()
}

/// The bytes of shared memory that a load leaves there.
pub fn image(shape: &Shape, tensor: &[u8], places: &[Option<usize>]) -> Vec<u8> {
    let size = shape.element.bytes() as usize;
    let mut out = vec![0; size * places.len()];
    for (i, place) in places.iter().enumerate() {
        for b in 0..size {
            out[swizzled(shape.swizzle, size * i + b)] = match (place, shape.fill) {
                (Some(place), _) => tensor[place + b],
                (None, Fill::Zeros) => 0,
                (None, Fill::Nan) => 0xff,
            };
        }
    }
    out
}

/// The coordinates of a launch, and im2col offsets behind them.
pub fn coordinates(at: &[i32], offsets: &[u16]) -> Arg {
    let mut words = [0u32; 8];
    words.iter_mut().zip(at).for_each(|(w, &x)| *w = x as u32);
    words[5..].iter_mut().zip(offsets).for_each(|(w, &x)| *w = x.into());
    Arg::words(words)
}

pub fn names(prefix: &str, n: usize) -> String {
    (0..n).map(|i| format!("%{prefix}{i}")).collect::<Vec<_>>().join(", ")
}

fn load_source(rank: usize) -> Source {
    let source = Source::kernel("hopper_tensor", "load").with("rank", format!("{rank}d"));
    source.with("mode", ".tile").with("coords", names("c", rank)).with("offsets", "")
}

fn load_job(source: &Source, shape: &Shape, tensor: &[u8], at: &[i32]) -> Job {
    let bytes = shape.box_bytes();
    let args = vec![
        Arg::map(shape.map()),
        coordinates(at, &[]),
        Arg::Out(bytes as usize),
        Arg::u32(bytes),
        // No parameter of the kernel: only the map knows it.
        Arg::In(tensor.to_vec()),
    ];
    source.job(args).shared(bytes.max(16))
}

fn check_load(shape: &Shape, at: &[i32]) {
    let tensor = noise(shape.bytes(), 7);
    let wanted = image(shape, &tensor, &shape.places(at));
    let job = load_job(&load_source(shape.dims.len()), shape, &tensor, at);
    job.passes(|ran| assert!(ran.buffers[1] == wanted, "{:?} at {at:?}", shape.size));
}

#[test]
fn boxes_of_every_rank() {
    let bf16 = Element::Bf16;
    check_load(&Shape::new(bf16, &[100], &[64]), &[8]);
    check_load(&Shape::new(bf16, &[40, 30], &[16, 5]), &[8, 3]);
    check_load(&Shape::new(Element::F32, &[12, 9, 7], &[8, 3, 4]), &[4, 2, 1]);
    check_load(&Shape::new(Element::U8, &[48, 5, 4, 6], &[32, 2, 3, 2]), &[16, 1, 0, 3]);
    check_load(&Shape::new(Element::F64, &[6, 3, 4, 5, 3], &[4, 2, 2, 3, 2]), &[2, 1, 1, 0, 1]);
}

#[test]
fn boxes_that_leave_the_tensor() {
    // On either side of every dimension, and beyond it as a whole.
    let shape = Shape::new(Element::F32, &[12, 9, 7], &[8, 3, 4]);
    for at in [[-4, -1, -2], [8, 7, 5], [12, 0, 0], [0, 9, 0], [0, 0, -4], [-8, 0, 0], [4, -2, 6]] {
        check_load(&shape, &at);
        check_load(&Shape { fill: Fill::Nan, ..shape.clone() }, &at);
    }
    // Rows that end in the middle of 16 bytes.
    let odd = Shape::new(Element::Bf16, &[21, 5], &[16, 4]);
    for at in [[0, 0], [8, 2], [16, 3], [-8, -1]] {
        check_load(&odd, &at);
    }
}

#[test]
fn swizzled_boxes() {
    for (swizzle, row) in [(Swizzle::B32, 32), (Swizzle::B64, 64), (Swizzle::B128, 128)] {
        for element in [Element::U8, Element::Bf16, Element::F32] {
            let n = row / element.bytes();
            let dims = [u64::from(n) * 3, 40];
            let shape = Shape::new(element, &dims, &[n, 24]).swizzled(swizzle);
            for at in
                [[0, 0], [n as i32, 5], [2 * n as i32, 30], [-(16 / element.bytes() as i32), -3]]
            {
                check_load(&shape, &at);
            }
        }
    }
}

#[test]
fn every_second_or_third_element() {
    let mut shape = Shape::new(Element::Bf16, &[32, 20, 9], &[16, 7, 4]);
    shape.steps = vec![1, 2, 3];
    for at in [[0, 0, 0], [8, 3, 1], [16, 15, 6], [0, -3, -2]] {
        check_load(&shape, &at);
    }
}

fn store_job(source: &Source, shape: &Shape, at: &[i32]) -> Job {
    let bytes = shape.box_bytes();
    let args = vec![
        Arg::map(shape.map()),
        coordinates(at, &[]),
        Arg::In(noise(bytes as usize, 9)),
        Arg::In(noise(shape.bytes(), 11)),
        Arg::u32(bytes),
    ];
    source.job(args).shared(bytes)
}

fn store_source(rank: usize) -> Source {
    let source = Source::kernel("hopper_tensor", "store").with("rank", format!("{rank}d"));
    source.with("mode", ".tile").with("coords", names("c", rank))
}

fn check_store(shape: &Shape, at: &[i32]) {
    let (image, mut wanted) = (noise(shape.box_bytes() as usize, 9), noise(shape.bytes(), 11));
    let size = shape.element.bytes() as usize;
    for (i, place) in shape.places(at).iter().enumerate() {
        let Some(place) = place else { continue };
        for b in 0..size {
            wanted[place + b] = image[swizzled(shape.swizzle, size * i + b)];
        }
    }
    store_job(&store_source(shape.dims.len()), shape, at)
        .passes(|ran| assert!(ran.buffers[2] == wanted, "{:?} at {at:?}", shape.size));
}

#[test]
fn stores_of_every_rank() {
    let bf16 = Element::Bf16;
    check_store(&Shape::new(bf16, &[128], &[64]), &[8]);
    check_store(&Shape::new(bf16, &[40, 30], &[16, 5]), &[8, 3]);
    check_store(&Shape::new(Element::F32, &[12, 9, 7], &[8, 3, 4]), &[4, 2, 1]);
    check_store(&Shape::new(Element::U8, &[48, 5, 4, 6], &[32, 2, 3, 2]), &[16, 1, 0, 3]);
    check_store(&Shape::new(Element::F64, &[6, 3, 4, 5, 3], &[4, 2, 2, 3, 2]), &[2, 1, 1, 0, 1]);
    for (swizzle, row) in [(Swizzle::B32, 16), (Swizzle::B64, 32), (Swizzle::B128, 64)] {
        let shape = Shape::new(bf16, &[128, 40], &[row, 24]).swizzled(swizzle);
        check_store(&shape, &[64, 10]);
        // Clipped.
        check_store(&shape, &[112, 30]);
    }
    let mut steps = Shape::new(bf16, &[32, 20, 9], &[16, 7, 4]);
    steps.steps = vec![1, 2, 3];
    check_store(&steps, &[16, 11, 2]);
}

#[test]
fn stores_that_are_wrong() {
    let shape = Shape::new(Element::Bf16, &[128, 40], &[64, 24]).swizzled(Swizzle::B128);
    let good = store_source(2);
    let job = |source: &Source| store_job(source, &shape, &[0, 0]);
    let fence = "of 'dynamic shared memory', written by thread (0, 0, 0) (PTX line";
    job(&good.without("fence")).fails(&fault(&[fence], &["store"]).lanes(1));
    let text = ["data race", "never written"];
    let half = good.without("full").change("write", "@!%p0 st.shared.u32 [%r2], %r3;");
    job(&half).fails(&fault(&text, &["store"]));
    job(&good.without("end"))
        .fails(&fault(&["without having waited for this bulk store"], &["store"]));
    store_job(&good, &shape, &[0, -1]).fails(&fault(
        &["a store at coordinate -1 of dimension 1; it must not be negative"],
        &["store"],
    ));
    let low = good.change("tile", "mov.u32 %tile, tiles; add.u32 %tile, %tile, 64;");
    let job = store_job(&low, &shape, &[0, 0]).shared(4096);
    job.fails(&fault(&["is no multiple of 128"], &["store"]));
}

#[test]
fn loads_that_are_wrong() {
    let shape = Shape::new(Element::Bf16, &[128, 40], &[64, 24]).swizzled(Swizzle::B128);
    let tensor = noise(shape.bytes(), 7);
    let good = load_source(2);
    let job = |source: &Source| load_job(source, &shape, &tensor, &[0, 0]);
    // The box is two rows short of what the kernel expects.
    let short = Shape { size: vec![64, 22], ..shape.clone() };
    let mut less = job(&good);
    less.args[0] = Arg::map(short.map());
    let text = "in which all arrived but 256 bytes are missing";
    less.fails(&fault(&[text], &["wait"]).lanes(u32::MAX));
    // Four instead of two dimensions; the other mode.
    let source = Source::kernel("hopper_tensor", "load").with("rank", "3d").with("mode", ".tile");
    let three = source.with("coords", "%c0, %c1, %c2").with("offsets", "");
    job(&three).fails(&fault(&["a map of rank 2 in a copy of rank 3"], &["load"]));
    // Maps that are none.
    let mut garbage = job(&good);
    garbage.args[0] = Arg::Raw(vec![0x5a; 128]);
    garbage.fails(
        &fault(&["no tensor map at 0x", "tensor map: these 128 bytes are none"], &["load"])
            .lanes(1),
    );
    let mut damaged = job(&good);
    damaged.args[0] = Arg::Map(Box::new(shape.map()));
    let bytes = shape.map()(&[0, 0, 1 << 20]).to_bytes();
    let mut changed = bytes;
    changed[25] ^= 1;
    damaged.args[0] = Arg::Raw(changed.to_vec());
    damaged.fails(&fault(&["its 128 bytes were changed after it was made"], &["load"]));
    // A map that is elsewhere in the parameters, or in no space.
    let off = good.change("cvta", "cvta.param.u64 %map, %map; add.u64 %map, %map, 8;");
    job(&off).fails(&fault(&["which is no multiple of 64"], &["load"]));
    job(&good.without("cvta")).fails(&fault(&["reaches the null pointer plus 0"], &["load"]));
    // A tensor that is not there, or not as large as the map says.
    let mut other = job(&good);
    other.args[0] = Arg::Raw(bytes.to_vec());
    other.fails(&fault(&["in no allocation", "bytes past the end", "bytes before"], &["load"]));
    let taller = Shape { dims: vec![128, 50], ..shape.clone() };
    let mut tall = load_job(&good, &shape, &tensor, &[64, 30]);
    tall.args[0] = Arg::map(taller.map());
    tall.fails(&fault(&["past the end of 'buffer 2'"], &["load"]));
    // The middle of 16 bytes of global memory.
    load_job(&good, &shape, &tensor, &[4, 0]).fails(&fault(
        &["starts at byte 8 of the innermost dimension, which is no multiple of 16"],
        &["load"],
    ));
    // A stage that is aligned to 64 bytes only; one to 128, under the swizzle of 128 bytes, is another picture.
    let low = good.change("tile", "mov.u32 %tile, tiles; add.u32 %tile, %tile, 64;");
    job(&low)
        .shared(8192)
        .fails(&fault(&["the shared address 0x", "is no multiple of 128"], &["load"]));
    // Beyond shared memory.
    job(&good).shared(3056).fails(&fault(&["of dynamic shared memory (3056 bytes)"], &["load"]));
}

#[test]
fn a_tile_that_is_only_aligned_to_128_bytes_has_its_pattern_elsewhere() {
    // Section 5.5.7: the pattern is that of the address, not of the offset in the tile.
    let shape = Shape::new(Element::Bf16, &[128, 40], &[64, 24]).swizzled(Swizzle::B128);
    let tensor = noise(shape.bytes(), 7);
    let low = load_source(2).change("tile", "mov.u32 %tile, tiles; add.u32 %tile, %tile, 384;");
    let flat =
        image(&Shape { swizzle: Swizzle::None, ..shape.clone() }, &tensor, &shape.places(&[0, 0]));
    let mut wanted = vec![0; flat.len()];
    for (i, byte) in flat.iter().enumerate() {
        wanted[swizzled(Swizzle::B128, 384 + i) - 384] = *byte;
    }
    let job = load_job(&low, &shape, &tensor, &[0, 0]).shared(4096);
    job.passes(|ran| assert!(ran.buffers[1] == wanted));
}

#[test]
fn multicast_to_two_and_four_blocks() {
    for blocks in [2u32, 4] {
        let rows = 32;
        let mut shape = Shape::new(Element::Bf16, &[64, 100], &[64, rows]).swizzled(Swizzle::B128);
        let tensor = noise(shape.bytes(), 3);
        let wanted = image(&shape, &tensor, &shape.places(&[0, 0])).repeat(blocks as usize);
        shape.size[1] = rows / blocks;
        let map =
            move |at: &[u64]| TensorMap::tiled(&shape.tensor(at[1]), &shape.size).expect("a map");
        let args = |n: usize| {
            vec![Arg::map(map.clone()), Arg::Out(n), Arg::u32(rows), Arg::In(tensor.clone())]
        };
        let n = wanted.len();
        let source = Source::kernel("hopper_tensor", "multicast");
        let job = |source: &Source| source.job(args(n)).shared(rows * 128).cluster(blocks);
        job(&source).passes(|ran| assert!(ran.buffers[0] == wanted));
        // Each block's barrier has to expect the bytes of all shares.
        let text = "bytes too many came";
        let texts = [
            text,
            "bytes came that were not expected",
            "not waited for",
            "data race",
            "ended while this copy",
        ];
        let less =
            source.change("expect", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 128;");
        job(&less).fails(&fault(&texts, &["wait", "read", "load"]));
        let more =
            source.change("expect", "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 8192;");
        job(&more).fails(&fault(&["in which all arrived but 4096 bytes are missing"], &["wait"]));
    }
}

#[test]
fn maps_that_no_driver_makes() {
    // Where a kernel's map comes from: it is refused when it is encoded.
    let shape = Shape::new(Element::Bf16, &[128, 40], &[64, 24]);
    let tensor = Tensor { strides: &[264], ..shape.tensor(0) };
    let error = TensorMap::tiled(&tensor, &shape.size).expect_err("264 is no multiple of 16");
    assert!(error.to_string().contains("264 bytes, is no multiple of 16"), "{error}");
    let wide = Shape { size: vec![72, 8], ..shape }.swizzled(Swizzle::B128);
    let error = TensorMap::tiled(&wide.tensor(0), &wide.size).expect_err("144 bytes");
    assert!(error.to_string().contains("a swizzle of 128 bytes allows no more"), "{error}");
}
