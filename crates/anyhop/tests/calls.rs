//! Calls whose items go both ways, typed bodies, and replies that answer nothing.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhop::{
    Body, Call, Config, Encoding, Handling, IncomingCall, Item, Json, Message, MessageError, Node,
    Protobuf,
};
use tokio::time::{Instant, sleep};

use common::{World, attached, config, eventually, start};

const SECOND: Duration = Duration::from_secs(1);

/// A relay and a node that is connected to it.
async fn pair(seed: u64) -> (World, Node) {
    let world = World::new(seed).await;
    let ip = std::net::Ipv4Addr::new(203, 0, 113, 20);
    let host = world.net.public_host("caller", ip);
    let config = Config {
        bootstrap: vec![world.bootstrap()],
        ..config()
    };
    let node = start(&host, config).await;
    attached(&node).await;
    (world, node)
}

async fn echo(mut call: IncomingCall) -> Result<(), MessageError> {
    while let Some(item) = call.recv.next().await? {
        call.send.send(item).await?;
    }
    Ok(())
}

/// Takes numbers, and sends each number of them: all kinds of calls in one.
async fn count(mut call: IncomingCall) -> Result<(), MessageError> {
    let peer = call.peer;
    let body = |source| MessageError::Body { peer, source };
    let mut sum = 0;
    while let Some(item) = call.recv.next().await? {
        let Json(n): Json<u32> = item.read().map_err(body)?;
        sum += n;
    }
    for n in 0..sum {
        let item = Item::of(&Json(n)).map_err(body)?;
        call.send.send(item).await?;
    }
    Ok(())
}

fn serve(node: &Node) -> [Handling; 2] {
    [
        node.on_call("echo", SECOND * 60, echo).unwrap(),
        node.on_call("count", SECOND * 60, count).unwrap(),
    ]
}

fn number<T: Body>(item: &Item) -> T {
    item.read().unwrap()
}

#[tokio::test(start_paused = true)]
async fn items_go_one_or_many_each_way_to_a_peer_and_to_oneself() {
    let (world, node) = pair(1).await;
    let _there = serve(&world.relay);
    let _here = serve(&node);
    for to in [world.relay.peer_id(), node.peer_id()] {
        // One there, many back.
        let mut call = node.call(to, "count", SECOND * 9).await.unwrap();
        call.send_only(Item::of(&Json(40)).unwrap()).await.unwrap();
        for n in 0..40 {
            let item = call.recv.next().await.unwrap().unwrap();
            assert_eq!(number::<Json<u32>>(&item), Json(n));
        }
        assert_eq!(call.recv.next().await.unwrap(), None);
        // Many there, one back.
        let mut call = node.call(to, "count", SECOND * 9).await.unwrap();
        for n in [1, 0, 0] {
            call.send.send(Item::of(&Json(n)).unwrap()).await.unwrap();
        }
        assert_eq!(number::<Json<u32>>(&call.reply().await.unwrap()), Json(0));
        // Both ways at once.
        let Call { mut send, mut recv } = node.call(to, "echo", SECOND * 9).await.unwrap();
        for text in ["a", "b"] {
            send.send(Item::text(text)).await.unwrap();
            assert_eq!(recv.next().await.unwrap(), Some(Item::text(text)));
        }
        let large = Item::binary(vec![7; 3 << 20]);
        let sending = tokio::spawn({
            let large = large.clone();
            async move {
                send.send(large).await.unwrap();
                send.finish().await.unwrap();
            }
        });
        assert_eq!(recv.next().await.unwrap(), Some(large));
        assert_eq!(recv.next().await.unwrap(), None);
        sending.await.unwrap();
    }
    assert_eq!(world.relay.status().messages.calls, 0);
}

