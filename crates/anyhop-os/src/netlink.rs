//! The few requests to rtnetlink (rtnetlink(7)) that an interface of ours takes: it goes up,
//! has addresses and routes, and there are rules which routes count. What the kernel removes with the interface is never taken back here.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
};

use crate::host::RoutingRule;

use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendmsg,
        socket,
    },
};

const HEADER_LEN: usize = 16;
/// Room for an acknowledgement: a header, an error number and the request's own header.
const ANSWER_LEN: usize = 4096;

// Of linux/fib_rules.h.
const FIB_RULE_INVERT: u32 = 2;
const FR_ACT_TO_TBL: u8 = 1;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;

/// A socket for requests.
#[derive(Debug)]
pub(crate) struct Route {
    socket: OwnedFd,
    sequence: u32,
}

impl Route {
    pub(crate) fn open() -> io::Result<Self> {
        let (flags, protocol) = (SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute);
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Takes an interface up, with this MTU.
    pub(crate) fn set_up(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.request(libc::RTM_NEWLINK, 0, &link_body(index, mtu))
    }

    /// Gives an interface an address, and the host a route to its prefix.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix_len: u8,
    ) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let body = address_body(index, address, prefix_len);
        self.request(libc::RTM_NEWADDR, flags, &body)
    }

    /// Adds a route to a prefix over an interface to a table.
    pub(crate) fn add_route(
        &mut self,
        index: u32,
        (first, len): (IpAddr, u8),
        table: u32,
    ) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let body = route_body(index, first, len, table);
        self.request(libc::RTM_NEWROUTE, flags, &body)
    }

    /// Removes such a route.
    pub(crate) fn remove_route(
        &mut self,
        index: u32,
        (first, len): (IpAddr, u8),
        table: u32,
    ) -> io::Result<()> {
        let body = route_body(index, first, len, table);
        self.request(libc::RTM_DELROUTE, 0, &body)
    }

    /// Adds a rule that tells which table decides.
    pub(crate) fn add_rule(&mut self, rule: &RoutingRule) -> io::Result<()> {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.request(libc::RTM_NEWRULE, flags, &rule_body(rule))
    }

    /// Removes such a rule.
    pub(crate) fn remove_rule(&mut self, rule: &RoutingRule) -> io::Result<()> {
        self.request(libc::RTM_DELRULE, 0, &rule_body(rule))
    }

    /// Sends a request and waits for its acknowledgement.
    fn request(&mut self, kind: u16, flags: libc::c_int, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let message = message(kind, flags, self.sequence, body);
        let fd = self.socket.as_raw_fd();
        let kernel = NetlinkAddr::new(0, 0);
        let parts = [IoSlice::new(&message)];
        sendmsg(fd, &parts, &[], MsgFlags::empty(), Some(&kernel))?;
        let mut answer = [0; ANSWER_LEN];
        loop {
            let len = match recv(fd, &mut answer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                len => len?,
            };
            if let Some(result) = acknowledgement(&answer[..len], self.sequence) {
                return result;
            }
        }
    }
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let len = (HEADER_LEN + body.len()) as u32;
    let mut out = len.to_ne_bytes().to_vec();
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(body);
    out
}

/// An `ifinfomsg` that sets `IFF_UP`, and the MTU.
fn link_body(index: u32, mtu: u32) -> Vec<u8> {
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    let mut out = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
    out.extend_from_slice(&index.to_ne_bytes());
    out.extend_from_slice(&up);
    out.extend_from_slice(&up);
    put_attribute(&mut out, libc::IFLA_MTU, &mtu.to_ne_bytes());
    out
}

/// An `ifaddrmsg` with the address. Nobody else on the interface could have it: no duplicates
/// are looked for (RFC 4862 section 5.4).
fn address_body(index: u32, address: IpAddr, prefix_len: u8) -> Vec<u8> {
    let (family, octets) = family_and_octets(address);
    let mut out = vec![family, prefix_len, libc::IFA_F_NODAD as u8, 0];
    out.extend_from_slice(&index.to_ne_bytes());
    put_attribute(&mut out, libc::IFA_LOCAL, &octets);
    put_attribute(&mut out, libc::IFA_ADDRESS, &octets);
    out
}

