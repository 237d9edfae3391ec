//! Datagrams with a hop limit of their own.

#[cfg(target_os = "linux")]
use std::io::IoSlice;
use std::{io, net::SocketAddr, os::fd::AsFd};

/// Sends one datagram that routers drop after `ttl` hops. The socket's own limit stays as
/// it is, since the control message counts for this datagram only.
///
/// # Errors
/// What the kernel says; `Unsupported` where there is no such control message.
#[cfg(target_os = "linux")]
pub fn send_with_ttl(
    socket: &impl AsFd,
    datagram: &[u8],
    to: SocketAddr,
    ttl: u8,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
    let hops = i32::from(ttl);
    let control = match to {
        SocketAddr::V4(_) => ControlMessage::Ipv4Ttl(&hops),
        SocketAddr::V6(_) => ControlMessage::Ipv6HopLimit(&hops),
    };
    let to = SockaddrStorage::from(to);
    let sent = sendmsg(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(datagram)],
        &[control],
        MsgFlags::MSG_DONTWAIT,
        Some(&to),
    )?;
    if sent < datagram.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// Elsewhere there is no such control message that is known to work.
///
/// # Errors
/// Always `Unsupported`.
#[cfg(not(target_os = "linux"))]
pub fn send_with_ttl(
    _socket: &impl AsFd,
    _datagram: &[u8],
    _to: SocketAddr,
    _ttl: u8,
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{net::UdpSocket, os::fd::AsRawFd};

    use nix::sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt,
    };

    use super::*;

    #[test]
    fn the_hop_limit_counts_for_one_datagram_only() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        setsockopt(&receiver, sockopt::Ipv4RecvTtl, &true).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let usual = sender.ttl().unwrap();
        let to = receiver.local_addr().unwrap();
        send_with_ttl(&sender, b"short", to, 3).unwrap();
        sender.send_to(b"usual", to).unwrap();
        for expected in [3, i32::try_from(usual).unwrap()] {
            let mut space = [0; 16];
            let mut iov = [io::IoSliceMut::new(&mut space)];
            let mut control = nix::cmsg_space!(i32);
            let fd = receiver.as_raw_fd();
            let got =
                recvmsg::<SockaddrStorage>(fd, &mut iov, Some(&mut control), MsgFlags::empty())
                    .unwrap();
            let ttl = got.cmsgs().unwrap().find_map(|c| match c {
                ControlMessageOwned::Ipv4Ttl(ttl) => Some(ttl),
                _ => None,
            });
            assert_eq!(ttl, Some(expected));
        }
    }

    #[test]
    fn ipv6_takes_a_hop_limit_too() {
        let Ok(receiver) = UdpSocket::bind("[::1]:0") else {
            println!("skipped: no IPv6 on this machine");
            return;
        };
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        send_with_ttl(&sender, b"short", receiver.local_addr().unwrap(), 3).unwrap();
        let mut space = [0; 16];
        assert_eq!(receiver.recv(&mut space).unwrap(), 5);
    }
}
