//! Denoisers and text encoders of every family behind one type each.

use serde::{Deserialize, Serialize};

use crate::clip::{ClipConfig, Take};
use crate::condition::Conditions;
use crate::flux::FluxConfig;
use crate::gemma::GemmaConfig;
use crate::lumina_next::LuminaNextConfig;
use crate::lumina2::Lumina2Config;
use crate::mmdit::MmditConfig;
use crate::segment::{Builder, Slot};
use crate::shapes::Shapes;
use crate::t5::T5Config;
use crate::text::TextOut;
use crate::unet::UnetConfig;

/// A denoiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "network", rename_all = "snake_case")]
pub enum Network {
    /// SD 1.x, 2.x, SDXL.
    Unet(UnetConfig),
    /// SD3, SD3.5.
    Mmdit(MmditConfig),
    /// FLUX.1.
    Flux(FluxConfig),
    /// Lumina-Image-2.0.
    Lumina2(Lumina2Config),
    /// Lumina-Next.
    LuminaNext(LuminaNextConfig),
}

impl Network {
    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        match self {
            Network::Unet(c) => c.shapes(),
            Network::Mmdit(c) => c.shapes(),
            Network::Flux(c) => c.shapes(),
            Network::Lumina2(c) => c.shapes(),
            Network::LuminaNext(c) => c.shapes(),
        }
    }
    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.shapes().iter().map(|(_, s)| s.iter().product::<usize>()).sum()
    }
    /// Latent channels.
    pub fn channels(&self) -> usize {
        match self {
            Network::Unet(c) => c.channels,
            Network::Mmdit(c) => c.channels,
            Network::Flux(c) => c.channels,
            Network::Lumina2(c) => c.channels,
            Network::LuminaNext(c) => c.channels,
        }
    }
    /// Width of the text embeddings.
    pub fn context(&self) -> usize {
        match self {
            Network::Unet(c) => c.context,
            Network::Mmdit(c) => c.context,
            Network::Flux(c) => c.context,
            Network::Lumina2(c) => c.context,
            Network::LuminaNext(c) => c.context,
        }
    }
    /// Width of the pooled text, where the network reads one.
    pub fn pooled(&self) -> Option<usize> {
        match self {
            Network::Unet(c) => c.sizes.map(|s| s.pooled),
            Network::Mmdit(c) => Some(c.pooled),
            Network::Flux(c) => Some(c.pooled),
            Network::Lumina2(_) | Network::LuminaNext(_) => None,
        }
    }
    /// Sides of a latent must be multiples of this.
    pub fn cell(&self) -> usize {
        match self {
            // The up-samplers follow the skips' sizes in SD 1.x and 2.x.
            Network::Unet(c) if c.sizes.is_none() => 1,
            Network::Unet(c) => c.factor(),
            Network::Mmdit(c) => c.patch,
            Network::Lumina2(c) => c.patch,
            Network::Flux(_) | Network::LuminaNext(_) => 2,
        }
    }
    /// Largest height or width of a latent, where the position table ends it.
    pub fn largest(&self) -> Option<usize> {
        match self {
            Network::Mmdit(c) if c.options.scaled.is_empty() => Some(c.positions * c.patch),
            _ => None,
        }
    }

    /// Lists of blocks that can rest away from the device: the prefix of their tensors and how many there are. The
    /// U-Nets' blocks are too unlike each other.
    fn lists(&self) -> Vec<(&'static str, usize)> {
        match self {
            Network::Unet(_) => Vec::new(),
            Network::Mmdit(c) => vec![("joint_blocks", c.depth)],
            Network::Flux(c) => vec![("double_blocks", c.double), ("single_blocks", c.single)],
            Network::Lumina2(c) => vec![("layers", c.layers)],
            Network::LuminaNext(c) => vec![("layers", c.layers)],
        }
    }
    /// How many blocks of each list `n` stand for. FLUX: half of `n` double blocks, and two single ones for each of the
    /// other half, which are half as large.
    fn shares(&self, n: usize) -> Vec<usize> {
        match self {
            Network::Flux(_) => vec![n / 2, 2 * (n - n / 2)],
            _ => vec![n],
        }
    }
    /// Most blocks that can be swapped: two of each list stay on the device.
    pub fn most_swapped(&self) -> usize {
        let lists = self.lists();
        let fits = |n: &usize| {
            !lists.is_empty() && lists.iter().zip(self.shares(*n)).all(|((_, all), share)| share + 2 <= *all)
        };
        (1..).take_while(fits).last().unwrap_or(0)
    }
    /// The blocks, by the prefix of their tensors, that rest in the host's memory when `n` are swapped: the last of each
    /// list.
    pub fn swapped(&self, n: usize) -> Vec<String> {
        let lists = self.lists().into_iter().zip(self.shares(n));
        lists
            .flat_map(|((list, all), share)| (all.saturating_sub(share)..all).map(move |i| format!("{list}.{i}")))
            .collect()
    }

    /// Adds the segments of component `part`; gives the prediction's slot.
    pub fn build(&self, b: &mut Builder, part: &str, x: Slot, conditions: Conditions) -> Slot {
        let Conditions { context, pooled } = conditions;
        // Only networks with a pooled input get here with one; an unused slot costs nothing.
        let or_input = |b: &mut Builder| pooled.unwrap_or_else(|| b.input());
        match self {
            Network::Unet(c) => c.build(b, part, x, context, pooled),
            Network::Mmdit(c) => {
                let pooled = or_input(b);
                c.build(b, part, x, context, pooled)
            }
            Network::Flux(c) => {
                let pooled = or_input(b);
                c.build(b, part, x, context, pooled)
            }
            Network::Lumina2(c) => c.build(b, part, x, context),
            Network::LuminaNext(c) => c.build(b, part, x, context),
        }
    }
}

