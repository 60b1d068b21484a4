//! Free loopback ports for the processes of a demo, found once and kept for its whole life.
//!
//! They lie below the range from which the kernel takes ports of outgoing connections, so that a process that is killed
//! and started again finds its port still free.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use rand::Rng;

use crate::exit::{Failure, Outcome};

/// Lowest port that a random block may start at; above the well-known ones and the product's own defaults.
const LOWEST: u16 = 20_000;
/// Usual start of the kernel's range for outgoing connections.
const HIGHEST: u16 = 32_000;
/// Random blocks that are tried before giving up.
const TRIES: usize = 64;

/// A block of free ports, handed out one after the other.
#[derive(Debug)]
pub struct Ports {
    next: u16,
    end: u16,
}

impl Ports {
    /// Finds `count` free ports in a row, from `base` on when one is given.
    ///
    /// # Errors
    /// When a port of the given block is taken, or no free block was found.
    pub fn find(base: Option<u16>, count: u16) -> Outcome<Self> {
        if let Some(base) = base {
            let end = base.checked_add(count).filter(|_| base > 0).ok_or_else(|| {
                Failure::usage(format_args!("--port-base {base} leaves no room for {count} ports"))
                    .remedy("a base between 1024 and 65000")
            })?;
            return match (base..end).find(|port| !is_free(*port)) {
                None => Ok(Self { next: base, end }),
                Some(taken) => Err(Failure::usage(format_args!("port {taken} on 127.0.0.1 is taken"))
                    .remedy(format_args!("another --port-base; the demo needs {count} free ports in a row"))),
            };
        }
        let mut random = rand::rng();
        for _ in 0..TRIES {
            let base = random.random_range(LOWEST..HIGHEST - count);
            if (base..base + count).all(is_free) {
                return Ok(Self { next: base, end: base + count });
            }
        }
        Err(Failure::unreachable(format_args!("found no {count} free ports in a row on 127.0.0.1"))
            .remedy("--port-base N with a block that is free"))
    }

    /// The next port, as an address on loopback.
    ///
    /// # Panics
    /// When more are taken than were asked for.
    pub fn take(&mut self) -> SocketAddr {
        assert!(self.next < self.end, "more ports taken than were found free");
        let port = self.next;
        self.next += 1;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_block_of_free_ports_and_hands_each_out_once() {
        let mut ports = Ports::find(None, 8).unwrap();
        let taken: std::collections::BTreeSet<SocketAddr> = (0..8).map(|_| ports.take()).collect();
        assert_eq!(taken.len(), 8);
        assert!(taken.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn a_given_block_with_a_taken_port_is_refused_with_its_number() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let refused = Ports::find(Some(port), 1).unwrap_err();
        assert!(refused.to_string().contains(&port.to_string()), "{refused}");
        assert_eq!(refused.code(), 2);
    }

    #[test]
    fn a_block_beyond_the_last_port_is_refused() {
        assert_eq!(Ports::find(Some(65_530), 40).unwrap_err().code(), 2);
    }
}
