//! Families: metrics of one name, written one sample after the other.
//!
//! A family without a sample is not there at all.
//! Not here: which there are (`server`, `process`).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use crate::{control::histogram::Histogram, seconds};

/// Name, unit and description of a family. The unit is a part of the name as it is encoded, and so is `_total`.
#[derive(Clone, Copy)]
pub(super) struct About {
    pub(super) name: &'static str,
    pub(super) unit: Option<&'static Unit>,
    pub(super) help: &'static str,
}

/// The labels of a sample, each with its value.
pub(super) type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    fn family<'l, V, const N: usize>(
        &mut self,
        About { name, unit, help }: About,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels<'l, N>, V)>,
        mut write: impl FnMut(&mut MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (labels, value) in samples {
            write(&mut family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    pub(super) fn counters<'l, const N: usize>(
        &mut self,
        about: About,
        samples: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        self.family(about, MetricType::Counter, samples, |sample, value| {
            sample.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    /// Counters of time.
    pub(super) fn times<'l, const N: usize>(
        &mut self,
        about: About,
        samples: impl IntoIterator<Item = (Labels<'l, N>, Duration)>,
    ) -> fmt::Result {
        self.family(about, MetricType::Counter, samples, |sample, value| {
            sample.encode_counter::<NoLabelSet, _, f64>(&seconds::of(value), None)
        })
    }

    pub(super) fn gauges<'l, const N: usize>(
        &mut self,
        about: About,
        samples: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        self.family(about, MetricType::Gauge, samples, |sample, value| {
            sample.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
        })
    }

    /// Gauges of time.
    pub(super) fn time_gauges<'l, const N: usize>(
        &mut self,
        about: About,
        samples: impl IntoIterator<Item = (Labels<'l, N>, Duration)>,
    ) -> fmt::Result {
        self.family(about, MetricType::Gauge, samples, |sample, value| sample.encode_gauge(&seconds::of(value)))
    }

    /// Gauges of moments, in seconds since 1970.
    pub(super) fn moments<'l, const N: usize>(
        &mut self,
        about: About,
        samples: impl IntoIterator<Item = (Labels<'l, N>, SystemTime)>,
    ) -> fmt::Result {
        self.family(about, MetricType::Gauge, samples, |sample, value| sample.encode_gauge(&seconds::since_1970(value)))
    }

    /// Histograms of times; `bounds` are those of one that has counted nothing yet.
    pub(super) fn histograms<'l, const N: usize>(
        &mut self,
        about: About,
        bounds: &'static [Duration],
        samples: impl IntoIterator<Item = (Labels<'l, N>, &'l Histogram)>,
    ) -> fmt::Result {
        let empty = Histogram::new(bounds);
        self.family(about, MetricType::Histogram, samples, |sample, histogram| {
            let histogram = if histogram.counts().is_empty() { &empty } else { histogram };
            let bounds = histogram.bounds().iter().copied().map(seconds::of).chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(histogram.counts().iter().copied()).collect();
            let (sum, count) = (seconds::of(histogram.sum()), histogram.count());
            sample.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }

    /// A metric that is 1, and says what it has to say by its labels.
    pub(super) fn info<const N: usize>(&mut self, about: About, labels: Labels<'_, N>) -> fmt::Result {
        let About { name, unit, help } = about;
        self.0.encode_descriptor(name, help, unit, MetricType::Info)?.encode_info(&labels)
    }
}
