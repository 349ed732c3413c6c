//! Reports against those that are listed.

use std::{env, fs, path::Path};

#[track_caller]
pub(crate) fn compare(file: &str, now: &str, bless: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/script").join(file);
    if env::var_os("ACTIX_LINES_BLESS").is_some() {
        fs::write(&path, now).unwrap();
        return;
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    let first = now.lines().zip(listed.lines()).position(|(now, listed)| now != listed);
    let at = first.unwrap_or(now.lines().count().min(listed.lines().count()));
    let around = |text: &str| text.lines().skip(at.saturating_sub(6)).take(12).collect::<Vec<_>>().join("\n");
    assert!(
        now == listed,
        "{file}:{} differs; if that is meant: {bless}\nnow:\n{}\nlisted:\n{}",
        at + 1,
        around(now),
        around(&listed)
    );
}
