//! Feed: the rows of a streamed body, cut from its bytes as they come.
//!
//! **Invariant:** rows are counted from 0 in the order of the body; blank lines and the columns of CSV do not count.
//! It holds one row that is not whole yet, what came behind it, and the rows of one piece.
//! **Not here:** where bytes come from, and where rows go (`stream`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web::{Bytes, Data};
use memchr::memchr;
use shard_manager::csv::{Field, Kind, Record, Seek};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::BulkRow;
use shard_manager::row_change::{Operation, RowError};
use shard_manager::table::Table;
use shard_manager::value::{TypeMismatch, Value};

use super::answer::Refused;
use super::row::{Rows, Unfit};
use crate::app::App;
use crate::body::{WRITE_BYTES_MAX, bad_gzip};
use crate::headers::BulkFormat;
use crate::inflate::{Coding, FREE_BYTES, Flow, Inflow, RATIO_MAX};
use crate::problem::{Code, Problem};

/// Rows of a piece: enough to share the price of another thread.
const PIECE_ROWS_MAX: usize = 10_000;
/// Bytes of text of a piece.
pub(super) const PIECE_BYTES_MAX: usize = 1 << 20;
/// Text taken in at once.
const STEP: usize = 128 << 10;
/// Bytes of blank lines that a body may have beyond the bytes of its rows.
const BLANK_BYTES_MAX: usize = 1 << 20;
/// Steps without a row after which the clock is read.
const STEPS_UNTIMED: usize = 1_024;
/// Size up to which a buffer is kept although little of it is in use.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// What a text may begin with though it means nothing.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What the rows of a stream share.
pub(super) struct Shape {
    pub(super) table: Arc<Table>,
    pub(super) operation: Operation,
    /// The key of rows that name none.
    pub(super) key: Option<String>,
    pub(super) format: BulkFormat,
    pub(super) coding: Coding,
    /// Whether the first row that cannot be read ends the request.
    pub(super) strict: bool,
}

