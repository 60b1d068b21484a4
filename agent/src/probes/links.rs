//! Network hardware: physical interfaces, bonds, InfiniBand ports.

use std::{collections::BTreeMap, io};

use super::{
    counters::{Counters, MINUTE_MS},
    source::{About, Findings, Look, Source, absent},
};
use crate::sources::series::{Reading, SeriesName};

const NET: &str = "sys/class/net";
/// Errors of the wire: they say that a cable, a plug or a transceiver is bad.
const WIRE: [(&str, &str); 3] =
    [("rx_crc_errors", "rx_crc"), ("rx_frame_errors", "rx_frame"), ("tx_carrier_errors", "tx_carrier")];
/// Other counters that are followed.
const FOLLOWED: [(&str, &str); 4] = [
    ("rx_errors", "rx_errors"),
    ("tx_errors", "tx_errors"),
    ("rx_dropped", "rx_dropped"),
    ("rx_missed_errors", "rx_missed"),
];

/// Physical interfaces.
pub struct Links {
    changes: Counters,
    errors: Counters,
    /// Best speed that each had.
    best: BTreeMap<String, i64>,
}

impl Default for Links {
    fn default() -> Self {
        Self { changes: Counters::new(10 * MINUTE_MS), errors: Counters::new(10 * MINUTE_MS), best: BTreeMap::new() }
    }
}

impl Source for Links {
    fn about(&self) -> &'static About {
        &About {
            name: "links",
            reads: &["sys/class/net/*/{carrier_changes,operstate,speed,duplex}", "sys/class/net/*/statistics/*"],
            measures: &["link.changes", "link.errors", "link.slower", "link.half-duplex"],
            series: &[
                "net.*.carrier_changes",
                "net.*.rx_crc",
                "net.*.rx_frame",
                "net.*.tx_carrier",
                "net.*.rx_errors",
                "net.*.tx_errors",
                "net.*.rx_dropped",
                "net.*.rx_missed",
            ],
            says: "links that go up and down, errors of the wire, links that came back slower or at half duplex",
            needs: "an interface with a device behind it",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let mut found = Findings::default();
        for name in look.list(NET) {
            let at = |file: &str| format!("{NET}/{name}/{file}");
            // Interfaces of pods and bridges have no device behind them.
            if !look.has(at("device")) {
                continue;
            }
            if let Some(changes) = look.number(at("carrier_changes")) {
                let added = self.changes.add(&name, changes, look.now_ms);
                let says = format!("{name}: the link changed {added} times in the last 10 minutes");
                found.figure("link.changes", &name, added as f64, says);
                found.reading(Reading::counts(SeriesName::of("net", &name, "carrier_changes"), changes));
            }
            let mut wire = None;
            for (index, (file, what)) in WIRE.into_iter().chain(FOLLOWED).enumerate() {
                let Some(count) = look.number(at(&format!("statistics/{file}"))) else { continue };
                found.reading(Reading::counts(SeriesName::of("net", &name, what), count));
                if index < WIRE.len() {
                    wire = Some(wire.unwrap_or(0_u64).saturating_add(count));
                }
            }
            if let Some(errors) = wire {
                let added = self.errors.add(&name, errors, look.now_ms);
                let says = format!("{name}: {added} errors of the wire in the last 10 minutes");
                found.figure("link.errors", &name, added as f64, says);
            }
            if look.word(at("operstate")).as_deref() == Some("up") {
                self.negotiated(look, &name, &mut found);
            }
        }
        self.best.retain(|name, _| look.has(format!("{NET}/{name}")));
        self.changes.forget_before(look.now_ms.saturating_sub(60 * MINUTE_MS));
        self.errors.forget_before(look.now_ms.saturating_sub(60 * MINUTE_MS));
        found.or_absent("no physical network interface")
    }
}

impl Links {
    /// What a link that is up agreed on with the other side.
    fn negotiated(&mut self, look: &Look<'_>, name: &str, found: &mut Findings) {
        // Virtual hardware says -1: it has no speed. Some drivers give it as the largest unsigned number.
        let speed = look.word(format!("{NET}/{name}/speed")).and_then(|text| text.parse::<i64>().ok());
        if let Some(speed) = speed.filter(|speed| (1..10_000_000).contains(speed)) {
            let best = self.best.entry(name.to_owned()).or_insert(speed);
            *best = speed.max(*best);
            let lost = 1.0 - speed as f64 / *best as f64;
            let says = format!("{name}: the link runs at {speed} Mbit/s and had {best}");
            found.figure("link.slower", name, lost, says);
        }
        if let Some(duplex) = look.word(format!("{NET}/{name}/duplex")) {
            let half = f64::from(u8::from(duplex == "half"));
            found.figure("link.half-duplex", name, half, format!("{name}: the link is at half duplex"));
        }
    }
}

