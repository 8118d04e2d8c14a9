//! Row reader: reads rows from NDJSON or CSV in chunks.
//!
//! The formats are those of `export` and of a bulk write. A line of NDJSON is an object with the
//! columns of a row, or an object with the member `data`, which contains them. The first line of
//! CSV names the columns, and an empty field is null unless it is quoted. Both formats may also
//! contain the `shard_key`.
//!
//! **Invariant:** memory is bounded by one chunk and one incomplete row, whatever the length of the
//! input.
//! **Not here:** storing rows (the root of this package).

use std::borrow::Cow;
use std::io::{self, Read};
use std::sync::Arc;

use cluster::manager::{BulkRow, Data, Manager, place_row};
use memchr::{memchr, memchr_iter};
use model::csv::{Kind, Record};
use model::error::Error;
use model::json_members::Members;
use model::keyspace::ShardKey;
use model::row_change::{Operation, Precondition, RowError, RowWrite};
use model::shard_map::ShardMap;
use model::table::Table;
use model::value::{TypeMismatch, Value};
use serde_json::value::RawValue;

use super::{CHUNK_ROWS_PER_SHARD, RowChunk};

/// Maximal size of one row: a value of 1 MiB and its escapes.
const ROW_BYTES_MAX: usize = 2 << 20;
/// Maximal size of the text of one chunk.
const CHUNK_BYTES_MAX: usize = 8 << 20;
/// Size of one read.
const STEP: usize = 256 << 10;
/// Byte order mark, which is skipped.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const SHARD_KEY: &str = "shard_key";
const DATA: &str = "data";
const IF_VERSION: &str = "if_version";

/// Format of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportFormat {
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values.
    Csv,
}

/// Reason why the input cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A read failed.
    #[error("the input cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A row has no end within the size limit.
    #[error("line {line}: a row of more than {} MiB; look for a line end, or a quote, that is missing", ROW_BYTES_MAX >> 20)]
    RowTooLong {
        /// Line on which it begins.
        line: usize,
    },
    /// The first line of CSV does not name the columns.
    #[error("the first line must name the columns: {cause}")]
    Columns {
        /// Reason.
        cause: String,
    },
}

/// Reader of the rows of an input.
pub struct RowReader<R> {
    input: R,
    ended: bool,
    text: Vec<u8>,
    at: usize,
    /// Number of the next line, from 1.
    line: usize,
    format: ImportFormat,
    map: Arc<ShardMap>,
    table: Arc<Table>,
    operation: Operation,
    record: Record,
    columns: Vec<CsvColumn>,
    /// Error to return after the rows before it.
    pending_error: Option<ReadError>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CsvColumn {
    ShardKey,
    Own(usize),
}

/// Members of a JSON row, unparsed.
struct JsonRow<'t> {
    /// Shard key named beside the columns.
    own: Option<String>,
    /// Version that an existing row must have.
    version: Option<i64>,
    members: Vec<(Cow<'t, str>, &'t RawValue)>,
}

/// Row of a line, with its shard, or the reason for its refusal.
type Routed = Result<BulkRow, String>;

impl<R: Read> RowReader<R> {
    /// Creates a reader of rows for a table of this cluster.
    pub fn new(
        input: R,
        format: ImportFormat,
        manager: &Manager,
        (table, operation): (&Arc<Table>, Operation),
    ) -> Self {
        Self {
            input,
            ended: false,
            text: Vec::new(),
            at: 0,
            line: 1,
            format,
            map: manager.map(),
            table: Arc::clone(table),
            operation,
            record: Record::default(),
            columns: Vec::new(),
            pending_error: None,
        }
    }

    /// Returns the number of the next line.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Returns the next rows; `None` after the last.
    ///
    /// # Errors
    /// [`ReadError`] if the input cannot be read further; rows before the error were returned.
    pub fn next_chunk(&mut self) -> Result<Option<RowChunk>, ReadError> {
        if let Some(error) = self.pending_error.take() {
            return Err(error);
        }
        let mut chunk = RowChunk::default();
        let gathered = self.fill_chunk(&mut chunk);
        let empty = chunk.rows.is_empty() && chunk.refused.is_empty();
        match gathered {
            Err(error) if empty => return Err(error),
            Err(error) => self.pending_error = Some(error),
            Ok(()) if empty && self.format == ImportFormat::Csv && self.columns.is_empty() => {
                return Err(ReadError::Columns { cause: "the input is empty".to_owned() });
            }
            Ok(()) => {}
        }
        Ok(Some(chunk).filter(|_| !empty))
    }

