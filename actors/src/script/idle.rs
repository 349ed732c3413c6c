//! Idleness: the moment at which nobody on a thread has anything to do, before a paused clock moves.
//!
//! The runtime says so when it is about to park. Then one of those who wait for it is woken, and the clock stands still until
//! the next time. Not here: who waits (`memory`, `run`).

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

/// The reason to wait for idleness, in the order in which those who wait are woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdleFor {
    /// The service has seen what is there, but for calls that are held back.
    Turn,
    /// A call that was held back goes on.
    Stall,
    /// Nothing is held back any more, and all of it is done.
    Rest,
}

#[derive(Debug)]
struct Waiter {
    waker: RefCell<Waker>,
    is_over: Cell<bool>,
}

thread_local! {
    static WAITING: RefCell<[VecDeque<Weak<Waiter>>; 3]> = const { RefCell::new([const { VecDeque::new() }; 3]) };
}

/// Wakes who waits longest for the most urgent thing. For `on_thread_park` of the runtime.
pub(crate) fn parked() {
    let next = WAITING.with_borrow_mut(|queues| {
        // Who waits no more has dropped it.
        queues.iter_mut().find_map(|queue| std::iter::from_fn(|| queue.pop_front()).find_map(|waiter| waiter.upgrade()))
    });
    if let Some(waiter) = next {
        waiter.is_over.set(true);
        waiter.waker.borrow().wake_by_ref();
    }
}

/// Done once the thread was idle. Waits for ever in a runtime without [`parked`].
#[derive(Debug)]
pub(crate) struct Idle {
    idle_for: IdleFor,
    waiter: Option<Rc<Waiter>>,
}

pub(crate) fn idle(idle_for: IdleFor) -> Idle {
    Idle { idle_for, waiter: None }
}

impl Future for Idle {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &self.waiter {
            Some(waiter) if waiter.is_over.get() => return Poll::Ready(()),
            Some(waiter) => waiter.waker.borrow_mut().clone_from(cx.waker()),
            None => {
                let waiter = Rc::new(Waiter { waker: RefCell::new(cx.waker().clone()), is_over: Cell::new(false) });
                WAITING.with_borrow_mut(|queues| queues[self.idle_for as usize].push_back(Rc::downgrade(&waiter)));
                self.waiter = Some(waiter);
            }
        }
        Poll::Pending
    }
}
