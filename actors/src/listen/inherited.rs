//! Inherited: listening sockets that a service manager, or whoever started this process, has left open for it.
//!
//! Each is taken once. A number becomes an `OwnedFd` without `unsafe`: it is sent to ourselves over a pair of sockets, and
//! the number it had is closed, so that a listener that is closed is gone.
//! Not here: a socket that the program itself has (`Listener::inherited`).

use std::{
    env, fs,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::net::UnixDatagram,
    },
    process,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketType, recvmsg,
        sockopt::{ipv6_v6only, socket_acceptconn, socket_cookie, socket_type},
    },
};

use crate::{
    address::Address,
    error::{InheritError, Unfit},
    wire::socket::local_addr,
};

/// The first descriptor that a service manager hands over.
const FIRST: RawFd = 3;

/// The name of descriptors without one, as sd_listen_fds_with_names(3) has it.
const NAMELESS: &str = "unknown";

/// More than any service manager hands over: a larger number is a mistake in the environment.
const MOST: usize = 4096;

/// The sockets of this process, from when they are first asked for.
static HANDED: LazyLock<Mutex<Handed>> = LazyLock::new(|| Mutex::new(Handed::from_environment()));

/// A socket that was handed to this process, and that no listener has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnusedSocket {
    /// Its name, from `LISTEN_FDNAMES`.
    pub name: String,
    /// The number that it had.
    pub fd: RawFd,
    /// The address that it is bound to.
    pub address: Address,
}

/// Takes the socket that a service manager has named `name`.
pub(crate) fn named(name: &str) -> Result<OwnedFd, InheritError> {
    handed().named(name)
}

/// Takes the socket that this process was started with as descriptor `number`.
pub(crate) fn numbered(number: u32) -> Result<OwnedFd, InheritError> {
    // A number that the kernel has no room for is not open, either.
    handed().numbered(RawFd::try_from(number).unwrap_or(RawFd::MAX))
}

/// Takes the socket that listens on `address`, if a service manager has handed one over. An IPv6 one has to accept IPv4,
/// or not, as `only_v6` says.
pub(crate) fn bound_to(address: SocketAddr, only_v6: Option<bool>) -> Option<OwnedFd> {
    // A free port is any but one that is in use.
    if address.port() == 0 { None } else { handed().bound_to(address, only_v6) }
}

/// Closes the sockets that were handed to this process and that no listener has taken, and returns them, for the log and
/// for [a store](https://systemd.io/FILE_DESCRIPTOR_STORE/) that should forget them.
///
/// Call it when every listener is bound: a connection to a socket that nobody accepts from would wait for ever.
pub fn close_unused() -> Vec<UnusedSocket> {
    handed().close_unused()
}

fn handed() -> MutexGuard<'static, Handed> {
    HANDED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Handed {
    sockets: Vec<HandedSocket>,
    /// Numbers taken that no service manager has spoken of: whatever has such a number now is ours.
    others_taken: Vec<RawFd>,
    /// The environment is wrong: none of its sockets can be told.
    fault: Option<InheritError>,
}

#[derive(Debug)]
struct HandedSocket {
    number: RawFd,
    name: String,
    state: State,
}

#[derive(Debug)]
enum State {
    Open(OwnedFd),
    /// There is no descriptor of this number.
    NotOpen,
    /// With what the kernel tells sockets apart by.
    Taken(Option<u64>),
    Closed,
}

impl Handed {
    fn from_environment() -> Self {
        let get = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let (pid, count, names) = (get("LISTEN_PID"), get("LISTEN_FDS"), get("LISTEN_FDNAMES"));
        match told(process::id(), pid.as_deref(), count.as_deref(), names.as_deref()) {
            Ok(told) => {
                let sockets = told.into_iter().map(|(number, name)| {
                    let state = own(number).map_or(State::NotOpen, State::Open);
                    HandedSocket { number, name, state }
                });
                Self { sockets: sockets.collect(), others_taken: Vec::new(), fault: None }
            }
            Err(fault) => Self { sockets: Vec::new(), others_taken: Vec::new(), fault: Some(fault) },
        }
    }

