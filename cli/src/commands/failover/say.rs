//! Makes signed statements and puts them where controllers read them.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf, time::Duration};

use clap::Args;
use evergreen_api::{
    names::SYSTEM_NAMESPACE,
    resources::{Consent, ConsentPhase, ConsentSpec, ConsentStatus},
};
use evergreen_controller::consent::{Statement, What, new_key, public_key, sign};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams},
};

use super::sites::{CALL, Site, Sites};
use crate::exit::{Failure, Outcome};

/// Whose word it is.
#[derive(Clone, Debug, Args)]
pub struct SignerArgs {
    /// File with your private key (`evergreen approve --new-key FILE` makes one). It never leaves this machine.
    #[arg(long, env = "EVERGREEN_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Your name in the ConfigMap evergreen-approvers.
    #[arg(long, env = "EVERGREEN_SIGNER", value_name = "NAME")]
    pub signer: Option<String>,
}

/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(300);

/// A statement as JSON text.
///
/// # Errors
/// Never: it is plain data.
pub fn statement(group: &str, version: u64, what: What) -> Outcome<String> {
    let statement = Statement {
        nonce: format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>()),
        at: jiff::Timestamp::now().to_string(),
        group: group.to_owned(),
        version,
        what,
    };
    serde_json::to_string(&statement).map_err(Failure::no)
}

impl SignerArgs {
    /// The signed object of a statement.
    ///
    /// # Errors
    /// When key or name are missing or the key cannot be used.
    pub fn signed(&self, text: String) -> Outcome<ConsentSpec> {
        let missing = |what: &str, flag: &str| {
            Failure::usage(format_args!("{what} is needed: statements about moves are signed")).remedy(flag)
        };
        let signer = self.signer.clone().ok_or_else(|| missing("your name", "--signer NAME"))?;
        let file = self.key.as_ref().ok_or_else(|| missing("your key", "--key FILE"))?;
        let key = std::fs::read(file).map_err(|error| Failure::usage(format_args!("{}: {error}", file.display())))?;
        let signature = sign(&key, &text).map_err(|why| Failure::usage(format_args!("{}: {why}", file.display())))?;
        Ok(ConsentSpec { statement: text, signer: Some(signer), signature: Some(signature), dry_run: false })
    }
}

/// Makes a key of one's own and says how others come to know it.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn make_key(file: &PathBuf) -> Outcome {
    let key = new_key().map_err(Failure::no)?;
    let cannot = |error: std::io::Error| Failure::usage(format_args!("cannot write {}: {error}", file.display()));
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(cannot)?;
    out.write_all(&key).and_then(|()| out.sync_all()).map_err(cannot)?;
    let public = public_key(&key).map_err(Failure::no)?;
    println!(
        "{} holds your private key. Let an administrator add your public key at every data center:\n",
        file.display()
    );
    println!("  kubectl -n {SYSTEM_NAMESPACE} patch configmap evergreen-approvers --type merge \\");
    println!("    -p '{{\"data\":{{\"YOUR-NAME\":\"{public}\"}}}}'");
    Ok(())
}

/// Puts a statement at every data center that answers; says where it could not be put.
///
/// # Errors
/// When no data center took it.
pub async fn put(sites: &Sites, spec: &ConsentSpec) -> Outcome<String> {
    let name = format!("consent-{:012x}", rand::random::<u64>() >> 16);
    let mut taken = 0;
    for site in &sites.reached {
        match create(site, &name, spec).await {
            Ok(()) => taken += 1,
            Err(why) => eprintln!("not told: {}: {why}", site.name),
        }
    }
    sites.warn();
    match taken {
        0 => Err(Failure::unreachable("no data center took the statement").remedy("check your rights on consents")),
        _ => Ok(name),
    }
}

async fn create(site: &Site, name: &str, spec: &ConsentSpec) -> Result<(), String> {
    let api: Api<Consent> = Api::namespaced(site.client.clone(), SYSTEM_NAMESPACE);
    let object = Consent {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: spec.clone(),
        status: None,
    };
    tokio::time::timeout(CALL, api.create(&PostParams::default(), &object))
        .await
        .map_err(|_| "no answer in time".to_owned())?
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Waits for the answer of a site's controller.
///
/// # Errors
/// When none came in time.
pub async fn answer(site: &Site, name: &str) -> Outcome<ConsentStatus> {
    let api: Api<Consent> = Api::namespaced(site.client.clone(), SYSTEM_NAMESPACE);
    let wait = async {
        loop {
            if let Ok(object) = api.get(name).await
                && let Some(status) = object.status.filter(|status| status.phase != ConsentPhase::Pending)
                // A move that was just asked for is planned in the next look.
                && (!status.plan.is_empty() || status.phase != ConsentPhase::Valid)
            {
                return status;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.map_err(|_| {
        Failure::unreachable(format_args!(
            "the controller of {} gave no answer within {} s",
            site.name,
            PATIENCE.as_secs()
        ))
        .remedy("kubectl -n evergreen-system get consents; evergreen status")
    })
}

/// Asks what would be done and takes the question back.
///
/// # Errors
/// When no answer came.
pub async fn ask(site: &Site, text: String, signer: Option<String>) -> Outcome<ConsentStatus> {
    let name = format!("dry-run-{:012x}", rand::random::<u64>() >> 16);
    let spec = ConsentSpec { statement: text, signer, signature: None, dry_run: true };
    create(site, &name, &spec).await.map_err(Failure::unreachable)?;
    let answered = answer(site, &name).await;
    let api: Api<Consent> = Api::namespaced(site.client.clone(), SYSTEM_NAMESPACE);
    let parameters = DeleteParams::default();
    let removed = tokio::time::timeout(CALL, api.delete(&name, &parameters)).await;
    if !matches!(removed, Ok(Ok(_))) {
        eprintln!("the question {name} could not be taken back; it does nothing and may be deleted");
    }
    answered
}
