//! Images are found, decoded, resized and written as Pillow and OpenCV do; broken ones are refused.

use std::fs;
use std::path::{Path, PathBuf};

use pipe_data::images::{
    self, Filter, ImageError, MAX_PIXELS, Rgb8, caption_candidates, caption_text, decode, decode_alpha, from_tensor,
    png, probe, probe_whole, read_caption, resize, resize_with, scan, to_tensor,
};
use serde_json::Value as Json;

fn here(name: &str) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/images").join(name)
}

fn expected() -> Json {
    serde_json::from_slice(&fs::read(here("expected.json")).unwrap()).unwrap()
}

fn pixels(json: &Json) -> Vec<u8> {
    json.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u8).collect()
}

fn size(json: &Json) -> (usize, usize) {
    (json[0].as_u64().unwrap() as usize, json[1].as_u64().unwrap() as usize)
}

fn pattern(width: usize, height: usize) -> Rgb8 {
    let mut image = Rgb8::new(width, height);
    for (i, x) in image.pixels.iter_mut().enumerate() {
        let (x_at, y, c) = (i / 3 % width, i / 3 / width, i % 3);
        *x = ((37 * x_at + 71 * y + 101 * c + 13 * x_at * y) % 256) as u8;
    }
    image
}

#[test]
fn every_colour_kind_decodes_as_in_pillow() {
    let expected = expected();
    let files = expected["files"].as_object().unwrap();
    assert!(files.len() >= 15);
    for (name, json) in files {
        let path = here(name);
        let (width, height) = size(&json["size"]);
        assert_eq!(probe(&path).unwrap(), (width as u32, height as u32), "{name}");
        assert_eq!(probe_whole(&path).unwrap().width, width as u32, "{name}");
        let image = decode(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((image.width, image.height), (width, height), "{name}");
        // Lossy decoders may round differently, above all where chroma is interpolated.
        let allowed = match name.rsplit('.').next() {
            Some("jpg" | "jpeg") => 4,
            Some("webp") if name == "smooth.webp" => 4,
            _ => 0,
        };
        for (i, (ours, theirs)) in image.pixels.iter().zip(pixels(&json["pixels"])).enumerate() {
            assert!(ours.abs_diff(theirs) <= allowed, "{name} at {i}: {ours} for {theirs}");
        }
    }
}

#[test]
fn alpha_is_read_where_there_is_some() {
    let made: Vec<u8> = (0..35u32).map(|i| (7 * i % 256) as u8).collect();
    for name in ["rgba.png", "grey-alpha.png", "lossless-alpha.webp"] {
        let alpha = decode_alpha(here(name)).unwrap().unwrap();
        assert_eq!((alpha.width, alpha.height), (7, 5), "{name}");
        let grey: Vec<u8> = made.iter().flat_map(|&a| [a; 3]).collect();
        assert_eq!(alpha.pixels, grey, "{name}");
        let mask: Vec<f32> = made.iter().map(|&a| f32::from(a) / 255.0).collect();
        assert_eq!(images::to_mask(&alpha), mask);
    }
    for name in ["rgb.png", "grey.jpg", "rgb.bmp", "palette.png"] {
        assert_eq!(decode_alpha(here(name)).unwrap(), None, "{name}");
    }
    assert!(decode_alpha(here("none.png")).is_err());
    let stems = images::by_stem(here("")).unwrap();
    assert_eq!(stems["grey"].len(), 2, "grey.jpg and grey.png");
    assert!(!stems.contains_key("expected"));
}

#[test]
fn a_file_that_is_cut_short_is_told_without_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let files = expected()["files"].as_object().unwrap().clone();
    let mut formats = std::collections::BTreeSet::new();
    for name in files.keys() {
        let bytes = fs::read(here(name)).unwrap();
        let cut = dir.path().join(name);
        fs::write(&cut, &bytes[..bytes.len() * 3 / 4]).unwrap();
        // Some are so short that three quarters lack their header.
        if probe(&cut).is_err() {
            continue;
        }
        let error = probe_whole(&cut).unwrap_err();
        assert!(error.to_string().ends_with("is damaged: it ends before its last row"), "{name}: {error}");
        formats.insert(name.rsplit('.').next().unwrap().to_owned());
        // What is written behind an image does not hide its end.
        fs::write(&cut, [&bytes[..], &[7; 100_000]].concat()).unwrap();
        assert!(probe_whole(&cut).is_ok(), "{name}");
    }
    assert!(["png", "jpg", "webp", "bmp"].iter().all(|format| formats.contains(*format)), "{formats:?}");
}

