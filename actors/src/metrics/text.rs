//! Text: the formats in which scrapers take metrics, and which one of them a scraper wants.
//!
//! Not here: what is encoded (`server`, `process`).

use prometheus_client::{
    encoding::{prometheus_text, text},
    registry::Registry,
};

use crate::log_limit::{Kind, LogLimit};

/// A text format of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextFormat {
    /// OpenMetrics 1.0: it says units, and where it ends, so that half of it is not taken for all.
    OpenMetrics,
    /// Prometheus 0.0.4, which every scraper reads. The default.
    #[default]
    Prometheus,
}

impl TextFormat {
    /// Returns its media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }

    /// Returns the format for a request with this `Accept` header: OpenMetrics for a scraper that names it at least as
    /// wanted as any other, Prometheus for all others.
    ///
    /// ```
    /// use actix_lines::metrics::TextFormat;
    ///
    /// let scraper = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    /// assert_eq!(TextFormat::accepted(Some(scraper)), TextFormat::OpenMetrics);
    /// assert_eq!(TextFormat::accepted(Some("*/*")), TextFormat::Prometheus);
    /// assert_eq!(TextFormat::accepted(None), TextFormat::Prometheus);
    /// ```
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let (mut openmetrics, mut others): (f64, f64) = (0.0, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let parameters = parts.filter_map(|part| part.split_once('='));
            let (mut quality, mut is_known) = (1.0, true);
            for (name, value) in parameters.map(|(name, value)| (name.trim(), value.trim().trim_matches('"'))) {
                match name.to_ascii_lowercase().as_str() {
                    "q" => quality = value.parse().unwrap_or(0.0),
                    "version" => is_known = matches!(value, "1.0.0" | "0.0.1"),
                    _ => {}
                }
            }
            if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                if is_known {
                    openmetrics = openmetrics.max(quality);
                }
            } else if kind.eq_ignore_ascii_case("text/plain") {
                others = others.max(quality);
            }
        }
        if openmetrics > 0.0 && openmetrics >= others { Self::OpenMetrics } else { Self::Prometheus }
    }
}

/// Encodes registries one behind the other. One that fails, which only a program's own can, is left out.
/// Whoever scrapes may cause it.
static FAILED: LogLimit = LogLimit::new();
const FAILURE: Kind = Kind("scrape without a program's own metrics", "scrapes without a program's own metrics");

pub(super) fn encode(format: TextFormat, registries: &[&Registry]) -> String {
    let mut all = String::new();
    for registry in registries {
        let whole = all.len();
        let result = match format {
            TextFormat::OpenMetrics => text::encode_registry(&mut all, registry),
            TextFormat::Prometheus => prometheus_text::encode(&mut all, registry),
        };
        if result.is_err() {
            if let Some(events) = FAILED.pass(&FAILURE, "") {
                log::error!(
                    count = events;
                    "a program's own metrics cannot be encoded, and are left out: look at its collectors{events}"
                );
            }
            all.truncate(whole);
        }
    }
    if format == TextFormat::OpenMetrics {
        all.push_str("# EOF\n");
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::gauge::Gauge};

    use super::*;

    #[test]
    fn whoever_asks_for_openmetrics_gets_it_and_everybody_else_what_everybody_reads() {
        let old = "application/openmetrics-text; version=0.0.1, text/plain; version=0.0.4; q=0.5, */*; q=0.1";
        let new = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [old, new, "Application/OpenMetrics-Text", "application/openmetrics-text; q=\"0.2\""] {
            assert_eq!(TextFormat::accepted(Some(accept)), TextFormat::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "text/plain",
            "text/html,*/*;q=0.8",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=x",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0.4,text/plain;q=0.5",
            ";;;,q=1,=",
        ] {
            assert_eq!(TextFormat::accepted(Some(accept)), TextFormat::Prometheus, "{accept}");
        }
    }

    #[derive(Debug)]
    struct Broken;

    impl Collector for Broken {
        fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }

    #[test]
    fn metrics_that_cannot_be_encoded_leave_the_others_whole() {
        let (mut one, mut broken, mut last) = (Registry::default(), Registry::default(), Registry::default());
        let gauge = || Gauge::<i64>::default();
        one.register("one", "One", gauge());
        broken.register("half", "Half", gauge());
        broken.register_collector(Box::new(Broken));
        last.register("last", "Last", gauge());
        let text = encode(TextFormat::OpenMetrics, &[&one, &broken, &last]);
        let expected =
            "# HELP one One.\n# TYPE one gauge\none 0\n# HELP last Last.\n# TYPE last gauge\nlast 0\n# EOF\n";
        assert_eq!(text, expected);
    }
}
