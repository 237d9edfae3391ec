//! Why peers are reached as they are, told by the nodes themselves.

mod common;

use std::time::Duration;

use anyhop::{
    AttemptOutcome, CandidateSource, Config, Keypair, PathKind, PeerAddr, PeerState, Technique,
};
use anyhop_lab::nat::NatConfig;
use common::{PORT, World, attached, eventually, exchange, selected};

#[tokio::test(start_paused = true)]
async fn a_direct_path_is_put_down_to_the_technique_that_found_it() {
    let mut world = World::new(30).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let b = world.natted("b", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    let pb = b.node.peer_id();
    exchange(&a.node, &b.node, "hello").await;
    let early = a.node.explain(pb);
    assert_eq!(early.state, PeerState::Relayed);
    let relay = world.relay.peer_id().to_string();
    assert!(early.verdict.contains(&relay), "{}", early.verdict);
    eventually("direct", Duration::from_secs(3), || {
        selected(&a.node, pb) == Some(PathKind::Direct)
    })
    .await;
    let e = a.node.explain(pb);
    assert_eq!(e.state, PeerState::Direct);
    let path = e.selected.unwrap();
    assert_eq!(
        (path.kind, &path.remote),
        (PathKind::Direct, &e.paths[0].remote)
    );
    assert!(e.verdict.contains(&path.remote), "{}", e.verdict);
    assert!(e.verdict.contains("punch"), "{}", e.verdict);
    assert!(e.verdict.contains("stands by"), "{}", e.verdict);
    let has = |list: &[anyhop::CandidateInfo], source, start: &str| {
        let mut found = list.iter().filter(|c| c.source == source);
        found.any(|c| c.address.starts_with(start))
    };
    let external = |nat| world.net.external(nat)[0].to_string();
    let (ours, theirs) = (&e.candidates.ours, &e.candidates.theirs);
    assert!(has(ours, CandidateSource::Observed, &external(a.nat)));
    assert!(has(ours, CandidateSource::Interface, "10.0."));
    assert!(has(ours, CandidateSource::Relay, &relay));
    assert!(has(theirs, CandidateSource::Record, &external(b.nat)));
    assert!(has(theirs, CandidateSource::Relay, &relay));
}

#[tokio::test(start_paused = true)]
async fn a_relayed_peer_is_put_down_to_what_failed() {
    let mut world = World::new(31).await;
    let a = world.natted("a", NatConfig::port_restricted_cone()).await;
    let b = world.natted("b", NatConfig::port_restricted_cone()).await;
    attached(&a.node).await;
    attached(&b.node).await;
    world.block(&a, &b);
    let pb = b.node.peer_id();
    exchange(&a.node, &b.node, "hello").await;
    eventually("told why", Duration::from_secs(60), || {
        let e = a.node.explain(pb);
        e.state == PeerState::Relayed
            && e.verdict.contains("came to nothing")
            && e.verdict.contains("; next: ")
            && e.next.is_some_and(|n| n.technique != Technique::Circuit)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_was_never_reached_is_put_down_to_the_failed_dial() {
    let mut world = World::new(32).await;
    let a = world.natted("a", NatConfig::symmetric()).await;
    attached(&a.node).await;
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    let e = a.node.explain(peer);
    assert_eq!(
        (e.state, e.last_error.is_none()),
        (PeerState::NotConnected, true)
    );
    assert!(e.verdict.contains("nothing here has asked"));

    a.node.connect(peer).await.unwrap_err();
    let e = a.node.explain(peer);
    assert!(e.last_error.unwrap().error.contains(&peer.to_string()));
    assert!(
        e.verdict.contains("no address of it is known") && e.verdict.contains("1 neighbours asked"),
        "{}",
        e.verdict
    );

    let nobody = "203.0.113.99:4001";
    world.net.allow([203, 0, 113, 99]);
    a.node
        .add_address(&PeerAddr::new(peer, nobody.parse().unwrap()).unwrap());
    let dial = tokio::spawn({
        let node = a.node.clone();
        async move { node.connect(peer).await.map(drop) }
    });
    eventually("dialling", Duration::from_secs(1), || {
        let e = a.node.explain(peer);
        e.state == PeerState::Connecting && e.verdict.contains(nobody)
    })
    .await;
    dial.await.unwrap().unwrap_err();
    let e = a.node.explain(peer);
    assert_eq!(e.candidates.theirs[0].source, CandidateSource::Given);
    assert_eq!(e.candidates.theirs[0].unusable, "");
    let last = e.attempts.last().unwrap();
    assert_eq!(
        (last.technique, last.outcome, &*last.remote),
        (Technique::Dial, AttemptOutcome::Failed, nobody)
    );
    assert!(e.verdict.contains(nobody), "{}", e.verdict);
    assert!(e.verdict.contains(&last.reason), "{}", e.verdict);

    let other_family = "[2001:db8::9]:4001".parse().unwrap();
    a.node
        .add_address(&PeerAddr::new(peer, other_family).unwrap());
    let theirs = a.node.explain(peer).candidates.theirs;
    assert!(theirs[0].unusable.contains("no IPv6"), "{theirs:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_is_forgotten_once_the_peer_is_reached() {
    let mut world = World::new(33).await;
    let (peer, address) = (world.relay.peer_id(), world.bootstrap());
    let alone = Config {
        bootstrap: Vec::new(),
        ..common::config()
    };
    let a = world
        .natted_with("a", NatConfig::symmetric(), alone)
        .await
        .node;
    a.connect(peer).await.unwrap_err();
    assert!(a.explain(peer).verdict.contains("no connected peer to ask"));
    a.add_address(&address);
    a.connect(peer).await.unwrap().close();
    eventually("closed", Duration::from_secs(1), || {
        a.session_info(peer).is_none()
    })
    .await;
    let e = a.explain(peer);
    assert_eq!(
        (e.state, e.last_error),
        (PeerState::NotConnected, None),
        "{}",
        e.verdict
    );
    let at = format!("{}:{PORT}", world.relay_host.ip());
    let dial = e.attempts.iter().find(|t| t.remote == at).unwrap();
    assert_eq!(dial.outcome, AttemptOutcome::Connected);
}

#[tokio::test(start_paused = true)]
async fn clocks_that_disagree_show_in_what_peers_tell() {
    let mut world = World::new(34).await;
    let relay = world.relay.peer_id().to_string();
    let near = world.natted("near", NatConfig::symmetric()).await.node;
    attached(&near).await;
    let [clock] = &near.peer_clocks()[..] else {
        panic!("{:?}", near.peer_clocks());
    };
    assert_eq!((&clock.peer_id, clock.refused), (&relay, false));
    assert!(
        clock.ahead_s_min <= 0 && clock.ahead_s_max >= 0,
        "{clock:?}"
    );

    // A node's wall clock starts with the system's, and goes with virtual time: who starts
    // two hours later is two hours behind.
    let hours = 2;
    tokio::time::sleep(Duration::from_secs(hours * 3600)).await;
    let late = world.natted("late", NatConfig::symmetric()).await.node;
    eventually("refused", Duration::from_secs(10), || {
        late.peer_clocks().iter().any(|c| c.refused)
    })
    .await;
    let [clock] = &late.peer_clocks()[..] else {
        panic!("{:?}", late.peer_clocks());
    };
    let ahead = i64::try_from(hours * 3600).unwrap();
    assert!(
        clock.ahead_s_min <= ahead && clock.ahead_s_max >= ahead && clock.ahead_s_min > 0,
        "{clock:?}"
    );
    // What is too old is refused on the other side.
    let behind = world.relay.peer_clocks();
    let behind = behind
        .iter()
        .find(|c| c.peer_id == late.peer_id().to_string())
        .unwrap();
    assert!(behind.refused && behind.ahead_s_max < 0, "{behind:?}");
}
