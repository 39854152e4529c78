//! `config.json` beside weights: used when it is there, an error when it cannot be read.

mod common;

use std::fs;

use common::fixture;
use pipe_data::weights::{Component, FileError, component};

#[test]
fn a_config_that_cannot_be_read_is_an_error_and_a_missing_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        fixture("diffusers_dir/vae/diffusion_pytorch_model.safetensors"),
        folder.path().join("diffusion_pytorch_model.safetensors"),
    )
    .unwrap();
    assert!(component(folder.path(), Component::Vae).unwrap().config.is_none());
    let config = folder.path().join("config.json");
    fs::write(&config, "{\"norm_num_groups\": 8}").unwrap();
    assert_eq!(component(folder.path(), Component::Vae).unwrap().config.unwrap()["norm_num_groups"], 8);
    for (bytes, wanted) in [
        (&b"{\"norm_num_groups\": 8"[..], "not valid JSON"),
        (b"[]", "no table of settings"),
        (b"\xff\xfe", "not valid JSON"),
    ] {
        fs::write(&config, bytes).unwrap();
        let error = component(folder.path(), Component::Vae).unwrap_err();
        assert!(matches!(&error, FileError::BadJson { path, .. } if *path == config), "{error:?}");
        assert!(
            error.to_string().contains("config.json` is damaged: ") && error.to_string().contains(wanted),
            "{error}"
        );
    }
    fs::remove_file(&config).unwrap();
    fs::create_dir(&config).unwrap();
    assert!(matches!(component(folder.path(), Component::Vae), Err(FileError::IsFolder { .. })));
}
