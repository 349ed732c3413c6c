//! Files: the folder of a recorder. Their names, and how many and how large they may be.
//!
//! Rule: a file is made anew or not at all, and is for its owner only; no link is followed. Between two writes each file is
//! a whole script. The oldest go first, also those of earlier processes; files of other names are nobody's of ours.
//! Not here: what stands in them (`writer`).

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::connection::Connection;

const ENDING: &str = ".session";

/// How each name begins, with `0` for a digit.
const STAMP: &str = "0000-00-00T00-00-00.000Z-s";

/// The end of a file whose session goes on. It is overwritten when more comes.
const UNTIL_NOW: &[u8] = b"# recorded until here\n: reset\n";

/// Tries to find a name that is free. A process has each number once; another one may have had it in the same millisecond.
const MOST_TRIES: u32 = 9;

/// Returns what the file of a session is called, without its ending, and what is said of it in the first line.
pub(super) fn titles(connection: &Connection) -> (String, String) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (date, clock) = date_and_time(since);
    let id = connection.id().get();
    let (listener, of) = match connection.listener() {
        None => ("none".to_owned(), String::new()),
        Some(listener) => match listener.name() {
            Some(name) => (name.chars().take(64).map(file_letter).collect(), format!(" of listener {listener}")),
            None => (listener.get().to_string(), format!(" of {listener}")),
        },
    };
    let name = format!("{date}T{}.{:03}Z-s{id}-{listener}", clock.replace(':', "-"), since.subsec_millis());
    let peer = connection.peer_addr();
    (name, format!("session {id}{of}, peer {peer}, opened {date} {clock} UTC"))
}

/// A listener's name is its operator's, and may have any letter.
fn file_letter(letter: char) -> char {
    if letter.is_ascii_alphanumeric() || letter == '_' { letter } else { '-' }
}

/// Date and time of day in UTC: `2026-11-26` and `06:31:00`.
fn date_and_time(since_epoch: Duration) -> (String, String) {
    let seconds = since_epoch.as_secs();
    // Years that begin in March, so that a leap day is a year's last one; from Howard Hinnant's `civil_from_days`.
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year_of_era + next;
    let clock = seconds % 86_400;
    (format!("{year:04}-{month:02}-{day:02}"), format!("{:02}:{:02}:{:02}", clock / 3600, clock / 60 % 60, clock % 60))
}

/// Returns true for a name that only a recorder gives.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_suffix(ENDING).filter(|rest| rest.len() > STAMP.len()) else { return false };
    let is_stamp = rest.bytes().zip(STAMP.bytes()).all(|(byte, stamp)| match stamp {
        b'0' => byte.is_ascii_digit(),
        stamp => byte == stamp,
    });
    is_stamp && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// A file in the folder.
struct File {
    name: String,
    /// Unit: bytes.
    size: u64,
}

/// The place of a file in the order of all that ever were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileNumber(u64);

/// The bounds of the folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// The folder with its files, oldest first.
pub(super) struct Folder {
    path: PathBuf,
    files: VecDeque<File>,
    /// The number of the first of `files`.
    first: u64,
    /// Sum of their sizes.
    bytes: u64,
    pub(super) removed: u64,
}

