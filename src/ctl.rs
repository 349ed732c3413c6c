//! Ctl: `rot13d ctl`, a client of the console for people and scripts.
//!
//! Rule: commands are the console's, passed on as they are typed. What this version does not know works as well.
//! Not here: what commands mean (`actix-lines`), where the console is by default (`console`).

mod client;
mod complete;
mod place;
mod prompt;
mod record;
mod screen;
mod script;
mod show;
mod top;
mod units;
mod wire;

use std::{
    env,
    io::{self, BufWriter, IsTerminal, Write, stdin, stdout},
    path::PathBuf,
    process::ExitCode,
};

use actix_lines::ListenAddress;
use anstream::AutoStream;
use clap::ColorChoice;
use rustix::termios::tcgetwinsize;

use self::{
    client::{Client, Failure},
    place::Place,
    show::Style,
};

/// Shows the sessions of a running rot13d, and steers it.
///
/// COMMAND is one of the console's: `rot13d ctl help` lists them, `rot13d ctl help COMMAND` explains one. Without one, they
/// are asked for at a prompt that knows history and completion; from a pipe they are read line by line.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Try it:\n  rot13d ctl list 'idle>1m' sort outbox limit 10\n  rot13d ctl kick peer=192.0.2.0/24 dry-run\n  \
                  rot13d ctl set idle-timeout 5m\n  rot13d ctl watch closed\n  rot13d ctl top\n\n\
                  > and < are the shell's: put quotes around a word that has one.\n\
                  Exit codes: 0 done, 1 the command failed, 2 bad usage, 3 cannot connect."
)]
pub(crate) struct Options {
    /// Address of the console [default: the default of --console]
    #[arg(long, short, value_name = "ADDRESS", value_parser = place::parse)]
    connect: Option<ListenAddress>,

    /// File with the console's token; else it is the value of ROT13D_CONSOLE_TOKEN, if there is one
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,

    /// Print what the console says: one JSON object a line
    #[arg(long, short)]
    json: bool,

    /// Print exact numbers: bytes and seconds
    #[arg(long, short, conflicts_with = "json")]
    raw: bool,

    /// Colours
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,

    /// With commands from a pipe, go on after one that fails
    #[arg(long, short)]
    keep_going: bool,

    /// A command of the console and its words
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,

    /// A text for peers, behind `--`
    #[arg(value_name = "TEXT", last = true)]
    text: Vec<String>,
}

/// Exit codes, those of clap among them.
const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;
/// As a shell says of a command that SIGINT has ended.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// Runs a command, those of a pipe, or those typed at a prompt.
pub(crate) fn run(options: Options) -> ExitCode {
    let has_colors = has_colors(options.color);
    match execute(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let style = Style { has_colors: has_colors && io::stderr().is_terminal(), ..Style::default() };
            failure.tell(style);
            ExitCode::from(failure.code())
        }
    }
}

fn execute(options: Options) -> Result<(), Failure> {
    let mut style = Style {
        is_json: options.json,
        is_exact: options.raw,
        has_colors: has_colors(options.color),
        width: terminal_width(),
    };
    let command = command(&options)?;
    let place = Place::new(options.connect, options.token.as_deref()).map_err(Failure::Usage)?;
    let mut client = Client::new(place);
    let mut out = BufWriter::new(stdout().lock());
    if !command.is_empty() {
        let command = client::without_json(&command, &mut style);
        return perform(&mut client, command, style, &mut out);
    }
    if stdin().is_terminal() && stdout().is_terminal() {
        // A command that goes on ends by SIGINT or a key, and the prompt comes again.
        client.take_signals()?;
        client.has_keys = true;
        return prompt::run(client, style, &mut out);
    }
    script::run(&mut client, style, options.keep_going, &mut out)
}

/// Runs a command and shows its answer, or that of `top` on the whole terminal, where there is one.
fn perform(client: &mut Client, command: &str, style: Style, out: &mut impl Write) -> Result<(), Failure> {
    let is_view = client::first_word(command) == "top" && client::is_endless(command) && !style.is_json;
    match is_view {
        true if stdin().is_terminal() && stdout().is_terminal() => top::run(client, command, style),
        true => client.run(&format!("{command} once"), style, out),
        false => client.run(command, style, out),
    }
}

/// The words of the command line as a line of the console's.
fn command(options: &Options) -> Result<String, Failure> {
    let mut line = options.words.join(" ");
    // A text may be empty.
    if !options.text.is_empty() || !line.is_empty() && env::args_os().next_back().is_some_and(|last| last == "--") {
        // Behind the words of a command it is the text; without any, it is a command that begins with a dash.
        let separator = if line.is_empty() { "" } else { " -- " };
        line = [&line, separator, &options.text.join(" ")].concat();
    }
    match line.chars().find(|letter| letter.is_control()) {
        Some(letter) => Err(Failure::Usage(format!(
            "a command is one line: {} cannot be in it; read several commands from a pipe",
            letter.escape_debug()
        ))),
        None => Ok(line),
    }
}

/// Returns true if standard output shows colours, or should as if it did.
fn has_colors(choice: ColorChoice) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => AutoStream::choice(&stdout()) != anstream::ColorChoice::Never,
    }
}

/// The columns of the terminal, if standard output is one.
fn terminal_width() -> Option<usize> {
    let size = tcgetwinsize(stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
