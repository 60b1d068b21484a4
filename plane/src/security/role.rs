//! Roles, what each may do, which of them one person may not hold together, and where they hold. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What somebody is to the plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Works on incidents.
    Operator,
    /// Lets moves happen that others asked for.
    Approver,
    /// Reads what people did; changes nothing.
    Auditor,
    /// Looks after sessions; approves nothing and does not read the audit log.
    Admin,
}

/// Something that may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// See the fleet.
    Read,
    /// Acknowledge incidents.
    Operate,
    /// Approve moves.
    Approve,
    /// Read the audit log.
    Audit,
    /// See and end sessions.
    Administer,
}

impl Permission {
    /// Its name in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Approve => "approve",
            Self::Audit => "audit",
            Self::Administer => "administer",
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Operate, Self::Approve, Self::Audit, Self::Administer];
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 5] = [Self::Viewer, Self::Operator, Self::Approver, Self::Auditor, Self::Admin];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

    /// Whether the role allows something. No role includes another but for looking.
    pub const fn may(self, permission: Permission) -> bool {
        matches!(
            (self, permission),
            (_, Permission::Read)
                | (Self::Operator, Permission::Operate)
                | (Self::Approver, Permission::Approve)
                | (Self::Auditor, Permission::Audit)
                | (Self::Admin, Permission::Administer)
        )
    }
}

/// Refuses roles that one person must not hold together: who audits changes nothing, who administers does not approve.
///
/// # Errors
/// The two roles, in a sentence.
pub fn separated(roles: &BTreeSet<Role>) -> Result<(), String> {
    let pairs = [
        (Role::Auditor, Role::Operator),
        (Role::Auditor, Role::Approver),
        (Role::Auditor, Role::Admin),
        (Role::Admin, Role::Approver),
    ];
    match pairs.iter().find(|(a, b)| roles.contains(a) && roles.contains(b)) {
        Some((a, b)) => Err(format!("{} and {} must not be one person", a.as_str(), b.as_str())),
        None => Ok(()),
    }
}

/// Where a role holds; none means everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Data centers.
    pub sites: Option<BTreeSet<String>>,
    /// Namespaces of services and pods.
    pub namespaces: Option<BTreeSet<String>>,
}

/// A role and where it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Where.
    pub scope: Scope,
}

/// How somebody showed who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Not at all.
    Anonymous,
    /// A token of the access file.
    Token,
    /// A token that the plane made at its first start.
    InitialToken,
    /// The OpenID Connect provider.
    Oidc,
    /// The identity for when nothing else works.
    BreakGlass,
}

/// Somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// As the audit log names them.
    pub name: String,
    /// How they showed it.
    pub via: Via,
    /// What they may do, and where.
    pub grants: Vec<Grant>,
}

impl Identity {
    /// Whether something is allowed anywhere.
    pub fn may(&self, permission: Permission) -> bool {
        self.grants.iter().any(|grant| grant.role.may(permission))
    }

    /// Whether something is allowed at a data center; what belongs to none is allowed only to those without a bound.
    pub fn may_at(&self, permission: Permission, site: Option<&str>) -> bool {
        self.grants.iter().filter(|grant| grant.role.may(permission)).any(|grant| match (&grant.scope.sites, site) {
            (None, _) => true,
            (Some(sites), Some(site)) => sites.contains(site),
            (Some(_), None) => false,
        })
    }

    /// The data centers that are seen; none means all.
    pub fn sites(&self) -> Option<BTreeSet<&str>> {
        self.union(|scope| scope.sites.as_ref())
    }

    /// The namespaces that are seen; none means all.
    pub fn namespaces(&self) -> Option<BTreeSet<&str>> {
        self.union(|scope| scope.namespaces.as_ref())
    }

    fn union<'a>(&'a self, part: impl Fn(&'a Scope) -> Option<&'a BTreeSet<String>>) -> Option<BTreeSet<&'a str>> {
        let mut all = BTreeSet::new();
        for grant in &self.grants {
            all.extend(part(&grant.scope)?.iter().map(String::as_str));
        }
        Some(all)
    }

    /// Whether a data center is seen.
    pub fn sees_site(&self, site: &str) -> bool {
        self.sites().is_none_or(|sites| sites.contains(site))
    }

    /// Whether a namespace is seen.
    pub fn sees_namespace(&self, namespace: &str) -> bool {
        self.namespaces().is_none_or(|names| names.contains(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(role: Role, sites: Option<&[&str]>) -> Grant {
        let sites = sites.map(|all| all.iter().map(|s| (*s).to_owned()).collect());
        Grant { role, scope: Scope { sites, namespaces: None } }
    }

    #[test]
    fn each_act_belongs_to_exactly_one_role() {
        for permission in Permission::ALL.into_iter().filter(|p| *p != Permission::Read) {
            assert_eq!(Role::ALL.iter().filter(|role| role.may(permission)).count(), 1, "{permission:?}");
        }
    }

    #[test]
    fn who_audits_changes_nothing_and_who_administers_does_not_approve() {
        let held = |roles: &[Role]| separated(&roles.iter().copied().collect());
        for with in [Role::Operator, Role::Approver, Role::Admin] {
            assert!(held(&[Role::Auditor, with]).is_err_and(|e| e.contains("auditor")));
        }
        assert!(held(&[Role::Admin, Role::Approver]).is_err());
        assert!(held(&[Role::Viewer, Role::Auditor]).is_ok());
        assert!(held(&[Role::Operator, Role::Admin, Role::Viewer]).is_ok());
    }

    #[test]
    fn a_role_holds_where_it_was_given_and_no_further() {
        let someone = Identity {
            name: "li".into(),
            via: Via::Oidc,
            grants: vec![grant(Role::Viewer, Some(&["dc-a", "dc-b"])), grant(Role::Operator, Some(&["dc-a"]))],
        };
        assert!(someone.may_at(Permission::Operate, Some("dc-a")));
        assert!(!someone.may_at(Permission::Operate, Some("dc-b")), "a viewer there");
        assert!(!someone.may_at(Permission::Operate, None));
        assert!(someone.sees_site("dc-b") && !someone.sees_site("dc-c"));
        let all = Identity { grants: vec![grant(Role::Viewer, None)], ..someone };
        assert!(all.sees_site("dc-c") && all.sites().is_none());
    }
}