/// A body that is being taken apart.
pub(super) struct Feed {
    app: Data<App>,
    shape: Shape,
    inflow: Inflow,
    text: Vec<u8>,
    /// Up to where the text was taken apart.
    at: usize,
    /// Bytes of the unread text that are known to have no line end.
    searched: usize,
    /// Progress of the search for the end of a CSV record.
    seek: Seek,
    /// Bytes of blank lines, and bytes of rows.
    blank: usize,
    filled: usize,
    /// Time that pieces without a row took since the last row, and the most that they may take.
    spent: Duration,
    patience: Duration,
    begun: bool,
    /// Of CSV: what each field is; empty before the first line.
    columns: Vec<CsvColumn>,
    record: Record,
    /// Rows that were read.
    next_index: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CsvColumn {
    ShardKey,
    Own(usize),
}

/// Some rows.
pub(super) struct Piece {
    pub(super) rows: Vec<BulkRow>,
    pub(super) refused: Vec<Refused>,
    /// The number of the row that follows.
    pub(super) next_index: usize,
    pub(super) then: Then,
    /// Bytes that the feed still holds.
    pub(super) held: usize,
}

/// What follows a piece.
pub(super) enum Then {
    /// Another piece.
    More,
    /// Nothing before more bytes are pushed.
    Hungry,
    /// Nothing.
    Ended,
    /// The body cannot be read on.
    Stopped(Problem),
    /// The body cannot be read at all.
    Refused(Problem),
}

/// What is next in the text.
enum Next {
    Row(Result<BulkRow, Refused>),
    /// Something that is no row.
    Nothing,
    Then(Then),
}

impl Feed {
    /// Starts a feed that may search for the next row for as long as `patience`.
    pub(super) fn new(app: Data<App>, shape: Shape, patience: Duration) -> Self {
        let inflow = Inflow::new(shape.coding);
        Self {
            app,
            shape,
            inflow,
            text: Vec::new(),
            at: 0,
            searched: 0,
            seek: Seek::default(),
            blank: 0,
            filled: 0,
            spent: Duration::ZERO,
            patience,
            begun: false,
            columns: Vec::new(),
            record: Record::default(),
            next_index: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.inflow.push(bytes);
    }

    pub(super) fn end(&mut self) {
        self.inflow.end();
    }

    /// Bytes that are held.
    fn held(&self) -> usize {
        self.text.capacity() + self.record.held() + self.inflow.held()
    }

    /// Returns the next rows, of about this many bytes of text.
    pub(super) fn piece(&mut self, bytes_max: usize) -> Piece {
        let began = Instant::now();
        let key = self.shape.key.clone();
        let rows = Rows {
            map: self.app.manager.map(),
            table: Arc::clone(&self.shape.table),
            operation: self.shape.operation,
            key: key.as_deref().and_then(|key| ShardKey::parse(key).ok()),
        };
        let (rows_of, then) = (Vec::new(), Then::More);
        let mut piece = Piece { rows: rows_of, refused: Vec::new(), next_index: 0, then, held: 0 };
        let (mut bytes, mut steps) = (0, 0);
        while piece.rows.len() + piece.refused.len() < PIECE_ROWS_MAX && bytes < bytes_max {
            steps += 1;
            if steps % STEPS_UNTIMED == 0
                && piece.is_bare()
                && self.spent + began.elapsed() > self.patience
            {
                piece.then = Then::Stopped(late());
                break;
            }
            let before = self.at;
            let next = self.next(&rows);
            bytes += self.at.saturating_sub(before);
            match next {
                Next::Nothing => {}
                Next::Row(Ok(row)) => piece.rows.push(row),
                Next::Row(Err(refused)) if self.shape.strict => {
                    self.next_index = refused.index;
                    piece.then = Then::Stopped(bad_row(&refused));
                    break;
                }
                Next::Row(Err(refused)) => piece.refused.push(refused),
                Next::Then(then) => {
                    piece.then = then;
                    break;
                }
            }
        }
        piece.next_index = self.next_index;
        self.spent = if piece.is_bare() { self.spent + began.elapsed() } else { Duration::ZERO };
        if self.text.capacity() > KEPT_BYTES_MAX && self.text.len() - self.at < STEP {
            self.text = self.text.split_off(self.at);
            self.at = 0;
        }
        piece.held = self.held();
        piece
    }

    fn next(&mut self, rows: &Rows<'_>) -> Next {
        if !self.begun && self.text.len() < BYTE_ORDER_MARK.len() {
            match self.inflow.fill(&mut self.text, STEP) {
                Ok(Flow::Some) => return Next::Nothing,
                Ok(Flow::Hungry) => return Next::Then(Then::Hungry),
                Ok(Flow::Ended) => {}
                Err(_) => return Next::Then(Then::Stopped(bad_gzip())),
            }
        }
        if !self.begun {
            self.begun = true;
            if self.text.starts_with(BYTE_ORDER_MARK) {
                self.at = BYTE_ORDER_MARK.len();
            }
        }
        if let Some(next) = self.cut(rows, false) {
            return next;
        }
        if self.text.len() - self.at > WRITE_BYTES_MAX {
            return Next::Then(Then::Stopped(self.row_too_long()));
        }
        self.text.drain(..self.at);
        self.at = 0;
        if self.inflow.is_overblown() {
            return Next::Then(Then::Stopped(overblown()));
        }
        match self.inflow.fill(&mut self.text, STEP) {
            Ok(Flow::Some) => Next::Nothing,
            Ok(Flow::Hungry) => Next::Then(Then::Hungry),
            Ok(Flow::Ended) => self.cut(rows, true).unwrap_or_else(|| self.ended()),
            Err(_) => Next::Then(Then::Stopped(bad_gzip())),
        }
    }

    fn row_too_long(&self) -> Problem {
        let most = WRITE_BYTES_MAX >> 20;
        let detail = format!("row {} is larger than {most} MiB", self.next_index);
        Problem::new(Code::TSR108, detail).hint("look for a line end, or a quote, that is missing")
    }

    fn ended(&self) -> Next {
        if self.shape.format == BulkFormat::Csv && self.columns.is_empty() {
            let problem = Problem::new(Code::TSR101, "the first line must name the columns");
            return Next::Then(Then::Refused(problem));
        }
        Next::Then(Then::Ended)
    }

    /// Takes the next line or record, if it is there as a whole.
    fn cut(&mut self, rows: &Rows<'_>, at_end: bool) -> Option<Next> {
        let row = match self.shape.format {
            BulkFormat::Csv => self.cut_record(rows, at_end)?,
            BulkFormat::Json | BulkFormat::Ndjson => self.cut_line(rows, at_end)?,
        };
        if self.blank > self.filled + BLANK_BYTES_MAX {
            return Some(Next::Then(Then::Stopped(blank())));
        }
        let Some(row) = row else { return Some(Next::Nothing) };
        let index = self.next_index;
        let row = match row {
            Ok(row) => Ok(row),
            Err(Cutting::Unfit(unfit)) => Err(Refused { index, problem: *unfit.problem }),
            Err(Cutting::Stop(then)) => return Some(Next::Then(then)),
        };
        self.next_index += 1;
        Some(Next::Row(row))
    }

    fn cut_line(&mut self, rows: &Rows<'_>, at_end: bool) -> Option<Cuttings> {
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
            return Some(Some(Err(Cutting::Stop(Then::Stopped(self.row_too_long())))));
        }
        let routed = rows.line(line).map_err(Cutting::Unfit);
        let index = self.next_index;
        Some(Some(routed.map(|(place, row)| BulkRow { index, place, row })))
    }

