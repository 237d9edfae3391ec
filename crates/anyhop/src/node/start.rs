//! Bringing a node up: sockets, engine, and the tasks that live as long as it does.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use anyhop_base::{Keypair, PeerId};
use anyhop_proto::{
    circuit::{Capacity, RelayBook, RelayLimits},
    control::{LOOKUP_BURST, LOOKUP_INTERVAL},
    nat::Family,
    route::{PerNeighbour, SAMPLE_BURST, SAMPLE_INTERVAL, SearchBook, TRACE_BURST, TRACE_INTERVAL},
};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    EVENT_QUEUE, Inner, Network,
    calls::CallsShell,
    handlers::Handlers,
    inbox::Inbox,
    jobs::JobsShell,
    mapping::{REACH_BURST, REACH_INTERVAL},
    mdns::LocalPeers,
    private::Private,
    records,
    topics::TopicsShell,
    websocket::WebSockets,
    willing::Willing,
};
use crate::{
    Config, PrivateNetwork, StartError, Strangers,
    engine::{Engine, Fabric, Swarm, random_seed},
    net::{Host, LiveSocket},
};

/// Bootstrap peers, up to which those are added that a node of a private network met
/// before.
const MAX_CONTACTS_DIALLED: usize = 4;

type Socket = Arc<LiveSocket>;

/// Starts a node; everything it needs is ready when this returns.
pub(super) fn start(
    host: Arc<dyn Host>,
    keypair: Keypair,
    mut config: Config,
) -> Result<Arc<Inner>, StartError> {
    let me = keypair.public().to_peer_id();
    let private = config.private.take();
    if let Some(network) = &private {
        enter(network, me, &mut config);
    }
    let socket_failed = Arc::new(Notify::new());
    let (v4, v6) = bind(&host, &config.listen, &socket_failed)?;
    let sockets = [&v4, &v6].into_iter().flatten().cloned().collect();
    let network_id = match &private {
        Some(network) => network.id(),
        None => config.network.id(),
    };
    let swarm = config.swarm.as_ref();
    let swarm = swarm.map(|ring| Swarm::new(network_id, ring, &keypair));
    let swarm = swarm.transpose()?;
    let (v4, v6) = (v4.map(|s| s as _), v6.map(|s| s as _));
    let fabric = Fabric::new(v4, v6, random_seed(), swarm);
    fabric
        .switch
        .write()
        .expect("no holder panics")
        .set_capacity(Capacity {
            bytes_per_s: config.relay.bytes_per_s,
            strangers_percent: config.relay.strangers.percent(),
        });
    let engine = Engine::new(
        &keypair,
        network_id.alpn(),
        Arc::clone(&fabric),
        &config.limits,
    )?;
    let private = private.map(|network| Private::new(me, network));
    let opt_outs = private.as_ref().map(|p| p.opt_outs(me));
    let willing = Willing::new(&config, opt_outs.unwrap_or_default());
    let relay = RelayLimits {
        enabled: willing.relaying,
        strangers: config.relay.strangers != Strangers::Refused,
        max_circuits: config.relay.max_circuits,
        max_circuits_per_peer: config.relay.max_circuits_per_peer,
    };
    let swarm = fabric.swarm.as_ref();
    let (websockets, servers) = WebSockets::new(&host, &fabric.carriers, &config.websocket, swarm)?;
    let network = Network::first(&*host, &fabric);
    let inner = Arc::new(Inner {
        me,
        fabric,
        relay: Mutex::new(RelayBook::new(me, relay)),
        circuits: crate::circuit::Circuits::default(),
        attempts: Arc::default(),
        nat: super::nat::Nat::new(),
        private,
        willing: watch::Sender::new(willing),
        keypair,
        network_id,
        prefix: network_id.protocol("").into(),
        network: watch::Sender::new(network),
        host,
        sockets,
        socket_failed,
        engine,
        websockets,
        local_peers: LocalPeers::default(),
        clock: records::WallClock::new(),
        started: Instant::now(),
        book: Mutex::default(),
        sessions: Mutex::default(),
        dials: Mutex::default(),
        searches: Mutex::new(SearchBook::new(me)),
        traces: Mutex::new(PerNeighbour::new(TRACE_BURST, TRACE_INTERVAL)),
        samples: Mutex::new(PerNeighbour::new(SAMPLE_BURST, SAMPLE_INTERVAL)),
        lookups: Mutex::new(PerNeighbour::new(LOOKUP_BURST, LOOKUP_INTERVAL)),
        reaches: Mutex::new(PerNeighbour::new(REACH_BURST, REACH_INTERVAL)),
        mappings: Mutex::default(),
        protocols: Mutex::default(),
        inbox: Inbox::new(&config.limits),
        handlers: Handlers::default(),
        topics: TopicsShell::new(me, network_id),
        jobs: JobsShell::new(me),
        calls: CallsShell::new(&config.limits, config.max_message_size),
        record_dirty: Notify::new(),
        session_changed: Notify::new(),
        links_changed: Notify::new(),
        packet_links: Mutex::default(),
        attachments_changed: Notify::new(),
        events: broadcast::Sender::new(EVENT_QUEUE),
        next_link: AtomicU64::new(1),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
        span: tracing::debug_span!("node", %me),
        config,
    });
    inner.spawn(Arc::clone(&inner).accept_connections());
    inner.spawn(Arc::clone(&inner).keep_record());
    inner.spawn(Arc::clone(&inner).keep_attachments());
    inner.spawn(Arc::clone(&inner).keep_topics());
    for family in [Family::V4, Family::V6] {
        let mut local = inner.fabric.local_addrs().into_iter();
        if local.any(|a| Family::of(&a) == family) {
            inner.spawn(Arc::clone(&inner).keep_nat_known(family));
        }
    }
    inner.spawn(Arc::clone(&inner).watch_network());
    inner.keep_mappings();
    if inner.config.meets_local_peers() {
        // Not cancelled on stop: it says goodbye first.
        inner.spawn_unstopped(Arc::clone(&inner).meet_local_peers());
    }
    for server in servers {
        inner.spawn(Arc::clone(&inner).serve_websockets(server));
    }
    for bootstrap in &inner.config.bootstrap {
        inner.remember(bootstrap.peer, bootstrap.addr);
    }
    if let Some(private) = &inner.private {
        for contact in private.contacts() {
            inner.remember(contact.peer, contact.addr);
        }
    }
    inner.answer_members_only();
    match &inner.private {
        Some(private) if private.is_joining() => {
            inner.spawn(Arc::clone(&inner).join_network());
        }
        _ => inner.stay_with_bootstraps(),
    }
    if inner.private.is_some() {
        inner.spawn(Arc::clone(&inner).keep_private());
    }
    Ok(inner)
}

