//! Show: the records of an answer as tables, cards and lines of text.
//!
//! Rule: the first row of a table does not wait for the last one. Widths are those of the first rows; a later cell that is
//! wider makes its column wider from there on.
//! Not here: units (`units`), the live view (`top`).

use std::{
    io::{self, Write},
    ops::Range,
};

use unicode_width::UnicodeWidthStr;

use super::{
    record::{Fields, Value, block, field},
    units::{histogram, printable, time_of_day, written},
};

/// Rows that wait for each other, so that their columns fit.
const MEASURED_ROWS: usize = 1000;

/// Fields that a narrow terminal does without, in this order.
const EXPENDABLE: [&str; 8] =
    ["unsent_bytes", "undelivered_bytes", "prefaces", "help", "worker", "listener", "lines_in", "closed"];

/// Those where rates are what is looked at.
const EXPENDABLE_BESIDE_RATES: [&str; 7] = ["lines_in", "bytes_in", "bytes_out", "worker", "age", "listener", "idle"];

/// Fields that stand before the others, in this order, and behind them.
const FIRST: [&str; 10] = ["at", "event", "id", "key", "name", "version", "from", "to", "value", "unit"];
const LAST: [&str; 2] = ["first", "help"];

/// Counters of the server that have a command of their own.
const ELSEWHERE: [&str; 2] = ["listeners", "former_listeners"];

/// Headings that are shorter than the names of their fields.
const HEADINGS: [(&str, &str); 16] = [
    ("worker", "W"),
    ("lines_in", "LINES"),
    ("bytes_in", "IN"),
    ("bytes_out", "OUT"),
    ("outbox_bytes", "OUTBOX"),
    ("unsent_bytes", "UNSENT"),
    ("undelivered_bytes", "UNDELIVERED"),
    ("local_addr", "ADDRESS"),
    ("is_paused", "PAUSED"),
    ("max_sessions", "MAX"),
    ("certificate_expires", "EXPIRES"),
    ("lease_left", "LEASE"),
    ("is_own", "OWN"),
    ("lines_rate", "LINES/S"),
    ("bytes_in_rate", "IN/S"),
    ("bytes_out_rate", "OUT/S"),
];

/// A text column is cut to no less.
const NARROWEST: usize = 12;

/// How records are shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    /// The console's lines as they are.
    pub(super) is_json: bool,
    /// Numbers without units.
    pub(super) is_exact: bool,
    pub(super) has_colors: bool,
    /// The columns of the terminal; `None` if there is none.
    pub(super) width: Option<usize>,
}

/// A colour, as the code of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
    Cyan,
}

impl Style {
    pub(super) fn paint(&self, color: Color, text: &str) -> String {
        let code = match color {
            Color::Bold => "1",
            Color::Dim => "2",
            Color::Green => "32",
            Color::Yellow => "33",
            Color::Red => "31",
            Color::Cyan => "36",
        };
        if self.has_colors && !text.trim().is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// How the records of an answer belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One is a card, several of a kind are a table.
    Any,
    Table,
    /// Each when it comes.
    Lines,
}

impl Form {
    /// The form of an answer to a command, by its first word.
    pub(super) fn of(command: &str) -> Self {
        match command {
            "list" | "listeners" | "limits" | "help" | "top" => Self::Table,
            "watch" | "trace" | "drain" => Self::Lines,
            _ => Self::Any,
        }
    }
}

/// Shows the records of one answer.
#[derive(Debug)]
pub(super) struct Show {
    style: Style,
    form: Form,
    held: Vec<Fields>,
    table: Option<Table>,
    cards: usize,
}

impl Show {
    pub(super) fn new(style: Style, form: Form) -> Self {
        Self { style, form, held: Vec::new(), table: None, cards: 0 }
    }

    /// Returns true if lines are to be shown as they are.
    pub(super) fn is_json(&self) -> bool {
        self.style.is_json
    }

