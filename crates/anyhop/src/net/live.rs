//! A socket that outlives the address it was bound to.
//!
//! The engine keeps one socket for each family as long as the node lives. Below it the
//! real one may be bound anew: when its address left the machine, or when it fails. The
//! port stays if it can, since peers and mappings know it. A stand-in for an address that
//! is gone listens on all of them; when the address is back it is bound again.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::sync::Notify;

use super::{DatagramSocket, Host, RecvMeta, Transmit, Writable};

/// A UDP socket under which another may be put.
#[derive(Debug)]
pub(crate) struct LiveSocket {
    host: Arc<dyn Host>,
    /// Where it is to be bound, with the port it got at first.
    wanted: SocketAddr,
    current: RwLock<Arc<dyn DatagramSocket>>,
    failed: AtomicBool,
    failures: Arc<Notify>,
    /// Who reads, to be woken for the next socket.
    reader: Mutex<Option<Waker>>,
}

impl LiveSocket {
    /// Binds. Failures of the socket later on are told to `failures`.
    pub(crate) fn bind(
        host: Arc<dyn Host>,
        addr: SocketAddr,
        failures: Arc<Notify>,
    ) -> io::Result<Arc<Self>> {
        let socket = host.bind_udp(addr)?;
        let wanted = SocketAddr::new(addr.ip(), socket.local_addr()?.port());
        Ok(Arc::new(Self {
            host,
            wanted,
            current: RwLock::new(socket),
            failed: AtomicBool::new(false),
            failures,
            reader: Mutex::default(),
        }))
    }

    /// Fits the socket to the machine's addresses now; true when it was bound anew.
    pub(crate) fn adapt(&self, addresses: &[IpAddr]) -> bool {
        let bound = self.current().local_addr().map(|a| a.ip()).ok();
        let there = |ip: IpAddr| ip.is_unspecified() || addresses.contains(&ip);
        let target = if there(self.wanted.ip()) {
            self.wanted.ip()
        } else {
            self.any_address()
        };
        if bound == Some(target) && !self.failed.load(Ordering::Relaxed) {
            self.current().network_changed();
            return false;
        }
        match self.bind_anew(target) {
            Ok(addr) => {
                tracing::info!(%addr, wanted = %self.wanted, "socket bound anew");
                true
            }
            Err(error) => {
                tracing::warn!(%error, wanted = %self.wanted, "socket not bound anew: tried again");
                self.fail();
                false
            }
        }
    }

    /// Whether it is an IPv4 socket.
    pub(crate) fn is_ipv4(&self) -> bool {
        self.wanted.is_ipv4()
    }

    /// Whether the socket is of no use and [`adapt`](Self::adapt) should try again.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn any_address(&self) -> IpAddr {
        match self.wanted {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn bind_anew(&self, ip: IpAddr) -> io::Result<SocketAddr> {
        {
            let mut current = self.current.write().expect("no holder panics");
            // The old one first, or its port is taken.
            *current = Arc::new(Closed(SocketAddr::new(ip, self.wanted.port())));
        }
        let same_port = self.host.bind_udp(SocketAddr::new(ip, self.wanted.port()));
        let socket = same_port.or_else(|_| self.host.bind_udp(SocketAddr::new(ip, 0)))?;
        let addr = socket.local_addr()?;
        *self.current.write().expect("no holder panics") = socket;
        self.failed.store(false, Ordering::Relaxed);
        let reader = self.reader.lock().expect("no holder panics").take();
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(addr)
    }

    fn current(&self) -> Arc<dyn DatagramSocket> {
        Arc::clone(&self.current.read().expect("no holder panics"))
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.failures.notify_one();
    }

    fn remember_reader(&self, cx: &Context<'_>) {
        let mut reader = self.reader.lock().expect("no holder panics");
        if !reader.as_ref().is_some_and(|r| r.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
    }
}

impl DatagramSocket for LiveSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.current().local_addr()
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Before the socket is looked at, so that no change falls between.
        self.remember_reader(cx);
        match self.current().poll_recv(cx, bufs, meta) {
            // About a single peer; the socket is fine.
            Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => {
                Poll::Ready(Err(e))
            }
            Poll::Ready(Err(error)) => {
                tracing::info!(%error, wanted = %self.wanted, "socket failed: it is bound anew");
                self.fail();
                Poll::Pending
            }
            other => other,
        }
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        refuse_mapped(transmit)?;
        self.current().try_send(transmit)
    }

    fn try_send_ttl(&self, transmit: &Transmit<'_>, ttl: u8) -> io::Result<()> {
        refuse_mapped(transmit)?;
        self.current().try_send_ttl(transmit, ttl)
    }

