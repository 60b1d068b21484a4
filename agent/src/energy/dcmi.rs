//! The management controller's own power meter (IPMI DCMI), asked in band through /dev/ipmi0.
//!
//! An answer takes up to a tenth of a second, so that a thread of its own asks and the meter takes the latest figure. The
//! device is opened for every question: nothing is held, and a driver that is loaded later is found.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use ipmi_rs::{
    File,
    connection::{IpmiConnection, LogicalUnit, Message, Request, RequestTargetAddress},
};
use parking_lot::Mutex;

use super::{
    gauge::Gauge,
    source::{EnergySource, Fault, Hints, Reading, Scope},
};
use crate::{clock::boot_ms, host::Root};

/// Group extension, as DCMI 1.5 section 6 has it.
const NETFN_GROUP: u8 = 0x2C;
/// Get Power Reading.
const GET_POWER_READING: u8 = 0x02;
/// The body that defines the group: DCMI.
const GROUP_DCMI: u8 = 0xDC;
/// Mode: system power statistics.
const SYSTEM_POWER: u8 = 0x01;
/// Bytes of an answer behind the completion code.
const ANSWER: usize = 18;
/// Bit of the state byte: power is being measured.
const ACTIVE: u8 = 1 << 6;
/// Controllers measure about once a second; asking more often slows their other work down.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A figure that is older says nothing about now, milliseconds.
const STALE_MS: u64 = 15_000;
/// Names of the device.
const DEVICES: [&str; 3] = ["dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0"];

/// Something that carries a request to a management controller.
pub trait Transport: Send {
    /// Sends a request and gives completion code and data of the answer.
    ///
    /// # Errors
    /// When it cannot be sent or nothing answers.
    fn exchange(&mut self, netfn: u8, command: u8, data: &[u8]) -> io::Result<(u8, Vec<u8>)>;
}

/// The kernel's IPMI device.
#[derive(Clone, Debug)]
pub struct Device(PathBuf);

impl Device {
    /// The device below a root.
    ///
    /// # Errors
    /// When there is none, or it may not be opened.
    pub fn find(root: &Root) -> io::Result<Self> {
        let Some(path) = DEVICES.iter().map(|device| root.join(device)).find(|path| path.exists()) else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no dev/ipmi0 (no management controller, its driver ipmi_devintf is not loaded, or not given to the container)",
            ));
        };
        // Also said when nothing but the permission is missing.
        std::fs::File::open(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{} cannot be opened: {error}", path.display())))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Transport for Device {
    fn exchange(&mut self, netfn: u8, command: u8, data: &[u8]) -> io::Result<(u8, Vec<u8>)> {
        let mut device = File::new(&self.0, ANSWER_WITHIN)?;
        let message = Message::new_raw(netfn, command, data.to_vec());
        let mut request = Request::new(message, RequestTargetAddress::Bmc(LogicalUnit::Zero));
        let answer = device.send_recv(&mut request)?;
        Ok((answer.cc(), answer.data().to_vec()))
    }
}

/// What a controller says about power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerReading {
    /// Now, watts.
    pub watts: u16,
    /// Least in the period, watts.
    pub least_watts: u16,
    /// Most in the period, watts.
    pub most_watts: u16,
    /// Mean over the period, watts.
    pub mean_watts: u16,
    /// Length of the period, milliseconds.
    pub period_ms: u32,
}

