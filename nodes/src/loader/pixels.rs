//! Images of a folder: the fields of how they are cut, coloured and resized, and the draw of one use.

use pipe_core::node::CheckCx;
use pipe_data::images::{Filter, Rgb8};
use schemars::JsonSchema;
use serde::Deserialize;

use super::sample::Sample;
use crate::common::batch::PixelRules;

/// Fields of `loader.images` about pixels.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct PixelFields {
    /// How images are resized. Default: area averages where both sides shrink, else Lanczos.
    #[serde(default)]
    resize_interpolation: Option<Interpolation>,
    /// Cut images at a random place at each use, not in the middle. With buckets, of the image that covers its bucket;
    /// without, of the image in its own size where it is large enough. Default false.
    #[serde(default)]
    random_crop: bool,
    /// Cut images around a face: `[1, 3]` makes the shorter side of the cut one to three times as long as the face's longer
    /// one, drawn at each use. The face's centre and size in pixels end the file name, as in `anna_200_150_80_90.png`;
    /// other images are cut as usual. Without buckets only. Default: off.
    #[serde(default)]
    #[schemars(inner(range(min = 0.1, max = 100.0)))]
    face_crop: Option<[f64; 2]>,
    /// Turn the hues or change the brightness (gamma 0.95 to 1.05) of a third of all uses a little: hues by up to 16 of 360 degrees.
    /// Default false.
    #[serde(default)]
    color_aug: bool,
}

/// A method of resizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Interpolation {
    /// Windowed sinc over three lobes, as Pillow has it.
    Lanczos,
    /// Nearest pixel, as OpenCV's exact one.
    Nearest,
    /// Between two pixels of each axis, as OpenCV has it: shrinking skips pixels.
    Bilinear,
    /// The same.
    Linear,
    /// Between four pixels of each axis (a = −0.75), as OpenCV has it: shrinking skips pixels.
    Bicubic,
    /// The same.
    Cubic,
    /// Mean of the area that a pixel covers.
    Area,
    /// Pillow's mean of the area that a pixel covers; enlarging repeats pixels.
    Box,
}

impl Interpolation {
    fn filter(self) -> Filter {
        match self {
            Interpolation::Lanczos => Filter::Lanczos,
            Interpolation::Nearest => Filter::Nearest,
            Interpolation::Bilinear | Interpolation::Linear => Filter::Bilinear,
            Interpolation::Bicubic | Interpolation::Cubic => Filter::Bicubic,
            Interpolation::Area => Filter::Area,
            Interpolation::Box => Filter::Box,
        }
    }
}

impl PixelFields {
    /// The rules that the fields make.
    pub(super) fn rules(&self, buckets: bool) -> PixelRules {
        PixelRules {
            filter: self.resize_interpolation.map(Interpolation::filter),
            random_crop: self.random_crop,
            own_size: !buckets,
            face_crop: self.face_crop,
            color: self.color_aug,
        }
    }

