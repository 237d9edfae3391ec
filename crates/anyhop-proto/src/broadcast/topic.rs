//! One topic at one node: its neighbours, how posts spread, and who has one.
//!
//! **Who has a post** is asked along all links. A node asks its neighbours, gives each a share
//! of the time that it has itself, and answers with the sum when all have answered or the
//! time is over. One question is taken once, by its nonce, so every node counts once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhop_base::PeerId;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    Event, Frame, PostId, SignedPost, Strategy, Verdict, View, ViewEvent, wire::MAX_REPORTED,
};

/// Questions under way at once; more are not taken.
const MAX_QUESTIONS: usize = 64;
/// Share of a question's time that neighbours get.
const SHARE: f64 = 0.8;
/// With less time than this nobody else is asked.
const LEAST_TIME: Duration = Duration::from_millis(50);
/// Longest time of a question.
pub const LONGEST_QUESTION: Duration = Duration::from_secs(60);

/// Where the neighbours on a topic come from.
#[derive(Debug)]
pub enum Overlay {
    /// The caller says who is one: all peers with a session.
    Given,
    /// They are chosen among those who are on the topic.
    Chosen(Box<View>),
}

/// Who has a post, as far as answers came in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Names the question.
    pub nonce: u64,
    /// The post.
    pub post: PostId,
    /// Nodes that have it, this one included.
    pub have: u32,
    /// Nodes that were asked, this one included.
    pub asked: u32,
    /// Who has it, as far as there was room.
    pub peers: Vec<PeerId>,
}

#[derive(Debug)]
struct Question {
    /// Who asked; `None` when this node did.
    parent: Option<PeerId>,
    waiting: BTreeSet<PeerId>,
    report: Report,
    due: Instant,
    answered: bool,
}

/// The machine of one node on one topic. See the module.
#[derive(Debug)]
pub struct Topic {
    me: PeerId,
    rng: StdRng,
    overlay: Overlay,
    strategy: Box<dyn Strategy>,
    questions: BTreeMap<u64, Question>,
    transmits: VecDeque<(PeerId, Frame)>,
    reports: VecDeque<Report>,
}

impl Topic {
    /// Of a node without neighbours.
    #[must_use]
    pub fn new(me: PeerId, overlay: Overlay, strategy: Box<dyn Strategy>, seed: [u8; 32]) -> Self {
        Self {
            me,
            strategy,
            rng: StdRng::from_seed(seed),
            overlay,
            questions: BTreeMap::new(),
            transmits: VecDeque::new(),
            reports: VecDeque::new(),
        }
    }

    /// The neighbours.
    #[must_use]
    pub fn neighbours(&self) -> Vec<PeerId> {
        self.strategy.neighbours()
    }

    /// Whether the caller should look for others on the topic; see [`View::seeks`].
    #[must_use]
    pub fn seeks(&mut self, now: Instant) -> bool {
        match &mut self.overlay {
            Overlay::Given => false,
            Overlay::Chosen(view) => view.seeks(now),
        }
    }

    /// Others known to be on the topic, neighbours first.
    #[must_use]
    pub fn known(&self) -> Vec<PeerId> {
        let mut known = self.strategy.neighbours();
        if let Overlay::Chosen(view) = &self.overlay {
            known.extend(view.passive());
        }
        known
    }

    /// This peer is on the topic, and may become a neighbour.
    pub fn handle_candidate(&mut self, now: Instant, peer: PeerId) {
        match &mut self.overlay {
            Overlay::Given => self.strategy.handle_up(now, peer),
            Overlay::Chosen(view) => view.handle_candidate(now, peer),
        }
        self.follow(now);
    }

    /// There is no session with the peer any more, or none could be opened.
    pub fn handle_disconnected(&mut self, now: Instant, peer: PeerId) {
        match &mut self.overlay {
            Overlay::Given => self.strategy.handle_down(now, peer),
            Overlay::Chosen(view) => view.handle_disconnected(now, peer),
        }
        self.follow(now);
        self.not_answering(&peer);
    }

