//! One line of a journal: a record as JSON, and a checksum as its last field.
//!
//! The checksum is over the bytes before it, so that a flipped bit is found whether or not what it makes is JSON. Lines of
//! journals from before there were checksums have none, and are taken as they are.

use serde::Deserialize;

use crate::event::{Record, SCHEMA_VERSION};

const CHECK: &[u8] = b",\"check\":\"";
/// Hex digits of a checksum: 32 bits.
const DIGITS: usize = 8;
/// From the comma to the closing brace.
const SUFFIX: usize = CHECK.len() + DIGITS + 2;

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Damaged(String),
    /// Of a heterosis that is newer than this one.
    Newer(u32),
    /// Whole, as its checksum says, and still nothing that this heterosis knows: what it does not know.
    Unknown(String),
}

/// A record and whether a checksum vouches for it.
pub struct Line {
    pub record: Record,
    pub is_checked: bool,
}

/// The line of a record, newline included.
pub fn encode(record: &Record) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).expect("an event is plain data");
    line.pop(); // the closing brace
    let check = checksum(&line);
    line.extend(CHECK);
    line.extend(check.as_bytes());
    line.extend(b"\"}\n");
    line
}

/// What the lines of a journal have in common, as far as it was read: which record comes next, and whether checksums vouch
/// for them.
#[derive(Debug, Default)]
pub struct Order {
    /// Position of the next record.
    pub seq: u64,
    is_checked: bool,
}

impl Order {
    /// Reads the next line. Each is whole by itself where lines are missing, stand there twice or in another order, so a
    /// record has to be the one that belongs there.
    pub fn next(&mut self, line: &[u8]) -> Result<Record, Fault> {
        let Line { record, is_checked } = decode(line, self.is_checked)?;
        if record.seq != self.seq {
            return Err(Fault::Damaged(format!(
                "record {} stands where record {} belongs: lines are missing, stand there twice or in another order",
                record.seq, self.seq
            )));
        }
        self.is_checked |= is_checked;
        self.seq = self.seq.saturating_add(1);
        Ok(record)
    }
}

/// Reads a line, with or without its newline. Where lines before it have checksums, it must have one.
pub fn decode(line: &[u8], must_be_checked: bool) -> Result<Line, Fault> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let is_checked = match split(line) {
        Some((body, check)) if checksum(body).as_bytes() == check => true,
        Some(_) => return Err(Fault::Damaged("its checksum is another".into())),
        None => false,
    };
    let fault = |reason: String| match newer(line) {
        Some(version) => Fault::Newer(version),
        None if is_checked => Fault::Unknown(reason),
        None => Fault::Damaged(reason),
    };
    let record: Record = serde_json::from_slice(line).map_err(|e| fault(e.to_string()))?;
    if record.schema_version > SCHEMA_VERSION {
        return Err(Fault::Newer(record.schema_version));
    }
    if must_be_checked && !is_checked {
        return Err(Fault::Damaged("it has no checksum, and lines before it have".into()));
    }
    Ok(Line { record, is_checked })
}

/// What stands before the checksum, and the checksum.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (body, suffix) = line.split_at_checked(line.len().checked_sub(SUFFIX)?)?;
    let digits = suffix.strip_prefix(CHECK)?.strip_suffix(b"\"}")?;
    Some((body, digits))
}

fn checksum(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..DIGITS].to_string()
}

/// The schema version of a line that cannot be read otherwise, if it is a newer one.
fn newer(line: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Versioned {
        schema_version: u32,
    }
    let versioned: Versioned = serde_json::from_slice(line).ok()?;
    (versioned.schema_version > SCHEMA_VERSION).then_some(versioned.schema_version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Level};

    fn record() -> Record {
        Record {
            schema_version: SCHEMA_VERSION,
            seq: 3,
            time_ms: 5,
            event: Event::Log {
                level: Level::Info,
                message: "0.25 of 4 \"quoted\"".into(),
            },
        }
    }

    #[test]
    fn a_line_is_plain_json_with_a_checksum_at_its_end() {
        let line = encode(&record());
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["schema_version"], 1);
        assert_eq!(value["check"].as_str().unwrap().len(), DIGITS);
        let read = decode(&line, true).unwrap();
        assert!(read.is_checked);
        assert_eq!(read.record, record());
    }

    /// An event of a later version was called damage, and cutting it off the way out.
    #[test]
    fn what_is_whole_and_not_known_is_no_damage() {
        let of_later = br#"{"schema_version":1,"seq":3,"time_ms":5,"event":"dreamt","of":"sheep""#;
        let check = checksum(of_later);
        let line = [of_later.as_slice(), CHECK, check.as_bytes(), b"\"}\n"].concat();
        let fault = decode(&line, true).err().unwrap();
        assert!(
            matches!(&fault, Fault::Unknown(reason) if reason.contains("dreamt")),
            "{fault:?}"
        );
        let unchecked = [of_later.as_slice(), b"}\n"].concat();
        assert!(matches!(decode(&unchecked, false), Err(Fault::Damaged(_))));
    }

    /// Six of ten bytes that were changed in the middle of a journal went unseen: a digit of a score, a letter of a name.
    #[test]
    fn no_changed_bit_goes_unseen() {
        let line = encode(&record());
        for at in 0..line.len() - 1 {
            for bit in 0..8 {
                let mut changed = line.clone();
                changed[at] ^= 1 << bit;
                assert!(decode(&changed, true).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_line_from_before_there_were_checksums_is_read() {
        let line = serde_json::to_vec(&record()).unwrap();
        assert_eq!(decode(&line, false).unwrap().record, record());
        assert!(matches!(decode(&line, true), Err(Fault::Damaged(_))));
    }

    /// A journal of schema version 2 was read as one of version 1.
    #[test]
    fn a_newer_schema_is_told_from_damage() {
        let known = r#"{"schema_version":2,"seq":0,"time_ms":1,"event":"log","level":"info","message":"x"}"#;
        let unknown = r#"{"schema_version":7,"position":0,"what":{"danced":true}}"#;
        assert!(matches!(decode(known.as_bytes(), false), Err(Fault::Newer(2))));
        assert!(matches!(decode(unknown.as_bytes(), false), Err(Fault::Newer(7))));
        assert!(matches!(decode(br#"{"event":"dance"}"#, false), Err(Fault::Damaged(_))));
    }
}
