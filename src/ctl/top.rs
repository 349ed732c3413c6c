//! Top: the sessions that do most, live on the whole terminal.
//!
//! Rule: order and rates are the console's; only where the view stands is decided here.
//! Not here: the terminal (`screen`), columns (`show`).

use std::{
    fmt::Write,
    io::{self, stdin},
    time::Duration,
};

use unicode_width::UnicodeWidthStr;

use super::{
    client::{Client, Failure, first_word},
    record::{Fields, Said, Value, block},
    screen::Screen,
    show::{Color, Style, cut, table},
    units::{printable, written},
    wire::{Event, Lost, Signal, Signals, Waits},
};

/// Rows that are asked for where no number is: more than a terminal shows, to scroll in.
const ROWS: usize = 500;

/// Orders that `s` goes through.
const ORDERS: [&str; 6] = ["bytes-in", "bytes-out", "lines", "outbox", "idle", "id"];

/// Lines around the rows: title, counters, heading, keys.
const FRAME: usize = 4;

/// Longest wait for the end of an answer that we have ended.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for the rest of a key that began with an escape.
const KEY_TIMEOUT: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Quit,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Sort,
    Pause,
    Redraw,
}

/// Takes the keys that are whole from what was typed. `is_late` says that nothing more is to come.
fn keys(typed: &mut Vec<u8>, is_late: bool) -> Vec<Key> {
    const SEQUENCES: [(&[u8], Key); 18] = [
        (b"\x1b[A", Key::Up),
        (b"\x1bOA", Key::Up),
        (b"\x1b[B", Key::Down),
        (b"\x1bOB", Key::Down),
        (b"\x1b[5~", Key::PageUp),
        (b"\x1b[6~", Key::PageDown),
        (b"\x1b[H", Key::Home),
        (b"\x1b[1~", Key::Home),
        (b"\x1bOH", Key::Home),
        (b"\x1b[F", Key::End),
        (b"\x1b[4~", Key::End),
        (b"\x1bOF", Key::End),
        (b"q", Key::Quit),
        (b"\x03", Key::Quit),
        (b"s", Key::Sort),
        (b"p", Key::Pause),
        (b" ", Key::PageDown),
        (b"\x0c", Key::Redraw),
    ];
    let mut keys = Vec::new();
    while !typed.is_empty() {
        if let Some((sequence, key)) = SEQUENCES.iter().find(|(sequence, _)| typed.starts_with(sequence)) {
            keys.push(*key);
            typed.drain(..sequence.len());
            continue;
        }
        let is_begun = SEQUENCES.iter().any(|(sequence, _)| sequence.starts_with(typed));
        if is_begun && !is_late {
            break;
        }
        // Another key: as long as its sequence is.
        let others = match typed.as_slice() {
            [0x1b, b'[', rest @ ..] => {
                2 + rest.iter().position(|byte| (0x40..=0x7e).contains(byte)).map_or(rest.len(), |end| end + 1)
            }
            [0x1b, _, ..] => 2,
            _ => 1,
        };
        typed.drain(..others.min(typed.len()));
    }
    keys
}

/// The words of the command: those that stay, and the order.
#[derive(Clone, Debug)]
struct Words {
    others: Vec<String>,
    order: Option<String>,
    /// The last order in which sessions came.
    known: Option<String>,
    /// Orders to go on to: all that were not refused.
    orders: Vec<&'static str>,
}

impl Words {
    fn new(command: &str) -> Self {
        let (mut others, mut order) = (Vec::new(), None);
        let mut words = command.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "sort" => order = words.next().map(str::to_owned),
                word => others.push(word.to_owned()),
            }
        }
        if !others.iter().any(|word| word == "limit") {
            others.extend(["limit".to_owned(), ROWS.to_string()]);
        }
        Self { others, order, known: None, orders: ORDERS.to_vec() }
    }

    fn command(&self) -> String {
        let order = self.order.as_ref().map(|order| format!(" sort {order}")).unwrap_or_default();
        self.others.join(" ") + &order
    }

    /// Goes on to the next order.
    fn turn(&mut self) {
        let at = self.order.as_ref().and_then(|order| self.orders.iter().position(|known| known == order));
        // The console's own is the first of them.
        let next = at.unwrap_or(0) + 1;
        self.order = self.orders.get(next).or(self.orders.first()).map(|next| (*next).to_owned());
    }

    /// Takes the order back that the console does not know. Returns false if that was the first one.
    fn turn_back(&mut self) -> bool {
        if self.order == self.known {
            return false;
        }
        self.orders.retain(|order| self.order.as_deref() != Some(order));
        self.order.clone_from(&self.known);
        true
    }
}

