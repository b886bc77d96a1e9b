//! What of a run's journal must not depend on interruptions, nor on who did the work.

use serde_json::Value;

/// What depends on the clock, or on which process did the work.
const NOT_THE_STORY: [&str; 8] = [
    "seq",
    "time_ms",
    "check",
    "merge_ms",
    "evaluation_ms",
    "elapsed_ms",
    "cached",
    "generated_tokens",
];

/// The records of a journal without those.
pub fn story_of(mut records: Vec<Value>) -> Vec<Value> {
    records.retain(|r| !matches!(r["event"].as_str(), Some("run_resumed" | "log" | "worker")));
    for record in &mut records {
        for clock in NOT_THE_STORY {
            record.as_object_mut().unwrap().remove(clock);
        }
    }
    records
}
