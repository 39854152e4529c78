//! Sizes of a U-Net, read from shapes, and its tensors.

use crate::shapes::{List, Reader, Shapes, SizesError, Stored};

/// Shapes of a U-Net.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct UnetConfig {
    /// Latent channels in and out.
    pub channels: usize,
    /// Width of each level, from full resolution down.
    pub widths: Vec<usize>,
    /// Residual blocks of a level on the way down (one more on the way up).
    pub layers: usize,
    /// Transformer blocks of a level's attention; 0 where a level has none.
    pub depth: Vec<usize>,
    /// Transformer blocks of the middle.
    pub mid_depth: usize,
    /// Attention heads of each level.
    pub heads: Vec<usize>,
    /// Width of the text embeddings.
    pub context: usize,
    /// Width of the time embedding.
    pub time: usize,
    /// Groups of the group norms.
    pub groups: usize,
    /// `proj_in` and `proj_out` are linear layers rather than 1×1 convolutions.
    pub linear_projection: bool,
    /// Pooled text and image sizes are conditions too (SDXL).
    #[serde(default)]
    pub sizes: Option<SizeConditions>,
}

/// Micro-conditioning (Podell et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SizeConditions {
    /// Width of the pooled text.
    pub pooled: usize,
    /// Width of the sinusoidal embedding of each of the six numbers.
    pub embedding: usize,
}

/// What shapes cannot tell, from `config.json` or the document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnetHints {
    /// Heads of each level (one value stands for all).
    pub heads: Option<Vec<usize>>,
    /// Width of a head, instead of `heads`.
    pub head_dim: Option<usize>,
    /// Groups of the group norms.
    pub groups: Option<usize>,
    /// Width of the embedding of each size (SDXL: 256).
    pub size_embedding: Option<usize>,
}

impl SizeConditions {
    fn of_width(width: usize, embedding: Option<usize>) -> Result<Self, SizesError> {
        let embedding = embedding.unwrap_or(256);
        match width.checked_sub(6 * embedding) {
            Some(pooled) if pooled > 0 => Ok(SizeConditions { pooled, embedding }),
            _ => Err(SizesError::Odd(format!(
                "`add_embedding.linear_1.weight` reads {width} values, too few for six sizes of {embedding}"
            ))),
        }
    }
}

