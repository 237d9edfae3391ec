//! A proxy for programs that know nothing of us: members by name, and the rest of the world
//! by way of a member that allows it. Nobody needs root or an interface for that.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    thread,
};

use anyhop_lab::netns::{Families, Namespace, NatKind, Process, run};

use crate::{PATIENCE, node::Node, turn, vpn::network, world::World};

const CURL: &str = "/usr/bin/curl";
const PROXY: &str = "127.0.0.1:1080";

/// Serves a page that says where it comes from.
fn serve(host: &Namespace, at: SocketAddr, page: &'static str) {
    let bind = move || TcpListener::bind(at);
    let listener = host.enter(bind).expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n";
            let _ = stream.write_all(format!("{head}{page}").as_bytes());
        }
    });
}

/// A command that runs until it is dropped, and is ready when this returns.
async fn runs(node: &Node, args: &[&str]) -> Process {
    let mut process = Process::start(node.command(args)).expect("started");
    let ready = process.line(PATIENCE).await.expect("ready");
    assert!(ready.starts_with("ready"), "{args:?}: {ready}");
    process
}

/// The page that `curl` gets over one of the proxy's protocols, or its exit code.
async fn get(host: &Namespace, over: &[&str], url: &str) -> Result<String, Option<i32>> {
    let mut command = host.command(CURL);
    command
        .args(["--silent", "--max-time", "30"])
        .args(over)
        .arg(url);
    let done = run(command, b"", PATIENCE).await.expect("curl runs");
    match done.code {
        Some(0) => Ok(done.stdout),
        code => Err(code),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_reach_members_by_name_and_others_by_an_exit_through_a_proxy() {
    let Some(_turn) = turn().await else { return };
    if !Path::new(CURL).exists() {
        println!("skipped: {CURL} is not installed");
        return;
    }
    let mut world = World::new().await;
    let mut a = world.behind("A", NatKind::PortRestrictedCone).await;
    network(&world.r, &[&a.node]).await;
    let outside = world.lab.public_host("c", Families::Both).expect("a host");
    let outside_at = SocketAddr::new(outside.v4().expect("IPv4").into(), 8000);
    serve(&outside, outside_at, "outside");
    let owner = world.r.namespace().clone();
    serve(&owner, ([127, 0, 0, 1], 7400).into(), "owner");

    let _exposed = runs(&world.r, &["--network", "lab", "expose", "127.0.0.1:7400"]).await;
    let socks = ["--network", "lab", "socks", "--exit", "owner"];
    let _proxy = runs(&a.node, &socks).await;
    let host = a.node.namespace().clone();
    let by_id = format!("http://{}:7400/", world.r.peer);
    let outside_url = format!("http://{outside_at}/");
    let http = format!("http://{PROXY}");
    let ways: [&[&str]; 2] = [
        &["--socks5-hostname", PROXY],
        &["--proxytunnel", "--proxy", &http],
    ];
    for way in ways {
        for url in [
            "http://owner.lab.anyhop:7400/",
            "http://OWNER.lab.anyhop:7400/",
            &by_id,
        ] {
            assert_eq!(
                get(&host, way, url).await,
                Ok("owner".to_owned()),
                "{way:?} {url}"
            );
        }
        for url in [
            // Not exposed, nobody's, of no network, and what nobody has made an exit for.
            "http://owner.lab.anyhop:7401/",
            "http://nobody.lab.anyhop:7400/",
            "http://owner.other.anyhop:7400/",
            &outside_url,
        ] {
            assert!(get(&host, way, url).await.is_err(), "{way:?} {url}");
        }
    }
    let exit = runs(&world.r, &["--network", "lab", "expose", "--exit"]).await;
    for way in ways {
        let page = get(&host, way, &outside_url).await;
        assert_eq!(page, Ok("outside".to_owned()), "{way:?}");
        // What only the exit itself reaches is not for members.
        let own = get(&host, way, "http://127.0.0.1:7400/").await;
        assert!(own.is_err(), "{way:?}: {own:?}");
    }
    drop(exit);
    let allow = ["--network", "lab", "expose", "--exit", "--allow-private"];
    let _exit = runs(&world.r, &allow).await;
    for way in ways {
        let page = get(&host, way, "http://127.0.0.1:7400/").await;
        assert_eq!(page, Ok("owner".to_owned()), "{way:?}");
    }
}
