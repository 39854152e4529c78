//! What options become, one by one: sentinels, defaults, and the reference's mistakes that are not copied.

use crate::common::{run, run_with};
use pipe_migrate::{Kind, Nothing, Product};
use serde_json::{Value as Json, json};

pub const SDXL: &str =
    "sdxl_train_network.py --pretrained_model_name_or_path xl.safetensors --network_module networks.lora";
pub const FLUX: &str =
    "flux_train_network.py --pretrained_model_name_or_path flux1-dev.safetensors --network_module networks.lora_flux";

/// Script and options, places and what stands there.
#[test]
fn values() {
    let cases: &[(&str, &str, Json)] = &[
        // Defaults that are not ours.
        (SDXL, "nodes.lora.rank", json!(4)),
        (SDXL, "nodes.lora.alpha", json!(1)),
        (SDXL, "nodes.optimizer.learning_rate", json!(2e-6)),
        (SDXL, "train.precision", json!("f32")),
        (SDXL, "train.steps", json!(1600)),
        (SDXL, "nodes.save.dtype", json!("f32")),
        (SDXL, "nodes.cached.vae_batch_size", json!(1)),
        (FLUX, "nodes.loss.timesteps", json!({ "sampling": "sigma", "shift": 3 })),
        (FLUX, "nodes.loss.guidance_scale", json!(3.5)),
        (FLUX, "nodes.loss.model_prediction", json!("raw")),
        (
            "sd3_train.py",
            "nodes.loss.timesteps",
            json!({ "sampling": "discrete", "shift": 1, "scheme": { "type": "uniform" } }),
        ),
        ("sd3_train.py", "nodes.loss.model_prediction", json!("sigma_scaled")),
        ("sd3_train.py", "nodes.t5.max_tokens", json!(256)),
        ("lumina_train.py", "nodes.loss.timesteps", json!({ "sampling": "shift", "shift": 6 })),
        // Off is a key left out.
        ("@ --network_alpha 0", "nodes.lora.alpha", Json::Null),
        ("@ --min_snr_gamma 0", "nodes.loss.min_snr_gamma", Json::Null),
        ("@ --noise_offset 0", "nodes.loss.noise_offset", Json::Null),
        ("@ --max_grad_norm 0", "nodes.optimizer.max_grad_norm", json!(false)),
        ("@ --clip_skip 0", "nodes.clip.clip_skip", Json::Null),
        // Length, warm-up, schedule.
        (
            "@ --max_train_epochs 10 --max_train_steps 5",
            "train",
            json!({ "epochs": 10, "batch_size": 2, "precision": "f32" }),
        ),
        (
            "@ --lr_scheduler cosine --lr_warmup_steps 0.05",
            "nodes.optimizer.schedule",
            json!({ "type": "cosine", "warmup": { "ratio": 0.05 } }),
        ),
        ("@ --lr_scheduler cosine --lr_warmup_steps 100", "nodes.optimizer.schedule.warmup", json!({ "steps": 100 })),
        ("@ --optimizer_type DAdaptAdam --optimizer_args decouple=True", "nodes.optimizer.decouple", Json::Null),
        (
            "@ --optimizer_type DAdaptAdam --optimizer_args decouple=True weight_decay=0.01",
            "nodes.optimizer.decouple",
            json!(true),
        ),
        (
            "@ --lr_warmup_steps 100",
            "nodes.optimizer.schedule",
            json!({ "type": "constant", "warmup": { "steps": 100 } }),
        ),
        (
            "@ --lr_scheduler polynomial --lr_scheduler_power 2 --learning_rate 1e-4",
            "nodes.optimizer.schedule",
            json!({ "type": "polynomial", "power": 2, "end_ratio": 1e-3 }),
        ),
        (
            "@ --lr_scheduler piecewise_constant --lr_scheduler_args \"step_rules='1:10,0.5'\"",
            "nodes.optimizer.schedule",
            json!({ "type": "piecewise_constant", "pieces": [{ "factor": 1, "until": { "steps": 10 } }], "rest": 0.5 }),
        ),
        (
            "@ --lr_scheduler warmup_stable_decay --lr_decay_steps 0.2 --lr_scheduler_min_lr_ratio 0.1",
            "nodes.optimizer.schedule",
            json!({ "type": "warmup_stable_decay", "decay": { "ratio": 0.2 }, "min_ratio": 0.1 }),
        ),
        // Saving: the window in steps is a number of files.
        ("@ --save_every_n_steps 10 --save_last_n_steps 30", "nodes.save.keep_last.step_files", json!(4)),
        ("@ --save_every_n_steps 500 --save_last_n_steps 3000", "nodes.save.keep_last.step_files", json!(7)),
        (
            "@ --save_every_n_epochs 2 --save_last_n_epochs 5",
            "nodes.save",
            json!({ "type": "saver.adapter", "adapter": "lora", "update": "optimizer", "every": { "epochs": 2 }, "keep_last": { "epoch_files": 5 }, "dtype": "f32" }),
        ),
        ("@ --save_n_epoch_ratio 3 --max_train_epochs 10", "nodes.save.every.epochs", json!(3)),
        ("@ --save_state --save_every_n_steps 50", "train.save_state.steps", json!(50)),
        (
            "@ --save_state --save_every_n_epochs 2 --save_last_n_epochs 5",
            "train.save_state",
            json!({ "epochs": 2, "keep_last": { "count": 5 } }),
        ),
        (
            "@ --save_state --save_every_n_steps 50 --save_last_n_steps_state 100",
            "train.save_state",
            json!({ "steps": 50, "keep_last": { "count": 3 } }),
        ),
        ("@ --sample_prompts p.txt --sample_every_n_epochs 1", "nodes.preview.prompts_file", json!("p.txt")),
        ("sdxl_train.py --full_bf16 --mixed_precision bf16", "nodes.full.storage", json!("bf16")),
        // Memory.
        ("@ --fp8_base", "nodes.model.storage", json!("f8_e4m3")),
        ("@ --fp8_base", "nodes.clip_l.storage", json!("f8_e4m3")),
        ("@ --fp8_base --network_train_unet_only", "nodes.clip_l.storage", Json::Null),
        ("@ --fp8_base_unet", "nodes.model.storage", json!("f8_e4m3")),
        ("@ --fp8_base_unet", "nodes.clip_l.storage", Json::Null),
        ("flux_train_network.py --blocks_to_swap 18", "nodes.model.swap_blocks", json!(18)),
        ("flux_train_network.py --split_mode", "nodes.model.swap_blocks", json!(18)),
        ("flux_train_network.py --blocks_to_swap 0", "nodes.model.swap_blocks", Json::Null),
        ("flux_train.py --double_blocks_to_swap 6 --single_blocks_to_swap 8", "nodes.model.swap_blocks", Json::Null),
        ("flux_train_network.py --cpu_offload_checkpointing", "nodes.model.checkpointing", json!("offload")),
        (
            "flux_train.py --cpu_offload_checkpointing --gradient_checkpointing",
            "nodes.model.checkpointing",
            json!("offload"),
        ),
        ("lumina_train.py --cpu_offload_checkpointing", "nodes.model.checkpointing", json!("blocks")),
        // Rates.
        (
            "@ --learning_rate 1e-4 --unet_lr 2e-4 --text_encoder_lr 1e-5",
            "nodes.optimizer.text_encoder_learning_rate",
            json!(1e-5),
        ),
        ("@ --learning_rate 1e-4 --unet_lr 2e-4 --text_encoder_lr 1e-5", "nodes.optimizer.learning_rate", json!(2e-4)),
        ("@ --text_encoder_lr 0", "nodes.lora.text", Json::Null),
        ("@ --network_train_unet_only", "nodes.lora.text", Json::Null),
        ("@", "nodes.lora.text", json!(["clip_l", "clip_g"])),
        ("@", "nodes.cached.text", Json::Null),
        ("@ --network_train_unet_only", "nodes.cached.text", json!(["clip_l", "clip_g"])),
        (
            "sd3_train_network.py --learning_rate 1e-4 --text_encoder_lr 1e-5 2e-5",
            "nodes.optimizer.text_encoder_2_learning_rate",
            json!(2e-5),
        ),
        ("train_db.py --stop_text_encoder_training -1", "nodes.full.text", Json::Null),
        ("train_db.py --stop_text_encoder_training 0", "nodes.full.text", Json::Null),
        (
            "train_db.py --stop_text_encoder_training 300",
            "nodes.optimizer.stop_text_encoder_training",
            json!({ "steps": 300 }),
        ),
        ("train_db.py --stop_text_encoder_training 1600", "nodes.optimizer.stop_text_encoder_training", Json::Null),
        ("train_db.py", "nodes.full.text", json!("clip")),
        ("fine_tune.py", "nodes.full.text", Json::Null),
        // Optimizers and their arguments.
        (
            "@ --optimizer_type adamw8bit --optimizer_args betas=0.9,0.95 weight_decay=1e-2",
            "nodes.optimizer.betas",
            json!([0.9, 0.95]),
        ),
        ("@ --optimizer_type adamw8bit", "nodes.optimizer.type", json!("optimizer.adamw_8bit")),
        ("@ --use_8bit_adam", "nodes.optimizer.type", json!("optimizer.adamw_8bit")),
        ("@ --optimizer_type DAdaptation", "nodes.optimizer.type", json!("optimizer.dadapt_adam_preprint")),
        (
            "@ --optimizer_type Adafactor --learning_rate 1e-3 --lr_scheduler cosine",
            "nodes.optimizer",
            json!({ "type": "optimizer.adafactor", "loss": "loss", "scale_parameter": true, "relative_step": true }),
        ),
        (
            "@ --optimizer_type Adafactor --optimizer_args relative_step=False --learning_rate 1e-3",
            "nodes.optimizer.learning_rate",
            json!(1e-3),
        ),
        (
            "@ --optimizer_type Adafactor --optimizer_args relative_step=False warmup_init=True",
            "nodes.optimizer.relative_step",
            json!(true),
        ),
        ("@ --optimizer_type SGD", "nodes.optimizer.nesterov", json!(false)),
        // Adapters.
        ("@ --network_dim 8 --network_args conv_dim=4", "nodes.lora.conv", json!({ "rank": 4, "alpha": 1 })),
        ("@ --network_args loraplus_lr_ratio=16", "nodes.lora.lora_plus", json!(16)),
        (
            "@ --network_args loraplus_unet_lr_ratio=16 loraplus_text_encoder_lr_ratio=4",
            "nodes.lora.lora_plus",
            json!({ "model": 16, "text": 4 }),
        ),
        (
            "@ --network_args down_lr_weight=linear block_lr_zero_threshold=0.1 --network_dim 8",
            "nodes.lora.block_rates",
            json!({ "down": { "curve": "linear" } }),
        ),
        (
            "@ --network_args down_lr_weight=linear up_lr_weight=1,0.05 block_lr_zero_threshold=0.2",
            "nodes.lora.block_rates",
            json!({ "down": [0, 0, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1], "up": [1, 0, 1, 1, 1, 1, 1, 1, 1] }),
        ),
        ("@ --network_train_text_encoder_only", "nodes.lora.include", json!(["^lora_te"])),
        ("@ --unet_lr 0 --text_encoder_lr 1e-4", "nodes.lora.include", json!(["^lora_te"])),
        ("@ --mixed_precision fp16", "train.precision", json!("auto")),
        ("@ --vae v.safetensors", "nodes.vae.scaling_factor", json!(0.13025)),
        ("@", "nodes.vae.scaling_factor", Json::Null),
        ("sd3_train.py --vae v.safetensors", "nodes.vae.shift_factor", json!(0.0609)),
        ("lumina_train_network.py --network_module networks.lora_lumina", "nodes.lora.text", json!("gemma")),
        (
            "lumina_train_network.py --network_module networks.lora_lumina --network_train_unet_only",
            "nodes.lora.text",
            Json::Null,
        ),
        (
            "lumina_train_network.py --network_module networks.lora_lumina --network_args attn_dim=8 refiner_dim=2",
            "nodes.lora.patterns",
            json!([{ "match": "refiner_[0-9]+_attention_", "rank": 8 }]),
        ),
        (
            "@ --network_module lycoris.kohya --network_dim 100000 --network_args algo=lokr factor=4",
            "nodes.lora",
            json!({
                "type": "adapter.lokr", "model": "model", "text": ["clip_l", "clip_g"], "full_matrix": true,
                "conv": { "rank": 1 }, "factor": 4
            }),
        ),
        ("train_network.py --network_module networks.oft --network_alpha 16", "nodes.lora.constraint", json!(1)),
        ("@ --network_weights a.safetensors --network_alpha 8", "nodes.lora.alpha", Json::Null),
        ("@ --network_weights a.safetensors --dim_from_weights --network_dim 8", "nodes.lora.rank", json!("from_file")),
        (
            "@ --base_weights a b --base_weights_multiplier 0.5",
            "nodes.lora.base_weights",
            json!([{ "path": "a", "multiplier": 0.5 }, { "path": "b", "multiplier": 1 }]),
        ),
        (
            "train_network.py --network_module networks.oft --network_args enable_conv=False",
            "nodes.lora",
            json!({ "type": "adapter.oft", "model": "model", "blocks": 4 }),
        ),
        ("train_network.py --network_module networks.lora_fa", "nodes.lora.frozen_down", json!(true)),
        (
            "train_network.py --network_module networks.dylora --network_args unit=4 --network_dim 64",
            "nodes.lora.unit",
            json!(4),
        ),
        (
            "train_network.py --network_module lycoris.kohya --network_args algo=lokr factor=8 decompose_both=true",
            "nodes.lora.factor",
            json!(8),
        ),
        (
            "train_network.py --network_module lycoris.kohya --network_args algo=lora dora_wd=1",
            "nodes.lora.type",
            json!("adapter.dora"),
        ),
        (
            "# --network_args train_double_block_indices=0-3,5 train_blocks=double",
            "nodes.lora.blocks",
            json!({ "double.4,6-18": false, "single": false }),
        ),
        ("# --network_args img_mod_dim=0 single_dim=8", "nodes.lora.ranks", json!({ "img_mod": false, "single": 8 })),
        (
            "# --network_dim 8 --network_args in_dims=[8,0,4,8,8]",
            "nodes.lora.ranks",
            json!({ "time_in": false, "vector_in": 4 }),
        ),
        (
            "# --network_args network_reg_dims=single.*=4,txt=0 network_reg_lrs=img=1e-3",
            "nodes.lora.patterns",
            json!([{ "match": "single.*", "rank": 4 }, { "match": "txt", "rank": false }, { "match": "img", "learning_rate": 1e-3 }]),
        ),
        ("# --network_args train_t5xxl=True", "nodes.lora.text", json!(["clip_l", "t5"])),
        ("# --network_args train_t5xxl=true", "nodes.lora.text", json!("clip_l")),
        // Losses.
        ("# --loss_type huber", "nodes.loss.huber", json!({ "schedule": "constant", "c": 0.1 })),
        ("@ --loss_type smooth_l1 --huber_c 0.2", "nodes.loss.huber", json!({ "schedule": "snr", "c": 0.2 })),
        (
            "# --timestep_sampling flux_shift --sigmoid_scale 2",
            "nodes.loss.timesteps",
            json!({ "sampling": "flux_shift", "sigmoid_scale": 2 }),
        ),
        (
            "# --weighting_scheme logit_normal --logit_mean 0.5",
            "nodes.loss.timesteps.scheme",
            json!({ "type": "logit_normal", "mean": 0.5 }),
        ),
        // Data.
        (
            "@",
            "nodes.images",
            json!({ "type": "loader.images", "path": "photos", "resolution": 1024, "buckets": {}, "caption_extension": ".txt", "default_caption": "", "repeats": 10 }),
        ),
        ("@ --bucket_no_upscale", "nodes.images.buckets", json!({ "no_upscale": true })),
        ("@ --shuffle_caption --keep_tokens 1", "nodes.images.keep_tokens", json!(1)),
        ("@ --cache_latents_to_disk", "nodes.cached.type", json!("cacher.disk")),
        // Families.
        (
            "train_db.py --v2 --v_parameterization",
            "nodes.model",
            json!({ "type": "model.sd2", "weights": "v2-1_768-ema-pruned.safetensors", "prediction": "v" }),
        ),
        (
            "lumina_train.py --pretrained_model_name_or_path Lumina-Next-DiT-B.safetensors",
            "nodes.model.type",
            json!("model.lumina_next"),
        ),
        ("flux_train.py --pretrained_model_name_or_path flux1-schnell.safetensors", "nodes.t5.max_tokens", json!(256)),
    ];
    for (line, path, value) in cases {
        let line = line.replace('@', SDXL).replace('#', FLUX);
        let done = run(&line);
        assert_eq!(done.at(path), *value, "{line}\n{}\n{}", done.outcome.document, done.report());
    }
}