impl Folder {
    /// Opens a folder, which is made if it is not there, and looks for files of earlier recorders.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else { continue };
            if metadata.is_file() && is_ours(&name) {
                files.push(File { name, size: metadata.len() });
            }
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        let bytes = files.iter().map(|file| file.size).sum();
        let folder = Self { path: path.to_owned(), files: files.into(), first: 0, bytes, removed: 0 };
        // Found out now, not when the first peer comes.
        let probe = folder.path.join(format!(".probe-{}", std::process::id()));
        drop(fs::remove_file(&probe));
        folder.options().create_new(true).open(&probe)?;
        fs::remove_file(&probe)?;
        Ok(folder)
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.write(true).mode(0o600).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
        options
    }

    /// Makes a file, which is open for its first write. Older ones make room for it.
    pub(super) fn create(&mut self, name: &str, room: Room) -> io::Result<(FileNumber, fs::File)> {
        self.make_room(room.files.saturating_sub(1), room.bytes, None);
        for tried in 1..=MOST_TRIES {
            let name = match tried {
                1 => format!("{name}{ENDING}"),
                _ => format!("{name}-{tried}{ENDING}"),
            };
            match self.options().create_new(true).open(self.path.join(&name)) {
                Ok(disk) => {
                    self.files.push_back(File { name, size: 0 });
                    return Ok((FileNumber(self.first + self.files.len() as u64 - 1), disk));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tried < MOST_TRIES => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Returns false for a file that had to make room for another one.
    pub(super) fn has(&self, file: FileNumber) -> bool {
        file.0 >= self.first
    }

    /// Writes `text` behind the first `at` bytes of a file, and [`UNTIL_NOW`] behind that if the session goes on; nothing else
    /// is left in it. After an error it has those first bytes and that end, if that can be.
    ///
    /// # Errors
    /// Those of the disk, and [`io::ErrorKind::NotFound`] for a file that was removed.
    pub(super) fn write(
        &mut self,
        file: FileNumber,
        disk: Option<fs::File>,
        at: u64,
        text: &[u8],
        goes_on: bool,
        room: Room,
    ) -> io::Result<()> {
        let end = if goes_on { UNTIL_NOW } else { b"" };
        let size = at + text.len() as u64 + end.len() as u64;
        let index =
            usize::try_from(file.0.checked_sub(self.first).ok_or(io::ErrorKind::NotFound)?).unwrap_or(usize::MAX);
        let before = self.files.get(index).ok_or(io::ErrorKind::NotFound)?.size;
        self.make_room(room.files, room.bytes.saturating_sub(size.saturating_sub(before)), Some(file));
        let index = usize::try_from(file.0 - self.first).unwrap_or(usize::MAX);
        let path = self.path.join(&self.files[index].name);
        let disk = disk.map_or_else(|| self.options().open(&path), Ok)?;
        let put = |text: &[u8], before: u64| {
            disk.write_all_at(text, at)?;
            let len = at + text.len() as u64;
            if len < before { disk.set_len(len) } else { Ok(()) }
        };
        let written = put(&[text, end].concat(), before);
        let size = match &written {
            Ok(()) => size,
            // The disk had nothing of it, and gets nothing.
            Err(_) if at == 0 => {
                drop(fs::remove_file(&path));
                0
            }
            // There was room for this end a moment ago.
            Err(_) => put(UNTIL_NOW, u64::MAX).map_or(before, |()| at + UNTIL_NOW.len() as u64),
        };
        self.bytes = self.bytes + size - before;
        self.files[index].size = size;
        written
    }

    /// Removes the oldest files until there are no more than these; but not `kept`, nor any after it.
    fn make_room(&mut self, files: u64, bytes: u64, kept: Option<FileNumber>) {
        while self.files.len() as u64 > files || self.bytes > bytes {
            if kept == Some(FileNumber(self.first)) {
                return;
            }
            let Some(file) = self.files.pop_front() else { return };
            self.first += 1;
            self.bytes -= file.size;
            self.removed += 1;
            // Who removed it before did what we want.
            drop(fs::remove_file(self.path.join(&file.name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let date = |seconds| date_and_time(Duration::from_secs(seconds));
        let is = |seconds, day: &str, clock: &str| assert_eq!(date(seconds), (day.to_owned(), clock.to_owned()));
        is(0, "1970-01-01", "00:00:00");
        is(951_782_399, "2000-02-28", "23:59:59");
        is(951_782_400, "2000-02-29", "00:00:00");
        is(1_709_164_800, "2024-02-29", "00:00:00");
        is(1_795_674_660, "2026-11-26", "06:31:00");
        is(4_107_542_399, "2100-02-28", "23:59:59");
        is(4_107_542_400, "2100-03-01", "00:00:00");
    }

    #[test]
    fn only_names_that_a_recorder_gives_are_ours() {
        for name in ["2026-11-26T06-31-00.123Z-s7-public.session", "2026-11-26T06-31-00.123Z-s7-0-2.session"] {
            assert!(is_ours(name), "{name}");
        }
        for name in [
            "hello.session",
            "2026-11-26T06-31-00.123Z-s.session",
            "2026-11-26T06-31-00.123Z-s7-public.session.bak",
            "2026-11-26T06-31-00Z-s7-public.session",
            "x2026-11-26T06-31-00.123Z-s7-public.session",
            "2026-11-26T06-31-00.123Z-s7-a b.session",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    fn folder(name: &str) -> (PathBuf, Folder) {
        let path = std::env::temp_dir().join(format!("actix-lines-{}-{name}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        let folder = Folder::open(&path).unwrap();
        (path, folder)
    }

    const ROOM: Room = Room { files: 3, bytes: 1000 };

    #[test]
    fn a_file_is_a_whole_script_after_each_write() {
        let (path, mut folder) = folder("whole");
        let (file, disk) = folder.create("one", ROOM).unwrap();
        folder.write(file, Some(disk), 0, b"> a\n", true, ROOM).unwrap();
        let text = || fs::read_to_string(path.join("one.session")).unwrap();
        assert_eq!(text(), "> a\n# recorded until here\n: reset\n");
        folder.write(file, None, 4, b"< n\n", true, ROOM).unwrap();
        assert_eq!(text(), "> a\n< n\n# recorded until here\n: reset\n");
        folder.write(file, None, 8, b": eof\n", false, ROOM).unwrap();
        assert_eq!(text(), "> a\n< n\n: eof\n");
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn no_link_is_followed_and_nothing_is_overwritten() {
        let (path, mut folder) = folder("links");
        fs::write(path.join("one.session"), "mine").unwrap();
        std::os::unix::fs::symlink(path.join("elsewhere"), path.join("two.session")).unwrap();
        for name in ["one", "two"] {
            let (file, disk) = folder.create(name, ROOM).unwrap();
            folder.write(file, Some(disk), 0, b"> a\n", false, ROOM).unwrap();
            assert_eq!(fs::read_to_string(path.join(format!("{name}-2.session"))).unwrap(), "> a\n");
        }
        assert_eq!(fs::read_to_string(path.join("one.session")).unwrap(), "mine");
        assert!(!path.join("elsewhere").exists());
        // A link in the place of a file that is written to already.
        let (file, _) = folder.create("three", ROOM).unwrap();
        fs::remove_file(path.join("three.session")).unwrap();
        std::os::unix::fs::symlink(path.join("one.session"), path.join("three.session")).unwrap();
        folder.write(file, None, 0, b"> a\n", false, ROOM).unwrap_err();
        assert_eq!(fs::read_to_string(path.join("one.session")).unwrap(), "mine");
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn the_oldest_files_make_room_and_those_of_others_are_left_alone() {
        let (path, folder) = folder("room");
        drop(folder);
        let old = |day: u32| format!("2026-11-{day:02}T06-31-00.123Z-s7-0.session");
        for day in 1..=4 {
            fs::write(path.join(old(day)), [b'#'; 300]).unwrap();
        }
        fs::write(path.join("mine.session"), [b'#'; 3000]).unwrap();
        let mut folder = Folder::open(&path).unwrap();
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(&path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let (file, disk) = folder.create("new", ROOM).unwrap();
        assert_eq!(names(), [old(3), old(4), "mine.session".into(), "new.session".into()]);
        folder.write(file, Some(disk), 0, &[b'#'; 500], false, ROOM).unwrap();
        assert_eq!(names(), [old(4), "mine.session".into(), "new.session".into()], "1100 bytes are too many");
        let (next, disk) = folder.create("next", ROOM).unwrap();
        folder.write(next, Some(disk), 0, &[b'#'; 990], false, ROOM).unwrap();
        assert_eq!(names(), ["mine.session".to_owned(), "next.session".into()]);
        assert!(!folder.has(file) && folder.has(next));
        assert_eq!(folder.write(file, None, 500, b"#", false, ROOM).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(folder.removed, 5);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_files_name_has_no_letter_that_is_more_than_a_letter() {
        let name: String = "../a b\0\u{e9}/x".chars().map(file_letter).collect();
        assert_eq!(name, "---a-b---x");
    }
}
