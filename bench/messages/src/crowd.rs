//! One to many: posts on a topic, a number of them on their way at once, each followed by the
//! next when everybody has it.
//!
//! The nodes are joined by a ring and by chords that are the same for all contenders, so that
//! each has about eight connections.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    BODY, Result,
    stats::{Sample, cpu_time},
};

/// Posts on their way at once.
pub(crate) const IN_FLIGHT: usize = 16;
/// Connections that each node opens, to its neighbour on the ring among others.
const OPENED: usize = 4;
/// How long overlays have to settle once a post has reached everybody.
const SETTLE: Duration = Duration::from_secs(5);
/// Time under load before the measured one.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long a post may take to reach everybody before measuring.
const FIRST: Duration = Duration::from_secs(2);
/// How often that is tried.
const FIRST_TRIES: u64 = 30;
/// After so long a post that has not reached everybody makes room for another one.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Who publishes, and what the others note.
pub(crate) trait Crowd: Send + Sync + 'static {
    /// Publishes a body.
    fn publish(&self, body: Bytes) -> impl Future<Output = Result<()>> + Send;

    /// Where the nodes note what they got.
    fn board(&self) -> &Arc<Board>;
}

/// What was published, and who got it.
#[derive(Debug)]
pub(crate) struct Board {
    readers: usize,
    state: Mutex<State>,
    room: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    on_their_way: HashMap<u64, (Instant, usize)>,
    complete: usize,
    published: usize,
    latencies: Vec<Duration>,
}

impl Board {
    pub(crate) fn new(readers: usize) -> Arc<Self> {
        Arc::new(Self {
            readers,
            state: Mutex::default(),
            room: Arc::new(Semaphore::new(IN_FLIGHT)),
        })
    }

    /// A node other than the publisher got this body.
    pub(crate) fn arrived(&self, body: &[u8]) {
        let Some(number) = body.first_chunk().map(|n| u64::from_be_bytes(*n)) else {
            return;
        };
        let mut state = self.state.lock().expect("no holder panics");
        let Some((start, count)) = state.on_their_way.get_mut(&number) else {
            return;
        };
        *count += 1;
        let (latency, complete) = (start.elapsed(), *count == self.readers);
        state.latencies.push(latency);
        if complete {
            state.on_their_way.remove(&number);
            state.complete += 1;
            self.room.add_permits(1);
        }
    }

    fn publish(&self, number: u64) {
        let mut state = self.state.lock().expect("no holder panics");
        state.published += 1;
        state.on_their_way.insert(number, (Instant::now(), 0));
    }

    /// Makes room for those that do not arrive.
    fn give_up(&self, after: Duration) {
        let mut state = self.state.lock().expect("no holder panics");
        let before = state.on_their_way.len();
        state
            .on_their_way
            .retain(|_, (start, _)| start.elapsed() < after);
        self.room.add_permits(before - state.on_their_way.len());
    }

    fn take(&self) -> State {
        let mut state = self.state.lock().expect("no holder panics");
        let on_their_way = state.on_their_way.clone();
        let new = State {
            on_their_way,
            ..State::default()
        };
        std::mem::replace(&mut state, new)
    }
}

/// Who connects to whom: pairs of nodes, the first of which dials.
pub(crate) fn edges(nodes: usize) -> Vec<(usize, usize)> {
    let mut seed = 7_u64;
    let mut random = move || {
        // SplitMix64.
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize
    };
    let mut edges = Vec::new();
    for node in 0..nodes {
        edges.push((node, (node + 1) % nodes));
        for _ in 1..OPENED {
            let other = random() % nodes;
            let known = edges.contains(&(node, other)) || edges.contains(&(other, node));
            if other != node && !known {
                edges.push((node, other));
            }
        }
    }
    edges
}

/// Measures posts.
pub(crate) async fn run(crowd: impl Crowd, readers: usize, during: Duration) -> Result<Sample> {
    let mut number = first(&crowd).await?;
    tokio::time::sleep(SETTLE).await;
    load(&crowd, &mut number, WARM_UP).await?;
    crowd.board().take();
    let (start, cpu) = (Instant::now(), cpu_time()?);
    load(&crowd, &mut number, during).await?;
    let (took, cpu) = (start.elapsed(), cpu_time()? - cpu);
    let done = crowd.board().take();
    let reach = done.latencies.len() as f64 / (done.published * readers) as f64;
    Sample::new(done.complete, took, cpu, reach.min(1.0), done.latencies)
}

/// Publishes until one has reached everybody.
async fn first(crowd: &impl Crowd) -> Result<u64> {
    let mut most = 0;
    for number in 0..FIRST_TRIES {
        one(crowd, number).await?;
        let end = Instant::now() + FIRST;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let so_far = crowd.board().take();
            if so_far.complete > 0 {
                return Ok(number);
            }
            let counts = so_far.on_their_way.values().map(|(_, count)| *count);
            most = most.max(counts.max().unwrap_or(0));
        }
        crowd.board().give_up(Duration::ZERO);
    }
    Err(format!("no post reached everybody, the best of them {most} nodes").into())
}

async fn load(crowd: &impl Crowd, number: &mut u64, during: Duration) -> Result<()> {
    let end = Instant::now() + during;
    let work = async {
        loop {
            *number += 1;
            one(crowd, *number).await?;
            crowd.board().give_up(GIVE_UP);
        }
    };
    tokio::time::timeout_at(end, work).await.unwrap_or(Ok(()))
}

async fn one(crowd: &impl Crowd, number: u64) -> Result<()> {
    let board = crowd.board();
    let wait = tokio::time::timeout(GIVE_UP, board.room.acquire());
    match wait.await {
        Ok(room) => room?.forget(),
        Err(_) => return Ok(()),
    }
    let mut body = number.to_be_bytes().to_vec();
    body.resize(BODY, 0x5a);
    board.publish(number);
    crowd.publish(body.into()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_connections_and_no_two_nodes_have_two() {
        let edges = edges(101);
        let degree = |n| edges.iter().filter(|(a, b)| *a == n || *b == n).count();
        assert!((0..101).all(|n| degree(n) >= 2));
        let mean = edges.len() as f64 * 2.0 / 101.0;
        assert!((7.0..=8.0).contains(&mean), "{mean}");
        let twice = |(a, b): &(usize, usize)| edges.contains(&(*b, *a));
        assert!(!edges.iter().any(twice));
    }

    #[test]
    fn a_post_is_complete_when_all_have_it() {
        let board = Board::new(2);
        board.publish(5);
        let body = 5_u64.to_be_bytes();
        board.arrived(&body);
        assert_eq!(board.take().complete, 0);
        board.arrived(&body);
        board.arrived(&body);
        let state = board.take();
        assert_eq!((state.complete, state.latencies.len()), (1, 1));
    }
}