/// Script and options, an entry and its kind.
#[test]
fn kinds() {
    let cases = [
        ("#", "--model_prediction_type", Kind::Changed),
        ("# --model_prediction_type additive", "--model_prediction_type", Kind::Changed),
        ("# --model_prediction_type raw", "--model_prediction_type", Kind::Mapped),
        ("# --min_snr_gamma 5", "--min_snr_gamma", Kind::Ignored),
        ("@ --min_snr_gamma 5", "--min_snr_gamma", Kind::Mapped),
        ("# --min_timestep 10", "--min_timestep", Kind::Ignored),
        ("@ --save_every_n_steps 10 --save_last_n_steps 30", "--save_last_n_steps", Kind::Changed),
        ("@ --save_last_n_epochs 3", "--save_last_n_epochs", Kind::Ignored),
        ("@ --network_weights a --network_alpha 8", "--network_alpha", Kind::Changed),
        ("@ --resume state", "--resume", Kind::Refused),
        ("@ --save_last_n_epochs_state 2", "--save_last_n_epochs_state", Kind::Ignored),
        ("@ --network_train_text_encoder_only", "--network_train_text_encoder_only", Kind::Mapped),
        ("@ --unet_lr 0 --text_encoder_lr 1e-4", "--unet_lr", Kind::Changed),
        ("@ --network_train_text_encoder_only --text_encoder_lr 0", "--network_train_text_encoder_only", Kind::Refused),
        ("@ --zero_terminal_snr", "--zero_terminal_snr", Kind::Refused),
        ("@ --save_model_as ckpt", "--save_model_as", Kind::Changed),
        ("flux_train.py --blocks_to_swap 18", "--blocks_to_swap", Kind::Refused),
        ("sdxl_train.py --full_fp16 --mixed_precision fp16", "--full_fp16", Kind::Refused),
        ("@ --full_bf16 --mixed_precision bf16", "--full_bf16", Kind::Changed),
        ("flux_train_network.py --cpu_offload_checkpointing", "--cpu_offload_checkpointing", Kind::Changed),
        ("@ --lowram", "--lowram", Kind::Ignored),
        ("@ --zero_terminal_snr --v_parameterization", "--zero_terminal_snr", Kind::Changed),
        ("@ --noise_offset 0.05 --multires_noise_iterations 6", "--noise_offset", Kind::Mapped),
        ("@ --noise_offset 0.05 --multires_noise_iterations 6", "--multires_noise_iterations", Kind::Changed),
        ("@ --gradient_accumulation_steps 4", "--gradient_accumulation_steps", Kind::Changed),
        ("@ --network_module networks.lora_fa --scale_weight_norms 1", "--scale_weight_norms", Kind::Refused),
        ("train_network.py --pretrained_model_name_or_path a/b", "--pretrained_model_name_or_path", Kind::Changed),
        ("@ --no_half_vae", "--no_half_vae", Kind::Ignored),
        ("@ --no_metadata --metadata_title a", "--metadata_title", Kind::Refused),
        ("@ --metadata_title a", "--metadata_title", Kind::Mapped),
        (
            "@ --optimizer_type Prodigy --network_args loraplus_lr_ratio=16",
            "--network_args loraplus_lr_ratio",
            Kind::Refused,
        ),
        ("@ --optimizer_type Prodigy --learning_rate 1 --text_encoder_lr 0.5", "--text_encoder_lr", Kind::Refused),
        ("@ --optimizer_type Adafactor --unet_lr 1e-4", "--unet_lr", Kind::Ignored),
        ("@ --network_args conv_block_dims=1,2", "--network_args conv_block_dims", Kind::Ignored),
        ("@ --network_args block_dims=1,2", "--network_args block_dims", Kind::Refused),
        ("@ --network_args up_lr_weight=0.5", "--network_args up_lr_weight", Kind::Refused),
        ("@ --network_args rank=4", "--network_args rank", Kind::Refused),
        ("@ --adaptive_noise_scale 0.1", "--adaptive_noise_scale", Kind::Refused),
        ("@ --block_lr 1", "--block_lr", Kind::Refused),
        ("@ --lr_scheduler reduce_lr_on_plateau", "--lr_scheduler", Kind::Refused),
        ("@ --lr_scheduler cosine --lr_scheduler_power 2", "--lr_scheduler_power", Kind::Ignored),
        ("@ --wandb_api_key k", "--wandb_api_key", Kind::Refused),
        ("@ --xformers", "--xformers", Kind::Ignored),
        ("@ --cache_text_encoder_outputs", "--cache_text_encoder_outputs", Kind::Changed),
        ("@ --sample_every_n_epochs 1", "--sample_every_n_epochs", Kind::Ignored),
        ("@ --no_such_option 1", "--no_such_option", Kind::Refused),
        ("@ --seed 7 --seed 8", "--seed", Kind::Ignored),
    ];
    for (line, option, kind) in cases {
        let line = line.replace('@', SDXL).replace('#', FLUX);
        let done = run(&line);
        assert_eq!(done.kinds(option).first(), Some(&kind), "{line}\n{}", done.report());
    }
}

