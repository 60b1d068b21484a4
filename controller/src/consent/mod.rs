//! What people say about moves: signed statements, the kill switch, and whose word counts.
//!
//! A statement is signed with the person's own Ed25519 key, offline. So it needs no identity provider and no admission
//! webhook, works on every API server, can be carried to any site, and stays provable in the audit for ever.

mod book;
mod keyring;
mod statement;
mod switch;
mod watch;

pub(crate) use self::watch::Heard;
pub use self::{
    book::ConsentBook,
    keyring::{Keyring, Person},
    statement::{Acceptance, DrillPass, Statement, What, new_key, public_key, run_group, sign, signed_bytes},
    switch::{KillSwitch, Stop},
    watch::ConsentWatch,
};
