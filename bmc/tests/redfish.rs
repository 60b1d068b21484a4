//! The Redfish client against sushy-tools: static documents over TLS, and an emulator that switches.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use common::{PASSWORD, Running, free_tcp_port, login, loopback, part, tool};
use evergreen_bmc::{
    Access, Bmc, BmcError, FenceBounds, PowerAction, PowerOff, PowerState, Target, Trust, open, power_off_verified,
};
use serde_json::{Value, json};

const SYSTEM: &str = "/redfish/v1/Systems/1";
const CHASSIS: &str = "/redfish/v1/Chassis/1";

/// Writes a document where sushy-static looks for it.
fn document(dir: &Path, path: &str, mut body: Value) {
    body["@odata.id"] = json!(path);
    let folder = dir.join(path.trim_start_matches("/redfish/v1").trim_start_matches('/'));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("index.json"), body.to_string()).unwrap();
}

/// A rack server as the standard's schemas shape it.
fn rack_server(dir: &Path) {
    document(
        dir,
        "/redfish/v1",
        json!({"RedfishVersion": "1.15.0", "Vendor": "Example", "Systems": {"@odata.id": "/redfish/v1/Systems"}}),
    );
    document(dir, "/redfish/v1/Systems", json!({"Members": [{"@odata.id": SYSTEM}]}));
    document(
        dir,
        SYSTEM,
        json!({
            "Manufacturer": "Example", "Model": "R1", "PowerState": "On",
            "Links": {"Chassis": [{"@odata.id": CHASSIS}]},
            "Actions": {"#ComputerSystem.Reset": {
                "target": format!("{SYSTEM}/Actions/ComputerSystem.Reset"),
                "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown", "ForceRestart"],
            }},
        }),
    );
    document(
        dir,
        CHASSIS,
        json!({
            "ChassisType": "RackMount", "Links": {"ComputerSystems": [{"@odata.id": SYSTEM}]},
            "Power": {"@odata.id": format!("{CHASSIS}/Power")},
        }),
    );
    power(dir, json!(312));
}

fn power(dir: &Path, watts: Value) {
    document(
        dir,
        &format!("{CHASSIS}/Power"),
        json!({"PowerControl": [{
            "MemberId": "0", "Name": "System Power Control", "PowerConsumedWatts": watts, "PowerCapacityWatts": 1100,
            "PowerMetrics": {"IntervalInMin": 5, "MinConsumedWatts": 180, "MaxConsumedWatts": 420, "AverageConsumedWatts": 300},
        }]}),
    );
}

struct Static {
    dir: tempfile::TempDir,
    port: u16,
    fingerprint: Trust,
    certificate: PathBuf,
    process: Running,
}

impl Static {
    fn start(check: &str, documents: impl FnOnce(&Path)) -> Option<Self> {
        let program = tool("sushy-static", check)?;
        let dir = tempfile::tempdir().unwrap();
        let mockup = dir.path().join("mockup");
        documents(&mockup);
        let (certificate, key, fingerprint) = certificate(dir.path());
        let port = free_tcp_port();
        let mut command = Command::new(program);
        command.args(["-i", "127.0.0.1", "-p", &port.to_string(), "-m"]).arg(&mockup);
        command.arg("-c").arg(&certificate).arg("-k").arg(&key).env("PYTHONUNBUFFERED", "1");
        let mut process = Running::start(command, &dir.path().join("static.log"));
        process.accepts(port);
        Some(Self { dir, port, fingerprint, certificate, process })
    }

    fn mockup(&self) -> PathBuf {
        self.dir.path().join("mockup")
    }

    fn target(&self) -> Target {
        let address = format!("redfish://127.0.0.1:{}", self.port).parse().unwrap();
        Target { address, chassis: None, trust: self.fingerprint.clone() }
    }

    fn client(&self) -> Box<dyn Bmc> {
        open(&self.target(), &login(PASSWORD), Access::Read, &loopback()).unwrap()
    }
}

/// A self-signed certificate for loopback, its key, and its fingerprint.
fn certificate(dir: &Path) -> (PathBuf, PathBuf, Trust) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, made.cert.der());
    let text: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    (certificate, key, Trust::fingerprint(&text).unwrap())
}

#[tokio::test]
async fn the_power_of_a_rack_server_is_found_and_read() {
    let Some(served) = Static::start("Redfish reading", rack_server) else { return };
    let mut bmc = served.client();
    let reading = bmc.power().await.unwrap();
    assert_eq!((reading.milliwatts, reading.power_state), (312_000, Some(PowerState::On)));
    assert_eq!(reading.statistics.unwrap().average_milliwatts, Some(300_000));
    assert_eq!(reading.capacity_milliwatts, Some(1_100_000));
    assert_eq!(bmc.identify().await.unwrap().model.as_deref(), Some("R1"));
    power(&served.mockup(), json!(null));
    assert_eq!(bmc.power().await.unwrap_err().word(), "no_figure");
    power(&served.mockup(), json!(298.5));
    assert_eq!(bmc.power().await.unwrap().milliwatts, 298_500);
    bmc.close().await;
}

