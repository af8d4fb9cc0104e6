//! Sixteen numbers at a time, out of whatever bits they are packed in: AVX-512, AVX2, or plain loops.
//!
//! The loops that unpack quants are not turned into good instructions by the compiler, as others here are.

use pulp::WithSimd;

/// Numbers at a time.
pub(super) const LANES: usize = 16;

/// The high half of a word.
const HIGH: u32 = 0xffff_0000;

/// An instruction set, found at run time.
pub(super) trait Wide: Copy {
    /// As many sixteens as the instruction set keeps at hand.
    const REGISTERS: usize;
    /// Sixteen numbers.
    type F: Copy;
    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, x: Self::F) -> [f32; LANES];
    /// Asks memory for the line of a number that will be read next, if it exists: into the nearest cache.
    #[inline(always)]
    fn prefetch<T>(self, _: &[T], _: usize) {}
    /// The same for what will be read later, into the cache behind it: the nearest one is small, and waits for few lines at a time.
    #[inline(always)]
    fn prefetch_later<T>(self, _: &[T], _: usize) {}
    /// `a · b + c`.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The bf16 numbers in the low halves of words, and those in their high halves.
    fn low_halves(self, words: &[u32; LANES]) -> Self::F;
    fn high_halves(self, words: &[u32; LANES]) -> Self::F;
    fn bytes(self, quants: &[i8; LANES]) -> Self::F;
    /// `scale · quant + min` of the low nibbles, and of the high ones.
    fn nibbles(self, quants: &[u8; LANES], scale: f32, min: f32) -> [Self::F; 2];
    /// Turns a square: its rows are its columns then. In its own place: copies of a square cost as much as turning it.
    #[inline(always)]
    fn turn(self, square: &mut [[f32; LANES]; LANES]) {
        let rows = *square;
        *square = std::array::from_fn(|column| rows.map(|row| row[column]));
    }
    /// The sum of the sixteen.
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        let mut sums = self.store(x);
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                sums[i] += sums[i + width];
            }
        }
        sums[0]
    }
    /// The sum of each of four.
    #[inline(always)]
    fn sums(self, x: [Self::F; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        for i in 0..4 {
            sums[i] = self.sum(x[i]);
        }
        sums
    }
}

/// Work that runs with any instruction set.
pub(super) trait Work {
    fn run<W: Wide>(self, wide: W);
}

/// Runs it with the widest instruction set of this machine.
pub(super) fn with_wide(work: impl Work) {
    match pulp::Arch::new() {
        #[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
        pulp::Arch::V4(wide) => pulp::Simd::vectorize(wide, With { wide, work }),
        #[cfg(target_arch = "x86_64")]
        pulp::Arch::V3(wide) => pulp::Simd::vectorize(wide, With { wide, work }),
        _ => work.run(Plain),
    }
}

/// Work with its instruction set, inlined into a function that is compiled for it.
struct With<W, R> {
    wide: W,
    work: R,
}

impl<W: Wide, R: Work> WithSimd for With<W, R> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        self.work.run(self.wide);
    }
}

/// Asks memory for a number's line, into the cache that `HINT` says.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code)]
fn ask<const HINT: i32, T>(from: &[T], at: usize) {
    let place = from.as_ptr().wrapping_add(at).cast();
    // SAFETY: it reads nothing that the program sees, and an address that is none is ignored.
    unsafe { std::arch::x86_64::_mm_prefetch::<HINT>(place) };
}

#[derive(Clone, Copy)]
struct Plain;

impl Wide for Plain {
    const REGISTERS: usize = 4;
    type F = [f32; LANES];
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, x: Self::F) -> [f32; LANES] {
        x
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn low_halves(self, words: &[u32; LANES]) -> Self::F {
        words.map(|word| f32::from_bits(word << 16))
    }
    #[inline(always)]
    fn high_halves(self, words: &[u32; LANES]) -> Self::F {
        words.map(|word| f32::from_bits(word & HIGH))
    }
    #[inline(always)]
    fn bytes(self, quants: &[i8; LANES]) -> Self::F {
        quants.map(f32::from)
    }
    #[inline(always)]
    fn nibbles(self, quants: &[u8; LANES], scale: f32, min: f32) -> [Self::F; 2] {
        let value = |quant: u8| scale * f32::from(quant) + min;
        [quants.map(|q| value(q & 15)), quants.map(|q| value(q >> 4))]
    }
}

