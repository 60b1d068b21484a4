//! Redfish: HTTPS and JSON.
//!
//! Where a machine's power is found differs from maker to maker, so that it is looked for once and remembered: the
//! system, the chassis that holds it, and in that chassis EnvironmentMetrics, PowerControl, or the inputs of all power
//! supplies, whichever is there and gives a figure. Power that several machines share is told as such and attributed to
//! none. Documents are always read anew: some BMCs keep an ETag while the reading in it moves.

mod http;
mod shapes;
#[cfg(test)]
mod tests;
mod tls;

use async_trait::async_trait;
use serde_json::{Value, json};

use self::http::Connection;
pub use self::tls::Trust;
use crate::{
    Bmc, BmcError, Credentials, Identity, PowerAction, PowerState, Reading, Target,
    address::{BmcAddress, is_resource},
};

/// Chassis, and power supplies of one, that are looked at.
const MAX_LOOK: usize = 16;

/// A BMC that speaks Redfish.
pub struct RedfishBmc {
    connection: Connection,
    address: BmcAddress,
    chassis: Option<String>,
    system: Option<String>,
    place: Option<Place>,
}

/// Where the power is found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    chassis: String,
    machines: usize,
    document: Document,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Document {
    Environment(String),
    Power(String),
    Supplies(Vec<String>),
}

impl RedfishBmc {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// When the authority or the chassis cannot be used.
    pub fn new(target: &Target, credentials: &Credentials) -> Result<Self, BmcError> {
        if let Some(chassis) = target.chassis.as_deref().filter(|path| !is_resource(path)) {
            return Err(BmcError::Configuration(format!(
                "chassis `{chassis}`: a path such as /redfish/v1/Chassis/1 is expected"
            )));
        }
        let connection = Connection::new(target.address.socket(), &target.trust, credentials)?;
        let (address, chassis) = (target.address.clone(), target.chassis.clone());
        Ok(Self { connection, address, chassis, system: None, place: None })
    }

    async fn system(&mut self) -> Result<(String, Value), BmcError> {
        let path = match (&self.address.system, &self.system) {
            (Some(path), _) | (None, Some(path)) => path.clone(),
            (None, None) => {
                let path = self.only_system().await?;
                self.system = Some(path.clone());
                path
            }
        };
        let document = self.connection.get(&path).await?;
        Ok((path, document))
    }

