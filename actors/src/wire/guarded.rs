//! Guarded: a filter whose panics and faults end its connection alone.
//!
//! Every call is caught. A filter that has failed is dropped and never called again; what it holds is asked for with each
//! call, under the same catch, so that nobody else has to call it.
//! Not here: what a failure means to the connection (`transport`).

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    caught::{dispose, drop_caught, panic_text},
    connection::ConnectionInfo,
    report::FaultName,
    wire::filter::{Fault, Filter},
};

/// A filter that says it holds more counts as this: no sum overflows. Unit: bytes.
const MOST_BYTES: usize = 1 << 30;

/// The place of a filter, whatever its type: it is dropped in place when it is done or has failed.
pub(super) trait Slot: 'static {
    fn get(&self) -> Option<&dyn Filter>;
    fn get_mut(&mut self) -> Option<&mut dyn Filter>;
    /// Drops it. A panic of its destructor goes no further.
    fn clear(&mut self);
}

impl<F: Filter> Slot for Option<F> {
    fn get(&self) -> Option<&dyn Filter> {
        self.as_ref().map(|filter| filter as &dyn Filter)
    }

    fn get_mut(&mut self) -> Option<&mut dyn Filter> {
        self.as_mut().map(|filter| filter as &mut dyn Filter)
    }

    fn clear(&mut self) {
        drop_caught(self.take());
    }
}

/// The text of a fault. Boxed once more, it takes half of the place where there is none.
pub(super) struct FaultText(pub(super) String);

/// A filter, as long as it is neither done nor has failed.
pub(super) struct Guarded<S: Slot + ?Sized> {
    held: u32,
    memory: u32,
    /// The text of its fault.
    pub(super) fault: Option<Box<FaultText>>,
    /// Found out by a filter that is done.
    pub(super) learned: Option<Box<ConnectionInfo>>,
    filter: S,
}

impl<F: Filter> Guarded<Option<F>> {
    pub(super) fn new(filter: F) -> Self {
        Self { held: 0, memory: 0, fault: None, learned: None, filter: Some(filter) }
    }
}

impl<S: Slot + ?Sized> Guarded<S> {
    /// Returns true if nobody is there to be called.
    pub(super) fn is_gone(&self) -> bool {
        self.filter.get().is_none()
    }

    /// Bytes of the wire that it holds.
    pub(super) fn held(&self) -> usize {
        self.held as usize
    }

    /// Bytes that its buffers take.
    pub(super) fn memory(&self) -> usize {
        self.memory as usize
    }

    /// Calls the filter, which is dropped when it fails: with the name of its fault. `None` if there is none.
    pub(super) fn call<R>(
        &mut self,
        call: impl FnOnce(&mut dyn Filter) -> Result<R, Fault>,
    ) -> Option<Result<R, Option<FaultName>>> {
        let filter = self.filter.get_mut()?;
        let called = catch_unwind(AssertUnwindSafe(|| {
            let made = call(&mut *filter)?;
            Ok((made, filter.held(), filter.memory()))
        }));
        let result = called.unwrap_or_else(|payload| {
            let fault = Fault::new(format!("it panicked: {}", panic_text(&*payload)));
            dispose(payload);
            Err(fault)
        });
        Some(match result {
            Ok((made, held, memory)) => {
                let bounded = |bytes: usize| bytes.min(MOST_BYTES) as u32;
                (self.held, self.memory) = (bounded(held), bounded(memory));
                Ok(made)
            }
            Err(fault) => {
                let name = fault.name();
                self.fail(fault);
                Err(name)
            }
        })
    }

    #[cold]
    pub(super) fn fail(&mut self, fault: Fault) {
        self.fault = Some(Box::new(FaultText(fault.into_text())));
        self.drop_filter();
    }

    /// The filter is done.
    pub(super) fn finish(&mut self) {
        let mut learned = ConnectionInfo::default();
        self.learned_by_filter(&mut learned);
        self.learned = Some(learned).filter(|learned| !learned.is_empty()).map(Box::new);
        self.drop_filter();
    }

    /// Adds what it has found out, or had when it was done.
    pub(super) fn learned(&self, info: &mut ConnectionInfo) {
        if let Some(learned) = &self.learned {
            info.extend(learned);
        }
        self.learned_by_filter(info);
    }

    /// Nothing, if it panics.
    #[cold]
    fn learned_by_filter(&self, info: &mut ConnectionInfo) {
        let Some(filter) = self.filter.get() else { return };
        let learned = catch_unwind(AssertUnwindSafe(|| {
            let mut learned = ConnectionInfo::default();
            filter.learned(&mut learned);
            learned
        }));
        match learned {
            Ok(learned) => info.extend(&learned),
            Err(payload) => dispose(payload),
        }
    }

    fn drop_filter(&mut self) {
        (self.held, self.memory) = (0, 0);
        self.filter.clear();
    }
}

/// The filter is dropped under a catch of its own: those below it are dropped all the same.
impl<S: Slot + ?Sized> Drop for Guarded<S> {
    fn drop(&mut self) {
        self.drop_filter();
    }
}
