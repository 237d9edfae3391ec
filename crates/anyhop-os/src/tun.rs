//! Network interfaces of ours: TUN and TAP devices (Linux's `tuntap`).
//!
//! Packets come and go with a `vnet_hdr` in front (virtio 1.2 section 5.1.6): the kernel leaves
//! TCP, and where it can UDP, to be cut into packets here, and takes many as one.
//!
//! A device lasts as long as its file is open, with its addresses and routes: however this
//! process ends, the kernel removes them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice},
    net::IpAddr,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt,
    },
    path::PathBuf,
};

use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        uio::writev,
    },
    unistd::read,
};

use crate::netlink;

/// Longest name of an interface, bytes.
pub const MAX_INTERFACE_NAME: usize = libc::IFNAMSIZ - 1;

const CLONE_DEVICE: &str = "/dev/net/tun";

nix::ioctl_write_int! {
    /// `TUNSETIFF`: makes the device that an `ifreq` describes. The kernel declares the
    /// argument as an int and reads a pointer.
    tun_set_iff, b'T', 202
}

nix::ioctl_write_int! {
    /// `TUNSETOFFLOAD`: which packets the device may leave to be finished.
    tun_set_offload, b'T', 208
}

/// Checksums and TCP of both families.
const OFFLOAD_TCP: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
/// UDP too, since Linux 6.2 (`TUN_F_USO4`, `TUN_F_USO6`).
const OFFLOAD_UDP: libc::c_uint = 0x20 | 0x40;

/// What `TUNSETIFF` reads and writes: the kernel's `struct ifreq`, of which it looks at the
/// name and the flags.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// What a device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunKind {
    /// IP packets (TUN).
    Packets,
    /// Ethernet frames (TAP).
    Frames,
}

/// A device: the host's packets or frames come out, those written go in.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    index: u32,
    kind: TunKind,
}

impl Tun {
    /// Makes a device. It is down and has no addresses.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_NET_ADMIN`, `NotFound` without the kernel's module,
    /// `ResourceBusy` when there is an interface of that name, `InvalidInput` for a name
    /// that no interface can have.
    pub fn create(name: &str, kind: TunKind) -> io::Result<Self> {
        let usable = |b: &u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
        let len = 1..=MAX_INTERFACE_NAME;
        let dots = matches!(name, "." | "..");
        if dots || !len.contains(&name.len()) || !name.as_bytes().iter().all(usable) {
            let why = format!("{name:?} cannot be the name of an interface");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(CLONE_DEVICE)?;
        let carries = match kind {
            TunKind::Packets => libc::IFF_TUN,
            TunKind::Frames => libc::IFF_TAP,
        };
        let mut request = Request {
            name: [0; libc::IFNAMSIZ],
            flags: (carries | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short,
            rest: [0; 22],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        attach(&file, &mut request).map_err(|e| match e.kind() {
            // What the kernel says of an interface of another kind.
            io::ErrorKind::InvalidInput if nix::net::if_::if_nametoindex(name).is_ok() => {
                io::ErrorKind::ResourceBusy.into()
            }
            _ => e,
        })?;
        // A kernel without an offload gives finished packets, with the same header in front.
        if !set_offload(&file, OFFLOAD_TCP | OFFLOAD_UDP) {
            set_offload(&file, OFFLOAD_TCP);
        }
        let index = nix::net::if_::if_nametoindex(name)?;
        Ok(Self {
            file,
            name: name.to_owned(),
            index,
            kind,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Gives it addresses with the lengths of their prefixes, to which routes appear, and
    /// takes it up. Answers the IPv6 addresses that a host without IPv6 does not take.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn configure(&self, mtu: u32, addresses: &[(IpAddr, u8)]) -> io::Result<Vec<IpAddr>> {
        // IPv6, whatever holds for other interfaces, and no router that others announce. A
        // device for packets is no link, and needs no address of a link's.
        let conf = PathBuf::from("/proc/sys/net/ipv6/conf").join(&self.name);
        let _ = fs::write(conf.join("disable_ipv6"), "0");
        let _ = fs::write(conf.join("accept_ra"), "0");
        let _ = fs::write(conf.join("router_solicitations"), "0");
        if self.kind == TunKind::Packets {
            let _ = fs::write(conf.join("addr_gen_mode"), "1");
        }
        let mut netlink = netlink::Route::open()?;
        netlink.set_up(self.index, mtu)?;
        let mut left_out = Vec::new();
        for (address, prefix_len) in addresses {
            match netlink.add_address(self.index, *address, *prefix_len) {
                Err(e) if address.is_ipv6() && is_no_ipv6(&e) => left_out.push(*address),
                other => other?,
            }
        }
        Ok(left_out)
    }

    /// Has the host send packets for a prefix here, by this table of its routes. They go with
    /// the device.
    ///
    /// # Errors
    /// `AlreadyExists` when the table has a route to the prefix; what else the kernel says.
    pub fn add_route(&self, prefix: (IpAddr, u8), table: u32) -> io::Result<()> {
        netlink::Route::open()?.add_route(self.index, prefix, table)
    }

    /// Takes that back.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_route(&self, prefix: (IpAddr, u8), table: u32) -> io::Result<()> {
        netlink::Route::open()?.remove_route(self.index, prefix, table)
    }

    /// Takes a packet of the host, with its `vnet_hdr`. `WouldBlock` when there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        Ok(read(&self.file, packet)?)
    }

    /// Gives the host a packet in parts, its `vnet_hdr` first. `WouldBlock` when it takes
    /// none now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        writev(&self.file, parts)?;
        Ok(())
    }

    /// Waits until there are packets; false once `stop` is set.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&self, stop: &StopFlag) -> io::Result<bool> {
        let mut fds = [
            PollFd::new(self.file.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.0.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => {
                    let stopped = fds[1].any().unwrap_or(true);
                    let failed = fds[0]
                        .revents()
                        .is_none_or(|r| r.contains(PollFlags::POLLERR));
                    return match (stopped, failed) {
                        (true, _) => Ok(false),
                        // The interface was removed by somebody else.
                        (_, true) => Err(io::ErrorKind::NotFound.into()),
                        _ => Ok(true),
                    };
                }
            }
        }
    }
}

#[expect(unsafe_code, reason = "TUNSETOFFLOAD has no safe wrapper")]
fn set_offload(file: &File, offload: libc::c_uint) -> bool {
    // SAFETY: the descriptor is open, and the argument is a number.
    unsafe { tun_set_offload(file.as_raw_fd(), libc::c_ulong::from(offload)) }.is_ok()
}

/// Whether the kernel has no IPv6, or none that may be used.
fn is_no_ipv6(error: &io::Error) -> bool {
    let no = [libc::EACCES, libc::EAFNOSUPPORT, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|code| no.contains(&code))
}

#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
fn attach(file: &File, request: &mut Request) -> io::Result<()> {
    let argument = std::ptr::from_mut(request) as libc::c_ulong;
    // SAFETY: the descriptor is open, and the kernel reads and writes at most the 40 bytes
    // of an `ifreq`, which is what `argument` points to and nobody else uses meanwhile.
    unsafe { tun_set_iff(file.as_raw_fd(), argument) }?;
    Ok(())
}

/// Wakes a thread that waits for packets, so that it ends.
#[derive(Debug)]
pub struct StopFlag(EventFd);

impl StopFlag {
    /// One that is not set.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(EventFd::from_value_and_flags(0, flags)?))
    }

