//! Names and shapes of every weight of SD1-like networks, from their sizes: for plans and tests without files.

use indexmap::IndexMap;

/// Internal weight name → shape.
pub type Shapes = IndexMap<String, Vec<usize>>;

/// Sizes of a U-Net of the SD1 and SD2 kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnetSize {
    /// Latent channels in and out.
    pub channels: usize,
    /// Width of each level.
    pub widths: Vec<usize>,
    /// Whether each level has attention.
    pub attention: Vec<bool>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers: usize,
    /// Width of the text context.
    pub context: usize,
    /// Matrices instead of 1×1 convolutions around the attention, as in SD2.
    pub linear_projection: bool,
}

impl UnetSize {
    /// Stable Diffusion 1.5.
    pub fn sd15() -> Self {
        UnetSize {
            channels: 4,
            widths: vec![320, 640, 1280, 1280],
            attention: vec![true, true, true, false],
            layers: 2,
            context: 768,
            linear_projection: false,
        }
    }
}

/// Weights of a U-Net.
pub fn sd1_shapes(size: &UnetSize) -> Shapes {
    let mut list = List::default();
    let (Some(&first), Some(&last)) = (size.widths.first(), size.widths.last()) else { return Shapes::new() };
    let time = 4 * first;
    let levels = size.widths.len();
    let has_attention = |level: usize| size.attention.get(level).copied().unwrap_or(false);
    list.layer("conv_in", &[first, size.channels, 3, 3]);
    list.layer("time_embedding.linear_1", &[time, first]);
    list.layer("time_embedding.linear_2", &[time, time]);
    let mut skips = vec![first];
    let mut width = first;
    for (level, &out) in size.widths.iter().enumerate() {
        let block = format!("down_blocks.{level}");
        for layer in 0..size.layers {
            if has_attention(level) {
                list.transformer(&format!("{block}.attentions.{layer}"), out, size);
            }
            list.resnet(&format!("{block}.resnets.{layer}"), width, out, Some(time));
            width = out;
            skips.push(out);
        }
        if level + 1 < levels {
            list.layer(&format!("{block}.downsamplers.0.conv"), &[out, out, 3, 3]);
            skips.push(out);
        }
    }
    list.resnet("mid_block.resnets.0", last, last, Some(time));
    list.transformer("mid_block.attentions.0", last, size);
    list.resnet("mid_block.resnets.1", last, last, Some(time));
    for (up, level) in (0..levels).rev().enumerate() {
        let (block, out) = (format!("up_blocks.{up}"), size.widths[level]);
        for layer in 0..=size.layers {
            let skip = skips.pop().unwrap_or(0);
            if has_attention(level) {
                list.transformer(&format!("{block}.attentions.{layer}"), out, size);
            }
            list.resnet(&format!("{block}.resnets.{layer}"), width + skip, out, Some(time));
            width = out;
        }
        if level > 0 {
            list.layer(&format!("{block}.upsamplers.0.conv"), &[out, out, 3, 3]);
        }
    }
    list.layer("conv_norm_out", &[first]);
    list.layer("conv_out", &[size.channels, first, 3, 3]);
    list.0
}

/// Sizes of an image autoencoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaeSize {
    /// Latent channels.
    pub latent: usize,
    /// Width of each level.
    pub widths: Vec<usize>,
    /// Residual blocks of an encoder level; one more in the decoder.
    pub layers: usize,
    /// Whether there are 1×1 convolutions around the latent.
    pub quant_conv: bool,
}

impl VaeSize {
    /// The autoencoder of SD1, SD2 and SDXL.
    pub fn sd() -> Self {
        VaeSize { latent: 4, widths: vec![128, 256, 512, 512], layers: 2, quant_conv: true }
    }
}

/// Weights of an autoencoder.
pub fn vae_shapes(size: &VaeSize) -> Shapes {
    let mut list = List::default();
    let (Some(&first), Some(&last)) = (size.widths.first(), size.widths.last()) else { return Shapes::new() };
    let z = size.latent;
    for side in ["encoder", "decoder"] {
        let encoder = side == "encoder";
        let (order, extra): (Vec<usize>, _) =
            if encoder { ((0..size.widths.len()).collect(), 0) } else { ((0..size.widths.len()).rev().collect(), 1) };
        let (way, sampler) = if encoder { ("down", "downsamplers") } else { ("up", "upsamplers") };
        let mut width = if encoder { first } else { last };
        let inputs = if encoder { 3 } else { z };
        list.layer(&format!("{side}.conv_in"), &[width, inputs, 3, 3]);
        for (place, &level) in order.iter().enumerate() {
            let (block, out) = (format!("{side}.{way}_blocks.{place}"), size.widths[level]);
            for layer in 0..size.layers + extra {
                list.resnet(&format!("{block}.resnets.{layer}"), width, out, None);
                width = out;
            }
            if place + 1 < order.len() {
                list.layer(&format!("{block}.{sampler}.0.conv"), &[out, out, 3, 3]);
            }
        }
        list.resnet(&format!("{side}.mid_block.resnets.0"), last, last, None);
        list.layer(&format!("{side}.mid_block.attentions.0.group_norm"), &[last]);
        for part in ["to_q", "to_k", "to_v", "to_out.0"] {
            list.layer(&format!("{side}.mid_block.attentions.0.{part}"), &[last, last]);
        }
        list.resnet(&format!("{side}.mid_block.resnets.1"), last, last, None);
        list.layer(&format!("{side}.conv_norm_out"), &[width]);
        list.layer(&format!("{side}.conv_out"), &[if encoder { 2 * z } else { 3 }, width, 3, 3]);
    }
    if size.quant_conv {
        list.layer("quant_conv", &[2 * z, 2 * z, 1, 1]);
        list.layer("post_quant_conv", &[z, z, 1, 1]);
    }
    list.0
}

