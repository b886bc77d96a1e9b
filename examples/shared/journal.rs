//! A journal that may be in the middle of its last line.

use std::{fs, path::Path};

use serde_json::Value;

/// Whole lines of a run's journal; none where there is no journal yet.
pub fn records(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("journal.jsonl")).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(line).unwrap()).collect()
}
