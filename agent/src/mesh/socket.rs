//! The one UDP socket: sends probes that are due, echoes those of others, takes echoes in.

use std::{io, net::SocketAddr, time::Duration};

use rand::Rng;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use tokio::{net::UdpSocket, time::MissedTickBehavior};

use super::{
    Entry, Mesh,
    wire::{self, Datagram, LARGEST},
};

/// A path is probed at the first tick after so long, which makes it once a second at most. Some of it is left to chance,
/// so that agents do not fall into step.
const INTERVAL: Duration = Duration::from_millis(950);
const JITTER_MS: u64 = 100;
/// Probes that are due go out in bundles this often: the agent wakes up seldom.
const TICK: Duration = Duration::from_millis(250);
/// Echoes a second at most: ten times what the mesh asks of a node.
const ECHOES: u32 = 400;
/// Datagrams that are taken in before anything else is done.
const AT_ONCE: usize = 64;
/// Pause after the socket failed.
const AFTER_ERROR: Duration = Duration::from_millis(50);
/// Of a datagram's packet: IPv4 and UDP, IPv6 and UDP.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

/// A bound socket.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) socket: UdpSocket,
    /// Whether packets leave in one piece or not at all.
    pub(super) can_search: Result<(), &'static str>,
}

/// Binds the address.
///
/// # Errors
/// When it is in use or not of this machine.
pub(super) fn bind(listen: SocketAddr) -> io::Result<Bound> {
    let socket = std::net::UdpSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    // Neither cut on the way nor held back by what the kernel believes of the path: it is what is to be found out.
    let set = if listen.is_ipv4() {
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)
    } else {
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)
    };
    let can_search = set.map_err(|_| "the system cannot forbid to cut packets");
    Ok(Bound { socket: UdpSocket::from_std(socket)?, can_search })
}

/// Probes and echoes for ever.
pub(super) async fn run(socket: &UdpSocket, mesh: &Mesh) {
    let secret: u64 = rand::rng().random();
    let mut number: u64 = 0;
    let mut buffer = vec![0; LARGEST];
    let mut echoes = ECHOES;
    let mut second = mesh.now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let mut received = received;
                for _ in 0..AT_ONCE {
                    match received {
                        Ok((length, from)) => take(socket, mesh, &buffer[..length], from, secret, &mut echoes),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            tracing::debug!(%error, "a datagram could not be received");
                            tokio::time::sleep(AFTER_ERROR).await;
                            break;
                        }
                    }
                    received = socket.try_recv_from(&mut buffer);
                }
            }
            _ = ticks.tick() => {
                let now = mesh.now();
                if now.saturating_sub(second) >= Duration::from_secs(1) {
                    (second, echoes) = (now, ECHOES);
                }
                send_due(socket, mesh, now, secret, &mut number);
            }
        }
    }
}

fn take(socket: &UdpSocket, mesh: &Mesh, bytes: &[u8], from: SocketAddr, secret: u64, echoes: &mut u32) {
    match wire::read(bytes) {
        Some(Datagram::Probe) => {
            if *echoes == 0 {
                mesh.state.lock().refused_echoes += 1;
                return;
            }
            *echoes -= 1;
            if let Some(echo) = wire::echo(bytes) {
                // A full queue loses it, as any queue on the way may.
                let _ = socket.try_send_to(&echo, from);
                mesh.state.lock().echoes += 1;
            }
        }
        Some(Datagram::Echo { number, secret: told, .. }) if told == secret => {
            let now = mesh.now();
            mesh.state.lock().paths.values_mut().any(|entry| entry.path.back(number, now));
        }
        _ => {}
    }
}

fn send_due(socket: &UdpSocket, mesh: &Mesh, now: Duration, secret: u64, number: &mut u64) {
    let mut state = mesh.state.lock();
    for entry in state.paths.values_mut() {
        entry.path.expire(now);
        if now < entry.due {
            continue;
        }
        let jitter = Duration::from_millis(rand::rng().random_range(0..=JITTER_MS));
        entry.due = now + INTERVAL + jitter;
        send(socket, entry, now, secret, number);
    }
}

fn send(socket: &UdpSocket, entry: &mut Entry, now: Duration, secret: u64, number: &mut u64) {
    let headers = if entry.address.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
    *number += 1;
    // A large one instead of every other small one, while the small ones come back.
    let is_turn = entry.may_be_large;
    entry.may_be_large = !is_turn;
    while let Some(packet) = entry.path.mtu.next(now, entry.path.is_well(now)).filter(|_| is_turn) {
        let bytes = wire::probe(*number, secret, packet.saturating_sub(headers) as usize);
        match socket.try_send_to(&bytes, entry.address) {
            Ok(_) => return entry.path.sent(*number, now, Some(packet)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                entry.path.mtu.too_large(packet);
            }
            Err(_) => break,
        }
    }
    match socket.try_send_to(&wire::probe(*number, secret, wire::HEADER), entry.address) {
        Ok(_) => entry.path.sent(*number, now, None),
        // Our own queue is full: that says nothing about the path.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) => entry.path.unsent(),
    }
}
