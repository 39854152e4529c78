//! The commands of the reference's two manual pages, as bare facts: what a user may paste.

/// The page of advanced options: fragments, put behind a command as the page does.
pub const ADVANCED: &[&str] = &[
    r#"--network_args "block_dims=2,2,2,2,4,4,4,4,8,8,8,8,8,8,8,8,4,4,4,4,2,2,2" "block_alphas=1,1,1,1,2,2,2,2,4,4,4,4,4,4,4,4,2,2,2,2,1,1,1""#,
    r#"--network_args "block_dims=2,2,2,2,4,4,4,4,8,8,8,8,8,8,8,8,4,4,4,4,2,2,2" "block_alphas=1,1,1,1,2,2,2,2,4,4,4,4,4,4,4,4,2,2,2,2,1,1,1" "conv_block_dims=2,2,2,2,2,2,2,2,4,4,4,4,4,4,4,4,2,2,2,2,2,2,2" "conv_block_alphas=1,1,1,1,1,1,1,1,2,2,2,2,2,2,2,2,1,1,1,1,1,1,1""#,
    r#"--network_args "loraplus_lr_ratio=16""#,
    r#"--network_args "loraplus_unet_lr_ratio=16" "loraplus_text_encoder_lr_ratio=4""#,
    r#"--network_module=networks.dylora --network_dim=64 --network_args "unit=4""#,
    r#"--lr_scheduler="cosine""#,
    r#"--lr_scheduler="cosine_with_restarts" --lr_scheduler_num_cycles=3"#,
    r#"--lr_scheduler="polynomial" --lr_scheduler_power=2"#,
    r#"--lr_scheduler="constant_with_warmup" --lr_warmup_steps=500"#,
    "--lr_warmup_steps=0.05",
    r#"--optimizer_type="Adafactor" --optimizer_args "relative_step=True" "scale_parameter=True" "warmup_init=True" --lr_scheduler="adafactor""#,
    r#"--optimizer_type="Lion" --learning_rate=1e-5"#,
    r#"--optimizer_type="Prodigy" --learning_rate=1.0 --lr_scheduler="constant""#,
    r#"--optimizer_args "weight_decay=0.01" "betas=0.9,0.999""#,
    r#"--mixed_precision="bf16""#,
    r#"--full_bf16 --mixed_precision="bf16""#,
    r#"--full_fp16 --mixed_precision="fp16""#,
    "--max_grad_norm=1.0",
    r#"--fp8_base --mixed_precision="bf16""#,
    r#"--fp8_base_unet --mixed_precision="bf16""#,
    "--gradient_checkpointing",
    "--gradient_accumulation_steps=4",
    "--save_every_n_epochs=2 --save_every_n_steps=500",
    "--save_every_n_epochs=2 --save_last_n_epochs=5",
    "--save_every_n_steps=500 --save_last_n_steps=3000",
    "--save_state --save_last_n_epochs_state=2",
    "--save_state_on_train_end",
    r#"--resume="./output/my_lora-state-epoch00005""#,
    r#"--network_weights="./output/my_lora.safetensors""#,
    r#"--network_weights="./output/my_lora.safetensors" --dim_from_weights"#,
    "--noise_offset=0.0357 --noise_offset_random_strength",
    "--multires_noise_iterations=6 --multires_noise_discount=0.3",
    "--min_snr_gamma=5",
    "--ip_noise_gamma=0.1",
    "--network_train_unet_only",
    "--network_train_unet_only --cache_text_encoder_outputs",
    "--network_train_text_encoder_only",
    "--scale_weight_norms=1.0",
    r#"--base_weights="./existing_lora.safetensors" --base_weights_multiplier=1.0"#,
    r#"--logging_dir="./logs" --log_with="tensorboard""#,
    r#"--logging_dir="./logs" --log_with="wandb" --wandb_api_key="your_api_key" --wandb_run_name="my_experiment""#,
    "--log_config",
    "--output_config",
];

