//! Where a wrapped layer is and what it is for: what settings by block and by type refer to.

/// A list of blocks of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// A U-Net's blocks, on the way down, in the middle and on the way up.
    Unet,
    /// FLUX's blocks with separate streams.
    Double,
    /// FLUX's blocks with one stream.
    Single,
    /// SD3's blocks.
    Joint,
    /// Lumina's layers.
    Layers,
    /// Lumina-Image-2.0's refiner of the image.
    NoiseRefiner,
    /// Lumina-Image-2.0's refiner of the caption.
    ContextRefiner,
    /// After the blocks.
    Final,
    /// Before the blocks.
    Embedder,
    /// A text encoder's layers.
    Text,
}

/// Declares the classes with the names settings have for them.
macro_rules! classes {
    ($($(#[$doc:meta])* $class:ident = $name:literal,)*) => {
        /// What a wrapped layer is for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ModuleClass {
            $($(#[$doc])* $class,)*
        }

        impl ModuleClass {
            /// Every class.
            pub const ALL: &[ModuleClass] = &[$(ModuleClass::$class),*];

            /// The name settings have for it, as in kohya's `img_attn_dim` without `_dim`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ModuleClass::$class => $name,)*
                }
            }

            /// The class with that name.
            pub fn from_name(name: &str) -> Option<ModuleClass> {
                Self::ALL.iter().copied().find(|class| class.name() == name)
            }
        }
    };
}

classes! {
    /// Attention of Lumina and of text encoders.
    Attn = "attn",
    /// Feed-forward of U-Nets, Lumina and text encoders.
    Mlp = "mlp",
    /// Modulation of Lumina.
    Mod = "mod",
    /// A U-Net's attention to its own features.
    SelfAttn = "self_attn",
    /// A U-Net's attention to the text.
    CrossAttn = "cross_attn",
    /// A U-Net's projections into and out of a transformer.
    Proj = "proj",
    /// A U-Net's residual blocks.
    Resnet = "resnet",
    /// A U-Net's samplers.
    Sampler = "sampler",
    /// FLUX: attention of the image stream.
    ImgAttn = "img_attn",
    /// FLUX: attention of the text stream.
    TxtAttn = "txt_attn",
    /// FLUX: feed-forward of the image stream.
    ImgMlp = "img_mlp",
    /// FLUX: feed-forward of the text stream.
    TxtMlp = "txt_mlp",
    /// FLUX: modulation of the image stream.
    ImgMod = "img_mod",
    /// FLUX: modulation of the text stream.
    TxtMod = "txt_mod",
    /// FLUX: attention and feed-forward of a block with one stream.
    Single = "single",
    /// FLUX: modulation of a block with one stream.
    SingleMod = "single_mod",
    /// FLUX: embedder of the image.
    ImgIn = "img_in",
    /// FLUX: embedder of the time.
    TimeIn = "time_in",
    /// FLUX: embedder of the pooled text.
    VectorIn = "vector_in",
    /// FLUX: embedder of the guidance.
    GuidanceIn = "guidance_in",
    /// FLUX: embedder of the text.
    TxtIn = "txt_in",
    /// SD3: attention of the text stream.
    ContextAttn = "context_attn",
    /// SD3: feed-forward of the text stream.
    ContextMlp = "context_mlp",
    /// SD3: modulation of the text stream.
    ContextMod = "context_mod",
    /// SD3: attention of the image stream, the second one of SD3.5 Medium included.
    XAttn = "x_attn",
    /// SD3: feed-forward of the image stream.
    XMlp = "x_mlp",
    /// SD3: modulation of the image stream.
    XMod = "x_mod",
    /// SD3: embedder of the text.
    ContextEmbedder = "context_embedder",
    /// SD3 and Lumina: embedder of the time.
    TEmbedder = "t_embedder",
    /// SD3 and Lumina: embedder of the image.
    XEmbedder = "x_embedder",
    /// SD3: embedder of the pooled text.
    YEmbedder = "y_embedder",
    /// Lumina: embedder of the caption.
    CapEmbedder = "cap_embedder",
    /// SD3: modulation of the last layer.
    FinalMod = "final_mod",
    /// SD3 and Lumina: the last layer.
    FinalLinear = "final_linear",
}
