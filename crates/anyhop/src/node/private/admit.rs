//! Admission of new connections, before they become sessions.

use std::sync::Arc;

use anyhop_base::PeerId;
use anyhop_proto::network::{
    admission::{
        ADMISSION_EXPORTER_LABEL, ADMISSION_SECRET_LEN, Answer, Channel, Credentials, EpochKey,
        MAX_ADMISSION_FRAME, Refusal, Side, judge,
    },
    gossip::Message,
    membership::Standing as MemberStanding,
    statement::KeyId,
    swarm::{Epoch, MadeUnder, Standing},
};

use super::{Inner, Private};
use crate::{
    engine::{self, Code, Connection, close},
    node::protocols,
    stream::{encode_protocol, read_protocol, read_raw_frame},
};

/// The epoch of keys that belong to none.
const NO_EPOCH: Epoch = Epoch(0);

/// What a connection was that somebody else opened.
pub(in crate::node) enum Admitted {
    /// A member's: it becomes a session.
    Member,
    /// Somebody's who was invited, and is served by now.
    Invited,
}

impl Inner {
    /// Has handshakes answered only of those who can hope to be admitted: others hear as
    /// little as strangers, former members among them.
    pub(in crate::node) fn answer_members_only(self: &Arc<Self>) {
        let (Some(swarm), Some(_)) = (&self.fabric.swarm, &self.private) else {
            return;
        };
        let node = Arc::downgrade(self);
        swarm.set_gate(Arc::new(move |peer, made_under| {
            node.upgrade()
                .is_some_and(|n| n.may_knock(peer, made_under))
        }));
    }

    /// Whether a peer's handshake is answered.
    fn may_knock(&self, peer: PeerId, made_under: MadeUnder) -> bool {
        let Some(private) = &self.private else {
            return true;
        };
        if made_under.epoch == NO_EPOCH {
            return true;
        }
        let now_unix_s = self.now_unix_s();
        let state = private.state();
        match state.gossip.membership().standing(peer, now_unix_s) {
            MemberStanding::Member | MemberStanding::Expired => true,
            MemberStanding::Revoked => false,
            // Its certificate may be too new to be known here.
            MemberStanding::Unknown => made_under.standing != Standing::Over,
        }
    }

    /// Shows this node's certificate on a connection that it dialled, and checks the peer's.
    /// In a public network there is nothing to show.
    pub(in crate::node) async fn admit_dialled(
        self: &Arc<Self>,
        quic: &Connection,
        peer: PeerId,
    ) -> Result<(), String> {
        let Some(private) = &self.private else {
            return Ok(());
        };
        let result = self.show(private, quic, peer).await;
        if result.is_err() {
            quic.close(Code::from_u32(close::NOT_ADMITTED), b"");
        }
        result
    }

    async fn show(
        self: &Arc<Self>,
        private: &Private,
        quic: &Connection,
        peer: PeerId,
    ) -> Result<(), String> {
        let channel = channel(quic)?;
        let shown = self.credentials(private, Side::Client, &channel)?;
        let silent = |_| {
            "it did not admit this node, and said nothing: this node may be no member of the network any more".to_owned()
        };
        let protocol = self.protocol(protocols::ADMISSION);
        let mut first = encode_protocol(&protocol).map_err(|e| e.to_string())?;
        first.extend_from_slice(&shown.encode());
        let (mut send, mut recv) = quic.open_bi().await.map_err(|e| e.to_string())?;
        let ended = |e: &dyn std::fmt::Display| e.to_string();
        send.write_all(&first).await.map_err(|e| ended(&e))?;
        send.finish().map_err(|e| ended(&e))?;
        let frame = read_raw_frame(&mut recv, MAX_ADMISSION_FRAME).await;
        let frame = frame.ok_or(()).map_err(silent)?;
        match Answer::decode(&frame).map_err(|e| e.to_string())? {
            Answer::Refused(refusal) => Err(format!("it did not admit this node: {refusal}")),
            Answer::Admitted { credentials, key } => {
                self.check(private, &credentials, peer, Side::Server, &channel)
                    .map_err(|refusal| format!("{peer} is not admitted here: {refusal}"))?;
                match key {
                    Some(key) => Err(self.take_epoch(private, peer, key)),
                    None => Ok(()),
                }
            }
        }
    }

