//! The verbs of `millrace-plant`.
//!
//! What a verb has to tell a script goes to standard output as `KEY=value` lines, once everything it
//! names is listening; the log goes to standard error.

pub mod broker;
pub mod demo;
pub mod load;
pub mod run;
pub mod simulate;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Simulated machines, their faults, and the Kafka broker of the demo.
#[derive(Debug, Parser)]
#[command(name = "millrace-plant", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What `millrace-plant` can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Runs simulated machines: Modbus TCP devices, an MQTT broker and publishers, and their faults
    Run(run::RunArgs),
    /// Runs librdkafka's in-process Kafka broker as a process of its own (demo and tests only)
    Broker(broker::BrokerArgs),
    /// Publishes rows of many machines at a rate straight to Kafka
    Load(load::LoadArgs),
    /// Runs the whole line with no server, cuts the link, kills the agent, and proves that nothing was lost
    Demo(demo::DemoArgs),
    /// Runs agent and collector in one process against faults made of seeds; exit code 2 if a seed finds something
    Simulate(simulate::SimulateArgs),
}

/// Takes SIGTERM and Ctrl-C from now on; the answer waits for one of them. Before a program says where it listens, so
/// that who reads it can end it.
///
/// *Errors*: the signal handlers cannot be installed.
fn told_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Prints one `KEY=value` line; a closed pipe is no reason to stop.
fn print_line(key: &str, value: impl std::fmt::Display) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{key}={value}").and_then(|()| out.flush()));
}
