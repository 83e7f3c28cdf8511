//! Many datastores at once, and what their operator does for them.

use std::time::Duration;

use super::{ApiServer, Operator};
use crate::wait_for;

/// What the operator has done since it was started.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Calls of the API server that change something, renewals of the operator's own Lease left out.
    pub writes: f64,
    /// Calls that read; watches are counted when they begin.
    pub reads: f64,
    /// Plans made.
    pub plans: f64,
    /// CPU seconds.
    pub cpu_s: f64,
    /// Resident bytes now.
    pub resident: f64,
}

impl Work {
    pub fn of(operator: &Operator) -> Work {
        let text = operator.exposition();
        let calls = |is_it: &dyn Fn(&str) -> bool| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with("replicatedredis_api_requests_total{"));
            let lines = lines.filter(|line| !line.contains("kind=\"leases\"") && is_it(line));
            lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        let reads = |line: &str| ["get", "list", "watch"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")));
        Work {
            writes: calls(&|line| !reads(line)),
            reads: calls(&reads),
            plans: operator.sum("replicatedredis_reconcile_total", ""),
            cpu_s: cpu_s(operator.pid()),
            resident: operator.sum("process_resident_memory_bytes", ""),
        }
    }

    pub fn since(self, before: Work) -> Work {
        Work {
            writes: self.writes - before.writes,
            reads: self.reads - before.reads,
            plans: self.plans - before.plans,
            cpu_s: self.cpu_s - before.cpu_s,
            resident: self.resident - before.resident,
        }
    }
}

/// CPU seconds of a process, from `/proc` (hundredths of a second).
fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Makes `count` datastores with `replicas` replicas each and waits until all are ready.
pub fn make(api: &ApiServer, count: usize, replicas: usize, limit: Duration) {
    let one = |n: usize| {
        format!(
            "apiVersion: replicated-redis.io/v1alpha1\nkind: ReplicatedRedis\nmetadata: {{name: store-{n}}}\n\
             spec: {{replicas: {replicas}, storage: {{type: EmptyDir}}}}\n"
        )
    };
    api.apply_ok(&(0..count).map(one).collect::<Vec<_>>().join("---\n"));
    wait_for(&format!("{count} datastores to be ready"), limit, || {
        // Asked for now and then: the figures are about the operator, not about kubectl.
        std::thread::sleep(Duration::from_millis(500));
        let phases = api.kubectl_ok(&["get", "rr", "-o", "jsonpath={.items[*].status.phase}"]);
        phases.split(' ').filter(|phase| *phase == "Ready").count() == count
    });
}
