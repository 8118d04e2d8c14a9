//! Two routers that differ in one setting, compared in alternating rounds.

use std::path::Path;

use crate::CONNECTIONS;
use crate::load::{Load, median, wrk};
use crate::servers::Router;

/// One of two routers, and the headers that its requests need, in the syntax of the wrk script.
pub(crate) struct Side<'a> {
    pub(crate) router: &'a Router,
    pub(crate) headers: &'a str,
}

/// Measures a case round after round and prints the ratio ON / OFF: the two halves of every round
/// are compared, so that other load of the machine affects both alike.
pub(crate) fn compare(
    name: &str,
    script: fn(&str) -> String,
    sides: &[Side<'_>; 2],
    (rounds, seconds): (u32, u32),
    dir: &Path,
) -> std::io::Result<()> {
    let scripts = sides.each_ref().map(|side| script(side.headers));
    let (mut rates, mut cpu) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let mut found = [0.0; 2];
        // The second run finds the processor warm, so the order alternates.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for index in order {
            let Side { router, .. } = sides[index];
            let before = router.ticks()?;
            let (url, script) = (&router.url, &scripts[index]);
            let run = wrk(&Load { url, script, connections: CONNECTIONS, seconds }, dir)?;
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
    Ok(())
}
