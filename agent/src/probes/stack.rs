//! The host's network above its hardware: what the stack drops, where the default route goes, whether the gateway answers.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, UdpSocket},
};

use super::{
    counters::{Counters, MINUTE_MS},
    source::{About, Findings, Look, Source, absent, not_understood},
};
use crate::sources::series::{Reading, SeriesName};

/// Lines of one file that are looked at.
const MAX_LINES: usize = 4096;
/// A share of few segments says nothing.
const ENOUGH_SEGMENTS: u64 = 1000;

/// Finds a counter in the kernel's tables of two lines: names, then numbers.
fn table_value(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().take(MAX_LINES).filter_map(|line| line.strip_prefix(table)?.strip_prefix(':'));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_ascii_whitespace().position(|known| known == name)?;
    numbers.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// What the network stack counts.
pub struct Stack {
    window: Counters,
}

impl Default for Stack {
    fn default() -> Self {
        Self { window: Counters::new(5 * MINUTE_MS) }
    }
}

/// Files, tables, counters, and what their series are called.
const COUNTED: [(&str, &str, &str, &str); 6] = [
    ("snmp", "Tcp", "OutSegs", "sent"),
    ("snmp", "Tcp", "RetransSegs", "retransmitted"),
    ("snmp", "Udp", "RcvbufErrors", "udp_overruns"),
    ("netstat", "TcpExt", "ListenOverflows", "listen_overflows"),
    ("netstat", "TcpExt", "ListenDrops", "listen_drops"),
    ("netstat", "TcpExt", "TCPTimeouts", "timeouts"),
];

impl Source for Stack {
    fn about(&self) -> &'static About {
        &About {
            name: "network-stack",
            reads: &["proc/1/net/{snmp,netstat,softnet_stat}"],
            measures: &["tcp.retransmits", "tcp.listen-drops", "udp.overruns", "softnet.dropped"],
            series: &[
                "tcp.retransmitted",
                "tcp.timeouts",
                "tcp.listen_drops",
                "tcp.listen_overflows",
                "tcp.udp_overruns",
                "softnet.dropped",
                "softnet.squeezed",
            ],
            says: "segments sent again, connections and packets that the stack had no room for",
            needs: "nothing",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let texts = [look.net("snmp"), look.net("netstat")];
        let mut found = Findings::default();
        let mut added = [None; COUNTED.len()];
        for (index, (file, table, name, what)) in COUNTED.into_iter().enumerate() {
            let Ok(text) = &texts[usize::from(file == "netstat")] else { continue };
            // Old kernels count less; a table that is cut short is doubted once, below.
            let Some(count) = table_value(text, table, name) else { continue };
            added[index] = Some(self.window.add(what, count, look.now_ms));
            if what != "sent" {
                found.reading(Reading::counts(SeriesName::node("tcp", what), count));
            }
        }
        for (file, text) in ["snmp", "netstat"].into_iter().zip(&texts) {
            let counted = |(of, ..): &(&str, &str, &str, &str)| *of == file;
            let none = COUNTED.iter().zip(&added).filter(|(c, _)| counted(c)).all(|(_, added)| added.is_none());
            if text.is_ok() && none {
                look.doubt(format!("proc/net/{file}"), "is not understood");
            }
        }
        let [sent, again, overruns, _, drops, _] = added;
        if let (Some(sent), Some(again)) = (sent, again) {
            let share = if sent < ENOUGH_SEGMENTS { 0.0 } else { again as f64 / sent as f64 };
            let says = format!("{again} of {sent} segments were sent again in the last 5 minutes");
            found.figure("tcp.retransmits", "", share, says);
        }
        if let Some(drops) = drops {
            let says = format!("{drops} connections found no room in a listener's queue in the last 5 minutes");
            found.figure("tcp.listen-drops", "", drops as f64, says);
        }
        if let Some(overruns) = overruns {
            let says = format!("{overruns} datagrams found no room in a socket's buffer in the last 5 minutes");
            found.figure("udp.overruns", "", overruns as f64, says);
        }
        if let Ok(text) = look.net("softnet_stat") {
            match softnet(&text) {
                Some((dropped, squeezed)) => {
                    let lost = self.window.add("softnet", dropped, look.now_ms);
                    let says = format!("{lost} packets found no room in a CPU's queue in the last 5 minutes");
                    found.figure("softnet.dropped", "", lost as f64, says);
                    found.reading(Reading::counts(SeriesName::node("softnet", "dropped"), dropped));
                    found.reading(Reading::counts(SeriesName::node("softnet", "squeezed"), squeezed));
                }
                None => look.doubt("proc/net/softnet_stat", "is not understood"),
            }
        }
        let trouble = look.trouble().first.map(|_| not_understood("proc/net"));
        if found.figures.is_empty() {
            Err(trouble.unwrap_or_else(|| absent("the network stack's counters are not there")))
        } else {
            Ok(found)
        }
    }
}

/// Packets dropped and times that a CPU ran out of time, over all CPUs: hexadecimal columns 2 and 3.
fn softnet(text: &str) -> Option<(u64, u64)> {
    let mut sum = None;
    for line in text.lines().take(MAX_LINES) {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let mut number = || fields.next().and_then(|field| u64::from_str_radix(field, 16).ok());
        let (Some(dropped), Some(squeezed)) = (number(), number()) else { continue };
        let (a, b) = sum.unwrap_or((0_u64, 0_u64));
        sum = Some((a.saturating_add(dropped), b.saturating_add(squeezed)));
    }
    sum
}

const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DefaultRoute {
    interface: String,
    gateway: Option<Ipv4Addr>,
}

fn default_routes(ipv4: &str, ipv6: &str) -> Vec<DefaultRoute> {
    let mut routes = Vec::new();
    for line in ipv4.lines().skip(1).take(MAX_LINES) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [interface, target, gateway, flags, _, _, _, mask, ..] = fields[..] else { continue };
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let (Some(0), Some(0), Some(flags)) = (number(target), number(mask), number(flags)) else { continue };
        if flags & UP == 0 || flags & REJECT != 0 {
            continue;
        }
        // The kernel prints the address as one number in the machine's own order.
        let gateway =
            number(gateway).filter(|gateway| *gateway != 0).map(|gateway| Ipv4Addr::from(gateway.to_ne_bytes()));
        routes.push(DefaultRoute { interface: interface.to_owned(), gateway });
    }
    for line in ipv6.lines().take(MAX_LINES) {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [target, length, .., flags, interface] = fields[..] else { continue };
        let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
        let any = length == "00" && target.bytes().all(|b| b == b'0');
        if any && interface != "lo" && flags & UP != 0 && flags & REJECT == 0 {
            routes.push(DefaultRoute { interface: interface.to_owned(), gateway: None });
        }
    }
    routes
}

