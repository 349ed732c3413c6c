//! Place: where the console is, and a connection to it.
//!
//! Rule: whoever cannot connect reads all that was tried, why each failed, and what to do.
//! Not here: what is said on a connection (`wire`), the default addresses (`console`).

use std::{
    env,
    fmt::{self, Write},
    fs::{self, File},
    io::{self, ErrorKind},
    net::{TcpStream, ToSocketAddrs},
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixStream,
        },
    },
    path::Path,
    time::Duration,
};

use actix_lines::{Escaped, ListenAddress};
use nix::unistd::{Uid, User, geteuid};

use crate::{
    console,
    reason::reason,
    token::{self, Token},
};

/// Longest wait for each address of a name.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) const TOKEN: &str = "ROT13D_CONSOLE_TOKEN";

/// Reads an address that can be connected to.
pub(super) fn parse(text: &str) -> Result<ListenAddress, String> {
    let address = text.parse::<ListenAddress>().map_err(|error| error.to_string())?;
    match address {
        ListenAddress::Fd(_) | ListenAddress::Systemd(_) => {
            Err("that is a socket of the server's own: use unix:/PATH, unix:@NAME, or an address and a port".to_owned())
        }
        address => Ok(address),
    }
}

/// The addresses to try, and the token.
#[derive(Debug)]
pub(super) struct Place {
    addresses: Vec<ListenAddress>,
    is_default: bool,
    token: Option<String>,
}

/// An attempt that failed.
#[derive(Debug)]
struct Attempt {
    address: ListenAddress,
    error: io::Error,
}

/// Nothing could be connected to. Displays each attempt in a line of its own if there are several.
#[derive(Debug)]
pub(super) struct Unreachable {
    attempts: Vec<Attempt>,
    is_default: bool,
}

