//! Private networks: founded, joined over invitations, left, and what is refused.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{net::Ipv4Addr, time::Duration};

use anyhop::{
    Config, Event, InviteOptions, JoinError, Keypair, NetworkHandle, Node, OptOuts, PeerId,
    PrivateNetwork,
};
use anyhop_lab::{
    nat::NatConfig,
    net::{HostHandle, Site, VirtualNet},
};
use anyhop_proto::network::{book::RedeemRefusal, swarm::MAX_OVER};
use common::{config, eventually, exchange, link, trace_to_stderr};

const MINUTE: Duration = Duration::from_secs(60);

fn keypair(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

async fn start(host: &HostHandle, key: Keypair, network: PrivateNetwork) -> Node {
    let config = Config {
        private: Some(network),
        ..config()
    };
    Node::start_on(host.host(), key, config).await.unwrap()
}

fn invited(invite: &str, name: &str) -> PrivateNetwork {
    let name = Some(name.parse().unwrap());
    PrivateNetwork::join(invite, name, OptOuts::default()).unwrap()
}

/// A network with a public owner.
struct Lab {
    net: VirtualNet,
    owner: Node,
    hosts: u8,
}

struct Home {
    node: Node,
}

impl Home {
    fn network(&self) -> NetworkHandle {
        self.node.private_network().unwrap()
    }

    fn peer(&self) -> PeerId {
        self.node.peer_id()
    }
}

impl Lab {
    async fn new(seed: u64) -> Self {
        trace_to_stderr();
        let net = VirtualNet::new(seed);
        let host = net
            .public_host("owner", Ipv4Addr::new(203, 0, 113, 1))
            .with_link(link(10));
        net.bystander(Site::Internet, "bystander", Ipv4Addr::new(192, 0, 2, 1));
        let key = keypair(1);
        let (name, owner) = ("lab".parse().unwrap(), "owner".parse().unwrap());
        let network = PrivateNetwork::create(name, &key, &owner, OptOuts::default());
        let owner = start(&host, key, network.unwrap()).await;
        Self {
            net,
            owner,
            hosts: 10,
        }
    }

    fn network(&self) -> NetworkHandle {
        self.owner.private_network().unwrap()
    }

    async fn invite(&self, options: InviteOptions) -> String {
        self.network().invite(options).await.unwrap().invite
    }

    async fn cone(&mut self, name: &str) -> Home {
        self.member(name, NatConfig::port_restricted_cone()).await
    }

    fn host(&mut self, name: &str, nat: NatConfig) -> HostHandle {
        self.hosts += 1;
        let n = self.hosts;
        let outside = Ipv4Addr::new(198, 51, 100, n);
        let nat = self.net.nat(&format!("nat-{name}"), outside, nat);
        let inside = Ipv4Addr::new(10, 0, n, 2);
        self.net.host_behind(nat, name, inside).with_link(link(5))
    }

    /// A node behind a NAT that redeems an invitation.
    async fn invited(&mut self, name: &str, nat: NatConfig, invite: &str) -> Home {
        let host = self.host(name, nat);
        let key = keypair(self.hosts);
        let node = start(&host, key, invited(invite, name)).await;
        Home { node }
    }

    async fn member(&mut self, name: &str, nat: NatConfig) -> Home {
        let invite = self.invite(InviteOptions::default()).await;
        let home = self.invited(name, nat, &invite).await;
        home.network().joined().await.unwrap();
        common::attached(&home.node).await;
        home
    }
}

fn names(node: &Node) -> Vec<String> {
    let members = node.private_network().unwrap().members();
    let mut names: Vec<_> = members.into_iter().map(|m| m.name).collect();
    names.sort();
    names
}

fn epoch(node: &Node) -> u32 {
    node.private_network().unwrap().info().epoch
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_closed_right_after_joining_knows_the_others_when_it_is_back() {
    let mut lab = Lab::new(15).await;
    let invite = lab.invite(InviteOptions::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let network = invited(&invite, "a").stored_in(dir.path()).unwrap();
    let folder = PrivateNetwork::folder(dir.path(), network.id());
    let host = lab.host("a", NatConfig::full_cone());
    let a = start(&host, keypair(9), network).await;
    let members = ["a", "owner"];
    eventually("a knows the owner", MINUTE, || names(&a) == members).await;
    a.close().await;
    drop(a);
    lab.owner.close().await;
    // Sockets are given up once the last task has ended.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let a = start(&host, keypair(9), PrivateNetwork::load(&folder).unwrap()).await;
    assert_eq!(names(&a), members);
}

#[tokio::test(start_paused = true)]
async fn five_members_behind_nats_join_talk_and_rotate() {
    let mut lab = Lab::new(1).await;
    let mut homes = Vec::new();
    for (name, nat) in [
        ("a", NatConfig::port_restricted_cone()),
        ("b", NatConfig::full_cone()),
        ("c", NatConfig::symmetric()),
        ("d", NatConfig::port_restricted_cone()),
    ] {
        homes.push(lab.member(name, nat).await);
    }
    let all: Vec<_> = homes.iter().map(|h| &h.node).chain([&lab.owner]).collect();
    eventually("all know all", MINUTE, || {
        all.iter()
            .all(|n| names(n) == ["a", "b", "c", "d", "owner"])
    })
    .await;
    for from in &all {
        for to in &all {
            if from.peer_id() != to.peer_id() {
                exchange(from, to, "hello").await;
            }
        }
    }
    let sessions: Vec<_> = all.iter().map(|n| n.sessions().len()).collect();
    let mut closed: Vec<_> = all.iter().map(|n| n.events()).collect();
    lab.network().rotate().await.unwrap();
    eventually("all have the new epoch", Duration::from_secs(5), || {
        all.iter().all(|n| epoch(n) == 2)
    })
    .await;
    tokio::time::sleep(MINUTE).await;
    let after: Vec<_> = all.iter().map(|n| n.sessions().len()).collect();
    assert_eq!(after, sessions);
    for events in &mut closed {
        while let Ok(event) = events.try_recv() {
            let closed = matches!(event, anyhop::Event::SessionClosed { .. });
            assert!(!closed, "{event:?}");
        }
    }
    lab.net.assert_no_uninvited();
    lab.net.assert_amplification(3);
}

fn refusal(error: &JoinError) -> RedeemRefusal {
    match error {
        JoinError::Refused { refusal, .. } => *refusal,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_invitation_that_is_used_up_admits_nobody_else() {
    let mut lab = Lab::new(2).await;
    let invite = lab.invite(InviteOptions::default()).await;
    let nat = NatConfig::port_restricted_cone;
    let first = lab.invited("first", nat(), &invite).await;
    first.network().joined().await.unwrap();
    let second = lab.invited("second", nat(), &invite).await;
    let error = second.network().joined().await.unwrap_err();
    assert_eq!(refusal(&error), RedeemRefusal::UsedUp);
    assert_eq!(names(&lab.owner), ["first", "owner"]);
    assert_eq!(second.network().info().role, "joining");
}

#[tokio::test(start_paused = true)]
async fn an_invitation_whose_time_is_over_is_refused_before_anything_is_sent() {
    let mut lab = Lab::new(3).await;
    let options = InviteOptions {
        lifetime: MINUTE,
        ..InviteOptions::default()
    };
    let invite = lab.invite(options).await;
    lab.owner.close().await;
    let late = lab
        .invited("late", NatConfig::port_restricted_cone(), &invite)
        .await;
    let error = late.network().joined().await.unwrap_err();
    assert!(matches!(error, JoinError::Expired { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_forged_invitation_is_noticed_before_anything_is_sent() {
    let lab = Lab::new(4).await;
    let invite = lab.invite(InviteOptions::default()).await;
    // The last letter of the text is of its check sum, one in the middle of its content.
    for at in [invite.len() - 2, invite.len() / 2] {
        let mut forged = invite.clone().into_bytes();
        forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
        let forged = String::from_utf8(forged).unwrap();
        let error = PrivateNetwork::join(&forged, None, OptOuts::default()).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_person_approves_of_one_and_denies_another() {
    let mut lab = Lab::new(5).await;
    let options = InviteOptions {
        uses: 2,
        approve: true,
        ..InviteOptions::default()
    };
    let invite = lab.invite(options).await;
    let nat = NatConfig::port_restricted_cone;
    let mut events = lab.owner.events();
    let one = lab.invited("one", nat(), &invite).await;
    let other = lab.invited("other", nat(), &invite).await;
    eventually("both wait", MINUTE, || lab.network().requests().len() == 2).await;
    eventually("one knows", MINUTE, || one.network().awaits_approval()).await;
    let mut asked = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let Event::JoinRequested { peer, name } = event {
            asked.push((peer, name));
        }
    }
    asked.sort();
    let mut expected = [
        (one.peer(), "one".to_owned()),
        (other.peer(), "other".to_owned()),
    ];
    expected.sort();
    assert_eq!(asked, expected);
    lab.network().approve(one.peer()).await.unwrap();
    lab.network().deny(other.peer()).await.unwrap();
    one.network().joined().await.unwrap();
    let error = other.network().joined().await.unwrap_err();
    assert_eq!(refusal(&error), RedeemRefusal::Denied);
    assert!(lab.network().requests().is_empty());
    assert!(
        lab.network().approve(other.peer()).await.is_err(),
        "decided already"
    );
}

#[tokio::test(start_paused = true)]
async fn a_revoked_member_loses_its_sessions_and_does_not_come_back() {
    let mut lab = Lab::new(6).await;
    let a = lab.cone("a").await;
    let b = lab.cone("b").await;
    exchange(&a.node, &b.node, "while a member").await;
    lab.network().revoke(b.peer()).await.unwrap();
    let (owner, node) = (lab.owner.clone(), a.node.clone());
    eventually(
        "nobody has a session with it",
        Duration::from_secs(5),
        || owner.session_info(b.peer()).is_none() && node.session_info(b.peer()).is_none(),
    )
    .await;
    eventually(
        "the others have a new epoch",
        Duration::from_secs(5),
        || epoch(&owner) == 2 && epoch(&node) == 2,
    )
    .await;
    tokio::time::sleep(MINUTE).await;
    assert!(b.node.sessions().is_empty(), "{:?}", b.node.sessions());
    assert!(b.node.connect(a.peer()).await.is_err());
    // With its old key and its old certificate it hears nothing at all.
    let error = b.node.connect(lab.owner.peer_id()).await.unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
    assert_eq!(epoch(&b.node), 1, "the new key is kept from it");
    assert_eq!(names(&a.node), ["a", "owner"]);
    exchange(&a.node, &lab.owner, "the others go on").await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_during_a_rotation_gets_the_key_when_it_returns() {
    let mut lab = Lab::new(7).await;
    let dir = tempfile::tempdir().unwrap();
    let invite = lab.invite(InviteOptions::default()).await;
    let host = lab.host("a", NatConfig::port_restricted_cone());
    let network = invited(&invite, "a").stored_in(dir.path()).unwrap();
    let key = keypair(77);
    let node = start(&host, key.clone(), network).await;
    node.private_network().unwrap().joined().await.unwrap();
    node.close().await;
    drop(node);
    // As often as it may be away for.
    for _ in 0..MAX_OVER {
        lab.network().rotate().await.unwrap();
    }
    let now = epoch(&lab.owner);
    tokio::time::sleep(MINUTE).await;
    let mut stored = PrivateNetwork::list(dir.path()).unwrap();
    let (_, network) = stored.pop().unwrap();
    let network = network.unwrap();
    assert!(!network.is_joining());
    let node = start(&host, key, network).await;
    assert_eq!(epoch(&node), 1);
    eventually("it has the key", Duration::from_secs(10), || {
        epoch(&node) == now
    })
    .await;
    exchange(&node, &lab.owner, "back").await;
    exchange(&lab.owner, &node, "welcome").await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_ends_sessions_and_its_owner_is_told_why() {
    let mut lab = Lab::new(8).await;
    let a = lab.cone("a").await;
    exchange(&a.node, &lab.owner, "in time").await;
    lab.network().renew(a.peer(), Some(MINUTE)).await.unwrap();
    tokio::time::sleep(2 * MINUTE).await;
    assert!(lab.owner.session_info(a.peer()).is_none());
    let error = a.node.connect(lab.owner.peer_id()).await.unwrap_err();
    assert!(error.to_string().contains("has expired"), "{error}");
    lab.network().renew(a.peer(), None).await.unwrap();
    exchange(&lab.owner, &a.node, "renewed").await;
}

#[tokio::test(start_paused = true)]
async fn an_admin_invites_and_what_it_signs_ends_with_its_term() {
    let mut lab = Lab::new(9).await;
    let host = lab
        .net
        .public_host("admin", Ipv4Addr::new(203, 0, 113, 2))
        .with_link(link(10));
    let invite = lab.invite(InviteOptions::default()).await;
    let key = keypair(50);
    let admin = start(&host, key, invited(&invite, "admin")).await;
    let network = admin.private_network().unwrap();
    network.joined().await.unwrap();
    assert!(
        network.invite(InviteOptions::default()).await.is_err(),
        "not yet"
    );
    lab.network().add_admin(admin.peer_id()).await.unwrap();
    eventually("appointed", MINUTE, || network.info().role == "admin").await;
    let invite = network
        .invite(InviteOptions::default())
        .await
        .unwrap()
        .invite;
    let a = lab
        .invited("a", NatConfig::port_restricted_cone(), &invite)
        .await;
    a.network().joined().await.unwrap();
    network
        .rename(a.peer(), "renamed".parse().unwrap())
        .await
        .unwrap();
    let owner = lab.owner.clone();
    let known = ["admin", "owner", "renamed"];
    eventually("the owner knows", MINUTE, || names(&owner) == known).await;
    assert!(network.revoke(lab.owner.peer_id()).await.is_err());
    assert!(
        network.add_admin(a.peer()).await.is_err(),
        "only the owner may"
    );

    lab.network().remove_admin(admin.peer_id()).await.unwrap();
    eventually("removed", MINUTE, || network.info().role == "member").await;
    assert!(network.rotate().await.is_err());
    let unknown = "late".parse().unwrap();
    assert!(network.rename(a.peer(), unknown).await.is_err());
    // What the owner knew of stays, under its own signature.
    eventually("all agree", MINUTE, || {
        [&owner, &admin, &a.node].iter().all(|n| names(n) == known)
    })
    .await;
    exchange(&a.node, &lab.owner, "still a member").await;
}

#[tokio::test(start_paused = true)]
async fn a_backup_makes_another_node_the_owner() {
    let mut lab = Lab::new(10).await;
    let a = lab.cone("a").await;
    assert!(a.network().export("secret").await.is_err(), "not the owner");
    let backup = lab.network().export("secret").await.unwrap();
    lab.owner.close().await;
    let key = keypair(60);
    let name = "spare".parse().unwrap();
    assert!(PrivateNetwork::import(&backup, "wrong", &key, &name).is_err());
    let network = PrivateNetwork::import(&backup, "secret", &key, &name).unwrap();
    let host = lab
        .net
        .public_host("spare", Ipv4Addr::new(203, 0, 113, 3))
        .with_link(link(10));
    let spare = start(&host, key, network).await;
    let handle = spare.private_network().unwrap();
    assert_eq!(handle.info().role, "owner");
    assert_eq!(handle.id(), a.network().id());
    handle.rotate().await.unwrap();
    assert_eq!(names(&spare), ["a", "owner", "spare"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_leaves_forgets_the_network() {
    let mut lab = Lab::new(11).await;
    let dir = tempfile::tempdir().unwrap();
    let invite = lab.invite(InviteOptions::default()).await;
    let host = lab.host("a", NatConfig::port_restricted_cone());
    let network = invited(&invite, "a").stored_in(dir.path()).unwrap();
    let again = invited(&invite, "a").stored_in(dir.path());
    assert!(again.is_err(), "it is there already");
    let node = start(&host, keypair(70), network).await;
    let network = node.private_network().unwrap();
    network.joined().await.unwrap();
    network.leave().await.unwrap();
    assert!(PrivateNetwork::list(dir.path()).unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_public_network_of_the_same_name_is_another_one() {
    let lab = Lab::new(12).await;
    let host = lab
        .net
        .public_host("stranger", Ipv4Addr::new(203, 0, 113, 9))
        .with_link(link(10));
    let config = Config {
        network: "lab".parse().unwrap(),
        ..config()
    };
    let stranger = Node::start_on(host.host(), keypair(90), config)
        .await
        .unwrap();
    let address = anyhop::PeerAddr::new(lab.owner.peer_id(), ([203, 0, 113, 1], 4001).into());
    stranger.add_address(&address.unwrap());
    assert!(stranger.connect(lab.owner.peer_id()).await.is_err());
    assert!(lab.owner.sessions().is_empty());
}

/// A network whose two members meet over its owner only.
async fn over_the_owner(seed: u64) -> (Lab, Home, Home) {
    let mut lab = Lab::new(seed).await;
    let a = lab.member("a", NatConfig::symmetric()).await;
    let b = lab.member("b", NatConfig::symmetric()).await;
    (lab, a, b)
}

const NO_RELAYING: OptOuts = OptOuts {
    no_relaying: true,
    no_signalling: false,
    stealth: false,
};

#[tokio::test(start_paused = true)]
async fn a_member_that_stops_relaying_ends_the_circuits_of_others_and_begins_again() {
    let (lab, a, b) = over_the_owner(20).await;
    exchange(&a.node, &b.node, "over the owner").await;
    let (network, owner) = (lab.network(), lab.owner.peer_id());
    network.set_opt_outs(owner, NO_RELAYING).await.unwrap();
    assert!(!lab.owner.status().relay.enabled);
    let node = a.node.clone();
    eventually("no circuit is left", MINUTE, || {
        lab.owner.status().relay.circuits == 0 && node.session_info(b.peer()).is_none()
    })
    .await;
    let error = a.node.connect(b.peer()).await.unwrap_err();
    assert!(error.to_string().contains("no way over relays"), "{error}");
    // Its own sessions are not touched.
    exchange(&a.node, &lab.owner, "still there").await;
    network
        .set_opt_outs(owner, OptOuts::default())
        .await
        .unwrap();
    assert!(lab.owner.status().relay.enabled);
    exchange(&a.node, &b.node, "over the owner again").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_certificate_says_about_relaying_reaches_the_running_member() {
    let mut lab = Lab::new(21).await;
    let a = lab.cone("a").await;
    assert!(a.node.status().relay.enabled);
    lab.network()
        .set_opt_outs(a.peer(), NO_RELAYING)
        .await
        .unwrap();
    let node = a.node.clone();
    eventually("it relays no more", MINUTE, || !node.status().relay.enabled).await;
    let listed = lab.network().members();
    let listed = listed.iter().find(|m| m.name == "a").unwrap();
    assert!(listed.no_relaying && !listed.stealth);
    // It cannot take back by itself what is certified, nor be unlisted.
    let error = a.network().set_opt_outs(a.peer(), OptOuts::default()).await;
    assert!(error.is_err());
    let stealth = OptOuts {
        stealth: true,
        ..NO_RELAYING
    };
    assert!(a.network().set_opt_outs(a.peer(), stealth).await.is_err());
    // Less it can do by itself.
    let less = OptOuts {
        no_signalling: true,
        ..NO_RELAYING
    };
    a.network().set_opt_outs(a.peer(), less).await.unwrap();
    assert_eq!(a.network().opt_outs(), less);
    lab.network().set_opt_outs(a.peer(), stealth).await.unwrap();
    eventually("it is unlisted", MINUTE, || a.network().opt_outs().stealth).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_does_not_signal_leads_nobody_to_another() {
    let (lab, a, b) = over_the_owner(22).await;
    let silent = OptOuts {
        no_signalling: true,
        ..OptOuts::default()
    };
    let (network, owner) = (lab.network(), lab.owner.peer_id());
    network.set_opt_outs(owner, silent).await.unwrap();
    assert!(lab.owner.status().relay.enabled);
    assert!(
        a.node.connect(b.peer()).await.is_err(),
        "nobody tells of it"
    );
    // Of itself it tells, as ever.
    exchange(&a.node, &lab.owner, "hello").await;
    network
        .set_opt_outs(owner, OptOuts::default())
        .await
        .unwrap();
    exchange(&a.node, &b.node, "over the owner").await;
}

/// An admin behind a NAT that no packet of a stranger gets through.
async fn hidden_admin(lab: &mut Lab) -> Home {
    let admin = lab.member("admin", NatConfig::symmetric()).await;
    lab.network().add_admin(admin.peer()).await.unwrap();
    let network = admin.network();
    eventually("appointed", MINUTE, || network.info().role == "admin").await;
    admin
}

#[tokio::test(start_paused = true)]
async fn an_inviter_that_cannot_be_dialled_has_members_greet_that_can() {
    let mut lab = Lab::new(30).await;
    let admin = hidden_admin(&mut lab).await;
    let options = InviteOptions {
        uses: 2,
        approve: true,
        ..InviteOptions::default()
    };
    let invite = admin.network().invite(options).await.unwrap().invite;
    let nat = NatConfig::port_restricted_cone;
    let one = lab.invited("one", nat(), &invite).await;
    let other = lab.invited("other", NatConfig::symmetric(), &invite).await;
    let network = admin.network();
    eventually("both wait", MINUTE, || network.requests().len() == 2).await;
    assert!(
        lab.network().requests().is_empty(),
        "the greeter decides nothing"
    );
    eventually("one knows", MINUTE, || one.network().awaits_approval()).await;
    network.approve(one.peer()).await.unwrap();
    network.deny(other.peer()).await.unwrap();
    one.network().joined().await.unwrap();
    let error = other.network().joined().await.unwrap_err();
    assert_eq!(refusal(&error), RedeemRefusal::Denied);
    let third = lab.invited("third", nat(), &invite).await;
    eventually("the third waits", MINUTE, || network.requests().len() == 1).await;
    network.approve(third.peer()).await.unwrap();
    third.network().joined().await.unwrap();
    for home in [&one, &third] {
        common::attached(&home.node).await;
    }
    exchange(&one.node, &third.node, "hello").await;
    exchange(&third.node, &admin.node, "hello").await;
    lab.net.assert_no_uninvited();
    lab.net.assert_amplification(3);
}

#[tokio::test(start_paused = true)]
async fn nobody_greets_for_who_may_not_invite_any_more() {
    let mut lab = Lab::new(31).await;
    let admin = hidden_admin(&mut lab).await;
    let options = InviteOptions {
        lifetime: 5 * MINUTE,
        ..InviteOptions::default()
    };
    let invite = admin.network().invite(options).await.unwrap().invite;
    lab.network().remove_admin(admin.peer()).await.unwrap();
    let network = admin.network();
    eventually("removed", MINUTE, || network.info().role == "member").await;
    let late = lab
        .invited("late", NatConfig::port_restricted_cone(), &invite)
        .await;
    let error = late.network().joined().await.unwrap_err();
    assert!(matches!(error, JoinError::Expired { .. }), "{error}");
    assert_eq!(names(&lab.owner), ["admin", "owner"]);
}

#[tokio::test(start_paused = true)]
async fn rotations_by_two_admins_at_once_end_in_one_key_and_drop_no_session() {
    let mut lab = Lab::new(32).await;
    let one = hidden_admin(&mut lab).await;
    let two = lab.member("two", NatConfig::full_cone()).await;
    lab.network().add_admin(two.peer()).await.unwrap();
    let network = two.network();
    eventually("appointed", MINUTE, || network.info().role == "admin").await;
    let three = lab.cone("three").await;
    let four = lab.cone("four").await;
    let homes = [&one, &two, &three, &four];
    let all: Vec<_> = homes.iter().map(|h| &h.node).chain([&lab.owner]).collect();
    for from in &all {
        for to in &all {
            if from.peer_id() != to.peer_id() {
                exchange(from, to, "before").await;
            }
        }
    }
    let mut events: Vec<_> = all.iter().map(|n| n.events()).collect();
    for round in 1..=3 {
        let (first, second) = (one.network(), two.network());
        let (first, second) = tokio::join!(first.rotate(), second.rotate());
        assert_eq!(
            first.unwrap(),
            second.unwrap(),
            "neither heard of the other's"
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(all.iter().all(|n| epoch(n) == round + 1));
    }
    tokio::time::sleep(MINUTE).await;
    for events in &mut events {
        while let Ok(event) = events.try_recv() {
            let closed = matches!(event, Event::SessionClosed { .. });
            assert!(!closed, "{event:?}");
        }
    }
    // New handshakes run under the one key that all have.
    let late = lab.cone("late").await;
    for home in homes {
        exchange(&late.node, &home.node, "under one key").await;
    }
}
