//! One program for every machine: loops are compiled once for each vector instruction set, and the machine that the program
//! runs on says which of them is taken. [`DType`] says how the numbers that they compute with are stored.
//!
//! There are no intrinsics here: [`Isa::run`] calls a closure from a function that the compiler may use the set's
//! instructions in, so a plain loop in it becomes wide vector code. Whatever the closure calls must be inlined for that,
//! hence `#[inline(always)]` on it and on the functions that hold the loops.
//!
//! Rust never contracts `a * b + c` to a fused operation on its own. So a loop gives the same bits under every set unless it
//! asks for [`Set::FUSED`].
//!
//! ```
//! use heterosis_isa::Isa;
//!
//! let isa = Isa::best();
//! let mut x = [1.0, 2.0, 3.0];
//! isa.run(
//!     #[inline(always)]
//!     || x.iter_mut().for_each(|x| *x *= 2.0),
//! );
//! assert_eq!(x, [2.0, 4.0, 6.0]);
//! println!("computed with {isa}");
//! ```

#![deny(missing_docs)]

mod dtype;

use std::{fmt, sync::OnceLock};

pub use dtype::{CHUNK, DType, UnknownDType, bf16_to_f32};

/// Digest of the sources that convert numbers: weights that another build has rounded may be other weights.
pub const BUILD: &str = env!("HETEROSIS_BUILD");

/// A set of vector instructions, at compile time.
///
/// A value of such a type is the proof that the machine has the set: only this crate makes them.
pub trait Set: Copy {
    /// Whether `a * b + c` with one rounding is one instruction.
    const FUSED: bool;

    /// Calls `f` where the compiler may use the set's instructions.
    fn run<R>(self, f: impl FnOnce() -> R) -> R;
}

/// A set of vector instructions that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// What every processor of the architecture has, without fused operations; on x86-64 SSE2.
    Generic(Generic),
    /// 256 bits with fused operations: x86-64-v3, processors from about 2013 on.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// 512 bits: x86-64-v4.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// What every 64-bit ARM processor has, fused operations among it.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// See [`Isa::Generic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generic(());

/// See [`Isa::Avx2`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx2(());

/// See [`Isa::Avx512`].
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Avx512(());

/// See [`Isa::Neon`].
#[cfg(target_arch = "aarch64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Neon(());

impl Isa {
    /// The widest set that this machine has, unless [`Isa::choose`] chose another.
    #[inline]
    pub fn best() -> Isa {
        *CHOSEN.get_or_init(|| *Self::available().last().unwrap_or(&Isa::Generic(Generic(()))))
    }

    /// Makes this set what [`Isa::best`] answers from now on, so that a machine can compute as a lesser one does. False if
    /// another has been chosen or used already.
    pub fn choose(self) -> bool {
        *CHOSEN.get_or_init(|| self) == self
    }

    /// The sets that this machine has, the widest last.
    pub fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut sets = vec![Isa::Generic(Generic(()))];
        #[cfg(target_arch = "x86_64")]
        {
            sets.extend(Avx2::detect().map(Isa::Avx2));
            sets.extend(Avx512::detect().map(Isa::Avx512));
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Isa::Neon(Neon(())));
        sets
    }

    /// The set of that name, if this machine has it.
    pub fn from_name(name: &str) -> Option<Isa> {
        Self::available().into_iter().find(|isa| isa.name() == name)
    }

    /// `generic`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Generic(_) => "generic",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => "neon",
        }
    }

    /// Calls `f` where the compiler may use the set's instructions.
    #[inline(always)]
    pub fn run<R>(self, f: impl FnOnce() -> R) -> R {
        match self {
            Isa::Generic(set) => set.run(f),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(set) => set.run(f),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(set) => set.run(f),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(set) => set.run(f),
        }
    }
}

