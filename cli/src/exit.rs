//! How a command ends: 0 ok, 1 the answer is no, 2 wrong use, 3 could not reach something; and an error that says what
//! to do about it.

use std::{fmt, process::ExitCode};

/// Result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// Why a command ends with another code than 0.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    what: String,
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    No,
    Usage,
    Unreachable,
}

impl Failure {
    /// The command worked, and its answer is no.
    pub fn no(what: impl fmt::Display) -> Self {
        Self::new(Kind::No, what)
    }

    /// The command was asked for something that cannot be.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// Something that the command needs does not answer.
    pub fn unreachable(what: impl fmt::Display) -> Self {
        Self::new(Kind::Unreachable, what)
    }

    fn new(kind: Kind, what: impl fmt::Display) -> Self {
        Self { kind, what: what.to_string(), remedy: None }
    }

    /// Says what to do about it.
    pub fn remedy(mut self, remedy: impl fmt::Display) -> Self {
        self.remedy = Some(remedy.to_string());
        self
    }

    /// Exit code.
    pub fn code(&self) -> u8 {
        match self.kind {
            Kind::No => 1,
            Kind::Usage => 2,
            Kind::Unreachable => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  try: {remedy}"),
            None => Ok(()),
        }
    }
}

/// An error that nobody foresaw counts as no, with its whole chain.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::no(format_args!("{error:#}"))
    }
}

/// Prints the failure, if any, and gives the exit code.
pub fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("evergreen: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_end_has_its_code_and_the_remedy_is_printed_below() {
        assert_eq!(Failure::no("x").code(), 1);
        assert_eq!(Failure::usage("x").code(), 2);
        assert_eq!(Failure::unreachable("x").code(), 3);
        assert_eq!(Failure::from(anyhow::anyhow!("inner").context("outer")).to_string(), "outer: inner");
        assert_eq!(Failure::no("cold").remedy("a coat").to_string(), "cold\n  try: a coat");
    }
}
