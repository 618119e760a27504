//! The drawn body: what tissue is at a point. Millimetres in RAS+: `x` to the right, `y` to the
//! front, `z` to the head; the origin is the middle of the scan.
//!
//! Only sums, products and square roots, so that every platform draws the same bits.

use super::tubes::{Tree, Tube, distance_squared, unit};
use crate::rng::Rng;

pub(super) type Point = [f64; 3];

/// What the label map tells apart; values are indices of `LABELS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Organ {
    Background = 0,
    Lungs = 1,
    Heart = 2,
    Aorta = 3,
    Liver = 4,
    Spleen = 5,
    Stomach = 6,
    RightKidney = 7,
    LeftKidney = 8,
    Spine = 9,
}

const AIR: f64 = -1000.0;
const FAT: f64 = -105.0;
const MUSCLE: f64 = 55.0;

/// Value noise: random values on a lattice, interpolated smoothly, in -1..1.
struct Noise(Vec<f64>);

impl Noise {
    /// A power of two, so that wrapping holds for negative cells too.
    const SIDE: usize = 16;

    fn draw(rng: &mut Rng) -> Self {
        Self((0..Self::SIDE.pow(3)).map(|_| rng.range(-1.0, 1.0)).collect())
    }

    /// At `p`, with details of about `scale` millimetres.
    fn at(&self, p: Point, scale: f64) -> f64 {
        let cell = p.map(|v| (v / scale).floor());
        let t = [0, 1, 2].map(|i| {
            let t = p[i] / scale - cell[i];
            t * t * (3.0 - 2.0 * t)
        });
        let wrap = |v: f64| v as i64 as usize % Self::SIDE;
        (0..8).fold(0.0, |sum, corner: usize| {
            let bit = |axis: usize| (corner >> axis & 1) as f64;
            let index = (0..3).fold(0, |i, a| i * Self::SIDE + wrap(cell[a] + bit(a)));
            let weight: f64 =
                (0..3).map(|a| if bit(a) == 1.0 { t[a] } else { 1.0 - t[a] }).product();
            sum + weight * self.0[index]
        })
    }
}

struct Ellipsoid {
    centre: Point,
    radii: Point,
}

impl Ellipsoid {
    /// 1 on the surface, less inside: the squared relative radius.
    fn depth(&self, p: Point) -> f64 {
        (0..3).map(|i| ((p[i] - self.centre[i]) / self.radii[i]).powi(2)).sum()
    }
}

/// A tube of fixed anatomy with its organ.
struct Pipe {
    from: Point,
    to: Point,
    radius: f64,
    hu: f64,
    organ: Organ,
}

/// One drawn person.
pub(super) struct Body {
    /// Half widths of the trunk, left-right and front-back.
    half: [f64; 2],
    fat_mm: f64,
    /// Height of the diaphragm's rim.
    rim: f64,
    /// Depth of the vertebral bodies.
    spine_y: f64,
    vertebra_mm: f64,
    /// Contrast agent: HU of blood.
    blood: f64,
    noise: Noise,
    heart: Ellipsoid,
    /// Right and left lobe.
    liver: [Ellipsoid; 2],
    spleen: Ellipsoid,
    stomach: Ellipsoid,
    kidneys: [Ellipsoid; 2],
    gallbladder: Ellipsoid,
    pipes: Vec<Pipe>,
    airways: Vec<Pipe>,
}

