//! `evergreen bmc check`: whether a node's management controller (BMC) answers and gives its power. It reads and never
//! switches anything.

use std::{io::Read, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use evergreen_bmc::{
    Access, AllowList, Bmc, BmcAddress, BmcError, Credentials, Identity, PowerState, Reading, Secret, Target, Trust,
};
use evergreen_controller::power::{
    inventory,
    judge::{Judge, Verdict},
    read_login,
};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::Serialize;

use crate::{
    commands::block_on,
    exit::{Failure, Outcome},
};

/// Each question; the first includes logging in.
const QUESTION: Duration = Duration::from_secs(25);

/// Management controllers of nodes.
#[derive(Debug, Subcommand)]
pub enum BmcCommand {
    /// Ask a BMC for power and power state; reads only.
    Check(CheckArgs),
}

/// Ask a BMC for power and power state; reads only.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    evergreen bmc check --node rack1-n07                               as the ConfigMap evergreen-bmc has it\n  \
    evergreen bmc check --address redfish://10.20.0.17 --username monitor --password-file pw\n  \
    evergreen bmc check --address ipmi://10.20.0.17 --username monitor --password-file - --json < pw\n\n\
    A Redfish BMC is only given the password once its certificate is recognized: without --fingerprint or --authority\n\
    the command ends and prints the fingerprint; compare it with the one that the BMC's own page shows, then pin it.\n\
    A read-only account of the BMC is enough (IPMI: privilege USER, Redfish: role ReadOnly).\n\n\
    Exit codes: 0 a reading that can be used, 1 the BMC answered but gives none, 2 wrong use, 3 the BMC does not answer.")]
pub struct CheckArgs {
    /// Node whose BMC is asked: address and Secret come from evergreen-system.
    #[arg(long, env = "EVERGREEN_NODE", value_name = "NODE", required_unless_present = "address")]
    node: Option<String>,
    /// The BMC itself: redfish://IP[:PORT][/redfish/v1/Systems/ID] or ipmi://IP[:PORT].
    #[arg(long, env = "EVERGREEN_ADDRESS", value_name = "URL", conflicts_with = "node", requires_all = ["username", "password_file"])]
    address: Option<BmcAddress>,
    /// User of the BMC, with --address.
    #[arg(long, env = "EVERGREEN_USERNAME")]
    username: Option<String>,
    /// File with the password, with --address; `-` reads it from standard input. There is no flag for the password
    /// itself: others could read it in the list of processes.
    #[arg(long, env = "EVERGREEN_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Redfish, with --address: pinned certificate, as in sha256:1f8b....
    #[arg(long, env = "EVERGREEN_FINGERPRINT", value_name = "SHA256", conflicts_with = "authority")]
    fingerprint: Option<String>,
    /// Redfish, with --address: PEM file of the authority that signed the BMC's certificate.
    #[arg(long, env = "EVERGREEN_AUTHORITY", value_name = "FILE")]
    authority: Option<PathBuf>,
    /// Redfish, with --address: the chassis whose power is the machine's, where there are several.
    #[arg(long, env = "EVERGREEN_CHASSIS", value_name = "PATH")]
    chassis: Option<String>,
    /// Kubeconfig, with --node. Without it the usual one.
    #[arg(long, env = "EVERGREEN_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long, env = "EVERGREEN_JSON")]
    json: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    address: String,
    identity: Option<Identity>,
    power_state: Option<PowerState>,
    reading: Option<Reading>,
    /// Whether the controller would use the reading.
    usable: bool,
    /// `ok`, or what is wrong in one word.
    word: &'static str,
    /// What is wrong, for people.
    problem: Option<String>,
}

pub fn run(command: BmcCommand) -> Outcome {
    match command {
        BmcCommand::Check(args) => block_on(check(args)),
    }
}

async fn check(args: CheckArgs) -> Outcome {
    let (target, credentials) = match (&args.node, &args.address) {
        (Some(node), _) => of_node(node, args.kubeconfig.as_deref()).await?,
        (None, Some(address)) => of_flags(&args, address)?,
        (None, None) => return Err(Failure::usage("either --node or --address is needed")),
    };
    // Whoever types an address allows it; the controller has its own list.
    let allowed = AllowList::parse([target.address.ip.to_string()]).map_err(Failure::usage)?;
    let mut bmc = evergreen_bmc::open(&target, &credentials, Access::Read, &allowed).map_err(Failure::usage)?;
    let (found, error) = ask(&mut *bmc, args.node, target.address.to_string()).await;
    let _ = tokio::time::timeout(Duration::from_secs(3), bmc.close()).await;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&found).map_err(anyhow::Error::from)?);
    } else {
        print!("{}", text(&found));
    }
    match error {
        Some(error @ BmcError::Unreachable(_)) => Err(Failure::unreachable(&error)
            .remedy("check the address, and that this host reaches the BMC's network (443/tcp or 623/udp)")),
        Some(error) => Err(told(&error)),
        None if found.usable => Ok(()),
        None => Err(Failure::no("the sensor's figure cannot be used; see above")),
    }
}

