//! Metrics as a scraper reads them: families and samples of a text, which has to keep to the rules of its format.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;

/// The name of a sample with its labels, in the order of their names.
pub type Series = (String, Vec<(String, String)>);

#[derive(Debug, Default)]
pub struct Exposition {
    /// Kind and unit of each family, by its name.
    pub families: BTreeMap<String, (String, Option<String>)>,
    pub samples: BTreeMap<Series, f64>,
    pub has_end: bool,
}

/// Splits the labels of a sample, and takes back their escapes.
fn labels(mut text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").expect("a label");
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next().expect("the end of a label") {
                (_, '\\') => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => panic!("no escape: {other:?} in {text}"),
                }),
                (at, '"') => break at,
                (_, c) => value.push(c),
            }
        };
        let name = name.trim_start_matches(',');
        if name == "le" && value != "+Inf" {
            // `1`, `1.0` and `1e+00` are one bound.
            value = value.parse::<f64>().expect("a bound").to_string();
        }
        labels.push((name.to_owned(), value));
        text = &rest[end + 1..];
    }
    labels.sort();
    labels
}

impl Exposition {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut all = Self::default();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            assert!(!all.has_end, "behind the end: {line}");
            if line == "# EOF" {
                all.has_end = true;
            } else if let Some(help) = line.strip_prefix("# HELP ") {
                let (_, text) = help.split_once(' ').expect("a description");
                assert!(!text.is_empty(), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a kind");
                let before = all.families.insert(name.to_owned(), (kind.to_owned(), None));
                assert_eq!(before, None, "{name} is there twice");
            } else if let Some(unit) = line.strip_prefix("# UNIT ") {
                let (name, unit) = unit.split_once(' ').expect("a unit");
                assert!(name.ends_with(&format!("_{unit}")), "{line}");
                all.families.get_mut(name).expect("its kind").1 = Some(unit.to_owned());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = match series.split_once('{') {
                    Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect("the end of the labels"))),
                    None => (series, Vec::new()),
                };
                assert!(all.family(name).is_some(), "no family: {line}");
                let before = all.samples.insert((name.to_owned(), labels), value.parse().expect("a number"));
                assert_eq!(before, None, "twice: {line}");
            }
        }
        all
    }

    /// The family of a sample, and its kind.
    pub fn family(&self, sample: &str) -> Option<(&str, &str)> {
        ["", "_total", "_info", "_bucket", "_sum", "_count"].into_iter().find_map(|suffix| {
            let (name, (kind, _)) = self.families.get_key_value(sample.strip_suffix(suffix)?)?;
            Some((&**name, &**kind))
        })
    }

    /// The value of one sample.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut labels: Vec<_> =
            labels.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect();
        labels.sort();
        self.samples.get(&(name.to_owned(), labels)).copied()
    }

    /// The sum of all samples of a name.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|((own, _), _)| own == name).map(|(_, value)| value).sum()
    }

    /// The values of a label.
    pub fn values(&self, label: &str) -> std::collections::BTreeSet<&str> {
        let labels = self.samples.keys().flat_map(|(_, labels)| labels);
        labels.filter(|(name, _)| name == label).map(|(_, value)| &**value).collect()
    }

    /// Names of the metrics as whoever asks Prometheus for them writes them.
    pub fn names(&self) -> std::collections::BTreeSet<&str> {
        self.samples.keys().map(|(name, _)| &**name).collect()
    }
}
