//! Run-time choice of the instruction set.
//!
//! Slice functions are written once, as an `#[inline(always)]` body over plain arrays and slices,
//! and `multiversion!` compiles that body once per instruction set, where LLVM vectorises it.

use std::sync::OnceLock;

/// The instruction sets a body is compiled for, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What the target triple promises: SSE2 on x86-64, NEON on AArch64.
    Baseline,
    /// AVX2 with FMA, 256-bit vectors.
    Avx2,
    /// AVX-512 F, VL, BW and DQ, 512-bit vectors.
    Avx512,
}

impl Level {
    /// The best level this CPU has. `GLMAE_CPU_LEVEL` (`baseline`, `avx2`, `avx512`) lowers it, for
    /// tests and comparisons; it can never raise it.
    pub fn detected() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let wish = match std::env::var("GLMAE_CPU_LEVEL").as_deref() {
                Ok("baseline") => Self::Baseline,
                Ok("avx2") => Self::Avx2,
                _ => Self::Avx512,
            };
            Self::hardware().min(wish)
        })
    }

    /// This level, or the best one the CPU has where that is lower. The result is safe to run.
    pub fn available(self) -> Self {
        self.min(Self::hardware())
    }

    fn hardware() -> Self {
        static HARDWARE: OnceLock<Level> = OnceLock::new();
        *HARDWARE.get_or_init(Self::ask)
    }

    #[cfg(target_arch = "x86_64")]
    fn ask() -> Self {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq");
        match (avx2, avx512) {
            (true, true) => Self::Avx512,
            (true, false) => Self::Avx2,
            _ => Self::Baseline,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn ask() -> Self {
        Self::Baseline
    }
}

/// How a body multiplies and adds: fused where the instruction set has it, because `f32::mul_add`
/// is a slow library call where it has not.
pub(crate) trait Arith: Copy {
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding.
#[derive(Clone, Copy)]
pub(crate) struct Fused;
/// Two roundings.
#[derive(Clone, Copy)]
pub(crate) struct Separate;

impl Arith for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl Arith for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// The arithmetic of [`Level::Baseline`].
#[cfg(target_arch = "aarch64")]
pub(crate) type Portable = Fused;
/// The arithmetic of [`Level::Baseline`].
#[cfg(not(target_arch = "aarch64"))]
pub(crate) type Portable = Separate;

/// `multiversion! { /// docs  pub fn name | name_at (args) -> T = body; }` makes `name`, which runs
/// `body::<Fused or Separate>` compiled for the detected level, and `name_at`, which takes the level
/// as its first argument (tests compare levels; loops choose once).
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident | $at:ident ($($arg:ident: $ty:ty),* $(,)?)
        $(-> $ret:ty)? = $body:ident;)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            $at($crate::ops::cpu::simd::Level::detected(), $($arg),*)
        }

        $crate::ops::cpu::simd::multiversion_at! { fn $at($($arg: $ty),*) $(-> $ret)? = $body; }
    )*};
}
pub(crate) use multiversion;

/// The part of [`multiversion!`] that takes the level as an argument.
macro_rules! multiversion_at {
    ($(fn $at:ident ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;)*) => {$(
        #[allow(clippy::too_many_arguments)]
        pub(crate) fn $at(level: $crate::ops::cpu::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            use $crate::ops::cpu::simd::{Level, Portable};
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::ops::cpu::simd::Fused>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::ops::cpu::simd::Fused>($($arg),*)
            }
            match level.available() {
                // SAFETY: `available` returns no level above what the CPU reports.
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => $body::<Portable>($($arg),*),
            }
        }
    )*};
}
pub(crate) use multiversion_at;

#[cfg(test)]
pub(crate) fn levels() -> impl Iterator<Item = Level> {
    [Level::Baseline, Level::Avx2, Level::Avx512].into_iter().filter(|&l| l.available() == l)
}