    fn writable(self: Arc<Self>) -> Writable {
        self.current().writable()
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.current().max_transmit_segments()
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        self.current().max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.current().may_fragment()
    }

    fn network_changed(&self) {
        self.current().network_changed();
    }
}

/// An IPv6 socket carries IPv6 only: an IPv4 address in IPv6 clothes would leave the kernel
/// to guess. The engine's addresses are undressed above this layer.
fn refuse_mapped(transmit: &Transmit<'_>) -> io::Result<()> {
    let ip = transmit.destination.ip();
    let mapped = ip.to_canonical() != ip;
    debug_assert!(!mapped, "{ip} was to be sent to as IPv6");
    if mapped {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}

/// Stands where no socket could be bound.
#[derive(Debug)]
struct Closed(SocketAddr);

impl DatagramSocket for Closed {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }

    fn writable(self: Arc<Self>) -> Writable {
        // Sending fails at once: there is nothing to wait for.
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Binds what it is told to have; sockets fail on demand.
    #[derive(Debug, Default)]
    struct FakeHost {
        bound: Mutex<Vec<SocketAddr>>,
        broken: Arc<AtomicBool>,
        taken: AtomicBool,
    }

    #[derive(Debug)]
    struct FakeSocket(SocketAddr, Arc<AtomicBool>);

    impl Host for FakeHost {
        fn bind_udp(&self, addr: SocketAddr) -> io::Result<Arc<dyn DatagramSocket>> {
            if addr.port() != 0 && self.taken.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let port = if addr.port() == 0 {
                50_000
            } else {
                addr.port()
            };
            let addr = SocketAddr::new(addr.ip(), port);
            self.bound.lock().unwrap().push(addr);
            Ok(Arc::new(FakeSocket(addr, Arc::clone(&self.broken))))
        }

        fn interface_addresses(&self) -> io::Result<Vec<IpAddr>> {
            Ok(Vec::new())
        }
    }

    impl DatagramSocket for FakeSocket {
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(self.0)
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            if self.1.load(Ordering::Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            }
            Poll::Pending
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            Ok(())
        }

        fn writable(self: Arc<Self>) -> Writable {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    fn live(addr: &str) -> (Arc<FakeHost>, Arc<LiveSocket>) {
        let host = Arc::new(FakeHost::default());
        let dyn_host: Arc<dyn Host> = host.clone();
        let socket = LiveSocket::bind(dyn_host, addr.parse().unwrap(), Arc::default()).unwrap();
        (host, socket)
    }

    fn local(socket: &LiveSocket) -> String {
        socket.local_addr().unwrap().to_string()
    }

    fn ips(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn a_socket_on_all_addresses_stays_whatever_they_are() {
        let (host, socket) = live("0.0.0.0:4001");
        assert!(!socket.adapt(&ips(&["192.0.2.1"])));
        assert!(!socket.adapt(&[]));
        assert_eq!(host.bound.lock().unwrap().len(), 1);
    }

    #[test]
    fn an_address_that_is_gone_has_a_stand_in_on_the_same_port_until_it_is_back() {
        let (_, socket) = live("192.0.2.1:4001");
        assert!(socket.adapt(&ips(&["192.0.2.7"])));
        assert_eq!(local(&socket), "0.0.0.0:4001");
        assert!(!socket.adapt(&ips(&["192.0.2.8"])));
        assert!(socket.adapt(&ips(&["192.0.2.1"])));
        assert_eq!(local(&socket), "192.0.2.1:4001");
        let (_, six) = live("[2001:db8::1]:4001");
        assert!(six.adapt(&ips(&["192.0.2.7"])));
        assert_eq!(local(&six), "[::]:4001");
    }

    #[test]
    fn a_port_that_was_taken_meanwhile_is_replaced() {
        let (host, socket) = live("192.0.2.1:4001");
        host.taken.store(true, Ordering::Relaxed);
        assert!(socket.adapt(&[]));
        assert_eq!(local(&socket), "0.0.0.0:50000");
    }

    #[test]
    fn a_socket_that_fails_is_silent_then_bound_anew_and_its_reader_woken() {
        let (host, socket) = live("0.0.0.0:4001");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        host.broken.store(true, Ordering::Relaxed);
        assert!(socket.poll_recv(&mut cx, &mut [], &mut []).is_pending());
        assert!(socket.has_failed());
        host.broken.store(false, Ordering::Relaxed);
        assert!(socket.adapt(&[]));
        assert!(!socket.has_failed());
        assert!(woken.0.load(Ordering::Relaxed));
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
