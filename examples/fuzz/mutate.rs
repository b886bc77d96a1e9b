//! Mutations that know what files look like: numbers stay numbers, strings stay strings, brackets come in pairs, and the
//! fields of binary headers are written whole. A mutated file gets past the first check, to where the second one is missing.

/// SplitMix64: an input is known by its seed, so a finding is two numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Numbers at which programs break.
const NUMBERS: [&str; 27] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "255",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "0.0",
    "-0.0",
    "0.5",
    "1e-320",
    "1e308",
    "-1e308",
    "1e999",
    ".nan",
    ".inf",
    "99999999999999999999999999",
];

const STRINGS: [&str; 24] = [
    "",
    " ",
    "null",
    "true",
    "../../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "\\u0000",
    "\\u001b[2J",
    "\\n",
    "%s%n",
    "{{ x }}",
    "model.layers.4294967295.mlp.up_proj.weight",
    "model.layers.0.x",
    "é",
    "日本語",
    "\\ud800",
    "(((((a*)*)*)*)*)",
    "base",
    "union",
    "hf:a/b",
    "-----",
];

/// Words that some reader knows.
const WORDS: [&str; 31] = [
    "model",
    "base",
    "weight",
    "F32",
    "BF16",
    "F16",
    "I64",
    "llama",
    "gemma3_text",
    "smollm3",
    "phi3",
    "qwen2",
    "linear",
    "dynamic",
    "yarn",
    "llama3",
    "longrope",
    "ties",
    "dare_ties",
    "slerp",
    "passthrough",
    "layer_swap",
    "pareto",
    "nsga2",
    "gp",
    "jsonl",
    "tsv",
    "lines",
    "regex",
    "candidate_scored",
    "run_started",
];

/// One input made of a seed file; `others` lend pieces.
pub fn mutate(seed: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        once(&mut bytes, others, random);
    }
    bytes.truncate(1 << 20);
    bytes
}

fn once(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    match random.below(16) {
        0..=3 => replace_number(bytes, random),
        4..=6 => replace_string(bytes, random),
        7 => swap_strings(bytes, random),
        8 => repeat_group(bytes, random),
        9 => remove_range(bytes, random),
        10 => nest(bytes, random),
        11 => field(bytes, random),
        12 => splice(bytes, others, random),
        13 => {
            let at = random.below(bytes.len() + 1);
            bytes.truncate(at);
        }
        14 => insert(bytes, random),
        _ => flip(bytes, random),
    }
}

/// A piece of a file that begins where `is_start` says and goes on while `goes_on` does, from a random place on.
fn piece(
    bytes: &[u8],
    random: &mut Random,
    is_start: impl Fn(u8) -> bool,
    end: impl Fn(&[u8]) -> Option<usize>,
) -> Option<std::ops::Range<usize>> {
    let from = random.below(bytes.len());
    let around = (from..bytes.len()).chain(0..from);
    let start = around.take(4096).find(|&i| is_start(bytes[i]))?;
    Some(start..start + end(&bytes[start..])?)
}

fn number(bytes: &[u8], random: &mut Random) -> Option<std::ops::Range<usize>> {
    let is_part = |b: &u8| b.is_ascii_digit() || b".-+eE".contains(b);
    piece(
        bytes,
        random,
        |b| b.is_ascii_digit(),
        |rest| Some(rest.iter().position(|b| !is_part(b)).unwrap_or(rest.len())),
    )
}

fn string(bytes: &[u8], random: &mut Random) -> Option<std::ops::Range<usize>> {
    piece(
        bytes,
        random,
        |b| b == b'"',
        |rest| {
            rest.iter()
                .skip(1)
                .position(|b| *b == b'"' || *b == b'\n')
                .map(|i| i + 2)
        },
    )
}

fn word(bytes: &[u8], random: &mut Random) -> Option<std::ops::Range<usize>> {
    piece(
        bytes,
        random,
        |b| b.is_ascii_alphabetic(),
        |rest| {
            Some(
                rest.iter()
                    .position(|b| !b.is_ascii_alphanumeric() && *b != b'_')
                    .unwrap_or(rest.len()),
            )
        },
    )
}

