//! File: the text of a configuration file, as what is written of each setting, and where.
//!
//! Rule: an error has its place, names listener and key, and says what to write instead.
//! Not here: what settings mean together (`settings`), reading from the disk (`config`).

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use crate::settings::{Given, ListenerSettings, PairSettings, Setting, Settings, TlsSettings, is_of_listeners};

/// An error at a place of the file, in bytes from its beginning.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(super) offset: usize,
    pub(super) message: String,
}

/// A whole file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) server: Table,
    pub(super) listeners: Vec<ListenerTable>,
}

/// The settings of a table, and where each key stands.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) given: Given,
    keys: Vec<(&'static str, usize)>,
    offset: usize,
}

/// A `[[listener]]`.
#[derive(Debug)]
pub(super) struct ListenerTable {
    /// The beginning of an error in it, as `listener "public": `.
    pub(super) label: String,
    pub(super) table: Table,
    pub(super) tls: Option<TlsTable>,
}

/// A `[listener.tls]`.
#[derive(Debug)]
pub(super) struct TlsTable {
    pub(super) table: Table,
    /// Each `[[listener.tls.sni]]`.
    pub(super) pairs: Vec<Table>,
}

impl Table {
    /// Returns where a key stands; for one that is not there, where the table begins.
    pub(super) fn offset_of(&self, name: &str) -> usize {
        self.keys.iter().find(|(key, _)| *key == name).map_or(self.offset, |(_, offset)| *offset)
    }

    /// Finds the first key without which there would be no error, or another one.
    pub(super) fn to_blame(&self, is_the_same_without: impl Fn(&str) -> bool) -> Option<usize> {
        self.keys.iter().find(|(name, _)| !is_the_same_without(name)).map(|(_, offset)| *offset)
    }
}

type Value<'i> = Spanned<DeValue<'i>>;

impl File {
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let file = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Fault { offset, message: error.message().replace('\n', " ") }
        })?;
        let kind = Kind { label: "", path: "", settings: Settings::ALL.iter().collect(), tables: &["listener"] };
        let (server, tables) = kind.read(file.get_ref(), 0)?;
        let mut listeners = Vec::<ListenerTable>::new();
        for (_, offset, value) in tables {
            for (number, table) in kind.tables("listener", offset, value)?.into_iter().enumerate() {
                let listener = ListenerTable::parse(number + 1, table)?;
                let is_twin = |other: &ListenerTable| other.label == listener.label;
                if listeners.iter().any(is_twin) {
                    let message = format!("{}the name is another's: use one of its own", listener.label);
                    return Err(Fault { offset: listener.table.offset_of("name"), message });
                }
                listeners.push(listener);
            }
        }
        Ok(Self { server, listeners })
    }
}

impl ListenerTable {
    /// Reads the listener that is the `number`th of the file.
    fn parse(number: usize, (offset, table): (usize, &DeTable<'_>)) -> Result<Self, Fault> {
        let named = table.iter().find(|(key, _)| key.get_ref() == "name").and_then(|(_, name)| name.get_ref().as_str());
        let label = match named {
            Some(name) if !name.is_empty() => format!("listener {name:?}: "),
            _ => format!("listener {number}: "),
        };
        let limits = Settings::ALL.iter().filter(|setting| is_of_listeners(setting));
        let settings = ListenerSettings::ALL.iter().chain(limits).collect();
        let kind = Kind { label: &label, path: "", settings, tables: &["tls"] };
        let (own, tables) = kind.read(table, offset)?;
        let mut tls = None;
        for (_, offset, value) in tables {
            tls = Some(TlsTable::parse(&label, kind.table("tls", offset, value)?)?);
        }
        Ok(Self { label, table: own, tls })
    }
}

impl TlsTable {
    fn parse(label: &str, (offset, table): (usize, &DeTable<'_>)) -> Result<Self, Fault> {
        let kind = Kind { label, path: "tls.", settings: TlsSettings::ALL.iter().collect(), tables: &["sni"] };
        let (own, tables) = kind.read(table, offset)?;
        let of_pairs =
            Kind { label, path: "tls.sni.", settings: PairSettings::ALL.iter().collect(), tables: Default::default() };
        let mut pairs = Vec::new();
        for (_, offset, value) in tables {
            for (offset, table) in kind.tables("sni", offset, value)? {
                pairs.push(of_pairs.read(table, offset)?.0);
            }
        }
        Ok(Self { table: own, pairs })
    }
}

/// The keys that a table may have.
struct Kind<'a> {
    label: &'a str,
    /// What stands before its keys in errors.
    path: &'static str,
    settings: Vec<&'static Setting>,
    /// The tables in it.
    tables: &'static [&'static str],
}

