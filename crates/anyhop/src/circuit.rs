//! Circuits in the shell: the streams that set them up and hold them, around the
//! decisions of `anyhop_proto::circuit`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhop_base::PeerId;
use anyhop_proto::{
    circuit::{
        Admission, Answer, CircuitId, LinkId, MAX_HOPS, MAX_OPEN_FRAME, Open, Refusal,
        RefusalReason,
    },
    datagram::Label,
};
use thiserror::Error;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    StreamError,
    node::{Inner, protocols},
    session::{Command, Conn},
    stream::{RecvStream, SendStream, read_frame},
};

/// How long one hop may take to answer, all hops behind it included.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// Circuits that may end at one node.
const MAX_LOCAL_CIRCUITS: usize = 8192;

/// Why a circuit was not opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// A relay on the way, or the peer, said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The first relay did not answer.
    #[error("{0} did not answer in time")]
    Silent(PeerId),
    /// The link to the first relay failed.
    #[error(transparent)]
    Link(#[from] StreamError),
    /// As many circuits end here as may.
    #[error("this node's limit of {MAX_LOCAL_CIRCUITS} circuits is reached")]
    Full,
}

/// A circuit this node opened. Dropping it tears it down along its whole route.
#[derive(Debug)]
pub(crate) struct LocalCircuit {
    pub(crate) id: CircuitId,
    _teardown: DropGuard,
}

#[derive(Debug)]
struct End {
    link: LinkId,
    /// Relays between, nearest first.
    via: Vec<PeerId>,
    /// The session whose path runs over it.
    watcher: Option<mpsc::WeakSender<Command>>,
}

/// The circuits that end at this node.
#[derive(Debug, Default)]
pub(crate) struct Circuits {
    ends: Mutex<HashMap<CircuitId, End>>,
}

impl Circuits {
    /// The relays of a circuit, nearest first; empty when it is gone.
    pub(crate) fn via(&self, circuit: CircuitId) -> Vec<PeerId> {
        let ends = self.ends.lock().expect("no holder panics");
        ends.get(&circuit).map_or_else(Vec::new, |e| e.via.clone())
    }

    /// Has `watcher` told when the circuit ends; at once when it has ended already.
    pub(crate) fn watch(&self, circuit: CircuitId, watcher: &mpsc::Sender<Command>) {
        let mut ends = self.ends.lock().expect("no holder panics");
        match ends.get_mut(&circuit) {
            Some(end) => end.watcher = Some(watcher.downgrade()),
            None => {
                // A full queue means the driver is about to look at its paths anyway.
                let _ = watcher.try_send(Command::CircuitEnded(circuit));
            }
        }
    }

    /// The link a circuit leaves by.
    pub(crate) fn link(&self, circuit: CircuitId) -> Option<LinkId> {
        let ends = self.ends.lock().expect("no holder panics");
        ends.get(&circuit).map(|e| e.link)
    }

    fn insert(&self, circuit: CircuitId, link: LinkId, via: Vec<PeerId>) -> bool {
        let mut ends = self.ends.lock().expect("no holder panics");
        if ends.len() >= MAX_LOCAL_CIRCUITS {
            return false;
        }
        let end = End {
            link,
            via,
            watcher: None,
        };
        ends.insert(circuit, end);
        true
    }

    fn remove(&self, circuit: CircuitId) {
        let end = self.ends.lock().expect("no holder panics").remove(&circuit);
        let watcher = end.and_then(|e| e.watcher?.upgrade());
        if let Some(watcher) = watcher {
            let _ = watcher.try_send(Command::CircuitEnded(circuit));
        }
    }
}

/// Opens a circuit over `link` to `target`, through the relays `next` behind the link's.
pub(crate) async fn open(
    node: &Arc<Inner>,
    link: &Arc<Conn>,
    next: &[PeerId],
    target: PeerId,
) -> Result<LocalCircuit, OpenError> {
    let (circuit, label) = {
        let mut switch = node.fabric.switch.write().expect("no holder panics");
        (switch.fresh_circuit(), switch.fresh_label())
    };
    let request = Open {
        target,
        next: next.to_vec(),
        route: vec![node.me],
        hop_limit: MAX_HOPS as u32,
        label,
    };
    let hop = timeout(OPEN_TIMEOUT, ask(node, link, &request)).await;
    let (send, recv, out) = match hop {
        Err(_) => return Err(OpenError::Silent(link.peer)),
        Ok(Err(e)) => return Err(e.into()),
        Ok(Ok((_, _, Answer::Refused(refusal)))) => return Err(refusal.into()),
        Ok(Ok((send, recv, Answer::Opened(out)))) => (send, recv, out),
    };
    let mut via = vec![link.peer];
    via.extend_from_slice(next);
    if !node.circuits.insert(circuit, link.id, via) {
        return Err(OpenError::Full);
    }
    node.fabric
        .switch
        .write()
        .expect("no holder panics")
        .terminate(circuit, link.id, label, out);
    let cancel = CancellationToken::new();
    let teardown = cancel.clone().drop_guard();
    let holder = Arc::clone(node);
    node.spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = ended(recv) => {}
        }
        drop(send);
        holder.end_circuit(circuit, label);
    });
    Ok(LocalCircuit {
        id: circuit,
        _teardown: teardown,
    })
}

