//! What arguments of `lycoris.kohya` become.

use crate::common::run;
use crate::rules::{FLUX, SDXL};
use pipe_migrate::Kind;
use serde_json::json;

/// Script and options, places and what stands there.
#[test]
fn values() {
    let cases = [
        (
            "@ --network_module lycoris.kohya --network_dim 8 --network_args algo=loha rs_lora=True use_scalar=1 train_norm=true",
            "nodes.lora",
            json!({
                "type": "adapter.loha", "model": "model", "text": ["clip_l", "clip_g"], "rank": 8, "alpha": 1,
                "rs_lora": true, "scalar": true, "norms": true, "conv": { "rank": 8, "alpha": 1 }
            }),
        ),
        (
            "@ --network_module lycoris.kohya --network_dim 8 --network_alpha 4 --network_args algo=diag-oft constraint=0.01 rescaled=True",
            "nodes.lora",
            json!({
                "type": "adapter.diag_oft", "model": "model", "text": ["clip_l", "clip_g"], "layers": "all",
                "block_size": 8, "constraint": 0.01, "rescaled": true
            }),
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=full train_norm=True",
            "nodes.lora",
            json!({
                "type": "adapter.diff", "model": "model", "text": ["clip_l", "clip_g"], "layers": "all", "norms": true
            }),
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=ia3 preset=ia3",
            "nodes.lora",
            json!({ "type": "adapter.ia3", "model": "model", "text": ["clip_l", "clip_g"] }),
        ),
        ("# --network_module lycoris.kohya --network_args algo=ia3", "nodes.lora.layers", json!("linear")),
        (
            "@ --network_module lycoris.kohya --network_dim 8 --network_args algo=dylora block_size=2",
            "nodes.lora.unit",
            json!(2),
        ),
        ("@ --network_module lycoris.kohya --network_dim 8 --network_args algo=dylora", "nodes.lora.unit", json!(4)),
        (
            "@ --network_module lycoris.kohya --network_dim 4 --network_args algo=locon conv_alpha=2 dropout=0.1",
            "nodes.lora",
            json!({
                "type": "adapter.lora", "model": "model", "text": ["clip_l", "clip_g"], "rank": 4, "alpha": 1,
                "conv": { "rank": 4, "alpha": 2 }, "dropout": 0.1
            }),
        ),
        (
            "@ --network_module lycoris.kohya --network_dim 4 --network_args algo=lokr preset=unet-transformer-only",
            "nodes.lora",
            json!({ "type": "adapter.lokr", "model": "model", "rank": 4, "alpha": 1 }),
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=boft preset=attn-mlp",
            "nodes.lora.layers",
            serde_json::Value::Null,
        ),
        ("@ --network_module lycoris.kohya --network_args use_cp=True", "nodes.lora.tucker", json!(true)),
        (
            "@ --network_module lycoris.kohya --network_args algo=diag-oft constrain=0.01",
            "nodes.lora.constraint",
            json!(0.01),
        ),
    ];
    for (line, path, value) in cases {
        let line = line.replace('@', SDXL).replace('#', FLUX);
        let done = run(&line);
        assert_eq!(done.at(path), value, "{line}\n{}\n{}", done.outcome.document, done.report());
    }
}

/// Script and options, an entry and its kind.
#[test]
fn kinds() {
    let cases = [
        (
            "@ --network_module lycoris.kohya --network_args algo=ia3 rs_lora=True",
            "--network_args rs_lora",
            Kind::Ignored,
        ),
        (
            "# --network_module lycoris.kohya --network_args algo=lora train_norm=True",
            "--network_args train_norm",
            Kind::Refused,
        ),
        (
            "@ --network_module lycoris.kohya --network_dim 8 --network_args algo=diag-oft conv_dim=4",
            "--network_args conv_dim",
            Kind::Refused,
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=lora block_size=4",
            "--network_args block_size",
            Kind::Ignored,
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=glora rank_dropout=0.1",
            "--network_args rank_dropout",
            Kind::Ignored,
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=diag-oft rank_dropout=0.1",
            "--network_args rank_dropout",
            Kind::Refused,
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=lokr dora_wd=True",
            "--network_args dora_wd",
            Kind::Refused,
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=loha dora_wd=False",
            "--network_args dora_wd",
            Kind::Mapped,
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=locon dora_wd=1",
            "--network_args dora_wd",
            Kind::Mapped,
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=full dora_wd=True",
            "--network_args dora_wd",
            Kind::Ignored,
        ),
        (
            "@ --network_module lycoris.kohya --network_args algo=lokr decompose_both=False",
            "--network_args decompose_both",
            Kind::Changed,
        ),
        ("@ --network_args dropout=0.1", "--network_args dropout", Kind::Ignored),
        (
            "@ --network_module lycoris.kohya --network_args preset=attn-mlp conv_dim=4",
            "--network_args conv_dim",
            Kind::Ignored,
        ),
        ("@ --network_module lycoris.kohya --network_args preset=own.toml", "--network_args preset", Kind::Refused),
        ("@ --network_module lycoris.kohya --network_args preset=unet-only", "--network_args preset", Kind::Mapped),
    ];
    for (line, option, kind) in cases {
        let line = line.replace('@', SDXL).replace('#', FLUX);
        let done = run(&line);
        assert_eq!(done.kinds(option).first(), Some(&kind), "{line}\n{}", done.report());
    }
}