/// A text encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "network", rename_all = "snake_case")]
pub enum TextNetwork {
    /// CLIP.
    Clip(ClipConfig),
    /// T5 v1.1.
    T5(T5Config),
    /// Gemma 1 or 2.
    Gemma(GemmaConfig),
}

impl TextNetwork {
    /// Every tensor that is used, with its shape.
    pub fn shapes(&self) -> Shapes {
        match self {
            TextNetwork::Clip(c) => c.shapes(),
            TextNetwork::T5(c) => c.shapes(),
            TextNetwork::Gemma(c) => c.shapes(),
        }
    }
    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.shapes().iter().map(|(_, s)| s.iter().product::<usize>()).sum()
    }
    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        match self {
            TextNetwork::Clip(c) => c.width,
            TextNetwork::T5(c) => c.width,
            TextNetwork::Gemma(c) => c.width,
        }
    }
    /// Width of the pooled vector, if there can be one.
    pub fn pooled(&self) -> Option<usize> {
        match self {
            TextNetwork::Clip(c) => Some(c.projection.unwrap_or(c.width)),
            _ => None,
        }
    }
    /// Layers.
    pub fn layers(&self) -> usize {
        match self {
            TextNetwork::Clip(c) => c.layers,
            TextNetwork::T5(c) => c.layers,
            TextNetwork::Gemma(c) => c.layers,
        }
    }

    /// Adds the segments of component `part`. `take` is read by CLIP alone.
    pub fn build(&self, b: &mut Builder, part: &str, take: Take) -> TextOut {
        match self {
            TextNetwork::Clip(c) => c.build(b, part, take),
            TextNetwork::T5(c) => c.build(b, part),
            TextNetwork::Gemma(c) => c.build(b, part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_swapped_as_in_sd_scripts() {
        let flux = Network::Flux(FluxConfig::dev());
        for (n, double, single) in [(1, 0, 2), (18, 9, 18), (35, 17, 36)] {
            let blocks = flux.swapped(n);
            let of = |list: &str| blocks.iter().filter(|block| block.starts_with(list)).count();
            assert_eq!((of("double_blocks."), of("single_blocks.")), (double, single));
        }
        assert_eq!(flux.swapped(2), ["double_blocks.18", "single_blocks.36", "single_blocks.37"]);
        let limits = [
            (flux, 35),
            (Network::Mmdit(MmditConfig::sd3_medium()), 22),
            (Network::Lumina2(Lumina2Config::image_2_0()), 24),
            (Network::LuminaNext(LuminaNextConfig::t2i_2b()), 22),
            (Network::Unet(UnetConfig::sdxl()), 0),
        ];
        for (network, most) in limits {
            assert_eq!(network.most_swapped(), most);
            let shapes = network.shapes();
            for block in network.swapped(most) {
                assert!(shapes.iter().any(|(name, _)| name.starts_with(&format!("{block}."))), "{block}");
            }
        }
    }
}
