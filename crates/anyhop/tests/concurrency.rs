//! Many things at once: nobody waits for somebody else's slowness.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{Config, Encoding, Limits, Message, MessageError, Node};
use anyhop_lab::net::HostHandle;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use common::{World, attached, config, eventually, link, start};

const SECOND: Duration = Duration::from_secs(1);

/// A relay in the middle, and nodes that are connected to it.
async fn around(seed: u64, n: u8, limits: Limits) -> (World, Vec<(HostHandle, Node)>) {
    let world = World::new(seed).await;
    let mut nodes = Vec::new();
    for i in 0..n {
        let ip = Ipv4Addr::new(203, 0, 113, 20 + i);
        let host = world.net.public_host(&format!("node-{i}"), ip);
        let host = host.with_link(link(10));
        let config = Config {
            bootstrap: vec![world.bootstrap()],
            limits: limits.clone(),
            ..config()
        };
        let node = start(&host, config).await;
        attached(&node).await;
        nodes.push((host, node));
    }
    (world, nodes)
}

/// The texts of so many messages to a node, by their senders, in order of arrival.
async fn take(node: &Node, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..count {
        let received = timeout(SECOND * 30, node.recv()).await;
        let received = received.expect("within 30 s").unwrap();
        texts.push(String::from_utf8(received.message.body.to_vec()).unwrap());
    }
    texts.sort_unstable();
    texts
}

fn texts(from: usize, count: usize) -> Vec<String> {
    // Long enough to need several packets.
    let text = |n: usize| format!("{from:02} {n:02} {}", "x".repeat(4000));
    (0..count).map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn sends_to_ten_receives_from_twenty_and_a_broadcast_all_arrive() {
    let (world, nodes) = around(1, 20, Limits::default()).await;
    let (hub, to) = (world.relay.clone(), world.relay.peer_id());
    let mut all: Vec<_> = nodes
        .iter()
        .map(|(_, n)| n.to_all().unwrap().subscribe())
        .collect();
    eventually("neighbours", SECOND * 60, || {
        hub.to_all().unwrap().neighbours().len() == 20
    })
    .await;
    let begun = Instant::now();
    let mut sending = JoinSet::new();
    for (from, (_, node)) in (0..).zip(&nodes) {
        let node = node.clone();
        sending.spawn(async move {
            for text in texts(from, 10) {
                node.send(to, Message::text(text)).await.unwrap();
            }
        });
    }
    for (_, node) in &nodes[..10] {
        let (hub, to) = (hub.clone(), node.peer_id());
        sending.spawn(async move {
            for text in texts(99, 10) {
                hub.send(to, Message::text(text)).await.unwrap();
            }
        });
    }
    for n in 0..5_u8 {
        hub.broadcast(Encoding::Binary, vec![n; 2000]).unwrap();
    }
    let at_hub = take(&hub, 200).await;
    let sent = (0..20).flat_map(|from| texts(from, 10));
    assert_eq!(at_hub, sent.collect::<Vec<_>>());
    for (_, node) in &nodes[..10] {
        assert_eq!(take(node, 10).await, texts(99, 10));
    }
    for subscription in &mut all {
        for n in 0..5_u8 {
            let post = timeout(SECOND * 30, subscription.next()).await;
            assert_eq!(&*post.unwrap().unwrap().body, vec![n; 2000]);
        }
    }
    while let Some(sent) = sending.join_next().await {
        sent.unwrap();
    }
    // Ten messages one after the other, each a round trip of 40 ms, and nothing besides.
    assert!(begun.elapsed() < SECOND * 2, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_takes_nothing_or_has_gone_delays_nobody_else() {
    let limits = Limits {
        max_inbox_messages: 4,
        ..Limits::default()
    };
    let (world, nodes) = around(2, 4, limits).await;
    let hub = &world.relay;
    let [(_, full), (_, unread), (gone_host, gone), (_, good)] = &nodes[..] else {
        unreachable!("there are four");
    };
    // One whose inbox is full says so at once.
    for n in 0..5 {
        let sent = hub.send(full.peer_id(), Message::text("x")).await;
        assert_eq!(sent.is_ok(), n < 4, "{sent:?}");
        assert!(sent.is_ok() || matches!(sent, Err(MessageError::InboxFull(_))));
    }
    // One that accepts a stream and does not read it.
    let mut listener = unread.accept("bulk/1").unwrap();
    let mut stalled = hub.open_uni(unread.peer_id(), "bulk/1").await.unwrap();
    let held = listener.next().await.unwrap();
    let filling =
        tokio::spawn(async move { while stalled.write_all(&[0; 64 << 10]).await.is_ok() {} });
    // One whose host answers nothing any more.
    world.net.cut(gone_host);
    let (node, to) = (hub.clone(), gone.peer_id());
    let hanging = tokio::spawn(async move {
        let body = vec![0; 1 << 20];
        node.send(to, Message::binary("big", body)).await
    });
    let mut heard = good.to_all().unwrap().subscribe();
    sleep(SECOND).await;
    let begun = Instant::now();
    for n in 0..20_u32 {
        let text = n.to_string();
        hub.send(good.peer_id(), Message::text(text.clone()))
            .await
            .unwrap();
        assert_eq!(take(good, 1).await, [text]);
        // The stalled stream holds up no message to the same peer.
        hub.send(unread.peer_id(), Message::text("y"))
            .await
            .unwrap();
        unread.recv().await.unwrap();
    }
    hub.broadcast(Encoding::Utf8, "to all").unwrap();
    let post = timeout(SECOND, heard.next()).await.expect("at once");
    assert_eq!(&*post.unwrap().body, b"to all");
    assert!(begun.elapsed() < SECOND * 3, "{:?}", begun.elapsed());
    assert!(!filling.is_finished() && !hanging.is_finished());
    assert!(hanging.await.unwrap().is_err());
    drop(held);
    filling.await.unwrap();
}
