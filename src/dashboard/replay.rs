//! Plays a run that is over as if it went on, at any speed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use crate::event::Record;

/// Longest wait between two records, in real time: nights in which nobody worked are skipped.
const LONGEST_WAIT_MS: f64 = 3000.0;
/// Records that may wait to be shown.
const AHEAD: usize = 1024;
const STEP_MS: f64 = 20.0;

/// Sends the records in their own rhythm, `speed` times as fast; the second value is the clock of the replay.
pub fn replay(
    records: impl Iterator<Item = Record> + Send + 'static,
    speed: f64,
) -> (Receiver<Record>, Arc<AtomicU64>) {
    let (sender, receiver) = sync_channel(AHEAD);
    let mut records = records.peekable();
    let clock = Arc::new(AtomicU64::new(records.peek().map_or(0, |r| r.time_ms)));
    let shared = Arc::clone(&clock);
    thread::spawn(move || {
        for record in records {
            wait_until(&shared, record.time_ms, speed);
            if sender.send(record).is_err() {
                return;
            }
        }
    });
    (receiver, clock)
}

fn wait_until(clock: &AtomicU64, time_ms: u64, speed: f64) {
    let speed = if speed.is_finite() && speed > 0.0 { speed } else { 1.0 };
    let mut waited_ms = 0.0;
    while clock.load(Ordering::Relaxed) < time_ms && waited_ms < LONGEST_WAIT_MS {
        thread::sleep(Duration::from_millis(STEP_MS as u64));
        waited_ms += STEP_MS;
        let now = clock.load(Ordering::Relaxed) + (STEP_MS * speed) as u64;
        clock.store(now.min(time_ms), Ordering::Relaxed);
    }
    clock.store(time_ms.max(clock.load(Ordering::Relaxed)), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    #[test]
    fn every_record_arrives_in_order_and_the_clock_follows() {
        let records: Vec<Record> = rehearsal::stopped();
        let (receiver, clock) = replay(records.clone().into_iter(), 1e9);
        let seen: Vec<Record> = receiver.iter().collect();
        assert_eq!(seen, records);
        assert_eq!(clock.load(Ordering::Relaxed), records[records.len() - 1].time_ms);
    }
}
