//! Topics: the shell around `anyhop_proto::broadcast::Topics`.
//!
//! Every peer that has something to be told has an outlet (`outlet`): two tasks with bounded
//! queues, each writing frames on a long-lived stream of its own, one for what is short and
//! one for posts, so that a stalled peer holds up neither its own control frames nor anybody
//! else. A full queue loses frames, which the machine repairs. Bodies too large for a post are
//! pulled from a peer on streams of their own (`body`). `member` is what handles and
//! subscriptions share.

mod body;
mod member;
mod outlet;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, Weak, atomic::AtomicU64},
};

use anyhop_base::{NetworkId, PeerId};
use anyhop_proto::broadcast::{
    Content, Frames, MAX_TOPIC_FRAME, Report, SignedPost, TopicFrameError, TopicId, Topics,
    TopicsEvent, Transmit, Verdict,
};
use bytes::Bytes;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};

pub(crate) use member::Member;

use super::Inner;
use crate::{
    Encoding, Posted, StreamError, Topic, TopicError, TopicInfo,
    engine::random_seed,
    session::Conn,
    stream::{RecvStream, read_frame_or_end},
    topic::{VERDICT_WITHIN, check_name, id_of},
};

/// What the tasks of a node share about topics.
#[derive(Debug)]
pub(super) struct TopicsShell {
    broadcast: TopicId,
    machine: Mutex<Topics>,
    members: Mutex<BTreeMap<TopicId, Weak<Member>>>,
    outlets: Mutex<HashMap<PeerId, outlet::Outlet>>,
    bodies: body::Bodies,
    reports: Mutex<HashMap<u64, oneshot::Sender<Report>>>,
    /// The machine may be due at another time than before.
    changed: Notify,
    /// The highest sequence number used so far: a topic that is gone on anew begins above.
    last_seq: AtomicU64,
    /// Frames that found a queue full.
    dropped: AtomicU64,
}

impl TopicsShell {
    pub(super) fn new(me: PeerId, network: NetworkId) -> Self {
        let broadcast = id_of(network, "");
        Self {
            broadcast,
            machine: Mutex::new(Topics::new(me, broadcast, random_seed())),
            members: Mutex::default(),
            outlets: Mutex::default(),
            bodies: body::Bodies::default(),
            reports: Mutex::default(),
            changed: Notify::new(),
            last_seq: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    fn machine(&self) -> MutexGuard<'_, Topics> {
        self.machine.lock().expect("no holder panics")
    }

    fn member(&self, id: &TopicId) -> Option<Arc<Member>> {
        let members = self.members.lock().expect("no holder panics");
        members.get(id)?.upgrade()
    }
}

impl Inner {
    /// The handle of a topic, which this node goes on if it is not there yet.
    pub(super) fn topic(self: &Arc<Self>, name: &str) -> Result<Topic, TopicError> {
        check_name(name)?;
        let id = id_of(self.network_id, name);
        let mut members = self.topics.members.lock().expect("no holder panics");
        if let Some(member) = members.get(&id).and_then(Weak::upgrade) {
            return Ok(Topic(member));
        }
        let joined = self.topics.machine().join(now(), id);
        if !joined {
            return Err(TopicError::TooManyTopics);
        }
        let member = Arc::new(Member::new(self, id, name));
        members.insert(id, Arc::downgrade(&member));
        drop(members);
        self.drain_topics();
        Ok(Topic(member))
    }

    /// The topics that this node is on.
    pub(super) fn topic_infos(&self) -> Vec<TopicInfo> {
        let members = self.topics.members.lock().expect("no holder panics");
        let members: Vec<_> = members.values().filter_map(Weak::upgrade).collect();
        let mut infos: Vec<_> = members.iter().map(|m| m.info()).collect();
        infos.sort_by(|a, b| a.topic.cmp(&b.topic));
        infos
    }

    /// A connection of a session with a peer is live.
    pub(super) fn topics_connected(self: &Arc<Self>, peer: PeerId) {
        self.topics.machine().handle_connected(now(), peer);
        self.drain_topics();
    }

    /// The last connection of a session has ended, or none could be opened.
    pub(super) fn topics_disconnected(self: &Arc<Self>, peer: PeerId) {
        self.topics.machine().handle_disconnected(now(), peer);
        self.drain_topics();
    }