/// What is shown.
struct View {
    style: Style,
    words: Words,
    summary: Fields,
    rows: Vec<Fields>,
    /// The first row that is shown.
    first: usize,
    is_paused: bool,
    note: String,
}

impl View {
    /// Takes a block, unless the view is paused.
    fn take(&mut self, fields: &[(String, Value)]) {
        if self.is_paused {
            return;
        }
        match block(fields) {
            Some((summary, rows)) => (self.summary, self.rows) = (summary, rows),
            None => self.note = "The console sends nothing that could be shown here.".to_owned(),
        }
    }

    /// Does what a key says that concerns the view alone.
    fn press(&mut self, key: Key, height: usize) {
        let page = height.saturating_sub(FRAME).max(1);
        let last = self.rows.len().saturating_sub(page);
        self.first = match key {
            Key::Up => self.first.saturating_sub(1),
            Key::Down => self.first + 1,
            Key::PageUp => self.first.saturating_sub(page),
            Key::PageDown => self.first + page,
            Key::Home => 0,
            Key::End => last,
            _ => self.first,
        }
        .min(last);
        if key == Key::Pause {
            self.is_paused = !self.is_paused;
        }
    }

    /// Draws all of it, in `width` columns and `height` lines.
    fn frame(&self, width: usize, height: usize) -> String {
        let style = Style { width: Some(width), ..self.style };
        let mut lines = Vec::new();
        let order = self.words.order.as_deref().map(|order| format!("  by {order}")).unwrap_or_default();
        let page = height.saturating_sub(FRAME).max(1);
        let shown = self.rows.len().saturating_sub(self.first).min(page);
        let mut title = format!("rot13d {}{order}", first_word(&self.words.command()));
        let _ = match self.rows.len() {
            0 => write!(title, "  no sessions"),
            rows => write!(title, "  {} to {} of {rows}", self.first + 1, self.first + shown),
        };
        let title = cut(&title, width);
        let state = if self.is_paused { "  paused" } else { "" };
        let state =
            if title.width() + state.width() <= width { style.paint(Color::Yellow, state) } else { String::new() };
        lines.push(style.paint(Color::Bold, &title) + &state);
        let counters = self.summary.iter().filter(|(_, value)| !matches!(value, Value::Null | Value::List(_)));
        let counters: Vec<_> = counters
            .map(|(name, value)| format!("{} {}", printable(name), written(name, value, style.is_exact)))
            .collect();
        lines.push(match self.note.is_empty() {
            true => style.paint(Color::Dim, &cut(&counters.join("  "), width)),
            false => style.paint(Color::Red, &cut(&self.note, width)),
        });
        lines.extend(table(style, &self.rows, self.first..self.first + shown));
        lines.truncate(height.saturating_sub(1));
        lines.resize(height.saturating_sub(1), String::new());
        lines.push(
            style.paint(Color::Dim, &cut("q quit  s sort  p pause  arrows, PgUp, PgDn, Home, End scroll", width)),
        );
        // From the top; each line is cleared to its end.
        let mut frame = "\x1b[H".to_owned();
        for (at, line) in lines.iter().enumerate() {
            let end = if at + 1 < lines.len() { "\r\n" } else { "" };
            let _ = write!(frame, "{line}\x1b[K{end}");
        }
        frame + "\x1b[J"
    }
}