    /// A frame of a peer.
    pub fn handle_frame(&mut self, now: Instant, from: PeerId, frame: Frame) {
        let is_neighbour = match &mut self.overlay {
            Overlay::Given => self.strategy.neighbours().contains(&from),
            Overlay::Chosen(view) => {
                if concerns_neighbours(&frame) {
                    view.set_needed(self.strategy.needed());
                    view.handle_frame(now, from, frame);
                    self.follow(now);
                    return;
                }
                // Has room, or refuses: gives up nobody.
                if !view.is_active(&from) && !matches!(frame, Frame::Answer { .. }) {
                    view.handle_stranger(now, from);
                }
                view.is_active(&from)
            }
        };
        self.follow(now);
        match frame {
            Frame::Ask {
                post,
                nonce,
                within_ms,
            } => {
                if is_neighbour {
                    let within = Duration::from_millis(u64::from(within_ms));
                    self.take_question(now, from, post, nonce, within);
                }
            }
            Frame::Answer {
                nonce,
                have,
                asked,
                peers,
            } => self.take_answer(from, nonce, (have, asked), peers),
            frame => self.strategy.handle_frame(now, from, frame),
        }
    }

    /// Publishes a post of this node.
    pub fn publish(&mut self, now: Instant, post: Arc<SignedPost>) {
        self.strategy.handle_publish(now, post);
    }

    /// What is to become of a post that arrived.
    pub fn handle_verdict(&mut self, now: Instant, id: &PostId, verdict: Verdict) {
        self.strategy.handle_verdict(now, id, verdict);
    }

    /// Asks who has a post. The answer is a [`Report`] within this time; its nonce.
    pub fn ask(&mut self, now: Instant, post: PostId, within: Duration) -> u64 {
        let nonce = self.rng.random();
        self.question(now, None, post, nonce, within);
        nonce
    }

