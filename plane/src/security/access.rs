//! The access file: who may do what. Read once at start; what is wrong with it stops the start and says where.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use evergreen_api::duration::HumanDuration;
use serde::Deserialize;

use super::role::{Grant, Identity, Role, Scope, Via, separated};

/// The file as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessFile {
    /// Whether somebody who has not logged in may look.
    #[serde(default)]
    pub anonymous: Anonymous,
    /// Where people find the page, as in `https://plane.bank.example`. With https cookies are sent over TLS only.
    pub public_url: Option<String>,
    /// How long sessions last.
    #[serde(default)]
    pub sessions: SessionFile,
    /// The provider that people log in at.
    pub oidc: Option<OidcFile>,
    /// What people of the provider may do.
    #[serde(default)]
    pub people: Vec<PersonFile>,
    /// Tokens of programs, and of people without a provider.
    #[serde(default)]
    pub tokens: Vec<TokenFile>,
    /// The identity for when nothing else works.
    pub break_glass: Option<BreakGlassFile>,
}

/// What somebody who has not logged in may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Nothing.
    #[default]
    None,
    /// Look.
    Viewer,
}

/// How long sessions last.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SessionFile {
    /// A session ends after so long without a request.
    pub idle: HumanDuration,
    /// A session ends after so long at the latest.
    pub longest: HumanDuration,
}

impl Default for SessionFile {
    fn default() -> Self {
        Self {
            idle: HumanDuration::from(Duration::from_secs(30 * 60)),
            longest: HumanDuration::from(Duration::from_secs(12 * 3_600)),
        }
    }
}

/// An OpenID Connect provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OidcFile {
    /// Its issuer, as in `https://login.bank.example/realms/ops`.
    pub issuer: String,
    /// How the plane is known there.
    pub client_id: String,
    /// File with the client's secret; none for a public client.
    pub client_secret_file: Option<PathBuf>,
    /// What is asked for.
    #[serde(default = "default_scopes")]
    pub scopes: Vec<String>,
    /// The claim of the ID token that lists groups.
    #[serde(default = "default_groups")]
    pub groups_claim: String,
    /// Authorities (PEM) to trust for the provider, instead of those of the system.
    pub ca_file: Option<PathBuf>,
}

fn default_scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).to_vec()
}

fn default_groups() -> String {
    "groups".to_owned()
}

/// What a group or a person of the provider may do.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PersonFile {
    /// Members of this group.
    pub group: Option<String>,
    /// This `sub`, or this e-mail address when the provider says that it is verified.
    pub user: Option<String>,
    /// The role.
    pub role: Role,
    /// Only at these data centers.
    pub sites: Option<BTreeSet<String>>,
    /// Only in these namespaces.
    pub namespaces: Option<BTreeSet<String>>,
}

/// A token.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenFile {
    /// As the audit log names its bearer.
    pub name: String,
    /// SHA-256 of the token, hexadecimal: the file holds no secret.
    pub sha256: String,
    /// The role.
    pub role: Role,
    /// Only at these data centers.
    pub sites: Option<BTreeSet<String>>,
    /// Only in these namespaces.
    pub namespaces: Option<BTreeSet<String>>,
}

/// The identity for when nothing else works.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakGlassFile {
    /// As the audit log names it.
    pub name: String,
    /// SHA-256 of its token, hexadecimal.
    pub sha256: String,
}

/// The file, checked.
#[derive(Debug, Clone)]
pub struct Access {
    /// Whether somebody who has not logged in may look.
    pub anonymous: Anonymous,
    /// Where people find the page.
    pub public_url: Option<String>,
    /// Idle and longest time of a session.
    pub sessions: (Duration, Duration),
    /// The provider.
    pub oidc: Option<OidcFile>,
    people: Vec<PersonFile>,
    tokens: BTreeMap<[u8; 32], Identity>,
}