    fn fill_chunk(&mut self, chunk: &mut RowChunk) -> Result<(), ReadError> {
        let most = CHUNK_ROWS_PER_SHARD * self.map.topology().numbers().count();
        let mut bytes = 0;
        while chunk.rows.len() + chunk.refused.len() < most && bytes < CHUNK_BYTES_MAX {
            let (line, before) = (self.line, self.at);
            match self.next_row()? {
                Some(Some(Ok(row))) => chunk.rows.push(row),
                Some(Some(Err(cause))) => chunk.refused.push((line, cause)),
                Some(None) => {}
                None if self.ended => break,
                None if self.text.len() - self.at > ROW_BYTES_MAX => {
                    return Err(ReadError::RowTooLong { line });
                }
                None => {
                    self.read_more()?;
                    continue;
                }
            }
            bytes += self.at - before;
        }
        Ok(())
    }

    fn read_more(&mut self) -> Result<(), ReadError> {
        self.text.drain(..self.at);
        let begins = self.at == 0 && self.line == 1;
        self.at = 0;
        let before = self.text.len();
        let read = (&mut self.input).take(STEP as u64).read_to_end(&mut self.text)?;
        self.ended = read == 0;
        if begins && before == 0 && self.text.starts_with(BYTE_ORDER_MARK) {
            self.at = BYTE_ORDER_MARK.len();
        }
        Ok(())
    }

    /// Takes the next line or record: `None` if it is incomplete, `Some(None)` if it is not a row.
    fn next_row(&mut self) -> Result<Option<Option<Routed>>, ReadError> {
        match self.format {
            ImportFormat::Ndjson => Ok(self.cut_line()),
            ImportFormat::Csv => self.cut_record(),
        }
    }

    fn cut_line(&mut self) -> Option<Option<Routed>> {
        let text = &self.text[self.at..];
        let (line, bytes) = match memchr(b'\n', text) {
            Some(end) => (&text[..end], end + 1),
            None if self.ended && !text.is_empty() => (text, text.len()),
            None => return None,
        };
        let number = self.line;
        let blank = line.iter().all(u8::is_ascii_whitespace);
        let routed = (!blank).then(|| self.of_json(number, line));
        self.at += bytes;
        self.line += 1;
        Some(routed)
    }

    fn cut_record(&mut self) -> Result<Option<Option<Routed>>, ReadError> {
        let text = &self.text[self.at..];
        let Some(cut) = self.record.read(text, self.ended) else { return Ok(None) };
        let number = self.line;
        self.line += memchr_iter(b'\n', &text[..cut.bytes]).count();
        self.at += cut.bytes;
        let malformed = match cut.kind {
            Kind::Blank => return Ok(Some(None)),
            Kind::Fields => None,
            Kind::TextAfterQuote => {
                Some("text follows a closing quote; a quote in quotes is doubled")
            }
            Kind::OpenQuote => Some("a quote is not closed"),
        };
        if self.columns.is_empty() {
            let columns = match malformed {
                Some(cause) => Err(cause.to_owned()),
                None => self.named_columns(),
            };
            self.columns = columns.map_err(|cause| ReadError::Columns { cause })?;
            return Ok(Some(None));
        }
        let routed = match malformed {
            Some(cause) => Err(cause.to_owned()),
            None => self.of_fields(number),
        };
        Ok(Some(Some(routed)))
    }

    fn of_json(&self, line: usize, text: &[u8]) -> Routed {
        let text = std::str::from_utf8(text).map_err(|_| "the line is not UTF-8".to_owned())?;
        let JsonRow { own, version, members } = self.parts(text)?;
        let routing = self.table.routing().map(|routing| self.table.column(routing));
        let spelled = routing.and_then(|column| {
            let raw = members.iter().find(|(name, _)| *name == column.name)?.1;
            Some(
                column
                    .kind
                    .read_json(raw)
                    .map_err(|mismatch| format!("{}: {mismatch}", column.name)),
            )
        });
        let key = self.key(own.as_deref(), spelled.transpose()?.as_ref())?;
        let routed = Data::prepare(&self.map, &self.table, self.operation, parsed(&key)?, &members);
        let (place, row) = routed.map_err(|error| error.to_string())?;
        let precondition = version.map(|version| Precondition::Versions(vec![version]));
        let row = RowWrite { wants_row: false, precondition, ..row };
        Ok(BulkRow { index: line, place, row })
    }

