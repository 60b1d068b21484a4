//! The few commands that are used, and what their answers mean. Pure.
//!
//! IPMI 2.0: Get Device ID (20.1), Get Chassis Status (28.2), Chassis Control (28.3), Set Session Privilege Level (22.18),
//! Close Session (22.19). DCMI 1.5: Get Power Reading (6.6.1), Get Power Limit (6.6.2).

use std::time::Duration;

use super::{
    handshake::Privilege,
    wire::{Answer, Request},
};
use crate::{BmcError, Identity, PowerAction, PowerState, Reading, Source, Statistics};

const CHASSIS: u8 = 0x00;
const APPLICATION: u8 = 0x06;
const GROUP_EXTENSION: u8 = 0x2c;
/// Says that a group extension is DCMI's.
const DCMI: u8 = 0xdc;

/// The BMC has something else to do.
pub(super) const BUSY: u8 = 0xc0;
/// The answer is not ready.
pub(super) const NOT_READY: u8 = 0xd0;

pub(super) fn device_id() -> Request {
    Request { function: APPLICATION, command: 0x01, data: Vec::new() }
}

pub(super) fn chassis_status() -> Request {
    Request { function: CHASSIS, command: 0x01, data: Vec::new() }
}

pub(super) fn chassis_control(action: PowerAction) -> Request {
    let order = match action {
        PowerAction::ForceOff => 0,
        PowerAction::On => 1,
        PowerAction::PowerCycle => 2,
        PowerAction::Reset => 3,
        PowerAction::GracefulShutdown => 5,
    };
    Request { function: CHASSIS, command: 0x02, data: vec![order] }
}

pub(super) fn set_privilege(privilege: Privilege) -> Request {
    Request { function: APPLICATION, command: 0x3b, data: vec![privilege as u8] }
}

pub(super) fn close_session(managed: [u8; 4]) -> Request {
    Request { function: APPLICATION, command: 0x3c, data: managed.to_vec() }
}

/// Power statistics of the whole system.
pub(super) fn power_reading() -> Request {
    Request { function: GROUP_EXTENSION, command: 0x02, data: vec![DCMI, 0x01, 0x00, 0x00] }
}

pub(super) fn power_limit() -> Request {
    Request { function: GROUP_EXTENSION, command: 0x03, data: vec![DCMI, 0x00, 0x00] }
}

/// Turns a completion code into an error that says what to do.
pub(super) fn completed(answer: Answer, what: &str) -> Result<Vec<u8>, BmcError> {
    let refused = |why: &str| BmcError::Refused { what: what.into(), why: why.into() };
    match answer.completion {
        0x00 => Ok(answer.data),
        0xc1 | 0xc2 | 0xd6 => Err(BmcError::Unsupported(what.into())),
        0xd4 | 0x81 => Err(BmcError::Privilege(format!("{what}; a higher privilege on the LAN channel is needed"))),
        BUSY | NOT_READY => Err(refused("it is busy")),
        0xc3 => Err(refused("it took too long inside the BMC")),
        0xd5 => Err(refused("not possible in the present state")),
        other => Err(refused(&format!("completion code {other:#04x}"))),
    }
}

pub(super) fn identity(data: &[u8], suite: u8) -> Result<Identity, BmcError> {
    let [_, _, major, minor, version, _, m0, m1, m2, p0, p1, ..] = data else {
        return Err(BmcError::Malformed("Get Device ID is too short".into()));
    };
    let enterprise = u32::from_le_bytes([*m0, *m1, m2 & 0x0f, 0]);
    Ok(Identity {
        manufacturer: (enterprise != 0).then(|| maker(enterprise)),
        model: Some(u16::from_le_bytes([*p0, *p1])).filter(|p| *p != 0).map(|product| format!("product {product}")),
        firmware: Some(format!("{}.{:02x}, IPMI {}.{}", major & 0x7f, minor, version & 0x0f, version >> 4)),
        security: format!("RMCP+, cipher suite {suite}"),
    })
}

