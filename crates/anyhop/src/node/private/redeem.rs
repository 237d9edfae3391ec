//! Serving those who were invited: the only streams on a connection that is no session.

use std::{sync::Arc, time::Duration};

use anyhop_base::PeerId;
use anyhop_proto::network::{
    admission::EpochKey,
    book::{RedeemRefusal, Verdict},
    gossip::Message,
    greeting::Introduce,
    invitation::{MAX_REDEEM_FRAME, Redeem, RedeemAnswer},
    membership::Standing,
    statement::{Body, Certificate, MemberName, Role, Statement},
};
use tokio::time::timeout;

use super::{Inner, Private, State, admit::channel};
use crate::{
    Event, NetworkError,
    engine::{Code, Connection, RecvStream, SendStream, close},
    private::CERTIFICATE_LIFETIME_S,
    stream::read_raw_frame,
};

/// How long who was invited may take to ask, and to take the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a request waits for a person on one connection; who asked asks again.
pub(super) const WAIT: Duration = Duration::from_secs(3600);

/// Where answers go.
pub(super) enum Asker<'a> {
    /// On the connection of who asks.
    Here(&'a mut SendStream),
    /// To the greeter that hands them on.
    AtGreeter(&'a mut crate::SendStream),
}

impl Asker<'_> {
    async fn tell(&mut self, answer: &RedeemAnswer) -> Result<(), String> {
        let frame = answer.encode();
        match self {
            Self::Here(send) => send.write_all(&frame).await.map_err(|e| e.to_string()),
            Self::AtGreeter(send) => send.write_all(&frame).await.map_err(|e| e.to_string()),
        }
    }
}

impl Inner {
    /// Serves a connection whose first stream redeems an invitation.
    pub(super) fn serve_invited(
        self: &Arc<Self>,
        quic: Connection,
        peer: PeerId,
        send: SendStream,
        recv: RecvStream,
    ) {
        let node = Arc::clone(self);
        self.spawn(async move {
            let Some(private) = &node.private else { return };
            if let Ok(_place) = private.redeeming.try_acquire() {
                let served = node.redeem(private, &quic, peer, send, recv).await;
                tracing::debug!(%peer, ?served, "invitation");
            }
            quic.close(Code::from_u32(close::NOT_ADMITTED), b"");
        });
    }

    async fn redeem(
        self: &Arc<Self>,
        private: &Private,
        quic: &Connection,
        peer: PeerId,
        mut send: SendStream,
        mut recv: RecvStream,
    ) -> Result<(), String> {
        let channel = channel(quic)?;
        let frame = timeout(PATIENCE, read_raw_frame(&mut recv, MAX_REDEEM_FRAME)).await;
        let frame = frame.ok().flatten().ok_or("it asked for nothing")?;
        let redeem = Redeem::decode(&frame).map_err(|e| e.to_string())?;
        let inviter = {
            let state = private.state();
            let own = state.invitations.knows(&redeem.invitation);
            let of_others = state.greetings.inviter_of(&redeem.invitation);
            of_others.filter(|_| !own)
        };
        if let Some(inviter) = inviter {
            let channel = channel.secret;
            let introduce = Introduce {
                peer,
                channel,
                redeem,
            };
            let passed = self.introduce(inviter, &introduce, &mut send);
            tokio::select! {
                passed = passed => passed?,
                end = quic.closed() => return Err(end.to_string()),
            }
        } else {
            let asker = Asker::Here(&mut send);
            let decided = self.decide(private, peer, &redeem, &channel.secret, asker);
            tokio::select! {
                decided = decided => decided?,
                end = quic.closed() => return Err(end.to_string()),
            }
        }
        let _ = send.finish();
        // The answer has to arrive before the connection is closed.
        let _ = timeout(PATIENCE, send.stopped()).await;
        Ok(())
    }

