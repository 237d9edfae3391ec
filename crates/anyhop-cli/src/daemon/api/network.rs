//! Routes of private networks.

use std::{sync::Arc, time::Duration};

use anyhop::{
    Epoch, InviteOptions, Invited, MemberInfo, MemberName, NetworkError, NetworkHandle,
    NetworkName, OptOuts, PeerAddr, PeerId, RequestInfo, SwarmKey,
};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    response::Response,
};

use super::{About, Answer, ApiError, In, Routes, read_ask, read_ask_up_to};
use crate::{
    api::network::{
        AdminAsk, BackupReport, CreateAsk, Every, ExportAsk, ImportAsk, InviteAsk, JoinAsk,
        JoinReport, LeaveReport, MemberReport, Membership, NetworkReport, PeerAsk, PublicAsk,
        RenameAsk, RenewAsk, RotateAsk, RotateReport, SetAsk, SetReport, SwarmKeyReport,
    },
    args::MAX_BODY,
    daemon::{
        Daemon, Presence,
        enter::{As, to_the_end},
        join,
        listen::Addresses,
        public::{MAX_BOOTSTRAP, PublicNetwork},
        server::upgrade,
    },
    error::CliError,
};

/// All of them.
pub(super) fn routes() -> Routes {
    Routes::default()
        .get(
            "/v1/networks",
            list,
            About::json::<Vec<NetworkReport>>("All networks of the daemon"),
        )
        .post(
            "/v1/networks/create",
            create,
            About::json::<NetworkReport>("Founds a private network").takes::<CreateAsk>(),
        )
        .post(
            "/v1/networks/import",
            import,
            About::json::<NetworkReport>("Restores a private network from a backup")
                .takes::<ImportAsk>(),
        )
        .post(
            "/v1/networks/join",
            join,
            About::frames(
                "Joins a private network",
                "JSON frames that tell how it goes; the last is `{\"joined\":{..}}`",
            )
            .takes::<JoinAsk>(),
        )
        .post(
            "/v1/networks/public",
            join_public,
            About::json::<JoinReport>("Enters a public network").takes::<PublicAsk>(),
        )
        .merge(of_one())
        .merge(of_members())
}

/// Those of one network.
fn of_one() -> Routes {
    Routes::default()
        .get(
            "/v1/network",
            show,
            About::json::<NetworkReport>("One network"),
        )
        .post(
            "/v1/network/invite",
            invite,
            About::json::<Invited>("Makes an invitation").takes::<InviteAsk>(),
        )
        .post(
            "/v1/network/rotate",
            rotate,
            About::json::<RotateReport>(
                "Starts an epoch of the swarm key, or says how often one starts",
            )
            .takes::<RotateAsk>(),
        )
        .post(
            "/v1/network/export",
            export,
            About::json::<BackupReport>("A backup for the owner to keep").takes::<ExportAsk>(),
        )
        .get(
            "/v1/network/swarm_key",
            swarm_key,
            About::json::<SwarmKeyReport>("The swarm key, a secret"),
        )
        .post(
            "/v1/network/leave",
            leave,
            About::json::<LeaveReport>("Leaves a network"),
        )
}

/// Those of members.
fn of_members() -> Routes {
    Routes::default()
        .get(
            "/v1/network/requests",
            requests,
            About::json::<Vec<RequestInfo>>("Who waits to be admitted"),
        )
        .post(
            "/v1/network/approve",
            approve,
            About::json::<MemberReport>("Admits who waits").takes::<PeerAsk>(),
        )
        .post(
            "/v1/network/deny",
            deny,
            About::json::<MemberReport>("Turns away who waits").takes::<PeerAsk>(),
        )
        .get(
            "/v1/network/members",
            members,
            About::json::<Vec<MemberInfo>>("Members"),
        )
        .post(
            "/v1/network/rename",
            rename,
            About::json::<MemberReport>("Gives a member another name").takes::<RenameAsk>(),
        )
        .post(
            "/v1/network/renew",
            renew,
            About::json::<MemberReport>("Gives a member a certificate that ends at another time")
                .takes::<RenewAsk>(),
        )
        .post(
            "/v1/network/admin",
            admin,
            About::json::<MemberReport>("Appoints an admin, or ends its term").takes::<AdminAsk>(),
        )
        .post(
            "/v1/network/set",
            set,
            About::json::<SetReport>("Changes what a member does for others").takes::<SetAsk>(),
        )
        .post(
            "/v1/network/revoke",
            revoke,
            About::json::<MemberReport>("Ends a membership").takes::<PeerAsk>(),
        )
}

