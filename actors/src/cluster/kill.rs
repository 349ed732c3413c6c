//! Kill: cuts sessions that were kicked over nodes and have not ended in time, so that every kick is the end of its sessions.
//!
//! Otherwise a peer that takes a byte now and then keeps a session that may not read any more for as long as it likes.
//! Not here: the kick (`ask`), the cut (`worker/answers`).

use std::{sync::Arc, time::Duration};

use tokio::time::{sleep, sleep_until};

use crate::{
    cluster::{core::Core, kicks::Kicked},
    error::ServerEnded,
};

/// Time until a server that had no supervisor is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// Runs until it is dropped.
pub(crate) async fn run(core: Arc<Core>) {
    loop {
        match core.kicks.next_due() {
            Some(due) => sleep_until(due).await,
            None => core.kicks.added().await,
        }
        while let Some(Kicked { whom, last, .. }) = core.kicks.take_due() {
            let Some(server) = core.server.get() else { continue };
            // Where nobody has cut them, there is no supervisor at the moment; or no server any more, and this ends soon.
            let cut = loop {
                match server.cut_kicked(whom.clone(), last).await {
                    Ok(cut) => break cut,
                    Err(ServerEnded) => sleep(AGAIN).await,
                }
            };
            core.counts.kicks_cut.add(cut);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::watch,
    };

    use super::*;
    use crate::{
        cluster::{builder::Cluster, memory::Memory},
        control::{query::SessionFilter, supervisor::Unlaunched},
        limits::Limits,
        rot13::Rot13,
        server::builder::LineServer,
    };

    #[actix::test]
    async fn a_kick_is_the_end_of_its_sessions_also_if_there_is_no_supervisor_for_long() {
        let limits = Limits::builder().linger_timeout(Duration::from_secs(3600)).build().unwrap();
        let server = LineServer::new(|_| Rot13).limits(limits).on_current_arbiter().bind("127.0.0.1:0").unwrap();
        let server = server.start().unwrap();
        // It hears its goodbye, and stays.
        let mut peer = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
        peer.write_all(b"hello\n").await.unwrap();
        peer.read_exact(&mut [0; 6]).await.unwrap();
        assert_eq!(server.kick(SessionFilter::default(), "bye\n").await, Ok(1));
        let mut goodbye = Vec::new();
        peer.read_to_end(&mut goodbye).await.unwrap();
        assert_eq!(goodbye, b"bye\n");
        let core = Cluster::builder(Memory::new()).node("a").build().unwrap().core;
        let (live, gone) = (server.supervisor(), Unlaunched::new().address());
        let supervisors = watch::Sender::new(gone);
        core.server.set(server.clone().with_supervisors(supervisors.subscribe())).unwrap();
        tokio::time::pause();
        core.kicks.add(SessionFilter::default(), Duration::from_secs(1));
        let kill = actix_rt::spawn(run(std::sync::Arc::clone(&core)));
        sleep(Duration::from_secs(10)).await;
        assert_eq!((core.counts.kicks_cut.get(), server.stats().await.unwrap().live), (0, 1));
        supervisors.send_replace(live);
        for _ in 0..1000 {
            sleep(AGAIN).await;
            if server.stats().await.unwrap().live == 0 {
                break;
            }
        }
        assert_eq!((core.counts.kicks_cut.get(), server.stats().await.unwrap().live), (1, 0));
        kill.abort();
        server.abort().await.unwrap();
    }
}
