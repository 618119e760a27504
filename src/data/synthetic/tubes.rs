//! Vessels: straight tubes painted into one organ, thinner than a voxel if need be, and the random
//! trees they form.

use super::anatomy::{Organ, Point};
use crate::rng::Rng;

/// A straight piece of vessel. Lengths in millimetres.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tube {
    pub from: Point,
    pub to: Point,
    pub radius: f64,
    pub hu: f32,
    /// The organ whose voxels it may change.
    pub within: Organ,
}

/// Squared distance of `p` from the segment `a b`.
pub(super) fn distance_squared(p: Point, a: Point, b: Point) -> f64 {
    let dot = |u: Point, v: Point| u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
    let sub = |u: Point, v: Point| [u[0] - v[0], u[1] - v[1], u[2] - v[2]];
    let (along, to) = (sub(b, a), sub(p, a));
    let t = (dot(to, along) / dot(along, along).max(1e-9)).clamp(0.0, 1.0);
    let off = [0, 1, 2].map(|i| to[i] - t * along[i]);
    dot(off, off)
}

impl Tube {
    /// Mixes the tube into `hu` on a centred RAS grid, each voxel by the part it covers.
    pub fn paint(&self, hu: &mut [f32], organs: &[Organ], dims: [usize; 3], spacing: Point) {
        let voxel = spacing[0].min(spacing[2]);
        let reach = self.radius + voxel;
        let range = |axis: usize| {
            let centre = (dims[axis] as f64 - 1.0) / 2.0;
            let index = |mm: f64| (mm / spacing[axis] + centre).clamp(0.0, dims[axis] as f64);
            let (lo, hi) = (self.from[axis].min(self.to[axis]), self.from[axis].max(self.to[axis]));
            index(lo - reach).floor() as usize..index(hi + reach).ceil() as usize
        };
        let mm =
            |axis: usize, i: usize| (i as f64 - (dims[axis] as f64 - 1.0) / 2.0) * spacing[axis];
        // A tube thinner than a voxel covers only a part of it even at its centre.
        let most = (2.0 * self.radius / voxel).min(1.0);
        for x in range(0) {
            for y in range(1) {
                for z in range(2) {
                    let i = (x * dims[1] + y) * dims[2] + z;
                    if organs[i] != self.within {
                        continue;
                    }
                    let p = [mm(0, x), mm(1, y), mm(2, z)];
                    let d = distance_squared(p, self.from, self.to).sqrt();
                    let part = most * (0.5 + (self.radius - d) / voxel).clamp(0.0, 1.0);
                    let mixed = hu[i] + part as f32 * (self.hu - hu[i]);
                    hu[i] = hu[i].max(mixed);
                }
            }
        }
    }
}

/// A vessel tree in one organ.
pub(super) struct Tree {
    pub hu: f32,
    pub within: Organ,
    /// The point branches turn away from.
    pub away_from: Point,
}

impl Tree {
    /// Grows a branch of this `length` and `radius` from `from`, and its children, into `out`.
    pub fn grow(
        &self,
        rng: &mut Rng,
        from: Point,
        direction: Point,
        length: f64,
        radius: f64,
        out: &mut Vec<Tube>,
    ) {
        let to = [0, 1, 2].map(|i| from[i] + length * direction[i]);
        out.push(Tube { from, to, radius, hu: self.hu, within: self.within });
        if radius < 0.8 || length < 8.0 {
            return;
        }
        let children = 2 + rng.below(2);
        for _ in 0..children {
            let outward = unit([0, 1, 2].map(|i| to[i] - self.away_from[i]));
            let turned =
                [0, 1, 2].map(|i| direction[i] + 0.35 * outward[i] + rng.range(-0.85, 0.85));
            let (shorter, thinner) = (rng.range(0.65, 0.85), rng.range(0.6, 0.78));
            self.grow(rng, to, unit(turned), length * shorter, radius * thinner, out);
        }
    }
}

/// The vector of length 1 in this direction.
pub(super) fn unit(v: Point) -> Point {
    let length = (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).sqrt().max(1e-9);
    v.map(|x| x / length)
}