/// IANA enterprise numbers of makers of servers.
fn maker(enterprise: u32) -> String {
    let name = match enterprise {
        2 => "IBM",
        11 => "HPE",
        343 => "Intel",
        674 => "Dell",
        2_011 => "Huawei",
        10_876 => "Supermicro",
        19_046 => "Lenovo",
        37_945 => "Inspur",
        47_196 => "HPE",
        other => return format!("enterprise {other}"),
    };
    name.to_owned()
}

pub(super) fn power_state(data: &[u8]) -> Result<PowerState, BmcError> {
    match data.first() {
        Some(state) if state & 1 == 1 => Ok(PowerState::On),
        Some(_) => Ok(PowerState::Off),
        None => Err(BmcError::Malformed("Get Chassis Status is empty".into())),
    }
}

pub(super) fn reading(data: &[u8]) -> Result<Reading, BmcError> {
    let data: &[u8; 18] =
        data.first_chunk().ok_or_else(|| BmcError::Malformed("Get Power Reading is too short".into()))?;
    if data[0] != DCMI {
        return Err(BmcError::Malformed("Get Power Reading is no answer of DCMI".into()));
    }
    let watts = |at: usize| i64::from(u16::from_le_bytes([data[at], data[at + 1]]));
    // Bit 6: the measurement runs.
    if data[17] & 0x40 == 0 {
        return Err(BmcError::NoFigure("the BMC says that its power measurement does not run".into()));
    }
    let window = u32::from_le_bytes([data[13], data[14], data[15], data[16]]);
    Ok(Reading {
        source: Source::IpmiDcmi,
        milliwatts: watts(1) * 1_000,
        sensor: "DCMI system power".into(),
        statistics: Some(Statistics {
            minimum_milliwatts: Some(watts(3) * 1_000),
            maximum_milliwatts: Some(watts(5) * 1_000),
            average_milliwatts: Some(watts(7) * 1_000),
            window: (window > 0).then(|| Duration::from_millis(u64::from(window))),
        }),
        energy_joules: None,
        limit_milliwatts: None,
        capacity_milliwatts: None,
        power_state: None,
    })
}

/// The limit that is set, milliwatts. Completion code 0x80 says that none is.
pub(super) fn limit(answer: Answer) -> Result<Option<i64>, BmcError> {
    if answer.completion == 0x80 {
        return Ok(None);
    }
    let data = completed(answer, "DCMI Get Power Limit")?;
    match data.as_slice() {
        [DCMI, _, _, _, low, high, ..] => Ok(Some(i64::from(u16::from_le_bytes([*low, *high])) * 1_000)),
        _ => Err(BmcError::Malformed("Get Power Limit is too short".into())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_power_reading_says_watts_statistics_and_window() {
        let data = [0xdc, 0x2c, 1, 100, 0, 0x90, 1, 0xfa, 0, 1, 2, 3, 4, 0x60, 0xea, 0, 0, 0x40];
        let read = reading(&data).unwrap();
        assert_eq!(read.milliwatts, 300_000);
        let statistics = read.statistics.unwrap();
        assert_eq!(statistics.minimum_milliwatts, Some(100_000));
        assert_eq!(statistics.maximum_milliwatts, Some(400_000));
        assert_eq!(statistics.average_milliwatts, Some(250_000));
        assert_eq!(statistics.window, Some(Duration::from_secs(60)));
        let mut stopped = data;
        stopped[17] = 0;
        assert_eq!(reading(&stopped).unwrap_err().word(), "no_figure");
    }

    #[test]
    fn no_limit_is_no_error() {
        assert_eq!(limit(Answer { completion: 0x80, data: vec![0xdc] }), Ok(None));
        let set = vec![0xdc, 0, 0, 0, 0xf4, 0x01, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(limit(Answer { completion: 0, data: set }), Ok(Some(500_000)));
    }

    #[test]
    fn completion_codes_become_words() {
        for (code, word) in [(0xc1, "unsupported"), (0xd4, "privilege"), (0xc0, "refused"), (0xff, "refused")] {
            assert_eq!(completed(Answer { completion: code, data: Vec::new() }, "x").unwrap_err().word(), word);
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_more(data in proptest::collection::vec(any::<u8>(), 0..40), completion: u8) {
            let _ = (reading(&data), identity(&data, 3), power_state(&data));
            let _ = limit(Answer { completion, data });
        }
    }
}
