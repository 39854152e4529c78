//! An adapter file as layers: which tensors each has, whoever named them.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use pipe_data::weights::{DType, WeightFile};
use serde_json::Value as Json;

use super::peft;
use crate::error::{Result, ToolError, list};

/// What is said of tensors without a layer.
pub const OF_NO_LAYER: [&str; 2] = ["is of no layer", "are of no layer"];

/// What a tensor is to its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tensor {
    /// The first factor of a LoRA, `[rank, in, …]`.
    Down,
    /// The second, `[out, rank, …]`.
    Up,
    /// The core of a Tucker-decomposed convolution, `[rank, rank, h, w]`.
    Mid,
    /// The scale's numerator; of a rotation its constraint.
    Alpha,
    /// DoRA's magnitudes.
    Magnitude,
    /// LoHa: `W1 = W1a·W1b`.
    W1a,
    /// Its second factor.
    W1b,
    /// LoHa's second product.
    W2a,
    /// Its second factor.
    W2b,
    /// Cores of Tucker-decomposed LoHa.
    T1,
    /// The other.
    T2,
    /// LoKr: the small factor, whole.
    K1,
    /// The small factor as a product.
    K1a,
    /// Its second factor.
    K1b,
    /// The large factor, whole.
    K2,
    /// The large factor as a product.
    K2a,
    /// Its second factor.
    K2b,
    /// Core of a Tucker-decomposed large factor.
    Kt2,
    /// A whole difference, or that of a norm's weight.
    Diff,
    /// The difference of a bias.
    DiffBias,
    /// The blocks of a rotation, by part; 0 where there is but one.
    Blocks(u8),
    /// What rows are multiplied by after a rotation.
    Rescale,
    /// (IA)³: what outputs or inputs are multiplied by, less 1.
    Factors,
    /// Whether these are inputs.
    OnInput,
    /// GLoRA: the first factor of what the weight is multiplied by, `[in, rank]`.
    A1,
    /// Its second factor, `[rank, in]`.
    A2,
    /// The first factor of what is added, `[out, rank]`.
    B1,
    /// Its second factor, `[rank, in, …]`.
    B2,
}

/// Endings of tensors' names.
const ENDINGS: [(&str, Tensor); 42] = [
    (".lora_down.weight", Tensor::Down),
    (".lora_up.weight", Tensor::Up),
    (".lora_mid.weight", Tensor::Mid),
    (".lora_A.weight", Tensor::Down),
    (".lora_B.weight", Tensor::Up),
    (".lora_A.default.weight", Tensor::Down),
    (".lora_B.default.weight", Tensor::Up),
    (".lora_linear_layer.down.weight", Tensor::Down),
    (".lora_linear_layer.up.weight", Tensor::Up),
    (".lora.down.weight", Tensor::Down),
    (".lora.up.weight", Tensor::Up),
    ("_lora.down.weight", Tensor::Down),
    ("_lora.up.weight", Tensor::Up),
    (".lora_A", Tensor::Down),
    (".lora_B", Tensor::Up),
    (".alpha", Tensor::Alpha),
    (".dora_scale", Tensor::Magnitude),
    (".lora_magnitude_vector.default.weight", Tensor::Magnitude),
    (".lora_magnitude_vector.weight", Tensor::Magnitude),
    (".lora_magnitude_vector", Tensor::Magnitude),
    (".hada_w1_a", Tensor::W1a),
    (".hada_w1_b", Tensor::W1b),
    (".hada_w2_a", Tensor::W2a),
    (".hada_w2_b", Tensor::W2b),
    (".hada_t1", Tensor::T1),
    (".hada_t2", Tensor::T2),
    (".lokr_w1", Tensor::K1),
    (".lokr_w1_a", Tensor::K1a),
    (".lokr_w1_b", Tensor::K1b),
    (".lokr_w2", Tensor::K2),
    (".lokr_w2_a", Tensor::K2a),
    (".lokr_w2_b", Tensor::K2b),
    (".lokr_t2", Tensor::Kt2),
    (".oft_blocks", Tensor::Blocks(0)),
    (".diff", Tensor::Diff),
    (".diff_b", Tensor::DiffBias),
    (".rescale", Tensor::Rescale),
    (".on_input", Tensor::OnInput),
    (".a1.weight", Tensor::A1),
    (".a2.weight", Tensor::A2),
    (".b1.weight", Tensor::B1),
    (".b2.weight", Tensor::B2),
];

