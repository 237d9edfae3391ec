//! Valid inputs for the targets of private networks.

use std::sync::Arc;

use anyhop_proto::network::{
    Gossip, Membership,
    admission::{Answer, Channel, Credentials, EpochKey, Refusal, Side},
    backup,
    book::RedeemRefusal,
    gossip::Message,
    invitation::{Invitation, Redeem, RedeemAnswer},
    state::NetworkState,
    statement::{
        Appointment, Body, Certificate, EpochNotice, KeyId, OptOuts, Policy, PolicyRule,
        Revocation, Role, Signer, Statement,
    },
    swarm::Epoch,
};

use super::{NOW_UNIX_S, address, content, keypair, peer};
use crate::targets::{charter, signer};

fn certificate() -> Certificate {
    Certificate {
        peer: peer(2),
        version: 1,
        name: "laptop".parse().expect("a name"),
        role: Role::Member,
        overlay: vec![[10, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()],
        opt_outs: OptOuts::default(),
        issued_unix_s: NOW_UNIX_S,
        expires_unix_s: NOW_UNIX_S + 60,
    }
}

fn signed(body: Body) -> Statement {
    let signer = Signer::Authority(signer());
    Statement::sign(body, &signer, &charter()).expect("the authority may say anything")
}

fn statements() -> Vec<Statement> {
    let appointment = signed(Body::Appointment(Appointment {
        admin: peer(3),
        term: 1,
        standing: true,
        issued_unix_s: NOW_UNIX_S,
    }));
    let admin = Signer::Admin {
        keypair: keypair(3),
        appointment: Arc::new(appointment.clone()),
    };
    let revocation = Body::Revocation(Revocation {
        peer: peer(2),
        version: 2,
        issued_unix_s: NOW_UNIX_S,
    });
    let epoch = Body::Epoch(EpochNotice {
        epoch: Epoch(1),
        key: KeyId([5; 32]),
        issued_unix_s: NOW_UNIX_S,
    });
    let rules = ["allow in role:admin tcp 22", "deny both name:nas udp 1-9"];
    let rules = (1..).zip(rules).map(|(id, rule)| PolicyRule {
        id,
        rule: rule.parse().expect("a rule"),
    });
    let policy = Body::Policy(Policy {
        version: 2,
        rules: rules.collect(),
        issued_unix_s: NOW_UNIX_S,
        ..Policy::default()
    });
    let by_admin = Statement::sign(revocation.clone(), &admin, &charter());
    vec![
        signed(Body::Certificate(certificate())),
        signed(revocation),
        signed(epoch),
        appointment,
        signed(policy),
        by_admin.expect("an admin revokes"),
    ]
}

pub(crate) fn signed_statements() -> Vec<Vec<u8>> {
    statements().iter().map(Statement::encode).collect()
}

pub(crate) fn statement_payloads() -> Vec<Vec<u8>> {
    // Of the authority's: a payload is the first field, with a length of one byte.
    let envelopes = statements().into_iter().take(5).map(|s| s.encode());
    envelopes
        .map(|bytes| bytes[2..2 + usize::from(bytes[1])].to_vec())
        .collect()
}

pub(crate) fn network_contents() -> Vec<Vec<u8>> {
    let certificate = signed(Body::Certificate(certificate()));
    let channel = Channel { secret: [1; 32] };
    let shown = Credentials::new(
        &keypair(2),
        &certificate,
        &charter(),
        Side::Client,
        &channel,
        Some(KeyId([5; 32])),
    )
    .expect("Ed25519 signs anything");
    let key = EpochKey {
        statement: certificate.encode(),
        secret: [6; 32],
    };
    let redeem = Redeem {
        invitation: [7; 8],
        proof: vec![8; 32],
        name: Some("pc".parse().expect("a name")),
        opt_outs: OptOuts::default(),
    };
    let admitted = RedeemAnswer::Admitted {
        certificate: certificate.encode(),
        key: key.clone(),
    };
    [
        Message::Summary {
            digest: [1; 16],
            key: Some(KeyId([2; 32])),
        }
        .encode(),
        Message::Buckets(vec![[3; 16]; 256]).encode(),
        Message::Ids {
            buckets: vec![1, 2],
            ids: vec![[1; 16], [2; 16]],
        }
        .encode(),
        Message::Want(vec![[4; 16]]).encode(),
        Message::Statements(vec![certificate.encode()]).encode(),
        Message::Key {
            statement: certificate.encode(),
            secret: [6; 32],
        }
        .encode(),
        shown.encode(),
        Answer::Refused(Refusal::Expired).encode(),
        Answer::Admitted {
            credentials: shown,
            key: Some(key),
        }
        .encode(),
        redeem.encode(),
        RedeemAnswer::Waiting.encode(),
        RedeemAnswer::Refused(RedeemRefusal::UsedUp).encode(),
        admitted.encode(),
    ]
    .iter()
    .map(|frame| content(frame))
    .collect()
}

fn invitation() -> Invitation {
    Invitation {
        charter: charter(),
        inviter: peer(2),
        addresses: vec![address(super::V4)],
        secret: [7; 32],
        expires_unix_s: NOW_UNIX_S,
        approve: true,
    }
}

pub(crate) fn invitation_texts() -> Vec<Vec<u8>> {
    let text = invitation().sign(&Signer::Authority(signer()));
    vec![text.expect("the authority invites").into_bytes()]
}

pub(crate) fn network_states() -> Vec<Vec<u8>> {
    let mut membership = Membership::new(charter());
    for statement in statements() {
        membership.merge(statement);
    }
    let mut gossip = Gossip::new(peer(2), membership, []);
    let rotated = gossip.rotate(NOW_UNIX_S, &Signer::Authority(signer()), [9; 32]);
    rotated.expect("the authority rotates");
    let mut state = NetworkState::new(charter());
    let empty = state.clone();
    state.membership = gossip.membership().clone();
    state.keys = gossip.keys().cloned().collect();
    state.authority = Some(signer());
    state.joining = Some(invitation());
    let given = state.invitations.give(NOW_UNIX_S, [4; 32], 60, 2, true);
    given.expect("within all limits");
    [empty, state]
        .map(|s| s.encode().expect("a key can be encoded"))
        .to_vec()
}

pub(crate) fn backups() -> Vec<Vec<u8>> {
    let sealed = backup::seal(b"plain", "passphrase", [1; 16], [2; 12]);
    vec![sealed.expect("there is memory").into_bytes()]
}