impl Body {
    pub fn draw(rng: &mut Rng) -> Self {
        let size = rng.range(0.94, 1.06);
        let half = [rng.range(158.0, 172.0) * size, rng.range(108.0, 120.0) * size];
        let rim = rng.range(-45.0, -25.0);
        let spine_y = -half[1] + rng.range(72.0, 78.0);
        let blood = rng.range(60.0, 190.0);
        let ellipsoid = |rng: &mut Rng, centre: Point, radii: Point| Ellipsoid {
            centre: centre.map(|v| v + rng.range(-5.0, 5.0)),
            radii: radii.map(|r| r * size * rng.range(0.92, 1.08)),
        };
        let pipe = |from, to, radius, hu, organ| Pipe { from, to, radius, hu, organ };
        let (a, b) = (Organ::Aorta, Organ::Background);
        let arch = [
            [8.0, 28.0, rim + 85.0],
            [6.0, 16.0, rim + 140.0],
            [-12.0, -8.0, rim + 152.0],
            [-21.0, spine_y + 20.0, rim + 132.0],
            [-24.0, spine_y + 22.0, rim + 60.0],
            [-10.0, spine_y + 27.0, rim - 60.0],
            [-6.0, spine_y + 27.0, -260.0],
        ];
        let mut pipes: Vec<Pipe> = arch
            .windows(2)
            .enumerate()
            .map(|(i, ends)| pipe(ends[0], ends[1], 14.5 - 0.8 * i as f64, blood, a))
            .collect();
        let hila = [[44.0, -8.0, rim + 88.0], [-44.0, -8.0, rim + 90.0]];
        pipes.extend([
            // Vena cava, below and above the heart; pulmonary trunk and arteries.
            pipe([19.0, spine_y + 30.0, -260.0], [24.0, 2.0, rim + 18.0], 11.5, 0.85 * blood, b),
            pipe([27.0, 14.0, rim + 80.0], [24.0, 8.0, 260.0], 9.0, blood, b),
            pipe([-14.0, 42.0, rim + 80.0], [-16.0, 12.0, rim + 104.0], 13.0, blood, b),
            pipe([-16.0, 12.0, rim + 104.0], hila[0], 9.0, blood, b),
            pipe([-16.0, 12.0, rim + 104.0], hila[1], 9.0, blood, b),
            // Pancreas.
            pipe([-62.0, -22.0, rim - 62.0], [-5.0, 14.0, rim - 78.0], 10.0, 90.0, b),
            pipe([-5.0, 14.0, rim - 78.0], [32.0, 2.0, rim - 95.0], 12.0, 90.0, b),
        ]);
        let carina = [0.0, spine_y + 34.0, rim + 112.0];
        let airways = vec![
            pipe(carina, [0.0, spine_y + 42.0, 260.0], 8.5, AIR, b),
            pipe(carina, [36.0, -12.0, rim + 88.0], 6.5, AIR, b),
            pipe(carina, [-38.0, -12.0, rim + 86.0], 6.0, AIR, b),
        ];
        Self {
            half,
            fat_mm: rng.range(10.0, 24.0),
            rim,
            spine_y,
            vertebra_mm: rng.range(27.0, 31.0),
            blood,
            noise: Noise::draw(rng),
            heart: ellipsoid(rng, [-24.0, 26.0, rim + 50.0], [58.0, 45.0, 44.0]),
            liver: [
                ellipsoid(rng, [66.0, 4.0, rim - 28.0], [80.0, 82.0, 74.0]),
                ellipsoid(rng, [2.0, 46.0, rim - 8.0], [56.0, 34.0, 36.0]),
            ],
            spleen: ellipsoid(rng, [-94.0, -42.0, rim - 16.0], [30.0, 44.0, 50.0]),
            stomach: ellipsoid(rng, [-70.0, 34.0, rim - 22.0], [36.0, 42.0, 50.0]),
            kidneys: [
                ellipsoid(rng, [62.0, spine_y - 2.0, rim - 88.0], [25.0, 24.0, 48.0]),
                ellipsoid(rng, [-62.0, spine_y - 2.0, rim - 78.0], [25.0, 24.0, 48.0]),
            ],
            gallbladder: ellipsoid(rng, [46.0, 48.0, rim - 72.0], [13.0, 16.0, 24.0]),
            pipes,
            airways,
        }
    }

    /// HU, before blur and noise, and organ at `p`.
    pub fn at(&self, p: Point) -> (f32, Organ) {
        let (hu, organ) = self.tissue(p);
        (hu as f32, organ)
    }

    fn tissue(&self, p: Point) -> (f64, Organ) {
        let [x, y, z] = p;
        // A superellipse, narrowing towards the neck.
        let taper = 1.0 - 0.22 * smooth((z - 70.0) / 130.0);
        let (u, v) = ((x / (self.half[0] * taper)).powi(2), (y / self.half[1]).powi(2));
        let r = (u * u + v * v + 1.35 * u * v).sqrt().sqrt();
        if r > 1.0 {
            return (self.outside(x, y), Organ::Background);
        }
        let depth = (1.0 - r) * 0.5 * (self.half[0] * taper + self.half[1]);
        let slow = self.noise.at(p, 45.0);
        let fat = self.fat_mm * (1.0 + 0.35 * slow) * (1.0 + 0.35 * smooth(-z / 120.0));
        if depth < 2.0 {
            return (-10.0, Organ::Background);
        }
        if let Some(found) = self.spine(p).filter(|_| depth > fat) {
            return found;
        }
        if depth < fat {
            return (FAT + 9.0 * self.noise.at(p, 7.0), Organ::Background);
        }
        let wall = 15.0;
        if depth < fat + wall {
            return (self.wall(p, depth - fat - 0.6 * wall), Organ::Background);
        }
        let dome = self.dome(x, y);
        if z > dome { self.chest(p) } else { self.abdomen(p, dome - z) }
    }

    /// Room air, and the couch under the back.
    fn outside(&self, x: f64, y: f64) -> f64 {
        let below = -self.half[1] - 3.0 + x * x / 2400.0 - y;
        if x.abs() > 205.0 || !(0.0..=30.0).contains(&below) {
            AIR
        } else if !(4.0..=26.0).contains(&below) {
            -150.0
        } else {
            -920.0
        }
    }