    /// Leaves the topic: the last frames then tell the neighbours.
    pub fn leave(&mut self) {
        if let Overlay::Chosen(view) = &mut self.overlay {
            view.leave();
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let view = match &self.overlay {
            Overlay::Given => None,
            Overlay::Chosen(view) => Some(view.poll_timeout()),
        };
        let questions = self.questions.values().map(|q| q.due);
        let tree = self.strategy.poll_timeout();
        questions.chain(view).chain(tree).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Overlay::Chosen(view) = &mut self.overlay
            && view.poll_timeout() <= now
        {
            view.handle_timeout(now);
            self.follow(now);
        }
        if self.strategy.poll_timeout().is_some_and(|at| at <= now) {
            self.strategy.handle_timeout(now);
        }
        let due = self.questions.iter().filter(|(_, q)| q.due <= now);
        let due: Vec<_> = due.map(|(nonce, _)| *nonce).collect();
        for nonce in due {
            self.answer(nonce);
            self.questions.remove(&nonce);
        }
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.strategy.poll_event()
    }

    /// The next answer to [`ask`](Self::ask).
    pub fn poll_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// The next frame. See `is_worth_a_dial`.
    pub fn poll_transmit(&mut self) -> Option<(PeerId, Frame)> {
        if let Overlay::Chosen(view) = &mut self.overlay
            && let Some(transmit) = view.poll_transmit()
        {
            return Some(transmit);
        }
        let own = self.transmits.pop_front();
        own.or_else(|| self.strategy.poll_transmit())
    }

    /// Tells the strategy which neighbours came and went.
    fn follow(&mut self, now: Instant) {
        let Overlay::Chosen(view) = &mut self.overlay else {
            return;
        };
        let mut gone = Vec::new();
        while let Some(event) = view.poll_event() {
            match event {
                ViewEvent::Up(peer) => self.strategy.handle_up(now, peer),
                ViewEvent::Down(peer) => {
                    self.strategy.handle_down(now, peer);
                    gone.push(peer);
                }
            }
        }
        for peer in gone {
            self.not_answering(&peer);
        }
    }

    fn take_question(
        &mut self,
        now: Instant,
        from: PeerId,
        post: PostId,
        nonce: u64,
        within: Duration,
    ) {
        if self.questions.contains_key(&nonce) || self.questions.len() >= MAX_QUESTIONS {
            let counted = Frame::Answer {
                nonce,
                have: 0,
                asked: 0,
                peers: Vec::new(),
            };
            self.transmits.push_back((from, counted));
            return;
        }
        self.question(now, Some(from), post, nonce, within.min(LONGEST_QUESTION));
    }

    fn question(
        &mut self,
        now: Instant,
        parent: Option<PeerId>,
        post: PostId,
        nonce: u64,
        within: Duration,
    ) {
        let has = self.strategy.has(&post);
        let shared = within.mul_f64(SHARE);
        let neighbours = self.strategy.neighbours().into_iter();
        let waiting: BTreeSet<_> = neighbours
            .filter(|p| Some(*p) != parent && shared >= LEAST_TIME)
            .collect();
        let within_ms = u32::try_from(shared.as_millis()).unwrap_or(u32::MAX);
        for peer in &waiting {
            let ask = Frame::Ask {
                post,
                nonce,
                within_ms,
            };
            self.transmits.push_back((*peer, ask));
        }
        let question = Question {
            parent,
            waiting,
            report: Report {
                nonce,
                post,
                have: u32::from(has),
                asked: 1,
                peers: has.then_some(self.me).into_iter().collect(),
            },
            // The parent waits for longer than its neighbours have time.
            due: now + within,
            answered: false,
        };
        let alone = question.waiting.is_empty();
        self.questions.insert(nonce, question);
        if alone {
            self.answer(nonce);
        }
    }

    fn take_answer(
        &mut self,
        from: PeerId,
        nonce: u64,
        (have, asked): (u32, u32),
        peers: Vec<PeerId>,
    ) {
        let Some(question) = self.questions.get_mut(&nonce) else {
            return;
        };
        if !question.waiting.remove(&from) {
            return;
        }
        let report = &mut question.report;
        report.have = report.have.saturating_add(have);
        report.asked = report.asked.saturating_add(asked);
        let room = MAX_REPORTED - report.peers.len();
        report.peers.extend(peers.into_iter().take(room));
        if question.waiting.is_empty() {
            self.answer(nonce);
        }
    }

    fn not_answering(&mut self, peer: &PeerId) {
        let mut complete = Vec::new();
        for (nonce, question) in &mut self.questions {
            if question.waiting.remove(peer) && question.waiting.is_empty() {
                complete.push(*nonce);
            }
        }
        for nonce in complete {
            self.answer(nonce);
        }
    }

    /// Gives the answer, once. The question is remembered until its time is over, since it
    /// may come along other links still.
    fn answer(&mut self, nonce: u64) {
        let Some(question) = self.questions.get_mut(&nonce) else {
            return;
        };
        if std::mem::replace(&mut question.answered, true) {
            return;
        }
        let report = question.report.clone();
        match question.parent {
            None => self.reports.push_back(report),
            Some(parent) => {
                let answer = Frame::Answer {
                    nonce,
                    have: report.have,
                    asked: report.asked,
                    peers: report.peers,
                };
                self.transmits.push_back((parent, answer));
            }
        }
    }
}

fn concerns_neighbours(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::Join
            | Frame::ForwardJoin { .. }
            | Frame::Neighbour { .. }
            | Frame::Accepted
            | Frame::Disconnect
            | Frame::Shuffle { .. }
            | Frame::ShuffleReply(_)
    )
}

/// Whether a session is to be opened for a frame, should there be none.
#[must_use]
pub(super) fn is_worth_a_dial(frame: &Frame) -> bool {
    matches!(frame, Frame::Join | Frame::Neighbour { .. })
}