    /// Decides about who redeems an invitation of this node on a connection that exported
    /// `channel`, and tells what there is to tell: that a person is to decide, and the end.
    pub(super) async fn decide(
        self: &Arc<Self>,
        private: &Private,
        peer: PeerId,
        redeem: &Redeem,
        channel: &[u8],
        mut asker: Asker<'_>,
    ) -> Result<(), String> {
        let mut decided = private.decided.subscribe();
        let mut told = false;
        loop {
            decided.mark_unchanged();
            let verdict = {
                let now_unix_s = self.now_unix_s();
                let mut state = private.state();
                let book = &mut state.invitations;
                book.redeem(now_unix_s, peer, redeem, channel)
            };
            match verdict {
                Verdict::Admit => {
                    let answer = self.admit(private, peer, redeem).await;
                    return asker.tell(&answer).await;
                }
                Verdict::Refuse(refusal) => {
                    return asker.tell(&RedeemAnswer::Refused(refusal)).await;
                }
                Verdict::Wait => {
                    if !told {
                        told = true;
                        self.note_request(peer, redeem).await;
                        asker.tell(&RedeemAnswer::Waiting).await?;
                    }
                    let changed = timeout(WAIT, decided.changed()).await;
                    if !matches!(changed, Ok(Ok(()))) {
                        return Err("nobody has decided".to_owned());
                    }
                }
            }
        }
    }

    async fn note_request(self: &Arc<Self>, peer: PeerId, redeem: &Redeem) {
        if let Err(e) = self.store(|_, _| {}).await {
            tracing::warn!(error = %e, "a request to join is not stored");
        }
        let name = redeem.name.as_ref().map(ToString::to_string);
        self.emit(Event::JoinRequested {
            peer,
            name: name.unwrap_or_default(),
        });
    }

    /// Certifies who has redeemed an invitation, or finds the certificate it has already.
    async fn admit(
        self: &Arc<Self>,
        private: &Private,
        peer: PeerId,
        redeem: &Redeem,
    ) -> RedeemAnswer {
        match self.certify_invited(private, peer, redeem).await {
            Ok(answer) => answer,
            Err(e) => {
                tracing::warn!(%peer, error = %e, "who was invited cannot be admitted");
                RedeemAnswer::Refused(RedeemRefusal::Unable)
            }
        }
    }

    async fn certify_invited(
        self: &Arc<Self>,
        private: &Private,
        peer: PeerId,
        redeem: &Redeem,
    ) -> Result<RedeemAnswer, NetworkError> {
        let now_unix_s = self.now_unix_s();
        let standing = {
            let state = private.state();
            state.gossip.membership().standing(peer, now_unix_s)
        };
        match standing {
            Standing::Member => self.store(|_, _| {}).await?,
            // It has redeemed the invitation before, and what came of that has ended.
            Standing::Revoked | Standing::Expired => {
                let denied = RedeemAnswer::Refused(RedeemRefusal::Denied);
                self.store(|_, _| {}).await?;
                return Ok(denied);
            }
            Standing::Unknown => {
                let certify = |state: &State, issuer| {
                    let certificate = invited(state, peer, redeem, now_unix_s);
                    let membership = state.gossip.membership();
                    Ok(vec![membership.certify(certificate, issuer)?])
                };
                self.say(private, certify).await?;
            }
        }
        let state = private.state();
        let certificate = state.gossip.membership().certificate(peer);
        let key = state.gossip.key_message();
        match (certificate, key) {
            (Some(certificate), Some(Message::Key { statement, secret })) => {
                Ok(RedeemAnswer::Admitted {
                    certificate: certificate.encode(),
                    key: EpochKey { statement, secret },
                })
            }
            _ => Ok(RedeemAnswer::Refused(RedeemRefusal::Unable)),
        }
    }
}

/// The certificate of a new member.
fn invited(state: &State, peer: PeerId, redeem: &Redeem, now_unix_s: u64) -> Certificate {
    let membership = state.gossip.membership();
    let wanted = redeem.name.clone().unwrap_or_else(|| default_name(peer));
    Certificate {
        peer,
        version: 0,
        name: membership.free_name(&wanted, peer),
        role: Role::Member,
        overlay: Vec::new(),
        opt_outs: redeem.opt_outs,
        issued_unix_s: now_unix_s,
        expires_unix_s: now_unix_s + CERTIFICATE_LIFETIME_S,
    }
}

/// The name of a member that wanted none.
fn default_name(peer: PeerId) -> MemberName {
    let id = peer.to_bytes();
    let tail = id[id.len().saturating_sub(4)..].iter();
    let name = tail.fold("node-".to_owned(), |name, b| format!("{name}{b:02x}"));
    MemberName::new(name).expect("hexadecimal digits are allowed in names")
}

/// The member of a statement that certifies it.
pub(super) fn certified(statement: &Statement) -> Option<PeerId> {
    match statement.body() {
        Body::Certificate(certificate) => Some(certificate.peer),
        _ => None,
    }
}
