//! `network export` and `network import`; swarm keys in files.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read as _, Write as _},
    path::Path,
};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use serde::Serialize;
use tokio::{signal::ctrl_c, task::spawn_blocking};

use super::{Context, founded};
use crate::{
    api::network::{BackupReport, ExportAsk, ImportAsk, Membership, NetworkReport, SwarmKeyReport},
    args::{ExportArgs, ImportArgs, PassphraseArg},
    error::{CliError, Code},
};

/// Longest passphrase, bytes.
const MAX_PASSPHRASE: u64 = 1024;
/// Largest backup read, bytes: the largest state in base64.
const MAX_BACKUP: u64 = 64 << 20;
/// Longest other text, bytes.
const MAX_TEXT: u64 = 4096;

/// What is told of a secret that went into a file.
#[derive(Debug, Serialize)]
struct Written {
    network: String,
    id: String,
    file: String,
}

pub(super) async fn export(context: &Context, args: ExportArgs) -> Result<(), CliError> {
    if args.swarm_key {
        return export_swarm_key(context, args.out.as_deref()).await;
    }
    // Who may not is told before a passphrase is thought up.
    let report: NetworkReport = context.client().get("/v1/network").await?;
    if report.role.as_deref() != Some("owner") {
        let message =
            "only the owner of a network can export it, on the node that holds its authority";
        return Err(CliError::new(Code::Refused, message)
            .hint("`anyhop network list` tells which networks are this node's own"));
    }
    let passphrase = read_passphrase(&args.passphrase, true).await?;
    let ask = ExportAsk { passphrase };
    let report: BackupReport = context.client().post("/v1/network/export", &ask).await?;
    let Some(file) = &args.out else {
        return context.output.result(&report, |r| r.backup.clone());
    };
    let of = (report.network, report.id);
    write_new(context, file, ("backup", &report.backup), of)
}

async fn export_swarm_key(context: &Context, out: Option<&Path>) -> Result<(), CliError> {
    let report: SwarmKeyReport = context.client().get("/v1/network/swarm_key").await?;
    let Some(file) = out else {
        let text = |r: &SwarmKeyReport| r.swarm_key.trim_end().to_owned();
        return context.output.result(&report, text);
    };
    let of = (report.network, report.id);
    write_new(context, file, ("swarm key", &report.swarm_key), of)
}

/// Writes a secret of a network, given by name and id, to a file that is not there yet.
fn write_new(
    context: &Context,
    file: &Path,
    (what, text): (&str, &str),
    (network, id): (String, String),
) -> Result<(), CliError> {
    anyhop_base::fs::create_atomic(file, text.as_bytes(), 0o600).map_err(|e| {
        CliError::usage(format!(
            "cannot write the {what} to {}: {e}",
            file.display()
        ))
        .hint("name a file that is not there yet, in a directory that can be written")
    })?;
    let written = Written {
        network,
        id,
        file: file.display().to_string(),
    };
    context.output.result(&written, |w| {
        format!("wrote the {what} of {} to {}", w.network, w.file)
    })
}

/// Reads a short text, such as a swarm key.
pub(super) fn read_text(file: &Path) -> Result<String, CliError> {
    let read = || {
        let mut text = String::new();
        let file = File::open(file)?;
        file.take(MAX_TEXT).read_to_string(&mut text)?;
        Ok::<_, io::Error>(text)
    };
    read().map_err(|e| {
        CliError::usage(format!("cannot read {}: {e}", file.display()))
            .hint("give the path of a text file that this user may read")
    })
}

pub(super) async fn import(context: &Context, args: ImportArgs) -> Result<(), CliError> {
    let backup = read_backup(&args.file)?;
    let ask = ImportAsk {
        backup,
        passphrase: read_passphrase(&args.passphrase, false).await?,
        membership: Membership {
            name: Some(args.name.to_string()),
            listen: args.listen.listen,
            listen_ws: args.listen.listen_ws,
            ..Membership::default()
        },
    };
    let report: NetworkReport = context.client().post("/v1/networks/import", &ask).await?;
    founded(context, report, "restored")
}

fn read_backup(file: &Path) -> Result<String, CliError> {
    let failed = |e: io::Error| {
        CliError::usage(format!("cannot read the backup {}: {e}", file.display()))
            .hint("give the file that `anyhop network export` wrote")
    };
    let mut text = String::new();
    if file == Path::new("-") {
        let mut stdin = io::stdin().lock().take(MAX_BACKUP);
        stdin.read_to_string(&mut text).map_err(failed)?;
    } else {
        let file = File::open(file).map_err(failed)?;
        let read = file.take(MAX_BACKUP).read_to_string(&mut text);
        read.map_err(failed)?;
    }
    Ok(text)
}

/// A passphrase, never from the arguments, which everybody on the host can see.
async fn read_passphrase(arg: &PassphraseArg, twice: bool) -> Result<String, CliError> {
    let passphrase = match &arg.passphrase_file {
        Some(file) => from_file(file)?,
        None => from_terminal(twice).await?,
    };
    if passphrase.is_empty() {
        return Err(
            CliError::usage("the passphrase is empty, and protects nothing")
                .hint("choose a long one, such as six words at random"),
        );
    }
    Ok(passphrase)
}

fn from_file(file: &Path) -> Result<String, CliError> {
    let failed = |e: io::Error| {
        CliError::usage(format!(
            "cannot read --passphrase-file {}: {e}",
            file.display()
        ))
    };
    let opened = fs::File::open(file).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(opened.take(MAX_PASSPHRASE))
        .read_line(&mut line)
        .map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

async fn from_terminal(twice: bool) -> Result<String, CliError> {
    if !io::stdin().is_terminal() {
        return Err(
            CliError::usage("there is no terminal to ask for a passphrase on")
                .hint("give a file with it: --passphrase-file FILE"),
        );
    }
    let first = ask("Passphrase: ").await?;
    if twice && ask("The same again: ").await? != first {
        return Err(CliError::usage("the two passphrases differ"));
    }
    Ok(first)
}

/// Asks on the terminal without showing what is typed. Ctrl-C leaves it as it was.
async fn ask(prompt: &str) -> Result<String, CliError> {
    let failed =
        |e: io::Error| CliError::new(Code::Failed, format!("cannot ask on the terminal: {e}"));
    eprint!("{prompt}");
    io::stderr().flush().map_err(failed)?;
    let quiet = Quiet::new().map_err(|e| failed(e.into()))?;
    let read = spawn_blocking(|| {
        let mut line = String::new();
        let mut stdin = io::stdin().lock().take(MAX_PASSPHRASE);
        stdin.read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        read = read => read.unwrap_or_else(|e| Err(io::Error::other(e))),
        _ = ctrl_c() => Err(io::ErrorKind::Interrupted.into()),
    };
    drop(quiet);
    eprintln!();
    let line = line.map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The terminal shows nothing that is typed as long as this lives.
struct Quiet(Termios);

impl Quiet {
    fn new() -> nix::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Err(e) = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0) {
            tracing::warn!("the terminal does not show what is typed: run `stty echo` ({e})");
        }
    }
}