    /// Fields that change images from use to use, in another way than mirroring.
    pub(super) fn varying(&self) -> Vec<&'static str> {
        let list =
            [("random_crop", self.random_crop), ("face_crop", self.face_crop.is_some()), ("color_aug", self.color_aug)];
        list.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
    }

    /// Fields without effect.
    pub(super) fn check(&self, cx: &mut CheckCx, buckets: bool) {
        let Some([low, high]) = self.face_crop else { return };
        if buckets {
            let message = "`face_crop` has no effect with `buckets`: the whole image is fitted into its bucket";
            cx.error("P0402", "face_crop", message, Some("leave one of the two out".into()));
        }
        if low > high {
            let message = format!("`face_crop` begins at {low} and ends at {high}");
            cx.error("P0403", "face_crop", message, Some("write the smaller number first".into()));
        }
    }

    /// Fields that change nothing of these images.
    pub(super) fn notices(&self, items: &[Sample], buckets: bool) -> Vec<(&'static str, &'static str)> {
        let rules = self.rules(buckets);
        let cut_to_face = |item: &Sample| self.face_crop.is_some() && Face::of(item).is_some();
        let whole = |item: &Sample| rules.before_cut(item) == item.fit.bucket;
        let mut list = Vec::new();
        if self.random_crop && !items.is_empty() && items.iter().all(|item| whole(item) && !cut_to_face(item)) {
            list.push((
                "random_crop",
                "`random_crop` has no effect: every image has the shape of its bucket, so there is nothing to cut off",
            ));
        }
        let unscaled = |item: &Sample| item.fit.resized == item.size && !cut_to_face(item);
        if self.resize_interpolation.is_some() && !items.is_empty() && items.iter().all(unscaled) {
            list.push(("resize_interpolation", "`resize_interpolation` has no effect: no image is resized"));
        }
        // An image that is enlarged to cover its cut exactly has no room for another one.
        let fixed = |item: &Sample| {
            let ((width, height), bucket) = (item.size, item.fit.bucket);
            item.fit.resized == bucket && (width <= bucket.0 || height <= bucket.1)
        };
        let mut faces = items.iter().filter(|item| cut_to_face(item)).peekable();
        if faces.peek().is_some() && faces.all(fixed) {
            list.push(("face_crop", "`face_crop` has no effect: every image with a face fills its cut"));
        }
        list
    }

    /// A face crop where no name tells of a face.
    pub(super) fn faceless(&self, items: &[Sample]) -> Option<&'static str> {
        let none = !items.is_empty() && items.iter().all(|item| Face::of(item).is_none());
        (self.face_crop.is_some() && none).then_some(
            "`face_crop` has no effect: no file name ends with a face's place, as in `anna_200_150_80_90.png`",
        )
    }
}

/// A change of colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Colour {
    /// Hues are turned by so many degrees.
    Hue(f32),
    /// Brightness.
    Gamma(f32),
}

/// How an image is seen in one use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Size before the cut.
    pub resized: (usize, usize),
    /// Left and top of the cut.
    pub corner: (usize, usize),
    /// Change of colours.
    pub colour: Option<Colour>,
    /// Left and right exchanged.
    pub mirrored: bool,
}

/// A face in an image, in its pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Face {
    centre: (f64, f64),
    size: (f64, f64),
}

impl Face {
    /// From the last four parts of a file's stem: centre, width and height.
    fn of(sample: &Sample) -> Option<Face> {
        let stem = sample.path.file_stem()?.to_str()?;
        let mut parts = stem.rsplit('_');
        let mut next = || parts.next()?.parse::<u32>().ok().map(f64::from);
        let (h, w, y, x) = (next()?, next()?, next()?, next()?);
        // Something stands before them.
        parts.next()?;
        (w > 0.0 && h > 0.0).then_some(Face { centre: (x, y), size: (w, h) })
    }
}

impl PixelRules {
    /// Size of an image before a random cut.
    fn before_cut(&self, sample: &Sample) -> (usize, usize) {
        let bucket = sample.fit.bucket;
        let large = sample.size.0 >= bucket.0 && sample.size.1 >= bucket.1;
        if self.own_size && large { sample.size } else { sample.fit.resized }
    }
}

impl View {
    /// Covering its bucket, cut in the middle.
    pub fn plain(sample: &Sample, mirrored: bool) -> View {
        View { resized: sample.fit.resized, corner: sample.fit.crop(), colour: None, mirrored }
    }

