//! Links between network namespaces: every process has an address of its own on a bridge of this machine, and what is cut is
//! its interface. Needs root and `ip` and `tc` of iproute2.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use crate::names::{Name, Role};

const BRIDGE: &str = "tessera-faults";
/// The first bytes of every address; the bridge has the first one.
const NET: [u8; 3] = [10, 77, 78];

/// The namespaces of all processes. They are gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// How a link is made slow here: `tc` with these words.
    slow: &'static [&'static str],
}

/// Late and narrow, and in order of preference: what the kernel has decides.
const SLOW: [&[&str]; 2] = [
    &["netem", "delay", "60ms", "20ms", "rate", "2mbit"],
    &["tbf", "rate", "500kbit", "burst", "8kb", "latency", "2s"],
];

impl Namespaces {
    /// Makes them.
    ///
    /// # Errors
    /// What this machine does not permit.
    pub(crate) fn make() -> Result<Self, String> {
        let mut made = Self { slow: SLOW[0] };
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", made.host()), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        for name in Role::ALL.into_iter().flat_map(Role::names) {
            let (space, outside) = (space(name), outside(name));
            ip(&["netns", "add", &space])?;
            ip(&["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &space])?;
            ip(&["link", "set", &outside, "master", BRIDGE, "up"])?;
            ip(&["-n", &space, "addr", "add", &format!("{}/24", address(name).ip()), "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        let probe = outside(Name { role: Role::Vision, number: 0 });
        let known = |words: &&&[&str]| tc(&[&["qdisc", "replace", "dev", &probe, "root"], **words].concat()).is_ok();
        made.slow = SLOW.iter().find(known).ok_or("the kernel has neither netem nor tbf")?;
        tc(&["qdisc", "del", "dev", &probe, "root"])?;
        Ok(made)
    }

    /// The address of this program, and of what it starts without a namespace.
    pub(crate) fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(NET[0], NET[1], NET[2], 1)
    }

    /// A command that runs a program in the namespace of a process.
    pub(crate) fn command(&self, name: Name, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &space(name)]).arg(program);
        command
    }

    pub(crate) fn cut(&self, name: Name) {
        ip(&["link", "set", &outside(name), "down"]).expect("an interface can be taken down");
    }

    pub(crate) fn slow(&self, name: Name) {
        let words = ["qdisc", "replace", "dev", &outside(name), "root"];
        tc(&[&words, self.slow].concat()).expect("an interface can be made slow");
    }

    pub(crate) fn heal(&self, name: Name) {
        ip(&["link", "set", &outside(name), "up"]).expect("an interface can be brought up");
        // There is none where it was not slow.
        let _ = tc(&["qdisc", "del", "dev", &outside(name), "root"]);
    }

    /// What makes a link slow here.
    pub(crate) fn kind_of_slow(&self) -> String {
        self.slow.join(" ")
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in Role::ALL.into_iter().flat_map(Role::names) {
            // Its end of the link goes with it.
            let _ = ip(&["netns", "del", &space(name)]);
        }
        let _ = ip(&["link", "del", BRIDGE]);
    }
}

/// Where a process listens.
pub(crate) fn address(name: Name) -> SocketAddr {
    let last = 10 * (1 + name.role as u8) + name.number as u8;
    (Ipv4Addr::new(NET[0], NET[1], NET[2], last), 50051 + name.role as u16).into()
}

fn space(name: Name) -> String {
    format!("tessera-{name}")
}

/// The end of its link on the bridge.
fn outside(name: Name) -> String {
    format!("tess-{}{}", name.role as u8, name.number)
}

fn ip(words: &[&str]) -> Result<(), String> {
    run("ip", words)
}

fn tc(words: &[&str]) -> Result<(), String> {
    run("tc", words)
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let ran = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if ran.status.success() { Ok(()) } else { Err(format!("{program} {}: {}", words.join(" "), said.trim())) }
}
