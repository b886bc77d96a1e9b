//! How long this process has computed.

/// Seconds that this process has had of the processor; NaN where the system does not say.
pub fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or("");
    let ticks = |i: usize| after_name.split_whitespace().nth(i).and_then(|n| n.parse::<f64>().ok());
    // utime and stime, in hundredths.
    ticks(11)
        .zip(ticks(12))
        .map_or(f64::NAN, |(user, system)| (user + system) / 100.0)
}
