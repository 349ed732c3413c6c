//! What it costs to say something to a room: time for each member, in rooms of many sizes, beside a message to each
//! member's address. `cargo bench -p actix-lines --bench room`.
//!
//! Members are whole sessions whose peers take everything at once and say nothing, so what is measured is all but the
//! system calls. Both ways take turns; the least of all rounds counts.
#![allow(clippy::print_stdout)]

#[path = "../tests/support/members.rs"]
mod members;

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use actix::{Addr, Handler, Message};
use actix_lines::{Room, Transport};
use bytes::Bytes;
use members::{Member, Silent};

const MEMBERS: [usize; 4] = [100, 1_000, 10_000, 100_000];
const ROUNDS: usize = 20;
const MESSAGE: &[u8] = &[b'x'; 64];

#[derive(Message)]
#[rtype(result = "()")]
struct Say(Bytes);

impl Handler<Say> for Member {
    type Result = ();
    fn handle(&mut self, Say(bytes): Say, ctx: &mut Self::Context) {
        ctx.write_bytes(bytes);
    }
}

/// Time for all of them to have written what `say` says.
async fn time(taken: &Cell<usize>, members: usize, say: impl FnOnce()) -> Duration {
    let until = taken.get() + members * MESSAGE.len();
    let begin = Instant::now();
    say();
    while taken.get() < until {
        tokio::task::yield_now().await;
    }
    begin.elapsed()
}

async fn measure(members: usize) -> [Duration; 2] {
    let (room, taken) = (Room::new(), Rc::new(Cell::new(0)));
    let addresses: Vec<Addr<Member>> = (0..members)
        .map(|_| {
            let taken = Rc::clone(&taken);
            Member::behind(Transport::new(Silent(move |bytes: &[u8]| taken.set(taken.get() + bytes.len()))), &room)
        })
        .collect();
    while room.len() < members {
        tokio::task::yield_now().await;
    }
    let message = Bytes::from_static(MESSAGE);
    let mut least = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let by_room = time(&taken, members, || room.say(message.clone())).await;
        let by_messages = time(&taken, members, || {
            for address in &addresses {
                address.do_send(Say(message.clone()));
            }
        })
        .await;
        least = [least[0].min(by_room), least[1].min(by_messages)];
    }
    assert_eq!(room.lost(), 0);
    least
}

fn main() {
    println!("| members | room: ns a member | a message each: ns a member |\n|--:|--:|--:|");
    for members in MEMBERS {
        let [room, messages] = actix_rt::System::new().block_on(measure(members));
        let each = |time: Duration| time.as_nanos() / members as u128;
        println!("| {members} | {} | {} |", each(room), each(messages));
    }
}