async fn list(State(daemon): State<Arc<Daemon>>) -> Json<Vec<NetworkReport>> {
    let all = daemon.networks.all().into_iter();
    Json(all.map(|(p, default)| p.report(default)).collect())
}

async fn create(State(daemon): State<Arc<Daemon>>, body: Body) -> Answer<NetworkReport> {
    let ask: CreateAsk = read_ask(body).await?;
    let name = network_name(&ask.name)?;
    let swarm_key = ask.swarm_key.as_deref().map(read_swarm_key).transpose()?;
    let how = how(&ask.membership)?;
    let presence = daemon.create(name, how, swarm_key).await?;
    Ok(Json(presence.report(false)))
}

fn read_swarm_key(text: &str) -> Result<SwarmKey, CliError> {
    SwarmKey::from_text(Epoch(1), text.as_bytes()).map_err(|e| {
        CliError::usage(format!("this is no swarm key: {e}"))
            .hint("give a file in libp2p's format, which begins with /key/swarm/psk/1.0.0/")
    })
}

async fn swarm_key(In(presence): In) -> Answer<SwarmKeyReport> {
    let network = presence.private()?;
    let key = network.swarm_key().ok_or(NetworkError::NotJoined)?;
    Ok(Json(SwarmKeyReport {
        network: presence.name(),
        id: presence.id().to_string(),
        epoch: key.epoch().0,
        swarm_key: key.to_text().to_string(),
    }))
}

async fn import(State(daemon): State<Arc<Daemon>>, body: Body) -> Answer<NetworkReport> {
    let ask: ImportAsk = read_ask_up_to(body, MAX_BODY).await?;
    let how = how(&ask.membership)?;
    let presence = daemon.import(ask.backup, ask.passphrase, how).await?;
    Ok(Json(presence.report(false)))
}

async fn join(State(daemon): State<Arc<Daemon>>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let ask: JoinAsk = read_ask(body).await?;
    let presence = daemon.join(&ask.invite, how(&ask.membership)?).await?;
    let request = Request::from_parts(parts, Body::empty());
    // What is told outlives the presence: that it came to nothing is told, too.
    let response = upgrade(&daemon.tasks, request, move |reader, writer| {
        join::tell(presence, reader, writer)
    })?;
    Ok(response)
}

async fn join_public(State(daemon): State<Arc<Daemon>>, body: Body) -> Answer<JoinReport> {
    let ask: PublicAsk = read_ask(body).await?;
    if ask.bootstrap.len() > MAX_BOOTSTRAP {
        let message = format!("a network has at most {MAX_BOOTSTRAP} bootstrap peers");
        return Err(CliError::usage(message).into());
    }
    let peer = |text: &String| -> Result<PeerAddr, CliError> {
        let parsed = text.parse();
        parsed.map_err(|e| CliError::usage(format!("{text:?} is no address of a peer: {e}")))
    };
    let network = PublicNetwork {
        name: network_name(&ask.name)?,
        bootstrap: ask.bootstrap.iter().map(peer).collect::<Result<_, _>>()?,
    };
    let listen = Addresses {
        udp: ask.listen,
        websocket: ask.listen_ws,
    };
    let presence = daemon.join_public(network, listen).await?;
    Ok(Json(JoinReport {
        network: presence.name(),
        peer_id: presence.node.peer_id().to_base58(),
    }))
}

