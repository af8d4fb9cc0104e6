//! The hash by which a run knows its data again.

use std::path::Path;

use crate::Error;

/// BLAKE3 of some bytes, in hexadecimal.
pub fn hash_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// BLAKE3 of a file, in hexadecimal.
///
/// # Errors
/// If the file cannot be read.
pub fn file_hash(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        source,
    })?;
    Ok(hash_bytes(&bytes))
}
