//! A digest of the sources that compute, which the crate gives out as `BUILD`: answers of another build are not these,
//! however long the version's number stands still.
//!
//! The same file stands in each crate that has a part in an answer: a build script must lie in its own package.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where this package's sources lie that have a part in an answer.
const SOURCES: &str = "src";

fn main() -> io::Result<()> {
    let mut files = vec![PathBuf::from("Cargo.toml")];
    add_files(Path::new(SOURCES), &mut files)?;
    files.sort();
    let mut digest = Fnv::default();
    for file in &files {
        digest.update(file.to_string_lossy().as_bytes());
        digest.update(&fs::read(file)?);
        println!("cargo:rerun-if-changed={}", file.display());
    }
    // Its time changes when a file comes or goes.
    println!("cargo:rerun-if-changed={SOURCES}");
    println!("cargo:rustc-env=HETEROSIS_BUILD={:032x}", digest.0);
    Ok(())
}

fn add_files(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => add_files(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

/// FNV-1a of 128 bits: no accident gives two builds one digest, and a build script needs no dependency for it.
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes.len().to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }
}
