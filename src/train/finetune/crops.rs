//! Crops for training: around labelled and unlabelled voxels in a given proportion, or anywhere in an
//! image that has a class as a whole, with random changes (docs/method.md, 6.4). Every draw depends on the
//! seed, the step and the place in the update only.

use super::cases::{PreparedCase, Truth};
use crate::config::finetune::{Augment, FinetuneData};
use crate::data::loader::Held;
use crate::data::window::{cut, window};
use crate::rng::{Purpose, Rng};

/// A prepared case, with its labelled voxels at hand.
pub struct TrainingCase {
    pub case: PreparedCase,
    foreground: Foreground,
}

impl TrainingCase {
    pub fn new(case: PreparedCase) -> Self {
        let foreground = match &case.truth {
            Truth::Voxels(classes) => Foreground::of(classes),
            Truth::Image(_) => Foreground::of(&[]),
        };
        Self { case, foreground }
    }

    /// The classes of its voxels that are not background.
    pub fn classes(&self) -> impl Iterator<Item = u8> + '_ {
        self.foreground.classes.iter().map(|(class, _)| *class)
    }
}

impl Held for TrainingCase {
    fn size_bytes(&self) -> usize {
        self.case.size_bytes() + 4 * self.foreground.voxels.len()
    }
}

/// The voxels of a label map that are not background.
struct Foreground {
    /// Their indices, ascending.
    voxels: Vec<u32>,
    /// The classes that occur, ascending, and how often.
    classes: Vec<(u8, usize)>,
}

impl Foreground {
    fn of(classes: &[u8]) -> Self {
        let mut counts = [0; 256];
        let labelled = (0u32..).zip(classes).filter(|(_, c)| **c > 0);
        let voxels = labelled
            .map(|(i, &c)| {
                counts[usize::from(c)] += 1;
                i
            })
            .collect();
        let classes = (0..=255).zip(counts).filter(|(_, n)| *n > 0).collect();
        Self { voxels, classes }
    }

    /// Any of them, or, balanced, one of a class that is as likely as every other. `None` if there is none.
    fn draw(&self, map: &[u8], is_balanced: bool, rng: &mut Rng) -> Option<usize> {
        let mut below = |n: usize| (n > 0).then(|| rng.below(n as u64) as usize);
        let found = if is_balanced {
            let (class, count) = self.classes[below(self.classes.len())?];
            let mut of_class = self.voxels.iter().filter(|v| map[**v as usize] == class);
            of_class.nth(below(count)?)
        } else {
            self.voxels.get(below(self.voxels.len())?)
        };
        found.map(|&v| v as usize)
    }
}

/// Names the random streams of a crop.
#[derive(Clone, Copy, Debug)]
pub struct CropKey {
    pub seed: u64,
    pub step: u64,
    /// Place of the volume within the update, and of the crop within its volume.
    pub sample: u32,
    pub crop: u32,
}

/// A crop: intensities `[channels, roi]` and classes `[roi]`, or `[1]` of an image with one class.
pub struct Crop {
    pub voxels: Vec<f32>,
    pub classes: Vec<u8>,
}

/// Tries to find an unlabelled voxel of the body before any unlabelled voxel is taken.
const TRIES: usize = 1000;

/// Cuts and changes one crop. The case is at least as large as `roi`.
pub fn draw(
    case: &TrainingCase,
    roi: [usize; 3],
    data: &FinetuneData,
    augment: &Augment,
    key: CropKey,
) -> Crop {
    let rng = |purpose| Rng::new(key.seed, purpose, key.step, key.sample, key.crop);
    let dims = case.case.image.dims();
    let mut random = rng(Purpose::Crop);
    let (start, classes) = match &case.case.truth {
        Truth::Voxels(all) => {
            let start = place(case, all, roi, data, &mut random);
            (start, cut(all, dims, start, roi))
        }
        Truth::Image(class) => {
            let start =
                [0, 1, 2].map(|a| random.below(dims[a].saturating_sub(roi[a]) as u64 + 1) as usize);
            (start, vec![*class])
        }
    };
    let voxels = window(&case.case.image, start, roi);
    change(Crop { voxels, classes }, roi, augment, &mut rng(Purpose::Augment))
}

/// The first voxel of a crop: around a labelled voxel, or around one that is not, of an intensity
/// above 0 (the body) if there is one. Source: MONAI's `RandCropByPosNegLabel`.
fn place(
    case: &TrainingCase,
    classes: &[u8],
    roi: [usize; 3],
    data: &FinetuneData,
    rng: &mut Rng,
) -> [usize; 3] {
    let image = &case.case.image;
    let dims = image.dims();
    let n: usize = dims.iter().product();
    let is_positive = rng.uniform() * (data.positive + data.negative) < data.positive;
    let labelled =
        if is_positive { case.foreground.draw(classes, data.class_balanced, rng) } else { None };
    let voxel = labelled.unwrap_or_else(|| {
        let body = (0..TRIES)
            .map(|_| rng.below(n as u64) as usize)
            .find(|&i| classes[i] == 0 && image.voxels()[i] > 0.0);
        body.unwrap_or_else(|| rng.below(n as u64) as usize)
    });
    let at = [voxel / (dims[1] * dims[2]), voxel / dims[2] % dims[1], voxel % dims[2]];
    [0, 1, 2].map(|a| at[a].saturating_sub(roi[a] / 2).min(dims[a].saturating_sub(roi[a])))
}

