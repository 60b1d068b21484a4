//! The register of the failover suite at one site: `register SITE LISTEN AGENT-URL GROUP STORE-URL fenced|unfenced`.

use evergreen_tests::register::{
    server::{Config, router},
    store::Store,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [site, listen, agent, group, store, fence] = arguments.as_slice() else {
        anyhow::bail!("usage: register SITE LISTEN AGENT-URL GROUP STORE-URL fenced|unfenced");
    };
    let store = Store::new(store, fence == "fenced");
    let config = Config { site: site.clone(), agent: agent.clone(), group: group.clone(), store };
    let listener = tokio::net::TcpListener::bind(listen).await?;
    axum::serve(listener, router(config)).await?;
    Ok(())
}
