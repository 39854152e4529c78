//! Thousands of mutations of good and bad files: each is refused or read, and nothing panics.
//!
//! The fuzz targets under `fuzz/` do the same for as long as one likes; here the numbers are fixed, so that every run
//! of the tests does the same.

mod common;

use std::fs;
use std::panic::catch_unwind;

use common::{fixture, torch};
use pipe_data::weights::{FileError, fuzz};

/// xorshift64*, Vigna 2016.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len);
        from..from + self.below((len - from).min(64) + 1)
    }

    /// Changes one to four things of `bytes`, with pieces of `other`.
    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            match (self.below(7), bytes.get_mut(at)) {
                (0, Some(byte)) => *byte ^= 1 << self.below(8),
                (1, Some(byte)) => *byte = self.below(256) as u8,
                (2, Some(_)) => {
                    let edge = EDGES[self.below(8)].to_le_bytes();
                    let len = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                    bytes[at..at + len].copy_from_slice(&edge[..len]);
                }
                (3, _) => bytes.truncate(at),
                (4, Some(_)) => drop(bytes.drain(self.range(bytes.len()))),
                (5, Some(_)) => {
                    let piece = bytes[self.range(bytes.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => {
                    let piece = other[self.range(other.len())].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
    }
}

/// Mutates each seed `times` times; `read` must neither panic nor take everything or nothing.
fn mutations(seeds: &[Vec<u8>], times: usize, read: fn(&[u8]) -> Result<(), FileError>) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut refused) = (0, 0);
    for (number, seed) in seeds.iter().enumerate() {
        for time in 0..times {
            let mut bytes = seed.clone();
            let other = &seeds[random.below(seeds.len())];
            random.mutate(&mut bytes, other);
            match catch_unwind(|| read(&bytes)) {
                Ok(Ok(())) => accepted += 1,
                Ok(Err(_)) => refused += 1,
                Err(_) => panic!("seed {number}, mutation {time}: {bytes:02x?}"),
            }
        }
    }
    assert!(accepted > 0 && refused > accepted / 10, "{accepted} accepted, {refused} refused");
}

fn files(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| fs::read(fixture(name)).unwrap()).collect()
}

#[test]
fn of_safetensors() {
    let mut seeds = files(&["pickles/state.safetensors", "pickles/fp8.safetensors", "pickles/lightning.safetensors"]);
    seeds.push(common::file(
        r#"{"__metadata__":{"a":"b"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        &[0; 8],
    ));
    mutations(&seeds, 8000, fuzz::safetensors);
}

#[test]
fn of_whole_checkpoints() {
    let names =
        ["zip.pt", "legacy.pt", "protocol4.pt", "module.bin", "lightning.ckpt", "lightning-legacy.ckpt", "ours.ckpt"];
    mutations(&files(&names.map(|name| format!("pickles/{name}")).each_ref().map(String::as_str)), 4000, fuzz::torch);
}

#[test]
fn of_the_pickle_within_a_zip() {
    let data_pkl = |bytes: Vec<u8>| {
        let from = bytes.windows(3).position(|w| matches!(w, [0x80, 2 | 4, b'c' | b'}' | b'\x95'])).unwrap();
        let to = bytes.windows(4).skip(from).position(|w| w == b"PK\x07\x08").unwrap() + from;
        bytes[from..to].to_vec()
    };
    let names = ["pickles/zip.pt", "pickles/protocol4.pt", "pickles/module.bin", "pickles/lightning.ckpt"];
    let mut seeds: Vec<Vec<u8>> = files(&names).into_iter().map(data_pkl).collect();
    seeds.push(torch::program(&torch::one()));
    mutations(&seeds, 8000, |pickle| {
        let keys: Vec<String> = (0..24).map(|i| i.to_string()).collect();
        let storages: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &[1u8; 700][..])).collect();
        fuzz::torch(&torch::parts(pickle, &storages).bytes())
    });
}

#[test]
fn of_diffusers_files() {
    let mut seeds = files(&["diffusers_dir/unet/config.json", "diffusers_dir/model_index.json"]);
    seeds.push(
        br#"{"weight_map": {"a": "b"}, "unet": ["diffusers", "UNet2DConditionModel"], "_class_name": "X"}"#.to_vec(),
    );
    mutations(&seeds, 8000, fuzz::diffusers);
}
