//! Screen: the terminal as a whole, for the live view.
//!
//! Rule: whatever ends the view, the terminal is as it was: a key, a signal, an error, a panic.
//! Not here: what is drawn (`top`).

use std::{
    io::{self, Write, stdin, stdout},
    panic,
    sync::{Mutex, PoisonError},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The other screen, without a cursor and without the end of one line becoming the begin of the next.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// How the terminal was, while there is a screen.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The whole terminal: keys come one by one, and are not shown.
#[derive(Debug)]
pub(super) struct Screen(());

impl Screen {
    pub(super) fn new() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        BEFORE.lock().unwrap_or_else(PoisonError::into_inner).replace(before);
        // A message is for the screen that stays.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            hook(info);
        }));
        let screen = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        screen.draw(ENTER)?;
        Ok(screen)
    }

    /// Writes a frame at once.
    pub(super) fn draw(&self, frame: &str) -> io::Result<()> {
        let mut out = stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()
    }

    /// Returns its columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal as it was, once.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        let mut out = stdout();
        let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}