    /// Has the machine do what is due in time.
    pub(super) async fn keep_topics(self: Arc<Self>) {
        loop {
            let due = self.topics.machine().poll_timeout();
            let changed = self.topics.changed.notified();
            match due {
                Some(due) => tokio::select! {
                    () = sleep_until(Instant::from_std(due)) => {
                        self.topics.machine().handle_timeout(now());
                        self.drain_topics();
                    }
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Takes the frames that a peer sends on a stream, for as long as it does.
    pub(super) async fn serve_topics(
        self: &Arc<Self>,
        conn: &Conn,
        recv: &mut RecvStream,
    ) -> Result<(), StreamError> {
        while let Some(frame) = read_frame_or_end(recv, MAX_TOPIC_FRAME).await? {
            let frames = Frames::decode(&frame, self.now_unix_s());
            self.take_frames(conn.peer, frames);
        }
        Ok(())
    }

    fn take_frames(self: &Arc<Self>, from: PeerId, frames: Result<Frames, TopicFrameError>) {
        if let Err(error) = &frames {
            tracing::debug!(peer = %from, %error, "a frame of a topic was refused");
        }
        {
            let mut machine = self.topics.machine();
            match frames {
                Ok(Frames::Announcement(topics)) => {
                    machine.handle_announcement(now(), from, topics);
                }
                Ok(Frames::Frame(frame)) => machine.handle_frame(now(), from, Ok(frame)),
                Err(e) => machine.handle_frame(now(), from, Err(e)),
            }
        }
        self.drain_topics();
    }

    /// Does what the machine says.
    fn drain_topics(self: &Arc<Self>) {
        let (mut events, mut transmits) = (Vec::new(), Vec::new());
        {
            let mut machine = self.topics.machine();
            while let Some(event) = machine.poll_event() {
                events.push(event);
            }
            while let Some(transmit) = machine.poll_transmit() {
                transmits.push(transmit);
            }
        }
        for Transmit {
            peer,
            frames,
            worth_a_dial,
        } in transmits
        {
            self.tell_on_topic(peer, &frames, worth_a_dial);
        }
        for event in events {
            match event {
                TopicsEvent::Arrived {
                    topic,
                    from,
                    post,
                    hops,
                } => self.post_arrived(topic, from, post, hops),
                TopicsEvent::Report(report) => self.report_came(report),
            }
        }
        self.topics.changed.notify_one();
    }

    fn report_came(&self, report: Report) {
        let mut reports = self.topics.reports.lock().expect("no holder panics");
        if let Some(waiting) = reports.remove(&report.nonce) {
            // Whoever asked may have left.
            let _ = waiting.send(report);
        }
    }

    /// Gets the body if it is not here, has the post judged, and delivers it.
    fn post_arrived(
        self: &Arc<Self>,
        topic: TopicId,
        from: PeerId,
        post: Arc<SignedPost>,
        hops: u8,
    ) {
        if self.is_former_member(post.post().origin) {
            tracing::debug!(post = %post.id(), origin = %post.post().origin, "a post of a former member was left");
            let none = posted(&post, Bytes::new(), hops);
            return self.judged(topic, from, &none, Verdict::Ignore);
        }
        let member = self.topics.member(&topic);
        let validator = member.as_ref().and_then(|m| m.validator());
        if let (Content::Inline(body), None) = (&post.post().content, &validator) {
            let posted = posted(&post, Bytes::copy_from_slice(body), hops);
            return self.judged(topic, from, &posted, Verdict::Accept);
        }
        let node = Arc::clone(self);
        self.spawn(async move {
            let body = match &post.post().content {
                Content::Inline(body) => Some(Bytes::copy_from_slice(body)),
                Content::Parts { .. } => node.pull_body(topic, from, &post).await,
            };
            let Some(body) = body else {
                let none = posted(&post, Bytes::new(), hops);
                return node.judged(topic, from, &none, Verdict::Ignore);
            };
            let posted = posted(&post, body, hops);
            let verdict = match validator {
                Some(validator) => {
                    let judging = timeout(VERDICT_WITHIN, (validator.0)(posted.clone()));
                    judging.await.unwrap_or(Verdict::Ignore)
                }
                None => Verdict::Accept,
            };
            node.judged(topic, from, &posted, verdict);
        });
    }

    fn judged(self: &Arc<Self>, topic: TopicId, from: PeerId, post: &Posted, verdict: Verdict) {
        if verdict == Verdict::Accept
            && let Some(member) = self.topics.member(&topic)
        {
            member.deliver(post);
        }
        self.topics
            .machine()
            .handle_verdict(now(), topic, from, &post.id, verdict);
        self.drain_topics();
    }
}

fn posted(post: &SignedPost, body: Bytes, hops: u8) -> Posted {
    Posted {
        id: post.id(),
        from: post.post().origin,
        seq: post.post().seq,
        encoding: Encoding::from_tag(post.post().encoding),
        body,
        hops,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