    /// Muscle of the trunk with ribs and breastbone; `off` is the distance from the ribs' shell.
    fn wall(&self, p: Point, off: f64) -> f64 {
        let [x, y, z] = p;
        let muscle = MUSCLE + 6.0 * self.noise.at(p, 9.0)
            - if self.noise.at(p, 16.0) > 0.45 { 110.0 } else { 0.0 };
        if z < self.rim - 75.0 {
            return muscle;
        }
        if x.abs() < 17.0 && y > 0.0 {
            return if z > self.rim + 25.0 && off.abs() < 7.0 { 260.0 } else { muscle };
        }
        // Ribs run down towards the front; a cut meets each of them as an oval.
        let phase = (z + 0.42 * (y + self.half[1])) / 27.0;
        let across = (phase - phase.floor() - 0.5) * 27.0;
        let oval = (across / 6.5).powi(2) + (off / 4.8).powi(2);
        let cartilage = y > 0.55 * self.half[1] && x.abs() < 75.0;
        match oval {
            o if o > 1.0 => muscle,
            _ if cartilage => 110.0,
            o if o > 0.35 => 520.0,
            _ => 230.0,
        }
    }

    /// Vertebrae, discs, canal and the muscles beside them.
    fn spine(&self, p: Point) -> Option<(f64, Organ)> {
        let [x, y, z] = p;
        let y = y - self.spine_y;
        let level = z / self.vertebra_mm;
        let level = level - level.floor();
        let bone = |hu: f64| Some((hu + 45.0 * self.noise.at(p, 6.0), Organ::Spine));
        let body = (x / 19.0).powi(2) + (y / 15.0).powi(2);
        if body < 1.0 {
            return match level {
                l if l < 0.22 => Some((85.0, Organ::Background)),
                l if body > 0.7 || !(0.32..=0.92).contains(&l) => bone(400.0),
                _ => bone(190.0),
            };
        }
        let canal = (x * x + (y + 24.0).powi(2)).sqrt();
        if canal < 8.0 {
            return Some((if canal < 5.0 { 38.0 } else { 12.0 }, Organ::Background));
        }
        if canal < 13.5 && level > 0.3 {
            return bone(430.0);
        }
        if x.abs() < 4.0 && (-60.0..-36.0).contains(&y) && (0.25..0.8).contains(&level) {
            return bone(340.0);
        }
        if x.abs() < 37.0 && (y + 20.0 + 0.1 * x.abs()).abs() < 5.5 && (0.45..0.8).contains(&level)
        {
            return bone(330.0);
        }
        let beside = ((x.abs() - 30.0) / 27.0).powi(2) + ((y + 37.0) / 19.0).powi(2);
        let streak = if self.noise.at(p, 8.0) > 0.5 { 90.0 } else { 0.0 };
        (beside < 1.0).then_some((MUSCLE + 5.0 - streak, Organ::Background))
    }

    /// Height of the diaphragm: two domes, the right one higher.
    fn dome(&self, x: f64, y: f64) -> f64 {
        let (rise, side) = if x > 0.0 { (58.0, 76.0) } else { (46.0, 72.0) };
        let bowl = 1.0 - ((x.abs() - side) / 92.0).powi(2) - ((y - 14.0) / 105.0).powi(2);
        self.rim + rise * bowl.max(-0.9)
    }

    fn chest(&self, p: Point) -> (f64, Organ) {
        let [x, y, z] = p;
        if let Some(found) = self.airway(p).or_else(|| self.pipe(p)) {
            return found;
        }
        let heart = self.heart.depth(p);
        if heart < 1.0 {
            // The left chamber has a thick wall.
            let wall = if x < self.heart.centre[0] { 0.38 } else { 0.72 };
            let septum = (x - self.heart.centre[0] - 0.25 * (y - self.heart.centre[1])).abs() < 5.0;
            let hu = if heart > wall || septum { 70.0 + 0.25 * self.blood } else { self.blood };
            return (hu + 5.0 * self.noise.at(p, 10.0), Organ::Heart);
        }
        let middle = if y < self.spine_y + 12.0 {
            25.0
        } else {
            24.0 + 13.0 * smooth((y - 20.0) / 40.0) * smooth((self.rim + 120.0 - z) / 60.0)
        };
        if heart < 1.13 || x.abs() < middle {
            let soft = self.noise.at(p, 12.0) > 0.35;
            return (if soft { 40.0 } else { FAT + 15.0 }, Organ::Background);
        }
        // Denser towards the back, where blood pools in a lying patient.
        let texture = 24.0 * self.noise.at(p, 8.0) + 14.0 * self.noise.at(p, 40.0);
        (-868.0 + texture - 42.0 * y / self.half[1], Organ::Lungs)
    }

