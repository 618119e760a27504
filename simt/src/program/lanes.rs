//! Arithmetic over the 32 lanes of a warp. A function over one lane becomes two over all of them: one that may
//! use AVX2 and FMA, chosen where the processor has them, and one for any processor.

/// A 32-bit register of a warp.
pub type Lanes32 = [u32; 32];
/// A 64-bit register of a warp.
pub type Lanes64 = [u64; 32];

// Why `unsafe`: the wide versions must only be called where the processor has what they were compiled for.
// `lane_fn!` hands them out only there.
pub type Fn1<T> = unsafe fn(&[T; 32], &mut [T; 32]);
pub type Fn2<T> = unsafe fn(&[T; 32], &[T; 32], &mut [T; 32]);
pub type Fn3<T> = unsafe fn(&[T; 32], &[T; 32], &[T; 32], &mut [T; 32]);
pub type Mix32To64 = unsafe fn(&Lanes32, &mut Lanes64);
pub type Mix64To32 = unsafe fn(&Lanes64, &mut Lanes32);
pub type MulWide = unsafe fn(&Lanes32, &Lanes32, &mut Lanes64);
pub type Wide3 = unsafe fn(&Lanes32, &Lanes32, &Lanes64, &mut Lanes64);
pub type Shift64 = unsafe fn(&Lanes64, &Lanes32, &mut Lanes64);
pub type Compare32 = unsafe fn(&Lanes32, &Lanes32) -> u32;
pub type Compare64 = unsafe fn(&Lanes64, &Lanes64) -> u32;

/// Whether the wide versions may run here.
pub fn is_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::OnceLock;
        static WIDE: OnceLock<bool> = OnceLock::new();
        *WIDE.get_or_init(|| {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt")
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `lane_fn!(|a: u32, b: u32| -> u32 { a & b })`: the function over all lanes, in the version for this processor.
macro_rules! lane_fn {
    (|$($x:ident: $t:ty),+| -> $r:ty $body:block) => {{
        #[inline(always)]
        fn all($($x: &[$t; 32],)+ out: &mut [$r; 32]) {
            for lane in 0..32 {
                $(let $x = $x[lane];)+
                out[lane] = $body;
            }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn wide($($x: &[$t; 32],)+ out: &mut [$r; 32]) {
            all($($x,)+ out);
        }
        unsafe fn plain($($x: &[$t; 32],)+ out: &mut [$r; 32]) {
            all($($x,)+ out);
        }
        #[cfg(not(target_arch = "x86_64"))]
        use plain as wide;
        let function: unsafe fn($(&[$t; 32],)+ &mut [$r; 32]) =
            if $crate::program::lanes::is_wide() { wide } else { plain };
        function
    }};
}
pub(crate) use lane_fn;

/// `lane_test!(|a: u32, b: u32| a == b)`: a comparison of all lanes; bit `i` of the result is that of lane `i`.
macro_rules! lane_test {
    (|$a:ident: $t:ty, $b:ident: $u:ty| $body:expr) => {{
        #[inline(always)]
        fn all($a: &[$t; 32], $b: &[$u; 32]) -> u32 {
            let mut hit = [0u32; 32];
            for lane in 0..32 {
                let ($a, $b) = ($a[lane], $b[lane]);
                hit[lane] = (($body) as u32) << lane;
            }
            hit.iter().fold(0, |all, bit| all | bit)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn wide($a: &[$t; 32], $b: &[$u; 32]) -> u32 {
            all($a, $b)
        }
        unsafe fn plain($a: &[$t; 32], $b: &[$u; 32]) -> u32 {
            all($a, $b)
        }
        #[cfg(not(target_arch = "x86_64"))]
        use plain as wide;
        let function: unsafe fn(&[$t; 32], &[$u; 32]) -> u32 =
            if $crate::program::lanes::is_wide() { wide } else { plain };
        function
    }};
}
pub(crate) use lane_test;

/// `register_fn!(|a, b| expression)`: a function of whole registers of a warp, for what is already written so.
macro_rules! register_fn {
    (|$($x:ident),+| $body:expr) => {{
        #[inline(always)]
        fn all($($x: &[u32; 32],)+ out: &mut [u32; 32]) {
            *out = $body;
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        unsafe fn wide($($x: &[u32; 32],)+ out: &mut [u32; 32]) {
            all($($x,)+ out);
        }
        unsafe fn plain($($x: &[u32; 32],)+ out: &mut [u32; 32]) {
            all($($x,)+ out);
        }
        #[cfg(not(target_arch = "x86_64"))]
        use plain as wide;
        if $crate::program::lanes::is_wide() { wide as _ } else { plain as _ }
    }};
}
pub(crate) use register_fn;
