//! Lower ranks of a DyLoRA (Valipour et al. 2023): training made its first ranks good by themselves.

use pipe_data::weights::DType;
use serde_json::Value as Json;

use crate::adapter::file::OF_NO_LAYER;
use crate::adapter::{AdapterFile, Naming, Pair, Tensors};
use crate::error::{Result, ToolError};
use crate::metadata;
use crate::output::Output;

/// Writes the first `rank` ranks of a DyLoRA, with α as it is; gives the number of layers.
///
/// # Errors
/// P0403 when the file says that it is no DyLoRA or that the rank is no multiple of its unit, or when a layer has fewer
/// ranks; `trust` believes that it is one where the file says nothing.
pub fn truncate(file: &AdapterFile, rank: usize, trust: bool, dtype: Option<DType>, output: &Output) -> Result<usize> {
    let module = file.metadata().get("ss_network_module").map(String::as_str);
    let refuse = |message: String, help: &str| Err(ToolError::new("P0403", message).at(file.path()).help(help));
    match module {
        Some("networks.dylora") => {}
        Some(other) if other != "None" => {
            let message =
                format!("the file was trained by `{other}`, not as a DyLoRA: its first ranks alone mean nothing");
            return refuse(message, "`pipe resize` gives the best LoRA of a lower rank");
        }
        _ if trust => {}
        _ => {
            let message = "the file does not say that it is a DyLoRA".to_owned();
            return refuse(message, "`--dylora` says that it is one; else use `pipe resize`");
        }
    }
    let args = file.metadata().get("ss_network_args").and_then(|text| serde_json::from_str::<Json>(text).ok());
    let unit = args.and_then(|args| args.get("unit")?.as_str()?.parse::<usize>().ok()).unwrap_or(1).max(1);
    if !rank.is_multiple_of(unit) {
        return refuse(
            format!("rank {rank} is no multiple of the {unit} ranks that were trained together"),
            "take one",
        );
    }
    if !file.others.is_empty() {
        return Err(file.unknown(&file.others, OF_NO_LAYER));
    }
    let mut tensors = Tensors::new(dtype.unwrap_or_else(|| file.dtype()));
    for (name, layer) in &file.layers {
        let pair = Pair::read(file, name, layer)?;
        if pair.rank < rank {
            let message = format!("`{name}` has {} ranks, fewer than {rank}", pair.rank);
            return refuse(message, "`pipe inspect` shows the rank of a file");
        }
        let up: Vec<f32> = pair.up.chunks(pair.rank).flat_map(|row| row[..rank].iter().copied()).collect();
        let down = pair.down[..rank * pair.row()].to_vec();
        tensors.push_pair(name, &Pair { rank, up, down, ..pair }, Naming::Kohya);
    }
    let mut map = file.metadata().clone();
    map.insert("ss_network_dim".into(), rank.to_string());
    metadata::stamp(&mut map, &[]);
    tensors.write(output, map)?;
    Ok(file.layers.len())
}
