//! `cp.async.bulk.tensor` in im2col mode (section 5.5.4).

use glmae_simt::hopper::swizzle::Swizzle;
use glmae_simt::hopper::tensor_map::{Element, TensorMap};

use crate::reduce::{bare, sum, values};
use crate::tensor::{Shape, coordinates, image, names, noise};
use crate::{Arg, Source};

/// An image of {C, W, H, D, N}, as far as there are these, and a column of it.
struct Column {
    shape: Shape,
    lower: Vec<i32>,
    upper: Vec<i32>,
    channels: u32,
    pixels: u32,
}

impl Column {
    fn map(&self) -> impl Fn(&[u64]) -> TensorMap + use<> {
        let (shape, lower, upper) = (self.shape.clone(), self.lower.clone(), self.upper.clone());
        let (channels, pixels) = (self.channels, self.pixels);
        move |at| {
            TensorMap::im2col(&shape.tensor(at[2]), &lower, &upper, channels, pixels)
                .expect("a map")
        }
    }

    fn bytes(&self) -> u32 {
        self.channels * self.pixels * self.shape.element.bytes()
    }

    /// Places of all elements, pixel after pixel: along W through the box of filter positions, then H, D and N.
    fn places(&self, at: &[i32], offsets: &[u16]) -> Vec<Option<usize>> {
        let spatial = self.lower.len();
        let dims = &self.shape.dims;
        let mut position: Vec<i64> = at.iter().map(|&x| x.into()).collect();
        let mut all = Vec::new();
        for _ in 0..self.pixels {
            for c in 0..self.channels {
                let mut x = position.clone();
                x[0] += i64::from(c);
                for i in 0..spatial {
                    x[i + 1] += i64::from(offsets.get(i).copied().unwrap_or(0));
                }
                let is_in = x.iter().zip(dims).all(|(&x, &n)| (0..n as i64).contains(&x));
                let place: i64 = x[0] * i64::from(self.shape.element.bytes())
                    + x[1..]
                        .iter()
                        .zip(&self.shape.strides)
                        .map(|(&x, &s)| x * s as i64)
                        .sum::<i64>();
                all.push(is_in.then_some(place as usize));
            }
            for i in 0..=spatial {
                if i == spatial {
                    position[spatial + 1] += 1;
                    break;
                }
                position[i + 1] += i64::from(self.shape.steps[i + 1]);
                // The last position of the box is the size less 1 plus the upper corner.
                if position[i + 1] < dims[i + 1] as i64 + i64::from(self.upper[i]) {
                    break;
                }
                position[i + 1] = self.lower[i].into();
            }
        }
        all
    }
}

fn check_im2col(column: &Column, at: &[i32], offsets: &[u16]) {
    let rank = column.shape.dims.len();
    let source = Source::kernel("hopper_tensor", "load").with("rank", format!("{rank}d"));
    let source = source.with("mode", ".im2col").with("coords", names("c", rank));
    let source = source.with("offsets", format!(", {{{}}}", names("h", rank - 2)));
    let tensor = noise(column.shape.bytes(), 7);
    let wanted = image(&column.shape, &tensor, &column.places(at, offsets));
    let args = vec![
        Arg::map(column.map()),
        coordinates(at, offsets),
        Arg::Out(column.bytes() as usize),
        Arg::u32(column.bytes()),
        Arg::In(tensor.clone()),
    ];
    let job = source.job(args).shared(column.bytes());
    job.passes(|ran| assert!(ran.buffers[1] == wanted, "{at:?} {offsets:?}"));
}

#[test]
fn columns_of_images() {
    let column = |dims: &[u64], lower: &[i32], upper: &[i32], channels: u32, pixels: u32| Column {
        shape: Shape::new(Element::Bf16, dims, &vec![1; dims.len()]),
        lower: lower.to_vec(),
        upper: upper.to_vec(),
        channels,
        pixels,
    };
    // A row; the example of the manual (9 x 14 pixels, a filter of 3 x 3 around its middle); a volume.
    check_im2col(&column(&[16, 10, 3], &[-1], &[-1], 8, 20), &[8, 3, 0], &[1]);
    check_im2col(&column(&[16, 9, 14, 2], &[-1, -1], &[-1, -1], 16, 64), &[0, 6, 4, 0], &[2, 1]);
    check_im2col(&column(&[16, 9, 14, 2], &[0, 0], &[-2, -2], 16, 64), &[0, 6, 11, 0], &[0, 0]);
    check_im2col(
        &column(&[8, 5, 4, 3, 2], &[-1, -1, -1], &[0, 1, 0], 8, 70),
        &[0, 2, 1, 0, 0],
        &[1, 0, 2],
    );
    let mut strided = column(&[64, 9, 14, 3], &[-1, -1], &[-1, -1], 64, 32);
    strided.shape.steps = vec![1, 2, 2, 1];
    strided.shape.swizzle = Swizzle::B128;
    check_im2col(&strided, &[0, 1, 1, 0], &[1, 2]);
}

#[test]
fn columns_that_are_stored() {
    let shape = Shape::new(Element::Bf16, &[16, 9, 6, 2], &[1; 4]);
    let column = Column { shape, lower: vec![0; 2], upper: vec![0; 2], channels: 16, pixels: 50 };
    let at = [0, 3, 2, 0];
    let (image, mut wanted) = (noise(column.bytes() as usize, 9), noise(column.shape.bytes(), 11));
    for (i, place) in column.places(&at, &[]).iter().enumerate() {
        if let Some(place) = place {
            wanted[*place..place + 2].copy_from_slice(&image[2 * i..2 * i + 2]);
        }
    }
    let source = Source::kernel("hopper_tensor", "store").with("rank", "4d");
    let source = source.with("mode", ".im2col_no_offs").with("coords", names("c", 4));
    let args = vec![
        Arg::map(column.map()),
        coordinates(&at, &[]),
        Arg::In(image),
        Arg::In(noise(column.shape.bytes(), 11)),
        Arg::u32(column.bytes()),
    ];
    source.job(args).shared(column.bytes()).passes(|ran| assert!(ran.buffers[2] == wanted));
}

#[test]
fn columns_that_are_added() {
    let shape = Shape::new(Element::F32, &[16, 9, 6, 2], &[1; 4]);
    let column = Column { shape, lower: vec![0; 2], upper: vec![0; 2], channels: 16, pixels: 50 };
    let at = [0, 3, 2, 0];
    let n = column.shape.bytes() / 4;
    let (image, before) = (values(Element::F32, 16 * 50, 9), values(Element::F32, n, 11));
    let mut wanted = before.clone();
    for (i, place) in column.places(&at, &[]).iter().enumerate() {
        if let Some(place) = *place {
            let sum = sum(Element::F32, &before[place..place + 4], &image[4 * i..4 * i + 4]);
            wanted[place..place + 4].copy_from_slice(&sum);
        }
    }
    let source = bare(crate::reduce::source(4).with("mode", ".im2col_no_offs"));
    let args = vec![
        Arg::map(column.map()),
        coordinates(&at, &[]),
        Arg::In(image),
        Arg::In(before),
        Arg::u32(column.bytes()),
    ];
    source.job(args).shared(column.bytes()).passes(|ran| assert!(ran.buffers[2] == wanted));
}
