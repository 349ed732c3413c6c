//! Console: where it is by default, and its opening.
//!
//! Rule: whoever opens it and whoever looks for it ask here. A console that was not asked for is no reason not to start.
//! Not here: its commands (`actix-lines`), connecting to it (`ctl`).

use std::{
    env,
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use actix_lines::{
    BindError, Escaped, ListenAddress, Listener, ServerHandle,
    console::{BoundConsole, Console, ConsoleError},
    limits::{LimitKey, Limits},
};

use crate::{
    cluster::Node,
    ending::Ending,
    reason::reason,
    settings::{ConsoleAddress, ConsoleSettings, Invalid},
    token::{self, Token},
};

/// The runtime directory of services, and of root.
const RUN: &str = "/run/rot13d";
const SOCKET: &str = "console.sock";

/// The console of this process, if it has one.
#[derive(Debug)]
pub(crate) struct Opened(Option<BoundConsole>);

/// Reads the token, if there is one.
///
/// # Errors
/// Returns the setting that is wrong, and what to do.
pub(crate) fn token(ConsoleSettings { address, token, .. }: &ConsoleSettings) -> Result<Option<Token>, Invalid> {
    let file = token.as_deref().filter(|_| *address != ConsoleAddress::Off);
    file.map(token::load).transpose().map_err(|advice| Invalid { name: "console-token", advice })
}

/// Binds the console.
///
/// # Errors
/// If an address was given that cannot be used. Without one in the settings the server starts all the same.
pub(crate) fn open(
    ConsoleSettings { address, may_trace, .. }: ConsoleSettings,
    token: Option<Token>,
    node: &Node,
    ending: &Arc<Ending>,
) -> io::Result<Opened> {
    let bind = |address: ListenAddress| {
        let listener = Listener::at(address).name("console");
        let mut console = Console::at(listener).program(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        if may_trace {
            console = console.allow_trace();
        }
        if let Some(token) = &token {
            console = console.token(token.clone());
        }
        console = node.tell_console(console);
        let ending = Arc::clone(ending);
        console.before_drain(move |deadline, goodbye| ending.ask(deadline, goodbye)).bind()
    };
    let address = match address {
        ConsoleAddress::Off => return Ok(Opened(None)),
        ConsoleAddress::At(address) => return Ok(Opened(Some(bind(address)?))),
        ConsoleAddress::Auto => default_addresses().swap_remove(0),
    };
    if let Some(folder) = folder(&address)
        && let Err(error) = fs::metadata(folder).map(drop).or_else(|_| DirBuilder::new().mode(0o700).create(folder))
    {
        log::info!("no console: cannot make {}: {}; --console has it elsewhere", shown(folder), reason(&error));
        return Ok(Opened(None));
    }
    match bind(address) {
        Ok(console) => Ok(Opened(Some(console))),
        Err(ConsoleError::Bind(error @ BindError::InUse { .. })) => {
            log::warn!("no console: {error}, by --console");
            Ok(Opened(None))
        }
        Err(error) => {
            log::warn!("no console: {error}; --console has it elsewhere");
            Ok(Opened(None))
        }
    }
}

impl Opened {
    /// Starts it, beside a server that runs.
    pub(crate) fn start(self, server: &ServerHandle) -> io::Result<()> {
        self.0.map_or(Ok(()), |console| Ok(console.start(server).map(drop)?))
    }
}

/// Returns true for the names of limits, which [`changes`] shows.
pub(crate) fn knows_limit(name: &str) -> bool {
    LimitKey::find(name).is_some()
}

/// Returns each limit that differs, with its values, those that a console has set among them.
pub(crate) fn changes(before: &Limits, after: &Limits) -> Vec<String> {
    /// A list of networks may be long. Unit: characters.
    const LONGEST: usize = 100;
    let shown = |value: &str| {
        let value = Escaped::new(value).to_string();
        match value.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}...", &value[..end]),
            None => value,
        }
    };
    let each = LimitKey::all().map(|key| (key.name(), key.value(before), key.value(after)));
    let changed = each.filter(|(_, before, after)| before != after);
    changed.map(|(name, before, after)| format!("{name} {} -> {}", shown(&before), shown(&after))).collect()
}

fn shown(path: &Path) -> String {
    Escaped::new(path.as_os_str().as_encoded_bytes()).to_string()
}

/// The folder of a unix socket.
fn folder(address: &ListenAddress) -> Option<&Path> {
    match address {
        ListenAddress::Unix(path) => path.parent(),
        _ => None,
    }
}

/// Returns the addresses that a console may have by default, those of this very environment first.
pub(crate) fn default_addresses() -> Vec<ListenAddress> {
    addresses(|name| env::var_os(name))
}

fn addresses(variable: impl Fn(&str) -> Option<OsString>) -> Vec<ListenAddress> {
    let folder = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A service may have several, with colons between them; the first is its own.
    let of_the_service =
        folder("RUNTIME_DIRECTORY").and_then(|folders| folders.to_string_lossy().split(':').next().map(PathBuf::from));
    let of_the_user = folder("XDG_RUNTIME_DIR").map(|folder| folder.join("rot13d"));
    let mut addresses = Vec::new();
    for folder in [of_the_service, of_the_user, Some(PathBuf::from(RUN))].into_iter().flatten() {
        let address = ListenAddress::Unix(Path::join(&folder, SOCKET));
        if folder.is_absolute() && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Vec<String> {
        let value = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        addresses(value).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_service_comes_before_the_user_and_the_user_before_root() {
        let run = "unix:/run/rot13d/console.sock";
        assert_eq!(of(&[]), [run]);
        let user = ("XDG_RUNTIME_DIR", "/run/user/1000");
        assert_eq!(of(&[user]), ["unix:/run/user/1000/rot13d/console.sock", run]);
        let service = ("RUNTIME_DIRECTORY", "/run/lines:/run/other");
        let all = ["unix:/run/lines/console.sock", "unix:/run/user/1000/rot13d/console.sock", run];
        assert_eq!(of(&[user, service]), all);
        assert_eq!(of(&[("RUNTIME_DIRECTORY", "/run/rot13d")]), [run]);
        assert_eq!(of(&[("XDG_RUNTIME_DIR", ""), ("RUNTIME_DIRECTORY", "relative")]), [run]);
    }
}