    /// Returns true if records wait for others, so that [`flush`](Self::flush) would show something.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Shows a record, or holds it until there is more to measure.
    pub(super) fn record(&mut self, mut fields: Fields, out: &mut impl Write) -> io::Result<()> {
        if !self.style.is_exact && field(&fields, "age").is_some() {
            // Its age says so, and people read it.
            fields.retain(|(name, _)| name != "opened");
        }
        if let Some((summary, rows)) = block(&fields) {
            self.flush(out)?;
            if !summary.is_empty() {
                line(self.style, &summary, out)?;
            }
            return table(self.style, &rows, 0..rows.len()).iter().try_for_each(|row| writeln!(out, "{row}"));
        }
        if self.form == Form::Any
            && self.cards == 0
            && let Some(first) = self.held.first()
        {
            let keys = |fields: &Fields| fields.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
            self.form = if keys(first) == keys(&fields) { Form::Table } else { Form::Lines };
            if self.form == Form::Lines {
                self.flush(out)?;
            }
        }
        let fields = ordered(fields);
        match (self.form, &mut self.table) {
            (Form::Lines, _) => return line(self.style, &fields, out),
            (Form::Table, Some(table)) => return writeln!(out, "{}", table.row(&flat(fields))),
            (Form::Table, None) => self.held.push(flat(fields)),
            (Form::Any, _) => self.held.push(fields),
        }
        if self.held.len() == MEASURED_ROWS { self.flush(out) } else { Ok(()) }
    }

    /// Shows what is held.
    pub(super) fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Ok(());
        }
        match self.form {
            Form::Any => {
                for fields in held {
                    if self.cards > 0 {
                        writeln!(out)?;
                    }
                    self.cards += 1;
                    card(self.style, &fields, 0, out)?;
                }
            }
            Form::Lines => held.iter().try_for_each(|fields| line(self.style, fields, out))?,
            Form::Table => {
                // Before there were two of them they may have been cards.
                let held: Vec<_> = held.into_iter().map(flat).collect();
                let table = self.table.insert(Table::new(self.style, &held));
                writeln!(out, "{}", table.heading())?;
                held.iter().try_for_each(|fields| writeln!(out, "{}", table.row(fields)))?;
            }
        }
        Ok(())
    }
}

/// The lines of a table: its heading, and those of its rows that are in a range.
pub(super) fn table(style: Style, rows: &[Fields], shown: Range<usize>) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let rows: Vec<_> = rows.iter().cloned().map(flat).collect();
    let mut table = Table::new(style, &rows);
    let heading = table.heading();
    let rows = rows.get(shown).unwrap_or_default().iter();
    [heading].into_iter().chain(rows.map(|row| table.row(row))).collect()
}

/// The columns of a table.
#[derive(Debug)]
struct Table {
    style: Style,
    columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    field: String,
    width: usize,
    /// Numbers stand at the right.
    is_number: bool,
}

impl Table {
    fn new(style: Style, rows: &[Fields]) -> Self {
        Self { style, columns: columns(style, rows) }
    }

    fn heading(&self) -> String {
        let cells = self.columns.iter().map(|column| heading(&column.field)).collect();
        self.joined(cells, |_, cell| self.style.paint(Color::Bold, cell))
    }

    fn row(&mut self, fields: &[(String, Value)]) -> String {
        let style = self.style;
        let cells: Vec<_> = self.columns.iter().map(|column| cell(style, &column.field, fields)).collect();
        if style.width.is_none() {
            for (column, cell) in self.columns.iter_mut().zip(&cells) {
                column.width = column.width.max(cell.width());
            }
        }
        self.joined(cells, |column, cell| match color(cell.trim()) {
            Some(color) if !column.is_number => style.paint(color, cell),
            _ => cell.to_owned(),
        })
    }

