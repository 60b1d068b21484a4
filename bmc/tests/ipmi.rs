//! The IPMI client against pyghmi's BMC: real RMCP+ over UDP on loopback, both cipher suites.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use common::{PASSWORD, Running, free_udp_port, login, loopback, part, tool};
use evergreen_bmc::{
    Access, Bmc, FenceBounds, PowerAction, PowerOff, PowerState, Target, Trust,
    ipmi::{IpmiBmc, Suite},
    open, power_off_verified,
};
use serde_json::{Value, json};

struct Simulated {
    port: u16,
    suite: u8,
    state: PathBuf,
    python: PathBuf,
    _dir: tempfile::TempDir,
    process: Option<Running>,
}

impl Simulated {
    fn start(check: &str, suite: u8, state: &Value) -> Option<Self> {
        let python = tool("python3", check)?;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state.json");
        fs::write(&file, state.to_string()).unwrap();
        let mut bmc = Self { port: free_udp_port(), suite, state: file, python, _dir: dir, process: None };
        bmc.restart();
        Some(bmc)
    }

    fn restart(&mut self) {
        self.process = None;
        let log = self.state.with_extension("out");
        let _ = fs::remove_file(&log);
        let mut command = Command::new(&self.python);
        command.arg(part("ipmi_bmc.py")).args([self.port.to_string(), self.suite.to_string()]).arg(&self.state);
        let mut process = Running::start(command, &log);
        process.says("listening");
        self.process = Some(process);
    }

    fn say(&self, state: &Value) {
        fs::write(&self.state, state.to_string()).unwrap();
    }

    fn orders(&self) -> String {
        fs::read_to_string(self.state.with_extension("json.log")).unwrap_or_default()
    }

    fn target(&self) -> Target {
        let address = format!("ipmi://127.0.0.1:{}", self.port).parse().unwrap();
        Target { address, chassis: None, trust: Trust::Nothing }
    }

    fn client(&self, access: Access) -> Box<dyn Bmc> {
        open(&self.target(), &login(PASSWORD), access, &loopback()).unwrap()
    }
}

#[tokio::test]
async fn power_and_state_are_read_over_both_cipher_suites() {
    for suite in [3, 17] {
        let state = json!({"watts": 287, "power": "on"});
        let Some(simulated) = Simulated::start("IPMI reading", suite, &state) else { return };
        let mut bmc = simulated.client(Access::Read);
        let reading = bmc.power().await.unwrap();
        assert_eq!((reading.milliwatts, reading.power_state), (287_000, Some(PowerState::On)));
        assert_eq!(reading.statistics.unwrap().average_milliwatts, Some(250_000));
        assert_eq!(reading.source.name(), "ipmi-dcmi");
        let identity = bmc.identify().await.unwrap();
        assert_eq!(identity.security, format!("RMCP+, cipher suite {suite}"));
        simulated.say(&json!({"watts": 12, "power": "off"}));
        let reading = bmc.power().await.unwrap();
        assert_eq!((reading.milliwatts, reading.power_state), (12_000, Some(PowerState::Off)));
        bmc.close().await;
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_suite_that_is_not_allowed_is_not_spoken() {
    let Some(simulated) = Simulated::start("IPMI refusals", 3, &json!({"watts": 1, "power": "on"})) else { return };
    let mut wrong = open(&simulated.target(), &login("guess"), Access::Read, &loopback()).unwrap();
    assert_eq!(wrong.power().await.unwrap_err().word(), "credentials");
    let only17 = IpmiBmc::new(simulated.target().address.socket(), &login(PASSWORD), Access::Read).unwrap();
    let mut only17 = only17.with_suites(&[Suite::Seventeen]);
    assert_eq!(only17.power().await.unwrap_err().word(), "unsupported");
}

#[tokio::test]
async fn a_bmc_that_restarts_is_logged_in_to_again_and_a_busy_one_is_asked_again() {
    let state = json!({"watts": 200, "power": "on"});
    let Some(mut simulated) = Simulated::start("IPMI restart", 17, &state) else { return };
    let mut bmc = simulated.client(Access::Read);
    bmc.power().await.unwrap();
    simulated.restart();
    assert_eq!(bmc.power().await.unwrap().milliwatts, 200_000);
    simulated.say(&json!({"watts": 201, "power": "on", "busy": 2}));
    assert_eq!(bmc.power().await.unwrap().milliwatts, 201_000);
}

#[tokio::test]
async fn a_bmc_without_a_meter_or_with_one_that_stands_still_says_so() {
    let Some(simulated) = Simulated::start("IPMI meters", 3, &json!({"power": "on"})) else { return };
    let mut bmc = simulated.client(Access::Read);
    assert_eq!(bmc.power().await.unwrap_err().word(), "unsupported");
    assert_eq!(bmc.power_state().await.unwrap(), PowerState::On, "the rest works");
    simulated.say(&json!({"watts": 5, "power": "on", "measuring": false}));
    assert_eq!(bmc.power().await.unwrap_err().word(), "no_figure");
    simulated.say(&json!({"watts": 5, "power": "on", "operator": true}));
    assert_eq!(bmc.power().await.unwrap().milliwatts, 5_000, "where users may not read, an operator asks");
}

#[tokio::test]
async fn a_machine_is_switched_off_and_that_it_is_off_is_verified() {
    let state = json!({"watts": 200, "power": "on"});
    let Some(simulated) = Simulated::start("IPMI power-off", 17, &state) else { return };
    let mut bmc = simulated.client(Access::Act);
    let bounds = FenceBounds { pause: Duration::from_millis(100), ..FenceBounds::default() };
    let outcome = power_off_verified(&mut *bmc, bounds).await;
    assert!(matches!(outcome, PowerOff::Verified { already: false, .. }), "{outcome:?}");
    assert_eq!(simulated.orders(), "off\n");
    bmc.act(PowerAction::On).await.unwrap();
    assert_eq!(bmc.power_state().await.unwrap(), PowerState::On);
    bmc.act(PowerAction::PowerCycle).await.unwrap();
    assert_eq!(simulated.orders(), "off\non\ncycle\n");
}

#[tokio::test]
async fn a_machine_that_does_not_obey_and_a_reader_who_may_not_order_are_not_taken_for_off() {
    let state = json!({"watts": 200, "power": "on", "obeys": false});
    let Some(simulated) = Simulated::start("IPMI disobedience", 3, &state) else { return };
    let mut bmc = simulated.client(Access::Act);
    let bounds =
        FenceBounds { within: Duration::from_secs(2), call: Duration::from_secs(2), pause: Duration::from_millis(100) };
    let outcome = power_off_verified(&mut *bmc, bounds).await;
    assert!(matches!(outcome, PowerOff::NotVerified { last: Some(PowerState::On), .. }), "{outcome:?}");
    assert_eq!(simulated.orders(), "off\n", "one order is enough");
}

#[tokio::test]
async fn nobody_there_is_told_within_the_bound() {
    let address = format!("ipmi://127.0.0.1:{}", free_udp_port()).parse().unwrap();
    let target = Target { address, chassis: None, trust: Trust::Nothing };
    let mut bmc = open(&target, &login(PASSWORD), Access::Read, &loopback()).unwrap();
    let begin = Instant::now();
    let error = bmc.power_state().await.unwrap_err();
    assert_eq!(error.word(), "unreachable");
    assert!(begin.elapsed() < Duration::from_secs(15));
}