#[test]
fn ranks_by_block_name_their_blocks() {
    let ranks = "2,2,2,2,4,4,4,4,8,8,8,8,8,8,8,8,4,4,4,4,2,2,0";
    let done = run(&format!("{SDXL} --network_dim 8 --network_alpha 4 --network_args block_dims={ranks}"));
    assert_eq!(done.at("nodes.lora.blocks").as_array().unwrap()[8..12], [8, 8, 8, 8].map(Json::from));
    assert!(done.outcome.document.contains("blocks: [2, 2, 2, 2, 4, 4"), "{}", done.outcome.document);
    let alphas = "1,1,1,1,1,1,1,1,1,1,1,4,1,1,1,1,1,1,1,1,1,1,1";
    let line =
        format!("{SDXL} --network_dim 8 --network_alpha 4 --network_args block_dims={ranks} block_alphas={alphas}");
    let done = run(&line);
    for text in [
        "- { rank: 2, alpha: 1 }  # no layers",
        "- { rank: 8, alpha: 1 }  # down.7",
        "- 8  # mid.1",
        "- false  # no layers",
    ] {
        assert!(done.outcome.document.contains(text), "{text}\n{}", done.outcome.document);
    }
}

#[test]
fn the_launcher_does_not_decide_in_silence() {
    let done = run(&format!("accelerate launch --mixed_precision bf16 {SDXL}"));
    assert_eq!(done.at("train.precision"), json!("auto"));
    assert_eq!(done.kinds("launcher --mixed_precision"), [Kind::Changed]);
    let done = run(&format!("accelerate launch --mixed_precision fp16 {SDXL} --mixed_precision bf16"));
    assert_eq!(done.at("train.precision"), json!("auto"));
    assert_eq!(done.kinds("launcher --mixed_precision"), [Kind::Ignored]);
}

