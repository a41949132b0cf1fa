//! Fluid's filter on the commands that it executes in pods, as its documentation of behaviour describes it: what it would refuse
//! never runs in a cluster.

/// Why the filter refuses a command; `None`: it is executed.
pub fn refuses(command: &[&str]) -> Option<&'static str> {
    const SHELLS: [&str; 2] = ["bash", "sh"];
    let forbidden = |text: &str, signs: &[&str]| signs.iter().any(|sign| text.contains(sign));
    let Some(first) = command.first() else { return Some("an empty command") };
    let name = first.rsplit('/').next().unwrap_or_default();
    if SHELLS.contains(&name) {
        if first.contains('/') {
            return Some("a shell by its absolute path");
        }
        if command.len() != 3 || command[1] != "-c" {
            return Some("a shell with other arguments than -c SCRIPT");
        }
        let script = command[2];
        if forbidden(script, &["&", ";", "$", "'", "`", "(", ")", "||", ">>", "|"]) {
            return Some("a script with shell syntax");
        }
        return None;
    }
    let signs = ["&", "|", ";", "$", "'", "`", "(", ")", ">"];
    if command[1..].iter().any(|argument| forbidden(argument, &signs)) {
        return Some("an argument with shell syntax");
    }
    None
}

#[test]
fn the_filter_refuses_what_fluid_refuses() {
    for accepted in [
        &["bash", "-c", "/etc/curvine/mount/mountUfs.sh"][..],
        &["sh", "-c", "/x.sh --json"],
        &["/usr/local/bin/cv", "fluid", "mount-ufs"],
        &["env", "A=1", "cv"],
    ] {
        assert_eq!(refuses(accepted), None, "{accepted:?}");
    }
    for refused in [
        &["bash", "/x.sh"][..],
        &["bash", "-c", "/x.sh", "arg"],
        &["/usr/bin/bash", "-c", "/x.sh"],
        &["sh", "-c", "a; b"],
        &["cv", "a|b"],
        &["cv", "$(x)"],
    ] {
        assert!(refuses(refused).is_some(), "{refused:?}");
    }
}