impl Access {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// File, place and remedy.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("--access {}: {error}; give a file that the plane may read", path.display()))?;
        let file: AccessFile =
            serde_yaml::from_str(&text).map_err(|error| format!("--access {}: {error}", path.display()))?;
        Self::new(file).map_err(|why| format!("--access {}: {why}", path.display()))
    }

    /// Checks a file.
    ///
    /// # Errors
    /// Place and remedy.
    pub fn new(file: AccessFile) -> Result<Self, String> {
        let mut tokens = BTreeMap::new();
        let mut add = |place: String, sha256: &str, identity: Identity| {
            let mut hash = [0; 32];
            hex::decode_to_slice(sha256, &mut hash).map_err(|_| {
                format!("{place}.sha256 is no SHA-256: give 64 hexadecimal digits, as sha256sum prints")
            })?;
            match tokens.insert(hash, identity) {
                Some(_) => Err(format!("{place}.sha256 is there twice: give each its own token")),
                None => Ok(()),
            }
        };
        for (index, token) in file.tokens.into_iter().enumerate() {
            let scope = Scope { sites: token.sites, namespaces: token.namespaces };
            let grants = vec![Grant { role: token.role, scope }];
            add(format!("tokens[{index}]"), &token.sha256, Identity { name: token.name, via: Via::Token, grants })?;
        }
        if let Some(glass) = file.break_glass {
            let grants = [Role::Operator, Role::Approver].map(|role| Grant { role, scope: Scope::default() }).to_vec();
            add("breakGlass".into(), &glass.sha256, Identity { name: glass.name, via: Via::BreakGlass, grants })?;
        }
        for (index, person) in file.people.iter().enumerate() {
            if person.group.is_some() == person.user.is_some() {
                return Err(format!("people[{index}]: give either group or user"));
            }
        }
        if let Some(oidc) = &file.oidc {
            let plain = oidc.issuer.strip_prefix("http://").map(|rest| rest.split(['/', ':']).next().unwrap_or(""));
            if !oidc.issuer.starts_with("https://") && !matches!(plain, Some("127.0.0.1" | "localhost")) {
                return Err(format!("oidc.issuer: `{}` is not reached over TLS: give https://", oidc.issuer));
            }
            if file.public_url.is_none() {
                return Err("oidc needs publicUrl, which the provider sends people back to".into());
            }
        }
        if let Some(url) =
            file.public_url.as_deref().filter(|u| !u.starts_with("https://") && !u.starts_with("http://"))
        {
            return Err(format!("publicUrl: `{url}` is none: write it as https://plane.example"));
        }
        let (idle, longest) = (file.sessions.idle.get(), file.sessions.longest.get());
        if idle.is_zero() || longest < idle {
            return Err("sessions: longest is shorter than idle, or idle is nothing".into());
        }
        Ok(Self {
            anonymous: file.anonymous,
            public_url: file.public_url.map(|url| url.trim_end_matches('/').to_owned()),
            sessions: (idle, longest),
            oidc: file.oidc,
            people: file.people,
            tokens,
        })
    }

    /// Access of a plane without a file: who has not logged in may look, and the tokens of the first start do the rest.
    pub fn initial(tokens: &BTreeMap<Role, String>) -> Self {
        let identity = |role: Role| Identity {
            name: format!("initial {}", role.as_str()),
            via: Via::InitialToken,
            grants: vec![Grant { role, scope: Scope::default() }],
        };
        let SessionFile { idle, longest } = SessionFile::default();
        Self {
            anonymous: Anonymous::Viewer,
            public_url: None,
            sessions: (idle.get(), longest.get()),
            oidc: None,
            people: Vec::new(),
            tokens: tokens.iter().map(|(role, token)| (super::digest(token), identity(*role))).collect(),
        }
    }

    /// Who bears a token.
    pub fn bearer(&self, token: &str) -> Option<&Identity> {
        self.tokens.get(&super::digest(token))
    }

    /// Who a person of the provider is here.
    ///
    /// # Errors
    /// When nothing is granted to them, or roles that must be apart.
    pub fn person(&self, name: &str, users: &[String], groups: &[String]) -> Result<Identity, String> {
        let is = |person: &&PersonFile| {
            person.group.as_ref().is_some_and(|group| groups.contains(group))
                || person.user.as_ref().is_some_and(|user| users.contains(user))
        };
        let grants: Vec<Grant> = self
            .people
            .iter()
            .filter(is)
            .map(|person| Grant {
                role: person.role,
                scope: Scope { sites: person.sites.clone(), namespaces: person.namespaces.clone() },
            })
            .collect();
        if grants.is_empty() {
            return Err(format!("{name} has no role here: name one of their groups under people in the access file"));
        }
        separated(&grants.iter().map(|grant| grant.role).collect()).map_err(|why| format!("{name}: {why}"))?;
        Ok(Identity { name: name.to_owned(), via: Via::Oidc, grants })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Access, String> {
        Access::new(serde_yaml::from_str(text).map_err(|e| e.to_string())?)
    }

    #[test]
    fn a_token_is_known_by_its_hash_and_has_its_scope() {
        let hash = hex::encode(super::super::digest("secret"));
        let access = read(&format!("tokens: [{{name: ci, role: viewer, sites: [dc-a], sha256: {hash}}}]")).unwrap();
        assert!(access.bearer("secret").is_some_and(|i| i.sees_site("dc-a") && !i.sees_site("dc-b")));
        assert_eq!(access.bearer("Secret"), None);
        assert_eq!(access.anonymous, Anonymous::None, "with a file nobody looks without logging in");
    }

    #[test]
    fn what_is_wrong_says_where_and_what_would_be_right() {
        for (text, says) in [
            ("tokens: [{name: a, role: viewer, sha256: abc}]", "tokens[0].sha256"),
            ("people: [{role: viewer}]", "people[0]"),
            ("oidc: {issuer: 'http://idp.bank', clientId: x}", "TLS"),
            ("oidc: {issuer: 'https://idp.bank', clientId: x}", "publicUrl"),
            ("sessions: {idle: 2h, longest: 1h}", "longest"),
            ("tokens: [{name: a, role: root, sha256: abc}]", "viewer"),
            ("peple: []", "peple"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_person_has_the_roles_of_all_groups_unless_they_must_be_apart() {
        let access = read(
            "people: [{group: sre, role: operator, sites: [dc-a]}, {user: li@bank, role: viewer}, {group: audit, role: auditor}]",
        )
        .unwrap();
        let groups = |all: &[&str]| all.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>();
        let li = access.person("li", &["li@bank".into()], &groups(&["sre"])).unwrap();
        assert_eq!(li.grants.len(), 2);
        assert!(access.person("wu", &[], &groups(&["sre", "audit"])).unwrap_err().contains("must not be one person"));
        assert!(access.person("ma", &[], &groups(&["shop"])).unwrap_err().contains("no role"));
    }
}