    /// A draw: `place` and `colour` give uniform numbers of 0 to 1.
    pub fn draw(
        rules: &PixelRules,
        sample: &Sample,
        mirrored: bool,
        place: &mut dyn FnMut() -> f64,
        colour: &mut dyn FnMut() -> f64,
    ) -> View {
        let mut view = View::plain(sample, mirrored);
        let bucket = sample.fit.bucket;
        match (rules.face_crop, Face::of(sample)) {
            (Some(range), Some(face)) => view.around(face, range, rules.random_crop, sample, place),
            _ if rules.random_crop => {
                view.resized = rules.before_cut(sample);
                let mut offset = |length: usize, side: usize| {
                    let room = length.saturating_sub(side);
                    ((place() * (room + 1) as f64) as usize).min(room)
                };
                view.corner = (offset(view.resized.0, bucket.0), offset(view.resized.1, bucket.1));
            }
            _ => {}
        }
        if rules.color && colour() < 0.33 {
            let (kind, amount) = (colour(), colour() as f32);
            view.colour =
                Some(if kind < 0.5 { Colour::Hue(32.0 * amount - 16.0) } else { Colour::Gamma(0.95 + 0.1 * amount) });
        }
        view
    }

    /// Scales and cuts around a face.
    fn around(
        &mut self,
        face: Face,
        [low, high]: [f64; 2],
        random: bool,
        sample: &Sample,
        place: &mut dyn FnMut() -> f64,
    ) {
        let (width, height) = (sample.size.0 as f64, sample.size.1 as f64);
        let (to_w, to_h) = sample.fit.bucket;
        let (longer, side) = (face.size.0.max(face.size.1), to_w.min(to_h) as f64);
        let cover = (to_w as f64 / width).max(to_h as f64 / height);
        let scale = if cover >= 1.0 {
            cover
        } else {
            let of = |times: f64| (side / (longer * times)).clamp(cover, 1.0);
            let (least, most) = (of(high), of(low));
            least + (most - least) * place()
        };
        let sized = |length: f64, to: usize| ((length * scale + 0.5) as usize).max(to);
        self.resized = (sized(width, to_w), sized(height, to_h));
        let mut corner = |centre: f64, length: usize, to: usize| {
            let length = length as f64;
            let centre = (centre * scale).min(length);
            let jitter = if random {
                let reach = centre.max(length - centre);
                (place() + place() - 1.0) * reach
            } else if low < high && longer > side / 10.0 && longer >= 40.0 {
                (2.0 * place() - 1.0) * longer / 20.0
            } else {
                0.0
            };
            (centre - to as f64 / 2.0 + jitter).round().clamp(0.0, length - to as f64) as usize
        };
        self.corner = (corner(face.centre.0, self.resized.0, to_w), corner(face.centre.1, self.resized.1, to_h));
    }

    /// The picture, or its mask, as it is seen.
    pub fn of(&self, picture: &Rgb8, sample: &Sample, filter: Option<Filter>) -> Rgb8 {
        let ((w, h), (left, top)) = (sample.fit.bucket, self.corner);
        let cut = picture.resized(self.resized, filter).crop(left, top, w, h);
        if self.mirrored { cut.flipped() } else { cut }
    }

    /// The change of colours, which a mask does not have.
    pub fn coloured(&self, picture: Rgb8) -> Rgb8 {
        match self.colour {
            Some(Colour::Hue(degrees)) => picture.with_hue_turned(degrees),
            Some(Colour::Gamma(gamma)) => picture.with_gamma(gamma),
            None => picture,
        }
    }
}

#[cfg(test)]
mod tests {
    use pipe_data::images::buckets;

    use super::*;

    fn sample(name: &str, size: (usize, usize)) -> Sample {
        Sample {
            path: name.into(),
            caption: String::new(),
            size,
            fit: buckets::cover((64, 48), size),
            weight: 1.0,
            mask: None,
            held_out: false,
        }
    }

