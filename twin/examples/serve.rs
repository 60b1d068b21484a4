//! Serves one data center of three nodes: a twin to try kubectl and agents on.
//! `serve [KUBECONFIG [FOLDER]]`: with a folder, each node has a host below it, for an agent's `--root`.

use std::path::Path;

use evergreen_twin::{HostSpec, NodeSpec, SimulatedHost, Timing, Twin};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "twin.kubeconfig".to_owned());
    let mut builder = Twin::builder("dc-a").timing(Timing::short());
    for n in 1..=3 {
        let name = format!("dc-a-{n}");
        let mut node = NodeSpec::new(&name);
        if let Some(folder) = std::env::args().nth(2) {
            node = node.host(SimulatedHost::create(&Path::new(&folder).join(&name), HostSpec::server(&name))?);
        }
        builder = builder.node(node);
    }
    let twin = builder.build();
    let cancel = CancellationToken::new();
    let running = twin.start(cancel.clone());
    let served = twin.serve("127.0.0.1:0".parse()?).await?;
    std::fs::write(&path, served.kubeconfig("kubectl"))?;
    println!("kubectl --kubeconfig {path} get nodes");
    tokio::signal::ctrl_c().await?;
    cancel.cancel();
    running.await?;
    Ok(())
}