    fn named(&mut self, name: &str) -> Result<OwnedFd, InheritError> {
        let whole = || format!("systemd:{name}");
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let of_name: Vec<_> = (0..self.sockets.len()).filter(|at| self.sockets[*at].name == name).collect();
        match of_name[..] {
            [] => Err(InheritError::Unknown { socket: whole(), there: self.there() }),
            [at] => self.take(at, whole()),
            // One that is taken back from a store, and the same from its unit.
            [..] if let Some(at) = self.only_one_of(&of_name) => self.take(at, whole()),
            [..] => {
                let fds = of_name.iter().map(|at| format!("fd:{}", self.sockets[*at].number)).collect();
                Err(InheritError::Several { socket: whole(), fds })
            }
        }
    }

    /// The first of these, if the others are the same socket.
    fn only_one_of(&self, sockets: &[usize]) -> Option<usize> {
        let mut cookies = sockets.iter().map(|at| self.sockets[*at].state.cookie());
        let first = cookies.next()??;
        cookies.all(|cookie| cookie == Some(first)).then(|| sockets.first().copied())?
    }

    fn numbered(&mut self, number: RawFd) -> Result<OwnedFd, InheritError> {
        let whole = format!("fd:{number}");
        if let Some(at) = self.sockets.iter().position(|socket| socket.number == number) {
            return self.take(at, whole);
        }
        if self.others_taken.contains(&number) {
            return Err(InheritError::Taken { socket: whole });
        }
        // Whoever started this process left it open for a program to come; what this process opens itself is not.
        match survives_exec(number) {
            Some(true) => {}
            Some(false) => return Err(InheritError::NotHandedOver { socket: whole }),
            None => return Err(InheritError::Unfit { socket: whole, reason: Unfit::NotOpen }),
        }
        let unfit = |reason| InheritError::Unfit { socket: whole.clone(), reason };
        let (copy, reason) = duplicate(number)
            .map(|copy| (fitness(&copy), copy))
            .map_or_else(|_| (None, Err(Unfit::NotOpen)), |(reason, copy)| (Some(copy), reason));
        reason.map_err(unfit)?;
        close(number);
        self.others_taken.push(number);
        copy.ok_or(InheritError::Unfit { socket: whole, reason: Unfit::NotOpen })
    }

    fn bound_to(&mut self, address: SocketAddr, only_v6: Option<bool>) -> Option<OwnedFd> {
        let at = self.sockets.iter().position(|socket| {
            let State::Open(socket) = &socket.state else { return false };
            fitness(socket).is_ok()
                && local_addr(socket) == Address::Ip(address)
                && only_v6.is_none_or(|only_v6| ipv6_v6only(socket) == Ok(only_v6))
        })?;
        self.take(at, String::new()).ok()
    }

    fn take(&mut self, at: usize, whole: String) -> Result<OwnedFd, InheritError> {
        let state = &mut self.sockets[at].state;
        match state {
            State::Open(socket) => {
                fitness(socket).map_err(|reason| InheritError::Unfit { socket: whole.clone(), reason })?;
                let taken = State::Taken(state.cookie());
                match std::mem::replace(state, taken) {
                    State::Open(socket) => Ok(socket),
                    _ => Err(InheritError::Taken { socket: whole }),
                }
            }
            State::NotOpen => Err(InheritError::Unfit { socket: whole, reason: Unfit::NotOpen }),
            State::Taken(_) => Err(InheritError::Taken { socket: whole }),
            State::Closed => Err(InheritError::Closed { socket: whole }),
        }
    }

    fn close_unused(&mut self) -> Vec<UnusedSocket> {
        let taken: Vec<_> = (self.sockets.iter())
            .filter(|socket| matches!(socket.state, State::Taken(_)))
            .filter_map(|socket| socket.state.cookie())
            .collect();
        let mut unused = Vec::new();
        for HandedSocket { number, name, state } in &mut self.sockets {
            let cookie = state.cookie();
            let State::Open(socket) = state else { continue };
            let address = local_addr(socket);
            *state = State::Closed;
            // A listener has it under another number.
            if cookie.is_none_or(|cookie| !taken.contains(&cookie)) {
                unused.push(UnusedSocket { name: name.clone(), fd: *number, address });
            }
        }
        unused
    }