/// The reference looks at held-out images every epoch whenever there are some, beside steps too; never at those of
/// regularization.
#[test]
fn validation_is_every_epoch() {
    let of = |line: &str| run(&format!("{SDXL} {line}"));
    let done = of("--validation_split 0.1");
    assert_eq!(done.at("nodes.validation.every"), json!({ "epochs": 1 }));
    assert_eq!(done.kinds("--validate_every_n_epochs (not given)"), [Kind::Defaulted]);
    let done = of("--validation_split 0.1 --validate_every_n_steps 10");
    assert_eq!(done.at("nodes.validation.every"), json!({ "steps": 10, "epochs": 1 }));
    let done = of("--validation_split 0.1 --validate_every_n_epochs 3");
    assert_eq!(done.at("nodes.validation.every"), json!({ "epochs": 3 }));
    let done = of("--validate_every_n_epochs 3");
    assert_eq!(done.kinds("--validate_every_n_epochs"), [Kind::Ignored]);
    let two = "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'b'\nis_reg = true\n\
               [[datasets.subsets]]\nimage_dir = 'a'\n";
    let with = |data: &str| {
        let line = format!("{SDXL} --validation_split 0.1 --validation_seed 3 --prior_loss_weight 0.8");
        run_with(&line, Some(data), &Nothing, &Product::everything())
    };
    let done = with(two);
    assert_eq!(done.at("nodes.images.validation_split"), Json::Null);
    assert_eq!(done.at("nodes.images_2.validation_split"), json!(0.1));
    assert_eq!(done.kinds("--validation_split"), [Kind::Changed], "{}", done.report());
    assert_eq!(done.kinds("--validation_seed"), [Kind::Mapped], "{}", done.report());
    assert_eq!(done.at("nodes.validation.every"), json!({ "epochs": 1 }));
    // Whichever folder comes first.
    for data in [two.to_owned(), two.replace("is_reg = true\n", "") + "is_reg = true\n"] {
        let done = with(&data);
        assert_eq!(done.kinds("--prior_loss_weight"), [Kind::Mapped], "{}", done.report());
    }
    let done = with(&two.replace("is_reg = true\n", ""));
    assert_eq!(done.kinds("--prior_loss_weight"), [Kind::Ignored], "{}", done.report());
    let done = with(&format!("{two}is_reg = true\n"));
    assert_eq!(done.kinds("--validation_split"), [Kind::Ignored], "{}", done.report());
    assert_eq!(done.at("nodes.validation"), Json::Null);
}

