//! Row reader: splits the bytes of a streamed body into rows as they arrive.
//!
//! **Invariant:** rows are numbered from 0 in the order of the body; blank lines and the header
//! line of CSV are not numbered. The reader holds at most one incomplete row, the bytes that follow
//! it, and the rows of one batch.
//! **Not here:** the source of the bytes, and the destination of the rows (`stream`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::Bytes;
use memchr::memchr;
use shard_manager::csv::{Field, Kind, Record, Seek};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{BulkRow, Manager};
use shard_manager::row_change::{Operation, RowError};
use shard_manager::shard_map::ShardMap;
use shard_manager::table::Table;
use shard_manager::value::{ColumnType, TypeMismatch, Value};

use super::outcome::RefusedRow;
use super::row_router::{RowRejection, RowRouter};
use crate::app::App;
use crate::body_decoding::{BodyDecoder, ContentCoding, DecodeStep, FREE_BYTES, RATIO_MAX};
use crate::body_reader::{WRITE_BYTES_MAX, bad_gzip, check_depth};
use crate::caller_rights::CallerRights;
use crate::headers::BulkFormat;
use crate::problem::{Code, Problem};

/// Maximum number of rows of a batch. So many rows make the cost of passing a batch to another
/// thread negligible.
const BATCH_ROWS_MAX: usize = 10_000;
/// Number of bytes of text after which a batch on a separate thread ends.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Maximum number of bytes that one step decodes.
const STEP: usize = 128 << 10;
/// Number of bytes by which the blank lines of a body may exceed its rows.
const BLANK_BYTES_MAX: usize = 1 << 20;
/// Number of steps between two checks of the time limit while no row is found.
const STEPS_UNTIMED: usize = 1_024;
/// Capacity in bytes up to which a buffer is kept although little of it is in use.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// UTF-8 byte order mark, which is skipped at the start of a body.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Options that the rows of a stream share.
pub(super) struct StreamOptions {
    pub(super) rights: CallerRights,
    pub(super) table: Arc<Table>,
    pub(super) operation: Operation,
    /// Shard key for rows that do not name one.
    pub(super) key: Option<String>,
    pub(super) format: BulkFormat,
    pub(super) coding: ContentCoding,
    /// True if the first row that cannot be parsed ends the request.
    pub(super) strict: bool,
}