/// Shows it until somebody ends it.
pub(super) fn run(client: &mut Client, command: &str, style: Style) -> Result<(), Failure> {
    // An error before the first block is for the screen that stays.
    client.connected()?;
    let words = Words::new(command);
    let signals = Signals::new(&[Signal::Interrupt, Signal::Terminate, Signal::Resize]).map_err(Failure::Input)?;
    let mut view =
        View { style, words, summary: Vec::new(), rows: Vec::new(), first: 0, is_paused: false, note: String::new() };
    let result = watch(client, &mut view, &signals);
    client.forget_signals();
    if !matches!(result, Ok(()) | Err(Failure::Refused(_))) {
        client.close();
    }
    result
}

fn watch(client: &mut Client, view: &mut View, signals: &Signals) -> Result<(), Failure> {
    let wire = client.connected()?;
    wire.send(&format!("json {}", view.words.command()))?;
    let (mut screen, mut error, mut typed) = (None::<Screen>, None, Vec::new());
    // The answer was told to end; and then the view, too.
    let (mut is_ending, mut is_last) = (false, false);
    loop {
        let timeout = match (is_ending, typed.is_empty()) {
            (_, false) => Some(KEY_TIMEOUT),
            (true, true) => Some(END_TIMEOUT),
            (false, true) => None,
        };
        let event = wire.next(Waits { signals: Some(signals), keys: screen.is_some() && !is_last, timeout })?;
        let mut pressed = Vec::new();
        match event {
            Event::Line(line) => match Said::new(&line) {
                Said::Record(fields) if !is_ending => {
                    view.words.known.clone_from(&view.words.order);
                    view.take(&fields);
                }
                Said::Record(_) => continue,
                Said::Error(message) => error = Some(message),
                Said::Text(text) => return Err(Failure::Stranger(text)),
            },
            Event::End if is_last => return Ok(()),
            Event::End => match error.take() {
                // No block came in this order: back to the one before, if there was one.
                Some(message) if screen.is_some() && !is_ending && view.words.turn_back() => {
                    view.note = message;
                    wire.send(&format!("json {}", view.words.command()))?;
                }
                Some(message) => return Err(Failure::Refused(message)),
                None if is_ending => {
                    is_ending = false;
                    wire.send(&format!("json {}", view.words.command()))?;
                }
                // It was ended by the console, as with `once`.
                None => return Ok(()),
            },
            Event::Quiet if !typed.is_empty() => pressed = keys(&mut typed, true),
            Event::Quiet => return Err(Failure::Lost(Lost::Silent)),
            Event::Signal(Signal::Resize) => {}
            Event::Signal(Signal::Interrupt) => pressed.push(Key::Quit),
            Event::Signal(Signal::Terminate) => return Err(Failure::Terminated),
            Event::Key => {
                let mut bytes = [0; 256];
                match rustix::io::read(stdin(), &mut bytes) {
                    Ok(0) => return Ok(()),
                    Ok(read) => typed.extend_from_slice(&bytes[..read]),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(Failure::Input(io::Error::from(error))),
                }
                pressed = keys(&mut typed, false);
            }
            Event::NoReader => return Err(Failure::NoReader),
        }
        for key in pressed {
            let (_, height) = screen.as_ref().map_or((80, 24), Screen::size);
            match key {
                Key::Quit if !is_last => {
                    is_last = true;
                    // One that ends already is not told again: that would be a command.
                    if !is_ending {
                        wire.send("")?;
                    }
                    is_ending = true;
                }
                Key::Sort if !is_last => {
                    view.words.turn();
                    view.note.clear();
                    if !is_ending {
                        wire.send("")?;
                    }
                    is_ending = true;
                }
                key => view.press(key, height),
            }
        }
        if view.rows.is_empty() && view.summary.is_empty() && view.note.is_empty() {
            continue;
        }
        let screen = match &mut screen {
            Some(screen) => screen,
            None => screen.insert(Screen::new().map_err(Failure::Input)?),
        };
        let (width, height) = screen.size();
        view.press(Key::Redraw, height);
        screen.draw(&view.frame(width, height))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_taken_when_they_are_whole() {
        let mut typed = b"q\x1b[A\x1b[5~\x1b".to_vec();
        assert_eq!(keys(&mut typed, false), [Key::Quit, Key::Up, Key::PageUp]);
        assert_eq!(typed, b"\x1b");
        typed.extend_from_slice(b"[B\x1b[1;5Css\x1b[M");
        assert_eq!(keys(&mut typed, false), [Key::Down, Key::Sort, Key::Sort]);
        typed.extend_from_slice(b"\x1b[");
        assert_eq!(keys(&mut typed, false), []);
        assert_eq!(keys(&mut typed, true), []);
        assert!(typed.is_empty());
    }

    #[test]
    fn an_order_is_changed_and_the_other_words_stay() {
        let mut words = Words::new("top listener=public every 2s sort lines");
        assert_eq!(words.command(), "top listener=public every 2s limit 500 sort lines");
        words.turn();
        assert_eq!(words.command(), "top listener=public every 2s limit 500 sort outbox");
        assert!(words.turn_back() && words.order.is_none() && !words.turn_back());
        assert!(!words.orders.contains(&"outbox"));
        let mut words = Words::new("top limit 5");
        assert_eq!(words.command(), "top limit 5");
        words.turn();
        assert_eq!(words.command(), "top limit 5 sort bytes-out");
    }

    fn view(sessions: usize) -> View {
        let mut view = View {
            style: Style::default(),
            words: Words::new("top"),
            summary: Vec::new(),
            rows: Vec::new(),
            first: 0,
            is_paused: false,
            note: String::new(),
        };
        let sessions: Vec<_> = (1..=sessions)
            .map(|id| format!(r#"{{"id":{id},"peer":"192.0.2.1:{id}","bytes_in_per_second":2048.0}}"#))
            .collect();
        let line = format!(r#"{{"live":7,"sessions":[{}]}}"#, sessions.join(","));
        let Said::Record(fields) = Said::new(&line) else { panic!("{line}") };
        view.take(&fields);
        view
    }

    #[test]
    fn a_frame_is_as_large_as_the_terminal() {
        let mut view = view(50);
        for (width, height) in [(80, 24), (20, 5), (3, 1), (200, 100)] {
            view.press(Key::Redraw, height);
            let frame = view.frame(width, height);
            assert_eq!(frame.matches("\r\n").count() + 1, height, "{width}x{height}\n{frame}");
            let text = frame.replace("\x1b[H", "").replace("\x1b[K", "").replace("\x1b[J", "");
            let widest = text.split("\r\n").map(UnicodeWidthStr::width).max().unwrap();
            assert!(widest <= width.max(40), "{width}x{height}: {widest}\n{text}");
        }
    }

    #[test]
    fn the_view_scrolls_to_its_ends_and_no_further() {
        let mut view = view(50);
        let first = |view: &mut View, key| {
            view.press(key, 24);
            view.first
        };
        assert_eq!(first(&mut view, Key::Up), 0);
        assert_eq!(first(&mut view, Key::Down), 1);
        assert_eq!(first(&mut view, Key::PageDown), 21);
        assert_eq!(first(&mut view, Key::PageDown), 30);
        assert_eq!(first(&mut view, Key::Down), 30);
        assert!(view.frame(80, 24).contains("31 to 50 of 50"));
        assert_eq!(first(&mut view, Key::Home), 0);
        assert_eq!(first(&mut view, Key::End), 30);
        view.rows.truncate(3);
        assert_eq!(first(&mut view, Key::Redraw), 0);
    }

    #[test]
    fn a_paused_view_stays() {
        let mut view = view(2);
        view.press(Key::Pause, 24);
        view.take(&[("sessions".to_owned(), Value::List(Vec::new()))]);
        assert_eq!(view.rows.len(), 2);
        assert!(view.frame(80, 24).contains("paused"));
        view.press(Key::Pause, 24);
        view.take(&[("sessions".to_owned(), Value::List(Vec::new()))]);
        assert!(view.frame(80, 24).contains("no sessions"));
        assert_eq!(view.summary, []);
    }
}