/// Each dataset is balanced by itself there, each resolution here.
#[test]
fn regularization_of_two_datasets_of_one_resolution_is_told() {
    let set = |resolution: &str, folder: &str, more: &str| {
        format!("[[datasets]]\nresolution = {resolution}\n[[datasets.subsets]]\nimage_dir = '{folder}'\n{more}")
    };
    let of_class = "[[datasets.subsets]]\nimage_dir = 'r'\nis_reg = true\n";
    for (second, kind) in [("768", Kind::Mapped), ("[512, 512]", Kind::Changed), ("'512'", Kind::Changed)] {
        let data = set("512", "a", of_class) + &set(second, "b", "");
        let done = run_with(SDXL, Some(&data), &Nothing, &Product::everything());
        assert_eq!(done.kinds("datasets[0].subsets[1].is_reg"), [kind], "{}", done.report());
        assert_eq!(done.at("nodes.images_2.regularization"), json!({ "weight": 1 }));
    }
}

/// States are written with the files, whatever told when.
#[test]
fn states_follow_the_files() {
    let line = "--save_state --save_n_epoch_ratio 5 --max_train_epochs 10 --save_every_n_epochs 3";
    let done = run(&format!("{SDXL} {line}"));
    assert_eq!(done.at("nodes.save.every"), json!({ "epochs": 2 }));
    assert_eq!(done.at("train.save_state"), json!({ "epochs": 2 }));
    let done = run(&format!("{SDXL} --save_state --save_every_n_steps 10 --save_last_n_steps 30"));
    assert_eq!(done.at("train.save_state"), json!({ "steps": 10, "keep_last": { "count": 4 } }));
    assert_eq!(done.at("nodes.save.keep_last"), json!({ "step_files": 4 }));
    // The last step has no file of its own here.
    assert_eq!(done.kinds("--save_every_n_steps"), [Kind::Changed]);
    let done = run(&format!("{SDXL} --save_every_n_epochs 1 --save_last_n_epochs 2 --save_every_n_steps 10"));
    assert_eq!(done.kinds("--save_last_n_epochs"), [Kind::Mapped]);
    assert_eq!(done.at("nodes.save.keep_last"), json!({ "epoch_files": 2 }));
}