impl Place {
    pub(super) fn new(given: Option<ListenAddress>, token: Option<&Path>) -> Result<Self, String> {
        let token = match token {
            Some(file) => Some(check_token(token::read(file)?, &file.display().to_string())?),
            None => env::var_os(TOKEN).map(|token| check_token(token.to_string_lossy().into(), TOKEN)).transpose()?,
        };
        let is_default = given.is_none();
        let addresses = given.map_or_else(console::default_addresses, |address| vec![address]);
        Ok(Self { addresses, is_default, token })
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Connects to the first of the addresses where somebody listens.
    pub(super) fn connect(&self) -> Result<(File, ListenAddress), Unreachable> {
        let mut attempts = Vec::new();
        for address in &self.addresses {
            match connect(address) {
                Ok(socket) => return Ok((File::from(socket), address.clone())),
                Err(error) => attempts.push(Attempt { address: address.clone(), error }),
            }
        }
        Err(Unreachable { attempts, is_default: self.is_default })
    }
}

/// `name` is where the text is from.
fn check_token(text: String, name: &str) -> Result<String, String> {
    Token::new(text.as_str()).map_err(|error| format!("{name}: {error}"))?;
    Ok(text)
}

fn connect(address: &ListenAddress) -> io::Result<OwnedFd> {
    match address {
        ListenAddress::Ip(address) => Ok(TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?.into()),
        ListenAddress::Name { host, port } => {
            let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                    Ok(stream) => return Ok(stream.into()),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        ListenAddress::Unix(path) => Ok(UnixStream::connect(path)?.into()),
        #[cfg(target_os = "linux")]
        ListenAddress::Abstract(name) => {
            use std::os::{linux::net::SocketAddrExt, unix::net::SocketAddr};
            Ok(UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?.into())
        }
        _ => Err(ErrorKind::Unsupported.into()),
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = match self.attempts.len() {
            0 | 1 => ("", ""),
            _ => ("\n  ", "\n"),
        };
        write!(f, "cannot connect to the console")?;
        f.write_str(if first.is_empty() { " at " } else { "; tried:" })?;
        for Attempt { address, error } in &self.attempts {
            f.write_str(first)?;
            let (address, why) = (address.to_string(), reason(error));
            write!(f, "{}: {}", Escaped::new(&address), why)?;
        }
        f.write_str(if last.is_empty() { ": " } else { last })?;
        f.write_str(&self.advice())
    }
}

impl Unreachable {
    /// Says what to do about the attempt that came closest.
    fn advice(&self) -> String {
        let denied = self.attempts.iter().find(|attempt| attempt.error.kind() == ErrorKind::PermissionDenied);
        if let Some(Attempt { address: ListenAddress::Unix(path), .. }) = denied {
            if let Some(folder) = path.parent().filter(|_| is_hidden(path)) {
                let (folder, who) = (folder.to_string_lossy(), owner(path));
                let who = who.unwrap_or_else(|| "another user".to_owned());
                let folder = Escaped::new(folder.as_ref());
                return format!(
                    "the folder {folder} is closed to you, and for {who}: try again as that user, as with sudo -u"
                );
            }
            let who = owner(path).unwrap_or_else(|| "the user that runs rot13d, or root".to_owned());
            return format!("the socket is for {who}: try again as that user, as with sudo -u");
        }
        let refused = self.attempts.iter().find(|attempt| attempt.error.kind() == ErrorKind::ConnectionRefused);
        let mut advice = String::new();
        if let Some(Attempt { address: ListenAddress::Unix(path), .. }) = refused {
            if fs::metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
                return "that file is no socket: give the address that rot13d logged at its start".to_owned();
            }
            advice.push_str("the server of that socket has ended; ");
        }
        let _ = match (self.is_default, self.attempts.first()) {
            (false, Some(Attempt { address, .. })) => {
                write!(advice, "start rot13d with --console {address}, or give the address that it logged at its start")
            }
            _ => write!(advice, "start rot13d, or say with --connect where its --console is"),
        };
        advice
    }
}

/// Returns true if a folder on its way lets us not see it.
fn is_hidden(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Names the owner of a socket, or of the nearest folder of it that can be seen.
fn owner(path: &Path) -> Option<String> {
    let seen = path.ancestors().find_map(|path| fs::metadata(path).ok())?;
    if seen.uid() == geteuid().as_raw() {
        return None;
    }
    let name = User::from_uid(Uid::from_raw(seen.uid())).ok().flatten().map(|user| user.name);
    Some(name.map_or_else(|| format!("user {}", seen.uid()), |name| format!("user {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(is_default: bool, attempts: &[(&str, ErrorKind)]) -> String {
        let attempt =
            |(address, kind): &(&str, ErrorKind)| Attempt { address: address.parse().unwrap(), error: (*kind).into() };
        Unreachable { attempts: attempts.iter().map(attempt).collect(), is_default }.to_string()
    }

    #[test]
    fn each_attempt_is_told_and_what_to_do() {
        use ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        let (user, root) = ("unix:/nowhere/rot13d/console.sock", "unix:/run/rot13d/console.sock");
        assert_eq!(
            said(true, &[(user, NotFound), (root, NotFound)]),
            "cannot connect to the console; tried:\n  unix:/nowhere/rot13d/console.sock: entity not found\n  \
             unix:/run/rot13d/console.sock: entity not found\n\
             start rot13d, or say with --connect where its --console is"
        );
        let denied = said(true, &[(user, NotFound), (root, PermissionDenied)]);
        assert!(denied.contains("\nthe socket is for ") && denied.ends_with("as with sudo -u"), "{denied}");
        assert_eq!(
            said(false, &[("127.0.0.1:40715", ConnectionRefused)]),
            "cannot connect to the console at 127.0.0.1:40715: connection refused: start rot13d with --console \
             127.0.0.1:40715, or give the address that it logged at its start"
        );
    }

    #[test]
    fn only_what_can_be_connected_to_is_an_address() {
        assert!(["unix:/run/x", "unix:@x", "127.0.0.1:1", "localhost:1"].iter().all(|address| parse(address).is_ok()));
        assert!(["fd:3", "systemd:x", "here"].iter().all(|address| parse(address).is_err()));
    }
}
