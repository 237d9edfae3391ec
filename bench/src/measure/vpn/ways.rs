//! The contenders: how the tunnel of each is made between two hosts.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::tools::{self, Figures, Running, which};
use crate::{
    error::{BenchError, Result},
    netns::{Line, Namespace},
    tunnel::{Here, Other, Way},
};

/// Addresses inside of tunnels.
const INSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)];
const WIREGUARD_PORT: u16 = 51820;
const WEBSOCKET_PORT: u16 = 8443;
/// Where WireGuard in user space is configured.
const WIREGUARD_SOCKETS: &str = "/var/run/wireguard";
/// What is tried when nothing is said: a program, and what it is told besides `-f`.
const KNOWN: [&str; 3] = ["wireguard-go", "boringtun-cli", "gotatun"];
/// How often something that is starting is tried.
const TRIES: usize = 200;

/// A WireGuard in user space.
#[derive(Debug, Clone)]
pub(super) struct Rival {
    name: String,
    program: PathBuf,
}

impl Rival {
    /// Those that are there, and the names of those that are not.
    pub(super) fn find(given: &[String]) -> (Vec<Self>, Vec<String>) {
        let (mut found, mut absent) = (Vec::new(), Vec::new());
        if let Some(missing) = tools::missing(&["wg"]) {
            return (
                found,
                vec![format!("`{missing}`, without which there is no WireGuard")],
            );
        }
        let known = KNOWN.iter().map(|name| (*name).to_owned());
        let given = given.iter().cloned();
        for name in known.chain(given) {
            let (label, program) = name.split_once('=').unwrap_or((&name, &name));
            match which(program).or_else(|| Some(program.into()).filter(|p: &PathBuf| p.is_file()))
            {
                Some(program) => found.push(Self {
                    name: label.to_owned(),
                    program,
                }),
                None => absent.push(label.to_owned()),
            }
        }
        (found, absent)
    }
}

/// Who is measured.
pub(super) enum Contender<'a> {
    /// The devices without a tunnel.
    Veth,
    Wireguard(&'a Rival),
    Anyhop(Way),
}

impl<'a> Contender<'a> {
    /// All, in the order in which they take their turns.
    pub(super) fn all(rivals: &'a [Rival]) -> Vec<Self> {
        let mut all = vec![Self::Veth];
        all.extend(rivals.iter().map(Self::Wireguard));
        all.extend([Way::Direct, Way::Relay, Way::WebSocket].map(Self::Anyhop));
        all
    }

    /// Whether the others are measured against it.
    pub(super) fn is_the_yardstick(&self) -> bool {
        matches!(self, Self::Veth)
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Veth => "veth pair, no tunnel".to_owned(),
            Self::Wireguard(rival) => rival.name.clone(),
            Self::Anyhop(Way::Direct) => "Anyhop, direct".to_owned(),
            Self::Anyhop(Way::Relay) => "Anyhop, over one relay".to_owned(),
            Self::Anyhop(Way::WebSocket) => "Anyhop, over a WebSocket".to_owned(),
        }
    }

    pub(super) fn measure(&self, line: &Line, seconds: u16) -> Result<Figures> {
        let ends = [&line.a, &line.b];
        match self {
            Self::Veth => tools::measure(ends, line.direct[1], seconds, &[]),
            Self::Wireguard(rival) => {
                let tunnel = wireguard(line, rival)?;
                let pids = tunnel.each_ref().map(|running| running.0.id());
                tools::measure(ends, INSIDE[1], seconds, &pids)
            }
            Self::Anyhop(way) => {
                let tunnel = anyhop(line, *way)?;
                let pids: Vec<u32> = tunnel.iter().map(|end| end.process.id()).collect();
                tools::measure(ends, INSIDE[1], seconds, &pids)
            }
        }
    }
}

/// A pair of WireGuard devices that know each other.
fn wireguard(line: &Line, rival: &Rival) -> Result<[Running; 2]> {
    let hosts = [&line.a, &line.b];
    let keys = [key()?, key()?];
    let mut devices = Vec::new();
    for (end, host) in hosts.into_iter().enumerate() {
        let name = format!("wgbench{end}");
        devices.push(device(host, rival, &name)?);
        let peer = &keys[1 - end].1;
        let endpoint = format!("{}:{WIREGUARD_PORT}", line.direct[1 - end]);
        let secret = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::write(&secret, &keys[end].0).map_err(BenchError::io("writing a key"))?;
        let mut set = host.command("wg");
        set.args(["set", &name, "listen-port", &WIREGUARD_PORT.to_string()])
            .arg("private-key")
            .arg(&secret)
            .args(["peer", peer, "endpoint", &endpoint])
            .args(["allowed-ips", &format!("{}/32", INSIDE[1 - end])]);
        let done = run(&mut set);
        let _ = fs::remove_file(&secret);
        done?;
        host.ip(&[
            "address",
            "add",
            &format!("{}/24", INSIDE[end]),
            "dev",
            &name,
        ])?;
        host.ip(&["link", "set", &name, "up"])?;
    }
    let [a, b] = <[Running; 2]>::try_from(devices).expect("one for each of two hosts");
    Ok([a, b])
}