/// Bonds and their members.
#[derive(Default)]
pub struct Bonds {
    /// Most members that each bond had.
    most: BTreeMap<String, usize>,
}

impl Source for Bonds {
    fn about(&self) -> &'static About {
        &About {
            name: "bonds",
            reads: &["sys/class/net/*/bonding/slaves", "sys/class/net/*/{bonding_slave/mii_status,operstate}"],
            measures: &["bond.missing"],
            series: &[],
            says: "members that a bond lacks: taken out, or without a link",
            needs: "a bond",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let mut found = Findings::default();
        let mut seen = Vec::new();
        for bond in look.list(NET) {
            if !look.has(format!("{NET}/{bond}/bonding")) {
                continue;
            }
            let members = look.text(&format!("{NET}/{bond}/bonding/slaves")).unwrap_or_default();
            let members: Vec<&str> = members.split_ascii_whitespace().collect();
            let is_up = |member: &&&str| {
                let status = look.word(format!("{NET}/{member}/bonding_slave/mii_status"));
                let status = status.or_else(|| look.word(format!("{NET}/{member}/operstate")));
                // A member that tells nothing is not called down.
                status.is_none_or(|status| status == "up" || status == "unknown")
            };
            let down: Vec<&str> = members.iter().filter(|member| !is_up(member)).copied().collect();
            let most = self.most.entry(bond.clone()).or_default();
            *most = members.len().max(*most);
            let missing = *most - (members.len() - down.len());
            let which = if down.is_empty() { String::new() } else { format!("; down: {}", down.join(", ")) };
            let says = format!("{bond}: {} of {most} members have a link{which}", members.len() - down.len());
            found.figure("bond.missing", &bond, missing as f64, says);
            seen.push(bond);
        }
        self.most.retain(|bond, _| seen.contains(bond));
        found.or_absent("no bonds")
    }
}

const INFINIBAND: &str = "sys/class/infiniband";
/// Counters of a port that stand for errors, and what their series are called.
const PORT_ERRORS: [(&str, &str); 6] = [
    ("symbol_error", "symbol_errors"),
    ("link_error_recovery", "link_recoveries"),
    ("port_rcv_errors", "receive_errors"),
    ("local_link_integrity_errors", "integrity_errors"),
    ("excessive_buffer_overrun_errors", "overruns"),
    ("link_downed", "link_downed"),
];

/// InfiniBand and RoCE ports.
pub struct Ports {
    errors: Counters,
    downs: Counters,
    /// Ports that were active once.
    active: BTreeMap<String, ()>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { errors: Counters::new(10 * MINUTE_MS), downs: Counters::new(10 * MINUTE_MS), active: BTreeMap::new() }
    }
}