/// Reader of one body.
pub(super) struct RowReader {
    /// Shard map that is used for the whole body, so that rows of one key go to the same queue and
    /// keep their order even if their slot moves meanwhile.
    map: Arc<ShardMap>,
    manager: Arc<Manager>,
    options: StreamOptions,
    decoder: BodyDecoder,
    text: Vec<u8>,
    /// Offset in `text` of the first byte that is not parsed yet.
    at: usize,
    /// Number of bytes from `at` that are known to contain no line end.
    searched: usize,
    /// Progress of the search for the end of the current CSV record.
    seek: Seek,
    /// Number of bytes of blank lines (`blank`) and of rows (`filled`) so far.
    blank: usize,
    filled: usize,
    /// Time spent since the last row on batches without a row (`spent`), and its limit
    /// (`patience`).
    spent: Duration,
    patience: Duration,
    is_bom_checked: bool,
    /// Column of each CSV field, from the header line; empty until that line is parsed.
    columns: Vec<CsvColumn>,
    record: Record,
    /// Number of rows so far, which is the index of the next row.
    next_index: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CsvColumn {
    ShardKey,
    Own(usize),
}

/// Rows that were parsed at once.
pub(super) struct RowBatch {
    pub(super) rows: Vec<BulkRow>,
    pub(super) refused: Vec<RefusedRow>,
    /// Index of the first row that is not in this or an earlier batch.
    pub(super) next_index: usize,
    pub(super) state: ReaderState,
    /// Number of bytes that the reader still holds.
    pub(super) held: usize,
}

/// State of the reader after a batch.
pub(super) enum ReaderState {
    /// Another batch can be parsed at once.
    More,
    /// More bytes must be pushed before another batch can be parsed.
    NeedsInput,
    /// The body has ended.
    Ended,
    /// The rest of the body cannot be parsed, but the rows before it were.
    Stopped(Problem),
    /// The header line of CSV is missing or wrong, so that no row can be parsed.
    Refused(Problem),
}

impl ReaderState {
    /// Returns true if another batch may follow.
    pub(super) fn continues(&self) -> bool {
        matches!(self, Self::More | Self::NeedsInput)
    }
}

/// Result of one step of the reader.
enum NextRow {
    Row(Result<BulkRow, RefusedRow>),
    /// The step found no row: a blank line, the header line of CSV, or bytes that were only
    /// decoded.
    Nothing,
    State(ReaderState),
}

impl RowReader {
    /// Creates a reader that searches for at most `patience` without finding a row.
    pub(super) fn new(app: &App, options: StreamOptions, patience: Duration) -> Self {
        let decoder = BodyDecoder::new(options.coding);
        Self {
            map: app.manager.map(),
            manager: Arc::clone(&app.manager),
            options,
            decoder,
            text: Vec::new(),
            at: 0,
            searched: 0,
            seek: Seek::default(),
            blank: 0,
            filled: 0,
            spent: Duration::ZERO,
            patience,
            is_bom_checked: false,
            columns: Vec::new(),
            record: Record::default(),
            next_index: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.decoder.push(bytes);
    }

    pub(super) fn end(&mut self) {
        self.decoder.end();
    }

    /// Returns the number of bytes that the reader holds.
    fn held(&self) -> usize {
        self.text.capacity() + self.record.held() + self.decoder.held()
    }

    /// Parses the next rows, which have about `bytes_max` bytes of text.
    pub(super) fn batch(&mut self, bytes_max: usize) -> RowBatch {
        let began = Instant::now();
        let key = self.options.key.clone();
        let (manager, rights) = (Arc::clone(&self.manager), self.options.rights.clone());
        let rows = RowRouter {
            map: Arc::clone(&self.map),
            schema: manager.schema(&rights),
            table: Arc::clone(&self.options.table),
            operation: self.options.operation,
            key: key.as_deref().and_then(|key| ShardKey::parse(key).ok()),
            idempotency_key: None,
        };
        let (no_rows, state) = (Vec::new(), ReaderState::More);
        let mut batch =
            RowBatch { rows: no_rows, refused: Vec::new(), next_index: 0, state, held: 0 };
        let (mut bytes, mut steps) = (0, 0);
        while batch.rows.len() + batch.refused.len() < BATCH_ROWS_MAX && bytes < bytes_max {
            steps += 1;
            if steps % STEPS_UNTIMED == 0
                && batch.is_empty()
                && self.spent + began.elapsed() > self.patience
            {
                batch.state = ReaderState::Stopped(late());
                break;
            }
            let before = self.at;
            let next = self.next(&rows);
            bytes += self.at.saturating_sub(before);
            match next {
                NextRow::Nothing => {}
                NextRow::Row(Ok(row)) => batch.rows.push(row),
                NextRow::Row(Err(refused)) if self.options.strict => {
                    self.next_index = refused.index;
                    batch.state = ReaderState::Stopped(bad_row(&refused));
                    break;
                }
                NextRow::Row(Err(refused)) => batch.refused.push(refused),
                NextRow::State(state) => {
                    batch.state = state;
                    break;
                }
            }
        }
        batch.next_index = self.next_index;
        self.spent = if batch.is_empty() { self.spent + began.elapsed() } else { Duration::ZERO };
        if self.text.capacity() > KEPT_BYTES_MAX && self.text.len() - self.at < STEP {
            self.text = self.text.split_off(self.at);
            self.at = 0;
        }
        batch.held = self.held();
        batch
    }

    fn next(&mut self, rows: &RowRouter<'_>) -> NextRow {
        if !self.is_bom_checked && self.text.len() < BYTE_ORDER_MARK.len() {
            match self.decoder.fill(&mut self.text, STEP) {
                Ok(DecodeStep::Bytes) => return NextRow::Nothing,
                Ok(DecodeStep::NeedsInput) => return NextRow::State(ReaderState::NeedsInput),
                Ok(DecodeStep::Ended) => {}
                Err(_) => return NextRow::State(ReaderState::Stopped(bad_gzip())),
            }
        }
        if !self.is_bom_checked {
            self.is_bom_checked = true;
            if self.text.starts_with(BYTE_ORDER_MARK) {
                self.at = BYTE_ORDER_MARK.len();
            }
        }
        if let Some(next) = self.cut(rows, false) {
            return next;
        }
        if self.text.len() - self.at > WRITE_BYTES_MAX {
            return NextRow::State(ReaderState::Stopped(self.row_too_long()));
        }
        self.text.drain(..self.at);
        self.at = 0;
        if self.decoder.exceeds_ratio() {
            return NextRow::State(ReaderState::Stopped(ratio_exceeded()));
        }
        match self.decoder.fill(&mut self.text, STEP) {
            Ok(DecodeStep::Bytes) => NextRow::Nothing,
            Ok(DecodeStep::NeedsInput) => NextRow::State(ReaderState::NeedsInput),
            Ok(DecodeStep::Ended) => self.cut(rows, true).unwrap_or_else(|| self.ended()),
            Err(_) => NextRow::State(ReaderState::Stopped(bad_gzip())),
        }
    }

    fn row_too_long(&self) -> Problem {
        let most = WRITE_BYTES_MAX >> 20;
        let detail = format!("row {} is larger than {most} MiB", self.next_index);
        Problem::new(Code::TSR108, detail).hint("look for a line end, or a quote, that is missing")
    }

    fn ended(&self) -> NextRow {
        if self.options.format == BulkFormat::Csv && self.columns.is_empty() {
            let problem = Problem::new(Code::TSR101, "the first line must name the columns");
            return NextRow::State(ReaderState::Refused(problem));
        }
        NextRow::State(ReaderState::Ended)
    }

    /// Parses the next line or CSV record, if it has arrived completely.
    fn cut(&mut self, rows: &RowRouter<'_>, at_end: bool) -> Option<NextRow> {
        let row = match self.options.format {
            BulkFormat::Csv => self.cut_record(rows, at_end)?,
            BulkFormat::Json | BulkFormat::Ndjson => self.cut_line(rows, at_end)?,
        };
        if self.blank > self.filled + BLANK_BYTES_MAX {
            return Some(NextRow::State(ReaderState::Stopped(blank())));
        }
        let Some(row) = row else { return Some(NextRow::Nothing) };
        let index = self.next_index;
        let row = match row {
            Ok(row) => Ok(row),
            Err(RowParseError::Rejected(rejection)) => {
                Err(RefusedRow { index, problem: *rejection.problem })
            }
            Err(RowParseError::Stop(state)) => return Some(NextRow::State(state)),
        };
        self.next_index += 1;
        Some(NextRow::Row(row))
    }

    fn cut_line(&mut self, rows: &RowRouter<'_>, at_end: bool) -> Option<ParsedRow> {
        let text = &self.text[self.at..];
        let found = memchr(b'\n', &text[self.searched..]).map(|end| self.searched + end);
        let (line, bytes) = match found {
            Some(end) => (&text[..end], end + 1),
            None if at_end && !text.is_empty() => (text, text.len()),
            None => {
                self.searched = text.len();
                return None;
            }
        };
        self.searched = 0;
        self.at += bytes;
        if line.iter().all(u8::is_ascii_whitespace) {
            self.blank += bytes;
            return Some(None);
        }
        self.filled += bytes;
        if line.len() > WRITE_BYTES_MAX {
            return Some(Some(Err(RowParseError::Stop(ReaderState::Stopped(self.row_too_long())))));
        }
        let routed = rows.line(line).map_err(RowParseError::Rejected);
        let index = self.next_index;
        Some(Some(routed.map(|(place, row)| BulkRow { index, place, row })))
    }

    fn cut_record(&mut self, rows: &RowRouter<'_>, at_end: bool) -> Option<ParsedRow> {
        let text = &self.text[self.at..];
        if !at_end && self.seek.is_begun() && !self.seek.finds_end(text) {
            return None;
        }
        let Some(cut) = self.record.read(text, at_end) else {
            self.seek.finds_end(text);
            return None;
        };
        self.seek = Seek::default();
        // A CSV row of only spaces counts as blank here: it is refused, and sending it costs as
        // little as a blank line.
        if text[..cut.bytes].iter().all(u8::is_ascii_whitespace) {
            self.blank += cut.bytes;
        } else {
            self.filled += cut.bytes;
        }
        self.at += cut.bytes;
        if cut.bytes > WRITE_BYTES_MAX {
            return Some(Some(Err(RowParseError::Stop(ReaderState::Stopped(self.row_too_long())))));
        }
        let malformed = match cut.kind {
            Kind::Blank => return Some(None),
            Kind::Fields => None,
            Kind::TextAfterQuote => {
                Some("text follows a closing quote; a quote in quotes is doubled")
            }
            Kind::OpenQuote => Some("a quote is not closed"),
        };
        let malformed = malformed.map(|detail| Problem::new(Code::TSR101, detail));
        if self.columns.is_empty() {
            let columns = match malformed {
                Some(problem) => Err(problem),
                None => columns(&self.options.table, &self.record),
            };
            return Some(match columns {
                Ok(columns) => {
                    self.columns = columns;
                    None
                }
                Err(problem) => Some(Err(RowParseError::Stop(ReaderState::Refused(problem)))),
            });
        }
        let routed = match malformed {
            Some(problem) => Err(RowRejection::from(problem)),
            None => record(rows, &self.columns, &self.record),
        };
        let index = self.next_index;
        let row = routed.map(|(place, row)| BulkRow { index, place, row });
        Some(Some(row.map_err(RowParseError::Rejected)))
    }
}

/// A row, or `None` for a blank line or the header line of CSV.
type ParsedRow = Option<Result<BulkRow, RowParseError>>;

enum RowParseError {
    Rejected(RowRejection),
    Stop(ReaderState),
}

impl RowBatch {
    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.refused.is_empty()
    }
}

fn late() -> Problem {
    Problem::new(Code::TSR004, "no row was found in the body before x-deadline-ms")
        .hint("leave blank lines out, and send the rest from next_index")
}

fn blank() -> Problem {
    let most = BLANK_BYTES_MAX >> 20;
    let detail = format!("the body has {most} MiB more of blank lines than of rows");
    Problem::new(Code::TSR108, detail).hint("leave them out, and send the rest from next_index")
}

fn ratio_exceeded() -> Problem {
    let detail = format!(
        "the body inflates to more than {} MiB and {RATIO_MAX} times its size",
        FREE_BYTES >> 20
    );
    Problem::new(Code::TSR108, detail).hint("send the rest from next_index without gzip")
}

/// Returns the problem that ends a body under `handling=strict`, given its first invalid row.
fn bad_row(refused: &RefusedRow) -> Problem {
    let RefusedRow { index, problem } = refused;
    let problem = Problem::new(Code::TSR101, format!("row {index}: {}", problem.detail()));
    problem.hint("correct it, and send the rest from next_index")
}

/// Returns the columns that the header line of CSV names.
fn columns(table: &Table, record: &Record) -> Result<Vec<CsvColumn>, Problem> {
    let mut columns = Vec::with_capacity(record.fields().len());
    for field in record.fields() {
        let name = text(field).map(str::trim);
        let name = name.map_err(|_| Problem::new(Code::TSR101, "the first line is not UTF-8"))?;
        let column = match table.find(name) {
            Some(Table::SHARD_KEY) => CsvColumn::ShardKey,
            Some(index) if table.own().contains(&index) => CsvColumn::Own(index),
            Some(_) => {
                let column = name.to_owned();
                return Err(Problem::from(&RowError::SystemColumn { column }));
            }
            None => {
                return Err(Problem::from(&RowError::NoSuchColumn {
                    table: table.name().to_owned(),
                    column: name.chars().take(80).collect(),
                    suggestion: table.visible().suggest(name),
                }));
            }
        };
        if columns.contains(&column) {
            return Err(Problem::new(Code::TSR101, format!("the first line names {name} twice")));
        }
        columns.push(column);
    }
    Ok(columns)
}

fn text(field: Field<'_>) -> Result<&str, Problem> {
    std::str::from_utf8(field.text).map_err(|_| Problem::new(Code::TSR101, "the row is not UTF-8"))
}

fn record(
    rows: &RowRouter<'_>,
    columns: &[CsvColumn],
    record: &Record,
) -> Result<
    (shard_manager::shard_map::KeyLocation, shard_manager::row_change::RowWrite),
    RowRejection,
> {
    if record.fields().len() != columns.len() {
        let (found, named) = (record.fields().len(), columns.len());
        let detail = format!("the row has {found} fields, the first line names {named}");
        return Err(Problem::new(Code::TSR101, detail).into());
    }
    let mut values = Vec::with_capacity(columns.len() + 1);
    let mut own_key = None;
    for (column, field) in columns.iter().zip(record.fields()) {
        let text = text(field)?;
        let is_null = text.is_empty() && !field.quoted;
        match column {
            CsvColumn::ShardKey if is_null => {}
            CsvColumn::ShardKey => own_key = Some(text),
            CsvColumn::Own(index) => values.push((*index, value(rows, *index, text, is_null)?)),
        }
    }
    rows.fields(own_key, values)
}

fn value(rows: &RowRouter<'_>, index: usize, text: &str, is_null: bool) -> Result<Value, Problem> {
    let column = rows.table.column(index);
    if column.kind == ColumnType::Json {
        check_depth(&column.name, text.as_bytes())?;
    }
    let read = match (is_null, column.nullable) {
        (true, true) => Ok(Value::Null),
        (true, false) => Err(TypeMismatch::Null),
        (false, _) => column.kind.read_text(text),
    };
    read.map_err(|mismatch| {
        Problem::from(&RowError::TypeMismatch { column: column.name.clone(), mismatch })
    })
}
