//! Loss by timestep: where on the way from noise to image a model errs.

/// Ranges that the timesteps 0 to 1000 are cut into.
pub const BUCKETS: usize = 10;

/// Sums of the losses of each range of timesteps.
#[derive(Clone, Debug, Default)]
pub struct ByTimestep([(f64, u64); BUCKETS]);

/// Name of a range's number: `loss_t300` is of timesteps 300 to 399.
pub fn name(bucket: usize) -> String {
    format!("loss_t{:03}", bucket * 1000 / BUCKETS)
}

impl ByTimestep {
    /// Takes in samples; a timestep for each loss, 0 to 1000.
    pub fn add(&mut self, losses: &[f64], timesteps: &[f32]) {
        for (loss, t) in losses.iter().zip(timesteps) {
            let bucket = (t / (1000 / BUCKETS) as f32) as usize;
            let (sum, count) = &mut self.0[bucket.min(BUCKETS - 1)];
            *sum += loss;
            *count += 1;
        }
    }

    /// Mean of each range that has samples, by name.
    pub fn means(&self) -> impl Iterator<Item = (String, f64)> {
        let some = self.0.iter().enumerate().filter(|(_, (_, count))| *count > 0);
        some.map(|(bucket, (sum, count))| (name(bucket), sum / *count as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_in_its_range() {
        let mut by = ByTimestep::default();
        by.add(&[1.0, 2.0, 4.0, 8.0, 16.0], &[0.0, 99.9, 100.0, 999.0, 1000.0]);
        by.add(&[6.0], &[150.0]);
        let means: Vec<(String, f64)> = by.means().collect();
        let expected = [("loss_t000", 1.5), ("loss_t100", 5.0), ("loss_t900", 12.0)];
        assert_eq!(means, expected.map(|(name, mean)| (name.to_string(), mean)));
    }
}
