//! User and password of a BMC: in memory only, wiped when dropped, never printed.

use std::fmt;

use zeroize::Zeroizing;

use crate::BmcError;

/// IPMI 2.0, 22.28: a user name has at most 16 bytes.
const IPMI_MAX_USER: usize = 16;
/// IPMI 2.0, 22.30: a password has at most 20 bytes.
const IPMI_MAX_PASSWORD: usize = 20;

/// Bytes that are wiped when dropped and that nothing prints.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Who asks.
#[derive(Clone)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// IPMI: the BMC's key (K_g), where one is set.
    pub bmc_key: Option<Secret>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Refuses what IPMI cannot carry.
    pub(crate) fn check_ipmi(&self) -> Result<(), BmcError> {
        let key = self.bmc_key.as_ref().map_or(0, |key| key.bytes().len());
        let wrong = if self.username.is_empty() || self.username.len() > IPMI_MAX_USER {
            "an IPMI user name has 1 to 16 bytes"
        } else if self.password.bytes().len() > IPMI_MAX_PASSWORD {
            "an IPMI password has at most 20 bytes; set a shorter one on the BMC for this user"
        } else if key > IPMI_MAX_PASSWORD {
            "the BMC's key (kg) has at most 20 bytes"
        } else {
            return Ok(());
        };
        Err(BmcError::Configuration(wrong.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(username: &str, password: &str) -> Credentials {
        Credentials { username: username.into(), password: Secret::new(password), bmc_key: None }
    }

    #[test]
    fn nothing_prints_a_password() {
        let mut all = credentials("root", "hunter2");
        all.bmc_key = Some(Secret::new("kgkgkg"));
        let text = format!("{all:?} {all:#?} {:?}", all.password);
        assert!(!text.contains("hunter2") && !text.contains("kgkgkg") && !text.contains("104, 117"), "{text}");
    }

    #[test]
    fn what_ipmi_cannot_carry_is_refused_with_the_limit() {
        assert!(credentials("root", "12345678901234567890").check_ipmi().is_ok());
        for (user, password) in [("", "x"), ("12345678901234567", "x"), ("root", "123456789012345678901")] {
            assert!(credentials(user, password).check_ipmi().is_err());
        }
    }
}
