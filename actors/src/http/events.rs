//! Events: what the page sees once a second, by server-sent events.
//!
//! Rule: an event is made once for all viewers, and only while there are some. A viewer that does not read loses events
//! and is told so: nothing waits for it, and nothing is kept for it.
//! Not here: what an event says (`api`).

use std::{pin::pin, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, Version},
    web::{Bytes, BytesMut},
};
use futures::Stream;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::http::{
    admin::{Admin, PATIENCE},
    api,
    hub::View,
    reply::{self, Problem},
};

/// Time between two events.
const INTERVAL: Duration = Duration::from_secs(1);

/// Silence after which a comment says that the connection is there.
const SILENCE: Duration = Duration::from_secs(15);

pub(super) fn answer(admin: &Arc<Admin>, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    if *request.method() == Method::HEAD {
        return Ok(reply::events().finish());
    }
    let events = watch(admin).ok_or_else(|| {
        let most = admin.settings.max_viewers;
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, format_args!("{most} viewers watch already: close one of them"))
    })?;
    let mut response = reply::events().streaming(events);
    if request.version() < Version::HTTP_11 {
        // It knows no chunks; actix-web would send them all the same.
        response.head_mut().no_chunking(true);
    }
    Ok(response)
}

/// Returns the events for one more viewer; `None` if there are too many.
fn watch(admin: &Arc<Admin>) -> Option<impl Stream<Item = Result<Bytes, actix_web::Error>> + use<>> {
    let (view, is_first) = admin.shared.hub.join(admin.settings.max_viewers)?;
    let seat = Seat(Arc::clone(admin));
    if is_first {
        actix_rt::spawn(run(Running { admin: Arc::clone(admin), is_done: false }));
    }
    let viewer = Viewer { view, last: None, is_over: false, _seat: seat };
    Some(futures::stream::unfold(viewer, Viewer::next))
}

/// A viewer's place.
struct Seat(Arc<Admin>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.shared.hub.leave();
    }
}

struct Viewer {
    view: watch::Receiver<View>,
    /// The number of its last event.
    last: Option<u64>,
    is_over: bool,
    _seat: Seat,
}

impl Viewer {
    async fn next(mut self) -> Option<(Result<Bytes, actix_web::Error>, Self)> {
        while !self.is_over {
            let view = self.view.borrow_and_update().clone();
            let text = match view {
                View::Event { number, text } if self.last != Some(number) => {
                    let lost = self.last.replace(number).map_or(0, |last| number.saturating_sub(last + 1));
                    match lost {
                        0 => text,
                        lost => {
                            let note = format!("event: lost\ndata: {{\"events\":{lost}}}\n\n");
                            [note.as_bytes(), &text].concat().into()
                        }
                    }
                }
                View::End => {
                    self.is_over = true;
                    Bytes::from_static(b"event: end\ndata: {}\n\n")
                }
                _ => match timeout(SILENCE, self.view.changed()).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => return None,
                    Err(_) => Bytes::from_static(b": no news\n\n"),
                },
            };
            return Some((Ok(text), self));
        }
        None
    }
}

/// Held by the task that makes events. It may end with its thread: its viewers do, too, and come again.
struct Running {
    admin: Arc<Admin>,
    is_done: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Another one may be running by now.
        if !self.is_done {
            self.admin.shared.hub.end();
        }
    }
}

async fn run(mut running: Running) {
    let admin = Arc::clone(&running.admin);
    let hub = &admin.shared.hub;
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = pin!(admin.settings.server.wait());
    let mut count = hub.ends.count();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = &mut ended => return,
        }
        running.is_done = hub.is_done();
        if running.is_done {
            return;
        }
        // A supervisor that has no time has no news.
        if let Ok(view) = timeout(PATIENCE, api::view(&admin)).await {
            let Ok(mut view) = view else { return };
            let (ends, left_out, now) = hub.ends.since(count);
            count = now;
            view.ends = Some(ends);
            view.ends_left_out = Some(left_out);
            let number = hub.next_number();
            if let Some(text) = event(number, &view) {
                hub.show(number, text);
            }
        }
    }
}

/// JSON has no line breaks of its own.
fn event(number: u64, view: &api::View) -> Option<Bytes> {
    let json = serde_json::to_vec(view).ok()?;
    let mut text = BytesMut::with_capacity(json.len() + 64);
    text.extend_from_slice(format!("id: {number}\nevent: server\ndata: ").as_bytes());
    text.extend_from_slice(&json);
    text.extend_from_slice(b"\n\n");
    Some(text.freeze())
}
