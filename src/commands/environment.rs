//! What commands need of the terminal, the environment and the machine, besides the [`Host`] that they pass on.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use tracing_subscriber::EnvFilter;

pub use crate::host::{cache_dir, data_cache, data_dirs, now_ms, stopwatch};
use crate::{
    checkpoint::{Download, HubOptions},
    dashboard::Appearance,
    host::{Host, variable},
    model::Isa,
};

/// This machine, whose downloads show how far they are.
pub fn host() -> Host {
    Host {
        hub: hub_options(),
        ..Host::this_machine()
    }
}

/// Sends warnings (and more, if asked) to stderr.
pub fn show_messages(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "info",
        _ => "debug",
    };
    let filter = variable("HETEROSIS_LOG").unwrap_or_else(|| format!("heterosis={level}"));
    // A second call (in tests) keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(|| super::output::LogWriter)
        .with_ansi(std::io::stderr().is_terminal() && variable("NO_COLOR").is_none())
        // A warning that cannot be written, since the terminal is gone, must not end a search.
        .log_internal_errors(false)
        .without_time()
        .with_target(false)
        .try_init();
}

/// From now on Ctrl-C, SIGTERM and SIGHUP remove this directory or file, which is being filled, before they end the program. What has
/// its own name already stays: an output is complete, or not there.
pub fn remove_on_signal(partial: &Path) -> anyhow::Result<()> {
    use signal_hook::{consts, iterator::Signals};
    let mut signals = Signals::new([consts::SIGINT, consts::SIGTERM, consts::SIGHUP])?;
    let partial = partial.to_owned();
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            IS_ENDING.store(true, Ordering::SeqCst);
            let _ = remove(&partial);
            std::process::exit(130);
        }
    });
    Ok(())
}