#[test]
fn images_that_are_passed_over_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["a.png", "b.TIFF", "c.gif", "notes.txt", "b.txt"] {
        fs::write(at(name), "").unwrap();
    }
    for (folder, inner) in [("more", "d.jpg"), ("empty", "readme.md")] {
        fs::create_dir(at(folder)).unwrap();
        fs::write(at(folder).join(inner), "").unwrap();
    }
    assert_eq!(images::unread(dir.path()).unwrap(), ["b.TIFF", "c.gif", "more/"]);
}

#[test]
fn resizing_is_that_of_opencv_and_pillow() {
    let mut filters = std::collections::BTreeSet::new();
    for case in expected()["resize"].as_array().unwrap() {
        let (from, to) = (size(&case["from"]), size(&case["to"]));
        let (filter, allowed) = match case["filter"].as_str().unwrap() {
            "area" => (Filter::Area, 1),
            "bilinear" => (Filter::Bilinear, 1),
            "bicubic" => (Filter::Bicubic, 1),
            "nearest" => (Filter::Nearest, 0),
            "box" => (Filter::Box, 0),
            _ => (Filter::Lanczos, 0),
        };
        filters.insert(case["filter"].to_string());
        let ours = resize_with(&pattern(from.0, from.1), to.0, to.1, filter);
        for (i, (ours, theirs)) in ours.pixels.iter().zip(pixels(&case["pixels"])).enumerate() {
            assert!(ours.abs_diff(theirs) <= allowed, "{case} at {i}: {ours} for {theirs}");
        }
    }
    assert_eq!(filters.len(), 6, "{filters:?}");
    assert_eq!(Filter::automatic((8, 8), (8, 4)), Filter::Area);
    assert_eq!(Filter::automatic((8, 8), (9, 4)), Filter::Lanczos);
    let image = pattern(4, 4);
    assert_eq!(resize(&image, 4, 4), image);
    let flat = Rgb8 { width: 50, height: 31, pixels: vec![77; 50 * 31 * 3] };
    for (w, h) in [(7, 9), (50, 31), (49, 30), (64, 33), (1, 1)] {
        assert!(resize(&flat, w, h).pixels.iter().all(|x| *x == 77), "{w}×{h}");
    }
    assert_eq!(resize(&Rgb8::new(0, 0), 2, 2), Rgb8::new(2, 2));
}

#[test]
fn crops_flips_and_tensors() {
    let image = pattern(5, 3);
    let middle = image.centre_crop(2, 2);
    assert_eq!(middle, image.crop(1, 0, 2, 2));
    assert_eq!(middle.row(1), &image.row(1)[3..9]);
    assert_eq!(image.flipped().flipped(), image);
    assert_eq!(image.flipped().row(0)[..3], image.row(0)[12..]);
    assert_eq!(image.crop(4, 2, 3, 3).row(0)[..3], image.row(2)[12..]);
    let tensor = to_tensor(&image);
    assert_eq!(tensor.len(), 45);
    assert_eq!(tensor[15 + 7], (f32::from(image.pixels[3 * 7 + 1]) / 255.0 - 0.5) / 0.5);
    assert!(tensor.iter().all(|x| (-1.0..=1.0).contains(x)));
    assert_eq!(from_tensor(&tensor, 5, 3), image);
    assert_eq!(from_tensor(&[2.0, f32::NAN], 1, 2).pixels, [255, 0, 0, 0, 0, 0]);
    assert_eq!(image.resized((3, 2), None), resize(&image, 3, 2));
    assert_eq!(image.resized((9, 2), Some(Filter::Box)), resize_with(&image, 9, 2, Filter::Box));
}