#[tokio::test(start_paused = true)]
async fn both_sides_may_call_each_other_at_once() {
    let (world, node) = pair(2).await;
    let (relay, me) = (world.relay.clone(), node.peer_id());
    let _back = node.on_call("echo", SECOND * 9, echo).unwrap();
    let through = world.relay.on_call("through", SECOND * 9, move |mut call| {
        let relay = relay.clone();
        async move {
            let mut back = relay.call(me, "echo", SECOND * 5).await?;
            while let Some(item) = call.recv.next().await? {
                back.send.send(item).await?;
                if let Some(item) = back.recv.next().await? {
                    call.send.send(item).await?;
                }
            }
            Ok(())
        }
    });
    let _through = through.unwrap();
    let calls = (0..20).map(|n| {
        let (node, relay) = (node.clone(), world.relay.peer_id());
        tokio::spawn(async move {
            let mut call = node.call(relay, "through", SECOND * 9).await.unwrap();
            call.send.send(Item::text(n.to_string())).await.unwrap();
            assert_eq!(call.reply().await.unwrap(), Item::text(n.to_string()));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_both_times_ends_a_call_and_giving_up_drops_its_handler() {
    let (world, node) = pair(3).await;
    let running = Arc::new(AtomicUsize::new(0));
    for at in [&world.relay, &node] {
        let running = Arc::clone(&running);
        let slow = at.on_call("slow", SECOND * 5, move |mut call| {
            let running = Arc::clone(&running);
            async move {
                running.fetch_add(1, Ordering::SeqCst);
                let _gone = Gone(running);
                call.send.send(Item::text("begun")).await?;
                sleep(SECOND * 600).await;
                Ok(())
            }
        });
        slow.unwrap().keep();
    }
    let none = || running.load(Ordering::SeqCst) == 0;
    for to in [world.relay.peer_id(), node.peer_id()] {
        for (asked, ends) in [(2, 2), (60, 5)] {
            let begun = Instant::now();
            let mut call = node.call(to, "slow", SECOND * asked).await.unwrap();
            assert!(call.recv.next().await.unwrap().is_some());
            let error = call.recv.next().await.unwrap_err();
            assert!(matches!(error, MessageError::Timeout { .. }), "{error}");
            let took = begun.elapsed();
            assert!(
                took >= SECOND * ends && took < SECOND * (ends + 1),
                "{took:?}"
            );
            eventually("the handler is dropped", SECOND, none).await;
        }
        let mut call = node.call(to, "slow", SECOND * 60).await.unwrap();
        assert!(call.recv.next().await.unwrap().is_some());
        drop(call);
        eventually("the handler of who gave up is dropped", SECOND, none).await;
    }
}

struct Gone(Arc<AtomicUsize>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_what_fails_and_what_cannot_be_read_is_told_so() {
    let (world, node) = pair(4).await;
    let _there = serve(&world.relay);
    let _here = serve(&node);
    for at in [&world.relay, &node] {
        let failing = at.on_call("fails", SECOND * 5, |call| async move {
            let reason = "out of paper".to_owned();
            Err(MessageError::Failed {
                peer: call.peer,
                reason,
            })
        });
        failing.unwrap().keep();
        assert!(
            at.on_call("fails", SECOND, echo).is_err(),
            "a second handler"
        );
    }
    for to in [world.relay.peer_id(), node.peer_id()] {
        let outcome = |kind: &'static str, item: Item| {
            let node = node.clone();
            async move {
                let mut call = node.call(to, kind, SECOND * 5).await?;
                // One that was refused meanwhile says so below.
                let _ = call.send_only(item).await;
                call.reply().await
            }
        };
        let nobody = outcome("nobody", Item::text("x")).await;
        assert!(
            matches!(nobody, Err(MessageError::NoResponder { .. })),
            "{nobody:?}"
        );
        let failed = outcome("fails", Item::text("x")).await.unwrap_err();
        assert!(failed.to_string().contains("out of paper"), "{failed}");
        let unread = outcome("count", Item::text("three")).await.unwrap_err();
        assert!(
            matches!(unread, MessageError::Unreadable { .. }),
            "{unread}"
        );
        let unread = outcome("count", Item::of(&Json("three".to_owned())).unwrap()).await;
        assert!(
            matches!(unread, Err(MessageError::Unreadable { .. })),
            "{unread:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_callee_that_does_not_read_holds_up_its_caller_and_nobody_else() {
    let (world, node) = pair(5).await;
    let _there = serve(&world.relay);
    let stalled = world
        .relay
        .on_call("stalled", SECOND * 60, |call| async move {
            sleep(SECOND * 600).await;
            drop(call);
            Ok(())
        });
    let _stalled = stalled.unwrap();
    let to = world.relay.peer_id();
    let mut call = node.call(to, "stalled", SECOND * 30).await.unwrap();
    let sending = tokio::spawn(async move {
        let mut sent = 0_u32;
        while call.send.send(Item::binary(vec![0; 1 << 20])).await.is_ok() {
            sent += 1;
        }
        sent
    });
    sleep(SECOND * 5).await;
    let begun = Instant::now();
    let mut other = node.call(to, "echo", SECOND * 9).await.unwrap();
    other.send.send(Item::text("x")).await.unwrap();
    assert_eq!(other.reply().await.unwrap(), Item::text("x"));
    assert!(begun.elapsed() < SECOND);
    // Until its time was over it got rid of a window's worth.
    assert!(sending.await.unwrap() < 16);
}

#[derive(Clone, PartialEq, prost::Message)]
struct Point {
    #[prost(int32, tag = "1")]
    x: i32,
}

#[tokio::test(start_paused = true)]
async fn typed_questions_are_answered_and_what_cannot_be_read_is_told_to_who_asked() {
    let (world, node) = pair(6).await;
    for at in [&world.relay, &node] {
        let json = at.on_ask("sum", SECOND, |_, Json(ns): Json<Vec<i64>>| async move {
            Some(Json(ns.iter().sum::<i64>()))
        });
        json.unwrap().keep();
        let mirror = at.on_ask(
            "mirror",
            SECOND,
            |_, Protobuf(p): Protobuf<Point>| async move { Some(Protobuf(Point { x: -p.x })) },
        );
        mirror.unwrap().keep();
    }
    for to in [world.relay.peer_id(), node.peer_id()] {
        let sum: Json<i64> = node.ask(to, "sum", &Json([1, 2, 3]), SECOND).await.unwrap();
        assert_eq!(sum, Json(6));
        let point = Protobuf(Point { x: 4 });
        let mirrored: Protobuf<Point> = node.ask(to, "mirror", &point, SECOND).await.unwrap();
        assert_eq!(mirrored.0.x, -4);
        // Another type, another encoding, and a reply that is not what was wanted.
        let other: Result<Json<i64>, _> =
            node.ask(to, "sum", &Json("many".to_owned()), SECOND).await;
        let why = other.unwrap_err();
        assert!(matches!(why, MessageError::Unreadable { .. }), "{why}");
        let plain = Message {
            kind: "sum".to_owned(),
            ..Message::text("[1]")
        };
        let why = node.request(to, plain, SECOND).await.unwrap_err();
        assert!(why.to_string().contains("Utf8"), "{why}");
        let text: Result<Json<String>, _> = node.ask(to, "sum", &Json([1]), SECOND).await;
        assert!(matches!(text, Err(MessageError::Body { .. })));
    }
    let told = Message::of("sum", &Json([1])).unwrap();
    let reply = node.request(world.relay.peer_id(), told, SECOND).await;
    assert_eq!(reply.unwrap().encoding, Encoding::Json);
}

#[tokio::test(start_paused = true)]
async fn replies_that_come_too_late_are_counted_and_change_nothing() {
    let (world, node) = pair(7).await;
    let to = world.relay.peer_id();
    for asked in [to, node.peer_id()] {
        let request = node.request(asked, Message::text("quick?"), SECOND).await;
        assert!(matches!(request, Err(MessageError::Timeout { .. })));
    }
    for (at, late) in [(&world.relay, 1), (&node, 1)] {
        let received = at.recv().await.unwrap();
        let reply = received.reply.unwrap().reply(Message::text("slow"));
        assert!(reply.await.is_err());
        assert_eq!(at.status().messages.late_replies, late);
    }
    let _there = serve(&world.relay);
    let mut call = node.call(to, "echo", SECOND * 9).await.unwrap();
    call.send.send(Item::text("x")).await.unwrap();
    assert_eq!(call.reply().await.unwrap(), Item::text("x"));
}