    /// Joins the cells of a row, each in its column.
    fn joined(&self, cells: Vec<String>, painted: impl Fn(&Column, &str) -> String) -> String {
        let mut row = String::new();
        let mut left = self.style.width;
        for (at, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            let is_last = at + 1 == self.columns.len();
            let gap = if at > 0 { 2 } else { 0 };
            // What does not fit in a terminal however narrow its columns are is cut off at its edge.
            let width = left.map_or(column.width, |left| column.width.min(left.saturating_sub(gap)));
            if width == 0 {
                break;
            }
            left = left.map(|left| left.saturating_sub(gap + width));
            let cell = if self.style.width.is_some() { cut(&cell, width) } else { cell };
            let room = " ".repeat(width.saturating_sub(cell.width()));
            row.push_str(&" ".repeat(gap));
            if column.is_number {
                row.push_str(&room);
            }
            row.push_str(&painted(column, &cell));
            if !column.is_number && !is_last {
                row.push_str(&room);
            }
        }
        row
    }
}

/// Brings what says which one it is to the front.
fn ordered(mut fields: Fields) -> Fields {
    let rank = |name: &str| {
        let first = FIRST.iter().position(|first| *first == name);
        first.unwrap_or(FIRST.len() + usize::from(LAST.contains(&name)))
    };
    fields.sort_by_key(|(name, _)| rank(name));
    fields
}

/// Takes the fields of inner records among the others; numbers that belong together, as by reason, are their sum. A row has
/// no room for distributions.
fn flat(fields: Fields) -> Fields {
    let mut flattened = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        if histogram(&value, true).is_some() {
            continue;
        }
        match value {
            Value::Record(inner) if inner.iter().all(|(_, value)| matches!(value, Value::Number(_))) => {
                let sum: u64 = inner.iter().filter_map(|(_, value)| value.count()).sum();
                flattened.push((name, Value::Number(sum.into())));
            }
            Value::Record(inner) => flattened.extend(flat(inner)),
            value => flattened.push((name, value)),
        }
    }
    flattened
}

fn heading(field: &str) -> String {
    let short = HEADINGS.iter().find_map(|(name, heading)| (*name == field).then_some((*heading).to_owned()));
    short.unwrap_or_else(|| printable(field).to_uppercase())
}

fn cell(style: Style, name: &str, fields: &[(String, Value)]) -> String {
    field(fields, name).map_or_else(|| "-".to_owned(), |value| written(name, value, style.is_exact))
}

/// The columns of a table with these rows, on a terminal as wide as it is.
fn columns(style: Style, rows: &[Fields]) -> Vec<Column> {
    let mut columns = Vec::<Column>::new();
    for (at, (name, value)) in rows.iter().flat_map(|row| row.iter().enumerate()) {
        let (cell, is_number) = (written(name, value, style.is_exact), matches!(value, Value::Number(_)));
        let width = cell.width().max(heading(name).width());
        match columns.iter_mut().find(|column| column.field == *name) {
            Some(column) => {
                column.width = column.width.max(width);
                column.is_number |= is_number;
            }
            // A field that the first rows have not stands where the later ones have it.
            None => columns.insert(at.min(columns.len()), Column { field: name.clone(), width, is_number }),
        }
    }
    let Some(width) = style.width else { return columns };
    let taken = |columns: &[Column]| columns.iter().map(|column| column.width + 2).sum::<usize>().saturating_sub(2);
    let has_rates = columns.iter().any(|column| column.field.ends_with("_rate"));
    let expendable = if has_rates { &EXPENDABLE_BESIDE_RATES[..] } else { &EXPENDABLE };
    for name in expendable {
        if taken(&columns) > width {
            columns.retain(|column| column.field != *name);
        }
    }
    while taken(&columns) > width {
        let widest = columns.iter_mut().filter(|column| !column.is_number && column.width > NARROWEST);
        let Some(widest) = widest.max_by_key(|column| column.width) else { break };
        widest.width -= 1;
    }
    columns
}

/// Cuts a text to a width; an ellipsis says so.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for letter in text.chars() {
        if format!("{kept}{letter}").width() + 1 > width {
            break;
        }
        kept.push(letter);
    }
    if width > 0 {
        kept.push('\u{2026}');
    }
    kept
}

/// The colour of a word that says how something is.
pub(super) fn color(word: &str) -> Option<Color> {
    Some(match word {
        "opened" | "resumed" | "in" => Color::Green,
        "held" | "draining" | "closing" | "paused" | "replaced" | "limits" | "lost" | "full" => Color::Yellow,
        "refused" | "refused-more" => Color::Red,
        "closed" | "out" => Color::Cyan,
        _ => return None,
    })
}