/// What no document can have is told before the check finds it.
#[test]
fn pairs_that_are_refused_are_not_written() {
    let done = run(&format!("{SDXL} --base_weights"));
    assert_eq!((done.kinds("--base_weights"), done.at("nodes.lora.base_weights")), (vec![Kind::Ignored], Json::Null));
    for optimizer in ["DAdaptSGD", "DAdaptAdaGrad", "AdamWScheduleFree"] {
        let done = run(&format!("{SDXL} --optimizer_type {optimizer} --scale_weight_norms 1"));
        assert_eq!(done.kinds("--scale_weight_norms"), [Kind::Refused], "{optimizer}");
        assert_eq!(done.at("nodes.lora.scale_weight_norms"), Json::Null, "{optimizer}");
    }
    let done = run(&format!("{SDXL} --optimizer_type DAdaptAdam --scale_weight_norms 1"));
    assert_eq!(done.at("nodes.lora.scale_weight_norms"), json!(1));
}

/// Data that fine_tune names is told once, and what this script ignores of it is said.
#[test]
fn data_of_fine_tune_is_told_once() {
    let line = "fine_tune.py --in_json meta.json --train_data_dir img --resolution 512 --train_batch_size 4";
    let done = run_with(line, None, &Nothing, &Product::everything());
    assert_eq!((done.at("nodes.images.path"), done.at("nodes.images.metadata")), (json!("img"), json!("meta.json")));
    for option in ["--in_json", "--train_data_dir"] {
        assert_eq!(done.kinds(option), [Kind::Mapped], "{}", done.report());
    }
    assert_eq!(done.outcome.of(Kind::Refused).count(), 0, "{}", done.report());
    let data = "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'a'\nalpha_mask = true\n\
                is_reg = true\nprior_loss_weight = 0.5\n";
    let (masks, weights) = ("datasets[0].subsets[0].alpha_mask", "datasets[0].subsets[0].prior_loss_weight");
    for (line, mask, weight) in [
        ("fine_tune.py", Kind::Changed, Kind::Changed),
        ("sdxl_train.py", Kind::Changed, Kind::Changed),
        ("sdxl_train.py --min_snr_gamma 5", Kind::Mapped, Kind::Changed),
        ("train_db.py", Kind::Mapped, Kind::Mapped),
    ] {
        let done = run_with(line, Some(data), &Nothing, &Product::everything());
        assert_eq!((done.kinds(masks), done.kinds(weights)), (vec![mask], vec![weight]), "{line} {}", done.report());
    }
}