fn told(error: &BmcError) -> Failure {
    let failure = Failure::no(error);
    match error {
        BmcError::Credentials => failure
            .remedy("the right user and password; do not try often, most BMCs lock the account after a few times"),
        BmcError::Unsupported(_) => failure.remedy("the other protocol of the same BMC: ipmi://IP or redfish://IP"),
        BmcError::Certificate { .. } => failure.remedy(
            "compare the fingerprint with the BMC's own page, then --fingerprint, or fingerprint: in evergreen-bmc",
        ),
        _ => failure,
    }
}

async fn ask(bmc: &mut dyn Bmc, node: Option<String>, address: String) -> (Found, Option<BmcError>) {
    let mut found = Found {
        node,
        address,
        identity: None,
        power_state: None,
        reading: None,
        usable: false,
        word: "ok",
        problem: None,
    };
    let outcome = questions(bmc, &mut found).await;
    if let Err(error) = &outcome {
        found.word = error.word();
        found.problem = Some(error.to_string());
    }
    (found, outcome.err())
}

async fn questions(bmc: &mut dyn Bmc, found: &mut Found) -> Result<(), BmcError> {
    found.identity = Some(within(bmc.identify()).await?);
    found.power_state = Some(within(bmc.power_state()).await?);
    let reading = within(bmc.power()).await?;
    match Judge::default().judge(&reading, Duration::ZERO) {
        Verdict::Refuse(lie) => {
            found.word = lie.word();
            found.problem = Some(lie.explained().to_owned());
        }
        Verdict::Use(_) | Verdict::Stuck(_) => found.usable = true,
    }
    found.reading = Some(reading);
    Ok(())
}

async fn within<T>(question: impl Future<Output = Result<T, BmcError>>) -> Result<T, BmcError> {
    let late = |_| Err(BmcError::Unreachable(format!("nothing within {} s", QUESTION.as_secs())));
    tokio::time::timeout(QUESTION, question).await.unwrap_or_else(late)
}

async fn of_node(node: &str, kubeconfig: Option<&std::path::Path>) -> Outcome<(Target, Credentials)> {
    let unusable = |error: &dyn std::fmt::Display| {
        Failure::unreachable(format_args!("the cluster cannot be reached: {error}")).remedy("--kubeconfig FILE")
    };
    let config = match kubeconfig {
        Some(file) => {
            let read =
                Kubeconfig::read_from(file).map_err(|error| Failure::usage(error).remedy("--kubeconfig FILE"))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(|e| unusable(&e))?
        }
        None => Config::infer().await.map_err(|error| unusable(&error))?,
    };
    let client = Client::try_from(config).map_err(|error| unusable(&error))?;
    let text = inventory::read(&client).await.map_err(|error| unusable(&error))?.ok_or_else(|| {
        Failure::no("there is no ConfigMap evergreen-bmc in evergreen-system").remedy("docs/bmc.md shows one")
    })?;
    let entries = inventory::parse(&text).map_err(Failure::no)?;
    let entry = entries.into_iter().find(|entry| entry.node == node).ok_or_else(|| {
        Failure::no(format_args!("evergreen-bmc names no BMC of node {node}")).remedy("add it under nodes:")
    })?;
    let login = read_login(&client, &entry.secret).await.map_err(Failure::no)?;
    Ok((entry.target(login.authority.as_deref()), login.credentials))
}

fn of_flags(args: &CheckArgs, address: &BmcAddress) -> Outcome<(Target, Credentials)> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))
    };
    let mut password = match &args.password_file {
        Some(path) if path.as_os_str() == "-" => {
            let mut bytes = Vec::new();
            // Longer than any password.
            std::io::stdin().take(4_096).read_to_end(&mut bytes).map_err(Failure::usage)?;
            bytes
        }
        Some(path) => read(path)?,
        None => return Err(Failure::usage("--password-file is needed with --address")),
    };
    if password.last() == Some(&b'\n') {
        password.pop();
    }
    let trust = match (&args.fingerprint, &args.authority) {
        (Some(text), _) => Trust::fingerprint(text).map_err(Failure::usage)?,
        (None, Some(path)) => Trust::Authority { pem: read(path)?, name: None },
        (None, None) => Trust::Nothing,
    };
    let credentials = Credentials {
        username: args.username.clone().unwrap_or_default(),
        password: Secret::new(password),
        bmc_key: None,
    };
    Ok((Target { address: address.clone(), chassis: args.chassis.clone(), trust }, credentials))
}

