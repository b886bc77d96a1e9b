//! Rows of benchmark files: where they lie, and how each format is read.
//!
//! Files are read as their authors publish them. A row is a set of named fields; templates turn it into text.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use super::{Error, parquet};

/// Named fields of one row.
pub type Row = BTreeMap<String, Value>;

/// Where benchmark data may lie, in the order in which it is looked for.
#[derive(Clone, Debug, Default)]
pub struct DataDirs {
    /// Folders that hold `gsm8k/`, `mgsm/` and so on.
    pub roots: Vec<PathBuf>,
}

/// How a data file lays out its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// One JSON list of objects; or an object of lists, as `pandas` writes it.
    Json,
    /// Tab-separated, no quoting. The first line names the fields, unless `columns` does.
    Tsv,
    /// RFC 4180: separated by commas, quoted where need be. The first line names the fields, unless `columns` does.
    Csv,
    /// Apache Parquet, as the Hub keeps data sets.
    Parquet,
    /// Each line that is not empty is a row with the field `line`.
    Lines,
    /// MGSM's few-shot examples: `exemplars.LANG.N.{q,a}` and `number_answers`, as the fields `question`, `answer`,
    /// `answer_number`; `answer_en` is the same example's answer in English.
    MgsmExemplars,
    /// Plain text, cut at ends of lines into passages, each with the field `text`.
    Passages,
}

impl Format {
    /// All of them, in the order of [`Self::NAMES`].
    pub const ALL: [Format; 8] = [
        Format::Jsonl,
        Format::Json,
        Format::Tsv,
        Format::Csv,
        Format::Parquet,
        Format::Lines,
        Format::MgsmExemplars,
        Format::Passages,
    ];
    /// As a task file says them.
    pub const NAMES: [&str; 8] = [
        "jsonl",
        "json",
        "tsv",
        "csv",
        "parquet",
        "lines",
        "mgsm-exemplars",
        "passages",
    ];

    /// What the extension says.
    pub fn of_file(file: &str) -> Option<Format> {
        match Path::new(file).extension()?.to_str()? {
            "jsonl" => Some(Format::Jsonl),
            "json" => Some(Format::Json),
            "tsv" => Some(Format::Tsv),
            "csv" => Some(Format::Csv),
            "parquet" => Some(Format::Parquet),
            "txt" => Some(Format::Lines),
            _ => None,
        }
    }

    /// Whether its rows are columns, which have to be named.
    pub fn has_columns(self) -> bool {
        matches!(self, Format::Tsv | Format::Csv)
    }
}

/// Some rows of a file.
#[derive(Clone, Debug)]
pub struct Source {
    /// A template that may name the language.
    pub file: String,
    /// How its rows are laid out.
    pub format: Format,
    /// The fields of a file of columns; none: its first line names them.
    pub columns: Vec<String>,
    /// The least characters of a passage.
    pub passage: usize,
    /// The rows that are meant, counted from 0; past the end of the file is allowed.
    pub rows: Range<usize>,
}

impl Source {
    /// Characters of a passage where a task file says nothing.
    pub const DEFAULT_PASSAGE: usize = 2000;
}

/// A row and its place in its file.
#[derive(Clone, Debug)]
pub struct Located {
    /// `gsm8k/train/17`.
    pub id: String,
    /// Its fields by name.
    pub row: Row,
    /// The file that it stands in.
    pub file: Arc<Path>,
    /// Counted from 1; of a file without lines, the row.
    pub line: usize,
}

impl Source {
    /// The rows, in the order of the file. `file` is the rendered name, `path` where it was found.
    ///
    /// # Errors
    /// A file that cannot be read, or a row that is not what the format says.
    pub fn read(&self, file: &str, path: &Path, lang: &str) -> Result<Vec<Located>, Error> {
        let wrong = |(line, message)| Error::Row {
            file: path.into(),
            line,
            message,
        };
        let rows = match self.format {
            Format::Parquet => {
                let bytes = read(path, |path| std::fs::read(path))?;
                let rows = parquet::rows(bytes).map_err(|message| wrong((1, message)))?;
                (1..).zip(rows).collect()
            }
            _ => self.rows_of(&read(path, text_of)?, lang).map_err(wrong)?,
        };
        let name = Path::new(file).with_extension("");
        let place: Arc<Path> = path.into();
        let end = self.rows.end.min(rows.len());
        let located = rows.into_iter().enumerate().take(end).skip(self.rows.start);
        Ok(located
            .map(|(i, (line, row))| Located {
                id: format!("{}/{i}", name.display()),
                row,
                file: place.clone(),
                line,
            })
            .collect())
    }

