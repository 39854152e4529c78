//! What `pipe migrate` writes is held against the node types themselves: whole set-ups check and plan, and every place
//! that the reference page names exists.

use std::collections::BTreeSet;
use std::path::Path;

use pipe_core::check::{Checked, Options, check_document_with};
use pipe_core::diagnostic::{Format, Severity, render};
use pipe_core::document::{Document, Syntax};
use pipe_core::plan::plan_document;
use pipe_core::registry::Registry;
use pipe_data::lora_names::ModuleClass;
use pipe_migrate::{Files, Input, Kind, Outcome, Product, migrate_checked, reference_page};

use crate::commands::{ADVANCED, BASE, CONFIG, FULL};

const DATASET: &str = "[general]\ncaption_extension = '.txt'\nenable_bucket = true\n\
                       [[datasets]]\nresolution = 1024\nbatch_size = 2\n\
                       [[datasets.subsets]]\nimage_dir = 'photos'\nnum_repeats = 10\n";

/// Set-ups by what they use; see the file's head.
const SETUPS: &str = include_str!("setups.txt");

/// What the beginnings of set-ups stand for.
const BEGINNINGS: [(&str, &str); 8] = [
    (
        "$XT",
        "sdxl_train_network.py --pretrained_model_name_or_path xl.safetensors --network_module networks.lora \
         --network_dim 32 --network_alpha 16 --learning_rate 1e-4 --mixed_precision bf16",
    ),
    (
        "$X",
        "sdxl_train_network.py --pretrained_model_name_or_path xl.safetensors --network_module networks.lora \
         --network_dim 32 --network_alpha 16 --learning_rate 1e-4 --mixed_precision bf16 --network_train_unet_only",
    ),
    (
        "$S",
        "train_network.py --pretrained_model_name_or_path sd15.safetensors --network_module networks.lora \
         --network_dim 32 --network_alpha 16 --learning_rate 1e-4",
    ),
    (
        "$FT",
        "flux_train_network.py --pretrained_model_name_or_path flux1-dev.safetensors --clip_l clip_l.safetensors \
         --t5xxl t5.safetensors --ae ae.safetensors --network_module networks.lora_flux --network_dim 16 \
         --network_alpha 16 --learning_rate 1e-4 --model_prediction_type raw --guidance_scale 1",
    ),
    (
        "$F",
        "flux_train_network.py --pretrained_model_name_or_path flux1-dev.safetensors --clip_l clip_l.safetensors \
         --t5xxl t5.safetensors --ae ae.safetensors --network_module networks.lora_flux --network_dim 16 \
         --network_alpha 16 --learning_rate 1e-4 --model_prediction_type raw --guidance_scale 1 --network_train_unet_only",
    ),
    (
        "$D",
        "sd3_train_network.py --pretrained_model_name_or_path sd3_medium.safetensors --clip_l clip_l.safetensors \
         --clip_g clip_g.safetensors --t5xxl t5.safetensors --network_module networks.lora_sd3 --network_dim 16 \
         --learning_rate 1e-4",
    ),
    (
        "$L",
        "lumina_train_network.py --pretrained_model_name_or_path lumina2.safetensors --gemma2 gemma.safetensors \
         --ae ae.safetensors --network_module networks.lora_lumina --network_dim 16 --learning_rate 1e-4",
    ),
    ("$N", "lumina_train_network.py --pretrained_model_name_or_path lumina_next.safetensors"),
];

/// The files that set-ups name.
struct Shelf;

