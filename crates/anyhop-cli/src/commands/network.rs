//! `network` and its commands.

mod backup;
mod join;
mod text;

use std::io::{self, IsTerminal as _, Write as _};

use anyhop::{Invited, MemberInfo, NetworkName, RequestInfo};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use serde::Serialize;

use super::Context;
use crate::{
    api::network::{
        AdminAsk, CreateAsk, Every, InviteAsk, LeaveReport, MemberReport, NetworkReport, PeerAsk,
        RenameAsk, RenewAsk, RotateAsk, RotateReport, SetAsk, SetReport,
    },
    args::{
        AdminArgs, AdminChange, CreateArgs, InviteArgs, LeaveArgs, NamePeerArgs, NetworkCommand,
        RenameArgs, RenewArgs, RotateArgs, SetArgs, Switch,
    },
    error::{CliError, Code},
};

/// What is told of a network that was founded or restored.
#[derive(Debug, Serialize)]
struct Founded {
    network: String,
    id: String,
    addresses: Vec<String>,
}

pub(super) async fn run(context: Context, command: NetworkCommand) -> Result<(), CliError> {
    match command {
        NetworkCommand::Create(args) => create(&context, args).await,
        NetworkCommand::List => list(&context).await,
        NetworkCommand::Join(args) => join::run(&context, args).await,
        NetworkCommand::Import(args) => backup::import(&context, args).await,
        NetworkCommand::Show(args) => show(&context.about(args.name)?).await,
        NetworkCommand::Requests(args) => requests(&context.about(args.name)?).await,
        NetworkCommand::Members(args) => members(&context.about(args.name)?).await,
        NetworkCommand::Invite(args) => {
            let context = context.about(args.name.clone())?;
            invite(&context, &args).await
        }
        NetworkCommand::Approve(args) => decide(context, args, true).await,
        NetworkCommand::Deny(args) => decide(context, args, false).await,
        NetworkCommand::Rename(args) => rename(context, args).await,
        NetworkCommand::Renew(args) => renew(context, args).await,
        NetworkCommand::Admin(args) => admin(context, args).await,
        NetworkCommand::Set(args) => set(context, args).await,
        NetworkCommand::Revoke(args) => revoke(context, args).await,
        NetworkCommand::Rotate(args) => rotate(context, args).await,
        NetworkCommand::Leave(args) => leave(context, args).await,
        NetworkCommand::Export(args) => {
            let context = context.about(args.name.clone())?;
            backup::export(&context, args).await
        }
    }
}

impl Context {
    /// The same about this network, which must not be another than that of `--network`.
    fn about(mut self, name: NetworkName) -> Result<Self, CliError> {
        if let Some(other) = self.network.filter(|n| *n != name) {
            let message = format!("is this about {name} or about {other}?");
            return Err(CliError::usage(message).hint("leave --network out"));
        }
        self.network = Some(name);
        Ok(self)
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let ask = CreateAsk {
        name: args.network.to_string(),
        membership: args.membership.ask(Some(args.name)),
        swarm_key: args
            .swarm_key
            .as_deref()
            .map(backup::read_text)
            .transpose()?,
    };
    let report: NetworkReport = context.client().post("/v1/networks/create", &ask).await?;
    founded(context, report, "founded")
}

fn founded(context: &Context, report: NetworkReport, how: &str) -> Result<(), CliError> {
    let founded = Founded {
        network: report.network,
        id: report.id,
        addresses: report.addresses,
    };
    context.output.result(&founded, |f| {
        let mut lines = vec![format!("{how} the network {} ({})", f.network, f.id)];
        lines.extend(f.addresses.iter().map(|a| format!("  {a}")));
        lines.push(format!(
            "invite somebody with: anyhop network invite {}",
            f.network
        ));
        lines.join("\n")
    })
}

async fn list(context: &Context) -> Result<(), CliError> {
    let networks: Vec<NetworkReport> = context.client().get("/v1/networks").await?;
    context.output.result(&networks, |n| text::networks(n))
}

async fn show(context: &Context) -> Result<(), CliError> {
    let report: NetworkReport = context.client().get("/v1/network").await?;
    context.output.result(&report, text::network)
}

async fn invite(context: &Context, args: &InviteArgs) -> Result<(), CliError> {
    let ask = InviteAsk {
        uses: args.uses,
        expires_s: args.expires,
        approve: args.approve,
    };
    let invited: Invited = context.client().post("/v1/network/invite", &ask).await?;
    context.output.result(&invited, |i| i.invite.clone())?;
    if context.output.is_json() || !io::stdout().is_terminal() {
        return Ok(());
    }
    if let Some(code) = qr_code(&invited.invite) {
        context.output.note(&code);
    }
    let uses = match invited.uses {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    };
    context.output.note(&format!(
        "whoever has it can redeem it {uses}, until {}, while this node runs",
        text::time(invited.expires)
    ));
    Ok(())
}

/// The text as a picture. In capitals, which take half the room and are read as well.
fn qr_code(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text.to_uppercase(), EcLevel::L).ok()?;
    let mut image = code.render::<Dense1x2>();
    // Terminals are dark as a rule, and readers want dark on light.
    let image = image
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark);
    Some(image.build())
}

