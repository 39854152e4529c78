//! AdamW on a GPU: weights, gradients and state stay there.

use std::collections::{BTreeMap, HashMap};

use pipe_core::run::RunError;
use pipe_ops::optim::{self, AdamW as Step};
use pipe_ops::{Cx, DType, Device, Tensor};
use pipe_train::optim::{AdamW, Data, Report, View};

use super::groups::Group;
use super::host::{Scale, Updater};
use super::state::{Piece, State};

/// First and second moment of a tensor, and its number of updates.
struct Moments {
    m: Tensor,
    v: Tensor,
    updates: u64,
}

/// AdamW in f32 with its state on the device. Its saved state is that of the CPU's AdamW.
pub struct DeviceAdamW {
    settings: AdamW,
    device: Device,
    moments: BTreeMap<String, Moments>,
}

impl DeviceAdamW {
    /// Without state yet.
    pub fn new(settings: AdamW, device: Device) -> Self {
        DeviceAdamW { settings, device, moments: BTreeMap::new() }
    }

    /// The constants of update `k`.
    fn constants(&self, k: u64, rate: f64, scale: f32) -> Step {
        let ([beta1, beta2], k) = (self.settings.betas, k as f64);
        Step {
            lr: rate as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: self.settings.eps as f32,
            weight_decay: self.settings.weight_decay as f32,
            correction1: (1.0 - beta1.powf(k)) as f32,
            correction2_sqrt: (1.0 - beta2.powf(k)).sqrt() as f32,
            grad_scale: scale,
        }
    }
}

impl Updater for DeviceAdamW {
    fn stays_on_device(&self) -> bool {
        true
    }

    fn step(
        &mut self,
        groups: &[Group],
        rates: &[f64],
        scale: &Scale,
        tensors: &mut HashMap<String, Tensor>,
        gradients: HashMap<String, Tensor>,
    ) -> Result<Report, RunError> {
        let cx = Cx::new(self.device.clone(), DType::F32);
        let (number, factor) = match scale {
            Scale::Number(scale) => (*scale, None),
            Scale::Device(factor) => (1.0, Some(&**factor)),
        };
        for (group, rate) in groups.iter().zip(rates) {
            for (key, shape) in &group.tensors {
                let (Some(gradient), Some(theta)) = (gradients.get(key), tensors.get_mut(key)) else { continue };
                let zeros = || cx.device.zeros(shape, DType::F32);
                let mut state =
                    self.moments.remove(key).unwrap_or_else(|| Moments { m: zeros(), v: zeros(), updates: 0 });
                state.updates += 1;
                let step = self.constants(state.updates, *rate, number);
                optim::adamw(&cx, &step, theta, &mut state.m, &mut state.v, gradient, factor);
                self.moments.insert(key.clone(), state);
            }
        }
        Ok(Report { rates: rates.to_vec(), distance: None })
    }

