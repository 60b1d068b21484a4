//! Why a BMC could not be asked, each with a word for metrics and, where there is one, the remedy.

use std::net::IpAddr;

use crate::AddressError;

/// A question that was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BmcError {
    /// Outside of the allow-list.
    #[error(
        "{ip} is in none of the networks where BMCs may be ({allowed}); if it belongs there, add its network to bmc.allow \
         of the chart's values (--bmc-allow)"
    )]
    NotAllowed {
        /// The address.
        ip: IpAddr,
        /// The list.
        allowed: String,
    },
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// What was given for this BMC cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// Nothing came back.
    #[error("no answer from the BMC: {0}")]
    Unreachable(String),
    /// It did not let the user in.
    #[error("the BMC does not accept the user name or password")]
    Credentials,
    /// The user may not do that.
    #[error("the BMC's user may not do that: {0}")]
    Privilege(String),
    /// The certificate is not trusted.
    #[error(
        "the BMC's certificate is not trusted ({why}); if it is the right one, pin it: fingerprint sha256:{fingerprint}"
    )]
    Certificate {
        /// What the check said.
        why: String,
        /// SHA-256 of the certificate that was shown, hex.
        fingerprint: String,
    },
    /// It has no such thing.
    #[error("the BMC does not offer {0}")]
    Unsupported(String),
    /// The figure belongs to several machines.
    #[error(
        "the power of {chassis} feeds {machines} machines; it is not divided between them, because that would be a guess"
    )]
    Shared {
        /// Chassis.
        chassis: String,
        /// How many.
        machines: usize,
    },
    /// The sensor is there and gives no figure.
    #[error("the BMC's power sensor gives no figure: {0}")]
    NoFigure(String),
    /// It refused.
    #[error("the BMC refused {what}: {why}")]
    Refused {
        /// What was asked.
        what: String,
        /// What it said.
        why: String,
    },
    /// An order may or may not have been taken.
    #[error("whether the BMC took the order {0} is not known: its answer was lost")]
    Ambiguous(&'static str),
    /// It answered nonsense.
    #[error("the BMC's answer is not understood: {0}")]
    Malformed(String),
}

impl BmcError {
    /// One word, for metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NotAllowed { .. } => "not_allowed",
            Self::Address(_) | Self::Configuration(_) => "configuration",
            Self::Unreachable(_) => "unreachable",
            Self::Credentials => "credentials",
            Self::Privilege(_) => "privilege",
            Self::Certificate { .. } => "certificate",
            Self::Unsupported(_) => "unsupported",
            Self::Shared { .. } => "shared",
            Self::NoFigure(_) => "no_figure",
            Self::Refused { .. } => "refused",
            Self::Ambiguous(_) => "ambiguous",
            Self::Malformed(_) => "malformed",
        }
    }

    /// Whether asking again soon could do harm or no good: repeated wrong passwords lock the account on most BMCs, and
    /// what is not there does not come by asking.
    pub const fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::NotAllowed { .. }
                | Self::Address(_)
                | Self::Configuration(_)
                | Self::Credentials
                | Self::Privilege(_)
                | Self::Certificate { .. }
                | Self::Unsupported(_)
                | Self::Shared { .. }
        )
    }
}
