//! An event file as TensorBoard reads it: `DIR/RUN/events.out.tfevents.SECONDS.heterosis`.
//!
//! A resumed run writes its file again from the beginning, since it is told everything again: nothing stands in it twice.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use super::{Curves, Error, Point, Tracker, parameters, wire::Message};
use crate::event::{Event, Record, run::Run, verdict::verdict};

/// TensorFlow's number for strings.
const STRINGS: u64 = 7;

/// Writes one.
pub struct EventFile {
    dir: PathBuf,
    open: Option<(PathBuf, File)>,
    curves: Curves,
}

impl EventFile {
    /// `run` is the run's directory, whose last part names it in TensorBoard.
    pub fn below(dir: &Path, run: &Path) -> Self {
        Self {
            dir: dir.join(run.file_name().unwrap_or(run.as_os_str())),
            open: None,
            curves: Curves::default(),
        }
    }

    fn begin(&mut self, time_ms: u64) -> Result<(), Error> {
        fs::create_dir_all(&self.dir).map_err(Error::io(&self.dir))?;
        let name = format!("events.out.tfevents.{:010}.heterosis", time_ms / 1000);
        let path = self.dir.join(name);
        let file = File::create(&path).map_err(Error::io(&path))?;
        self.open = Some((path, file));
        self.write(&event(time_ms).text(3, "brain.Event:2"))
    }

    fn write(&mut self, event: &Message) -> Result<(), Error> {
        match &mut self.open {
            Some((path, file)) => file.write_all(&event.framed()).map_err(Error::io(&*path)),
            None => Ok(()),
        }
    }

    fn text(&mut self, record: &Record, step: u64, name: &str, text: &str) -> Result<(), Error> {
        let plugin = Message::default().text(1, "text");
        let metadata = Message::default().message(1, &plugin);
        let shape = Message::default().message(2, &Message::default().integer(1, 1));
        let tensor = Message::default().integer(1, STRINGS).message(2, &shape).text(8, text);
        let value = Message::default()
            .text(1, name)
            .message(9, &metadata)
            .message(8, &tensor);
        let summary = Message::default().message(1, &value);
        self.write(&event(record.time_ms).integer(2, step).message(5, &summary))
    }
}

/// An event's time, in seconds.
fn event(time_ms: u64) -> Message {
    Message::default().double(1, time_ms as f64 / 1000.0)
}

fn scalar(point: &Point) -> Message {
    let value = Message::default().text(1, &point.name).float(2, point.value as f32);
    let summary = Message::default().message(1, &value);
    event(point.time_ms).integer(2, point.step).message(5, &summary)
}

/// As a table of Markdown, which TensorBoard shows.
fn table(run: &Run) -> String {
    let rows = parameters(run)
        .into_iter()
        .map(|(name, value)| format!("| {name} | {} |\n", value.replace('|', "\\|")));
    format!("| | |\n|---|---|\n{}", rows.collect::<String>())
}

impl Tracker for EventFile {
    fn see(&mut self, run: &Run, record: &Record) -> Result<(), Error> {
        if self.open.is_none() {
            self.begin(record.time_ms)?;
        }
        match &record.event {
            Event::RunStarted(_) => self.text(record, 0, "run", &table(run))?,
            Event::TestRead(reading) => self.text(record, run.evals, "verdict", &verdict(run, reading).sentence)?,
            _ => {}
        }
        for point in self.curves.of(run, record) {
            self.write(&scalar(&point))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::rehearsal;

    fn written(dir: &Path) -> Vec<u8> {
        let mut file = EventFile::below(dir, Path::new("runs/night"));
        let mut run = Run::default();
        for record in rehearsal::journal() {
            run.apply(&record);
            file.see(&run, &record).unwrap();
        }
        let mut files = fs::read_dir(dir.join("night")).unwrap();
        let path = files.next().unwrap().unwrap().path();
        assert!(files.next().is_none(), "a run told twice stands in one file");
        fs::read(path).unwrap()
    }

    #[test]
    fn every_record_of_the_file_is_whole_and_the_same_when_told_again() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = written(dir.path());
        assert_eq!(written(dir.path()), bytes);
        let (mut at, mut records) = (0, 0);
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            at += 12 + length + 4;
            records += 1;
        }
        assert_eq!(at, bytes.len());
        assert!(records > 500, "{records}");
        let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(holds(b"brain.Event:2") && holds(b"search/best") && holds(b"final/test"));
        assert!(holds(b"| seed | 7 |") && holds(b"beats the best parent"));
    }
}