pub const BASE: &str = "accelerate launch sdxl_train_network.py --pretrained_model_name_or_path=\"sd_xl_base_1.0.safetensors\" \
                    --dataset_config=\"my_dataset.toml\" --output_dir=\"./output\" --output_name=\"my_lora\" \
                    --network_module=networks.lora --network_dim=32 --network_alpha=16";

pub const CONFIG: &str = r#"
pretrained_model_name_or_path = "/path/to/model.safetensors"
dataset_config = "my_dataset.toml"
output_dir = "./output"
output_name = "my_lora"
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
learning_rate = 1e-4
optimizer_type = "AdamW8bit"
lr_scheduler = "cosine_with_restarts"
max_train_epochs = 10
mixed_precision = "bf16"
gradient_checkpointing = true
"#;

/// The page of full training: whole commands.
pub const FULL: &[&str] = &[
    "accelerate launch --mixed_precision bf16 sdxl_train.py \\\n  --pretrained_model_name_or_path \"sd_xl_base_1.0.safetensors\" \\\n  --dataset_config \"dataset_config.toml\" \\\n  --output_dir \"output\" \\\n  --output_name \"sdxl_finetuned\" \\\n  --save_model_as safetensors \\\n  --train_text_encoder \\\n  --learning_rate 1e-5 \\\n  --learning_rate_te1 5e-6 \\\n  --learning_rate_te2 2e-6 \\\n  --max_train_steps 10000 \\\n  --optimizer_type AdamW8bit",
    "accelerate launch --mixed_precision bf16 sd3_train.py \\\n  --pretrained_model_name_or_path \"sd3_medium.safetensors\" \\\n  --dataset_config \"dataset_config.toml\" \\\n  --output_dir \"output\" \\\n  --output_name \"sd3_finetuned\" \\\n  --save_model_as safetensors \\\n  --train_text_encoder \\\n  --learning_rate 4e-6 \\\n  --blocks_to_swap 10 \\\n  --max_train_steps 10000 \\\n  --optimizer_type AdamW8bit",
    "accelerate launch --mixed_precision bf16 flux_train.py \\\n  --pretrained_model_name_or_path \"FLUX.1-dev.safetensors\" \\\n  --dataset_config \"dataset_config.toml\" \\\n  --output_dir \"output\" \\\n  --output_name \"flux1_finetuned\" \\\n  --save_model_as safetensors \\\n  --learning_rate 1e-5 \\\n  --blocks_to_swap 18 \\\n  --max_train_steps 10000 \\\n  --optimizer_type AdamW8bit",
    "accelerate launch --mixed_precision bf16 lumina_train.py \\\n  --pretrained_model_name_or_path \"Lumina-Next-DiT-B.safetensors\" \\\n  --dataset_config \"dataset_config.toml\" \\\n  --output_dir \"output\" \\\n  --output_name \"lumina_finetuned\" \\\n  --save_model_as safetensors \\\n  --learning_rate 1e-5 \\\n  --max_train_steps 10000 \\\n  --optimizer_type AdamW8bit",
    "accelerate launch --mixed_precision bf16 sdxl_train.py \\\n  --pretrained_model_name_or_path \"sd_xl_base_1.0.safetensors\" \\\n  --dataset_config \"dataset_config.toml\" \\\n  --output_dir \"./output\" \\\n  --output_name \"sdxl_finetuned_v1\" \\\n  --save_model_as safetensors \\\n  --train_text_encoder \\\n  --learning_rate 1e-5 \\\n  --learning_rate_te1 5e-6 \\\n  --learning_rate_te2 2e-6 \\\n  --max_train_steps 10000 \\\n  --optimizer_type AdamW8bit \\\n  --mixed_precision bf16 \\\n  --gradient_checkpointing \\\n  --cache_latents \\\n  --save_every_n_epochs 1",
];