/// Mirrors, turns, scales and shifts.
fn change(mut crop: Crop, roi: [usize; 3], augment: &Augment, rng: &mut Rng) -> Crop {
    let mirrored = [0; 3].map(|_| rng.uniform() < augment.flip);
    // Quarter turns keep the shape only where both sides are the same.
    let turns = if rng.uniform() < augment.rot90 { 1 + rng.below(3) } else { 0 };
    let turns = if roi[0] == roi[1] { turns } else { turns & 2 };
    if mirrored.contains(&true) || turns > 0 {
        let n: usize = roi.iter().product();
        let source = |i: usize| {
            let mut at = [i / (roi[1] * roi[2]), i / roi[2] % roi[1], i % roi[2]];
            for _ in 0..turns {
                let [d, h, w] = at;
                at = if roi[0] == roi[1] { [h, roi[0] - 1 - d, w] } else { [d, h, w] };
            }
            if roi[0] != roi[1] && turns == 2 {
                at = [roi[0] - 1 - at[0], roi[1] - 1 - at[1], at[2]];
            }
            let [d, h, w] = [0, 1, 2].map(|a| if mirrored[a] { roi[a] - 1 - at[a] } else { at[a] });
            (d * roi[1] + h) * roi[2] + w
        };
        let order: Vec<usize> = (0..n).map(source).collect();
        if crop.classes.len() == n {
            crop.classes = order.iter().map(|&i| crop.classes[i]).collect();
        }
        let channels = crop.voxels.chunks_exact(n);
        crop.voxels = channels.flat_map(|c| order.iter().map(|&i| c[i])).collect();
    }
    let factor = if rng.uniform() < augment.scale_probability {
        1.0 + rng.range(-augment.scale, augment.scale)
    } else {
        1.0
    };
    let offset = if rng.uniform() < augment.shift_probability {
        rng.range(-augment.shift, augment.shift)
    } else {
        0.0
    };
    for x in &mut crop.voxels {
        *x = *x * factor as f32 + offset as f32;
    }
    crop
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(roi: [usize; 3], augment: Augment, seed: u64) -> Crop {
        let n: usize = roi.iter().product();
        let crop = Crop {
            voxels: (0..n).map(|i| i as f32).collect(),
            classes: (0..n).map(|i| (i % 251) as u8).collect(),
        };
        change(crop, roi, &augment, &mut Rng::new(seed, Purpose::Augment, 0, 0, 0))
    }

    /// Image and label go the same way, every voxel stays, and neighbours stay neighbours.
    #[test]
    fn mirrors_and_turns_keep_image_and_label_together() {
        let still = Augment {
            flip: 0.5,
            rot90: 1.0,
            scale: 0.0,
            scale_probability: 0.0,
            shift: 0.0,
            shift_probability: 0.0,
        };
        let mut seen = std::collections::BTreeSet::new();
        for roi in [[4, 4, 3], [2, 5, 3]] {
            let n: usize = roi.iter().product();
            for seed in 0..200 {
                let crop = changed(roi, still.clone(), seed);
                let mut sorted: Vec<usize> = crop.voxels.iter().map(|&x| x as usize).collect();
                assert!(
                    crop.voxels
                        .iter()
                        .zip(&crop.classes)
                        .all(|(x, c)| *x as usize % 251 == usize::from(*c))
                );
                seen.insert((roi, sorted.clone()));
                // Along the last axis steps are 1 forward or backward.
                let step = crop.voxels[1] - crop.voxels[0];
                assert_eq!(step.abs(), 1.0);
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            }
        }
        // All 16 of the square prism and all 8 of the other occur.
        assert_eq!(seen.len(), 16 + 8);
    }

    #[test]
    fn a_balanced_draw_finds_small_structures_as_often_as_large_ones() {
        let map: Vec<u8> = (0..4000).map(|i| [0, 2, 2, 2][i % 4] * u8::from(i < 3990)).collect();
        let map = [map, vec![7, 0, 7]].concat();
        let foreground = Foreground::of(&map);
        assert_eq!(foreground.classes, [(2, 2992), (7, 2)]);
        let mut rng = Rng::new(5, Purpose::Crop, 0, 0, 0);
        let mut share = |is_balanced| {
            let drawn =
                (0..2000).map(|_| map[foreground.draw(&map, is_balanced, &mut rng).unwrap()]);
            let drawn: Vec<u8> = drawn.collect();
            assert!(drawn.iter().all(|c| *c > 0));
            drawn.iter().filter(|c| **c == 7).count()
        };
        // Four standard deviations of 2000 fair throws; 2 in 2994 otherwise.
        assert!((910..=1090).contains(&share(true)) && share(false) < 12);
        let nothing = Foreground::of(&[0, 0]);
        assert!([true, false].iter().all(|b| nothing.draw(&[0, 0], *b, &mut rng).is_none()));
    }

    #[test]
    fn intensities_are_scaled_and_shifted_within_bounds() {
        let augment = Augment {
            flip: 0.0,
            rot90: 0.0,
            scale: 0.1,
            scale_probability: 1.0,
            shift: 0.2,
            shift_probability: 1.0,
        };
        for seed in 0..50 {
            let crop = changed([2, 3, 4], augment.clone(), seed);
            let offset = crop.voxels[0];
            let factor = crop.voxels[1] - crop.voxels[0];
            assert!(offset.abs() <= 0.2 && (0.9..=1.1).contains(&factor), "{offset} {factor}");
            assert!(offset != 0.0);
        }
    }
}
