//! How images get their size: one for all, buckets, or a bucket of their own.

use pipe_data::images::buckets::{self, BucketOptions, Fit};

use super::images::Buckets;

/// How images are fitted.
pub(super) enum Fitting {
    /// Into one of these buckets.
    Buckets(Vec<(usize, usize)>),
    /// Into a bucket of the image's own, of at most this area and with sides of multiples of the step.
    Own { area: usize, step: usize },
    /// To one size.
    One((usize, usize)),
}

impl Fitting {
    /// For a resolution, with or without buckets; says why there can be no bucket.
    pub fn new(resolution: (usize, usize), buckets: Option<Buckets>) -> Result<Fitting, String> {
        let Some(b) = buckets else { return Ok(Fitting::One(resolution)) };
        let step = b.step as usize;
        if b.no_upscale {
            return Ok(Fitting::Own { area: resolution.0 * resolution.1, step });
        }
        let (min, max) = (b.min.unwrap_or(256) as usize, b.max.unwrap_or(1024) as usize);
        let list = buckets::generate(BucketOptions { resolution, min, max, step });
        list.map(Fitting::Buckets).map_err(|error| error.to_string())
    }

    /// The size of an image of `size` pixels.
    pub fn of(&self, size: (usize, usize)) -> Result<Fit, String> {
        match self {
            Fitting::Buckets(list) => buckets::select(list, size).ok_or_else(|| "no bucket".to_string()),
            Fitting::Own { area, step } => {
                buckets::select_no_upscale(*area, *step, size).map_err(|error| error.to_string())
            }
            Fitting::One(resolution) => Ok(buckets::cover(*resolution, size)),
        }
    }
}