/// Sends an [`Open`] over a link and reads the answer.
async fn ask(
    node: &Inner,
    link: &Conn,
    request: &Open,
) -> Result<(SendStream, RecvStream, Answer), StreamError> {
    let protocol = node.protocol(protocols::CIRCUIT);
    let (mut send, mut recv) = link.open_bi(&protocol, protocols::CIRCUIT).await?;
    send.write_all(&request.encode()).await?;
    let frame = read_frame(&mut recv, MAX_OPEN_FRAME).await?;
    let answer = Answer::decode(&frame).map_err(|_| crate::stream::malformed(&mut recv))?;
    Ok((send, recv, answer))
}

/// Resolves when the other side ends a circuit's stream, or its link dies.
async fn ended(mut recv: RecvStream) {
    let mut rest = [0; 64];
    while let Ok(Some(_)) = recv.read(&mut rest).await {}
}

/// Serves one hop that neighbour `link` asks for.
pub(crate) async fn serve(
    node: Arc<Inner>,
    link: Arc<Conn>,
    mut send: SendStream,
    mut recv: RecvStream,
) {
    let Ok(Ok(frame)) = timeout(OPEN_TIMEOUT, read_frame(&mut recv, MAX_OPEN_FRAME)).await else {
        return;
    };
    let Ok(request) = Open::decode(&frame) else {
        return;
    };
    let admitted = {
        let asker = (link.peer, node.standing(link.peer));
        let mut relay = node.relay.lock().expect("no holder panics");
        relay.admit(Instant::now().into_std(), asker, &request)
    };
    match admitted {
        Err(reason) => refuse(&node, &mut send, reason).await,
        Ok(Admission::Terminate) => terminate(&node, &link, &request, send, recv).await,
        Ok(Admission::Extend { next, open }) => {
            let hop = Hop {
                node: &node,
                link: &link,
                label_out: request.label,
            };
            hop.extend(next, *open, send, recv).await;
            node.relay
                .lock()
                .expect("no holder panics")
                .release(link.peer);
        }
    }
}

async fn refuse(node: &Inner, send: &mut SendStream, reason: RefusalReason) {
    let refusal = Refusal {
        by: node.me,
        reason,
    };
    answer(send, Answer::Refused(refusal)).await;
    // Fails only when the asker is gone, and then nobody is left to tell.
    let _ = send.finish();
    let _ = send.stopped().await;
}

/// Answers; false when the asker is gone.
async fn answer(send: &mut SendStream, answer: Answer) -> bool {
    send.write_all(&answer.encode()).await.is_ok()
}

/// The circuit ends here.
async fn terminate(
    node: &Arc<Inner>,
    link: &Conn,
    request: &Open,
    mut send: SendStream,
    recv: RecvStream,
) {
    let mut via = request.route.clone();
    via.reverse();
    via.pop();
    let (circuit, label) = {
        let mut switch = node.fabric.switch.write().expect("no holder panics");
        let (circuit, label) = (switch.fresh_circuit(), switch.fresh_label());
        switch.terminate(circuit, link.id, label, request.label);
        (circuit, label)
    };
    if !node.circuits.insert(circuit, link.id, via) {
        node.end_circuit(circuit, label);
        refuse(node, &mut send, RefusalReason::TargetRefused).await;
        return;
    }
    if answer(&mut send, Answer::Opened(label)).await {
        ended(recv).await;
    }
    node.end_circuit(circuit, label);
}

/// One hop of a circuit that goes on.
struct Hop<'a> {
    node: &'a Arc<Inner>,
    link: &'a Arc<Conn>,
    /// The asker's label.
    label_out: Label,
}

impl Hop<'_> {
    /// Extends to `next`, forwards until either side ends, then cleans up.
    async fn extend(&self, next: PeerId, mut open: Open, mut send: SendStream, recv: RecvStream) {
        let Some(next) = self.node.link_to(next) else {
            return refuse(self.node, &mut send, RefusalReason::NoLink).await;
        };
        let (forth, back) = {
            let mut switch = self.node.fabric.switch.write().expect("no holder panics");
            (switch.fresh_label(), switch.fresh_label())
        };
        open.label = back;
        let asked = timeout(OPEN_TIMEOUT, ask(self.node, &next, &open)).await;
        let (next_send, next_recv, next_label) = match asked {
            Ok(Ok((s, r, Answer::Opened(label)))) => (s, r, label),
            Ok(Ok((_, _, Answer::Refused(refusal)))) => {
                answer(&mut send, Answer::Refused(refusal)).await;
                let _ = send.finish();
                let _ = send.stopped().await;
                return;
            }
            Ok(Err(_)) | Err(_) => {
                return refuse(self.node, &mut send, RefusalReason::NextFailed).await;
            }
        };
        let rate = self.node.config.relay.circuit_bytes_per_s;
        let standing = self.node.standing(self.link.peer);
        {
            let mut switch = self.node.fabric.switch.write().expect("no holder panics");
            switch.forward((self.link.id, forth), (next.id, next_label), rate, standing);
            switch.forward(
                (next.id, back),
                (self.link.id, self.label_out),
                rate,
                standing,
            );
        }
        if answer(&mut send, Answer::Opened(forth)).await {
            tokio::select! {
                () = ended(recv) => {}
                () = ended(next_recv) => {}
                () = self.node.relaying_ended() => {}
            }
        }
        drop(next_send);
        let mut switch = self.node.fabric.switch.write().expect("no holder panics");
        switch.remove_label(forth);
        switch.remove_label(back);
    }
}

impl Inner {
    /// Removes a circuit that ended here and tells its session.
    pub(crate) fn end_circuit(&self, circuit: CircuitId, label: Label) {
        self.fabric
            .switch
            .write()
            .expect("no holder panics")
            .remove_label(label);
        self.circuits.remove(circuit);
    }
}
