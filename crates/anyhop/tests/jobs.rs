//! Jobs: published on a topic, bid on, and done by who was chosen.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "../examples/worker.rs"]
#[expect(dead_code, reason = "its main is for who runs it")]
mod worker;

use std::{collections::BTreeMap, time::Duration};

use anyhop::{
    BidVerdict, Config, Constraint, Encoding, JobError, JobSpec, Keypair, Message, MessageError,
    Node, PeerAddr, work_type,
};
use tokio::time::{Instant, sleep, timeout};

use common::{World, attached, config, start};

const SECOND: Duration = Duration::from_secs(1);
const TOPIC: &str = "work";

/// A relay and two workers that know it.
async fn three(seed: u64) -> (World, [Node; 2]) {
    let world = World::new(seed).await;
    let mut nodes = Vec::new();
    for n in 0..2_u8 {
        let ip = std::net::Ipv4Addr::new(203, 0, 113, 20 + n);
        let host = world.net.public_host(&format!("worker-{n}"), ip);
        let config = Config {
            bootstrap: vec![world.bootstrap()],
            ..config()
        };
        let node = start(&host, config).await;
        attached(&node).await;
        nodes.push(node);
    }
    let nodes = nodes.try_into().unwrap();
    (world, nodes)
}

fn spec(lifetime: u64) -> JobSpec {
    JobSpec {
        lifetime: SECOND * u32::try_from(lifetime).unwrap(),
        ..JobSpec::text("count-words", "how many?")
    }
}

#[tokio::test(start_paused = true)]
async fn bids_come_with_their_proven_authors_and_the_chosen_one_gets_the_work() {
    let (world, [first, second]) = three(1).await;
    let publisher = &world.relay;
    let mut watches = [&first, &second].map(|n| n.jobs(TOPIC).unwrap().watch());
    sleep(SECOND).await;
    let mut own = publisher.jobs(TOPIC).unwrap().publish(spec(60)).unwrap();
    for (watch, price) in watches.iter_mut().zip(["3", "2"]) {
        let job = watch.next().await.unwrap();
        assert_eq!((job.id, job.publisher), (own.id(), publisher.peer_id()));
        assert_eq!((&*job.kind, &*job.body), ("count-words", &b"how many?"[..]));
        job.bid(Encoding::Json, price).await.unwrap();
        let again = job.bid(Encoding::Json, price).await;
        assert!(matches!(again, Err(JobError::Answered(_))));
    }
    let bids = [own.next_bid().await.unwrap(), own.next_bid().await.unwrap()];
    let best = bids.iter().min_by_key(|b| b.body.clone()).unwrap();
    assert_eq!(best.from, second.peer_id());
    let kind = work_type(own.id());
    let worker = tokio::spawn(async move {
        let work = second.recv_type(&kind).await.unwrap();
        assert_eq!(&*work.message.body, b"a b c");
        work.reply.unwrap().reply(Message::text("3")).await.unwrap();
    });
    let result = own.award(best.from, Encoding::Utf8, "a b c", SECOND * 5);
    assert_eq!(result.await.unwrap(), Message::text("3"));
    worker.await.unwrap();
    // Closed, it takes no more, and who waits for bids is told.
    own.close();
    assert_eq!(own.next_bid().await, None);
    assert_eq!(own.bids().unwrap(), bids);
}

