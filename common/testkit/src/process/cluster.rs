//! A cluster of processes: one coordinator and some datanodes on the loopback device.
//!
//! Owns: their start order, their names, what the cluster says of itself through `dfs status --json`. The names are those
//! of `scripts/dev-cluster`.

use super::base::Base;
use super::binaries::{Binaries, Program};
use super::command::{attempt, run, tail};
use super::control::{Control, PowerCut};
use super::deadline::until;
use super::disk::{PowerDisk, mount_memory};
use super::launcher::Launcher;
use super::mount::{Mount, MountOptions};
use super::node::Node;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Until all nodes are up, or the cluster noticed a change of them.
const HEALTH: Duration = Duration::from_secs(90);
/// One `dfs` command.
const COMMAND: Duration = Duration::from_secs(60);
/// Log shown of each process when a test fails, in bytes.
const LOG_SHOWN: usize = 6000;

/// How to set up a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Number of datanodes.
    pub datanodes: usize,
    /// More arguments of the coordinator.
    pub coordinator_args: Vec<String>,
    /// More arguments of every datanode.
    pub datanode_args: Vec<String>,
    /// Size of a disk of its own for each datanode, in bytes; without it they share the disk of temporary files.
    pub datanode_disk_bytes: Option<u64>,
    /// Size of a disk of its own for the coordinator, in bytes.
    pub coordinator_disk_bytes: Option<u64>,
    /// The coordinator has a disk of its own whose power can be cut ([`ProcessCluster::cut_power`]).
    pub coordinator_power: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions {
            datanodes: 3,
            coordinator_args: Vec::new(),
            datanode_args: Vec::new(),
            datanode_disk_bytes: None,
            coordinator_disk_bytes: None,
            coordinator_power: false,
        }
    }
}

impl ClusterOptions {
    /// This many datanodes; with fewer than three the replication factor is their number.
    pub fn with_datanodes(datanodes: usize) -> Self {
        let mut options = ClusterOptions {
            datanodes,
            ..Self::default()
        };
        if datanodes < 3 {
            options.coordinator_args = vec!["--replication".to_owned(), datanodes.to_string()];
        }
        options
    }
}

/// A running cluster. Killed and removed when dropped; while a test fails, the ends of the logs are printed.
#[derive(Debug)]
pub struct ProcessCluster {
    // Before the base: processes end before their directories go.
    nodes: Vec<Node>,
    power: Option<Box<PowerDisk>>,
    binaries: Binaries,
    launcher: Arc<Launcher>,
    base: Arc<Base>,
}

impl ProcessCluster {
    /// Starts a new, empty cluster and waits until it is healthy.
    ///
    /// # Panics
    /// When it does not become so.
    pub fn start(options: ClusterOptions) -> Self {
        let binaries = Binaries::find();
        let base = Arc::new(Base::new());
        let launcher = Arc::new(Launcher::new(&binaries, base.subdir("processes")));
        let mut cluster = ProcessCluster {
            nodes: Vec::new(),
            power: None,
            binaries,
            launcher,
            base,
        };
        let args = [vec!["coordinator".to_owned()], options.coordinator_args].concat();
        if options.coordinator_power {
            let data = cluster.base.subdir("coordinator/data");
            let image = cluster.base.path().join("coordinator.disk");
            cluster.power = Some(Box::new(PowerDisk::new(image, &data)));
        }
        cluster.add("coordinator", args, options.coordinator_disk_bytes);
        for _ in 0..options.datanodes {
            cluster.add_datanode(&options.datanode_args, options.datanode_disk_bytes);
        }
        cluster.wait_healthy();
        cluster
    }

    /// Starts one more datanode, with more arguments, and a disk of `disk_bytes` or the machine's.
    ///
    /// # Panics
    /// When it does not start.
    pub fn add_datanode(&mut self, args: &[String], disk_bytes: Option<u64>) {
        let address = self.coordinator().to_owned();
        let role = ["datanode".to_owned(), "--coordinator".to_owned(), address];
        let args = [&role, args].concat();
        let number = self.nodes.len();
        self.add(&format!("datanode-{number}"), args, disk_bytes);
    }

