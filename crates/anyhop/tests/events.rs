//! What a node tells about its peers while sessions open, move and end.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::time::Duration;

use anyhop::{Event, Message, Node, PeerId};
use anyhop_lab::nat::NatConfig;
use common::{World, attached, eventually, exchange};
use tokio::{sync::broadcast, time::timeout};

/// The events of one peer, in a word each.
struct Told {
    events: broadcast::Receiver<Event>,
    peer: PeerId,
}

impl Told {
    fn by(node: &Node, peer: PeerId) -> Self {
        Self {
            events: node.events(),
            peer,
        }
    }

    async fn next(&mut self) -> String {
        loop {
            let event = timeout(Duration::from_secs(60), self.events.recv()).await;
            let (peer, word) = match event.expect("in time").unwrap() {
                Event::SessionOpened { peer } => (peer, "opened".to_owned()),
                Event::SessionClosed { peer, .. } => (peer, "closed".to_owned()),
                Event::PeerIdentified { peer, addresses } => {
                    (peer, format!("identified, {} addresses", addresses.len()))
                }
                Event::PeerConnectedness {
                    peer,
                    connectedness,
                } => (peer, format!("{connectedness:?}")),
                _ => continue,
            };
            if peer == self.peer {
                return word;
            }
        }
    }

    /// The next events, the identifications among them left out.
    async fn next_kinds(&mut self, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        while words.len() < count {
            let word = self.next().await;
            if !word.starts_with("identified") {
                words.push(word);
            }
        }
        words
    }
}

#[tokio::test(start_paused = true)]
async fn connectedness_follows_the_session_from_relayed_to_direct_and_back_and_to_its_end() {
    let mut world = World::new(20).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let b = world.natted("b", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let mut at_a = Told::by(&a.node, b.node.peer_id());
    let mut at_b = Told::by(&b.node, a.node.peer_id());
    exchange(&a.node, &b.node, "hello").await;
    for told in [&mut at_a, &mut at_b] {
        assert_eq!(
            told.next_kinds(3).await,
            ["opened", "Relayed", "Direct"],
            "of {}",
            told.peer
        );
    }
    world.block(&a, &b);
    exchange(&a.node, &b.node, "over the relay again").await;
    for told in [&mut at_a, &mut at_b] {
        assert_eq!(told.next_kinds(1).await, ["Relayed"], "of {}", told.peer);
    }
    b.node.close().await;
    assert_eq!(at_a.next_kinds(2).await, ["closed", "NotConnected"]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_identified_once_after_its_session_opened_and_again_when_it_says_something_new() {
    let mut world = World::new(21).await;
    let mut at_relay = world.relay.events();
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    let peer = a.node.peer_id();
    // Its record changes: it learns where it is seen, then attaches.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut told = Vec::new();
    while let Ok(event) = at_relay.try_recv() {
        match event {
            Event::SessionOpened { peer: p } if p == peer => told.push(None),
            Event::PeerIdentified { peer: p, addresses } if p == peer => told.push(Some(addresses)),
            _ => {}
        }
    }
    assert_eq!(told[0], None, "opened comes first");
    assert!(told.len() >= 2, "identified: {told:?}");
    let last = told.last().unwrap().as_ref().unwrap();
    let external = format!("/ip4/{}/", world.net.external(a.nat)[0]);
    assert!(
        last.iter().any(|a| a.to_string().starts_with(&external)),
        "{last:?}"
    );
    // A record that is merely renewed is no news.
    tokio::time::sleep(Duration::from_secs(4000)).await;
    let renewed = std::iter::from_fn(|| at_relay.try_recv().ok());
    let identified = renewed.filter(|e| matches!(e, Event::PeerIdentified { .. }));
    assert_eq!(identified.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_identified_who_has_no_session() {
    let mut world = World::new(22).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    let b = world.natted("b", NatConfig::symmetric()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let mut told = Told::by(&a.node, b.node.peer_id());
    // Found by asking the relay, so its record is known before the session is there.
    a.node
        .send(b.node.peer_id(), Message::text("hello"))
        .await
        .unwrap();
    assert_eq!(told.next().await, "opened");
    eventually("known", Duration::from_secs(1), || {
        a.node.known_peers().contains(&b.node.peer_id())
    })
    .await;
    assert_eq!(told.next().await, "Relayed");
    assert!(told.next().await.starts_with("identified"));
}
