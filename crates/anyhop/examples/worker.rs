//! A worker: watches a topic for jobs, bids on what it may and can do, gets the work of those
//! that are given to it, and returns the results. Its trade is counting words.
//!
//! ```text
//! cargo run -p anyhop --example worker -- TOPIC MULTIADDR [KEY=VALUE]...
//! ```
//!
//! MULTIADDR is that of a node of the network, `KEY=VALUE` what this worker has: `cores=8`.
//! Jobs for it are of the kind `count-words`, and bids a JSON object with its price; see
//! `anyhop job publish`.

use std::{collections::BTreeMap, env, error::Error};

use anyhop::{Config, Encoding, Keypair, Message, Node, OfferedJob, PeerAddr};
use tokio::task::JoinSet;

/// The kind of jobs that it does.
const KIND: &str = "count-words";
/// Most jobs that it bids on or does at a time.
const MAX_BUSY: usize = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let (Some(topic), Some(addr)) = (args.next(), args.next()) else {
        return Err("usage: worker TOPIC MULTIADDR [KEY=VALUE]...".into());
    };
    let have: Option<_> = args
        .map(|arg| {
            let (key, value) = arg.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect();
    let have = have.ok_or("what this worker has is told as KEY=VALUE")?;
    let config = Config {
        bootstrap: vec![addr.parse::<PeerAddr>()?],
        ..Config::default()
    };
    let node = Node::start(Keypair::generate_ed25519(), config).await?;
    println!("{} works on {topic}", node.peer_id());
    work(&node, &topic, &have).await
}

/// Does jobs until the node is closed.
pub(crate) async fn work(
    node: &Node,
    topic: &str,
    have: &BTreeMap<String, String>,
) -> Result<(), Box<dyn Error>> {
    let mut jobs = node.jobs(topic)?.watch();
    let mut busy = JoinSet::new();
    while let Some(job) = jobs.next().await {
        if job.kind != KIND || !job.allows(have) {
            continue;
        }
        if busy.len() >= MAX_BUSY {
            busy.join_next().await;
        }
        busy.spawn(async move {
            let id = job.id;
            if let Err(error) = one(job).await {
                eprintln!("job {id}: {error}");
            }
        });
    }
    Ok(())
}

/// Bids on a job, and does it if it is told to.
async fn one(job: OfferedJob) -> Result<(), Box<dyn Error + Send + Sync>> {
    job.bid(Encoding::Json, r#"{"price":1}"#).await?;
    // Only the publisher gets this far, and only when this worker's bid stands.
    let Some(work) = job.work().await else {
        return Ok(());
    };
    let text = std::str::from_utf8(&work.message.body)?;
    let words = text.split_whitespace().count();
    if let Some(reply) = work.reply {
        reply.reply(Message::text(words.to_string())).await?;
    }
    Ok(())
}
