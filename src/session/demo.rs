//! The demo: the tiny family, its examination and its search space travel inside the program.
//!
//! They are the files of the repository, byte for byte, so `heterosis demo` and `search-spaces/demo.yaml` breed the same
//! children. They are unpacked into the user's cache, since models are opened as files; whatever lies there is compared
//! with what the program holds before it is used.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{Error, complete};
use crate::space::Space;

/// Path below the repository's root, and content.
type Embedded = (&'static str, &'static [u8]);

macro_rules! embedded {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_bytes!(concat!("../../", $path)))),*]
    };
}

const SPACE: &str = "search-spaces/demo.yaml";

const FILES: [Embedded; 23] = embedded![
    "search-spaces/demo.yaml",
    "evals/arith-es.yaml",
    "evals/data/arith-es-search.jsonl",
    "evals/data/arith-es-selection.jsonl",
    "evals/data/arith-es-test.jsonl",
    "models/tiny-base/README.md",
    "models/tiny-base/config.json",
    "models/tiny-base/generation_config.json",
    "models/tiny-base/model.safetensors",
    "models/tiny-base/tokenizer.json",
    "models/tiny-base/tokenizer_config.json",
    "models/tiny-maths-en/README.md",
    "models/tiny-maths-en/config.json",
    "models/tiny-maths-en/generation_config.json",
    "models/tiny-maths-en/model.safetensors",
    "models/tiny-maths-en/tokenizer.json",
    "models/tiny-maths-en/tokenizer_config.json",
    "models/tiny-spanish/README.md",
    "models/tiny-spanish/config.json",
    "models/tiny-spanish/generation_config.json",
    "models/tiny-spanish/model.safetensors",
    "models/tiny-spanish/tokenizer.json",
    "models/tiny-spanish/tokenizer_config.json",
];

/// The demo's search space, its models and task unpacked below a folder that keeps what can be made again.
///
/// # Errors
/// They cannot be written there.
pub fn demo_space(cache: &Path) -> Result<Space, Error> {
    let home = unpack(&FILES, cache)?;
    let home = std::path::absolute(&home).map_err(Error::io(&home))?;
    let file = home.join(SPACE);
    let mut space = Space::read(&file)?;
    let models = space.models.iter_mut().map(|(_, word)| word);
    for word in models.chain(space.fitness.tasks.iter_mut().map(|task| &mut task.task)) {
        *word = home.join(&*word).display().to_string();
    }
    complete(space, &file)
}

/// A folder with these files, whole or not at all; its name holds their digest, so other versions have others.
fn unpack(files: &[Embedded], cache: &Path) -> Result<PathBuf, Error> {
    let home = cache.join(format!("demo-{}", &digest(files)[..12]));
    if is_whole(files, &home) {
        return Ok(home);
    }
    fs::create_dir_all(cache).map_err(Error::io(cache))?;
    let beside = || -> io::Result<tempfile::TempDir> {
        let readable = fs::Permissions::from_mode(0o777);
        tempfile::Builder::new()
            .permissions(readable)
            .prefix(".demo-")
            .tempdir_in(cache)
    };
    let fresh = beside().map_err(Error::io(cache))?;
    write(files, fresh.path()).map_err(Error::io(fresh.path()))?;
    if fs::rename(fresh.path(), &home).is_ok() || is_whole(files, &home) {
        return Ok(home); // the second: somebody else was faster
    }
    // What lies there is damaged: out of the way with it, in one step again.
    let old = beside().map_err(Error::io(cache))?;
    let replace = || fs::rename(&home, old.path().join("damaged")).and_then(|()| fs::rename(fresh.path(), &home));
    match replace() {
        Err(_) if is_whole(files, &home) => Ok(home),
        replaced => replaced.map(|()| home.clone()).map_err(Error::io(home)),
    }
}

fn digest(files: &[Embedded]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in files.iter().flat_map(|(path, content)| [path.as_bytes(), content]) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex().to_string()
}

fn is_whole(files: &[Embedded], home: &Path) -> bool {
    let is_there = |(path, content): &Embedded| fs::read(home.join(path)).is_ok_and(|there| there == *content);
    files.iter().all(is_there)
}

fn write(files: &[Embedded], home: &Path) -> io::Result<()> {
    for (path, content) in files {
        let path = home.join(path);
        fs::create_dir_all(path.parent().unwrap_or(home))?;
        let mut file = fs::File::create(&path)?;
        file.write_all(content)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::read_space;

    const SMALL: [Embedded; 2] = [("a.yaml", b"a: 1\n"), ("b/c.bin", &[0, 1, 2])];

    /// An unpacking that was killed, or a file that somebody edited, must not become the demo's model.
    #[test]
    fn what_is_unpacked_is_whole() {
        let cache = tempfile::tempdir().unwrap();
        let home = unpack(&SMALL, &cache.path().join("made")).unwrap();
        let text = |home: &Path| fs::read_to_string(home.join("a.yaml")).unwrap();
        assert_eq!(text(&home), "a: 1\n");
        fs::write(home.join("a.yaml"), "a: 2\n").unwrap();
        fs::remove_file(home.join("b/c.bin")).unwrap();
        assert_eq!(unpack(&SMALL, &cache.path().join("made")).unwrap(), home);
        assert!(is_whole(&SMALL, &home));
        let left = fs::read_dir(cache.path().join("made")).unwrap().count();
        assert_eq!(left, 1, "nothing else stays in the cache");
        let other = unpack(&SMALL[..1], &cache.path().join("made")).unwrap();
        assert_ne!(other, home, "another version has another place");
    }

    /// The demo lived in the checkout only; what an installed program unpacks must be the same search.
    #[test]
    fn the_demo_is_the_search_of_the_checkout() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cache = tempfile::tempdir().unwrap();
        let embedded = demo_space(cache.path()).unwrap();
        let checkout = read_space(&root.join(SPACE)).unwrap();
        let home = unpack(&FILES, cache.path()).unwrap();
        let moved = embedded
            .to_yaml()
            .replace(&*home.to_string_lossy(), &root.to_string_lossy());
        assert_eq!(moved, checkout.to_yaml());
        for (path, content) in FILES {
            assert!(fs::read(root.join(path)).unwrap() == content, "{path}");
        }
        let bytes: usize = FILES.iter().map(|(_, content)| content.len()).sum();
        assert!(bytes < 8_000_000, "{bytes} bytes in the program");
    }
}
