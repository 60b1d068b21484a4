//! The own site in the world: clocks, clients, registers, the loop that feeds the protocol core, and grants.

mod acceptor;
pub mod clients;
mod clock;
mod driver;
mod endpoint;
mod grants;
pub mod identity;
mod registers;
mod signer;

pub use self::{
    clock::BootClock,
    driver::{SiteHandle, SiteSnapshot, start},
    endpoint::{EndpointTls, serve},
    grants::GrantBook,
    registers::Register,
    signer::Signer,
};
