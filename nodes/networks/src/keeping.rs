//! In which type and place a component's frozen weights rest.

use pipe_ops::{DType, Home, Storage};

use crate::shapes::Shapes;

/// How the frozen weights of a component are kept. Without anything said: on the device, in the compute type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keeping {
    /// Type of the weights of linear layers and convolutions, and of tables of embeddings. They are cast to the compute
    /// type each time they are used.
    pub storage: Option<Storage>,
    /// Blocks, by the prefix of their tensors, whose weights rest in the host's memory.
    pub away: Vec<String>,
}

/// Bytes of weights at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resting {
    /// On the device.
    pub device: u64,
    /// In the host's memory, where that is not the device's.
    pub host: u64,
}

impl Keeping {
    /// In one type.
    pub fn in_type(storage: Option<Storage>) -> Self {
        Keeping { storage, away: Vec::new() }
    }

    /// Type and place of a tensor at rest; nothing where it is simply a tensor of the compute type. That are norms,
    /// biases and, in 8 bits, embeddings and the final layer: they are few, and what is lost in them is seen most.
    pub fn of(&self, name: &str, shape: &[usize], compute: DType) -> Option<(Storage, Home)> {
        if shape.len() < 2 || !name.ends_with(".weight") {
            return None;
        }
        let storage = self.storage.filter(|s| *s != Storage::F8E4M3 || !spared(name));
        let storage = storage.filter(|s| s.dtype() != Some(compute));
        let within = |block: &String| name.strip_prefix(block.as_str()).is_some_and(|rest| rest.starts_with('.'));
        match (storage, self.away.iter().any(within)) {
            (None, false) => None,
            (storage, away) => Some((storage.unwrap_or(compute.into()), if away { Home::Host } else { Home::Device })),
        }
    }

    /// Bytes of a network's tensors.
    pub fn bytes(&self, shapes: &Shapes, compute: DType) -> Resting {
        let mut sum = Resting::default();
        for (name, shape) in shapes {
            let len: usize = shape.iter().product();
            match self.of(name, shape, compute) {
                Some((storage, Home::Host)) => sum.host += (len * storage.size()) as u64,
                Some((storage, Home::Device)) => sum.device += (len * storage.size()) as u64,
                None => sum.device += (len * compute.size()) as u64,
            }
        }
        sum
    }
}

/// Embeddings and first and last layers, of all networks.
fn spared(name: &str) -> bool {
    const FIRST_AND_LAST: [&str; 9] = [
        "img_in.",
        "txt_in.",
        "time_in.",
        "vector_in.",
        "guidance_in.",
        "conv_in.",
        "conv_out.",
        "final_layer.",
        "shared.",
    ];
    FIRST_AND_LAST.iter().any(|part| name.starts_with(part))
        || ["embed", "relative_attention_bias"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flux::FluxConfig;
    use crate::network::{Network, TextNetwork};
    use crate::t5::T5Config;
    use crate::unet::UnetConfig;

    /// What 8 bits leave out is little: below 1 % of a denoiser, and of T5 its table.
    #[test]
    fn nearly_all_of_a_network_is_in_8_bits() {
        let keeping = Keeping::in_type(Some(Storage::F8E4M3));
        for (network, share) in [(Network::Flux(FluxConfig::dev()), 0.01), (Network::Unet(UnetConfig::sd15()), 0.01)] {
            let shapes = network.shapes();
            let (all, kept) = (network.parameters() as f64, keeping.bytes(&shapes, DType::BF16).device as f64);
            assert!(kept / all - 1.0 < share, "{kept} bytes of {all}");
            assert!(kept > all);
        }
        let t5 = TextNetwork::T5(T5Config::xxl());
        let kept = keeping.bytes(&t5.shapes(), DType::BF16).device as f64;
        assert!((kept / t5.parameters() as f64 - 1.0) < 0.03);
    }

    #[test]
    fn types_and_places() {
        let keeping = Keeping { storage: Some(Storage::Bf16), away: vec!["double_blocks.1".into()] };
        let of = |name: &str, shape: &[usize]| keeping.of(name, shape, DType::F32);
        assert_eq!(of("double_blocks.1.img_mlp.0.weight", &[4, 4]), Some((Storage::Bf16, Home::Host)));
        assert_eq!(of("double_blocks.11.img_mlp.0.weight", &[4, 4]), Some((Storage::Bf16, Home::Device)));
        assert_eq!(of("double_blocks.1.img_mlp.0.bias", &[4]), None);
        assert_eq!(keeping.of("img_in.weight", &[4, 4], DType::BF16), None);
        assert_eq!(Keeping::in_type(Some(Storage::F8E4M3)).of("img_in.weight", &[4, 4], DType::F32), None);
    }
}