impl Files for Shelf {
    fn read(&self, path: &str) -> std::io::Result<String> {
        match path {
            "prompts.txt" => {
                Ok("a fox --n bad --w 512 --h 512 --d 1 --l 7 --s 28\na den --w 768 --h 512 --d 2 --g 3.5\n".into())
            }
            "my_dataset.toml" | "dataset_config.toml" => Ok(DATASET.into()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        }
    }
    fn folders(&self, _: &str) -> std::io::Result<Vec<String>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

fn product(registry: &Registry) -> Product {
    Product::from_schema(pipe_schema::json_schema(registry))
}

fn migrated(line: &str, dataset: &str, product: &Product) -> Outcome {
    let mut input = Input::from_command(line).expect(line);
    input.dataset_toml = Some(("dataset.toml".into(), dataset.into()));
    migrate_checked(&input, &Shelf, product, &pipe_nodes::registry()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn check(registry: &Registry, outcome: &Outcome) -> Checked {
    let document = Document::parse(&outcome.document, Path::new("a.pipe.yaml"), Syntax::Yaml, &[]);
    check_document_with(registry, document, Options { without_files: true, any_device: true })
}

/// Everything that is found, warnings too; nothing for a clean document.
fn problems(checked: &Checked) -> String {
    render(&checked.diagnostics, checked.files(), Format::Concise, false)
}

#[test]
fn the_commands_of_both_manual_pages_check_and_plan() {
    let registry = pipe_nodes::registry();
    let product = product(&registry);
    let fragments = ADVANCED.iter().map(|fragment| format!("{BASE} {fragment}"));
    let mut outcomes: Vec<(String, Outcome)> = fragments
        .chain(FULL.iter().map(|line| (*line).to_owned()))
        .map(|line| (line.clone(), migrated(&line, DATASET, &product)))
        .collect();
    let mut input = Input::from_command("accelerate launch sdxl_train_network.py --config_file=a.toml").unwrap();
    input.config_toml = Some(("a.toml".into(), CONFIG.into()));
    outcomes.push((CONFIG.into(), migrate_checked(&input, &Shelf, &product, &registry).unwrap()));
    for (line, outcome) in outcomes {
        let checked = check(&registry, &outcome);
        assert_eq!(problems(&checked), "", "{line}\n{}", outcome.document);
        let plan = plan_document(&registry, &checked);
        assert!(plan.steps.is_some_and(|steps| steps > 0) && plan.peak_bytes > 1 << 30, "{line}");
        assert!(plan.phases.len() > 1, "{line}");
    }
}

#[test]
fn whole_set_ups_check() {
    let registry = pipe_nodes::registry();
    let product = product(&registry);
    let (mut wrong, mut number, mut missing) = (Vec::new(), 0, BTreeSet::new());
    for setup in SETUPS.lines().filter(|line| !line.starts_with('#')) {
        let (own_mistake, setup) = setup.strip_prefix("! ").map_or((false, setup), |setup| (true, setup));
        let (line, dataset) = setup.split_once(" | ").unwrap_or((setup, ""));
        let dataset = if dataset.is_empty() { DATASET.to_owned() } else { dataset.replace("\\n", "\n") };
        let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
        let beginning = BEGINNINGS.iter().find(|(name, _)| *name == first).map_or(first, |(_, line)| line);
        let outcome = migrated(&format!("{beginning} {rest}"), &dataset, &product);
        let checked = check(&registry, &outcome);
        number += 1;
        missing.extend(outcome.of(Kind::Refused).map(|entry| entry.note.clone()));
        // That this build has no GPU is told of what only a GPU can do.
        let found = checked.diagnostics.iter().any(|one| one.code != "P0904");
        if own_mistake != found {
            wrong.push(format!("{setup}\n{}{}", problems(&checked), outcome.document));
        }
    }
    assert!(number > 200, "the list is whole");
    assert!(wrong.is_empty(), "{} of {number}\n{}", wrong.len(), wrong.join("\n"));
    let there: Vec<&String> = missing.iter().filter(|note| is_there(&registry, note)).collect();
    assert!(there.is_empty(), "called missing, but there: {there:#?}");
}

/// What other fields leave nothing to decide is not in the document, and the report says of it why.
#[test]
fn what_is_idle_is_left_out_and_told() {
    let registry = pipe_nodes::registry();
    let product = product(&registry);
    let flux = BEGINNINGS.iter().find(|(name, _)| *name == "$F").unwrap().1;
    let run = |args: &str| {
        let outcome = migrated(&format!("{flux} --network_args {args}"), DATASET, &product);
        let checked = check(&registry, &outcome);
        assert_eq!(problems(&checked), "", "{args}\n{}", outcome.document);
        let lora = checked.document.tree.as_ref().unwrap().at("nodes.lora").unwrap().to_json();
        (outcome, lora)
    };
    let of = |outcome: &Outcome, option: &str| {
        let entry = outcome.report.iter().find(|entry| entry.option == option).unwrap();
        (entry.kind, entry.target.clone(), entry.note.clone())
    };
    let (outcome, lora) = run("network_reg_dims=single_blocks=8,double_blocks=4");
    assert!(lora.get("rank").is_none() && lora.get("patterns").is_some(), "{lora}");
    let (kind, target, note) = of(&outcome, "--network_dim");
    assert_eq!((kind, target), (Kind::Ignored, None));
    assert!(note.contains("other fields decide"), "{note}");
    // One pattern of two is idle, and the list stays.
    let (outcome, lora) = run("network_reg_dims=double_blocks=8,single_blocks_0_=2 train_blocks=single");
    let (kind, _, note) = of(&outcome, "--network_args network_reg_dims");
    match lora.get("patterns").and_then(|list| list.as_array()) {
        Some(list) if list.len() == 1 => {
            assert_eq!(kind, Kind::Mapped);
            assert!(note.contains("`double_blocks` is left out"), "{note}");
        }
        // A pattern counts more than the block: both decide.
        other => assert!(other.is_some_and(|list| list.len() == 2), "{lora}"),
    }
    let (outcome, lora) = run("train_double_block_indices=none img_attn_dim=8");
    assert!(lora.get("ranks").is_none() && lora.get("blocks").is_some(), "{lora}");
    assert_eq!(of(&outcome, "--network_args img_attn_dim").0, Kind::Ignored);
    let line = flux.replace("1e-4", "3e-4") + " --network_args network_reg_lrs=single_blocks=1e-5,double_blocks=2e-5";
    let outcome = migrated(&line, DATASET, &product);
    assert_eq!(problems(&check(&registry, &outcome)), "", "{}", outcome.document);
    assert!(!outcome.document.contains("learning_rate: 3e-4"), "{}", outcome.document);
    let (kind, _, note) = of(&outcome, "--learning_rate");
    assert!(kind == Kind::Ignored && note.contains("a rate of its own"), "{note}");
    // Without the check nothing is known to be idle.
    let input = Input::from_command(&format!("{flux} --network_args train_double_block_indices=none img_attn_dim=8"));
    let plain = pipe_migrate::migrate(&input.unwrap(), &Shelf, &product).unwrap();
    assert!(plain.document.contains("img_attn: 8"), "{}", plain.document);
}

/// The parts that learn in a set-up, with their rates and numbers of tensors.
fn learning(line: &str) -> (Outcome, Vec<(String, Option<f64>, u64)>) {
    let registry = pipe_nodes::registry();
    let outcome = migrated(line, DATASET, &product(&registry));
    let checked = check(&registry, &outcome);
    let wrong = checked.diagnostics.iter().any(|one| one.severity == Severity::Error);
    assert!(!wrong, "{line}\n{}{}", problems(&checked), outcome.document);
    let plan = plan_document(&registry, &checked);
    let groups = plan.nodes.into_values().flat_map(|node| node.plan.groups);
    let groups = groups.map(|group| (group.name, group.rate, group.tensors)).collect();
    (outcome, groups)
}

/// A denoiser that is to stay as it is does not learn, whatever the optimizer; where that cannot be said, nothing runs.
#[test]
fn a_denoiser_of_rate_0_stays_as_it_is() {
    let xl = "sdxl_train.py --pretrained_model_name_or_path xl.safetensors --train_text_encoder --learning_rate 0 \
              --learning_rate_te1 1e-6 --learning_rate_te2";
    for line in [
        format!("{xl} 2e-6"),
        format!("{xl} 2e-6 --optimizer_type Lion"),
        format!("{xl} 1e-6 --optimizer_type Prodigy"),
        format!("{xl} 2e-6 --optimizer_type Adafactor"),
        format!("{xl} 2e-6 --optimizer_type Adafactor --optimizer_args relative_step=False"),
        format!("{xl} 0"),
    ] {
        let (_, groups) = learning(&line);
        assert!(
            !groups.is_empty() && groups.iter().all(|(name, ..)| name.starts_with("text_encoder")),
            "{line} {groups:?}"
        );
    }
    let sd = "train_db.py --pretrained_model_name_or_path sd15.safetensors --learning_rate 0 --learning_rate_te 1e-6";
    for line in [
        sd.to_owned(),
        format!("{sd} --optimizer_type Lion"),
        "sd3_train.py --pretrained_model_name_or_path sd3.safetensors --learning_rate 0 --train_text_encoder \
         --learning_rate_te1 1e-6"
            .into(),
    ] {
        let (outcome, groups) = learning(&line);
        let learns =
            |(name, rate, _): &(String, Option<f64>, u64)| *rate != Some(0.0) && !name.starts_with("text_encoder");
        assert!(!groups.iter().any(learns), "{line} {groups:?}");
        assert_eq!(outcome.report.iter().find(|e| e.option == "--learning_rate").unwrap().kind, Kind::Mapped);
    }
    // These have one rate for all that learns: the check stops what would train the denoiser.
    let registry = pipe_nodes::registry();
    for optimizer in ["Prodigy", "DAdaptAdam", "Adafactor"] {
        let outcome = migrated(&format!("{sd} --optimizer_type {optimizer}"), DATASET, &product(&registry));
        let checked = check(&registry, &outcome);
        assert!(checked.diagnostics.iter().any(|d| d.severity == Severity::Error), "{optimizer}\n{}", outcome.document);
    }
}

/// SDXL's rates by block beside optimizers with one rate for all, or that set it.
#[test]
fn rates_by_block_with_every_optimizer() {
    let rates = |inner: &str| {
        format!(
            "sdxl_train.py --pretrained_model_name_or_path xl.safetensors --block_lr 0,{inner}0 --learning_rate 1e-5 \
             --optimizer_type"
        )
    };
    let (same, own) = (rates(&"1e-5,".repeat(21)), rates(&("1e-6,".to_owned() + &"1e-5,".repeat(20))));
    let kind = |outcome: &Outcome| outcome.report.iter().find(|e| e.option == "--block_lr").unwrap().kind;
    let fixed = "Adafactor --optimizer_args scale_parameter=False relative_step=False warmup_init=False";
    for (line, expected, blocks) in [
        (format!("{own} AdamW"), Kind::Mapped, true),
        (format!("{own} {fixed}"), Kind::Mapped, true),
        (format!("{same} Prodigy"), Kind::Mapped, true),
        (format!("{own} Prodigy"), Kind::Refused, false),
        (format!("{own} Adafactor"), Kind::Refused, false),
    ] {
        let (outcome, groups) = learning(&line);
        assert_eq!((kind(&outcome), groups.len() > 1), (expected, blocks), "{line} {groups:?}\n{}", outcome.document);
    }
}

/// The layers that presets of LyCORIS take, counted in the plan.
#[test]
fn presets_of_lycoris_train_their_layers() {
    let with = |args: &str| {
        let line = "sdxl_train_network.py --pretrained_model_name_or_path xl.safetensors --network_dim 4 \
                    --network_module lycoris.kohya --network_args";
        let (_, groups) = learning(&format!("{line} {args}"));
        let of = |text: bool| {
            groups.iter().filter(|(name, ..)| name.contains("text_encoder") == text).map(|(_, _, n)| n).sum::<u64>()
        };
        // Two factors a layer.
        (of(false) / 2, of(true) / 2)
    };
    // Matrices and 1×1 convolutions of the transformers; attention alone; text encoders: 12 layers of 6, 32 of 6.
    let (transformers, attention, text) = (722, 560, 264);
    // Of the 17 residual blocks two 3×3 convolutions, the time's projection, and 11 shortcuts; two samplers each way.
    let (large, small) = (17 * 2 + 4, 17 + 11);
    for (preset, expected) in [
        ("full", (transformers + large + small, text)),
        ("full-lin", (transformers + small, text)),
        ("attn-mlp", (transformers, text)),
        ("attn-only", (attention, 176)),
        ("unet-only", (transformers + large + small, 0)),
        ("unet-transformer-only", (transformers, 0)),
        ("unet-convblock-only", (large + small, 0)),
    ] {
        assert_eq!(with(&format!("algo=locon preset={preset}")), expected, "{preset}");
    }
    assert_eq!(with("algo=locon conv_dim=0"), (transformers + small, text));
    // What is no preset leaves residual blocks out, unless their rank is given.
    assert_eq!(with("algo=locon preset=own.toml"), (transformers, text));
}

/// α of 3×3 convolutions by block, where it is that of the other layers and not that of the rank.
#[test]
fn alpha_of_convolutions_by_block() {
    let xl = "sdxl_train_network.py --pretrained_model_name_or_path xl.safetensors --network_module networks.lora \
              --network_dim 8 --network_alpha 1 --network_args";
    let list = |n: &str| vec![n; 23].join(",");
    let dims = format!("block_dims={} conv_block_dims={}", list("2"), list("2"));
    for (args, alpha) in [
        (dims.clone(), 1),
        (format!("{dims} conv_block_alphas={}", list("1")), 1),
        (format!("{dims} conv_alpha=3"), 3),
        (format!("up_lr_weight=linear conv_block_dims={} conv_alpha=3", list("2")), 3),
    ] {
        let registry = pipe_nodes::registry();
        let outcome = migrated(&format!("{xl} {args}"), DATASET, &product(&registry));
        let checked = check(&registry, &outcome);
        assert_eq!(problems(&checked), "", "{args}\n{}", outcome.document);
        let tree = checked.document.tree.as_ref().unwrap().at("nodes.lora.conv").unwrap().to_json();
        let blocks = tree["blocks"].as_array().unwrap();
        let sizes = blocks.iter().all(|block| *block == serde_json::json!({ "rank": 2, "alpha": alpha }));
        assert!(sizes, "{args}\n{}", outcome.document);
        let told = outcome.report.iter().filter(|e| e.option.starts_with("--network_args conv_"));
        assert!(told.clone().count() >= 1 && told.clone().all(|e| e.kind == Kind::Mapped), "{args}");
    }
}

/// Whether what a note calls missing (`field` or `field: value` of a type, or a type) is there after all.
fn is_there(registry: &Registry, note: &str) -> bool {
    let Some(what) = note.strip_prefix("not available yet: `") else { return false };
    let parts: Vec<&str> = what.split('`').collect();
    let (field, of) = (parts[0], parts.get(2).filter(|_| parts.get(1) == Some(&" of ")));
    let Some(node_type) = of else { return registry.kind(field).is_some() };
    let Some((field, value)) = field.split_once(": ") else {
        return pipe_schema::field(registry, &format!("{node_type}.{field}")).is_some();
    };
    // The structural check of a document says whether a value is taken.
    let mut line = format!("    {}", field.replace('.', ": { "));
    line += &format!(": {}{}", serde_json::json!(value), " }".repeat(field.matches('.').count()));
    let value = if ["true", "false"].contains(&value) { line.replace(&format!("\"{value}\""), value) } else { line };
    let text = format!("version: 1\nname: a\nnodes:\n  n:\n    type: {node_type}\n{value}\n");
    let document = Document::parse(&text, Path::new("a.yaml"), Syntax::Yaml, &[]);
    let checked = check_document_with(registry, document, Options { without_files: true, any_device: true });
    let at_line = |span| checked.files().places(span).is_some_and(|(_, at, _)| at.line == 6);
    !checked.diagnostics.iter().any(|one| one.code.starts_with("P01") && at_line(one.span))
}

#[test]
fn what_is_there_is_told_from_what_is_not() {
    let registry = pipe_nodes::registry();
    for (note, there) in [
        ("not available yet: `rank` of `adapter.lora`", true),
        ("not available yet: `rank: from_file` of `adapter.lora`", true),
        ("not available yet: `ranks.img_mod: false` of `adapter.lora`", true),
        ("not available yet: `max_grad_norm: false` of `optimizer.adamw`", true),
        ("not available yet: `checkpointing: blocks` of `model.flux`", true),
        ("not available yet: `checkpointing: nothing` of `model.flux`", false),
        ("not available yet: `nothing` of `model.flux`", false),
        ("not available yet: `nothing: true` of `model.flux`", false),
        ("not available yet: `model.flux`; and more", true),
        ("not available yet: `model.nothing`", false),
        ("it is something else", false),
    ] {
        assert_eq!(is_there(&registry, note), there, "{note}");
    }
}

/// A value that is out of a field's range is refused with the range, not written.
#[test]
fn values_out_of_range_are_refused() {
    let registry = pipe_nodes::registry();
    let outcome = migrated(
        "train_network.py --pretrained_model_name_or_path sd15.safetensors --network_dim 100000 --train_batch_size 9999",
        "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = 'a'\n",
        &product(&registry),
    );
    let note = |option: &str| {
        let mut of = outcome.of(Kind::Refused).filter(|entry| entry.option == option);
        of.next().map(|entry| entry.note.clone()).unwrap_or_default()
    };
    assert_eq!(note("--network_dim"), "`rank` of `adapter.lora` is from 1 to 4096");
    assert_eq!(note("--train_batch_size"), "`train.batch_size` is from 1 to 4096");
    assert_eq!(problems(&check(&registry, &outcome)), "");
}

/// Each link of the page leads to a type that exists, and each field that is not called missing is a field of it.
#[test]
fn every_place_of_the_reference_page_exists() {
    let registry = pipe_nodes::registry();
    let page = reference_page(&product(&registry));
    let mut places = 0;
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cell = |text: &str| text.trim().trim_matches('`').to_owned();
        for (field, rest) in row.match_indices(" of [`").map(|(at, _)| (&row[..at], &row[at..])) {
            let field = cell(field.rsplit('|').next().unwrap());
            let field = field.split(':').next().unwrap();
            // The types behind one field, up to the end of the place.
            let end = rest.find(['|', ';']).unwrap_or(rest.len());
            for name in rest[..end].split("[`").skip(1).map(|part| part.split('`').next().unwrap()) {
                let found = pipe_schema::field(&registry, &format!("{name}.{field}")).is_some();
                // The types of layers are names of a table, which the node knows.
                let class = field.strip_prefix("ranks.").is_some_and(|class| ModuleClass::from_name(class).is_some());
                assert!(found || class, "`{field}` of `{name}`: {row}");
                places += 1;
            }
        }
        for (at, _) in row.match_indices("](nodes/") {
            let name = row[at + 8..].split(".md").next().unwrap();
            assert!(registry.kind(name).is_some(), "{name}: {row}");
        }
        for (at, _) in row.match_indices("](settings.md)") {
            let path = row[..at].rsplit("[`").next().unwrap().trim_end_matches('`');
            assert!(pipe_schema::field(&registry, path).is_some(), "{path}: {row}");
        }
    }
    assert!(places > 60, "{places} places");
}

/// Everything that the option index of the training specification names has a row.
#[test]
fn every_option_of_the_index_is_on_the_page() {
    const INDEX: &str = "pretrained_model_name_or_path dataset_config output_dir output_name network_module network_dim \
        network_alpha network_args block_dims block_alphas conv_block_dims conv_block_alphas loraplus_lr_ratio \
        loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio networks.dylora unit learning_rate lr_scheduler constant \
        constant_with_warmup cosine cosine_with_restarts polynomial adafactor lr_scheduler_num_cycles lr_scheduler_power \
        lr_warmup_steps optimizer_type AdamW AdamW8bit Adafactor Lion Prodigy DAdaptation optimizer_args mixed_precision \
        full_bf16 full_fp16 max_grad_norm fp8_base fp8_base_unet gradient_checkpointing gradient_accumulation_steps \
        train_batch_size save_every_n_epochs save_every_n_steps save_last_n_epochs save_last_n_steps save_state \
        save_last_n_epochs_state save_state_on_train_end resume network_weights dim_from_weights noise_offset \
        noise_offset_random_strength multires_noise_iterations multires_noise_discount min_snr_gamma ip_noise_gamma \
        network_train_unet_only network_train_text_encoder_only cache_text_encoder_outputs scale_weight_norms \
        base_weights base_weights_multiplier logging_dir log_with wandb_api_key wandb_run_name log_config config_file \
        output_config max_train_epochs max_train_steps save_model_as cache_latents learning_rate_te \
        stop_text_encoder_training no_token_padding no_half_vae train_text_encoder learning_rate_te1 learning_rate_te2 \
        block_lr train_t5xxl blocks_to_swap num_last_block_to_freeze blockwise_fused_optimizers use_flash_attn \
        clip_l clip_g t5xxl ae gemma2 unet_lr text_encoder_lr network_dropout rank_dropout module_dropout \
        train_double_block_indices train_single_block_indices train_block_indices train_blocks network_reg_dims \
        network_reg_lrs split_qkv ggpo_sigma ggpo_beta down_lr_weight mid_lr_weight up_lr_weight fused_backward_pass \
        fused_optimizer_groups cpu_offload_checkpointing initial_epoch initial_step";
    const ARGUMENTS: [(&str, &[&str]); 2] = [
        ("Adafactor", &["relative_step", "scale_parameter", "warmup_init", "weight_decay"]),
        ("AdamW", &["weight_decay", "betas"]),
    ];
    let page = reference_page(&product(&pipe_nodes::registry()));
    for name in INDEX.split_whitespace() {
        assert!(page.lines().any(|line| line.starts_with(&format!("| `{name}` |"))), "{name}");
    }
    for (optimizer, arguments) in ARGUMENTS {
        let mut rows = page.lines().filter(|line| line.starts_with(&format!("| `{optimizer}` |")));
        assert!(rows.any(|row| arguments.iter().all(|name| row.contains(&format!("`{name}`")))), "{optimizer}");
    }
}