    /// The sockets that could have been meant, as `systemd:NAME`.
    fn there(&self) -> Vec<String> {
        let open = self.sockets.iter().filter(|socket| matches!(socket.state, State::Open(_)));
        open.map(|socket| format!("systemd:{}", socket.name)).collect()
    }
}

impl State {
    fn cookie(&self) -> Option<u64> {
        match self {
            Self::Open(socket) => socket_cookie(socket).ok(),
            Self::Taken(cookie) => *cookie,
            Self::NotOpen | Self::Closed => None,
        }
    }
}

/// Reads what the environment says about descriptors: numbers and names.
///
/// The variables stay: a program that is started from here has another process id, and knows by `LISTEN_PID` that they are
/// not for it.
fn told(
    own: u32,
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
) -> Result<Vec<(RawFd, String)>, InheritError> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(Vec::new()) };
    let invalid = |variable, value: &str| InheritError::Environment { variable, value: value.to_owned() };
    let meant: u32 = pid.parse().map_err(|_| invalid("LISTEN_PID", pid))?;
    if meant != own {
        return Err(InheritError::OtherProcess { meant, own });
    }
    let number = count.parse().ok().filter(|count: &usize| *count <= MOST);
    let count = number.ok_or_else(|| invalid("LISTEN_FDS", count))?;
    let numbers = (FIRST..).take(count);
    let Some(names) = names.filter(|_| count > 0) else {
        return Ok(numbers.map(|number| (number, NAMELESS.to_owned())).collect());
    };
    let of_each: Vec<_> = names.split(':').map(str::to_owned).collect();
    if of_each.len() != count {
        return Err(invalid("LISTEN_FDNAMES", names));
    }
    Ok(numbers.zip(of_each).collect())
}

/// Checks that a socket can be listened on.
fn fitness(socket: &OwnedFd) -> Result<(), Unfit> {
    match socket_type(socket) {
        Ok(SocketType::STREAM) if socket_acceptconn(socket).unwrap_or(false) => Ok(()),
        Ok(SocketType::STREAM) => Err(Unfit::NotListening),
        Ok(_) => Err(Unfit::NotStream),
        Err(_) => Err(Unfit::NotSocket),
    }
}

/// Takes a descriptor over from its number.
fn own(number: RawFd) -> Result<OwnedFd, Errno> {
    let socket = duplicate(number)?;
    close(number);
    Ok(socket)
}

/// Duplicates a descriptor that is known by its number only. The duplicate is not passed on to other programs.
fn duplicate(number: RawFd) -> Result<OwnedFd, Errno> {
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let (ours, theirs) = UnixDatagram::pair().map_err(io)?;
    let numbers = [number];
    sendmsg::<()>(
        ours.as_raw_fd(),
        &[IoSlice::new(b"!")],
        &[ControlMessage::ScmRights(&numbers)],
        MsgFlags::MSG_DONTWAIT,
        None,
    )
    .map_err(|error| Errno::from_raw_os_error(error as i32))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    recvmsg(&theirs, &mut [IoSliceMut::new(&mut [0])], &mut control, flags)?;
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    // The limit of descriptors leaves it out without an error.
    received.ok_or(Errno::MFILE)
}

/// Closes a number whose descriptor was duplicated. Standard streams stay: whatever is opened next would take their place.
fn close(number: RawFd) {
    if number >= FIRST {
        // It was open a moment ago, and there is nothing that could be done.
        let _ = nix::unistd::close(number);
    }
}