/// A table within another, with its key and where that stands.
type Inner<'t, 'i> = (&'static str, usize, &'t Value<'i>);

impl Kind<'_> {
    fn fault(&self, offset: usize, message: String) -> Fault {
        Fault { offset, message: format!("{}{message}", self.label) }
    }

    /// Reads the settings of a table that begins at `offset`. The tables in it are left for later.
    fn read<'t, 'i>(&self, table: &'t DeTable<'i>, offset: usize) -> Result<(Table, Vec<Inner<'t, 'i>>), Fault> {
        let mut keys: Vec<_> = table.iter().collect();
        keys.sort_by_key(|(key, _)| key.span().start);
        let mut read = Table { given: Given::default(), keys: Vec::new(), offset };
        let mut inner = Vec::new();
        for (key, value) in keys {
            let (offset, key) = (key.span().start, key.get_ref());
            if let Some(table) = self.tables.iter().find(|table| *table == key) {
                inner.push((*table, offset, value));
                continue;
            }
            let Some(setting) = self.settings.iter().find(|setting| setting.about.name == key) else {
                return Err(self.fault(offset, self.unknown(key)));
            };
            read.given.insert(setting.about.name, self.texts(setting, value)?);
            read.keys.push((setting.about.name, offset));
        }
        let is_missing = |setting: &&&Setting| setting.is_required() && !read.given.has(setting.about.name);
        match self.settings.iter().find(is_missing) {
            Some(setting) => {
                let (name, takes) = (setting.about.name, setting.takes());
                Err(self.fault(offset, format!("{}{name} is missing: use {takes}", self.path)))
            }
            None => Ok((read, inner)),
        }
    }

    /// Reads a value as a table, with the place where it begins.
    fn table<'t, 'i>(
        &self,
        name: &str,
        offset: usize,
        value: &'t Value<'i>,
    ) -> Result<(usize, &'t DeTable<'i>), Fault> {
        let table = value.get_ref().as_table().map(|table| (value.span().start, table));
        table.ok_or_else(|| {
            self.fault(offset, format!("{}{name} is one table: begin it with [{}]", self.path, self.full(name)))
        })
    }

    /// Reads a value as tables, each with the place where it begins.
    fn tables<'t, 'i>(
        &self,
        name: &str,
        offset: usize,
        value: &'t Value<'i>,
    ) -> Result<Vec<(usize, &'t DeTable<'i>)>, Fault> {
        let tables = value.get_ref().as_array().and_then(|values| {
            values.iter().map(|value| Some((value.span().start, value.get_ref().as_table()?))).collect()
        });
        tables.ok_or_else(|| {
            self.fault(
                offset,
                format!("{}{name} is a list of tables: begin each with [[{}]]", self.path, self.full(name)),
            )
        })
    }

    /// Returns the whole name of a table in this one.
    fn full(&self, name: &str) -> String {
        if self.label.is_empty() { name.to_owned() } else { format!("listener.{}{name}", self.path) }
    }

    /// Reads the value of `setting`, for a list its items.
    fn texts(&self, setting: &Setting, value: &Value<'_>) -> Result<Vec<String>, Fault> {
        match value.get_ref().as_array() {
            Some(values) if setting.is_list => values.iter().map(|value| self.text(setting, value)).collect(),
            _ => Ok(vec![self.text(setting, value)?]),
        }
    }

    /// Reads a value as the text that a flag would have.
    fn text(&self, setting: &Setting, value: &Value<'_>) -> Result<String, Fault> {
        let number = |integer: &DeInteger<'_>| i64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let text = match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(integer) if !setting.is_text => number(integer).map(|number| number.to_string()),
            DeValue::Boolean(switch) if setting.is_switch => Some(switch.to_string()),
            _ => None,
        };
        let name = setting.about.name;
        let wrong = |message| self.fault(value.span().start, message);
        let text = text.ok_or_else(|| {
            let kind = match (setting.is_switch, setting.is_text) {
                (true, _) => "true or false",
                (_, true) => &*format!("a text: {}", setting.takes()),
                _ => "a text or a number",
            };
            let is_flag = Settings::ALL.iter().any(|flag| flag.about.name == name);
            let flag = if is_flag { format!(", as for --{name}") } else { String::new() };
            let several = if setting.is_list { ", or a list of these" } else { "" };
            wrong(format!("invalid value for {}{name}: use {kind}{flag}{several}", self.path))
        })?;
        match setting.check(&text) {
            Ok(()) => Ok(text),
            Err(advice) if setting.may_be_secret => Err(wrong(format!("invalid {}{name}: {advice}", self.path))),
            Err(advice) => Err(wrong(format!("invalid value {text:?} for {}{name}: {advice}", self.path))),
        }
    }

    /// Tells of a key that does not exist here where it does, or which one it resembles.
    fn unknown(&self, key: &str) -> String {
        let Self { path, .. } = self;
        let is_in = |settings: &[Setting]| settings.iter().any(|setting| setting.about.name == key);
        if self.label.is_empty() && (is_in(ListenerSettings::ALL) || key == "tls") {
            return format!("unknown key {key:?}: it is a listener's: write it below a [[listener]]");
        }
        if !self.label.is_empty() && is_in(Settings::ALL) {
            let here = Settings::ALL.iter().any(|setting| setting.about.name == key && is_of_listeners(setting));
            let place = if here {
                "the listener's: write it above its tables"
            } else {
                "the server's: write it above the first [[listener]]"
            };
            return format!("unknown key \"{path}{key}\": it is {place}");
        }
        if !path.is_empty() && is_in(ListenerSettings::ALL) {
            return format!("unknown key \"{path}{key}\": it is the listener's: write it above its tables");
        }
        let alike = |name: &str| strsim::jaro(&key.replace('_', "-"), name);
        let names = || self.settings.iter().map(|setting| setting.about.name).chain(self.tables.iter().copied());
        let nearest = names().max_by(|one, other| alike(one).total_cmp(&alike(other)));
        let advice = match nearest.filter(|name| alike(name) > 0.8) {
            Some(name) => format!("use {path}{name}"),
            None if self.label.is_empty() => "use a flag of --help that takes a value, without its dashes".to_owned(),
            None => format!("use one of {}", names().collect::<Vec<_>>().join(", ")),
        };
        format!("unknown key \"{path}{}\": {advice}", key.escape_debug())
    }
}
