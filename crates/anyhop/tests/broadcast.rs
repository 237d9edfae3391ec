//! Messages to many: topics, what goes to all, large bodies, validators, reports.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhop::{Config, Encoding, Node, PostVerdict, Posted, Subscription, Topic};
use tokio::time::{sleep, timeout};

use common::{World, attached, config, eventually, link, pattern, start};

/// Nodes that know one relay, with links of some milliseconds.
async fn crowd(world: &World, n: u8) -> Vec<Node> {
    crowd_with(world, n, config()).await
}

async fn crowd_with(world: &World, n: u8, config: Config) -> Vec<Node> {
    let mut nodes = Vec::new();
    for i in 0..n {
        let ip = Ipv4Addr::new(203, 0, 113, 20 + i);
        let host = world.net.public_host(&format!("node-{i}"), ip);
        let config = Config {
            bootstrap: vec![world.bootstrap()],
            ..config.clone()
        };
        nodes.push(start(&host.with_link(link(10)), config).await);
    }
    for node in &nodes {
        attached(node).await;
    }
    nodes
}

/// Has them go on a topic; returns once all have neighbours there.
async fn on_topic(nodes: &[Node], name: &str) -> Vec<(Topic, Subscription)> {
    let topics = nodes.iter().map(|n| n.topic(name).unwrap());
    let all: Vec<_> = topics.map(|t| (t.clone(), t.subscribe())).collect();
    let wanted = 2.min(nodes.len() - 1);
    eventually("neighbours", Duration::from_secs(60), || {
        all.iter().all(|(t, _)| t.neighbours().len() >= wanted)
    })
    .await;
    all
}

async fn next(subscription: &mut Subscription) -> Posted {
    let next = timeout(Duration::from_secs(30), subscription.next()).await;
    next.expect("within 30 s").expect("the node runs")
}