static CHOSEN: OnceLock<Isa> = OnceLock::new();

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Evaluates `$body` with `$isa`'s instructions; `$S` names its [`Set`] in it, for whatever depends on it at compile time.
///
/// ```
/// use heterosis_isa::{Isa, Set, with_set};
///
/// let fused = with_set!(Isa::best(), S => S::FUSED);
/// # let _ = fused;
/// ```
#[macro_export]
macro_rules! with_set {
    ($isa:expr, $S:ident => $body:expr) => {
        match $isa {
            $crate::Isa::Generic(set) => {
                type $S = $crate::Generic;
                $crate::Set::run(
                    set,
                    #[inline(always)]
                    || $body,
                )
            }
            #[cfg(target_arch = "x86_64")]
            $crate::Isa::Avx2(set) => {
                type $S = $crate::Avx2;
                $crate::Set::run(
                    set,
                    #[inline(always)]
                    || $body,
                )
            }
            #[cfg(target_arch = "x86_64")]
            $crate::Isa::Avx512(set) => {
                type $S = $crate::Avx512;
                $crate::Set::run(
                    set,
                    #[inline(always)]
                    || $body,
                )
            }
            #[cfg(target_arch = "aarch64")]
            $crate::Isa::Neon(set) => {
                type $S = $crate::Neon;
                $crate::Set::run(
                    set,
                    #[inline(always)]
                    || $body,
                )
            }
        }
    };
}

impl Set for Generic {
    const FUSED: bool = false;

    // Not inlined, as those of the other sets cannot be: what is measured of one is then true of the others.
    #[inline(never)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

#[cfg(target_arch = "aarch64")]
impl Set for Neon {
    const FUSED: bool = true;

    #[inline(always)]
    fn run<R>(self, f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// A set of x86-64 that the processor is asked for: its type, and the features that make it up.
#[cfg(target_arch = "x86_64")]
macro_rules! detected {
    ($Set:ident, $($feature:tt),+) => {
        impl $Set {
            fn detect() -> Option<Self> {
                ($(std::arch::is_x86_feature_detected!($feature))&&+).then_some($Set(()))
            }
        }

        impl Set for $Set {
            const FUSED: bool = true;

            #[inline(always)]
            #[allow(unsafe_code)]
            fn run<R>(self, f: impl FnOnce() -> R) -> R {
                $(#[target_feature(enable = $feature)])+
                fn with_features<R>(f: impl FnOnce() -> R) -> R {
                    f()
                }
                // SAFETY: `detect` alone makes a value of this type, after it has found each of these features.
                unsafe { with_features(f) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
detected!(
    Avx2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2"
);
#[cfg(target_arch = "x86_64")]
detected!(
    Avx512, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sse3", "ssse3", "sse4.1",
    "sse4.2", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_sets_and_the_best_is_the_last() {
        let sets = Isa::available();
        for isa in &sets {
            assert_eq!(Isa::from_name(isa.name()), Some(*isa));
            assert_eq!(isa.to_string(), isa.name());
        }
        assert_eq!(Isa::from_name("mmx"), None);
        assert_eq!(sets[0].name(), "generic");
        assert_eq!(Some(&Isa::best()), sets.last());
        // The best has been used, so only it can still be chosen.
        assert!(Isa::best().choose());
        assert!(sets.len() == 1 || !sets[0].choose());
    }

    #[test]
    fn a_product_is_fused_only_where_it_is_asked_for() {
        #[inline(always)]
        fn plain(x: &[f32], out: &mut [f32]) {
            for (out, x) in out.iter_mut().zip(x) {
                *out += x * x;
            }
        }
        // 1 + 2⁻¹² squared is 1 + 2⁻¹¹ + 2⁻²⁴, whose last part a product rounds away.
        let x = [1.0 + 1.0 / 4096.0; 67];
        for isa in Isa::available() {
            let mut out = [-1.0; 67];
            isa.run(
                #[inline(always)]
                || plain(&x, &mut out),
            );
            assert_eq!(out, [1.0 / 2048.0; 67], "{isa}");
        }
    }

    #[test]
    fn each_set_is_named_at_compile_time() {
        for isa in Isa::available() {
            assert_eq!(with_set!(isa, S => S::FUSED), isa.name() != "generic");
        }
    }
}