    /// The rows of a text, each with its line.
    fn rows_of(&self, text: &str, lang: &str) -> Result<Rows, (usize, String)> {
        let numbered = |rows: Vec<Row>| (1..).zip(rows).collect();
        match self.format {
            Format::Jsonl => lines(text, json_row),
            // One object a line is what many call JSON, too.
            Format::Json => match json_rows(text) {
                Ok(rows) => Ok(numbered(rows)),
                Err(message) => lines(text, json_row).map_err(|_| (1, message)),
            },
            Format::Tsv => tsv_rows(text, &self.columns),
            Format::Csv => csv_rows(text, &self.columns),
            Format::Lines => lines(text, |line| Ok([("line".into(), line.into())].into())),
            Format::MgsmExemplars => mgsm_exemplars(text, lang).map(numbered).map_err(|message| (1, message)),
            Format::Passages | Format::Parquet => Ok(numbered(passages(text, self.passage))),
        }
    }
}

/// All rows of a file, of the kind that its name says.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let file = dir.path().join("capitals.jsonl");
/// std::fs::write(&file, "{\"land\": \"Kenya\", \"capital\": \"Nairobi\"}\n")?;
/// let rows = heterosis_eval::data::read_file(&file)?;
/// assert_eq!(rows[0]["capital"], "Nairobi");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// A name that says none, a file that cannot be read.
pub fn read_file(path: &Path) -> Result<Vec<Row>, Error> {
    let name = path.display().to_string();
    let format = Format::of_file(&name).ok_or_else(|| Error::Row {
        file: path.into(),
        line: 1,
        message: format!(
            "the kind of this file does not show in its name; known are {}",
            Format::NAMES.join(", ")
        ),
    })?;
    let source = Source {
        file: name.clone(),
        format,
        columns: Vec::new(),
        passage: Source::DEFAULT_PASSAGE,
        rows: 0..usize::MAX,
    };
    Ok(source
        .read(&name, path, "en")?
        .into_iter()
        .map(|located| located.row)
        .collect())
}

/// Rows with their lines.
type Rows = Vec<(usize, Row)>;

fn read<T>(path: &Path, read: impl Fn(&Path) -> std::io::Result<T>) -> Result<T, Error> {
    read(path).map_err(|source| Error::Read {
        file: path.into(),
        source,
    })
}

impl DataDirs {
    /// The first place where the file lies: beside the task file, then in the data folders.
    pub fn find(&self, beside: Option<&Path>, file: &str) -> Result<PathBuf, Vec<PathBuf>> {
        let folders = beside.into_iter().chain(self.roots.iter().map(PathBuf::as_path));
        let candidates: Vec<PathBuf> = folders.map(|folder| folder.join(file)).collect();
        match candidates.iter().find(|path| path.is_file()) {
            Some(path) => Ok(path.clone()),
            None => Err(candidates),
        }
    }
}

/// Every line that is not blank, read by `read`; an error comes with its line number.
fn lines(text: &str, read: impl Fn(&str) -> Result<Row, String>) -> Result<Rows, (usize, String)> {
    written_lines(text)
        .map(|(line, written)| Ok((line, read(written).map_err(|message| (line, message))?)))
        .collect()
}

/// Every line that is not blank, counted from 1.
fn written_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    // Only \n ends a line: str::lines would also take away a \r that belongs to the text of a row.
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    (1..).zip(lines).filter(|(_, line)| !line.trim().is_empty())
}

/// Whole lines, as many as it takes to reach `least` characters; what is left at the end is a passage too.
fn passages(text: &str, least: usize) -> Vec<Row> {
    let mut passages: Vec<String> = Vec::new();
    let mut characters = least;
    for line in text.split_inclusive('\n') {
        if characters >= least {
            passages.push(String::new());
            characters = 0;
        }
        characters += line.chars().count();
        if let Some(passage) = passages.last_mut() {
            passage.push_str(line);
        }
    }
    passages.retain(|passage| !passage.trim().is_empty());
    let row = |text: String| [("text".to_string(), Value::String(text))].into();
    passages.into_iter().map(row).collect()
}

fn json_row(line: &str) -> Result<Row, String> {
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => Ok(fields.into_iter().collect()),
        Ok(_) => Err("a JSON object is expected on each line".into()),
        Err(error) => Err(format!("this line is not JSON: {error}")),
    }
}