#[tokio::test]
async fn a_certificate_is_trusted_by_pin_or_authority_and_never_blindly() {
    let Some(served) = Static::start("Redfish certificates", rack_server) else { return };
    let open = |trust: Trust| open(&Target { trust, ..served.target() }, &login(PASSWORD), Access::Read, &loopback());
    let error = open(Trust::Nothing).unwrap().power().await.unwrap_err();
    let BmcError::Certificate { fingerprint, .. } = &error else { panic!("{error:?}") };
    assert_eq!(Trust::fingerprint(fingerprint).unwrap(), served.fingerprint, "the refusal names what to pin");
    open(Trust::fingerprint(fingerprint).unwrap()).unwrap().power().await.unwrap();
    assert_eq!(open(Trust::Fingerprint([1; 32])).unwrap().power().await.unwrap_err().word(), "certificate");
    let pem = fs::read(&served.certificate).unwrap();
    open(Trust::Authority { pem: pem.clone(), name: None }).unwrap().power().await.unwrap();
    let other = Trust::Authority { pem, name: Some("bmc.example".into()) };
    assert_eq!(open(other).unwrap().power().await.unwrap_err().word(), "certificate");
    let said = fs::read_to_string(&served.process.log).unwrap();
    assert!(!said.contains("Traceback"), "{said}");
}

#[tokio::test]
async fn the_newer_documents_are_preferred_and_an_enclosure_of_several_machines_is_attributed_to_none() {
    let documents = |dir: &Path| {
        rack_server(dir);
        document(
            dir,
            CHASSIS,
            json!({
                "Links": {"ComputerSystems": [{"@odata.id": SYSTEM}]},
                "EnvironmentMetrics": {"@odata.id": format!("{CHASSIS}/EnvironmentMetrics")},
                "Power": {"@odata.id": format!("{CHASSIS}/Power")},
            }),
        );
        document(
            dir,
            &format!("{CHASSIS}/EnvironmentMetrics"),
            json!({"PowerWatts": {"Reading": 305.0}, "EnergykWh": {"Reading": 2.5}}),
        );
    };
    let Some(served) = Static::start("Redfish environment", documents) else { return };
    let reading = served.client().power().await.unwrap();
    assert_eq!((reading.milliwatts, reading.energy_joules), (305_000, Some(9e6)));
    document(
        &served.mockup(),
        CHASSIS,
        json!({
            "Links": {"ComputerSystems": [{"@odata.id": SYSTEM}, {"@odata.id": "/redfish/v1/Systems/2"}]},
            "EnvironmentMetrics": {"@odata.id": format!("{CHASSIS}/EnvironmentMetrics")},
            "Power": {"@odata.id": format!("{CHASSIS}/Power")},
        }),
    );
    assert_eq!(served.client().power().await.unwrap_err().word(), "shared");
}

#[tokio::test]
async fn links_that_lead_elsewhere_are_not_followed() {
    let documents = |dir: &Path| {
        rack_server(dir);
        document(
            dir,
            CHASSIS,
            json!({"Links": {"ComputerSystems": [{"@odata.id": SYSTEM}]}, "Power": {"@odata.id": "http://169.254.169.254/latest"}}),
        );
    };
    let Some(served) = Static::start("Redfish links", documents) else { return };
    let error = served.client().power().await.unwrap_err();
    assert!(error.to_string().contains("not followed"), "{error}");
}

#[tokio::test]
async fn a_machine_is_switched_off_and_that_it_is_off_is_verified() {
    let Some(program) = tool("python3", "Redfish power-off") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key, trust) = certificate(dir.path());
    let port = free_tcp_port();
    let config = dir.path().join("emulator.conf");
    fs::write(
        &config,
        "SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_FAKE_SYSTEMS = [{'uuid': '48feb2f4-8d9c-4f40-9a4f-8d5a2b5f3c01', \
         'name': 'n1', 'power_state': 'On', 'external_notifier': False, 'nics': []}]\n",
    )
    .unwrap();
    let mut command = Command::new(program);
    command.arg(part("redfish_bmc.py")).arg("--config").arg(&config).args([
        "-i",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "--fake",
    ]);
    command.arg("--ssl-certificate").arg(&certificate).arg("--ssl-key").arg(&key).current_dir(dir.path());
    let mut process = Running::start(command, &dir.path().join("emulator.log"));
    process.accepts(port);
    let address = format!("redfish://127.0.0.1:{port}").parse().unwrap();
    let target = Target { address, chassis: None, trust };
    let mut bmc = open(&target, &login(PASSWORD), Access::Act, &loopback()).unwrap();
    let identity = bmc.identify().await.unwrap();
    if bmc.power_state().await.unwrap() != PowerState::On {
        bmc.act(PowerAction::On).await.unwrap();
    }
    let bounds = FenceBounds { pause: Duration::from_millis(500), ..FenceBounds::default() };
    let outcome = power_off_verified(&mut *bmc, bounds).await;
    assert!(matches!(outcome, PowerOff::Verified { already: false, .. }), "{outcome:?} {identity:?}");
    bmc.act(PowerAction::On).await.unwrap();
    let said = fs::read_to_string(&process.log).unwrap();
    assert!(!said.contains(PASSWORD), "the password travels in headers and bodies only");
}
