//! Processors beyond the first: started by the guest, in real mode, by INIT and start-up messages.
use ampoule_tests::handmade;

fn all_are_awake(cpus: u32) {
    let finished = handmade::smp().run(&["--cpus", &cpus.to_string()]).finish();
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    // Each tells its APIC id twice: by CPUID's first leaf, and by the topology leaf.
    let awake = (1..cpus).map(|id| format!("awake in real mode {id:08x} {id:08x}\n"));
    let expected = format!(
        "processors {cpus:08x}\n{}all awake\n",
        awake.collect::<String>()
    );
    assert_eq!(finished.console(), expected);
}

#[test]
fn two_processors() {
    all_are_awake(2);
}

#[test]
fn sixteen_processors() {
    all_are_awake(16);
}

#[test]
fn as_many_as_there_can_be() {
    all_are_awake(254);
}