#[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
impl Wide for pulp::x86::V4 {
    const REGISTERS: usize = 32;
    type F = std::arch::x86_64::__m512;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        self.avx512f._mm512_set1_ps(x)
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        bytemuck::cast(*x)
    }
    #[inline(always)]
    fn store(self, x: Self::F) -> [f32; LANES] {
        bytemuck::cast(x)
    }
    #[inline(always)]
    fn prefetch<T>(self, from: &[T], at: usize) {
        ask::<{ std::arch::x86_64::_MM_HINT_T0 }, T>(from, at);
    }
    #[inline(always)]
    fn prefetch_later<T>(self, from: &[T], at: usize) {
        ask::<{ std::arch::x86_64::_MM_HINT_T1 }, T>(from, at);
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.avx512f._mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    #[allow(unsafe_code)]
    fn turn(self, square: &mut [[f32; LANES]; LANES]) {
        // SAFETY: the set itself shows that the machine has it.
        unsafe { super::turned::turn(bytemuck::cast_mut(square)) };
    }
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        self.avx512f._mm512_reduce_add_ps(x)
    }
    #[inline(always)]
    fn sums(self, [a, b, c, d]: [Self::F; 4]) -> [f32; 4] {
        let f = self.avx512f;
        // Each quarter of these holds halves of a quarter's sum: of a, b, a, b and of c, d, c, d.
        let ab = f._mm512_add_ps(f._mm512_unpacklo_ps(a, b), f._mm512_unpackhi_ps(a, b));
        let cd = f._mm512_add_ps(f._mm512_unpacklo_ps(c, d), f._mm512_unpackhi_ps(c, d));
        let (ab, cd) = (f._mm512_castps_pd(ab), f._mm512_castps_pd(cd));
        let (low, high) = (f._mm512_unpacklo_pd(ab, cd), f._mm512_unpackhi_pd(ab, cd));
        let quarters: [[f32; 4]; 4] =
            bytemuck::cast(f._mm512_add_ps(f._mm512_castpd_ps(low), f._mm512_castpd_ps(high)));
        let mut sums = quarters[0];
        for quarter in &quarters[1..] {
            for i in 0..4 {
                sums[i] += quarter[i];
            }
        }
        sums
    }
    #[inline(always)]
    fn low_halves(self, words: &[u32; LANES]) -> Self::F {
        let f = self.avx512f;
        f._mm512_castsi512_ps(f._mm512_slli_epi32::<16>(bytemuck::cast(*words)))
    }
    #[inline(always)]
    fn high_halves(self, words: &[u32; LANES]) -> Self::F {
        let f = self.avx512f;
        f._mm512_castsi512_ps(f._mm512_and_si512(bytemuck::cast(*words), f._mm512_set1_epi32(HIGH as i32)))
    }
    #[inline(always)]
    fn bytes(self, quants: &[i8; LANES]) -> Self::F {
        let f = self.avx512f;
        f._mm512_cvtepi32_ps(f._mm512_cvtepi8_epi32(bytemuck::cast(*quants)))
    }
    #[inline(always)]
    fn nibbles(self, quants: &[u8; LANES], scale: f32, min: f32) -> [Self::F; 2] {
        const QUANTS: [f32; LANES] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
        let f = self.avx512f;
        // The sixteen values that a nibble of this block can have; a permutation reads an index's low four bits only.
        let values = self.mul_add(self.load(&QUANTS), self.splat(scale), self.splat(min));
        let bytes = f._mm512_cvtepu8_epi32(bytemuck::cast(*quants));
        [
            f._mm512_permutexvar_ps(bytes, values),
            f._mm512_permutexvar_ps(f._mm512_srli_epi32::<4>(bytes), values),
        ]
    }
}