#[test]
fn colours_turn_as_in_opencv() {
    let image = pattern(9, 6);
    let grey = Rgb8 { width: 2, height: 1, pixels: vec![7, 7, 7, 200, 200, 200] };
    for case in expected()["colour"].as_array().unwrap() {
        let amount = case["amount"].as_f64().unwrap() as f32;
        let hue = case["kind"] == "hue";
        let change = |image: &Rgb8| if hue { image.with_hue_turned(amount) } else { image.with_gamma(amount) };
        for (i, (ours, theirs)) in change(&image).pixels.iter().zip(pixels(&case["pixels"])).enumerate() {
            assert!(ours.abs_diff(theirs) <= 1, "{case} at {i}: {ours} for {theirs}");
        }
        assert!(!hue || change(&grey) == grey);
    }
    assert_eq!(image.with_hue_turned(360.0), image);
    assert_eq!(image.with_gamma(1.0), image);
    // The whole range is kept; sd-scripts' gamma makes 193 of white.
    let ends = Rgb8 { width: 1, height: 1, pixels: vec![0, 128, 255] };
    assert_eq!(ends.with_gamma(0.95).pixels, [0, 132, 255]);
}

#[test]
fn broken_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    for name in ["rgb.png", "palette.png", "smooth.jpg", "progressive.jpeg", "lossless.webp", "smooth.webp", "rgb.bmp"]
    {
        let whole = fs::read(here(name)).unwrap();
        for cut in (0..whole.len() - 12).step_by(7) {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(decode(&path).is_err(), "{name} cut at {cut}");
        }
        // Any single wrong byte may change colours, but must not panic.
        for at in (0..whole.len()).step_by(3) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            fs::write(&path, &bytes).unwrap();
            let _ = decode(&path);
        }
    }
    let mut bomb = fs::read(here("rgb.png")).unwrap();
    bomb[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    fs::write(&path, &bomb).unwrap();
    assert!(matches!(decode(&path), Err(ImageError::TooLarge { width: 65535, .. })));
    const { assert!(65535u64 * 65535 > MAX_PIXELS) };
    fs::write(&path, b"").unwrap();
    assert!(probe(&path).unwrap_err().to_string().ends_with("it is empty"));
    fs::write(&path, b"GIF89a.......................").unwrap();
    assert!(matches!(probe(&path), Err(ImageError::UnknownFormat { empty: false, .. })));
    assert!(matches!(probe(folder.path().join("none.png")), Err(ImageError::Missing { .. })));
    // The name says nothing; the bytes do.
    fs::copy(here("smooth.jpg"), &path).unwrap();
    assert_eq!(decode(&path).unwrap().width, 28);
}

#[test]
fn folders_are_scanned_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["b.PNG", "a.jpg", "a.png", "c.webp", "notes.txt", "f_1_20_30_40.jpeg", "deep", "d.gif"] {
        fs::write(at(name), b"x").unwrap();
    }
    fs::create_dir(at("inner.png")).unwrap();
    fs::write(at("a.txt"), "one").unwrap();
    fs::write(at("a.caption"), "two").unwrap();
    fs::write(at("f.txt"), "face").unwrap();
    let found = scan(folder.path(), &[".caption", "txt"]).unwrap();
    let names: Vec<(String, Option<String>)> = found
        .iter()
        .map(|e| {
            let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
            (name(&e.path), e.caption_path.as_deref().map(name))
        })
        .collect();
    let pair = |image: &str, caption: Option<&str>| (image.to_owned(), caption.map(str::to_owned));
    assert_eq!(
        names,
        [
            pair("a.jpg", Some("a.caption")),
            pair("a.png", Some("a.caption")),
            pair("b.PNG", None),
            pair("c.webp", None),
            pair("f_1_20_30_40.jpeg", Some("f.txt")),
            // Not an image, but not to be passed over in silence either.
            pair("inner.png", None),
        ]
    );
    let said = |name: &str| probe(at(name)).unwrap_err().to_string();
    assert!(said("inner.png").ends_with("inner.png` is a folder, not a file"), "{}", said("inner.png"));
    assert_eq!(caption_candidates(folder.path()).unwrap(), ["caption", "txt"]);
    assert!(matches!(scan(at("a.txt"), &["txt"]), Err(ImageError::NotFolder { .. })));
    assert!(matches!(scan(at("none"), &["txt"]), Err(ImageError::Missing { .. })));
}

