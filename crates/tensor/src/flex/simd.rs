//! Loops that the compiler turns into AVX-512, AVX2 or NEON, chosen at run time.

/// Runs `f` compiled for the widest instruction set of this machine.
pub(super) fn with_simd<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `y += a x`.
#[inline(always)]
pub(super) fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = a.mul_add(*x, *y);
    }
}

/// `x · y`, with independent lanes so that it vectorises without fast-math.
#[inline(always)]
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; 32];
    let (xs, ys) = (x.chunks_exact(32), y.chunks_exact(32));
    let tail: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(a, b)| a * b).sum();
    for (x, y) in xs.zip(ys) {
        for i in 0..32 {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    sum_lanes(&mut lanes) + tail
}

/// Sum of squares.
#[inline(always)]
pub(super) fn sum_squares(x: &[f32]) -> f32 {
    dot(x, x)
}

#[inline(always)]
fn sum_lanes(lanes: &mut [f32; 32]) -> f32 {
    for i in 0..16 {
        lanes[i] += lanes[i + 16];
    }
    for i in 0..8 {
        lanes[i] += lanes[i + 8];
    }
    for i in 0..4 {
        lanes[i] += lanes[i + 4];
    }
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
}

/// Largest element.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let chunks = x.chunks_exact(32);
    let tail = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for i in 0..32 {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.into_iter().fold(tail, f32::max)
}

/// `exp(x)` for `x <= 0` and a little above, by range reduction and a polynomial (Cephes' `expf`): within 2 ulp,
/// and branch-free, so that it vectorises where the library's does not.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Its unit in the last place is one, so that adding it rounds to a whole number, which its last bits then hold: a cast to an
    // integer saturates in Rust, for which there is no instruction.
    const ROUNDS: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let rounded = clamped.mul_add(std::f32::consts::LOG2_E, ROUNDS);
    let n = rounded - ROUNDS;
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 5.000_000_3e-1);
    let e = p.mul_add(r * r, r) + 1.0;
    let power = f32::from_bits(rounded.to_bits().wrapping_sub(ROUNDS.to_bits()).wrapping_add(127) << 23);
    // Below the clamp the true value is 0 to f32 for every sum that it enters. NaN goes through.
    if x < -87.0 { 0.0 } else { e * power }
}

/// `tanh(x)` by a rational function (Eigen's), within a few ulp; NaN goes through.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    const ODD: [f32; 7] = [
        -2.760_768_5e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297e-8,
        1.485_722_4e-5,
        6.372_619_3e-4,
        4.893_524_6e-3,
    ];
    const EVEN: [f32; 4] = [1.198_258_4e-6, 1.185_347e-4, 2.268_434_6e-3, 4.893_525e-3];
    saturated(x, 7.905_311, &ODD, &EVEN)
}

/// The error function by a rational function (Eigen's), within a few ulp; NaN goes through.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    const ODD: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_3e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const EVEN: [f32; 5] = [
        -1.456_607_2e-5,
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    saturated(x, 4.0, &ODD, &EVEN)
}

/// `x · odd(x²) / even(x²)`, coefficients of the highest power first; beyond `end`, where that is one to f32, exactly one: what
/// is left to one may be multiplied by anything.
#[inline(always)]
fn saturated<const N: usize, const M: usize>(x: f32, end: f32, odd: &[f32; N], even: &[f32; M]) -> f32 {
    let (whole, x) = (x, x.clamp(-end, end));
    let square = x * x;
    let (mut above, mut below) = (odd[0], even[0]);
    for &c in &odd[1..] {
        above = above.mul_add(square, c);
    }
    for &c in &even[1..] {
        below = below.mul_add(square, c);
    }
    let y = x * above / below;
    if whole.abs() > end { 1f32.copysign(whole) } else { y }
}

/// `x[i] = exp(x[i] - max)`; returns the sum.
#[inline(always)]
pub(super) fn exp_sum(x: &mut [f32], max: f32) -> f32 {
    let mut lanes = [0f32; 32];
    let mut chunks = x.chunks_exact_mut(32);
    for chunk in &mut chunks {
        for i in 0..32 {
            let e = exp(chunk[i] - max);
            chunk[i] = e;
            lanes[i] += e;
        }
    }
    let mut tail = 0.0;
    for x in chunks.into_remainder() {
        *x = exp(*x - max);
        tail += *x;
    }
    sum_lanes(&mut lanes) + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_of_the_library() {
        for i in -8700..500 {
            let x = i as f32 / 100.0;
            let (ours, theirs) = (exp(x), x.exp());
            assert!(
                (ours - theirs).abs() <= theirs * 2.5e-7,
                "exp({x}) = {ours}, not {theirs}"
            );
        }
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_within_a_few_ulp_of_the_library() {
        for i in -12_000..12_000 {
            let x = i as f32 / 1000.0;
            let (ours, theirs) = (tanh(x), x.tanh());
            assert!(
                (ours - theirs).abs() <= theirs.abs() * 5e-7,
                "tanh({x}) = {ours}, not {theirs}"
            );
        }
        assert_eq!((tanh(0.0), tanh(1e30), tanh(-8.0)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_a_few_ulp_of_its_series() {
        // The Maclaurin series in f64 holds its digits to 4.
        let series = |x: f64| {
            let (mut sum, mut term) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        for i in -4000..4000 {
            let x = i as f32 / 1000.0;
            let (ours, exact) = (f64::from(erf(x)), series(f64::from(x)));
            assert!(
                (ours - exact).abs() <= exact.abs() * 6e-7,
                "erf({x}) = {ours}, not {exact}"
            );
        }
        assert!(erf(1e30) == 1.0 && erf(f32::NAN).is_nan());
    }
}
