//! Watching the paths of a session.

use std::time::Duration;

use anyhop::{Event, Node, PathInfo, PathKind, PeerId};
use tokio::{
    sync::{broadcast::error::RecvError, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{DemoError, Who};

/// Pause between two looks at a session when no event calls for one.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is known of one session's paths.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The path selected now, with when that was noticed.
    pub(super) selected: Option<(Instant, PathInfo)>,
    /// The first path that was selected.
    pub(super) first: Option<PathInfo>,
    /// Last round trip that a circuit of the session told.
    pub(super) circuit_rtt_ms: Option<f64>,
}

impl Seen {
    fn look(&mut self, path: Option<PathInfo>) {
        let Some(path) = path else {
            self.selected = None;
            return;
        };
        if path.kind == PathKind::Circuit && path.rtt_ms > 0.0 {
            self.circuit_rtt_ms = Some(path.rtt_ms);
        }
        self.first.get_or_insert_with(|| path.clone());
        let since = match &self.selected {
            Some((since, before)) if same(before, &path) => *since,
            _ => Instant::now(),
        };
        self.selected = Some((since, path));
    }

    /// Kind of the path selected now.
    pub(super) fn kind(&self) -> Option<PathKind> {
        self.selected.as_ref().map(|(_, path)| path.kind)
    }
}

fn same(a: &PathInfo, b: &PathInfo) -> bool {
    (a.kind, &a.remote, &a.via) == (b.kind, &b.remote, &b.via)
}

/// Follows the paths that one node has to one peer, from before there is a session.
#[derive(Debug)]
pub(super) struct Watch {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
    pair: (&'static str, &'static str),
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Begins to watch what `from` has to `to`.
    pub(super) fn new(from: &Who, to: &Who) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(follow(from.node.clone(), to.peer, sender));
        Self {
            seen,
            task,
            pair: (from.name, to.name),
        }
    }

    /// What is known now.
    pub(super) fn now(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until some path is selected; answers the first that was.
    pub(super) async fn first(&mut self, within: Duration) -> Result<PathInfo, DemoError> {
        self.until("a path", within, |seen| seen.first.clone())
            .await
    }

    /// Waits until a path of `kind` is selected; answers it and when that was noticed.
    pub(super) async fn selected(
        &mut self,
        kind: PathKind,
        within: Duration,
    ) -> Result<(Instant, PathInfo), DemoError> {
        let what = match kind {
            PathKind::Direct => "a direct path",
            PathKind::Circuit => "a circuit",
        };
        self.until(what, within, |seen| {
            seen.selected.clone().filter(|(_, path)| path.kind == kind)
        })
        .await
    }

    async fn until<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut pick: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<T, DemoError> {
        let wait = self.seen.wait_for(|seen| pick(seen).is_some());
        if let Ok(Ok(seen)) = tokio::time::timeout(within, wait).await {
            let seen = seen.clone();
            if let Some(found) = pick(&seen) {
                return Ok(found);
            }
        }
        let instead = match self.now().selected {
            Some((_, path)) => format!("{:?} to {}, via {:?}", path.kind, path.remote, path.via),
            None => "no path".to_owned(),
        };
        let (from, to) = self.pair;
        Err(DemoError::NotSeen {
            what: format!("{what} between {from} and {to}"),
            within,
            instead,
        })
    }
}

async fn follow(node: Node, peer: PeerId, seen: watch::Sender<Seen>) {
    let mut events = node.events();
    loop {
        let event = tokio::time::timeout(LOOK_EVERY, events.recv()).await;
        let told = match event {
            Ok(Ok(Event::PathSelected { peer: of, path })) if of == peer => Some(path),
            Ok(Err(RecvError::Closed)) => return,
            _ => None,
        };
        let path = told.or_else(|| selected(&node, peer));
        seen.send_if_modified(|seen| {
            let before = seen.selected.clone().map(|(since, _)| since);
            seen.look(path);
            before != seen.selected.as_ref().map(|(since, _)| *since)
        });
    }
}

/// The path that new data to `peer` goes over.
pub(super) fn selected(node: &Node, peer: PeerId) -> Option<PathInfo> {
    let session = node.session_info(peer)?;
    session.paths.into_iter().find(|path| path.selected)
}
