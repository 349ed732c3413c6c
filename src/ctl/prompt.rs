//! Prompt: commands typed at a terminal, with history and completion.
//!
//! Rule: nothing that fails ends it but the terminal's own end.
//! Not here: what a word may become (`complete`).

use std::{
    cell::RefCell,
    env,
    fs::DirBuilder,
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    time::Duration,
};

use rustyline::{
    CompletionType, Config, Context, Editor, Helper,
    completion::{Completer, Pair},
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::Validator,
};

use super::{
    client::{Client, Failure, first_word, is_endless, without_json},
    complete::{Commands, candidates, commands},
    perform,
    show::{Color, Style},
    terminal_width,
};

const PROMPT: &str = "rot13d> ";

/// Longest wait for what a completion asks the console.
const PATIENCE: Duration = Duration::from_secs(1);

/// Commands that are remembered.
const REMEMBERED: usize = 1000;

/// Asks for commands until the terminal ends, and runs them.
pub(super) fn run(client: Client, style: Style, out: &mut impl Write) -> Result<(), Failure> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .completion_show_all_if_ambiguous(true)
        .history_ignore_space(true)
        .max_history_size(REMEMBERED)
        .and_then(|config| config.history_ignore_dups(true))
        .map_err(failure)?
        .build();
    let mut editor = Editor::<Typing, FileHistory>::with_config(config).map_err(failure)?;
    let history = history();
    if let Some(file) = &history {
        // There is none before the first command.
        let _ = editor.load_history(file);
    }
    let typing = Typing { client: RefCell::new(client), commands: RefCell::default() };
    typing.client.borrow_mut().connected()?;
    typing.greet(style, out)?;
    editor.set_helper(Some(typing));
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(failure(error)),
        };
        let mut style = Style { width: terminal_width(), ..style };
        let command = without_json(&line, &mut style);
        if command.is_empty() {
            continue;
        }
        // Needs nobody at the other end.
        if command == "quit" || command == "exit" {
            return Ok(());
        }
        // A secret is nobody's history.
        if !command.starts_with("token")
            && editor.add_history_entry(line.as_str()).unwrap_or(false)
            && let Some(file) = &history
        {
            // Where it cannot be written the prompt remembers for as long as it is there.
            let _ = editor.append_history(file);
        }
        let Some(typing) = editor.helper() else { return Ok(()) };
        if is_endless(command) && first_word(command) != "top" && !style.is_json {
            writeln!(out, "{}", style.paint(Color::Dim, "Enter or Ctrl-C ends it."))?;
            out.flush()?;
        }
        match perform(&mut typing.client.borrow_mut(), command, style, out) {
            Ok(()) => {}
            Err(failure @ (Failure::Output(_) | Failure::NoReader | Failure::Input(_) | Failure::Terminated)) => {
                return Err(failure);
            }
            Err(failure) => {
                failure.tell(style);
                if matches!(failure, Failure::Lost(_) | Failure::Stranger(_)) {
                    writeln!(out, "The next command connects again.")?;
                    out.flush()?;
                }
            }
        }
    }
}

fn failure(error: ReadlineError) -> Failure {
    Failure::Input(match error {
        ReadlineError::Io(error) => error,
        error => io::Error::other(error),
    })
}

/// The file of the history, in a folder that is there. `None` without a home.
fn history() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|folder| folder.is_absolute());
    let state = folder("XDG_STATE_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/state")))?;
    let folder = state.join("rot13d");
    // What is typed here is for nobody else to read. The file itself is made with mode 0600.
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).ok()?;
    Some(folder.join("ctl_history"))
}

/// What completes a line.
struct Typing {
    client: RefCell<Client>,
    commands: RefCell<Commands>,
}

impl Typing {
    fn greet(&self, style: Style, out: &mut impl Write) -> Result<(), Failure> {
        let address = self.client.borrow().address().map(ToString::to_string).unwrap_or_default();
        let hint = "help lists the commands, Tab completes them, Ctrl-D ends.";
        writeln!(out, "Connected to {address}. {}", style.paint(Color::Dim, hint))?;
        Ok(out.flush()?)
    }
}

impl Completer for Typing {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = line.get(..pos).unwrap_or(line);
        let mut client = self.client.borrow_mut();
        let mut known = self.commands.borrow_mut();
        if known.is_empty() {
            *known = commands(&client.ask("help", PATIENCE));
        }
        let start = line.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
        let words = candidates(line, &known, |command| client.ask(command, PATIENCE));
        let pair = |word: String| Pair { display: word.trim_end().to_owned(), replacement: word };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

impl Helper for Typing {}

impl Highlighter for Typing {}

impl Validator for Typing {}

impl Hinter for Typing {
    type Hint = String;
}
