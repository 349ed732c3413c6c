//! Channels: who reads what is published, and the channels that the one subscription of a node is to have.
//!
//! Passive: whoever listens says so here, and the hub does it.
//! Not here: the subscription and its probe (`hub`), what messages mean (`ask`, `rooms`).

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, watch};

use crate::cluster::{
    mailbox::{Mailbox, Put},
    stats::Counts,
    store::Message,
};

/// The channels of a node. The hub adds them to its subscription, all again after each loss of it.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    wanted: Mutex<Wanted>,
    /// Something else is wanted now.
    changed: Notify,
    /// The control channel that the subscription has, from which on nothing that is published there is missed.
    heard: watch::Sender<Option<Arc<str>>>,
}

#[derive(Debug, Default)]
struct Wanted {
    readers: HashMap<Arc<str>, Mailbox>,
    /// The channel of the node's life, and who reads those of all its lives.
    control: Option<Arc<str>>,
    control_reader: Option<Mailbox>,
}

impl Channels {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on to `to` what is published on a channel, from some moment soon; whoever read it before reads no more. What
    /// `to` has no room for is dropped and counted.
    pub(crate) fn listen(&self, channel: String, to: Mailbox) {
        self.wanted().readers.insert(channel.into(), to);
        self.changed.notify_one();
    }

    /// Ends what [`listen`](Self::listen) has begun.
    pub(crate) fn forget(&self, channel: &str) {
        if self.wanted().readers.remove(channel).is_some() {
            self.changed.notify_one();
        }
    }

    /// Passes on to `to` what is published on the control channel of the node, `c:ID` of whatever life it is in: each life
    /// begins once its channel is heard, so that nothing is missed. The node's own probes are left out.
    pub(crate) fn listen_to_control(&self, to: Mailbox) {
        self.wanted().control_reader = Some(to);
    }

    /// Sets the control channel.
    pub(crate) fn set_control(&self, channel: String) {
        self.wanted().control = Some(channel.into());
        self.changed.notify_one();
    }

    /// Waits until the subscription has the control channel.
    pub(crate) async fn control_heard(&self) {
        let wanted = self.wanted().control.clone();
        // Its other end is here.
        let _ = self.heard.subscribe().wait_for(|heard| *heard == wanted).await;
    }

    /// Says which control channel the subscription has.
    pub(crate) fn set_heard(&self, channel: Option<Arc<str>>) {
        self.heard.send_if_modified(|heard| {
            let is_other = *heard != channel;
            *heard = channel;
            is_other
        });
    }

    /// Returns the control channel that the subscription has.
    pub(crate) fn heard(&self) -> Option<Arc<str>> {
        self.heard.borrow().clone()
    }

    /// Returns true if it is the control channel.
    pub(crate) fn is_control(&self, channel: &str) -> bool {
        self.wanted().control.as_deref() == Some(channel)
    }

    /// Returns all channels that the subscription is to have, and the control channel among them.
    pub(crate) fn all(&self) -> (HashSet<Arc<str>>, Option<Arc<str>>) {
        let wanted = self.wanted();
        (wanted.readers.keys().chain(&wanted.control).cloned().collect(), wanted.control.clone())
    }

    /// Waits until other channels are wanted.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Passes on a message.
    pub(crate) fn deliver(&self, message: Message, counts: &Counts) {
        let put = {
            let wanted = self.wanted();
            let control = wanted.control_reader.as_ref().filter(|_| wanted.control.as_ref() == Some(&message.channel));
            let reader = wanted.readers.get(&message.channel).or(control);
            reader.map_or(Put::Closed, |reader| reader.put(message))
        };
        match put {
            Put::In => {}
            Put::Full => counts.messages_dropped.one(),
            Put::Closed => counts.messages_unread.one(),
        }
    }
}