    fn pieces(&self) -> Vec<Piece<'_>> {
        let pieces = self.moments.iter().flat_map(|(key, state)| {
            let updates = View { name: format!("updates.{key}"), data: Data::U64(state.updates) };
            [
                Piece::View(updates),
                Piece::Tensor(format!("m.{key}"), &state.m),
                Piece::Tensor(format!("v.{key}"), &state.v),
            ]
        });
        pieces.collect()
    }

    fn load(&mut self, saved: &State, groups: &[Group]) -> Result<(), RunError> {
        let mut moments = BTreeMap::new();
        for (key, shape) in groups.iter().flat_map(|g| &g.tensors) {
            let Some(updates) = saved.number(&format!("updates.{key}")) else { continue };
            let tensor = |buffer: &str| saved.tensor(&format!("{buffer}.{key}"), shape, &self.device);
            moments.insert(key.clone(), Moments { m: tensor("m")?, v: tensor("v")?, updates });
        }
        self.moments = moments;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pipe_train::optim::OptimizerConfig;
    use pipe_train::rounding::Rounding;

    use super::super::host::HostUpdater;
    use super::super::state;
    use super::*;

    /// Some steps on both, the state crossing over in the middle: from the CPU to the device and back.
    #[test]
    fn the_devices_adamw_is_the_cpus() {
        let settings = AdamW { weight_decay: 0.1, ..AdamW::default() };
        let shape = vec![3, 4];
        let groups = [Group {
            name: "unet".into(),
            part: "unet".into(),
            rate: None,
            tensors: vec![("w".into(), shape.clone())],
        }];
        let start: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
        let config = OptimizerConfig::AdamW(settings.clone());
        let host =
            || -> Box<dyn Updater> { Box::new(HostUpdater::new(&config, Device::Cpu, Rounding::Nearest).unwrap()) };
        let device = || -> Box<dyn Updater> { Box::new(DeviceAdamW::new(settings.clone(), Device::composed_cpu())) };
        let folder = tempfile::tempdir().unwrap();
        let run = |first: Box<dyn Updater>, second: Box<dyn Updater>| {
            let mut values = start.clone();
            let mut updater = first;
            let mut second = Some(second);
            for k in 0..6 {
                if k == 3 {
                    let theta = Tensor::host(values.clone(), &shape);
                    state::save(folder.path(), &[("param.w".into(), &theta)], updater.pieces(), Default::default())
                        .unwrap();
                    updater = second.take().unwrap();
                    updater.load(&State::open(folder.path()).unwrap(), &groups).unwrap();
                }
                let gradient: Vec<f32> = (0..12).map(|i| ((i + 5 * k) as f32).cos()).collect();
                let mut tensors = HashMap::from([("w".to_string(), Tensor::host(values, &shape))]);
                let gradients = HashMap::from([("w".to_string(), Tensor::host(gradient, &shape))]);
                updater.step(&groups, &[1e-2], &Scale::Number(0.5), &mut tensors, gradients).unwrap();
                values = tensors["w"].to_vec();
            }
            values
        };
        let expected = run(host(), host());
        for found in [run(device(), device()), run(host(), device()), run(device(), host())] {
            for (a, b) in expected.iter().zip(&found) {
                assert!((a - b).abs() < 2e-6, "{a} and {b}");
            }
        }
        assert!(expected.iter().zip(&start).any(|(a, b)| (a - b).abs() > 1e-2));
    }

    /// Updates on the way back give one tensor at a time.
    #[test]
    fn tensors_may_step_one_by_one() {
        let device = Device::composed_cpu();
        let tensor =
            |of: fn(f32) -> f32, n: usize| device.tensor((0..n).map(|i| of(i as f32)).collect(), &[n], DType::F32);
        let whole = Group {
            name: "unet".into(),
            part: "unet".into(),
            rate: None,
            tensors: vec![("a".into(), vec![12]), ("b".into(), vec![5])],
        };
        let alone = whole.tensors.iter().map(|one| Group { tensors: vec![one.clone()], ..whole.clone() });
        let run = |calls: &[Group]| {
            let mut updater = DeviceAdamW::new(AdamW::default(), device.clone());
            let made = |of: fn(f32) -> f32| {
                HashMap::from([("a".to_string(), tensor(of, 12)), ("b".to_string(), tensor(of, 5))])
            };
            let mut weights = made(|i| (0.3 * i).sin());
            for _ in 0..3 {
                for group in calls {
                    let mut gradients = made(|i| (1.7 * i).cos());
                    gradients.retain(|key, _| group.tensors.iter().any(|(own, _)| own == key));
                    let group = std::slice::from_ref(group);
                    updater.step(group, &[1e-2], &Scale::Number(0.5), &mut weights, gradients).unwrap();
                }
            }
            [weights["a"].to_vec(), weights["b"].to_vec()].concat()
        };
        let one_by_one: Vec<Group> = alone.rev().collect();
        assert_eq!(run(std::slice::from_ref(&whole)), run(&one_by_one));
    }

    /// Clipping without reading the norm is clipping by the norm, and the norm can be read later.
    #[test]
    fn a_factor_on_the_device_clips_as_one_of_the_host() {
        let device = Device::composed_cpu();
        let cx = Cx::new(device.clone(), DType::F32);
        let tensors: Vec<(String, Vec<usize>)> = vec![("a".into(), vec![3, 4]), ("b".into(), vec![5])];
        let group = Group { name: "unet".into(), part: "unet".into(), rate: None, tensors };
        let values = |n: usize, of: fn(f32) -> f32| (0..n).map(|i| of(i as f32)).collect::<Vec<f32>>();
        let run = |max: f64, on_device: bool| {
            let tensor = |n: usize, shape: &[usize], of| device.tensor(values(n, of), shape, DType::F32);
            let made = |of: fn(f32) -> f32| {
                HashMap::from([("a".to_string(), tensor(12, &[3, 4], of)), ("b".to_string(), tensor(5, &[5], of))])
            };
            let (mut weights, gradients) = (made(|i| (0.3 * i).sin()), made(|i| (1.7 * i).cos()));
            let list: Vec<&Tensor> = gradients.values().collect();
            let norm = optim::sum_squares(&cx, &list).sqrt();
            let scale = match on_device {
                true => {
                    let (square, factor) = optim::square_and_clip(&cx, &list, Some(max)).unwrap();
                    let read = super::super::numbers::Norm::Device(Box::new(square)).squares()[0].sqrt();
                    assert!((read / norm - 1.0).abs() < 1e-6, "{read} and {norm}");
                    Scale::Device(Box::new(factor.unwrap()))
                }
                false => Scale::Number(super::super::numbers::clip(norm, max) as f32),
            };
            let mut updater = DeviceAdamW::new(AdamW { eps: 1e-2, ..AdamW::default() }, device.clone());
            updater.step(std::slice::from_ref(&group), &[1e-2], &scale, &mut weights, gradients).unwrap();
            [weights["a"].to_vec(), weights["b"].to_vec()].concat()
        };
        // A short limit, and one that clips nothing; ε keeps AdamW from hiding the scale.
        let [short, long] = [0.01, 100.0].map(|max| (run(max, true), run(max, false)));
        for (a, b) in [&short, &long].iter().flat_map(|(a, b)| a.iter().zip(b)) {
            assert!((a - b).abs() < 1e-6, "{a} and {b}");
        }
        assert!(short.0.iter().zip(&long.0).any(|(a, b)| (a - b).abs() > 1e-4));
    }
}