/// The rate that was given stays with an optimizer that stands in, unless it is a factor.
#[test]
fn the_rate_of_an_unknown_optimizer() {
    let of = |rest: &str| run(&format!("sdxl_train.py --optimizer_type {rest}"));
    let done = of("bitsandbytes.optim.AdEMAMix8bit --learning_rate 5e-6");
    assert_eq!(done.at("nodes.optimizer.learning_rate"), json!(5e-6));
    assert_eq!(done.kinds("--learning_rate"), [Kind::Changed]);
    let done = of("prodigyplus.ProdigyPlusScheduleFree --learning_rate 1");
    assert_eq!(
        (done.at("nodes.optimizer.learning_rate"), done.kinds("--learning_rate")),
        (Json::Null, vec![Kind::Refused])
    );
}

/// Notes that were not true.
#[test]
fn notes_say_what_is_so() {
    let done = run("sd3_train.py --mixed_precision bf16");
    assert_eq!(done.at("nodes.save.dtype"), json!("f32"));
    let done = run("sdxl_train.py --full_bf16 --mixed_precision bf16 --fused_backward_pass");
    assert_eq!(done.kinds("--full_bf16"), [Kind::Mapped]);
    let line = "--save_every_n_epochs 1 --save_every_n_steps 100 --save_state --save_last_n_steps 300";
    let done = run(&format!("{SDXL} {line} --save_last_n_epochs_state 1"));
    assert_eq!(done.at("train.save_state.keep_last.count"), json!(4));
    assert_eq!(done.kinds("--save_last_n_epochs_state"), [Kind::Changed]);
    let done = run("sdxl_train.py --resume state");
    assert!(!done.report().contains("nodes.lora"), "{}", done.report());
    let done = run(&format!("{SDXL} --lr_scheduler reduce_lr_on_plateau --lr_warmup_steps 0.1"));
    assert_eq!(done.kinds("--lr_warmup_steps"), [Kind::Mapped], "{}", done.report());
}