fn network_name(name: &str) -> Result<NetworkName, CliError> {
    let name = name.parse();
    name.map_err(|e: anyhop_base::NetworkNameError| CliError::usage(e.to_string()))
}

fn how(membership: &Membership) -> Result<As, CliError> {
    Ok(As {
        name: membership.member_name()?,
        opt_outs: membership.opt_outs(),
        listen: Addresses {
            udp: membership.listen.clone(),
            websocket: membership.listen_ws.clone(),
        },
    })
}

async fn show(State(daemon): State<Arc<Daemon>>, In(presence): In) -> Json<NetworkReport> {
    let default = daemon.networks.is_default(presence.id());
    Json(presence.report(default))
}

async fn invite(In(presence): In, body: Body) -> Answer<Invited> {
    let ask: InviteAsk = read_ask(body).await?;
    let network = presence.private()?;
    let options = InviteOptions {
        uses: ask.uses,
        lifetime: Duration::from_secs(ask.expires_s),
        approve: ask.approve,
    };
    let invite = async move { network.invite(options).await };
    Ok(Json(to_the_end(invite).await??))
}

async fn requests(In(presence): In) -> Answer<Vec<RequestInfo>> {
    Ok(Json(presence.private()?.requests()))
}

async fn approve(In(presence): In, body: Body) -> Answer<MemberReport> {
    decide(&presence, body, true).await
}

async fn deny(In(presence): In, body: Body) -> Answer<MemberReport> {
    decide(&presence, body, false).await
}

async fn decide(presence: &Presence, body: Body, approve: bool) -> Answer<MemberReport> {
    let ask: PeerAsk = read_ask(body).await?;
    let network = presence.private()?;
    let peer = presence.resolve_request(&network, &ask.peer)?;
    let decide = async move {
        match approve {
            true => network.approve(peer).await,
            false => network.deny(peer).await,
        }
    };
    to_the_end(decide).await??;
    Ok(Json(member(presence, peer)))
}

async fn members(In(presence): In) -> Answer<Vec<MemberInfo>> {
    Ok(Json(presence.private()?.members()))
}

async fn rename(In(presence): In, body: Body) -> Answer<MemberReport> {
    let ask: RenameAsk = read_ask(body).await?;
    let network = presence.private()?;
    let peer = presence.resolve(&ask.peer)?;
    let name: MemberName = ask
        .name
        .parse()
        .map_err(|e: anyhop::BadMemberName| CliError::usage(e.to_string()))?;
    to_the_end(async move { network.rename(peer, name).await }).await??;
    Ok(Json(member(&presence, peer)))
}

async fn renew(In(presence): In, body: Body) -> Answer<MemberReport> {
    let ask: RenewAsk = read_ask(body).await?;
    let network = presence.private()?;
    let peer = presence.resolve(&ask.peer)?;
    let lifetime = Duration::from_secs(ask.expires_s);
    to_the_end(async move { network.renew(peer, Some(lifetime)).await }).await??;
    Ok(Json(member(&presence, peer)))
}

async fn admin(In(presence): In, body: Body) -> Answer<MemberReport> {
    let ask: AdminAsk = read_ask(body).await?;
    let network = presence.private()?;
    let peer = presence.resolve(&ask.peer)?;
    let change = async move {
        match ask.admin {
            true => network.add_admin(peer).await,
            false => network.remove_admin(peer).await,
        }
    };
    to_the_end(change).await??;
    Ok(Json(member(&presence, peer)))
}