/// An `rtmsg` for a route that needs no gateway.
fn route_body(index: u32, first: IpAddr, len: u8, table: u32) -> Vec<u8> {
    let (family, octets) = family_and_octets(first);
    // A table beyond a byte is in the attribute only.
    let mut out = vec![family, len, 0, 0, libc::RT_TABLE_UNSPEC];
    out.extend([libc::RTPROT_STATIC, libc::RT_SCOPE_LINK, libc::RTN_UNICAST]);
    out.extend_from_slice(&[0; 4]);
    if len > 0 {
        put_attribute(&mut out, libc::RTA_DST, &octets);
    }
    put_attribute(&mut out, libc::RTA_OIF, &index.to_ne_bytes());
    put_attribute(&mut out, libc::RTA_TABLE, &table.to_ne_bytes());
    out
}

/// A `fib_rule_hdr` (linux/fib_rules.h) with what the rule says.
fn rule_body(rule: &RoutingRule) -> Vec<u8> {
    let family = if rule.v6 {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let flags = if rule.unmarked.is_some() {
        FIB_RULE_INVERT
    } else {
        0
    };
    let mut out = vec![
        family as u8,
        0,
        0,
        0,
        libc::RT_TABLE_UNSPEC,
        0,
        0,
        FR_ACT_TO_TBL,
    ];
    out.extend_from_slice(&flags.to_ne_bytes());
    put_attribute(&mut out, FRA_PRIORITY, &rule.priority.to_ne_bytes());
    put_attribute(&mut out, FRA_TABLE, &rule.table.to_ne_bytes());
    if let Some(mark) = rule.unmarked {
        put_attribute(&mut out, FRA_FWMARK, &mark.to_ne_bytes());
        put_attribute(&mut out, FRA_FWMASK, &u32::MAX.to_ne_bytes());
    }
    if rule.no_defaults {
        put_attribute(&mut out, FRA_SUPPRESS_PREFIXLEN, &0_u32.to_ne_bytes());
    }
    out
}

fn family_and_octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (libc::AF_INET as u8, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6 as u8, ip.octets().to_vec()),
    }
}

/// Appends an attribute, padded to 4 bytes.
fn put_attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// What an answer says about the request with this number; `None` when it is about another.
fn acknowledgement(answer: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let word = |at: usize| <[u8; 4]>::try_from(answer.get(at..at + 4)?).ok();
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let is_ours = u32::from_ne_bytes(word(8)?) == sequence;
    if !is_ours || i32::from(kind) != libc::NLMSG_ERROR {
        return None;
    }
    Some(match i32::from_ne_bytes(word(HEADER_LEN)?) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_told() {
        let mut route = Route::open().unwrap();
        // No interface has this index, and who may not ask is told so.
        let refused = route.set_up(i32::MAX as u32, 1280).unwrap_err();
        let told = refused.raw_os_error().unwrap();
        assert!([libc::ENODEV, libc::EPERM].contains(&told), "{refused}");
    }

    #[test]
    fn attributes_are_padded_and_count_their_header() {
        let mut out = Vec::new();
        put_attribute(&mut out, 7, &[1, 2, 3, 4, 5]);
        assert_eq!(out.len(), 12);
        assert_eq!(out[..2], 9_u16.to_ne_bytes());
        assert_eq!(out[4..], [1, 2, 3, 4, 5, 0, 0, 0]);
    }

    #[test]
    fn torn_and_foreign_answers_say_nothing() {
        let sequence = 7;
        let kind = libc::NLMSG_ERROR as u16;
        let whole = message(kind, 0, sequence, &(-libc::EEXIST).to_ne_bytes());
        let error = acknowledgement(&whole, sequence).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        assert!(acknowledgement(&whole, 8).is_none());
        for len in 0..whole.len() {
            assert!(acknowledgement(&whole[..len], sequence).is_none());
        }
    }
}
