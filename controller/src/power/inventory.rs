//! Which node has which BMC: the ConfigMap `evergreen-bmc` in the system namespace, key `inventory.yaml`.
//!
//! It is no annotation on Nodes, because a node's own kubelet may write those: whoever owns one node could have the BMC's
//! password sent to an address of their choice.

use std::collections::BTreeMap;

use evergreen_api::names::SYSTEM_NAMESPACE;
use evergreen_bmc::{BmcAddress, BmcError, Protocol, Target, Trust};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use serde::Deserialize;

/// Name of the ConfigMap.
pub const CONFIG_MAP: &str = "evergreen-bmc";
/// Its key.
pub const KEY: &str = "inventory.yaml";
/// A data center's worth; a ConfigMap holds 1 MiB.
const MAX_ENTRIES: usize = 10_000;

/// One node's BMC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Node.
    pub node: String,
    /// Where its BMC answers.
    pub address: BmcAddress,
    /// Secret in the system namespace with `username` and `password`.
    pub secret: String,
    /// Redfish: the chassis whose power is the node's.
    pub chassis: Option<String>,
    /// Redfish: the pinned certificate.
    pub fingerprint: Option<Trust>,
    /// Redfish: name in the certificate, where it does not name the address.
    pub certificate_name: Option<String>,
}

impl Entry {
    /// What to connect to. A pinned certificate comes before the authority in the Secret.
    pub fn target(&self, authority: Option<&[u8]>) -> Target {
        let trust = match (&self.fingerprint, authority) {
            (Some(pinned), _) => pinned.clone(),
            (None, Some(pem)) => Trust::Authority { pem: pem.to_vec(), name: self.certificate_name.clone() },
            (None, None) => Trust::Nothing,
        };
        Target { address: self.address.clone(), chassis: self.chassis.clone(), trust }
    }
}

/// The inventory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The API server refused or did not answer.
    #[error("ConfigMap {CONFIG_MAP} in {SYSTEM_NAMESPACE} cannot be read: {0}")]
    Read(String),
    /// The key is not there.
    #[error("ConfigMap {CONFIG_MAP} in {SYSTEM_NAMESPACE} has no key {KEY}")]
    NoKey,
    /// It is not what is expected.
    #[error("{CONFIG_MAP}/{KEY}: {0}")]
    Syntax(String),
    /// An entry is wrong.
    #[error("{CONFIG_MAP}/{KEY}: nodes[{index}] ({node}): {why}")]
    Entry {
        /// Position, from 0.
        index: usize,
        /// Node.
        node: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    nodes: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    node: String,
    address: String,
    secret: String,
    chassis: Option<String>,
    fingerprint: Option<String>,
    certificate_name: Option<String>,
}

/// The text of the inventory; None when there is no such ConfigMap.
///
/// # Errors
/// When it cannot be read or has not the key.
pub async fn read(client: &Client) -> Result<Option<String>, InventoryError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let found = api.get_opt(CONFIG_MAP).await.map_err(|error| InventoryError::Read(error.to_string()))?;
    let Some(map) = found else { return Ok(None) };
    map.data.and_then(|mut data| data.remove(KEY)).map(Some).ok_or(InventoryError::NoKey)
}

/// Understands an inventory, all of it or nothing.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn parse(text: &str) -> Result<Vec<Entry>, InventoryError> {
    let document: Document = serde_yaml::from_str(text).map_err(|error| InventoryError::Syntax(error.to_string()))?;
    if document.nodes.len() > MAX_ENTRIES {
        return Err(InventoryError::Syntax(format!("at most {MAX_ENTRIES} nodes")));
    }
    let mut by_node: BTreeMap<String, usize> = BTreeMap::new();
    let mut by_address: BTreeMap<String, usize> = BTreeMap::new();
    let mut entries = Vec::with_capacity(document.nodes.len());
    for (index, raw) in document.nodes.into_iter().enumerate() {
        let node = raw.node.clone();
        let wrong = |why: String| InventoryError::Entry { index, node: node.clone(), why };
        let entry = understand(raw).map_err(|error| wrong(error.to_string()))?;
        if let Some(first) = by_node.insert(entry.node.clone(), index) {
            return Err(wrong(format!("the node is named by nodes[{first}] already")));
        }
        // The same machine under two names would be counted twice.
        if let Some(first) = by_address.insert(entry.address.to_string(), index) {
            return Err(wrong(format!("{} is the BMC of nodes[{first}] already", entry.address)));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn understand(raw: Raw) -> Result<Entry, BmcError> {
    let wrong = |why: &str| BmcError::Configuration(why.to_owned());
    let is_name = |name: &str| {
        (1..=253).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
    };
    if !is_name(&raw.node) {
        return Err(wrong("node: the name of a Node is expected"));
    }
    if !is_name(&raw.secret) {
        return Err(wrong("secret: the name of a Secret is expected"));
    }
    let address: BmcAddress = raw.address.parse()?;
    let of_redfish = raw.chassis.is_some() || raw.fingerprint.is_some() || raw.certificate_name.is_some();
    if address.protocol == Protocol::Ipmi && of_redfish {
        return Err(wrong("chassis, fingerprint and certificateName are for redfish addresses only"));
    }
    let fingerprint = raw.fingerprint.as_deref().map(Trust::fingerprint).transpose()?;
    let (node, secret, chassis) = (raw.node, raw.secret, raw.chassis);
    Ok(Entry { node, address, secret, chassis, fingerprint, certificate_name: raw.certificate_name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_is_understood() {
        let entries = parse(
            "nodes:\n\
             - {node: n1, address: 'redfish://10.20.0.1/redfish/v1/Systems/1', secret: bmc, chassis: /redfish/v1/Chassis/1}\n\
             - {node: n2, address: 'ipmi://10.20.0.2', secret: bmc}\n",
        )
        .unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].target(None).trust, Trust::Nothing);
        assert!(matches!(entries[0].target(Some(b"pem")).trust, Trust::Authority { .. }));
        assert_eq!(parse("{}").unwrap(), []);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let fingerprint = "ab".repeat(32);
        for (text, place) in [
            ("nodes: 7", "nodes"),
            ("nodes:\n- {node: n1, adress: x, secret: s}", "adress"),
            ("nodes:\n- {node: n1, address: 'http://10.0.0.1', secret: s}", "nodes[0] (n1)"),
            ("nodes:\n- {node: N1, address: 'ipmi://10.0.0.1', secret: s}", "node:"),
            ("nodes:\n- {node: n1, address: 'ipmi://10.0.0.1', secret: 'a b'}", "secret:"),
            (
                "nodes:\n- {node: n1, address: 'ipmi://10.0.0.1', secret: s}\n- {node: n1, address: 'ipmi://10.0.0.2', secret: s}",
                "nodes[1] (n1): the node is named by nodes[0]",
            ),
            (
                "nodes:\n- {node: n1, address: 'ipmi://10.0.0.1', secret: s}\n- {node: n2, address: 'ipmi://10.0.0.1:623', secret: s}",
                "nodes[1] (n2)",
            ),
            (
                &format!("nodes:\n- {{node: n1, address: 'ipmi://10.0.0.1', secret: s, fingerprint: '{fingerprint}'}}"),
                "redfish addresses only",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(place), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_repeated() {
        let text = "nodes:\n- {node: n1, address: 'ipmi://root:hunter2@10.0.0.1', secret: s}";
        assert!(!parse(text).unwrap_err().to_string().contains("hunter2"));
    }
}