    /// Views of an image under rules, with numbers spread over all of 0 to 1.
    fn views(rules: PixelRules, sample: &Sample) -> Vec<View> {
        let mut n = 0u32;
        let mut place = move || {
            n += 1;
            (f64::from(n) * 0.618_033_988_749_895).fract()
        };
        // How many numbers a view takes depends on them: they must not depend on each other.
        let mut m = 0u64;
        let mut colour = move || {
            m = m.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (m ^ (m >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((mixed ^ (mixed >> 27)) >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..4000).map(|_| View::draw(&rules, sample, false, &mut place, &mut colour)).collect()
    }

    #[test]
    fn faces_are_read_from_names() {
        let face = |name: &str| Face::of(&sample(name, (300, 200)));
        let known = Face { centre: (200.0, 150.0), size: (80.0, 90.0) };
        assert_eq!(face("photos/anna_k_200_150_80_90.png"), Some(known));
        for name in ["200_150_80_90.png", "anna_200_150_80.png", "anna_200_150_80_x.png", "anna_2_1_0_9.png", "a.png"] {
            assert_eq!(face(name), None, "{name}");
        }
    }

    #[test]
    fn cuts_are_inside_and_anywhere() {
        let image = sample("a.png", (300, 200));
        for (own_size, resized) in [(true, (300, 200)), (false, (72, 48))] {
            let rules = PixelRules { random_crop: true, own_size, ..Default::default() };
            let views = views(rules, &image);
            assert!(views.iter().all(|view| view.resized == resized));
            let room = (resized.0 - 64, resized.1 - 48);
            assert!(views.iter().all(|view| view.corner.0 <= room.0 && view.corner.1 <= room.1));
            let lefts: std::collections::BTreeSet<usize> = views.iter().map(|view| view.corner.0).collect();
            assert_eq!(lefts.len(), room.0 + 1, "every place comes about");
        }
        // Smaller than the cut: enlarged, as without.
        let rules = PixelRules { random_crop: true, own_size: true, ..Default::default() };
        assert!(views(rules, &sample("a.png", (60, 60))).iter().all(|view| view.resized == (64, 64)));
        assert_eq!(views(PixelRules::default(), &image)[0], View::plain(&image, false));
    }

    #[test]
    fn faces_are_in_their_cuts() {
        // The shorter side of the cut is 48: a face of 40 pixels is shown at a half to a third of it.
        let image = sample("a_200_120_30_40.png", (400, 300));
        let rules = PixelRules { face_crop: Some([2.0, 3.0]), ..Default::default() };
        for random in [false, true] {
            for view in views(PixelRules { random_crop: random, ..rules }, &image) {
                let scale = view.resized.0 as f64 / 400.0;
                let times = 48.0 / (40.0 * scale);
                assert!((1.95..=3.05).contains(&times), "{view:?} {times}");
                assert!(view.corner.0 + 64 <= view.resized.0 && view.corner.1 + 48 <= view.resized.1);
                let centre = (200.0 * scale - view.corner.0 as f64, 120.0 * scale - view.corner.1 as f64);
                assert!(random || (centre.0 - 32.0).abs() <= 3.0 && (centre.1 - 24.0).abs() <= 3.0, "{view:?}");
            }
        }
        // Near the border the cut stays inside, and a small image is enlarged to cover.
        for (name, size) in
            [("a_1_1_30_40.png", (400, 300)), ("a_399_299_30_40.png", (400, 300)), ("a_20_20_9_9.png", (40, 40))]
        {
            for view in views(PixelRules { random_crop: true, ..rules }, &sample(name, size)) {
                assert!(view.corner.0 + 64 <= view.resized.0 && view.corner.1 + 48 <= view.resized.1, "{view:?}");
            }
        }
    }

    #[test]
    fn a_third_of_the_colours_change_half_by_half() {
        let rules = PixelRules { color: true, ..Default::default() };
        let views = views(rules, &sample("a.png", (64, 48)));
        let hues = views.iter().filter(|view| matches!(view.colour, Some(Colour::Hue(x)) if x.abs() <= 16.0)).count();
        let gammas = views
            .iter()
            .filter(|view| matches!(view.colour, Some(Colour::Gamma(x)) if (0.95..=1.05).contains(&x)))
            .count();
        assert_eq!(views.iter().filter(|view| view.colour.is_some()).count(), hues + gammas);
        assert!((400..=950).contains(&hues) && (400..=950).contains(&gammas), "{hues} {gammas}");
    }
}