/// Starts one, and waits until it can be configured.
fn device(host: &Namespace, rival: &Rival, name: &str) -> Result<Running> {
    let socket = Path::new(WIREGUARD_SOCKETS).join(format!("{name}.sock"));
    // One that was killed leaves it behind.
    let _ = fs::remove_file(&socket);
    let mut command = host.command(&rival.program);
    command.args(["-f", name]);
    if !rival.name.starts_with("wireguard") {
        command.arg("--disable-drop-privileges");
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running::start(&mut command, &rival.name)?;
    for _ in 0..TRIES {
        let there = host.ip(&["link", "show", name]).is_ok();
        if there && run(host.command("wg").args(["show", name])).is_ok() {
            return Ok(running);
        }
        tools::wait();
    }
    Err(BenchError::Measured {
        what: "a WireGuard device",
        reason: format!("{} makes no {name}", rival.program.display()),
    })
}

/// A private key and its public one.
fn key() -> Result<(String, String)> {
    let private = run(Command::new("wg").arg("genkey"))?;
    let mut public = Command::new("wg");
    public
        .arg("pubkey")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = public.spawn().map_err(BenchError::io("running wg"))?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(private.as_bytes())
            .map_err(BenchError::io("telling wg"))?;
    }
    let output = child
        .wait_with_output()
        .map_err(BenchError::io("running wg"))?;
    let public = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok((private, public))
}

fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(BenchError::io(&shown))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(BenchError::Command {
        command: shown,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// A process of ours at one end, or between the two.
struct End {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
    here: Here,
}

impl End {
    fn start(host: &Namespace, args: &[String]) -> Result<Self> {
        let own = std::env::current_exe().map_err(BenchError::io("finding this program"))?;
        let mut command = host.command(own);
        command
            .arg("tunnel")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command
            .spawn()
            .map_err(BenchError::io("starting a tunnel"))?;
        let output = process.stdout.take();
        let output = output.ok_or_else(|| BenchError::Worker("has no output".to_owned()))?;
        let here = Here { addrs: Vec::new() };
        let mut end = Self {
            process,
            lines: BufReader::new(output),
            here,
        };
        let said = end.said()?;
        end.here = serde_json::from_str(&said).map_err(BenchError::while_("an address"))?;
        Ok(end)
    }

    fn said(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        match read.map_err(BenchError::io("a tunnel's answer"))? {
            0 => Err(BenchError::Worker("ended; its errors are above".to_owned())),
            _ => Ok(line),
        }
    }

    fn tell(&mut self, other: &Other) -> Result<()> {
        let line = serde_json::to_string(other).map_err(BenchError::while_("a command"))?;
        let input = self.process.stdin.as_mut();
        let input = input.ok_or_else(|| BenchError::Worker("has no input".to_owned()))?;
        writeln!(input, "{line}").map_err(BenchError::io("telling a tunnel"))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Both can only fail when it has gone.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A VPN of two nodes, the dialling end first, and the relay between them if there is one.
fn anyhop(line: &Line, way: Way) -> Result<Vec<End>> {
    let listen = |at: Ipv4Addr| vec!["--listen".to_owned(), format!("{at}:0")];
    let mut args = match way {
        Way::Direct => line.direct.map(listen),
        Way::Relay => line.outer.map(listen),
        // Where no UDP gets through.
        Way::WebSocket => [Ipv4Addr::LOCALHOST; 2].map(listen),
    };
    let mut relay = None;
    if way == Way::Relay {
        let at = listen(Ipv4Addr::UNSPECIFIED);
        let started = End::start(&line.relay, &at)?;
        for (args, ip) in args.iter_mut().zip(line.middle) {
            let near = started
                .here
                .addrs
                .iter()
                .find(|a| a.contains(&format!("/{ip}/")));
            let near = near.ok_or_else(|| BenchError::Worker("has no address".to_owned()))?;
            args.extend(["--bootstrap".to_owned(), near.clone()]);
        }
        relay = Some(started);
    }
    if way == Way::WebSocket {
        let at = format!("{}:{WEBSOCKET_PORT}", line.direct[1]);
        args[1].extend(["--listen-ws".to_owned(), at]);
    }
    let [mut a_args, mut b_args] = args;
    a_args.extend(["--ip".to_owned(), INSIDE[0].to_string()]);
    b_args.extend(["--ip".to_owned(), INSIDE[1].to_string()]);
    let mut a = End::start(&line.a, &a_args)?;
    let mut b = End::start(&line.b, &b_args)?;
    let to = |end: &End, ip| Other {
        addrs: end.here.addrs.clone(),
        ip,
        way,
    };
    let (to_b, to_a) = (to(&b, INSIDE[1]), to(&a, INSIDE[0]));
    a.tell(&to_b)?;
    a.said()?;
    b.tell(&to_a)?;
    b.said()?;
    Ok([a, b].into_iter().chain(relay).collect())
}