/// Asks for the power once.
///
/// # Errors
/// When nothing answers, or the answer says that there is no meter, with what it says.
pub fn power_reading(transport: &mut dyn Transport) -> io::Result<PowerReading> {
    let (code, data) = transport.exchange(NETFN_GROUP, GET_POWER_READING, &[GROUP_DCMI, SYSTEM_POWER, 0x00, 0x00])?;
    parse(code, &data).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// Reads completion code and data of an answer to Get Power Reading (DCMI 1.5, table 6-16).
fn parse(code: u8, data: &[u8]) -> Result<PowerReading, String> {
    match code {
        0x00 => {}
        0xC1 | 0xC9 | 0xCB | 0xCC => {
            return Err(format!("the management controller has no DCMI power meter (completion code {code:#04x})"));
        }
        0xC0 => return Err("the management controller is busy (completion code 0xc0)".into()),
        _ => return Err(format!("the management controller refused (completion code {code:#04x})")),
    }
    let wrong = |why: &str| format!("the management controller's answer is not understood: {why}");
    let data: &[u8; ANSWER] =
        data.get(..ANSWER).and_then(|data| data.try_into().ok()).ok_or_else(|| wrong("too short"))?;
    if data[0] != GROUP_DCMI {
        return Err(wrong("it is of another group"));
    }
    if data[17] & ACTIVE == 0 {
        return Err("the management controller's power measurement is switched off".into());
    }
    let word = |at: usize| u16::from_le_bytes([data[at], data[at + 1]]);
    Ok(PowerReading {
        watts: word(1),
        least_watts: word(3),
        most_watts: word(5),
        mean_watts: word(7),
        period_ms: u32::from_le_bytes([data[13], data[14], data[15], data[16]]),
    })
}

type Latest = Arc<Mutex<(u64, Result<PowerReading, String>)>>;

/// The management controller as a source.
pub struct Dcmi {
    latest: Latest,
    gauge: Gauge,
    place: String,
    /// The thread ends when this is dropped.
    _alive: SyncSender<()>,
}

impl Dcmi {
    /// Asks once, and goes on asking in a thread.
    ///
    /// # Errors
    /// When the first question was not answered with a power, or the thread cannot be started.
    pub fn start(mut transport: impl Transport + 'static, place: String) -> io::Result<Self> {
        let first = power_reading(&mut transport)?;
        let latest: Latest = Arc::new(Mutex::new((boot_ms(), Ok(first))));
        let (alive, ended) = sync_channel(0);
        let told = Arc::clone(&latest);
        thread::Builder::new()
            .name("ipmi-dcmi".into())
            .stack_size(256 << 10)
            .spawn(move || ask(&mut transport, &told, &ended))?;
        Ok(Self { latest, gauge: Gauge::default(), place, _alive: alive })
    }
}

fn ask(transport: &mut dyn Transport, latest: &Latest, ended: &Receiver<()>) {
    while ended.recv_timeout(ASK_EVERY) == Err(RecvTimeoutError::Timeout) {
        match power_reading(transport) {
            Ok(reading) => *latest.lock() = (boot_ms(), Ok(reading)),
            // The figure before stays until it is stale: controllers are busy at times.
            Err(error) => {
                let mut latest = latest.lock();
                if boot_ms().saturating_sub(latest.0) > STALE_MS {
                    latest.1 = Err(error.to_string());
                }
            }
        }
    }
}

impl EnergySource for Dcmi {
    fn name(&self) -> &'static str {
        "ipmi-dcmi"
    }

    fn scope(&self) -> Scope {
        Scope::Wall
    }

    fn describes(&self) -> String {
        format!("the management controller's power meter (DCMI) answers through {}", self.place)
    }

    fn advance(&mut self, hints: &Hints) -> Result<Reading, Fault> {
        let (at, reading) = self.latest.lock().clone();
        let age = boot_ms().saturating_sub(at);
        let reading = match reading {
            Ok(reading) if age <= STALE_MS => reading,
            Ok(_) => {
                self.gauge.forget();
                return Err(Fault::Stale { seconds: age / 1_000 });
            }
            Err(reason) => {
                self.gauge.forget();
                return Err(Fault::Unreadable(reason));
            }
        };
        self.gauge.take(i64::from(reading.watts) * 1_000_000, hints).map(Reading::whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An answer of a real layout: 214 W now, 8 least, 485 most, 201 mean, over a second, measuring.
    const RECORDED: [u8; 18] =
        [0xDC, 0xD6, 0x00, 0x08, 0x00, 0xE5, 0x01, 0xC9, 0x00, 0x14, 0xE0, 0xA1, 0x65, 0xE8, 0x03, 0x00, 0x00, 0x40];

    struct Recorded(Vec<(u8, Vec<u8>)>, Vec<(u8, u8, Vec<u8>)>);

    impl Transport for Recorded {
        fn exchange(&mut self, netfn: u8, command: u8, data: &[u8]) -> io::Result<(u8, Vec<u8>)> {
            self.1.push((netfn, command, data.to_vec()));
            if self.0.len() > 1 { Ok(self.0.remove(0)) } else { Ok(self.0[0].clone()) }
        }
    }

    #[test]
    fn the_question_and_the_answer_are_those_of_the_standard() {
        let mut transport = Recorded(vec![(0, RECORDED.to_vec())], Vec::new());
        let reading = power_reading(&mut transport).unwrap();
        assert_eq!(transport.1, [(0x2C, 0x02, vec![0xDC, 0x01, 0x00, 0x00])]);
        let expected = PowerReading { watts: 214, least_watts: 8, most_watts: 485, mean_watts: 201, period_ms: 1_000 };
        assert_eq!(reading, expected);
    }

    #[test]
    fn controllers_without_a_meter_are_told_apart_from_broken_answers() {
        let mut off = RECORDED;
        off[17] = 0;
        for (code, data, word) in [
            (0xC1, Vec::new(), "has no DCMI power meter"),
            (0xC0, Vec::new(), "is busy"),
            (0xFF, Vec::new(), "refused"),
            (0x00, RECORDED[..9].to_vec(), "too short"),
            (0x00, vec![0xDD; 18], "another group"),
            (0x00, off.to_vec(), "switched off"),
        ] {
            let error = power_reading(&mut Recorded(vec![(code, data)], Vec::new())).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_controller_that_answers_is_a_source_of_the_whole_machine() {
        let transport = Recorded(vec![(0, RECORDED.to_vec())], Vec::new());
        let mut source = Dcmi::start(transport, "dev/ipmi0".into()).unwrap();
        let hints = Hints { elapsed_ms: 1_000, limit_watts: 5_000, utilization: None };
        assert_eq!(source.advance(&hints), Err(Fault::First));
        assert_eq!(source.advance(&hints), Ok(Reading::whole(214_000_000)));
        source.latest.lock().0 = 0;
        assert!(matches!(source.advance(&hints), Err(Fault::Stale { .. })));
    }

    #[test]
    fn without_a_device_the_reason_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let error = Device::find(&Root::new(directory.path())).unwrap_err().to_string();
        assert!(error.contains("ipmi_devintf"), "{error}");
        std::fs::create_dir_all(directory.path().join("dev")).unwrap();
        std::fs::write(directory.path().join("dev/ipmi0"), b"").unwrap();
        let mut device = Device::find(&Root::new(directory.path())).unwrap();
        assert!(power_reading(&mut device).is_err(), "a file is no controller");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(code in any::<u8>(), data in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse(code, &data);
        }
    }
}
