//! Into a namespace and back: a thread's network namespace is its own, and a socket stays
//! in the one it was made in.

use std::io;

/// Runs `work` on a thread of its own inside a namespace.
#[cfg(target_os = "linux")]
pub(super) fn within<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    use nix::sched::{CloneFlags, setns};

    let handle = std::fs::File::open(format!("/var/run/netns/{namespace}"))?;
    let inside = move || {
        setns(handle, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    std::thread::Builder::new()
        .name("netns".into())
        .spawn(inside)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn within<T: Send + 'static>(
    _: &str,
    _: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Has the namespace that the calling thread is in forget all tracked flows, and with
/// them the translations of their addresses: what a NAT forgets when it restarts.
#[cfg(target_os = "linux")]
pub(super) fn forget_flows() -> io::Result<()> {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
        socket,
    };
    use std::os::fd::AsRawFd as _;

    /// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` (linux/netfilter/nfnetlink.h);
    /// without a tuple it means all.
    const DELETE: u16 = 0x0102;
    /// `NLM_F_REQUEST | NLM_F_ACK` (linux/netlink.h).
    const FLAGS: u16 = 0x0005;
    /// A netlink header, then `nfgenmsg`: family unspecified, version 0, resource 0.
    const LEN: u32 = 20;
    /// Where an acknowledgement has its error number.
    const ERROR: std::ops::Range<usize> = 16..20;

    let mut request = [0; LEN as usize];
    request[0..4].copy_from_slice(&LEN.to_ne_bytes());
    request[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    request[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
    let mut answer = [0; 128];
    let size = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = answer[..size].get(ERROR).and_then(|b| b.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn forget_flows() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
