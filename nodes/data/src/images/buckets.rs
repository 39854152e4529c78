//! Aspect-ratio buckets: which sizes there are, and which one an image gets.

/// How buckets are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketOptions {
    /// The resolution; only its area counts for generated buckets.
    pub resolution: (usize, usize),
    /// Smallest side.
    pub min: usize,
    /// Largest side.
    pub max: usize,
    /// Sides are multiples of this.
    pub step: usize,
}

/// How an image is fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Final width and height.
    pub bucket: (usize, usize),
    /// Size it is resized to before the crop; covers the bucket.
    pub resized: (usize, usize),
}

impl Fit {
    /// Distance of the bucket's aspect ratio from that of an image.
    pub fn ratio_error(&self, image: (usize, usize)) -> f64 {
        (ratio(self.bucket) - ratio(image)).abs()
    }

    /// Pixels before the crop for each one behind it.
    pub fn waste(&self) -> usize {
        let area = |(width, height): (usize, usize)| width.saturating_mul(height);
        area(self.resized) / area(self.bucket).max(1)
    }

    /// Left and top of the centre crop.
    pub fn crop(&self) -> (usize, usize) {
        let offset = |resized: usize, bucket: usize| resized.saturating_sub(bucket) / 2;
        (offset(self.resized.0, self.bucket.0), offset(self.resized.1, self.bucket.1))
    }
}

/// Why there are no buckets, or none for an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// A step or a side of zero.
    #[error("bucket sizes and their step must be above zero")]
    Zero,
    /// Limits that leave the resolution out.
    #[error("the resolution {}×{} is not within the bucket sides {min} to {max}", resolution.0, resolution.1)]
    OutOfRange {
        /// The resolution.
        resolution: (usize, usize),
        /// Smallest side.
        min: usize,
        /// Largest side.
        max: usize,
    },
    /// An image with a side shorter than the step.
    #[error("an image of {}×{} pixels is too small: a side would be shorter than the bucket step of {step}", size.0, size.1)]
    TooSmall {
        /// Its size.
        size: (usize, usize),
        /// The step.
        step: usize,
    },
}

/// The buckets of a resolution, sorted by width and height. The limits are rounded to the step, outwards.
pub fn generate(options: BucketOptions) -> Result<Vec<(usize, usize)>, BucketError> {
    let BucketOptions { resolution: (width, height), step, .. } = options;
    if step == 0 || width == 0 || height == 0 || options.max == 0 {
        return Err(BucketError::Zero);
    }
    let min = (options.min / step * step).max(step);
    let max = options.max.div_ceil(step) * step;
    if min > width.min(height) || max < width.max(height) {
        return Err(BucketError::OutOfRange { resolution: (width, height), min, max });
    }
    let area = width * height;
    let square = (area as f64).sqrt() as usize / step * step;
    let mut buckets = vec![(square, square)];
    for w in (min..=max).step_by(step) {
        let h = max.min(area / w / step * step);
        if h >= min {
            buckets.extend([(w, h), (h, w)]);
        }
    }
    buckets.sort_unstable();
    buckets.dedup();
    Ok(buckets)
}

/// The bucket of an image among `buckets`: its own size if there is one, else the nearest aspect ratio.
pub fn select(buckets: &[(usize, usize)], image: (usize, usize)) -> Option<Fit> {
    if image.0 == 0 || image.1 == 0 {
        return None;
    }
    let error = |bucket: (usize, usize)| (ratio(bucket) - ratio(image)).abs();
    let mut best = *buckets.first()?;
    for &bucket in buckets {
        if bucket == image {
            best = bucket;
            break;
        }
        if error(bucket) < error(best) {
            best = bucket;
        }
    }
    Some(cover(best, image))
}

/// The size that covers a bucket with the image's aspect ratio.
pub fn cover(bucket: (usize, usize), image: (usize, usize)) -> Fit {
    let scale =
        if ratio(image) > ratio(bucket) { bucket.1 as f64 / image.1 as f64 } else { bucket.0 as f64 / image.0 as f64 };
    Fit { bucket, resized: (half_up(image.0 as f64 * scale), half_up(image.1 as f64 * scale)) }
}