#[tokio::test(start_paused = true)]
async fn work_is_taken_of_whom_one_has_bid_to_only() {
    let (world, [worker, other]) = three(2).await;
    worker.refuse_unhandled(true);
    let mut watch = worker.jobs(TOPIC).unwrap().watch();
    sleep(SECOND).await;
    let own = world.relay.jobs(TOPIC).unwrap().publish(spec(60)).unwrap();
    let job = watch.next().await.unwrap();
    let hand_out = |to: &Node| own.award(to.peer_id(), Encoding::Utf8, "w", SECOND * 5);
    let early = hand_out(&worker).await;
    assert!(matches!(early, Err(MessageError::NoResponder { .. })));
    job.bid(Encoding::Utf8, "mine").await.unwrap();
    let forged = Message {
        kind: work_type(own.id()),
        ..Message::text("w")
    };
    let forged = other.request(worker.peer_id(), forged, SECOND * 5).await;
    assert!(matches!(forged, Err(MessageError::NoResponder { .. })));
    let answering = tokio::spawn(async move {
        let work = job.work().await.unwrap();
        work.reply.unwrap().reply(work.message).await.unwrap();
    });
    assert_eq!(&*hand_out(&worker).await.unwrap().body, b"w");
    answering.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_excluded_are_not_asked_and_refused_if_they_bid() {
    let (world, [excluded, other]) = three(3).await;
    let mut shown = excluded.jobs(TOPIC).unwrap().watch();
    let mut watch = other.jobs(TOPIC).unwrap().watch();
    sleep(SECOND).await;
    let jobs = world.relay.jobs(TOPIC).unwrap();
    let own = jobs.publish(JobSpec {
        exclude: vec![excluded.peer_id()],
        ..spec(20)
    });
    let own = own.unwrap();
    assert_eq!(watch.next().await.unwrap().id, own.id());
    assert!(timeout(SECOND * 30, shown.next()).await.is_err());
    let unknown = excluded.own_job(own.id());
    assert!(matches!(unknown, Err(JobError::Unknown(_))));
    assert!(own.bids().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_is_shown_a_job_that_is_open_and_its_time_ends_it() {
    let (world, [worker, _]) = three(4).await;
    let jobs = world.relay.jobs(TOPIC).unwrap();
    let begun = Instant::now();
    let mut own = jobs.publish(spec(150)).unwrap();
    sleep(SECOND * 30).await;
    let mut watch = worker.jobs(TOPIC).unwrap().watch();
    let job = watch.next().await.unwrap();
    assert_eq!(job.id, own.id());
    // It is repeated, and shown once.
    assert!(timeout(SECOND * 65, watch.next()).await.is_err());
    assert_eq!(own.next_bid().await, None);
    let took = begun.elapsed();
    assert!(took >= SECOND * 149 && took < SECOND * 152, "{took:?}");
    let late = job.bid(Encoding::Utf8, "late").await;
    assert!(matches!(late, Err(JobError::Expired(_))), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_has_closed_the_job_says_so_and_one_that_is_gone_can_be_tried_again() {
    let (world, [worker, publisher]) = three(5).await;
    let mut watch = worker.jobs(TOPIC).unwrap().watch();
    sleep(SECOND).await;
    let own = publisher.jobs(TOPIC).unwrap().publish(spec(600)).unwrap();
    let closed = publisher.jobs(TOPIC).unwrap().publish(spec(500)).unwrap();
    let mut offered = [watch.next().await.unwrap(), watch.next().await.unwrap()];
    offered.sort_by_key(|job| job.expires_unix_s);
    let [closes, stays] = offered;
    closed.close();
    let late = closes.bid(Encoding::Utf8, "late").await;
    let expired = |e: &JobError| matches!(e, JobError::NotTaken { verdict, .. } if *verdict == BidVerdict::Expired);
    assert!(expired(late.as_ref().unwrap_err()), "{late:?}");
    assert_eq!(stays.id, own.id());
    publisher.close().await;
    for _ in 0..2 {
        let gone = stays.bid(Encoding::Utf8, "anybody?").await;
        assert!(matches!(gone, Err(JobError::NotPlaced { .. })), "{gone:?}");
    }
    drop(world);
}

#[tokio::test(start_paused = true)]
async fn what_is_beyond_a_limit_is_not_published() {
    let (world, _workers) = three(6).await;
    let jobs = world.relay.jobs(TOPIC).unwrap();
    for lifetime in [0, 24 * 3600 + 1] {
        let refused = jobs.publish(spec(lifetime));
        assert!(matches!(refused, Err(JobError::Expired(_))));
    }
    let large = JobSpec {
        body: vec![b' '; anyhop::MAX_JOB_LEN].into(),
        ..spec(9)
    };
    assert!(matches!(jobs.publish(large), Err(JobError::Format { .. })));
    let binary = JobSpec {
        body: vec![0xff].into(),
        ..spec(9)
    };
    assert!(matches!(jobs.publish(binary), Err(JobError::Topic(_))));
    let taken = world
        .relay
        .on_message("anyhop.job.bid/1", SECOND, |_, _| async { None });
    assert!(taken.is_err());
}

/// The example, over this host's loopback interface.
#[tokio::test]
async fn the_example_worker_bids_on_what_it_may_do_and_does_it() {
    let listening = || Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        ..Config::default()
    };
    let publisher = Node::start(Keypair::generate_ed25519(), listening()).await;
    let publisher = publisher.unwrap();
    let addr: PeerAddr = publisher.addresses()[0].to_string().parse().unwrap();
    let config = Config {
        bootstrap: vec![addr],
        ..listening()
    };
    let node = Node::start(Keypair::generate_ed25519(), config)
        .await
        .unwrap();
    let (running, me) = (node.clone(), node.peer_id());
    let working = tokio::spawn(async move {
        let have = BTreeMap::from([("cores".to_owned(), "8".to_owned())]);
        worker::work(&running, TOPIC, &have)
            .await
            .map_err(|e| e.to_string())
    });
    let jobs = publisher.jobs(TOPIC).unwrap();
    let asked = |constraint: &str| JobSpec {
        constraints: vec![constraint.parse::<Constraint>().unwrap()],
        ..spec(60)
    };
    let cannot = jobs.publish(asked("cores>=9")).unwrap();
    let mut can = jobs.publish(asked("cores>=8")).unwrap();
    let bid = can.next_bid().await.unwrap();
    assert_eq!((bid.from, &*bid.body), (me, &br#"{"price":1}"#[..]));
    let result = can.award(me, Encoding::Utf8, "to be or not to be", SECOND * 30);
    assert_eq!(result.await.unwrap(), Message::text("6"));
    assert!(cannot.bids().unwrap().is_empty());
    node.close().await;
    working.await.unwrap().unwrap();
}