    fn cut_record(&mut self, rows: &Rows<'_>, at_end: bool) -> Option<Cuttings> {
        let text = &self.text[self.at..];
        if !at_end && self.seek.is_begun() && !self.seek.finds_end(text) {
            return None;
        }
        let Some(cut) = self.record.read(text, at_end) else {
            self.seek.finds_end(text);
            return None;
        };
        self.seek = Seek::default();
        // Rows of nothing but spaces are refused, and cost as little to send as blank lines.
        if text[..cut.bytes].iter().all(u8::is_ascii_whitespace) {
            self.blank += cut.bytes;
        } else {
            self.filled += cut.bytes;
        }
        self.at += cut.bytes;
        if cut.bytes > WRITE_BYTES_MAX {
            return Some(Some(Err(Cutting::Stop(Then::Stopped(self.row_too_long())))));
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
                None => columns(&self.shape.table, &self.record),
            };
            return Some(match columns {
                Ok(columns) => {
                    self.columns = columns;
                    None
                }
                Err(problem) => Some(Err(Cutting::Stop(Then::Refused(problem)))),
            });
        }
        let routed = match malformed {
            Some(problem) => Err(Unfit::from(problem)),
            None => record(rows, &self.columns, &self.record),
        };
        let index = self.next_index;
        let row = routed.map(|(place, row)| BulkRow { index, place, row });
        Some(Some(row.map_err(Cutting::Unfit)))
    }
}

/// A row, or `None` if it was nothing that counts.
type Cuttings = Option<Result<BulkRow, Cutting>>;

enum Cutting {
    Unfit(Unfit),
    Stop(Then),
}

impl Piece {
    fn is_bare(&self) -> bool {
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

fn overblown() -> Problem {
    let detail = format!(
        "the body inflates to more than {} MiB and {RATIO_MAX} times its size",
        FREE_BYTES >> 20
    );
    Problem::new(Code::TSR108, detail).hint("send the rest from next_index without gzip")
}

/// Under `handling=strict` a row that cannot be read is a body that cannot be read on.
fn bad_row(refused: &Refused) -> Problem {
    let Refused { index, problem } = refused;
    let problem = Problem::new(Code::TSR101, format!("row {index}: {}", problem.detail()));
    problem.hint("mend it, and send the rest from next_index")
}

/// What the first record names.
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
                    suggestion: table.suggest(name),
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
    rows: &Rows<'_>,
    columns: &[CsvColumn],
    record: &Record,
) -> Result<(shard_manager::shard_map::KeyLocation, shard_manager::row_change::RowWrite), Unfit> {
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

fn value(rows: &Rows<'_>, index: usize, text: &str, is_null: bool) -> Result<Value, Problem> {
    let column = rows.table.column(index);
    let read = match (is_null, column.nullable) {
        (true, true) => Ok(Value::Null),
        (true, false) => Err(TypeMismatch::Null),
        (false, _) => column.kind.read_text(text),
    };
    read.map_err(|mismatch| {
        Problem::from(&RowError::TypeMismatch { column: column.name.clone(), mismatch })
    })
}