/// Sizes of a CLIP text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipSize {
    /// Width.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Width inside the MLPs.
    pub mlp: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Longest sequence.
    pub positions: usize,
}

impl ClipSize {
    /// CLIP ViT-L/14.
    pub fn clip_l() -> Self {
        ClipSize { width: 768, layers: 12, mlp: 3072, vocabulary: 49408, positions: 77 }
    }
}

/// Weights of a CLIP text encoder.
pub fn clip_shapes(size: &ClipSize) -> Shapes {
    let mut list = List::default();
    let d = size.width;
    list.weight("text_model.embeddings.token_embedding", &[size.vocabulary, d]);
    list.weight("text_model.embeddings.position_embedding", &[size.positions, d]);
    for layer in 0..size.layers {
        let layer = format!("text_model.encoder.layers.{layer}");
        list.layer(&format!("{layer}.layer_norm1"), &[d]);
        for part in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            list.layer(&format!("{layer}.self_attn.{part}"), &[d, d]);
        }
        list.layer(&format!("{layer}.layer_norm2"), &[d]);
        list.layer(&format!("{layer}.mlp.fc1"), &[size.mlp, d]);
        list.layer(&format!("{layer}.mlp.fc2"), &[d, size.mlp]);
    }
    list.layer("text_model.final_layer_norm", &[d]);
    list.0
}

#[derive(Default)]
struct List(Shapes);

impl List {
    fn weight(&mut self, path: &str, shape: &[usize]) {
        self.0.insert(format!("{path}.weight"), shape.to_vec());
    }

    /// Weight and bias.
    fn layer(&mut self, path: &str, shape: &[usize]) {
        self.weight(path, shape);
        self.0.insert(format!("{path}.bias"), vec![shape[0]]);
    }

    fn resnet(&mut self, path: &str, inputs: usize, out: usize, time: Option<usize>) {
        self.layer(&format!("{path}.norm1"), &[inputs]);
        self.layer(&format!("{path}.conv1"), &[out, inputs, 3, 3]);
        if let Some(time) = time {
            self.layer(&format!("{path}.time_emb_proj"), &[out, time]);
        }
        self.layer(&format!("{path}.norm2"), &[out]);
        self.layer(&format!("{path}.conv2"), &[out, out, 3, 3]);
        if inputs != out {
            self.layer(&format!("{path}.conv_shortcut"), &[out, inputs, 1, 1]);
        }
    }

    fn transformer(&mut self, path: &str, width: usize, size: &UnetSize) {
        let projection: &[usize] = if size.linear_projection { &[width, width] } else { &[width, width, 1, 1] };
        let block = format!("{path}.transformer_blocks.0");
        self.layer(&format!("{path}.norm"), &[width]);
        self.layer(&format!("{path}.proj_in"), projection);
        for (attention, source) in [("attn1", width), ("attn2", size.context)] {
            self.weight(&format!("{block}.{attention}.to_q"), &[width, width]);
            self.weight(&format!("{block}.{attention}.to_k"), &[width, source]);
            self.weight(&format!("{block}.{attention}.to_v"), &[width, source]);
            self.layer(&format!("{block}.{attention}.to_out.0"), &[width, width]);
        }
        self.layer(&format!("{block}.ff.net.0.proj"), &[8 * width, width]);
        self.layer(&format!("{block}.ff.net.2"), &[width, 4 * width]);
        for norm in ["norm1", "norm2", "norm3"] {
            self.layer(&format!("{block}.{norm}"), &[width]);
        }
        self.layer(&format!("{path}.proj_out"), projection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(shapes: &Shapes) -> usize {
        shapes.values().map(|shape| shape.iter().product::<usize>()).sum()
    }

    #[test]
    fn counts_of_the_public_models() {
        let unet = sd1_shapes(&UnetSize::sd15());
        assert_eq!((unet.len(), parameters(&unet)), (686, 859_520_964));
        let sd2 = sd1_shapes(&UnetSize { context: 1024, linear_projection: true, ..UnetSize::sd15() });
        assert_eq!((sd2.len(), parameters(&sd2)), (686, 865_910_724));
        let vae = vae_shapes(&VaeSize::sd());
        assert_eq!((vae.len(), parameters(&vae)), (248, 83_653_863));
        let flux = vae_shapes(&VaeSize { latent: 16, quant_conv: false, ..VaeSize::sd() });
        assert_eq!((flux.len(), parameters(&flux)), (244, 83_819_683));
        let clip = clip_shapes(&ClipSize::clip_l());
        assert_eq!((clip.len(), parameters(&clip)), (196, 123_060_480));
    }
}
