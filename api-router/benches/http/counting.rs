//! Benchmark of recording requests: a router with analytics compared with a router without, in
//! alternating rounds.

use crate::load::{Load, median, wrk};
use crate::servers::Router;
use crate::{CONNECTIONS, read, write};

/// Measures each case round after round, and compares the two halves of every round, so that other
/// load of the machine affects both alike.
pub(crate) fn measure(rounds: u32, seconds: u32, workers: &str) -> std::io::Result<()> {
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    let start = |index: usize, analytics: &str| -> std::io::Result<Router> {
        let flags = ["--workers", workers, "--analytics", analytics];
        let router = Router::start(dirs[index].path(), &flags)?;
        router.load_users()?;
        Ok(router)
    };
    let routers = [start(0, "off")?, start(1, "on")?];
    for (name, script) in [("point write", write("")), ("point read", read(""))] {
        let (mut rates, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut ratios = Vec::new();
        for round in 0..rounds {
            let mut found = [0.0; 2];
            // The second run finds the processor warm: they take turns.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for index in order {
                let router = &routers[index];
                let before = router.ticks()?;
                let url = &router.url;
                let load = Load { url, script: &script, connections: CONNECTIONS, seconds };
                let run = wrk(&load, dirs[0].path())?;
                found[index] = run.rate;
                rates[index].push(run.rate);
                cpu[index].push((router.ticks()? - before) * 1e4 / run.requests);
            }
            ratios.push(found[1] / found[0]);
        }
        let [off, on] = rates.each_mut().map(|rates| median(rates));
        let [cpu_off, cpu_on] = cpu.each_mut().map(|cpu| median(cpu));
        println!(
            "{name:<12} {off:>8.0}/s off, {on:>8.0}/s on: {:.3} (median of rounds {:.3}; must 0.98, aim 0.99)   \
             CPU {cpu_off:.1} us a request off, {cpu_on:.1} on: {:.3}",
            on / off,
            median(&mut ratios),
            cpu_on / cpu_off
        );
    }
    let [off, on] = routers.each_ref().map(Router::resident_mib);
    println!("resident after the load {off} MiB off, {on} MiB on");
    Ok(())
}