    /// Sets it, for good.
    pub fn set(&self) {
        // Fails only when it has been set 2^64 times.
        let _ = self.0.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::interface_addresses;

    /// `None`, with the reason printed, where devices cannot be made.
    fn device(name: &str) -> Option<Tun> {
        match Tun::create(name, TunKind::Packets) {
            Ok(tun) => Some(tun),
            Err(e) => {
                println!("skipped: no TUN device here ({e})");
                None
            }
        }
    }

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["", "longer-than-15-bytes", "a/b", "a b", "a%d", "."] {
            let refused = Tun::create(name, TunKind::Packets).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn a_device_comes_with_its_addresses_and_goes_when_it_is_dropped() {
        let name = format!("anyhop-t{}", std::process::id() % 1_000_000);
        let Some(tun) = device(&name) else { return };
        let (v4, v6) = ("198.51.100.77", "fd00:a:b:c::77");
        let addresses = [(v4.parse().unwrap(), 32), (v6.parse().unwrap(), 128)];
        let left_out = tun.configure(1420, &addresses).unwrap();
        assert!(left_out.iter().all(IpAddr::is_ipv6));
        let shown = |what: &str| {
            let all = nix::ifaddrs::getifaddrs().unwrap();
            all.filter(|i| i.interface_name == name)
                .filter_map(|i| i.address)
                .any(|a| a.to_string().contains(what))
        };
        assert!(shown(v4) && shown(v6) == left_out.is_empty());
        let path = format!("/sys/class/net/{name}/mtu");
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), "1420");
        // A node does not offer its overlay addresses to others as its own.
        let own = interface_addresses().unwrap();
        assert!(
            own.iter()
                .all(|ip| ip.to_string() != v4 && ip.to_string() != v6)
        );
        let taken = Tun::create(&name, TunKind::Frames).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::ResourceBusy);
        drop(tun);
        assert!(!fs::exists(&path).unwrap());
    }

    #[test]
    fn a_thread_that_waits_for_packets_ends_when_it_is_told() {
        let name = format!("anyhop-w{}", std::process::id() % 1_000_000);
        let Some(tun) = device(&name) else { return };
        tun.configure(1280, &[]).unwrap();
        let stop = StopFlag::new().unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                while tun.wait(&stop).unwrap() {
                    while tun.read(&mut [0; 2000]).is_ok() {}
                }
            });
            stop.set();
            waits.join().unwrap();
        });
    }
}