    fn abdomen(&self, p: Point, below_dome: f64) -> (f64, Organ) {
        let [x, y, z] = p;
        if below_dome < 3.5 {
            return (MUSCLE, Organ::Background);
        }
        if let Some(found) = self.pipe(p) {
            return found;
        }
        let fine = self.noise.at(p, 6.0);
        let stomach = self.stomach.depth(p);
        if stomach < 1.0 {
            // Gas stands on top of the fluid in a lying patient.
            let hu = match stomach {
                s if s > 0.8 => 70.0,
                _ if y > self.stomach.centre[1] + 14.0 => AIR + 20.0,
                _ => 22.0 + 12.0 * fine,
            };
            return (hu, Organ::Stomach);
        }
        for (kidney, organ) in self.kidneys.iter().zip([Organ::RightKidney, Organ::LeftKidney]) {
            let inside = kidney.depth(p);
            if inside < 1.0 {
                let inward = (kidney.centre[0] - x) * kidney.centre[0].signum();
                let hu = match inside {
                    i if inward > 3.0 && i < 0.42 && (z - kidney.centre[2]).abs() < 22.0 => -45.0,
                    i if i > 0.55 => 110.0 + 0.5 * self.blood,
                    _ => 85.0 + 0.3 * self.blood,
                };
                return (hu + 6.0 * fine, organ);
            }
        }
        if self.spleen.depth(p) < 1.0 {
            return (70.0 + 0.3 * self.blood + 5.0 * fine, Organ::Spleen);
        }
        if self.gallbladder.depth(p) < 1.0 {
            return (10.0, Organ::Background);
        }
        if self.liver.iter().any(|lobe| lobe.depth(p) < 1.0) {
            return (62.0 + 0.25 * self.blood + 5.0 * fine, Organ::Liver);
        }
        let psoas = ((x.abs() - 34.0) / 17.0).powi(2) + ((y - self.spine_y - 2.0) / 20.0).powi(2);
        if psoas < 1.0 && z < self.rim - 45.0 {
            return (MUSCLE + 4.0, Organ::Background);
        }
        // Loops of bowel in fat, some with gas.
        let loops = self.noise.at(p, 24.0);
        let hu = match loops {
            l if l > 0.5 && y > 25.0 => -850.0,
            l if l > 0.12 && y > self.spine_y + 25.0 => 38.0 + 10.0 * fine,
            _ => FAT + 10.0 * fine,
        };
        (hu, Organ::Background)
    }

    fn pipe(&self, p: Point) -> Option<(f64, Organ)> {
        let inside = |pipe: &&Pipe| distance_squared(p, pipe.from, pipe.to) < pipe.radius.powi(2);
        self.pipes.iter().find(inside).map(|pipe| (pipe.hu, pipe.organ))
    }

    /// Air, and a wall of two millimetres.
    fn airway(&self, p: Point) -> Option<(f64, Organ)> {
        let near = |pipe: &Pipe| distance_squared(p, pipe.from, pipe.to).sqrt() - pipe.radius;
        let nearest = self.airways.iter().map(near).fold(f64::INFINITY, f64::min);
        match nearest {
            d if d < 0.0 => Some((AIR, Organ::Background)),
            d if d < 2.0 => Some((30.0, Organ::Background)),
            _ => None,
        }
    }

    /// Vessels of the lungs and the liver.
    pub fn tubes(&self, rng: &mut Rng) -> Vec<Tube> {
        let mut out = Vec::new();
        for side in [1.0, -1.0] {
            let hilum = [side * 40.0, -8.0, self.rim + 88.0];
            let tree = Tree { hu: 45.0, within: Organ::Lungs, away_from: hilum };
            for up in [0.9, 0.35, -0.3, -0.8, -1.4] {
                for forward in [-0.8, 0.0, 0.7] {
                    let direction = [side, forward + rng.range(-0.2, 0.2), up];
                    let (radius, length) = (rng.range(3.6, 4.8), rng.range(30.0, 38.0));
                    tree.grow(rng, hilum, unit(direction), length, radius, &mut out);
                }
            }
        }
        let porta = [34.0, 2.0, self.rim - 42.0];
        let hu = (self.blood + 45.0).max(110.0) as f32;
        let tree = Tree { hu, within: Organ::Liver, away_from: porta };
        for direction in [[1.0, 0.3, 0.2], [0.8, -0.6, 0.5], [0.5, 0.3, 1.0], [-0.6, 0.9, 0.3]] {
            tree.grow(rng, porta, unit(direction), 34.0, 4.2, &mut out);
        }
        out
    }
}

/// 0 below 0, 1 above 1, smooth between.
fn smooth(t: f64) -> f64 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}