    fn add(&mut self, name: &str, role: Vec<String>, disk_bytes: Option<u64>) {
        let dir = self.base.subdir(name);
        let mut node = Node::new(&self.binaries, &self.launcher, name, dir, role);
        if let Some(bytes) = disk_bytes {
            std::fs::create_dir_all(node.data()).expect("the node's directory is writable");
            mount_memory(node.data(), bytes);
        }
        node.start();
        self.nodes.push(node);
    }

    /// `HOST:PORT` of the coordinator.
    pub fn coordinator(&self) -> &str {
        self.nodes[0].address()
    }

    /// The directory of this cluster, for scratch files of the test.
    pub fn base(&self) -> &Arc<Base> {
        &self.base
    }

    /// The programs it runs.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// A node by name.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn node(&mut self, name: &str) -> &mut Node {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// Kills every server at once, as a power cut that spares the disks.
    pub fn kill_all(&mut self) {
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            node.signal(Signal::SIGKILL);
        }
        self.nodes.iter_mut().for_each(Node::wait_killed);
    }

    /// The coordinator's machine loses power, and starts again. A plain file on the same disk is the control ([`PowerCut`]).
    ///
    /// # Panics
    /// Unless the cluster was started with [`ClusterOptions::coordinator_power`]; when the disk does not even keep the control.
    pub fn cut_power(&mut self) -> PowerCut {
        let disk = self.power.clone().expect("the coordinator has a disk of its own");
        let control = Control::start(self.node("coordinator").data().join("control"));
        let began = Instant::now();
        disk.cut();
        let (path, acknowledged) = control.end();
        let coordinator = self.node("coordinator");
        // It may have noticed, and ended, already.
        coordinator.signal(Signal::SIGKILL);
        coordinator.wait_killed();
        disk.restore();
        let cut = PowerCut::judge(began, &path, &acknowledged);
        coordinator.start();
        cut
    }

    /// Starts every node that does not run, and waits until the cluster is healthy.
    pub fn start_all(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.pid().is_none()) {
            node.start();
        }
        self.wait_healthy();
    }

    /// Waits until every node is up and the cluster calls itself healthy.
    #[track_caller]
    pub fn wait_healthy(&self) {
        let nodes = self.nodes.len() - 1;
        self.wait_status("healthy, all nodes up", |status| {
            status["healthy"] == true && nodes_up(status) == nodes
        });
    }

    /// Waits for something that the cluster says of itself, and gives that status.
    #[track_caller]
    pub fn wait_status(&self, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        let mut last = "no answer".to_owned();
        let mut looks = 0;
        until(&format!("cluster status: {what}"), HEALTH, || {
            let status = self.try_status();
            if let Some(status) = &status {
                last = status.to_string();
            }
            looks += 1;
            if looks % 200 == 0 {
                eprintln!("waiting for {what}: {last}");
            }
            status.filter(|status| is_so(status))
        })
    }

    /// What `dfs status --json` says.
    ///
    /// # Panics
    /// When it says nothing.
    #[track_caller]
    pub fn status(&self) -> Value {
        until("answer of dfs status", HEALTH, || self.try_status())
    }

    fn try_status(&self) -> Option<Value> {
        // It exits with a code of its own when the cluster is not healthy: the answer counts.
        let finished = attempt(self.dfs().args(["status", "--json"]), COMMAND);
        serde_json::from_str(&finished.stdout)
            .ok()
            .filter(|status: &Value| status["nodes"].is_array())
    }

    /// A `dfs` command for this cluster.
    pub fn dfs(&self) -> Command {
        let mut command = self.binaries.command(Program::Cli);
        command.args(["--coordinator", self.coordinator()]);
        command
    }

    /// Runs a `dfs` command that must succeed, and gives its standard output.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run_dfs(&self, args: &[&str]) -> String {
        run(self.dfs().args(args), COMMAND)
    }

    /// Mounts it.
    ///
    /// # Panics
    /// When the mount does not become usable.
    pub fn mount(&self, options: MountOptions) -> Mount {
        Mount::start(
            &self.binaries,
            &self.launcher,
            &self.base,
            self.coordinator(),
            options,
        )
    }
}

impl Drop for ProcessCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("---- log of {}:\n{}", node.name(), tail(&node.log(), LOG_SHOWN));
            }
        }
    }
}

/// Nodes that the status calls up.
pub(super) fn nodes_up(status: &Value) -> usize {
    let nodes = status["nodes"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    nodes.iter().filter(|node| node["health"] == "up").count()
}