impl Source for Ports {
    fn about(&self) -> &'static About {
        &About {
            name: "infiniband",
            reads: &["sys/class/infiniband/*/ports/*/state", "sys/class/infiniband/*/ports/*/counters/*"],
            measures: &["infiniband.down", "infiniband.errors", "infiniband.link-downed"],
            series: &[
                "ib.*.symbol_errors",
                "ib.*.link_recoveries",
                "ib.*.receive_errors",
                "ib.*.integrity_errors",
                "ib.*.overruns",
                "ib.*.link_downed",
            ],
            says: "ports that were active and are not, and their errors",
            needs: "an InfiniBand or RoCE adapter",
        }
    }

    fn read(&mut self, look: &Look<'_>) -> io::Result<Findings> {
        let mut found = Findings::default();
        for device in look.list(INFINIBAND) {
            for port in look.list(format!("{INFINIBAND}/{device}/ports")) {
                let (at, of) = (format!("{INFINIBAND}/{device}/ports/{port}"), format!("{device}/{port}"));
                let Some(state) = look.word(format!("{at}/state")) else { continue };
                let active = state.ends_with("ACTIVE");
                if active {
                    self.active.insert(of.clone(), ());
                }
                let down = !active && self.active.contains_key(&of);
                let says = format!("{of}: the port was active and is `{state}`");
                found.figure("infiniband.down", &of, f64::from(u8::from(down)), says);
                let mut errors = 0_u64;
                for (file, what) in PORT_ERRORS {
                    let path = format!("{at}/counters/{file}");
                    // Adapters without performance counters say so in words.
                    if look.word(&path).is_none_or(|word| word.starts_with("N/A")) {
                        continue;
                    }
                    let Some(count) = look.number(&path) else { continue };
                    found.reading(Reading::counts(SeriesName::of("ib", &of, what), count));
                    if file == "link_downed" {
                        let added = self.downs.add(&of, count, look.now_ms);
                        let says = format!("{of}: the link went down {added} times in the last 10 minutes");
                        found.figure("infiniband.link-downed", &of, added as f64, says);
                    } else {
                        errors = errors.saturating_add(count);
                    }
                }
                let added = self.errors.add(&of, errors, look.now_ms);
                let says = format!("{of}: {added} errors in the last 10 minutes");
                found.figure("infiniband.errors", &of, added as f64, says);
            }
        }
        if found.figures.is_empty() { Err(absent("no InfiniBand or RoCE adapter")) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probes::tests::{Host, value};

    #[test]
    fn changes_and_errors_of_physical_links_are_counted() {
        let mut host = Host::of(&[
            ("sys/class/net/eth0/device/vendor", "x"),
            ("sys/class/net/eth0/carrier_changes", "2\n"),
            ("sys/class/net/eth0/statistics/rx_crc_errors", "5\n"),
            ("sys/class/net/veth1/carrier_changes", "900\n"),
        ]);
        let mut source = Links::default();
        assert_eq!(host.read(&mut source).unwrap().figures.len(), 2);
        host.put("sys/class/net/eth0/carrier_changes", "10\n");
        host.put("sys/class/net/eth0/statistics/rx_crc_errors", "405\n");
        host.now_ms = 10_000;
        let found = host.read(&mut source).unwrap();
        assert_eq!((value(&found, "link.changes"), value(&found, "link.errors")), (8.0, 400.0));
        assert!(found.readings.iter().any(|reading| reading.name.as_str() == "net.eth0.rx_crc"));
        host.now_ms = 900_000;
        assert_eq!(value(&host.read(&mut source).unwrap(), "link.changes"), 0.0);
    }

    #[test]
    fn a_link_that_comes_back_slower_is_told_and_one_that_has_no_speed_is_not() {
        let mut host = Host::of(&[
            ("sys/class/net/eth0/device/vendor", "x"),
            ("sys/class/net/eth0/operstate", "up\n"),
            ("sys/class/net/eth0/speed", "25000\n"),
            ("sys/class/net/eth0/duplex", "full\n"),
        ]);
        let mut source = Links::default();
        assert_eq!(value(&host.read(&mut source).unwrap(), "link.slower"), 0.0);
        host.put("sys/class/net/eth0/speed", "1000\n");
        let found = host.read(&mut source).unwrap();
        assert!(value(&found, "link.slower") > 0.9 && found.figures[0].says.contains("had 25000"));
        for lie in ["-1\n", "4294967295\n", "", "fast"] {
            host.put("sys/class/net/eth0/speed", lie);
            assert!(host.read(&mut source).unwrap().figures.iter().all(|figure| figure.measure != "link.slower"));
        }
    }

    #[test]
    fn a_bond_lacks_members_that_are_down_or_were_taken_out() {
        let mut host = Host::of(&[
            ("sys/class/net/bond0/bonding/slaves", "eth0 eth1\n"),
            ("sys/class/net/eth0/bonding_slave/mii_status", "up\n"),
            ("sys/class/net/eth1/bonding_slave/mii_status", "up\n"),
        ]);
        let mut source = Bonds::default();
        assert_eq!(value(&host.read(&mut source).unwrap(), "bond.missing"), 0.0);
        host.put("sys/class/net/eth1/bonding_slave/mii_status", "down\n");
        let found = host.read(&mut source).unwrap();
        assert_eq!(value(&found, "bond.missing"), 1.0);
        assert_eq!(found.figures[0].says, "bond0: 1 of 2 members have a link; down: eth1");
        host.put("sys/class/net/bond0/bonding/slaves", "eth0\n");
        assert_eq!(value(&host.read(&mut source).unwrap(), "bond.missing"), 1.0);
        host.put("sys/class/net/bond0/bonding/slaves", "\n");
        assert_eq!(value(&host.read(&mut source).unwrap(), "bond.missing"), 2.0);
    }

    #[test]
    fn a_port_that_was_active_and_is_not_is_down() {
        let at = "sys/class/infiniband/mlx5_0/ports/1";
        let mut host = Host::of(&[
            (&format!("{at}/state"), "1: DOWN\n"),
            (&format!("{at}/counters/symbol_error"), "7\n"),
            (&format!("{at}/counters/port_rcv_errors"), "N/A (no PMA)\n"),
            (&format!("{at}/counters/link_downed"), "0\n"),
        ]);
        let mut source = Ports::default();
        assert_eq!(value(&host.read(&mut source).unwrap(), "infiniband.down"), 0.0, "it never was active");
        host.put(&format!("{at}/state"), "4: ACTIVE\n");
        host.read(&mut source).unwrap();
        host.put(&format!("{at}/state"), "2: INIT\n");
        host.put(&format!("{at}/counters/link_downed"), "3\n");
        host.now_ms = 10_000;
        let found = host.read(&mut source).unwrap();
        assert_eq!((value(&found, "infiniband.down"), value(&found, "infiniband.link-downed")), (1.0, 3.0));
        assert_eq!(host.trouble().count, 0);
        assert_eq!(found.readings[0].name.as_str(), "ib.mlx5_0/1.symbol_errors");
    }
}
