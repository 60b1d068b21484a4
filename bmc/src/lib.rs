//! Management controllers (BMCs) of servers, from outside: what power a machine takes, whether it is on, and switching it.
//!
//! Two protocols behind one trait: [`redfish`] (HTTPS and JSON) and [`ipmi`] (IPMI 2.0 over LAN, RMCP+). This room knows
//! no Kubernetes, keeps no history and judges no figure: it asks one machine and tells what came back. It connects only
//! to addresses that an [`AllowList`] permits, follows no redirect, and never writes a password anywhere.

#![forbid(unsafe_code)]

mod address;
mod credentials;
mod error;
mod fence;
pub mod ipmi;
mod reading;
pub mod redfish;

use async_trait::async_trait;

pub use self::{
    address::{AddressError, AllowList, BmcAddress, Protocol},
    credentials::{Credentials, Secret},
    error::BmcError,
    fence::{FenceBounds, PowerOff, power_off_verified},
    reading::{Identity, PowerAction, PowerState, Reading, Source, Statistics},
    redfish::Trust,
};

/// What the caller is going to do; the session is opened with no more rights than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads.
    Read,
    /// Reads, and switches power.
    Act,
}

/// Which machine, and how it is recognized.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where its BMC answers.
    pub address: BmcAddress,
    /// Redfish: the chassis whose power is the machine's, where the BMC names several.
    pub chassis: Option<String>,
    /// Redfish: how the BMC's certificate is recognized.
    pub trust: Trust,
}

/// One machine's BMC. Calls are made one after another: many BMCs answer only one question at a time.
///
/// No call waits for longer than a few seconds at each of its steps; callers bound the whole.
#[async_trait]
pub trait Bmc: Send {
    /// Who answers.
    ///
    /// # Errors
    /// When it cannot be reached, does not let the user in, or answers nonsense.
    async fn identify(&mut self) -> Result<Identity, BmcError>;

    /// Whether the machine is on, as the BMC sees it now.
    ///
    /// # Errors
    /// As [`identify`](Self::identify).
    async fn power_state(&mut self) -> Result<PowerState, BmcError>;

    /// The power that the machine takes now.
    ///
    /// # Errors
    /// As [`identify`](Self::identify); also when the BMC has no such sensor, its sensor gives no figure, or the figure is
    /// of several machines together.
    async fn power(&mut self) -> Result<Reading, BmcError>;

    /// Switches the machine. That the BMC took the order does not mean that the machine obeyed: ask for its state.
    ///
    /// # Errors
    /// As [`identify`](Self::identify); [`BmcError::Ambiguous`] when the order may or may not have been taken.
    async fn act(&mut self, action: PowerAction) -> Result<(), BmcError>;

    /// Gives the session back, because BMCs have few. Without it they end by themselves after minutes.
    async fn close(&mut self);
}

/// A BMC that is spoken to when the first question is asked.
///
/// # Errors
/// When the address is outside of the allow-list, or the credentials cannot be used with its protocol.
pub fn open(
    target: &Target,
    credentials: &Credentials,
    access: Access,
    allowed: &AllowList,
) -> Result<Box<dyn Bmc>, BmcError> {
    allowed.check(&target.address)?;
    Ok(match target.address.protocol {
        Protocol::Ipmi => Box::new(ipmi::IpmiBmc::new(target.address.socket(), credentials, access)?),
        Protocol::Redfish => Box::new(redfish::RedfishBmc::new(target, credentials)?),
    })
}