fn replace_number(bytes: &mut Vec<u8>, random: &mut Random) {
    if let Some(range) = number(bytes, random) {
        let new = match random.below(4) {
            0 => random.below(40).to_string(),
            _ => (*random.pick(&NUMBERS)).to_string(),
        };
        bytes.splice(range, new.into_bytes());
    }
}

fn replace_string(bytes: &mut Vec<u8>, random: &mut Random) {
    let (range, quote) = match random.below(2) {
        0 => (string(bytes, random), "\""),
        _ => (word(bytes, random), ""),
    };
    let Some(range) = range else { return };
    let new = match random.below(8) {
        0 => "x".repeat(random.below(5000)),
        1 | 2 => (*random.pick(&STRINGS)).to_string(),
        _ => (*random.pick(&WORDS)).to_string(),
    };
    bytes.splice(range, format!("{quote}{new}{quote}").into_bytes());
}

fn swap_strings(bytes: &mut Vec<u8>, random: &mut Random) {
    if let (Some(a), Some(b)) = (string(bytes, random), string(bytes, random)) {
        let taken = bytes[a].to_vec();
        bytes.splice(b, taken);
    }
}

/// A bracketed group or a line once more, or a few hundred times.
fn repeat_group(bytes: &mut Vec<u8>, random: &mut Random) {
    let open = *random.pick(b"{[\n");
    let range = piece(
        bytes,
        random,
        |b| b == open,
        |rest| match open {
            b'\n' => rest.iter().skip(1).position(|b| *b == b'\n').map(|i| i + 1),
            _ => {
                let mut depth = 0i32;
                let end = rest.iter().position(|b| {
                    depth += i32::from(b"{[".contains(b)) - i32::from(b"}]".contains(b));
                    depth == 0
                });
                end.map(|i| i + 1)
            }
        },
    );
    let Some(range) = range.filter(|r| r.len() < 1 << 14) else {
        return;
    };
    let times = if random.below(8) == 0 { random.below(60) } else { 1 };
    let mut copy = bytes[range.clone()].to_vec();
    if open != b'\n' {
        copy.insert(0, b',');
    }
    bytes.splice(range.end..range.end, copy.repeat(times));
}

fn remove_range(bytes: &mut Vec<u8>, random: &mut Random) {
    let start = random.below(bytes.len());
    let end = (start + random.below(64)).min(bytes.len());
    bytes.drain(start..end);
}

fn nest(bytes: &mut Vec<u8>, random: &mut Random) {
    if let Some(range) = number(bytes, random) {
        let depth = *random.pick(&[1usize, 2, 127, 129, 5000]);
        let (open, close) = *random.pick(&[("[", "]"), ("{\"a\":", "}")]);
        bytes.splice(
            range,
            [open.repeat(depth), "1".into(), close.repeat(depth)]
                .concat()
                .into_bytes(),
        );
    }
}

/// A little-endian field of a binary header.
fn field(bytes: &mut [u8], random: &mut Random) {
    let width = *random.pick(&[1usize, 2, 4, 8]);
    if bytes.len() < width {
        return;
    }
    let at = match random.below(3) {
        0 => random.below((bytes.len() - width + 1).min(64)),
        _ => random.below(bytes.len() - width + 1),
    };
    let values = [
        0,
        1,
        2,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        1 << 20,
        0x7fff_ffff,
        0xffff_ffff,
        1 << 40,
        i64::MAX as u64,
        u64::MAX,
    ];
    let value = match random.below(3) {
        0 => random.below(64) as u64,
        _ => *random.pick(&values),
    };
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

fn splice(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let other = random.pick(others);
    let start = random.below(other.len());
    let end = (start + random.below(256)).min(other.len());
    let at = random.below(bytes.len() + 1);
    let taken = other[start..end].to_vec();
    bytes.splice(at..at, taken);
}

fn insert(bytes: &mut Vec<u8>, random: &mut Random) {
    let pieces: [&[u8]; 12] = [
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\t",
        b"{",
        b"]",
        b"\"",
        b": ",
        b"- ",
        b"\xed\xa0\x80",
        b"---\n",
    ];
    let at = random.below(bytes.len() + 1);
    let piece = random.pick(&pieces).to_vec();
    bytes.splice(at..at, piece);
}

fn flip(bytes: &mut [u8], random: &mut Random) {
    if !bytes.is_empty() {
        let at = random.below(bytes.len());
        bytes[at] ^= 1 << random.below(8);
    }
}
