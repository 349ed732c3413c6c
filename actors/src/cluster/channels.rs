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
    /// Those that the hub was told of as wanted.
    told: HashSet<Arc<str>>,
    /// Those of which it was told otherwise than it is now: however often they change, these are never more than those two.
    changed: HashSet<Arc<str>>,
}

impl Wanted {
    fn has(&self, channel: &Arc<str>) -> bool {
        self.readers.contains_key(channel) || self.control.as_ref() == Some(channel)
    }

    /// A channel may be wanted now, or not any more.
    fn look(&mut self, channel: Arc<str>) {
        if self.has(&channel) == self.told.contains(&channel) {
            self.changed.remove(&channel);
        } else {
            self.changed.insert(channel);
        }
    }
}

/// Channels, each with whether the subscription is to have it.
pub(crate) type Changes = Vec<(Arc<str>, bool)>;

impl Channels {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes on to `to` what is published on a channel, from some moment soon; whoever read it before reads no more. What
    /// `to` has no room for is dropped and counted.
    pub(crate) fn listen(&self, channel: String, to: Mailbox) {
        let channel: Arc<str> = channel.into();
        let mut wanted = self.wanted();
        wanted.readers.insert(Arc::clone(&channel), to);
        wanted.look(channel);
        drop(wanted);
        self.changed.notify_one();
    }

    /// Ends what [`listen`](Self::listen) has begun.
    pub(crate) fn forget(&self, channel: &str) {
        let mut wanted = self.wanted();
        if let Some((channel, _)) = wanted.readers.remove_entry(channel) {
            wanted.look(channel);
            drop(wanted);
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
        let mut wanted = self.wanted();
        let channel: Arc<str> = channel.into();
        let before = wanted.control.replace(Arc::clone(&channel));
        before.into_iter().chain([channel]).for_each(|channel| wanted.look(channel));
        drop(wanted);
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

    /// Returns all channels that a new subscription is to have, and the control channel among them.
    pub(crate) fn all(&self) -> (Changes, Option<Arc<str>>) {
        let mut wanted = self.wanted();
        let wanted = &mut *wanted;
        wanted.changed.clear();
        wanted.told = wanted.readers.keys().chain(&wanted.control).cloned().collect();
        (wanted.told.iter().map(|channel| (Arc::clone(channel), true)).collect(), wanted.control.clone())
    }

    /// Returns what has changed since then, or since the last call, and the control channel. Of thousands of rooms few do.
    pub(crate) fn changes(&self) -> (Changes, Option<Arc<str>>) {
        let mut wanted = self.wanted();
        let wanted = &mut *wanted;
        let changed = std::mem::take(&mut wanted.changed).into_iter();
        let changes = changed.map(|channel| {
            // It was told otherwise, or it would not be here.
            let is_wanted = !wanted.told.remove(&channel);
            if is_wanted {
                wanted.told.insert(Arc::clone(&channel));
            }
            (channel, is_wanted)
        });
        (changes.collect(), wanted.control.clone())
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cluster::mailbox::Mail;

    #[test]
    fn of_many_channels_only_those_that_have_changed_are_looked_at() {
        let channels = Channels::default();
        let (to, _messages) = Mailbox::new(1);
        for nth in 0..100 {
            channels.listen(format!("r:{nth}"), to.clone());
        }
        channels.set_control("c:a.00000001".to_owned());
        let changes = || {
            let mut changes: Vec<_> =
                channels.changes().0.into_iter().map(|(name, is)| (name.to_string(), is)).collect();
            changes.sort_unstable();
            changes
        };
        let change = |name: &str, is_wanted| (name.to_owned(), is_wanted);
        assert_eq!(channels.all().0.len(), 101);
        assert_eq!(changes(), []);
        channels.listen("r:new".to_owned(), to.clone());
        channels.forget("r:1");
        channels.forget("r:nobody");
        channels.set_control("c:a.00000002".to_owned());
        let of_control = [change("c:a.00000001", false), change("c:a.00000002", true)];
        assert_eq!(changes(), [&of_control[..], &[change("r:1", false), change("r:new", true)]].concat());
        assert_eq!(changes(), []);
        // What has changed back has not changed.
        channels.forget("r:2");
        channels.listen("r:2".to_owned(), to.clone());
        channels.listen("r:3".to_owned(), to.clone());
        channels.listen("r:for a moment".to_owned(), to.clone());
        channels.forget("r:for a moment");
        assert_eq!(changes(), []);
        // Whoever begins anew has all.
        channels.forget("r:3");
        assert_eq!(channels.all().0.len(), 100);
        assert_eq!(changes(), []);
    }

    #[test]
    fn a_message_goes_to_who_reads_its_channel_and_counts_if_nobody_does() {
        let (channels, counts) = (Channels::default(), Counts::default());
        let ((of_room, mut room), (of_control, mut control)) = (Mailbox::new(9), Mailbox::new(9));
        channels.listen("r:1".to_owned(), of_room);
        channels.listen_to_control(of_control);
        channels.set_control("c:a.00000001".to_owned());
        channels.set_control("c:a.00000002".to_owned());
        for channel in ["r:1", "r:2", "c:a.00000001", "c:a.00000002"] {
            channels.deliver(Message { channel: channel.into(), bytes: Bytes::new() }, &counts);
        }
        let read = |mail: Result<Mail, _>| mail.ok().map(|mail| mail.message.channel.to_string());
        assert_eq!([(); 2].map(|()| read(room.try_recv())), [Some("r:1".to_owned()), None]);
        assert_eq!([(); 2].map(|()| read(control.try_recv())), [Some("c:a.00000002".to_owned()), None]);
        assert_eq!((counts.messages_unread.get(), counts.messages_dropped.get()), (2, 0));
    }
}