impl UnetConfig {
    /// Reads sizes from shapes of internal names; says which tensor is missing or odd.
    pub fn infer(stored: &impl Stored, hints: &UnetHints) -> Result<Self, SizesError> {
        let r = Reader(stored);
        let conv_in = r.need("conv_in.weight", 4)?;
        let levels = r.count("down_blocks.{}.").max(1);
        let down = |level: usize, rest: &str| format!("down_blocks.{level}.{rest}");
        let width = |level| Ok(r.need(&down(level, "resnets.0.conv1.weight"), 4)?[0]);
        let widths: Vec<usize> = (0..levels).map(width).collect::<Result<_, SizesError>>()?;
        // The most of any level or attention: where one has fewer, some of its tensors are missing.
        let layers = (0..levels).map(|level| r.count(&down(level, "resnets.{}."))).max().unwrap_or(1);
        let blocks = |attention: &str| r.count(&format!("{attention}.transformer_blocks.{{}}."));
        let deepest = |level| (0..layers).map(|j| blocks(&down(level, &format!("attentions.{j}")))).max().unwrap_or(0);
        let depth = (0..levels).map(deepest).collect();
        let mid_depth = blocks("mid_block.attentions.0");
        let context = r.need("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", 2)?[1];
        let sizes = match r.has("add_embedding.linear_1.weight") {
            true => {
                Some(SizeConditions::of_width(r.need("add_embedding.linear_1.weight", 2)?[1], hints.size_embedding)?)
            }
            false => None,
        };
        let projection = "mid_block.attentions.0.proj_in.weight";
        let missing = || SizesError::Missing(stored.called(projection));
        let linear_projection = r.shape(projection).ok_or_else(missing)?.len() == 2;
        let time = r.need("time_embedding.linear_1.weight", 2)?[0];
        let heads = match (&hints.heads, hints.head_dim) {
            (Some(h), _) if h.len() == 1 => vec![h[0]; widths.len()],
            (Some(h), _) if h.len() == widths.len() => h.clone(),
            (Some(h), _) => {
                return Err(SizesError::Odd(format!("{} head counts for {} levels", h.len(), widths.len())));
            }
            (None, Some(d)) => widths.iter().map(|w| w / d.max(1)).collect(),
            // SD 2.x and SDXL have heads of width 64, SD 1.x eight heads everywhere.
            (None, None) if context == 1024 || sizes.is_some() => widths.iter().map(|w| (w / 64).max(1)).collect(),
            (None, None) => vec![8; widths.len()],
        };
        let groups = hints.groups.unwrap_or(32);
        for (w, h) in widths.iter().zip(&heads) {
            if groups == 0 || !w.is_multiple_of(groups) {
                return Err(SizesError::Odd(format!(
                    "{w} channels cannot be normalised in {groups} groups; set `config: {{ norm_groups: … }}`"
                )));
            }
            if *h == 0 || !w.is_multiple_of(*h) {
                return Err(SizesError::Odd(format!(
                    "{w} channels cannot be split into {h} heads; set `config: {{ heads: … }}`"
                )));
            }
        }
        Ok(UnetConfig {
            channels: conv_in[1],
            widths,
            layers,
            depth,
            mid_depth,
            heads,
            context,
            time,
            groups,
            linear_projection,
            sizes,
        })
    }

    /// SD 1.5 at full size.
    pub fn sd15() -> Self {
        UnetConfig {
            channels: 4,
            widths: vec![320, 640, 1280, 1280],
            layers: 2,
            depth: vec![1, 1, 1, 0],
            mid_depth: 1,
            heads: vec![8; 4],
            context: 768,
            time: 1280,
            groups: 32,
            linear_projection: false,
            sizes: None,
        }
    }

    /// SD 2.x at full size.
    pub fn sd2() -> Self {
        UnetConfig { heads: vec![5, 10, 20, 20], context: 1024, linear_projection: true, ..Self::sd15() }
    }

    /// SDXL at full size.
    pub fn sdxl() -> Self {
        UnetConfig {
            widths: vec![320, 640, 1280],
            depth: vec![0, 2, 10],
            mid_depth: 10,
            heads: vec![5, 10, 20],
            context: 2048,
            sizes: Some(SizeConditions { pooled: 1280, embedding: 256 }),
            ..Self::sd2()
        }
    }

    /// Down-sampling factor of the latent.
    pub fn factor(&self) -> usize {
        1 << (self.widths.len() - 1)
    }

