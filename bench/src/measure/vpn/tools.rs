//! What is measured, and with which programs.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    child::threads,
    error::{BenchError, Result},
    netns::Namespace,
    stats::Spread,
};

/// Echoes of one round: seconds between two, and how many. At the slow pace everything has
/// gone cold between two, the processor's caches among it.
const SLOW: [&str; 2] = ["0.01", "300"];
const BRISK: [&str; 2] = ["0.001", "1000"];
/// Bytes of a small packet's payload.
const SMALL: &str = "64";
/// How often a server that is starting is tried.
const TRIES: usize = 100;
/// Bytes in a gigabyte.
const GIGABYTE: f64 = 1e9;

/// What one round showed of one contender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) one_out: f64,
    pub(super) one_back: f64,
    pub(super) four_out: f64,
    pub(super) four_back: f64,
    /// Of all processes and the kernel, for a gigabyte over one stream.
    pub(super) machine_cpu_s_per_gb: f64,
    /// Of the tunnel's processes alone; zero without a tunnel.
    pub(super) tunnel_cpu_s_per_gb: f64,
    pub(super) packets_per_s: f64,
    /// At 100 echoes a second.
    pub(super) rtt_us: f64,
    /// At 1000.
    pub(super) brisk_rtt_us: f64,
    /// At 1000, while something of the lowest priority keeps the processors awake.
    pub(super) awake_rtt_us: f64,
}

