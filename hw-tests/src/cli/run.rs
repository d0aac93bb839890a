//! `millrace-plant run`: the simulated machines.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;

use super::{print_line, told_to_stop};
use crate::control;
use crate::plant::agent_config::{AgentSettings, agent_toml};
use crate::plant::config::PlantConfig;
use crate::plant::running::Plant;
use crate::supervise::Tasks;
use crate::truth::log::TruthLog;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The plant
    #[arg(long)]
    pub config: PathBuf,
    /// Where every reply and publish is written down, one JSON line each; an older file is replaced
    #[arg(long)]
    pub truth: Option<PathBuf>,
    /// Where faults and the stop are taken; loopback only, port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    pub control: SocketAddr,
    /// Writes the agent.toml that fits this plant, as it listens now
    #[arg(long, requires = "data_dir", requires = "kafka")]
    pub write_agent_config: Option<PathBuf>,
    /// For agent.toml: `[agent] data_dir`
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// For agent.toml: `[kafka] brokers`
    #[arg(long)]
    pub kafka: Option<String>,
    /// For agent.toml: `[kafka] topic_prefix`
    #[arg(long, default_value = "millrace")]
    pub topic_prefix: String,
    /// For agent.toml: `[agent] id`
    #[arg(long, default_value = "gw-demo")]
    pub agent_id: String,
    /// For agent.toml: `[status] listen`
    #[arg(long, default_value = "127.0.0.1:0")]
    pub agent_status: SocketAddr,
}

/// Runs the plant until SIGTERM or Ctrl-C.
///
/// *Errors*: something does not start, or a file cannot be written.
pub async fn run(args: RunArgs, config: PlantConfig) -> anyhow::Result<()> {
    let told = told_to_stop().context("waiting for a signal")?;
    let truth = match &args.truth {
        Some(path) => TruthLog::create(path)?,
        None => TruthLog::none(),
    };
    let plant = Arc::new(Plant::start(config, truth).await?);
    if let (Some(path), Some(data_dir), Some(kafka)) = (&args.write_agent_config, &args.data_dir, &args.kafka)
    {
        let settings = AgentSettings {
            id: args.agent_id.clone(),
            data_dir: data_dir.clone(),
            status: args.agent_status,
            kafka: kafka.clone(),
            topic_prefix: args.topic_prefix.clone(),
        };
        let text = agent_toml(plant.config(), plant.addresses(), &settings);
        std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))?;
    }
    let tasks = Tasks::new();
    let control = control::serve(args.control, control::plant::router(Arc::clone(&plant)), &tasks).await?;
    for (name, address) in &plant.addresses().buses {
        print_line(&format!("MILLRACE_MODBUS_{}", shell_name(name)), address);
    }
    if let Some(address) = plant.addresses().mqtt {
        print_line("MILLRACE_MQTT_URL", format!("mqtt://{address}"));
    }
    if let Some(path) = &args.write_agent_config {
        print_line("MILLRACE_AGENT_CONFIG", path.display());
    }
    print_line("MILLRACE_PLANT_CONTROL", format!("http://{control}"));
    told.await;
    tasks.stop().await;
    plant.end().await;
    Ok(())
}

/// Gives a name that a shell takes.
fn shell_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}
