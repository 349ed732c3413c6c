//! Setting: the description of one, and the way from its text to its value.
//!
//! Rule: nothing here knows a setting by name. `settings!` makes a struct and its [`Setting`]s of a list of fields, so
//! that a second table of settings is a second list.
//! Not here: the list of rot13d (`settings`), the forms of values (`value`), reading the file (`config`).

use std::collections::BTreeMap;

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches,
    builder::{PossibleValue, PossibleValuesParser},
};

use super::value::Value;

/// The description of a setting, for help and documentation. Texts are Markdown, of which help drops the backticks.
#[derive(Debug)]
pub(crate) struct About {
    /// The flag without its dashes, and the key.
    pub(crate) name: &'static str,
    /// The placeholder of the value behind the flag.
    pub(crate) value: &'static str,
    /// The unit, where a value does not show it; else empty.
    pub(crate) unit: &'static str,
    /// Read as if it were written; several for a list; none if it has to be written.
    pub(crate) default: &'static [&'static str],
    /// The heading in help and tables; those of one group stand together.
    pub(crate) group: &'static str,
    pub(crate) reload: Reload,
    /// One sentence without its full stop.
    pub(crate) help: &'static str,
    /// When to change it, and what that costs.
    pub(crate) advice: &'static str,
}

/// The time at which a change in the file takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// After SIGHUP, for living sessions as well.
    AtOnce,
    /// After SIGHUP, for connections from then on.
    NewConnections,
    /// What is in the file, after SIGHUP; the name of the file, after a restart.
    Contents,
    /// After a restart; SIGHUP warns.
    Restart,
}

impl Reload {
    /// Returns true if SIGHUP does not change the value.
    pub(crate) fn is_fixed(self) -> bool {
        matches!(self, Self::Contents | Self::Restart)
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::NewConnections => "for new connections",
            Self::Contents => "what is in it, for new connections",
            Self::Restart => "at a restart",
        }
    }
}

/// A setting whose values are of some type.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) about: About,
    pub(crate) is_list: bool,
    /// True for `true` and `false`.
    pub(crate) is_switch: bool,
    /// True if a number in the file would not mean what the same digits in a text do.
    pub(crate) is_text: bool,
    /// True if a wrong value may have a secret in it, which no error may repeat.
    pub(crate) may_be_secret: bool,
    choices: &'static [(&'static str, &'static str)],
    allowed: fn() -> String,
    check: fn(&str) -> Result<(), String>,
}

impl Setting {
    pub(crate) const fn new<T: Value>(about: About) -> Self {
        Self {
            about,
            is_list: T::IS_LIST,
            is_switch: T::IS_SWITCH,
            is_text: T::IS_TEXT,
            may_be_secret: T::MAY_BE_SECRET,
            choices: T::CHOICES,
            allowed: T::allowed,
            check: check::<T>,
        }
    }

    /// Returns true if there is no default.
    pub(crate) fn is_required(&self) -> bool {
        self.about.default.is_empty()
    }

    /// Describes the values that are allowed, with their unit.
    pub(crate) fn takes(&self) -> String {
        match self.about.unit {
            "" => (self.allowed)(),
            unit => format!("{unit}: {}", (self.allowed)()),
        }
    }

    /// Checks a text, for a list one of its items.
    ///
    /// # Errors
    /// As [`Value::read`].
    pub(crate) fn check(&self, text: &str) -> Result<(), String> {
        (self.check)(text)
    }

    /// The flag.
    fn arg(&'static self) -> Arg {
        let About { name, value, default, group, reload, help, advice, .. } = self.about;
        let default = match default {
            [""] => "empty".to_owned(),
            texts => texts.join(", "),
        };
        let plain = |text: String| text.replace('`', "");
        let short = plain(format!("{help} [default: {default}]"));
        let change = match reload {
            Reload::Restart => "Only a restart changes it".to_owned(),
            Reload::Contents => format!("SIGHUP reads it again: {}. Only a restart changes its name", reload.words()),
            reload => format!("SIGHUP changes it {}", reload.words()),
        };
        let takes = self.takes();
        let long = plain(format!("{help}. {advice}.\n\nTakes {takes}. {change}. [default: {default}]"));
        let arg = Arg::new(name).long(name).value_name(value).help_heading(group).help(short).long_help(long);
        let arg = arg.action(if self.is_list { ArgAction::Append } else { ArgAction::Set });
        // A switch alone is on.
        let arg = match self.is_switch {
            true => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            false => arg,
        };
        // clap repeats what its parser refuses; the value is checked when the settings are read.
        if self.may_be_secret {
            return arg;
        }
        if self.choices.is_empty() {
            return arg.value_parser(|text: &str| self.check(text).map(|()| text.to_owned()));
        }
        let choices = self.choices.iter().map(|(choice, meaning)| PossibleValue::new(*choice).help(*meaning));
        arg.value_parser(PossibleValuesParser::new(choices))
    }
}