    async fn only_system(&mut self) -> Result<String, BmcError> {
        let root = self.connection.get("/redfish/v1/").await?;
        let systems = shapes::link(&root, "Systems").unwrap_or("/redfish/v1/Systems").to_owned();
        let members = shapes::links(self.connection.get(&systems).await?.get("Members"));
        match members.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(BmcError::Unsupported("a computer system".into())),
            several => Err(BmcError::Configuration(format!(
                "the BMC has {} systems; put the one that is meant behind the address: {}",
                several.len(),
                several[..several.len().min(MAX_LOOK)].join(", ")
            ))),
        }
    }

    /// The chassis that may hold the system, those inside of others left out.
    async fn candidates(&mut self, system: &Value) -> Result<Vec<(String, Value)>, BmcError> {
        let mut paths = match &self.chassis {
            Some(chassis) => vec![chassis.trim_end_matches('/').to_owned()],
            None => shapes::links(system.pointer("/Links/Chassis")),
        };
        if paths.is_empty() {
            let all = shapes::links(self.connection.get("/redfish/v1/Chassis").await?.get("Members"));
            if all.len() != 1 {
                return Err(BmcError::Configuration(format!(
                    "the system does not say which chassis holds it; name one as `chassis`: {}",
                    all[..all.len().min(MAX_LOOK)].join(", ")
                )));
            }
            paths = all;
        }
        paths.truncate(MAX_LOOK);
        let mut found = Vec::new();
        for path in &paths {
            let chassis = self.connection.get(path).await?;
            let outer = chassis.pointer("/Links/ContainedBy/@odata.id").and_then(Value::as_str);
            if !outer.is_some_and(|outer| paths.iter().any(|path| path == outer.trim_end_matches('/'))) {
                found.push((path.clone(), chassis));
            }
        }
        Ok(found)
    }

    /// Looks for the power of the machine: each chassis that gives a figure, and what was wrong with the others.
    async fn locate(&mut self, system: &str, document: &Value) -> Result<(Place, Reading), BmcError> {
        let mut found = Vec::new();
        let mut wrong: Option<BmcError> = None;
        for (path, chassis) in self.candidates(document).await? {
            match self.in_chassis(&path, &chassis, system).await {
                Ok(place) => found.push(place),
                // A lack of permission or of an answer is no lack of a sensor.
                Err(error @ (BmcError::Shared { .. } | BmcError::NoFigure(_))) => wrong = Some(error),
                Err(error @ BmcError::Unsupported(_)) => wrong = wrong.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(wrong.unwrap_or_else(|| BmcError::Unsupported("a power reading".into()))),
            _ => {
                let names: Vec<String> = found.into_iter().map(|(place, _)| place.chassis).collect();
                Err(BmcError::Configuration(format!(
                    "several chassis of the system give a power reading; name the one that is meant as `chassis`: {}",
                    names.join(", ")
                )))
            }
        }
    }

    async fn in_chassis(&mut self, path: &str, chassis: &Value, system: &str) -> Result<(Place, Reading), BmcError> {
        let machines = shapes::machines(chassis);
        let mut documents = Vec::new();
        if machines <= 1 {
            documents
                .extend(shapes::link(chassis, "EnvironmentMetrics").map(|path| Document::Environment(path.into())));
        }
        documents.extend(shapes::link(chassis, "Power").map(|path| Document::Power(path.into())));
        if let Some(subsystem) = shapes::link(chassis, "PowerSubsystem").filter(|_| machines <= 1) {
            documents.extend(self.supplies(subsystem).await?);
        }
        let mut wrong = match machines {
            0 | 1 => BmcError::Unsupported("a power reading".into()),
            machines => BmcError::Shared { chassis: path.to_owned(), machines },
        };
        for document in documents {
            let place = Place { chassis: path.to_owned(), machines, document };
            match self.read(&place, system).await {
                Ok(reading) => return Ok((place, reading)),
                Err(error @ (BmcError::NoFigure(_) | BmcError::Shared { .. })) => wrong = error,
                Err(BmcError::Unsupported(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(wrong)
    }

    async fn supplies(&mut self, subsystem: &str) -> Result<Option<Document>, BmcError> {
        let subsystem = self.connection.get(subsystem).await?;
        let Some(list) = shapes::link(&subsystem, "PowerSupplies") else { return Ok(None) };
        let supplies = shapes::links(self.connection.get(list).await?.get("Members"));
        let mut metrics = Vec::new();
        for supply in supplies.iter().take(MAX_LOOK) {
            match shapes::link(&self.connection.get(supply).await?, "Metrics") {
                Some(path) => metrics.push(path.to_owned()),
                None => return Ok(None),
            }
        }
        Ok((!metrics.is_empty()).then_some(Document::Supplies(metrics)))
    }

    async fn read(&mut self, place: &Place, system: &str) -> Result<Reading, BmcError> {
        match &place.document {
            Document::Environment(path) => shapes::environment(&self.connection.get(path).await?),
            Document::Power(path) => {
                let document = self.connection.get(path).await?;
                shapes::power_control(&document, system, &place.chassis, place.machines)
            }
            Document::Supplies(paths) => {
                let mut inputs = Vec::new();
                for path in paths {
                    inputs.push(shapes::supply_input(&self.connection.get(path).await?));
                }
                shapes::of_supplies(&inputs)
            }
        }
    }
}

#[async_trait]
impl Bmc for RedfishBmc {
    async fn identify(&mut self) -> Result<Identity, BmcError> {
        let root = self.connection.get("/redfish/v1/").await?;
        let (_, system) = self.system().await?;
        let text = |document: &Value, name: &str| -> Option<String> {
            let text = document.get(name)?.as_str()?.trim();
            let text: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
            (!text.is_empty()).then_some(text)
        };
        Ok(Identity {
            manufacturer: text(&system, "Manufacturer").or_else(|| text(&root, "Vendor")),
            model: text(&system, "Model"),
            firmware: text(&root, "RedfishVersion").map(|version| format!("Redfish {version}")),
            security: self.connection.security().to_owned(),
        })
    }

    async fn power_state(&mut self) -> Result<PowerState, BmcError> {
        let (_, system) = self.system().await?;
        Ok(shapes::power_state(&system))
    }

    async fn power(&mut self) -> Result<Reading, BmcError> {
        let (path, system) = self.system().await?;
        let mut reading = match self.place.clone() {
            Some(place) => {
                let read = self.read(&place, &path).await;
                if matches!(read, Err(BmcError::Unsupported(_))) {
                    // New firmware may have moved it.
                    self.place = None;
                }
                read?
            }
            None => {
                let (place, reading) = self.locate(&path, &system).await?;
                self.place = Some(place);
                reading
            }
        };
        reading.power_state = Some(shapes::power_state(&system));
        Ok(reading)
    }

    async fn act(&mut self, action: PowerAction) -> Result<(), BmcError> {
        let (_, system) = self.system().await?;
        let reset = shapes::reset(&system).ok_or_else(|| BmcError::Unsupported("switching this system".into()))?;
        let mut allowed = reset.allowed;
        if allowed.is_empty()
            && let Some(info) = &reset.info
        {
            allowed = shapes::allowed(&self.connection.get(info).await?);
        }
        let word = shapes::word(action, &allowed)?;
        let ordered = self.connection.post(&reset.target, &json!({"ResetType": word})).await;
        ordered.map_err(|error| match error {
            BmcError::Unreachable(_) => BmcError::Ambiguous(action.name()),
            other => other,
        })
    }

    async fn close(&mut self) {
        self.connection.close().await;
    }
}