#[cfg(unix)]
#[test]
fn links_to_nothing_and_pipes_are_listed_and_refused_at_once() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    symlink(at("gone"), at("dangling.png")).unwrap();
    symlink(at("loop.png"), at("loop.png")).unwrap();
    fs::copy(here("smooth.jpg"), at("whole.jpg")).unwrap();
    symlink(at("whole.jpg"), at("linked.jpg")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(at("pipe.png")).status().unwrap().success());
    let found = scan(folder.path(), &["txt"]).unwrap();
    assert_eq!(found.len(), 5, "{found:?}");
    let said = |name: &str| probe(at(name)).unwrap_err().to_string();
    assert!(said("dangling.png").ends_with("is a link to nothing"), "{}", said("dangling.png"));
    assert!(said("loop.png").contains("cannot be read"), "{}", said("loop.png"));
    assert!(said("pipe.png").ends_with("is a pipe or a device, not a file"), "{}", said("pipe.png"));
    assert!(decode(at("pipe.png")).is_err());
    assert_eq!(probe(at("linked.jpg")).unwrap(), probe(at("whole.jpg")).unwrap());
}

#[test]
fn captions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    fs::write(&path, b"\xef\xbb\xbf a cat \r\n\n  a dog\n").unwrap();
    let text = read_caption(&path).unwrap();
    assert_eq!(caption_text(&text, false), "a cat");
    assert_eq!(caption_text(&text, true), "a cat\na dog");
    // A blank line above is no empty caption.
    assert_eq!(caption_text("\r\n \na cat, tall\na dog", false), "a cat, tall");
    fs::write(&path, b"caf\xe9").unwrap();
    assert!(matches!(read_caption(&path), Err(ImageError::NotUtf8 { at: 3, .. })));
    fs::write(&path, b"\xef\xbb\xbf \n").unwrap();
    assert!(matches!(read_caption(&path), Err(ImageError::EmptyCaption { .. })));
}

#[test]
fn previews_are_written_with_their_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sheet.png");
    let labels = ["step 0".to_owned(), "a label that is too long".to_owned(), "\u{732b}".to_owned()];
    let sheet = png::grid(&[pattern(64, 48), pattern(32, 16), pattern(64, 48)], 2, Some(&labels));
    assert_eq!((sheet.width, sheet.height), (4 + 2 * 68, 4 + 2 * (48 + 11 + 4)));
    assert_eq!(sheet.crop(4, 4, 64, 48), pattern(64, 48));
    assert_eq!(png::grid(&[], 3, None), Rgb8 { width: 4 + 4, height: 4, pixels: vec![24; 8 * 4 * 3] });
    let parameters = png::Parameters {
        prompt: "a caf\u{e9}".into(),
        negative_prompt: "blurry".into(),
        steps: Some(20),
        guidance: Some(7.5),
        seed: Some(42),
        size: Some((64, 48)),
        ..Default::default()
    };
    let text = parameters.text();
    assert_eq!(text, "a caf\u{e9}\nNegative prompt: blurry\nSteps: 20, CFG scale: 7.5, Seed: 42, Size: 64x48");
    png::write(&path, &sheet, &[("parameters", &text), ("note", "\u{732b}")]).unwrap();
    assert_eq!(decode(&path).unwrap(), sheet);
    let bytes = fs::read(&path).unwrap();
    let has = |wanted: &[u8]| bytes.windows(wanted.len()).any(|w| w == wanted);
    assert!(has(b"tEXtparameters\0a caf\xe9\n") && has(b"iTXtnote"));
    assert_eq!(images::content_hash(&path).unwrap(), *blake3::hash(&bytes).as_bytes());
}
