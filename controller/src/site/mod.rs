//! The own site in the world: clocks, clients, registers, the loop that feeds the protocol core, and grants.

mod acceptor;
pub mod clients;
mod clock;
mod clusters;
mod driver;
mod endpoint;
mod endpoint_tls;
mod grants;
pub mod identity;
mod registers;
mod signer;
#[cfg(test)]
mod simulation;

pub use self::{
    clock::BootClock,
    clusters::{Clusters, Refusal},
    driver::{SiteHandle, SiteSnapshot, start},
    endpoint::{Endpoint, serve},
    endpoint_tls::EndpointTls,
    grants::GrantBook,
    registers::Register,
    signer::Signer,
};