    /// Checks who dialled this node, and shows its own certificate. Whoever is no member
    /// gets no answer.
    pub(in crate::node) async fn admit_accepted(
        self: &Arc<Self>,
        quic: &Connection,
        peer: PeerId,
    ) -> Result<Admitted, String> {
        let Some(private) = &self.private else {
            return Ok(Admitted::Member);
        };
        let result = self.examine(private, quic, peer).await;
        if result.is_err() {
            quic.close(Code::from_u32(close::NOT_ADMITTED), b"");
        }
        result.map_err(|why| format!("{peer}: {why}"))
    }

    async fn examine(
        self: &Arc<Self>,
        private: &Private,
        quic: &Connection,
        peer: PeerId,
    ) -> Result<Admitted, String> {
        if private.is_joining() {
            return Err("this node is no member itself yet".to_owned());
        }
        let (mut send, mut recv) = quic.accept_bi().await.map_err(|e| e.to_string())?;
        let asked = read_protocol(&mut recv).await.unwrap_or_default();
        let made_under = engine::made_under(quic);
        // Keys of invitations have no epoch.
        let invited = made_under.is_some_and(|m| m.epoch == NO_EPOCH);
        if invited && asked == self.protocol(protocols::INVITATION) {
            self.serve_invited(quic.clone(), peer, send, recv);
            return Ok(Admitted::Invited);
        }
        if invited || asked != self.protocol(protocols::ADMISSION) {
            return Err(format!("it asked for {asked:?} before it was admitted"));
        }
        let channel = channel(quic)?;
        let frame = read_raw_frame(&mut recv, MAX_ADMISSION_FRAME).await;
        let shown = Credentials::decode(&frame.ok_or("it showed nothing")?);
        let shown = shown.map_err(|e| e.to_string())?;
        let checked = self.check(private, &shown, peer, Side::Client, &channel);
        let answer = match checked {
            Ok(()) => Answer::Admitted {
                credentials: self.credentials(private, Side::Server, &channel)?,
                key: self.key_for(private, shown.key, made_under),
            },
            Err(refusal) if refusal.is_told() => Answer::Refused(refusal),
            Err(refusal) => return Err(refusal.to_string()),
        };
        let told = async {
            send.write_all(&answer.encode()).await?;
            let _ = send.finish();
            Ok::<_, engine::WriteError>(())
        };
        told.await.map_err(|e| e.to_string())?;
        match answer {
            Answer::Admitted { key: None, .. } => Ok(Admitted::Member),
            Answer::Admitted { key: Some(_), .. } => {
                // The answer has to arrive before the connection is closed.
                let _ = send.stopped().await;
                Err("it had an old swarm key, and has the current one now".to_owned())
            }
            Answer::Refused(refusal) => {
                let _ = send.stopped().await;
                Err(refusal.to_string())
            }
        }
    }

    fn credentials(
        &self,
        private: &Private,
        side: Side,
        channel: &Channel,
    ) -> Result<Credentials, String> {
        let (certificate, key) = {
            let state = private.state();
            let certificate = state.gossip.membership().certificate(self.me).cloned();
            let key = state.gossip.key().cloned();
            (certificate, key)
        };
        let certificate = certificate.ok_or("this node has no certificate of the network")?;
        let key = key.map(|k| KeyId::of(&k, &private.charter));
        let charter = &private.charter;
        Credentials::new(&self.keypair, &certificate, charter, side, channel, key)
    }

    fn check(
        self: &Arc<Self>,
        private: &Private,
        shown: &Credentials,
        peer: PeerId,
        side: Side,
        channel: &Channel,
    ) -> Result<(), Refusal> {
        let certificate = shown.check(peer, &private.charter, side, channel)?;
        let now_unix_s = self.now_unix_s();
        let judged = {
            let mut state = private.state();
            state.gossip.handle_own(now_unix_s, vec![certificate]);
            judge(state.gossip.membership(), peer, now_unix_s)
        };
        self.drain_gossip(private);
        judged
    }

    /// The current key, for a member that came with another one.
    fn key_for(
        &self,
        private: &Private,
        theirs: Option<KeyId>,
        made_under: Option<MadeUnder>,
    ) -> Option<EpochKey> {
        let state = private.state();
        let ours = state.gossip.key()?;
        let same = theirs == Some(KeyId::of(ours, &private.charter));
        let over = made_under.is_some_and(|m| m.standing == Standing::Over);
        if same && !over {
            return None;
        }
        match state.gossip.key_message()? {
            Message::Key { statement, secret } => Some(EpochKey { statement, secret }),
            _ => None,
        }
    }

