//! Filters: the filter factories of a listener.
//!
//! Not here: what a filter is (`filter`), calling it (`transport`).

use std::{fmt, sync::Arc};

use crate::{
    connection::Connection,
    wire::{filter::Filter, transport::Layer},
};

/// The filter factories of a listener, from the wire inwards. All workers share them.
#[derive(Clone, Default)]
pub(crate) struct Filters(Vec<Arc<MakeLayer>>);

type MakeLayer = dyn Fn(&Connection) -> Option<Layer> + Send + Sync;

impl Filters {
    pub(crate) fn push<F: Filter>(&mut self, factory: impl Fn(&Connection) -> F + Send + Sync + 'static) {
        self.0.push(Arc::new(move |connection| Some(Layer::new(factory(connection)))));
    }

    /// The same with filters in their layers.
    #[cfg(feature = "tls")]
    pub(crate) fn push_layer(&mut self, factory: impl Fn() -> Layer + Send + Sync + 'static) {
        self.0.push(Arc::new(move |_| Some(factory())));
    }

    /// The same with a filter that not every connection has.
    #[cfg(feature = "proxy")]
    pub(crate) fn push_if<F: Filter>(&mut self, factory: impl Fn(&Connection) -> Option<F> + Send + Sync + 'static) {
        self.0.push(Arc::new(move |connection| factory(connection).map(Layer::new)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the filters of one connection.
    pub(crate) fn make(&self, connection: &Connection) -> impl Iterator<Item = Layer> {
        self.0.iter().filter_map(|factory| factory(connection))
    }
}

impl fmt::Debug for Filters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} filters", self.0.len())
    }
}
