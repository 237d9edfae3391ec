//! Plain gossip: every post goes to every neighbour once. The baseline of comparisons.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use anyhop_base::PeerId;

use super::{
    Event, Frame, PostId, SignedPost, Strategy, Verdict,
    history::{History, News},
    tree::MAX_PENDING,
};

/// Most frames that wait to be fetched; what comes above is lost.
const MAX_TRANSMITS: usize = 8192;

/// The machine of one node.
#[derive(Debug, Default)]
pub struct Flood {
    links: BTreeSet<PeerId>,
    history: History,
    pending: BTreeMap<PostId, (PeerId, Arc<SignedPost>, u8)>,
    transmits: VecDeque<(PeerId, Frame)>,
    events: VecDeque<Event>,
}

impl Flood {
    fn spread(&mut self, post: &Arc<SignedPost>, hops: u8, except: Option<PeerId>) {
        for peer in &self.links {
            if Some(*peer) != except && self.transmits.len() < MAX_TRANSMITS {
                let frame = Frame::Post {
                    post: Arc::clone(post),
                    hops,
                    level: 0,
                    pulled: false,
                };
                self.transmits.push_back((*peer, frame));
            }
        }
    }
}

impl Strategy for Flood {
    fn neighbours(&self) -> Vec<PeerId> {
        self.links.iter().copied().collect()
    }

    fn handle_up(&mut self, _: Instant, peer: PeerId) {
        self.links.insert(peer);
    }

    fn handle_down(&mut self, _: Instant, peer: PeerId) {
        self.links.remove(&peer);
    }

    fn handle_publish(&mut self, now: Instant, post: Arc<SignedPost>) {
        self.history.note(now, &post);
        self.history.keep(now, Arc::clone(&post));
        self.spread(&post, 1, None);
    }

    fn handle_frame(&mut self, now: Instant, from: PeerId, frame: Frame) {
        let Frame::Post { post, hops, .. } = frame else {
            return;
        };
        let new = self.pending.len() < MAX_PENDING
            && matches!(self.history.note(now, &post), News::New | News::WithGap);
        if new {
            let pending = (from, Arc::clone(&post), hops);
            self.pending.insert(post.id(), pending);
            self.events.push_back(Event::Arrived { from, post, hops });
        }
    }

    fn handle_verdict(&mut self, now: Instant, id: &PostId, verdict: Verdict) {
        let Some((from, post, hops)) = self.pending.remove(id) else {
            return;
        };
        if verdict == Verdict::Accept {
            self.history.keep(now, Arc::clone(&post));
            self.spread(&post, hops.saturating_add(1), Some(from));
        }
    }

    fn has(&self, id: &PostId) -> bool {
        self.history.get(id).is_some()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_transmit(&mut self) -> Option<(PeerId, Frame)> {
        self.transmits.pop_front()
    }
}
