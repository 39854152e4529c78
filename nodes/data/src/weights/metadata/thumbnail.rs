//! A picture as text: `modelspec.thumbnail` is a data URL.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Largest picture in bytes: it stands in the header of every file, which readers hold in memory.
pub const LARGEST_THUMBNAIL: u64 = 4 << 20;

/// The media type of a picture, by its first bytes.
pub fn image_type(path: &Path) -> Option<&'static str> {
    let mut head = [0; 12];
    let mut file = std::fs::File::open(path).ok()?;
    std::io::Read::read_exact(&mut file, &mut head).ok()?;
    type_of(&head)
}

fn type_of(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// A picture's file as `data:image/png;base64,…`.
pub fn data_url(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path)?;
    let kind = type_of(&bytes).ok_or_else(|| Error::new(ErrorKind::InvalidData, "it is no png, jpg, webp or gif"))?;
    Ok(format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jpg");
        std::fs::write(&path, b"\x89PNG\r\n\x1a\nabcd").unwrap();
        assert_eq!(image_type(&path), Some("image/png"));
        assert_eq!(data_url(&path).unwrap(), "data:image/png;base64,iVBORw0KGgphYmNk");
        std::fs::write(&path, b"no picture at all").unwrap();
        assert_eq!(image_type(&path), None);
        assert!(data_url(&path).is_err() && data_url(&dir.path().join("b")).is_err());
    }
}