/// A list of objects, an object of lists, or one object that holds either.
fn json_rows(text: &str) -> Result<Vec<Row>, String> {
    let json: Value = serde_json::from_str(text).map_err(|e| format!("this is not JSON: {e}"))?;
    let expected = "a list of objects is expected, or an object of equally long lists";
    match json {
        Value::Array(items) => items
            .into_iter()
            .map(|item| match item {
                Value::Object(fields) => Ok(fields.into_iter().collect()),
                _ => Err(expected.to_string()),
            })
            .collect(),
        Value::Object(columns) => {
            let lists: Option<Vec<(String, Vec<Value>)>> = columns
                .into_iter()
                .map(|(name, column)| match column {
                    Value::Array(items) => Some((name, items)),
                    _ => None,
                })
                .collect();
            let lists = lists.ok_or(expected)?;
            let count = lists.first().map_or(0, |(_, items)| items.len());
            if lists.iter().any(|(_, items)| items.len() != count) {
                return Err(expected.into());
            }
            let row = |i: usize| {
                lists
                    .iter()
                    .map(|(name, items)| (name.clone(), items[i].clone()))
                    .collect()
            };
            Ok((0..count).map(row).collect())
        }
        _ => Err(expected.into()),
    }
}

fn tsv_rows(text: &str, columns: &[String]) -> Result<Rows, (usize, String)> {
    let mut lines = written_lines(text);
    let header: Vec<String> = match columns {
        [] => lines
            .next()
            .map_or("", |(_, line)| line)
            .split('\t')
            .map(String::from)
            .collect(),
        named => named.to_vec(),
    };
    lines
        .map(|(line, written)| Ok((line, columns_row(&header, written.split('\t')).map_err(|e| (line, e))?)))
        .collect()
}

fn csv_rows(text: &str, columns: &[String]) -> Result<Rows, (usize, String)> {
    // A byte order mark is what spreadsheets put before a file.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut header = columns.to_vec();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| (e.position().map_or(1, |p| p.line() as usize), e.to_string()))?;
        let line = record.position().map_or(1, |p| line_of_record(text, p));
        if header.is_empty() {
            header = record.iter().map(String::from).collect();
            continue;
        }
        rows.push((line, columns_row(&header, record.iter()).map_err(|e| (line, e))?));
    }
    Ok(rows)
}

/// The line of a record: empty ones before it are passed over.
fn line_of_record(text: &str, position: &csv::Position) -> usize {
    let rest = text.get(position.byte() as usize..).unwrap_or_default();
    let empty = rest.len() - rest.trim_start_matches(['\r', '\n']).len();
    position.line() as usize + rest[..empty].matches('\n').count()
}

fn columns_row<'t>(columns: &[String], fields: impl Iterator<Item = &'t str>) -> Result<Row, String> {
    let fields: Vec<&str> = fields.collect();
    if fields.len() != columns.len() {
        let names = columns.join(", ");
        let (expected, got) = (columns.len(), fields.len());
        return Err(format!("{expected} columns ({names}) are expected, here are {got}"));
    }
    let pairs = columns.iter().zip(fields);
    Ok(pairs.map(|(name, field)| (name.clone(), field.into())).collect())
}

fn mgsm_exemplars(text: &str, lang: &str) -> Result<Vec<Row>, String> {
    let file: Value = serde_json::from_str(text).map_err(|e| format!("this is not JSON: {e}"))?;
    let examples = file["exemplars"][lang]
        .as_object()
        .ok_or_else(|| format!("there are no exemplars for the language '{lang}'"))?;
    (0..examples.len())
        .map(|i| {
            let example = &examples[&(i + 1).to_string()];
            let field = |value: &Value, name: &str| match value {
                Value::Null => Err(format!("exemplar {} of '{lang}' has no {name}", i + 1)),
                value => Ok(value.clone()),
            };
            Ok([
                ("question".into(), field(&example["q"], "q")?),
                ("answer".into(), field(&example["a"], "a")?),
                (
                    "answer_number".into(),
                    field(&file["number_answers"][i], "number_answers")?,
                ),
                (
                    "answer_en".into(),
                    file["exemplars"]["en"][&(i + 1).to_string()]["a"].clone(),
                ),
            ]
            .into())
        })
        .collect()
}

/// The text of a file of data. A task file that somebody else wrote may name a pipe or a device, which never ends.
pub(crate) fn text_of(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.is_file() {
        return std::fs::read_to_string(path);
    }
    let problem = "it is a folder, a pipe or a device, not a file";
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, problem))
}