// Without closures: those that arrays' own functions call are compiled without the instruction set, and each instruction then is
// a call.
#[cfg(target_arch = "x86_64")]
impl Wide for pulp::x86::V3 {
    const REGISTERS: usize = 8;
    type F = [std::arch::x86_64::__m256; 2];
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [self.avx._mm256_set1_ps(x); 2]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        bytemuck::cast(*x)
    }
    #[inline(always)]
    fn store(self, x: Self::F) -> [f32; LANES] {
        bytemuck::cast(x)
    }
    #[inline(always)]
    fn prefetch<T>(self, from: &[T], at: usize) {
        ask::<{ std::arch::x86_64::_MM_HINT_T0 }, T>(from, at);
    }
    #[inline(always)]
    fn prefetch_later<T>(self, from: &[T], at: usize) {
        ask::<{ std::arch::x86_64::_MM_HINT_T1 }, T>(from, at);
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        [
            self.fma._mm256_fmadd_ps(a[0], b[0], c[0]),
            self.fma._mm256_fmadd_ps(a[1], b[1], c[1]),
        ]
    }
    #[inline(always)]
    fn turn(self, square: &mut [[f32; LANES]; LANES]) {
        super::turned::turn_by_quarters(self, square);
    }
    #[inline(always)]
    fn sums(self, x: [Self::F; 4]) -> [f32; 4] {
        let [a, b, c, d] = x;
        let (a, b) = (self.avx._mm256_add_ps(a[0], a[1]), self.avx._mm256_add_ps(b[0], b[1]));
        let (c, d) = (self.avx._mm256_add_ps(c[0], c[1]), self.avx._mm256_add_ps(d[0], d[1]));
        let (ab, cd) = (self.avx._mm256_hadd_ps(a, b), self.avx._mm256_hadd_ps(c, d));
        let [low, high]: [[f32; 4]; 2] = bytemuck::cast(self.avx._mm256_hadd_ps(ab, cd));
        [low[0] + high[0], low[1] + high[1], low[2] + high[2], low[3] + high[3]]
    }
    #[inline(always)]
    fn low_halves(self, words: &[u32; LANES]) -> Self::F {
        let [low, high]: [std::arch::x86_64::__m256i; 2] = bytemuck::cast(*words);
        [
            self.avx._mm256_castsi256_ps(self.avx2._mm256_slli_epi32::<16>(low)),
            self.avx._mm256_castsi256_ps(self.avx2._mm256_slli_epi32::<16>(high)),
        ]
    }
    #[inline(always)]
    fn high_halves(self, words: &[u32; LANES]) -> Self::F {
        let [low, high]: [std::arch::x86_64::__m256i; 2] = bytemuck::cast(*words);
        let mask = self.avx._mm256_set1_epi32(HIGH as i32);
        [
            self.avx._mm256_castsi256_ps(self.avx2._mm256_and_si256(low, mask)),
            self.avx._mm256_castsi256_ps(self.avx2._mm256_and_si256(high, mask)),
        ]
    }
    #[inline(always)]
    fn bytes(self, quants: &[i8; LANES]) -> Self::F {
        let [low, high]: [[i8; 8]; 2] = bytemuck::cast(*quants);
        let low = self.avx2._mm256_cvtepi8_epi32(bytemuck::cast([low, [0; 8]]));
        let high = self.avx2._mm256_cvtepi8_epi32(bytemuck::cast([high, [0; 8]]));
        [self.avx._mm256_cvtepi32_ps(low), self.avx._mm256_cvtepi32_ps(high)]
    }
    #[inline(always)]
    fn nibbles(self, quants: &[u8; LANES], scale: f32, min: f32) -> [Self::F; 2] {
        let [first, last]: [[u8; 8]; 2] = bytemuck::cast(*quants);
        let first = self.avx2._mm256_cvtepu8_epi32(bytemuck::cast([first, [0; 8]]));
        let last = self.avx2._mm256_cvtepu8_epi32(bytemuck::cast([last, [0; 8]]));
        let mask = self.avx._mm256_set1_epi32(15);
        let low = [
            self.avx._mm256_cvtepi32_ps(self.avx2._mm256_and_si256(first, mask)),
            self.avx._mm256_cvtepi32_ps(self.avx2._mm256_and_si256(last, mask)),
        ];
        let high = [
            self.avx._mm256_cvtepi32_ps(self.avx2._mm256_srli_epi32::<4>(first)),
            self.avx._mm256_cvtepi32_ps(self.avx2._mm256_srli_epi32::<4>(last)),
        ];
        let (scale, min) = (self.splat(scale), self.splat(min));
        [self.mul_add(low, scale, min), self.mul_add(high, scale, min)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a set can do, as numbers.
    fn all<W: Wide>(wide: W) -> Vec<f32> {
        let floats: [f32; LANES] = std::array::from_fn(|i| (i as f32 * 0.7).sin());
        let words: [u32; LANES] = std::array::from_fn(|i| floats[LANES - 1 - i].to_bits());
        let bytes: [i8; LANES] = std::array::from_fn(|i| (i as i8 - 8) * 15);
        let nibbles: [u8; LANES] = std::array::from_fn(|i| (i * 17 % 256) as u8 ^ 0x5a);
        let (x, half) = (wide.load(&floats), wide.high_halves(&words));
        let [low, high] = wide.nibbles(&nibbles, 0.25, -1.5);
        let parts = [
            x,
            half,
            wide.low_halves(&words.map(|word| word >> 16)),
            wide.bytes(&bytes),
            low,
            high,
            wide.mul_add(wide.splat(2.0), half, low),
        ];
        let four = [x, half, low, high];
        for (found, one) in wide.sums(four).into_iter().zip(four) {
            assert!((found - wide.sum(one)).abs() < 1e-5, "{found} is not the sum");
        }
        let square = std::array::from_fn(|row| std::array::from_fn(|column| (row * LANES + column) as f32));
        let mut turned = square;
        wide.turn(&mut turned);
        for (column, turned) in turned.iter().enumerate() {
            assert_eq!(*turned, square.map(|row| row[column]));
        }
        let sum = wide.sum(x);
        parts
            .into_iter()
            .flat_map(|part| wide.store(part))
            .chain([sum])
            .collect()
    }

    #[test]
    fn every_instruction_set_unpacks_the_same_numbers() {
        let wanted = all(Plain);
        let check = |found: Vec<f32>| {
            for (found, wanted) in found.iter().zip(&wanted) {
                assert!((found - wanted).abs() <= 1e-6 * wanted.abs(), "{found} is not {wanted}");
            }
        };
        #[cfg(target_arch = "x86_64")]
        if let Some(wide) = pulp::x86::V3::try_new() {
            check(all(wide));
        }
        #[cfg(all(target_arch = "x86_64", feature = "x86-v4"))]
        if let Some(wide) = pulp::x86::V4::try_new() {
            check(all(wide));
        }
        struct Widest;
        impl Work for Widest {
            fn run<W: Wide>(self, wide: W) {
                assert!(all(wide).len() == 7 * LANES + 1);
            }
        }
        with_wide(Widest);
        assert_eq!(wanted[3 * LANES], -120.0);
    }
}