/// Returns whether a descriptor is one that programs hand on to others; `None` if it is not open.
fn survives_exec(number: RawFd) -> Option<bool> {
    let text = match fs::read_to_string(format!("/proc/self/fdinfo/{number}")) {
        Ok(text) => text,
        // Without /proc nobody knows.
        Err(_) if fs::metadata("/proc/self/fdinfo").is_err() => return Some(true),
        Err(_) => return None,
    };
    let flags = text.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    Some(flags.is_none_or(|flags| flags & libc::O_CLOEXEC == 0))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        net::{TcpListener, TcpStream, UdpSocket},
        os::fd::{AsFd, IntoRawFd},
    };

    use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

    use super::*;

    fn listening() -> (OwnedFd, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener.into(), address)
    }

    fn handed(sockets: impl IntoIterator<Item = (&'static str, OwnedFd)>) -> Handed {
        let sockets = (FIRST..).zip(sockets).map(|(number, (name, socket))| HandedSocket {
            number,
            name: name.to_owned(),
            state: State::Open(socket),
        });
        Handed { sockets: sockets.collect(), others_taken: Vec::new(), fault: None }
    }

    /// A number as a program is started with it, from `least` on: no other test gets it meanwhile.
    fn left_open(socket: impl AsFd, least: RawFd) -> RawFd {
        let copy = fcntl_dupfd_cloexec(socket, least).unwrap();
        fcntl_setfd(&copy, FdFlags::empty()).unwrap();
        copy.into_raw_fd()
    }

    #[test]
    fn the_environment_tells_numbers_and_names_to_the_process_that_they_are_for() {
        let names = |names: &[&str]| (FIRST..).zip(names.iter().map(|name| (*name).to_owned())).collect::<Vec<_>>();
        let of_us = |count, all| told(7, Some("7"), Some(count), all);
        assert_eq!(told(7, None, None, None), Ok(vec![]));
        assert_eq!(told(7, None, Some("1"), Some("a")), Ok(vec![]));
        assert_eq!(told(7, Some("7"), None, Some("a")), Ok(vec![]));
        assert_eq!(of_us("2", Some("a:b.socket")), Ok(names(&["a", "b.socket"])));
        assert_eq!(of_us("2", None), Ok(names(&["unknown", "unknown"])));
        assert_eq!(of_us("0", Some("")), Ok(vec![]));
        for (count, all, text) in [
            ("-1", None, "LISTEN_FDS=\"-1\""),
            ("4097", None, "LISTEN_FDS=\"4097\""),
            ("99999999999999999999", None, "LISTEN_FDS=\"99999999999999999999\""),
            ("2", Some("a"), "LISTEN_FDNAMES=\"a\""),
            ("2", Some("a:b:c"), "LISTEN_FDNAMES=\"a:b:c\""),
        ] {
            let advice = " in the environment is invalid; unset it, or let a service manager set it";
            assert_eq!(of_us(count, all).unwrap_err().to_string(), format!("{text}{advice}"));
        }
        assert!(matches!(
            told(7, Some("seven"), Some("1"), None),
            Err(InheritError::Environment { variable: "LISTEN_PID", .. })
        ));
        assert_eq!(
            told(7, Some("12"), Some("1"), None).unwrap_err().to_string(),
            "the sockets in LISTEN_FDS are for process 12 (LISTEN_PID), and this is 7; let the service manager start this \
             program itself, or a shell that ends in exec"
        );
    }

    #[test]
    fn a_number_becomes_a_descriptor_of_ours_and_is_closed() {
        let (socket, address) = listening();
        let number = left_open(&socket, 900);
        drop(socket);
        let mut nothing = handed([]);
        let taken = nothing.numbered(number).unwrap();
        assert!(fcntl_getfd(&taken).unwrap().contains(FdFlags::CLOEXEC), "programs that are started from here have it");
        assert_eq!(survives_exec(number), None, "the number is still open");
        assert!(TcpStream::connect(address).is_ok());
        drop(taken);
        assert!(TcpStream::connect(address).is_err(), "something still listens");
        let taken = nothing.numbered(number).unwrap_err();
        assert_eq!(
            taken.to_string(),
            format!(
                "fd:{number}: a listener has taken it already; name each socket once, and restart the process to take it again"
            )
        );
    }

    #[test]
    fn a_number_that_cannot_be_listened_on_is_an_error_that_says_what_it_is() {
        let (listener, address) = listening();
        let refused = |number: RawFd| {
            let text = handed([]).numbered(number).unwrap_err().to_string();
            let rest = text.strip_prefix(&format!("fd:{number}: ")).map(str::to_owned);
            rest.unwrap_or_else(|| panic!("{text}"))
        };
        assert_eq!(refused(699), "no such descriptor is open; start the process with it");
        assert_eq!(refused(-1), "no such descriptor is open; start the process with it");
        assert_eq!(
            refused(left_open(File::open("/dev/null").unwrap(), 700)),
            "it is no socket; hand over one that listens"
        );
        assert_eq!(
            refused(left_open(UdpSocket::bind("127.0.0.1:0").unwrap(), 700)),
            "it is no stream socket; use ListenStream= in the .socket unit"
        );
        let connected = left_open(TcpStream::connect(address).unwrap(), 700);
        assert_eq!(
            refused(connected),
            "it is a socket that does not listen; use Accept=no in the .socket unit, or call listen(2) before"
        );
        assert_eq!(survives_exec(connected), Some(true), "whoever was refused lost it");
        assert_eq!(
            refused(listener.as_raw_fd()),
            "it was not handed over, this process has opened it for itself; name one that it is started with"
        );
    }

    #[test]
    fn a_name_is_taken_once_and_an_unknown_one_is_told_which_there_are() {
        let mut sockets = handed([("web", listening().0), ("a.socket", listening().0), ("b", listening().0)]);
        sockets.named("web").unwrap();
        let error = |sockets: &mut Handed, name| sockets.named(name).unwrap_err().to_string();
        assert_eq!(
            error(&mut sockets, "web"),
            "systemd:web: a listener has taken it already; name each socket once, and restart the process to take it again"
        );
        assert_eq!(
            error(&mut sockets, "wep"),
            "systemd:wep: no socket of this name was handed over; there are systemd:a.socket, systemd:b; see \
             FileDescriptorName= in the .socket unit"
        );
        assert_eq!(sockets.numbered(3).unwrap_err(), InheritError::Taken { socket: "fd:3".to_owned() });
        assert!(sockets.numbered(4).is_ok());
        assert_eq!(
            error(&mut handed([]), "web"),
            "systemd:web: no socket of this name was handed over; none was: start it by way of its .socket unit, or use an \
             address"
        );
        let fault = InheritError::OtherProcess { meant: 1, own: 2 };
        sockets.fault = Some(fault.clone());
        assert_eq!(sockets.named("b").unwrap_err(), fault);
    }

    #[test]
    fn a_name_of_several_sockets_is_an_error_unless_they_are_the_same() {
        let mut sockets = handed([("web", listening().0), ("web", listening().0)]);
        assert_eq!(
            sockets.named("web").unwrap_err().to_string(),
            "systemd:web: several sockets have this name; use fd:3 and fd:4 instead"
        );
        assert!(sockets.numbered(4).is_ok());
        let (socket, _) = listening();
        let same = socket.try_clone().unwrap();
        let mut sockets = handed([("web", socket), ("web", same)]);
        assert!(sockets.named("web").is_ok());
        assert_eq!(sockets.close_unused(), []);
    }

    #[test]
    fn a_socket_is_found_by_the_address_that_it_listens_on() {
        let (socket, address) = listening();
        let mut sockets = handed([("stored", socket)]);
        let other = SocketAddr::new(address.ip(), address.port() ^ 1);
        assert!(sockets.bound_to(other, None).is_none());
        assert!(sockets.bound_to(address, None).is_some());
        assert!(sockets.bound_to(address, None).is_none(), "it was taken twice");
        let v6 = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
        v6.set_only_v6(true).unwrap();
        v6.bind(&SocketAddr::from(([0; 8], 0)).into()).unwrap();
        v6.listen(1).unwrap();
        let address = v6.local_addr().unwrap().as_socket().unwrap();
        let mut sockets = handed([("stored", v6.into())]);
        assert!(sockets.bound_to(address, Some(false)).is_none(), "it takes no IPv4, and has to");
        assert!(sockets.bound_to(address, Some(true)).is_some());
    }

    #[test]
    fn sockets_that_nobody_has_taken_are_told_and_closed() {
        let (socket, address) = listening();
        let mut sockets = handed([("web", listening().0), ("old", socket)]);
        sockets.named("web").unwrap();
        let unused = UnusedSocket { name: "old".to_owned(), fd: 4, address: address.into() };
        assert_eq!(sockets.close_unused(), [unused]);
        assert!(TcpStream::connect(address).is_err(), "somebody could wait for an answer for ever");
        assert_eq!(
            sockets.named("old").unwrap_err().to_string(),
            "systemd:old: it was closed, as no listener used it at the start; restart the process to get it again"
        );
        assert_eq!(sockets.close_unused(), []);
    }
}