/// The default route, and whether its gateway answers.
#[derive(Default)]
pub struct Routes {
    had_route: bool,
    /// Gateways that answered once.
    known: BTreeSet<Ipv4Addr>,
}

impl Source for Routes {
    fn about(&self) -> &'static About {
        &About {
            name: "routes",
            reads: &[
                "proc/1/net/{route,ipv6_route,arp}",
                "one datagram to a gateway that the kernel has no neighbour entry of",
            ],
            measures: &["route.missing", "gateway.unreachable"],
            series: &[],
            says: "a default route that is gone, an IPv4 gateway that does not answer when its link address is asked for",
            needs: "a default route; gateways of IPv6 have no file that tells",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let ipv4 = look.net("route");
        let ipv6 = look.net("ipv6_route").unwrap_or_default();
        let routes = default_routes(ipv4.as_deref().unwrap_or_default(), &ipv6);
        if routes.is_empty() && !self.had_route {
            ipv4?;
            return Err(absent("the host has no default route"));
        }
        self.had_route = true;
        let mut found = Findings::default();
        let missing = f64::from(u8::from(routes.is_empty()));
        found.figure("route.missing", "", missing, "the default route is gone");
        let neighbours = look.net("arp").unwrap_or_default();
        for route in &routes {
            let Some(gateway) = route.gateway else { continue };
            let of = format!("{gateway} ({})", route.interface);
            match neighbour(&neighbours, gateway) {
                Some(complete) => {
                    if complete {
                        self.known.insert(gateway);
                    }
                    // Point-to-point and proxied gateways are never resolved; one that answered once can.
                    let lost = !complete && self.known.contains(&gateway);
                    let says = format!("gateway {of} no longer answers when its address is asked for");
                    found.figure("gateway.unreachable", of, f64::from(u8::from(lost)), says);
                }
                None if look.root.is_this_kernel() => nudge(gateway),
                None => {}
            }
        }
        self.known.retain(|known| routes.iter().any(|route| route.gateway == Some(*known)));
        Ok(found)
    }
}

/// Whether a neighbour's link address is known; none when nobody asked for it lately.
fn neighbour(table: &str, address: Ipv4Addr) -> Option<bool> {
    const COMPLETE: u32 = 0x2;
    table.lines().skip(1).take(MAX_LINES).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let known: Ipv4Addr = fields.next()?.parse().ok()?;
        let flags = u32::from_str_radix(fields.nth(1)?.strip_prefix("0x")?, 16).ok()?;
        (known == address).then_some(flags & COMPLETE != 0)
    })
}