/// A field a line, what is within one below it.
fn card(style: Style, fields: &[(String, Value)], depth: usize, out: &mut impl Write) -> io::Result<()> {
    let indent = "  ".repeat(depth);
    let is_here = |name: &str| style.is_exact || !ELSEWHERE.contains(&name);
    let fields = || fields.iter().filter(|(name, _)| is_here(name));
    let width = fields().map(|(name, _)| printable(name).width()).max().unwrap_or(0);
    for (name, value) in fields() {
        let shown = printable(name);
        let room = " ".repeat(width - shown.width());
        let painted = style.paint(Color::Dim, &shown);
        match (value, histogram(value, style.is_exact)) {
            (_, Some(text)) => writeln!(out, "{indent}{painted}{room}  {text}")?,
            (Value::Record(inner), None) if !inner.is_empty() => {
                writeln!(out, "{indent}{painted}")?;
                card(style, inner, depth + 1, out)?;
            }
            (value, None) => match value.records() {
                Some(rows) => {
                    writeln!(out, "{indent}{painted}")?;
                    let style =
                        Style { width: style.width.map(|width| width.saturating_sub(indent.len() + 2)), ..style };
                    for row in table(style, &rows, 0..rows.len()) {
                        writeln!(out, "{indent}  {row}")?;
                    }
                }
                None => writeln!(out, "{indent}{painted}{room}  {}", written(name, value, style.is_exact))?,
            },
        }
    }
    Ok(())
}

/// A record in a line: what happened first, then the names and values of its fields.
fn line(style: Style, fields: &[(String, Value)], out: &mut impl Write) -> io::Result<()> {
    let mut parts = Vec::new();
    parts_of(style, fields, &mut parts);
    writeln!(out, "{}", parts.join("  "))
}

