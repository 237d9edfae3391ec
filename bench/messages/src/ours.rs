//! Anyhop as a contender, with its defaults.

use std::{sync::Arc, time::Duration};

use anyhop::{Config, Encoding, Keypair, Message, Node, PeerAddr, PeerId, Topic};
use bytes::Bytes;

use crate::{
    BODY, Result,
    crowd::{self, Board, Crowd},
    pair,
};

/// How long a reply may take.
const REPLY_WITHIN: Duration = Duration::from_secs(30);

/// Two nodes with a session.
#[derive(Clone)]
pub(crate) struct Pair {
    asker: Node,
    _other: Node,
    peer: PeerId,
}

impl Pair {
    pub(crate) async fn start() -> Result<Self> {
        let (asker, other) = (start().await?, start().await?);
        let reply = Bytes::from(vec![0xa5; BODY]);
        let forever = other.on_message("ask", REPLY_WITHIN, move |_, _| {
            let reply = Message::binary("reply", reply.clone());
            async move { Some(reply) }
        })?;
        let also = other.on_message("tell", REPLY_WITHIN, |_, message| async move {
            drop(message);
            None
        })?;
        // They last as long as the process.
        std::mem::forget((forever, also));
        connect(&asker, &other).await?;
        let peer = other.peer_id();
        Ok(Self {
            asker,
            _other: other,
            peer,
        })
    }
}

impl pair::Pair for Pair {
    async fn ask(&self, body: Bytes) -> Result<()> {
        let request = Message::binary("ask", body);
        let reply = self.asker.request(self.peer, request, REPLY_WITHIN).await?;
        match reply.body.len() {
            BODY => Ok(()),
            len => Err(format!("a reply of {len} bytes").into()),
        }
    }

    async fn tell(&self, body: Bytes) -> Result<()> {
        let message = Message::binary("tell", body);
        Ok(self.asker.send(self.peer, message).await?)
    }
}

/// A hundred nodes on a topic, and one that publishes there.
pub(crate) async fn crowd(readers: usize) -> Result<Topics> {
    let board = Board::new(readers);
    let mut nodes = Vec::new();
    for _ in 0..=readers {
        nodes.push(start().await?);
    }
    for (a, b) in crowd::edges(nodes.len()) {
        connect(&nodes[a], &nodes[b]).await?;
    }
    let topic = nodes[0].topic("bench")?;
    for node in &nodes[1..] {
        let mut posts = node.topic("bench")?.subscribe();
        let board = Arc::clone(&board);
        tokio::spawn(async move {
            while let Some(post) = posts.next().await {
                board.arrived(&post.body);
            }
        });
    }
    Ok(Topics {
        topic,
        _nodes: nodes,
        board,
    })
}

/// The nodes of a topic.
pub(crate) struct Topics {
    topic: Topic,
    _nodes: Vec<Node>,
    board: Arc<Board>,
}

impl Crowd for Topics {
    async fn publish(&self, body: Bytes) -> Result<()> {
        self.topic.publish(Encoding::Binary, body)?;
        Ok(())
    }

    fn board(&self) -> &Arc<Board> {
        &self.board
    }
}

async fn start() -> Result<Node> {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse()?],
        ..Config::default()
    };
    Ok(Node::start(Keypair::generate_ed25519(), config).await?)
}

async fn connect(from: &Node, to: &Node) -> Result<()> {
    for addr in to.addresses() {
        from.add_address(&PeerAddr::try_from(&addr)?);
    }
    from.connect(to.peer_id()).await?;
    Ok(())
}