fn check<T: Value>(text: &str) -> Result<(), String> {
    T::read(text).map(drop)
}

/// The reason why a value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {name}: {advice}")]
pub(crate) struct Invalid {
    pub(crate) name: &'static str,
    pub(crate) advice: String,
}

/// Settings as they are written, by name; each text by itself is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given(BTreeMap<&'static str, Vec<String>>);

impl Given {
    /// Adds what is written of a setting.
    pub(crate) fn insert(&mut self, name: &'static str, texts: Vec<String>) {
        self.0.insert(name, texts);
    }

    /// Returns true if something is written of a setting.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// These, and where they say nothing, `others`.
    pub(crate) fn or(mut self, others: &Self) -> Self {
        for (name, texts) in &others.0 {
            self.0.entry(name).or_insert_with(|| texts.clone());
        }
        self
    }

    /// All but one.
    pub(crate) fn without(&self, name: &str) -> Self {
        let mut others = self.clone();
        others.0.remove(name);
        others
    }

    /// The value of `setting`, its default if nothing is written of it.
    pub(crate) fn value<T: Value>(&self, setting: &Setting) -> Result<T, Invalid> {
        let About { name, default, .. } = setting.about;
        let value = match self.0.get(name) {
            Some(texts) => T::read_all(&texts.iter().map(String::as_str).collect::<Vec<_>>()),
            None => T::read_all(default),
        };
        value.map_err(|advice| Invalid { name, advice })
    }
}

/// A struct of values, with the [`Setting`] of each field.
macro_rules! settings {
    (
        $(#[$doc:meta])*
        $visibility:vis struct $Settings:ident { $($field:ident: $type:ty = $about:expr,)* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        $visibility struct $Settings { $(pub(crate) $field: $type,)* }

        // Each has the name of its field; only flags are changed at a restart.
        #[allow(non_upper_case_globals, dead_code)]
        impl $Settings {
            $(const $field: $crate::settings::Setting = $crate::settings::Setting::new::<$type>($about);)*

            /// Each setting, in the order of help.
            $visibility const ALL: &'static [$crate::settings::Setting] = &[$(Self::$field),*];

            /// The values that `given` says, without a look at how they go together.
            fn read(given: &$crate::settings::Given) -> Result<Self, $crate::settings::Invalid> {
                Ok(Self { $($field: given.value(&Self::$field)?,)* })
            }

            /// The names of those that differ in `others`, among those that only a restart changes.
            $visibility fn fixed_that_differ(&self, others: &Self) -> Vec<&'static str> {
                let each = [$((&Self::$field, self.$field != others.$field)),*];
                let fixed = each.iter().filter(|(setting, _)| setting.about.reload.is_fixed());
                fixed.filter_map(|(setting, differs)| differs.then_some(setting.about.name)).collect()
            }

            /// The names of those that differ in `others`, among those that SIGHUP changes.
            $visibility fn changed_in(&self, others: &Self) -> Vec<&'static str> {
                let each = [$((&Self::$field, self.$field != others.$field)),*];
                let changed = each.iter().filter(|(setting, _)| !setting.about.reload.is_fixed());
                changed.filter_map(|(setting, differs)| differs.then_some(setting.about.name)).collect()
            }

            /// These, except for what only a restart changes: that stays as it is in `running`.
            $visibility fn with_fixed_of(self, running: &Self) -> Self {
                Self {
                    $($field: match Self::$field.about.reload.is_fixed() {
                        true => running.$field.clone(),
                        false => self.$field,
                    },)*
                }
            }
        }
    };
}
pub(crate) use settings;

/// As flags: clap looks at each text by itself.
impl Args for Given {
    fn augment_args(command: Command) -> Command {
        command.args(super::Settings::ALL.iter().map(Setting::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Self::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for Setting { about: About { name, .. }, .. } in super::Settings::ALL {
            if let Some(texts) = matches.get_many::<String>(name) {
                self.insert(name, texts.cloned().collect());
            }
        }
        Ok(())
    }
}