async fn requests(context: &Context) -> Result<(), CliError> {
    let requests: Vec<RequestInfo> = context.client().get("/v1/network/requests").await?;
    context.output.result(&requests, |r| text::requests(r))
}

async fn members(context: &Context) -> Result<(), CliError> {
    let members: Vec<MemberInfo> = context.client().get("/v1/network/members").await?;
    context.output.result(&members, |m| text::members(m))
}

async fn decide(context: Context, args: NamePeerArgs, approve: bool) -> Result<(), CliError> {
    let context = context.about(args.name)?;
    let peer = args.peer.to_string();
    let (path, done) = match approve {
        true => ("/v1/network/approve", "approved"),
        false => ("/v1/network/deny", "denied"),
    };
    let report: MemberReport = context.client().post(path, &PeerAsk { peer }).await?;
    context
        .output
        .result(&report, |r| format!("{done} {}", r.peer_id))
}

async fn rename(context: Context, args: RenameArgs) -> Result<(), CliError> {
    let context = context.about(args.name)?;
    let ask = RenameAsk {
        peer: args.peer.to_string(),
        name: args.new.to_string(),
    };
    let report: MemberReport = context.client().post("/v1/network/rename", &ask).await?;
    context.output.result(&report, |r| {
        let name = r.name.as_deref().unwrap_or_default();
        format!("{} is {name} in {} now", r.peer_id, r.network)
    })
}

async fn renew(context: Context, args: RenewArgs) -> Result<(), CliError> {
    let context = context.about(args.name)?;
    let ask = RenewAsk {
        peer: args.peer.to_string(),
        expires_s: args.expires,
    };
    let report: MemberReport = context.client().post("/v1/network/renew", &ask).await?;
    context.output.result(&report, |r| {
        let end = text::time(r.expires.unwrap_or_default());
        format!("{} is a member of {} until {end}", r.peer_id, r.network)
    })
}

async fn admin(context: Context, args: AdminArgs) -> Result<(), CliError> {
    let context = context.about(args.name)?;
    let ask = AdminAsk {
        peer: args.peer.to_string(),
        admin: args.change == AdminChange::Add,
    };
    let report: MemberReport = context.client().post("/v1/network/admin", &ask).await?;
    context.output.result(&report, |r| {
        let role = r.role.as_deref().unwrap_or_default();
        format!("{} has the role {role} in {} now", r.peer_id, r.network)
    })
}

async fn set(context: Context, args: SetArgs) -> Result<(), CliError> {
    let context = context.about(args.name)?;
    let ask = SetAsk {
        peer: args.peer.map(|p| p.to_string()),
        relaying: args.relaying.map(Switch::is_on),
        signalling: args.signalling.map(Switch::is_on),
        listed: args.listed.map(Switch::is_on),
    };
    let report: SetReport = context.client().post("/v1/network/set", &ask).await?;
    context.output.result(&report, |r| {
        let on = |on| if on { "on" } else { "off" };
        format!(
            "{} in {}: relaying {}, signalling {}, listed {}",
            r.peer_id,
            r.network,
            on(r.relaying),
            on(r.signalling),
            on(r.listed)
        )
    })
}

async fn revoke(context: Context, args: NamePeerArgs) -> Result<(), CliError> {
    let context = context.about(args.name)?;
    let peer = args.peer.to_string();
    let ask = PeerAsk { peer };
    let report: MemberReport = context.client().post("/v1/network/revoke", &ask).await?;
    context.output.result(&report, |r| {
        format!("{} is no member of {} any more", r.peer_id, r.network)
    })
}

async fn rotate(context: Context, args: RotateArgs) -> Result<(), CliError> {
    let context = context.about(args.name)?;
    let ask = RotateAsk {
        now: args.every != Some(Every::Never),
        every: args.every,
    };
    let report: RotateReport = context.client().post("/v1/network/rotate", &ask).await?;
    context.output.result(&report, |r| {
        let every = match r.every_s {
            Some(s) => format!("; this node starts one every {}", text::duration(s)),
            None => String::new(),
        };
        format!("{} is in epoch {}{every}", r.network, r.epoch)
    })
}

async fn leave(context: Context, args: LeaveArgs) -> Result<(), CliError> {
    let context = context.about(args.name)?;
    if io::stdin().is_terminal() && !args.yes {
        confirm(&context).await?;
    }
    let report: LeaveReport = context.client().post("/v1/network/leave", &()).await?;
    context.output.result(&report, |r| {
        format!("left {}; commands are about {} now", r.network, r.default)
    })
}

/// Asks before the authority of a network is lost, for nobody can appoint without it.
async fn confirm(context: &Context) -> Result<(), CliError> {
    let report: NetworkReport = context.client().get("/v1/network").await?;
    if report.role.as_deref() != Some("owner") {
        return Ok(());
    }
    let name = report.network;
    eprint!(
        "This node holds the authority of {name}, which is lost with it unless you have a \
         backup (anyhop network export).\nType the network's name to leave it: "
    );
    let failed = |e| CliError::new(Code::Failed, format!("cannot read the terminal: {e}"));
    io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(CliError::new(
        Code::Refused,
        "not left: another name was typed",
    ))
}
