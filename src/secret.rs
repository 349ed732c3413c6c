//! Secret: the text of a file that keeps a token or a password.
//!
//! Rule: it is neither logged nor part of an error.
//! Not here: what is cut off its ends, and how long it has to be (`token`, `cluster`).

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use actix_lines::Escaped;

use crate::reason::reason;

/// A file with more has other things in it. Unit: bytes.
const LARGEST_FILE: u64 = 4096;

/// Reads the text of a file that has a secret, which errors call `what`: a token, a password. Warns if everybody may read it.
///
/// # Errors
/// Says what is wrong with the file and what to do.
pub(crate) fn read(path: &Path, what: &str) -> Result<String, String> {
    let shown = Escaped::new(path.as_os_str().as_encoded_bytes());
    let read = || {
        let file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let mut text = String::new();
        file.take(LARGEST_FILE + 1).read_to_string(&mut text)?;
        Ok::<_, io::Error>((mode, text))
    };
    let (mode, text) = read().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => format!("{shown} is no text: write a {what} into it"),
        _ => format!("cannot read {shown}: {}", reason(&error)),
    })?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(format!("{shown} is larger than {LARGEST_FILE} bytes: write a {what} into it and nothing else"));
    }
    // A group may be that of the service.
    if mode & 0o007 != 0 {
        log::warn!("{shown} has mode {mode:03o}: others can read the {what}; use chmod 600");
    }
    Ok(text)
}
