//! What is in a data file, told without a tokenizer: records by form, and the first of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::dataset::{Kind, LINE_BYTES_MAX};
use crate::error::{DataError, IoAction, RecordError};
use crate::record::{Line, Lines, Record};

/// Characters of the first record that are kept.
const FIRST_CHARS: usize = 4096;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Records; lines of plain text.
    pub records: u64,
    /// Records by form, named by the key it is known by: `messages`, `completion`. Empty for plain
    /// text.
    pub forms: BTreeMap<&'static str, u64>,
    /// Bytes of the file.
    pub bytes: u64,
    /// The first record as it stands in the file, or the first line of plain text; its beginning,
    /// if it is long.
    pub first: String,
    /// Whether the file is plain text.
    pub plain: bool,
}

impl Survey {
    /// Goes through a `.jsonl` or `.txt` file, a line at a time.
    ///
    /// # Errors
    /// When it cannot be read, is of another kind, holds nothing, or holds a record of no known
    /// form, naming the line.
    pub fn of_file(path: &Path) -> Result<Self, DataError> {
        let kind = Kind::of(path)?;
        let open = |error: std::io::Error| DataError::io(path, IoAction::Open, &error);
        let file = File::open(path).map_err(open)?;
        let bytes = file.metadata().map_err(open)?.len();
        let survey = Self::of_lines(BufReader::new(file), kind == Kind::Text, path)?;
        Ok(Self { bytes, ..survey })
    }

    fn of_lines(reader: impl BufRead, plain: bool, path: &Path) -> Result<Self, DataError> {
        let mut lines = Lines::new(reader, LINE_BYTES_MAX);
        let mut survey = Self { plain, ..Self::default() };
        loop {
            let line = lines.next_line().map_err(|e| DataError::io(path, IoAction::Read, &e))?;
            let read = match line {
                None => break,
                Some(Line::TooLong) => Err(RecordError::TooLong { limit: LINE_BYTES_MAX }),
                Some(Line::Bytes(bytes)) => survey.take(bytes),
            };
            let line = lines.number();
            read.map_err(|error| DataError::Record { path: path.to_owned(), line, error })?;
        }
        match survey.records {
            0 => Err(DataError::Empty { path: path.to_owned() }),
            _ => Ok(survey),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| RecordError::Utf8 { at: error.valid_up_to() })?;
        if !self.plain {
            let form = Record::from_json_line(bytes)?.field();
            *self.forms.entry(form).or_default() += 1;
        }
        if self.records == 0 {
            self.first = text.chars().take(FIRST_CHARS).collect();
        }
        self.records += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(text: &str, plain: bool) -> Result<Survey, String> {
        let name = Path::new(if plain { "a.txt" } else { "a.jsonl" });
        Survey::of_lines(text.as_bytes(), plain, name).map_err(|error| error.to_string())
    }

    #[test]
    fn records_are_counted_by_form_and_the_first_is_kept() {
        let lines =
            "{\"text\": \"a\"}\n\n{\"prompt\": \"b\", \"completion\": \"c\"}\n{\"text\": \"d\"}\n";
        let found = survey(lines, false).unwrap();
        assert_eq!(found.records, 3);
        assert_eq!(found.forms, [("completion", 1), ("text", 2)].into());
        assert_eq!(found.first, "{\"text\": \"a\"}");
        let found = survey("one\ntwo\n", true).unwrap();
        assert_eq!((found.records, found.forms.len(), found.first.as_str()), (2, 0, "one"));
        let long = survey(&"é".repeat(2 * FIRST_CHARS), true).unwrap();
        assert_eq!(long.first, "é".repeat(FIRST_CHARS));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_line() {
        let error = survey("{\"text\": \"a\"}\n{\"txet\": \"b\"}\n", false).unwrap_err();
        assert!(error.starts_with("a.jsonl:2: "), "{error}");
        assert!(survey("\n\n", false).unwrap_err().contains("no examples in it"));
        let error = Survey::of_file(Path::new("a.csv")).unwrap_err().to_string();
        assert!(error.contains("a.csv"), "{error}");
    }
}