/// Has a node start with what it knows of its private network.
fn enter(network: &PrivateNetwork, me: PeerId, config: &mut Config) {
    config.swarm = Some(network.ring(me));
    config.network = network.name().clone();
    for contact in &network.state.contacts {
        let known = config.bootstrap.iter().any(|b| b.peer == contact.peer);
        if !known && config.bootstrap.len() < MAX_CONTACTS_DIALLED {
            config.bootstrap.push(*contact);
        }
    }
}

/// Binds what was asked for, or one port of each family.
fn bind(
    host: &Arc<dyn Host>,
    listen: &[SocketAddr],
    failed: &Arc<Notify>,
) -> Result<(Option<Socket>, Option<Socket>), StartError> {
    if listen.is_empty() {
        let v4 = bind_one(host, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), failed);
        let v6 = bind_one(host, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), failed);
        // One family is enough for a machine that has only one.
        return match (v4, v6) {
            (Err(e), Err(_)) => Err(e),
            (v4, v6) => Ok((v4.ok(), v6.ok())),
        };
    }
    let mut bound: [Option<(SocketAddr, Socket)>; 2] = [None, None];
    for addr in listen {
        let slot = &mut bound[usize::from(addr.is_ipv6())];
        if let Some((first, _)) = slot {
            return Err(StartError::TwoOfOneFamily(*first, *addr));
        }
        *slot = Some((*addr, bind_one(host, *addr, failed)?));
    }
    let [v4, v6] = bound.map(|slot| slot.map(|(_, socket)| socket));
    Ok((v4, v6))
}

fn bind_one(
    host: &Arc<dyn Host>,
    addr: SocketAddr,
    failed: &Arc<Notify>,
) -> Result<Socket, StartError> {
    LiveSocket::bind(Arc::clone(host), addr, Arc::clone(failed))
        .map_err(|source| StartError::Bind { addr, source })
}
