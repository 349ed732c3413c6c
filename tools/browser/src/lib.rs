//! Browser: Chromium as a test drives it, by the WebDriver protocol of its own driver.
//!
//! One command at a time, each waits for its answer. A browser ends with its value.
//! Not here: what a test expects of a page (`tests`).

pub mod http;

use std::{
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::http::{Answer, Request};

/// Chromium without a window, without requests of its own, and as root, too: in tests it loads nothing but the page.
const ARGUMENTS: [&str; 8] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
];

/// A command to the browser that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The driver did not start; Debian has it as `chromium-driver`.
    #[error("chromedriver does not run: install chromium and chromium-driver")]
    Start(#[source] io::Error),
    /// The connection to the driver failed.
    #[error("the driver does not answer")]
    Io(#[from] io::Error),
    /// The driver could not do it.
    #[error("{error}: {message}")]
    Driver {
        /// The protocol's name for the error, as `no such element`.
        error: String,
        /// The driver's own words.
        message: String,
    },
}

/// A key that is no character, as the protocol writes it.
pub mod key {
    /// Tab.
    pub const TAB: &str = "\u{e004}";
    /// Enter.
    pub const ENTER: &str = "\u{e007}";
    /// Escape.
    pub const ESCAPE: &str = "\u{e00c}";
    /// Page Down.
    pub const PAGE_DOWN: &str = "\u{e00f}";
    /// End.
    pub const END: &str = "\u{e010}";
    /// Home.
    pub const HOME: &str = "\u{e011}";
    /// Arrow Up.
    pub const UP: &str = "\u{e013}";
    /// Arrow Down.
    pub const DOWN: &str = "\u{e015}";
    /// Shift, held while the key behind it is pressed.
    pub const SHIFT: &str = "\u{e008}";
}

/// Chromium and its driver, with one tab.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    /// Path of the session's commands.
    session: String,
}

impl Browser {
    /// Starts Chromium with `profile` as the folder of its own files.
    ///
    /// # Errors
    /// Returns [`Failure::Start`] if the driver is not installed.
    pub fn start(profile: &Path) -> Result<Self, Failure> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.spawn().map_err(Failure::Start)?;
        let output = driver.stdout.take().expect("it is piped");
        let mut browser = Self { driver, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), session: String::new() };
        let mut lines = BufReader::new(output).lines();
        let port = loop {
            let Some(line) = lines.next().transpose()? else {
                return Err(
                    io::Error::new(io::ErrorKind::UnexpectedEof, "the driver ended before it said its port").into()
                );
            };
            let port = line.split_once("successfully on port ").map(|(_, port)| port.trim_end_matches('.'));
            if let Some(port) = port.and_then(|port| port.parse().ok()) {
                break port;
            }
        };
        browser.address.set_port(port);
        // Whatever else it says is of no interest, but has to be read.
        std::thread::spawn(move || lines.for_each(drop));

        let mut arguments: Vec<_> = ARGUMENTS.map(str::to_owned).into();
        arguments.push(format!("--user-data-dir={}", profile.display()));
        let wanted = json!({"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}});
        let made = browser.command("POST", "/session", &json!({"capabilities": {"alwaysMatch": wanted}}))?;
        browser.session = format!("/session/{}", made["sessionId"].as_str().unwrap_or_default());
        Ok(browser)
    }

    /// Sends a command of the protocol, its path without that of the session.
    ///
    /// # Errors
    /// Returns [`Failure::Driver`] if the driver could not do it.
    pub fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let path = format!("{}{path}", self.session);
        let Answer { status, mut body } =
            Request { method, path: &path, headers: &[], body: &body }.send(self.address)?.json()?;
        let value = body["value"].take();
        if status == 200 {
            return Ok(value);
        }
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Err(Failure::Driver { error: text("error"), message: text("message") })
    }

    /// Opens a page, and waits until it is loaded.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn open(&self, url: &str) -> Result<(), Failure> {
        self.command("POST", "/url", &json!({"url": url})).map(drop)
    }

    /// Runs a script in the page; `return` is its answer, a promise is waited for.
    ///
    /// # Errors
    /// As [`command`](Self::command); also where the script throws.
    pub fn script(&self, script: &str) -> Result<Value, Failure> {
        self.command("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Sends a command of Chromium's own protocol, as `Emulation.setEmulatedMedia`.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn devtools(&self, command: &str, parameters: &Value) -> Result<Value, Failure> {
        self.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Presses keys, one after the other: each character of each text. [`key::SHIFT`] is held for the next one.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn press(&self, keys: &[&str]) -> Result<(), Failure> {
        let mut actions = Vec::new();
        let mut is_shifted = false;
        for key in keys.iter().flat_map(|keys| keys.chars()).map(String::from) {
            actions.push(json!({"type": "keyDown", "value": key}));
            if key == key::SHIFT {
                is_shifted = true;
                continue;
            }
            actions.push(json!({"type": "keyUp", "value": key}));
            if std::mem::take(&mut is_shifted) {
                actions.push(json!({"type": "keyUp", "value": key::SHIFT}));
            }
        }
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.command("POST", "/actions", &json!({"actions": [keyboard]})).map(drop)
    }

    /// Returns what is in sight, as PNG.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn screenshot(&self) -> Result<Vec<u8>, Failure> {
        let picture = self.command("GET", "/screenshot", &Value::Null)?;
        let bytes = STANDARD.decode(picture.as_str().unwrap_or_default());
        Ok(bytes.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?)
    }

    /// Returns what the browser's console says since the last time: errors of scripts, of policies, of requests.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn console(&self) -> Result<Vec<String>, Failure> {
        let entries = self.command("POST", "/se/log", &json!({"type": "browser"}))?;
        let texts = entries.as_array().into_iter().flatten();
        Ok(texts.map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect())
    }
}

/// The browser ends before its driver, or nobody would end it.
impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.command("DELETE", "", &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
