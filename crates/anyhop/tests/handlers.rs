//! Messages to one: handlers by type, deadlines, cancellation, and messages to oneself.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhop::{Message, MessageError, Node};
use tokio::time::{Instant, sleep};

use common::{World, attached, config, eventually, start};

const SECOND: Duration = Duration::from_secs(1);

/// A relay and a node that is connected to it.
async fn pair(seed: u64) -> (World, Node) {
    let world = World::new(seed).await;
    let host = world
        .net
        .public_host("asker", std::net::Ipv4Addr::new(203, 0, 113, 20));
    let config = anyhop::Config {
        bootstrap: vec![world.bootstrap()],
        ..config()
    };
    let node = start(&host, config).await;
    attached(&node).await;
    (world, node)
}

fn of_type(kind: &str, body: &str) -> Message {
    Message {
        kind: kind.to_owned(),
        ..Message::text(body)
    }
}

/// Says when it is dropped.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_answers_its_type_and_the_inbox_gets_the_rest() {
    let (world, asker) = pair(1).await;
    let (relay, me) = (&world.relay, asker.peer_id());
    let upper = relay.on_message("upper", SECOND, move |from, message| async move {
        assert_eq!(from, me);
        let text = String::from_utf8(message.body.to_vec()).ok()?;
        Some(Message::text(text.to_uppercase()))
    });
    let upper = upper.unwrap();
    let twice = relay.on_message("upper", SECOND, |_, _| async { None });
    assert!(twice.unwrap_err().to_string().contains("upper"));
    let ask = || asker.request(relay.peer_id(), of_type("upper", "abc"), SECOND * 5);
    assert_eq!(ask().await.unwrap(), Message::text("ABC"));
    asker
        .send(relay.peer_id(), of_type("other", "x"))
        .await
        .unwrap();
    assert_eq!(relay.recv().await.unwrap().message.kind, "other");
    // Once it is gone, its type can have another one.
    drop(upper);
    let none = relay.on_message("upper", SECOND, |_, _| async { None });
    none.unwrap().keep();
    assert!(matches!(ask().await, Err(MessageError::NoResponder { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_type_without_a_handler_is_refused_at_once_where_handlers_are_all_there_is() {
    let (world, asker) = pair(2).await;
    world.relay.refuse_unhandled(true);
    let begun = Instant::now();
    let asked = asker.request(world.relay.peer_id(), of_type("none", "x"), SECOND * 60);
    assert!(matches!(asked.await, Err(MessageError::NoResponder { .. })));
    let sent = asker
        .send(world.relay.peer_id(), of_type("none", "x"))
        .await;
    assert!(matches!(sent, Err(MessageError::NoResponder { .. })));
    assert!(begun.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_both_times_ends_a_request_on_both_sides() {
    let (world, asker) = pair(3).await;
    let running = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&running);
    let slow = world.relay.on_message("slow", SECOND * 5, move |_, _| {
        let here = Running::begin(&count);
        async move {
            sleep(SECOND * 60).await;
            drop(here);
            None
        }
    });
    slow.unwrap().keep();
    for (asked, ends) in [(2, 2), (30, 5)] {
        let begun = Instant::now();
        let request = asker.request(world.relay.peer_id(), of_type("slow", "x"), SECOND * asked);
        let error = request.await.unwrap_err();
        assert!(matches!(error, MessageError::Timeout { .. }), "{error}");
        let took = begun.elapsed();
        assert!(
            took >= SECOND * ends && took < SECOND * (ends + 1),
            "{took:?}"
        );
        let gone = || running.load(Ordering::SeqCst) == 0;
        eventually("the handler is dropped", SECOND, gone).await;
    }
}

#[tokio::test(start_paused = true)]
async fn giving_up_a_request_drops_its_handler() {
    let (world, asker) = pair(4).await;
    let running = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&running);
    let slow = world.relay.on_message("slow", SECOND * 600, move |_, _| {
        let here = Running::begin(&count);
        async move {
            sleep(SECOND * 600).await;
            drop(here);
            None
        }
    });
    slow.unwrap().keep();
    let (node, relay) = (asker.clone(), world.relay.peer_id());
    let request = tokio::spawn(async move {
        let asked = node.request(relay, of_type("slow", "x"), SECOND * 600);
        asked.await.map(|_| ())
    });
    eventually("the handler runs", SECOND, || {
        running.load(Ordering::SeqCst) == 1
    })
    .await;
    request.abort();
    eventually("it is dropped", SECOND, || {
        running.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn both_sides_may_ask_each_other_at_once_from_within_a_handler() {
    let (world, asker) = pair(5).await;
    let (node, back) = (world.relay.clone(), asker.peer_id());
    let outer = world.relay.on_message("outer", SECOND * 9, move |_, _| {
        let node = node.clone();
        async move {
            node.request(back, of_type("inner", "?"), SECOND * 5)
                .await
                .ok()
        }
    });
    outer.unwrap().keep();
    let inner = asker.on_message("inner", SECOND, |_, _| async { Some(Message::text("!")) });
    inner.unwrap().keep();
    let reply = asker.request(world.relay.peer_id(), of_type("outer", ""), SECOND * 9);
    assert_eq!(reply.await.unwrap(), Message::text("!"));
}

#[tokio::test(start_paused = true)]
async fn what_a_node_sends_to_itself_goes_to_its_own_handler_or_inbox() {
    let (_world, node) = pair(6).await;
    let me = node.peer_id();
    let echo = node.on_message("echo", SECOND, |_, message| async { Some(message) });
    let _echo = echo.unwrap();
    let reply = node.request(me, of_type("echo", "x"), SECOND).await;
    assert_eq!(reply.unwrap(), of_type("echo", "x"));
    node.send(me, Message::text("note")).await.unwrap();
    let received = node.recv().await.unwrap();
    assert_eq!(
        (received.from, received.message),
        (me, Message::text("note"))
    );
    let unanswered = node.request(me, Message::text("anybody?"), SECOND).await;
    assert!(matches!(unanswered, Err(MessageError::Timeout { .. })));
    node.refuse_unhandled(true);
    let refused = node.send(me, Message::text("note")).await;
    assert!(matches!(refused, Err(MessageError::NoResponder { .. })));
}
