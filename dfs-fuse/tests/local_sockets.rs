//! What carries the traffic of a mount whose servers are on the same machine: Unix sockets, or TCP if the mount wants it so.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster, drop_caches};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;

const SERVERS: [&str; 4] = ["coordinator", "datanode-1", "datanode-2", "datanode-3"];
/// State of a connection in the kernel's table.
const ESTABLISHED: &str = "01";

/// TCP connections of a process.
fn tcp_connections(pid: u32) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let own: HashSet<String> = links
        .filter_map(|link| {
            let target = fs::read_link(link.unwrap().path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    // sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 9 && fields[3] == ESTABLISHED && own.contains(fields[9]))
        .count()
}

/// Writes a file that takes the long way, and reads it from the datanodes.
fn use_mount(mount: &Mount) {
    let path = mount.path().join("file");
    let content = vec![7; 1 << 20];
    let mut file = File::create(&path).unwrap();
    file.write_all(&content).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), content);
}

fn mounted(cluster: &ProcessCluster, args: &[&str]) -> Mount {
    let args = args.iter().map(|&arg| arg.to_owned()).collect();
    cluster.mount(MountOptions { args })
}

#[test]
fn mount_and_servers_of_one_machine_use_unix_sockets_unless_told_not_to() {
    let mut cluster = ProcessCluster::start(ClusterOptions::with_datanodes(3));
    let pids = SERVERS.map(|name| cluster.node(name).pid().unwrap());
    let mut mount = mounted(&cluster, &[]);
    use_mount(&mount);
    assert_eq!(tcp_connections(mount.pid()), 0);
    assert_eq!(pids.map(tcp_connections), [0; 4]);
    assert!(mount.unmount().success());

    let mut mount = mounted(&cluster, &["-o", "local_sockets=off"]);
    // From the servers: the content is not in this mount's memory.
    drop_caches();
    assert_eq!(fs::read(mount.path().join("file")).unwrap(), vec![7; 1 << 20]);
    use_mount(&mount);
    assert!(
        tcp_connections(mount.pid()) >= 2,
        "to the coordinator and a datanode"
    );
    assert!(tcp_connections(pids[0]) >= 1);
    assert!(mount.unmount().success());

    for local_sockets in ["on", "off"] {
        let options = format!("transport=grpc,local_sockets={local_sockets}");
        let mut mount = mounted(&cluster, &["-o", &options]);
        drop_caches();
        assert_eq!(fs::read(mount.path().join("file")).unwrap(), vec![7; 1 << 20]);
        use_mount(&mount);
        assert!(mount.unmount().success());
    }
}