/// What is in a file of data, of whatever kind.
pub(crate) fn bytes_of(path: &Path) -> std::io::Result<Vec<u8>> {
    match std::fs::metadata(path)?.is_file() {
        true => std::fs::read(path),
        false => Ok(text_of(path)?.into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, source: &Source) -> Result<Vec<Located>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        source.read(&format!("set/{name}"), &path, "es")
    }

    fn source(format: Format, rows: Range<usize>) -> Source {
        Source {
            file: String::new(),
            format,
            columns: vec!["question".into(), "answer".into()],
            passage: 5,
            rows,
        }
    }

    #[test]
    fn rows_keep_their_place_in_the_file() {
        let rows = read("x.tsv", "a\t1\nb\t2\nc\t3\n", &source(Format::Tsv, 1..9)).unwrap();
        let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, ["set/x/1", "set/x/2"]);
        assert_eq!(rows[0].row["question"], "b");
    }

    #[test]
    fn formats() {
        let all = 0..usize::MAX;
        let rows = read(
            "x.jsonl",
            "{\"q\": \"é\\r\", \"n\": 1}\r\n\n",
            &source(Format::Jsonl, all.clone()),
        )
        .unwrap();
        assert_eq!(
            (rows.len(), &rows[0].row["q"], &rows[0].row["n"]),
            (1, &"é\r".into(), &1.into())
        );
        let rows = read("x.txt", "one\n\ntwo", &source(Format::Lines, all.clone())).unwrap();
        assert_eq!(rows[1].row["line"], "two");
        let rows = read(
            "x.txt",
            "ab\ncd\nefghijkl\n\nm\n",
            &source(Format::Passages, all.clone()),
        )
        .unwrap();
        let texts: Vec<&str> = rows.iter().filter_map(|r| r.row["text"].as_str()).collect();
        assert_eq!(texts, ["ab\ncd\n", "efghijkl\n", "\nm\n"]);
        let text = r#"{"number_answers": [11], "exemplars": {"es": {"1": {"q": "Q", "a": "A"}}}}"#;
        let rows = read("x.json", text, &source(Format::MgsmExemplars, all)).unwrap();
        assert_eq!(rows[0].row["answer_number"], 11);
    }

    #[test]
    fn files_of_columns_name_them_in_their_first_line() {
        let headed = |format| Source {
            columns: Vec::new(),
            ..source(format, 0..usize::MAX)
        };
        let csv = "\u{feff}question,answer\n\"What, then?\nSay \"\"it\"\".\",4\n\nb,5\r\n";
        let rows = read("x.csv", csv, &headed(Format::Csv)).unwrap();
        assert_eq!(rows[0].row["question"], "What, then?\nSay \"it\".");
        assert_eq!((rows.len(), &rows[1].row["answer"]), (2, &"5".into()));
        assert_eq!((rows[0].line, rows[1].line), (2, 5));
        let rows = read("x.tsv", "question\tanswer\n\"a\"\t1\n", &headed(Format::Tsv)).unwrap();
        assert_eq!((&rows[0].row["question"], rows[0].line), (&"\"a\"".into(), 2));
        let message = read("x.csv", "a,b\n1,2\n3\n", &headed(Format::Csv))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("x.csv:3: 2 columns (a, b) are expected, here are 1"),
            "{message}"
        );
    }

    #[test]
    fn json_lists_and_columns() {
        for text in ["[{\"a\": 1}, {\"a\": 2}]", "{\"a\": [1, 2]}"] {
            let rows = read("x.json", text, &source(Format::Json, 1..9)).unwrap();
            assert_eq!((rows.len(), &rows[0].row["a"]), (1, &2.into()));
        }
        let message = read("x.json", "[1, 2]", &source(Format::Json, 0..9))
            .unwrap_err()
            .to_string();
        assert!(message.contains("a list of objects is expected"), "{message}");
    }

    #[test]
    fn bad_rows_are_named() {
        let all = 0..usize::MAX;
        for (format, text, expected) in [
            (
                Format::Tsv,
                "a\t1\nb",
                "2 columns (question, answer) are expected, here are 1",
            ),
            (Format::Jsonl, "{}\n[1]", "a JSON object"),
            (Format::Jsonl, "{}\n{", "not JSON"),
        ] {
            let message = read("x", text, &source(format, all.clone())).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("x:2:"), "{message}");
        }
        let message = read("x", "{}", &source(Format::MgsmExemplars, all))
            .unwrap_err()
            .to_string();
        assert!(message.contains("language 'es'"), "{message}");
    }
}