async fn nothing_more(subscription: &mut Subscription) {
    let more = timeout(Duration::from_secs(10), subscription.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_published_reaches_everybody_on_the_topic_once_and_in_order() {
    let world = World::new(1).await;
    let nodes = crowd(&world, 8).await;
    let mut news = on_topic(&nodes[..7], "news").await;
    let other = nodes[7].topic("other").unwrap();
    let mut other = other.subscribe();
    let mut first_seq = 0;
    for text in ["one", "two", "three"] {
        let published = news[0].0.publish(Encoding::Utf8, text).unwrap();
        if text == "one" {
            first_seq = published.seq;
        }
        sleep(Duration::from_secs(1)).await;
    }
    for (_, subscription) in &mut news {
        for (i, text) in (0..).zip(["one", "two", "three"]) {
            let post = next(subscription).await;
            assert_eq!(post.from, nodes[0].peer_id());
            assert_eq!(post.seq, first_seq + i);
            assert_eq!(
                (post.encoding, &post.body[..]),
                (Encoding::Utf8, text.as_bytes())
            );
        }
        nothing_more(subscription).await;
    }
    nothing_more(&mut other).await;
    let info = &nodes[0].topics()[0];
    assert_eq!(
        (info.topic.as_str(), info.subscribers, info.posts),
        ("news", 1, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn what_goes_to_all_reaches_every_node_and_opens_no_session() {
    let world = World::new(2).await;
    let nodes = crowd(&world, 6).await;
    let mut all: Vec<_> = nodes
        .iter()
        .map(|n| n.to_all().unwrap().subscribe())
        .collect();
    let sessions = |nodes: &[Node]| nodes.iter().map(|n| n.sessions().len()).sum::<usize>();
    sleep(Duration::from_secs(30)).await;
    let before = sessions(&nodes);
    nodes[3].broadcast(Encoding::Json, "{}").unwrap();
    for subscription in &mut all {
        let post = next(subscription).await;
        assert_eq!(post.from, nodes[3].peer_id());
        assert_eq!(post.encoding, Encoding::Json);
    }
    assert_eq!(sessions(&nodes), before);
}

#[tokio::test(start_paused = true)]
async fn a_body_too_large_for_a_post_arrives_whole() {
    let world = World::new(3).await;
    let nodes = crowd(&world, 4).await;
    let mut files = on_topic(&nodes, "files").await;
    let body = pattern(0, 3_000_001);
    files[0].0.publish(Encoding::Binary, body.clone()).unwrap();
    for (_, subscription) in &mut files[1..] {
        assert!(next(subscription).await.body == body, "another body");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_above_a_nodes_limit_is_refused_here_and_left_by_others() {
    let world = World::new(4).await;
    let small = Config {
        max_message_size: 100_000,
        ..config()
    };
    let mut nodes = crowd_with(&world, 1, small).await;
    let host = world
        .net
        .public_host("large", Ipv4Addr::new(203, 0, 113, 90));
    let large = Config {
        bootstrap: vec![world.bootstrap()],
        ..config()
    };
    nodes.push(start(&host.with_link(link(10)), large).await);
    let mut files = on_topic(&nodes, "files").await;
    let body = pattern(0, 200_000);
    let refused = files[0].0.publish(Encoding::Binary, body.clone());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("limit of 100000 bytes"), "{refused}");
    files[1].0.publish(Encoding::Binary, body).unwrap();
    nothing_more(&mut files[0].1).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_validator_rejects_or_ignores_is_neither_delivered_nor_passed_on() {
    let world = World::new(5).await;
    let nodes = crowd(&world, 5).await;
    let mut news = on_topic(&nodes, "news").await;
    for (topic, _) in &news[1..] {
        topic.validate(|post| async move {
            match &post.body[..] {
                b"bad" => PostVerdict::Reject,
                b"dull" => PostVerdict::Ignore,
                _ => PostVerdict::Accept,
            }
        });
    }
    for text in ["bad", "dull", "good"] {
        news[0].0.publish(Encoding::Utf8, text).unwrap();
    }
    for (_, subscription) in &mut news[1..] {
        assert_eq!(&next(subscription).await.body[..], b"good");
        nothing_more(subscription).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_does_not_read_delays_nobody_and_learns_what_it_missed() {
    let world = World::new(6).await;
    let nodes = crowd(&world, 3).await;
    let mut news = on_topic(&nodes, "news").await;
    let slow = news[1].0.subscribe();
    let posts = anyhop::SUBSCRIPTION_QUEUE as u64 + 10;
    let reading = {
        let (_, mut subscription) = news.remove(2);
        tokio::spawn(async move {
            for _ in 0..posts {
                next(&mut subscription).await;
            }
        })
    };
    for _ in 0..posts {
        news[0].0.publish(Encoding::Binary, vec![1]).unwrap();
        sleep(Duration::from_millis(2)).await;
    }
    reading.await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(slow.missed(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_report_tells_who_has_a_post() {
    let world = World::new(7).await;
    let nodes = crowd(&world, 6).await;
    let mut news = on_topic(&nodes, "news").await;
    let published = news[0].0.publish(Encoding::Utf8, "hello").unwrap();
    for (_, subscription) in &mut news {
        next(subscription).await;
    }
    let report = news[0].0.report(published.id, Duration::from_secs(5)).await;
    let report = report.unwrap();
    assert_eq!((report.have, report.asked), (6, 6));
    let mut named = report.peers;
    named.sort_unstable();
    let mut all: Vec<_> = nodes.iter().map(Node::peer_id).collect();
    all.sort_unstable();
    assert_eq!(named, all);
}

#[tokio::test(start_paused = true)]
async fn ending_one_subscription_leaves_the_others_and_the_last_one_leaves_the_topic() {
    let world = World::new(8).await;
    let nodes = crowd(&world, 2).await;
    let mut news = on_topic(&nodes, "pair").await;
    let second = news[1].0.subscribe();
    drop(second);
    news[0].0.publish(Encoding::Utf8, "still").unwrap();
    assert_eq!(&next(&mut news[1].1).await.body[..], b"still");
    let left = news.remove(1);
    drop(left);
    eventually("the neighbour left", Duration::from_secs(200), || {
        news[0].0.neighbours().is_empty()
    })
    .await;
    assert!(nodes[1].topics().is_empty());
}

#[tokio::test(start_paused = true)]
async fn twelve_nodes_publish_at_once_and_all_get_everything() {
    let world = World::new(9).await;
    let nodes = crowd(&world, 12).await;
    let news = on_topic(&nodes, "news").await;
    let barrier = Arc::new(tokio::sync::Barrier::new(news.len()));
    let mut tasks = Vec::new();
    for (topic, mut subscription) in news {
        let barrier = Arc::clone(&barrier);
        tasks.push(tokio::spawn(async move {
            barrier.wait().await;
            for i in 0..5_u8 {
                topic.publish(Encoding::Binary, vec![i; 2000]).unwrap();
            }
            let mut got = std::collections::BTreeSet::new();
            for _ in 0..12 * 5 {
                got.insert(next(&mut subscription).await.id);
            }
            // All stay until everybody has everything.
            barrier.wait().await;
            got.len()
        }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 60);
    }
}
