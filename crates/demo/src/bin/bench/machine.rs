//! Who kept the processors busy: the kernel's counts, for us and for whatever else ran beside.

use std::{collections::BTreeMap, fs};

use super::common::{Error, number};

/// Seconds of processor time since the machine, or the process, began.
#[derive(Clone, Copy)]
pub struct Processors {
    busy: f64,
    ours: f64,
    api_server: f64,
    etcd: f64,
}

impl Processors {
    pub fn now() -> Result<Self, Error> {
        let text = fs::read_to_string("/proc/stat")?;
        let fields: Vec<u64> =
            text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq
        let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|n| fields.get(*n)).sum();
        let processes = processes()?;
        let own = std::process::id();
        let is_ours = |mut pid: u32| {
            while pid != own {
                match processes.get(&pid) {
                    Some(process) if process.parent != pid && process.parent != 0 => pid = process.parent,
                    _ => return false,
                }
            }
            true
        };
        let ours: Vec<&Process> = processes.iter().filter(|(pid, _)| is_ours(**pid)).map(|(_, process)| process).collect();
        let of = |name: &str| ours.iter().filter(|process| process.name.starts_with(name)).map(|process| process.ticks).sum::<u64>();
        Ok(Self { busy: seconds(busy), ours: seconds(of("")), api_server: seconds(of("kube-apiserver")), etcd: seconds(of("etcd")) })
    }

    /// What was used since `then`, in shares of all processors over `span` seconds.
    pub fn since(self, then: Self, span: f64) -> String {
        let all = span * number(std::thread::available_parallelism().map_or(1, usize::from)) / 100.0;
        format!(
            "API server {:.0} %, etcd {:.0} %, all of the benchmark {:.0} %, anything else on the machine {:.0} %",
            (self.api_server - then.api_server) / all,
            (self.etcd - then.etcd) / all,
            (self.ours - then.ours) / all,
            (self.busy - then.busy - self.ours + then.ours).max(0.0) / all,
        )
    }
}

struct Process {
    name: String,
    parent: u32,
    ticks: u64,
}

fn processes() -> Result<BTreeMap<u32, Process>, Error> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end meanwhile.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let field = |n: usize| fields.get(n).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        found.insert(pid, Process { name, parent: u32::try_from(field(1)).unwrap_or_default(), ticks: field(11) + field(12) });
    }
    Ok(found)
}

/// Ticks of 10 ms (`USER_HZ`).
fn seconds(ticks: u64) -> f64 {
    number(ticks) / 100.0
}