    /// Takes the key that a member gave instead of a session; why there is none.
    fn take_epoch(self: &Arc<Self>, private: &Private, peer: PeerId, key: EpochKey) -> String {
        let EpochKey { statement, secret } = key;
        let now_unix_s = self.now_unix_s();
        let taken = {
            let gossip = &mut private.state().gossip;
            gossip.handle_key(now_unix_s, peer, &statement, secret)
        };
        self.drain_gossip(private);
        match taken {
            Ok(()) => NEW_KEY.to_owned(),
            Err(e) => format!("{peer} gave a swarm key that is none: {e}"),
        }
    }
}

/// What a dial fails with that brought the current swarm key.
pub(in crate::node) const NEW_KEY: &str =
    "the network has a new swarm key, which this node has now: dial again";

/// What binds proofs to a connection.
pub(super) fn channel(quic: &Connection) -> Result<Channel, String> {
    let mut secret = [0; ADMISSION_SECRET_LEN];
    quic.export_keying_material(&mut secret, ADMISSION_EXPORTER_LABEL, b"")
        .map_err(|_| "the connection exports no keying material".to_owned())?;
    Ok(Channel { secret })
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use anyhop_base::Keypair;
    use tokio::time::timeout;

    use super::*;
    use crate::{Config, InviteOptions, Node, OptOuts, PrivateNetwork};

    async fn start(key: &Keypair, network: PrivateNetwork) -> Node {
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            private: Some(network),
            ..Config::default()
        };
        Node::start(key.clone(), config).await.unwrap()
    }

    /// Dials and shows these credentials; the answer, if there is one.
    async fn show(
        from: &Node,
        to: PeerId,
        at: SocketAddr,
        shown: impl FnOnce(&Inner, &Connection) -> Vec<u8>,
    ) -> Option<Answer> {
        let node = &from.0;
        let quic = node.engine.connect(at, to).await.unwrap();
        let protocol = node.protocol(protocols::ADMISSION);
        let mut first = encode_protocol(&protocol).unwrap();
        first.extend_from_slice(&shown(node, &quic));
        let (mut send, mut recv) = quic.open_bi().await.unwrap();
        send.write_all(&first).await.unwrap();
        let _ = send.finish();
        let read = read_raw_frame(&mut recv, MAX_ADMISSION_FRAME);
        let frame = timeout(Duration::from_secs(20), read).await.unwrap();
        quic.close(Code::from_u32(close::SHUTDOWN), b"");
        frame.map(|frame| Answer::decode(&frame).unwrap())
    }

    fn made(node: &Inner, quic: &Connection) -> Vec<u8> {
        let private = node.private.as_ref().unwrap();
        let channel = channel(quic).unwrap();
        let shown = node.credentials(private, Side::Client, &channel);
        shown.unwrap().encode()
    }

    #[tokio::test]
    async fn what_one_connection_admitted_is_worth_nothing_on_another_or_to_another() {
        let [owner_key, a_key, b_key] =
            [1, 2, 3].map(|n| Keypair::ed25519_from_bytes([n; 32]).unwrap());
        let (name, called) = ("lab".parse().unwrap(), "owner".parse().unwrap());
        let network = PrivateNetwork::create(name, &owner_key, &called, OptOuts::default());
        let owner = start(&owner_key, network.unwrap()).await;
        let at = owner.0.listen_addrs()[0];
        let mut members = Vec::new();
        for key in [&a_key, &b_key] {
            let options = InviteOptions::default();
            let invited = owner.private_network().unwrap().invite(options).await;
            let network = PrivateNetwork::join(&invited.unwrap().invite, None, OptOuts::default());
            let node = start(key, network.unwrap()).await;
            node.private_network().unwrap().joined().await.unwrap();
            members.push(node);
        }
        let mut recorded = Vec::new();
        let answer = show(&members[0], owner.peer_id(), at, |node, quic| {
            recorded = made(node, quic);
            recorded.clone()
        });
        assert!(matches!(answer.await, Some(Answer::Admitted { .. })));
        for from in &members {
            let answer = show(from, owner.peer_id(), at, |_, _| recorded.clone()).await;
            assert_eq!(answer, None, "replayed by {}", from.peer_id());
        }
        let answer = show(&members[1], owner.peer_id(), at, made).await;
        assert!(matches!(answer, Some(Answer::Admitted { .. })));
    }
}
