//! Rows of Apache Parquet files, in which the Hub keeps data sets: read whole, as JSON values.
//!
//! The columns that benchmarks have are covered: texts, numbers, booleans, and lists and records of these. Compression is
//! Snappy's or none, as the Hub writes; anything else is refused by name.

use bytes::Bytes;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use serde_json::{Map, Value};

use super::data::Row;

/// All rows of a file, held in memory.
///
/// # Errors
/// What is no Parquet, is damaged, or has values of other kinds; in words.
pub fn rows(file: Vec<u8>) -> Result<Vec<Row>, String> {
    // The library ends in a panic where some lengths of a damaged file are wrong.
    let read = heterosis_unwind::caught(|| rows_of(file));
    read.unwrap_or_else(|_| Err("this Parquet file cannot be read: it is damaged".into()))
}

fn rows_of(file: Vec<u8>) -> Result<Vec<Row>, String> {
    let wrong = |e: parquet::errors::ParquetError| format!("this Parquet file cannot be read: {e}");
    let reader = SerializedFileReader::new(Bytes::from(file)).map_err(wrong)?;
    let rows = reader.get_row_iter(None).map_err(wrong)?;
    rows.map(|row| {
        let row = row.map_err(wrong)?;
        let fields = row.get_column_iter();
        fields.map(|(name, field)| Ok((name.clone(), json(field)?))).collect()
    })
    .collect()
}

fn json(field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float(x) => f64::from(*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => {
            let text = std::str::from_utf8(bytes.data()).map_err(|_| "a column of bytes that are no text is not read");
            text?.into()
        }
        Field::Group(row) => {
            let fields = row
                .get_column_iter()
                .map(|(name, field)| Ok((name.clone(), json(field)?)));
            Value::Object(fields.collect::<Result<Map<_, _>, String>>()?)
        }
        Field::ListInternal(list) => list.elements().iter().map(json).collect::<Result<Vec<_>, _>>()?.into(),
        other => {
            return Err(format!(
                "values such as {other} are not read; texts, numbers, lists and records are"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by pyarrow 26 (`tests/data/parquet.py`): a text, a number, a list, a record of lists, a null.
    #[test]
    fn a_file_of_the_hubs_kind() {
        let file = include_bytes!("../tests/data/sample.parquet");
        let rows = rows(file.to_vec()).unwrap();
        assert_eq!(rows.len(), 2);
        let row = serde_json::json!({
            "question": "¿Qué?", "label": 1, "endings": ["a", "b"], "choices": {"label": ["A", "B"], "text": ["x", "y"]},
            "weight": 0.5, "hint": null,
        });
        assert_eq!(serde_json::to_value(&rows[0]).unwrap(), row);
    }

    #[test]
    fn what_is_no_parquet_is_refused() {
        for file in [&b""[..], b"PAR1", b"<html>please log in</html>", b"PAR1PAR1PAR1PAR1"] {
            assert!(rows(file.to_vec()).unwrap_err().contains("Parquet"), "{file:?}");
        }
    }

    /// Damage anywhere is an error or other rows, never an end of the program.
    #[test]
    fn damage_is_survived() {
        let file = include_bytes!("../tests/data/sample.parquet");
        for at in (0..file.len()).step_by(7) {
            let mut damaged = file.to_vec();
            damaged[at] ^= 0x55;
            let _ = rows(damaged);
            let _ = rows(file[..at].to_vec());
        }
    }
}
