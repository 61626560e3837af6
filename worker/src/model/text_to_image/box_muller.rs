//! Pairs of uniform numbers into pairs of normal ones, to the last bit as torch's vector code does on x86-64.
//!
//! That code takes logarithm, sine and cosine from Cephes' single-precision polynomials, whose last bits are not those of a
//! C library, and its compiler fuses multiplications with the additions that follow. So both are done in that very order
//! here. (torch on a CPU without AVX2 differs from this in the last bits itself.)

/// Of 1 + x, from the highest power down, after x − x²/2.
const LOGARITHM: [f32; 9] = [
    7.037_683_6e-2,
    -1.151_461e-1,
    1.167_699_87e-1,
    -1.242_014_1e-1,
    1.424_932_3e-1,
    -1.666_805_8e-1,
    2.000_071_5e-1,
    -2.499_999_4e-1,
    3.333_333e-1,
];
/// ln 2 in two parts, the larger one of few bits.
const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
/// Of x² and after 1 − x²/2, and after x.
const COSINE: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
const SINE: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
/// π/4 in three parts, so that multiples of it can be taken away without loss.
const QUARTER_TURN: [f32; 3] = [0.785_156_25, 2.418_756_5e-4, 3.774_895e-8];
/// 4/π
const QUARTERS: f32 = 1.273_239_5;

/// Two normal numbers from two that are uniform from 0 to 1 without 1.
pub(super) fn normal_pair(one: f32, other: f32) -> (f32, f32) {
    // Taken from 1, so that the logarithm is never of 0.
    let radius = (-2.0 * logarithm(1.0 - one)).sqrt();
    let (sine, cosine) = sine_and_cosine(std::f32::consts::TAU * other);
    (radius * cosine, radius * sine)
}

fn polynomial(factors: &[f32], x: f32) -> f32 {
    factors.iter().copied().reduce(|sum, factor| sum.mul_add(x, factor)).unwrap_or_default()
}

/// Of a positive, normal number.
fn logarithm(x: f32) -> f32 {
    const MANTISSA: u32 = 0x007F_FFFF;
    // x = m · 2^e with m from √½ to √2, less 1
    let mut exponent = (x.to_bits() >> 23) as f32 - 126.0;
    let mantissa = f32::from_bits((x.to_bits() & MANTISSA) | 0.5_f32.to_bits());
    let x = if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        mantissa - 1.0 + mantissa
    } else {
        mantissa - 1.0
    };
    let square = x * x;
    let rest = (polynomial(&LOGARITHM, x) * x).mul_add(square, exponent * LN_2.1);
    exponent.mul_add(LN_2.0, x + square.mul_add(-0.5, rest))
}

/// Of an angle from 0 to 2π.
fn sine_and_cosine(angle: f32) -> (f32, f32) {
    let eighth = ((angle * QUARTERS) as u32 + 1) & !1;
    let x = QUARTER_TURN.iter().fold(angle, |x, part| (eighth as f32).mul_add(-part, x));
    let square = x * x;
    let cosine = (polynomial(&COSINE, square) * square).mul_add(square, -0.5 * square) + 1.0;
    let sine = (polynomial(&SINE, square) * square).mul_add(x, x);
    // every quarter of a turn they change places, and every half their signs
    let (sine, cosine) = if eighth & 2 == 0 { (sine, cosine) } else { (cosine, sine) };
    let signed = |value: f32, negative: bool| if negative { -value } else { value };
    (signed(sine, eighth & 4 != 0), signed(cosine, (eighth + 2) & 4 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_what_they_are_called() {
        for step in 1_u16..=1000 {
            let part = f32::from(step) / 1000.0;
            assert!((logarithm(part) - part.ln()).abs() <= 3e-7 * part.ln().abs().max(1.0), "ln {part}");
            let angle = part * std::f32::consts::TAU;
            let (sine, cosine) = sine_and_cosine(angle);
            assert!((sine - angle.sin()).abs() < 3e-7, "sin {angle}");
            assert!((cosine - angle.cos()).abs() < 3e-7, "cos {angle}");
        }
    }
}
