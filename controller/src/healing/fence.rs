//! Powering a node off through its BMC. The only place in healing that speaks to anything but the API server and the
//! endpoints of the site's list.

use std::time::Duration;

use evergreen_api::resources::StepOutcome;
use evergreen_bmc::{Access, AllowList, FenceBounds, PowerOff};
use kube::Client;

use crate::power::{inventory, read_login};

/// What came of it.
pub(crate) enum Fenced {
    /// It is known.
    Known(StepOutcome, String),
    /// It was not tried; trying again may help.
    NotTried(String),
    /// It was not tried, and trying again cannot help.
    Impossible(String),
}

/// Powers a node off and has its BMC say so, twice.
pub(crate) async fn fence(client: &Client, allowed: Option<&AllowList>, node: &str, within: Duration) -> Fenced {
    let Some(allowed) = allowed else {
        return Fenced::Impossible("this site may reach no BMC: start the controller with --bmc-allow".into());
    };
    let entries = match inventory::read(client).await {
        Ok(Some(text)) => match inventory::parse(&text) {
            Ok(entries) => entries,
            Err(error) => return Fenced::Impossible(error.to_string()),
        },
        Ok(None) => return Fenced::Impossible(format!("there is no ConfigMap {}", inventory::CONFIG_MAP)),
        Err(error) => return Fenced::NotTried(error.to_string()),
    };
    let Some(entry) = entries.iter().find(|entry| entry.node == node) else {
        return Fenced::Impossible(format!("ConfigMap {} knows no BMC of node {node}", inventory::CONFIG_MAP));
    };
    let login = match read_login(client, &entry.secret).await {
        Ok(login) => login,
        Err(error) if error.is_passing() => return Fenced::NotTried(error.to_string()),
        Err(error) => return Fenced::Impossible(error.to_string()),
    };
    let target = entry.target(login.authority.as_deref());
    let mut bmc = match evergreen_bmc::open(&target, &login.credentials, Access::Act, allowed) {
        Ok(bmc) => bmc,
        Err(error) => return Fenced::Impossible(format!("BMC of {node}: {error}")),
    };
    let bounds = FenceBounds { within, ..FenceBounds::default() };
    let end = evergreen_bmc::power_off_verified(bmc.as_mut(), bounds).await;
    let _ = tokio::time::timeout(Duration::from_secs(2), bmc.close()).await;
    match end {
        PowerOff::Verified { after, already } => {
            let how = if already { "it was off already" } else { "it was switched off" };
            Fenced::Known(
                StepOutcome::Done,
                format!("{how}; its BMC said so twice, after {:.1} s", after.as_secs_f64()),
            )
        }
        PowerOff::NotVerified { last, why } => {
            let last = last.map_or_else(|| "no state was read".to_owned(), |state| format!("last read: {state}"));
            Fenced::Known(StepOutcome::Failed, format!("it must be taken for running: {why} ({last})"))
        }
    }
}
