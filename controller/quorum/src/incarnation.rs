//! Names the lives of a site's lease.

use serde::{Deserialize, Serialize};

/// One life of a site's lease: unique for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub String);