/// The first of some programs that is not on the path.
pub(super) fn missing(programs: &[&'static str]) -> Option<&'static str> {
    programs.iter().copied().find(|p| which(p).is_none())
}

/// Where a program is.
pub(super) fn which(program: &str) -> Option<PathBuf> {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&dirs).map(|dir| dir.join(program));
    found.find(|path| path.is_file())
}

/// A process that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running(pub(super) Child);

impl Running {
    pub(super) fn start(command: &mut Command, what: &str) -> Result<Self> {
        let started = command.stdin(Stdio::null()).spawn();
        Ok(Self(started.map_err(BenchError::io(what))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both can only fail when it has gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes all figures between two ends whose tunnel is up. `pids` are its processes.
pub(super) fn measure(
    [from, to]: [&Namespace; 2],
    ip: Ipv4Addr,
    seconds: u16,
    pids: &[u32],
) -> Result<Figures> {
    let mut server = to.command("iperf3");
    server
        .args(["-s", "-1", "-B", &ip.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let [rtt_us, brisk_rtt_us] = [round_trip(from, ip, SLOW)?, round_trip(from, ip, BRISK)?];
    let awake_rtt_us = {
        let _awake = keep_awake()?;
        round_trip(from, ip, BRISK)?
    };
    let mut run = |args: &[&str]| iperf(from, &mut server, ip, seconds, args);
    // Congestion windows and path MTU settle.
    run(&["-t", "1"])?;
    let before = (machine_cpu()?, cpu_of(pids)?);
    let one_out = run(&[])?;
    let (machine, tunnel) = (machine_cpu()? - before.0, cpu_of(pids)? - before.1);
    let gb = one_out["end"]["sum_received"]["bytes"]
        .as_f64()
        .unwrap_or(f64::NAN)
        / GIGABYTE;
    let small = run(&["-u", "-b", "0", "-l", SMALL])?;
    Ok(Figures {
        one_out: gbit_s(&one_out)?,
        one_back: gbit_s(&run(&["-R"])?)?,
        four_out: gbit_s(&run(&["-P", "4"])?)?,
        four_back: gbit_s(&run(&["-P", "4", "-R"])?)?,
        machine_cpu_s_per_gb: machine / gb,
        tunnel_cpu_s_per_gb: tunnel / gb,
        packets_per_s: packets_per_s(&small)?,
        rtt_us,
        brisk_rtt_us,
        awake_rtt_us,
    })
}

/// Has no processor sleep: how long one takes to wake up is the machine's affair, and in a
/// virtual one most of a round trip.
fn keep_awake() -> Result<Vec<Running>> {
    let spin = || {
        let mut command = Command::new("nice");
        command.args(["-n", "19", "sh", "-c", "while :; do :; done"]);
        Running::start(&mut command, "keeping a processor awake")
    };
    (0..threads()).map(|_| spin()).collect()
}

/// The median of some echoes.
fn round_trip(from: &Namespace, ip: Ipv4Addr, [every, echoes]: [&str; 2]) -> Result<f64> {
    let mut ping = from.command("ping");
    ping.args(["-n", "-i", every, "-c", echoes, "-W", "2"])
        .arg(ip.to_string());
    let output = ping.output().map_err(BenchError::io("running ping"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let times = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("time=")?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    });
    let median = Spread::of(times).median * 1e3;
    match median.is_nan() {
        false => Ok(median),
        true => Err(BenchError::Measured {
            what: "the round trip",
            reason: format!("no echo of {ip} came back: {text}"),
        }),
    }
}

/// Runs iperf3 against a fresh server; what it says.
fn iperf(
    from: &Namespace,
    server: &mut Command,
    ip: Ipv4Addr,
    seconds: u16,
    args: &[&str],
) -> Result<Value> {
    let _server = Running::start(server, "starting iperf3")?;
    let (seconds, ip) = (seconds.to_string(), ip.to_string());
    let mut said = Value::Null;
    for _ in 0..TRIES {
        let mut client = from.command("iperf3");
        client.args(["-J", "-c", &ip, "-t", &seconds]).args(args);
        let output = client.output().map_err(BenchError::io("running iperf3"))?;
        said = serde_json::from_slice(&output.stdout).map_err(BenchError::while_("iperf3"))?;
        if said.get("error").is_none() {
            return Ok(said);
        }
        wait();
    }
    Err(BenchError::Measured {
        what: "iperf3",
        reason: said["error"].to_string(),
    })
}

/// A moment, until something that is starting is tried again.
#[expect(
    clippy::disallowed_methods,
    reason = "no runtime: nothing else is to be done"
)]
pub(super) fn wait() {
    thread::sleep(Duration::from_millis(20));
}

fn gbit_s(said: &Value) -> Result<f64> {
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits = bits.ok_or_else(|| BenchError::Measured {
        what: "iperf3",
        reason: "it tells no throughput".to_owned(),
    });
    Ok(bits? / 1e9)
}

/// Packets that arrived.
fn packets_per_s(said: &Value) -> Result<f64> {
    let sum = &said["end"]["sum"];
    let figure = |key: &str| sum[key].as_f64();
    let sums = (figure("packets"), figure("lost_packets"), figure("seconds"));
    let (Some(sent), Some(lost), Some(seconds)) = sums else {
        return Err(BenchError::Measured {
            what: "iperf3",
            reason: format!("it tells no packets: {sum}"),
        });
    };
    Ok((sent - lost) / seconds)
}

/// CPU seconds that all processors have spent at work; see proc(5), `/proc/stat`.
fn machine_cpu() -> Result<f64> {
    const PATH: &str = "/proc/stat";
    let text = fs::read_to_string(PATH).map_err(BenchError::io(PATH))?;
    let total = text.lines().next().unwrap_or_default();
    let ticks = total
        .split_whitespace()
        .skip(1)
        .map(|n| n.parse::<f64>().unwrap_or(0.0));
    // user nice system idle iowait irq softirq
    let busy: f64 = ticks
        .take(7)
        .enumerate()
        .filter(|(at, _)| !matches!(at, 3 | 4))
        .map(|(_, n)| n)
        .sum();
    Ok(busy / TICKS_PER_S)
}

/// CPU seconds of some processes; see proc(5), `/proc/pid/stat`.
fn cpu_of(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(BenchError::io(&path))?;
        // The name before may hold spaces.
        let (_, rest) = text.rsplit_once(')').unwrap_or_default();
        let of_process = rest.split_whitespace().skip(11).take(2);
        ticks += of_process
            .filter_map(|n| n.parse::<f64>().ok())
            .sum::<f64>();
    }
    Ok(ticks / TICKS_PER_S)
}

/// `USER_HZ`, which is the same on all machines that Linux runs on today.
const TICKS_PER_S: f64 = 100.0;
