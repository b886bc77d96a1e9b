//! Files that somebody else wrote, opened without trusting what they are: a named pipe would wait for ever, `/dev/zero`
//! never ends, and a text that is larger than any of its kind fills the memory before it is known to be wrong.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The most that `config.json` and other small JSON files may hold: 16 MiB; the largest published have some hundred KB.
pub(crate) const CONFIG_LIMIT: u64 = 16 << 20;
/// The most that an index of shards may hold: 32 MiB; a model of 100,000 tensors has one of 10 MB.
pub(crate) const INDEX_LIMIT: u64 = 32 << 20;
/// The most that `tokenizer.json` and other texts beside a model may hold: 128 MiB; the largest published have 35 MB.
pub const TEXT_LIMIT: u64 = 128 << 20;

/// Opens a regular file; links to one are followed.
///
/// **Errors**: also a directory, a pipe, a socket or a device, without opening it.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_file() {
        return File::open(path);
    }
    Err(match kind.is_dir() {
        true => ErrorKind::IsADirectory.into(),
        false => io::Error::new(ErrorKind::InvalidInput, "it is a pipe or a device, not a file"),
    })
}

/// The bytes of a regular file of at most `limit` bytes.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    read_at_most(open_regular(path)?, limit)
}

/// The text of a regular file of at most `limit` bytes.
pub fn read_regular_text(path: &Path, limit: u64) -> io::Result<String> {
    into_text(read_regular(path, limit)?)
}

/// The text of whatever a user named, a pipe too, of at most `limit` bytes.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    into_text(read_at_most(File::open(path)?, limit)?)
}

fn read_at_most(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata().map_or(0, |m| m.len()).min(limit);
    let mut bytes = Vec::with_capacity(size as usize + 1);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("it holds more than {limit} bytes, the most that such a file may have");
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(bytes)
}

fn into_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        io::Error::new(
            ErrorKind::InvalidData,
            format!("it is not valid UTF-8 (at its byte {at})"),
        )
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// `heterosis perplexity` waited for ever on a model whose config.json was a named pipe, and filled the memory from
    /// one that led to `/dev/zero`.
    #[test]
    fn pipes_and_devices_are_refused_and_sizes_bounded() {
        let home = tempfile::tempdir().unwrap();
        let pipe = home.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let zero = home.path().join("zero");
        std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
        for odd in [&pipe, &zero] {
            let error = read_regular(odd, 10).unwrap_err();
            assert!(error.to_string().contains("a pipe or a device"), "{error}");
        }
        assert_eq!(
            read_regular(home.path(), 10).unwrap_err().kind(),
            ErrorKind::IsADirectory
        );
        let error = read_text(&zero, 1000).unwrap_err();
        assert!(error.to_string().contains("more than 1000 bytes"), "{error}");
        let file = home.path().join("file");
        std::fs::write(&file, "1234").unwrap();
        assert_eq!(read_regular(&file, 4).unwrap(), b"1234");
        assert!(read_regular(&file, 3).is_err());
        std::fs::write(&file, b"a\xff").unwrap();
        assert!(read_regular_text(&file, 9).unwrap_err().to_string().contains("byte 1"));
    }
}
