//! Becoming a member: the invitation is redeemed on connections of its own, with nothing
//! else going on, until the answer is final or its time is over.

use std::{sync::Arc, time::Duration};

use anyhop_base::{Endpoint, PeerId};
use anyhop_proto::network::{
    admission::EpochKey,
    invitation::{Invitation, MAX_REDEEM_FRAME, Redeem, RedeemAnswer},
    statement::Statement,
};
use tokio::time::{Instant, sleep, timeout};

use super::{Inner, Joining, Private, admit::channel, redeem::certified};
use crate::{
    JoinError,
    engine::{Code, ConnectError, Connection, close},
    node::protocols,
    stream::{encode_protocol, read_raw_frame},
};

/// How long one address may take to complete the handshake.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a person may take on one connection; then it is asked anew.
const WAIT: Duration = Duration::from_secs(3600);
/// First wait before the inviter is dialled again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why one attempt brought no membership.
enum Attempt {
    /// Another one may.
    Again(String),
    /// No other one will.
    Final(JoinError),
}

impl Inner {
    /// Redeems the invitation that the node was started with, and goes on as a member.
    pub(in crate::node) async fn join_network(self: Arc<Self>) {
        let Some(private) = &self.private else { return };
        let joining = private.state().joining.clone();
        let Some(invitation) = joining else { return };
        match self.redeem_until_final(private, &invitation).await {
            Ok(()) => {
                self.emit_joined(private);
                self.stay_with_bootstraps();
            }
            Err(e) => {
                tracing::warn!(error = %e, "this node has not become a member");
                private.joining.send_replace(Joining::Failed(e));
            }
        }
    }

    async fn redeem_until_final(
        self: &Arc<Self>,
        private: &Private,
        invitation: &Invitation,
    ) -> Result<(), JoinError> {
        let doors: Vec<_> = invitation.doors().collect();
        let inviter = invitation.inviter;
        let mut last = "it has no address that this node can dial".to_owned();
        let mut wait = RETRY;
        while invitation.check_time(self.now_unix_s()).is_ok() {
            for (peer, endpoint) in &doors {
                let begun = Instant::now();
                match self.redeem_at(private, invitation, *peer, *endpoint).await {
                    Ok(()) => return Ok(()),
                    Err(Attempt::Final(e)) => return Err(e),
                    Err(Attempt::Again(why)) => {
                        tracing::info!(%inviter, %endpoint, why, "invitation not redeemed yet");
                        last = format!("{endpoint}: {why}");
                    }
                }
                if begun.elapsed() > RETRY_MAX {
                    wait = RETRY;
                }
            }
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
        Err(JoinError::Expired { inviter, last })
    }

    async fn redeem_at(
        self: &Arc<Self>,
        private: &Private,
        invitation: &Invitation,
        peer: PeerId,
        endpoint: Endpoint,
    ) -> Result<(), Attempt> {
        let inviter = invitation.inviter;
        let dialled = timeout(DIAL_TIMEOUT, self.handshake_at(peer, endpoint)).await;
        let quic = match dialled {
            Ok(Ok(quic)) => quic,
            Ok(Err(ConnectError::WrongPeer(actual))) => {
                return Err(Attempt::Again(format!("{actual} answered there")));
            }
            Ok(Err(ConnectError::Refused(why) | ConnectError::Failed(why))) => {
                return Err(Attempt::Again(why));
            }
            Err(_) => return Err(Attempt::Again("no answer".to_owned())),
        };
        let answer = self.ask(private, invitation, &quic).await;
        quic.close(Code::from_u32(close::SHUTDOWN), b"");
        match answer.map_err(Attempt::Again)? {
            RedeemAnswer::Admitted { certificate, key } => {
                let taken = self.take_membership(private, inviter, &certificate, &key);
                taken.await.map_err(Attempt::Final)
            }
            RedeemAnswer::Refused(refusal) => {
                Err(Attempt::Final(JoinError::Refused { inviter, refusal }))
            }
            RedeemAnswer::Waiting => Err(Attempt::Again("nobody has decided yet".to_owned())),
        }
    }

    /// Asks and waits for the final answer.
    async fn ask(
        &self,
        private: &Private,
        invitation: &Invitation,
        quic: &Connection,
    ) -> Result<RedeemAnswer, String> {
        let channel = channel(quic)?;
        let keys = invitation.keys();
        let redeem = {
            let state = private.state();
            Redeem {
                invitation: keys.id,
                proof: keys.prove(self.me, &channel.secret),
                name: state.name.clone(),
                opt_outs: state.opt_outs,
            }
        };
        let protocol = self.protocol(protocols::INVITATION);
        let mut first = encode_protocol(&protocol).map_err(|e| e.to_string())?;
        first.extend_from_slice(&redeem.encode());
        let (mut send, mut recv) = quic.open_bi().await.map_err(|e| e.to_string())?;
        send.write_all(&first).await.map_err(|e| e.to_string())?;
        let _ = send.finish();
        let mut patience = ANSWER_TIMEOUT;
        loop {
            let frame = timeout(patience, read_raw_frame(&mut recv, MAX_REDEEM_FRAME)).await;
            let frame = frame.ok().flatten().ok_or("it did not answer")?;
            match RedeemAnswer::decode(&frame).map_err(|e| e.to_string())? {
                RedeemAnswer::Waiting => {
                    private.joining.send_replace(Joining::Waiting);
                    patience = WAIT;
                }
                answer => return Ok(answer),
            }
        }
    }

    /// Keeps the certificate and the key, and answers to the key from now on.
    async fn take_membership(
        self: &Arc<Self>,
        private: &Private,
        inviter: PeerId,
        certificate: &[u8],
        key: &EpochKey,
    ) -> Result<(), JoinError> {
        let untrue = |reason: String| JoinError::Untrue { inviter, reason };
        let statement = Statement::decode(certificate, &private.charter);
        let statement = statement.map_err(|e| untrue(e.to_string()))?;
        if certified(&statement) != Some(self.me) {
            return Err(untrue("the certificate is another node's".to_owned()));
        }
        let now_unix_s = self.now_unix_s();
        {
            let mut state = private.state();
            state
                .gossip
                .handle_key(now_unix_s, inviter, &key.statement, key.secret)
                .map_err(|e| untrue(e.to_string()))?;
            state
                .gossip
                .handle_own(now_unix_s, vec![Arc::new(statement)]);
            state.joining = None;
            state.unsaved += 1;
        }
        self.store_and_tell().await?;
        self.use_keys(private);
        Ok(())
    }
}