fn parts_of(style: Style, fields: &[(String, Value)], parts: &mut Vec<String>) {
    for (name, value) in fields {
        let text = written(name, value, style.is_exact);
        match (&**name, value) {
            (_, Value::Null) => {}
            ("event", Value::Text(_)) => {
                parts.push(style.paint(color(&text).unwrap_or(Color::Bold), &format!("{text:<8}")));
            }
            ("id", Value::Number(_)) => parts.push(format!("#{text}")),
            ("at", Value::Number(at)) if !style.is_exact => {
                parts.push(style.paint(Color::Dim, &time_of_day(at.as_f64().unwrap_or(0.0))));
            }
            // What a session says or is told.
            ("text", Value::Text(_)) => parts.push(text),
            (_, Value::Record(inner)) => parts_of(style, inner, parts),
            _ => parts.push(format!("{} {text}", style.paint(Color::Dim, &printable(name)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::Said, *};

    fn shown(style: Style, form: Form, lines: &[&str]) -> String {
        let (mut show, mut out) = (Show::new(style, form), Vec::new());
        for line in lines {
            let Said::Record(fields) = Said::new(line) else { panic!("{line}") };
            show.record(fields, &mut out).unwrap();
        }
        show.flush(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const SESSIONS: [&str; 2] = [
        r#"{"id":7,"peer":"192.0.2.1:1024","listener":"public","worker":0,"age":303.7,"idle":0.25,"lines_in":12,"bytes_in":1536,"bytes_out":1536,"outbox_bytes":0,"state":"open"}"#,
        r#"{"id":1234,"peer":"unix (pid 12, uid 1000, gid 1000)","listener":null,"worker":1,"age":7500,"idle":61,"lines_in":0,"bytes_in":0,"bytes_out":0,"outbox_bytes":70000,"state":"held"}"#,
    ];

    #[test]
    fn a_table_is_aligned_to_what_is_in_it() {
        let table = shown(Style::default(), Form::of("list"), &SESSIONS);
        let expected = "  ID  PEER                               LISTENER  W    AGE   IDLE  LINES       IN      OUT    OUTBOX  STATE\n   \
             7  192.0.2.1:1024                     public    0  5m03s  250ms     12  1.5 KiB  1.5 KiB       0 B  open\n\
             1234  unix (pid 12, uid 1000, gid 1000)  -         1  2h05m  1m01s      0      0 B      0 B  68.4 KiB  held\n";
        assert_eq!(table, expected, "\n{table}");
        let exact = shown(Style { is_exact: true, ..Style::default() }, Form::of("list"), &SESSIONS);
        assert!(exact.contains("  303.7  0.25     12  1536  1536       0  open\n"), "\n{exact}");
    }

    #[test]
    fn nodes_and_their_sessions_are_shown_with_units() {
        let nodes = [
            r#"{"node":"web1-40713","incarnation":"1f3a5c7d","sessions":2013,"lease_left":8.12,"about":"rot13d 0.1.0","is_own":true}"#,
            r#"{"node":"web2-40713","incarnation":"9e07b3d2","sessions":1987,"lease_left":9.4,"about":"rot13d 0.1.0","is_own":false}"#,
        ];
        let table = shown(Style::default(), Form::of("list"), &nodes);
        let docs = include_str!("../../docs/operating.md");
        assert!(docs.contains(&format!("$ rot13d ctl list nodes\n{table}```")), "\n{table}");
        let session =
            r#"{"id":"a.1f3a5c7d.17","peer":"192.0.2.1:1024","listener":"public","opened":1795718951213,"age":303.7}"#;
        let table = shown(Style::default(), Form::of("list"), &[session]);
        assert_eq!(
            table,
            "ID             PEER            LISTENER    AGE\na.1f3a5c7d.17  192.0.2.1:1024  public    5m03s\n"
        );
        let exact = shown(Style { is_exact: true, ..Style::default() }, Form::of("list"), &[session]);
        assert!(exact.contains("  1795718951213  303.7\n"), "\n{exact}");
    }

    #[test]
    fn a_terminal_is_not_overrun() {
        for width in [1, 2, 20, 60, 75, 80, 100, 200] {
            let style = Style { width: Some(width), ..Style::default() };
            let table = shown(style, Form::of("list"), &SESSIONS);
            let widest = table.lines().map(UnicodeWidthStr::width).max().unwrap();
            assert!(widest <= width, "{width}:\n{table}");
            let has_last = |line: &str| ["STATE", "open", "held"].iter().any(|last| line.ends_with(last));
            assert!(width < 75 || table.lines().all(has_last), "{width}:\n{table}");
        }
        assert_eq!(cut("\u{4e2d}\u{6587}\u{5b57}", 5), "\u{4e2d}\u{6587}\u{2026}");
        assert_eq!(cut("\u{4e2d}\u{6587}\u{5b57}", 4), "\u{4e2d}\u{2026}");
    }

    #[test]
    fn rates_have_room_before_all_else() {
        let row = r#"{"id":7,"peer":"192.0.2.1:1024","listener":"public","worker":0,"age":303.7,"idle":0.25,"lines_in":12,"bytes_in":1536,"bytes_out":1536,"outbox_bytes":0,"state":"open","lines_rate":12.0,"bytes_in_rate":2048.5,"bytes_out_rate":0.0}"#;
        let table = shown(Style { width: Some(80), ..Style::default() }, Form::of("top"), &[row]);
        let expected = "ID  PEER            LISTENER   IDLE  OUTBOX  STATE  LINES/S       IN/S  OUT/S\n \
                        7  192.0.2.1:1024  public    250ms     0 B  open    12.0/s  2.0 KiB/s  0 B/s\n";
        assert_eq!(table, expected, "\n{table}");
    }

    #[test]
    fn the_first_rows_do_not_wait_for_the_last() {
        let (mut show, mut out) = (Show::new(Style::default(), Form::Table), Vec::new());
        let row = |id: usize| vec![("id".to_owned(), Value::Number(id.into()))];
        (1..MEASURED_ROWS).try_for_each(|id| show.record(row(id), &mut out)).unwrap();
        assert!(out.is_empty() && show.holds());
        show.record(row(MEASURED_ROWS), &mut out).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1 + MEASURED_ROWS);
        show.record(row(123_456), &mut out).unwrap();
        assert!(out.ends_with(b"\n1000\n123456\n") && !show.holds());
    }

    #[test]
    fn counters_of_parts_stand_below_their_names() {
        let stats = r#"{"live":1,"times":{"bounds":[0.01,0.1],"counts":[98,1,1],"sum":2.0},"workers":[{"worker":0,"lag":0.002},{"worker":1,"lag":0}],"listeners":{"0":{"live":1}}}"#;
        let card = shown(Style::default(), Form::of("stats"), &[stats]);
        let expected = "live     1\ntimes    100, mean 20ms, half up to 10ms, 99 of 100 up to 100ms\n\
                        workers\n  W  LAG\n  0  2ms\n  1   0s\n";
        assert_eq!(card, expected, "\n{card}");
        let set = shown(
            Style::default(),
            Form::of("set"),
            &[r#"{"ends":0,"first":[],"from":"10m","key":"idle-timeout","to":"5m"}"#],
        );
        assert_eq!(set, "key    idle-timeout\nfrom   10m\nto     5m\nends   0\nfirst  -\n");
    }

    #[test]
    fn one_record_is_a_card_and_others_are_lines() {
        let card = shown(
            Style::default(),
            Form::of("stats"),
            &[r#"{"live":2,"closed":{"peer-eof":3,"kicked":1},"refused":{},"bytes_in":10}"#],
        );
        assert_eq!(card, "live      2\nclosed\n  peer-eof  3\n  kicked    1\nrefused   -\nbytes_in  10 B\n");
        let unlike = shown(Style::default(), Form::of("novelty"), &[r#"{"a":1}"#, r#"{"b":2}"#]);
        assert_eq!(unlike, "a 1\nb 2\n");
        let alike = shown(Style::default(), Form::of("novelty"), &[r#"{"a":1}"#, r#"{"a":2}"#]);
        assert_eq!(alike, "A\n1\n2\n");
        let event = r#"{"event":"opened","id":7,"peer":"192.0.2.1:1024","listener":null}"#;
        assert_eq!(shown(Style::default(), Form::of("watch"), &[event]), "opened    #7  peer 192.0.2.1:1024\n");
        let changed =
            r#"{"event":"limits-changed","changes":[{"key":"idle-timeout","from":"10m","to":"5m"}],"ends":0}"#;
        let shown_so = "limits-changed  changes key idle-timeout, from 10m, to 5m  ends 0\n";
        assert_eq!(shown(Style::default(), Form::of("watch"), &[changed]), shown_so);
        let said = r#"{"at":1764164702.007,"event":"in","text":"hello\\r\\n"}"#;
        assert_eq!(shown(Style::default(), Form::of("trace"), &[said]), "13:45:02  in        hello\\r\\n\n");
    }

    #[test]
    fn what_is_within_a_row_is_part_of_it() {
        let listener =
            r#"{"id":"public","is_paused":false,"stats":{"live":1,"closed":{"peer-eof":3,"kicked":1},"refused":{}}}"#;
        let table = shown(Style::default(), Form::of("listeners"), &[listener]);
        assert_eq!(table, "ID      PAUSED  LIVE  CLOSED  REFUSED\npublic  no         1       4        0\n");
        let block = r#"{"every":1.0,"sessions":[{"id":7,"state":"open"}]}"#;
        assert_eq!(shown(Style::default(), Form::of("top"), &[block]), "every 1.0s\nID  STATE\n 7  open\n");
    }

    #[test]
    fn colours_are_there_if_they_are_wanted() {
        let style = Style { has_colors: true, ..Style::default() };
        let table = shown(style, Form::Table, &[r#"{"id":7,"state":"held"}"#]);
        assert_eq!(table, "\x1b[1mID\x1b[0m  \x1b[1mSTATE\x1b[0m\n 7  \x1b[33mheld\x1b[0m\n");
    }
}
