//! Targets for what members, former members and people with invitations send.

use anyhop_base::codec::put_varint;
use anyhop_proto::network::{
    Charter, Membership,
    admission::{Answer, Credentials, MAX_ADMISSION_FRAME},
    backup,
    gossip::{MAX_GOSSIP_FRAME, Message},
    greeting::{Greetings, Introduce, MAX_GREET_FRAME},
    invitation::{Invitation, MAX_REDEEM_FRAME, Redeem, RedeemAnswer},
    state::NetworkState,
    statement::{MAX_POLICY_LEN, Statement},
};

use super::signer;

/// The private network in which statements are read, under [`signer`].
///
/// # Panics
/// Never: the name is one.
#[must_use]
pub fn charter() -> Charter {
    let name = "lab".parse().expect("a name");
    Charter::new(name, signer().public().to_peer_id()).expect("an Ed25519 key")
}

/// A signed statement as it arrives.
pub fn statement_decode(data: &[u8]) -> bool {
    let Ok(statement) = Statement::decode(data, &charter()) else {
        return false;
    };
    assert!(data.len() <= MAX_POLICY_LEN);
    let again = Statement::decode(&statement.encode(), &charter());
    assert_eq!(again.as_ref(), Ok(&statement));
    let mut membership = Membership::new(charter());
    membership.merge(statement.clone());
    membership.merge(statement);
    let statements = membership.statements().count();
    assert!((1..=2).contains(&statements));
    let in_buckets: usize = (0..=u8::MAX).map(|b| membership.bucket(b).count()).sum();
    assert_eq!(in_buckets, statements);
    true
}

/// A statement's payload with a good signature of the authority, to get behind the check
/// of it.
///
/// # Panics
/// As [`statement_decode`].
pub fn statement_payload(data: &[u8]) -> bool {
    let signed = [b"anyhop-statement/1", &charter().id().as_bytes()[..], data].concat();
    let signature = signer().sign(&signed).expect("Ed25519 signs anything");
    let mut envelope = Vec::with_capacity(data.len() + signature.len() + 8);
    for (tag, field) in [(0x0a, data), (0x12, &signature)] {
        envelope.push(tag);
        put_varint(&mut envelope, field.len() as u64);
        envelope.extend_from_slice(field);
    }
    statement_decode(&envelope)
}

/// The contents of all frames by which networks are kept, read as each of them.
pub fn network_frames(data: &[u8]) -> bool {
    let mut valid = false;
    if let Ok(message) = Message::decode(data) {
        assert_eq!(Message::decode(content(&message.encode())), Ok(message));
        valid = true;
    }
    if let Ok(shown) = Credentials::decode(data) {
        assert!(shown.encode().len() <= MAX_ADMISSION_FRAME + 4);
        assert_eq!(Credentials::decode(content(&shown.encode())), Ok(shown));
        valid = true;
    }
    if let Ok(answer) = Answer::decode(data) {
        assert_eq!(Answer::decode(content(&answer.encode())), Ok(answer));
        valid = true;
    }
    if let Ok(redeem) = Redeem::decode(data) {
        assert!(redeem.encode().len() <= MAX_REDEEM_FRAME);
        assert_eq!(Redeem::decode(content(&redeem.encode())), Ok(redeem));
        valid = true;
    }
    if let Ok(answer) = RedeemAnswer::decode(data) {
        assert_eq!(RedeemAnswer::decode(content(&answer.encode())), Ok(answer));
        valid = true;
    }
    if let Ok(greetings) = Greetings::decode(data) {
        assert!(greetings.encode().len() <= MAX_GREET_FRAME);
        let again = Greetings::decode(content(&greetings.encode()));
        assert_eq!(again.map(|g| g.0.len()), Ok(greetings.0.len()));
        valid = true;
    }
    if let Ok(introduce) = Introduce::decode(data) {
        assert_eq!(
            Introduce::decode(content(&introduce.encode())),
            Ok(introduce)
        );
        valid = true;
    }
    valid
}

/// The text of an invitation.
pub fn invitation_text(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    Invitation::parse(text).is_ok()
}

/// A network's stored state, behind the check sum.
pub fn network_state(data: &[u8]) -> bool {
    let Ok(state) = NetworkState::decode(data) else {
        return false;
    };
    let again = state.encode().expect("what was read can be written");
    let again = NetworkState::decode(&again).expect("and read");
    assert_eq!(again.membership, state.membership);
    assert_eq!(again.keys, state.keys);
    true
}

/// A backup, without its passphrase; whether it is one.
pub fn backup_text(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    // An empty passphrase is refused after the text has been read.
    backup::open(text, "") == Err(backup::BackupError::NoPassphrase)
}

/// The content of one of our own frames.
pub(super) fn content(frame: &[u8]) -> &[u8] {
    let max = MAX_GOSSIP_FRAME * 2;
    let content = anyhop_proto::take_frame(&mut &*frame, max).expect("a frame of our own");
    content.expect("is complete")
}