fn text(found: &Found) -> String {
    let watts = |milliwatts: i64| format!("{:.1} W", milliwatts as f64 / 1e3);
    let mut lines = vec![match &found.node {
        Some(node) => format!("BMC of {node} at {}", found.address),
        None => format!("BMC at {}", found.address),
    }];
    let mut line = |name: &str, value: String| lines.push(format!("  {name:<10}{value}"));
    if let Some(identity) = &found.identity {
        let who: Vec<&str> = [&identity.manufacturer, &identity.model, &identity.firmware]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        line("who", if who.is_empty() { "it does not say".into() } else { who.join(", ") });
        line("over", identity.security.clone());
    }
    if let Some(state) = found.power_state {
        line("machine", state.to_string());
    }
    if let Some(reading) = &found.reading {
        line("power", format!("{} from {}", watts(reading.milliwatts), reading.sensor));
        if let Some(statistics) = reading.statistics {
            let or = |milliwatts: Option<i64>| milliwatts.map_or("?".into(), watts);
            let window = statistics.window.map_or("its own window".into(), |window| format!("{} s", window.as_secs()));
            let [average, least, most] =
                [statistics.average_milliwatts, statistics.minimum_milliwatts, statistics.maximum_milliwatts].map(or);
            line("average", format!("{average} over {window}, {least} to {most}"));
        }
        let of = |name: &str, value: Option<i64>| value.map(|value| format!("{name} {}", watts(value)));
        let bounds: Vec<String> = [of("limit", reading.limit_milliwatts), of("supplies", reading.capacity_milliwatts)]
            .into_iter()
            .flatten()
            .collect();
        if !bounds.is_empty() {
            line("bounds", bounds.join(", "));
        }
        line(
            "energy",
            match reading.energy_joules {
                Some(joules) => {
                    format!("the BMC counts itself: {:.2} kWh; gaps in readings are filled with it", joules / 3.6e6)
                }
                None => "the BMC does not count itself; gaps in readings stay gaps".into(),
            },
        );
    }
    line(
        "verdict",
        match &found.problem {
            None => "ok".into(),
            Some(problem) => format!("{}: {problem}", found.word),
        },
    );
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use evergreen_bmc::{PowerAction, Source};

    use super::*;

    struct One(Result<i64, BmcError>);

    #[async_trait::async_trait]
    impl Bmc for One {
        async fn identify(&mut self) -> Result<Identity, BmcError> {
            Ok(Identity { model: Some("R1".into()), ..Identity::default() })
        }
        async fn power_state(&mut self) -> Result<PowerState, BmcError> {
            Ok(PowerState::On)
        }
        async fn power(&mut self) -> Result<Reading, BmcError> {
            self.0.clone().map(|milliwatts| Reading {
                source: Source::Redfish,
                milliwatts,
                sensor: "PowerControl `x`".into(),
                statistics: None,
                energy_joules: Some(9e6),
                limit_milliwatts: None,
                capacity_milliwatts: Some(800_000),
                power_state: Some(PowerState::On),
            })
        }
        async fn act(&mut self, _: PowerAction) -> Result<(), BmcError> {
            panic!("a check never acts")
        }
        async fn close(&mut self) {}
    }

    #[tokio::test]
    async fn a_good_reading_is_shown_with_what_the_bmc_is() {
        let (found, error) = ask(&mut One(Ok(312_500)), Some("n1".into()), "redfish://x".into()).await;
        assert!(error.is_none() && found.usable);
        let text = text(&found);
        for part in ["BMC of n1", "R1", "machine   on", "312.5 W from PowerControl", "2.50 kWh", "verdict   ok"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[tokio::test]
    async fn a_lie_and_an_absent_sensor_are_told_in_a_word() {
        let (found, _) = ask(&mut One(Ok(0)), None, "ipmi://x".into()).await;
        assert_eq!((found.word, found.usable), ("zero", false));
        let (found, error) = ask(&mut One(Err(BmcError::Unsupported("DCMI".into()))), None, "ipmi://x".into()).await;
        assert_eq!(found.word, "unsupported");
        assert!(told(&error.unwrap()).to_string().contains("redfish://IP"));
    }
}
