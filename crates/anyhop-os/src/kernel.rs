//! Settings of the kernel that decide how well packets move.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
};

/// Where the kernel keeps its limits on socket buffers.
const SOCKET_LIMITS: &str = "/proc/sys/net/core";
/// Where it tells about interfaces.
const INTERFACES: &str = "/sys/class/net";
/// Addresses that stand for all the internet: of documentation, so nobody's (RFC 5737,
/// RFC 3849).
const ELSEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Largest buffers that an unprivileged process gets for a socket, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketBufferLimits {
    /// For what was received and not read.
    pub receive: u64,
    /// For what was sent and has not left.
    pub send: u64,
}

/// The kernel's limits on socket buffers.
///
/// # Errors
/// When the system does not tell them.
pub fn socket_buffer_limits() -> io::Result<SocketBufferLimits> {
    let read = |name| read_number(&Path::new(SOCKET_LIMITS).join(name));
    Ok(SocketBufferLimits {
        receive: read("rmem_max")?,
        send: read("wmem_max")?,
    })
}

/// The interfaces and the longest packet that each carries, bytes, in order of name.
/// Empty where the system does not tell.
#[must_use]
pub fn interface_mtus() -> Vec<(String, u64)> {
    let Ok(entries) = fs::read_dir(INTERFACES) else {
        return Vec::new();
    };
    let mtu = |entry: fs::DirEntry| {
        let mtu = read_number(&entry.path().join("mtu")).ok()?;
        Some((entry.file_name().into_string().ok()?, mtu))
    };
    let mut mtus: Vec<_> = entries.flatten().filter_map(mtu).collect();
    mtus.sort();
    mtus
}

/// The address from which this host would send to the internet, over IPv4 or over IPv6;
/// the kernel looks up the route, and nothing is sent.
///
/// # Errors
/// When there is no route, or no address of that family.
pub fn source_address(ipv6: bool) -> io::Result<IpAddr> {
    let elsewhere = ELSEWHERE[usize::from(ipv6)];
    let any = match ipv6 {
        false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(SocketAddr::new(elsewhere, 9))?;
    Ok(socket.local_addr()?.ip())
}

fn read_number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| {
        let what = format!("{} holds no number", path.display());
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_among_the_interfaces() {
        let mtus = interface_mtus();
        assert!(mtus.iter().any(|(name, mtu)| name == "lo" && *mtu >= 1280));
        assert!(mtus.is_sorted(), "{mtus:?}");
    }

    #[test]
    fn a_source_address_is_this_hosts_own() {
        let own = crate::interface_addresses().unwrap();
        for ipv6 in [false, true] {
            // A host without a route of the family has none.
            if let Ok(source) = source_address(ipv6) {
                assert_eq!(source.is_ipv6(), ipv6);
                assert!(own.contains(&source), "{source} is not among {own:?}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_an_error_that_names_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, number) in [("4194304\n", Some(4_194_304)), ("", None), ("-1", None)] {
            fs::write(file.path(), text).unwrap();
            match read_number(file.path()) {
                Ok(n) => assert_eq!(Some(n), number),
                Err(e) => {
                    assert_eq!(number, None);
                    assert!(e.to_string().contains(&file.path().display().to_string()));
                }
            }
        }
    }
}