/// Splits the name of a tensor into its layer and what it is to it.
pub fn split_key(key: &str) -> Option<(&str, Tensor)> {
    if let Some(found) = ENDINGS.iter().find_map(|(ending, tensor)| Some((key.strip_suffix(ending)?, *tensor))) {
        return Some(found);
    }
    if let Some(layer) = key.strip_suffix(".w_norm") {
        return Some((layer, Tensor::Diff));
    }
    if let Some(layer) = key.strip_suffix(".b_norm") {
        return Some((layer, Tensor::DiffBias));
    }
    // A layer's name is one word there; with a path it would be the weight of a model.
    let factors = |layer: &&str| layer.starts_with("lora_") && !layer.contains('.');
    if let Some(layer) = key.strip_suffix(".weight").filter(factors) {
        return Some((layer, Tensor::Factors));
    }
    let (layer, number) = key.rsplit_once(".oft_blocks.")?;
    let number: u8 = number.parse().ok()?;
    // The first part is told from the only one by the others.
    Some((layer, Tensor::Blocks(number)))
}

/// The tensors of a layer: what each is → its name in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer(pub BTreeMap<Tensor, String>);

impl Layer {
    /// Whether it has such a tensor.
    pub fn has(&self, tensor: Tensor) -> bool {
        self.0.contains_key(&tensor)
    }
    /// Whether it has all of these and, apart from α, at most those of `more`.
    pub fn is(&self, all: &[Tensor], more: &[Tensor]) -> bool {
        all.iter().all(|t| self.has(*t))
            && self.0.keys().all(|t| *t == Tensor::Alpha || all.contains(t) || more.contains(t))
    }
    /// Whether it is a pair of factors, perhaps with magnitudes.
    pub fn is_pair(&self) -> bool {
        self.is(&[Tensor::Down, Tensor::Up], &[Tensor::Magnitude])
    }
}

/// An adapter file.
#[derive(Debug)]
pub struct AdapterFile {
    file: WeightFile,
    /// The layers by their names in the file, in its order.
    pub layers: IndexMap<String, Layer>,
    /// Tensors that are of no layer.
    pub others: Vec<String>,
    peft: Option<Json>,
}

impl AdapterFile {
    /// Opens a safetensors or torch file.
    ///
    /// # Errors
    /// What [`WeightFile::open`] says; P0302 when there is no adapter in it, P0303 when a tensor is there in two
    /// spellings.
    pub fn open(path: &Path) -> Result<AdapterFile> {
        let file = WeightFile::open(path)?;
        let mut layers: IndexMap<String, Layer> = IndexMap::new();
        let mut others = Vec::new();
        for name in file.names() {
            match split_key(name) {
                Some((layer, tensor)) => {
                    if let Some(before) = layers.entry(layer.into()).or_default().0.insert(tensor, name.into()) {
                        let message = format!("`{before}` and `{name}` are the same tensor in two spellings");
                        return Err(ToolError::new("P0303", message).at(path));
                    }
                }
                None => others.push(name.to_owned()),
            }
        }
        if layers.values().all(|layer| layer.0.keys().all(|t| *t == Tensor::Alpha)) {
            let message = format!("`{}` is no adapter: no tensor of it has the name of one", path.display());
            return Err(ToolError::new("P0302", message).at(path).help("`pipe inspect` shows what the file is"));
        }
        let peft = peft::configuration(&file);
        Ok(AdapterFile { file, layers, others, peft })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
    /// Its metadata.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.file.header().metadata
    }
    /// The file.
    pub fn file(&self) -> &WeightFile {
        &self.file
    }
    /// Element type of the first factor in it.
    pub fn dtype(&self) -> DType {
        let mut tensors = self.layers.values().flat_map(|layer| layer.0.iter());
        let factor = tensors.find(|(tensor, _)| **tensor != Tensor::Alpha);
        factor.and_then(|(_, name)| Some(self.file.info(name)?.dtype)).unwrap_or(DType::F32)
    }

    /// Shape of a layer's tensor.
    pub fn shape(&self, layer: &Layer, tensor: Tensor) -> Option<&[usize]> {
        Some(&self.file.info(layer.0.get(&tensor)?)?.shape)
    }