async fn set(In(presence): In, body: Body) -> Answer<SetReport> {
    let ask: SetAsk = read_ask(body).await?;
    let network = presence.private()?;
    let me = presence.node.peer_id();
    let peer = match &ask.peer {
        Some(peer) => presence.resolve(peer)?,
        None => me,
    };
    let before = opt_outs(&network, peer, me)?;
    let choose = |on: Option<bool>, before: bool| on.map_or(before, |on| !on);
    let opt_outs = OptOuts {
        no_relaying: choose(ask.relaying, before.no_relaying),
        no_signalling: choose(ask.signalling, before.no_signalling),
        stealth: choose(ask.listed, before.stealth),
    };
    if opt_outs != before {
        to_the_end(async move { network.set_opt_outs(peer, opt_outs).await }).await??;
    }
    Ok(Json(SetReport {
        network: presence.name(),
        peer_id: peer.to_base58(),
        relaying: !opt_outs.no_relaying,
        signalling: !opt_outs.no_signalling,
        listed: !opt_outs.stealth,
    }))
}

/// What a member does not do, as far as this node knows.
fn opt_outs(network: &NetworkHandle, peer: PeerId, me: PeerId) -> Result<OptOuts, CliError> {
    if peer == me {
        return Ok(network.opt_outs());
    }
    let peer_id = peer.to_base58();
    let mut members = network.members().into_iter();
    let member = members.find(|m| m.peer_id == peer_id).ok_or_else(|| {
        let message = format!("{peer_id} is no member of {}", network.name());
        CliError::usage(message).hint("`anyhop network members NAME` lists them")
    })?;
    Ok(OptOuts {
        no_relaying: member.no_relaying,
        no_signalling: member.no_signalling,
        stealth: member.stealth,
    })
}

async fn revoke(In(presence): In, body: Body) -> Answer<MemberReport> {
    let ask: PeerAsk = read_ask(body).await?;
    let network = presence.private()?;
    let peer = presence.resolve(&ask.peer)?;
    let before = member(&presence, peer);
    to_the_end(async move { network.revoke(peer).await }).await??;
    Ok(Json(MemberReport {
        role: Some("none".to_owned()),
        expires: None,
        ..before
    }))
}

async fn rotate(In(presence): In, body: Body) -> Answer<RotateReport> {
    let ask: RotateAsk = read_ask(body).await?;
    let network = presence.private()?;
    let change = async move {
        match ask.every {
            None => {}
            Some(Every::Never) => network.rotate_every(None).await?,
            Some(Every::Seconds(s)) => network.rotate_every(Some(Duration::from_secs(s))).await?,
        }
        if ask.now {
            network.rotate().await?;
        }
        Ok::<_, anyhop::NetworkError>(RotateReport {
            network: network.name().to_string(),
            epoch: network.info().epoch,
            every_s: network.rotates_every().map(|e| e.as_secs()),
        })
    };
    Ok(Json(to_the_end(change).await??))
}

async fn export(In(presence): In, body: Body) -> Answer<BackupReport> {
    let ask: ExportAsk = read_ask(body).await?;
    let network = presence.private()?;
    let backup = network.export(&ask.passphrase).await?;
    Ok(Json(BackupReport {
        network: presence.name(),
        id: presence.id().to_string(),
        backup,
    }))
}

async fn leave(State(daemon): State<Arc<Daemon>>, In(presence): In) -> Answer<LeaveReport> {
    let left = to_the_end(async move { daemon.leave(&presence).await }).await?;
    Ok(Json(left?))
}

/// A peer as it stands now.
fn member(presence: &Presence, peer: PeerId) -> MemberReport {
    let peer_id = peer.to_base58();
    let members = presence.node.private_network().map(|n| n.members());
    let mut members = members.unwrap_or_default().into_iter();
    let member = members.find(|m| m.peer_id == peer_id);
    let expires = member.as_ref().map(|m| m.expires);
    let (name, role) = member.map(|m| (m.name, m.role)).unzip();
    MemberReport {
        network: presence.name(),
        peer_id,
        name,
        role,
        expires,
    }
}
