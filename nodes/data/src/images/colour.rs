//! Colours turned and brightened, as augmentations do.

use super::Rgb8;

impl Rgb8 {
    /// Every hue turned by `degrees` on the colour circle (HSV); saturation and value stay.
    pub fn with_hue_turned(&self, degrees: f32) -> Rgb8 {
        let mut out = self.clone();
        for pixel in out.pixels.as_chunks_mut::<3>().0 {
            *pixel = turned(*pixel, degrees / 60.0);
        }
        out
    }

    /// `255·(x/255)^γ` of every channel: brighter below one, darker above.
    pub fn with_gamma(&self, gamma: f32) -> Rgb8 {
        let table: [u8; 256] = std::array::from_fn(|x| (255.0 * (x as f32 / 255.0).powf(gamma)).round() as u8);
        let pixels = self.pixels.iter().map(|x| table[usize::from(*x)]).collect();
        Rgb8 { pixels, ..*self }
    }
}

/// A colour with its hue turned by sixths of the circle.
fn turned([r, g, b]: [u8; 3], sixths: f32) -> [u8; 3] {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let chroma = f32::from(most - least);
    if most == least {
        return [r, g, b];
    }
    let [rf, gf, bf] = [r, g, b].map(f32::from);
    let hue = match most {
        m if m == r => (gf - bf) / chroma,
        m if m == g => 2.0 + (bf - rf) / chroma,
        _ => 4.0 + (rf - gf) / chroma,
    };
    let hue = hue + sixths;
    // Channel n of the colour with hue h, value v and chroma c: v − c·max(0, min(k, 4−k, 1)), k = (n + h) mod 6.
    [5.0, 3.0, 1.0].map(|n| {
        let k = (n + hue).rem_euclid(6.0);
        (f32::from(most) - chroma * k.min(4.0 - k).clamp(0.0, 1.0)).round() as u8
    })
}