/// Makes the kernel ask for a neighbour's link address: a datagram to the discard port, which needs no answer.
fn nudge(gateway: Ipv4Addr) {
    const DISCARD: u16 = 9;
    let sent = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.set_nonblocking(true)?;
        socket.send_to(&[0], (gateway, DISCARD))
    });
    if let Err(error) = sent {
        tracing::debug!(%gateway, %error, "the gateway's link address could not be asked for");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::tests::{Host, value};

    fn snmp(sent: u64, again: u64) -> String {
        format!(
            "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: RtoAlgorithm MaxConn OutSegs RetransSegs\nTcp: 1 -1 {sent} {again}\nUdp: InDatagrams RcvbufErrors\nUdp: 5 3\n"
        )
    }

    #[test]
    fn what_the_stack_drops_is_counted_over_minutes() {
        let mut host = Host::of(&[
            ("proc/1/net/snmp", &snmp(1000, 10)),
            ("proc/1/net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 4 4\n"),
            ("proc/1/net/softnet_stat", "0000ffff 00000001 00000002 0\n0000ffff 00000000 0000000a 0\n"),
        ]);
        let mut source = Stack::default();
        assert_eq!(value(&host.read(&mut source).unwrap(), "tcp.retransmits"), 0.0);
        host.put("proc/1/net/snmp", &snmp(21_000, 4010));
        host.put("proc/1/net/netstat", "TcpExt: ListenOverflows ListenDrops\nTcpExt: 4 40\n");
        host.put("proc/1/net/softnet_stat", "0000ffff 00000101 00000002 0\n");
        host.now_ms = 60_000;
        let found = host.read(&mut source).unwrap();
        assert_eq!(value(&found, "tcp.retransmits"), 0.2);
        assert_eq!((value(&found, "tcp.listen-drops"), value(&found, "softnet.dropped")), (36.0, 256.0));
        assert!(found.readings.iter().any(|r| r.name.as_str() == "tcp.retransmitted" && r.value == 4010.0));
    }

    const ROUTE: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\neth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
    const HEAD: &str = "IP address HW type Flags HW address Mask Device\n";

    #[test]
    fn a_default_route_that_goes_and_a_gateway_that_falls_silent_are_told() {
        let mut host = Host::of(&[("proc/net/route", ROUTE)]);
        let mut source = Routes::default();
        let arp = |flags: &str| format!("{HEAD}192.168.1.1 0x1 {flags} 00:11:22:33:44:55 * eth0\n");
        host.put("proc/net/arp", &arp("0x0"));
        assert_eq!(value(&host.read(&mut source).unwrap(), "gateway.unreachable"), 0.0, "it never answered");
        host.put("proc/net/arp", &arp("0x2"));
        let found = host.read(&mut source).unwrap();
        assert_eq!((value(&found, "route.missing"), value(&found, "gateway.unreachable")), (0.0, 0.0));
        host.put("proc/net/arp", &arp("0x0"));
        assert_eq!(value(&host.read(&mut source).unwrap(), "gateway.unreachable"), 1.0);
        host.put("proc/net/route", ROUTE.lines().next().unwrap());
        assert_eq!(value(&host.read(&mut source).unwrap(), "route.missing"), 1.0);
    }

    #[test]
    fn a_host_without_a_default_route_never_lost_one() {
        let host = Host::of(&[("proc/net/route", ROUTE.lines().next().unwrap())]);
        assert!(host.read(&mut Routes::default()).unwrap_err().to_string().contains("no default route"));
        assert!(Host::of(&[]).read(&mut Routes::default()).is_err());
    }

    #[test]
    fn default_routes_of_both_families_are_found_and_those_that_reject_are_not() {
        let any = "0".repeat(32);
        let ipv6 = format!(
            "{any} 00 {any} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth1\n{any} 00 {any} 00 {any} ffffffff 00000001 00000000 00200200 lo\n"
        );
        let routes = default_routes(ROUTE, &ipv6);
        assert_eq!(routes[0], DefaultRoute { interface: "eth0".into(), gateway: Some([192, 168, 1, 1].into()) });
        assert_eq!(routes[1], DefaultRoute { interface: "eth1".into(), gateway: None });
        assert_eq!(routes.len(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[ -~\n\t]{0,300}", cut in 0_usize..200) {
            let cut: String = format!("{ROUTE}{}", snmp(1, 2)).chars().skip(cut).collect();
            for text in [text.as_str(), cut.as_str()] {
                let _ = (default_routes(text, text), softnet(text), table_value(text, "Tcp", "OutSegs"));
                let _ = neighbour(text, Ipv4Addr::LOCALHOST);
                let host = Host::of(&[("proc/net/snmp", text), ("proc/net/netstat", text), ("proc/net/softnet_stat", text)]);
                let _ = host.read(&mut Stack::default());
            }
        }
    }
}