    /// Whether DoRA's magnitudes are of the rows of a weight with so many, as PEFT's always are; LyCORIS' may be of the
    /// inputs, `[1, in]`.
    pub fn by_rows(&self, layer: &Layer, out: usize) -> bool {
        let peft = layer.0.get(&Tensor::Magnitude).is_some_and(|name| name.contains("lora_magnitude_vector"));
        peft || self.shape(layer, Tensor::Magnitude).is_some_and(|shape| shape.first() == Some(&out))
    }

    /// Values of a layer's tensor.
    ///
    /// # Errors
    /// Also P0303 where a value is not finite: one such value would spoil a whole model.
    pub fn values(&self, layer: &Layer, tensor: Tensor) -> Result<Vec<f32>> {
        let Some(name) = layer.0.get(&tensor) else { return Ok(Vec::new()) };
        let values = self.file.f32(name)?;
        if values.iter().all(|x| x.is_finite()) {
            return Ok(values);
        }
        let help = "the training diverged; use a file that was saved earlier";
        Err(ToolError::new("P0303", format!("tensor `{name}` has values that are not finite"))
            .at(self.path())
            .help(help))
    }

    /// α: the layer's own, or what PEFT's configuration says of it.
    pub fn alpha(&self, name: &str, layer: &Layer, rank: usize) -> Result<Option<f32>> {
        let Some(tensor) = layer.0.get(&Tensor::Alpha) else {
            return Ok(self.peft.as_ref().and_then(|config| peft::alpha(config, name, rank)));
        };
        self.read_number(tensor).map(Some)
    }

    /// A number of a layer, whole or not; 0 where it is not there.
    ///
    /// # Errors
    /// P0303 where it is no finite number.
    pub fn number(&self, layer: &Layer, tensor: Tensor) -> Result<f32> {
        layer.0.get(&tensor).map_or(Ok(0.0), |name| self.read_number(name))
    }

    fn read_number(&self, tensor: &str) -> Result<f32> {
        let whole = || self.file.i64(tensor).map(|v| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
        let values = self.file.f32(tensor).or_else(|_| whole())?;
        match values.first() {
            Some(number) if number.is_finite() => Ok(*number),
            _ => Err(ToolError::new("P0303", format!("`{tensor}` is not a finite number")).at(self.path())),
        }
    }

    /// An error that names what is unknown in it; `what` is said of one name, and of several.
    pub fn unknown(&self, names: &[String], what: [&str; 2]) -> ToolError {
        let one = names.len() == 1;
        let count = if one { "1 name".into() } else { format!("{} names", names.len()) };
        let what = what[usize::from(!one)];
        let message = format!("{count} of `{}` {what}: {}", self.path().display(), list(names));
        ToolError::new("P0320", message).at(self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_spelling() {
        for (key, wanted) in [
            ("lora_unet_x.lora_down.weight", Some(("lora_unet_x", Tensor::Down))),
            ("unet.x.to_q.lora_B.weight", Some(("unet.x.to_q", Tensor::Up))),
            ("unet.x.processor.to_q_lora.up.weight", Some(("unet.x.processor.to_q", Tensor::Up))),
            ("x.lora_magnitude_vector.weight", Some(("x", Tensor::Magnitude))),
            ("x.hada_t2", Some(("x", Tensor::T2))),
            ("x.lokr_w1", Some(("x", Tensor::K1))),
            ("x.oft_blocks.2", Some(("x", Tensor::Blocks(2)))),
            ("x.oft_blocks.999", None),
            ("x.b_norm", Some(("x", Tensor::DiffBias))),
            ("lora_unet_x.weight", Some(("lora_unet_x", Tensor::Factors))),
            ("lora_unet_x.b2.weight", Some(("lora_unet_x", Tensor::B2))),
            ("unet.x.weight", None),
            ("emb_params", None),
        ] {
            assert_eq!(split_key(key), wanted, "{key}");
        }
    }

    #[test]
    fn kinds_by_their_tensors() {
        let layer = |list: &[Tensor]| Layer(list.iter().map(|t| (*t, String::new())).collect());
        assert!(layer(&[Tensor::Down, Tensor::Up, Tensor::Alpha]).is_pair());
        assert!(layer(&[Tensor::Down, Tensor::Up, Tensor::Magnitude]).is_pair());
        assert!(!layer(&[Tensor::Down, Tensor::Up, Tensor::Mid]).is_pair());
        assert!(!layer(&[Tensor::Down]).is_pair());
    }
}