/// A signal has come, and what is being filled is removed.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Where a signal ends the program, waits for that: what a command says of a directory that was taken away under it is of no
/// interest, and its end must not come before the removal's.
pub fn wait_if_ending() {
    while IS_ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Takes what is being filled its name, in one step, so that nobody can give it the one that it should have had, and removes it.
fn remove(partial: &Path) -> std::io::Result<()> {
    /// Of what is called as [`crate::checkpoint`] calls it, so that whoever builds the same output next removes what is left.
    const RANDOM: usize = 6;
    const SUFFIX: &str = ".partial";
    let parent = partial.parent().unwrap_or(Path::new("."));
    let name = partial.file_name().unwrap_or_default().to_string_lossy();
    let stem = name
        .strip_suffix(SUFFIX)
        .and_then(|stem| stem.get(..stem.len().checked_sub(RANDOM)?));
    let mut builder = tempfile::Builder::new();
    builder.prefix(stem.unwrap_or(&name)).suffix(SUFFIX).rand_bytes(RANDOM);
    if !partial.is_dir() {
        let gone = builder.tempfile_in(parent)?;
        return std::fs::rename(partial, gone.path());
    }
    let gone = builder.tempdir_in(parent)?;
    std::fs::rename(partial, gone.path())?;
    // A file that another thread begins meanwhile keeps its directory alive: then once more.
    let _ = (0..3).any(|_| std::fs::remove_dir_all(gone.path()).is_ok());
    Ok(())
}

/// Computes with the instruction set that `HETEROSIS_ISA` names, so that a machine can answer as a lesser one does.
///
/// # Errors
/// A set that this machine does not have.
pub fn choose_instruction_set() -> anyhow::Result<()> {
    let Some(name) = variable("HETEROSIS_ISA") else {
        return Ok(());
    };
    let isa = Isa::from_name(&name).with_context(|| {
        let names: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
        format!("HETEROSIS_ISA is \"{name}\", but this machine has {}", names.join(", "))
    })?;
    isa.choose();
    Ok(())
}

/// How long decompositions of so many operations take on this machine, from a small one.
pub fn decomposition_seconds(flops: u64) -> f64 {
    let clock = stopwatch();
    let sample = crate::merge::decomposition_sample().max(1);
    clock().as_secs_f64() * flops as f64 / sample as f64
}

/// The local time zone's distance from UTC.
pub fn utc_offset_s() -> i32 {
    jiff::ZonedDateTime::now().offset().seconds()
}

/// `20260523-231455`, local time.
pub fn time_stamp() -> String {
    jiff::ZonedDateTime::now().strftime("%Y%m%d-%H%M%S").to_string()
}

/// Whether a person sits at stdout, on a terminal that can show a dashboard.
pub fn is_interactive() -> bool {
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && variable("TERM").is_some_and(|t| t != "dumb")
}

/// This program once more, for work that must not touch the terminal.
pub fn this_program() -> Command {
    // The file may have been replaced since the start; then the name on the path is the best guess.
    Command::new(std::env::current_exe().unwrap_or_else(|_| PathBuf::from("heterosis")))
}

/// Whether this is the process with which a container, or a system, begins and ends.
pub fn is_first_process() -> bool {
    std::process::id() == 1
}

/// What stands behind this program's name on the command line.
pub fn words() -> impl Iterator<Item = std::ffi::OsString> {
    std::env::args_os().skip(1)
}

/// Runs a command to its end without a word on the terminal; the error is the last line that it wrote on stderr.
pub fn run_quietly(command: &mut Command) -> Result<(), String> {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let output = command.output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    Err(last.map_or_else(
        || output.status.to_string(),
        |line| line.trim_start_matches("error: ").to_string(),
    ))
}

/// Memory of this process that is in RAM now, mapped files included; `None` where the system does not say.
pub fn resident_bytes() -> Option<u64> {
    kib_of("/proc/self/status", "VmRSS:")
}

/// The most that [`resident_bytes`] has been.
pub fn peak_bytes() -> Option<u64> {
    kib_of("/proc/self/status", "VmHWM:")
}

/// Of [`resident_bytes`] what files are mapped to, and every process that maps them shares.
pub fn mapped_bytes() -> Option<u64> {
    kib_of("/proc/self/status", "RssFile:")
}

/// Has [`peak_bytes`] begin anew from what is in RAM now; false where the system cannot.
pub fn forget_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Memory that can still be had without swapping; `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    kib_of("/proc/meminfo", "MemAvailable:")
}

fn kib_of(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

/// Bytes that are free where a path is, or would be.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let there = absolute.ancestors().find(|path| path.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

/// What the terminal can show.
pub fn appearance() -> Appearance {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
    let utf8 = |l: &String| {
        let l = l.to_ascii_lowercase();
        l.contains("utf-8") || l.contains("utf8")
    };
    Appearance {
        color: variable("NO_COLOR").is_none(),
        // Without any locale, as in many containers, a terminal still shows Unicode.
        unicode: variable("HETEROSIS_ASCII").is_none() && locale.as_ref().is_none_or(utf8),
        utc_offset_s: utc_offset_s(),
    }
}

/// Where this user's programs keep what they know; `None` without a home.
pub fn state_dir() -> Option<PathBuf> {
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local").join("state"));
    let state = variable("XDG_STATE_HOME").map(PathBuf::from).or_else(home)?;
    Some(state.join("heterosis"))
}

/// The Hub's usual variables, and a progress bar on stderr.
pub fn hub_options() -> HubOptions {
    let bar = indicatif::ProgressBar::hidden();
    let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = indicatif::ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    let show = move |download: &Download| {
        if bar.is_hidden() {
            bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        bar.set_message(download.model.clone());
        bar.set_length(download.bytes_total);
        bar.set_position(download.bytes_done);
        if download.complete {
            bar.finish_and_clear();
        }
    };
    HubOptions {
        progress: Some(Arc::new(show)),
        ..HubOptions::from_variables(variable)
    }
}

/// A progress bar on stderr, hidden where stderr is no terminal.
pub fn progress_bar(length: u64, what: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(length);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_string());
    bar
}
