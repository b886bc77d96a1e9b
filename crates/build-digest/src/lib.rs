//! For build scripts: the digest of a crate's sources, which the crate gives out as its `BUILD`. Answers of another build are other
//! answers, however long the version's number stands still.
//!
//! ```no_run
//! // build.rs
//! fn main() -> std::io::Result<()> {
//!     print!("{}", heterosis_build_digest::instructions(&["src"])?);
//!     Ok(())
//! }
//! ```
//!
//! The crate then has it as `env!("HETEROSIS_BUILD")`.

#![deny(missing_docs)]

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What a build script prints so that Cargo sets the compiler's variable `HETEROSIS_BUILD` to the digest of `Cargo.toml` and of all
/// files in some folders of the package, 32 hexadecimal digits, and runs the script again when one of them changes, comes or goes.
///
/// # Errors
/// A file that cannot be read.
pub fn instructions(folders: &[&str]) -> io::Result<String> {
    let package = Path::new("");
    let files = files(package, folders)?;
    let watched = folders.iter().map(Path::new).chain(files.iter().map(PathBuf::as_path));
    let watched = watched.map(|path| format!("cargo:rerun-if-changed={}\n", path.display()));
    let digest = format!("cargo:rustc-env=HETEROSIS_BUILD={:032x}\n", digest(package, &files)?);
    Ok(watched.chain([digest]).collect())
}

/// By their names in the package, sorted.
fn files(package: &Path, folders: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut files = vec![PathBuf::from("Cargo.toml")];
    for folder in folders {
        add_files(package, Path::new(folder), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn add_files(package: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(package.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        match entry.path().is_dir() {
            true => add_files(package, &path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

fn digest(package: &Path, files: &[PathBuf]) -> io::Result<u128> {
    let mut digest = Fnv::default();
    for file in files {
        digest.update(file.to_string_lossy().as_bytes());
        digest.update(&fs::read(package.join(file))?);
    }
    Ok(digest.0)
}

/// FNV-1a of 128 bits: no accident gives two builds one digest, and a build script needs no dependency for it.
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    /// Some bytes behind their number, so that no file's end can pass for another's beginning.
    fn update(&mut self, bytes: &[u8]) {
        bytes
            .len()
            .to_le_bytes()
            .iter()
            .chain(bytes)
            .for_each(|byte| self.add(*byte));
    }

    fn add(&mut self, byte: u8) {
        self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(sources: &[(&str, &str)]) -> u128 {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("Cargo.toml"), "[package]").unwrap();
        fs::create_dir_all(tmp.path().join("src/inner")).unwrap();
        for (name, text) in sources {
            fs::write(tmp.path().join(name), text).unwrap();
        }
        digest(tmp.path(), &files(tmp.path(), &["src"]).unwrap()).unwrap()
    }

    /// The version's number stood still for 220 commits, and the cache gave answers of another engine.
    #[test]
    fn every_change_of_a_source_is_another_digest() {
        let build = package(&[("src/lib.rs", "a"), ("src/inner/b.rs", "b")]);
        assert_eq!(build, package(&[("src/inner/b.rs", "b"), ("src/lib.rs", "a")]));
        for other in [
            package(&[("src/lib.rs", "a"), ("src/inner/b.rs", "c")]),
            package(&[("src/lib.rs", "ab"), ("src/inner/b.rs", "")]),
            package(&[("src/lib.rs", "a"), ("src/b.rs", "b")]),
            package(&[("src/lib.rs", "a"), ("src/inner/b.rs", "b"), ("src/new.rs", "")]),
        ] {
            assert_ne!(build, other);
        }
    }

    /// The published vector of 128 bits for "a" (draft-eastlake-fnv).
    #[test]
    fn the_digest_is_fnv_1a() {
        let mut digest = Fnv::default();
        digest.add(b'a');
        assert_eq!(digest.0, 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
