//! Console: where it is by default.
//!
//! Rule: whoever opens it and whoever looks for it ask here.
//! Not here: opening it, and connecting to it (`ctl`).

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use actix_lines::ListenAddress;

/// The runtime directory of services, and of root.
const RUN: &str = "/run/rot13d";
const SOCKET: &str = "console.sock";

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