    /// Returns the columns of a row and the members beside them. As in a bulk write, a member
    /// `data` that is an object holds the columns, unless the table has a column of this name.
    fn parts<'t>(&self, text: &'t str) -> Result<JsonRow<'t>, String> {
        let Members(mut members) = serde_json::from_str(text)
            .map_err(|error| format!("this is not a JSON object: {error}"))?;
        let mut take = |wanted: &str| {
            let at = members.iter().position(|(name, _)| name == wanted)?;
            Some(members.remove(at).1)
        };
        let own = take(SHARD_KEY).map(|raw| serde_json::from_str(raw.get()));
        let own = own.transpose().map_err(|_| "shard_key must be a string".to_owned())?;
        let is_wrapped = |(name, raw): &(Cow<'_, str>, &RawValue)| {
            name == DATA && raw.get().starts_with('{') && self.table.find(DATA).is_none()
        };
        let Some(at) = members.iter().position(is_wrapped) else {
            return Ok(JsonRow { own, version: None, members });
        };
        let data = members.remove(at).1;
        let mut version = None;
        for (name, raw) in members {
            if name != IF_VERSION || version.is_some() {
                return Err(format!("`{name}` is not allowed beside data"));
            }
            if self.operation == Operation::Insert {
                return Err("if_version must be left out of an insert".to_owned());
            }
            let number = serde_json::from_str(raw.get());
            version = Some(number.map_err(|_| "if_version must be a whole number".to_owned())?);
        }
        let Members(members) =
            serde_json::from_str(data.get()).map_err(|error| format!("data: {error}"))?;
        Ok(JsonRow { own, version, members })
    }

    fn of_fields(&self, line: usize) -> Routed {
        let (found, named) = (self.record.fields().len(), self.columns.len());
        if found != named {
            return Err(format!("the row has {found} fields, the first line names {named}"));
        }
        let (mut own, mut values) = (None, Vec::with_capacity(named));
        for (column, field) in self.columns.iter().zip(self.record.fields()) {
            let text = std::str::from_utf8(field.text).map_err(|_| "the row is not UTF-8")?;
            let is_null = text.is_empty() && !field.quoted;
            match column {
                CsvColumn::ShardKey => own = (!is_null).then_some(text),
                CsvColumn::Own(index) => values.push((*index, self.value(*index, text, is_null)?)),
            }
        }
        let routing = self.table.routing();
        let spelled = values.iter().find(|(column, _)| Some(*column) == routing);
        let key = self.key(own, spelled.map(|(_, value)| value))?;
        let key = parsed(&key)?;
        let routed = place_row(&self.map, &self.table, self.operation, key, values);
        let (place, row) = routed.map_err(|error| error.to_string())?;
        Ok(BulkRow { index: line, place, row: RowWrite { wants_row: false, ..row } })
    }

    /// Returns the shard key of a row: the named one, else the value of its routing column.
    fn key(&self, own: Option<&str>, spelled: Option<&Value>) -> Result<String, String> {
        match (own, spelled) {
            (Some(own), _) => Ok(own.to_owned()),
            (None, Some(Value::Text(text))) => Ok(text.clone()),
            (None, Some(Value::Int(number))) => Ok(number.to_string()),
            (None, Some(Value::Bool(truth))) => Ok(truth.to_string()),
            (None, Some(Value::Double(number))) => Ok(number.to_string()),
            (None, Some(Value::Null) | None) => Err("the row names no shard key".to_owned()),
        }
    }

    fn value(&self, index: usize, text: &str, is_null: bool) -> Result<Value, String> {
        let column = self.table.column(index);
        let read = match (is_null, column.nullable) {
            (true, true) => Ok(Value::Null),
            (true, false) => Err(TypeMismatch::Null),
            (false, _) => column.kind.read_text(text),
        };
        read.map_err(|mismatch| format!("{}: {mismatch}", column.name))
    }

    fn named_columns(&self) -> Result<Vec<CsvColumn>, String> {
        let mut columns = Vec::with_capacity(self.record.fields().len());
        for field in self.record.fields() {
            let name = std::str::from_utf8(field.text).map_err(|_| "it is not UTF-8")?.trim();
            let column = match self.table.find(name) {
                Some(Table::SHARD_KEY) => CsvColumn::ShardKey,
                Some(index) if self.table.own().contains(&index) => CsvColumn::Own(index),
                Some(_) => {
                    let error = RowError::SystemColumn { column: name.to_owned() };
                    return Err(error.to_string());
                }
                None => {
                    let (table, column) = (self.table.name().to_owned(), name.to_owned());
                    let suggestion = self.table.visible().suggest(name);
                    let error = RowError::NoSuchColumn { table, column, suggestion };
                    return Err(Error::Row(error).to_string());
                }
            };
            if columns.contains(&column) {
                return Err(format!("{name} is given twice"));
            }
            columns.push(column);
        }
        Ok(columns)
    }
}

fn parsed(key: &str) -> Result<ShardKey<'_>, String> {
    ShardKey::parse(key).map_err(|error| error.to_string())
}