    /// Every tensor with its shape.
    pub fn shapes(&self) -> Shapes {
        let mut s = UnetShapes { list: List::default(), c: self };
        let (first, last) = (self.widths[0], self.widths[self.widths.len() - 1]);
        s.list.conv("conv_in", self.channels, first, 3);
        s.list.linear("time_embedding.linear_1", first, self.time, true);
        s.list.linear("time_embedding.linear_2", self.time, self.time, true);
        if let Some(sizes) = self.sizes {
            s.list.linear("add_embedding.linear_1", sizes.pooled + 6 * sizes.embedding, self.time, true);
            s.list.linear("add_embedding.linear_2", self.time, self.time, true);
        }
        let mut width = first;
        let mut skips = vec![first];
        for (i, &w) in self.widths.iter().enumerate() {
            for j in 0..self.layers {
                s.resnet(&format!("down_blocks.{i}.resnets.{j}"), width, w);
                width = w;
                if self.depth[i] > 0 {
                    s.transformer(&format!("down_blocks.{i}.attentions.{j}"), w, self.depth[i]);
                }
                skips.push(w);
            }
            if i + 1 < self.widths.len() {
                s.list.conv(&format!("down_blocks.{i}.downsamplers.0.conv"), w, w, 3);
                skips.push(w);
            }
        }
        s.resnet("mid_block.resnets.0", last, last);
        s.transformer("mid_block.attentions.0", last, self.mid_depth);
        s.resnet("mid_block.resnets.1", last, last);
        let levels = self.widths.len();
        for i in 0..levels {
            let level = levels - 1 - i;
            let w = self.widths[level];
            for j in 0..=self.layers {
                let skip = skips.pop().unwrap_or(0);
                s.resnet(&format!("up_blocks.{i}.resnets.{j}"), width + skip, w);
                width = w;
                if self.depth[level] > 0 {
                    s.transformer(&format!("up_blocks.{i}.attentions.{j}"), w, self.depth[level]);
                }
            }
            if level > 0 {
                s.list.conv(&format!("up_blocks.{i}.upsamplers.0.conv"), w, w, 3);
            }
        }
        s.list.norm("conv_norm_out", first);
        s.list.conv("conv_out", first, self.channels, 3);
        s.list.0
    }
}

struct UnetShapes<'a> {
    list: List,
    c: &'a UnetConfig,
}

impl UnetShapes<'_> {
    fn resnet(&mut self, path: &str, i: usize, o: usize) {
        let l = &mut self.list;
        l.norm(&format!("{path}.norm1"), i);
        l.conv(&format!("{path}.conv1"), i, o, 3);
        l.linear(&format!("{path}.time_emb_proj"), self.c.time, o, true);
        l.norm(&format!("{path}.norm2"), o);
        l.conv(&format!("{path}.conv2"), o, o, 3);
        if i != o {
            l.conv(&format!("{path}.conv_shortcut"), i, o, 1);
        }
    }
    fn transformer(&mut self, path: &str, w: usize, depth: usize) {
        let (linear, context) = (self.c.linear_projection, self.c.context);
        let l = &mut self.list;
        l.norm(&format!("{path}.norm"), w);
        let projection = |l: &mut List, name: &str| {
            if linear {
                l.linear(&format!("{path}.{name}"), w, w, true);
            } else {
                l.conv(&format!("{path}.{name}"), w, w, 1);
            }
        };
        projection(l, "proj_in");
        for i in 0..depth {
            let p = format!("{path}.transformer_blocks.{i}");
            for (name, source) in [("attn1", w), ("attn2", context)] {
                l.linear(&format!("{p}.{name}.to_q"), w, w, false);
                l.linear(&format!("{p}.{name}.to_k"), source, w, false);
                l.linear(&format!("{p}.{name}.to_v"), source, w, false);
                l.linear(&format!("{p}.{name}.to_out.0"), w, w, true);
            }
            l.linear(&format!("{p}.ff.net.0.proj"), w, 8 * w, true);
            l.linear(&format!("{p}.ff.net.2"), 4 * w, w, true);
            for n in 1..=3 {
                l.norm(&format!("{p}.norm{n}"), w);
            }
        }
        projection(l, "proj_out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_sizes_are_inferred_from_shapes() {
        for (config, tensors, parameters) in [
            (UnetConfig::sd15(), 686, 859_520_964usize),
            (UnetConfig::sd2(), 686, 865_910_724),
            (UnetConfig::sdxl(), 1680, 2_567_463_684),
        ] {
            let shapes = config.shapes();
            assert_eq!(shapes.len(), tensors);
            assert_eq!(shapes.iter().map(|(_, s)| s.iter().product::<usize>()).sum::<usize>(), parameters);
            let map: std::collections::HashMap<_, _> = shapes.into_iter().collect();
            assert_eq!(UnetConfig::infer(&map, &UnetHints::default()), Ok(config));
        }
    }
}