/// The bucket of an image that is never enlarged: its own size within the area, cut to multiples of the step.
pub fn select_no_upscale(area: usize, step: usize, image: (usize, usize)) -> Result<Fit, BucketError> {
    let too_small = BucketError::TooSmall { size: image, step };
    if step == 0 || area == 0 {
        return Err(BucketError::Zero);
    }
    if image.0 == 0 || image.1 == 0 {
        return Err(too_small);
    }
    let resized = if image.0.checked_mul(image.1).is_some_and(|pixels| pixels <= area) {
        image
    } else {
        let r = ratio(image);
        let wide = (area as f64 * r).sqrt();
        let high = area as f64 / wide;
        let rounded = |x: f64| half_up(x) / step * step;
        let w1 = rounded(wide);
        let h1 = rounded(w1 as f64 / r);
        let h2 = rounded(high);
        let w2 = rounded(h2 as f64 * r);
        // A ratio with a zero side is no number and never nearer, but must not be chosen either.
        let first = (w1 as f64 / h1 as f64 - r).abs();
        let second = (w2 as f64 / h2 as f64 - r).abs();
        if first < second { (w1, half_up(w1 as f64 / r)) } else { (half_up(h2 as f64 * r), h2) }
    };
    let bucket = (resized.0 / step * step, resized.1 / step * step);
    if bucket.0 == 0 || bucket.1 == 0 { Err(too_small) } else { Ok(Fit { bucket, resized }) }
}

fn ratio((width, height): (usize, usize)) -> f64 {
    width as f64 / height as f64
}

fn half_up(x: f64) -> usize {
    (x + 0.5) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(resolution: usize, min: usize, max: usize, step: usize) -> Vec<(usize, usize)> {
        generate(BucketOptions { resolution: (resolution, resolution), min, max, step }).unwrap()
    }

    #[test]
    fn lists() {
        let mut expected = vec![(512, 512)];
        for (w, h) in [(256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576)]
        {
            expected.extend([(w, h), (h, w)]);
        }
        expected.sort();
        assert_eq!(list(512, 256, 1024, 64), expected);
        assert_eq!(list(1024, 256, 2048, 64).len(), 41);
        assert_eq!(list(1024, 256, 1024, 64).len(), 25);
        assert_eq!(list(768, 256, 1024, 64).len(), 19);
        assert_eq!(list(1024, 512, 2048, 32).len(), 65);
        // Limits are rounded outwards; only the area counts.
        assert_eq!(list(512, 300, 1000, 64), expected);
        let oblong = BucketOptions { resolution: (1024, 256), min: 256, max: 1024, step: 64 };
        assert_eq!(generate(oblong).unwrap(), expected);
    }

    #[test]
    fn limits() {
        let options = BucketOptions { resolution: (512, 512), min: 256, max: 1024, step: 64 };
        for (options, error) in [
            (BucketOptions { step: 0, ..options }, BucketError::Zero),
            (BucketOptions { resolution: (0, 512), ..options }, BucketError::Zero),
            (
                BucketOptions { min: 576, ..options },
                BucketError::OutOfRange { resolution: (512, 512), min: 576, max: 1024 },
            ),
            (
                BucketOptions { max: 448, ..options },
                BucketError::OutOfRange { resolution: (512, 512), min: 256, max: 448 },
            ),
        ] {
            assert_eq!(generate(options), Err(error));
        }
        assert_eq!(select(&[], (5, 5)), None);
        assert_eq!(select(&[(512, 512)], (0, 5)), None);
    }

    #[test]
    fn selection() {
        let (small, large) = (list(512, 256, 1024, 64), list(1024, 256, 2048, 64));
        for (image, bucket, resized, large_bucket, large_resized) in [
            ((1920, 1080), (640, 384), (683, 384), (1344, 768), (1365, 768)),
            ((1080, 1920), (384, 640), (384, 683), (768, 1344), (768, 1365)),
            ((640, 480), (576, 448), (597, 448), (1152, 896), (1195, 896)),
            ((1000, 300), (832, 256), (853, 256), (1792, 576), (1920, 576)),
            ((400, 400), (512, 512), (512, 512), (1024, 1024), (1024, 1024)),
            ((576, 448), (576, 448), (576, 448), (1152, 896), (1152, 896)),
        ] {
            assert_eq!(select(&small, image), Some(Fit { bucket, resized }));
            assert_eq!(select(&large, image), Some(Fit { bucket: large_bucket, resized: large_resized }));
        }
        let fit = select(&small, (1920, 1080)).unwrap();
        assert_eq!(fit.crop(), (21, 0));
        assert!((fit.ratio_error((1920, 1080)) - 1.0 / 9.0).abs() < 1e-12);
    }

    #[test]
    fn selection_without_upscaling() {
        for (image, bucket, resized) in [
            ((1920, 1080), (640, 384), (683, 384)),
            ((1080, 1920), (384, 640), (384, 683)),
            ((640, 480), (512, 384), (512, 384)),
            ((1000, 300), (832, 256), (853, 256)),
            ((400, 400), (384, 384), (400, 400)),
        ] {
            assert_eq!(select_no_upscale(512 * 512, 64, image), Ok(Fit { bucket, resized }));
        }
        for image in [(40, 400), (400, 63), (0, 5), (1_000_000, 2)] {
            let error = BucketError::TooSmall { size: image, step: 64 };
            assert_eq!(select_no_upscale(512 * 512, 64, image), Err(error));
        }
    }
}
