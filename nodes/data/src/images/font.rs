//! A bitmap font of 5×7 dots for labels on previews; printable ASCII, everything else is a box.

use super::Rgb8;

/// Width of a character with the gap after it.
pub(super) const ADVANCE: usize = 6;
/// Height of a character.
pub(super) const HEIGHT: usize = 7;

/// Draws text in one colour from `left`, `top`; what does not fit is cut off.
pub(super) fn draw(image: &mut Rgb8, left: usize, top: usize, text: &str, colour: [u8; 3]) {
    for (i, sign) in text.chars().enumerate() {
        let rows = glyph(sign);
        for (dy, row) in rows.into_iter().enumerate() {
            for dx in (0..5).filter(|dx| row & (0x10 >> dx) != 0) {
                let (x, y) = (left + i * ADVANCE + dx, top + dy);
                if x < image.width && y < image.height {
                    image.pixels[(y * image.width + x) * 3..][..3].copy_from_slice(&colour);
                }
            }
        }
    }
}

fn glyph(sign: char) -> [u8; HEIGHT] {
    const BOX: [u8; HEIGHT] = [0x1f, 0x11, 0x11, 0x11, 0x11, 0x11, 0x1f];
    let place = (sign as usize).checked_sub(0x20);
    place
        .and_then(|place| GLYPHS.get(place))
        .map_or(BOX, |packed| std::array::from_fn(|row| (packed >> (5 * (HEIGHT - 1 - row)) & 0x1f) as u8))
}

/// Seven rows of five dots from space to `~`, the top row in the highest bits.
#[rustfmt::skip]
const GLYPHS: [u64; 95] = [
    0x000000000, 0x108421004, 0x294a00000, 0x295f57d4a, 0x11f4717c4, 0x632222263, 0x32544564d, 0x108800000, // space ! " # $ % & '
    0x088842082, 0x208210888, 0x009575480, 0x0084f9080, 0x000003088, 0x0000f8000, 0x00000018c, 0x002222200, // ( ) * + , - . /
    0x3a33ae62e, 0x11842108e, 0x3a211111f, 0x7c441062e, 0x08ca97c42, 0x7e1e0862e, 0x1910f462e, 0x7c2222108, // 0 1 2 3 4 5 6 7
    0x3a317462e, 0x3a317844c, 0x018c03180, 0x018c03088, 0x088882082, 0x001f07c00, 0x208208888, 0x3a2111004, // 8 9 : ; < = > ?
    0x3a216d6ae, 0x3a31fc631, 0x7a31f463e, 0x3a308422e, 0x7a318c63e, 0x7e10f421f, 0x7e10f4210, 0x3a30bc62f, // @ A B C D E F G
    0x4631fc631, 0x38842108e, 0x1c4210a4c, 0x4654c5251, 0x42108421f, 0x4775ac631, 0x4639ace31, 0x3a318c62e, // H I J K L M N O
    0x7a31f4210, 0x3a318d64d, 0x7a31f5251, 0x3e107043e, 0x7c8421084, 0x46318c62e, 0x46318c544, 0x4631ad771, // P Q R S T U V W
    0x462a22a31, 0x462a21084, 0x7c222221f, 0x39084210e, 0x020820820, 0x38421084e, 0x115100000, 0x00000001f, // X Y Z [ \ ] ^ _
    0x208200000, 0x000e0be2f, 0x4216cc63e, 0x000e8422e, 0x042d9c62f, 0x000e8fe0e, 0x1928e2108, 0x01f18bc2e, // ` a b c d e f g
    0x4216cc631, 0x100c2108e, 0x080610a4c, 0x4212a6292, 0x30842108e, 0x001aad631, 0x0016cc631, 0x000e8c62e, // h i j k l m n o
    0x001e8fa10, 0x000d9bc21, 0x0016cc210, 0x000e8383e, 0x211c42126, 0x00118c66d, 0x00118c544, 0x00118d6aa, // p q r s t u v w
    0x001151151, 0x00118bc2e, 0x001f1111f, 0x088441082, 0x108421084, 0x208411088, 0x0008a8800, // x y z { | } ~
];
